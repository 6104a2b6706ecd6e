/*
 * store.c - the database under a key manager of the simulation: one in memory, which fails when it is told to,
 * and of which a copy can be put back.
 *
 * A transaction fails at some call of it or at its commit, or the node is killed as soon as it is committed: so a
 * store stops that finds there what it was told could not be committed. kv_memory_new and keyring_new are replaced by the linker: every store of a simulation has
 * the same data key, so that one made anew can read what another wrote.
 */
#include "inside.h"

#include "keyring.h"
#include "kv.h"

enum { CALLS_MOST = 60 };
enum failure { FAIL_NOT, FAIL_CALL, FAIL_COMMIT, KILL_AFTER };

struct faulty {
	struct kv kv;
	struct kv *below;
	struct node *node;
	enum failure failure; /* of the transaction under way */
	unsigned calls_left;
};

struct kv *__real_kv_memory_new(void);
struct kv *__wrap_kv_memory_new(void);
void __real_keyring_new(struct keyring *r);
void __wrap_keyring_new(struct keyring *r);

/* Whose store is being opened; NULL: one that is none of a simulation. */
static struct node *opening;

static struct faulty *faulty_of(struct kv *kv)
{
	return container_of(kv, struct faulty, kv);
}

/* Whether this call is the one that fails; from it on all do. */
static bool fails(struct faulty *f)
{
	if (f->failure != FAIL_CALL)
		return false;
	if (f->calls_left > 0)
		f->calls_left--;
	return f->calls_left == 0;
}

static enum status faulty_begin(struct kv *kv)
{
	struct faulty *f = faulty_of(kv);
	struct sim *s = f->node->party.sim;

	f->failure = FAIL_NOT;
	if (f->node->party.listening && sim_chance(s, s->options.faults.storage)) { /* one that starts has to stop */
		f->failure = (enum failure)(1 + sim_dice(s, 3));
		f->calls_left = 1 + (unsigned)sim_dice(s, CALLS_MOST);
		s->stats.storage_failures++;
	}
	if (f->failure == FAIL_NOT && sim_chance(s, s->options.faults.storage_full))
		f->failure = FAIL_COMMIT;
	return kv_begin(f->below);
}

static void start_again(void *arg)
{
	sim_start(arg);
}

static void kill_now(void *arg)
{
	struct node *n = arg;

	sim_kill(n);
	sim_after(n->party.sim, sim_dice(n->party.sim, 2000) * NS_PER_MS, start_again, n);
}

static enum status faulty_commit(struct kv *kv)
{
	struct faulty *f = faulty_of(kv);

	if (f->failure == FAIL_CALL || f->failure == FAIL_COMMIT) {
		kv_abort(f->below);
		return ST_STORAGE;
	}
	if (f->failure == KILL_AFTER)
		env_virtual_after(f->node->store_env, 0, kill_now, f->node);
	return kv_commit(f->below);
}

static void faulty_abort(struct kv *kv)
{
	kv_abort(faulty_of(kv)->below);
}

static enum status faulty_get(struct kv *kv, enum kv_db db, struct kv_slice key, struct kv_slice *value)
{
	return fails(faulty_of(kv)) ? ST_STORAGE : kv_get(faulty_of(kv)->below, db, key, value);
}

static enum status faulty_reserve(struct kv *kv, enum kv_db db, struct kv_slice key, size_t len, uint8_t **room)
{
	return fails(faulty_of(kv)) ? ST_STORAGE : kv_reserve(faulty_of(kv)->below, db, key, len, room);
}

static enum status faulty_delete(struct kv *kv, enum kv_db db, struct kv_slice key)
{
	return fails(faulty_of(kv)) ? ST_STORAGE : kv_delete(faulty_of(kv)->below, db, key);
}

static enum status faulty_seek(struct kv *kv, enum kv_db db, enum kv_seek how, struct kv_slice from,
                               struct kv_slice *key, struct kv_slice *value)
{
	return fails(faulty_of(kv)) ? ST_STORAGE : kv_seek(faulty_of(kv)->below, db, how, from, key, value);
}

