/*
 * test_route.c - weights, reports, shortest paths against igraph and against trying everything,
 * disjoint routes, next hops under disagreeing views, the link-state database.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <igraph.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lsdb.h"

static uint64_t dice_state = 1;

static uint64_t dice(uint64_t sides)
{
	uint64_t z = dice_state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % sides;
}

static const struct route_state good = { .up = true, .stock = 1 << 20, .generation_rate = 100000 };

static struct route_link link_to(const char *name, const char *peer, struct route_state state)
{
	struct route_link l = { .state = state };

	snprintf(l.name, sizeof l.name, "%s", name);
	snprintf(l.peer, sizeof l.peer, "%s", peer);
	return l;
}

/* ---- weights and reports --------------------------------------------------------------------- */

static void weight_follows_stock_load_and_quality(void **state)
{
	struct route_state s = good;

	(void)state;
	assert_int_equal(route_weight(&s), ROUTE_HOP_WEIGHT);
	s.stock = UINT64_MAX;
	assert_int_equal(route_weight(&s), ROUTE_HOP_WEIGHT);
	s.stock = 1 << 18;
	assert_int_equal(route_weight(&s), 4 * ROUTE_HOP_WEIGHT);
	s.stock = (1 << 18) + 1000; /* no flutter */
	assert_int_equal(route_weight(&s), 4 * ROUTE_HOP_WEIGHT);
	s.stock = 0;
	assert_int_equal(route_weight(&s), 1024 * ROUTE_HOP_WEIGHT);
	s.generation_rate = 0;
	assert_int_equal(route_weight(&s), ROUTE_DRY);
	s = good;
	s.consumption_rate = s.generation_rate / 2;
	assert_int_equal(route_weight(&s), ROUTE_HOP_WEIGHT * 3 / 2);
	s.consumption_rate = UINT64_MAX;
	assert_int_equal(route_weight(&s), ROUTE_HOP_WEIGHT * 3);
	s = good;
	s.qber_ppm = 80000;
	assert_int_equal(route_weight(&s), ROUTE_HOP_WEIGHT * 3 / 2);
	s.qber_ppm = UINT32_MAX;
	assert_int_equal(route_weight(&s), ROUTE_HOP_WEIGHT * 2);
	s.up = false;
	assert_int_equal(route_weight(&s), ROUTE_UNUSABLE);
}

static bool route_is(struct topology *t, const char *from, const char *to, const char *expected)
{
	struct route r;
	char text[256] = "";

	if (route_find(t, topology_find(t, from), topology_find(t, to), NULL, &r))
		for (size_t i = 0; i < r.count; i++) {
			strcat(text, i > 0 ? " " : "");
			strcat(text, topology_name(t, r.nodes[i]));
		}
	if (strcmp(text, expected) != 0)
		print_message("route %s - %s: '%s', not '%s'\n", from, to, text, expected);
	return strcmp(text, expected) == 0;
}

static void report(struct topology *t, const char *node, struct route_link *links, size_t count)
{
	assert_int_equal(topology_report(t, node, links, count), ST_OK);
}

static void link_is_down_when_either_end_says_so(void **state)
{
	struct topology *t = topology_new();
	struct route_link ab = link_to("ab", "b", good), ba = link_to("ab", "a", good);

	(void)state;
	report(t, "a", &ab, 1);
	assert_true(route_is(t, "a", "b", "a b"));
	assert_true(route_is(t, "b", "a", "")); /* b has said nothing of its stock */
	report(t, "b", &ba, 1);
	assert_true(route_is(t, "b", "a", "b a"));
	ba.state.up = false;
	report(t, "b", &ba, 1);
	assert_true(route_is(t, "a", "b", ""));
	report(t, "b", NULL, 0); /* forgotten: a's word counts again */
	assert_true(route_is(t, "a", "b", "a b"));
	assert_int_equal(topology_link_count(t), 1);
	report(t, "a", NULL, 0);
	assert_int_equal(topology_link_count(t), 0);
	assert_true(route_is(t, "a", "b", ""));
	assert_int_equal(topology_report(t, "a", &ba, 1), ST_BAD_REQUEST); /* to itself */
	topology_free(t);
}

