/*
 * sweep.c - cutting out what is spent and still lies in chunks: keys delivered out of order, what
 * ks_void_below gave up, all that a retired pool had.
 *
 * The pool's record says that there is something to do (so it is known after a crash without looking
 * at the store); the walk goes in steps small enough to stand between two batches. A step that stops half-way
 * has cut some of what it was to cut, and counted nothing: the next one finds the rest.
 */
#include <string.h>

#include "row.h"
#include "stream.h"

enum { CHUNKS_A_STEP = 64, ROWS_A_STEP = 4 }; /* a few milliseconds: somebody may come meanwhile */

/* Deletes up to most values of a pool from one database; *left falls by how many. */
static enum status delete_some(struct ks_txn *t, struct pool *p, enum kv_db db, unsigned *left)
{
	uint8_t from[PLACE_LEN];
	struct kv_slice key;
	enum status s = ST_OK;

	place_make(from, p->number, 0);
	for (; *left > 0; (*left)--) {
		struct chunk *c;

		s = kv_seek(t->ks->kv, db, KV_AT_OR_AFTER, slice_of(from, sizeof from), &key, NULL);
		if (s != ST_OK || key.len != PLACE_LEN || get_be(key.bytes, POOL_NUMBER_LEN) != p->number)
			break;
		memcpy(from, key.bytes, sizeof from);
		c = db == KV_CHUNK ? chunk_cached(t->ks, p->number, get_be(from + POOL_NUMBER_LEN, 8)) : NULL;
		if (c != NULL)
			chunk_drop(t->ks, c);
		if (db == KV_CHUNK)
			pick_forget(t->ks, p->number, get_be(from + POOL_NUMBER_LEN, 8));
		s = record_delete(t, db, slice_of(from, sizeof from));
		if (s != ST_OK)
			return s;
	}
	return s == ST_OK || s == ST_NOT_FOUND ? ST_OK : broken(t);
}

static enum status sweep_rows_of_retired(struct ks_txn *t, struct pool *p, unsigned *left)
{
	struct row r;
	enum status s = ST_OK;

	for (; *left > 0; (*left)--) {
		s = row_at_or_after(t, p, 0, &r);
		if (s != ST_OK)
			break;
		s = row_drop(t, p, &r);
		if (s != ST_OK)
			return s;
	}
	return s == ST_NOT_FOUND ? ST_OK : s;
}

static enum status sweep_retired(struct ks_txn *t, struct pool *p)
{
	unsigned left = CHUNKS_A_STEP;
	enum status s = delete_some(t, p, KV_CHUNK, &left);

	if (s == ST_OK)
		s = sweep_rows_of_retired(t, p, &left);
	if (s == ST_OK)
		s = delete_some(t, p, KV_VOID, &left);
	if (s == ST_OK && left > 0) {
		pool_touch(t, p);
		p->now.swept = UINT64_MAX;
		p->now.uncut = p->now.rows = p->now.voids = 0;
	}
	return s;
}

/* Below head, all that is in no row goes. */
static enum status sweep_below_head(struct ks_txn *t, struct pool *p)
{
	uint64_t from = p->now.swept, to = from + (uint64_t)CHUNKS_A_STEP * CHUNK_BYTES, lo, hi, pos = from;
	uint64_t index = from / CHUNK_BYTES;
	enum status s = chunk_next(t, p, &index, UINT64_MAX);

	if (s == ST_NOT_FOUND)
		index = p->now.pub.head / CHUNK_BYTES;
	else if (s != ST_OK)
		return s;
	if (to < (index + 1) * CHUNK_BYTES) /* over a hole in one stride */
		to = (index + 1) * CHUNK_BYTES;
	if (to > p->now.pub.head)
		to = p->now.pub.head;
	while ((s = gap_next(t, p, &pos, to, &lo, &hi)) == ST_OK) {
		s = stream_cut(t, p, lo, hi, NULL);
		if (s != ST_OK)
			return s;
	}
	if (s != ST_NOT_FOUND)
		return s;
	pool_touch(t, p);
	p->now.swept = to;
	return ST_OK;
}

static enum status sweep_row(struct ks_txn *t, struct pool *p, struct row *r)
{
	enum status s;

	if (r->uncut == 0)
		return ST_OK;
	s = row_sweep(t, p, r);
	return s == ST_OK ? row_put(t, p, r) : s;
}

/* Cuts out what was delivered of some rows. *end: of the pool's rows. */
static enum status sweep_rows(struct ks_txn *t, struct pool *p, uint64_t *pos, bool *end)
{
	struct row r;

	*end = false;
	for (unsigned n = 0; n < ROWS_A_STEP && p->now.uncut > 0; n++) {
		enum status s = row_at_or_after(t, p, *pos, &r);

		if (s == ST_NOT_FOUND) {
			*end = true;
			return ST_OK;
		}
		if (s == ST_OK)
			s = sweep_row(t, p, &r);
		if (s != ST_OK)
			return s;
		*pos = row_end(&r);
	}
	*end = p->now.uncut == 0;
	return ST_OK;
}

/* The pool that the walk stands at or the next one that needs it; NULL at the end. */
static struct pool *pool_at(struct ks *ks)
{
	struct pool *p, *next, *best = NULL;

	HASH_ITER (by_id, ks->pools.by_id, p, next)
		if (p->number >= ks->sweep.pool && pool_needs_sweep(p) &&
		    (best == NULL || p->number < best->number))
			best = p;
	if (best != NULL && best->number != ks->sweep.pool) {
		ks->sweep.pool = best->number;
		ks->sweep.row = 0;
	}
	return best;
}

enum status sweep_step(struct ks_txn *t, bool *more)
{
	struct sweep *w = &t->ks->sweep;
	struct pool *p = pool_at(t->ks);
	bool end = false;
	enum status s;

	*more = p != NULL;
	if (p == NULL) {
		w->pool = 0;
		w->row = 0;
		return ST_OK;
	}
	if (p->now.pub.retired)
		s = sweep_retired(t, p);
	else if (p->now.swept < p->now.pub.head)
		s = sweep_below_head(t, p);
	else
		s = sweep_rows(t, p, &w->row, &end);
	if (s != ST_OK || end) { /* a damaged pool must not keep the others from being swept */
		w->pool = p->number + 1;
		w->row = 0;
	}
	return s;
}
