/*
 * assignment.c - keys that wait for an application at this end.
 *
 * A row covers up to 2048 keys that lie one behind the other for one pair of applications, and has
 * a bit for each that is gone (and, if any, for each that was voided rather than delivered). The
 * bytes stay in the pool's chunks. Delivering sets the bit, durably; the bytes are cut out later, many
 * at a time (sweep.c), for keys are fetched in any order and sealing a chunk anew for each would
 * cost a page of writing per key.
 *
 * A row is kept, all gone or not, until its time is over: so a withdrawal that comes after the
 * delivery is told so. Rows are found in the order of their end of life through KV_EXPIRY, which
 * counts in steps of 2^30 ns, upwards: a key may live a second longer than asked.
 */
#include <string.h>

#include "row.h"
#include "stream.h"

/* ---- assign ---------------------------------------------------------------------------------------- */

static bool same_pair(const struct row *r, const char *source, const char *destination)
{
	return strcmp(r->source, source) == 0 && strcmp(r->destination, destination) == 0;
}

/* Whether a is what is there, since r is where a begins. */
static enum status assigned_before(struct ks_txn *t, struct pool *p, const struct ks_assignment *a,
				   struct row *r)
{
	uint64_t pos = a->offset, end = a->offset + (uint64_t)a->key_len * a->count;

	while (pos < end) {
		enum status s = row_at_or_after(t, p, pos, r);

		if (s != ST_OK && s != ST_NOT_FOUND)
			return s;
		if (s == ST_NOT_FOUND || r->offset > pos || r->key_len != a->key_len ||
		    (pos - r->offset) % r->key_len != 0 || !same_pair(r, a->source, a->destination))
			return ST_CONFLICT;
		pos = row_end(r);
	}
	return ST_OK;
}

static enum status assign_check(struct ks_txn *t, struct pool *p, const struct ks_assignment *a,
				bool *already)
{
	uint64_t len = (uint64_t)a->key_len * a->count;
	struct row r;
	enum status s = row_at_or_after(t, p, a->offset, &r);

	*already = s == ST_OK && r.offset < a->offset + len;
	if (*already)
		return assigned_before(t, p, a, &r);
	return s == ST_NOT_FOUND || s == ST_OK ? pool_check_takeable(t, p, a->offset, len) : s;
}

/* The row that a may go on in, if there is one: else *r is fresh, at a's offset. */
static enum status row_to_extend(struct ks_txn *t, struct pool *p, const struct ks_assignment *a,
				 struct row *r)
{
	enum status s = a->offset > 0 ? row_at_or_after(t, p, a->offset - 1, r) : ST_NOT_FOUND;

	if (s != ST_OK && s != ST_NOT_FOUND)
		return s;
	if (s == ST_OK && row_end(r) == a->offset && r->key_len == a->key_len && r->count < ROW_KEYS_MAX &&
	    expiry_step(r->expires) == expiry_step(a->expires) && same_pair(r, a->source, a->destination))
		return ST_OK;
	memset(r, 0, sizeof *r);
	r->offset = a->offset;
	return ST_OK;
}

static enum status assign_some(struct ks_txn *t, struct pool *p, const struct ks_assignment *a,
			       uint32_t *done)
{
	uint32_t n = a->count, room;
	struct row r;
	enum status s = row_to_extend(t, p, a, &r);

	if (s != ST_OK)
		return s;
	room = ROW_KEYS_MAX - r.count;
	n = n < room ? n : room;
	r.count += n;
	*done = n;
	if (r.count > n)
		return row_put(t, p, &r);
	r.key_len = a->key_len;
	r.expires = a->expires;
	strcpy(r.source, a->source);
	strcpy(r.destination, a->destination);
	return row_create(t, p, &r);
}

static bool assignment_is_valid(const struct ks_assignment *a)
{
	return a->key_len > 0 && a->key_len <= KS_KEY_LEN_MAX && a->count > 0 && a->offset < OFFSET_LIMIT &&
	       (uint64_t)a->key_len * a->count <= OFFSET_LIMIT - a->offset && name_is_valid(a->source) &&
	       name_is_valid(a->destination);
}

enum status ks_assign(struct ks_txn *t, const struct id *pool, const struct ks_assignment *a)
{
	struct ks_assignment left = *a;
	uint64_t len = (uint64_t)a->key_len * a->count;
	struct pool *p;
	enum status s = pool_find(t, pool, &p);
	bool already;

	if (s != ST_OK)
		return s;
	if (!assignment_is_valid(a))
		return ST_BAD_REQUEST;
	s = assign_check(t, p, a, &already);
	if (s != ST_OK || already)
		return s;
	pool_touch(t, p);
	p->now.pub.stock -= len;
	p->now.pub.assigned += len;
	while (s == ST_OK && left.count > 0) {
		uint32_t n = 0;

		s = assign_some(t, p, &left, &n);
		left.offset += (uint64_t)n * left.key_len;
		left.count -= n;
	}
	return s == ST_OK ? pool_advance_head(t, p, a->offset, len) : s;
}

/* ---- deliver ---------------------------------------------------------------------------------------- */

