/*
 * bench_keystore.c - how fast the key store is, how big on disk and in memory, and how soon it opens.
 *
 * usage: bench_keystore [keys, default 1000000] [folder, default /tmp]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "env_event.h"
#include "keystore.h"
#include "log.h"

enum { KEY = 32, BLOCK = 262144, IN_FLIGHT = 1024, ROW = 2048 };

struct bench;

struct call {
	struct bench *b;
	uint64_t offset;
	struct secret out;
};

struct bench {
	struct env *env;
	struct ks *ks;
	char dir[256], store[300], master[300];
	uint64_t keys;
	const struct id *pool;
	ks_work work;
	uint64_t step, next, count, finished;
	struct call calls[IN_FLIGHT];
};

static const struct id far_pool = {{1}}, near_pool = {{2}};

static void call_done(enum status s, void *arg)
{
	struct call *c = arg;
	struct bench *b = c->b;

	if (s != ST_OK)
		log_fatal("a work failed: %s", status_name(s));
	secret_free(&c->out);
	if (++b->finished == b->count)
		env_event_stop(b->env);
	if (b->next == b->count)
		return;
	c->offset = b->next++;
	ks_submit(b->ks, b->work, call_done, c);
}

/* Runs work count times, with so many in flight; seconds. */
static double run(struct bench *b, ks_work work, uint64_t count, unsigned in_flight)
{
	uint64_t from = env_mono(b->env);

	b->work = work;
	b->count = count;
	b->next = b->finished = 0;
	for (unsigned i = 0; i < in_flight && b->next < count; i++) {
		b->calls[i] = (struct call){.b = b, .offset = b->next++};
		ks_submit(b->ks, work, call_done, &b->calls[i]);
	}
	env_event_run(b->env);
	return (double)(env_mono(b->env) - from) / 1e9;
}

static enum status work_create(struct ks_txn *t, void *arg)
{
	struct ks_pool_desc d = {
	    .id = far_pool, .kind = KS_POOL_KSA, .source = "alice", .destination = "bob"};
	enum status s = ks_pool_create(t, &d);

	(void)arg;
	d.id = near_pool;
	return s == ST_OK ? ks_pool_create(t, &d) : s;
}

static enum status work_append(struct ks_txn *t, void *arg)
{
	static uint8_t block[BLOCK];
	struct call *c = arg;
	uint64_t at = c->offset * BLOCK, left = c->b->keys * KEY - at;
	size_t len = left < BLOCK ? (size_t)left : BLOCK;
	enum status s = ks_append(t, c->b->pool, at, block, len);

	return s == ST_OK ? ks_settle(t, c->b->pool, at + len) : s;
}

static enum status work_assign(struct ks_txn *t, void *arg)
{
	struct call *c = arg;
	uint64_t left = c->b->keys - c->offset * ROW;
	struct ks_assignment a = {.offset = c->offset * ROW * KEY,
				  .key_len = KEY,
				  .count = left < ROW ? (uint32_t)left : ROW,
				  .source = "app1",
				  .destination = "app2"};

	return ks_assign(t, c->b->pool, &a);
}

static enum status work_assign_one(struct ks_txn *t, void *arg)
{
	struct call *c = arg;
	struct ks_assignment a = {
	    .offset = c->offset * KEY, .key_len = KEY, .count = 1, .source = "app1", .destination = "app2"};

	return ks_assign(t, &near_pool, &a);
}

static enum status work_deliver(struct ks_txn *t, void *arg)
{
	struct call *c = arg;
	uint64_t key =
	    c->offset * UINT64_C(7368787) % c->b->keys; /* a prime: each key once, all over the place */

	return ks_deliver(t, c->b->pool, key * KEY, "app1", "app2", &c->out);
}

static enum status work_deliver_in_order(struct ks_txn *t, void *arg)
{
	struct call *c = arg;

	return ks_deliver(t, &near_pool, c->offset * KEY, "app1", "app2", &c->out);
}

static enum status work_take(struct ks_txn *t, void *arg)
{
	struct call *c = arg;
	uint64_t at;

	return ks_take(t, &near_pool, KEY, KEY, KEY, &at, &c->out);
}

/* Processor time of all threads since the last call, seconds: what a loaded machine does not blur. */
static double processor(void)
{
	static double last;
	struct timespec now;
	double t, d;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	t = (double)now.tv_sec + (double)now.tv_nsec / 1e9;
	d = t - last;
	last = t;
	return d;
}

