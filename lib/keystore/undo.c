/*
 * undo.c - a failing work leaves nothing, and the other works of its batch lose nothing.
 *
 * Every change is noted before it is made: of a pool, its state; of an open chunk, which bytes were
 * present (the bytes themselves stay until the commit); of any other value, what the database held.
 * Undoing goes backwards through the notes.
 */
#include <stdlib.h>
#include <string.h>

#include "row.h"

enum { KEY_MAX = 256 };

enum undo_kind { UNDO_POOL, UNDO_CHUNK, UNDO_ROW, UNDO_VALUE };

struct undo_entry {
	enum undo_kind kind;
	struct pool *pool;
	uint32_t number; /* of a row's pool */
	struct chunk_key chunk;
	enum kv_db db;
	bool existed;
	size_t key_len, len;
	uint8_t key[KEY_MAX];
	size_t was; /* where in the heap: struct pool_state, words of presence, struct row, or the sealed
		       value */
};

/* The heap is one piece of memory that is used anew by each work: nothing in it is a key in the clear. */
struct undo {
	struct undo_entry *entries;
	size_t count, room;
	uint8_t *heap;
	size_t heap_used, heap_room;
};

enum { HEAP_KEPT = 4 << 20 }; /* what undoing a take of the largest range needs, and some more */

/* Room for len bytes in the heap, which may move. */
static size_t heap_take(struct undo *u, size_t len)
{
	size_t at = u->heap_used;

	len = (len + 15) & ~(size_t)15;
	if (u->heap_room - at < len) {
		u->heap_room = 2 * (at + len) > 4096 ? 2 * (at + len) : 4096;
		u->heap = xrealloc(u->heap, u->heap_room);
	}
	u->heap_used = at + len;
	return at;
}

static void *was(struct undo *u, const struct undo_entry *e)
{
	return u->heap + e->was;
}

static struct undo_entry *add(struct ks_txn *t, enum undo_kind kind, const void *bytes, size_t len)
{
	struct undo *u = t->ks->undo;
	struct undo_entry *e;

	if (u->count == u->room) {
		u->room = u->room ? 2 * u->room : 16;
		u->entries = xrealloc(u->entries, u->room * sizeof *u->entries);
	}
	e = &u->entries[u->count++];
	e->kind = kind;
	e->existed = bytes != NULL;
	e->len = len;
	e->was = heap_take(u, bytes != NULL ? len : 0);
	if (bytes != NULL && len > 0)
		memcpy(was(u, e), bytes, len);
	return e;
}

static void forget(struct undo *u)
{
	u->count = u->heap_used = 0;
	if (u->heap_room > HEAP_KEPT) {
		free(u->heap);
		u->heap = NULL;
		u->heap_room = 0;
	}
}

void undo_begin(struct ks_txn *t)
{
	if (t->ks->undo == NULL)
		t->ks->undo = xcalloc(1, sizeof *t->ks->undo);
	forget(t->ks->undo);
}

void undo_free(struct ks *ks)
{
	if (ks->undo == NULL)
		return;
	free(ks->undo->heap);
	free(ks->undo->entries);
	free(ks->undo);
	ks->undo = NULL;
}

void undo_pool(struct ks_txn *t, struct pool *p)
{
	if (t->undoing)
		add(t, UNDO_POOL, p->fresh && p->stamp == 0 ? NULL : &p->now, sizeof p->now)->pool = p;
}

void undo_chunk(struct ks_txn *t, struct chunk *c)
{
	if (t->undoing)
		add(t, UNDO_CHUNK, c->present, sizeof c->present)->chunk = c->key;
}

void undo_row(struct ks_txn *t, uint32_t pool, const struct row *r)
{
	if (t->undoing)
		add(t, UNDO_ROW, r, sizeof *r)->number = pool;
}

/* bytes NULL: there was no value. */
static void note_value(struct ks_txn *t, enum kv_db db, struct kv_slice place, const uint8_t *bytes, size_t len)
{
	struct undo_entry *e = add(t, UNDO_VALUE, bytes, len);

	e->db = db;
	e->key_len = place.len;
	memcpy(e->key, place.bytes, place.len);
}

void undo_value_was(struct ks_txn *t, enum kv_db db, struct kv_slice place, struct kv_slice old)
{
	if (t->undoing) /* an empty value is a value: let it have an address */
		note_value(t, db, place, old.len > 0 ? old.bytes : (const uint8_t *)"", old.len);
}

enum status undo_value(struct ks_txn *t, enum kv_db db, struct kv_slice place)
{
	struct kv_slice old = {NULL, 0};
	enum status s;

