/*
 * km_verify.c - verification of KSA-keys between the KSAs of a pair (Kx-2), before any is supplied.
 *
 * The last FILL_TAG_KEY bytes of a range are the one-time key of a tag over the rest: they are voided
 * with the verification and never supplied. A plain hash would tell something about the keys.
 *
 * That a range is here and the same there is durable knowledge once its bytes are: so the destination answers for
 * one that came by relay as soon as it has compared the tags. It makes the range ready in the commit of the
 * assignment that follows, or a little later where none does. Should it be killed in between, it learns that from
 * the source, whose pool is ready beyond the range when it is opened again: a note of each range, written with its
 * bytes, tells where it lies.
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

/* ---- the destination: ranges that have come and are not ready yet ----------------------------------------- */

/* Their notes: "arrived/", the pool's ID and the offset. */
struct arrived_note {
	uint32_t version; /* ARRIVED_VERSION */
	uint32_t len;
};
enum { ARRIVED_VERSION = 1, PREFIX_LEN = 8 + ID_LEN, ARRIVED_KEY_LEN = PREFIX_LEN + 8, AT_ONCE = 64 };

static void arrived_key(char key[ARRIVED_KEY_LEN], const struct id *pool, uint64_t offset)
{
	uint64_t be = htobe64(offset);

	memcpy(key, "arrived/", 8);
	memcpy(key + 8, pool->bytes, ID_LEN);
	memcpy(key + PREFIX_LEN, &be, sizeof be);
}

enum status arrived_put(struct ks_txn *t, const struct id *pool, uint64_t offset, uint32_t len)
{
	const struct arrived_note note = { ARRIVED_VERSION, len };
	char key[ARRIVED_KEY_LEN];

	arrived_key(key, pool, offset);
	return ks_note_put(t, key, sizeof key, &note, sizeof note);
}

static enum status arrived_delete(struct ks_txn *t, const struct id *pool, uint64_t offset)
{
	char key[ARRIVED_KEY_LEN];

	arrived_key(key, pool, offset);
	return ks_note_delete(t, key, sizeof key);
}

/* Keys at the beginning of a range may be voided, too: of another length. */
enum status arrived_void(struct ks_txn *t, const struct id *pool, uint64_t offset, uint64_t len)
{
	struct arrived_note note;
	char key[ARRIVED_KEY_LEN];
	size_t note_len;
	enum status s;

	arrived_key(key, pool, offset);
	s = ks_note_get(t, key, sizeof key, &note, sizeof note, &note_len);
	if (s == ST_OK && note_len == sizeof note && note.len == len)
		return ks_note_delete(t, key, sizeof key);
	return s == ST_NOT_FOUND ? ST_OK : s;
}

struct arrived_list {
	uint64_t below;
	unsigned count;
	struct {
		uint64_t offset;
		uint32_t len;
	} ranges[AT_ONCE];
};

static bool list_arrived(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	struct arrived_list *l = arg;
	struct arrived_note note;
	uint64_t offset;

	if (key_len != ARRIVED_KEY_LEN || len != sizeof note)
		return true;
	memcpy(&offset, (const char *)key + PREFIX_LEN, sizeof offset);
	memcpy(&note, value, sizeof note);
	offset = be64toh(offset);
	if (offset + note.len > l->below)
		return false;
	l->ranges[l->count].offset = offset;
	l->ranges[l->count++].len = note.len;
	return l->count < AT_ONCE;
}

enum status arrived_end(struct ks_txn *t, const struct id *pool, uint64_t below, bool settle)
{
	struct arrived_list l = { .below = below };
	char prefix[ARRIVED_KEY_LEN];
	enum status s = ST_OK;

