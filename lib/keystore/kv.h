/*
 * kv.h - what the key store needs of a database: ordered byte strings under byte strings, one
 * write transaction at a time, all or nothing.
 *
 * The databases and what is in them are store.c's affair (KV_* below); an implementation sees
 * bytes only, and everything of value in them is sealed before it comes here. One thread at a time.
 */
#ifndef QKDN_KV_H
#define QKDN_KV_H

#include "status.h"

enum kv_db { KV_META, KV_POOL, KV_CHUNK, KV_ROW, KV_EXPIRY, KV_VOID, KV_NOTE, KV_DBS };

/* Where seek lands, from a key that need not exist. */
enum kv_seek { KV_AT_OR_AFTER, KV_AFTER, KV_AT_OR_BEFORE };

/* Bytes of the database: good until the next write or the end of the transaction. */
struct kv_slice {
	const uint8_t *bytes;
	size_t len;
};

struct kv;

struct kv_ops {
	enum status (*begin)(struct kv *kv);
	enum status (*commit)(struct kv *kv);
	void (*abort)(struct kv *kv);
	enum status (*get)(struct kv *kv, enum kv_db db, struct kv_slice key, struct kv_slice *value);
	enum status (*reserve)(struct kv *kv, enum kv_db db, struct kv_slice key, size_t len, uint8_t **room);
	enum status (*del)(struct kv *kv, enum kv_db db, struct kv_slice key);
	enum status (*seek)(struct kv *kv, enum kv_db db, enum kv_seek how, struct kv_slice from,
			    struct kv_slice *key, struct kv_slice *value);
	uint64_t (*number)(struct kv *kv);
	uint64_t (*file_bytes)(struct kv *kv);
	bool (*has_aside)(struct kv *kv);
	enum status (*checkpoint)(struct kv *kv);
	void (*close)(struct kv *kv);
};

struct kv {
	const struct kv_ops *ops;
};

/* The database in the directory's files data.mdb, of at most max_bytes, and journal; they are made if missing, with
 * mode 0600. */
MUST_CHECK enum status kv_lmdb_open(struct kv **kv, const char *directory, uint64_t max_bytes, struct err *e);

struct kv *kv_memory_new(void);

/* All may fail with ST_STORAGE, which means: abort, nothing of this transaction can be kept. */
MUST_CHECK static inline enum status kv_begin(struct kv *kv)
{
	return kv->ops->begin(kv);
}

/* Durable when it returns ST_OK; nothing has changed otherwise. The transaction is over either way. To abort one
 * that changed nothing costs nothing, another one much. */
MUST_CHECK static inline enum status kv_commit(struct kv *kv)
{
	return kv->ops->commit(kv);
}
static inline void kv_abort(struct kv *kv)
{
	kv->ops->abort(kv);
}

/* ST_NOT_FOUND where there is none. */
MUST_CHECK static inline enum status kv_get(struct kv *kv, enum kv_db db, struct kv_slice key,
					    struct kv_slice *value)
{
	return kv->ops->get(kv, db, key, value);
}

/* Puts a value of len bytes, old or new, for the caller to fill at once: no other call before that. */
MUST_CHECK static inline enum status kv_reserve(struct kv *kv, enum kv_db db, struct kv_slice key, size_t len,
						uint8_t **room)
{
	return kv->ops->reserve(kv, db, key, len, room);
}

/* ST_OK as well where there was none. */
MUST_CHECK static inline enum status kv_delete(struct kv *kv, enum kv_db db, struct kv_slice key)
{
	return kv->ops->del(kv, db, key);
}

/* ST_NOT_FOUND past either end. value may be NULL. */
MUST_CHECK static inline enum status kv_seek(struct kv *kv, enum kv_db db, enum kv_seek how,
					     struct kv_slice from, struct kv_slice *key,
					     struct kv_slice *value)
{
	return kv->ops->seek(kv, db, how, from, key, value);
}

/* Of the transaction, should it be committed: one more than that of the last one that was. */
static inline uint64_t kv_number(struct kv *kv)
{
	return kv->ops->number(kv);
}

/* Any thread. */
static inline uint64_t kv_file_bytes(struct kv *kv)
{
	return kv->ops->file_bytes(kv);
}

/* Whether commits, durable as they are, wait to be put where they belong. That happens by itself, but is better
 * done while there is nothing else to do: between transactions. */
static inline bool kv_has_aside(struct kv *kv)
{
	return kv->ops->has_aside(kv);
}
MUST_CHECK static inline enum status kv_checkpoint(struct kv *kv)
{
	return kv->ops->checkpoint(kv);
}
static inline void kv_close(struct kv *kv)
{
	kv->ops->close(kv);
}

#endif
