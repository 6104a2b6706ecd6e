/*
 * test_keystore_crash.c - kill -9 at random moments: what was reported is there, and nothing is taken twice.
 *
 * A child with a real writer thread does random works and tells through a pipe what was reported as done.
 * It is killed; the store, and a copy of its files taken while the child stood still, are opened and held
 * against everything that was ever told. QKDN_ROUNDS and QKDN_SEED prolong and repeat it.
 */
#include "keystore_fixture.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "env_event.h"

enum { SPACE = 1 << 20, BLOCK = 1000, KEY = 32, IN_FLIGHT = 16 };

/* Pool 1 is taken from at its head; pool 2 is assigned and delivered from. */
enum told_kind { TOLD_READY, TOLD_TAKEN, TOLD_ASSIGNED, TOLD_DELIVERED, TOLD_NOTE };

struct told {
	enum told_kind kind;
	int pool;
	uint64_t offset, len;
};

/* ---- the child ------------------------------------------------------------------------------------------
 */

struct child;

struct call {
	struct child *c;
	struct told told;
	struct secret out;
	enum { DO_APPEND, DO_TAKE, DO_ASSIGN, DO_DELIVER, DO_NOTE, DO_FAIL } what;
	uint64_t dice;
};

struct child {
	struct env *env;
	struct ks *ks;
	uint64_t dice;
	int pipe;
	struct call calls[IN_FLIGHT];
};

static uint64_t roll(uint64_t *dice)
{
	*dice = *dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *dice >> 33;
}

static enum status append_block(struct ks_txn *t, int pool, struct told *told)
{
	struct id id = pool_id(pool);
	uint8_t block[BLOCK];
	struct ks_pool p;
	enum status s = ks_pool_get(t, &id, &p);

	if (s != ST_OK || p.tail + BLOCK > SPACE)
		return s == ST_OK ? ST_BUSY : s;
	pattern(block, p.tail, BLOCK);
	*told = (struct told){TOLD_READY, pool, p.tail, BLOCK};
	s = ks_append(t, &id, p.tail, block, BLOCK);
	return s == ST_OK ? ks_settle(t, &id, p.tail + BLOCK) : s;
}

static enum status take_key(struct ks_txn *t, struct call *c)
{
	struct id id = pool_id(1);
	enum status s;

	secret_free(&c->out);
	s = ks_take(t, &id, KEY, KEY * (1 + c->dice % 100), KEY, &c->told.offset, &c->out);
	c->told = (struct told){TOLD_TAKEN, 1, c->told.offset, c->out.len};
	if (s == ST_OK && !is_pattern(&c->out, c->told.offset))
		return ST_INTERNAL;
	return s;
}

static enum status assign_keys(struct ks_txn *t, struct call *c)
{
	struct ks_assignment a = {
	    .key_len = KEY, .count = 1 + (uint32_t)(c->dice % 20), .source = "app1", .destination = "app2"};
	struct id id = pool_id(2);
	struct ks_pool p;
	enum status s = ks_pool_get(t, &id, &p);

	a.offset = (p.head + KEY - 1) / KEY * KEY;
	c->told = (struct told){TOLD_ASSIGNED, 2, a.offset, (uint64_t)a.count * KEY};
	return s == ST_OK ? ks_assign(t, &id, &a) : s;
}

static enum status deliver_key(struct ks_txn *t, struct call *c)
{
	struct id id = pool_id(2);
	struct ks_pool p;
	enum status s = ks_pool_get(t, &id, &p);

	secret_free(&c->out);
	c->told = (struct told){TOLD_DELIVERED, 2, c->dice % (p.head / KEY + 1) * KEY, KEY};
	return s == ST_OK ? ks_deliver(t, &id, c->told.offset, "app1", "app2", &c->out) : s;
}

/* A note in the same commit as a take: both or neither. */
static enum status take_and_note(struct ks_txn *t, struct call *c)
{
	enum status s = take_key(t, c);

	c->told.kind = TOLD_NOTE;
	return s == ST_OK ? ks_note_put(t, &c->told.offset, sizeof c->told.offset, "taken", 5) : s;
}

static enum status child_work(struct ks_txn *t, void *arg)
{
	struct call *c = arg;
	enum status s;

