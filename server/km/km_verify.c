/*
 * km_verify.c - verification of KSA-keys between the KSAs of a pair (Kx-2), before any is supplied.
 *
 * The last FILL_TAG_KEY bytes of a range are the one-time key of a tag over the rest: they are voided
 * with the verification and never supplied. A plain hash would tell something about the keys.
 */
#include <endian.h>
#include <stdlib.h>

#include "core.h"
#include "otp.h"

void ksa_bytes_tag(const struct id *pool, uint64_t offset, const uint8_t *bytes, size_t len, uint8_t tag[KM_TAG_LEN])
{
	uint64_t numbers[2] = { htobe64(offset), htobe64(len) };
	const struct otp_piece pieces[] = { { pool->bytes, ID_LEN },
		                            { numbers, sizeof numbers },
		                            { bytes, len - FILL_TAG_KEY } };

	otp_tag(bytes + len - FILL_TAG_KEY, pieces, ARRAY_LEN(pieces), tag);
}

enum status ksa_range_tag(struct ks_txn *t, const struct id *pool, uint64_t offset, uint32_t len,
                          uint8_t tag[KM_TAG_LEN])
{
	struct secret range = { NULL, 0 };
	enum status s;

	if (len <= FILL_TAG_KEY)
		return ST_BAD_REQUEST;
	s = ks_read(t, pool, offset, len, &range);
	if (s == ST_OK)
		ksa_bytes_tag(pool, offset, range.bytes, len, tag);
	secret_free(&range);
	return s;
}

enum status ksa_range_settle(struct ks_txn *t, const struct id *pool, uint64_t offset, uint32_t len)
{
	struct ks_pool p;
	enum status s = ks_void(t, pool, offset + len - FILL_TAG_KEY, FILL_TAG_KEY, NULL);

	if (s == ST_OK)
		s = ks_pool_get(t, pool, &p);
	if (s != ST_OK)
		return s;
	return p.ready < offset + len ? ks_settle(t, pool, offset + len) : ST_OK;
}

struct verification {
	struct km *km;
	struct km_verify m;
	bool has_shares;
	km_reply reply;
	void *arg;
};

/* Whether a range has been verified: its keys are there, and the tag's key, which goes with the verification, is
 * not. That ready has passed it does not tell: one behind it may have been verified while it was missing. */
static enum status look_for_verified(struct ks_txn *t, const struct km_verify *m, bool *verified)
{
	const uint32_t keys = m->len - FILL_TAG_KEY;
	struct secret part = { NULL, 0 };
	enum status s = ks_read(t, &m->pool, m->offset + keys, FILL_TAG_KEY, &part);

	*verified = false;
	secret_free(&part);
	if (s != ST_KEY_GONE)
		return s;
	s = ks_read(t, &m->pool, m->offset, keys, &part);
	secret_free(&part);
	*verified = s == ST_OK;
	return s;
}

static enum status verification_work(struct ks_txn *t, void *arg)
{
	struct verification *v = arg;
	uint8_t tag[KM_TAG_LEN];
	bool verified;
	enum status s = v->m.len <= FILL_TAG_KEY ? ST_BAD_REQUEST : look_for_verified(t, &v->m, &verified);

	if (s != ST_OK || verified) /* asked again */
		return s;
	s = ksa_range_tag(t, &v->m.pool, v->m.offset, v->m.len, tag);
	if (s != ST_OK)
		return s;
	if (!otp_tag_equal(tag, v->m.tag))
		return ST_MISMATCH;
	s = ksa_range_settle(t, &v->m.pool, v->m.offset, v->m.len);
	return s == ST_OK && v->has_shares ? shares_settle(t, &v->m.pool, v->m.offset + v->m.len) : s;
}

static void verification_done(enum status s, void *arg)
{
	struct verification *v = arg;

	if (s == ST_MISMATCH)
		log_error("a range of KSA-keys is not the same at both ends: it will be voided");
	if (s == ST_OK)
		km_done(v->reply, v->arg);
	else
		km_refuse(v->reply, v->arg, s, "verifying %u bytes at %llu: %s", v->m.len,
		          (unsigned long long)v->m.offset, status_name(s));
	free(v);
}

void handle_verify(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_verify *m = message;
	struct ksa_inbound *in = ksa_inbound_by_id(km, &m->pool);
	struct verification *v;

	if (in == NULL || strcmp(in->source, from) != 0) {
		km_refuse(reply, arg, ST_BUSY, "the KSA pool of %s is not open at %s", from, km->name);
		return;
	}
	v = xcalloc(1, sizeof *v);
	v->km = km;
	v->m = *m;
	v->has_shares = km->has_shares;
	v->reply = reply;
	v->arg = arg;
	ks_submit(km->ks, verification_work, verification_done, v);
}
