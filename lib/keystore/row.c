/*
 * row.c - assignments in the database, and the few of them that are in use, open in memory.
 *
 * A row's place is in the database from the moment it is made; what changes in an open row is written once
 * a commit, like an open chunk, so that keys assigned or delivered one behind the other share the sealing.
 */
#include "row.h"

#include <stdlib.h>
#include <string.h>

enum { ROW_MAX = 4 + 4 + 8 + 4 + 4 + 4 + 2 * (1 + NAME_MAX_LEN) + 2 * ROW_KEYS_MAX / 8 };

/* ---- their form ------------------------------------------------------------------------------------------
 */

static uint8_t *put_name(uint8_t *p, const char *name)
{
	size_t n = strlen(name);

	*p++ = (uint8_t)n;
	memcpy(p, name, n);
	return p + n;
}

static uint8_t *put_bits(uint8_t *p, const uint64_t *bits, uint32_t count)
{
	for (uint32_t w = 0; w * 64 < count; w++, p += 8)
		put_be(p, bits[w], 8);
	return p;
}

/* Bits that are all clear or, of those gone, all set are not written. */
static size_t row_encode(const struct row *r, uint8_t *room)
{
	uint8_t *p = room;

	put_be(p, r->key_len, 4);
	put_be(p + 4, r->count, 4);
	put_be(p + 8, r->expires, 8);
	put_be(p + 16, r->gone, 4);
	put_be(p + 20, r->voided, 4);
	put_be(p + 24, r->uncut, 4);
	p = put_name(put_name(p + 28, r->source), r->destination);
	if (r->gone > 0 && r->gone < r->count)
		p = put_bits(p, r->gone_bits, r->count);
	if (r->voided > 0)
		p = put_bits(p, r->voided_bits, r->count);
	return (size_t)(p - room);
}

struct reader {
	const uint8_t *p, *end;
	bool ok;
};

static uint64_t read_number(struct reader *in, int bytes)
{
	if (!in->ok || in->end - in->p < bytes) {
		in->ok = false;
		return 0;
	}
	in->p += bytes;
	return get_be(in->p - bytes, bytes);
}

static void read_name(struct reader *in, char *name)
{
	uint64_t n = read_number(in, 1);

	if (n > NAME_MAX_LEN || (uint64_t)(in->end - in->p) < n)
		in->ok = false;
	if (!in->ok)
		return;
	memcpy(name, in->p, n);
	name[n] = '\0';
	in->p += n;
}

static void read_bits(struct reader *in, uint64_t *bits, uint32_t count)
{
	for (uint32_t w = 0; w * 64 < count; w++)
		bits[w] = read_number(in, 8);
}

static bool row_decode(struct row *r, uint64_t offset, const uint8_t *bytes, size_t len)
{
	struct reader in = {bytes, bytes + len, true};

	memset(r, 0, sizeof *r);
	r->offset = offset;
	r->key_len = (uint32_t)read_number(&in, 4);
	r->count = (uint32_t)read_number(&in, 4);
	r->expires = read_number(&in, 8);
	r->gone = (uint32_t)read_number(&in, 4);
	r->voided = (uint32_t)read_number(&in, 4);
	r->uncut = (uint32_t)read_number(&in, 4);
	read_name(&in, r->source);
	read_name(&in, r->destination);
	if (!in.ok || r->count == 0 || r->count > ROW_KEYS_MAX || r->gone > r->count || r->voided > r->gone ||
	    r->uncut > r->gone || r->key_len == 0 || r->key_len > KS_KEY_LEN_MAX || offset >= OFFSET_LIMIT)
		return false;
	if (r->gone == r->count)
		bits_set(r->gone_bits, 0, r->count);
	else if (r->gone > 0)
		read_bits(&in, r->gone_bits, r->count);
	if (r->voided > 0)
		read_bits(&in, r->voided_bits, r->count);
	return in.ok && in.p == in.end && bits_count(r->gone_bits, 0, r->count) == r->gone;
}

static enum status row_read(struct ks_txn *t, struct kv_slice place, struct kv_slice sealed, struct row *r)
{
	uint8_t record[ROW_MAX];
	size_t len;
	enum status s = record_open(t, KV_ROW, place, sealed, record, sizeof record, &len);

	if (s != ST_OK)
		return s == ST_BAD_REQUEST ? damage(t, "an assignment") : s;
	return row_decode(r, get_be(place.bytes + POOL_NUMBER_LEN, 8), record, len)
		   ? ST_OK
		   : damage(t, "an assignment");
}

/* ---- the open ones ---------------------------------------------------------------------------------- */

/* The open row that pos lies in: mostly the one found last. */
static struct row_slot *slot_around(struct ks *ks, uint32_t pool, uint64_t pos)
{
	struct row_cache *cache = ks->rows;

