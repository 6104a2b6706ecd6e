/*
 * wire.h - a key manager's core on RPC: what the files at the reference points (km_ak.c, km_kq.c,
 * km_kx1.c, km_kx2.c, km_ck.c, km_mk.c) share. They alone know the generated types.
 */
#ifndef QKDN_KM_WIRE_H
#define QKDN_KM_WIRE_H

#include "common.h"
#include "km.h"
#include "rtls.h"

struct wire;

/* Attaches a core to an endpoint: serves the KM's programs there, and is the core's km_wire. The core is
 * set when it is made. When it is detached the endpoint may be freed; who sends then is told that nobody can be
 * reached. */
struct wire *wire_new(struct rtls_endpoint *ep, struct env *env);
void wire_set_core(struct wire *w, struct km *km);
void wire_detach(struct wire *w);
void wire_free(struct wire *w);
extern const struct km_wire wire_ops;

/* ---- inbound: a handler's way into the core -------------------------------------------------------- */

/* Fills a result of a generated type, all of it allocated (xdr_free will free it), from the answer.
 * Secrets are moved out of the answer or copied; the result is wiped when it has been sent. */
typedef void (*wire_answer)(const struct km_answer *answer, void *result);

enum { WIRE_RESULT_MAX = 256 }; /* no generated result is larger */

/* Hands message to the core; its answer goes back as the deferred reply. Always returns FALSE, for the
 * handler to return. */
bool_t wire_receive(struct svc_req *rq, enum km_message m, const void *message, wire_answer to_result,
                    xdrproc_t xdr_result);

/* The same for an answer that is encoded as it is: answered replies to the struct rtls_deferred that is its arg. */
bool_t wire_receive_as(struct svc_req *rq, enum km_message m, const void *message, km_reply answered);

/* ---- outbound: one row per message that a KM sends ---------------------------------------------------- */

struct wire_row {
	enum km_message message;
	const char *role; /* whom it goes to */
	uint32_t program, version, procedure;
	xdrproc_t xdr_args, xdr_result;
	size_t result_size;
	/* args points into message where it can; what it allocates it gets from room, which is freed. */
	void (*to_args)(const void *message, void *args, void **room);
	/* answer points into result where it can. NULL: the answer is the outcome alone, which is first. */
	void (*to_answer)(void *result, void *answer, void **room);
};

enum { WIRE_ARGS_MAX = 512, WIRE_ANSWER_MAX = 1024 };

/* The rows of each reference point; each ends with a NULL role. */
extern const struct wire_row wire_kq_rows[], wire_kx1_rows[], wire_kx2_rows[], wire_ck_rows[];

extern const struct rtls_program wire_ak, wire_kq1, wire_kq1_module, wire_kq2, wire_kq2_module, wire_kx1, wire_kx2, wire_ck, wire_ck_km, wire_mk;

/* "Key relay", or "Key relay (share 1 of 2)". */
const char *wire_relay_name(const uint8_t *args, size_t len);

/* ---- small conversions ----------------------------------------------------------------------------------- */

void wire_outcome(const struct km_answer *answer, qkdn_outcome *o); /* allocates the text */

static inline void wire_id(const struct id *id, qkdn_id to)
{
	memcpy(to, id->bytes, ID_LEN);
}

static inline struct id wire_to_id(const qkdn_id from)
{
	struct id id;

	memcpy(id.bytes, from, ID_LEN);
	return id;
}

#endif
