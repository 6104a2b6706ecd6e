/*
 * conn.c - a connection in the endpoint's loop.
 *
 * Everything that is put into a connection's output within one turn of the loop leaves in one go at
 * its end: under pipelining that is a factor of ten. A peer that does not take its output, or has too
 * many unanswered calls, is not read until that changes.
 */
#include "endpoint.h"

#include <stdlib.h>

/* What a connection may take of one turn: a flood on it costs the others half their rate at most. */
enum {
	RECORDS_PER_TURN = 32,
	READS_PER_TURN = 4 /* of a TLS record each */
};

#define WAITS_FOR_HANDSHAKE_NS (20 * NS_PER_MS)

/* ---- life -------------------------------------------------------------------------------------- */

void conn_hold(struct rtls_conn *conn)
{
	conn->references++;
}

void conn_release(struct rtls_conn *conn)
{
	if (--conn->references == 0)
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
	deadline_clear(&ep->deadlines, &conn->turn);
	call_fail_all(conn);
	session_end(&conn->session);
	tell_lost(conn, why);
	conn->peer = NULL;
	conn_release(conn);
}

/* ---- output ------------------------------------------------------------------------------------ */

static void run_again_later(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;
	static const struct timeval at_once = { 0, 0 };

	if (conn->again_is_due || conn->closed)
		return;
	conn->again_is_due = true;
	conn->again_next = ep->again_list;
	ep->again_list = conn;
	conn_hold(conn);
	evtimer_add(ep->again_event, &at_once);
}

static bool has_too_much(const struct rtls_conn *conn, size_t high_water)
{
	return buffer_len(&conn->session.out) > high_water ||
	       conn->unanswered >= conn->ep->options.max_per_peer_calls;
}

static void resume(struct rtls_conn *conn)
{
	if (conn->closed || !conn->paused || has_too_much(conn, conn->ep->options.output_high_water / 2))
		return;
	conn->paused = false;
	event_add(conn->read_event, NULL);
	run_again_later(conn);
}

static void pause_reading(struct rtls_conn *conn)
{
	conn->paused = true;
	event_del(conn->read_event);
	deadline_clear(&conn->ep->deadlines, &conn->whole); /* it is us who keep it waiting */
}

void conn_flush(struct rtls_conn *conn)
{
	struct err e = { .status = ST_OK };
	size_t before = buffer_len(&conn->session.out);

	if (conn->closed || conn->session.phase != SESSION_OPEN || before == 0)
		return;
	switch (session_flush(&conn->session, &e)) {
	case IO_OK:
		if (conn->writing)
			deadline_clear(&conn->ep->deadlines, &conn->stalled);
		conn->writing = false;
		break;
	case IO_WANT_READ:
	case IO_WANT_WRITE:
		if (!conn->writing || buffer_len(&conn->session.out) < before)
			deadline_set(&conn->ep->deadlines, &conn->stalled, conn->ep->options.record_ns);
		conn->writing = true;
		event_add(conn->write_event, NULL);
		break;
	case IO_CLOSED:
	case IO_FAILED:
		conn_close(conn, e.text);
		return;
	}
	resume(conn);
}

void conn_flush_later(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;

	if (conn->flush_is_due || conn->writing || conn->closed)
		return;
	if (ep->flush_list == NULL)
		event_active(ep->flush_event, EV_TIMEOUT, 0);
	conn->flush_is_due = true;
	conn->flush_next = ep->flush_list;
	ep->flush_list = conn;
	conn_hold(conn);
}

void conn_answered(struct rtls_conn *conn)
{
	resume(conn);
}

/* ---- input ------------------------------------------------------------------------------------- */

static bool same_identity(const struct rtls_conn *a, const struct rtls_conn *b)
{
	const struct rtls_identity *x = &a->session.peer.identity, *y = &b->session.peer.identity;

	return strcmp(x->name, y->name) == 0 && strcmp(x->role, y->role) == 0;
}

static bool has_its_share(const struct rtls_conn *conn)
{
	unsigned count = 0;

	for (const struct rtls_conn *c = conn->ep->conns; c != NULL; c = c->next)
		count += c->established && c->accepted && same_identity(c, conn);
	return count >= conn->ep->options.max_per_identity;
}

static void establish(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;
	const struct tls_peer *peer = &conn->session.peer;

	conn->established = true;
	conn->role_bit = endpoint_role_bit(ep, peer->identity.role, strlen(peer->identity.role));
	/* the audit record that RFC 9289, section 4.2, requires */
	log_info("connection %s %s: TLS 1.3 with mutual certificates, %s/%s of %s, issuer \"%s\", serial %s",
	         conn->accepted ? "from" : "to", conn->address, peer->identity.role, peer->identity.name,
	         peer->identity.domain, peer->issuer, peer->serial);
	if (conn->peer != NULL)
		peer_established(conn->peer);
	if (ep->watch != NULL)
		ep->watch(conn, true, ep->watch_arg);
}

static bool take_record(struct rtls_conn *conn, uint8_t *record, size_t len)
{
	if (len < RECORD_XID_LEN)
		return false;
	if (!conn->established) {
		deadline_clear(&conn->ep->deadlines, &conn->whole);
		establish(conn); /* the connecting side: the peer has taken our certificate */
	}
	if (conn->closed)
		return true;
	if (message_is_call(record))
		return dispatch_call(conn, record, len);
	return call_take_reply(conn, record, len);
}

