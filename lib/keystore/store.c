/*
 * store.c - the key store: opening, closing, and the writer.
 *
 * DATABASES. One ordered database per kind of thing (kv.h), every value sealed under a data key
 * with its place authenticated (seal.h):
 *
 *     meta    "generation", "commit"                see generation.c
 *     pool    pool's ID                             description, number, cursors, counters
 *     chunk   pool's number (4) | index (8)         up to 4032 bytes of the stream, those present (chunk.h)
 *     row     pool's number (4) | offset (8)        an assignment, a bit per key (assignment.c)
 *     expiry  time (8) | number (4) | offset (8)    the rows in the order of their end
 *     void    pool's number (4) | offset (8)        ranges above ready that must never be filled
 *     note    the core's own key                    the core's own value
 *
 * Beside the database lie its journal (kv_lmdb.c) and the file of data keys, wrapped by the master key
 * (keyring.h); beside the master key lies the generation. All numbers are big-endian, so that the order of
 * bytes is theirs.
 *
 * WRITER. One thread makes all changes. It takes what has been submitted, runs it all in one write
 * transaction, writes what became different in memory (open chunks, pools) into the database, commits
 * once, and posts one report to the loop. While it waits for the disk the next batch gathers, so a
 * commit is shared by the more works the busier it is. A work that fails is undone from notes
 * (undo.c) and the rest of its batch stays. In inline mode the same happens inside ks_submit.
 *
 * DURABILITY. A report of ST_OK comes after the commit, which is one flush of a record in the journal, or
 * of LMDB's pages and then its root (kv_lmdb.c says when). A commit that fails (no room, a broken disk)
 * changes nothing: memory goes back to the last committed state, everything in the batch is told
 * ST_STORAGE, and the next batch tries again. What failed may have reached the disk all the same: a record
 * that the next commit, which goes into LMDB under the same number, makes one of before; or LMDB's root,
 * which its handle, opened anew after every commit that failed, then shows. What was told to have failed
 * may so have happened, which is the safe side: taken, not taken twice.
 *
 * CRASHES. A kill at any moment leaves the last committed state, or the one that was on its way: LMDB
 * copies on write and never touches what the last root refers to, and no record of the journal that is
 * needed is ever written over. Nothing in memory is needed to go on: cursors, bits, what is still to be
 * cut out, and a rotation under way are all in what was committed or in the file of data keys. There is
 * nothing to repair, and opening reads the journal, the pools' records and the pages of the tree
 * (kv_lmdb_check.c), not the keys.
 *
 * WHAT STAYS. What was taken is left out of its chunk when the batch commits; what was delivered, when the
 * sweep comes by (sweep.c). The ciphertext before that stays in free pages of the file and in the journal
 * until the data key is rotated and destroyed (rotate.c). doc/key-store.md adds that up to the erase
 * horizon.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#include "advice.h"
#include "file.h"
#include "internal.h"

enum { WORKS_A_BATCH = 4096 };
#define BYTES_A_BATCH (UINT64_C(8) << 20)
#define MAX_BYTES_DEFAULT (UINT64_C(64) << 30)
#define SWEEP_IDLE_NS (10 * NS_PER_S)  /* between rounds, when there is nothing else to do */
#define SWEEP_BUSY_NS (600 * NS_PER_S) /* when there is: it costs as much as what it cleans up after */
#define QUIET_NS (NS_PER_S / 20) /* without works: a gap between two batches of a burst is shorter */
#define GENERATION_NS (10 * NS_PER_S)
#define RETRY_NS NS_PER_S
#define CHECKPOINT_IDLE_NS NS_PER_S
enum { INLINE_SWEEP_EVERY = 256 }; /* batches: a virtual clock may stand still */

/* Jobs of one batch, on the way to the loop: what it finished, or, before its commit, what is to be told that
 * it ran. */
struct report {
	struct ks *ks; /* NULL when it was closed meanwhile */
	struct job *jobs;
	bool early;
	struct report *prev, *next;
};

/* ---- reporting --------------------------------------------------------------------------------------- */

static void tell_ran(struct report *r)
{
	for (struct job *j = r->jobs; j != NULL && r->ks != NULL; j = j->next_ran)
		j->ran(j->arg); /* which may close the store */
}

