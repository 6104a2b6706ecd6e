/* row.h - a row of assigned keys. assignment.c says what it means, row.c keeps it. */
#ifndef QKDN_ROW_H
#define QKDN_ROW_H

#include "internal.h"

enum {
	ROW_KEYS_MAX = 2048,
	ROW_WORDS = ROW_KEYS_MAX / 64,
	ROWS_HOT = 256,
	EXPIRY_SHIFT = 30,
	EXPIRY_LEN = 8 + PLACE_LEN
};

struct row {
	uint64_t offset, expires;
	uint32_t key_len, count;
	uint32_t gone, voided; /* set bits below; gone includes the voided */
	uint32_t uncut;        /* delivered since the row was swept */
	char source[NAME_MAX_LEN + 1], destination[NAME_MAX_LEN + 1];
	uint64_t gone_bits[ROW_WORDS], voided_bits[ROW_WORDS];
};

struct row_slot {
	uint64_t stamp; /* of the last work that changed it */
	struct row row;
};

/* What is looked through to find a slot, close together in memory. */
struct row_place {
	uint64_t from, to; /* bytes of the pool */
	uint64_t use;      /* the greater, the later it was used; 0: the slot is free */
	uint32_t pool;     /* its number */
	bool dirty;        /* the row differs from the database */
};

struct row_cache {
	struct row_place places[ROWS_HOT];
	struct row_slot slots[ROWS_HOT];
	int count; /* of them in use: all, but in tests */
	int found; /* the last one that was looked for and there */
	uint64_t clock;
};

static inline uint64_t row_end(const struct row *r)
{
	return r->offset + (uint64_t)r->key_len * r->count;
}

/* The time of expiry in the steps that KV_EXPIRY counts in, upwards; 0: never. */
uint64_t expiry_step(uint64_t expires);

/* The row that pos lies in, or the first one behind it; ST_NOT_FOUND. */
MUST_CHECK enum status row_at_or_after(struct ks_txn *t, struct pool *p, uint64_t pos, struct row *r);
MUST_CHECK enum status row_create(struct ks_txn *t, struct pool *p, const struct row *r);
MUST_CHECK enum status row_put(struct ks_txn *t, struct pool *p,
			       const struct row *r); /* what is there already */
MUST_CHECK enum status row_drop(struct ks_txn *t, struct pool *p,
				const struct row *r); /* and its place in KV_EXPIRY */

bool row_has_gone(const struct row *r, uint64_t lo, uint64_t hi); /* among the keys that [lo, hi) meets */

/* Cuts the bytes of keys that are gone and not cut yet. */
MUST_CHECK enum status row_sweep(struct ks_txn *t, struct pool *p, struct row *r);

#endif
