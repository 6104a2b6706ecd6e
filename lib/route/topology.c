/* topology.c - nodes, links, what is reported of them, and the adjacency that searches read. */
#include "topology.h"

#include <stdlib.h>
#include <string.h>

/* ---- weight ------------------------------------------------------------------------------ */

enum { GOOD_STOCK_BITS = 20, SCARCITY_MAX = 10, GOOD_QBER_PPM = 30000, QBER_SPAN_PPM = 100000 };

static unsigned log2_floor(uint64_t x)
{
	return x == 0 ? 0 : 63 - (unsigned)__builtin_clzll(x);
}

static uint32_t scarcity(uint64_t stock)
{
	unsigned bits = log2_floor(stock);
	unsigned halvings = bits >= GOOD_STOCK_BITS ? 0 : GOOD_STOCK_BITS - bits;

	if (halvings > SCARCITY_MAX)
		halvings = SCARCITY_MAX;
	return ROUTE_HOP_WEIGHT * ((UINT32_C(1) << halvings) - 1);
}

static uint32_t load(const struct route_state *s)
{
	if (s->consumption_rate == 0)
		return 0;
	if (s->generation_rate == 0 || s->consumption_rate / 2 >= s->generation_rate)
		return 2 * ROUTE_HOP_WEIGHT;
	return (uint32_t)(ROUTE_HOP_WEIGHT * (double)s->consumption_rate / (double)s->generation_rate);
}

static uint32_t quality(uint32_t qber_ppm)
{
	if (qber_ppm <= GOOD_QBER_PPM)
		return 0;
	if (qber_ppm - GOOD_QBER_PPM >= QBER_SPAN_PPM)
		return ROUTE_HOP_WEIGHT;
	return ROUTE_HOP_WEIGHT * (qber_ppm - GOOD_QBER_PPM) / QBER_SPAN_PPM;
}

uint32_t route_weight(const struct route_state *s)
{
	if (!s->up)
		return ROUTE_UNUSABLE;
	if (s->stock == 0 && s->generation_rate == 0)
		return ROUTE_DRY;
	return ROUTE_HOP_WEIGHT + scarcity(s->stock) + load(s) + quality(s->qber_ppm);
}

/* ---- nodes and links ----------------------------------------------------------------------- */

struct topology *topology_new(void)
{
	struct topology *t = xcalloc(1, sizeof *t);

	t->stale = true;
	return t;
}

void topology_free(struct topology *t)
{
	if (t == NULL)
		return;
	HASH_CLEAR(hh, t->by_name);
	HASH_CLEAR(hh, t->by_key);
	for (size_t i = 0; i < t->node_count; i++) {
		free(t->nodes[i]->edges);
		free(t->nodes[i]);
	}
	for (size_t i = 0; i < t->edge_count; i++)
		free(t->edges[i]);
	free(t->nodes);
	free(t->edges);
	free(t->first);
	free(t->arcs);
	free(t);
}

int topology_find(const struct topology *t, const char *node)
{
	struct topology_node *n;

	HASH_FIND_STR(t->by_name, node, n);
	return n != NULL ? n->index : -1;
}

const char *topology_name(const struct topology *t, int node)
{
	return t->nodes[node]->name;
}

size_t topology_node_count(const struct topology *t)
{
	return t->node_count;
}

size_t topology_link_count(const struct topology *t)
{
	return t->edge_count;
}

static int node_of(struct topology *t, const char *name)
{
	int found = topology_find(t, name);
	struct topology_node *n;

	if (found >= 0 || t->node_count == ROUTE_TOPOLOGY_MAX)
		return found;
	if (t->node_count == t->node_room) {
		t->node_room = t->node_room ? 2 * t->node_room : 64;
		t->nodes = xrealloc(t->nodes, t->node_room * sizeof(struct topology_node *));
	}
	n = xcalloc(1, sizeof *n);
	strncpy(n->name, name, NAME_MAX_LEN);
	n->index = (int)t->node_count;
	t->nodes[t->node_count++] = n;
	HASH_ADD_STR(t->by_name, name, n);
	t->stale = true;
	return n->index;
}

