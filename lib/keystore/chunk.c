/*
 * chunk.c - chunks, and the cache of open ones.
 *
 * A take changes nothing but bits of presence; what that means for the database is written
 * once a commit (chunks_flush), when the bytes that are not present any more are wiped here and left
 * out of the new sealed chunk. Until then they stay in locked memory, so that a failing work can
 * be undone by restoring the bits.
 */
#include "chunk.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "internal.h"

size_t chunk_encode(const struct chunk *c, uint8_t *room)
{
	unsigned extents = 0;
	uint8_t *p = room + 2;
	size_t n;

	for (unsigned lo = 0, hi; (lo = bits_next_set(c->present, lo, CHUNK_BYTES)) < CHUNK_BYTES; lo = hi) {
		hi = bits_next_clear(c->present, lo, CHUNK_BYTES);
		put_be(p, lo, 2);
		put_be(p + 2, hi, 2);
		p += 4;
		extents++;
	}
	put_be(room, extents, 2);
	for (unsigned i = 0; i < extents; i++) {
		size_t lo = (size_t)get_be(room + 2 + 4 * i, 2);

		n = (size_t)get_be(room + 4 + 4 * i, 2) - lo;
		memcpy(p, c->bytes.bytes + lo, n);
		p += n;
	}
	return (size_t)(p - room);
}

static bool chunk_decode(const uint8_t *plain, size_t len, uint64_t *present, uint8_t *bytes)
{
	size_t extents = len >= 2 ? (size_t)get_be(plain, 2) : SIZE_MAX;
	const uint8_t *p, *end = plain + len;
	unsigned last = 0;

	memset(present, 0, CHUNK_WORDS * sizeof *present);
	if (extents > CHUNK_BYTES / 2 || len < 2 + 4 * extents)
		return false;
	p = plain + 2 + 4 * extents;
	for (size_t i = 0; i < extents; i++) {
		unsigned lo = (unsigned)get_be(plain + 2 + 4 * i, 2),
			 hi = (unsigned)get_be(plain + 4 + 4 * i, 2);

		if (lo >= hi || hi > CHUNK_BYTES || (i > 0 && lo <= last) || (size_t)(end - p) < hi - lo)
			return false;
		memcpy(bytes + lo, p, hi - lo);
		bits_set(present, lo, hi);
		p += hi - lo;
		last = hi;
	}
	return p == end;
}

struct chunk *chunk_cached(struct ks *ks, uint32_t pool, uint64_t index)
{
	struct chunk_key key = {index, pool};
	struct chunk *c;

	HASH_FIND(hh, ks->cache.by_key, &key, sizeof key, c);
	return c;
}

static void forget(struct ks *ks, struct chunk *c)
{
	HASH_DELETE(hh, ks->cache.by_key, c);
	DL_DELETE(ks->cache.by_use, c);
	ks->cache.count--;
	ks->cache.dirty -= c->dirty;
}

void chunk_drop(struct ks *ks, struct chunk *c)
{
	forget(ks, c);
	secret_free(&c->bytes);
	free(c);
}

void chunks_drop_all(struct ks *ks)
{
	while (ks->cache.by_use != NULL)
		chunk_drop(ks, ks->cache.by_use);
}

void chunks_free(struct ks *ks)
{
	chunks_drop_all(ks);
	secret_free(&ks->cache.scratch);
}

static struct secret *scratch(struct ks *ks)
{
	if (ks->cache.scratch.len == 0)
		secret_alloc(&ks->cache.scratch, CHUNK_PLAIN_MAX);
	return &ks->cache.scratch;
}

/* The bytes that were taken go for good, from here and from the database's newest state. */
static void wipe_absent(struct chunk *c)
{
	for (unsigned lo = 0, hi; (lo = bits_next_clear(c->present, lo, CHUNK_BYTES)) < CHUNK_BYTES;
	     lo = hi) {
		hi = bits_next_set(c->present, lo, CHUNK_BYTES);
		secret_wipe(c->bytes.bytes + lo, hi - lo);
	}
}

static enum status flush(struct ks_txn *t, struct chunk *c)
{
	struct ks *ks = t->ks;
	struct secret *plain = scratch(ks);
	uint8_t place[PLACE_LEN], *room;
	unsigned present = bits_count(c->present, 0, CHUNK_BYTES);
	enum status s = ST_OK;
	size_t len;

	place_make(place, (uint32_t)c->key.pool, c->key.index);
	if (present == 0 && c->stored) {
		s = kv_delete(ks->kv, KV_CHUNK, slice_of(place, sizeof place));
	} else if (present > 0) {
		len = chunk_encode(c, plain->bytes);
		s = kv_reserve(ks->kv, KV_CHUNK, slice_of(place, sizeof place), len + SEAL_OVERHEAD, &room);
		if (s == ST_OK)
			seal_close(ks->seal, KV_CHUNK, slice_of(place, sizeof place), (uint16_t)present,
				   plain->bytes, len, room);
		secret_wipe(plain->bytes, len);
		t->written += CHUNK_BYTES;
	}
	if (s != ST_OK)
		return broken(t);
	wipe_absent(c);
	pick_forget(ks, (uint32_t)c->key.pool, c->key.index);
	c->stored = present > 0;
	c->dirty = false;
	ks->cache.dirty--;
	return ST_OK;
}

