/*
 * pick.c - keys picked out of chunks in any order.
 *
 * Opening a chunk costs more than all else that is done to deliver a key by ID, and it has 126 keys of 256 bits. So
 * chunks that keys are picked out of stay open, up to 4096 of them: the keys of the last half million or so that
 * wait. They are apart from the open chunks that change (chunk.c). These here are never written, and hold only
 * what nobody has picked yet: a key that is picked is wiped here at once. Where the work that picked it was
 * undone, or its commit failed, whoever comes for it again finds it missing here, and the chunk is opened again.
 *
 * The bytes at an offset of a pool never change once they are durable, and whether a key may be had is for its row
 * to say: so what is open here is right, or more than there still is. It goes (pick_forget, picks_wipe) where the
 * chunk changes, so that what was cut out does not stay in memory, and where changes are taken back, for bytes
 * that were appended with them may come again as others. The sweep cuts out what was delivered: once the store is at
 * rest, hardly anything is open here.
 *
 * A chunk has a few places to lie, by its number. The one opened longest ago has the fewest keys left, and makes
 * room.
 */
#include "pick.h"

#include <stdlib.h>
#include <string.h>

enum { WAYS = 8, SETS = 512, SLAB = 64, SLABS = WAYS * SETS / SLAB };

/* In locked memory. */
struct room {
	uint64_t present[CHUNK_WORDS]; /* what is here and not picked */
	uint8_t bytes[CHUNK_BYTES];
};

struct place {
	struct chunk_key key;
	uint64_t opened; /* counts up; 0: no chunk lies here */
	struct room *room;
};

struct picks {
	struct place places[SETS][WAYS];
	unsigned sets, ways; /* fewer, in tests */
	uint64_t clock;
	unsigned rooms;
	struct secret slabs[SLABS]; /* of rooms, as they are needed */
};

void picks_init(struct ks *ks)
{
	bool few = ks->options.hot_chunks < CHUNKS_HOT;

	ks->picks = xcalloc(1, sizeof *ks->picks);
	ks->picks->sets = few ? 1 : SETS;
	ks->picks->ways = few && ks->options.hot_chunks < WAYS ? ks->options.hot_chunks : WAYS;
}

static struct place *set_of(struct picks *all, struct chunk_key key)
{
	return all->places[(key.index + key.pool * 97) % all->sets];
}

static struct place *find(struct picks *all, struct chunk_key key)
{
	struct place *set = set_of(all, key);

	for (unsigned i = 0; i < all->ways; i++)
		if (set[i].key.index == key.index && set[i].key.pool == key.pool && set[i].opened > 0)
			return &set[i];
	return NULL;
}

static void close_place(struct place *x)
{
	secret_wipe(x->room->bytes, CHUNK_BYTES);
	x->opened = 0;
}

void pick_forget(struct ks *ks, uint32_t pool, uint64_t index)
{
	struct place *x = find(ks->picks, (struct chunk_key){index, pool});

	if (x != NULL)
		close_place(x);
}

void picks_wipe(struct ks *ks)
{
	struct picks *all = ks->picks;

	for (unsigned i = 0; i < all->sets * WAYS; i++)
		if (all->places[i / WAYS][i % WAYS].opened > 0)
			close_place(&all->places[i / WAYS][i % WAYS]);
}

void picks_free(struct ks *ks)
{
	for (unsigned i = 0; i < SLABS; i++)
		secret_free(&ks->picks->slabs[i]);
	free(ks->picks);
}

static struct room *new_room(struct picks *all)
{
	struct secret *slab = &all->slabs[all->rooms / SLAB];

	if (slab->len == 0)
		secret_alloc(slab, SLAB * sizeof(struct room));
	return (struct room *)slab->bytes + all->rooms++ % SLAB;
}

/* Where the chunk is to lie, empty: where it lies already, where none does, or where the oldest does. */
static struct place *make_place(struct picks *all, struct chunk_key key)
{
	struct place *set = set_of(all, key), *x = find(all, key);

	if (x == NULL) {
		x = &set[0];
		for (unsigned i = 1; i < all->ways; i++)
			if (set[i].opened < x->opened)
				x = &set[i];
	}
	if (x->opened > 0)
		close_place(x);
	if (x->room == NULL)
		x->room = new_room(all);
	x->key = key;
	return x;
}

/* Into a place of its own; ST_KEY_GONE where there is no such chunk. */
static enum status open_chunk(struct ks_txn *t, struct chunk_key key, struct place **out)
{
	struct picks *all = t->ks->picks;
	struct kv_slice sealed;
	struct place *x;
	uint8_t place[PLACE_LEN];
	enum status s;

	place_make(place, (uint32_t)key.pool, key.index);
	s = kv_get(t->ks->kv, KV_CHUNK, slice_of(place, sizeof place), &sealed);
	if (s != ST_OK)
		return s == ST_NOT_FOUND ? ST_KEY_GONE : broken(t);
	x = make_place(all, key);
	s = chunk_open(t, key, sealed, x->room->present, x->room->bytes);
	x->opened = ++all->clock;
	if (s != ST_OK)
		close_place(x);
	*out = x;
	return s;
}

static bool has(const struct place *x, unsigned from, unsigned to)
{
	return bits_next_clear(x->room->present, from, to) == to;
}

enum status pick(struct ks_txn *t, struct pool *p, uint64_t index, unsigned from, unsigned to,
		 uint8_t *out)
{
	struct chunk_key key = {index, p->number};
	struct place *x = find(t->ks->picks, key);

	if (x == NULL || !has(x, from, to)) {
		enum status s = open_chunk(t, key, &x);

		if (s != ST_OK)
			return s;
		if (!has(x, from, to))
			return ST_KEY_GONE;
	}
	memcpy(out, x->room->bytes + from, to - from);
	secret_wipe(x->room->bytes + from, to - from);
	bits_clear(x->room->present, from, to);
	return ST_OK;
}
