/* km_kx1.c - reference point Kx-1: KMA to KMA, both ends. */
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>

#include "kx1.h"
#include "wire.h"

void qkdn_kx1_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

int qkdn_kx1_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static const struct rtls_procedure procedures[] = {
	{ KX1_OPEN, "Link opening", "Response to link opening", "km" },
	{ KX1_SYNC, "Key synchronization", "Response to key synchronization", "km" },
	{ KX1_ALLOCATE, "Key allocation", "Response to key allocation", "km" },
	{ KX1_RELAY, "Key relay", "Response to key relay", "km" },
	{ KX1_COMPLETION, "Key relay completion notification", "Response to key relay completion notification", "km" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program wire_kx1 = { QKDN_KX1, QKDN_KX1_V1, "Kx-1", qkdn_kx1_1, procedures, true };

/* The arguments begin with trace, relay and group, 16 bytes each; then share and shares, 4 each (kx1.x). */
const char *wire_relay_name(const uint8_t *args, size_t len)
{
	static char name[40];
	uint32_t numbers[2];

	if (len < 3 * ID_LEN + sizeof numbers)
		return "Key relay";
	memcpy(numbers, args + 3 * ID_LEN, sizeof numbers);
	if (be32toh(numbers[1]) < 2)
		return "Key relay";
	snprintf(name, sizeof name, "Key relay (share %u of %u)", be32toh(numbers[0]) + 1, be32toh(numbers[1]));
	return name;
}

/* ---- served -------------------------------------------------------------------------------------------- */

static void state_to_wire(const struct km_link_state *from, kx1_link_state *to)
{
	to->next_sequence = from->next_sequence;
	for (int p = 0; p < KM_LINK_POOLS; p++)
		to->used[p] = from->used[p];
}

static void state_from_wire(const kx1_link_state *from, struct km_link_state *to)
{
	to->next_sequence = from->next_sequence;
	for (int p = 0; p < KM_LINK_POOLS; p++)
		to->used[p] = from->used[p];
}

static void open_result(const struct km_answer *answer, void *result)
{
	const struct km_link_open_answer *a = (const struct km_link_open_answer *)answer;
	kx1_open_result *r = result;

	wire_outcome(answer, &r->outcome);
	state_to_wire(&a->follower, &r->follower);
}

bool_t kx1_open_1_svc(kx1_open_args *a, kx1_open_result *result, struct svc_req *rq)
{
	struct km_link_open m = { .trace = wire_to_id(a->header.trace),
		                  .link = a->link,
		                  .link_id = wire_to_id(a->link_id),
		                  .block_size = a->block_size };

	(void)result;
	state_from_wire(&a->leader, &m.leader);
	return wire_receive(rq, KM_LINK_OPEN, &m, open_result, (xdrproc_t)xdr_kx1_open_result);
}

static void sync_result(const struct km_answer *answer, void *result)
{
	const struct km_link_sync_answer *a = (const struct km_link_sync_answer *)answer;
	kx1_sync_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->first = a->first;
	r->settled.settled_len = a->count;
	r->settled.settled_val = xcalloc(1, a->count);
	memcpy(r->settled.settled_val, a->settled, a->count);
	r->stored.stored_len = a->stored_count;
	r->stored.stored_val = xcalloc(1, a->stored_count);
	memcpy(r->stored.stored_val, a->stored, a->stored_count);
	r->auth_offset = a->auth_offset;
	memcpy(r->tag, a->tag, sizeof r->tag);
}

bool_t kx1_sync_1_svc(kx1_sync_args *a, kx1_sync_result *result, struct svc_req *rq)
{
	struct km_link_sync m = { .trace = wire_to_id(a->header.trace),
		                  .link = a->link,
		                  .first = a->first,
		                  .give_up_below = a->give_up_below,
		                  .unused_below = a->unused_below,
		                  .count = a->have.have_len };

	(void)result;
	if (a->tags.tags_len != a->have.have_len || a->auth_offsets.auth_offsets_len != a->have.have_len)
		m.count = 0; /* refused as an empty window */
	for (uint32_t i = 0; i < m.count; i++) {
		m.have[i] = (uint8_t)a->have.have_val[i];
		m.auth_offsets[i] = a->auth_offsets.auth_offsets_val[i];
		memcpy(m.tags[i], a->tags.tags_val[i], KM_TAG_LEN);
	}
	return wire_receive(rq, KM_LINK_SYNC, &m, sync_result, (xdrproc_t)xdr_kx1_sync_result);
}

static void plain_result(const struct km_answer *answer, void *result)
{
	wire_outcome(answer, result);
}

bool_t kx1_allocate_1_svc(kx1_allocate_args *a, kx1_result *result, struct svc_req *rq)
{
	struct km_allocate m = { .trace = wire_to_id(a->header.trace),
		                 .link = a->link,
		                 .link_offset = a->link_offset,
		                 .ksa_pool = wire_to_id(a->ksa_pool),
		                 .ksa_offset = a->ksa_offset,
		                 .len = a->len,
		                 .unused_below = a->unused_below };

	(void)result;
	return wire_receive(rq, KM_ALLOCATE, &m, plain_result, (xdrproc_t)xdr_kx1_result);
}

static void relay_result(const struct km_answer *answer, void *result)
{
	const struct km_relay_answer *a = (const struct km_relay_answer *)answer;
	kx1_relay_result *r = result;

	wire_outcome(answer, &r->outcome);
	r->failed_from = xstrdup(a->failed.from ? a->failed.from : "");
	r->failed_to = xstrdup(a->failed.to ? a->failed.to : "");
}

bool_t kx1_relay_1_svc(kx1_relay_args *a, kx1_relay_result *result, struct svc_req *rq)
{
	struct km_pad pads[KM_PADS_MAX];
	struct km_relay m = { .trace = wire_to_id(a->header.trace),
		              .relay = wire_to_id(a->relay),
		              .group = wire_to_id(a->group),
		              .source = a->source,
		              .destination = a->destination,
		              .relayer = a->relayer,
		              .ksa_pool = wire_to_id(a->ksa_pool),
		              .ksa_offset = a->ksa_offset,
		              .relay_case = a->relay_case,
		              .share = a->share,
		              .shares = a->shares,
		              .route = { a->route.route_len, (const char *const *)a->route.route_val },
		              .hops_left = a->hops_left,
		              .expires = a->expires,
		              .link = a->link,
		              .pad_count = a->pads.pads_len,
		              .pads = pads,
		              .unused_below = a->unused_below,
		              .ciphertext = (const uint8_t *)a->ciphertext.qkdn_key_block_val,
		              .len = a->ciphertext.qkdn_key_block_len };

	(void)result;
	for (uint32_t i = 0; i < m.pad_count; i++)
		pads[i] = (struct km_pad){ a->pads.pads_val[i].offset, a->pads.pads_val[i].len };
	memcpy(m.tag, a->tag, sizeof m.tag);
	return wire_receive(rq, KM_RELAY, &m, relay_result, (xdrproc_t)xdr_kx1_relay_result);
}

bool_t kx1_completion_1_svc(kx1_completion_args *a, kx1_result *result, struct svc_req *rq)
{
	struct km_completion m = { .trace = wire_to_id(a->header.trace),
		                   .relay = wire_to_id(a->relay),
		                   .ksa_pool = wire_to_id(a->ksa_pool),
		                   .ksa_offset = a->ksa_offset,
		                   .len = a->len };

	(void)result;
	return wire_receive(rq, KM_COMPLETION, &m, plain_result, (xdrproc_t)xdr_kx1_result);
}

/* ---- called ------------------------------------------------------------------------------------------------ */

static void open_args(const void *message, void *args, void **room)
{
	const struct km_link_open *m = message;
	kx1_open_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	a->link = (char *)m->link;
	wire_id(&m->link_id, a->link_id);
	a->block_size = m->block_size;
	state_to_wire(&m->leader, &a->leader);
}

static void open_answer(void *result, void *answer, void **room)
{
	kx1_open_result *r = result;
	struct km_link_open_answer *a = answer;

	(void)room;
	state_from_wire(&r->follower, &a->follower);
}

static void sync_args(const void *message, void *args, void **room)
{
	const struct km_link_sync *m = message;
	kx1_sync_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	a->link = (char *)m->link;
	a->first = m->first;
	a->give_up_below = m->give_up_below;
	a->unused_below = m->unused_below;
	a->auth_offsets.auth_offsets_len = m->count;
	a->auth_offsets.auth_offsets_val = (u_quad_t *)m->auth_offsets;
	a->have.have_len = m->count;
	a->have.have_val = (char *)m->have;
	a->tags.tags_len = m->count;
	a->tags.tags_val = (qkdn_tag *)m->tags;
}

static void sync_answer(void *result, void *answer, void **room)
{
	kx1_sync_result *r = result;
	struct km_link_sync_answer *a = answer;

	(void)room;
	a->first = r->first;
	a->count = r->settled.settled_len;
	if (a->count > 0)
		memcpy(a->settled, r->settled.settled_val, a->count);
	a->stored_count = r->stored.stored_len;
	if (a->stored_count > 0)
		memcpy(a->stored, r->stored.stored_val, a->stored_count);
	a->auth_offset = r->auth_offset;
	memcpy(a->tag, r->tag, sizeof a->tag);
}

static void allocate_args(const void *message, void *args, void **room)
{
	const struct km_allocate *m = message;
	kx1_allocate_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	a->link = (char *)m->link;
	a->link_offset = m->link_offset;
	wire_id(&m->ksa_pool, a->ksa_pool);
	a->ksa_offset = m->ksa_offset;
	a->len = m->len;
	a->unused_below = m->unused_below;
}

static void relay_args(const void *message, void *args, void **room)
{
	const struct km_relay *m = message;
	kx1_relay_args *a = args;
	kx1_pad *pads = xcalloc(m->pad_count, sizeof *pads);

	for (uint32_t i = 0; i < m->pad_count; i++)
		pads[i] = (kx1_pad){ m->pads[i].offset, m->pads[i].len };
	wire_id(&m->trace, a->header.trace);
	wire_id(&m->relay, a->relay);
	wire_id(&m->group, a->group);
	a->source = (char *)m->source;
	a->destination = (char *)m->destination;
	a->relayer = (char *)m->relayer;
	wire_id(&m->ksa_pool, a->ksa_pool);
	a->ksa_offset = m->ksa_offset;
	a->relay_case = m->relay_case;
	a->share = m->share;
	a->shares = m->shares;
	a->route.route_len = m->route.count;
	a->route.route_val = (qkdn_name *)m->route.nodes;
	a->hops_left = m->hops_left;
	a->expires = m->expires;
	a->link = (char *)m->link;
	a->pads.pads_len = m->pad_count;
	a->pads.pads_val = *room = pads;
	a->unused_below = m->unused_below;
	a->ciphertext.qkdn_key_block_len = m->len;
	a->ciphertext.qkdn_key_block_val = (char *)m->ciphertext;
	memcpy(a->tag, m->tag, sizeof a->tag);
}

static void relay_answer(void *result, void *answer, void **room)
{
	kx1_relay_result *r = result;
	struct km_relay_answer *a = answer;

	(void)room;
	if (r->failed_from[0] != '\0')
		a->failed = (struct km_hop){ r->failed_from, r->failed_to };
}

static void completion_args(const void *message, void *args, void **room)
{
	const struct km_completion *m = message;
	kx1_completion_args *a = args;

	(void)room;
	wire_id(&m->trace, a->header.trace);
	wire_id(&m->relay, a->relay);
	wire_id(&m->ksa_pool, a->ksa_pool);
	a->ksa_offset = m->ksa_offset;
	a->len = m->len;
}

const struct wire_row wire_kx1_rows[] = {
	{ KM_LINK_OPEN, "km", QKDN_KX1, QKDN_KX1_V1, KX1_OPEN, (xdrproc_t)xdr_kx1_open_args,
	  (xdrproc_t)xdr_kx1_open_result, sizeof(kx1_open_result), open_args, open_answer },
	{ KM_LINK_SYNC, "km", QKDN_KX1, QKDN_KX1_V1, KX1_SYNC, (xdrproc_t)xdr_kx1_sync_args,
	  (xdrproc_t)xdr_kx1_sync_result, sizeof(kx1_sync_result), sync_args, sync_answer },
	{ KM_ALLOCATE, "km", QKDN_KX1, QKDN_KX1_V1, KX1_ALLOCATE, (xdrproc_t)xdr_kx1_allocate_args,
	  (xdrproc_t)xdr_kx1_result, sizeof(kx1_result), allocate_args, NULL },
	{ KM_RELAY, "km", QKDN_KX1, QKDN_KX1_V1, KX1_RELAY, (xdrproc_t)xdr_kx1_relay_args,
	  (xdrproc_t)xdr_kx1_relay_result, sizeof(kx1_relay_result), relay_args, relay_answer },
	{ KM_COMPLETION, "km", QKDN_KX1, QKDN_KX1_V1, KX1_COMPLETION, (xdrproc_t)xdr_kx1_completion_args,
	  (xdrproc_t)xdr_kx1_result, sizeof(kx1_result), completion_args, NULL },
	{ .role = NULL },
};
