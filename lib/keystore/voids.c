/* voids.c - the voids of a pool: a record each, whose place is where it begins and whose value is where it ends. */
#include "voids.h"

#include <string.h>

/* The first void that ends behind pos. ST_NOT_FOUND. */
static enum status void_next(struct ks_txn *t, struct pool *p, uint64_t pos, uint64_t *lo, uint64_t *hi)
{
	enum kv_seek how = KV_AT_OR_BEFORE;
	uint8_t place[PLACE_LEN];
	struct kv_slice key;
	uint8_t record[8];
	size_t len;

	if (p->now.voids == 0)
		return ST_NOT_FOUND;
	place_make(place, p->number, pos);
	for (int tries = 0; tries < 2; tries++, how = KV_AFTER) {
		enum status s = kv_seek(t->ks->kv, KV_VOID, how, slice_of(place, sizeof place), &key, NULL);

		if (s == ST_NOT_FOUND)
			continue;
		if (s != ST_OK)
			return broken(t);
		if (key.len != PLACE_LEN || get_be(key.bytes, POOL_NUMBER_LEN) != p->number)
			continue;
		memcpy(place, key.bytes, sizeof place);
		s = record_get(t, KV_VOID, slice_of(place, sizeof place), record, sizeof record, &len);
		if (s != ST_OK || len != sizeof record)
			return s == ST_STORAGE ? s : damage(t, "a void");
		*lo = get_be(place + POOL_NUMBER_LEN, 8);
		*hi = get_be(record, 8);
		if (*hi > pos)
			return ST_OK;
	}
	return ST_NOT_FOUND;
}

static enum status void_drop(struct ks_txn *t, struct pool *p, uint64_t lo)
{
	uint8_t place[PLACE_LEN];

	place_make(place, p->number, lo);
	p->now.voids--;
	return record_delete(t, KV_VOID, slice_of(place, sizeof place));
}

enum status void_add(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi)
{
	uint8_t place[PLACE_LEN], record[8];
	uint64_t a, b;
	enum status s;

	while ((s = void_next(t, p, lo > 0 ? lo - 1 : 0, &a, &b)) == ST_OK && a <= hi) {
		if (a < lo)
			lo = a;
		if (b > hi)
			hi = b;
		s = void_drop(t, p, a);
		if (s != ST_OK)
			return s;
	}
	if (s != ST_OK && s != ST_NOT_FOUND)
		return s;
	place_make(place, p->number, lo);
	put_be(record, hi, 8);
	p->now.voids++;
	return record_put(t, KV_VOID, slice_of(place, sizeof place), record, sizeof record);
}

enum status voids_forget(struct ks_txn *t, struct pool *p)
{
	uint64_t lo, hi;
	enum status s;

	while ((s = void_next(t, p, 0, &lo, &hi)) == ST_OK && hi <= p->now.pub.ready) {
		s = void_drop(t, p, lo);
		if (s != ST_OK)
			return s;
	}
	return s == ST_NOT_FOUND ? ST_OK : s;
}

enum status void_check(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi)
{
	uint64_t a, b;
	enum status s = void_next(t, p, lo, &a, &b);

	if (s == ST_OK)
		return a < hi ? ST_KEY_GONE : ST_OK;
	return s == ST_NOT_FOUND ? ST_OK : s;
}
