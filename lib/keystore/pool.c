/*
 * pool.c - pools: their records, their cursors, and what is appended to and taken from them.
 *
 * Each function first finds out whether it can do what it is asked, and only then changes anything: so a
 * refusal changes nothing even where the caller's work goes on and succeeds.
 */
#include <stdlib.h>
#include <string.h>

#include "advice.h"
#include "row.h"
#include "stream.h"
#include "voids.h"

void place_make(uint8_t place[PLACE_LEN], uint32_t pool, uint64_t number)
{
	put_be(place, pool, POOL_NUMBER_LEN);
	put_be(place + POOL_NUMBER_LEN, number, 8);
}

/* ---- records ---------------------------------------------------------------------------------- */

enum { COUNTERS = 11, POOL_RECORD_MAX = 6 + 3 * (1 + NAME_MAX_LEN) + 8 * COUNTERS };

static uint8_t *put_name(uint8_t *p, const char *name)
{
	size_t n = strlen(name);

	*p++ = (uint8_t)n;
	memcpy(p, name, n);
	return p + n;
}

static const uint8_t *get_name(const uint8_t *p, const uint8_t *end, char name[NAME_MAX_LEN + 1])
{
	if (p == NULL || p == end || *p > NAME_MAX_LEN || (size_t)(end - p) < (size_t)*p + 1)
		return NULL;
	memcpy(name, p + 1, *p);
	name[*p] = '\0';
	return p + 1 + *p;
}

static void counters(struct pool_state *s, uint64_t *list[COUNTERS])
{
	uint64_t *all[COUNTERS] = {&s->pub.head,    &s->pub.ready,    &s->pub.tail,   &s->pub.stock,
				   &s->pub.unready, &s->pub.assigned, &s->pub.voided, &s->swept,
				   &s->rows,        &s->voids,        &s->uncut};

	memcpy(list, all, sizeof all);
}

static size_t pool_encode(struct pool *pool, uint8_t *room)
{
	const struct ks_pool_desc *d = &pool->now.pub.desc;
	uint64_t *list[COUNTERS];
	uint8_t *p = room;

	put_be(p, pool->number, POOL_NUMBER_LEN);
	p[4] = (uint8_t)d->kind;
	p[5] = pool->now.pub.retired;
	p = put_name(put_name(put_name(p + 6, d->source), d->destination), d->link);
	counters(&pool->now, list);
	for (int i = 0; i < COUNTERS; i++, p += 8)
		put_be(p, *list[i], 8);
	return (size_t)(p - room);
}

/* What every pool's record keeps to: a bug that did not would have the sweep walk for years, or be paid in keys. */
static bool pool_is_consistent(const struct ks *ks, const struct pool *pool)
{
	const struct ks_pool *x = &pool->now.pub;
	struct pool *same;

	HASH_FIND(by_number, ks->pools.by_number, &pool->number, sizeof pool->number, same);
	return same == NULL && x->desc.kind <= KS_POOL_SHARE && x->head <= x->ready && x->ready <= x->tail &&
	       x->tail <= OFFSET_LIMIT && x->stock <= x->ready - x->head && x->unready <= x->tail - x->ready &&
	       (x->retired || pool->now.swept <= x->head);
}

static bool pool_decode(struct pool *pool, const uint8_t *p, size_t len)
{
	struct ks_pool_desc *d = &pool->now.pub.desc;
	const uint8_t *end = p + len;
	uint64_t *list[COUNTERS];

	if (len < 6)
		return false;
	pool->number = (uint32_t)get_be(p, POOL_NUMBER_LEN);
	d->kind = p[4];
	pool->now.pub.retired = p[5] != 0;
	p = get_name(get_name(get_name(p + 6, end, d->source), end, d->destination), end, d->link);
	if (p == NULL || end - p != 8 * COUNTERS)
		return false;
	counters(&pool->now, list);
	for (int i = 0; i < COUNTERS; i++, p += 8)
		*list[i] = get_be(p, 8);
	return true;
}

