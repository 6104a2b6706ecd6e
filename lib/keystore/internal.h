/* internal.h - what the files of the key store share, and nobody else includes. store.c begins with
 * the essay that says how they work together. */
#ifndef QKDN_KEYSTORE_INTERNAL_H
#define QKDN_KEYSTORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

#include "bytes.h"
#include "chunk.h"
#include "keyring.h"
#include "keystore.h"
#include "kv.h"
#include "log.h"
#include "seal.h"

#define OFFSET_LIMIT (UINT64_C(1) << 56) /* of a pool: 2 million years at 10 Gbit/s of key */

enum { POOL_NUMBER_LEN = 4, PLACE_LEN = POOL_NUMBER_LEN + 8 };

/* ---- pool.c: pools in memory, all of them, always ------------------------------------------- */

struct pool_state {
	struct ks_pool pub;
	uint64_t swept; /* no byte below it is stored but in assignments; up to head is sweep.c's to do */
	uint64_t rows;  /* assignment rows */
	uint64_t voids; /* ranges in KV_VOID */
	uint64_t uncut; /* keys delivered whose bytes are still in their chunks */
};

struct pool {
	struct pool_state now, committed;
	uint32_t number;
	uint64_t stamp; /* of the last work that changed it */
	bool dirty;     /* changed since the last commit */
	bool fresh;     /* made since */
	UT_hash_handle by_id, by_number;
};

struct pools {
	struct pool *by_id, *by_number;
	uint32_t last_number;
};

MUST_CHECK enum status pools_load(struct ks *ks, struct err *e);
MUST_CHECK enum status pools_flush(struct ks_txn *t); /* changed ones into the database */
void pools_committed(struct ks *ks);
void pools_aborted(struct ks *ks);
void pools_free(struct ks *ks);
void pool_remove(struct ks *ks, struct pool *p); /* undoes its making */

/* ST_NOT_FOUND; ST_KEY_GONE where it is retired. */
MUST_CHECK enum status pool_find(struct ks_txn *t, const struct id *id, struct pool **p);
void pool_touch(struct ks_txn *t, struct pool *p); /* before every change */
bool pool_needs_sweep(const struct pool *p);

/* Bytes of [lo, hi) that are neither assigned nor gone are cut out; *ready and *unready count them. */
MUST_CHECK enum status pool_void_unassigned(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi);

/* The whole range is ready, above head, present and not assigned: or the status that ks_take_at gives. */
MUST_CHECK enum status pool_check_takeable(struct ks_txn *t, struct pool *p, uint64_t offset, uint64_t len);

/* After taking or assigning [offset, offset + len): head moves over what is used up where it stood there. */
MUST_CHECK enum status pool_advance_head(struct ks_txn *t, struct pool *p, uint64_t offset, uint64_t len);

void place_make(uint8_t place[PLACE_LEN], uint32_t pool, uint64_t number);
static inline struct kv_slice slice_of(const void *bytes, size_t len)
{
	return (struct kv_slice){bytes, len};
}

/* ---- row.c, assignment.c ------------------------------------------------------------------------ */

struct row;
struct row_cache;

MUST_CHECK enum status rows_flush(struct ks_txn *t); /* changed ones into the database */
void rows_init(struct ks *ks);
void rows_drop_all(struct ks *ks);
void rows_free(struct ks *ks);
void row_forget(struct ks *ks, uint32_t pool, uint64_t offset); /* an open one whose value was put back */
MUST_CHECK enum status row_restore(struct ks_txn *t, uint32_t pool, const struct row *r); /* undoes */

/* Voids the keys that overlap [lo, hi) and still wait; *erased grows by their bytes. */
MUST_CHECK enum status assignments_void(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi,
					uint64_t *erased);

/* The next part of [*pos, limit) that is in no row; *pos moves behind it. ST_NOT_FOUND at the end. */
MUST_CHECK enum status gap_next(struct ks_txn *t, struct pool *p, uint64_t *pos, uint64_t limit, uint64_t *lo,
				uint64_t *hi);

/* ---- pick.c: chunks that keys are picked out of ------------------------------------------------ */

struct picks;

void picks_init(struct ks *ks);
void picks_free(struct ks *ks);
/* What is open there goes from memory: of one chunk, which changes, and of all. */
void pick_forget(struct ks *ks, uint32_t pool, uint64_t index);
void picks_wipe(struct ks *ks);

/* ---- value.c: sealed values that hold no keys, with undo -------------------------------------- */

enum { RECORD_MAX = 2048 };

MUST_CHECK enum status record_get(struct ks_txn *t, enum kv_db db, struct kv_slice place, void *room,
				  size_t room_len, size_t *len); /* ST_NOT_FOUND */
MUST_CHECK enum status record_put(struct ks_txn *t, enum kv_db db, struct kv_slice place, const void *bytes,
				  size_t len);
MUST_CHECK enum status record_delete(struct ks_txn *t, enum kv_db db, struct kv_slice place);
MUST_CHECK enum status record_open(struct ks_txn *t, enum kv_db db, struct kv_slice place,
				   struct kv_slice sealed, void *room, size_t room_len, size_t *len);

/* Logs, and makes the work fail whatever it returns. */
enum status damage(struct ks_txn *t, const char *what);
/* A database call failed: the batch cannot be committed. */
enum status broken(struct ks_txn *t);

/* ---- undo.c: what a failing work did is taken back, the rest of its batch stays ------------------- */