/* a - b - c - d, and a - e - d with thin links: one more hop is better than a dry one. */
static void route_goes_around_thin_and_down_links(void **state)
{
	struct topology *t = topology_new();
	struct route_state thin = good;
	struct route_link a[2] = { link_to("ab", "b", good), link_to("ae", "e", good) };
	struct route_link b[1] = { link_to("bc", "c", good) }, c[1] = { link_to("cd", "d", good) }, e[1];
	struct route_limits limits = { .dry_too = false };
	struct route_hop bc;
	struct route r;

	(void)state;
	thin.stock = 1 << 16;
	e[0] = link_to("ed", "d", thin);
	report(t, "a", a, 2);
	report(t, "b", b, 1);
	report(t, "c", c, 1);
	report(t, "e", e, 1);
	assert_true(route_is(t, "a", "d", "a b c d"));
	e[0].state.stock = e[0].state.generation_rate = 0; /* dry: only where that is asked for */
	report(t, "e", e, 1);
	limits.hops = &bc;
	limits.hop_count = 1;
	bc = (struct route_hop){ topology_find(t, "b"), topology_find(t, "c") };
	assert_false(route_find(t, topology_find(t, "a"), topology_find(t, "d"), &limits, &r));
	limits.dry_too = true;
	assert_true(route_find(t, topology_find(t, "a"), topology_find(t, "d"), &limits, &r));
	assert_int_equal(r.count, 3);
	e[0].state = good;
	report(t, "e", e, 1);
	assert_true(route_is(t, "a", "d", "a e d"));
	topology_consume(t, topology_find(t, "e"), topology_find(t, "d"), (1 << 20) - 4096);
	assert_true(route_is(t, "a", "d", "a b c d"));
	b[0].state.up = false;
	report(t, "b", b, 1);
	assert_true(route_is(t, "a", "d", "a e d"));
	a[1].state.up = false;
	report(t, "a", a, 2);
	assert_true(route_is(t, "a", "d", ""));
	topology_free(t);
}

/* ---- random networks --------------------------------------------------------------------------- */

struct network {
	int nodes, links;
	int (*ends)[2];
	struct route_state (*states)[2]; /* [1]: from ends[1] */
};

static struct network random_network(int nodes, int links)
{
	struct network n = { .nodes = nodes, .links = links };

	n.ends = xcalloc((size_t)links, sizeof *n.ends);
	n.states = xcalloc((size_t)links, sizeof *n.states);
	for (int i = 0; i < links; i++) {
		n.ends[i][0] = (int)dice((uint64_t)nodes);
		do
			n.ends[i][1] = (int)dice((uint64_t)nodes);
		while (n.ends[i][1] == n.ends[i][0]);
		for (int side = 0; side < 2; side++)
			n.states[i][side] = (struct route_state){
				.up = dice(20) > 0,
				.stock = dice(UINT64_C(1) << (8 + dice(14))), /* so that detours pay */
				.generation_rate = 1000 + dice(100000),
				.consumption_rate = dice(100000),
				.qber_ppm = (uint32_t)dice(100000),
			};
	}
	return n;
}

static void network_free(struct network *n)
{
	free(n->ends);
	free(n->states);
}

static const char *node_name(int node, char name[16])
{
	snprintf(name, 16, "n%d", node);
	return name;
}

static struct topology *topology_of(const struct network *n)
{
	struct topology *t = topology_new();
	struct route_link *out = xcalloc((size_t)n->links, sizeof *out);
	char name[16], peer[16];

	for (int node = 0; node < n->nodes; node++) {
		size_t count = 0;

		for (int i = 0; i < n->links; i++) {
			int side = n->ends[i][1] == node;

			if (n->ends[i][side] != node)
				continue;
			snprintf(name, sizeof name, "l%d", i);
			out[count++] = link_to(name, node_name(n->ends[i][!side], peer), n->states[i][side]);
		}
		report(t, node_name(node, name), out, count);
	}
	free(out);
	return t;
}

static bool usable(const struct network *n, int link, int side)
{
	return n->states[link][0].up && n->states[link][1].up &&
	       route_weight(&n->states[link][side]) != ROUTE_UNUSABLE;
}

