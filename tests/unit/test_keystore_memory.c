/*
 * test_keystore_memory.c - where keys are in memory: the master key, the data keys (the expanded ones included, which
 * begin with the key) and stored keys lie in pages that are locked and left out of dumps, and nowhere else; what was
 * taken is nowhere. The same of secrets of any size.
 */
#include "keystore_fixture.h"

#include "internal.h"

enum { PIECE = 16, STORED = 64 };

struct found {
	unsigned times, loose; /* loose: in memory that may be swapped or dumped */
};

struct mapping {
	uintptr_t from, to;
	bool writable, locked, undumped;
	char name[200];
};

static void look_into(const struct mapping *m, const struct secret *key, struct found *f)
{
	const uint8_t *p = (const uint8_t *)m->from, *end = (const uint8_t *)m->to;

	for (; (p = memmem(p, (size_t)(end - p), key->bytes, PIECE)) != NULL; p++) {
		if (p == key->bytes) /* what is looked for */
			continue;
		f->times++;
		if (!m->locked || !m->undumped) {
			print_error("in %s at %lx of %lx-%lx\n", m->name, (unsigned long)(uintptr_t)p, (unsigned long)m->from,
			            (unsigned long)m->to);
			f->loose++;
		}
	}
}

/* All places of the key's first bytes in this process's memory. The file is read first, so that what reading it
 * allocates is not looked at while it changes. */
static struct found find(const struct secret *key)
{
	static struct mapping all[1000];
	size_t count = 0;
	struct found f = { 0, 0 };
	FILE *smaps = fopen("/proc/self/smaps", "r");
	char line[600], access[8];
	unsigned long from, to;

	assert_non_null(smaps);
	while (fgets(line, sizeof line, smaps) != NULL) {
		struct mapping *m = &all[count];

		if (sscanf(line, "%lx-%lx %7s %*s %*s %*s %199s", &from, &to, access, m->name) >= 3 && strchr(line, '-') < line + 20) {
			assert_true(count < ARRAY_LEN(all));
			*m = (struct mapping){ .from = from, .to = to, .writable = strncmp(access, "rw", 2) == 0 };
			snprintf(m->name, sizeof m->name, "%.*s", (int)strcspn(line, "\n"), line);
		} else if (strncmp(line, "VmFlags:", 8) == 0) {
			m->locked = strstr(line, " lo") != NULL;
			m->undumped = strstr(line, " dd") != NULL;
			count++;
		}
	}
	fclose(smaps);
	for (size_t i = 0; i < count; i++)
		if (all[i].writable)
			look_into(&all[i], key, &f);
	return f;
}

static int set_up(void **state)
{
	struct store *x = xcalloc(1, sizeof *x);

	store_make(x, KS_LMDB);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	store_unmake(*state);
	free(*state);
	return 0;
}

static void is_kept_well(const struct secret *key, unsigned at_least)
{
	struct secret copy = { NULL, 0 };
	struct found f;

	secret_copy(&copy, key->bytes, key->len);
	f = find(&copy);
	secret_free(&copy);
	assert_true(f.times >= at_least);
	assert_int_equal(f.loose, 0);
}

static void the_search_finds_what_lies_open(void **state)
{
	struct secret key = { NULL, 0 };
	uint8_t *loose = xcalloc(1, PIECE);
	struct found f;

	(void)state;
	secret_alloc(&key, PIECE);
	secret_random(key.bytes, PIECE);
	memcpy(loose, key.bytes, PIECE);
	__asm__ volatile("" : : "r"(loose) : "memory"); /* or the compiler sees that nobody reads it */
	f = find(&key);
	assert_int_equal(f.times, 1);
	assert_int_equal(f.loose, 1);
	free(loose);
	secret_free(&key);
}

static void keys_of_keys_are_locked_and_undumped(void **state)
{
	struct store *x = *state;

	is_kept_well(&x->ks->master, 1);
	is_kept_well(&x->ks->keyring.keys[0], 3); /* the key, and expanded for either direction */
}

