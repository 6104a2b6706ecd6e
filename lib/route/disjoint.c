/*
 * disjoint.c - routes without a common node: Bhandari's algorithm with potentials.
 *
 * Each node is split into an entry and an exit joined by an arc of weight 0 that one route can use.
 * Every round finds the shortest path in what the routes so far leave over, where an arc in use can be
 * taken backwards for its weight returned: this reroutes an earlier path. Potentials keep the weights
 * that Dijkstra's algorithm sees at or above 0 (Suurballe).
 */
#include "heap.h"
#include "topology.h"

#include <stdlib.h>
#include <string.h>

/* State 2 v is the entry of node v, 2 v + 1 its exit. */
static int entry(int node)
{
	return 2 * node;
}

static int leave(int node)
{
	return 2 * node + 1;
}

struct flow {
	struct topology *t;
	const struct route_limits *limits;
	int from, to;
	int *previous, *next; /* per node on a route: its neighbours on it; -1: on none */
	uint32_t *in_weight;  /* per node on a route: of the hop that enters it */
	bool direct;          /* the hop from -> to is a route */
	uint8_t *excluded;
	int64_t *potential; /* per state */
	uint64_t *distance;
	int *parent;
};

static bool uses(const struct flow *f, int u, int v)
{
	if (u == f->from && v == f->to)
		return f->direct;
	return u == f->from ? f->previous[v] == u : f->next[u] == v;
}

static bool allowed(const struct flow *f, int u, const struct arc *a)
{
	if (!arc_will_do(a, f->limits) || a->to == f->from || f->excluded[a->to])
		return false;
	for (size_t i = 0; i < f->limits->hop_count; i++)
		if (f->limits->hops[i].from == u && f->limits->hops[i].to == a->to)
			return false;
	return true;
}

static void reach(struct flow *f, struct heap *h, int state, int to, int64_t weight)
{
	uint64_t through = f->distance[state] + (uint64_t)(weight + f->potential[state] - f->potential[to]);

	if (through >= f->distance[to])
		return;
	f->distance[to] = through;
	f->parent[to] = state;
	heap_put(h, to, through);
}

static void reach_from_exit(struct flow *f, struct heap *h, int node)
{
	const struct topology *t = f->t;

	for (size_t i = t->first[node]; i < t->first[node + 1]; i++) {
		const struct arc *a = &t->arcs[i];

		if (allowed(f, node, a) && !uses(f, node, a->to))
			reach(f, h, leave(node), entry(a->to), a->weight);
	}
	if (node != f->from && f->previous[node] >= 0) /* give back the node itself */
		reach(f, h, leave(node), entry(node), 0);
}

static void reach_from_entry(struct flow *f, struct heap *h, int node)
{
	if (f->previous[node] < 0)
		reach(f, h, entry(node), leave(node), 0);
	else /* taken: the only way on is back along the route that came here */
		reach(f, h, entry(node), leave(f->previous[node]), -(int64_t)f->in_weight[node]);
}

static bool search(struct flow *f)
{
	size_t states = 2 * f->t->node_count;
	int goal = entry(f->to), state;
	struct heap h;

	for (size_t i = 0; i < states; i++) {
		f->distance[i] = UINT64_MAX;
		f->parent[i] = -1;
	}
	heap_init(&h, states);
	f->distance[leave(f->from)] = 0;
	heap_put(&h, leave(f->from), 0);
	while ((state = heap_pop(&h)) >= 0 && state != goal) {
		if (state & 1)
			reach_from_exit(f, &h, state / 2);
		else
			reach_from_entry(f, &h, state / 2);
	}
	heap_free(&h);
	if (f->distance[goal] == UINT64_MAX)
		return false;
	for (size_t i = 0; i < states; i++) { /* states not settled are at least as far as the goal */
		uint64_t settled = f->distance[i] < f->distance[goal] ? f->distance[i] : f->distance[goal];

		f->potential[i] += (int64_t)settled;
	}
	return true;
}