/* Until the record that is begun is whole, its deadline runs. */
static void watch_begun_record(struct rtls_conn *conn, bool progress)
{
	struct deadlines *all = &conn->ep->deadlines;
	bool begun = buffer_len(&conn->session.in) > 0;

	if (!conn->established)
		return; /* the handshake's deadline runs */
	if (!begun && conn->whole.place != 0)
		deadline_clear(all, &conn->whole);
	if (begun && (progress || conn->whole.place == 0))
		deadline_set(all, &conn->whole, conn->ep->options.record_ns);
}

/* The next whole record. false: there is none, or the connection was closed. */
static bool next_record(struct rtls_conn *conn, uint8_t **record, size_t *len)
{
	struct session *s = &conn->session;
	enum record_result r = record_read(&s->reader, &s->in, record, len);

	if (r != RECORD_WHOLE && r != RECORD_MORE)
		conn_close(conn, record_fault(r));
	return r == RECORD_WHOLE;
}

/* Handles what is buffered, as far as the turn's budget and the bounds let it. false: it must not be
 * read on now. */
static bool process(struct rtls_conn *conn, unsigned *budget)
{
	bool progress = false;
	uint8_t *record;
	size_t len;

	while (next_record(conn, &record, &len)) {
		if (has_too_much(conn, conn->ep->options.output_high_water)) {
			pause_reading(conn);
			return false;
		}
		if (*budget == 0) {
			run_again_later(conn);
			return false;
		}
		--*budget;
		progress = true;
		if (!take_record(conn, record, len))
			conn_close(conn, "a record that is no RPC message");
		if (conn->closed)
			return false;
		record_next(&conn->session.reader, &conn->session.in);
	}
	if (!conn->closed)
		watch_begun_record(conn, progress);
	return !conn->closed;
}

static bool read_once(struct rtls_conn *conn, unsigned *budget)
{
	struct err e = { .status = ST_OK };

	switch (session_read(&conn->session, &e)) {
	case IO_OK:
		return process(conn, budget);
	case IO_WANT_READ:
		return false;
	case IO_WANT_WRITE:
		event_add(conn->write_event, NULL);
		return false;
	default:
		conn_close(conn, e.text);
		return false;
	}
}

/* Handles what is buffered, and what the socket has if it is readable. */
static void run(struct rtls_conn *conn, bool readable)
{
	unsigned budget = RECORDS_PER_TURN, reads = READS_PER_TURN;
	bool goes_on = !conn->paused && process(conn, &budget);

	while (goes_on && (readable || tls_has_pending(conn->session.tls))) {
		if (reads-- == 0) {
			run_again_later(conn);
			break;
		}
		readable = false;
		goes_on = read_once(conn, &budget);
	}
	if (!conn->flush_is_due) /* else it is in the list and flushed at the end of the turn */
		conn_flush(conn);
}

void conn_process(struct rtls_conn *conn)
{
	conn_hold(conn);
	if (conn->session.phase == SESSION_OPEN)
		run(conn, false);
	conn_release(conn);
}

static void opened(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;

	if (!conn->accepted) {
		call_confirm(conn);
		return;
	}
	if (has_its_share(conn)) {
		conn_close(conn, "as many connections of that identity are open as may be");
		return;
	}
	deadline_clear(&ep->deadlines, &conn->whole);
	if (ep->options.idle_ns > 0)
		deadline_set(&ep->deadlines, &conn->idle, ep->options.idle_ns);
	establish(conn);
}

/* Handshakes cost a millisecond each, whoever asks for them: those who are served are not to starve by
 * them. */
static bool may_shake_hands(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;
	unsigned held_back;

	if (conn->session.phase != SESSION_AWAITING_PROBE || conn->has_turn)
		return true;
	conn->has_turn = log_limit_pass(&ep->handshakes, env_mono(ep->env), &held_back);
	if (!conn->has_turn) {
		event_del(conn->read_event);
		deadline_set(&ep->deadlines, &conn->turn, WAITS_FOR_HANDSHAKE_NS);
	}
	return conn->has_turn;
}

static void turn_came(struct deadline *d)
{
	event_add(container_of(d, struct rtls_conn, turn)->read_event, NULL);
}

static void start(struct rtls_conn *conn)
{
	struct err e = { .status = ST_OK };

	if (!may_shake_hands(conn))
		return;
	switch (session_start(&conn->session, &e)) {
	case IO_OK:
		opened(conn);
		if (!conn->closed)
			run(conn, true);
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
	conn_hold(conn);
	if (conn->idle.place != 0)
		conn->active_at = env_mono(conn->ep->env);
	if (conn->session.phase == SESSION_OPEN)
		run(conn, true);
	else
		start(conn);
	conn_release(conn);
}

static void writable(evutil_socket_t fd, short what, void *arg)
{
	struct rtls_conn *conn = arg;

	(void)fd;
	(void)what;
	conn_hold(conn);
	if (conn->session.phase == SESSION_OPEN)
		conn_flush(conn);
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
	conn->turn.passed = turn_came;
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

void conn_accept(struct rtls_endpoint *ep, int fd, const char *address)
{
	const struct session_options options = { .credentials = ep->credentials,
		                                 .max_record = ep->options.max_record,
		                                 .serves = serves,
		                                 .arg = ep };
	struct rtls_conn *conn = conn_new(ep, address, true);

	session_accept(&conn->session, &options, fd);
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
	struct rtls_conn *c;

	for (c = ep->newest; c != NULL; c = c->previous)
		if (c->established && strcmp(c->session.peer.identity.name, name) == 0 &&
		    strcmp(c->session.peer.identity.role, role) == 0)
			return c;
	return NULL;
}
