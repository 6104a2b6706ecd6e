/*
 * kv_lmdb.c - the database in one LMDB file.
 *
 * There is one process, one thread and one transaction at a time, so LMDB's own lock file is left
 * out (store.c locks the directory). MDB_NOMEMINIT is left out on purpose: it would write whatever
 * the heap held before into the file.
 */
#include "kv.h"

#include <errno.h>
#include <lmdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "file.h"
#include "kv_lmdb_check.h"
#include "log.h"

enum { GOOD_AGAIN = 32 };

struct kv_lmdb {
	struct kv kv;
	char *path;
	uint64_t max_bytes;
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi[KV_DBS];
	MDB_cursor *cursor[KV_DBS]; /* opened when first needed, gone with the transaction */
	size_t page_size;
	_Atomic uint64_t file_bytes;
	bool reopen;   /* LMDB gave up on its handle after a failed write of its root */
	int told;      /* the last error logged: a full disk is told once, not once a commit */
	unsigned good; /* commits in a row that succeeded since: on a disk that is nearly full small ones may */
};

static const char *const names[KV_DBS] = {"meta", "pool", "chunk", "row", "expiry", "void", "note"};

static struct kv_lmdb *lmdb_of(struct kv *kv)
{
	return container_of(kv, struct kv_lmdb, kv);
}

/* LMDB tells a write that was cut short as EIO, whatever cut it. */
static bool disk_is_full(const struct kv_lmdb *k)
{
	struct statvfs disk;

	return statvfs(k->path, &disk) == 0 && (uint64_t)disk.f_bavail * disk.f_frsize < 256 * k->page_size;
}

/* The one place where LMDB's errors become ours. */
static enum status mapped(struct kv_lmdb *k, const char *doing, int rc)
{
	if (rc == MDB_SUCCESS)
		return ST_OK;
	if (rc == MDB_NOTFOUND)
		return ST_NOT_FOUND;
	if (rc == MDB_PANIC || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND)
		k->reopen = true;
	if (rc == EIO && disk_is_full(k))
		rc = ENOSPC;
	if (rc != k->told)
		log_error("key store: %s %s: %s%s", doing, k->path, mdb_strerror(rc),
			  rc == ENOSPC || rc == MDB_MAP_FULL ? ": make room; the store goes on by itself"
							     : "");
	k->told = rc;
	k->good = 0;
	return ST_STORAGE;
}

static void assertion_failed(MDB_env *env, const char *text)
{
	(void)env;
	log_fatal("key store: the database is damaged (%s): restore both ends from scratch", text);
}

static void note_size(struct kv_lmdb *k)
{
	MDB_envinfo info;

	mdb_env_info(k->env, &info);
	atomic_store(&k->file_bytes, ((uint64_t)info.me_last_pgno + 1) * k->page_size);
}

static int open_databases(struct kv_lmdb *k)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(k->env, NULL, 0, &txn);

	if (rc != 0)
		return rc;
	for (int i = 0; i < KV_DBS; i++) {
		rc = mdb_dbi_open(txn, names[i], MDB_CREATE, &k->dbi[i]);
		if (rc != 0) {
			mdb_txn_abort(txn);
			return rc;
		}
	}
	return mdb_txn_commit(txn);
}

static int open_env(struct kv_lmdb *k)
{
	MDB_stat stat;
	int rc = mdb_env_create(&k->env);

	if (rc != 0)
		return rc;
	if ((rc = mdb_env_set_maxdbs(k->env, KV_DBS)) != 0 ||
	    (rc = mdb_env_set_mapsize(k->env, k->max_bytes)) != 0 ||
	    (rc = mdb_env_set_assert(k->env, assertion_failed)) != 0 ||
	    (rc = mdb_env_open(k->env, k->path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS | MDB_NORDAHEAD,
			       0600)) != 0 ||
	    (rc = open_databases(k)) != 0) {
		mdb_env_close(k->env);
		k->env = NULL;
		return rc;
	}
	mdb_env_stat(k->env, &stat);
	k->page_size = stat.ms_psize;
	note_size(k);
	return 0;
}

static enum status lmdb_begin(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);
	int rc;

	if (k->reopen || k->env == NULL) {
		mdb_env_close(k->env);
		k->env = NULL;
		rc = open_env(k);
		if (rc != 0)
			return mapped(k, "opening again", rc);
		k->reopen = false;
	}
	return mapped(k, "writing", mdb_txn_begin(k->env, NULL, 0, &k->txn));
}

static enum status lmdb_commit(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);
	int rc = mdb_txn_commit(k->txn);

	memset(k->cursor, 0, sizeof k->cursor);
	k->txn = NULL;
	if (rc != 0) {
		k->reopen = true; /* a write may have failed half-way: start from what the file says */
	} else {
		if (k->told != 0 && ++k->good == GOOD_AGAIN) {
			log_info("key store: %s can be written again", k->path);
			k->told = 0;
		}
		note_size(k);
	}
	return mapped(k, "committing to", rc);
}

static void lmdb_abort(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);

	mdb_txn_abort(k->txn);
	memset(k->cursor, 0, sizeof k->cursor);
	k->txn = NULL;
}

static MDB_val val(struct kv_slice s)
{
	return (MDB_val){.mv_size = s.len, .mv_data = (void *)(uintptr_t)s.bytes};
}

