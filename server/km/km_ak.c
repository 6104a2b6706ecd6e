/* km_ak.c - reference point Ak: the KSA's end. */
#include <stdlib.h>

#include "ak.h"
#include "wire.h"

void qkdn_ak_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

int qkdn_ak_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static const struct rtls_procedure procedures[] = {
	{ AK_KEY_REQUEST, "Key request", "Response to key request", "app" },
	{ AK_KEY_REQUEST_WITH_ID, "Key request with ID", "Response to key request", "app" },
	{ AK_STATUS, "Status request", "Response to status request", "app" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program wire_ak = { QKDN_AK, QKDN_AK_V1, "Ak", qkdn_ak_1, procedures, true };

enum { KEYS_ON_STACK = 4 };

/* What keys cost the KM's two threads beyond the call, in microseconds: of an application that asks for as many as it can,
 * one at a time, 16 were measured; the rest is by the profile. */
enum { COST_OF_REQUEST = 15, COST_OF_REQUEST_WITH_ID = 5, COST_OF_KEY = 2 };

/* Encodes the keys from where they lie: each copy of a key is one more to wipe. */
static void keys_answered(const struct km_answer *answer, void *arg)
{
	const struct km_keys *keys = (const struct km_keys *)answer;
	uint32_t count = answer->err.status == ST_OK ? keys->count : 0;
	ak_key some[KEYS_ON_STACK], *list = count <= KEYS_ON_STACK ? some : xcalloc(count, sizeof *list);
	ak_keys_result r = { .keys = { count, list } };
	uint8_t *bytes = (uint8_t *)(uintptr_t)keys->bytes;

	r.outcome.status = (qkdn_status)answer->err.status;
	r.outcome.text = (char *)(uintptr_t)answer->err.text;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t len = keys->key_lens != NULL ? keys->key_lens[i] : keys->key_len;

		wire_id(&keys->key_ids[i], list[i].key_id);
		list[i].bytes.qkdn_key_len = len;
		list[i].bytes.qkdn_key_val = (char *)bytes;
		bytes += len;
	}
	rtls_reply_lent(arg, (xdrproc_t)xdr_ak_keys_result, &r);
	if (list != some)
		free(list);
}

bool_t ak_key_request_1_svc(ak_key_request_args *a, ak_keys_result *result, struct svc_req *rq)
{
	struct km_key_request m = { .trace = wire_to_id(a->header.trace),
		                    .source = a->source,
		                    .destination = a->destination,
		                    .number = a->number,
		                    .size = a->size,
		                    .priority = a->qos.priority,
		                    .deadline = a->qos.deadline,
		                    .more_destinations = a->more_destinations.more_destinations_len };

	(void)result;
	for (u_int i = 0; i < a->extensions.extensions_len; i++)
		if (a->extensions.extensions_val[i].mandatory)
			m.mandatory_extension = a->extensions.extensions_val[i].name;
	rtls_costs(rq, COST_OF_REQUEST + COST_OF_KEY * m.number);
	rtls_args_are_keyless(rq);
	return wire_receive_as(rq, KM_KEY_REQUEST, &m, keys_answered);
}

bool_t ak_key_request_with_id_1_svc(ak_key_request_with_id_args *a, ak_keys_result *result, struct svc_req *rq)
{
	_Static_assert(sizeof(qkdn_id) == sizeof(struct id), "an ID is its bytes");
	struct km_key_request_with_id m = { .trace = wire_to_id(a->header.trace),
		                            .source = a->source,
		                            .destination = a->destination,
		                            .key_ids = (const struct id *)a->key_ids.key_ids_val,
		                            .count = a->key_ids.key_ids_len };

	(void)result;
	rtls_costs(rq, COST_OF_REQUEST_WITH_ID + COST_OF_KEY * m.count);
	rtls_args_are_keyless(rq);
	return wire_receive_as(rq, KM_KEY_REQUEST_WITH_ID, &m, keys_answered);
}

static void status_result(const struct km_answer *answer, void *result)
{
	const struct km_status_answer *a = (const struct km_status_answer *)answer;
	ak_status_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->source_km = xstrdup(a->source_km ? a->source_km : "");
	r->destination_km = xstrdup(a->destination_km ? a->destination_km : "");
	r->key_size = a->key_size;
	r->min_key_size = a->min_key_size;
	r->max_key_size = a->max_key_size;
	r->max_keys_per_request = a->max_keys_per_request;
	r->stored_keys = a->stored_keys;
	r->max_stored_keys = a->max_stored_keys;
}

bool_t ak_status_1_svc(ak_status_args *a, ak_status_result *result, struct svc_req *rq)
{
	struct km_status_request m = { .trace = wire_to_id(a->header.trace),
		                       .source = a->source,
		                       .destination = a->destination };

	(void)result;
	return wire_receive(rq, KM_STATUS, &m, status_result, (xdrproc_t)xdr_ak_status_result);
}