static void tell_done(struct report *r)
{
	struct job *j, *next;

	for (j = r->jobs; j != NULL; j = next) {
		next = j->next;
		if (r->ks != NULL && j->kind == JOB_WORK)
			r->ks->unreported--;
		if (r->ks != NULL && j->done != NULL)
			j->done(j->status, j->arg); /* which may close the store */
		free(j);
	}
}

static void report_run(void *arg)
{
	struct report *r = arg;

	(r->early ? tell_ran : tell_done)(r);
	if (r->ks != NULL) {
		pthread_mutex_lock(&r->ks->lock);
		DL_DELETE(r->ks->reports, r);
		pthread_mutex_unlock(&r->ks->lock);
	}
	free(r);
}

static void report(struct ks *ks, struct job *jobs, bool early)
{
	struct report *r;

	if (jobs == NULL)
		return;
	r = xcalloc(1, sizeof *r);
	r->ks = ks;
	r->jobs = jobs;
	r->early = early;
	pthread_mutex_lock(&ks->lock);
	DL_APPEND(ks->reports, r);
	pthread_mutex_unlock(&ks->lock);
	env_post(ks->env, report_run, r);
}

/* Those that ran well are told so; the reports that end them come behind this one. */
static void report_ran(struct ks *ks, struct job *finished)
{
	struct job *first = NULL, **last = &first;

	for (struct job *j = finished; j != NULL; j = j->next)
		if (j->ran != NULL && j->status == ST_OK) {
			*last = j;
			last = &j->next_ran;
		}
	report(ks, first, true);
}

/* ---- a batch ------------------------------------------------------------------------------------------- */

/* A work of our own that leaves nothing wrong behind if it stops half-way. */
static enum status run_simple(struct ks_txn *t, ks_work step, void *arg)
{
	t->stamp = ++t->ks->stamps;
	return step(t, arg);
}

/* Runs one work, and takes it back if it fails. */
static enum status run_step(struct ks_txn *t, ks_work step, void *arg)
{
	enum status s;

	t->stamp = ++t->ks->stamps;
	t->undoing = true;
	t->poisoned = false;
	undo_begin(t);
	s = step(t, arg);
	if (t->poisoned && s == ST_OK)
		s = ST_STORAGE;
	if (s != ST_OK && !t->broken && undo_run(t) != ST_OK)
		s = ST_STORAGE;
	t->undoing = false;
	return s;
}

static enum status work_sweep(struct ks_txn *t, void *arg)
{
	return sweep_step(t, arg);
}

static enum status work_generation(struct ks_txn *t, void *arg)
{
	(void)arg;
	return generation_put(t);
}

static bool sweep_is_wanted(const struct ks *ks)
{
	struct pool *p, *next;

	HASH_ITER (by_id, ks->pools.by_id, p, next)
		if (pool_needs_sweep(p))
			return true;
	return false;
}

/* When what can wait is due; UINT64_MAX: never. */
static uint64_t background_at(const struct ks *ks, bool busy)
{
	uint64_t at = UINT64_MAX;

	if (ks->rotation.phase != ROTATION_NONE)
		return ks->retry_at;
	if (ks->sweep.running && !busy)
		at = 0;
	else if (sweep_is_wanted(ks))
		at = ks->sweep.rested_at + (busy ? SWEEP_BUSY_NS : SWEEP_IDLE_NS);
	if (!busy && at < ks->worked_at + QUIET_NS)
		at = ks->worked_at + QUIET_NS;
	return at < ks->retry_at ? ks->retry_at : at;
}

static void run_background(struct ks_txn *t)
{
	struct ks *ks = t->ks;
	bool more = true;

	if (ks->sweep.running || ks->rotation.phase == ROTATION_NONE) {
		ks->sweep.running = true;
		if (run_simple(t, work_sweep, &more) == ST_OK && !more) {
			ks->sweep.running = false;
			ks->sweep.rested_at = env_mono(ks->env);
			ks->sweep.rounds++;
		}
	}
	if (!t->broken && ks->rotation.phase != ROTATION_NONE && rotation_step(t) != ST_OK)
		ks->retry_at = env_mono(ks->env) + RETRY_NS;
}

/* Runs jobs from the list until the batch is full; returns those that are left. */
static struct job *run_jobs(struct ks_txn *t, struct job *jobs, struct job **finished)
{
	struct job **last = finished, *j, *next;
	unsigned works = 0;

