/* topology.h - the inside of a topology, for the files of lib/route alone. */
#ifndef QKDN_TOPOLOGY_H
#define QKDN_TOPOLOGY_H

#include "route.h"

#include <uthash.h>

struct topology_node {
	char name[NAME_MAX_LEN + 1];
	int index;
	struct topology_edge **edges; /* that end here */
	size_t edge_count, edge_room;
	UT_hash_handle hh;
};

/* A link is known by its ends and its name: two nodes' links of one name are two links. */
struct link_key {
	int ends[2]; /* lower index first */
	char name[NAME_MAX_LEN + 1];
};

struct topology_edge {
	struct link_key key;
	int index;
	struct {
		bool reported;
		unsigned round; /* of the report that named it last */
		struct route_state state;
		uint64_t reported_stock; /* state.stock is without what routes are about to take */
		int arc; /* in the adjacency, -1 while that is stale */
	} side[2]; /* side[i] leads away from ends[i] */
	UT_hash_handle hh;
};

/* One direction in the adjacency: what the search reads, packed. */
struct arc {
	int to;
	uint32_t weight;
	uint64_t stock;
};

static inline bool arc_will_do(const struct arc *a, const struct route_limits *l)
{
	return (a->weight < ROUTE_DRY || (a->weight == ROUTE_DRY && l->dry_too)) && a->stock >= l->min_stock;
}

struct topology {
	struct topology_node *by_name, **nodes;
	size_t node_count, node_room;
	struct topology_edge *by_key, **edges;
	size_t edge_count, edge_room;
	unsigned round;

	/* adjacency: the arcs that leave node i are arcs[first[i]] to arcs[first[i + 1]] */
	bool stale;
	size_t *first;
	struct arc *arcs;
};

/* Makes the adjacency current. Every search begins with it. */
void topology_settle(struct topology *t);

#endif
