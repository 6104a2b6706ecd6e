/* keystore_fixture.h - a key store in a temporary folder, driven one operation at a time. */
#ifndef QKDN_KEYSTORE_FIXTURE_H
#define QKDN_KEYSTORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <event2/event.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "env_event.h"
#include "env_virtual.h"
#include "file.h"
#include "keystore.h"

/* not every test needs all of it */
#define FIXTURE static __attribute__((unused))

struct store {
	enum ks_backend backend;
	char dir[64], master[128], store[128], generation[160];
	unsigned hot_chunks;
	uint64_t max_bytes;
	bool threaded; /* env is a real one, and the store has its writer's thread */
	struct world *world;
	struct env *env;
	struct ks *ks;
};

enum op_kind {
	OP_APPEND,
	OP_SETTLE,
	OP_READ,
	OP_TAKE,
	OP_TAKE_AT,
	OP_VOID,
	OP_VOID_BELOW,
	OP_ASSIGN,
	OP_DELIVER,
	OP_UNASSIGN,
	OP_EXPIRE,
	OP_GET,
	OP_RETIRE,
	OP_CREATE,
};

struct op {
	enum op_kind kind;
	struct id pool;
	uint64_t offset, len; /* also: ready; utc now */
	const uint8_t *bytes;
	size_t min, max, granule;
	uint32_t key_len, count;
	uint64_t expires;
	const char *source, *destination;
	bool then_fail; /* the work returns ST_MISMATCH whatever became of it */

	enum status status;   /* of the call */
	enum status reported; /* by done */
	bool done;
	struct secret out;
	uint64_t number; /* offset taken; bytes erased */
	struct ks_pool got;
};

FIXTURE struct id pool_id(int n)
{
	return (struct id){{0xab, (uint8_t)n}};
}

FIXTURE struct ks_pool_desc pool_desc(int n)
{
	return (struct ks_pool_desc){.id = pool_id(n),
				     .kind = KS_POOL_LINK,
				     .source = "alice",
				     .destination = "bob",
				     .link = "alice-bob"};
}

FIXTURE enum status op_call(struct ks_txn *t, struct op *o)
{
	struct ks_assignment a = {
	    .offset = o->offset, .key_len = o->key_len, .count = o->count, .expires = o->expires};
	struct ks_pool_desc d = pool_desc(o->pool.bytes[1]);

	switch (o->kind) {
	case OP_APPEND:
		return ks_append(t, &o->pool, o->offset, o->bytes, o->len);
	case OP_SETTLE:
		return ks_settle(t, &o->pool, o->offset);
	case OP_READ:
		return ks_read(t, &o->pool, o->offset, o->len, &o->out);
	case OP_TAKE:
		return ks_take(t, &o->pool, o->min, o->max, o->granule, &o->number, &o->out);
	case OP_TAKE_AT:
		return ks_take_at(t, &o->pool, o->offset, o->len, &o->out);
	case OP_VOID:
		return ks_void(t, &o->pool, o->offset, o->len, &o->number);
	case OP_VOID_BELOW:
		return ks_void_below(t, &o->pool, o->offset);
	case OP_ASSIGN:
		strcpy(a.source, o->source);
		strcpy(a.destination, o->destination);
		return ks_assign(t, &o->pool, &a);
	case OP_DELIVER:
		return ks_deliver(t, &o->pool, o->offset, o->source, o->destination, &o->out);
	case OP_UNASSIGN:
		return ks_unassign(t, &o->pool, o->offset, o->len);
	case OP_EXPIRE:
		return ks_expire(t, o->offset, o->count, &o->number);
	case OP_GET:
		return ks_pool_get(t, &o->pool, &o->got);
	case OP_RETIRE:
		return ks_pool_retire(t, &o->pool);
	case OP_CREATE:
		return ks_pool_create(t, &d);
	}
	return ST_INTERNAL;
}

FIXTURE enum status op_work(struct ks_txn *t, void *arg)
{
	struct op *o = arg;

	secret_free(&o->out);
	o->status = op_call(t, o);
	return o->then_fail ? ST_MISMATCH : o->status;
}