/* The reference: igraph's Dijkstra from one node to all. */
static void igraph_reference(const struct network *n, int source, igraph_matrix_t *distances)
{
	igraph_vector_int_t edges;
	igraph_vector_t weights;
	igraph_t graph;

	igraph_vector_int_init(&edges, 0);
	igraph_vector_init(&weights, 0);
	for (int i = 0; i < n->links; i++)
		for (int side = 0; side < 2; side++)
			if (usable(n, i, side)) {
				igraph_vector_int_push_back(&edges, n->ends[i][side]);
				igraph_vector_int_push_back(&edges, n->ends[i][!side]);
				igraph_vector_push_back(&weights, route_weight(&n->states[i][side]));
			}
	igraph_create(&graph, &edges, n->nodes, IGRAPH_DIRECTED);
	igraph_distances_dijkstra(&graph, distances, igraph_vss_1(source), igraph_vss_all(), &weights, IGRAPH_OUT);
	igraph_destroy(&graph);
	igraph_vector_destroy(&weights);
	igraph_vector_int_destroy(&edges);
}

static void check_against_igraph(int nodes, int links)
{
	struct network n = random_network(nodes, links);
	struct topology *t = topology_of(&n);
	int source = (int)dice((uint64_t)nodes);
	char name[16];
	struct route_tree tree;
	igraph_matrix_t distances;

	igraph_matrix_init(&distances, 0, 0);
	igraph_reference(&n, source, &distances);
	route_tree(t, topology_find(t, node_name(source, name)), NULL, &tree);
	for (int node = 0; node < nodes; node++) {
		int ours = topology_find(t, node_name(node, name));
		double theirs = MATRIX(distances, 0, node);
		struct route r;

		if (theirs > 1e18) {
			assert_int_equal(tree.distance[ours], UINT64_MAX);
			continue;
		}
		assert_int_equal(tree.distance[ours], (uint64_t)theirs);
		if (node % 37 == 0 && route_find(t, topology_find(t, node_name(source, name)), ours, NULL, &r))
			assert_int_equal(r.weight, (uint64_t)theirs);
	}
	igraph_matrix_destroy(&distances);
	route_tree_free(&tree);
	topology_free(t);
	network_free(&n);
}

static void distances_are_igraphs(void **state)
{
	(void)state;
	dice_state = 11;
	for (int i = 0; i < 60; i++)
		check_against_igraph(2 + (int)dice(40), 1 + (int)dice(120));
	check_against_igraph(1000, 4000);
	check_against_igraph(3000, 2900); /* in pieces */
}

/* ---- against trying everything -------------------------------------------------------------------- */

/* All simple paths of a small network, by depth first search. */
struct paths {
	const struct network *n;
	const struct route_limits *limits;
	int to;
	int nodes[12];
	size_t count;
	struct {
		int nodes[12];
		size_t count;
		uint64_t weight;
	} found[20000];
	size_t found_count;
};

static bool is_barred(const struct paths *p, int from, int to, const struct route_state *s)
{
	for (size_t i = 0; i < p->limits->node_count; i++)
		if (p->limits->nodes[i] == to)
			return true;
	for (size_t i = 0; i < p->limits->hop_count; i++)
		if (p->limits->hops[i].from == from && p->limits->hops[i].to == to)
			return true;
	for (size_t i = 0; i < p->count; i++)
		if (p->nodes[i] == to)
			return true;
	return s->stock < p->limits->min_stock;
}

static void try_all(struct paths *p, int here, uint64_t weight)
{
	p->nodes[p->count++] = here;
	if (here == p->to) {
		memcpy(p->found[p->found_count].nodes, p->nodes, sizeof p->nodes);
		p->found[p->found_count].count = p->count;
		p->found[p->found_count++].weight = weight;
		assert_true(p->found_count < ARRAY_LEN(p->found));
	} else {
		for (int i = 0; i < p->n->links; i++)
			for (int side = 0; side < 2; side++)
				if (p->n->ends[i][side] == here && usable(p->n, i, side) &&
				    !is_barred(p, here, p->n->ends[i][!side], &p->n->states[i][side]))
					try_all(p, p->n->ends[i][!side],
					        weight + route_weight(&p->n->states[i][side]));
	}
	p->count--;
}

static uint64_t best_within(const struct paths *p, unsigned max_hops)
{
	uint64_t best = UINT64_MAX;

	for (size_t i = 0; i < p->found_count; i++)
		if (p->found[i].count <= max_hops + 1 && p->found[i].weight < best)
			best = p->found[i].weight;
	return best;
}

