/*
 * reserve.c - relay with reservation (I.4b, case 1), driven by the controller.
 *
 * A policy names two KMs and keeps the KSA pool between them filled: reservation at KM1, relay from
 * KM2 on, allocation at KM1, one relay at a time. KMs answer a repeated call for the same relay with
 * what has come of it, so a call whose answer was lost is made again until the reservation lapses;
 * then it is given up at both. After a clear refusal it is given up at once. What a relay that was
 * given up leaves at the destination is settled by the pool's ends (Kx-2), not here.
 */
#include "controller_core.h"

#include <stdlib.h>
#include <string.h>

enum { BACKOFF_SHIFT_MAX = 5 }; /* 1 s to 32 s */

static void run_step(struct reserve *r);

static bool is_unclear(enum status s)
{
	return s == ST_TIMED_OUT || s == ST_TRANSPORT || s == ST_PEER_UNREACHABLE;
}

static bool is_lapsed(const struct reserve *r)
{
	return env_utc(r->controller->env) >= r->relay.expires;
}

static void wait(struct reserve *r, uint64_t ns)
{
	r->waiting = true;
	env_timer_set(r->controller->env, r->timer, ns);
}

/* ---- whether --------------------------------------------------------------------------------- */

/* What a KM that has reported its pools does not name, it has none of. */
static bool stock_of(const struct reserve *r, uint64_t *stock)
{
	const struct km *km = controller_find_km(r->controller, r->source);
	struct pool *p;

	if (km == NULL || !km->pools_reported)
		return false;
	HASH_FIND_STR(km->pools, r->destination, p);
	*stock = p != NULL ? p->stock : 0;
	return true;
}

static bool wants_filling(struct reserve *r)
{
	uint64_t stock;

	if (!stock_of(r, &stock))
		return false;
	stock += r->given;
	if (stock < r->low_water)
		r->filling = true;
	if (stock >= r->high_water)
		r->filling = false;
	return r->filling;
}

static bool is_connected(const struct reserve *r, const char *name)
{
	const struct km *km = controller_find_km(r->controller, name);

	return km != NULL && km->connected;
}

static bool find_way(struct reserve *r)
{
	struct topology *t = r->controller->topology;
	struct route_limits limits = { .min_stock = r->amount + UINT64_C(32) };
	int from = topology_find(t, r->source), to = topology_find(t, r->destination);

	if (from < 0 || to < 0 || !route_find(t, from, to, &limits, &r->route))
		return false;
	if (r->route.count < 3) { /* neighbours: their pool is filled from the link itself */
		log_debug("no reservation for %s to %s: they are neighbours", r->source, r->destination);
		return false;
	}
	for (size_t i = 0; i < r->route.count; i++)
		r->names[i] = topology_name(t, r->route.nodes[i]);
	return is_connected(r, r->names[0]) && is_connected(r, r->names[1]);
}

static void begin(struct reserve *r)
{
	struct controller *c = r->controller;

	memset(&r->relay, 0, sizeof r->relay);
	env_random(c->env, &r->relay.relay, sizeof r->relay.relay);
	controller_trace(c, &r->relay.trace);
	r->relay.route = r->names;
	r->relay.route_count = r->route.count;
	r->relay.len = r->amount;
	r->relay.expires = env_utc(c->env) + c->options.reservation_time;
	for (size_t i = 0; i + 1 < r->route.count; i++)
		topology_consume(c->topology, r->route.nodes[i], r->route.nodes[i + 1], r->amount);
	r->known = false;
	r->step = RESERVE_RESERVING;
	run_step(r);
}

static void consider(struct reserve *r)
{
	if (r->step != RESERVE_IDLE || r->waiting || !wants_filling(r))
		return;
	if (find_way(r))
		begin(r);
	else
		wait(r, NS_PER_S);
}

void reserve_consider(struct controller *c, const char *source, bool with_stock)
{
	for (size_t i = 0; i < c->reserve_count; i++) {
		struct reserve *r = &c->reserve[i];

		if (strcmp(r->source, source) != 0)
			continue;
		if (with_stock)
			r->given = 0;
		consider(r);
	}
}

/* ---- steps ------------------------------------------------------------------------------------ */

static void finish(struct reserve *r)
{
	r->controller->stats.reservations_done++;
	r->controller->stats.reserved_bytes += r->amount;
	r->failures = 0;
	r->step = RESERVE_IDLE;
	r->given += r->amount;
	consider(r);
}