	for (j = jobs; j != NULL && works < WORKS_A_BATCH && t->written < BYTES_A_BATCH; j = next, works++) {
		next = j->next;
		if (j->kind == JOB_ROTATE) {
			j->status = rotation_request(t->ks, j);
			continue;
		}
		j->status = j->kind == JOB_MASTER ? master_change(t->ks, j->why)
			    : t->broken           ? ST_STORAGE
						  : run_step(t, j->work, j->arg);
		if (j->status != ST_OK)
			atomic_fetch_add(&t->ks->works_failed, 1);
		*last = j;
		last = &j->next;
	}
	*last = NULL;
	atomic_fetch_add(&t->ks->works, works);
	return j;
}

static void batch_failed(struct ks *ks, struct job *jobs)
{
	for (struct job *j = jobs; j != NULL; j = j->next)
		if (j->kind == JOB_WORK)
			j->status = ST_STORAGE;
	pools_aborted(ks);
	chunks_drop_all(ks);
	picks_wipe(ks);
	rows_drop_all(ks);
	rotation_aborted(ks);
	ks->retry_at = env_mono(ks->env) + RETRY_NS;
}

/* Begins a transaction, with the pools as the database has them. A commit that failed, and that the database has all
 * the same, cannot be told as the one or the other: what it holds is for the next start to read. */
static bool begin(struct ks *ks)
{
	struct err e;

	if (kv_begin(ks->kv) != ST_OK)
		return false;
	if (!ks->reload)
		return true;
	if (kv_number(ks->kv) > ks->attempted)
		log_fatal("key store: what the disk failed to commit may be there all the same: stopping, to read it anew");
	pools_free(ks);
	if (pools_load(ks, &e) == ST_OK) {
		ks->reload = false;
		return true;
	}
	log_error("key store: %s", e.text);
	kv_abort(ks->kv);
	return false;
}

/* Whether the transaction is over well. Nothing to write: nothing to wait for. A work that was undone has written:
 * to abort would cost more than to commit. */
static bool commit(struct ks_txn *t, bool *advanced)
{
	struct ks *ks = t->ks;

	*advanced = false;
	if (t->broken) {
		kv_abort(ks->kv);
		return false;
	}
	if (!t->wrote) {
		kv_abort(ks->kv);
		return true;
	}
	if (ks->keyring_path != NULL && env_mono(ks->env) - ks->generation_at >= GENERATION_NS)
		*advanced = run_simple(t, work_generation, NULL) == ST_OK;
	if (t->broken || commit_number_put(t) != ST_OK || chunks_flush(t) != ST_OK ||
	    rows_flush(t) != ST_OK || pools_flush(t) != ST_OK) {
		kv_abort(ks->kv);
		return false;
	}
	ks->attempted = kv_number(ks->kv);
	if (kv_commit(ks->kv) != ST_OK) {
		ks->reload = true;
		return false;
	}
	atomic_fetch_add(&ks->commits, 1);
	pools_committed(ks);
	return true;
}

static void advance_generation_file(struct ks *ks)
{
	struct err e;

	if (generation_write(ks, &e) != ST_OK)
		log_warning("key store: %s: an older copy of the store may go unnoticed", e.text);
}

/* One transaction: jobs (some of them; the rest is returned) and, where it is due, what can wait. */
static struct job *run_batch(struct ks *ks, struct job *jobs, bool background)
{
	struct ks_txn t = {.ks = ks};
	struct job *finished = NULL, *rest = NULL, *told = NULL;
	uint64_t generation = ks->generation;
	bool begun = begin(ks), advanced = false;

	t.broken = !begun;
	rest = run_jobs(&t, jobs, &finished);
	if (!t.broken)
		report_ran(ks, finished);
	if (background && !t.broken)
		run_background(&t);
	if (begun ? commit(&t, &advanced) : false) {
		told = rotation_committed(ks);
		if (advanced)
			advance_generation_file(ks);
	} else {
		ks->generation = generation;
		batch_failed(ks, finished);
		if (ks->reload && begin(ks)) /* before anybody is told that it failed */
			kv_abort(ks->kv);
	}
	report(ks, finished, false);
	report(ks, told, false);
	return rest;
}

/* ---- the writer's thread ------------------------------------------------------------------------------- */

static struct job *take_jobs(struct ks *ks)
{
	struct job *jobs = ks->first;

	if (ks->holds > 0 && !ks->stopping)
		return NULL;
	ks->first = NULL;
	ks->last = &ks->first;
	return jobs;
}