static void check_route(const struct paths *p, const struct route *r)
{
	uint64_t weight = 0;

	assert_int_equal(r->nodes[r->count - 1], p->to);
	for (size_t i = 0; i + 1 < r->count; i++) {
		uint64_t best = UINT64_MAX;

		for (size_t j = 0; j < i; j++)
			assert_int_not_equal(r->nodes[j], r->nodes[i]);
		for (int l = 0; l < p->n->links; l++)
			for (int side = 0; side < 2; side++)
				if (p->n->ends[l][side] == r->nodes[i] &&
				    p->n->ends[l][!side] == r->nodes[i + 1] && usable(p->n, l, side) &&
				    p->n->states[l][side].stock >= p->limits->min_stock &&
				    route_weight(&p->n->states[l][side]) < best)
					best = route_weight(&p->n->states[l][side]);
		assert_true(best != UINT64_MAX);
		weight += best;
	}
	assert_int_equal(weight, r->weight);
}

/* The names n0 … are met in another order than their numbers: renumber the network as the topology has it. */
static void renumber(struct network *n, const struct topology *t)
{
	char name[16];

	for (int i = 0; i < n->links; i++)
		for (int side = 0; side < 2; side++)
			n->ends[i][side] = topology_find(t, node_name(n->ends[i][side], name));
}

static struct paths everything; /* large, therefore not on the stack */

static void routes_within_limits_are_the_best(void **state)
{
	(void)state;
	dice_state = 5;
	for (int round = 0; round < 2000; round++) {
		struct network n = random_network(7, 8 + (int)dice(8));
		struct topology *t = topology_of(&n);
		int excluded = 2 + (int)dice(5);
		struct route_hop hop = { 0, 1 + (int)dice(6) };
		struct route_limits limits = {
			.nodes = &excluded, .node_count = dice(2), .hops = &hop, .hop_count = dice(2),
			.min_stock = dice(2) * dice(1 << 20), .max_hops = (unsigned)dice(5),
		};
		struct route r;
		bool found;

		renumber(&n, t);
		everything = (struct paths){ .n = &n, .limits = &limits, .to = 1 };
		try_all(&everything, 0, 0);
		found = route_find(t, 0, 1, &limits, &r);
		assert_int_equal(found, best_within(&everything, limits.max_hops ? limits.max_hops : 11) != UINT64_MAX);
		if (found) {
			check_route(&everything, &r);
			assert_int_equal(r.weight, best_within(&everything, limits.max_hops ? limits.max_hops : 11));
		}
		topology_free(t);
		network_free(&n);
	}
}

static bool are_disjoint(size_t i, size_t j)
{
	for (size_t a = 1; a + 1 < everything.found[i].count; a++)
		for (size_t b = 1; b + 1 < everything.found[j].count; b++)
			if (everything.found[i].nodes[a] == everything.found[j].nodes[b])
				return false;
	return everything.found[i].count > 2 || everything.found[j].count > 2; /* both direct: one route */
}

static uint64_t best_pair(void)
{
	uint64_t best = UINT64_MAX;

	for (size_t i = 0; i < everything.found_count; i++)
		for (size_t j = 0; j < i; j++) {
			uint64_t weight = everything.found[i].weight + everything.found[j].weight;

			if (weight < best && are_disjoint(i, j))
				best = weight;
		}
	return best;
}

static void pairs_of_disjoint_routes_are_the_best(void **state)
{
	static const struct route_limits none;

	(void)state;
	dice_state = 6;
	for (int round = 0; round < 2000; round++) {
		struct network n = random_network(7, 8 + (int)dice(9));
		struct topology *t = topology_of(&n);
		struct route r[2];
		size_t found;

		renumber(&n, t);
		everything = (struct paths){ .n = &n, .limits = &none, .to = 1 };
		try_all(&everything, 0, 0);
		found = route_disjoint(t, 0, 1, 2, NULL, r);
		for (size_t i = 0; i < found; i++)
			check_route(&everything, &r[i]);
		if (best_pair() == UINT64_MAX) {
			assert_int_equal(found, everything.found_count > 0);
		} else {
			assert_int_equal(found, 2);
			assert_int_equal(r[0].weight + r[1].weight, best_pair());
		}
		topology_free(t);
		network_free(&n);
	}
}

static igraph_integer_t connectivity(const struct network *n)
{
	igraph_vector_int_t edges;
	igraph_integer_t paths;
	igraph_t graph;

	igraph_vector_int_init(&edges, 0);
	for (int i = 0; i < n->links; i++)
		for (int side = 0; side < 2; side++)
			if (usable(n, i, side)) {
				igraph_vector_int_push_back(&edges, n->ends[i][side]);
				igraph_vector_int_push_back(&edges, n->ends[i][!side]);
			}
	igraph_create(&graph, &edges, n->nodes, IGRAPH_DIRECTED);
	igraph_simplify(&graph, true, true, NULL);
	igraph_vertex_disjoint_paths(&graph, &paths, 0, 1);
	igraph_destroy(&graph);
	igraph_vector_int_destroy(&edges);
	return paths;
}

