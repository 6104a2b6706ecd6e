/*
 * km_ahead.c - keys that are taken and assigned before they are asked for.
 *
 * Taking keys costs two commits and a message, for however many (km_draw.c), and who asks waits for all of that. So
 * where an application goes on asking, the KM draws keys for it and its counterpart by itself, and supplies them when
 * the requests come: no key is any less durable for it. The rest is to lose little where they do not come:
 *
 *  - so many are drawn as were supplied lately, in the time that two draws take, and a sixteenth of the stock at most:
 *    who asks now and then gets none ahead, nor who gets few where keys are short;
 *  - where requests wait for keys, these are waited for in turn with them, as one more request of the same application;
 *  - what is not supplied soon is given up, at both ends, and that is at most one key in AHEAD_SHARE of those that
 *    were supplied: each earns the right to lose that much;
 *  - what the destination may have voided (it was lost, the pool was opened again) is not supplied any more.
 */
#include <stdlib.h>

#include "draw.h"
#include "log.h"

enum {
	AHEAD_LEAST = 8,                        /* keys; for fewer it is not worth it */
	AHEAD_BYTES = 64 * 1024,                /* for the same two, at most */
	AHEAD_MOST = 2048,                      /* keys */
	DRAW_MOST = 1024,                       /* keys at once: however they lie, one message has room for them */
	AHEAD_SHARE = 16,
	AHEAD_LATELY_NS = 10 * 1000 * 1000,     /* at least; and AHEAD_HELD_NS at most */
	AHEAD_HELD_NS = 100 * 1000 * 1000,      /* at least; and given up before twice that */
	STOCK_SHARE = 16,
};
_Static_assert((int)DRAW_MOST <= (int)KM_ASSIGNMENTS_MAX, "a request's keys are assigned with one message");

/* Whom they are for. */
struct ahead_key {
	struct application *source, *destination;
	uint64_t key_len;
};

struct ahead {
	struct ksa_pool *pool;
	struct ahead_key key;
	UT_hash_handle hh;           /* by key */
	struct request *ready;       /* taken and assigned, in this order */
	struct request *last;        /* that was drawn; NULL: it has come */
	uint32_t ready_keys, coming; /* how many, and how many more are on their way */
	uint64_t asked_at;           /* monotonic: for the last time */
	uint64_t since;              /* supplied keys were supplied since then, and lately in the time before */
	uint32_t supplied, lately;
	uint64_t took;               /* ns, a draw from its beginning: of those that took long lately */
	uint64_t earned;             /* keys that may be lost, in parts of AHEAD_SHARE */
	struct env_timer *timer;
};

/* ---- losing them --------------------------------------------------------------------------------------------- */

static void tell_not_asked_for(struct ksa_pool *p)
{
	if (p->not_asked_for == 0 || !ksa_pool_may_tell(p))
		return;
	log_info("KSA pool to %s: %llu bytes that were assigned there ahead of requests, and not asked for, are given up",
	         p->destination, (unsigned long long)p->not_asked_for);
	p->not_asked_for = 0;
}

static void lose(struct ahead *a, uint64_t keys)
{
	uint64_t cost = keys * AHEAD_SHARE;

	a->earned -= cost < a->earned ? cost : a->earned;
}

static void give_up(struct ahead *a, struct request *r)
{
	uint32_t left = r->count - r->given;

	DL_DELETE(a->ready, r);
	a->ready_keys -= left;
	a->pool->not_asked_for += (uint64_t)left * r->key_len;
	lose(a, left);
	draw_give_up(r);
	request_free(r);
}

static void give_up_all(struct ahead *a)
{
	while (a->ready != NULL)
		give_up(a, a->ready);
}

static void ahead_free(struct ahead *a)
{
	HASH_DEL(a->pool->aheads, a);
	env_timer_free(a->pool->km->env, a->timer);
	free(a);
}

/* Its last one has not had its turn: keys are short. */
static bool waits(const struct ahead *a)
{
	return a->last != NULL && a->last->queue != NULL;
}

/* What has been held for long is given up; who has not asked for long is forgotten. */
static void look(void *arg)
{
	struct ahead *a = arg;
	struct ksa_pool *p = a->pool;
	uint64_t now = env_mono(p->km->env);

	while (a->ready != NULL && now - a->ready->since >= AHEAD_HELD_NS)
		give_up(a, a->ready);
	tell_not_asked_for(p);
	if (waits(a) && now - a->last->since >= AHEAD_HELD_NS)
		stop_waiting(a->last, ST_TIMED_OUT, "");
	if (a->ready == NULL && a->coming == 0 && now - a->asked_at >= AHEAD_HELD_NS)
		ahead_free(a);
	else
		env_timer_set(p->km->env, a->timer, AHEAD_HELD_NS);
}

void ahead_end(struct ksa_pool *p)
{
	for (struct ahead *a = p->aheads; a != NULL; a = a->hh.next)
		give_up_all(a);
	tell_not_asked_for(p);
}

void ahead_forget(struct ksa_pool *p)
{
	struct ahead *a, *next;

	HASH_ITER (hh, p->aheads, a, next) {
		struct request *r, *other;

		DL_FOREACH_SAFE (a->ready, r, other)
			request_free(r);
		ahead_free(a);
	}
}

/* ---- drawing them -------------------------------------------------------------------------------------------- */

static void note_taken(struct ahead *a, struct request *r)
{
	uint64_t now = env_mono(a->pool->km->env), took = now - r->since;

	r->since = now;
	a->took -= a->took / 8;
	if (a->took < took)
		a->took = took;
}