	if (!t->undoing)
		return ST_OK;
	s = kv_get(t->ks->kv, db, place, &old);
	if (s == ST_OK)
		undo_value_was(t, db, place, old);
	else if (s == ST_NOT_FOUND)
		note_value(t, db, place, NULL, 0);
	return s == ST_NOT_FOUND ? ST_OK : s;
}

static struct undo_entry *entry_of(struct undo *u, const struct chunk *c)
{
	for (size_t i = u->count; i-- > 0;)
		if (u->entries[i].kind == UNDO_CHUNK &&
		    memcmp(&u->entries[i].chunk, &c->key, sizeof c->key) == 0)
			return &u->entries[i];
	return NULL;
}

/* Turns the note of the chunk's bits into one of its sealed value, for bits without bytes restore nothing. */
void undo_chunk_leaves(struct ks_txn *t, struct chunk *c)
{
	struct undo_entry *e = t->undoing && c->stamp == t->stamp ? entry_of(t->ks->undo, c) : NULL;
	struct secret plain = {NULL, 0};
	uint64_t now[CHUNK_WORDS];
	unsigned present;
	size_t len;

	if (e == NULL)
		return;
	memcpy(now, c->present, sizeof now);
	memcpy(c->present, was(t->ks->undo, e), sizeof now);
	e->kind = UNDO_VALUE;
	e->db = KV_CHUNK;
	e->key_len = PLACE_LEN;
	place_make(e->key, (uint32_t)c->key.pool, c->key.index);
	present = bits_count(c->present, 0, CHUNK_BYTES);
	e->existed = present > 0;
	if (present > 0) {
		secret_alloc(&plain, CHUNK_PLAIN_MAX);
		len = chunk_encode(c, plain.bytes);
		e->len = len + SEAL_OVERHEAD;
		e->was = heap_take(t->ks->undo, e->len);
		seal_close(t->ks->seal, KV_CHUNK, slice_of(e->key, e->key_len), (uint16_t)present,
			   plain.bytes, len, was(t->ks->undo, e));
		secret_free(&plain);
	}
	memcpy(c->present, now, sizeof now);
}

static enum status restore_value(struct ks_txn *t, const struct undo_entry *e)
{
	struct ks *ks = t->ks;
	uint8_t *room;

	if (e->db == KV_CHUNK) {
		struct chunk *c = chunk_cached(ks, (uint32_t)get_be(e->key, POOL_NUMBER_LEN),
					       get_be(e->key + POOL_NUMBER_LEN, 8));

		if (c != NULL)
			chunk_drop(ks, c);
		pick_forget(ks, (uint32_t)get_be(e->key, POOL_NUMBER_LEN), get_be(e->key + POOL_NUMBER_LEN, 8));
	}
	if (e->db == KV_ROW)
		row_forget(ks, (uint32_t)get_be(e->key, POOL_NUMBER_LEN),
			   get_be(e->key + POOL_NUMBER_LEN, 8));
	if (!e->existed)
		return kv_delete(ks->kv, e->db, slice_of(e->key, e->key_len));
	if (kv_reserve(ks->kv, e->db, slice_of(e->key, e->key_len), e->len, &room) != ST_OK)
		return ST_STORAGE;
	if (e->len > 0)
		memcpy(room, was(ks->undo, e), e->len);
	return ST_OK;
}

static enum status restore(struct ks_txn *t, struct undo_entry *e)
{
	struct chunk *c;

	switch (e->kind) {
	case UNDO_POOL:
		if (e->existed)
			memcpy(&e->pool->now, was(t->ks->undo, e), sizeof e->pool->now);
		else
			pool_remove(t->ks, e->pool);
		return ST_OK;
	case UNDO_CHUNK:
		c = chunk_cached(t->ks, (uint32_t)e->chunk.pool, e->chunk.index);
		memcpy(c->present, was(t->ks->undo, e), sizeof c->present);
		return ST_OK;
	case UNDO_ROW:
		return row_restore(t, e->number, was(t->ks->undo, e));
	case UNDO_VALUE:
		return restore_value(t, e);
	}
	return ST_INTERNAL;
}

enum status undo_run(struct ks_txn *t)
{
	struct undo *u = t->ks->undo;
	enum status s = ST_OK;

	while (u->count > 0 && s == ST_OK) {
		s = restore(t, &u->entries[u->count - 1]);
		u->count--;
	}
	return s == ST_OK ? ST_OK : broken(t);
}