static void as_many_disjoint_routes_as_igraph_counts(void **state)
{
	static const struct route_limits none;

	(void)state;
	dice_state = 7;
	for (int round = 0; round < 60; round++) {
		struct network n = random_network(40, 60 + (int)dice(120));
		struct topology *t = topology_of(&n);
		struct route r[ROUTE_DISJOINT_MAX];
		igraph_integer_t most;
		size_t found;
		bool seen[40] = { false };

		renumber(&n, t);
		everything = (struct paths){ .n = &n, .limits = &none, .to = 1 };
		most = connectivity(&n);
		found = route_disjoint(t, 0, 1, ROUTE_DISJOINT_MAX, NULL, r);
		assert_int_equal(found, most < ROUTE_DISJOINT_MAX ? most : ROUTE_DISJOINT_MAX);
		for (size_t i = 0; i < found; i++) {
			check_route(&everything, &r[i]);
			for (size_t j = 1; j + 1 < r[i].count; j++) {
				assert_false(seen[r[i].nodes[j]]);
				seen[r[i].nodes[j]] = true;
			}
		}
		topology_free(t);
		network_free(&n);
	}
}

/* ---- hop by hop -------------------------------------------------------------------------------- */

enum { VIEWS = 24 };

/* Every node has a view of its own: the same links, states that have nothing to do with each other's. */
static void make_views(struct topology *views[VIEWS], struct network *shape, bool agreeing)
{
	*shape = random_network(VIEWS, 40);
	for (int i = 0; i < shape->links; i++)
		shape->states[i][0].up = shape->states[i][1].up = true;
	for (int v = 0; v < VIEWS; v++) {
		if (!agreeing)
			for (int i = 0; i < shape->links; i++)
				for (int side = 0; side < 2; side++) {
					shape->states[i][side].up = dice(6) > 0;
					shape->states[i][side].stock = dice(1 << 21);
				}
		views[v] = topology_of(shape);
	}
}

/* Walks a relay by each node's own view, and holds the rule at every step; the nodes it came by. */
static size_t walk(struct topology *views[VIEWS], int source, int destination, bool *arrived)
{
	int visited[VIEWS + 1];
	size_t count = 0;
	unsigned hops_left = 0;

	*arrived = false;
	for (int here = source;;) {
		struct route_step step = { .here = here, .destination = destination, .visited = visited };
		struct route_next next;

		for (size_t i = 0; i < count; i++)
			assert_int_not_equal(visited[i], here);
		visited[count++] = here;
		*arrived = here == destination;
		step.visited_count = count;
		step.at_source = count == 1;
		step.hops_left = hops_left;
		if (*arrived || !route_next_hop(views[here], &step, &next))
			return count;
		if (count == 1)
			assert_true(next.hops_left < 2 * next.route.count);
		else
			assert_true(next.hops_left < hops_left);
		assert_true(next.hops_left > 0 || next.node == destination);
		assert_true(next.route.count - 2 <= next.hops_left);
		hops_left = next.hops_left;
		here = next.node;
	}
}

static void relay_ends_while_views_disagree(void **state)
{
	unsigned arrivals = 0, walks = 0;

	(void)state;
	dice_state = 8;
	for (int round = 0; round < 20; round++) {
		struct topology *views[VIEWS];
		struct network shape;

		make_views(views, &shape, false);
		for (int v = 1; v < VIEWS; v++) { /* all have met the nodes in the same order */
			bool arrived;

			walk(views, (int)dice(VIEWS), v, &arrived);
			arrivals += arrived;
			walks++;
		}
		for (int v = 0; v < VIEWS; v++)
			topology_free(views[v]);
		network_free(&shape);
	}
	assert_true(arrivals > walks / 4); /* and many get there all the same */
}

static void relay_takes_the_best_route_while_views_agree(void **state)
{
	struct topology *views[VIEWS];
	struct network shape;

	(void)state;
	dice_state = 9;
	make_views(views, &shape, true);
	for (int destination = 0; destination < (int)topology_node_count(views[0]); destination++) {
		struct route r;
		bool arrived, found = route_find(views[0], 3, destination, NULL, &r);
		size_t count = walk(views, 3, destination, &arrived);

		assert_int_equal(arrived, found);
		if (found)
			assert_int_equal(count, r.count);
	}
	for (int v = 0; v < VIEWS; v++)
		topology_free(views[v]);
	network_free(&shape);
}