static uint64_t faulty_number(struct kv *kv)
{
	return kv_number(faulty_of(kv)->below);
}

static uint64_t faulty_file_bytes(struct kv *kv)
{
	return kv_file_bytes(faulty_of(kv)->below);
}

static void faulty_close(struct kv *kv)
{
	kv_close(faulty_of(kv)->below);
	free(faulty_of(kv));
}

static bool faulty_has_aside(struct kv *kv)
{
	return kv_has_aside(faulty_of(kv)->below);
}

static enum status faulty_checkpoint(struct kv *kv)
{
	return kv_checkpoint(faulty_of(kv)->below);
}

static const struct kv_ops faulty_ops = {
	faulty_begin, faulty_commit, faulty_abort,      faulty_get,       faulty_reserve,    faulty_delete,
	faulty_seek,  faulty_number, faulty_file_bytes, faulty_has_aside, faulty_checkpoint, faulty_close,
};

struct kv *__wrap_kv_memory_new(void)
{
	struct faulty *f;

	if (opening == NULL)
		return __real_kv_memory_new();
	f = xcalloc(1, sizeof *f);
	f->kv.ops = &faulty_ops;
	f->node = opening;
	f->below = opening->copy != NULL ? opening->copy : __real_kv_memory_new();
	opening->copy = NULL;
	opening->kv = f->below;
	return &f->kv;
}

void __wrap_keyring_new(struct keyring *r)
{
	__real_keyring_new(r);
	if (opening != NULL)
		memset(r->keys[0].bytes, 0x53, r->keys[0].len);
}

void store_open(struct node *n)
{
	struct ks_options o = { .backend = KS_MEMORY, .inline_writer = true, .env = n->store_env };
	struct err e = { ST_OK, "" };

	opening = n;
	if (ks_open(&n->ks, &o, &e) != ST_OK)
		abort();
	opening = NULL;
}

/* ---- copies -------------------------------------------------------------------------------------------- */

static void copy_one(struct kv *to, enum kv_db db, struct kv_slice key, struct kv_slice value)
{
	uint8_t *room;

	if (kv_reserve(to, db, key, value.len, &room) != ST_OK)
		abort();
	memcpy(room, value.bytes, value.len);
}

static struct kv *copy_of(struct kv *from)
{
	struct kv *to = __real_kv_memory_new();

	for (int db = 0; db < KV_DBS; db++) {
		struct kv_slice key = { NULL, 0 }, value;
		enum kv_seek how = KV_AT_OR_AFTER;

		for (; kv_seek(from, (enum kv_db)db, how, key, &key, &value) == ST_OK; how = KV_AFTER)
			copy_one(to, (enum kv_db)db, key, value);
	}
	if (kv_commit(to) != ST_OK)
		abort();
	return to;
}

struct kv *sim_store_copy(struct node *n)
{
	return copy_of(n->kv);
}

void sim_store_put_back(struct node *n, struct kv *copy)
{
	bool was_up = n->km != NULL;

	sim_kill(n);
	store_close(n);
	n->copy = copy;
	store_open(n);
	store_add(n);
	n->put_back = true;
	if (was_up)
		sim_start(n);
}

/* ---- what waits for applications ------------------------------------------------------------------------------- */

static bool add_assigned(const struct ks_pool *pool, void *arg)
{
	*(uint64_t *)arg += pool->assigned;
	return true;
}

static enum status assigned_work(struct ks_txn *t, void *arg)
{
	ks_pool_each(t, add_assigned, arg);
	return ST_OK;
}

static void assigned_looked(enum status s, void *arg)
{
	if (s != ST_OK)
		*(uint64_t *)arg = UINT64_MAX;
}

uint64_t sim_assigned(struct node *n)
{
	uint64_t bytes = 0;

	ks_submit(n->ks, assigned_work, assigned_looked, &bytes);
	sim_run(n->party.sim, 20 * NS_PER_MS);
	return bytes;
}
