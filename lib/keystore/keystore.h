/*
 * keystore.h - keys at rest.
 *
 * A pool is a directed stream of key bytes that two KMs share at the same offsets. Offsets count
 * bytes from 0, never wrap and are never used twice. Of a pool this store knows
 *
 *     head <= ready <= tail
 *
 * Bytes below head are gone for good, but for those that are assigned. Between head and ready lie bytes that
 * both ends are known to hold: they may be taken. Between ready and tail lie bytes that are stored and
 * durable but not yet agreed with the peer. A hole (a void range) may be anywhere; what is in a hole cannot
 * be taken.
 *
 * All work on the store is done in transactions: a function that the store runs in its writer
 * thread, together with others in one commit (group commit), and reports as done in the loop's
 * thread only after that commit is durable. So: nothing leaves before it is durable.
 *
 * The store knows neither RPC nor links nor routes.
 */
#ifndef QKDN_KEYSTORE_H
#define QKDN_KEYSTORE_H

#include "env.h"
#include "id.h"
#include "secret.h"
#include "status.h"

struct ks;
struct ks_txn;

enum { KS_KEY_LEN_MAX = 65536 }; /* bytes of one key that has an ID */

enum ks_backend { KS_LMDB, KS_MEMORY };

struct ks_options {
	enum ks_backend backend;
	struct env *env;             /* done callbacks are posted to it */
	const char *directory;       /* LMDB: mode 0700, made if missing */
	const char *master_key_file; /* LMDB: 32 bytes, mode 0600; made with ks_master_key_make */
	uint64_t max_bytes;          /* LMDB: size of the map, a bound on the file; 0: 64 GiB */
	unsigned hot_chunks;         /* pieces of pools kept open in locked memory, 4 KiB each; 0: 128 */
	bool inline_writer; /* no thread: work runs, and is committed, inside ks_submit, and done is posted */
};

/* Refuses loose modes, a wrong master key, a damaged or a newer store, and an older copy put
 * back (doc/key-store.md), each with a text that says what to do. */
MUST_CHECK enum status ks_open(struct ks **ks, const struct ks_options *o, struct err *e);

/* Whether ks_open of an LMDB store would find its directory and the master key as they must be; touches nothing, and
 * may be asked while the store is open elsewhere. What is in the store itself only opening it can tell. */
MUST_CHECK enum status ks_check(const struct ks_options *o, struct err *e);

/* Waits until all submitted work is durable and reported to nobody any more; wipes. */
void ks_close(struct ks *ks);

/* Writes a fresh master key to a file of mode 0600; refuses to overwrite. */
MUST_CHECK enum status ks_master_key_make(const char *path, struct err *e);

/*
 * Runs work(txn, arg) in the writer's thread. Unless it returns ST_OK, nothing it did stays. Then
 * done(status, arg) runs in the loop's thread: after the commit for ST_OK, ST_STORAGE where the
 * commit failed (nothing happened). Order: works run and are reported in the order of submission.
 *
 * A function here that refuses has changed nothing, so a work may go on after a refusal. work touches
 * nothing but the txn and arg. Secrets that it was given are its arg's to free, whatever becomes of it; those
 * of a work that is not reported as ST_OK must not be used.
 */
typedef enum status (*ks_work)(struct ks_txn *t, void *arg);
typedef void (*ks_done)(enum status s, void *arg);
void ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg);

/* The same; and where work returned ST_OK, ran(arg) runs in the loop's thread before that commit is waited for,
 * and before done. What it does may be known elsewhere though the commit then fails or a crash undoes it: so
 * nothing that it tells may be believed, there or here, until done has said ST_OK. The writer does not touch arg
 * any more when ran runs. */
typedef void (*ks_ran)(void *arg);
void ks_submit_early(struct ks *ks, ks_work work, ks_ran ran, ks_done done, void *arg);

/* What is submitted between the two is begun together, and so in one commit but where it is very much. The loop's
 * thread calls both. */
void ks_hold(struct ks *ks);
void ks_release(struct ks *ks);

/* Whether every work that was submitted has been reported. For the loop's thread. */
bool ks_is_idle(const struct ks *ks);

/* ---- pools -------------------------------------------------------------------------------- */

enum ks_pool_kind { KS_POOL_LINK, KS_POOL_AUTH, KS_POOL_KSA, KS_POOL_SHARE };

struct ks_pool_desc {
	struct id id;
	enum ks_pool_kind kind;
	char source[NAME_MAX_LEN + 1];      /* KM at the sending end: only it chooses ranges */
	char destination[NAME_MAX_LEN + 1]; /* KM at the receiving end */
	char link[NAME_MAX_LEN + 1];        /* QKD link, "" for KS_POOL_KSA and KS_POOL_SHARE */
};

