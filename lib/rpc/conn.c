/*
 * conn.c - a connection in the endpoint's loop, from connecting or accepting it to its end. What goes over it
 * in between is traffic.c's.
 */
#include "endpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

/* ---- life -------------------------------------------------------------------------------------- */

void conn_hold(struct rtls_conn *conn)
{
	conn->references++;
}

void conn_release(struct rtls_conn *conn)
{
	if (--conn->references > 0)
		return;
	party_release(conn->party);
	free(conn);
}

static void link_newest(struct rtls_endpoint *ep, struct rtls_conn *conn)
{
	conn->previous = ep->newest;
	if (ep->newest != NULL)
		ep->newest->next = conn;
	else
		ep->conns = conn;
	ep->newest = conn;
	ep->conn_count++;
}

static void unlink_conn(struct rtls_endpoint *ep, struct rtls_conn *conn)
{
	if (conn->previous != NULL)
		conn->previous->next = conn->next;
	else
		ep->conns = conn->next;
	if (conn->next != NULL)
		conn->next->previous = conn->previous;
	else
		ep->newest = conn->previous;
	ep->conn_count--;
}

static void tell_lost(struct rtls_conn *conn, const char *why)
{
	struct rtls_endpoint *ep = conn->ep;
	const struct rtls_identity *id = &conn->session.peer.identity;

	if (conn->established)
		log_info("connection %s %s of %s/%s ends: %s", conn->accepted ? "from" : "to", conn->address,
		         id->role, id->name, why);
	else if (conn->accepted)
		endpoint_warn(ep, "refused the connection from %s: %s", conn->address, why);
	if (conn->established && ep->watch != NULL)
		ep->watch(conn, false, ep->watch_arg);
	if (conn->peer != NULL)
		peer_lost(conn->peer, why);
}

void conn_close(struct rtls_conn *conn, const char *why)
{
	struct rtls_endpoint *ep = conn->ep;

	if (conn->closed)
		return;
	conn->closed = true;
	unlink_conn(ep, conn);
	event_free(conn->read_event);
	event_free(conn->write_event);
	deadline_clear(&ep->deadlines, &conn->whole);
	deadline_clear(&ep->deadlines, &conn->stalled);
	deadline_clear(&ep->deadlines, &conn->idle);
	call_fail_all(conn);
	gate_leave(conn);
	party_leave(conn);
	session_end(&conn->session);
	tell_lost(conn, why);
	conn->peer = NULL;
	conn_release(conn);
}

/* ---- the handshake ----------------------------------------------------------------------------- */

void conn_establish(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;
	const struct tls_peer *peer = &conn->session.peer;

	conn->established = true;
	/* the audit record that RFC 9289, section 4.2, requires */
	log_info("connection %s %s: TLS 1.3 with mutual certificates, %s/%s of %s, issuer \"%s\", serial %s",
	         conn->accepted ? "from" : "to", conn->address, peer->identity.role, peer->identity.name,
	         peer->identity.domain, peer->issuer, peer->serial);
	if (conn->peer != NULL)
		peer_established(conn->peer);
	if (ep->watch != NULL)
		ep->watch(conn, true, ep->watch_arg);
}

static void opened(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;

	gate_leave(conn);
	party_join(conn);
	if (!conn->accepted) {
		call_confirm(conn);
		return;
	}
	if (conn->party->accepted > ep->options.max_per_identity) {
		conn_close(conn, "as many connections of that identity are open as may be");
		return;
	}
	deadline_clear(&ep->deadlines, &conn->whole);
	if (ep->options.idle_ns > 0)
		deadline_set(&ep->deadlines, &conn->idle, ep->options.idle_ns);
	conn_establish(conn);
}

