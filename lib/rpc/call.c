/*
 * call.c - calls out, and their replies, time-outs and losses.
 *
 * A call is sent once. Whether its bytes may have left decides what a lost connection means:
 * ST_TRANSPORT, it may have been carried out, or ST_PEER_UNREACHABLE, it was not.
 */
#include "endpoint.h"

#include <stdlib.h>


struct pending {
	UT_hash_handle hh;
	uint32_t xid;
	struct rtls_conn *conn;
	struct rtls_call call;
	uint64_t position; /* in the connection's output */
	struct deadline deadline;
	const struct program *program; /* for the trace; NULL: not traced */
	const struct rtls_procedure *procedure;
	struct id trace;
	enum status outcome;
	struct pending *next; /* of those that failed */
	max_align_t result[];
};

/* ---- trace ------------------------------------------------------------------------------------- */

static void trace_message(const struct pending *p, bool sent, const char *name, const char *status)
{
	const struct rtls_endpoint *ep = p->conn->ep;
	const struct rtls_identity *peer = &p->conn->session.peer.identity;
	const struct trace_message m = { .utc_ns = env_utc(ep->env),
		                         .id = p->trace,
		                         .reference_point = p->program->is.reference_point,
		                         .name = name,
		                         .from = sent ? &ep->self : peer,
		                         .to = sent ? peer : &ep->self,
		                         .sent = sent,
		                         .status = status };

	trace_write(ep->trace, &m);
}

static void trace_call(struct pending *p, const uint8_t *args, size_t len)
{
	const struct rtls_call *c = &p->call;
	const struct program *program = endpoint_program(p->conn->ep, c->program, c->version);
	const struct right *right;

	if (program == NULL || !program->is.traced || c->procedure >= program->count || len < ID_LEN)
		return;
	right = &program->rights[c->procedure];
	if (right->procedure == NULL)
		return;
	p->program = program;
	p->procedure = right->procedure;
	memcpy(p->trace.bytes, args, ID_LEN);
	trace_message(p, true, right_call_name(right, args, len), NULL);
}

/* ---- ends of calls ----------------------------------------------------------------------------- */

static struct pending *pending_new(const struct rtls_call *call)
{
	struct pending *p = xcalloc(1, sizeof *p + call->result_size);

	p->call = *call;
	return p;
}

static void fail_later(struct rtls_endpoint *ep, struct pending *p, enum status outcome)
{
	static const struct timeval at_once = { 0, 0 };

	p->outcome = outcome;
	p->next = NULL;
	*ep->failed_last = p;
	ep->failed_last = &p->next;
	evtimer_add(ep->failed_event, &at_once);
}

void call_fail_later(struct rtls_endpoint *ep, const struct rtls_call *call, enum status s)
{
	fail_later(ep, pending_new(call), s);
}

void call_run_failed(struct rtls_endpoint *ep)
{
	struct pending *p, *next = ep->failed;

	ep->failed = NULL;
	ep->failed_last = &ep->failed;
	while ((p = next) != NULL) {
		next = p->next;
		p->call.done(p->outcome, NULL, p->call.arg);
		free(p);
	}
}

static void forget(struct pending *p)
{
	deadline_clear(&p->conn->ep->deadlines, &p->deadline);
	HASH_DEL(p->conn->calls, p);
}

void call_fail_all(struct rtls_conn *conn)
{
	struct pending *p, *next;

	HASH_ITER(hh, conn->calls, p, next)
	{
		forget(p);
		if (session_was_offered(&conn->session, p->position))
			fail_later(conn->ep, p, ST_TRANSPORT);
		else
			fail_later(conn->ep, p, ST_PEER_UNREACHABLE);
	}
}

static void timed_out(struct deadline *d)
{
	struct pending *p = container_of(d, struct pending, deadline);

	forget(p);
	p->call.done(ST_TIMED_OUT, NULL, p->call.arg);
	free(p);
}

/* ---- sending ----------------------------------------------------------------------------------- */

/* false: the arguments could not be encoded, or are longer than a record may be; nothing was put. */
static bool put_call(struct pending *p)
{
	struct rtls_conn *conn = p->conn;
	struct buffer *out = &conn->session.out;
	const struct message_call header = { .xid = p->xid,
		                             .program = p->call.program,
		                             .version = p->call.version,
		                             .procedure = p->call.procedure,
		                             .flavor = FLAVOR_AUTH_NONE };
	size_t begun = record_begin(out), args;
	struct buffer_xdr x;

	message_put_call(out, &header);
	args = buffer_len(out);
	buffer_xdr_init(&x, out, begun + RECORD_MARK_LEN + conn->ep->options.max_record);
	if (!p->call.xdr_args(&x.xdr, p->call.args)) {
		record_cancel(out, begun);
		return false;
	}
	record_end(out, begun);
	if (conn->ep->trace != NULL)
		trace_call(p, buffer_at(out, args), buffer_len(out) - args);
	return true;
}