struct ks_pool {
	struct ks_pool_desc desc;
	bool retired;
	uint64_t head, ready, tail;
	uint64_t stock;    /* bytes present in [head, ready) and not assigned */
	uint64_t unready;  /* bytes present in [ready, tail) */
	uint64_t assigned; /* bytes assigned and not yet delivered */
	uint64_t voided;   /* bytes that were present and were given up, since the pool was made */
	uint64_t durable;  /* head as of the last commit; ks_pool_get sets it */
};

/* ST_OK if it exists with the same description; ST_CONFLICT if with another; ST_KEY_GONE if it was retired.
 * All functions below give ST_NOT_FOUND for a pool that was never made. */
MUST_CHECK enum status ks_pool_create(struct ks_txn *t, const struct ks_pool_desc *d);
MUST_CHECK enum status ks_pool_get(struct ks_txn *t, const struct id *pool, struct ks_pool *p);
/* Calls each for every pool, stops when it returns false. */
void ks_pool_each(struct ks_txn *t, bool (*each)(const struct ks_pool *p, void *arg), void *arg);
/* Voids what it holds and refuses everything later (ST_KEY_GONE). A tombstone stays. */
MUST_CHECK enum status ks_pool_retire(struct ks_txn *t, const struct id *pool);

/* Stores len bytes at offset. The same bytes there already: ST_OK, nothing changes. Others: ST_CONFLICT.
 * Missing below ready, or in a range taken or voided: ST_KEY_GONE. ST_STORAGE when the store is full. Beyond
 * tail a hole is left, which may be filled as long as ready has not passed it. */
MUST_CHECK enum status ks_append(struct ks_txn *t, const struct id *pool, uint64_t offset,
				 const uint8_t *bytes, size_t len);

/* Moves ready forward (never back: ST_CONFLICT), and tail where it is behind; holes that it passes stay holes
 * for good. */
MUST_CHECK enum status ks_settle(struct ks_txn *t, const struct id *pool, uint64_t ready);

/* Copies len bytes at offset without consuming them, at or above head: for tags. ST_KEY_GONE where a byte is
 * missing or assigned. */
MUST_CHECK enum status ks_read(struct ks_txn *t, const struct id *pool, uint64_t offset, size_t len,
			       struct secret *out);

/*
 * Takes the next bytes from head: one contiguous run of at most max and at least min bytes, a multiple
 * of granule, starting at a multiple of granule above pool offset 0. Head moves behind it, remnants that are
 * skipped are voided, what is assigned is passed over. ST_TOO_FEW_KEYS, with nothing changed, if no such run
 * is ready. out may be NULL where the bytes are not wanted.
 */
MUST_CHECK enum status ks_take(struct ks_txn *t, const struct id *pool, size_t min, size_t max,
			       size_t granule, uint64_t *offset, struct secret *out);

/* The same into room, of max bytes; *len of them were taken. */
MUST_CHECK enum status ks_take_into(struct ks_txn *t, const struct id *pool, size_t min, size_t max,
				    size_t granule, uint64_t *offset, uint8_t *room, size_t *len);

/* The other end of a take: exactly that range, ready, whole and unassigned; ST_TOO_FEW_KEYS where it is not
 * ready yet, ST_REPLAYED where any of it was taken, assigned or voided before. Needs not be at head; where it
 * is, head moves up to the next byte that is there. */
MUST_CHECK enum status ks_take_at(struct ks_txn *t, const struct id *pool, uint64_t offset, size_t len,
				  struct secret *out);

/* Gives up whatever is present in the range, assigned or not. *erased (may be NULL) is how many bytes
 * that were. A range above tail is marked so that it can never be filled. */
MUST_CHECK enum status ks_void(struct ks_txn *t, const struct id *pool, uint64_t offset, uint64_t len,
			       uint64_t *erased);

/* Voids everything below offset that is not assigned, and moves head up to it. */
MUST_CHECK enum status ks_void_below(struct ks_txn *t, const struct id *pool, uint64_t offset);

/* ---- assignments: keys that wait for an application at this end ----------------------------- */

struct ks_assignment {
	uint64_t offset;
	uint32_t key_len; /* bytes of one key */
	uint32_t count;
	char source[NAME_MAX_LEN + 1];      /* application that requested them at the other end */
	char destination[NAME_MAX_LEN + 1]; /* application that may fetch them here */
	uint64_t expires; /* UTC nanoseconds; voided by ks_expire up to 1.1 s after it; 0: never */
};