	switch (c->what) {
	case DO_APPEND:
		return append_block(t, 1 + (int)(c->dice & 1), &c->told);
	case DO_TAKE:
		return take_key(t, c);
	case DO_ASSIGN:
		return assign_keys(t, c);
	case DO_DELIVER:
		return deliver_key(t, c);
	case DO_NOTE:
		return take_and_note(t, c);
	case DO_FAIL:
		s = take_key(t, c);
		return s == ST_OK ? assign_keys(t, c) == ST_OK ? ST_MISMATCH : ST_MISMATCH : s;
	}
	return ST_INTERNAL;
}

static void child_submit(struct call *c);

static void child_done(enum status s, void *arg)
{
	struct call *c = arg;

	if (s == ST_INTERNAL || s == ST_STORAGE)
		_exit(3);
	if (s == ST_OK && write(c->c->pipe, &c->told, sizeof c->told) != (ssize_t)sizeof c->told)
		_exit(4);
	secret_free(&c->out);
	child_submit(c);
}

static void child_submit(struct call *c)
{
	static const int whats[] = {DO_APPEND,  DO_TAKE,    DO_ASSIGN, DO_DELIVER,
				    DO_DELIVER, DO_DELIVER, DO_NOTE,   DO_FAIL};

	c->what = whats[roll(&c->c->dice) % ARRAY_LEN(whats)];
	c->dice = roll(&c->c->dice);
	if (roll(&c->c->dice) % 200 == 0)
		ks_rotate_data_key(c->c->ks, NULL, NULL);
	ks_submit(c->c->ks, child_work, child_done, c);
}

static void child_main(const struct store *x, uint64_t seed, int pipe)
{
	struct child c = {.env = env_event_new(), .dice = seed, .pipe = pipe};
	struct ks_options o = {.backend = KS_LMDB,
			       .env = c.env,
			       .directory = x->store,
			       .master_key_file = x->master,
			       .max_bytes = 1 << 28,
			       .hot_chunks = 4};
	struct err e;

	if (ks_open(&c.ks, &o, &e) != ST_OK) {
		print_error("%s\n", e.text);
		_exit(2);
	}
	for (int i = 0; i < IN_FLIGHT; i++) {
		c.calls[i].c = &c;
		child_submit(&c.calls[i]);
	}
	env_event_run(c.env);
	_exit(5);
}

/* ---- the parent ------------------------------------------------------------------------------------------
 */

struct truth {
	uint8_t taken[SPACE], delivered[SPACE], assigned[SPACE];
	uint64_t ready[3];
	uint64_t told[5];
	uint64_t notes[100000];
	size_t note_count;
};

static void mark(uint8_t *bytes, const struct told *t)
{
	for (uint64_t i = t->offset; i < t->offset + t->len; i++) {
		assert_int_equal(bytes[i], 0); /* nothing twice */
		bytes[i] = 1;
	}
}

static void learn(struct truth *k, const struct told *t)
{
	assert_true(t->offset + t->len <= SPACE);
	k->told[t->kind]++;
	if (t->kind == TOLD_READY && k->ready[t->pool] < t->offset + t->len)
		k->ready[t->pool] = t->offset + t->len;
	else if (t->kind == TOLD_TAKEN || t->kind == TOLD_NOTE)
		mark(k->taken, t);
	else if (t->kind == TOLD_ASSIGNED)
		mark(k->assigned, t);
	else if (t->kind == TOLD_DELIVERED)
		mark(k->delivered, t);
	if (t->kind == TOLD_NOTE)
		k->notes[k->note_count++] = t->offset;
}

/* A child on a busy machine may need a while to begin. */
static void wait_for_word(int pipe)
{
	struct pollfd p = {.fd = pipe, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 60000), 1);
}

static void listen_for(struct truth *k, int pipe, int ms)
{
	struct timespec now;
	uint64_t until;

	clock_gettime(CLOCK_MONOTONIC, &now);
	until = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + (uint64_t)ms;
	for (;;) {
		struct pollfd p = {.fd = pipe, .events = POLLIN};
		struct told t;

		clock_gettime(CLOCK_MONOTONIC, &now);
		ms = (int)((int64_t)until - (int64_t)now.tv_sec * 1000 - (int64_t)now.tv_nsec / 1000000);
		if (poll(&p, 1, ms < 0 ? 0 : ms) <= 0 || read(pipe, &t, sizeof t) != (ssize_t)sizeof t)
			return;
		learn(k, &t);
	}
}

struct check {
	const struct truth *k;
	uint64_t missing_notes;
};

static enum status check_work(struct ks_txn *t, void *arg)
{
	struct check *c = arg;
	char room[8];
	size_t len;