	for (int n = -1; n < cache->count; n++) {
		int i = n < 0 ? cache->found : n;
		const struct row_place *place = &cache->places[i];

		if (place->from <= pos && pos < place->to && place->pool == pool && place->use > 0) {
			cache->found = i;
			return &cache->slots[i];
		}
	}
	return NULL;
}

static struct row_place *place_of(struct ks *ks, const struct row_slot *slot)
{
	return &ks->rows->places[slot - ks->rows->slots];
}

static struct row_slot *slot_at(struct ks *ks, uint32_t pool, uint64_t offset)
{
	struct row_slot *slot = slot_around(ks, pool, offset);

	return slot != NULL && place_of(ks, slot)->from == offset ? slot : NULL;
}

static void slot_used(struct ks *ks, struct row_slot *slot)
{
	place_of(ks, slot)->use = ++ks->rows->clock;
}

static void slot_set(struct ks *ks, struct row_slot *slot, uint32_t pool, const struct row *r)
{
	slot->row = *r;
	*place_of(ks, slot) = (struct row_place){r->offset, row_end(r), ++ks->rows->clock, pool, false};
}

/* Into the database, without a note for undoing: it is what earlier works made of it, or is undone by row. */
static enum status row_store(struct ks_txn *t, uint32_t pool, const struct row *r)
{
	uint8_t place[PLACE_LEN], record[ROW_MAX], *room;
	size_t len = row_encode(r, record);

	place_make(place, pool, r->offset);
	if (kv_reserve(t->ks->kv, KV_ROW, slice_of(place, sizeof place), len + SEAL_OVERHEAD, &room) != ST_OK)
		return broken(t);
	seal_close(t->ks->seal, KV_ROW, slice_of(place, sizeof place), 0, record, len, room);
	t->written += len;
	return ST_OK;
}

static enum status slot_flush(struct ks_txn *t, struct row_slot *slot)
{
	struct row_place *place = place_of(t->ks, slot);

	if (place->use == 0 || !place->dirty)
		return ST_OK;
	place->dirty = false;
	return row_store(t, place->pool, &slot->row);
}

enum status rows_flush(struct ks_txn *t)
{
	for (int i = 0; i < t->ks->rows->count; i++)
		if (slot_flush(t, &t->ks->rows->slots[i]) != ST_OK)
			return ST_STORAGE;
	return ST_OK;
}

void rows_init(struct ks *ks)
{
	ks->rows = xcalloc(1, sizeof *ks->rows);
	ks->rows->count = ks->options.hot_chunks < CHUNKS_HOT ? (int)ks->options.hot_chunks : ROWS_HOT;
}

void rows_drop_all(struct ks *ks)
{
	memset(ks->rows->places, 0, sizeof ks->rows->places);
}

void rows_free(struct ks *ks)
{
	free(ks->rows);
}

void row_forget(struct ks *ks, uint32_t pool, uint64_t offset)
{
	struct row_slot *slot = slot_at(ks, pool, offset);

	if (slot != NULL)
		place_of(ks, slot)->use = 0;
}

/* Out of the cache, with what earlier works changed in the database. */
static enum status row_let_go(struct ks_txn *t, uint32_t pool, uint64_t offset)
{
	struct row_slot *slot = slot_at(t->ks, pool, offset);
	enum status s = slot != NULL ? slot_flush(t, slot) : ST_OK;

	row_forget(t->ks, pool, offset);
	return s;
}

/* A free slot, or the one of the longest unused. */
static enum status slot_for(struct ks_txn *t, struct row_slot **slot)
{
	struct row_cache *cache = t->ks->rows;
	int best = 0;
	enum status s;

	for (int i = 1; i < cache->count; i++)
		if (cache->places[i].use < cache->places[best].use)
			best = i;
	*slot = &cache->slots[best];
	s = slot_flush(t, *slot);
	(*slot)->stamp = 0;
	return s;
}

enum status row_restore(struct ks_txn *t, uint32_t pool, const struct row *r)
{
	struct row_slot *slot = slot_at(t->ks, pool, r->offset);

	if (slot == NULL)
		return row_store(t, pool, r);
	slot_set(t->ks, slot, pool, r);
	place_of(t->ks, slot)->dirty = true;
	return ST_OK;
}

enum status row_put(struct ks_txn *t, struct pool *p, const struct row *r)
{
	struct row_slot *slot = slot_at(t->ks, p->number, r->offset);
	uint8_t place[PLACE_LEN], record[ROW_MAX];

	if (slot == NULL) {
		place_make(place, p->number, r->offset);
		return record_put(t, KV_ROW, slice_of(place, sizeof place), record, row_encode(r, record));
	}
	if (slot->stamp != t->stamp) {
		undo_row(t, p->number, &slot->row);
		slot->stamp = t->stamp;
	}
	slot_set(t->ks, slot, p->number, r);
	place_of(t->ks, slot)->dirty = true;
	t->wrote = true;
	return ST_OK;
}