/* Whether the peer has closed it without a word. */
static bool is_abandoned(const struct rtls_conn *conn)
{
	char byte;
	ssize_t n = recv(conn->session.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

static void start(struct rtls_conn *conn)
{
	struct err e = { .status = ST_OK };

	if (conn->accepted && !conn->has_turn && is_abandoned(conn)) { /* it is to be nobody's turn */
		conn_close(conn, "closed by the peer before a handshake");
		return;
	}
	if (!gate_passes(conn))
		return;
	switch (session_start(&conn->session, &e)) {
	case IO_OK:
		opened(conn);
		conn->readable = true; /* what came behind the handshake */
		if (!conn->closed)
			turn_add(conn);
		break;
	case IO_WANT_READ:
		break;
	case IO_WANT_WRITE:
		event_add(conn->write_event, NULL);
		break;
	case IO_CLOSED:
	case IO_FAILED:
		conn_close(conn, e.text);
		break;
	}
}

static void readable(evutil_socket_t fd, short what, void *arg)
{
	struct rtls_conn *conn = arg;

	(void)fd;
	(void)what;
	if (conn->idle.place != 0)
		conn->active_at = env_mono(conn->ep->env);
	if (conn->session.phase != SESSION_OPEN) {
		conn_hold(conn);
		start(conn);
		conn_release(conn);
		return;
	}
	if (conn->readable)
		traffic_mute(conn);
	conn->readable = true;
	if (conn->queue == QUEUE_NONE)
		turn_add(conn);
}

static void writable(evutil_socket_t fd, short what, void *arg)
{
	struct rtls_conn *conn = arg;

	(void)fd;
	(void)what;
	conn_hold(conn);
	if (conn->session.phase == SESSION_OPEN)
		traffic_flush(conn);
	else
		start(conn);
	conn_release(conn);
}

/* ---- deadlines --------------------------------------------------------------------------------- */

static void not_whole(struct deadline *d)
{
	struct rtls_conn *conn = container_of(d, struct rtls_conn, whole);

	conn_close(conn, conn->established ? "a record was begun and not finished in time"
	                                   : "probe and handshake were not done in time");
}

static void has_stalled(struct deadline *d)
{
	conn_close(container_of(d, struct rtls_conn, stalled), "the peer does not take its output");
}

static void was_idle(struct deadline *d)
{
	struct rtls_conn *conn = container_of(d, struct rtls_conn, idle);
	struct rtls_endpoint *ep = conn->ep;
	uint64_t quiet = env_mono(ep->env) - conn->active_at;

	if (quiet >= ep->options.idle_ns && conn->unanswered == 0)
		conn_close(conn, "idle");
	else
		deadline_set(&ep->deadlines, d, quiet < ep->options.idle_ns ? ep->options.idle_ns - quiet
		                                                            : ep->options.idle_ns);
}

/* ---- making one -------------------------------------------------------------------------------- */

static struct rtls_conn *conn_new(struct rtls_endpoint *ep, const char *address, bool accepted)
{
	struct rtls_conn *conn = xcalloc(1, sizeof *conn);

	conn->ep = ep;
	conn->accepted = accepted;
	conn->references = 1;
	conn->whole.passed = not_whole;
	conn->stalled.passed = has_stalled;
	conn->idle.passed = was_idle;
	conn->active_at = env_mono(ep->env);
	strncpy(conn->address, address, sizeof conn->address - 1);
	return conn;
}

static void begin(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;
	int fd = conn->session.fd;

	link_newest(ep, conn);
	conn->read_event = event_new(ep->base, fd, EV_READ | EV_PERSIST, readable, conn);
	conn->write_event = event_new(ep->base, fd, EV_WRITE, writable, conn);
	if (conn->read_event == NULL || conn->write_event == NULL)
		log_fatal("no memory for a connection");
	event_add(conn->read_event, NULL);
	if (!conn->accepted)
		event_add(conn->write_event, NULL);
	deadline_set(&ep->deadlines, &conn->whole, ep->options.handshake_ns);
}

static bool serves(void *arg, uint32_t program, uint32_t version)
{
	uint32_t low, high;

	return endpoint_served(arg, program, version, &low, &high) != NULL;
}

void conn_accept(struct rtls_endpoint *ep, int fd, const struct sockaddr_storage *from, const char *address)
{
	const struct session_options options = { .credentials = ep->credentials,
		                                 .max_record = ep->options.max_record,
		                                 .serves = serves,
		                                 .arg = ep };
	struct rtls_conn *conn = conn_new(ep, address, true);

	session_accept(&conn->session, &options, fd);
	gate_enter(conn, from);
	begin(conn);
}

struct rtls_conn *conn_connect(struct rtls_endpoint *ep, struct rtls_peer *peer,
                               const struct session_options *options, const char *address_text,
                               const struct sockaddr *address, socklen_t len, struct err *e)
{
	struct rtls_conn *conn = conn_new(ep, address_text, false);

	if (session_connect(&conn->session, options, address, len, e) != ST_OK) {
		session_end(&conn->session);
		conn_release(conn);
		return NULL;
	}
	conn->peer = peer;
	begin(conn);
	return conn;
}

/* ---- for users --------------------------------------------------------------------------------- */

const struct rtls_identity *rtls_conn_identity(const struct rtls_conn *conn)
{
	return &conn->session.peer.identity;
}

struct rtls_conn *rtls_find_conn(struct rtls_endpoint *ep, const char *role, const char *name)
{
	struct party *p = party_find(ep, role, name);
	struct rtls_conn *c;

	if (p != NULL)
		DL_FOREACH2 (p->conns, c, party_next)
			if (c->established)
				return c;
	return NULL;
}
