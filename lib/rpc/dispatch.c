/*
 * dispatch.c - calls in: rpcgen's dispatchers, unedited, over one decoded record.
 *
 * The SVCXPRT that a dispatcher is given lives for one call: svc_getargs, svc_sendreply, svc_freeargs and
 * svcerr_* come back here through its xp_ops. Nothing is shared between calls.
 *
 * Refusals: AUTH_TLS inside TLS is AUTH_BADCRED (RFC 9289, section 4.1); a role that the procedure's row
 * does not name is AUTH_FAILED, so that it cannot be mistaken for the AUTH_TOOWEAK that asks for TLS.
 */
#include "endpoint.h"

#include <stdlib.h>


struct request {
	SVCXPRT xprt;
	struct rtls_conn *conn;
	const struct program *program;
	const struct rtls_procedure *procedure; /* NULL: the null procedure without a row */
	uint32_t xid;
	uint8_t *args;
	size_t args_len;
	struct id trace;
	bool replied, deferred, result_is_set, args_are_keyless;
};

struct rtls_deferred {
	struct rtls_conn *conn;
	const struct program *program;
	const struct rtls_procedure *procedure;
	uint32_t xid;
	struct id trace;
};

static struct request *request_of(SVCXPRT *xprt)
{
	return container_of(xprt, struct request, xprt);
}

/* ---- trace ------------------------------------------------------------------------------------- */

static void trace_call(const struct request *r)
{
	const struct rtls_endpoint *ep = r->conn->ep;
	const struct trace_message m = { .utc_ns = env_utc(ep->env),
		                         .id = r->trace,
		                         .reference_point = r->program->is.reference_point,
		                         .name = right_call_name(&r->program->rights[r->procedure->number], r->args, r->args_len),
		                         .from = &r->conn->session.peer.identity,
		                         .to = &ep->self };

	trace_write(ep->trace, &m);
}

static void trace_reply(struct rtls_conn *conn, const struct program *program,
                        const struct rtls_procedure *procedure, const struct id *id, const char *status)
{
	const struct rtls_endpoint *ep = conn->ep;
	const struct trace_message m = { .utc_ns = env_utc(ep->env),
		                         .id = *id,
		                         .reference_point = program->is.reference_point,
		                         .name = procedure->response,
		                         .from = &ep->self,
		                         .to = &conn->session.peer.identity,
		                         .sent = true,
		                         .status = status };

	trace_write(ep->trace, &m);
}

static bool is_traced(const struct rtls_conn *conn, const struct program *program,
                      const struct rtls_procedure *procedure)
{
	return conn->ep->trace != NULL && program->is.traced && procedure != NULL;
}

/* The status that a traced result begins with. */
static const char *result_status(const struct buffer *out, size_t begun)
{
	size_t at = begun + RECORD_MARK_LEN + REPLY_HEADER_LEN;

	return buffer_len(out) >= at + 4 ? status_name((enum status)get32(buffer_at(out, at))) : "-";
}

/* ---- replies ----------------------------------------------------------------------------------- */

/* Encodes a successful reply straight into the connection's output. false: the result could not be
 * encoded, or is longer than a record may be; nothing was put. */
static bool put_result(struct rtls_conn *conn, uint32_t xid, xdrproc_t xdr, void *result, const char **status)
{
	struct buffer *out = &conn->session.out;
	size_t begun = record_begin(out);
	struct buffer_xdr x;

	message_put_success(out, xid);
	buffer_xdr_init(&x, out, begun + RECORD_MARK_LEN + conn->ep->options.max_record);
	if (!xdr(&x.xdr, result)) {
		record_cancel(out, begun);
		return false;
	}
	record_end(out, begun);
	if (status != NULL)
		*status = result_status(out, begun);
	traffic_flush_later(conn);
	return true;
}

static bool_t reply_success(struct request *r, const struct rpc_msg *message)
{
	const char *status;
	bool traced = is_traced(r->conn, r->program, r->procedure);

	if (!put_result(r->conn, r->xid, message->acpted_rply.ar_results.proc,
	                message->acpted_rply.ar_results.where, traced ? &status : NULL))
		return FALSE; /* the dispatcher goes on to svcerr_systemerr */
	if (traced)
		trace_reply(r->conn, r->program, r->procedure, &r->trace, status);
	return TRUE;
}