static void pool_add(struct ks *ks, struct pool *p)
{
	HASH_ADD(by_id, ks->pools.by_id, now.pub.desc.id, sizeof(struct id), p);
	HASH_ADD(by_number, ks->pools.by_number, number, sizeof p->number, p);
	if (p->number > ks->pools.last_number)
		ks->pools.last_number = p->number;
}

void pool_remove(struct ks *ks, struct pool *p)
{
	HASH_DELETE(by_id, ks->pools.by_id, p);
	HASH_DELETE(by_number, ks->pools.by_number, p);
	free(p);
}

void pools_free(struct ks *ks)
{
	struct pool *p, *next;

	HASH_ITER (by_id, ks->pools.by_id, p, next)
		pool_remove(ks, p);
}

enum status pools_load(struct ks *ks, struct err *e)
{
	struct kv_slice key, sealed;
	uint8_t record[POOL_RECORD_MAX];
	struct id id = {{0}};
	enum kv_seek how = KV_AT_OR_AFTER;

	for (;; how = KV_AFTER) {
		enum status s = kv_seek(ks->kv, KV_POOL, how, slice_of(&id, sizeof id), &key, &sealed);
		struct pool *p;

		if (s == ST_NOT_FOUND)
			return ST_OK;
		if (s != ST_OK || key.len != sizeof id || sealed.len < SEAL_OVERHEAD ||
		    sealed.len - SEAL_OVERHEAD > sizeof record ||
		    !seal_open(ks->seal, KV_POOL, key, sealed, record))
			return err_set(
			    e, ST_STORAGE,
			    "%s: the record of a pool is damaged: " START_EMPTY,
			    ks->directory);
		memcpy(&id, key.bytes, sizeof id);
		p = xcalloc(1, sizeof *p);
		p->now.pub.desc.id = id;
		if (!pool_decode(p, record, sealed.len - SEAL_OVERHEAD) || !pool_is_consistent(ks, p)) {
			free(p);
			return err_set(e, ST_STORAGE,
				       "%s: the record of a pool cannot be read: run the version "
				       "of the program that wrote it",
				       ks->directory);
		}
		p->committed = p->now;
		pool_add(ks, p);
	}
}

enum status pools_flush(struct ks_txn *t)
{
	struct ks *ks = t->ks;
	uint8_t record[POOL_RECORD_MAX], *room;
	struct pool *p, *next;

	HASH_ITER (by_id, ks->pools.by_id, p, next) {
		struct kv_slice id = slice_of(&p->now.pub.desc.id, sizeof(struct id));
		size_t len;

		if (!p->dirty)
			continue;
		len = pool_encode(p, record);
		if (kv_reserve(ks->kv, KV_POOL, id, len + SEAL_OVERHEAD, &room) != ST_OK)
			return broken(t);
		seal_close(ks->seal, KV_POOL, id, 0, record, len, room);
	}
	return ST_OK;
}

void pools_committed(struct ks *ks)
{
	uint64_t key_bytes = 0;
	struct pool *p, *next;

	HASH_ITER (by_id, ks->pools.by_id, p, next) {
		p->dirty = p->fresh = false;
		key_bytes += p->now.pub.stock + p->now.pub.unready + p->now.pub.assigned;
	}
	atomic_store(&ks->key_bytes, key_bytes);
}

void pools_aborted(struct ks *ks)
{
	struct pool *p, *next;

	HASH_ITER (by_id, ks->pools.by_id, p, next) {
		if (p->fresh)
			pool_remove(ks, p);
		else if (p->dirty) {
			p->now = p->committed;
			p->dirty = false;
		}
	}
}

void pool_touch(struct ks_txn *t, struct pool *p)
{
	t->wrote = true;
	if (p->stamp != t->stamp) {
		undo_pool(t, p);
		p->stamp = t->stamp;
	}
	if (!p->dirty) {
		p->committed = p->now;
		p->dirty = true;
	}
}