FIXTURE void op_done(enum status s, void *arg)
{
	struct op *o = arg;

	o->reported = s;
	o->done = true;
}

/* What is reported next. */
FIXTURE void store_step(struct store *x)
{
	if (x->threaded)
		assert_int_equal(event_base_loop(env_event_base(x->env), EVLOOP_ONCE), 0);
	else
		assert_true(world_step(x->world));
}

/* Runs one operation to its report. */
FIXTURE enum status op_run(struct store *x, struct op *o)
{
	o->done = false;
	ks_submit(x->ks, op_work, op_done, o);
	while (!o->done)
		store_step(x);
	return o->reported;
}

FIXTURE enum status op_simple(struct store *x, struct op o)
{
	enum status s = op_run(x, &o);

	secret_free(&o.out);
	return s;
}

FIXTURE enum status store_try_open(struct store *x, struct err *e)
{
	struct ks_options o = {.backend = x->backend,
			       .env = x->env,
			       .directory = x->store,
			       .master_key_file = x->master,
			       .max_bytes = x->max_bytes,
			       .inline_writer = !x->threaded,
			       .hot_chunks = x->hot_chunks};

	return ks_open(&x->ks, &o, e);
}

FIXTURE void store_open(struct store *x)
{
	struct err e = {ST_OK, ""};
	enum status s = store_try_open(x, &e);

	if (s != ST_OK)
		print_error("%s\n", e.text);
	assert_int_equal(s, ST_OK);
}

FIXTURE void store_close(struct store *x)
{
	ks_close(x->ks);
	while (!x->threaded && world_step(x->world))
		;
	x->ks = NULL;
}

FIXTURE void store_make_of(struct store *x, enum ks_backend backend, uint64_t max_bytes)
{
	struct err e;

	memset(x, 0, sizeof *x);
	x->backend = backend;
	x->max_bytes = max_bytes;
	/* kills and flips are as telling in memory, and need not wait for a disk */
	strcpy(x->dir,
	       access("/dev/shm", W_OK) == 0 ? "/dev/shm/qkdn-keystore-XXXXXX" : "/tmp/qkdn-keystore-XXXXXX");
	assert_non_null(mkdtemp(x->dir));
	snprintf(x->master, sizeof x->master, "%s/master.key", x->dir);
	snprintf(x->generation, sizeof x->generation, "%s.generation", x->master);
	snprintf(x->store, sizeof x->store, "%s/store", x->dir);
	x->world = world_new(1);
	x->env = env_virtual_new(x->world);
	assert_int_equal(ks_master_key_make(x->master, &e), ST_OK);
	store_open(x);
}

FIXTURE void store_make(struct store *x, enum ks_backend backend)
{
	store_make_of(x, backend, UINT64_C(1) << 30);
}

FIXTURE void remove_folder(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *f;
	char name[512];

	while (d != NULL && (f = readdir(d)) != NULL) {
		if (strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0)
			continue;
		snprintf(name, sizeof name, "%s/%s", path, f->d_name);
		if (f->d_type == DT_DIR)
			remove_folder(name);
		else
			unlink(name);
	}
	if (d != NULL)
		closedir(d);
	rmdir(path);
}

FIXTURE void store_unmake(struct store *x)
{
	if (x->ks != NULL)
		store_close(x);
	if (x->threaded)
		env_event_free(x->env);
	else
		env_virtual_free(x->env);
	world_free(x->world);
	remove_folder(x->dir);
}

/* Bytes that tell where they belong. */
FIXTURE void pattern(uint8_t *to, uint64_t offset, size_t len)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (uint8_t)((offset + i) * 167 + ((offset + i) >> 8) * 31 + ((offset + i) >> 16) * 13);
}

FIXTURE bool is_pattern(const struct secret *s, uint64_t offset)
{
	for (size_t i = 0; i < s->len; i++) {
		uint8_t b;

		pattern(&b, offset + i, 1);
		if (s->bytes[i] != b)
			return false;
	}
	return true;
}

FIXTURE enum status append(struct store *x, int pool, uint64_t offset, size_t len)
{
	uint8_t *bytes = xcalloc(1, len);
	enum status s;

	pattern(bytes, offset, len);
	s = op_simple(
	    x, (struct op){
		   .kind = OP_APPEND, .pool = pool_id(pool), .offset = offset, .bytes = bytes, .len = len});
	free(bytes);
	return s;
}