/* In OpenSSL's secure heap, too large for it, and more than it holds. */
static void secrets_of_any_size_are_kept_well(void **state)
{
	static const size_t sizes[] = { 32, 16 * 1024, 100000 };
	struct secret all[100] = { { NULL, 0 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		secret_alloc(&all[i], i < ARRAY_LEN(sizes) ? sizes[i] : 16 * 1024);
		secret_random(all[i].bytes, PIECE);
	}
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		is_kept_well(&all[i], 1);
	is_kept_well(&all[ARRAY_LEN(all) - 1], 1);
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		secret_free(&all[i]);
}

/* Random bytes that are stored, and then taken. */
static void stored_keys_are_locked_and_gone_once_taken(void **state)
{
	struct store *x = *state;
	struct secret key = { NULL, 0 };
	struct op take = { .kind = OP_TAKE, .pool = pool_id(1), .min = STORED, .max = STORED, .granule = 1 };
	struct found f;

	secret_alloc(&key, STORED);
	secret_random(key.bytes, STORED);
	assert_int_equal(create(x, 1), ST_OK);
	assert_int_equal(op_simple(x, (struct op){ .kind = OP_APPEND, .pool = pool_id(1), .bytes = key.bytes, .len = STORED }),
	                 ST_OK);
	assert_int_equal(settle(x, 1, STORED), ST_OK);
	is_kept_well(&key, 1);
	assert_int_equal(op_run(x, &take), ST_OK);
	assert_true(secret_equal(&take.out, &key));
	secret_free(&take.out);
	f = find(&key);
	assert_int_equal(f.times, 0);
	secret_free(&key);
}

enum { KEYS = 4 };

/* A chunk of random bytes, in keys that wait for an application; copies of the first ones. */
static void make_keys(struct store *x, int pool, struct secret key[KEYS])
{
	struct secret chunk = { NULL, 0 };

	secret_alloc(&chunk, CHUNK_BYTES);
	secret_random(chunk.bytes, chunk.len);
	for (int i = 0; i < KEYS; i++) {
		key[i] = (struct secret){ NULL, 0 };
		secret_copy(&key[i], chunk.bytes + 32 * i, 32);
	}
	assert_int_equal(create(x, pool), ST_OK);
	assert_int_equal(
	        op_simple(x, (struct op){ .kind = OP_APPEND, .pool = pool_id(pool), .bytes = chunk.bytes, .len = chunk.len }), ST_OK);
	secret_free(&chunk);
	assert_int_equal(settle(x, pool, CHUNK_BYTES), ST_OK);
	assert_int_equal(op_simple(x, (struct op){ .kind = OP_ASSIGN, .pool = pool_id(pool), .key_len = 32,
	                                           .count = CHUNK_BYTES / 32, .source = "app1", .destination = "app2" }),
	                 ST_OK);
}

static void deliver(struct store *x, int pool, int i, const struct secret *key, bool then_fail)
{
	struct op o = { .kind = OP_DELIVER, .pool = pool_id(pool), .offset = 32 * (uint64_t)i, .source = "app1",
		        .destination = "app2", .then_fail = then_fail };

	assert_int_equal(op_run(x, &o), then_fail ? ST_MISMATCH : ST_OK);
	assert_true(secret_equal(&o.out, key));
	secret_free(&o.out);
	assert_int_equal(find(key).times, 0);
}

static void free_keys(struct secret key[KEYS])
{
	for (int i = 0; i < KEYS; i++)
		secret_free(&key[i]);
}

static void keys_delivered_by_id_are_gone_at_once(void **state)
{
	struct store *x = *state;
	struct secret key[KEYS];

	make_keys(x, 1, key);
	deliver(x, 1, 0, &key[0], false);
	deliver(x, 1, 1, &key[1], false);
	is_kept_well(&key[2], 1); /* the chunk is open, for those that come next */
	free_keys(key);
}

/* What waits in an open chunk leaves memory with all ways that it has out of the store. */
static void keys_given_up_are_gone_at_once(void **state)
{
	struct store *x = *state;
	struct secret key[KEYS];

	make_keys(x, 1, key);
	deliver(x, 1, 0, &key[0], false);
	assert_int_equal(op_simple(x, (struct op){ .kind = OP_VOID, .pool = pool_id(1), .offset = 64, .len = 32 }), ST_OK);
	assert_int_equal(find(&key[2]).times, 0);
	is_kept_well(&key[3], 1);
	free_keys(key);

	make_keys(x, 2, key);
	deliver(x, 2, 0, &key[0], true); /* so that the chunk is whole, and goes unopened */
	is_kept_well(&key[1], 1);
	assert_int_equal(op_simple(x, (struct op){ .kind = OP_VOID, .pool = pool_id(2), .offset = 0, .len = CHUNK_BYTES }), ST_OK);
	assert_int_equal(find(&key[1]).times, 0);
	free_keys(key);

	make_keys(x, 3, key);
	deliver(x, 3, 0, &key[0], false);
	is_kept_well(&key[1], 1);
	assert_int_equal(op_simple(x, (struct op){ .kind = OP_RETIRE, .pool = pool_id(3) }), ST_OK);
	for (int i = 0; i < 600; i++) /* works, between which the sweep comes by */
		assert_int_equal(create(x, 4), ST_OK);
	assert_int_equal(find(&key[1]).times, 0);
	free_keys(key);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(the_search_finds_what_lies_open),
		TEST(keys_of_keys_are_locked_and_undumped),
		TEST(secrets_of_any_size_are_kept_well),
		TEST(stored_keys_are_locked_and_gone_once_taken),
		TEST(keys_delivered_by_id_are_gone_at_once),
		TEST(keys_given_up_are_gone_at_once),
	};
	struct err e;

	if (secret_init(1024 * 1024, &e) != ST_OK) {
		print_error("%s\n", e.text);
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
