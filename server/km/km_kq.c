/* km_kq.c - reference points Kq-1 and Kq-2: the KM's end towards its QKD modules. */
#include <stdlib.h>

#include "kq1.h"
#include "kq2.h"
#include "wire.h"

void qkdn_kq1_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */
void qkdn_kq2_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

int qkdn_kq1_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

int qkdn_kq2_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- served ----------------------------------------------------------------------------------------- */

static const struct rtls_procedure kq1_procedures[] = {
	{ KQ1_KEY_SUPPLY, "Key supply", "Response to key supply", "module" },
	{ KQ1_SYNC, "Key supply synchronization", "Response to key supply synchronization", "module" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_procedure kq2_procedures[] = {
	{ KQ2_REGISTER, "Module registration", "Response to module registration", "module" },
	{ KQ2_ALARM, "Module alarm", "Response to module alarm", "module" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program wire_kq1 = { QKDN_KQ1, QKDN_KQ1_V1, "Kq-1", qkdn_kq1_1, kq1_procedures, true };
const struct rtls_program wire_kq2 = { QKDN_KQ2, QKDN_KQ2_V1, "Kq-2", qkdn_kq2_1, kq2_procedures, true };

static void progress_result(const struct km_answer *answer, void *result)
{
	const struct km_progress *p = (const struct km_progress *)answer;
	kq1_progress *r = result;

	wire_outcome(answer, &r->outcome);
	r->next_sequence = p->next_sequence;
	r->credit = p->credit;
}

static void blocks_of(const kq1_block *from, u_int count, struct km_block *to)
{
	for (u_int i = 0; i < count; i++) {
		to[i].sequence = from[i].sequence;
		to[i].generated_at = from[i].generated_at;
		to[i].qber_ppm = from[i].qber_ppm;
		to[i].bytes = (const uint8_t *)from[i].bytes.qkdn_key_block_val;
		to[i].len = from[i].bytes.qkdn_key_block_len;
	}
}

bool_t kq1_key_supply_1_svc(kq1_key_supply_args *a, kq1_progress *result, struct svc_req *rq)
{
	struct km_block blocks[KQ1_BLOCKS_MAX];
	struct km_key_supply m = { .trace = wire_to_id(a->header.trace),
		                   .link = a->link,
		                   .module = a->module,
		                   .protocol = a->protocol,
		                   .blocks = blocks,
		                   .count = a->blocks.blocks_len };

	(void)result;
	blocks_of(a->blocks.blocks_val, a->blocks.blocks_len, blocks);
	return wire_receive(rq, KM_KEY_SUPPLY, &m, progress_result, (xdrproc_t)xdr_kq1_progress);
}

bool_t kq1_sync_1_svc(kq1_sync_args *a, kq1_progress *result, struct svc_req *rq)
{
	struct km_key_sync m = { .trace = wire_to_id(a->header.trace),
		                 .link = a->link,
		                 .module = a->module,
		                 .last_sequence = a->last_sequence };

	(void)result;
	return wire_receive(rq, KM_KEY_SYNC, &m, progress_result, (xdrproc_t)xdr_kq1_progress);
}

static void plain_result(const struct km_answer *answer, void *result)
{
	wire_outcome(answer, result);
}

bool_t kq2_register_1_svc(kq2_register_args *a, kq2_result *result, struct svc_req *rq)
{
	struct km_register m = { .trace = wire_to_id(a->header.trace),
		                 .module = a->module,
		                 .peer_module = a->peer_module,
		                 .link = a->link,
		                 .protocol = a->protocol,
		                 .pull = a->mode == KQ2_PULL,
		                 .block_size = a->block_size };

	(void)result;
	return wire_receive(rq, KM_REGISTER, &m, plain_result, (xdrproc_t)xdr_kq2_result);
}

bool_t kq2_alarm_1_svc(kq2_alarm_args *a, kq2_result *result, struct svc_req *rq)
{
	struct km_alarm m = { .trace = wire_to_id(a->header.trace),
		              .module = a->module,
		              .link = a->link,
		              .cause = a->cause,
		              .text = a->text,
		              .raised_at = a->raised_at,
		              .major = a->severity == KQ2_MAJOR,
		              .cleared = a->cleared };

	(void)result;
	return wire_receive(rq, KM_ALARM, &m, plain_result, (xdrproc_t)xdr_kq2_result);
}

/* ---- called --------------------------------------------------------------------------------------------- */

static const struct rtls_procedure kq1_module_procedures[] = {
	{ KQ1_KEY_REQUEST, "QKD-key request", "Response to QKD-key request", "" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_procedure kq2_module_procedures[] = {
	{ KQ2_START, "Module start", "Response to module start", "" },
	{ KQ2_STOP, "Module stop", "Response to module stop", "" },
	{ KQ2_STATUS, "Module status request", "Response to module status request", "" },
	{ KQ2_FLOW_CONTROL, "Flow control", "Response to flow control", "" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program wire_kq1_module = { QKDN_KQ1_MODULE, QKDN_KQ1_MODULE_V1, "Kq-1", NULL,
	                                      kq1_module_procedures, true };
const struct rtls_program wire_kq2_module = { QKDN_KQ2_MODULE, QKDN_KQ2_MODULE_V1, "Kq-2", NULL,
	                                      kq2_module_procedures, true };

static void link_args(const void *message, void *args, void **room)
{
	const struct km_link_command *m = message;
	kq2_link_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	a->link = (char *)m->link;
}

static void status_answer(void *result, void *answer, void **room)
{
	const kq2_status_result *r = result;
	struct km_module_status_answer *a = answer;

	(void)room;
	a->status = (struct km_module_status){ .started = r->started,
		                               .running = r->running,
		                               .secret_key_rate = r->secret_key_rate,
		                               .qber_ppm = r->qber_ppm,
		                               .buffered = r->buffered,
		                               .next_sequence = r->next_sequence,
		                               .dropped = r->dropped };
}

static void flow_args(const void *message, void *args, void **room)
{
	const struct km_flow_control *m = message;
	kq2_flow_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	a->link = (char *)m->link;
	a->credit = m->credit;
}

static void pull_args(const void *message, void *args, void **room)
{
	const struct km_key_pull *m = message;
	kq1_key_request_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	a->link = (char *)m->link;
	a->next_sequence = m->next_sequence;
	a->blocks = m->blocks;
}

static void pull_answer(void *result, void *answer, void **room)
{
	kq1_key_request_result *r = result;
	struct km_key_pull_answer *a = answer;
	struct km_block *blocks = xcalloc(r->blocks.blocks_len, sizeof *blocks);

	blocks_of(r->blocks.blocks_val, r->blocks.blocks_len, blocks);
	a->protocol = r->protocol;
	a->blocks = *room = blocks;
	a->count = r->blocks.blocks_len;
}

#define KQ2_ROW(message, procedure, xdr, to_args)                                                            \
	{                                                                                                    \
		message, "module", QKDN_KQ2_MODULE, QKDN_KQ2_MODULE_V1, procedure, (xdrproc_t)xdr,           \
			(xdrproc_t)xdr_kq2_result, sizeof(kq2_result), to_args, NULL                          \
	}

const struct wire_row wire_kq_rows[] = {
	{ KM_KEY_PULL, "module", QKDN_KQ1_MODULE, QKDN_KQ1_MODULE_V1, KQ1_KEY_REQUEST,
	  (xdrproc_t)xdr_kq1_key_request_args, (xdrproc_t)xdr_kq1_key_request_result, sizeof(kq1_key_request_result),
	  pull_args, pull_answer },
	KQ2_ROW(KM_START, KQ2_START, xdr_kq2_link_args, link_args),
	KQ2_ROW(KM_STOP, KQ2_STOP, xdr_kq2_link_args, link_args),
	{ KM_MODULE_STATUS, "module", QKDN_KQ2_MODULE, QKDN_KQ2_MODULE_V1, KQ2_STATUS, (xdrproc_t)xdr_kq2_link_args,
	  (xdrproc_t)xdr_kq2_status_result, sizeof(kq2_status_result), link_args, status_answer },
	KQ2_ROW(KM_FLOW_CONTROL, KQ2_FLOW_CONTROL, xdr_kq2_flow_args, flow_args),
	{ .role = NULL },
};