static void over(struct request *r, enum status s, const char *text)
{
	struct ahead *a = r->ahead;
	struct ksa_pool *p = a->pool;

	(void)text; /* the bytes are counted and told with those of all requests */
	a->coming -= r->count;
	if (r == a->last)
		a->last = NULL;
	if (s != ST_OK) {
		if (r->draw != NULL) /* its keys were taken */
			lose(a, r->count);
		request_free(r);
		return;
	}
	note_taken(a, r);
	DL_APPEND(a->ready, r);
	a->ready_keys += r->count;
	if (p->open && !p->km->stopping && id_equal(draw_pool_id(r), &p->id))
		return;
	give_up(a, r); /* it comes too late */
	tell_not_asked_for(p);
}

static void fell_short(struct request *r)
{
	over(r, ST_TOO_FEW_KEYS, "");
}

static const struct request_kind own = { fell_short, over };

static uint32_t wanted(const struct ahead *a)
{
	uint64_t keys = a->supplied > a->lately ? a->supplied : a->lately;

	if (keys > a->earned / AHEAD_SHARE)
		keys = a->earned / AHEAD_SHARE;
	return keys >= AHEAD_LEAST ? (uint32_t)keys : 0;
}

/* In halves: one is supplied while the other is drawn. */
static void draw(struct ahead *a, const struct km_key_request *m)
{
	struct ksa_pool *p = a->pool;
	uint32_t most = wanted(a), there = a->ready_keys + a->coming, count;
	bool others_wait = p->waiting != NULL;
	struct request *r;

	if (most == 0 || there > most / 2 || !p->open || p->km->stopping || waits(a))
		return;
	count = most - there < DRAW_MOST ? most - there : DRAW_MOST;
	if (!others_wait && count * a->key.key_len > ksa_pool_available(p) / STOCK_SHARE)
		return;
	r = request_new(&own, p, count, (uint32_t)a->key.key_len);
	r->ahead = a;
	r->source = a->key.source;
	r->destination = a->key.destination;
	r->trace = m->trace;
	r->priority = m->priority;
	r->since = a->asked_at;
	a->last = r;
	a->coming += r->count;
	if (others_wait)
		wait_in_turn(r);
	else
		draw_alone(r);
}

/* ---- supplying them ------------------------------------------------------------------------------------------- */

static struct ahead *ahead_for(struct ksa_pool *p, const struct ahead_key *key)
{
	struct ahead *a;

	HASH_FIND(hh, p->aheads, key, sizeof *key, a);
	if (a != NULL)
		return a;
	a = xcalloc(1, sizeof *a);
	a->pool = p;
	a->key = *key;
	a->timer = env_timer_new(p->km->env, look, a);
	env_timer_set(p->km->env, a->timer, AHEAD_HELD_NS);
	HASH_ADD(hh, p->aheads, key, sizeof a->key, a);
	return a;
}

static uint64_t earned_most(const struct ahead *a)
{
	uint64_t keys = AHEAD_BYTES / a->key.key_len;

	return AHEAD_SHARE * (keys < AHEAD_MOST ? keys : AHEAD_MOST);
}

/* One draw is supplied while the next is on its way. */
static uint64_t lately_ns(const struct ahead *a)
{
	uint64_t ns = 2 * a->took;

	if (ns > AHEAD_HELD_NS)
		ns = AHEAD_HELD_NS;
	return ns > AHEAD_LATELY_NS ? ns : AHEAD_LATELY_NS;
}

static void note_asked(struct ahead *a, uint64_t now)
{
	uint64_t past = now - a->since, lately = lately_ns(a);

	a->asked_at = now;
	if (past < lately)
		return;
	a->lately = past < 2 * lately ? a->supplied : 0;
	a->supplied = 0;
	a->since = now;
}

static void note_supplied(struct ahead *a, uint32_t count)
{
	uint64_t most = earned_most(a);

	a->supplied += count;
	a->earned = a->earned + count < most ? a->earned + count : most;
}

void ahead_counts(const struct request *r, uint32_t count)
{
	const struct ahead_key key = { r->source, r->destination, r->key_len };
	struct ahead *a;

	HASH_FIND(hh, r->pool->aheads, &key, sizeof key, a);
	if (a != NULL)
		note_supplied(a, count);
}

/* The first request that has as many left, and was not held for too long: the timer may be late. */
static struct request *that_has(const struct ahead *a, uint32_t count)
{
	struct request *r;

	DL_FOREACH (a->ready, r)
		if (r->count - r->given >= count && a->asked_at - r->since < 2 * AHEAD_HELD_NS)
			return r;
	return NULL;
}

static void supply(struct ahead *a, struct request *r, uint32_t count, km_reply reply, void *arg)
{
	bool last = r->count - r->given == count;

	a->ready_keys -= count;
	note_supplied(a, count);
	if (last)
		DL_DELETE(a->ready, r);
	draw_supply(r, count, reply, arg);
	if (last)
		request_free(r);
}

bool ahead_supplies(struct ksa_pool *p, struct application *source, struct application *destination, uint32_t count,
                    uint32_t key_len, const struct km_key_request *m, uint64_t now, km_reply reply, void *arg)
{
	struct ahead *a;
	struct request *r;

	if (!p->km->limits.supply_ahead)
		return false;
	a = ahead_for(p, &(struct ahead_key){ source, destination, key_len });
	note_asked(a, now);
	r = that_has(a, count);
	if (r != NULL)
		supply(a, r, count, reply, arg);
	draw(a, m);
	return r != NULL;
}
