/* endpoint.h - what the files of the endpoint share. */
#ifndef QKDN_RPC_ENDPOINT_H
#define QKDN_RPC_ENDPOINT_H

#include <event2/event.h>
#include <uthash.h>
#include <utlist.h>

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
	rtls_call_name name;                    /* NULL: the procedure's */
};

/* Of a call, for the trace. */
const char *right_call_name(const struct right *r, const uint8_t *args, size_t len);

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

/* ---- connections: conn.c; what goes over them: traffic.c --------------------------------------- */

struct pending; /* a call out that waits for its reply: call.c */

/* Where a connection waits. */
enum conn_queue {
	QUEUE_NONE,   /* nothing to do until its socket is readable */
	QUEUE_GATE,   /* not open yet: waits for its turn to shake hands */
	QUEUE_READY,  /* among its party's ready ones */
	QUEUE_PAUSED, /* among its party's paused ones: not read until answers have gone */
};

struct rtls_conn {
	struct session session;
	struct rtls_endpoint *ep; /* NULL: the endpoint is gone, and so is the connection */
	struct rtls_peer *peer;   /* whose connection it is, or NULL: accepted */
	struct origin *origin;    /* NULL once the handshake is done, or if it was not accepted: gate.c */
	struct party *party;      /* NULL until the handshake is done */
	unsigned references;      /* the endpoint's, those of deferred calls and of running callbacks */
	struct event *read_event, *write_event;
	bool accepted, closed, established, flush_is_due, writing, has_turn;
	bool readable; /* the socket was, and has not been read since */
	bool muted;    /* it was again, and is not asked any more */
	enum conn_queue queue;
	uint64_t role_bit;
	unsigned unanswered;      /* deferred calls */
	int costs;                /* units, of calls that were begun since this was looked at */
	struct pending *calls;    /* by xid */
	struct deadline whole;    /* handshake, or the record begun, must be done */
	struct deadline stalled;  /* output must move */
	struct deadline idle;
	uint64_t active_at;
	char address[ADDRESS_TEXT_MAX];
	struct rtls_conn *previous, *next;             /* of the endpoint's, oldest first */
	struct rtls_conn *party_previous, *party_next; /* of its party's, newest first */
	struct rtls_conn *origin_previous, *origin_next;
	struct rtls_conn *queue_previous, *queue_next;
	struct rtls_conn *flush_next;
};

void conn_accept(struct rtls_endpoint *ep, int fd, const struct sockaddr_storage *from, const char *address);
/* NULL with *e where connecting fails at once; later failures come to peer_lost. options' names belong
 * to the peer. */
struct rtls_conn *conn_connect(struct rtls_endpoint *ep, struct rtls_peer *peer,
                               const struct session_options *options, const char *address_text,
                               const struct sockaddr *address, socklen_t len, struct err *e);
void conn_close(struct rtls_conn *conn, const char *why);
void conn_hold(struct rtls_conn *conn);
void conn_release(struct rtls_conn *conn);
void conn_establish(struct rtls_conn *conn);

void traffic_flush_later(struct rtls_conn *conn); /* something was put into its out */
void traffic_flush(struct rtls_conn *conn);
/* Handles what is buffered and what the socket has, until *slice units of work are used up. Whether there is
 * more to do. */
MUST_CHECK bool traffic_run(struct rtls_conn *conn, int *slice);
void traffic_mute(struct rtls_conn *conn); /* the socket is not asked until it has been read */
void traffic_resume(struct rtls_conn *conn); /* a paused one, if the reason has gone */

/* ---- before the handshake is done: gate.c ------------------------------------------------------ */

