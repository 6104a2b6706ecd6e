/*
 * km_stock.c - how much key a link has in each direction, and what to do where one direction is full
 * while the other is short.
 *
 * Every block brings key for both directions, and an application that only ever asks at one end uses
 * one of them. Blocks are taken while the shorter direction has room; the source of a direction that is
 * beyond the bound gives up its oldest bits and tells the far end so, in an allocation of no bytes. The
 * far end holds them until then, and its credit ends at twice the bound: what is not told cannot grow.
 *
 * The other end's takes (allocations, pads) are seen here by counting again while a module waits.
 */
#include <stdlib.h>

#include "core.h"

enum { RECOUNT_NS = 100 * 1000 * 1000, DISCARD_MOST = 1024 * 1024 };

struct recount {
	struct link *l;
	struct link_view view;
	uint64_t most;
	uint64_t stock[2];      /* of the key pools out and in, leader's view */
	uint64_t discarded;
	uint64_t discarded_to;  /* in the pool whose source is here; 0: nothing was discarded */
};

uint64_t link_room(const struct link *l)
{
	uint64_t bound = l->km->limits.link_max_stock;
	uint64_t most = l->stock[0] > l->stock[1] ? l->stock[0] : l->stock[1];
	uint64_t least = l->stock[0] > l->stock[1] ? l->stock[1] : l->stock[0];
	uint64_t room = least < bound ? bound - least : 0, cap = most < 2 * bound ? 2 * bound - most : 0;

	return room < cap ? room : cap;
}

static enum status count(struct ks_txn *t, struct recount *r)
{
	struct ks_pool pool;
	enum status s = ST_OK;

	for (int p = 0; p < 2 && s == ST_OK; p++) {
		s = ks_pool_get(t, &r->view.pools[KM_KEYS_OUT + p], &pool);
		r->stock[p] = pool.stock + pool.unready;
	}
	return s;
}

/* Gives up the oldest bits of the direction whose source is here, down to seven eighths of the bound. */
static enum status discard(struct ks_txn *t, struct recount *r)
{
	int out = r->view.leader ? 0 : 1;
	const struct id *id = &r->view.pools[KM_KEYS_OUT + out];
	uint64_t excess, offset;
	struct ks_pool pool;
	enum status s;

	if (r->stock[out] <= r->most || r->stock[1 - out] >= r->most)
		return ST_OK;
	excess = r->stock[out] - r->most + r->most / 8;
	if (excess > DISCARD_MOST)
		excess = DISCARD_MOST;
	s = ks_take(t, id, FILL_GRANULE, excess / FILL_GRANULE * FILL_GRANULE, FILL_GRANULE, &offset, NULL);
	if (s == ST_TOO_FEW_KEYS)
		return ST_OK; /* what there is, is not settled yet */
	if (s == ST_OK)
		s = ks_pool_get(t, id, &pool);
	if (s != ST_OK)
		return s;
	r->discarded = r->stock[out] - (pool.stock + pool.unready);
	r->stock[out] = pool.stock + pool.unready;
	r->discarded_to = pool.head;
	return ST_OK;
}

static enum status recount_work(struct ks_txn *t, void *arg)
{
	struct recount *r = arg;
	enum status s = count(t, r);

	r->discarded_to = 0;
	return s == ST_OK ? discard(t, r) : s;
}

/* ---- telling the far end what it may forget ----------------------------------------------------------- */

struct telling {
	struct link *l;
	uint64_t unused_below;
};

static void told(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct telling *t = arg;

	t->l->uses.telling = false;
	if (s == ST_OK && a->err.status == ST_OK)
		uses_told(&t->l->uses, t->unused_below);
	free(t);
}

void link_tell_unused(struct link *l)
{
	struct km_allocate m = { .link = l->view.name, .unused_below = uses_unused_below(&l->uses) };
	struct telling *t;

	if (!l->open || l->uses.telling || !uses_to_be_told(&l->uses))
		return;
	t = xcalloc(1, sizeof *t);
	t->l = l;
	t->unused_below = m.unused_below;
	l->uses.telling = true;
	km_trace_new(l->km, &m.trace);
	km_send(l->km, KM_ALLOCATE, l->peer, &m, told, t);
}

static void recounted(enum status s, void *arg)
{
	struct recount *r = arg;
	struct link *l = r->l;

	l->recounting = false;
	if (s == ST_OK) {
		memcpy(l->stock, r->stock, sizeof l->stock);
		if (r->discarded_to > 0) {
			l->km->counters.bytes_discarded += r->discarded;
			uses_lost(&l->uses, r->discarded_to);
		}
		link_tell_unused(l);
		link_changed(l);
	}
	if (l->module.out_of_credit || l->module.stopped || r->discarded_to > 0)
		link_recount_soon(l);
	free(r);
}

static void recount(void *arg)
{
	struct link *l = arg;
	struct recount *r;

	if (id_is_zero(&l->view.id)) {
		l->recounting = false;
		return;
	}
	r = xcalloc(1, sizeof *r);
	r->l = l;
	r->view = l->view;
	r->most = l->km->limits.link_max_stock;
	ks_submit(l->km->ks, recount_work, recounted, r);
}

void link_recount_soon(struct link *l)
{
	if (l->recounting || l->km->stopping)
		return;
	if (l->stock_timer == NULL)
		l->stock_timer = env_timer_new(l->km->env, recount, l);
	l->recounting = true;
	env_timer_set(l->km->env, l->stock_timer, RECOUNT_NS);
}

/* ---- the far end of a discard ------------------------------------------------------------------------- */

struct discarded {
	struct link *l;
	struct id pool;
	uint64_t unused_below;
	km_reply reply;
	void *arg;
};

static enum status discarded_work(struct ks_txn *t, void *arg)
{
	struct discarded *d = arg;

	return ks_void_below(t, &d->pool, d->unused_below);
}

static void discarded_done(enum status s, void *arg)
{
	struct discarded *d = arg;

	link_recount_soon(d->l);
	if (s == ST_OK)
		km_done(d->reply, d->arg);
	else
		km_refuse(d->reply, d->arg, s, "giving up keys: %s", status_name(s));
	free(d);
}

void link_discarded(struct link *l, uint64_t unused_below, km_reply reply, void *arg)
{
	struct discarded *d = xcalloc(1, sizeof *d);

	d->l = l;
	d->pool = *link_pool_in(l);
	d->unused_below = unused_below;
	d->reply = reply;
	d->arg = arg;
	ks_submit(l->km->ks, discarded_work, discarded_done, d);
}
