/* controller.c - KMs, their reports, and the routes they ask for. */
#include "controller_core.h"

#include <stdlib.h>
#include <string.h>

enum { ASKED_MAX = 8192, POOLS_MAX = 65536, TAG_KEY_LEN = 32 };

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
	struct asked_relay *a, *next_asked;
	struct km *km, *next_km;

	if (c == NULL)
		return;
	reserve_free(c);
	flood_free(c);
	HASH_ITER(hh, c->kms, km, next_km) {
		HASH_DELETE(hh, c->kms, km);
		km_free(km);
	}
	HASH_ITER(hh, c->asked, a, next_asked) {
		HASH_DELETE(hh, c->asked, a);
		free(a);
	}
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

/* ---- routes ---------------------------------------------------------------------------------- */

const char *controller_node_name(const struct controller *c, int node)
{
	return topology_name(c->topology, node);
}

/* Indexes of the names that the topology knows: what it does not know, it cannot route through. */
static size_t known_nodes(const struct controller *c, const char *const *names, size_t count, int *nodes)
{
	size_t known = 0;

	for (size_t i = 0; i < count && known < ROUTE_NODES_MAX; i++) {
		int node = topology_find(c->topology, names[i]);

		if (node >= 0)
			nodes[known++] = node;
	}
	return known;
}

/* Each hop takes as much pad as is relayed, and a tag's key. */
static uint64_t pad_for(uint64_t len)
{
	return len + TAG_KEY_LEN;
}

/*
 * Over links that have the pad now; else over any that have or make some: its KM may wait for it.
 * A way that leads over dry links alone is none to take, but another answer than no way at all.
 */
static enum status find_next_hop(struct controller *c, struct route_step *step, uint64_t pad,
                                 struct route_next *next)
{
	if (step->here < 0 || step->destination < 0)
		return ST_NO_ROUTE;
	step->min_stock = pad;
	if (route_next_hop(c->topology, step, next))
		return ST_OK;
	step->min_stock = 0;
	if (route_next_hop(c->topology, step, next))
		return ST_OK;
	step->dry_too = true;
	return route_next_hop(c->topology, step, next) ? ST_TOO_FEW_KEYS : ST_NO_ROUTE;
}

enum status controller_next_hop(struct controller *c, const struct controller_next_hop_request *r,
                                const char **next_hop, unsigned *hops_left)
{
	int visited[ROUTE_NODES_MAX], excluded[ROUTE_NODES_MAX];
	struct route_step step = { .visited = visited, .excluded = excluded, .hops_left = r->hops_left };
	struct route_next next;
	enum status s;

	if (r->visited_count == 0 || r->visited_count > ROUTE_NODES_MAX)
		return ST_BAD_REQUEST;
	if (controller_find_km(c, r->visited[r->visited_count - 1]) == NULL)
		return ST_DENIED;
	step.here = topology_find(c->topology, r->visited[r->visited_count - 1]);
	step.destination = topology_find(c->topology, r->destination);
	step.visited_count = known_nodes(c, r->visited, r->visited_count, visited);
	step.at_source = r->visited_count == 1; /* as sent: not a matter of what is known here */
	step.excluded_count = known_nodes(c, r->excluded, r->excluded_count, excluded);
	s = find_next_hop(c, &step, pad_for(r->len), &next);
	if (s != ST_OK) {
		c->stats.routes_refused++;
		return s;
	}
	topology_consume(c->topology, step.here, next.node, pad_for(r->len));
	c->stats.routes_given++;
	*next_hop = topology_name(c->topology, next.node);
	*hops_left = next.hops_left;
	return ST_OK;
}

size_t controller_alternative_hops(struct controller *c, const struct controller_next_hop_request *r,
                                   const char *next_hop, size_t wanted, const char **hops)
{
	const char *excluded[ROUTE_NODES_MAX];
	int visited[ROUTE_NODES_MAX], excluded_nodes[ROUTE_NODES_MAX];
	struct route_step step = { .visited = visited, .excluded = excluded_nodes, .hops_left = r->hops_left };
	struct route_next next;
	size_t count = 0, found = 0;

	for (; count < r->excluded_count && count + CONTROLLER_ALTERNATIVES_MAX < ARRAY_LEN(excluded); count++)
		excluded[count] = r->excluded[count];
	step.here = topology_find(c->topology, r->visited[r->visited_count - 1]);
	step.destination = topology_find(c->topology, r->destination);
	step.visited_count = known_nodes(c, r->visited, r->visited_count, visited);
	step.at_source = r->visited_count == 1;
	wanted = wanted < CONTROLLER_ALTERNATIVES_MAX ? wanted : CONTROLLER_ALTERNATIVES_MAX;
	for (excluded[count++] = next_hop; found < wanted; excluded[count++] = hops[found++]) {
		step.excluded_count = known_nodes(c, excluded, count, excluded_nodes);
		if (!route_next_hop(c->topology, &step, &next))
			break;
		hops[found] = topology_name(c->topology, next.node);
	}
	return found;
}

