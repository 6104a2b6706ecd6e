/* wire.c - between a key manager's core and the transport: no message is known here by its shape. */
#include "wire.h"

#include <stdlib.h>
#include <uthash.h>

#include "kx1.h"
#include "log.h"

/* How many connections stand to one peer: both ends may have opened one. */
struct standing {
	char name[RTLS_ROLE_MAX + NAME_MAX_LEN + 2]; /* "km/alice" */
	unsigned count;
	UT_hash_handle hh;
};

struct wire {
	struct rtls_endpoint *ep;
	struct env *env;
	struct km *km;
	struct standing *standing;
};

void wire_outcome(const struct km_answer *answer, qkdn_outcome *o)
{
	o->status = (qkdn_status)answer->err.status;
	o->text = xstrdup(answer->err.status == ST_OK ? "" : answer->err.text);
}

static void wire_to_answer(const qkdn_outcome *o, struct km_answer *answer)
{
	answer->err.status = (enum status)o->status;
	snprintf(answer->err.text, sizeof answer->err.text, "%s", o->text);
}

/* ---- inbound ------------------------------------------------------------------------------------------- */

struct inbound {
	struct rtls_deferred *deferred;
	wire_answer to_result;
	xdrproc_t xdr_result;
};

static void inbound_answered(const struct km_answer *answer, void *arg)
{
	struct inbound *in = arg;
	uint64_t result[WIRE_RESULT_MAX / sizeof(uint64_t)];

	memset(result, 0, sizeof result);
	in->to_result(answer, result);
	rtls_reply(in->deferred, in->xdr_result, result);
	free(in);
}

bool_t wire_receive(struct svc_req *rq, enum km_message m, const void *message, wire_answer to_result,
                    xdrproc_t xdr_result)
{
	struct wire *w = rtls_context(rq);
	struct inbound *in = xcalloc(1, sizeof *in);
	char from[NAME_MAX_LEN + 1];

	strcpy(from, rtls_caller(rq)->name);
	in->deferred = rtls_defer(rq);
	in->to_result = to_result;
	in->xdr_result = xdr_result;
	km_receive(w->km, m, from, message, inbound_answered, in);
	return FALSE;
}

bool_t wire_receive_as(struct svc_req *rq, enum km_message m, const void *message, km_reply answered)
{
	struct wire *w = rtls_context(rq);
	char from[NAME_MAX_LEN + 1];

	strcpy(from, rtls_caller(rq)->name);
	km_receive(w->km, m, from, message, answered, rtls_defer(rq));
	return FALSE;
}

/* ---- outbound --------------------------------------------------------------------------------------------- */

struct outbound {
	const struct wire_row *row;
	km_answered answered;
	void *arg;
};

static const struct wire_row *row_of(enum km_message m)
{
	static const struct wire_row *const tables[] = { wire_kq_rows, wire_kx1_rows, wire_kx2_rows, wire_ck_rows };

	for (size_t i = 0; i < ARRAY_LEN(tables); i++)
		for (const struct wire_row *r = tables[i]; r->role != NULL; r++)
			if (r->message == m)
				return r;
	log_fatal("message %d is not one that a key manager sends", m);
}

static void outbound_done(enum status s, void *result, void *arg)
{
	struct outbound *out = arg;
	uint64_t answer[WIRE_ANSWER_MAX / sizeof(uint64_t)];
	void *room = NULL;

	if (s != ST_OK) {
		out->answered(s, NULL, out->arg);
	} else {
		memset(answer, 0, sizeof answer);
		wire_to_answer(result, (struct km_answer *)answer);
		if (out->row->to_answer != NULL)
			out->row->to_answer(result, answer, &room);
		out->answered(s, answer, out->arg);
	}
	free(room);
	free(out);
}

static void unreachable(void *arg)
{
	outbound_done(ST_PEER_UNREACHABLE, NULL, arg);
}

