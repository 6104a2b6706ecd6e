/* km_mk.c - reference point Mk: the KM's end towards its manager. */
#include <stdlib.h>

#include "mk.h"
#include "wire.h"

void qkdn_mk_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

int qkdn_mk_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static const struct rtls_procedure procedures[] = {
	{ MK_STATUS, "KM status request", "Response to KM status request", "manager admin" },
	{ MK_POOLS, "Key pool status request", "Response to key pool status request", "manager admin" },
	{ MK_MODULES, "QKD module status request", "Response to QKD module status request", "manager admin" },
	{ MK_RELAYS, "Key relay status request", "Response to key relay status request", "manager admin" },
	{ MK_CHANGE_MASTER_KEY, "Master key change request", "Response to master key change request", "manager admin" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program wire_mk = { QKDN_MK, QKDN_MK_V1, "Mk", qkdn_mk_1, procedures, true };

static void status_result(const struct km_answer *answer, void *result)
{
	const struct km_mk_status_answer *a = (const struct km_mk_status_answer *)answer;
	const struct km_counters none = { 0 }, *c = a->counters != NULL ? a->counters : &none;
	mk_status_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->km = xstrdup(a->km ? a->km : "");
	r->controller = xstrdup(a->controller ? a->controller : "");
	r->registered = a->registered;
	r->keys_supplied = c->keys_supplied;
	r->keys_fetched = c->keys_fetched;
	r->requests_refused = c->requests_refused;
	r->blocks_received = c->blocks_received;
	r->blocks_agreed = c->blocks_agreed;
	r->blocks_voided = c->blocks_voided;
	r->blocks_differing = c->blocks_differing;
	r->bytes_voided = c->bytes_voided;
	r->relays_sent = c->relays_sent;
	r->relays_forwarded = c->relays_forwarded;
	r->relays_received = c->relays_received;
	r->relays_refused = c->relays_refused;
	r->relay_bytes = c->relay_bytes;
	r->remembering = a->remembering;
	r->routes_remembered = c->routes_remembered;
	r->pad_lost = c->pad_lost;
	r->pad_unsent = c->pad_unsent;
	r->bytes_discarded = c->bytes_discarded;
}

bool_t mk_status_1_svc(qkdn_request *a, mk_status_result *result, struct svc_req *rq)
{
	struct id trace = wire_to_id(a->header.trace);

	(void)result;
	return wire_receive(rq, KM_MK_STATUS, &trace, status_result, (xdrproc_t)xdr_mk_status_result);
}

static void pools_result(const struct km_answer *answer, void *result)
{
	const struct km_mk_pools_answer *a = (const struct km_mk_pools_answer *)answer;
	mk_pools_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->pools.pools_len = a->count;
	r->pools.pools_val = xcalloc(a->count, sizeof *r->pools.pools_val);
	for (uint32_t i = 0; i < a->count; i++) {
		const struct ks_pool *from = &a->pools[i];
		mk_pool *to = &r->pools.pools_val[i];

		wire_id(&from->desc.id, to->id);
		to->kind = (mk_pool_kind)from->desc.kind;
		to->source = xstrdup(from->desc.source);
		to->destination = xstrdup(from->desc.destination);
		to->link = xstrdup(from->desc.link);
		to->stock = from->stock;
		to->unready = from->unready;
		to->assigned = from->assigned;
		to->taken_up_to = from->head;
		to->ready_up_to = from->ready;
		to->voided = from->voided;
		to->shares = a->shares[i];
		to->shares_required = a->shares_required[i];
		to->replaced = from->retired;
	}
}

bool_t mk_pools_1_svc(qkdn_request *a, mk_pools_result *result, struct svc_req *rq)
{
	struct id trace = wire_to_id(a->header.trace);

	(void)result;
	return wire_receive(rq, KM_MK_POOLS, &trace, pools_result, (xdrproc_t)xdr_mk_pools_result);
}

static void module_of(const struct km_mk_module *from, mk_module *to)
{
	to->link = xstrdup(from->link);
	to->module = xstrdup(from->module);
	to->peer = xstrdup(from->peer);
	to->state = xstrdup(from->state);
	to->secret_key_rate = from->status.secret_key_rate;
	to->qber_ppm = from->status.qber_ppm;
	to->buffered = from->status.buffered;
	to->dropped = from->status.dropped;
	to->alarms.alarms_len = from->alarm_count;
	to->alarms.alarms_val = xcalloc(from->alarm_count, sizeof *to->alarms.alarms_val);
	for (uint32_t i = 0; i < from->alarm_count; i++) {
		mk_alarm *alarm = &to->alarms.alarms_val[i];

		alarm->cause = xstrdup(from->alarms[i].cause);
		alarm->text = xstrdup(from->alarms[i].text);
		alarm->major = from->alarms[i].major;
		alarm->raised_at = from->alarms[i].raised_at;
	}
}

static void modules_result(const struct km_answer *answer, void *result)
{
	const struct km_mk_modules_answer *a = (const struct km_mk_modules_answer *)answer;
	mk_modules_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->modules.modules_len = a->count;
	r->modules.modules_val = xcalloc(a->count, sizeof *r->modules.modules_val);
	for (uint32_t i = 0; i < a->count; i++)
		module_of(&a->modules[i], &r->modules.modules_val[i]);
}

bool_t mk_modules_1_svc(qkdn_request *a, mk_modules_result *result, struct svc_req *rq)
{
	struct id trace = wire_to_id(a->header.trace);

	(void)result;
	return wire_receive(rq, KM_MK_MODULES, &trace, modules_result, (xdrproc_t)xdr_mk_modules_result);
}

static void relays_result(const struct km_answer *answer, void *result)
{
	const struct km_mk_relays_answer *a = (const struct km_mk_relays_answer *)answer;
	mk_relays_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->relays.relays_len = a->count;
	r->relays.relays_val = xcalloc(a->count, sizeof *r->relays.relays_val);
	for (uint32_t i = 0; i < a->count; i++) {
		mk_relay *to = &r->relays.relays_val[i];

		wire_id(&a->relays[i].relay, to->relay);
		to->source = xstrdup(a->relays[i].source);
		to->destination = xstrdup(a->relays[i].destination);
		to->method = xstrdup(a->relays[i].method);
		to->stage = xstrdup(a->relays[i].stage);
		to->share = a->relays[i].share;
		to->shares = a->relays[i].shares;
		to->remembered = a->relays[i].remembered;
		to->len = a->relays[i].len;
	}
}

bool_t mk_relays_1_svc(qkdn_request *a, mk_relays_result *result, struct svc_req *rq)
{
	struct id trace = wire_to_id(a->header.trace);

	(void)result;
	return wire_receive(rq, KM_MK_RELAYS, &trace, relays_result, (xdrproc_t)xdr_mk_relays_result);
}

static void master_key_result(const struct km_answer *answer, void *result)
{
	const struct km_mk_master_key_answer *a = (const struct km_mk_master_key_answer *)answer;
	mk_master_key_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->km = xstrdup(a->km ? a->km : "");
}

bool_t mk_change_master_key_1_svc(qkdn_request *a, mk_master_key_result *result, struct svc_req *rq)
{
	struct id trace = wire_to_id(a->header.trace);

	(void)result;
	return wire_receive(rq, KM_MK_CHANGE_MASTER_KEY, &trace, master_key_result, (xdrproc_t)xdr_mk_master_key_result);
}