void gate_init(struct rtls_endpoint *ep);
void gate_free(struct rtls_endpoint *ep);
bool gate_lets_accept(struct rtls_endpoint *ep); /* false: too many were accepted, lately */
void gate_enter(struct rtls_conn *conn, const struct sockaddr_storage *from);
void gate_leave(struct rtls_conn *conn);
bool gate_passes(struct rtls_conn *conn); /* false: not yet; it will be readable again */
struct rtls_conn *gate_who_makes_room(struct rtls_endpoint *ep); /* NULL: there is none */

/* ---- identities: party.c; whose turn it is: turn.c --------------------------------------------- */

/* One identity and all its connections: what one is bounded in and gets its share of. */
struct party {
	UT_hash_handle hh;
	char name[RTLS_ROLE_MAX + NAME_MAX_LEN + 2]; /* "app/app1" */
	struct rtls_endpoint *ep;
	struct rtls_conn *conns;          /* newest first */
	struct rtls_conn *ready, *paused; /* of these, in their order */
	unsigned accepted;                /* of its connections */
	unsigned role;                    /* index of the endpoint's; ROLES_MAX: beyond them */
	unsigned unanswered;              /* deferred calls */
	unsigned peak;                    /* of these, lately */
	int credit;                       /* units of work */
	unsigned references;
	bool listed; /* among who has something to do */
	bool greedy; /* had more to do than its turn allowed */
	struct party *previous, *next; /* in one of the endpoint's two lists */
};

void party_join(struct rtls_conn *conn);  /* once its identity is known */
void party_leave(struct rtls_conn *conn); /* when it is closed; holds its party still */
void party_hold(struct party *p);
void party_release(struct party *p); /* NULL is allowed */
void parties_orphan(struct rtls_endpoint *ep); /* it ends; calls may still be answered */
struct party *party_find(struct rtls_endpoint *ep, const char *role, const char *name);
void party_call_begins(struct party *p); /* a deferred one */
void party_call_ends(struct party *p);
bool party_has_too_many(const struct rtls_conn *conn, bool is_paused); /* unanswered calls, to begin another */
/* Now and then: how many calls the others have unanswered. */
void party_look_around(struct rtls_endpoint *ep, uint64_t now);

void turn_add(struct rtls_conn *conn); /* it has something to do */
void turn_pause(struct rtls_conn *conn); /* it has, but must not before traffic_resume */
void turn_remove(struct rtls_conn *conn);
void turn_charge(struct rtls_conn *conn, int units); /* work that was done for it outside of its turn */
void turn_costs(struct rtls_conn *conn, unsigned units); /* the call under way, elsewhere: while its identity has a third */
void turn_init(struct rtls_endpoint *ep);

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
	struct event *flush_event;  /* runs after the callbacks of this turn of the loop */
	struct event *failed_event; /* runs in the next turn */
	struct flush_list {
		struct rtls_conn *first, **last;
	} dialled_flush, accepted_flush; /* in the order in which something was put into their output */
	struct party *parties;
	struct {
		struct event *event;
		bool is_due;
		struct party *modest, *greedy; /* who has something to do */
		uint64_t now;
		struct modest { /* who was served last, of a role's */
			const struct party *whose; /* to compare only: it may be gone */
			uint64_t at, before; /* when, and when somebody else was before it */
		} lately[ROLES_MAX + 1];
		int greedy_units; /* that the greedy get together, */
		int saved;        /* and while somebody modest is served */
		uint64_t saved_at;
	} turn;
	struct peak {
		unsigned highest, second; /* of the unanswered calls of a role's parties, lately */
		const struct party *whose; /* the highest is */
	} peaks[ROLES_MAX];
	uint64_t looked_around_at;
	struct pending *failed, **failed_last;
	struct trace *trace;
	uint32_t next_xid;
	rtls_watch watch;
	void *watch_arg;
	bool registered;
	struct log_limit limit;
	struct {
		struct origin *origins, *queue; /* all, by address; those whose connections wait for their turn */
		struct log_limit accepts, handshakes; /* the bucket of tokens that bounds lines serves here too */
		struct deadline opens;
	} gate;
};

#endif
