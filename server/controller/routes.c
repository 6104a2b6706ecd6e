/*
 * routes.c - the ways that KMs ask for: whole routes, next hops, alternatives to both.
 *
 * A way leads over links that have the pad. What routes given before are about to take counts first; where
 * nothing is left behind that, what was reported does: there may be more by now. Behind the hop of the KM that
 * asks, which knows its own pad, no way leads over a link that was reported to have too little: the pad of the
 * hops before it would be spent in vain.
 */
#include "controller_core.h"

#include <stdlib.h>
#include <string.h>

enum { ASKED_MAX = 8192, TAG_KEY_LEN = 32 };

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

/* A hop without the pad that is needed. */
struct thin {
	int from, to;
	uint64_t stock;
};

static bool is_thin(const struct controller *c, const struct route *r, uint64_t pad, struct thin *thin)
{
	for (size_t i = 1; i + 1 < r->count; i++) {
		*thin = (struct thin){ r->nodes[i], r->nodes[i + 1],
			               topology_reported_stock(c->topology, r->nodes[i], r->nodes[i + 1]) };
		if (thin->stock < pad)
			return true;
	}
	return false;
}

/* The dry hop of a route that leads over one. */
static void find_dry(const struct controller *c, const struct route *r, struct thin *thin)
{
	if (!is_thin(c, r, 1, thin))
		*thin = (struct thin){ r->nodes[0], r->nodes[1], 0 };
}

static enum status too_little(const struct controller *c, const struct thin *thin, uint64_t pad, struct err *e)
{
	return err_set(e, ST_TOO_FEW_KEYS,
	               "too little pad on the way: %llu bytes from %s to %s, of %llu: see the QKD modules of that link",
	               (unsigned long long)thin->stock, topology_name(c->topology, thin->from),
	               topology_name(c->topology, thin->to), (unsigned long long)pad);
}

static enum status no_way(const struct controller *c, const char *from, const char *to, bool around, struct err *e)
{
	return err_set(e, ST_NO_ROUTE,
	               "controller %s knows no way from %s to %s%s: see whether the links are up and reported", c->name,
	               from, to, around ? " around the hops that failed" : "");
}

/* A way that leads over dry links alone is none to take, but another answer than no way at all. */
static enum status find_next_hop(struct controller *c, const struct controller_next_hop_request *r,
                                 struct route_step *step, struct route_next *next, struct err *e)
{
	const char *here = r->visited[r->visited_count - 1];
	uint64_t pad = pad_for(r->len);
	struct thin thin = { 0, 0, 0 };

	if (step->here < 0 || step->destination < 0)
		return no_way(c, here, r->destination, false, e);
	step->min_stock = pad;
	if (route_next_hop(c->topology, step, next))
		return ST_OK;
	step->min_stock = 0;
	if (route_next_hop(c->topology, step, next))
		return is_thin(c, &next->route, pad, &thin) ? too_little(c, &thin, pad, e) : ST_OK;
	step->dry_too = true;
	if (!route_next_hop(c->topology, step, next))
		return no_way(c, here, r->destination, r->excluded_count > 0, e);
	find_dry(c, &next->route, &thin);
	return too_little(c, &thin, pad, e);
}

enum status controller_next_hop(struct controller *c, const struct controller_next_hop_request *r,
                                const char **next_hop, unsigned *hops_left, struct err *e)
{
	int visited[ROUTE_NODES_MAX], excluded[ROUTE_NODES_MAX];
	struct route_step step = { .visited = visited, .excluded = excluded, .hops_left = r->hops_left };
	struct route_next next;
	enum status s;

	if (r->visited_count == 0 || r->visited_count > ROUTE_NODES_MAX)
		return err_set(e, ST_BAD_REQUEST, "a relay has visited between 1 and %d nodes", ROUTE_NODES_MAX);
	if (controller_find_km(c, r->visited[r->visited_count - 1]) == NULL)
		return err_set(e, ST_DENIED, "KM %s is not one of controller %s's: name it in the controller's kms",
		               r->visited[r->visited_count - 1], c->name);
	step.here = topology_find(c->topology, r->visited[r->visited_count - 1]);
	step.destination = topology_find(c->topology, r->destination);
	step.visited_count = known_nodes(c, r->visited, r->visited_count, visited);
	step.at_source = r->visited_count == 1; /* as sent: not a matter of what is known here */
	step.excluded_count = known_nodes(c, r->excluded, r->excluded_count, excluded);
	s = find_next_hop(c, r, &step, &next, e);
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

/* Leaves those out that are thin. */
static size_t without_thin(const struct controller *c, struct route *routes, size_t count, uint64_t pad,
                           struct thin *thin)
{
	size_t kept = 0;

	for (size_t i = 0; i < count; i++)
		if (!is_thin(c, &routes[i], pad, thin))
			routes[kept++] = routes[i];
	return kept;
}

/* As find_next_hop. For shares, many count for more. */
static enum status find_routes(struct controller *c, const struct controller_route_request *r,
                               struct route_limits *l, struct route *routes, size_t *count, struct err *e)
{
	uint64_t pad = pad_for(r->len);
	struct thin thin = { 0, 0, 0 };
	size_t stocked, found;

	l->min_stock = pad;
	*count = stocked = search(c, r, l, routes);
	if (*count >= (r->shares > 1 ? r->shares : 1))
		return ST_OK;
	l->min_stock = 0;
	found = search(c, r, l, routes);
	*count = without_thin(c, routes, found, pad, &thin);
	if (*count < stocked) {
		l->min_stock = pad;
		*count = search(c, r, l, routes);
	}
	if (*count > 0)
		return ST_OK;
	if (found > 0)
		return too_little(c, &thin, pad, e);
	l->dry_too = true;
	if (search(c, r, l, routes) == 0)
		return no_way(c, r->source, r->destination, r->excluded_count > 0, e);
	find_dry(c, &routes[0], &thin);
	return too_little(c, &thin, pad, e);
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
                             struct route *routes, size_t *count, struct err *e)
{
	struct route_hop hops[ROUTE_NODES_MAX];
	struct route_limits limits = { .hops = hops };
	enum status s;

	*count = 0;
	if (strcmp(r->source, r->destination) == 0)
		return err_set(e, ST_BAD_REQUEST, "from %s to itself there is no way to relay", r->source);
	limits.hop_count = known_hops(c, r, hops);
	s = find_routes(c, r, &limits, routes, count, e);
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

void routes_free(struct controller *c)
{
	struct asked_relay *a, *next;

	HASH_ITER(hh, c->asked, a, next) {
		HASH_DELETE(hh, c->asked, a);
		free(a);
	}
}
