/*
 * kv_changes.h - what a transaction changed, as bytes that can be put into a journal and applied again.
 */
#ifndef QKDN_KV_CHANGES_H
#define QKDN_KV_CHANGES_H

#include "kv.h"

enum { CHANGES_KEPT = 128 * 1024 }; /* bytes: a transaction that changed more is not kept */

struct changes {
	uint8_t *bytes;
	size_t len;
	unsigned count;
	bool too_many;        /* they are not kept */
	const uint8_t *value; /* of the last put, for its owner to fill; NULL: there is none to copy yet */
	size_t value_len;
};

/* Before a value is put, and with the address at which it then is: it is copied when the next change is noted. */
void changes_put(struct changes *c, enum kv_db db, struct kv_slice key, size_t len);
void changes_put_at(struct changes *c, const uint8_t *value);
void changes_delete(struct changes *c, enum kv_db db, struct kv_slice key);
void changes_end(struct changes *c); /* the last value is filled */

void changes_clear(struct changes *c);
void changes_free(struct changes *c);

/* Each change that is written in bytes; value.bytes is NULL for a deletion. ST_STORAGE where they are no changes. */
typedef enum status (*change_apply)(void *arg, enum kv_db db, struct kv_slice key, struct kv_slice value);
MUST_CHECK enum status changes_each(const uint8_t *bytes, size_t len, change_apply apply, void *arg);

#endif