static void attach(struct topology_node *n, struct topology_edge *e)
{
	if (n->edge_count == n->edge_room) {
		n->edge_room = n->edge_room ? 2 * n->edge_room : 4;
		n->edges = xrealloc(n->edges, n->edge_room * sizeof(struct topology_edge *));
	}
	n->edges[n->edge_count++] = e;
}

static struct topology_edge *edge_of(struct topology *t, int from, int to, const char *name)
{
	struct link_key key;
	struct topology_edge *e;

	memset(&key, 0, sizeof key); /* padding too: it is hashed */
	key.ends[0] = from < to ? from : to;
	key.ends[1] = from < to ? to : from;
	strncpy(key.name, name, NAME_MAX_LEN);
	HASH_FIND(hh, t->by_key, &key, sizeof key, e);
	if (e != NULL || t->edge_count == ROUTE_TOPOLOGY_MAX)
		return e;
	if (t->edge_count == t->edge_room) {
		t->edge_room = t->edge_room ? 2 * t->edge_room : 64;
		t->edges = xrealloc(t->edges, t->edge_room * sizeof(struct topology_edge *));
	}
	e = xcalloc(1, sizeof *e);
	e->key = key;
	e->side[0].arc = e->side[1].arc = -1;
	e->index = (int)t->edge_count;
	t->edges[t->edge_count++] = e;
	HASH_ADD(hh, t->by_key, key, sizeof e->key, e);
	attach(t->nodes[from], e);
	attach(t->nodes[to], e);
	t->stale = true;
	return e;
}

static void detach(struct topology_node *n, const struct topology_edge *e)
{
	for (size_t i = 0; i < n->edge_count; i++)
		if (n->edges[i] == e) {
			n->edges[i] = n->edges[--n->edge_count];
			return;
		}
}

static void edge_remove(struct topology *t, struct topology_edge *e)
{
	struct topology_edge *last = t->edges[--t->edge_count];

	HASH_DELETE(hh, t->by_key, e);
	detach(t->nodes[e->key.ends[0]], e);
	detach(t->nodes[e->key.ends[1]], e);
	t->edges[e->index] = last;
	last->index = e->index;
	free(e);
	t->stale = true;
}

/* ---- reports ------------------------------------------------------------------------------- */

static int side_of(const struct topology_edge *e, int from)
{
	return e->key.ends[0] == from ? 0 : 1;
}

static uint32_t side_weight(const struct topology_edge *e, int side)
{
	bool refused = e->side[!side].reported && !e->side[!side].state.up;

	return e->side[side].reported && !refused ? route_weight(&e->side[side].state) : ROUTE_UNUSABLE;
}

/* Both directions, since a link is down when either end says so. */
static void edge_weigh(struct topology *t, struct topology_edge *e)
{
	if (t->stale)
		return;
	for (int side = 0; side < 2; side++) {
		struct arc *arc = &t->arcs[e->side[side].arc];

		arc->weight = side_weight(e, side);
		arc->stock = e->side[side].state.stock;
	}
}

static void forget_side(struct topology *t, struct topology_edge *e, int side)
{
	e->side[side].reported = false;
	if (e->side[!side].reported)
		edge_weigh(t, e);
	else
		edge_remove(t, e);
}

/* Links of node that its newest report did not name. Backwards: a removed edge is replaced by the last. */
static void forget_unnamed(struct topology *t, int node)
{
	const struct topology_node *n = t->nodes[node];

	for (size_t i = n->edge_count; i-- > 0;) {
		struct topology_edge *e = n->edges[i];
		int side = side_of(e, node);

		if (e->side[side].reported && e->side[side].round != t->round)
			forget_side(t, e, side);
	}
}