static void remember_asked(struct controller *c, const struct id *relay)
{
	struct asked_relay *a;

	HASH_FIND(hh, c->asked, relay, sizeof *relay, a);
	if (a != NULL)
		return;
	if (HASH_COUNT(c->asked) >= ASKED_MAX) { /* the oldest will hardly be reported any more */
		a = c->asked;
		HASH_DELETE(hh, c->asked, a);
	} else {
		a = xcalloc(1, sizeof *a);
	}
	a->relay = *relay;
	a->asked_at = env_mono(c->env);
	HASH_ADD(hh, c->asked, relay, sizeof a->relay, a);
}

static size_t search(struct controller *c, const struct controller_route_request *r, const struct route_limits *l,
                     struct route *routes)
{
	int from = topology_find(c->topology, r->source), to = topology_find(c->topology, r->destination);

	if (from < 0 || to < 0)
		return 0;
	if (r->shares > 1)
		return route_disjoint(c->topology, from, to, r->shares, l, routes);
	return route_find(c->topology, from, to, l, &routes[0]);
}

/* As find_next_hop. */
static enum status find_routes(struct controller *c, const struct controller_route_request *r,
                               struct route_limits *l, struct route *routes, size_t *count)
{
	size_t dry;

	l->min_stock = pad_for(r->len);
	*count = search(c, r, l, routes);
	if (*count >= (r->shares > 1 ? r->shares : 1))
		return ST_OK;
	l->min_stock = 0; /* for shares, many count for more */
	*count = search(c, r, l, routes);
	if (*count > 0)
		return ST_OK;
	l->dry_too = true;
	dry = search(c, r, l, routes);
	return dry > 0 ? ST_TOO_FEW_KEYS : ST_NO_ROUTE;
}

static void consume(struct controller *c, const struct route *route, uint64_t pad)
{
	for (size_t i = 0; i + 1 < route->count; i++)
		topology_consume(c->topology, route->nodes[i], route->nodes[i + 1], pad);
}

/* The excluded hops that the topology knows; one fewer than there is room for. */
static size_t known_hops(const struct controller *c, const struct controller_route_request *r,
                         struct route_hop hops[ROUTE_NODES_MAX])
{
	size_t count = 0;

	for (size_t i = 0; i < r->excluded_count && count + 1 < ROUTE_NODES_MAX; i++) {
		struct route_hop hop = { topology_find(c->topology, r->excluded[i].from),
			                 topology_find(c->topology, r->excluded[i].to) };

		if (hop.from >= 0 && hop.to >= 0)
			hops[count++] = hop;
	}
	return count;
}

static bool has_route(const struct route *routes, size_t count, const struct route *r)
{
	for (size_t i = 0; i < count; i++)
		if (routes[i].count == r->count && memcmp(routes[i].nodes, r->nodes, r->count * sizeof *r->nodes) == 0)
			return true;
	return false;
}

size_t controller_alternative_routes(struct controller *c, const struct controller_route_request *r,
                                     const struct route *given, size_t wanted, struct route *routes)
{
	int from = given->nodes[0], to = given->nodes[given->count - 1];
	struct route_hop hops[ROUTE_NODES_MAX];
	struct route_limits limits = { .nodes = given->nodes + 1, .node_count = given->count - 2, .hops = hops };
	size_t found = 0, excluded = known_hops(c, r, hops);

	if (given->count < 3 || wanted == 0)
		return 0;
	limits.hop_count = excluded;
	found += route_find(c->topology, from, to, &limits, &routes[0]);
	limits.node_count = 0;
	limits.hop_count = excluded + 1;
	for (size_t i = 0; i + 1 < given->count && found < wanted; i++) {
		hops[excluded] = (struct route_hop){ given->nodes[i], given->nodes[i + 1] };
		if (route_find(c->topology, from, to, &limits, &routes[found]) && !has_route(routes, found, &routes[found]))
			found++;
	}
	return found;
}

enum status controller_route(struct controller *c, const struct controller_route_request *r,
                             struct route *routes, size_t *count)
{
	struct route_hop hops[ROUTE_NODES_MAX];
	struct route_limits limits = { .hops = hops };
	enum status s;

	*count = 0;
	if (strcmp(r->source, r->destination) == 0)
		return ST_BAD_REQUEST;
	limits.hop_count = known_hops(c, r, hops);
	s = find_routes(c, r, &limits, routes, count);
	if (s != ST_OK) {
		c->stats.routes_refused++;
		return s;
	}
	for (size_t i = 0; i < *count; i++)
		consume(c, &routes[i], pad_for(r->len));
	remember_asked(c, &r->relay);
	c->stats.routes_given++;
	return ST_OK;
}

enum status controller_relay_result(struct controller *c, const struct id *relay, enum status result,
                                    uint64_t len)
{
	struct asked_relay *a;

	(void)len;
	HASH_FIND(hh, c->asked, relay, sizeof *relay, a);
	if (a == NULL)
		return ST_OK; /* reported before, or asked of this controller's former life */
	HASH_DELETE(hh, c->asked, a);
	free(a);
	if (result == ST_OK)
		c->stats.relays_done++;
	else
		c->stats.relays_failed++;
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
