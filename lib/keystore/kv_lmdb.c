/*
 * kv_lmdb.c - the database in one LMDB file, and a journal beside it.
 *
 * An LMDB commit is two flushes of the disk, one after the other: of the pages, then of the root. So
 * LMDB's transaction is kept open over many commits. What each of them changed goes into the journal as
 * one record (kv_journal.h), which is one flush, and makes it durable; in LMDB it is done in memory alone.
 * data.mdb stays as the last checkpoint left it: the commit of LMDB's transaction, which has the number of
 * the last commit in it, and after which the journal begins again. Opening is: the checkpoint, and the
 * records of the journal behind it once more.
 *
 * A checkpoint takes the journal's place where that is cheaper or needed: a commit that changed much goes
 * into LMDB alone, as do those that the journal has no room for or that would make the pages in memory too
 * many, the first one after opening, and the next after a write to the journal failed. It is also made
 * when there is nothing else to do, and at the end. Never does a record's number come into data.mdb before
 * the record is durable.
 *
 * A transaction that changed something and fails, or cannot be committed, is taken back by giving up
 * LMDB's transaction and doing what the journal says once more. That is slow, rare, and the same thing
 * that opening does.
 *
 * LMDB writes pages of an open transaction when there are more than 131071 of them: ASIDE_MOST and the
 * bound on a batch (store.c) keep far below that.
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
#include <unistd.h>

#include "advice.h"
#include "bytes.h"
#include "file.h"
#include "kv_changes.h"
#include "kv_journal.h"
#include "kv_lmdb_check.h"
#include "log.h"
#include "secret.h"

enum {
	GOOD_AGAIN = 8,
	ASIDE_MOST = 32768,      /* changes that are in the journal alone: a page each, at the worst */
	JOURNAL_MOST = 4 << 20,  /* bytes */
	JOURNAL_LEAST = 64 << 10,
	JOURNAL_PART = 64,       /* of the bound on data.mdb */
	RECORD_LEN = ID_LEN + 16, /* the journal's ID, the last commit's number, its complement */
};

struct kv_lmdb {
	struct kv kv;
	char *path, *journal_path;
	uint64_t max_bytes;
	MDB_env *env;
	MDB_txn *txn; /* of all commits since the checkpoint, and of the one that is made */
	MDB_dbi dbi[KV_DBS], journal_dbi;
	MDB_cursor *cursor[KV_DBS]; /* opened when first needed, gone with LMDB's transaction */
	struct journal *journal;
	struct id journal_id;
	struct changes changes; /* of the transaction */
	uint64_t last;          /* commit's number */
	uint64_t checkpoint;    /* the same, in data.mdb */
	unsigned aside;         /* changes since */
	bool direct;            /* the next commit is a checkpoint: a record of its number may be there */
	bool lost;              /* a transaction was taken back, which should not cost as much again */
	size_t page_size;
	_Atomic uint64_t file_bytes;
	bool reopen;   /* LMDB gave up on its handle after a failed write of its root */
	int told;      /* the last error logged: a full disk is told once, not once a commit */
	unsigned good; /* checkpoints in a row that succeeded since: on a disk nearly full small ones may */
};

static const char *const names[KV_DBS] = {"meta", "pool", "chunk", "row", "expiry", "void", "note"};
static const char journal_name[] = "journal"; /* a database with one record */

static struct kv_lmdb *lmdb_of(struct kv *kv)
{
	return container_of(kv, struct kv_lmdb, kv);
}

static MDB_val val(struct kv_slice s)
{
	return (MDB_val){.mv_size = s.len, .mv_data = (void *)(uintptr_t)s.bytes};
}

static struct kv_slice slice(MDB_val v)
{
	return (struct kv_slice){.bytes = v.mv_data, .len = v.mv_size};
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
	log_fatal("key store: the database is damaged (%s): " START_EMPTY, text);
}

static void note_size(struct kv_lmdb *k)
{
	MDB_envinfo info;

	mdb_env_info(k->env, &info);
	atomic_store(&k->file_bytes, ((uint64_t)info.me_last_pgno + 1) * k->page_size);
}

/* ---- opening data.mdb -------------------------------------------------------------------------------- */

static MDB_val journal_key(void)
{
	static char key[] = "last";

	return (MDB_val){.mv_size = sizeof key - 1, .mv_data = key};
}

