/*
 * gate.c - who has not shown yet who it is: bounds on accepting connections and on handshakes.
 *
 * A handshake costs a millisecond of processor, whoever asks for it, and everybody else waits meanwhile.
 * So they are let in one by one at a bounded rate, in turns by where they come from, and at a lower one
 * from each address: many at one address wait for each other, and one at another address hardly for them.
 * Where there is no room for a connection, the oldest from the address that has most of those that wait
 * makes room.
 */
#include "endpoint.h"

#include <netinet/in.h>
#include <stdlib.h>

enum {
	HANDSHAKES_PER_S = 200,
	HANDSHAKES_BURST = 16, /* each holds up everybody else */
	ORIGIN_PER_S = 32,     /* handshakes from one address */
	ORIGIN_BURST = 64,
	ORIGINS_MANY = 4096,   /* remembered addresses: above it, those without a connection are forgotten */
	ACCEPTS_PER_S = 2000,
	ACCEPTS_BURST = 64
};

/* An address, or a network of IPv6: who has one of its addresses has them all. */
struct origin {
	UT_hash_handle hh;
	uint64_t address;
	struct rtls_conn *visitors; /* all of them, oldest first */
	unsigned count;
	struct log_limit handshakes;
	struct rtls_conn *waiting;  /* of these, for their turn */
	struct origin *previous, *next; /* of those with somebody waiting */
};

static uint64_t address_of(const struct sockaddr_storage *from)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)from;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
	uint64_t network;

	if (from->ss_family != AF_INET6)
		return v4->sin_addr.s_addr;
	memcpy(&network, &v6->sin6_addr, sizeof network);
	return network;
}

/* ---- coming and going -------------------------------------------------------------------------- */

static void forget_gone(struct rtls_endpoint *ep)
{
	struct origin *o, *next;

	HASH_ITER (hh, ep->gate.origins, o, next) {
		if (o->visitors != NULL)
			continue;
		HASH_DEL(ep->gate.origins, o);
		free(o);
	}
}

void gate_free(struct rtls_endpoint *ep)
{
	deadline_clear(&ep->deadlines, &ep->gate.opens);
	forget_gone(ep);
}

static struct origin *origin_new(struct rtls_endpoint *ep, uint64_t address)
{
	struct origin *o = xcalloc(1, sizeof *o);

	if (HASH_COUNT(ep->gate.origins) >= ORIGINS_MANY)
		forget_gone(ep);
	o->address = address;
	o->handshakes = (struct log_limit){ .interval_ns = NS_PER_S / ORIGIN_PER_S, .burst = ORIGIN_BURST };
	HASH_ADD(hh, ep->gate.origins, address, sizeof o->address, o);
	return o;
}

void gate_enter(struct rtls_conn *conn, const struct sockaddr_storage *from)
{
	struct rtls_endpoint *ep = conn->ep;
	uint64_t address = address_of(from);
	struct origin *o;

	HASH_FIND(hh, ep->gate.origins, &address, sizeof address, o);
	if (o == NULL)
		o = origin_new(ep, address);
	DL_APPEND2(o->visitors, conn, origin_previous, origin_next);
	o->count++;
	conn->origin = o;
}

static void stop_waiting(struct rtls_conn *conn)
{
	struct origin *o = conn->origin;

	if (conn->queue != QUEUE_GATE)
		return;
	DL_DELETE2(o->waiting, conn, queue_previous, queue_next);
	conn->queue = QUEUE_NONE;
	if (o->waiting == NULL)
		DL_DELETE2(conn->ep->gate.queue, o, previous, next);
}

void gate_leave(struct rtls_conn *conn)
{
	struct origin *o = conn->origin;

	if (o == NULL)
		return;
	stop_waiting(conn);
	DL_DELETE2(o->visitors, conn, origin_previous, origin_next);
	conn->origin = NULL;
	o->count--;
}

struct rtls_conn *gate_who_makes_room(struct rtls_endpoint *ep)
{
	const struct origin *most = ep->gate.origins;

	for (const struct origin *o = ep->gate.origins; o != NULL; o = o->hh.next)
		if (o->count > most->count)
			most = o;
	return most != NULL ? most->visitors : NULL;
}

/* ---- turns ------------------------------------------------------------------------------------- */

bool gate_lets_accept(struct rtls_endpoint *ep)
{
	unsigned held_back;

	return log_limit_pass(&ep->gate.accepts, env_mono(ep->env), &held_back);
}

static bool may_shake_hands(struct rtls_endpoint *ep, struct origin *o)
{
	uint64_t now = env_mono(ep->env);
	unsigned held_back;

	if (!log_limit_pass(&o->handshakes, now, &held_back))
		return false;
	if (log_limit_pass(&ep->gate.handshakes, now, &held_back))
		return true;
	o->handshakes.spent--;
	return false;
}

static void open_soon(struct rtls_endpoint *ep)
{
	if (ep->gate.opens.place == 0)
		deadline_set(&ep->deadlines, &ep->gate.opens, NS_PER_S / HANDSHAKES_PER_S);
}

bool gate_passes(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;
	struct origin *o = conn->origin;

	if (o == NULL || conn->has_turn)
		return true;
	if (o->waiting == NULL && may_shake_hands(ep, o)) {
		conn->has_turn = true;
		return true;
	}
	event_del(conn->read_event);
	if (o->waiting == NULL)
		DL_APPEND2(ep->gate.queue, o, previous, next);
	DL_APPEND2(o->waiting, conn, queue_previous, queue_next);
	conn->queue = QUEUE_GATE;
	open_soon(ep);
	return false;
}

/* One of the first origin's, if any may; the origin is the last then. */
static void let_one_pass(struct rtls_endpoint *ep)
{
	struct origin *o = ep->gate.queue;
	struct rtls_conn *conn = o->waiting;

	if (may_shake_hands(ep, o)) {
		stop_waiting(conn);
		conn->has_turn = true;
		event_add(conn->read_event, NULL);
	}
	if (o->waiting == NULL)
		return;
	DL_DELETE2(ep->gate.queue, o, previous, next);
	DL_APPEND2(ep->gate.queue, o, previous, next);
}

static void gate_opens(struct deadline *d)
{
	struct rtls_endpoint *ep = container_of(d, struct rtls_endpoint, gate.opens);
	struct origin *o;
	int count;

	DL_COUNT2(ep->gate.queue, o, count, next);
	for (; count > 0 && ep->gate.queue != NULL; count--)
		let_one_pass(ep);
	if (ep->gate.queue != NULL)
		open_soon(ep);
}

void gate_init(struct rtls_endpoint *ep)
{
	ep->gate.accepts = (struct log_limit){ .interval_ns = NS_PER_S / ACCEPTS_PER_S, .burst = ACCEPTS_BURST };
	ep->gate.handshakes = (struct log_limit){ .interval_ns = NS_PER_S / HANDSHAKES_PER_S,
		                                  .burst = HANDSHAKES_BURST };
	ep->gate.opens.passed = gate_opens;
}
