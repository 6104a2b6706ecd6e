/*
 * rtls.h - ONC RPC (RFC 5531) over TCP inside TLS (RFC 9289), on rpcgen's own stubs.
 *
 * An endpoint is a process's end of the RPC world: its credentials, the programs it serves, its
 * listeners, the peers it keeps connections to. Calls go both ways on any connection. Everything
 * runs in the thread of the loop it was given; handlers answer at once, or defer and answer later.
 * Nothing here knows what the programs are for.
 *
 * Identity: one URI spiffe://<trust domain>/<role>/<name> in the certificate's SAN. Who may call
 * what is a table; everything that no row allows is refused (AUTH_ERROR, AUTH_TOOWEAK) and logged.
 */
#ifndef QKDN_RTLS_H
#define QKDN_RTLS_H

#include <rpc/rpc.h>

#include "env.h"
#include "id.h"
#include "status.h"

/* ---- credentials ------------------------------------------------------------------------------- */

enum { RTLS_ROLE_MAX = 32, RTLS_DOMAIN_MAX = 128 };

/* Who a certificate says it is. */
struct rtls_identity {
	char domain[RTLS_DOMAIN_MAX + 1];
	char role[RTLS_ROLE_MAX + 1]; /* "km", "app", … */
	char name[NAME_MAX_LEN + 1];
};

struct rtls_credentials; /* certificate, private key, authority, revoked; immutable, counted references */

/* Files in PEM. The private key's mode is checked (file.h). crl: the authorities' lists of revoked certificates,
 * one for each that signs a peer's, not over yet; NULL: nothing is revoked. A reload is a new object given to
 * rtls_set_credentials. The caller frees. */
MUST_CHECK enum status rtls_credentials_load(struct rtls_credentials **c, const char *certificate,
                                             const char *private_key, const char *authority,
                                             const char *crl, struct err *e);
/* The same; refuses a certificate that is not of role/name. */
MUST_CHECK enum status rtls_credentials_load_as(struct rtls_credentials **c, const char *role, const char *name,
                                                const char *certificate, const char *private_key,
                                                const char *authority, const char *crl, struct err *e);
void rtls_credentials_free(struct rtls_credentials *c);
const struct rtls_identity *rtls_credentials_identity(const struct rtls_credentials *c);

/* ---- programs ---------------------------------------------------------------------------------- */

/* One procedure of a program. A table of these ends with a NULL request. */
struct rtls_procedure {
	uint32_t number;
	const char *request;  /* the standard's message name, for the trace: "Key request" */
	const char *response; /* "Response to key request"; NULL: the answer is no message of its own */
	const char *roles;    /* roles that may call it, separated by spaces: "km controller" */
};

/*
 * A program as rpcgen made it. In a traced program every argument begins with the 16-byte trace
 * ID, and every result with a 4-byte status whose 0 means done: the endpoint reads both off the
 * wire for the trace, without knowing the types.
 */
struct rtls_program {
	uint32_t number, version;
	const char *reference_point;                   /* "Kx-1" */
	void (*dispatch)(struct svc_req *, SVCXPRT *); /* rpcgen's foo_1; NULL: only called, never served */
	const struct rtls_procedure *procedures;
	bool traced;
};

/* ---- the endpoint ------------------------------------------------------------------------------ */

struct rtls_endpoint;
struct rtls_conn;

struct rtls_options {
	size_t max_record;           /* bytes, all fragments; 0: 2 MiB */
	size_t output_high_water;    /* bytes; above it a peer is not read; 0: 4 MiB */
	unsigned max_connections;    /* 0: 1000 */
	unsigned max_per_identity;   /* of these; 0: a quarter, so that one identity cannot shut out the rest */
	unsigned max_unanswered;     /* deferred calls of one identity; 0: 4096; fewer where others wait too */
	uint64_t handshake_ns;       /* probe and handshake must be done; 0: 10 s */
	uint64_t record_ns;          /* a begun record must be whole; 0: 30 s */
	uint64_t idle_ns;            /* accepted connection without traffic; 0: never */
	const char *trace_path;      /* NULL: no trace; else lines are appended there */
};