static int put_number(struct kv_lmdb *k, MDB_txn *txn, uint64_t number)
{
	uint8_t record[RECORD_LEN];
	MDB_val key = journal_key(), value = {.mv_size = sizeof record, .mv_data = record};

	memcpy(record, k->journal_id.bytes, ID_LEN);
	put_be(record + ID_LEN, number, 8);
	put_be(record + ID_LEN + 8, ~number, 8);
	return mdb_put(txn, k->journal_dbi, &key, &value, 0);
}

/* MDB_NOTFOUND: of before there were journals, or new. */
static int get_number(struct kv_lmdb *k, MDB_txn *txn)
{
	MDB_val key = journal_key(), value;
	int rc = mdb_dbi_open(txn, journal_name, 0, &k->journal_dbi);
	const uint8_t *record;

	if (rc != 0)
		return rc;
	rc = mdb_get(txn, k->journal_dbi, &key, &value);
	record = value.mv_data;
	if (rc != 0 || value.mv_size != RECORD_LEN ||
	    get_be(record + ID_LEN, 8) != ~get_be(record + ID_LEN + 8, 8))
		return MDB_CORRUPTED;
	memcpy(k->journal_id.bytes, record, ID_LEN);
	k->checkpoint = get_be(record + ID_LEN, 8);
	if (k->last < k->checkpoint)
		k->last = k->checkpoint;
	return 0;
}

static int open_databases(struct kv_lmdb *k, MDB_txn *txn)
{
	int rc = 0;

	for (int i = 0; i < KV_DBS && rc == 0; i++)
		rc = mdb_dbi_open(txn, names[i], MDB_CREATE, &k->dbi[i]);
	return rc;
}

static int end_opening(MDB_txn *txn, int rc)
{
	if (rc == 0)
		return mdb_txn_commit(txn);
	mdb_txn_abort(txn);
	return rc;
}

/* MDB_NOTFOUND: there is no journal yet. */
static int read_databases(struct kv_lmdb *k)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(k->env, NULL, 0, &txn);

	if (rc != 0)
		return rc;
	rc = get_number(k, txn);
	if (rc == 0)
		rc = open_databases(k, txn);
	return end_opening(txn, rc);
}

/* LMDB numbers its commits: the journal's go on from there. */
static int make_databases(struct kv_lmdb *k)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(k->env, NULL, 0, &txn);

	if (rc != 0)
		return rc;
	k->last = k->checkpoint = mdb_txn_id(txn) - 1;
	rc = open_databases(k, txn);
	if (rc == 0)
		rc = mdb_dbi_open(txn, journal_name, MDB_CREATE, &k->journal_dbi);
	if (rc == 0)
		rc = put_number(k, txn, k->last);
	return end_opening(txn, rc);
}

static int open_env(struct kv_lmdb *k)
{
	MDB_stat stat;
	int rc = mdb_env_create(&k->env);

	if (rc != 0)
		return rc;
	if ((rc = mdb_env_set_maxdbs(k->env, KV_DBS + 1)) != 0 ||
	    (rc = mdb_env_set_mapsize(k->env, k->max_bytes)) != 0 ||
	    (rc = mdb_env_set_assert(k->env, assertion_failed)) != 0 ||
	    (rc = mdb_env_open(k->env, k->path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS | MDB_NORDAHEAD,
			       0600)) != 0) {
		mdb_env_close(k->env);
		k->env = NULL;
		return rc;
	}
	mdb_env_stat(k->env, &stat);
	k->page_size = stat.ms_psize;
	note_size(k);
	return 0;
}

/* ---- LMDB's transaction: the checkpoint, and what the journal has behind it -------------------------- */

static void forget_txn(struct kv_lmdb *k)
{
	memset(k->cursor, 0, sizeof k->cursor);
	k->txn = NULL;
	k->aside = 0;
	changes_clear(&k->changes);
}

static void give_up(struct kv_lmdb *k)
{
	mdb_txn_abort(k->txn);
	forget_txn(k);
}

static enum status apply_change(void *arg, enum kv_db db, struct kv_slice key, struct kv_slice value)
{
	struct kv_lmdb *k = arg;
	MDB_val mk = val(key), mv = val(value);
	int rc;

	k->aside++;
	if (value.bytes != NULL)
		return mapped(k, "writing", mdb_put(k->txn, k->dbi[db], &mk, &mv, 0));
	rc = mdb_del(k->txn, k->dbi[db], &mk, NULL);
	return mapped(k, "writing", rc == MDB_NOTFOUND ? 0 : rc);
}

static enum status apply_record(void *arg, const uint8_t *bytes, size_t len)
{
	return changes_each(bytes, len, apply_change, arg);
}

