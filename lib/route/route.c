/*
 * route.c - shortest paths over a topology's adjacency: Dijkstra's algorithm on a four-way heap that
 * knows where each node stands, and the rule for next hops.
 */
#include "heap.h"
#include "topology.h"

#include <stdlib.h>
#include <string.h>

/* ---- limits -------------------------------------------------------------------------------- */

static const struct route_limits no_limits;

enum { NODE_EXCLUDED = 1, NODE_HAS_EXCLUDED_HOP = 2 };

/* One byte a node, so that a search that excludes little asks little. */
static uint8_t *mark_limits(const struct topology *t, const struct route_limits *l)
{
	uint8_t *marks = xcalloc(t->node_count, 1);

	for (size_t i = 0; i < l->node_count; i++)
		marks[l->nodes[i]] |= NODE_EXCLUDED;
	for (size_t i = 0; i < l->hop_count; i++)
		marks[l->hops[i].from] |= NODE_HAS_EXCLUDED_HOP;
	return marks;
}

static bool hop_is_excluded(const struct route_limits *l, int from, int to)
{
	for (size_t i = 0; i < l->hop_count; i++)
		if (l->hops[i].from == from && l->hops[i].to == to)
			return true;
	return false;
}

static inline bool is_allowed(const struct route_limits *l, const uint8_t *marks, int from,
                              const struct arc *a)
{
	if (!arc_will_do(a, l) || (marks[a->to] & NODE_EXCLUDED))
		return false;
	return !(marks[from] & NODE_HAS_EXCLUDED_HOP) || !hop_is_excluded(l, from, a->to);
}

/* ---- Dijkstra ------------------------------------------------------------------------------ */

struct search {
	const struct topology *t;
	const struct route_limits *limits;
	uint8_t *marks;
	uint64_t *distance;
	int *previous;
};

static void relax_from(const struct search *s, struct heap *h, int from)
{
	const struct arc *end = s->t->arcs + s->t->first[from + 1];

	for (const struct arc *a = s->t->arcs + s->t->first[from]; a < end; a++) {
		uint64_t through = s->distance[from] + a->weight;

		if (through >= s->distance[a->to] || !is_allowed(s->limits, s->marks, from, a))
			continue;
		s->distance[a->to] = through;
		s->previous[a->to] = from;
		heap_put(h, a->to, through);
	}
}

/* Settles nodes in the order of their distance, until target (-1: none) is one. */
static void dijkstra(const struct search *s, int source, int target)
{
	struct heap h;
	int node;

	for (size_t i = 0; i < s->t->node_count; i++) {
		s->distance[i] = UINT64_MAX;
		s->previous[i] = -1;
	}
	heap_init(&h, s->t->node_count);
	s->distance[source] = 0;
	heap_put(&h, source, 0);
	while ((node = heap_pop(&h)) >= 0 && node != target)
		relax_from(s, &h, node);
	heap_free(&h);
}

void route_tree(struct topology *t, int source, const struct route_limits *limits, struct route_tree *tree)
{
	struct search s = { .t = t, .limits = limits != NULL ? limits : &no_limits };

	topology_settle(t);
	tree->count = t->node_count;
	tree->distance = s.distance = xcalloc(t->node_count, sizeof *s.distance);
	tree->previous = s.previous = xcalloc(t->node_count, sizeof *s.previous);
	s.marks = mark_limits(t, s.limits);
	dijkstra(&s, source, -1);
	free(s.marks);
}

void route_tree_free(struct route_tree *tree)
{
	free(tree->distance);
	free(tree->previous);
	memset(tree, 0, sizeof *tree);
}

/* ---- one route ----------------------------------------------------------------------------- */

/* Walks back from to; false where that is more than max_hops. */
static bool trace_back(const int *previous, int to, unsigned max_hops, struct route *route)
{
	size_t count = 0;

	for (int node = to; node >= 0; node = previous[node])
		count++;
	if (count > max_hops + 1)
		return false;
	route->count = count;
	for (int node = to; node >= 0; node = previous[node])
		route->nodes[--count] = node;
	return true;
}

/*
 * The lightest of at most max_hops, by layers: after h rounds, distance[v] is that of the lightest walk
 * of at most h hops, and previous[h][v] its last hop but one. With positive weights such a walk
 * crosses no node twice. Slower than Dijkstra, and needed only where his route is too long.
 */
struct layers {
	uint64_t *now, *then;
	int *previous; /* row h, column node; -1: as in the row before */
	size_t count;
};