/* o may be NULL: the defaults. */
MUST_CHECK enum status rtls_endpoint_new(struct rtls_endpoint **ep, struct env *env,
                                         struct rtls_credentials *c, const struct rtls_options *o,
                                         struct err *e);
/* Withdraws from rpcbind, closes everything; the callbacks of unanswered calls run before it returns, the
 * watcher's do not. Never from a callback of the endpoint's own. A rtls_reply may still come later. */
void rtls_endpoint_free(struct rtls_endpoint *ep);
/* For new connections; c must be of the same identity, else the old ones stay and the log says so. Open
 * connections stay, but for those of certificates that c's list says are revoked. */
void rtls_set_credentials(struct rtls_endpoint *ep, struct rtls_credentials *c);

/* Programs are served to whoever the table allows; context is what rtls_context gives the handlers.
 * A program without a dispatch is only named to the trace, for calls out. */
void rtls_add_program(struct rtls_endpoint *ep, const struct rtls_program *program, void *context);

/* Names the calls of a procedure for the trace where their arguments, as they are on the wire, say more than the
 * table; valid until the next. The endpoint's thread alone calls it. */
typedef const char *(*rtls_call_name)(const uint8_t *args, size_t len);
void rtls_name_calls(struct rtls_endpoint *ep, uint32_t program, uint32_t version, uint32_t procedure,
                     rtls_call_name name);

/* address: "192.0.2.1:7001" or "[::1]:7001"; port 0 picks one, which rtls_port then tells. */
MUST_CHECK enum status rtls_listen(struct rtls_endpoint *ep, const char *address, struct err *e);
uint16_t rtls_port(const struct rtls_endpoint *ep); /* of the first listener */

/* Registers every served program with the local rpcbind, at the first listener of each address family
 * (tcp, tcp6), until the endpoint is freed. Waits for rpcbind. required: a failure is an error; else it
 * is logged as a warning. May be called again, for a rpcbind that has lost what it was told. */
MUST_CHECK enum status rtls_register(struct rtls_endpoint *ep, bool required, struct err *e);

/* ---- serving ----------------------------------------------------------------------------------- */

/* In a handler that rpcgen's dispatcher called. The result it is given is not initialised by rpcgen:
 * a handler that will return TRUE zeroes it first. A handler that returns FALSE without having called
 * rtls_defer is answered for with SYSTEM_ERR. */
void *rtls_context(struct svc_req *rq);
const struct rtls_identity *rtls_caller(struct svc_req *rq); /* valid until the handler returns */
/* What the call costs beyond being called, in this thread or another: so much is counted for it where its caller
 * has no more than a share of the time. */
void rtls_costs(struct svc_req *rq, unsigned microseconds);
/* No key is in the call's arguments: they are freed without being wiped, which costs as much as decoding them. */
void rtls_args_are_keyless(struct svc_req *rq);

/* Every foo_1_freeresult that rpcgen leaves to us is `return rtls_freeresult(xprt, xdr, result);`: wipes and
 * frees the result, unless the call was deferred or refused and the result was never filled in. */
int rtls_freeresult(SVCXPRT *xprt, xdrproc_t xdr, char *result);

/* A handler that cannot answer yet calls rtls_defer and returns FALSE; exactly one rtls_reply
 * for the token must follow. It sends result (encoded with xdr, then wiped and freed with
 * xdr_free) if the connection still stands, and returns whether it does: a handler of keys
 * learns so that they could not be sent. */
struct rtls_deferred;
struct rtls_deferred *rtls_defer(struct svc_req *rq);
bool rtls_reply(struct rtls_deferred *d, xdrproc_t xdr, void *result);
/* The same with a result that stays the caller's: neither wiped nor freed. */
bool rtls_reply_lent(struct rtls_deferred *d, xdrproc_t xdr, void *result);

/* ---- calling ----------------------------------------------------------------------------------- */