bool pool_needs_sweep(const struct pool *p)
{
	if (p->now.pub.retired)
		return p->now.swept != UINT64_MAX;
	return p->now.swept < p->now.pub.head || p->now.uncut > 0;
}

/* ---- pools ------------------------------------------------------------------------------------- */

static bool same_desc(const struct ks_pool_desc *a, const struct ks_pool_desc *b)
{
	return id_equal(&a->id, &b->id) && a->kind == b->kind && strcmp(a->source, b->source) == 0 &&
	       strcmp(a->destination, b->destination) == 0 && strcmp(a->link, b->link) == 0;
}

static struct pool *lookup(struct ks *ks, const struct id *id)
{
	struct pool *p;

	HASH_FIND(by_id, ks->pools.by_id, id, sizeof *id, p);
	return p;
}

enum status pool_find(struct ks_txn *t, const struct id *id, struct pool **p)
{
	*p = lookup(t->ks, id);
	if (*p == NULL)
		return ST_NOT_FOUND;
	return (*p)->now.pub.retired ? ST_KEY_GONE : ST_OK;
}

enum status ks_pool_create(struct ks_txn *t, const struct ks_pool_desc *d)
{
	struct pool *p = lookup(t->ks, &d->id);

	if (p != NULL && p->now.pub.retired)
		return ST_KEY_GONE;
	if (p != NULL)
		return same_desc(&p->now.pub.desc, d) ? ST_OK : ST_CONFLICT;
	if (d->kind > KS_POOL_SHARE || !name_is_valid(d->source) || !name_is_valid(d->destination) ||
	    (d->link[0] != '\0' && !name_is_valid(d->link)))
		return ST_BAD_REQUEST;
	p = xcalloc(1, sizeof *p);
	p->now.pub.desc = *d;
	p->number = t->ks->pools.last_number + 1;
	p->fresh = true;
	pool_add(t->ks, p);
	pool_touch(t, p);
	return ST_OK;
}

enum status ks_pool_get(struct ks_txn *t, const struct id *pool, struct ks_pool *out)
{
	struct pool *p = lookup(t->ks, pool);

	if (p == NULL)
		return ST_NOT_FOUND;
	*out = p->now.pub;
	out->durable = p->dirty ? p->committed.pub.head : p->now.pub.head;
	return ST_OK;
}

void ks_pool_each(struct ks_txn *t, bool (*each)(const struct ks_pool *p, void *arg), void *arg)
{
	struct pool *p, *next;

	HASH_ITER (by_id, t->ks->pools.by_id, p, next)
		if (!each(&p->now.pub, arg))
			return;
}

enum status ks_pool_retire(struct ks_txn *t, const struct id *pool)
{
	struct pool *p = lookup(t->ks, pool);
	struct ks_pool *x;

	if (p == NULL)
		return ST_NOT_FOUND;
	if (p->now.pub.retired)
		return ST_OK;
	pool_touch(t, p);
	x = &p->now.pub;
	x->retired = true;
	x->voided += x->stock + x->unready + x->assigned;
	x->stock = x->unready = x->assigned = 0;
	x->head = x->ready = x->tail;
	return ST_OK;
}

static bool in_bounds(uint64_t offset, uint64_t len)
{
	return len > 0 && offset < OFFSET_LIMIT && len <= OFFSET_LIMIT - offset;
}

/* ---- append, settle, read -------------------------------------------------------------------------- */

/* Where part of the range is below ready it must be there, and no key of it may be delivered. */
static enum status append_check_assigned(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi)
{
	struct row r;
	enum status s = ST_OK;

	while (p->now.rows > 0 && lo < hi && (s = row_at_or_after(t, p, lo, &r)) == ST_OK && r.offset < hi) {
		if (row_has_gone(&r, lo, hi))
			return ST_KEY_GONE;
		lo = row_end(&r);
	}
	return s == ST_NOT_FOUND ? ST_OK : s;
}