static void send_call(struct rtls_conn *conn, const struct rtls_call *call)
{
	struct rtls_endpoint *ep = conn->ep;
	struct pending *p = pending_new(call);

	p->conn = conn;
	p->xid = ep->next_xid++;
	p->position = session_position(&conn->session);
	p->deadline.passed = timed_out;
	if (!put_call(p)) {
		log_error("program 0x%x procedure %u: the arguments could not be encoded, or are too long",
		          call->program, call->procedure);
		fail_later(ep, p, ST_BAD_REQUEST);
		return;
	}
	HASH_ADD(hh, conn->calls, xid, sizeof p->xid, p);
	deadline_set(&ep->deadlines, &p->deadline, call->timeout_ns);
	traffic_flush_later(conn);
	traffic_resume(conn); /* its answer is to be read */
}

void rtls_call(struct rtls_conn *conn, const struct rtls_call *call)
{
	bool full = buffer_len(&conn->session.out) > 2 * conn->ep->options.output_high_water;

	if (conn->closed || !conn->established || full)
		call_fail_later(conn->ep, call, ST_PEER_UNREACHABLE);
	else
		send_call(conn, call);
}

static void confirmed(enum status s, void *result, void *arg)
{
	(void)s; /* any answer has established the connection; without one it ends by itself */
	(void)result;
	(void)arg;
}

static bool_t no_args(XDR *xdr, ...)
{
	(void)xdr;
	return TRUE;
}

void call_confirm(struct rtls_conn *conn)
{
	const struct rtls_call call = { .program = conn->session.options.program,
		                        .version = conn->session.options.version,
		                        .procedure = NULLPROC,
		                        .xdr_args = no_args,
		                        .xdr_result = no_args,
		                        .timeout_ns = conn->ep->options.handshake_ns,
		                        .done = confirmed };

	send_call(conn, &call);
}

/* ---- replies ----------------------------------------------------------------------------------- */

static enum status decode_result(struct pending *p, uint8_t *body, size_t len)
{
	bool_t done;
	XDR x;

	xdrmem_create(&x, (char *)body, (u_int)len, XDR_DECODE);
	done = p->call.xdr_result(&x, p->result) && xdr_getpos(&x) == len;
	if (!done)
		rtls_wipe(p->call.xdr_result, p->result);
	return done ? ST_OK : ST_TRANSPORT;
}

static enum status outcome_of(const struct message_reply *reply)
{
	static const enum status outcomes[] = {
		[MESSAGE_SUCCESS] = ST_OK,
		[MESSAGE_UNAVAILABLE] = ST_UNSUPPORTED,
		[MESSAGE_GARBAGE_ARGS] = ST_BAD_REQUEST,
		[MESSAGE_SYSTEM_ERROR] = ST_TRANSPORT,
		[MESSAGE_AUTH_REFUSED] = ST_DENIED,
		[MESSAGE_MALFORMED] = ST_TRANSPORT,
	};

	return outcomes[reply->outcome];
}

static void finish(struct pending *p, enum status s, const char *token)
{
	if (p->program != NULL)
		trace_message(p, false, p->procedure->response, token);
	p->call.done(s, s == ST_OK ? p->result : NULL, p->call.arg);
	if (s == ST_OK)
		rtls_wipe(p->call.xdr_result, p->result);
	free(p);
}

bool call_take_reply(struct rtls_conn *conn, uint8_t *record, size_t len)
{
	struct message_reply reply;
	struct pending *p;
	enum status s;
	const char *token;

	if (!message_read_reply(record, len, &reply))
		return false;
	HASH_FIND(hh, conn->calls, &reply.xid, sizeof reply.xid, p);
	if (p == NULL)
		return true; /* its time was out */
	forget(p);
	s = outcome_of(&reply);
	token = status_name(s);
	if (s == ST_OK) {
		if (p->program != NULL && len - reply.body >= 4)
			token = status_name((enum status)get32(record + reply.body));
		s = decode_result(p, record + reply.body, len - reply.body);
	}
	finish(p, s, token);
	return true;
}
