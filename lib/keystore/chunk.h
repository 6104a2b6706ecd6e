/*
 * chunk.h - the stream's bytes, in pieces that fill one page of the database each, and the few of them
 * that are in use, opened, in locked memory.
 *
 * A sealed chunk holds its present bytes only: extents, then the bytes. 4032 bytes in one extent
 * make a value of 4072, and a page of LMDB has room for 4080. The seal's hint is how many are present.
 */
#ifndef QKDN_CHUNK_H
#define QKDN_CHUNK_H

#include <uthash.h>

#include "kv.h"
#include "secret.h"
#include "status.h"

struct ks;
struct ks_txn;
struct pool;

enum { CHUNK_BYTES = 4032, CHUNK_WORDS = CHUNK_BYTES / 64, CHUNKS_HOT = 128 };

struct chunk_key {
	uint64_t index; /* offset / CHUNK_BYTES */
	uint64_t pool;  /* its number */
};

struct chunk {
	struct chunk_key key;
	struct secret bytes; /* CHUNK_BYTES; what is not present is garbage until the chunk is stored */
	uint64_t present[CHUNK_WORDS];
	uint64_t stamp; /* of the last work that changed it */
	bool dirty;     /* differs from the database */
	bool stored;    /* is in the database */
	UT_hash_handle hh;
	struct chunk *prev, *next; /* by last use */
};

struct chunk_cache {
	struct chunk *by_key, *by_use; /* the last used first */
	unsigned count, dirty;
	struct secret scratch;
};

enum chunk_use { CHUNK_KEEP, CHUNK_ONCE }; /* once: the next one wanted may have its place */

/* The chunk, opened; an empty one where there is none. Good until the next call here. */
MUST_CHECK enum status chunk_get(struct ks_txn *t, struct pool *p, uint64_t index, enum chunk_use use,
				 struct chunk **c);
/* The first chunk that may hold something at or after *index and not after last; ST_NOT_FOUND. */
MUST_CHECK enum status chunk_next(struct ks_txn *t, struct pool *p, uint64_t *index, uint64_t last);
/* Opens a sealed one: which of its CHUNK_BYTES are present, and those. */
MUST_CHECK enum status chunk_open(struct ks_txn *t, struct chunk_key key, struct kv_slice sealed, uint64_t *present,
				  uint8_t *bytes);
/* How many bytes are present, without opening it where that can be avoided. */
MUST_CHECK enum status chunk_count(struct ks_txn *t, struct pool *p, uint64_t index, uint64_t *present);
/* Whether it is not open and, as its seal's hint says, all its bytes are present; sealed is valid until the next
 * change. Such a chunk is opened straight into CHUNK_BYTES at out, and goes as a whole, unopened. */
bool chunk_full_at_rest(struct ks_txn *t, const struct pool *p, uint64_t index, struct kv_slice *sealed);
MUST_CHECK enum status chunk_open_full(struct ks_txn *t, const struct pool *p, uint64_t index,
				       struct kv_slice sealed, uint8_t *out);
MUST_CHECK enum status chunk_delete_full(struct ks_txn *t, const struct pool *p, uint64_t index,
					 struct kv_slice sealed);
/* Stores a whole new chunk without keeping it open. */
MUST_CHECK enum status chunk_store_whole(struct ks_txn *t, struct pool *p, uint64_t index,
					 const uint8_t *bytes);

void chunk_touch(struct ks_txn *t, struct chunk *c); /* before every change */

/* Bits, that is bytes, [from, to) of a chunk. */
void bits_set(uint64_t *bits, unsigned from, unsigned to);
void bits_clear(uint64_t *bits, unsigned from, unsigned to);
unsigned bits_count(const uint64_t *bits, unsigned from, unsigned to);
unsigned bits_next_set(const uint64_t *bits, unsigned from, unsigned to);   /* to where there is none */
unsigned bits_next_clear(const uint64_t *bits, unsigned from, unsigned to); /* likewise */

/* Size and form of a sealed chunk's plaintext; room is CHUNK_PLAIN_MAX. */
enum { CHUNK_PLAIN_MAX = 2 + 4 * (CHUNK_BYTES / 2 + 1) + CHUNK_BYTES };
size_t chunk_encode(const struct chunk *c, uint8_t *room);

MUST_CHECK enum status chunks_flush(struct ks_txn *t); /* all that differ, into the database */
void chunk_drop(struct ks *ks, struct chunk *c);       /* out of the cache; wipes */
struct chunk *chunk_cached(struct ks *ks, uint32_t pool, uint64_t index); /* NULL */
void chunks_drop_all(struct ks *ks);
void chunks_free(struct ks *ks);

#endif