static void fail(struct reserve *r)
{
	r->step = RESERVE_IDLE;
	wait(r, NS_PER_S << (r->failures < BACKOFF_SHIFT_MAX ? r->failures : BACKOFF_SHIFT_MAX));
	r->failures++;
}

static void give_up(struct reserve *r, const char *what, const char *km, enum status s)
{
	log_warning("relay with reservation from %s to %s: %s at KM %s: %s", r->source, r->destination, what,
	            km, status_name(s));
	r->controller->stats.reservations_failed++;
	if (!r->known) {
		fail(r);
		return;
	}
	r->step = RESERVE_GIVING_UP;
	run_step(r);
}

/* What every step does with an answer that was not ST_OK. */
static void step_failed(struct reserve *r, const char *what, const char *km, enum status s)
{
	if (is_unclear(s) && !is_lapsed(r))
		wait(r, NS_PER_S); /* the same call again */
	else
		give_up(r, what, km, s);
}

static void reserved(enum status s, const struct controller_relay *answered, void *token)
{
	struct reserve *r = token;

	if (s != ST_OK && s != ST_PEER_UNREACHABLE && is_unclear(s))
		r->known = true; /* it may have reserved */
	if (s != ST_OK) {
		step_failed(r, "the reservation", r->names[0], s);
		return;
	}
	r->known = true;
	memcpy(r->relay.link, answered->link, sizeof r->relay.link);
	r->relay.link_offset = answered->link_offset;
	r->relay.ksa_pool = answered->ksa_pool;
	r->relay.ksa_offset = answered->ksa_offset;
	r->step = RESERVE_RELAYING;
	run_step(r);
}

static void relayed(enum status s, void *token)
{
	struct reserve *r = token;

	if (s != ST_OK) {
		step_failed(r, "the relay", r->names[1], s);
		return;
	}
	r->step = RESERVE_ALLOCATING;
	run_step(r);
}

static void allocated(enum status s, void *token)
{
	struct reserve *r = token;

	if (s != ST_OK)
		step_failed(r, "the allocation", r->names[0], s);
	else
		finish(r);
}

/* Giving up is tried once at each: a reservation that is not told lapses by itself. */
static void given_up_at_source(enum status s, void *token)
{
	(void)s;
	fail(token);
}

static void given_up_at_second(enum status s, void *token)
{
	struct reserve *r = token;
	struct controller *c = r->controller;

	(void)s;
	c->calls.give_up(c->calls.arg, r->names[0], &r->relay, given_up_at_source, r);
}

static uint64_t time_left(const struct reserve *r)
{
	uint64_t now = env_utc(r->controller->env);

	return r->relay.expires > now ? r->relay.expires - now : 1;
}

static void run_step(struct reserve *r)
{
	struct controller *c = r->controller;

	switch (r->step) {
	case RESERVE_IDLE:
		consider(r);
		break;
	case RESERVE_RESERVING:
		c->calls.reserve(c->calls.arg, r->names[0], &r->relay, reserved, r);
		break;
	case RESERVE_RELAYING:
		c->calls.relay(c->calls.arg, r->names[1], &r->relay, time_left(r), relayed, r);
		break;
	case RESERVE_ALLOCATING:
		c->calls.allocate(c->calls.arg, r->names[0], &r->relay, allocated, r);
		break;
	case RESERVE_GIVING_UP:
		c->calls.give_up(c->calls.arg, r->names[1], &r->relay, given_up_at_second, r);
		break;
	}
}

static void timer_fired(void *arg)
{
	struct reserve *r = arg;

	r->waiting = false;
	if (r->step != RESERVE_IDLE && is_lapsed(r))
		give_up(r, "time ran out", r->names[0], ST_TIMED_OUT);
	else
		run_step(r);
}

void reserve_init(struct controller *c, const struct controller_options *o)
{
	c->reserve_count = o->reserve_count;
	c->reserve = xcalloc(o->reserve_count, sizeof *c->reserve);
	for (size_t i = 0; i < o->reserve_count; i++) {
		const struct controller_reserve *from = &o->reserve[i];
		struct reserve *r = &c->reserve[i];

		r->controller = c;
		memcpy(r->source, from->source, strnlen(from->source, NAME_MAX_LEN));
		memcpy(r->destination, from->destination, strnlen(from->destination, NAME_MAX_LEN));
		r->amount = from->amount;
		r->low_water = from->low_water;
		r->high_water = from->high_water;
		r->timer = env_timer_new(c->env, timer_fired, r);
	}
}

void reserve_free(struct controller *c)
{
	for (size_t i = 0; i < c->reserve_count; i++)
		env_timer_free(c->env, c->reserve[i].timer);
	free(c->reserve);
}