/* Begins LMDB's transaction, and does what the journal has up to the commit numbered most. */
static enum status begin_txn(struct kv_lmdb *k, uint64_t most, struct err *e)
{
	uint64_t last = k->checkpoint;
	int rc = mdb_txn_begin(k->env, NULL, 0, &k->txn);
	enum status s = mapped(k, "writing", rc);

	if (s != ST_OK)
		return err_set(e, s, "%s: %s", k->path, mdb_strerror(rc));
	if (most > k->checkpoint)
		s = journal_replay(k->journal, k->checkpoint, most, &last, apply_record, k, e);
	if (s == ST_OK && last < k->last)
		s = err_set(e, ST_STORAGE, "%s: commit %llu is in it no longer", k->journal_path,
			    (unsigned long long)last + 1);
	if (s != ST_OK)
		give_up(k);
	else
		k->last = last;
	return s;
}

/* After a failure LMDB's handle is made anew, and begins from what the file says. */
static enum status open_again(struct kv_lmdb *k)
{
	int rc;

	if (k->txn != NULL)
		give_up(k);
	mdb_env_close(k->env);
	rc = open_env(k);
	if (rc == 0)
		rc = read_databases(k);
	k->reopen = rc != 0;
	return mapped(k, "opening again", rc);
}

static enum status need_txn(struct kv_lmdb *k)
{
	struct err e;
	enum status s = ST_OK;

	if (k->reopen)
		s = open_again(k);
	if (s != ST_OK || k->txn != NULL)
		return s;
	s = begin_txn(k, k->last, &e);
	if (s != ST_OK)
		log_error("key store: %s", e.text);
	return s;
}

/* Whatever was changed since the last one is in data.mdb then, as the commit of that number. */
static enum status checkpoint(struct kv_lmdb *k, uint64_t number)
{
	int rc = put_number(k, k->txn, number);

	if (rc == 0)
		rc = mdb_txn_commit(k->txn);
	else
		mdb_txn_abort(k->txn);
	forget_txn(k);
	if (rc != 0) {
		k->reopen = true; /* a write may have failed half-way: start from what the file says */
		return mapped(k, "committing to", rc);
	}
	k->direct = k->direct && number == k->last;
	k->last = k->checkpoint = number;
	journal_restart(k->journal);
	note_size(k);
	if (k->told != 0 && ++k->good == GOOD_AGAIN) {
		log_info("key store: %s can be written again", k->path);
		k->told = 0;
	}
	return ST_OK;
}

static bool lmdb_has_aside(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);

	return k->last > k->checkpoint;
}

static enum status lmdb_checkpoint(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);
	enum status s = need_txn(k);

	return s == ST_OK && lmdb_has_aside(kv) ? checkpoint(k, k->last) : s;
}

/* ---- transactions ------------------------------------------------------------------------------------ */

static enum status lmdb_begin(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);

	if (k->lost && lmdb_checkpoint(kv) != ST_OK && !k->reopen)
		return ST_STORAGE;
	k->lost = false;
	return need_txn(k);
}

static bool goes_into_journal(const struct kv_lmdb *k)
{
	return !k->direct && !k->changes.too_many && k->aside + k->changes.count <= ASIDE_MOST &&
	       journal_has_room(k->journal, k->changes.len);
}

static enum status add_to_journal(struct kv_lmdb *k, uint64_t number)
{
	int failure;

	if (journal_add(k->journal, number, k->changes.bytes, k->changes.len)) {
		k->last = number;
		k->aside += k->changes.count;
		changes_clear(&k->changes);
		return ST_OK;
	}
	failure = errno;
	give_up(k);
	k->direct = true; /* of the same number: with it the record, should it be there, is one of before */
	return mapped(k, "writing the journal of", failure);
}

static enum status lmdb_commit(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);

	changes_end(&k->changes);
	return goes_into_journal(k) ? add_to_journal(k, k->last + 1) : checkpoint(k, k->last + 1);
}

static void lmdb_abort(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);

	if (k->changes.count == 0)
		return;
	give_up(k);
	k->lost = true;
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
	int rc;

	changes_put(&k->changes, db, key, len);
	rc = mdb_put(k->txn, k->dbi[db], &mk, &mv, MDB_RESERVE);
	if (rc == 0)
		changes_put_at(&k->changes, mv.mv_data);
	*room = mv.mv_data;
	return mapped(k, "writing", rc);
}

