/* controller_mc.c - reference point Mc: what the controller knows, for managers and administrators. */
#include "controllerd.h"

#include <stdlib.h>
#include <string.h>

#include "mc.h"

_Static_assert(MC_ROUTE_MAX == ROUTE_NODES_MAX, "a route fits a message");
_Static_assert(MC_ROUTES_MAX == ROUTE_DISJOINT_MAX, "so do as many as there are");

void qkdn_mc_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

static const struct rtls_procedure procedures[] = {
	{ MC_STATUS, "Controller status request", "Response to controller status request", "manager admin" },
	{ MC_TOPOLOGY, "Topology request", "Response to topology request", "manager admin" },
	{ MC_ROUTE, "Route request", "Response to route request", "manager admin" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program controller_mc = { QKDN_MC, QKDN_MC_V1, "Mc", qkdn_mc_1, procedures, true };

int qkdn_mc_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

bool_t mc_status_1_svc(qkdn_request *args, mc_status_result *result, struct svc_req *rq)
{
	struct controllerd *d = rtls_context(rq);
	struct controller_stats s;

	(void)args;
	controller_stats(d->core, &s);
	*result = (mc_status_result){
		.outcome = { QKDN_OK, xstrdup("") },
		.controller = xstrdup(d->name),
		.distributed = d->mode == CONTROLLER_DISTRIBUTED,
		.kms = (u_int)s.kms,
		.nodes = (u_int)s.nodes,
		.links = (u_int)s.links,
		.records = (u_int)s.records,
		.records_made = s.records_made,
		.records_taken = s.records_taken,
		.records_ignored = s.records_ignored,
		.records_sent = s.records_sent,
		.routes_given = s.routes_given,
		.routes_refused = s.routes_refused,
		.relays_done = s.relays_done,
		.relays_failed = s.relays_failed,
		.reservations_done = s.reservations_done,
		.reservations_failed = s.reservations_failed,
		.reserved_bytes = s.reserved_bytes,
	};
	return TRUE;
}

/* ---- topology ---------------------------------------------------------------------------------- */

struct page {
	size_t skip;
	mc_topology_result *result;
};

static mc_direction direction_of(const struct topology_link *l, int side)
{
	return (mc_direction){
		.reported = l->reported[side],
		.up = l->state[side].up,
		.stock = l->state[side].stock,
		.generation_rate = l->state[side].generation_rate,
		.consumption_rate = l->state[side].consumption_rate,
		.qber_ppm = l->state[side].qber_ppm,
		.reported_at = l->state[side].reported_at,
		.weight = l->weight[side],
	};
}

static void add_link(const struct topology_link *l, void *arg)
{
	struct page *p = arg;
	mc_link *to;

	if (p->skip > 0) {
		p->skip--;
		return;
	}
	if (p->result->links.links_len == MC_LINKS_MAX)
		return;
	to = &p->result->links.links_val[p->result->links.links_len++];
	to->link = xstrdup(l->name);
	for (int side = 0; side < 2; side++) {
		to->ends[side] = xstrdup(l->ends[side]);
		to->directions[side] = direction_of(l, side);
	}
}

bool_t mc_topology_1_svc(mc_topology_args *args, mc_topology_result *result, struct svc_req *rq)
{
	struct controllerd *d = rtls_context(rq);
	struct page p = { args->first, result };

	memset(result, 0, sizeof *result);
	result->outcome.text = xstrdup("");
	result->links_in_all = (u_int)topology_link_count(controller_topology(d->core));
	result->links.links_val = xcalloc(MC_LINKS_MAX, sizeof(mc_link));
	topology_each_link(controller_topology(d->core), add_link, &p);
	return TRUE;
}

/* ---- routes ------------------------------------------------------------------------------------ */

static void write_route(const struct topology *t, mc_route *to, const struct route *from)
{
	to->weight = from->weight;
	to->nodes.nodes_len = (u_int)from->count;
	to->nodes.nodes_val = xcalloc(from->count, sizeof(qkdn_name));
	for (size_t i = 0; i < from->count; i++)
		to->nodes.nodes_val[i] = xstrdup(topology_name(t, from->nodes[i]));
}

static size_t search(struct topology *t, const mc_route_args *args, const struct route_limits *limits,
                     struct route *routes)
{
	int from = topology_find(t, args->source), to = topology_find(t, args->destination);

	if (from < 0 || to < 0)
		return 0;
	if (args->disjoint > 1)
		return route_disjoint(t, from, to, args->disjoint, limits, routes);
	return route_find(t, from, to, limits, &routes[0]);
}

static size_t find_routes(struct topology *t, const mc_route_args *args, mc_route_result *result, struct route *routes)
{
	struct route_limits limits = { .dry_too = false };
	size_t count = search(t, args, &limits, routes);

	result->outcome.text = xstrdup("");
	if (count > 0)
		return count;
	limits.dry_too = true;
	free(result->outcome.text);
	if (search(t, args, &limits, routes) > 0) {
		result->outcome.status = QKDN_TOO_FEW_KEYS;
		result->outcome.text = xasprintf("every way from %s to %s leads over a link that has no keys and makes none",
		                                 args->source, args->destination);
	} else {
		result->outcome.status = QKDN_NO_ROUTE;
		result->outcome.text = xasprintf("no usable way from %s to %s is known here", args->source,
		                                 args->destination);
	}
	return 0;
}

bool_t mc_route_1_svc(mc_route_args *args, mc_route_result *result, struct svc_req *rq)
{
	struct controllerd *d = rtls_context(rq);
	struct topology *t = controller_topology(d->core);
	struct route *routes = xcalloc(ROUTE_DISJOINT_MAX, sizeof *routes);
	size_t count;

	memset(result, 0, sizeof *result);
	count = find_routes(t, args, result, routes);
	result->routes.routes_len = (u_int)count;
	result->routes.routes_val = xcalloc(count, sizeof(mc_route));
	for (size_t i = 0; i < count; i++)
		write_route(t, &result->routes.routes_val[i], &routes[i]);
	free(routes);
	return TRUE;
}