/* Assigns a ready, whole, unassigned range (as ks_take_at). The same assignment again: ST_OK;
 * one that overlaps another: ST_CONFLICT; ST_TOO_FEW_KEYS and ST_REPLAYED as there. */
MUST_CHECK enum status ks_assign(struct ks_txn *t, const struct id *pool, const struct ks_assignment *a);

/* Delivers one key, once: durable as delivered with this commit. ST_UNKNOWN_KEY_ID: offset is no key's
 * start; ST_DENIED: assigned to other applications; ST_KEY_GONE: delivered, expired or voided. */
MUST_CHECK enum status ks_deliver(struct ks_txn *t, const struct id *pool, uint64_t offset,
				  const char *source, const char *destination, struct secret *out);

/* The same into room, of key_len bytes: ST_UNKNOWN_KEY_ID where the key has another length. */
MUST_CHECK enum status ks_deliver_into(struct ks_txn *t, const struct id *pool, uint64_t offset,
				       uint32_t key_len, const char *source, const char *destination,
				       uint8_t *room);

/* Withdraws a whole assignment: ST_KEY_GONE if any key of it was delivered (nothing changes then; known until
 * the assignment's time is over); ST_OK if it is voided now or was before. A range that was not assigned
 * yet is voided as well, so that an assignment that comes late is refused. */
MUST_CHECK enum status ks_unassign(struct ks_txn *t, const struct id *pool, uint64_t offset, uint64_t len);

/* Voids undelivered keys whose time is over, at most most_rows assignments a call. *bytes: how much. */
MUST_CHECK enum status ks_expire(struct ks_txn *t, uint64_t utc_now, unsigned most_rows, uint64_t *bytes);

/* ---- key IDs --------------------------------------------------------------------------------- */

/* The ID of the key at offset of a pool, the same at both ends: a keyed permutation (AES-256 under a key
 * derived from the pool's ID) of offset and length, inverted without an index. Any thread. */
void ks_key_id(const struct id *pool, uint64_t offset, uint32_t key_len, struct id *key_id);
/* Those of count keys that lie one behind another. */
void ks_key_ids(const struct id *pool, uint64_t offset, uint32_t key_len, uint32_t count, struct id *key_ids);
/* false: no key of this pool has that ID. */
MUST_CHECK bool ks_key_id_invert(const struct id *pool, const struct id *key_id, uint64_t *offset,
				 uint32_t *key_len);

/* ---- notes: small durable facts of the core, in the same commit as the keys they are about --- */

enum { KS_NOTE_KEY_MAX = 200, KS_NOTE_MAX = 65536 };

/* Sealed like keys, though they hold none. key is any byte string up to KS_NOTE_KEY_MAX. */
MUST_CHECK enum status ks_note_put(struct ks_txn *t, const void *key, size_t key_len, const void *value,
				   size_t len);
/* The value is copied into room; *len is its length. ST_NOT_FOUND; ST_BAD_REQUEST when room is too small. */
MUST_CHECK enum status ks_note_get(struct ks_txn *t, const void *key, size_t key_len, void *room,
				   size_t room_len, size_t *len);
MUST_CHECK enum status ks_note_delete(struct ks_txn *t, const void *key,
				      size_t key_len); /* ST_OK if absent */
/* Every note whose key begins with prefix, in the order of keys, until each returns false. */
void ks_note_each(struct ks_txn *t, const void *prefix, size_t prefix_len,
		  bool (*each)(const void *key, size_t key_len, const void *value, size_t len, void *arg),
		  void *arg);

/* ---- the store as a whole ------------------------------------------------------------------------ */

struct ks_stats {
	uint64_t key_bytes;  /* present, all pools */
	uint64_t file_bytes; /* on disk */
	uint64_t commits, works, works_failed;
};
void ks_stats(struct ks *ks, struct ks_stats *s); /* any thread */

/* Changes to the master key that lies beside the present one, in master_key_file and ".next", while running:
 * wraps the data keys under it, and puts that file into master_key_file's place. A crash in between is made
 * good by the next opening. Where it fails *why says so; it stays the caller's and must live until done. */
void ks_rotate_master_key(struct ks *ks, struct err *why, ks_done done, void *arg);

/* Makes a new data key, seals everything under it in steps, then destroys the old one: the end of the
 * erase horizon for what was spent before. done is called when the old one is gone. */
void ks_rotate_data_key(struct ks *ks, ks_done done, void *arg);

#endif