struct undo;

void undo_begin(struct ks_txn *t);
void undo_pool(struct ks_txn *t, struct pool *p);
void undo_chunk(struct ks_txn *t, struct chunk *c);
void undo_row(struct ks_txn *t, uint32_t pool, const struct row *r);
MUST_CHECK enum status undo_value(struct ks_txn *t, enum kv_db db, struct kv_slice place);
void undo_value_was(struct ks_txn *t, enum kv_db db, struct kv_slice place, struct kv_slice old); /* the same */
/* A chunk changed by this work is about to leave the cache: keeps what it was, sealed. */
void undo_chunk_leaves(struct ks_txn *t, struct chunk *c);
MUST_CHECK enum status undo_run(struct ks_txn *t);
void undo_free(struct ks *ks);

/* ---- sweep.c, rotate.c: what is done between batches -------------------------------------------- */

struct sweep {
	bool running;
	uint64_t rested_at; /* monotonic, when the last round ended */
	uint64_t rounds;
	uint32_t pool; /* where the walk stands */
	uint64_t row;
};

/* Some of the work that can wait. *more: there is more. */
MUST_CHECK enum status sweep_step(struct ks_txn *t, bool *more);

enum rotation_phase { ROTATION_NONE, ROTATION_SWEEP, ROTATION_SEAL, ROTATION_DESTROY };

struct rotation_place {
	enum kv_db db;
	size_t len;
	uint8_t key[256];
};

struct rotation {
	enum rotation_phase phase;
	uint64_t round; /* of the sweep that must have ended */
	struct rotation_place at, committed;
	struct job *jobs, *waiting; /* to be told of this rotation, of the next one */
};

/* Some of the rotation; before a commit. */
MUST_CHECK enum status rotation_step(struct ks_txn *t);
/* After the commit: destroys the old key when nothing is under it any more. Returns whom to tell. */
struct job *rotation_committed(struct ks *ks);
void rotation_aborted(struct ks *ks);
enum status rotation_request(struct ks *ks, struct job *job);

/* ---- master.c: the master key and its change ------------------------------------------------------ */

/* Reads the master key and, where there are any, the data keys that it wraps. A change that a crash cut short
 * is finished. */
MUST_CHECK enum status master_open(struct ks *ks, bool has_keyring, struct err *e);
/* Whether it would open data keys that lie at keyring_path, if any do; changes nothing. */
MUST_CHECK enum status master_check(const char *master_path, const char *keyring_path, struct err *e);
/* why: said where it is not ST_OK. */
MUST_CHECK enum status master_change(struct ks *ks, struct err *why);

/* ---- generation.c ---------------------------------------------------------------------------------- */

/* Compares what the store says with what the file beside the master key says, and advances both. */
MUST_CHECK enum status generation_open(struct ks *ks, bool fresh, struct err *e);
/* Before every commit: its own number. */
MUST_CHECK enum status commit_number_put(struct ks_txn *t);
/* In a batch: the next one, into the database. After its commit: into the file. */
MUST_CHECK enum status generation_put(struct ks_txn *t);
MUST_CHECK enum status generation_write(struct ks *ks, struct err *e);

/* ---- store.c ------------------------------------------------------------------------------------- */

enum job_kind { JOB_WORK, JOB_ROTATE, JOB_MASTER };

struct job {
	ks_work work;
	ks_ran ran; /* may be NULL */
	ks_done done;
	void *arg;
	enum job_kind kind;
	struct err *why; /* of JOB_MASTER: its submitter's, until done */
	enum status status;
	struct job *next, *next_ran;
};

struct ks_txn {
	struct ks *ks;
	uint64_t stamp;   /* of the work that runs */
	bool undoing;     /* an undo log is kept for it */
	bool wrote;       /* the batch changed something */
	bool poisoned;    /* the work saw damage */
	bool broken;      /* the database failed: the batch is lost */
	uint64_t written; /* bytes put, to bound a batch */
};

struct ks {
	struct ks_options options;
	struct env *env;
	char *directory, *keyring_path, *master_path;
	int lock_fd;
	struct kv *kv;
	struct seal *seal;
	struct keyring keyring;
	struct secret master;
	bool master_unplaced; /* master is still in the file of the next one */
	struct pools pools;
	struct chunk_cache cache;
	struct row_cache *rows;
	struct picks *picks;
	struct undo *undo;
	struct sweep sweep;
	struct rotation rotation;
	bool reload; /* a commit failed: what the database has is to be read again */
	uint64_t attempted; /* its number, or that of the last one */
	uint64_t stamps;
	uint64_t generation;
	uint64_t generation_at; /* monotonic, when it was advanced */
	uint64_t batch_at;      /* monotonic, when the writer's last one ended */
	uint64_t worked_at;     /* monotonic, when the last one with works did */
	uint64_t retry_at;      /* monotonic: after a failed commit, what can wait waits until then */
	struct log_limit damage_limit;

	pthread_t writer;
	bool threaded;
	pthread_mutex_t lock; /* over the queue and stopping */
	pthread_cond_t wake;
	struct job *first, **last;
	unsigned holds; /* over 0: the queue waits */
	bool stopping;

	struct report
	    *reports; /* posted, not yet run: the loop's thread and, to add, the writer; under lock */
	uint64_t unreported; /* works; the loop's thread */
	_Atomic uint64_t key_bytes, commits, works, works_failed;
};

#endif
