/*
 * peer.c - connections that are kept up.
 *
 * Finding a peer may block, in DNS or in rpcbind: lookup.c does that in a thread of its own. A
 * connection that was lost is made again after a back-off that doubles up to its maximum and starts
 * over once a connection has stood for a while.
 */
#include "endpoint.h"

#include <errno.h>
#include <stdlib.h>

#include "lookup.h"

#define BACKOFF_MIN_NS (100 * NS_PER_MS)
#define BACKOFF_MAX_NS (10 * NS_PER_S)
#define STANDS_NS NS_PER_S

struct rtls_peer {
	struct rtls_endpoint *ep;
	char *role, *name, *host, *host_name;
	struct lookup_request request;
	uint32_t program, version;
	struct rtls_conn *conn; /* NULL: none, or looking for it */
	struct lookup *lookup;  /* under way */
	unsigned attempt;       /* which of the found addresses is next */
	bool up, complained;
	uint64_t up_since, backoff_ns;
	struct deadline retry;
	struct rtls_peer *next;
};

static void connect_now(struct rtls_peer *peer);

static void retry_later(struct rtls_peer *peer)
{
	uint64_t jitter;

	if (peer->backoff_ns == 0)
		peer->backoff_ns = BACKOFF_MIN_NS;
	env_random(peer->ep->env, &jitter, sizeof jitter);
	deadline_set(&peer->ep->deadlines, &peer->retry,
	             peer->backoff_ns / 2 + jitter % (peer->backoff_ns / 2));
	peer->backoff_ns *= 2;
	if (peer->backoff_ns > BACKOFF_MAX_NS)
		peer->backoff_ns = BACKOFF_MAX_NS;
}

/* The first failure of a row is a warning, the others are for who debugs. */
static void complain(struct rtls_peer *peer, const char *why)
{
	if (peer->complained)
		log_debug("no connection to %s/%s at %s: %s", peer->role, peer->name, peer->host, why);
	else
		log_warning("no connection to %s/%s at %s: %s; trying again until there is one", peer->role,
		            peer->name, peer->host, why);
	peer->complained = true;
}

static void retry(struct deadline *d)
{
	connect_now(container_of(d, struct rtls_peer, retry));
}

static void connect_to(struct rtls_peer *peer, const struct lookup_address *a)
{
	const struct session_options options = { .credentials = peer->ep->credentials,
		                                 .max_record = peer->ep->options.max_record,
		                                 .host_name = peer->host_name,
		                                 .role = peer->role,
		                                 .name = peer->name,
		                                 .program = peer->program,
		                                 .version = peer->version };
	struct err e = { .status = ST_OK };

	peer->conn = conn_connect(peer->ep, peer, &options, a->text, (const struct sockaddr *)&a->address,
	                          a->len, &e);
	if (peer->conn != NULL)
		return;
	complain(peer, e.text);
	retry_later(peer);
}

static void found(const struct lookup_result *result, void *arg)
{
	struct rtls_peer *peer = arg;

	peer->lookup = NULL;
	if (result->count == 0) {
		complain(peer, result->why);
		retry_later(peer);
		return;
	}
	connect_to(peer, &result->addresses[peer->attempt++ % result->count]);
}

static void connect_now(struct rtls_peer *peer)
{
	struct lookup_result numeric;

	if (lookup_numeric(&peer->request, &numeric)) {
		connect_to(peer, &numeric.addresses[0]);
		return;
	}
	peer->lookup = lookup_start(peer->ep->base, &peer->request, found, peer);
	if (peer->lookup == NULL) {
		complain(peer, strerror(errno));
		retry_later(peer);
	}
}

struct rtls_peer *rtls_peer_new(struct rtls_endpoint *ep, const struct rtls_peer_options *o)
{
	struct rtls_peer *peer = xcalloc(1, sizeof *peer);

	peer->ep = ep;
	peer->role = xstrdup(o->role);
	peer->name = xstrdup(o->name);
	peer->host = xstrdup(o->host);
	peer->host_name = xstrdup(o->dns_name != NULL ? o->dns_name : o->host);
	peer->program = o->program;
	peer->version = o->version;
	peer->request = (struct lookup_request){
		.host = peer->host, .port = o->port, .program = o->program, .version = o->version
	};
	peer->retry.passed = retry;
	peer->next = ep->peers;
	ep->peers = peer;
	deadline_set(&ep->deadlines, &peer->retry, 0);
	return peer;
}

void rtls_peer_free(struct rtls_peer *peer)
{
	struct rtls_peer **p;

	if (peer == NULL)
		return;
	for (p = &peer->ep->peers; *p != peer; p = &(*p)->next)
		;
	*p = peer->next;
	deadline_clear(&peer->ep->deadlines, &peer->retry);
	lookup_cancel(peer->lookup);
	if (peer->conn != NULL) {
		peer->conn->peer = NULL;
		conn_close(peer->conn, "no longer needed");
	}
	free(peer->role);
	free(peer->name);
	free(peer->host);
	free(peer->host_name);
	free(peer);
}

void peers_free(struct rtls_endpoint *ep)
{
	while (ep->peers != NULL)
		rtls_peer_free(ep->peers);
}

void peer_established(struct rtls_peer *peer)
{
	peer->up = true;
	peer->complained = false;
	peer->up_since = env_mono(peer->ep->env);
}

void peer_lost(struct rtls_peer *peer, const char *why)
{
	if (peer->up && env_mono(peer->ep->env) - peer->up_since >= STANDS_NS)
		peer->backoff_ns = 0;
	if (!peer->up)
		complain(peer, why);
	peer->up = false;
	peer->conn = NULL;
	retry_later(peer);
}

bool rtls_peer_is_up(const struct rtls_peer *peer)
{
	return peer->up;
}

void rtls_peer_call(struct rtls_peer *peer, const struct rtls_call *call)
{
	if (peer->up)
		rtls_call(peer->conn, call);
	else
		call_fail_later(peer->ep, call, ST_PEER_UNREACHABLE);
}