static uint32_t lightest(const struct flow *f, int u, int v)
{
	uint32_t weight = ROUTE_UNUSABLE;

	for (size_t i = f->t->first[u]; i < f->t->first[u + 1]; i++)
		if (f->t->arcs[i].to == v && allowed(f, u, &f->t->arcs[i]) && f->t->arcs[i].weight < weight)
			weight = f->t->arcs[i].weight;
	return weight;
}

static void take_hop(struct flow *f, int u, int v)
{
	if (u == f->from && v == f->to)
		f->direct = true;
	if (u != f->from)
		f->next[u] = v;
	if (v != f->to) {
		f->previous[v] = u;
		f->in_weight[v] = lightest(f, u, v);
	}
}

static void return_hop(struct flow *f, int u, int v)
{
	if (u != f->from && f->next[u] == v)
		f->next[u] = -1;
	if (f->previous[v] == u)
		f->previous[v] = -1;
}

/* The path of states found: hops it returns first, so that what it takes stays. */
static void augment(struct flow *f)
{
	for (int pass = 0; pass < 2; pass++)
		for (int s = entry(f->to); f->parent[s] >= 0; s = f->parent[s]) {
			int u = f->parent[s] / 2, v = s / 2;
			bool forward = f->parent[s] & 1;

			if (u != v && pass == 0 && !forward)
				return_hop(f, v, u);
			if (u != v && pass == 1 && forward)
				take_hop(f, u, v);
		}
}

static bool read_route(const struct flow *f, int second, struct route *r)
{
	int node = second;

	r->count = 1;
	r->nodes[0] = f->from;
	r->weight = 0;
	for (;;) {
		if (r->count == ROUTE_NODES_MAX)
			return false;
		r->weight += node == f->to ? lightest(f, r->nodes[r->count - 1], node) : f->in_weight[node];
		r->nodes[r->count++] = node;
		if (node == f->to)
			return true;
		node = f->next[node];
	}
}

static int by_weight(const void *a, const void *b)
{
	const struct route *x = a, *y = b;

	return x->weight < y->weight ? -1 : x->weight > y->weight;
}

static size_t read_routes(const struct flow *f, struct route *routes)
{
	size_t n = 0;

	if (f->direct)
		n += read_route(f, f->to, &routes[n]);
	for (size_t v = 0; v < f->t->node_count; v++)
		if (f->previous[v] == f->from && n < ROUTE_DISJOINT_MAX)
			n += read_route(f, (int)v, &routes[n]);
	qsort(routes, n, sizeof *routes, by_weight);
	return n;
}

size_t route_disjoint(struct topology *t, int from, int to, size_t wanted, const struct route_limits *limits,
                      struct route *routes)
{
	static const struct route_limits none;
	struct flow f = { .t = t, .limits = limits != NULL ? limits : &none, .from = from, .to = to };
	size_t n = t->node_count, found = 0;

	if (from == to)
		return 0;
	if (wanted > ROUTE_DISJOINT_MAX)
		wanted = ROUTE_DISJOINT_MAX;
	topology_settle(t);
	f.previous = xcalloc(n, sizeof *f.previous);
	f.next = xcalloc(n, sizeof *f.next);
	f.in_weight = xcalloc(n, sizeof *f.in_weight);
	f.excluded = xcalloc(n, sizeof *f.excluded);
	f.potential = xcalloc(2 * n, sizeof *f.potential);
	f.distance = xcalloc(2 * n, sizeof *f.distance);
	f.parent = xcalloc(2 * n, sizeof *f.parent);
	memset(f.previous, 0xff, n * sizeof *f.previous);
	memset(f.next, 0xff, n * sizeof *f.next);
	for (size_t i = 0; i < f.limits->node_count; i++)
		f.excluded[f.limits->nodes[i]] = 1;
	while (found < wanted && search(&f)) {
		augment(&f);
		found++;
	}
	found = read_routes(&f, routes);
	free(f.previous);
	free(f.next);
	free(f.in_weight);
	free(f.excluded);
	free(f.potential);
	free(f.distance);
	free(f.parent);
	return found;
}
