/*
 * controller_ck.c - reference point Ck: KMs register, report and ask for routes; the controller
 * reserves, relays and allocates with them (I.4b).
 */
#include "controllerd.h"

#include <stdlib.h>
#include <string.h>

#include "ck.h"

_Static_assert(CK_ROUTE_MAX == ROUTE_NODES_MAX, "a route fits a message");
_Static_assert(CK_ROUTES_MAX == ROUTE_DISJOINT_MAX, "so do as many as there are");
_Static_assert(CK_LINKS_MAX <= LS_LINKS_MAX, "a report fits a record");

void qkdn_ck_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

static const struct rtls_procedure procedures[] = {
	{ CK_REGISTER, "KM registration", "Response to KM registration", "km" },
	{ CK_LINK_STATUS, "Link status", "Response to link status", "km" },
	{ CK_KEY_STORE_STATUS, "Key store status", "Response to key store status", "km" },
	{ CK_KEY_RELAY_NEXT_HOP_REQUEST, "Key relay next hop request", "Response to key relay next hop request",
	  "km" },
	/* I.4a: the notification is answered with the request, the request by a call */
	{ CK_KEY_RELAY_REQUEST_NOTIFICATION, "Key relay request notification", "Key relay request", "km" },
	{ CK_RESPONSE_TO_KEY_RELAY_REQUEST, "Response to key relay request", NULL, "km" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_procedure km_procedures[] = {
	{ CK_KM_KEY_RESERVATION_REQUEST, "Key reservation request", "Response to key reservation request", "" },
	{ CK_KM_KEY_RELAY_REQUEST, "Key relay request", "Response to key relay request", "" },
	{ CK_KM_KEY_ALLOCATION_REQUEST, "Key allocation request", "Response to key allocation request", "" },
	{ CK_KM_VOID, "Reservation void", "Response to reservation void", "" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program controller_ck = { QKDN_CK, QKDN_CK_V1, "Ck", qkdn_ck_1, procedures, true };
const struct rtls_program controller_ck_km = { QKDN_CK_KM, QKDN_CK_KM_V1, "Ck", NULL, km_procedures, true };

int qkdn_ck_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- served ---------------------------------------------------------------------------------- */

static void set_outcome(qkdn_outcome *o, enum status s, const char *text)
{
	o->status = (qkdn_status)s;
	o->text = xstrdup(s == ST_OK ? "" : text);
}

static const char *why_refused(enum status s)
{
	switch (s) {
	case ST_DENIED:
		return "this KM is not one of this controller's: name it in the controller's kms";
	case ST_BUSY:
		return "the report is larger than what the controller keeps";
	default:
		return "the request is malformed";
	}
}

static void refuse_or_accept(qkdn_outcome *o, enum status s)
{
	set_outcome(o, s, why_refused(s));
}

bool_t ck_register_1_svc(ck_register_args *args, ck_register_result *result, struct svc_req *rq)
{
	struct controllerd *d = rtls_context(rq);
	bool is_caller = controllerd_caller_is(rq, "km", args->km);
	enum status s = is_caller ? controller_register(d->core, args->km) : ST_DENIED;

	memset(result, 0, sizeof *result);
	refuse_or_accept(&result->outcome, s);
	result->controller = xstrdup(d->name);
	result->mode = d->mode == CONTROLLER_CENTRALIZED ? CK_CENTRALIZED : CK_DISTRIBUTED;
	result->report_interval = d->report_interval;
	return TRUE;
}

static enum status take_links(struct controllerd *d, const ck_link_status_args *args)
{
	size_t count = args->links.links_len;
	struct route_link *links = xcalloc(count, sizeof *links);
	enum status s = ST_OK;

	for (size_t i = 0; i < count; i++)
		if (!controllerd_read_link(&links[i], &args->links.links_val[i]))
			s = ST_BAD_REQUEST;
	if (s == ST_OK)
		s = controller_link_status(d->core, args->km, links, count);
	free(links);
	return s;
}

bool_t ck_link_status_1_svc(ck_link_status_args *args, ck_result *result, struct svc_req *rq)
{
	bool is_caller = controllerd_caller_is(rq, "km", args->km);

	memset(result, 0, sizeof *result);
	refuse_or_accept(&result->outcome, is_caller ? take_links(rtls_context(rq), args) : ST_DENIED);
	return TRUE;
}

static enum status take_pools(struct controllerd *d, const ck_key_store_status_args *args)
{
	size_t count = args->pools.pools_len;
	struct controller_pool *pools = xcalloc(count, sizeof *pools);
	enum status s = ST_OK;

	for (size_t i = 0; i < count; i++) {
		const ck_pool_state *p = &args->pools.pools_val[i];

		if (!name_is_valid(p->peer))
			s = ST_BAD_REQUEST;
		pools[i] = (struct controller_pool){ p->peer, p->stock, p->low_water, p->high_water,
			                             p->consumption_rate };
	}
	if (s == ST_OK)
		s = controller_key_store_status(d->core, args->km, pools, count);
	free(pools);
	return s;
}

bool_t ck_key_store_status_1_svc(ck_key_store_status_args *args, ck_result *result, struct svc_req *rq)
{
	bool is_caller = controllerd_caller_is(rq, "km", args->km);

	memset(result, 0, sizeof *result);
	refuse_or_accept(&result->outcome, is_caller ? take_pools(rtls_context(rq), args) : ST_DENIED);
	return TRUE;
}

static size_t bounded(u_int wanted)
{
	return wanted < CK_ROUTES_MAX ? wanted : CK_ROUTES_MAX;
}

bool_t ck_key_relay_next_hop_request_1_svc(ck_next_hop_args *args, ck_next_hop_result *result, struct svc_req *rq)
{
	struct controllerd *d = rtls_context(rq);
	const struct controller_next_hop_request r = {
		.destination = args->destination,
		.visited = (const char *const *)args->visited.visited_val,
		.visited_count = args->visited.visited_len,
		.excluded = (const char *const *)args->excluded.excluded_val,
		.excluded_count = args->excluded.excluded_len,
		.hops_left = args->hops_left,
		.len = args->len,
	};
	const char *next_hop = "", *others[CK_ROUTES_MAX];
	struct err e = { ST_DENIED, "the route is for another KM than the caller" };
	enum status s = ST_DENIED;
	size_t count = 0;

	memset(result, 0, sizeof *result);
	if (r.visited_count > 0 && controllerd_caller_is(rq, "km", r.visited[r.visited_count - 1]))
		s = controller_next_hop(d->core, &r, &next_hop, &result->hops_left, &e);
	set_outcome(&result->outcome, s, e.text);
	result->next_hop = xstrdup(next_hop);
	if (s == ST_OK)
		count = controller_alternative_hops(d->core, &r, next_hop, bounded(args->alternatives), others);
	result->alternatives.alternatives_val = xcalloc(count, sizeof(qkdn_name));
	result->alternatives.alternatives_len = (u_int)count;
	for (size_t i = 0; i < count; i++)
		result->alternatives.alternatives_val[i] = xstrdup(others[i]);
	return TRUE;
}

static void write_route(const struct controller *core, ck_route *to, const struct route *from)
{
	to->nodes.nodes_val = xcalloc(from->count, sizeof(qkdn_name));
	to->nodes.nodes_len = (u_int)from->count;
	for (size_t i = 0; i < from->count; i++)
		to->nodes.nodes_val[i] = xstrdup(controller_node_name(core, from->nodes[i]));
}

static enum status find_routes(struct controllerd *d, const ck_relay_notification_args *args,
                               ck_relay_request_result *result, struct err *e)
{
	struct controller_hop excluded[CK_EXCLUDED_MAX];
	struct controller_route_request r = { .source = args->source, .destination = args->destination,
		                              .excluded = excluded, .shares = args->shares, .len = args->len };
	struct route *routes = xcalloc(ROUTE_DISJOINT_MAX, sizeof *routes), given;
	enum status s;
	size_t count;

	memcpy(&r.relay, args->relay, sizeof r.relay);
	for (; r.excluded_count < args->excluded.excluded_len; r.excluded_count++) {
		const ck_hop *hop = &args->excluded.excluded_val[r.excluded_count];

		excluded[r.excluded_count] = (struct controller_hop){ hop->from, hop->to };
	}
	s = controller_route(d->core, &r, routes, &count, e);
	given = routes[0];
	result->routes.routes_val = xcalloc(count, sizeof(ck_route));
	result->routes.routes_len = (u_int)count;
	for (size_t i = 0; i < count; i++)
		write_route(d->core, &result->routes.routes_val[i], &routes[i]);
	count = count == 1 ? controller_alternative_routes(d->core, &r, &given, bounded(args->alternatives), routes) : 0;
	result->alternatives.alternatives_val = xcalloc(count, sizeof(ck_route));
	result->alternatives.alternatives_len = (u_int)count;
	for (size_t i = 0; i < count; i++)
		write_route(d->core, &result->alternatives.alternatives_val[i], &routes[i]);
	free(routes);
	return s;
}

bool_t ck_key_relay_request_notification_1_svc(ck_relay_notification_args *args, ck_relay_request_result *result,
                                               struct svc_req *rq)
{
	struct err e = { ST_DENIED, "the route is for another KM than the caller" };
	enum status s = ST_DENIED;

	memset(result, 0, sizeof *result);
	if (controllerd_caller_is(rq, "km", args->source))
		s = find_routes(rtls_context(rq), args, result, &e);
	set_outcome(&result->outcome, s, e.text);
	return TRUE;
}

bool_t ck_response_to_key_relay_request_1_svc(ck_relay_response_args *args, ck_result *result, struct svc_req *rq)
{
	struct controllerd *d = rtls_context(rq);
	struct id relay;

	memcpy(&relay, args->relay, sizeof relay);
	memset(result, 0, sizeof *result);
	refuse_or_accept(&result->outcome,
	                 controller_relay_result(d->core, &relay, (enum status)args->status, args->len));
	return TRUE;
}

/* ---- called ---------------------------------------------------------------------------------- */

struct asked {
	controller_done done;
	controller_reserve_done reserve_done;
	void *token;
};

static struct asked *asked_new(controller_done done, controller_reserve_done reserve_done, void *token)
{
	struct asked *a = xcalloc(1, sizeof *a);

	*a = (struct asked){ done, reserve_done, token };
	return a;
}

static void answered(enum status s, void *result, void *arg)
{
	const ck_result *r = result;
	struct asked *a = arg;

	a->done(s == ST_OK ? (enum status)r->outcome.status : s, a->token);
	free(a);
}

static void reservation_answered(enum status s, void *result, void *arg)
{
	const ck_km_reservation_result *r = result;
	struct controller_relay answer = { .route = NULL };
	struct asked *a = arg;

	if (s == ST_OK)
		s = (enum status)r->outcome.status;
	if (s == ST_OK && !controllerd_copy_name(answer.link, r->link))
		s = ST_BAD_REQUEST;
	if (s == ST_OK) {
		answer.link_offset = r->link_offset;
		memcpy(&answer.ksa_pool, r->ksa_pool, sizeof answer.ksa_pool);
		answer.ksa_offset = r->ksa_offset;
	}
	a->reserve_done(s, &answer, a->token);
	free(a);
}

/* A view: the names stay the relay's. */
static ck_route route_of(const struct controller_relay *relay)
{
	ck_route r;

	r.nodes.nodes_len = (u_int)relay->route_count;
	r.nodes.nodes_val = (qkdn_name *)relay->route;
	return r;
}

void controller_ck_reserve(void *controllerd, const char *km, const struct controller_relay *relay,
                           controller_reserve_done done, void *token)
{
	struct controllerd *d = controllerd;
	ck_km_reservation_args args = { .route = route_of(relay), .len = relay->len, .expires = relay->expires };
	const struct rtls_call call = {
		.program = QKDN_CK_KM,
		.version = QKDN_CK_KM_V1,
		.procedure = CK_KM_KEY_RESERVATION_REQUEST,
		.xdr_args = (xdrproc_t)xdr_ck_km_reservation_args,
		.args = &args,
		.xdr_result = (xdrproc_t)xdr_ck_km_reservation_result,
		.result_size = sizeof(ck_km_reservation_result),
		.timeout_ns = d->call_timeout,
		.done = reservation_answered,
		.arg = asked_new(NULL, done, token),
	};

	memcpy(args.header.trace, &relay->trace, sizeof relay->trace);
	memcpy(args.relay, &relay->relay, sizeof relay->relay);
	controllerd_call(d, "km", km, &call);
}

void controller_ck_relay(void *controllerd, const char *km, const struct controller_relay *relay,
                         uint64_t timeout, controller_done done, void *token)
{
	struct controllerd *d = controllerd;
	ck_km_relay_args args = {
		.route = route_of(relay),
		.link = (char *)relay->link,
		.link_offset = relay->link_offset,
		.len = relay->len,
		.ksa_offset = relay->ksa_offset,
		.expires = relay->expires,
	};
	const struct rtls_call call = {
		.program = QKDN_CK_KM,
		.version = QKDN_CK_KM_V1,
		.procedure = CK_KM_KEY_RELAY_REQUEST,
		.xdr_args = (xdrproc_t)xdr_ck_km_relay_args,
		.args = &args,
		.xdr_result = (xdrproc_t)xdr_ck_result,
		.result_size = sizeof(ck_result),
		.timeout_ns = timeout,
		.done = answered,
		.arg = asked_new(done, NULL, token),
	};

	memcpy(args.header.trace, &relay->trace, sizeof relay->trace);
	memcpy(args.relay, &relay->relay, sizeof relay->relay);
	memcpy(args.ksa_pool, &relay->ksa_pool, sizeof relay->ksa_pool);
	controllerd_call(d, "km", km, &call);
}

static void call_with_id(struct controllerd *d, const char *km, uint32_t procedure,
                         const struct controller_relay *relay, controller_done done, void *token)
{
	ck_km_relay_id_args args;
	const struct rtls_call call = {
		.program = QKDN_CK_KM,
		.version = QKDN_CK_KM_V1,
		.procedure = procedure,
		.xdr_args = (xdrproc_t)xdr_ck_km_relay_id_args,
		.args = &args,
		.xdr_result = (xdrproc_t)xdr_ck_result,
		.result_size = sizeof(ck_result),
		.timeout_ns = d->call_timeout,
		.done = answered,
		.arg = asked_new(done, NULL, token),
	};

	memcpy(args.header.trace, &relay->trace, sizeof relay->trace);
	memcpy(args.relay, &relay->relay, sizeof relay->relay);
	controllerd_call(d, "km", km, &call);
}

void controller_ck_allocate(void *controllerd, const char *km, const struct controller_relay *relay,
                            controller_done done, void *token)
{
	call_with_id(controllerd, km, CK_KM_KEY_ALLOCATION_REQUEST, relay, done, token);
}

void controller_ck_give_up(void *controllerd, const char *km, const struct controller_relay *relay,
                           controller_done done, void *token)
{
	call_with_id(controllerd, km, CK_KM_VOID, relay, done, token);
}