static void reply_failure(struct request *r, const struct rpc_msg *message)
{
	struct buffer *out = &r->conn->session.out;
	const struct accepted_reply *a = &message->acpted_rply;

	if (message->rm_reply.rp_stat == MSG_DENIED)
		message_put_auth_error(out, r->xid, message->rjcted_rply.rj_why);
	else if (a->ar_stat == PROG_MISMATCH)
		message_put_mismatch(out, r->xid, a->ar_vers.low, a->ar_vers.high);
	else
		message_put_accepted(out, r->xid, a->ar_stat);
	traffic_flush_later(r->conn);
}

static bool_t xprt_reply(SVCXPRT *xprt, struct rpc_msg *message)
{
	struct request *r = request_of(xprt);

	if (message->rm_reply.rp_stat == MSG_ACCEPTED && message->acpted_rply.ar_stat == SUCCESS) {
		r->result_is_set = true;
		if (r->conn->closed)
			return TRUE;
		if (r->replied || !reply_success(r, message))
			return FALSE;
	} else if (!r->replied && !r->conn->closed) {
		reply_failure(r, message);
	}
	r->replied = true;
	return TRUE;
}

/* ---- the rest of the request's transport ------------------------------------------------------- */

static bool_t xprt_getargs(SVCXPRT *xprt, xdrproc_t xdr, void *args)
{
	struct request *r = request_of(xprt);
	bool_t done;
	XDR x;

	xdrmem_create(&x, (char *)r->args, (u_int)r->args_len, XDR_DECODE);
	done = xdr(&x, args) && xdr_getpos(&x) == r->args_len;
	if (!done)
		rtls_wipe(xdr, args); /* the dispatcher frees nothing that was decoded half-way */
	return done;
}

/* Never FALSE: rpcgen's dispatchers would exit the process. */
static bool_t xprt_freeargs(SVCXPRT *xprt, xdrproc_t xdr, void *args)
{
	if (request_of(xprt)->args_are_keyless)
		xdr_free(xdr, args);
	else
		rtls_wipe(xdr, args);
	return TRUE;
}

static bool_t xprt_recv(SVCXPRT *xprt, struct rpc_msg *message)
{
	(void)xprt;
	(void)message;
	return FALSE;
}

static enum xprt_stat xprt_stat(SVCXPRT *xprt)
{
	(void)xprt;
	return XPRT_IDLE;
}

static void xprt_destroy(SVCXPRT *xprt)
{
	(void)xprt;
}

static const struct xp_ops xprt_ops = { xprt_recv,  xprt_stat,     xprt_getargs,
	                                xprt_reply, xprt_freeargs, xprt_destroy };

int rtls_freeresult(SVCXPRT *xprt, xdrproc_t xdr, char *result)
{
	if (request_of(xprt)->result_is_set)
		rtls_wipe(xdr, result); /* not always whole: it may be what could not be encoded */
	return TRUE;
}

/* ---- who may call what ------------------------------------------------------------------------- */

static void refuse_auth(struct request *r, const struct message_call *call, enum auth_stat why,
                        const char *reason)
{
	const struct rtls_identity *id = &r->conn->session.peer.identity;

	endpoint_warn(r->conn->ep, "refused procedure %u of program 0x%x version %u to %s/%s at %s: %s",
	              call->procedure, call->program, call->version, id->role, id->name, r->conn->address,
	              reason);
	message_put_auth_error(&r->conn->session.out, r->xid, why);
}

/* Finds program and procedure and checks the right to call it; false: the refusal is put. */
static bool admit(struct request *r, const struct message_call *call)
{
	struct buffer *out = &r->conn->session.out;
	uint32_t low, high;
	const struct right *right;

	if (call->rpc_version != RPC_VERSION) {
		message_put_rpc_mismatch(out, call->xid);
		return false;
	}
	if (call->flavor != FLAVOR_AUTH_NONE && call->flavor != FLAVOR_AUTH_SYS) {
		refuse_auth(r, call, call->flavor == FLAVOR_AUTH_TLS ? AUTH_BADCRED : AUTH_REJECTEDCRED,
		            call->flavor == FLAVOR_AUTH_TLS ? "AUTH_TLS inside TLS" : "unknown credential");
		return false;
	}
	r->program = endpoint_served(r->conn->ep, call->program, call->version, &low, &high);
	if (r->program == NULL) {
		if (low <= high)
			message_put_mismatch(out, call->xid, low, high);
		else
			message_put_accepted(out, call->xid, PROG_UNAVAIL);
		return false;
	}
	right = call->procedure < r->program->count ? &r->program->rights[call->procedure] : NULL;
	if (right == NULL || right->procedure == NULL) {
		if (call->procedure == NULLPROC)
			return true;
		message_put_accepted(out, call->xid, PROC_UNAVAIL);
		return false;
	}
	r->procedure = right->procedure;
	if ((right->roles & r->conn->role_bit) == 0) {
		refuse_auth(r, call, AUTH_FAILED, "its role may not call it");
		return false;
	}
	return true;
}