static enum status append_check(struct ks_txn *t, struct pool *p, uint64_t offset, const uint8_t *bytes,
				size_t len)
{
	const struct ks_pool *x = &p->now.pub;
	uint64_t end = offset + len;
	enum status s = ST_OK;

	if (offset < x->head)
		return ST_KEY_GONE;
	if (offset < x->ready)
		s = append_check_assigned(t, p, offset, end < x->ready ? end : x->ready);
	if (s == ST_OK && end > x->ready)
		s = void_check(t, p, offset > x->ready ? offset : x->ready, end);
	if (s == ST_OK && offset < x->tail)
		s = stream_compare(t, p, offset, bytes, end < x->tail ? len : (size_t)(x->tail - offset),
				   x->ready);
	return s;
}

/* An eighth of the file is kept for the tree, for copies on write, and for taking when it is full. */
static bool has_room(const struct ks *ks, size_t len)
{
	uint64_t max = ks->options.max_bytes;

	return ks->options.backend == KS_MEMORY || atomic_load(&ks->key_bytes) + len <= max - max / 8;
}

enum status ks_append(struct ks_txn *t, const struct id *pool, uint64_t offset, const uint8_t *bytes,
		      size_t len)
{
	struct pool *p;
	enum status s = pool_find(t, pool, &p);
	uint64_t fresh;

	if (s != ST_OK)
		return s;
	if (!in_bounds(offset, len))
		return ST_BAD_REQUEST;
	s = append_check(t, p, offset, bytes, len);
	if (s != ST_OK || offset + len <= p->now.pub.ready)
		return s;
	if (!has_room(t->ks, len))
		return ST_STORAGE;
	pool_touch(t, p);
	s = stream_put(t, p, offset, bytes, len, &fresh);
	p->now.pub.unready += fresh;
	if (offset + len > p->now.pub.tail)
		p->now.pub.tail = offset + len;
	return s;
}

/* Bytes present in [ready, hi), without looking where there is no hole. */
static enum status unready_below(struct ks_txn *t, struct pool *p, uint64_t hi, uint64_t *n)
{
	const struct ks_pool *x = &p->now.pub;

	if (hi >= x->tail)
		*n = x->unready;
	else if (x->unready == x->tail - x->ready)
		*n = hi - x->ready;
	else
		return stream_count(t, p, x->ready, hi, n);
	return ST_OK;
}

enum status ks_settle(struct ks_txn *t, const struct id *pool, uint64_t ready)
{
	struct pool *p;
	enum status s = pool_find(t, pool, &p);
	struct ks_pool *x;
	uint64_t n;

	if (s != ST_OK)
		return s;
	x = &p->now.pub;
	if (ready < x->ready)
		return ST_CONFLICT;
	if (ready > OFFSET_LIMIT)
		return ST_BAD_REQUEST;
	if (ready == x->ready)
		return ST_OK;
	s = unready_below(t, p, ready, &n);
	if (s != ST_OK)
		return s;
	pool_touch(t, p);
	x->unready -= n;
	x->stock += n;
	x->ready = ready;
	if (x->tail < ready)
		x->tail = ready;
	return voids_forget(t, p);
}

enum status ks_read(struct ks_txn *t, const struct id *pool, uint64_t offset, size_t len, struct secret *out)
{
	uint64_t pos = offset, lo, hi;
	struct pool *p;
	enum status s = pool_find(t, pool, &p);

	if (s != ST_OK)
		return s;
	if (!in_bounds(offset, len))
		return ST_BAD_REQUEST;
	if (offset < p->now.pub.head || offset + len > p->now.pub.tail)
		return ST_KEY_GONE;
	s = gap_next(t, p, &pos, offset + len, &lo, &hi);
	if (s == ST_NOT_FOUND || (s == ST_OK && (lo != offset || hi != offset + len)))
		return ST_KEY_GONE; /* assigned */
	if (s != ST_OK)
		return s;
	s = stream_whole(t, p, offset, offset + len);
	if (s != ST_OK)
		return s;
	secret_alloc(out, len);
	s = stream_copy(t, p, offset, len, out->bytes, CHUNK_KEEP);
	if (s != ST_OK)
		secret_free(out);
	return s;
}