static enum status lmdb_delete(struct kv *kv, enum kv_db db, struct kv_slice key)
{
	struct kv_lmdb *k = lmdb_of(kv);
	MDB_val mk = val(key);
	int rc;

	changes_delete(&k->changes, db, key);
	rc = mdb_del(k->txn, k->dbi[db], &mk, NULL);
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
	return lmdb_of(kv)->last + 1;
}

static uint64_t lmdb_file_bytes(struct kv *kv)
{
	return atomic_load(&lmdb_of(kv)->file_bytes);
}

static void free_all(struct kv_lmdb *k)
{
	if (k->txn != NULL)
		give_up(k);
	mdb_env_close(k->env);
	journal_close(k->journal);
	changes_free(&k->changes);
	free(k->journal_path);
	free(k->path);
	free(k);
}

static void lmdb_close(struct kv *kv)
{
	struct kv_lmdb *k = lmdb_of(kv);

	/* one that was opened and refused is left as it was */
	if (k->txn != NULL && lmdb_has_aside(kv) && !k->direct && checkpoint(k, k->last) != ST_OK)
		log_warning("key store: %s keeps what could not be put into %s", k->journal_path, k->path);
	free_all(k);
}

static const struct kv_ops lmdb_ops = {
    lmdb_begin, lmdb_commit, lmdb_abort,      lmdb_get,       lmdb_reserve,    lmdb_delete,
    lmdb_seek,  lmdb_number, lmdb_file_bytes, lmdb_has_aside, lmdb_checkpoint, lmdb_close,
};

/* ---- opening ----------------------------------------------------------------------------------------- */

static enum status check_file(struct kv_lmdb *k, struct err *e)
{
	struct stat st;
	enum status s;

	if (stat(k->path, &st) != 0)
		return ST_OK;
	s = file_check_private(k->path, e);
	return s == ST_OK ? kv_lmdb_check(k->path, e) : s;
}

static enum status refused(struct kv_lmdb *k, int rc, struct err *e)
{
	if (rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH || rc == MDB_CORRUPTED)
		return err_set(e, ST_STORAGE,
			       "%s: %s: it is damaged or of another version: " START_EMPTY,
			       k->path, mdb_strerror(rc));
	return err_set(e, ST_STORAGE, "opening %s: %s", k->path, mdb_strerror(rc));
}

/* For a new store, or one of before there were journals: the journal is durable before data.mdb knows of it. */
static enum status make_journal(struct kv_lmdb *k, struct err *e)
{
	uint64_t bytes = k->max_bytes / JOURNAL_PART;
	enum status s;
	int rc;

	if (journal_was_written(k->journal_path))
		return err_set(e, ST_STORAGE,
			       "%s: the data.mdb that it belongs to is gone, or an older copy was put in its place: put the "
			       "newest back, or " START_EMPTY,
			       k->journal_path);
	secret_random(k->journal_id.bytes, ID_LEN);
	bytes = bytes > JOURNAL_MOST ? JOURNAL_MOST : bytes < JOURNAL_LEAST ? JOURNAL_LEAST : bytes;
	s = journal_create(k->journal_path, &k->journal_id, (size_t)bytes, e);
	if (s != ST_OK)
		return s;
	rc = make_databases(k);
	return rc == 0 ? ST_OK : refused(k, rc, e);
}

static enum status open_files(struct kv_lmdb *k, struct err *e)
{
	enum status s = check_file(k, e);
	int rc;

	if (s != ST_OK)
		return s;
	rc = open_env(k);
	if (rc == 0) {
		rc = read_databases(k);
		if (rc == MDB_NOTFOUND) {
			rc = 0;
			s = make_journal(k, e);
		}
	}
	if (rc != 0)
		return refused(k, rc, e);
	if (s == ST_OK)
		s = journal_open(&k->journal, k->journal_path, &k->journal_id, e);
	return s == ST_OK ? begin_txn(k, UINT64_MAX, e) : s;
}

enum status kv_lmdb_open(struct kv **kv, const char *directory, uint64_t max_bytes, struct err *e)
{
	struct kv_lmdb *k = xcalloc(1, sizeof *k);
	enum status s;

	k->kv.ops = &lmdb_ops;
	k->max_bytes = max_bytes;
	k->path = xasprintf("%s/data.mdb", directory);
	k->journal_path = xasprintf("%s/journal", directory);
	k->direct = true;
	s = open_files(k, e);
	if (s != ST_OK) {
		free_all(k);
		return s;
	}
	*kv = &k->kv;
	return ST_OK;
}
