/*
 * fuzz_record.c - record_read, message_read_call, message_read_reply, dispatch_call, call_take_reply, and
 * rpcgen's decoders of echo.x under them, with whatever a peer may send inside TLS.
 *
 * The first byte of an input says in which pieces the rest arrives.
 */
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "echo.h"
#include "endpoint.h"
#include "env_virtual.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
void echo_1(struct svc_req *rq, SVCXPRT *xprt);

static const struct rtls_procedure procedures[] = {
	{ ECHO_NOW, "Echo request", "Response to echo request", "km" },
	{ ECHO_LATER, "Late echo request", "Response to late echo request", "km" },
	{ ECHO_FORBIDDEN, "Forbidden request", "Response to forbidden request", "manager" },
	{ 0, NULL, NULL, NULL },
};
static const struct rtls_program program = { .number = ECHO,
	                                     .version = ECHO_V1,
	                                     .reference_point = "Ex",
	                                     .dispatch = echo_1,
	                                     .procedures = procedures,
	                                     .traced = true };

/* ---- the program ------------------------------------------------------------------------------- */

bool_t echo_now_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	(void)rq;
	memset(result, 0, sizeof *result);
	result->text = xstrdup(args->text);
	result->bytes.bytes_len = args->bytes.bytes_len;
	result->bytes.bytes_val = xcalloc(1, args->bytes.bytes_len);
	if (args->bytes.bytes_len > 0)
		memcpy(result->bytes.bytes_val, args->bytes.bytes_val, args->bytes.bytes_len);
	return TRUE;
}

bool_t echo_later_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	struct rtls_deferred *d = rtls_defer(rq);
	echo_result later;

	(void)result;
	echo_now_1_svc(args, &later, rq);
	rtls_reply(d, (xdrproc_t)xdr_echo_result, &later);
	return FALSE;
}

bool_t echo_never_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	return echo_now_1_svc(args, result, rq);
}

bool_t echo_forbidden_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	abort(); /* the table allows it to nobody here */
	return echo_now_1_svc(args, result, rq);
}

bool_t echo_silent_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	(void)args;
	(void)result;
	(void)rq;
	return FALSE;
}

int echo_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- a connection without a socket ------------------------------------------------------------- */

static struct world *world;
static struct rtls_endpoint *ep;

static void set_up(void)
{
	log_open("fuzz_record", LOG_LEVEL_ERROR);
	world = world_new(1);
	ep = xcalloc(1, sizeof *ep);
	ep->env = env_virtual_new(world);
	ep->base = event_base_new();
	ep->failed_event = evtimer_new(ep->base, NULL, NULL);
	ep->failed_last = &ep->failed;
	ep->options = (struct rtls_options){ .max_record = 64 * 1024, .output_high_water = 1024 * 1024,
		                             .max_unanswered = 4 };
	ep->limit = (struct log_limit){ .interval_ns = NS_PER_S, .burst = 1 };
	deadlines_init(&ep->deadlines, ep->env);
	rtls_add_program(ep, &program, NULL);
}

static void done(enum status s, void *result, void *arg)
{
	unsigned *left = arg;

	if (s == ST_OK && strlen(((echo_result *)result)->text) > 64)
		abort();
	--*left;
}

static void call_out(struct rtls_conn *conn, unsigned *left)
{
	echo_args args = { .text = "x" };
	const struct rtls_call call = { .program = ECHO, .version = ECHO_V1, .procedure = ECHO_NOW,
		                        .xdr_args = (xdrproc_t)xdr_echo_args, .args = &args,
		                        .xdr_result = (xdrproc_t)xdr_echo_result,
		                        .result_size = sizeof(echo_result), .timeout_ns = NS_PER_S, .done = done,
		                        .arg = left };

	++*left;
	rtls_call(conn, &call);
}

/* false: the connection would be closed. */
static bool take(struct rtls_conn *conn)
{
	struct session *s = &conn->session;
	enum record_result r;
	uint8_t *record;
	size_t len;

	while ((r = record_read(&s->reader, &s->in, &record, &len)) == RECORD_WHOLE) {
		if (len > s->reader.max)
			abort();
		if (len < RECORD_XID_LEN ||
		    !(message_is_call(record) ? dispatch_call(conn, record, len) : call_take_reply(conn, record, len)))
			return false;
		record_next(&s->reader, &s->in);
	}
	return r == RECORD_MORE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rtls_conn conn = { .references = 1, .established = true, .writing = true };
	size_t piece, at, n;
	unsigned left = 0;

	if (ep == NULL)
		set_up();
	if (size < 1)
		return 0;
	piece = data[0] + 1u;
	conn.ep = ep;
	conn.session.reader.max = ep->options.max_record;
	strcpy(conn.session.peer.identity.role, "km");
	party_join(&conn);
	ep->next_xid = 1;
	for (int i = 0; i < 4; i++)
		call_out(&conn, &left);
	for (at = 1; at < size; at += n) {
		n = size - at < piece ? size - at : piece;
		buffer_append(&conn.session.in, data + at, n);
		if (!take(&conn))
			break;
	}
	conn.closed = true;
	party_leave(&conn);
	call_fail_all(&conn);
	call_run_failed(ep);
	if (left != 0 || conn.references != 1)
		abort();
	party_release(conn.party);
	buffer_free(&conn.session.in);
	buffer_free(&conn.session.out);
	return 0;
}