/* Most of the open ones are as they were; those that are not were used last. */
enum status chunks_flush(struct ks_txn *t)
{
	struct chunk *c = t->ks->cache.by_use;

	for (; t->ks->cache.dirty > 0; c = c->next)
		if (c->dirty && flush(t, c) != ST_OK)
			return ST_STORAGE;
	return ST_OK;
}

/* Room for one more: fresh, or that of the longest unused, which goes. */
static enum status make_room(struct ks_txn *t, struct chunk **room)
{
	struct chunk_cache *cache = &t->ks->cache;
	struct chunk *c;

	if (cache->count < t->ks->options.hot_chunks) {
		*room = xcalloc(1, sizeof **room);
		secret_alloc(&(*room)->bytes, CHUNK_BYTES);
		return ST_OK;
	}
	c = cache->by_use->prev; /* utlist: the head's prev is the tail */
	if (c->dirty) {
		undo_chunk_leaves(t, c);
		if (flush(t, c) != ST_OK)
			return ST_STORAGE;
	} else if (t->undoing && c->stamp == t->stamp) {
		undo_chunk_leaves(t, c);
	}
	forget(t->ks, c);
	secret_wipe(c->bytes.bytes, CHUNK_BYTES);
	*room = c;
	return ST_OK;
}

enum status chunk_open(struct ks_txn *t, struct chunk_key key, struct kv_slice sealed, uint64_t *present,
		       uint8_t *bytes)
{
	struct secret *plain = scratch(t->ks);
	uint8_t place[PLACE_LEN];
	bool ok;

	place_make(place, (uint32_t)key.pool, key.index);
	if (sealed.len < SEAL_OVERHEAD || sealed.len - SEAL_OVERHEAD > plain->len)
		return damage(t, "a chunk of keys");
	ok = seal_open(t->ks->seal, KV_CHUNK, slice_of(place, sizeof place), sealed, plain->bytes) &&
	     chunk_decode(plain->bytes, sealed.len - SEAL_OVERHEAD, present, bytes);
	secret_wipe(plain->bytes, sealed.len - SEAL_OVERHEAD);
	return ok ? ST_OK : damage(t, "a chunk of keys");
}

static enum status load(struct ks_txn *t, struct chunk *c)
{
	struct kv_slice sealed;
	uint8_t place[PLACE_LEN];
	enum status s;

	place_make(place, (uint32_t)c->key.pool, c->key.index);
	s = kv_get(t->ks->kv, KV_CHUNK, slice_of(place, sizeof place), &sealed);
	if (s == ST_NOT_FOUND)
		return ST_OK;
	if (s != ST_OK)
		return broken(t);
	c->stored = true;
	return chunk_open(t, c->key, sealed, c->present, c->bytes.bytes);
}

static enum status insert(struct ks_txn *t, struct pool *p, uint64_t index, enum chunk_use use,
			  struct chunk **c)
{
	struct chunk_cache *cache = &t->ks->cache;
	struct chunk *fresh;

	if (make_room(t, &fresh) != ST_OK)
		return ST_STORAGE;
	*fresh = (struct chunk){.key = {index, p->number}, .bytes = fresh->bytes};
	HASH_ADD(hh, cache->by_key, key, sizeof fresh->key, fresh);
	if (use == CHUNK_KEEP)
		DL_PREPEND(cache->by_use, fresh);
	else
		DL_APPEND(cache->by_use, fresh);
	cache->count++;
	if (load(t, fresh) != ST_OK) {
		chunk_drop(t->ks, fresh);
		return ST_STORAGE;
	}
	*c = fresh;
	return ST_OK;
}

enum status chunk_get(struct ks_txn *t, struct pool *p, uint64_t index, enum chunk_use use, struct chunk **c)
{
	struct chunk_cache *cache = &t->ks->cache;

	*c = chunk_cached(t->ks, p->number, index);
	if (*c == NULL)
		return insert(t, p, index, use, c);
	if (use == CHUNK_KEEP && *c != cache->by_use) {
		DL_DELETE(cache->by_use, *c);
		DL_PREPEND(cache->by_use, *c);
	}
	return ST_OK;
}

void chunk_touch(struct ks_txn *t, struct chunk *c)
{
	t->wrote = true;
	if (c->stamp != t->stamp) {
		undo_chunk(t, c);
		c->stamp = t->stamp;
	}
	t->ks->cache.dirty += !c->dirty;
	c->dirty = true;
}

/* The least index in [from, best] of a chunk that the cache has and the database may not have yet. */
static uint64_t next_cached(struct ks *ks, uint32_t pool, uint64_t from, uint64_t best)
{
	struct chunk *c;

	DL_FOREACH (ks->cache.by_use, c)
		if (c->dirty && c->key.pool == pool && c->key.index >= from && c->key.index < best)
			best = c->key.index;
	return best;
}