/* When the database should put away what it keeps aside, for want of other work; UINT64_MAX: it keeps nothing. */
static uint64_t checkpoint_at(const struct ks *ks)
{
	uint64_t at = ks->batch_at + CHECKPOINT_IDLE_NS;

	if (!kv_has_aside(ks->kv))
		return UINT64_MAX;
	return at < ks->retry_at ? ks->retry_at : at;
}

static void run_checkpoint(struct ks *ks)
{
	if (kv_checkpoint(ks->kv) != ST_OK) /* it is all in the journal: nothing is lost */
		ks->retry_at = env_mono(ks->env) + RETRY_NS;
}

/* Waits, locked, until there are jobs, something that can wait is due, or the end. */
static void wait_for_work(struct ks *ks)
{
	while ((ks->first == NULL || ks->holds > 0) && !ks->stopping) {
		uint64_t at = background_at(ks, false), now = env_mono(ks->env);
		struct timespec until;

		if (at > checkpoint_at(ks))
			at = checkpoint_at(ks);
		if (at <= now)
			return;
		if (at == UINT64_MAX) {
			pthread_cond_wait(&ks->wake, &ks->lock);
			continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &until);
		at = (uint64_t)until.tv_nsec + (at - now < NS_PER_S ? at - now : NS_PER_S);
		until.tv_sec += (time_t)(at / NS_PER_S);
		until.tv_nsec = (long)(at % NS_PER_S);
		pthread_cond_timedwait(&ks->wake, &ks->lock, &until);
	}
}

static void *writer_main(void *arg)
{
	struct ks *ks = arg;

	for (;;) {
		struct job *jobs;
		bool stop, works;

		pthread_mutex_lock(&ks->lock);
		wait_for_work(ks);
		jobs = take_jobs(ks);
		stop = ks->stopping && jobs == NULL;
		pthread_mutex_unlock(&ks->lock);
		if (stop)
			return NULL;
		if (jobs == NULL && checkpoint_at(ks) <= env_mono(ks->env))
			run_checkpoint(ks);
		works = jobs != NULL;
		do
			jobs = run_batch(ks, jobs, background_at(ks, jobs != NULL) <= env_mono(ks->env));
		while (jobs != NULL);
		ks->batch_at = env_mono(ks->env);
		if (works)
			ks->worked_at = ks->batch_at;
	}
}

static void run_inline(struct ks *ks, struct job *job)
{
	bool background =
	    ks->rotation.phase != ROTATION_NONE ||
	    (atomic_load(&ks->works) % INLINE_SWEEP_EVERY == INLINE_SWEEP_EVERY - 1 && sweep_is_wanted(ks));

	while (job != NULL)
		job = run_batch(ks, job, background);
	for (int tries = 0; ks->rotation.phase != ROTATION_NONE && tries < 3;) {
		run_batch(ks, NULL, true);
		tries += ks->retry_at > env_mono(ks->env);
	}
}

static void submit(struct ks *ks, struct job *job)
{
	bool wake;

	if (!ks->threaded) {
		run_inline(ks, job);
		return;
	}
	pthread_mutex_lock(&ks->lock);
	wake = ks->first == NULL && ks->holds == 0;
	*ks->last = job;
	ks->last = &job->next;
	pthread_mutex_unlock(&ks->lock);
	if (wake)
		pthread_cond_signal(&ks->wake);
}

void ks_hold(struct ks *ks)
{
	pthread_mutex_lock(&ks->lock);
	ks->holds++;
	pthread_mutex_unlock(&ks->lock);
}

void ks_release(struct ks *ks)
{
	bool wake;

	pthread_mutex_lock(&ks->lock);
	wake = --ks->holds == 0 && ks->first != NULL;
	pthread_mutex_unlock(&ks->lock);
	if (wake)
		pthread_cond_signal(&ks->wake);
}

void ks_submit_early(struct ks *ks, ks_work work, ks_ran ran, ks_done done, void *arg)
{
	struct job *job = xcalloc(1, sizeof *job);

	*job = (struct job){.work = work, .ran = ran, .done = done, .arg = arg};
	ks->unreported++;
	submit(ks, job);
}

void ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg)
{
	ks_submit_early(ks, work, NULL, done, arg);
}

bool ks_is_idle(const struct ks *ks)
{
	return ks->unreported == 0;
}

void ks_rotate_master_key(struct ks *ks, struct err *why, ks_done done, void *arg)
{
	struct job *job = xcalloc(1, sizeof *job);

	*job = (struct job){.kind = JOB_MASTER, .why = why, .done = done, .arg = arg};
	submit(ks, job);
}

