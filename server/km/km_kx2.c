/* km_kx2.c - reference point Kx-2: KSA to KSA, both ends. No key bytes. */
#include <stdlib.h>

#include "kx2.h"
#include "wire.h"

void qkdn_kx2_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

int qkdn_kx2_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static const struct rtls_procedure procedures[] = {
	{ KX2_OPEN, "KSA pool opening", "Response to KSA pool opening", "km" },
	{ KX2_VERIFY, "Key verification", "Response to key verification", "km" },
	{ KX2_ASSIGN, "Key assignment", "Response to key assignment", "km" },
	{ KX2_VOID, "Key void", "Response to key void", "km" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program wire_kx2 = { QKDN_KX2, QKDN_KX2_V1, "Kx-2", qkdn_kx2_1, procedures, true };

/* ---- served -------------------------------------------------------------------------------------------- */

static void open_result(const struct km_answer *answer, void *result)
{
	const struct km_pool_open_answer *a = (const struct km_pool_open_answer *)answer;
	kx2_open_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->opening = a->opening;
	r->used = a->used;
	r->base = a->base;
	r->ready = a->ready;
}

bool_t kx2_open_1_svc(kx2_open_args *a, kx2_open_result *result, struct svc_req *rq)
{
	struct km_pool_open m = { .trace = wire_to_id(a->header.trace),
		                  .pool = wire_to_id(a->pool),
		                  .opening = a->opening,
		                  .used = a->used,
		                  .taken = a->taken,
		                  .ready = a->ready };

	(void)result;
	return wire_receive(rq, KM_POOL_OPEN, &m, open_result, (xdrproc_t)xdr_kx2_open_result);
}

static void plain_result(const struct km_answer *answer, void *result)
{
	wire_outcome(answer, result);
}

bool_t kx2_verify_1_svc(kx2_verify_args *a, kx2_result *result, struct svc_req *rq)
{
	struct km_verify m = { .trace = wire_to_id(a->header.trace),
		               .pool = wire_to_id(a->pool),
		               .offset = a->offset,
		               .len = a->len };

	(void)result;
	memcpy(m.tag, a->tag, sizeof m.tag);
	return wire_receive(rq, KM_VERIFY, &m, plain_result, (xdrproc_t)xdr_kx2_result);
}

static void assign_result(const struct km_answer *answer, void *result)
{
	const struct km_assign_answer *a = (const struct km_assign_answer *)answer;
	kx2_assign_result *r = result;

	wire_outcome(answer, &r->outcome);
	if (answer->err.status != ST_OK)
		return;
	r->results.results_len = a->count;
	r->results.results_val = xcalloc(a->count, sizeof *r->results.results_val);
	for (uint32_t i = 0; i < a->count; i++)
		r->results.results_val[i] = (qkdn_status)a->results[i];
}

bool_t kx2_assign_1_svc(kx2_assign_args *a, kx2_assign_result *result, struct svc_req *rq)
{
	u_int count = a->assignments.assignments_len;
	struct km_assignment *rows = xcalloc(count, sizeof *rows);
	struct km_assign m = { .trace = wire_to_id(a->header.trace),
		               .pool = wire_to_id(a->pool),
		               .opening = a->opening,
		               .base = a->base,
		               .expires = a->expires,
		               .unused_below = a->unused_below,
		               .count = count,
		               .assignments = rows };

	(void)result;
	for (u_int i = 0; i < count; i++) {
		const kx2_assignment *one = &a->assignments.assignments_val[i];

		rows[i].offset = one->offset;
		rows[i].key_len = one->key_len;
		rows[i].count = one->count;
		rows[i].source = one->source;
		rows[i].destination = one->destination;
	}
	wire_receive(rq, KM_ASSIGN, &m, assign_result, (xdrproc_t)xdr_kx2_assign_result);
	free(rows);
	return FALSE;
}

bool_t kx2_void_1_svc(kx2_void_args *a, kx2_result *result, struct svc_req *rq)
{
	struct km_void m = { .trace = wire_to_id(a->header.trace),
		             .pool = wire_to_id(a->pool),
		             .offset = a->offset,
		             .len = a->len };

	(void)result;
	return wire_receive(rq, KM_VOID, &m, plain_result, (xdrproc_t)xdr_kx2_result);
}

/* ---- called ------------------------------------------------------------------------------------------------ */

static void open_args(const void *message, void *args, void **room)
{
	const struct km_pool_open *m = message;
	kx2_open_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	wire_id(&m->pool, a->pool);
	a->opening = m->opening;
	a->used = m->used;
	a->taken = m->taken;
	a->ready = m->ready;
}

static void open_answer(void *result, void *answer, void **room)
{
	kx2_open_result *r = result;
	struct km_pool_open_answer *a = answer;

	(void)room;
	a->opening = r->opening;
	a->used = r->used;
	a->base = r->base;
	a->ready = r->ready;
}

static void verify_args(const void *message, void *args, void **room)
{
	const struct km_verify *m = message;
	kx2_verify_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	wire_id(&m->pool, a->pool);
	a->offset = m->offset;
	a->len = m->len;
	memcpy(a->tag, m->tag, sizeof a->tag);
}

static void assign_args(const void *message, void *args, void **room)
{
	const struct km_assign *m = message;
	kx2_assign_args *a = args;
	kx2_assignment *rows = xcalloc(m->count, sizeof *rows);

	wire_id(&m->trace, a->header.trace);
	wire_id(&m->pool, a->pool);
	a->opening = m->opening;
	a->base = m->base;
	a->expires = m->expires;
	a->unused_below = m->unused_below;
	a->assignments.assignments_len = m->count;
	a->assignments.assignments_val = *room = rows;
	for (uint32_t i = 0; i < m->count; i++) {
		rows[i].offset = m->assignments[i].offset;
		rows[i].key_len = m->assignments[i].key_len;
		rows[i].count = m->assignments[i].count;
		rows[i].source = (char *)m->assignments[i].source;
		rows[i].destination = (char *)m->assignments[i].destination;
	}
}

static void assign_answer(void *result, void *answer, void **room)
{
	kx2_assign_result *r = result;
	struct km_assign_answer *a = answer;
	enum status *results = xcalloc(r->results.results_len, sizeof *results);

	for (u_int i = 0; i < r->results.results_len; i++)
		results[i] = (enum status)r->results.results_val[i];
	a->count = r->results.results_len;
	a->results = *room = results;
}

static void void_args(const void *message, void *args, void **room)
{
	const struct km_void *m = message;
	kx2_void_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	wire_id(&m->pool, a->pool);
	a->offset = m->offset;
	a->len = m->len;
}

const struct wire_row wire_kx2_rows[] = {
	{ KM_POOL_OPEN, "km", QKDN_KX2, QKDN_KX2_V1, KX2_OPEN, (xdrproc_t)xdr_kx2_open_args,
	  (xdrproc_t)xdr_kx2_open_result, sizeof(kx2_open_result), open_args, open_answer },
	{ KM_VERIFY, "km", QKDN_KX2, QKDN_KX2_V1, KX2_VERIFY, (xdrproc_t)xdr_kx2_verify_args,
	  (xdrproc_t)xdr_kx2_result, sizeof(kx2_result), verify_args, NULL },
	{ KM_ASSIGN, "km", QKDN_KX2, QKDN_KX2_V1, KX2_ASSIGN, (xdrproc_t)xdr_kx2_assign_args,
	  (xdrproc_t)xdr_kx2_assign_result, sizeof(kx2_assign_result), assign_args, assign_answer },
	{ KM_VOID, "km", QKDN_KX2, QKDN_KX2_V1, KX2_VOID, (xdrproc_t)xdr_kx2_void_args, (xdrproc_t)xdr_kx2_result,
	  sizeof(kx2_result), void_args, NULL },
	{ .role = NULL },
};