enum status chunk_next(struct ks_txn *t, struct pool *p, uint64_t *index, uint64_t last)
{
	uint8_t place[PLACE_LEN];
	uint64_t found = UINT64_MAX;
	struct kv_slice key;
	enum status s;

	if (*index > last)
		return ST_NOT_FOUND;
	if (chunk_cached(t->ks, p->number, *index) != NULL)
		return ST_OK;
	place_make(place, p->number, *index);
	s = kv_seek(t->ks->kv, KV_CHUNK, KV_AT_OR_AFTER, slice_of(place, sizeof place), &key, NULL);
	if (s != ST_OK && s != ST_NOT_FOUND)
		return broken(t);
	if (s == ST_OK && key.len == PLACE_LEN && get_be(key.bytes, POOL_NUMBER_LEN) == p->number)
		found = get_be(key.bytes + POOL_NUMBER_LEN, 8);
	if (found != *index)
		found = next_cached(t->ks, p->number, *index, found);
	if (found > last)
		return ST_NOT_FOUND;
	*index = found;
	return ST_OK;
}

enum status chunk_count(struct ks_txn *t, struct pool *p, uint64_t index, uint64_t *present)
{
	struct chunk *c = chunk_cached(t->ks, p->number, index);
	struct kv_slice sealed;
	uint8_t place[PLACE_LEN];
	enum status s;

	if (c != NULL) {
		*present = bits_count(c->present, 0, CHUNK_BYTES);
		return ST_OK;
	}
	place_make(place, p->number, index);
	s = kv_get(t->ks->kv, KV_CHUNK, slice_of(place, sizeof place), &sealed);
	*present = s == ST_OK ? seal_hint(sealed) : 0;
	return s == ST_OK || s == ST_NOT_FOUND ? ST_OK : broken(t);
}

/* The form of a whole chunk: one extent. */
enum { FULL_HEAD = 2 + 4, FULL_LEN = FULL_HEAD + CHUNK_BYTES };

static void put_full_head(uint8_t head[FULL_HEAD])
{
	put_be(head, 1, 2);
	put_be(head + 2, 0, 2);
	put_be(head + 4, CHUNK_BYTES, 2);
}

bool chunk_full_at_rest(struct ks_txn *t, const struct pool *p, uint64_t index, struct kv_slice *sealed)
{
	uint8_t place[PLACE_LEN];

	if (chunk_cached(t->ks, p->number, index) != NULL)
		return false;
	place_make(place, p->number, index);
	return kv_get(t->ks->kv, KV_CHUNK, slice_of(place, sizeof place), sealed) == ST_OK &&
	       seal_hint(*sealed) == CHUNK_BYTES && sealed->len == FULL_LEN + SEAL_OVERHEAD;
}

enum status chunk_open_full(struct ks_txn *t, const struct pool *p, uint64_t index, struct kv_slice sealed,
			    uint8_t *out)
{
	uint8_t place[PLACE_LEN], head[FULL_HEAD], expected[FULL_HEAD];

	place_make(place, p->number, index);
	put_full_head(expected);
	if (seal_open_parts(t->ks->seal, KV_CHUNK, slice_of(place, sizeof place), sealed, head, FULL_HEAD, out) &&
	    memcmp(head, expected, FULL_HEAD) == 0)
		return ST_OK;
	return damage(t, "a chunk of keys");
}

enum status chunk_delete_full(struct ks_txn *t, const struct pool *p, uint64_t index, struct kv_slice sealed)
{
	uint8_t place[PLACE_LEN];

	place_make(place, p->number, index);
	undo_value_was(t, KV_CHUNK, slice_of(place, sizeof place), sealed);
	pick_forget(t->ks, p->number, index);
	if (kv_delete(t->ks->kv, KV_CHUNK, slice_of(place, sizeof place)) != ST_OK)
		return broken(t);
	t->wrote = true;
	return ST_OK;
}

enum status chunk_store_whole(struct ks_txn *t, struct pool *p, uint64_t index, const uint8_t *bytes)
{
	static const size_t len = FULL_LEN;
	struct secret *plain = scratch(t->ks);
	struct chunk *cached = chunk_cached(t->ks, p->number, index);
	uint8_t place[PLACE_LEN], *room;

	if (cached != NULL) /* an empty one, looked at before */
		chunk_drop(t->ks, cached);
	place_make(place, p->number, index);
	if (undo_value(t, KV_CHUNK, slice_of(place, sizeof place)) != ST_OK ||
	    kv_reserve(t->ks->kv, KV_CHUNK, slice_of(place, sizeof place), len + SEAL_OVERHEAD, &room) !=
		ST_OK)
		return broken(t);
	put_full_head(plain->bytes);
	memcpy(plain->bytes + FULL_HEAD, bytes, CHUNK_BYTES);
	seal_close(t->ks->seal, KV_CHUNK, slice_of(place, sizeof place), CHUNK_BYTES, plain->bytes, len,
		   room);
	secret_wipe(plain->bytes, len);
	t->written += CHUNK_BYTES;
	t->wrote = true;
	return ST_OK;
}