void ks_rotate_data_key(struct ks *ks, ks_done done, void *arg)
{
	struct job *job = xcalloc(1, sizeof *job);

	*job = (struct job){.kind = JOB_ROTATE, .done = done, .arg = arg};
	submit(ks, job);
}

void ks_stats(struct ks *ks, struct ks_stats *s)
{
	*s = (struct ks_stats){.key_bytes = atomic_load(&ks->key_bytes),
			       .file_bytes = kv_file_bytes(ks->kv),
			       .commits = atomic_load(&ks->commits),
			       .works = atomic_load(&ks->works),
			       .works_failed = atomic_load(&ks->works_failed)};
}

/* ---- opening and closing --------------------------------------------------------------------------------
 */

enum status ks_master_key_make(const char *path, struct err *e)
{
	struct secret key = {NULL, 0};
	enum status s;

	if (access(path, F_OK) == 0)
		return err_set(e, ST_CONFLICT,
			       "%s exists: a master key is not overwritten, for the store would be lost",
			       path);
	secret_alloc(&key, SEAL_KEY_LEN);
	secret_random(key.bytes, key.len);
	s = file_write(path, key.bytes, key.len, 0600, e);
	secret_free(&key);
	return s;
}

static enum status check_directory(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
		return err_set(e, ST_CONFIGURATION, "%s: not a directory", path);
	return file_check_private(path, e);
}

static enum status open_directory(const char *path, struct err *e)
{
	if (mkdir(path, 0700) != 0 && errno != EEXIST)
		return err_set(e, ST_CONFIGURATION, "making the key store's directory %s: %s", path,
			       strerror(errno));
	return check_directory(path, e);
}

/* Whether the directory, which is missing, could be made. */
static enum status check_place(const char *directory, struct err *e)
{
	char *copy = xstrdup(directory);
	enum status s = ST_OK;

	if (access(dirname(copy), F_OK) != 0)
		s = err_set(e, ST_CONFIGURATION, "making the key store's directory %s: %s", directory, strerror(errno));
	free(copy);
	return s;
}

enum status ks_check(const struct ks_options *o, struct err *e)
{
	enum status s = access(o->directory, F_OK) == 0 ? check_directory(o->directory, e) : check_place(o->directory, e);
	char *keyring_path = xasprintf("%s/keys", o->directory);

	if (s == ST_OK)
		s = master_check(o->master_key_file, keyring_path, e);
	free(keyring_path);
	return s;
}

static enum status lock_directory(struct ks *ks, struct err *e)
{
	ks->lock_fd = open(ks->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (ks->lock_fd < 0)
		return err_set(e, ST_CONFIGURATION, "%s: %s", ks->directory, strerror(errno));
	if (flock(ks->lock_fd, LOCK_EX | LOCK_NB) != 0)
		return err_set(e, ST_STORAGE, "%s: in use by another process: a key store has one owner",
			       ks->directory);
	return ST_OK;
}

/* The master key and the data keys; *fresh where there is no store yet. */
static enum status open_keys(struct ks *ks, bool *fresh, struct err *e)
{
	char *data = xasprintf("%s/data.mdb", ks->directory);
	bool has_data = access(data, F_OK) == 0, has_keyring = access(ks->keyring_path, F_OK) == 0;
	enum status s = master_open(ks, has_keyring, e);

	free(data);
	*fresh = !has_data;
	if (s == ST_OK && has_keyring && ks->keyring.format != KEYRING_FORMAT)
		s = keyring_write(&ks->keyring, ks->keyring_path, &ks->master, e);
	if (s != ST_OK || has_keyring)
		return s;
	if (has_data)
		return err_set(e, ST_STORAGE,
			       "%s: missing: without it the keys at rest cannot be read: put it back, or " START_EMPTY,
			       ks->keyring_path);
	keyring_new(&ks->keyring);
	return keyring_write(&ks->keyring, ks->keyring_path, &ks->master, e);
}

static enum status open_lmdb(struct ks *ks, struct err *e)
{
	const struct ks_options *o = &ks->options;
	bool fresh = false;
	enum status s;

