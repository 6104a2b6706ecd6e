/* controller.c - KMs, and what they report. */
#include "controller_core.h"

#include <stdlib.h>
#include <string.h>

enum { POOLS_MAX = 65536 };

void controller_defaults(struct controller_options *o)
{
	o->report_interval = 1 * NS_PER_S;
	o->silence = 30 * NS_PER_S;
	o->refresh = 300 * NS_PER_S;
	o->max_age = 1000 * NS_PER_S;
	o->min_origination = 100 * NS_PER_MS;
	o->weight_interval = 5 * NS_PER_S;
	o->call_timeout = 5 * NS_PER_S;
	o->reservation_time = 60 * NS_PER_S;
}

static void copy_name(char to[NAME_MAX_LEN + 1], const char *name)
{
	size_t len = strnlen(name, NAME_MAX_LEN);

	memcpy(to, name, len);
	to[len] = '\0';
}

struct km *controller_find_km(const struct controller *c, const char *name)
{
	struct km *km;

	HASH_FIND_STR(c->kms, name, km);
	return km;
}

void controller_trace(struct controller *c, struct id *trace)
{
	env_random(c->env, trace, sizeof *trace);
}

/* ---- life ---------------------------------------------------------------------------------- */

/* A KM that has been silent for long: what it said of its links says nothing any more. */
static void km_silent(void *arg)
{
	struct km *km = arg;

	log_warning("KM %s has reported nothing for %u s: its links are taken as gone", km->name,
	            (unsigned)(km->controller->options.silence / NS_PER_S));
	km->reported = false;
	km->link_count = 0;
	controller_learn(km->controller, km->name, NULL, 0);
	flood_withdraw(km);
	km->made = false; /* when it returns, its record is news, whatever it says */
}

static void add_km(struct controller *c, const char *name)
{
	struct km *km = xcalloc(1, sizeof *km);

	copy_name(km->name, name);
	km->controller = c;
	km->silence_timer = env_timer_new(c->env, km_silent, km);
	flood_km_init(km);
	HASH_ADD_STR(c->kms, name, km);
}

static void km_free(struct km *km)
{
	struct env *env = km->controller->env;
	struct pool *p, *next;

	HASH_ITER(hh, km->pools, p, next) {
		HASH_DELETE(hh, km->pools, p);
		free(p);
	}
	env_timer_free(env, km->silence_timer);
	flood_km_free(km);
	free(km->links);
	free(km);
}

struct controller *controller_new(struct env *env, const struct controller_options *o,
                                  const struct controller_calls *calls)
{
	struct controller *c = xcalloc(1, sizeof *c);

	c->env = env;
	c->options = *o;
	copy_name(c->name, o->name);
	c->calls = *calls;
	c->topology = topology_new();
	c->lsdb = lsdb_new(o->max_age);
	c->limit = (struct log_limit){ .interval_ns = NS_PER_S, .burst = 5 };
	for (size_t i = 0; i < o->km_count; i++)
		if (controller_find_km(c, o->kms[i]) == NULL)
			add_km(c, o->kms[i]);
	flood_init(c, o);
	reserve_init(c, o);
	return c;
}

void controller_free(struct controller *c)
{
	struct km *km, *next_km;

	if (c == NULL)
		return;
	reserve_free(c);
	flood_free(c);
	HASH_ITER(hh, c->kms, km, next_km) {
		HASH_DELETE(hh, c->kms, km);
		km_free(km);
	}
	routes_free(c);
	lsdb_free(c->lsdb);
	topology_free(c->topology);
	free(c);
}

/* ---- registration and reports ---------------------------------------------------------------- */

void controller_learn(struct controller *c, const char *km, const struct route_link *links, size_t count)
{
	enum status s = topology_report(c->topology, km, links, count);
	unsigned held_back;

	if (s != ST_OK && log_limit_pass(&c->limit, env_mono(c->env), &held_back))
		log_warning("links of KM %s that cannot be kept: %s", km, status_name(s));
}

enum status controller_register(struct controller *c, const char *name)
{
	struct km *km = controller_find_km(c, name);

	if (km == NULL)
		return ST_DENIED;
	if (!km->connected)
		log_info("KM %s is connected", km->name);
	km->connected = true;
	env_timer_set(c->env, km->silence_timer, c->options.silence);
	return ST_OK;
}

/* The silence timer goes on: a KM that only reconnects is not forgotten meanwhile. */
void controller_km_lost(struct controller *c, const char *name)
{
	struct km *km = controller_find_km(c, name);

	if (km == NULL || !km->connected)
		return;
	log_info("KM %s is not connected any more", km->name);
	km->connected = false;
}

enum status controller_link_status(struct controller *c, const char *name, const struct route_link *links,
                                   size_t count)
{
	enum status s = controller_register(c, name);
	struct km *km;

	if (s != ST_OK)
		return s;
	if (count > LS_LINKS_MAX)
		return ST_BAD_REQUEST;
	km = controller_find_km(c, name);
	km->links = xrealloc(km->links, count * sizeof *links);
	if (count > 0)
		memcpy(km->links, links, count * sizeof *links);
	km->link_count = count;
	km->reported = true;
	km->reported_at = env_mono(c->env);
	controller_learn(c, name, links, count);
	flood_changed(km);
	reserve_consider(c, name, false);
	return ST_OK;
}

static struct pool *pool_of(struct km *km, const char *peer)
{
	struct pool *p;

	HASH_FIND_STR(km->pools, peer, p);
	if (p == NULL && HASH_COUNT(km->pools) < POOLS_MAX) {
		p = xcalloc(1, sizeof *p);
		copy_name(p->peer, peer);
		HASH_ADD_STR(km->pools, peer, p);
	}
	return p;
}

enum status controller_key_store_status(struct controller *c, const char *name,
                                        const struct controller_pool *pools, size_t count)
{
	enum status s = controller_register(c, name);
	struct km *km;

	if (s != ST_OK)
		return s;
	km = controller_find_km(c, name);
	km->pools_reported = true;
	for (size_t i = 0; i < count; i++) {
		struct pool *p = pool_of(km, pools[i].peer);

		if (p == NULL)
			return ST_BUSY;
		p->stock = pools[i].stock;
	}
	reserve_consider(c, name, true);
	return ST_OK;
}

/* ---- for the operator -------------------------------------------------------------------------- */

void controller_stats(const struct controller *c, struct controller_stats *s)
{
	*s = c->stats;
	for (const struct km *km = c->kms; km != NULL; km = km->hh.next)
		s->kms += km->connected;
	s->nodes = topology_node_count(c->topology);
	s->links = topology_link_count(c->topology);
	s->records = lsdb_count(c->lsdb);
}

struct topology *controller_topology(struct controller *c)
{
	return c->topology;
}