/* There is no such key: was there? */
static enum status no_key_at(struct ks_txn *t, struct pool *p, uint64_t offset)
{
	struct chunk *c;
	enum status s;

	if (offset >= p->now.pub.ready)
		return ST_UNKNOWN_KEY_ID;
	if (offset < p->now.pub.head)
		return ST_KEY_GONE;
	s = chunk_get(t, p, offset / CHUNK_BYTES, CHUNK_ONCE, &c);
	if (s != ST_OK)
		return s;
	return bits_count(c->present, (unsigned)(offset % CHUNK_BYTES),
			  (unsigned)(offset % CHUNK_BYTES) + 1) > 0
		   ? ST_UNKNOWN_KEY_ID
		   : ST_KEY_GONE;
}

static bool bit(const uint64_t *bits, uint32_t i)
{
	return (bits[i / 64] >> i % 64 & 1) != 0;
}

/* The row and the key in it that the application may have. */
static enum status deliver_find(struct ks_txn *t, struct pool *p, uint64_t offset, const char *source,
				const char *destination, struct row *r, uint32_t *i)
{
	enum status s = row_at_or_after(t, p, offset, r);

	if (s == ST_NOT_FOUND || (s == ST_OK && r->offset > offset))
		return no_key_at(t, p, offset);
	if (s != ST_OK)
		return s;
	if ((offset - r->offset) % r->key_len != 0)
		return ST_UNKNOWN_KEY_ID;
	if (!same_pair(r, source, destination))
		return ST_DENIED;
	*i = (uint32_t)((offset - r->offset) / r->key_len);
	return bit(r->gone_bits, *i) ? ST_KEY_GONE : ST_OK;
}

static enum status deliver_from(struct ks_txn *t, struct pool *p, struct row *r, uint32_t i, uint8_t *room)
{
	enum status s = stream_copy(t, p, r->offset + (uint64_t)i * r->key_len, r->key_len, room, CHUNK_ONCE);

	if (s != ST_OK)
		return s == ST_KEY_GONE ? damage(t, "an assigned key") : s;
	pool_touch(t, p);
	p->now.pub.assigned -= r->key_len;
	p->now.uncut++;
	bits_set(r->gone_bits, i, i + 1);
	r->gone++;
	r->uncut++;
	return row_put(t, p, r);
}

enum status ks_deliver(struct ks_txn *t, const struct id *pool, uint64_t offset, const char *source,
		       const char *destination, struct secret *out)
{
	struct pool *p;
	struct row r;
	enum status s = pool_find(t, pool, &p);
	uint32_t i;

	if (s == ST_OK)
		s = deliver_find(t, p, offset, source, destination, &r, &i);
	if (s != ST_OK)
		return s;
	secret_alloc(out, r.key_len);
	s = deliver_from(t, p, &r, i, out->bytes);
	if (s != ST_OK)
		secret_free(out);
	return s;
}

enum status ks_deliver_into(struct ks_txn *t, const struct id *pool, uint64_t offset, uint32_t key_len,
			    const char *source, const char *destination, uint8_t *room)
{
	struct pool *p;
	struct row r;
	enum status s = pool_find(t, pool, &p);
	uint32_t i;

	if (s == ST_OK)
		s = deliver_find(t, p, offset, source, destination, &r, &i);
	if (s == ST_OK && r.key_len != key_len)
		return ST_UNKNOWN_KEY_ID;
	return s == ST_OK ? deliver_from(t, p, &r, i, room) : s;
}

enum status row_sweep(struct ks_txn *t, struct pool *p, struct row *r)
{
	if (r->uncut == 0)
		return ST_OK;
	for (unsigned lo = 0, hi; (lo = bits_next_set(r->gone_bits, lo, r->count)) < r->count; lo = hi) {
		uint64_t from = r->offset + (uint64_t)lo * r->key_len;
		enum status s;

		hi = bits_next_clear(r->gone_bits, lo, r->count);
		s = stream_cut(t, p, from, from + (uint64_t)(hi - lo) * r->key_len, NULL);
		if (s != ST_OK)
			return s;
	}
	pool_touch(t, p);
	p->now.uncut -= r->uncut;
	r->uncut = 0;
	return ST_OK;
}

/* ---- give up ---------------------------------------------------------------------------------------- */

static enum status row_void(struct ks_txn *t, struct pool *p, struct row *r, unsigned from, unsigned to)
{
	for (unsigned lo = from, hi; (lo = bits_next_clear(r->gone_bits, lo, to)) < to; lo = hi) {
		uint64_t at = r->offset + (uint64_t)lo * r->key_len, n = 0;
		enum status s;

		hi = bits_next_set(r->gone_bits, lo, to);
		s = stream_cut(t, p, at, at + (uint64_t)(hi - lo) * r->key_len, &n);
		if (s != ST_OK)
			return s;
		if (n != (uint64_t)(hi - lo) * r->key_len)
			return damage(t, "an assigned key");
		pool_touch(t, p);
		p->now.pub.assigned -= n;
		p->now.pub.voided += n;
		bits_set(r->voided_bits, lo, hi);
		r->voided += hi - lo;
		bits_set(r->gone_bits, lo, hi);
		r->gone += hi - lo;
	}
	return ST_OK;
}

