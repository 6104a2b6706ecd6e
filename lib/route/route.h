/*
 * route.h - the network as a controller knows it, and routes through it.
 *
 * A topology holds nodes (KMs) and QKD links by name. Each direction of a link has a state of its
 * own, which the KM it leads away from reports; from it follows the direction's weight. Routes are
 * shortest paths by weight: to all nodes, to one, through links that are neither down nor too thin,
 * around nodes and hops that are excluded, within a number of hops, or several without a common node.
 *
 * Nothing here knows RPC, clocks or keys: the same reports give the same routes.
 */
#ifndef QKDN_ROUTE_H
#define QKDN_ROUTE_H

#include "base.h"
#include "id.h"
#include "status.h"

enum {
	ROUTE_NODES_MAX = 256,     /* nodes of one route, both ends among them */
	ROUTE_DISJOINT_MAX = 8,    /* routes of one relay */
	ROUTE_TOPOLOGY_MAX = 65536 /* nodes and links each: a bound on what reports can make us keep */
};

/* ---- what is reported --------------------------------------------------------------------- */

/* One direction of a QKD link. */
struct route_state {
	bool up;
	uint64_t stock;            /* bytes that could be pad now */
	uint64_t generation_rate;  /* bit/s */
	uint64_t consumption_rate; /* bit/s */
	uint32_t qber_ppm;
	uint64_t reported_at; /* nanoseconds UTC */
};

struct route_link {
	char name[NAME_MAX_LEN + 1];
	char peer[NAME_MAX_LEN + 1]; /* the node it leads to */
	struct route_state state;
};

enum { ROUTE_HOP_WEIGHT = 1000 };
#define ROUTE_UNUSABLE UINT32_MAX
#define ROUTE_DRY (UINT32_MAX - 1)

/*
 * The weight of a link's direction. A hop over a well-stocked, idle, clean link weighs
 * ROUTE_HOP_WEIGHT = H. To that come
 *
 *	scarcity  H * (2^s - 1), where s is how many times the stock must be doubled to reach 1 MiB,
 *	          at most 10: a link with 1 KiB left weighs as much as a thousand good ones
 *	load      H * consumption / generation, at most 2 H
 *	quality   H * (QBER - 3 %) / 10 %, at most H: a noisy link gives less tomorrow
 *
 * ROUTE_UNUSABLE where it is down, ROUTE_DRY where it has no stock and makes none. Stock counts in
 * powers of two, so that a route does not flutter with every block.
 */
uint32_t route_weight(const struct route_state *s);

/* ---- topology ----------------------------------------------------------------------------- */

struct topology;

struct topology *topology_new(void);
void topology_free(struct topology *t); /* NULL is allowed */

/*
 * The whole report of one node: directions that lead away from it. What it reported before and does
 * not name now is forgotten; no links: all of it. A direction can be used when its own report says
 * so and the other end has not reported the link as down. ST_BUSY above ROUTE_TOPOLOGY_MAX (what
 * fitted is kept), ST_BAD_REQUEST for a link to itself.
 */
MUST_CHECK enum status topology_report(struct topology *t, const char *node, const struct route_link *links,
                                       size_t count);

/* What a route is about to take, off the stock that was reported, until the next report: two relays
 * that are asked for together do not choose the same last bytes. */
void topology_consume(struct topology *t, int from, int to, uint64_t bytes);

/* What was reported, with nothing taken off: of the best stocked link from one to the other that can be used. */
uint64_t topology_reported_stock(const struct topology *t, int from, int to);

/* Indexes of nodes are stable and begin at 0. -1: no such node. */
int topology_find(const struct topology *t, const char *node);
const char *topology_name(const struct topology *t, int node);
size_t topology_node_count(const struct topology *t);
size_t topology_link_count(const struct topology *t);

/* One link with both its directions, for listing. */
struct topology_link {
	const char *name;
	const char *ends[2];
	bool reported[2];            /* [0]: the direction that leads from ends[0] to ends[1] */
	struct route_state state[2]; /* where reported */
	uint32_t weight[2];          /* as routes see it */
};
void topology_each_link(const struct topology *t, void (*each)(const struct topology_link *l, void *arg),
                        void *arg);

/* ---- routes ------------------------------------------------------------------------------- */

struct route_hop {
	int from, to;
};

/* What a route must not touch. All zero: anything goes. */
struct route_limits {
	const int *nodes; /* not through or to these */
	size_t node_count;
	const struct route_hop *hops; /* not directly from … to … */
	size_t hop_count;
	uint64_t min_stock; /* bytes: thinner directions are left out */
	bool dry_too;       /* through dry links as well: to tell "no way" from "no pad on the way" */
	unsigned max_hops;  /* 0: ROUTE_NODES_MAX - 1 */
};

struct route {
	int nodes[ROUTE_NODES_MAX];
	size_t count; /* of nodes; hops are one fewer */
	uint64_t weight;
};

/* Shortest paths from one node to all. distance is UINT64_MAX and previous -1 where there is none. */
struct route_tree {
	size_t count;
	uint64_t *distance;
	int *previous;
};
void route_tree(struct topology *t, int source, const struct route_limits *limits, struct route_tree *tree);
void route_tree_free(struct route_tree *tree);

/* The shortest path; among those of at most max_hops, if the shortest of all is longer. limits may be
 * NULL. false: there is none. from == to gives a route of one node. */
MUST_CHECK bool route_find(struct topology *t, int from, int to, const struct route_limits *limits,
                           struct route *route);

/*
 * Up to wanted (at most ROUTE_DISJOINT_MAX) routes that share no node but their ends, of the least
 * weight together, the lightest first; returns how many there are. For shares: no node between learns
 * more than one. Limits' max_hops is not looked at; routes of more than ROUTE_NODES_MAX nodes end it.
 */
size_t route_disjoint(struct topology *t, int from, int to, size_t wanted, const struct route_limits *limits,
                      struct route *routes);

/* ---- hop by hop, in distributed operation ----------------------------------------------------- */

/*
 * The rule against loops, which holds whatever each controller believes: the relay carries the nodes
 * it visited and how many hops it may still make. A next hop is never a visited node, and every hop
 * makes hops_left at least one less; so a relay visits no node twice and ends. The source's
 * controller grants twice the hops of its own route and two more: room for detours that others know
 * of, and a bound on the pad that a wrong view can cost. A controller that sees no way within what is
 * left says so, instead of trying its luck.
 */
struct route_step {
	int here, destination;
	const int *visited; /* from the source to here, as far as they are known */
	size_t visited_count;
	const int *excluded; /* neighbours of here that will not do */
	size_t excluded_count;
	uint64_t min_stock;
	bool dry_too;
	bool at_source;     /* here is the source: it is granted hops */
	unsigned hops_left; /* as carried; not looked at at the source */
};

struct route_next {
	int node;
	unsigned hops_left; /* to be carried from there */
	struct route route; /* what this controller thinks the rest is, from here */
};

/* false: no route from here within the rule. */
MUST_CHECK bool route_next_hop(struct topology *t, const struct route_step *step, struct route_next *next);

#endif