	for (size_t i = 0; i < c->k->note_count; i++)
		if (ks_note_get(t, &c->k->notes[i], sizeof c->k->notes[i], room, sizeof room, &len) != ST_OK)
			c->missing_notes++;
	return ST_OK;
}

/* Of a store that is thrown away afterwards: it takes and delivers. */
static void check_store(struct store *x, const struct truth *k)
{
	struct check c = {.k = k};
	struct op o;

	for (int pool = 1; pool <= 2; pool++)
		assert_true(get(x, pool).ready >= k->ready[pool]);
	ks_submit(x->ks, check_work, NULL, &c);
	assert_int_equal(c.missing_notes, 0);
	for (uint64_t at = 0; at < SPACE; at += KEY) {
		if (!k->assigned[at])
			continue;
		o = (struct op){.kind = OP_DELIVER,
				.pool = pool_id(2),
				.offset = at,
				.source = "app1",
				.destination = "app2"};
		op_run(x, &o);
		if (k->delivered[at])
			assert_int_equal(o.reported, ST_KEY_GONE);
		else if (o.reported == ST_OK) /* or it was delivered and could not be told any more */
			assert_true(o.out.len == KEY && is_pattern(&o.out, at));
		else
			assert_int_equal(o.reported, ST_KEY_GONE);
		secret_free(&o.out);
	}
	for (;;) {
		o = (struct op){.kind = OP_TAKE, .pool = pool_id(1), .min = 1, .max = 100000, .granule = 1};
		if (op_run(x, &o) != ST_OK)
			break;
		assert_true(is_pattern(&o.out, o.number));
		for (uint64_t i = o.number; i < o.number + o.out.len; i++)
			assert_int_equal(k->taken[i], 0);
		secret_free(&o.out);
	}
	assert_int_equal(o.reported, ST_TOO_FEW_KEYS);
}

static void check_copy(const struct store *x, const struct truth *k)
{
	struct store copy = copy_of(x);

	store_open(&copy);
	check_store(&copy, k);
	store_close(&copy);
	remove_folder(copy.dir);
}

static void round_of(struct store *x, struct truth *k, uint64_t seed)
{
	int ends[2], status, ms = (int)(seed * 7919 % 60);
	pid_t child;

	assert_int_equal(pipe(ends), 0);
	fflush(NULL);
	child = fork();
	if (child == 0) {
		close(ends[0]);
		child_main(x, seed, ends[1]);
	}
	close(ends[1]);
	if (seed % 5 != 0) /* the others may be killed while they open the store */
		wait_for_word(ends[0]);
	listen_for(k, ends[0], ms);
	if (seed % 3 == 0) { /* a copy of files that stand still in the middle of anything */
		kill(child, SIGSTOP);
		waitpid(child, &status, WUNTRACED);
		listen_for(k, ends[0], 0);
		if (WIFSTOPPED(status))
			check_copy(x, k);
	}
	kill(child, SIGKILL);
	listen_for(k, ends[0], 1000);
	close(ends[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFSIGNALED(status))
		print_error("the child ended with %d\n", WEXITSTATUS(status));
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *v = getenv(name);

	return v != NULL ? strtoull(v, NULL, 0) : otherwise;
}

static void kills_lose_nothing(void **state)
{
	struct truth *k = xcalloc(1, sizeof *k);
	uint64_t seed = from_environment("QKDN_SEED", 1), rounds = from_environment("QKDN_ROUNDS", 40);
	struct store x;

	(void)state;
	store_make(&x, KS_LMDB);
	assert_int_equal(create(&x, 1), ST_OK);
	assert_int_equal(create(&x, 2), ST_OK);
	store_close(&x);
	for (uint64_t i = 0; i < rounds && k->ready[1] + 100000 < SPACE && k->ready[2] + 100000 < SPACE; i++)
		round_of(&x, k, seed + i);
	check_copy(&x, k);
	print_message(
	    "told: %llu appended, %llu taken, %llu taken with a note, %llu assigned, %llu delivered\n",
	    (unsigned long long)k->told[TOLD_READY], (unsigned long long)k->told[TOLD_TAKEN],
	    (unsigned long long)k->told[TOLD_NOTE], (unsigned long long)k->told[TOLD_ASSIGNED],
	    (unsigned long long)k->told[TOLD_DELIVERED]);
	for (size_t i = 0; i < ARRAY_LEN(k->told); i++)
		assert_true(k->told[i] > 0);
	store_unmake(&x);
	free(k);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(kills_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