static double opened(struct bench *b)
{
	struct ks_options o = {
	    .backend = KS_LMDB, .env = b->env, .directory = b->store, .master_key_file = b->master};
	uint64_t from = env_mono(b->env);
	struct err e;

	if (ks_open(&b->ks, &o, &e) != ST_OK)
		log_fatal("%s", e.text);
	return (double)(env_mono(b->env) - from) / 1e6;
}

static double anonymous_mib(void)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[200];
	long kib = 0;

	while (f != NULL && fgets(line, sizeof line, f) != NULL)
		if (sscanf(line, "RssAnon: %ld", &kib) == 1)
			break;
	if (f != NULL)
		fclose(f);
	return (double)kib / 1024;
}

static void tell(const char *what, double value, const char *unit)
{
	printf("%-52s %14.3f %s\n", what, value, unit);
	fflush(stdout);
}

static void tell_rate(const char *what, uint64_t n, double seconds)
{
	printf("%-52s %14.3f keys/s   %.2f us of processor each\n", what, (double)n / seconds,
	       processor() * 1e6 / (double)n);
	fflush(stdout);
}

static void fill(struct bench *b, const struct id *pool, uint64_t keys, const char *what)
{
	double s;

	b->pool = pool;
	b->keys = keys;
	processor();
	s = run(b, work_append, (keys * KEY + BLOCK - 1) / BLOCK, 16);
	if (what != NULL)
		printf("%-52s %14.3f MB/s     %.2f ms of processor each\n", what,
		       (double)keys * KEY / s / 1e6, processor() * 1e9 / ((double)keys * KEY));
}

int main(int argc, char **argv)
{
	struct bench *b = xcalloc(1, sizeof *b);
	uint64_t keys = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000,
		 some = keys < 1000000 ? keys : 1000000;
	struct ks_stats st;
	struct err e;
	double t;

	if (secret_init(1 << 23, &e) != ST_OK)
		fprintf(stderr, "%s\n", e.text);
	b->env = env_event_new();
	snprintf(b->dir, sizeof b->dir, "%s/qkdn-bench-XXXXXX", argc > 2 ? argv[2] : "/tmp");
	if (mkdtemp(b->dir) == NULL)
		log_fatal("no folder");
	snprintf(b->store, sizeof b->store, "%s/store", b->dir);
	snprintf(b->master, sizeof b->master, "%s/master.key", b->dir);
	if (ks_master_key_make(b->master, &e) != ST_OK)
		log_fatal("%s", e.text);
	opened(b);
	run(b, work_create, 1, 1);
	ks_close(b->ks);
	tell("open, no keys", opened(b), "ms");
	fill(b, &far_pool, keys, "append in 256 KiB, durable");
	ks_stats(b->ks, &st);
	tell("bytes on disk over key bytes", (double)st.file_bytes / (double)st.key_bytes, "");
	tell("anonymous memory", anonymous_mib(), "MiB");
	t = run(b, work_assign, (keys + ROW - 1) / ROW, IN_FLIGHT);
	tell_rate("assign, 2048 keys each", keys, t);
	t = run(b, work_deliver, some, IN_FLIGHT);
	tell_rate("deliver at random, 1024 in flight", some, t);
	ks_stats(b->ks, &st);
	tell("works a commit so far", (double)st.works / (double)st.commits, "");
	fill(b, &near_pool, 2 * some, NULL);
	processor();
	t = run(b, work_assign_one, some, IN_FLIGHT);
	tell_rate("assign one key, 1024 in flight", some, t);
	t = run(b, work_deliver_in_order, some, IN_FLIGHT);
	tell_rate("deliver in order, 1024 in flight", some, t);
	t = run(b, work_take, some * 9 / 10, IN_FLIGHT);
	tell_rate("take one key, 1024 in flight", (some * 9 / 10), t);
	t = run(b, work_take, 2000, 1);
	tell_rate("take one key, 1 in flight", 2000, t);
	ks_stats(b->ks, &st);
	tell("file", (double)st.file_bytes / 1e6, "MB");
	tell("anonymous memory", anonymous_mib(), "MiB");
	ks_close(b->ks);
	processor();
	tell("open, with keys", opened(b), "ms");
	tell("  of it processor", processor() * 1e3, "ms");
	ks_close(b->ks);
	env_event_free(b->env);
	{
		char *rm = xasprintf("rm -rf '%s'", b->dir);

		if (system(rm) != 0)
			fprintf(stderr, "%s is left\n", b->dir);
		free(rm);
	}
	free(b);
	return 0;
}
