/*
 * turn.c - whose turn it is: deficit round robin over identities.
 *
 * What became readable in a turn of the loop is handled at its end. Every identity may have so many units
 * of work done, about a microsecond each, whatever number of connections it has; what it used beyond that
 * it owes. Who had more to do than that is greedy until all of it is done, and comes after the modest.
 * Where the modest had something to do the greedy together get half of that, but as much as one of the modest
 * may have: what a request sets off comes back as a message of a peer's, and who then gets crumbs has crumbs
 * committed. Where the modest had nothing to do, they get more from turn to turn.
 *
 * While somebody modest of its role is served, who is greedy gets a third of the time at most, even if
 * nobody else wants the rest just now: a client that floods burns its own processor for each answer, and
 * where that is also the modest one's, or the way to it is, being served first is not enough. What its calls cost
 * elsewhere, in the daemon's other threads and at peers, is of that third, too, where a handler says how much it is.
 *
 * Units are counted, not measured: a clock would charge a connection for what else the machine did.
 */
#include "endpoint.h"

enum {
	SLICE = 32,            /* units for one connection before the identity's next */
	CREDIT = 160,          /* units for one identity in a turn */
	GREEDY_LEAST = CREDIT, /* units for all that are greedy, where others had something to do, */
	GREEDY_MOST = 8 * CREDIT, /* and after some turns in which they had not */
	GREEDY_SAVES = 64,     /* units of the third of the time that it may save up */
	GREEDY_PART = 3,
	DEBT_MAX = 1024
};

/* So long after it was served, the next call of somebody modest is awaited: its answer may have taken a commit. */
#define MODEST_NS (4 * NS_PER_MS)
#define ALL_WAIT_US 1000

/* At the end of this turn of the loop. */
static void schedule(struct rtls_endpoint *ep)
{
	if (!ep->turn.is_due)
		event_active(ep->turn.event, EV_TIMEOUT, 0);
	ep->turn.is_due = true;
}

/* In the loop's next turn, or, where all have to wait, soon. */
static void schedule_next(struct rtls_endpoint *ep, bool all_wait)
{
	const struct timeval tv = { .tv_usec = all_wait ? ALL_WAIT_US : 0 };

	ep->turn.is_due = !all_wait; /* whoever comes before it need not wait for it */
	evtimer_add(ep->turn.event, &tv);
}

static struct party **list_of(struct party *p)
{
	return p->greedy ? &p->ep->turn.greedy : &p->ep->turn.modest;
}

static void enlist(struct party *p)
{
	struct party **list = list_of(p);

	if (p->listed || p->ready == NULL)
		return;
	DL_APPEND2(*list, p, previous, next);
	p->listed = true;
}

static void strike_off(struct party *p)
{
	struct party **list = list_of(p);

	if (!p->listed)
		return;
	DL_DELETE2(*list, p, previous, next);
	p->listed = false;
}

void turn_add(struct rtls_conn *conn)
{
	struct party *p = conn->party;

	if (conn->closed || conn->queue == QUEUE_READY)
		return;
	turn_remove(conn);
	DL_APPEND2(p->ready, conn, queue_previous, queue_next);
	conn->queue = QUEUE_READY;
	enlist(p);
	schedule(p->ep);
}

void turn_pause(struct rtls_conn *conn)
{
	struct party *p = conn->party;

	turn_remove(conn);
	DL_APPEND2(p->paused, conn, queue_previous, queue_next);
	conn->queue = QUEUE_PAUSED;
}

void turn_remove(struct rtls_conn *conn)
{
	struct party *p = conn->party;

	if (conn->queue == QUEUE_READY)
		DL_DELETE2(p->ready, conn, queue_previous, queue_next);
	else if (conn->queue == QUEUE_PAUSED)
		DL_DELETE2(p->paused, conn, queue_previous, queue_next);
	conn->queue = QUEUE_NONE;
	if (p->ready == NULL)
		strike_off(p);
}

void turn_charge(struct rtls_conn *conn, int units)
{
	struct party *p = conn->party;

	if (p != NULL && p->credit > -DEBT_MAX)
		p->credit -= units;
}

/* Connection by connection, as far as its credit goes. The units used. */
static int serve(struct party *p, int credit)
{
	int before;

	p->credit = p->credit + credit < credit ? p->credit + credit : credit;
	before = p->credit;
	while (p->ready != NULL && p->credit > 0) {
		struct rtls_conn *conn = p->ready;
		int left = SLICE;

		turn_remove(conn);
		conn_hold(conn);
		if (traffic_run(conn, &left))
			turn_add(conn);
		turn_charge(conn, SLICE - left);
		conn_release(conn);
	}
	return before - p->credit;
}