/* ---- take ------------------------------------------------------------------------------------------- */

/* Moves head up to offset; what is below it is cut out already, or is left to the sweep. */
static void head_to(struct pool *p, uint64_t offset, bool cut)
{
	if (cut && p->now.swept == p->now.pub.head)
		p->now.swept = offset;
	p->now.pub.head = offset;
}

static uint64_t rounded_up(uint64_t v, uint64_t granule)
{
	return (v + granule - 1) / granule * granule;
}

/* The next run in no row, as stream_run. */
static enum status run_next(struct ks_txn *t, struct pool *p, uint64_t from, uint64_t most, uint64_t *lo,
			    uint64_t *hi)
{
	uint64_t gap_lo, gap_hi, limit = p->now.pub.ready;
	enum status s;

	while ((s = gap_next(t, p, &from, limit, &gap_lo, &gap_hi)) == ST_OK) {
		s = stream_run(t, p, gap_lo, gap_hi, most, lo, hi);
		if (s != ST_NOT_FOUND)
			return s;
	}
	return s;
}

/* Finds [*start, *end) for a take. ST_TOO_FEW_KEYS. */
static enum status take_find(struct ks_txn *t, struct pool *p, uint64_t min, uint64_t max, uint64_t granule,
			     uint64_t *start, uint64_t *end)
{
	uint64_t pos = p->now.pub.head, lo, hi;
	enum status s;

	if (p->now.pub.stock < min)
		return ST_TOO_FEW_KEYS;
	while ((s = run_next(t, p, pos, max + granule - 1, &lo, &hi)) == ST_OK) {
		uint64_t len;

		*start = rounded_up(lo, granule);
		len = hi > *start ? (hi - *start) / granule * granule : 0;
		if (len >= min) {
			*end = *start + (len < max ? len : max);
			return ST_OK;
		}
		pos = hi;
	}
	return s == ST_NOT_FOUND ? ST_TOO_FEW_KEYS : s;
}

static enum status take_range_into(struct ks_txn *t, struct pool *p, uint64_t offset, size_t len, uint8_t *room)
{
	enum status s = room != NULL ? stream_copy(t, p, offset, len, room, CHUNK_KEEP) : ST_OK;

	if (s != ST_OK)
		return s;
	pool_touch(t, p);
	p->now.pub.stock -= len;
	return stream_cut(t, p, offset, offset + len, NULL);
}

static enum status take_range(struct ks_txn *t, struct pool *p, uint64_t offset, size_t len,
			      struct secret *out)
{
	enum status s;

	if (out != NULL)
		secret_alloc(out, len);
	s = take_range_into(t, p, offset, len, out != NULL ? out->bytes : NULL);
	if (s != ST_OK && out != NULL)
		secret_free(out);
	return s;
}

/* What a take has found is taken: head moves up, and what was skipped is void. */
static enum status take_found(struct ks_txn *t, struct pool *p, uint64_t start, uint64_t end)
{
	enum status s = p->now.pub.head < start ? pool_void_unassigned(t, p, p->now.pub.head, start) : ST_OK;

	head_to(p, end, true);
	return s;
}

/* The pool, and where in it a take finds [*start, *end). */
static enum status take_begin(struct ks_txn *t, const struct id *pool, size_t min, size_t max, size_t granule,
			      struct pool **p, uint64_t *start, uint64_t *end)
{
	enum status s = pool_find(t, pool, p);

	if (s != ST_OK)
		return s;
	if (granule == 0 || min == 0 || max > OFFSET_LIMIT || granule > OFFSET_LIMIT)
		return ST_BAD_REQUEST;
	min = rounded_up(min, granule);
	max = max / granule * granule;
	if (min > max)
		return ST_BAD_REQUEST;
	return take_find(t, *p, min, max, granule, start, end);
}

