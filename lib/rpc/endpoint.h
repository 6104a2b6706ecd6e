/* endpoint.h - what the files of the endpoint share: endpoint.c, conn.c, dispatch.c, call.c, peer.c. */
#ifndef QKDN_RPC_ENDPOINT_H
#define QKDN_RPC_ENDPOINT_H

#include <event2/event.h>
#include <uthash.h>

#include "deadline.h"
#include "log.h"
#include "message.h"
#include "rtls.h"
#include "session.h"
#include "trace.h"

enum { ROLES_MAX = 64, PROCEDURES_MAX = 256, ADDRESS_TEXT_MAX = 64 };

/* ---- programs: endpoint.c ---------------------------------------------------------------------- */

struct right {
	const struct rtls_procedure *procedure; /* NULL: no such procedure */
	uint64_t roles;                         /* a bit for each role that may call it */
};

struct program {
	struct rtls_program is;
	void *context;
	struct right *rights; /* by procedure number */
	uint32_t count;
	struct program *next;
};

/* NULL where it was not added. For served programs, *low and *high (which may be NULL) tell the versions that
 * are, low > high: none. */
struct program *endpoint_program(struct rtls_endpoint *ep, uint32_t number, uint32_t version);
struct program *endpoint_served(struct rtls_endpoint *ep, uint32_t number, uint32_t version, uint32_t *low,
                                uint32_t *high);
uint64_t endpoint_role_bit(struct rtls_endpoint *ep, const char *role, size_t len); /* 0: too many roles */

/* A line that outsiders can provoke: a warning at most so often. */
void endpoint_warn(struct rtls_endpoint *ep, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- connections: conn.c ----------------------------------------------------------------------- */

struct pending; /* a call out that waits for its reply: call.c */

struct rtls_conn {
	struct session session;
	struct rtls_endpoint *ep; /* NULL: the endpoint is gone, and so is the connection */
	struct rtls_peer *peer;   /* whose connection it is, or NULL: accepted */
	unsigned references;      /* the endpoint's, those of deferred calls and of running callbacks */
	struct event *read_event, *write_event;
	bool accepted, closed, established, paused, flush_is_due, again_is_due, writing, has_turn;
	uint64_t role_bit;
	unsigned unanswered;      /* deferred calls */
	struct pending *calls;    /* by xid */
	struct deadline whole;    /* handshake, or the record begun, must be done */
	struct deadline stalled;  /* output must move */
	struct deadline idle;
	struct deadline turn;     /* to begin its handshake */
	uint64_t active_at;
	char address[ADDRESS_TEXT_MAX];
	struct rtls_conn *previous, *next; /* of the endpoint's, oldest first */
	struct rtls_conn *flush_next, *again_next;
};

void conn_accept(struct rtls_endpoint *ep, int fd, const char *address);
/* NULL with *e where connecting fails at once; later failures come to peer_lost. options' names belong
 * to the peer. */
struct rtls_conn *conn_connect(struct rtls_endpoint *ep, struct rtls_peer *peer,
                               const struct session_options *options, const char *address_text,
                               const struct sockaddr *address, socklen_t len, struct err *e);
void conn_close(struct rtls_conn *conn, const char *why);
void conn_hold(struct rtls_conn *conn);
void conn_release(struct rtls_conn *conn);

void conn_flush_later(struct rtls_conn *conn); /* something was put into its out */
void conn_flush(struct rtls_conn *conn);
void conn_answered(struct rtls_conn *conn);    /* a deferred call was: it may be read again */
void conn_process(struct rtls_conn *conn);     /* parses what is buffered */

/* ---- calls in: dispatch.c; calls out: call.c --------------------------------------------------- */

/* One record that is a call. false: so malformed that the connection must end. */
MUST_CHECK bool dispatch_call(struct rtls_conn *conn, uint8_t *record, size_t len);
MUST_CHECK bool call_take_reply(struct rtls_conn *conn, uint8_t *record, size_t len);
/* A NULL call of the peer's program: its answer shows that the peer has taken our certificate. */
void call_confirm(struct rtls_conn *conn);
void call_fail_all(struct rtls_conn *conn);              /* of a closed connection; callbacks run later */
void call_fail_later(struct rtls_endpoint *ep, const struct rtls_call *call, enum status s);
void call_run_failed(struct rtls_endpoint *ep);

/* ---- peers: peer.c ----------------------------------------------------------------------------- */

void peer_established(struct rtls_peer *peer);
void peer_lost(struct rtls_peer *peer, const char *why);
void peers_free(struct rtls_endpoint *ep);

/* ---- rpcbind: rpcbind.c ------------------------------------------------------------------------ */

void rpcbind_withdraw(struct rtls_endpoint *ep);

/* ---- the endpoint ------------------------------------------------------------------------------ */

struct listener {
	struct rtls_endpoint *ep;
	int fd;
	struct event *event;
	struct deadline parked;
	struct sockaddr_storage address;
	struct listener *next;
};

struct rtls_endpoint {
	struct env *env;
	struct event_base *base;
	struct rtls_credentials *credentials;
	struct rtls_identity self; /* a reload does not change who it is */
	struct rtls_options options;
	struct program *programs;
	char roles[ROLES_MAX][RTLS_ROLE_MAX + 1];
	unsigned role_count;
	struct listener *listeners;
	struct rtls_conn *conns, *newest;
	unsigned conn_count;
	struct rtls_peer *peers;
	struct deadlines deadlines;
	struct event *flush_event; /* runs after the callbacks of this turn of the loop */
	struct event *again_event; /* runs in the next turn */
	struct rtls_conn *flush_list, *again_list;
	struct pending *failed, **failed_last;
	struct trace *trace;
	uint32_t next_xid;
	rtls_watch watch;
	void *watch_arg;
	bool registered;
	struct log_limit limit;
	struct log_limit handshakes; /* the same bucket of tokens serves to bound handshakes */
};

#endif