enum status topology_report(struct topology *t, const char *node, const struct route_link *links,
                            size_t count)
{
	enum status s = ST_OK;
	int from = node_of(t, node);

	if (from < 0)
		return ST_BUSY;
	t->round++;
	for (size_t i = 0; i < count; i++) {
		int to = node_of(t, links[i].peer);
		struct topology_edge *e = to >= 0 && to != from ? edge_of(t, from, to, links[i].name) : NULL;
		int side;

		if (e == NULL) {
			s = to == from ? ST_BAD_REQUEST : ST_BUSY;
			continue;
		}
		side = side_of(e, from);
		e->side[side].reported = true;
		e->side[side].round = t->round;
		e->side[side].state = links[i].state;
		e->side[side].reported_stock = links[i].state.stock;
		edge_weigh(t, e);
	}
	forget_unnamed(t, from);
	return s;
}

/* ---- the adjacency ---------------------------------------------------------------------------- */

static void place_arc(struct topology *t, size_t *next, struct topology_edge *e, int side)
{
	size_t at = next[e->key.ends[side]]++;

	t->arcs[at] = (struct arc){
		.to = e->key.ends[!side],
		.weight = side_weight(e, side),
		.stock = e->side[side].state.stock,
	};
	e->side[side].arc = (int)at;
}

void topology_settle(struct topology *t)
{
	size_t *next;

	if (!t->stale)
		return;
	t->first = xrealloc(t->first, (t->node_count + 1) * sizeof *t->first);
	t->arcs = xrealloc(t->arcs, 2 * t->edge_count * sizeof *t->arcs);
	next = xcalloc(t->node_count, sizeof *next);
	t->first[0] = 0;
	for (size_t i = 0; i < t->node_count; i++) {
		next[i] = t->first[i];
		t->first[i + 1] = t->first[i] + t->nodes[i]->edge_count;
	}
	for (size_t i = 0; i < t->edge_count; i++) {
		place_arc(t, next, t->edges[i], 0);
		place_arc(t, next, t->edges[i], 1);
	}
	free(next);
	t->stale = false;
}

/* ---- what else is asked ------------------------------------------------------------------------ */

void topology_consume(struct topology *t, int from, int to, uint64_t bytes)
{
	const struct topology_node *n = t->nodes[from];
	struct topology_edge *best = NULL;

	for (size_t i = 0; i < n->edge_count; i++) {
		struct topology_edge *e = n->edges[i];
		int side = side_of(e, from);

		if (e->key.ends[!side] == to &&
		    (best == NULL || side_weight(e, side) < side_weight(best, side)))
			best = e;
	}
	if (best != NULL) {
		uint64_t *stock = &best->side[side_of(best, from)].state.stock;

		*stock -= bytes < *stock ? bytes : *stock;
		edge_weigh(t, best);
	}
}

uint64_t topology_reported_stock(const struct topology *t, int from, int to)
{
	const struct topology_node *n = t->nodes[from];
	uint64_t most = 0;

	for (size_t i = 0; i < n->edge_count; i++) {
		const struct topology_edge *e = n->edges[i];
		int side = side_of(e, from);

		if (e->key.ends[!side] == to && side_weight(e, side) < ROUTE_DRY && e->side[side].reported_stock > most)
			most = e->side[side].reported_stock;
	}
	return most;
}

void topology_each_link(const struct topology *t, void (*each)(const struct topology_link *l, void *arg),
                        void *arg)
{
	for (size_t i = 0; i < t->edge_count; i++) {
		const struct topology_edge *e = t->edges[i];
		struct topology_link l = { .name = e->key.name };

		for (int side = 0; side < 2; side++) {
			l.ends[side] = t->nodes[e->key.ends[side]]->name;
			l.reported[side] = e->side[side].reported;
			l.state[side] = e->side[side].state;
			l.weight[side] = side_weight(e, side);
		}
		each(&l, arg);
	}
}
