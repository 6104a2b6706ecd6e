/* pick.h - chunks that keys are picked out of in any order, kept open. */
#ifndef QKDN_PICK_H
#define QKDN_PICK_H

#include "internal.h"

/* Copies bytes [from, to) of a chunk that is not in the cache of open ones. They are not in memory any more then:
 * to pick them once more, the chunk is opened once more. ST_KEY_GONE where one is missing. */
MUST_CHECK enum status pick(struct ks_txn *t, struct pool *p, uint64_t index, unsigned from, unsigned to,
			    uint8_t *out);

#endif