enum status ks_take(struct ks_txn *t, const struct id *pool, size_t min, size_t max, size_t granule,
		    uint64_t *offset, struct secret *out)
{
	uint64_t start, end;
	struct pool *p;
	enum status s = take_begin(t, pool, min, max, granule, &p, &start, &end);

	if (s == ST_OK)
		s = take_range(t, p, start, (size_t)(end - start), out);
	if (s != ST_OK)
		return s;
	s = take_found(t, p, start, end);
	if (s != ST_OK && out != NULL)
		secret_free(out);
	*offset = start;
	return s;
}

enum status ks_take_into(struct ks_txn *t, const struct id *pool, size_t min, size_t max, size_t granule,
			 uint64_t *offset, uint8_t *room, size_t *len)
{
	uint64_t start, end;
	struct pool *p;
	enum status s = take_begin(t, pool, min, max, granule, &p, &start, &end);

	if (s == ST_OK)
		s = take_range_into(t, p, start, (size_t)(end - start), room);
	if (s == ST_OK)
		s = take_found(t, p, start, end);
	if (s != ST_OK)
		return s;
	*offset = start;
	*len = (size_t)(end - start);
	return ST_OK;
}

enum status pool_check_takeable(struct ks_txn *t, struct pool *p, uint64_t offset, uint64_t len)
{
	const struct ks_pool *x = &p->now.pub;
	uint64_t end = offset + len, pos = offset, lo, hi, below = end < x->ready ? end : x->ready;
	enum status s = ST_OK;

	if (offset < x->head)
		return ST_REPLAYED;
	if (offset < below) {
		s = gap_next(t, p, &pos, below, &lo, &hi);
		if (s == ST_NOT_FOUND || (s == ST_OK && (lo != offset || hi != below)))
			return ST_REPLAYED;
		if (s == ST_OK)
			s = stream_whole(t, p, offset, below);
	}
	if (s == ST_OK && end > x->ready) {
		s = void_check(t, p, offset > x->ready ? offset : x->ready, end);
		if (s == ST_OK)
			return ST_TOO_FEW_KEYS;
	}
	return s == ST_KEY_GONE ? ST_REPLAYED : s;
}

/* Moves *head up to the first byte that is there or that is assigned, or to ready. */
static enum status skip_absent(struct ks_txn *t, struct pool *p, uint64_t *head)
{
	uint64_t pos = *head, gap_lo, gap_hi, lo, hi;
	enum status s = gap_next(t, p, &pos, p->now.pub.ready, &gap_lo, &gap_hi);

	if (s == ST_NOT_FOUND || (s == ST_OK && gap_lo != *head))
		return ST_OK;
	if (s == ST_OK)
		s = stream_run(t, p, gap_lo, gap_hi, 1, &lo, &hi);
	if (s != ST_OK && s != ST_NOT_FOUND)
		return s;
	*head = s == ST_OK ? lo : gap_hi;
	return ST_OK;
}

enum status pool_advance_head(struct ks_txn *t, struct pool *p, uint64_t offset, uint64_t len)
{
	uint64_t head = offset + len;
	enum status s;

	if (p->now.pub.head < offset || p->now.pub.head >= head)
		return ST_OK;
	s = skip_absent(t, p, &head);
	if (s != ST_OK)
		return s;
	pool_touch(t, p);
	head_to(p, head, true);
	return ST_OK;
}

enum status ks_take_at(struct ks_txn *t, const struct id *pool, uint64_t offset, size_t len,
		       struct secret *out)
{
	struct pool *p;
	enum status s = pool_find(t, pool, &p);

	if (s != ST_OK)
		return s;
	if (!in_bounds(offset, len))
		return ST_BAD_REQUEST;
	s = pool_check_takeable(t, p, offset, len);
	if (s == ST_OK)
		s = take_range(t, p, offset, len, out);
	return s == ST_OK ? pool_advance_head(t, p, offset, len) : s;
}

