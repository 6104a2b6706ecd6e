/*
 * bench_route.c - all destinations of one source, on 10 000 nodes and 40 000 links, against igraph's
 * Dijkstra on the same network. Prints `name value unit reference ratio min max runs`: medians of
 * several runs, the reference measured in turn with them; ratio is reference over value.
 */
#include <igraph.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "route.h"

enum { NODES = 10000, LINKS = 40000, RUNS = 31, DEGREE_MAX = 64 };

struct node {
	char name[16];
	struct route_link links[DEGREE_MAX];
	size_t degree;
};

static struct node nodes[NODES];
static int ends[LINKS][2];
static struct route_state states[LINKS][2];
static uint64_t dice_state = 42;

static uint64_t dice(uint64_t sides)
{
	uint64_t z = dice_state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return (z ^ z >> 31) % sides;
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof *values, by_value);
	return values[count / 2];
}

/* reference: NULL where there is none. Both are sorted. */
static void print_figure(const char *name, double *values, double *reference)
{
	double value = median(values, RUNS);

	if (reference != NULL)
		printf("%s %.1f us %.1f %.2f", name, value, median(reference, RUNS), median(reference, RUNS) / value);
	else
		printf("%s %.1f us - -", name, value);
	printf(" %.1f %.1f %d\n", values[0], values[RUNS - 1], RUNS);
}

/* ---- the network ----------------------------------------------------------------------------- */

static int other_node(int than)
{
	int node;

	do
		node = (int)dice(NODES);
	while (node == than || nodes[node].degree == DEGREE_MAX);
	return node;
}

static void make_network(void)
{
	for (int i = 0; i < NODES; i++)
		snprintf(nodes[i].name, sizeof nodes[i].name, "km-%d", i);
	for (int i = 0; i < LINKS; i++) {
		ends[i][0] = i < NODES ? i : other_node(-1); /* nobody is left out */
		ends[i][1] = other_node(ends[i][0]);
		for (int side = 0; side < 2; side++) {
			struct node *n = &nodes[ends[i][side]];
			struct route_link *l = &n->links[n->degree++];

			states[i][side] = (struct route_state){ .up = true,
				                                .stock = dice(UINT64_C(1) << (10 + dice(12))),
				                                .generation_rate = 1000 + dice(100000),
				                                .consumption_rate = dice(100000),
				                                .qber_ppm = (uint32_t)dice(100000) };
			l->state = states[i][side];
			snprintf(l->name, sizeof l->name, "link-%d", i);
			strcpy(l->peer, nodes[ends[i][!side]].name);
		}
	}
}

static struct topology *make_topology(void)
{
	struct topology *t = topology_new();

	for (int i = 0; i < NODES; i++)
		if (topology_report(t, nodes[i].name, nodes[i].links, nodes[i].degree) != ST_OK)
			log_fatal("the network is too large");
	return t;
}

static void make_graph(igraph_t *graph, igraph_vector_t *weights)
{
	igraph_vector_int_t list;

	igraph_vector_int_init(&list, 0);
	igraph_vector_init(weights, 0);
	for (int i = 0; i < LINKS; i++)
		for (int side = 0; side < 2; side++) {
			igraph_vector_int_push_back(&list, ends[i][side]);
			igraph_vector_int_push_back(&list, ends[i][!side]);
			igraph_vector_push_back(weights, route_weight(&states[i][side]));
		}
	igraph_create(graph, &list, NODES, IGRAPH_DIRECTED);
	igraph_vector_int_destroy(&list);
}

/* ---- runs ------------------------------------------------------------------------------------- */

static void check_same(const struct topology *t, const struct route_tree *tree, const igraph_matrix_t *distances)
{
	for (int i = 0; i < NODES; i++)
		if (tree->distance[topology_find(t, nodes[i].name)] != (uint64_t)MATRIX(*distances, 0, i))
			log_fatal("node %d: igraph has another distance", i);
}

static void all_destinations(struct topology *t)
{
	double ours[RUNS], theirs[RUNS];
	igraph_vector_t weights;
	igraph_matrix_t distances;
	igraph_t graph;

	make_graph(&graph, &weights);
	igraph_matrix_init(&distances, 0, 0);
	for (int run = 0; run < RUNS; run++) {
		int source = (int)dice(NODES);
		struct route_tree tree;
		double begin = now_us();

		route_tree(t, topology_find(t, nodes[source].name), NULL, &tree);
		ours[run] = now_us() - begin;
		begin = now_us();
		igraph_distances_dijkstra(&graph, &distances, igraph_vss_1(source), igraph_vss_all(), &weights,
		                          IGRAPH_OUT);
		theirs[run] = now_us() - begin;
		check_same(t, &tree, &distances);
		route_tree_free(&tree);
	}
	print_figure("route_all_destinations", ours, theirs);
	igraph_matrix_destroy(&distances);
	igraph_vector_destroy(&weights);
	igraph_destroy(&graph);
}

/* One report and one route: what a controller does for a relay. */
static void one_route(struct topology *t)
{
	double report[RUNS], find[RUNS], pair[RUNS];
	struct route *routes = xcalloc(2, sizeof *routes);

	for (int run = 0; run < RUNS; run++) {
		int from = (int)dice(NODES), to = other_node(from);
		double begin = now_us();

		if (topology_report(t, nodes[from].name, nodes[from].links, nodes[from].degree) != ST_OK)
			log_fatal("the report was refused");
		report[run] = now_us() - begin;
		begin = now_us();
		if (!route_find(t, topology_find(t, nodes[from].name), topology_find(t, nodes[to].name), NULL, routes))
			log_fatal("no route");
		find[run] = now_us() - begin;
		begin = now_us();
		route_disjoint(t, topology_find(t, nodes[from].name), topology_find(t, nodes[to].name), 2, NULL, routes);
		pair[run] = now_us() - begin;
	}
	print_figure("route_report", report, NULL);
	print_figure("route_one_destination", find, NULL);
	print_figure("route_two_disjoint", pair, NULL);
	free(routes);
}

int main(void)
{
	struct topology *t;

	make_network();
	t = make_topology();
	all_destinations(t);
	one_route(t);
	topology_free(t);
	return 0;
}