	ks->directory = xstrdup(o->directory);
	ks->master_path = xstrdup(o->master_key_file);
	ks->keyring_path = xasprintf("%s/keys", o->directory);
	s = open_directory(ks->directory, e);
	if (s == ST_OK)
		s = lock_directory(ks, e);
	if (s == ST_OK)
		s = open_keys(ks, &fresh, e);
	if (s == ST_OK)
		s = kv_lmdb_open(&ks->kv, ks->directory, ks->options.max_bytes, e);
	if (s != ST_OK)
		return s;
	for (unsigned i = 0; i < ks->keyring.count; i++)
		seal_add_key(ks->seal, ks->keyring.numbers[i], ks->keyring.keys[i].bytes);
	if (ks->keyring.count > 1)
		ks->rotation.phase = ROTATION_SEAL;
	return generation_open(ks, fresh, e);
}

static enum status open_memory(struct ks *ks)
{
	ks->kv = kv_memory_new();
	keyring_new(&ks->keyring);
	seal_add_key(ks->seal, ks->keyring.numbers[0], ks->keyring.keys[0].bytes);
	return ST_OK;
}

static enum status load(struct ks *ks, struct err *e)
{
	enum status s = kv_begin(ks->kv);

	if (s != ST_OK)
		return err_set(e, s, "%s: cannot be read", ks->directory);
	s = pools_load(ks, e);
	kv_abort(ks->kv);
	pools_committed(ks);
	return s;
}

static void ks_free(struct ks *ks)
{
	chunks_free(ks);
	rows_free(ks);
	picks_free(ks);
	pools_free(ks);
	undo_free(ks);
	if (ks->kv != NULL)
		kv_close(ks->kv);
	seal_free(ks->seal);
	keyring_free(&ks->keyring);
	secret_free(&ks->master);
	if (ks->lock_fd >= 0)
		close(ks->lock_fd);
	pthread_mutex_destroy(&ks->lock);
	pthread_cond_destroy(&ks->wake);
	free(ks->directory);
	free(ks->keyring_path);
	free(ks->master_path);
	free(ks);
}

static void init_condition(pthread_cond_t *c)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
}

enum status ks_open(struct ks **out, const struct ks_options *o, struct err *e)
{
	struct ks *ks = xcalloc(1, sizeof *ks);
	enum status s;

	ks->options = *o;
	if (ks->options.max_bytes == 0)
		ks->options.max_bytes = MAX_BYTES_DEFAULT;
	if (ks->options.hot_chunks == 0)
		ks->options.hot_chunks = CHUNKS_HOT;
	rows_init(ks);
	picks_init(ks);
	ks->env = o->env;
	ks->lock_fd = -1;
	ks->last = &ks->first;
	ks->seal = seal_new();
	ks->damage_limit = (struct log_limit){.interval_ns = NS_PER_S, .burst = 10};
	pthread_mutex_init(&ks->lock, NULL);
	init_condition(&ks->wake);
	s = o->backend == KS_MEMORY ? open_memory(ks) : open_lmdb(ks, e);
	if (s == ST_OK)
		s = load(ks, e);
	if (s == ST_OK && !o->inline_writer) {
		ks->threaded = pthread_create(&ks->writer, NULL, writer_main, ks) == 0;
		if (!ks->threaded)
			s = err_set(e, ST_INTERNAL,
				    "starting the key store's writer: no thread could be had");
	}
	if (s != ST_OK) {
		ks_free(ks);
		return s;
	}
	*out = ks;
	return ST_OK;
}

/* The last generation: a copy taken before the end is an older one from now on. */
static void close_generation(struct ks *ks)
{
	struct ks_txn t = {.ks = ks};

	if (ks->keyring_path == NULL || kv_begin(ks->kv) != ST_OK)
		return;
	if (generation_put(&t) != ST_OK || commit_number_put(&t) != ST_OK)
		kv_abort(ks->kv);
	else if (kv_commit(ks->kv) == ST_OK)
		advance_generation_file(ks);
}

static void jobs_free(struct job *j)
{
	for (struct job *next; j != NULL; j = next) {
		next = j->next;
		free(j);
	}
}

void ks_close(struct ks *ks)
{
	struct report *r;

	if (ks->threaded) {
		pthread_mutex_lock(&ks->lock);
		ks->stopping = true;
		pthread_cond_signal(&ks->wake);
		pthread_mutex_unlock(&ks->lock);
		pthread_join(ks->writer, NULL);
	}
	close_generation(ks);
	DL_FOREACH (ks->reports, r)
		r->ks = NULL;
	jobs_free(ks->rotation.jobs);
	jobs_free(ks->rotation.waiting);
	ks_free(ks);
}
