/* km_ck.c - reference point Ck: the KM's end towards its QKDN controller. */
#include <stdlib.h>

#include "ck.h"
#include "wire.h"

void qkdn_ck_km_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

int qkdn_ck_km_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static const struct rtls_procedure km_procedures[] = {
	{ CK_KM_KEY_RESERVATION_REQUEST, "Key reservation request", "Response to key reservation request", "controller" },
	{ CK_KM_KEY_RELAY_REQUEST, "Key relay request", "Response to key relay request", "controller" },
	{ CK_KM_KEY_ALLOCATION_REQUEST, "Key allocation request", "Response to key allocation request", "controller" },
	{ CK_KM_VOID, "Reservation void", "Response to reservation void", "controller" },
	{ 0, NULL, NULL, NULL },
};

/* Key relay request notification is answered by a message with a name of its own (I.4a). */
static const struct rtls_procedure controller_procedures[] = {
	{ CK_REGISTER, "KM registration", "Response to KM registration", "" },
	{ CK_LINK_STATUS, "Link status", "Response to link status", "" },
	{ CK_KEY_STORE_STATUS, "Key store status", "Response to key store status", "" },
	{ CK_KEY_RELAY_NEXT_HOP_REQUEST, "Key relay next hop request", "Response to key relay next hop request", "" },
	{ CK_KEY_RELAY_REQUEST_NOTIFICATION, "Key relay request notification", "Key relay request", "" },
	{ CK_RESPONSE_TO_KEY_RELAY_REQUEST, "Response to key relay request", "Acknowledgement", "" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program wire_ck_km = { QKDN_CK_KM, QKDN_CK_KM_V1, "Ck", qkdn_ck_km_1, km_procedures, true };
const struct rtls_program wire_ck = { QKDN_CK, QKDN_CK_V1, "Ck", NULL, controller_procedures, true };

/* ---- served ------------------------------------------------------------------------------------------------ */

static struct km_route route_of(const ck_route *r)
{
	return (struct km_route){ r->nodes.nodes_len, (const char *const *)r->nodes.nodes_val };
}

static void reservation_result(const struct km_answer *answer, void *result)
{
	const struct km_ck_reservation_answer *a = (const struct km_ck_reservation_answer *)answer;
	ck_km_reservation_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->link = xstrdup(a->link ? a->link : "");
	r->link_offset = a->link_offset;
	wire_id(&a->ksa_pool, r->ksa_pool);
	r->ksa_offset = a->ksa_offset;
}

bool_t ck_km_key_reservation_request_1_svc(ck_km_reservation_args *a, ck_km_reservation_result *result,
                                           struct svc_req *rq)
{
	struct km_ck_reservation m = { .trace = wire_to_id(a->header.trace),
		                       .relay = wire_to_id(a->relay),
		                       .route = route_of(&a->route),
		                       .len = a->len,
		                       .expires = a->expires };

	(void)result;
	return wire_receive(rq, KM_CK_RESERVATION, &m, reservation_result, (xdrproc_t)xdr_ck_km_reservation_result);
}

static void plain_result(const struct km_answer *answer, void *result)
{
	wire_outcome(answer, result);
}

bool_t ck_km_key_relay_request_1_svc(ck_km_relay_args *a, ck_result *result, struct svc_req *rq)
{
	struct km_ck_relay m = { .trace = wire_to_id(a->header.trace),
		                 .relay = wire_to_id(a->relay),
		                 .route = route_of(&a->route),
		                 .link = a->link,
		                 .link_offset = a->link_offset,
		                 .len = a->len,
		                 .ksa_pool = wire_to_id(a->ksa_pool),
		                 .ksa_offset = a->ksa_offset,
		                 .expires = a->expires };

	(void)result;
	return wire_receive(rq, KM_CK_RELAY, &m, plain_result, (xdrproc_t)xdr_ck_result);
}

static bool_t relay_id(ck_km_relay_id_args *a, enum km_message message, struct svc_req *rq)
{
	struct km_ck_relay_id m = { .trace = wire_to_id(a->header.trace), .relay = wire_to_id(a->relay) };

	return wire_receive(rq, message, &m, plain_result, (xdrproc_t)xdr_ck_result);
}

bool_t ck_km_key_allocation_request_1_svc(ck_km_relay_id_args *a, ck_result *result, struct svc_req *rq)
{
	(void)result;
	return relay_id(a, KM_CK_ALLOCATION, rq);
}

bool_t ck_km_void_1_svc(ck_km_relay_id_args *a, ck_result *result, struct svc_req *rq)
{
	(void)result;
	return relay_id(a, KM_CK_VOID, rq);
}

/* ---- called ---------------------------------------------------------------------------------------------------- */

static void register_args(const void *message, void *args, void **room)
{
	const struct km_ck_register *m = message;
	ck_register_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	a->km = (char *)m->km;
}

static void register_answer(void *result, void *answer, void **room)
{
	ck_register_result *r = result;
	struct km_ck_register_answer *a = answer;

	(void)room;
	a->controller = r->controller;
	a->distributed = r->mode == CK_DISTRIBUTED;
	a->report_interval = r->report_interval;
}

static void link_status_args(const void *message, void *args, void **room)
{
	const struct km_ck_link_status *m = message;
	ck_link_status_args *a = args;
	qkdn_link_state *links = xcalloc(m->count, sizeof *links);

	wire_id(&m->trace, a->header.trace);
	a->km = (char *)m->km;
	a->links.links_len = m->count;
	a->links.links_val = *room = links;
	for (uint32_t i = 0; i < m->count; i++)
		links[i] = (qkdn_link_state){ .link = (char *)m->links[i].link,
			                    .peer = (char *)m->links[i].peer,
			                    .up = m->links[i].up,
			                    .stock = m->links[i].stock,
			                    .generation_rate = m->links[i].generation_rate,
			                    .consumption_rate = m->links[i].consumption_rate,
			                    .qber_ppm = m->links[i].qber_ppm,
			                    .reported_at = m->links[i].reported_at };
}

static void store_status_args(const void *message, void *args, void **room)
{
	const struct km_ck_key_store_status *m = message;
	ck_key_store_status_args *a = args;
	ck_pool_state *pools = xcalloc(m->count, sizeof *pools);

	wire_id(&m->trace, a->header.trace);
	a->km = (char *)m->km;
	a->pools.pools_len = m->count;
	a->pools.pools_val = *room = pools;
	for (uint32_t i = 0; i < m->count; i++)
		pools[i] = (ck_pool_state){ .peer = (char *)m->pools[i].peer,
			                    .stock = m->pools[i].stock,
			                    .low_water = m->pools[i].low_water,
			                    .high_water = m->pools[i].high_water,
			                    .consumption_rate = m->pools[i].consumption_rate };
}

static void next_hop_args(const void *message, void *args, void **room)
{
	const struct km_ck_next_hop *m = message;
	ck_next_hop_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	wire_id(&m->relay, a->relay);
	a->source = (char *)m->source;
	a->destination = (char *)m->destination;
	a->visited.visited_len = m->visited.count;
	a->visited.visited_val = (qkdn_name *)m->visited.nodes;
	a->excluded.excluded_len = m->excluded_count;
	a->excluded.excluded_val = (qkdn_name *)m->excluded;
	a->hops_left = m->hops_left;
	a->len = m->len;
	a->alternatives = m->alternatives;
}

static void next_hop_answer(void *result, void *answer, void **room)
{
	ck_next_hop_result *r = result;
	struct km_ck_next_hop_answer *a = answer;

	(void)room;
	a->next_hop = r->next_hop;
	a->hops_left = r->hops_left;
	a->alternative_count = r->alternatives.alternatives_len;
	a->alternatives = (const char *const *)r->alternatives.alternatives_val;
}

static void notification_args(const void *message, void *args, void **room)
{
	const struct km_ck_notification *m = message;
	ck_relay_notification_args *a = args;
	ck_hop *excluded = xcalloc(m->excluded_count, sizeof *excluded);

	wire_id(&m->trace, a->header.trace);
	wire_id(&m->relay, a->relay);
	a->source = (char *)m->source;
	a->destination = (char *)m->destination;
	a->excluded.excluded_len = m->excluded_count;
	a->excluded.excluded_val = *room = excluded;
	for (uint32_t i = 0; i < m->excluded_count; i++)
		excluded[i] = (ck_hop){ (char *)m->excluded[i].from, (char *)m->excluded[i].to };
	a->shares = m->shares;
	a->alternatives = m->alternatives;
	a->len = m->len;
}

static void notification_answer(void *result, void *answer, void **room)
{
	ck_relay_request_result *r = result;
	struct km_ck_notification_answer *a = answer;

	(void)room;
	a->count = r->routes.routes_len < KM_SHARES_MAX ? r->routes.routes_len : KM_SHARES_MAX;
	for (uint32_t i = 0; i < a->count; i++)
		a->routes[i] = route_of(&r->routes.routes_val[i]);
	for (; a->alternative_count < r->alternatives.alternatives_len && a->alternative_count < KM_ALTERNATIVES_MAX;
	     a->alternative_count++)
		a->alternatives[a->alternative_count] = route_of(&r->alternatives.alternatives_val[a->alternative_count]);
}

static void response_args(const void *message, void *args, void **room)
{
	const struct km_ck_response *m = message;
	ck_relay_response_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	wire_id(&m->relay, a->relay);
	a->status = (qkdn_status)m->status;
	a->text = (char *)m->text;
	a->len = m->len;
	a->failed = (ck_hop){ (char *)m->failed.from, (char *)m->failed.to };
}

#define CK_ROW(message, procedure, xdr_args, xdr_result, result, to_args, to_answer)                          \
	{                                                                                                     \
		message, "controller", QKDN_CK, QKDN_CK_V1, procedure, (xdrproc_t)xdr_args,                   \
			(xdrproc_t)xdr_result, sizeof(result), to_args, to_answer                              \
	}

const struct wire_row wire_ck_rows[] = {
	CK_ROW(KM_CK_REGISTER, CK_REGISTER, xdr_ck_register_args, xdr_ck_register_result, ck_register_result,
	       register_args, register_answer),
	CK_ROW(KM_CK_LINK_STATUS, CK_LINK_STATUS, xdr_ck_link_status_args, xdr_ck_result, ck_result, link_status_args,
	       NULL),
	CK_ROW(KM_CK_KEY_STORE_STATUS, CK_KEY_STORE_STATUS, xdr_ck_key_store_status_args, xdr_ck_result, ck_result,
	       store_status_args, NULL),
	CK_ROW(KM_CK_NEXT_HOP, CK_KEY_RELAY_NEXT_HOP_REQUEST, xdr_ck_next_hop_args, xdr_ck_next_hop_result,
	       ck_next_hop_result, next_hop_args, next_hop_answer),
	CK_ROW(KM_CK_NOTIFICATION, CK_KEY_RELAY_REQUEST_NOTIFICATION, xdr_ck_relay_notification_args,
	       xdr_ck_relay_request_result, ck_relay_request_result, notification_args, notification_answer),
	CK_ROW(KM_CK_RESPONSE, CK_RESPONSE_TO_KEY_RELAY_REQUEST, xdr_ck_relay_response_args, xdr_ck_result, ck_result,
	       response_args, NULL),
	{ .role = NULL },
};