/* The keys of r that [lo, hi) meets. */
static void keys_met(const struct row *r, uint64_t lo, uint64_t hi, unsigned *from, unsigned *to)
{
	*from = lo > r->offset ? (unsigned)((lo - r->offset) / r->key_len) : 0;
	*to = hi < row_end(r) ? (unsigned)((hi - r->offset + r->key_len - 1) / r->key_len) : r->count;
}

bool row_has_gone(const struct row *r, uint64_t lo, uint64_t hi)
{
	unsigned from, to;

	keys_met(r, lo, hi, &from, &to);
	return bits_count(r->gone_bits, from, to) > 0;
}

enum status assignments_void(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi, uint64_t *erased)
{
	uint64_t before = p->now.pub.voided;
	struct row r;
	enum status s = ST_OK;

	for (uint64_t pos = lo; pos < hi; pos = row_end(&r)) {
		unsigned from, to;
		uint32_t gone;

		s = row_at_or_after(t, p, pos, &r);
		if (s != ST_OK || r.offset >= hi)
			break;
		keys_met(&r, lo, hi, &from, &to);
		gone = r.gone;
		s = row_void(t, p, &r, from, to);
		if (s == ST_OK && r.gone != gone)
			s = row_put(t, p, &r);
		if (s != ST_OK)
			break;
	}
	*erased += p->now.pub.voided - before;
	return s == ST_NOT_FOUND ? ST_OK : s;
}

/* ST_KEY_GONE where a key that [lo, hi) meets was delivered. */
static enum status none_delivered(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi)
{
	struct row r;

	for (uint64_t pos = lo; pos < hi; pos = row_end(&r)) {
		enum status s = row_at_or_after(t, p, pos, &r);
		unsigned from, to;

		if (s != ST_OK)
			return s == ST_NOT_FOUND ? ST_OK : s;
		if (r.offset >= hi)
			return ST_OK;
		keys_met(&r, lo, hi, &from, &to);
		if (bits_count(r.gone_bits, from, to) != bits_count(r.voided_bits, from, to))
			return ST_KEY_GONE;
	}
	return ST_OK;
}

enum status ks_unassign(struct ks_txn *t, const struct id *pool, uint64_t offset, uint64_t len)
{
	struct pool *p;
	enum status s = pool_find(t, pool, &p);

	if (s != ST_OK)
		return s;
	if (len == 0 || offset >= OFFSET_LIMIT || len > OFFSET_LIMIT - offset)
		return ST_BAD_REQUEST;
	s = none_delivered(t, p, offset, offset + len);
	return s == ST_OK ? ks_void(t, pool, offset, len, NULL) : s;
}

static enum status row_expire(struct ks_txn *t, struct pool *p, struct row *r)
{
	enum status s = ST_OK;

	if (!p->now.pub.retired) {
		s = row_void(t, p, r, 0, r->count);
		if (s == ST_OK)
			s = row_sweep(t, p, r);
	}
	return s == ST_OK ? row_drop(t, p, r) : s;
}

/* The row that a place in KV_EXPIRY speaks of. */
static enum status row_of_expiry(struct ks_txn *t, const uint8_t *place, struct pool **p, struct row *r)
{
	uint32_t number = (uint32_t)get_be(place + 8, POOL_NUMBER_LEN);
	uint64_t offset = get_be(place + 8 + POOL_NUMBER_LEN, 8);
	enum status s;

	HASH_FIND(by_number, t->ks->pools.by_number, &number, sizeof number, *p);
	s = *p != NULL ? row_at_or_after(t, *p, offset, r) : ST_NOT_FOUND;
	if (s == ST_NOT_FOUND || (s == ST_OK && r->offset != offset))
		return damage(t, "the order of expiry");
	return s;
}

enum status ks_expire(struct ks_txn *t, uint64_t utc_now, unsigned most_rows, uint64_t *bytes)
{
	uint64_t now = utc_now >> EXPIRY_SHIFT;
	enum status s = ST_OK;

	if (bytes != NULL)
		*bytes = 0;
	for (unsigned n = 0; n < most_rows; n++) {
		uint8_t place[EXPIRY_LEN];
		struct kv_slice key;
		struct pool *p;
		struct row r;
		uint64_t before;

		s = kv_seek(t->ks->kv, KV_EXPIRY, KV_AT_OR_AFTER, slice_of(NULL, 0), &key, NULL);
		if (s != ST_OK)
			break;
		if (key.len != EXPIRY_LEN)
			return damage(t, "the order of expiry");
		if (get_be(key.bytes, 8) > now)
			return ST_OK;
		memcpy(place, key.bytes, sizeof place);
		s = row_of_expiry(t, place, &p, &r);
		if (s != ST_OK)
			return s;
		before = p->now.pub.voided;
		s = row_expire(t, p, &r);
		if (s != ST_OK)
			return s;
		if (bytes != NULL)
			*bytes += p->now.pub.voided - before;
	}
	return s == ST_NOT_FOUND ? ST_OK : s == ST_OK ? ST_OK : broken(t);
}
