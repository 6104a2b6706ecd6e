/*
 * quantum_kq1.c - reference point Kq-1: a QKD module supplies QKD-keys to the KMA of its node.
 * Key bytes pass through here and stay nowhere: encoded from the block, or copied into an answer that
 * is wiped when it is sent.
 */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#include "kq1.h"

_Static_assert(SUPPLY_BLOCKS_MAX <= KQ1_BLOCKS_MAX, "a supply fits a message");
_Static_assert(SUPPLY_BYTES_MAX >= QKDN_KEY_BLOCK_MAX, "the largest block fits a supply");

void qkdn_kq1_module_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

static char protocol[] = "BB84-decoy";

/* ---- programs --------------------------------------------------------------------------- */

static const struct rtls_procedure km_procedures[] = {
	{ KQ1_KEY_SUPPLY, "Key supply", "Response to key supply", "" },
	{ KQ1_SYNC, "Key supply synchronization", "Response to key supply synchronization", "" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_procedure module_procedures[] = {
	{ KQ1_KEY_REQUEST, "QKD-key request", "Response to QKD-key request", "km" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program quantum_kq1 = { QKDN_KQ1, QKDN_KQ1_V1, "Kq-1", NULL, km_procedures, true };
const struct rtls_program quantum_kq1_module = { QKDN_KQ1_MODULE, QKDN_KQ1_MODULE_V1, "Kq-1",
	                                         qkdn_kq1_module_1, module_procedures, true };

int qkdn_kq1_module_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- synchronization -------------------------------------------------------------------- */

static void sync_answered(enum status s, void *result, void *arg)
{
	struct device *d = ((struct device_call *)arg)->device;
	kq1_progress none = { .outcome = { .text = "" } }, *r = result != NULL ? result : &none;

	if (device_answer_is_good(arg, "synchronization", s, (int)r->outcome.status, r->outcome.text))
		device_synchronized(d, r->next_sequence, r->credit);
	else
		device_try_again(d);
}

void quantum_kq1_sync(struct device *d)
{
	kq1_sync_args args = { .link = (char *)qkd_link_name(d->is.link),
		               .module = (char *)d->is.name,
		               .last_sequence = qkd_link_state(d->is.link).next_sequence };
	const struct rtls_call call = { .program = QKDN_KQ1,
		                        .version = QKDN_KQ1_V1,
		                        .procedure = KQ1_SYNC,
		                        .xdr_args = (xdrproc_t)xdr_kq1_sync_args,
		                        .args = &args,
		                        .xdr_result = (xdrproc_t)xdr_kq1_progress,
		                        .result_size = sizeof(kq1_progress),
		                        .timeout_ns = DEVICE_TIMEOUT_S * NS_PER_S,
		                        .done = sync_answered,
		                        .arg = device_call_new(d) };

	device_random_id(d, args.header.trace);
	rtls_peer_call(d->peer, &call);
}

/* ---- key supply (push) ------------------------------------------------------------------ */

static void to_wire(kq1_block *to, const struct key_block *b)
{
	to->sequence = b->sequence;
	to->generated_at = b->generated_at;
	to->qber_ppm = b->qber_ppm;
	to->bytes.qkdn_key_block_val = (char *)b->bytes.bytes;
	to->bytes.qkdn_key_block_len = (u_int)b->bytes.len;
}

static void supply_answered(enum status s, void *result, void *arg)
{
	const kq1_progress *r = result;

	if (s != ST_OK)
		qkd_module_supplied(arg, s, false, 0, 0);
	else
		qkd_module_supplied(arg, (enum status)r->outcome.status, true, r->next_sequence, r->credit);
}

void quantum_kq1_supply(void *device, struct supply *s)
{
	struct device *d = device;
	kq1_block blocks[SUPPLY_BLOCKS_MAX];
	kq1_key_supply_args args = { .link = (char *)qkd_link_name(d->is.link),
		                     .module = (char *)d->is.name,
		                     .protocol = protocol,
		                     .blocks = { .blocks_len = (u_int)s->count, .blocks_val = blocks } };
	const struct rtls_call call = { .program = QKDN_KQ1,
		                        .version = QKDN_KQ1_V1,
		                        .procedure = KQ1_KEY_SUPPLY,
		                        .xdr_args = (xdrproc_t)xdr_kq1_key_supply_args,
		                        .args = &args,
		                        .xdr_result = (xdrproc_t)xdr_kq1_progress,
		                        .result_size = sizeof(kq1_progress),
		                        .timeout_ns = DEVICE_TIMEOUT_S * NS_PER_S,
		                        .done = supply_answered,
		                        .arg = s };

	for (size_t i = 0; i < s->count; i++)
		to_wire(&blocks[i], s->blocks[i]);
	device_random_id(d, args.header.trace);
	rtls_peer_call(d->peer, &call);
}

/* ---- key request (pull) ----------------------------------------------------------------- */

static void refuse(kq1_key_request_result *result, enum status s, const char *text)
{
	result->outcome.status = (qkdn_status)s;
	free(result->outcome.text);
	result->outcome.text = xstrdup(text);
}

/* The answer is freed and wiped by the transport, so it gets copies. */
static void copy_blocks(kq1_key_request_result *result, const struct key_block *const *blocks, size_t count)
{
	result->blocks.blocks_len = (u_int)count;
	result->blocks.blocks_val = xcalloc(count, sizeof(kq1_block));
	for (size_t i = 0; i < count; i++) {
		kq1_block *to = &result->blocks.blocks_val[i];

		to_wire(to, blocks[i]);
		to->bytes.qkdn_key_block_val = xcalloc(1, blocks[i]->bytes.len);
		memcpy(to->bytes.qkdn_key_block_val, blocks[i]->bytes.bytes, blocks[i]->bytes.len);
	}
}

bool_t kq1_key_request_1_svc(kq1_key_request_args *args, kq1_key_request_result *result, struct svc_req *rq)
{
	const struct key_block *blocks[SUPPLY_BLOCKS_MAX];
	struct device *d = rtls_context(rq);
	size_t count;

	memset(result, 0, sizeof *result);
	result->outcome.text = xstrdup("");
	result->protocol = xstrdup(protocol);
	if (strcmp(args->link, qkd_link_name(d->is.link)) != 0) {
		refuse(result, ST_NOT_FOUND, "this module is not of that link");
		return TRUE;
	}
	if (qkd_module_mode(d->module) != MODULE_PULL) {
		refuse(result, ST_UNSUPPORTED, "this module supplies by itself: configure mode = \"pull\"");
		return TRUE;
	}
	count = qkd_module_request(d->module, args->next_sequence, args->blocks, blocks);
	if (count == 0)
		refuse(result, ST_TOO_FEW_KEYS, "no block is ready yet: ask again later");
	else
		copy_blocks(result, blocks, count);
	return TRUE;
}