/* ST_OK with the decoded result (wiped and freed when the callback returns); else result is NULL:
 * ST_TIMED_OUT; ST_TRANSPORT: the connection was lost, or the answer was no proper one, and the
 * call may have been carried out. Not carried out: ST_PEER_UNREACHABLE (never sent), ST_DENIED
 * (the peer answered AUTH_ERROR), ST_UNSUPPORTED (it does not serve that), ST_BAD_REQUEST (it
 * could not decode the arguments). */
typedef void (*rtls_done)(enum status s, void *result, void *arg);

struct rtls_call {
	uint32_t program, version, procedure;
	xdrproc_t xdr_args;
	void *args; /* encoded before rtls_call returns; the caller wipes and frees */
	xdrproc_t xdr_result;
	size_t result_size;
	uint64_t timeout_ns;
	rtls_done done;
	void *arg;
};

/* Over one connection, in either direction. done is always called, never before rtls_call
 * returns. A call is never sent a second time. */
void rtls_call(struct rtls_conn *conn, const struct rtls_call *call);

const struct rtls_identity *rtls_conn_identity(const struct rtls_conn *conn);

/* The newest established connection with that identity, whoever opened it; NULL if none. This
 * is how calls in the reverse direction find their peer. */
struct rtls_conn *rtls_find_conn(struct rtls_endpoint *ep, const char *role, const char *name);

/* Told when a connection with an identity is established (true) and lost (false). One watcher. */
typedef void (*rtls_watch)(struct rtls_conn *conn, bool up, void *arg);
void rtls_watch_conns(struct rtls_endpoint *ep, rtls_watch watch, void *arg);

/* ---- peers: connections that are kept up ------------------------------------------------------- */

struct rtls_peer;

struct rtls_peer_options {
	const char *role, *name; /* the identity its certificate must carry */
	const char *host;        /* host name or address */
	const char *dns_name;    /* SAN dNSName to check; NULL: host, as dNSName or iPAddress */
	uint16_t port;           /* 0: ask rpcbind at host for program and version */
	uint32_t program, version;
};

/* Connects now and again after a loss, with back-off (0.1 s to 10 s, jittered) until freed. */
struct rtls_peer *rtls_peer_new(struct rtls_endpoint *ep, const struct rtls_peer_options *o);
void rtls_peer_free(struct rtls_peer *peer);
bool rtls_peer_is_up(const struct rtls_peer *peer);
void rtls_peer_call(struct rtls_peer *peer, const struct rtls_call *call);

/* ---- blocking clients: rpcgen's client stubs --------------------------------------------------- */

/*
 * A channel is one connection for tools and libraries without a loop: any number of threads,
 * many calls in flight; the thread that waits reads for all. Its CLIENTs carry rpcgen's stubs
 * (clnt_call); a result that held keys is wiped with rtls_wipe.
 */
struct rtls_channel;

struct rtls_channel_options {
	struct rtls_credentials *credentials;
	struct rtls_peer_options peer;
	uint64_t connect_ns; /* for connection, probe and handshake; 0: 10 s */
	const char *trace_path;
};

MUST_CHECK enum status rtls_channel_open(struct rtls_channel **ch, const struct rtls_channel_options *o,
                                         struct err *e);
void rtls_channel_close(struct rtls_channel *ch); /* after its CLIENTs are destroyed */
/* For the trace. */
void rtls_channel_name_program(struct rtls_channel *ch, const struct rtls_program *program);

/* A CLIENT for one program on the channel; clnt_destroy frees it. */
CLIENT *rtls_channel_client(struct rtls_channel *ch, uint32_t program, uint32_t version);

/* Why the last call by this thread failed, as a status and a text to show. */
enum status rtls_channel_error(CLIENT *client, struct err *e);

/* ---- secrets on the wire ----------------------------------------------------------------------- */

/* Zeroes every byte string that the value of a generated type holds, then frees it (xdr_free).
 * For arguments and results that carried keys. */
void rtls_wipe(xdrproc_t xdr, void *value);

#endif