/* ---- void ---------------------------------------------------------------------------------------- */

enum status pool_void_unassigned(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi)
{
	struct ks_pool *x = &p->now.pub;
	uint64_t gap_lo, gap_hi;
	enum status s;

	pool_touch(t, p);
	if (lo < x->head)
		lo = x->head;
	while ((s = gap_next(t, p, &lo, hi, &gap_lo, &gap_hi)) == ST_OK) {
		uint64_t ready = 0, unready = 0, edge = gap_hi < x->ready ? gap_hi : x->ready;

		if (gap_lo < edge)
			s = stream_cut(t, p, gap_lo, edge, &ready);
		if (s == ST_OK && gap_hi > x->ready)
			s = stream_cut(t, p, gap_lo > x->ready ? gap_lo : x->ready, gap_hi, &unready);
		x->stock -= ready;
		x->unready -= unready;
		x->voided += ready + unready;
		if (s != ST_OK)
			return s;
	}
	return s == ST_NOT_FOUND ? ST_OK : s;
}

enum status ks_void(struct ks_txn *t, const struct id *pool, uint64_t offset, uint64_t len, uint64_t *erased)
{
	uint64_t end = offset + len, before, n = 0;
	struct pool *p;
	enum status s = pool_find(t, pool, &p);
	struct ks_pool *x;

	if (s != ST_OK)
		return s;
	if (!in_bounds(offset, len))
		return ST_BAD_REQUEST;
	x = &p->now.pub;
	before = x->voided;
	s = assignments_void(t, p, offset, end, &n);
	if (s == ST_OK)
		s = pool_void_unassigned(t, p, offset, end);
	if (s == ST_OK && end > x->ready)
		s = void_add(t, p, offset > x->ready ? offset : x->ready, end);
	if (s == ST_OK && offset <= x->head && x->head < end)
		head_to(p, end < x->ready ? end : x->ready, true);
	if (erased != NULL)
		*erased = x->voided - before;
	return s;
}

/* Bytes of [head, hi), hi <= ready, that are present and not assigned. */
static enum status stock_below(struct ks_txn *t, struct pool *p, uint64_t hi, uint64_t *n)
{
	const struct ks_pool *x = &p->now.pub;
	uint64_t pos = x->head, lo, gap_hi, part;
	enum status s = ST_NOT_FOUND;

	*n = 0;
	if (hi == x->ready)
		*n = x->stock;
	else if (x->stock == x->ready - x->head)
		*n = hi - x->head;
	else
		while ((s = gap_next(t, p, &pos, hi, &lo, &gap_hi)) == ST_OK) {
			s = stream_count(t, p, lo, gap_hi, &part);
			if (s != ST_OK)
				return s;
			*n += part;
		}
	return s == ST_NOT_FOUND ? ST_OK : s;
}

enum status ks_void_below(struct ks_txn *t, const struct id *pool, uint64_t offset)
{
	uint64_t ready = 0, unready = 0;
	struct pool *p;
	enum status s = pool_find(t, pool, &p);
	struct ks_pool *x;

	if (s != ST_OK)
		return s;
	x = &p->now.pub;
	if (offset > OFFSET_LIMIT)
		return ST_BAD_REQUEST;
	if (offset <= x->head)
		return ST_OK;
	s = stock_below(t, p, offset < x->ready ? offset : x->ready, &ready);
	if (s == ST_OK && offset > x->ready)
		s = unready_below(t, p, offset, &unready);
	if (s != ST_OK)
		return s;
	pool_touch(t, p);
	x->stock -= ready;
	x->unready -= unready;
	x->voided += ready + unready;
	head_to(p, offset, false); /* the sweep cuts: this may be the whole of a big store */
	if (x->ready < offset)
		x->ready = offset;
	if (x->tail < offset)
		x->tail = offset;
	return voids_forget(t, p);
}
