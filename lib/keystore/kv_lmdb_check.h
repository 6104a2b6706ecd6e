/* kv_lmdb_check.h - is this file one that LMDB can be let at? */
#ifndef QKDN_KV_LMDB_CHECK_H
#define QKDN_KV_LMDB_CHECK_H

#include "status.h"

/* ST_STORAGE, with a text that says what is wrong, where pages, trees or the list of free pages contradict
 * each other. The file must not be open. */
MUST_CHECK enum status kv_lmdb_check(const char *path, struct err *e);

#endif