/* ---- link states ------------------------------------------------------------------------------- */

static struct ls_record record_of(uint64_t sequence, uint64_t age, struct route_link *links, size_t count)
{
	struct ls_record r = { .km = "a", .controller = "a-controller", .sequence = sequence, .age = age,
		               .links = links, .count = count };

	return r;
}

static void newer_records_win_the_same_way_everywhere(void **state)
{
	struct lsdb *db = lsdb_new(100), *other = lsdb_new(100);
	struct route_link one = link_to("ab", "b", good), two = link_to("ab", "b", good);
	struct ls_record r = record_of(5, 0, &one, 1), s, back;

	(void)state;
	two.state.up = false;
	assert_int_equal(lsdb_decide(db, &r, 0), LS_STORE);
	lsdb_store(db, &r, 0);
	assert_int_equal(lsdb_decide(db, &r, 0), LS_IGNORE);
	s = record_of(4, 0, &two, 1);
	assert_int_equal(lsdb_decide(db, &s, 0), LS_RETURN_NEWER);
	s = record_of(6, 0, &two, 1);
	assert_int_equal(lsdb_decide(db, &s, 0), LS_STORE);
	/* one number, two contents: exactly one of them wins, whichever came first */
	s = record_of(5, 0, &two, 1);
	lsdb_store(other, &s, 0);
	assert_int_equal(lsdb_decide(db, &s, 0) == LS_STORE, lsdb_decide(other, &r, 0) == LS_RETURN_NEWER);
	assert_int_equal(lsdb_decide(db, &s, 0) == LS_RETURN_NEWER, lsdb_decide(other, &r, 0) == LS_STORE);
	/* out of range */
	s = record_of(0, 0, &two, 1);
	assert_int_equal(lsdb_decide(db, &s, 0), LS_IGNORE);
	s = record_of(LS_SEQUENCE_END, 0, &two, 1);
	assert_int_equal(lsdb_decide(db, &s, 0), LS_IGNORE);
	assert_true(lsdb_get(db, "a", 7, &back));
	assert_int_equal(back.age, 7);
	assert_string_equal(back.links[0].peer, "b");
	lsdb_free(db);
	lsdb_free(other);
}

static void records_age_and_expire(void **state)
{
	struct lsdb *db = lsdb_new(100);
	struct route_link one = link_to("ab", "b", good);
	struct ls_record r = record_of(5, 60, &one, 1);
	struct ls_edition edition = { .km = "a", .sequence = 5 };
	char km[NAME_MAX_LEN + 1];

	(void)state;
	edition.digest = ls_digest(&r);
	assert_true(lsdb_wants(db, &edition));
	lsdb_store(db, &r, 1000);
	assert_false(lsdb_wants(db, &edition));
	edition.sequence = 6;
	assert_true(lsdb_wants(db, &edition));
	assert_false(lsdb_expire(db, 1039, km));
	r.sequence = 4;
	assert_int_equal(lsdb_decide(db, &r, 1039), LS_RETURN_NEWER);
	assert_int_equal(lsdb_decide(db, &r, 1040), LS_IGNORE); /* too old to be handed on */
	assert_true(lsdb_expire(db, 1040, km));
	assert_string_equal(km, "a");
	assert_int_equal(lsdb_count(db), 0);
	r.age = 100;
	assert_int_equal(lsdb_decide(db, &r, 1040), LS_IGNORE);
	lsdb_free(db);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(weight_follows_stock_load_and_quality),
		cmocka_unit_test(link_is_down_when_either_end_says_so),
		cmocka_unit_test(route_goes_around_thin_and_down_links),
		cmocka_unit_test(distances_are_igraphs),
		cmocka_unit_test(routes_within_limits_are_the_best),
		cmocka_unit_test(pairs_of_disjoint_routes_are_the_best),
		cmocka_unit_test(as_many_disjoint_routes_as_igraph_counts),
		cmocka_unit_test(relay_ends_while_views_disagree),
		cmocka_unit_test(relay_takes_the_best_route_while_views_agree),
		cmocka_unit_test(newer_records_win_the_same_way_everywhere),
		cmocka_unit_test(records_age_and_expire),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