/* The row that the database has under key, and that may be open already. */
static enum status row_get(struct ks_txn *t, struct pool *p, struct kv_slice key, struct kv_slice value,
			   struct row *r)
{
	uint64_t offset = get_be(key.bytes + POOL_NUMBER_LEN, 8);
	struct row_slot *slot = slot_at(t->ks, p->number, offset);
	enum status s;

	if (slot == NULL) {
		s = row_read(t, key, value, r);
		if (s == ST_OK)
			s = slot_for(t, &slot);
		if (s != ST_OK)
			return s;
		slot_set(t->ks, slot, p->number, r);
	} else {
		*r = slot->row;
		slot_used(t->ks, slot);
	}
	return ST_OK;
}

enum status row_at_or_after(struct ks_txn *t, struct pool *p, uint64_t pos, struct row *r)
{
	struct row_slot *slot = slot_around(t->ks, p->number, pos);
	enum kv_seek how = KV_AT_OR_BEFORE;
	uint8_t from[PLACE_LEN];
	struct kv_slice key, value;

	if (p->now.rows == 0)
		return ST_NOT_FOUND;
	if (slot != NULL) {
		slot_used(t->ks, slot);
		*r = slot->row;
		return ST_OK;
	}
	place_make(from, p->number, pos);
	for (int tries = 0; tries < 2; tries++, how = KV_AFTER) {
		enum status s = kv_seek(t->ks->kv, KV_ROW, how, slice_of(from, sizeof from), &key, &value);

		if (s == ST_NOT_FOUND)
			continue;
		if (s != ST_OK)
			return broken(t);
		if (key.len != PLACE_LEN || get_be(key.bytes, POOL_NUMBER_LEN) != p->number)
			continue;
		s = row_get(t, p, key, value, r);
		if (s != ST_OK || row_end(r) > pos)
			return s;
	}
	return ST_NOT_FOUND;
}

enum status gap_next(struct ks_txn *t, struct pool *p, uint64_t *pos, uint64_t limit, uint64_t *lo,
		     uint64_t *hi)
{
	struct row r;

	while (*pos < limit) {
		enum status s = row_at_or_after(t, p, *pos, &r);

		if (s != ST_OK && s != ST_NOT_FOUND)
			return s;
		*lo = *pos;
		*hi = s == ST_NOT_FOUND || r.offset >= limit ? limit : r.offset;
		*pos = s == ST_NOT_FOUND || r.offset >= limit ? limit : row_end(&r);
		if (*lo < *hi)
			return ST_OK;
	}
	return ST_NOT_FOUND;
}

/* ---- expiry ---------------------------------------------------------------------------------------- */

uint64_t expiry_step(uint64_t expires)
{
	uint64_t step = expires >> EXPIRY_SHIFT;

	return expires == 0 || step + 1 >= UINT64_MAX >> EXPIRY_SHIFT ? 0 : step + 1;
}

static void expiry_place(uint8_t place[EXPIRY_LEN], struct pool *p, const struct row *r)
{
	put_be(place, expiry_step(r->expires), 8);
	place_make(place + 8, p->number, r->offset);
}

static enum status expiry_put(struct ks_txn *t, struct pool *p, const struct row *r)
{
	uint8_t place[EXPIRY_LEN], *room;
	struct kv_slice key = slice_of(place, sizeof place);

	if (expiry_step(r->expires) == 0)
		return ST_OK;
	expiry_place(place, p, r);
	if (undo_value(t, KV_EXPIRY, key) != ST_OK ||
	    kv_reserve(t->ks->kv, KV_EXPIRY, key, 0, &room) != ST_OK)
		return broken(t);
	return ST_OK;
}

enum status row_create(struct ks_txn *t, struct pool *p, const struct row *r)
{
	uint8_t place[PLACE_LEN], record[ROW_MAX];
	struct row_slot *slot;
	enum status s;

	place_make(place, p->number, r->offset);
	pool_touch(t, p);
	p->now.rows++;
	s = expiry_put(t, p, r);
	if (s == ST_OK)
		s = record_put(t, KV_ROW, slice_of(place, sizeof place), record, row_encode(r, record));
	if (s == ST_OK)
		s = slot_for(t, &slot);
	if (s != ST_OK)
		return s;
	slot_set(t->ks, slot, p->number, r);
	slot->stamp = t->stamp;
	return ST_OK;
}

enum status row_drop(struct ks_txn *t, struct pool *p, const struct row *r)
{
	uint8_t place[EXPIRY_LEN];
	enum status s = ST_OK;

	expiry_place(place, p, r);
	pool_touch(t, p);
	p->now.rows--;
	if (row_let_go(t, p->number, r->offset) != ST_OK)
		return ST_STORAGE;
	if (expiry_step(r->expires) != 0)
		s = record_delete(t, KV_EXPIRY, slice_of(place, sizeof place));
	return s == ST_OK ? record_delete(t, KV_ROW, slice_of(place + 8, PLACE_LEN)) : s;
}
