/*
 * fuzz_store_file.c - a key store's files, as a kill leaves them, with bytes changed: they are refused, or what is read
 * is right and nothing is taken twice. LMDB trusts its file, so what kv_lmdb_check.c lets through must not end the
 * process either.
 *
 * An input is changes of 4 bytes: {where (3), the bits that change (1)}, over the files one after another. They are
 * fewer than it takes to make a record of the journal look like one that was never written: two in each of eight units.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "env_virtual.h"
#include "file.h"
#include "keystore.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHANGE = 4, CHANGES_MOST = 15, BYTES = 60000, STEP = 1000, FILES = 4 };

static char folder[] = "/dev/shm/fuzz_store-XXXXXX", store[64], master[64];
static const struct id pool = { { 0xab } };

static struct {
	char path[128];
	char *bytes;
	size_t len;
} files[FILES];

static uint8_t byte_at(uint64_t offset)
{
	return (uint8_t)(offset * 167 + (offset >> 8) * 31 + 1);
}

static bool is_right(const struct secret *s, uint64_t offset)
{
	for (size_t i = 0; i < s->len; i++)
		if (s->bytes[i] != byte_at(offset + i))
			return false;
	return true;
}

static enum status fill(struct ks_txn *t, void *arg)
{
	const struct ks_pool_desc d = { .id = pool, .kind = KS_POOL_KSA, .source = "alice", .destination = "bob" };
	const struct ks_assignment a = { .offset = 20000, .key_len = 32, .count = 100, .source = "app1", .destination = "app2",
		                         .expires = 1 };
	uint8_t *bytes = arg;

	for (uint64_t i = 0; i < BYTES; i++)
		bytes[i] = byte_at(i);
	if (ks_pool_create(t, &d) != ST_OK || ks_append(t, &pool, 0, bytes, BYTES) != ST_OK ||
	    ks_settle(t, &pool, BYTES) != ST_OK || ks_assign(t, &pool, &a) != ST_OK)
		abort();
	for (int i = 0; i < 200; i++) /* a tree of some depth */
		if (ks_note_put(t, &i, sizeof i, bytes, 300) != ST_OK)
			abort();
	return ST_OK;
}

/* Reads and takes, from *arg on; what comes must be right. */
static enum status use(struct ks_txn *t, void *arg)
{
	struct secret out = { NULL, 0 };
	uint64_t at = 0, number, *from = arg;

	for (; at + STEP <= BYTES; at += STEP) {
		if (ks_read(t, &pool, at, STEP, &out) == ST_OK && !is_right(&out, at))
			abort();
		secret_free(&out);
	}
	if (ks_take(t, &pool, STEP, STEP, 1, &at, &out) == ST_OK && (at != *from || !is_right(&out, at)))
		abort();
	secret_free(&out);
	if (ks_deliver(t, &pool, 20032, "app1", "app2", &out) == ST_OK && !is_right(&out, 20032))
		abort();
	secret_free(&out);
	return ks_expire(t, UINT64_MAX, 10, &number) == ST_OK && ks_note_put(t, "n", 1, "v", 1) == ST_OK ? ST_OK : ST_STORAGE;
}

static void done(enum status s, void *arg)
{
	(void)s;
	(void)arg;
}

/* Opens the store and does that; false: it was refused. then: before it is closed. */
static bool with_store(ks_work work, void *arg, void (*then)(void))
{
	struct world *world = world_new(1);
	struct env *env = env_virtual_new(world);
	const struct ks_options o = { .backend = KS_LMDB, .env = env, .directory = store, .master_key_file = master,
		                      .max_bytes = 16 << 20, .inline_writer = true };
	struct ks *ks;
	struct err e;
	bool opened = ks_open(&ks, &o, &e) == ST_OK;

	if (opened) {
		ks_submit(ks, work, done, arg);
		if (then != NULL)
			then();
		ks_close(ks);
	}
	while (world_step(world))
		;
	env_virtual_free(env);
	world_free(world);
	return opened;
}

static void remove_all(void)
{
	static const char *const others[] = { "lock.mdb", "data.mdb-lock" };
	char path[128];

	for (int i = 0; i < FILES; i++)
		unlink(files[i].path);
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		snprintf(path, sizeof path, "%s/%s", store, others[i]);
		unlink(path);
	}
	unlink(master);
	rmdir(store);
	rmdir(folder);
}

static void keep_files(void)
{
	struct err e;

	for (int i = 0; i < FILES; i++)
		if (file_read(files[i].path, 16 << 20, &files[i].bytes, &files[i].len, &e) != ST_OK)
			abort();
}

static void set_up(void)
{
	static uint8_t bytes[BYTES];
	uint64_t from = 0;
	struct err e;

	log_open("fuzz_store_file", LOG_LEVEL_FATAL);
	if (secret_init(1024 * 1024, &e) != ST_OK) { /* slower then */
	}
	if (mkdtemp(folder) == NULL)
		abort();
	atexit(remove_all);
	snprintf(store, sizeof store, "%s/store", folder);
	snprintf(master, sizeof master, "%s/master.key", folder);
	snprintf(files[0].path, sizeof files[0].path, "%s/data.mdb", store);
	snprintf(files[1].path, sizeof files[1].path, "%s/keys", store);
	snprintf(files[2].path, sizeof files[2].path, "%s.generation", master);
	snprintf(files[3].path, sizeof files[3].path, "%s/journal", store);
	if (ks_master_key_make(master, &e) != ST_OK || !with_store(fill, bytes, NULL) || !with_store(use, &from, keep_files))
		abort();
}

static void change(const uint8_t *data, size_t size, int file, uint64_t begins)
{
	for (size_t i = 0; i + CHANGE <= size && i < CHANGES_MOST * CHANGE; i += CHANGE) {
		uint64_t at = ((uint64_t)data[i] << 16 | (uint64_t)data[i + 1] << 8 | data[i + 2]);

		at %= files[0].len + files[1].len + files[2].len + files[3].len;
		if (at >= begins && at - begins < files[file].len)
			files[file].bytes[at - begins] ^= (char)data[i + 3];
	}
}

static void put(int file)
{
	FILE *to = fopen(files[file].path, "w");

	if (to == NULL || fwrite(files[file].bytes, 1, files[file].len, to) != files[file].len || fclose(to) != 0 ||
	    chmod(files[file].path, 0600) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t begins = 0, from = STEP;

	if (files[0].bytes == NULL)
		set_up();
	for (int i = 0; i < FILES; begins += files[i++].len) {
		change(data, size, i, begins);
		put(i);
		change(data, size, i, begins); /* twice is not at all */
	}
	if (!with_store(use, &from, NULL) && size < CHANGE)
		abort();
	return 0;
}