static struct kv_slice slice(MDB_val v)
{
	return (struct kv_slice){.bytes = v.mv_data, .len = v.mv_size};
}

static enum status lmdb_get(struct kv *kv, enum kv_db db, struct kv_slice key, struct kv_slice *value)
{
	struct kv_lmdb *k = lmdb_of(kv);
	MDB_val mk = val(key), mv = {0, NULL};
	int rc = mdb_get(k->txn, k->dbi[db], &mk, &mv);

	*value = slice(mv);
	return mapped(k, "reading", rc);
}

static enum status lmdb_reserve(struct kv *kv, enum kv_db db, struct kv_slice key, size_t len, uint8_t **room)
{
	struct kv_lmdb *k = lmdb_of(kv);
	MDB_val mk = val(key), mv = {len, NULL};
	int rc = mdb_put(k->txn, k->dbi[db], &mk, &mv, MDB_RESERVE);

	*room = mv.mv_data;
	return mapped(k, "writing", rc);
}

static enum status lmdb_delete(struct kv *kv, enum kv_db db, struct kv_slice key)
{
	struct kv_lmdb *k = lmdb_of(kv);
	MDB_val mk = val(key);
	int rc = mdb_del(k->txn, k->dbi[db], &mk, NULL);

	return mapped(k, "writing", rc == MDB_NOTFOUND ? 0 : rc);
}

static int seek_before(MDB_cursor *c, MDB_val from, MDB_val *mk, MDB_val *mv)
{
	int rc;

	*mk = from;
	rc = mdb_cursor_get(c, mk, mv, MDB_SET_RANGE);
	if (rc == MDB_NOTFOUND)
		return mdb_cursor_get(c, mk, mv, MDB_LAST);
	if (rc != 0 || (mk->mv_size == from.mv_size && memcmp(mk->mv_data, from.mv_data, from.mv_size) == 0))
		return rc;
	return mdb_cursor_get(c, mk, mv, MDB_PREV);
}

static int seek_after(MDB_cursor *c, MDB_val from, bool beyond, MDB_val *mk, MDB_val *mv)
{
	int rc;

	*mk = from;
	rc = mdb_cursor_get(c, mk, mv, from.mv_size > 0 ? MDB_SET_RANGE : MDB_FIRST);
	if (rc == 0 && beyond && mk->mv_size == from.mv_size &&
	    memcmp(mk->mv_data, from.mv_data, from.mv_size) == 0)
		rc = mdb_cursor_get(c, mk, mv, MDB_NEXT);
	return rc;
}

static enum status lmdb_seek(struct kv *kv, enum kv_db db, enum kv_seek how, struct kv_slice from,
			     struct kv_slice *key, struct kv_slice *value)
{
	struct kv_lmdb *k = lmdb_of(kv);
	MDB_val mk = {0, NULL}, mv = {0, NULL};
	int rc = 0;

	if (k->cursor[db] == NULL)
		rc = mdb_cursor_open(k->txn, k->dbi[db], &k->cursor[db]);
	if (rc == 0)
		rc = how == KV_AT_OR_BEFORE ? seek_before(k->cursor[db], val(from), &mk, &mv)
					    : seek_after(k->cursor[db], val(from), how == KV_AFTER, &mk, &mv);
	*key = slice(mk);
	if (value != NULL)
		*value = slice(mv);
	return mapped(k, "reading", rc);
}

static uint64_t lmdb_number(struct kv *kv)
{
	return mdb_txn_id(lmdb_of(kv)->txn);
}

static uint64_t lmdb_file_bytes(struct kv *kv)
{
	return atomic_load(&lmdb_of(kv)->file_bytes);
}

static void lmdb_close(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);

	mdb_env_close(k->env);
	free(k->path);
	free(k);
}

static const struct kv_ops lmdb_ops = {
    lmdb_begin,  lmdb_commit, lmdb_abort,  lmdb_get,        lmdb_reserve,
    lmdb_delete, lmdb_seek,   lmdb_number, lmdb_file_bytes, lmdb_close,
};

enum status kv_lmdb_open(struct kv **kv, const char *directory, uint64_t max_bytes, struct err *e)
{
	struct kv_lmdb *k = xcalloc(1, sizeof *k);
	enum status s = ST_OK;
	struct stat st;
	int rc;

	k->kv.ops = &lmdb_ops;
	k->max_bytes = max_bytes;
	k->path = xasprintf("%s/data.mdb", directory);
	if (stat(k->path, &st) == 0) {
		s = file_check_private(k->path, e);
		if (s == ST_OK)
			s = kv_lmdb_check(k->path, e);
	}
	if (s == ST_OK) {
		rc = open_env(k);
		if (rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH || rc == MDB_CORRUPTED)
			s = err_set(
			    e, ST_STORAGE,
			    "%s: %s: it is damaged or of another version: retire its pools at the peers "
			    "and start with an empty store",
			    k->path, mdb_strerror(rc));
		else if (rc != 0)
			s = err_set(e, ST_STORAGE, "opening %s: %s", k->path, mdb_strerror(rc));
	}
	if (s != ST_OK) {
		free(k->path);
		free(k);
		return s;
	}
	*kv = &k->kv;
	return ST_OK;
}
