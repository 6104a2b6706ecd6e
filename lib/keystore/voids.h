/*
 * voids.h - ranges of a pool, at or above ready, that nothing may fill any more; for the files of lib/keystore alone.
 * Below ready they are holes like others, and forgotten. ST_STORAGE is damage, or a database that failed.
 */
#ifndef QKDN_VOIDS_H
#define QKDN_VOIDS_H

#include "internal.h"

/* Adds [lo, hi), joined with those that it meets. The pool is touched already. */
MUST_CHECK enum status void_add(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi);

/* ST_KEY_GONE where [lo, hi) meets a void. */
MUST_CHECK enum status void_check(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi);

/* Drops those that ready has passed. The pool is touched already. */
MUST_CHECK enum status voids_forget(struct ks_txn *t, struct pool *p);

#endif