static void wire_send(void *ctx, enum km_message m, const char *to, const void *message, uint64_t timeout_ns,
                      km_answered answered, void *arg)
{
	struct wire *w = ctx;
	const struct wire_row *row = row_of(m);
	struct rtls_conn *conn = w->ep != NULL ? rtls_find_conn(w->ep, row->role, to) : NULL;
	struct outbound *out = xcalloc(1, sizeof *out);
	uint64_t args[WIRE_ARGS_MAX / sizeof(uint64_t)];
	void *room = NULL;

	out->row = row;
	out->answered = answered;
	out->arg = arg;
	if (conn == NULL) {
		env_post(w->env, unreachable, out);
		return;
	}
	memset(args, 0, sizeof args);
	row->to_args(message, args, &room);
	rtls_call(conn, &(struct rtls_call){ .program = row->program,
	                                     .version = row->version,
	                                     .procedure = row->procedure,
	                                     .xdr_args = row->xdr_args,
	                                     .args = args,
	                                     .xdr_result = row->xdr_result,
	                                     .result_size = row->result_size,
	                                     .timeout_ns = timeout_ns,
	                                     .done = outbound_done,
	                                     .arg = out });
	free(room);
}

static bool wire_peer_is_up(void *ctx, const char *km)
{
	struct wire *w = ctx;

	return w->ep != NULL && rtls_find_conn(w->ep, "km", km) != NULL;
}

const struct km_wire wire_ops = { wire_send, wire_peer_is_up };

/* ---- connections ------------------------------------------------------------------------------------------- */

static void watch(struct rtls_conn *conn, bool up, void *arg)
{
	struct wire *w = arg;
	const struct rtls_identity *who = rtls_conn_identity(conn);
	struct standing *s;
	char name[sizeof s->name];

	snprintf(name, sizeof name, "%s/%s", who->role, who->name);
	HASH_FIND_STR(w->standing, name, s);
	if (s == NULL) {
		s = xcalloc(1, sizeof *s);
		strcpy(s->name, name);
		HASH_ADD_STR(w->standing, name, s);
	}
	s->count += up ? 1 : (unsigned)-1;
	if (s->count != (up ? 1 : 0) || w->km == NULL)
		return;
	if (strcmp(who->role, "km") == 0)
		km_peer_up(w->km, who->name, up);
	else if (strcmp(who->role, "module") == 0)
		km_module_up(w->km, who->name, up);
	else if (strcmp(who->role, "controller") == 0)
		km_controller_up(w->km, up);
}

struct wire *wire_new(struct rtls_endpoint *ep, struct env *env)
{
	struct wire *w = xcalloc(1, sizeof *w);

	w->ep = ep;
	w->env = env;
	rtls_add_program(ep, &wire_ak, w);
	rtls_add_program(ep, &wire_kq1, w);
	rtls_add_program(ep, &wire_kq1_module, w);
	rtls_add_program(ep, &wire_kq2, w);
	rtls_add_program(ep, &wire_kq2_module, w);
	rtls_add_program(ep, &wire_kx1, w);
	rtls_add_program(ep, &wire_kx2, w);
	rtls_add_program(ep, &wire_ck, w);
	rtls_add_program(ep, &wire_ck_km, w);
	rtls_add_program(ep, &wire_mk, w);
	rtls_name_calls(ep, QKDN_KX1, QKDN_KX1_V1, KX1_RELAY, wire_relay_name);
	rtls_watch_conns(ep, watch, w);
	return w;
}

void wire_set_core(struct wire *w, struct km *km)
{
	w->km = km;
}

void wire_detach(struct wire *w)
{
	w->ep = NULL;
	w->km = NULL;
}

void wire_free(struct wire *w)
{
	struct standing *s, *next;

	HASH_ITER (hh, w->standing, s, next) {
		HASH_DEL(w->standing, s);
		free(s);
	}
	free(w);
}