FIXTURE struct ks_pool get(struct store *x, int pool)
{
	struct op o = {.kind = OP_GET, .pool = pool_id(pool)};

	assert_int_equal(op_run(x, &o), ST_OK);
	return o.got;
}

/* Of one pool; what is before these differs in padding, too. */
FIXTURE void assert_same_cursors(const struct ks_pool *a, const struct ks_pool *b)
{
	assert_memory_equal(&a->head, &b->head, sizeof *a - offsetof(struct ks_pool, head));
}

FIXTURE enum status settle(struct store *x, int pool, uint64_t ready)
{
	return op_simple(x, (struct op){.kind = OP_SETTLE, .pool = pool_id(pool), .offset = ready});
}

FIXTURE enum status create(struct store *x, int pool)
{
	return op_simple(x, (struct op){.kind = OP_CREATE, .pool = pool_id(pool)});
}

/* ---- for cmocka_unit_test_setup_teardown ------------------------------------------------------- */

FIXTURE int lmdb_set_up(void **state)
{
	struct store *x = xcalloc(1, sizeof *x);

	store_make(x, KS_LMDB);
	*state = x;
	return 0;
}

FIXTURE int memory_set_up(void **state)
{
	struct store *x = xcalloc(1, sizeof *x);

	store_make(x, KS_MEMORY);
	*state = x;
	return 0;
}

FIXTURE int store_tear_down(void **state)
{
	store_unmake(*state);
	free(*state);
	return 0;
}

/* A pool with len bytes ready. */
FIXTURE void fill(struct store *x, int pool, size_t len)
{
	assert_int_equal(create(x, pool), ST_OK);
	assert_int_equal(append(x, pool, 0, len), ST_OK);
	assert_int_equal(settle(x, pool, len), ST_OK);
}

/* The store does not open, and the text says because. */
FIXTURE void refused(struct store *x, const char *because)
{
	struct err e = {ST_OK, ""};

	assert_int_not_equal(store_try_open(x, &e), ST_OK);
	if (strstr(e.text, because) == NULL)
		print_error("\"%s\" does not say \"%s\"\n", e.text, because);
	assert_non_null(strstr(e.text, because));
	x->ks = NULL;
}

/* ---- the files ----------------------------------------------------------------------------------------- */

FIXTURE char *joined(const struct store *x, const char *name)
{
	return xasprintf("%s/%s", x->store, name);
}

/* Free it. No more room than the file needs: valgrind takes long to make some. */
FIXTURE char *whole_file(const char *path, size_t *len)
{
	struct stat st;
	struct err e;
	char *bytes;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(file_read(path, (size_t)st.st_size, &bytes, len, &e), ST_OK);
	return bytes;
}

FIXTURE void copy_file(const char *from, const char *to)
{
	size_t len;
	char *bytes = whole_file(from, &len);
	int fd = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, bytes, len), len);
	close(fd);
	free(bytes);
}

FIXTURE void copy_store(const struct store *x, const char *to)
{
	static const char *const names[] = {"data.mdb", "journal", "keys"};

	mkdir(to, 0700);
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char *from = joined(x, names[i]), *target = xasprintf("%s/%s", to, names[i]);

		copy_file(from, target);
		free(from);
		free(target);
	}
}

/* The files as they are now, in a store of their own that is not open. */
FIXTURE struct store copy_of(const struct store *x)
{
	struct store c = {.backend = KS_LMDB, .max_bytes = x->max_bytes, .world = x->world, .env = x->env};

	snprintf(c.dir, sizeof c.dir, "%.50s/copy", x->dir);
	snprintf(c.store, sizeof c.store, "%s/store", c.dir);
	snprintf(c.master, sizeof c.master, "%s/master.key", c.dir);
	snprintf(c.generation, sizeof c.generation, "%s.generation", c.master);
	mkdir(c.dir, 0700);
	copy_store(x, c.store);
	copy_file(x->master, c.master);
	copy_file(x->generation, c.generation);
	return c;
}

#endif