/* The first of its list. What it leaves undone makes it greedy. The units used. */
static int serve_first(struct party *p, int credit)
{
	int used;

	party_hold(p);
	strike_off(p);
	used = serve(p, credit);
	strike_off(p);
	p->greedy = p->ready != NULL || (p->greedy && p->paused != NULL);
	enlist(p);
	party_release(p);
	return used;
}

static void remember_modest(struct rtls_endpoint *ep, const struct party *p)
{
	struct modest *m = &ep->turn.lately[p->role];

	if (m->whose != p)
		m->before = m->at; /* somebody else's */
	m->whose = p;
	m->at = ep->turn.now;
}

/* Whether somebody else of its role is modest, and was served just now. */
static bool has_modest_rival(const struct party *p)
{
	const struct modest *m = &p->ep->turn.lately[p->role];

	return p->ep->turn.now - (m->whose == p ? m->before : m->at) < MODEST_NS;
}

void turn_costs(struct rtls_conn *conn, unsigned units)
{
	if (conn->party != NULL && conn->party->greedy && has_modest_rival(conn->party))
		conn->costs += units < DEBT_MAX ? (int)units : DEBT_MAX;
}

static int serve_modest(struct rtls_endpoint *ep)
{
	int used = 0, count;
	struct party *p;

	DL_COUNT2(ep->turn.modest, p, count, next);
	for (; count > 0 && ep->turn.modest != NULL; count--) {
		p = ep->turn.modest;
		remember_modest(ep, p);
		used += serve_first(p, CREDIT);
	}
	return used;
}

/* What the greedy together may have done. */
static int greedy_credit(struct rtls_endpoint *ep, int used_by_modest)
{
	if (used_by_modest > 0)
		ep->turn.greedy_units = GREEDY_LEAST;
	else if (ep->turn.greedy_units < GREEDY_MOST)
		ep->turn.greedy_units *= 2;
	return used_by_modest / 2 > ep->turn.greedy_units ? used_by_modest / 2 : ep->turn.greedy_units;
}

static int greedy_part(struct rtls_endpoint *ep)
{
	uint64_t part = (ep->turn.now - ep->turn.saved_at) / NS_PER_US / GREEDY_PART;

	if (part == 0)
		return ep->turn.saved;
	ep->turn.saved_at = ep->turn.now;
	ep->turn.saved = part + (uint64_t)ep->turn.saved > GREEDY_SAVES ? GREEDY_SAVES : ep->turn.saved + (int)part;
	return ep->turn.saved;
}

/* false: all of them have to wait. */
static bool serve_greedy(struct rtls_endpoint *ep, int used_by_modest)
{
	int credit = greedy_credit(ep, used_by_modest), part = greedy_part(ep), count;
	bool one_may = false;
	struct party *p;

	DL_COUNT2(ep->turn.greedy, p, count, next);
	for (int n = count; n > 0 && ep->turn.greedy != NULL; n--) {
		p = ep->turn.greedy;
		if (!has_modest_rival(p)) {
			if (used_by_modest == 0 && count == 1 && p->credit < 0)
				p->credit = 0; /* nobody it owes anything to */
			serve_first(p, credit / count + 1);
			one_may = true;
		} else if (part > 0) {
			ep->turn.saved -= part / count + 1;
			serve_first(p, part / count + 1);
			one_may = true;
		} else { /* the next may be of another role */
			strike_off(p);
			enlist(p);
		}
	}
	return one_may || count == 0;
}

static void run_turn(evutil_socket_t fd, short what, void *arg)
{
	struct rtls_endpoint *ep = arg;
	bool goes_on;

	(void)fd;
	(void)what;
	ep->turn.is_due = true; /* whatever is added meanwhile is seen at the end */
	ep->turn.now = env_mono(ep->env);
	party_look_around(ep, ep->turn.now);
	goes_on = serve_greedy(ep, serve_modest(ep));
	ep->turn.is_due = false;
	if (ep->turn.modest != NULL || ep->turn.greedy != NULL)
		schedule_next(ep, !goes_on && ep->turn.modest == NULL);
}

void turn_init(struct rtls_endpoint *ep)
{
	ep->turn.greedy_units = GREEDY_LEAST;
	ep->turn.event = evtimer_new(ep->base, run_turn, ep);
	if (ep->turn.event == NULL)
		log_fatal("no memory for an endpoint");
}