	arrived_key(prefix, pool, 0);
	do {
		l.count = 0;
		ks_note_each(t, prefix, PREFIX_LEN, list_arrived, &l);
		for (unsigned i = 0; i < l.count && s == ST_OK; i++) {
			if (settle)
				s = ksa_range_settle(t, pool, l.ranges[i].offset, l.ranges[i].len);
			if (s == ST_OK)
				s = arrived_delete(t, pool, l.ranges[i].offset);
		}
	} while (l.count == AT_ONCE && s == ST_OK);
	return s;
}

static struct arrived *arrived_find(struct km *km, const struct id *pool, uint64_t offset)
{
	for (size_t i = 0; i < ARRAY_LEN(km->arrived); i++) {
		struct arrived *a = &km->arrived[i];

		if (a->len > 0 && a->offset == offset && id_equal(&a->pool, pool))
			return a;
	}
	return NULL;
}

void arrived_forget(struct km *km, const struct id *pool, uint64_t offset)
{
	struct arrived *a = arrived_find(km, pool, offset);

	if (a != NULL)
		a->len = 0;
}

void arrived_remember(struct km *km, const struct id *pool, uint64_t offset, uint32_t len,
                      const uint8_t tag[KM_TAG_LEN])
{
	struct arrived *a = arrived_find(km, pool, offset);

	if (a == NULL)
		a = &km->arrived[km->arrived_next++ % ARRAY_LEN(km->arrived)];
	*a = (struct arrived){ .pool = *pool, .offset = offset, .len = len };
	memcpy(a->tag, tag, sizeof a->tag);
}

/* Whether the range is durable here, and the same there. */
static bool is_verified(struct km *km, const struct km_verify *m)
{
	const struct arrived *a = arrived_find(km, &m->pool, m->offset);

	return a != NULL && a->len == m->len && otp_tag_equal(a->tag, m->tag);
}

/* ---- the destination: verification -------------------------------------------------------------------------- */

static const uint64_t ASSIGNMENT_AWAITED_NS = 2 * NS_PER_MS;

struct verification {
	struct verification *next; /* in km->verified */
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

static enum status make_ready_work(struct ks_txn *t, void *arg)
{
	struct verification *v = arg;
	enum status s = ksa_range_settle(t, &v->m.pool, v->m.offset, v->m.len);

	if (s == ST_OK)
		s = arrived_delete(t, &v->m.pool, v->m.offset);
	return s == ST_OK && v->has_shares ? shares_settle(t, &v->m.pool, v->m.offset + v->m.len) : s;
}

static void make_ready_now(void *arg)
{
	make_verified_ready(arg);
}

static void make_ready_later(struct verification *v, uint64_t after)
{
	struct km *km = v->km;

	if (km->verified_timer == NULL)
		km->verified_timer = env_timer_new(km->env, make_ready_now, km);
	if (km->verified == NULL)
		env_timer_set(km->env, km->verified_timer, after);
	LL_APPEND(km->verified, v);
}

static void made_ready(enum status s, void *arg)
{
	struct verification *v = arg;

	if (s == ST_STORAGE)
		make_ready_later(v, NS_PER_S / 10);
	else /* ST_OK, or the pool was retired meanwhile */
		free(v);
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
	return make_ready_work(t, v);
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
	if (!is_verified(km, m)) {
		ks_submit(km->ks, verification_work, verification_done, v);
		return;
	}
	arrived_forget(km, &m->pool, m->offset);
	make_ready_later(v, ASSIGNMENT_AWAITED_NS);
	km_done(reply, arg);
}

void make_verified_ready(struct km *km)
{
	struct verification *v, *next, *verified = km->verified;

	if (verified == NULL)
		return;
	env_timer_stop(km->env, km->verified_timer);
	km->verified = NULL;
	LL_FOREACH_SAFE (verified, v, next)
		ks_submit(km->ks, make_ready_work, made_ready, v);
}

void verified_free(struct km *km)
{
	struct verification *v, *next;

	env_timer_free(km->env, km->verified_timer);
	LL_FOREACH_SAFE (km->verified, v, next)
		free(v);
}