/* ---- one call ---------------------------------------------------------------------------------- */

static void run_dispatcher(struct request *r, const struct message_call *call)
{
	struct svc_req rq = { .rq_prog = call->program,
		              .rq_vers = call->version,
		              .rq_proc = call->procedure,
		              .rq_xprt = &r->xprt };

	r->xprt.xp_fd = -1;
	r->xprt.xp_ops = &xprt_ops;
	if (is_traced(r->conn, r->program, r->procedure))
		trace_call(r);
	r->program->is.dispatch(&rq, &r->xprt);
	if (r->replied || r->deferred || r->conn->closed)
		return;
	message_put_accepted(&r->conn->session.out, r->xid, SYSTEM_ERR);
	traffic_flush_later(r->conn);
}

bool dispatch_call(struct rtls_conn *conn, uint8_t *record, size_t len)
{
	struct message_call call;
	struct request r = { .conn = conn };

	if (!message_read_call(record, len, &call))
		return false;
	r.xid = call.xid;
	if (!admit(&r, &call)) {
		traffic_flush_later(conn);
		return true;
	}
	r.args = record + call.body;
	r.args_len = len - call.body;
	if (r.program->is.traced && r.args_len >= ID_LEN)
		memcpy(r.trace.bytes, r.args, ID_LEN);
	run_dispatcher(&r, &call);
	return true;
}

/* ---- for handlers ------------------------------------------------------------------------------ */

void *rtls_context(struct svc_req *rq)
{
	return request_of(rq->rq_xprt)->program->context;
}

const struct rtls_identity *rtls_caller(struct svc_req *rq)
{
	return &request_of(rq->rq_xprt)->conn->session.peer.identity;
}

void rtls_costs(struct svc_req *rq, unsigned microseconds)
{
	turn_costs(request_of(rq->rq_xprt)->conn, microseconds);
}

void rtls_args_are_keyless(struct svc_req *rq)
{
	request_of(rq->rq_xprt)->args_are_keyless = true;
}

struct rtls_deferred *rtls_defer(struct svc_req *rq)
{
	struct request *r = request_of(rq->rq_xprt);
	struct rtls_deferred *d = xcalloc(1, sizeof *d);

	*d = (struct rtls_deferred){ .conn = r->conn,
		                     .program = r->program,
		                     .procedure = r->procedure,
		                     .xid = r->xid,
		                     .trace = r->trace };
	r->deferred = true;
	conn_hold(r->conn);
	r->conn->unanswered++;
	party_call_begins(r->conn->party);
	return d;
}

static bool send_deferred(struct rtls_deferred *d, xdrproc_t xdr, void *result)
{
	struct rtls_conn *conn = d->conn;
	bool traced = is_traced(conn, d->program, d->procedure);
	const char *status;

	if (!put_result(conn, d->xid, xdr, result, traced ? &status : NULL)) {
		log_error("program 0x%x: a result could not be encoded, or is too long",
		          d->program->is.number);
		message_put_accepted(&conn->session.out, d->xid, SYSTEM_ERR);
		traffic_flush_later(conn);
		return false;
	}
	if (traced)
		trace_reply(conn, d->program, d->procedure, &d->trace, status);
	return true;
}

bool rtls_reply_lent(struct rtls_deferred *d, xdrproc_t xdr, void *result)
{
	struct rtls_conn *conn = d->conn;
	bool sent = !conn->closed && send_deferred(d, xdr, result);

	conn->unanswered--;
	party_call_ends(conn->party);
	conn_release(conn);
	free(d);
	return sent;
}

bool rtls_reply(struct rtls_deferred *d, xdrproc_t xdr, void *result)
{
	bool sent = rtls_reply_lent(d, xdr, result);

	rtls_wipe(xdr, result);
	return sent;
}