static void grow_layer(const struct search *s, struct layers *l, unsigned h)
{
	int *previous = l->previous + h * l->count;

	memcpy(l->now, l->then, l->count * sizeof *l->now);
	for (size_t i = 0; i < l->count; i++)
		previous[i] = -1;
	for (size_t from = 0; from < l->count; from++) {
		if (l->then[from] == UINT64_MAX)
			continue;
		for (size_t i = s->t->first[from]; i < s->t->first[from + 1]; i++) {
			const struct arc *a = &s->t->arcs[i];

			if (l->then[from] + a->weight >= l->now[a->to] ||
			    !is_allowed(s->limits, s->marks, (int)from, a))
				continue;
			l->now[a->to] = l->then[from] + a->weight;
			previous[a->to] = (int)from;
		}
	}
}

static void trace_layers(const struct layers *l, unsigned h, int from, int to, struct route *route)
{
	int reversed[ROUTE_NODES_MAX];
	size_t count = 0;

	reversed[count++] = to;
	for (int node = to; node != from; h--)
		if (l->previous[h * l->count + (size_t)node] >= 0)
			reversed[count++] = node = l->previous[h * l->count + (size_t)node];
	route->count = count;
	for (size_t i = 0; i < count; i++)
		route->nodes[i] = reversed[count - 1 - i];
}

static bool find_within(const struct search *s, int from, int to, unsigned max_hops, struct route *route)
{
	struct layers l = { .count = s->t->node_count };
	bool found;

	l.now = xcalloc(l.count, sizeof *l.now);
	l.then = xcalloc(l.count, sizeof *l.then);
	l.previous = xcalloc((max_hops + 1) * l.count, sizeof *l.previous);
	for (size_t i = 0; i < l.count; i++)
		l.now[i] = UINT64_MAX;
	l.now[from] = 0;
	for (unsigned h = 1; h <= max_hops; h++) {
		uint64_t *t = l.then;

		l.then = l.now;
		l.now = t;
		grow_layer(s, &l, h);
	}
	found = l.now[to] != UINT64_MAX;
	route->weight = l.now[to];
	if (found)
		trace_layers(&l, max_hops, from, to, route);
	free(l.now);
	free(l.then);
	free(l.previous);
	return found;
}

bool route_find(struct topology *t, int from, int to, const struct route_limits *limits, struct route *route)
{
	struct search s = { .t = t, .limits = limits != NULL ? limits : &no_limits };
	unsigned max_hops = s.limits->max_hops;
	bool found;

	if (max_hops == 0 || max_hops >= ROUTE_NODES_MAX)
		max_hops = ROUTE_NODES_MAX - 1;
	topology_settle(t);
	s.distance = xcalloc(t->node_count, sizeof *s.distance);
	s.previous = xcalloc(t->node_count, sizeof *s.previous);
	s.marks = mark_limits(t, s.limits);
	dijkstra(&s, from, to);
	route->weight = s.distance[to];
	found = s.distance[to] != UINT64_MAX &&
	        (trace_back(s.previous, to, max_hops, route) || find_within(&s, from, to, max_hops, route));
	free(s.distance);
	free(s.previous);
	free(s.marks);
	return found;
}

/* ---- next hops ----------------------------------------------------------------------------- */

bool route_next_hop(struct topology *t, const struct route_step *step, struct route_next *next)
{
	struct route_hop hops[ROUTE_NODES_MAX];
	struct route_limits limits = {
		.nodes = step->visited,
		.node_count = step->visited_count,
		.hops = hops,
		.min_stock = step->min_stock,
		.dry_too = step->dry_too,
		.max_hops = step->hops_left,
	};
	unsigned granted;

	if (step->here == step->destination || (!step->at_source && step->hops_left == 0))
		return false;
	for (size_t i = 0; i < step->excluded_count && i < ARRAY_LEN(hops); i++)
		hops[limits.hop_count++] = (struct route_hop){ step->here, step->excluded[i] };
	if (step->at_source)
		limits.max_hops = 0;
	if (!route_find(t, step->here, step->destination, &limits, &next->route))
		return false;
	granted = step->at_source ? 2 * (unsigned)(next->route.count - 1) + 2 : step->hops_left;
	if (granted > ROUTE_NODES_MAX - 1)
		granted = ROUTE_NODES_MAX - 1;
	next->node = next->route.nodes[1];
	next->hops_left = granted - 1;
	return true;
}
