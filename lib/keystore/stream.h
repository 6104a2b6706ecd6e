/* stream.h - ranges of a pool's bytes across chunks: looked for, counted, copied, cut out. What pools and
 * assignments are made of; none of these knows about cursors or assignments. */
#ifndef QKDN_STREAM_H
#define QKDN_STREAM_H

#include "internal.h"

/* Bytes present in [lo, hi). */
MUST_CHECK enum status stream_count(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi, uint64_t *n);

/* ST_OK where all of [lo, hi) is present, else ST_KEY_GONE. */
MUST_CHECK enum status stream_whole(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi);

/* Copies [offset, offset + len); ST_KEY_GONE where a byte is missing. CHUNK_ONCE: they are picked (pick.h). */
MUST_CHECK enum status stream_copy(struct ks_txn *t, struct pool *p, uint64_t offset, size_t len, uint8_t *to,
				   enum chunk_use use);

/* Makes [lo, hi) absent; *n, which may be NULL, grows by how many bytes that were. */
MUST_CHECK enum status stream_cut(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi, uint64_t *n);

/* The first run of present bytes in [from, limit), followed for no more than most bytes; ST_NOT_FOUND. */
MUST_CHECK enum status stream_run(struct ks_txn *t, struct pool *p, uint64_t from, uint64_t limit,
				  uint64_t most, uint64_t *lo, uint64_t *hi);

/* Puts bytes where there are none; *fresh is how many were put. */
MUST_CHECK enum status stream_put(struct ks_txn *t, struct pool *p, uint64_t offset, const uint8_t *bytes,
				  size_t len, uint64_t *fresh);

/* Compares what is present of the range: ST_CONFLICT where it differs, ST_KEY_GONE where a byte below
 * gone_below is missing. */
MUST_CHECK enum status stream_compare(struct ks_txn *t, struct pool *p, uint64_t offset, const uint8_t *bytes,
				      size_t len, uint64_t gone_below);

#endif
