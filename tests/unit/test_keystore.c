/* test_keystore.c - what keystore.h promises, on both backends. */
#include "keystore_fixture.h"

#include <signal.h>
#include <sys/wait.h>

#include "internal.h"

static void take_ok(struct store *x, int pool, size_t min, size_t max, size_t granule, uint64_t at,
		    size_t len)
{
	struct op o = {.kind = OP_TAKE, .pool = pool_id(pool), .min = min, .max = max, .granule = granule};

	assert_int_equal(op_run(x, &o), ST_OK);
	assert_int_equal(o.number, at);
	assert_int_equal(o.out.len, len);
	assert_true(is_pattern(&o.out, at));
	secret_free(&o.out);
}

static enum status take(struct store *x, int pool, size_t min, size_t max, size_t granule)
{
	return op_simple(
	    x,
	    (struct op){.kind = OP_TAKE, .pool = pool_id(pool), .min = min, .max = max, .granule = granule});
}

static enum status take_at(struct store *x, int pool, uint64_t offset, size_t len)
{
	struct op o = {.kind = OP_TAKE_AT, .pool = pool_id(pool), .offset = offset, .len = len};
	enum status s = op_run(x, &o);

	if (s == ST_OK)
		assert_true(o.out.len == len && is_pattern(&o.out, offset));
	secret_free(&o.out);
	return s;
}

static enum status assign(struct store *x, int pool, uint64_t offset, uint32_t key_len, uint32_t count,
			  uint64_t expires)
{
	return op_simple(x, (struct op){.kind = OP_ASSIGN,
					.pool = pool_id(pool),
					.offset = offset,
					.key_len = key_len,
					.count = count,
					.expires = expires,
					.source = "app1",
					.destination = "app2"});
}

static enum status deliver(struct store *x, int pool, uint64_t offset, const char *destination)
{
	struct op o = {.kind = OP_DELIVER,
		       .pool = pool_id(pool),
		       .offset = offset,
		       .source = "app1",
		       .destination = destination};
	enum status s = op_run(x, &o);

	if (s == ST_OK)
		assert_true(o.out.len > 0 && is_pattern(&o.out, offset));
	secret_free(&o.out);
	return s;
}

static enum status unassign(struct store *x, int pool, uint64_t offset, uint64_t len)
{
	return op_simple(
	    x, (struct op){.kind = OP_UNASSIGN, .pool = pool_id(pool), .offset = offset, .len = len});
}

static uint64_t void_range(struct store *x, int pool, uint64_t offset, uint64_t len)
{
	struct op o = {.kind = OP_VOID, .pool = pool_id(pool), .offset = offset, .len = len};

	assert_int_equal(op_run(x, &o), ST_OK);
	return o.number;
}

static void pools_are_made_once(void **state)
{
	struct store *x = *state;

	assert_int_equal(append(x, 1, 0, 10), ST_NOT_FOUND);
	assert_int_equal(create(x, 1), ST_OK);
	assert_int_equal(create(x, 1), ST_OK);
	assert_int_equal(get(x, 1).tail, 0);
	assert_string_equal(get(x, 1).desc.source, "alice");
	assert_int_equal(op_simple(x, (struct op){.kind = OP_RETIRE, .pool = pool_id(1)}), ST_OK);
	assert_int_equal(create(x, 1), ST_KEY_GONE);
	assert_int_equal(append(x, 1, 0, 10), ST_KEY_GONE);
	assert_true(get(x, 1).retired);
}

static void appended_bytes_are_taken_in_order(void **state)
{
	struct store *x = *state;

	assert_int_equal(create(x, 1), ST_OK);
	assert_int_equal(append(x, 1, 0, 10000), ST_OK);
	assert_int_equal(take(x, 1, 1, 32, 1), ST_TOO_FEW_KEYS);
	assert_int_equal(settle(x, 1, 9000), ST_OK);
	assert_int_equal(settle(x, 1, 8999), ST_CONFLICT);
	assert_int_equal(get(x, 1).stock, 9000);
	assert_int_equal(get(x, 1).unready, 1000);
	take_ok(x, 1, 32, 32, 32, 0, 32);
	take_ok(x, 1, 1, 8000, 1, 32, 8000); /* across chunks */
	take_ok(x, 1, 32, 5000, 32, 8032, 960);
	assert_int_equal(take(x, 1, 32, 32, 32), ST_TOO_FEW_KEYS);
	take_ok(x, 1, 1, 32, 1, 8992, 8);
	assert_int_equal(get(x, 1).stock, 0);
	assert_int_equal(get(x, 1).head, 9000);
	assert_int_equal(get(x, 1).voided, 0);
}

static void same_bytes_again_change_nothing(void **state)
{
	struct store *x = *state;
	uint8_t other[64] = {1};

	assert_int_equal(create(x, 1), ST_OK);
	assert_int_equal(append(x, 1, 100, 5000), ST_OK);
	assert_int_equal(append(x, 1, 100, 5000), ST_OK);
	assert_int_equal(get(x, 1).unready, 5000);
	assert_int_equal(
	    op_simple(x,
		      (struct op){
			  .kind = OP_APPEND, .pool = pool_id(1), .offset = 5000, .bytes = other, .len = 64}),
	    ST_CONFLICT);
	assert_int_equal(append(x, 1, 0, 200), ST_OK); /* fills the hole before it */
	assert_int_equal(get(x, 1).unready, 5100);
	assert_int_equal(settle(x, 1, 300), ST_OK);
	assert_int_equal(append(x, 1, 0, 5100), ST_OK);
	take_ok(x, 1, 32, 32, 1, 0, 32);
	assert_int_equal(append(x, 1, 0, 5100), ST_KEY_GONE);
	assert_int_equal(append(x, 1, 32, 6000), ST_OK);
	assert_int_equal(get(x, 1).tail, 6032);
}

static void holes_are_skipped(void **state)
{
	struct store *x = *state;

	assert_int_equal(create(x, 1), ST_OK);
	assert_int_equal(append(x, 1, 10, 50), ST_OK);
	assert_int_equal(append(x, 1, 50000, 100), ST_OK);
	assert_int_equal(settle(x, 1, 50100), ST_OK);
	assert_int_equal(append(x, 1, 100, 10), ST_KEY_GONE); /* ready has passed it */
	assert_int_equal(get(x, 1).stock, 150);
	assert_int_equal(take(x, 1, 101, 200, 1), ST_TOO_FEW_KEYS);
	assert_int_equal(get(x, 1).stock, 150);
	take_ok(x, 1, 32, 64, 32, 50016 - 50016 % 32,
		64); /* 10..60 holds no aligned 32 but 32..60 is too short */
	assert_int_equal(get(x, 1).voided, 50 + (50016 - 50016 % 32 - 50000));
	assert_int_equal(get(x, 1).stock, 150 - 64 - get(x, 1).voided);
}

static void take_at_is_the_other_end(void **state)
{
	struct store *x = *state;

	fill(x, 1, 9000);
	assert_int_equal(append(x, 1, 9000, 100), ST_OK);
	assert_int_equal(take_at(x, 1, 64, 5000), ST_OK);
	assert_int_equal(take_at(x, 1, 64, 5000), ST_REPLAYED);
	assert_int_equal(take_at(x, 1, 5063, 10), ST_REPLAYED);
	assert_int_equal(take_at(x, 1, 8990, 20), ST_TOO_FEW_KEYS);
	assert_int_equal(take_at(x, 1, 0, 64), ST_OK);
	assert_int_equal(get(x, 1).head, 5064);
	assert_int_equal(take_at(x, 1, 0, 1), ST_REPLAYED);
	assert_int_equal(take_at(x, 1, 20000, 1), ST_TOO_FEW_KEYS);
	void_range(x, 1, 20000, 1000);
	assert_int_equal(take_at(x, 1, 20500, 1), ST_REPLAYED);
	assert_int_equal(get(x, 1).stock, 9000 - 5064);
}

static void voided_ranges_stay_empty(void **state)
{
	struct store *x = *state;

	fill(x, 1, 1000);
	assert_int_equal(void_range(x, 1, 900, 300), 100);
	assert_int_equal(append(x, 1, 1150, 100), ST_KEY_GONE);
	assert_int_equal(append(x, 1, 1200, 100), ST_OK);
	assert_int_equal(void_range(x, 1, 1100, 150), 50);
	assert_int_equal(append(x, 1, 1249, 1), ST_KEY_GONE);
	assert_int_equal(append(x, 1, 1250, 100), ST_OK);
	assert_int_equal(void_range(x, 1, 0, 100), 100);
	assert_int_equal(get(x, 1).head, 100);
	take_ok(x, 1, 1, 2000, 1, 100, 800);
	assert_int_equal(take(x, 1, 1, 2000, 1), ST_TOO_FEW_KEYS);
	assert_int_equal(settle(x, 1, 1350), ST_OK);
	take_ok(x, 1, 1, 2000, 1, 1250, 100);
	assert_int_equal(get(x, 1).voided, 250);
}

static void void_below_moves_head(void **state)
{
	struct store *x = *state;

	fill(x, 1, 20000);
	assert_int_equal(assign(x, 1, 5000, 32, 10, 0), ST_OK);
	assert_int_equal(
	    op_simple(x, (struct op){.kind = OP_VOID_BELOW, .pool = pool_id(1), .offset = 10000}), ST_OK);
	assert_int_equal(get(x, 1).head, 10000);
	assert_int_equal(get(x, 1).stock, 10000);
	assert_int_equal(get(x, 1).voided, 10000 - 320);
	assert_int_equal(take_at(x, 1, 0, 32), ST_REPLAYED);
	assert_int_equal(deliver(x, 1, 5032, "app2"), ST_OK);
	assert_int_equal(deliver(x, 1, 4968, "app2"), ST_KEY_GONE);
	take_ok(x, 1, 1, 50, 1, 10000, 50);
	assert_int_equal(
	    op_simple(x, (struct op){.kind = OP_VOID_BELOW, .pool = pool_id(1), .offset = 30000}), ST_OK);
	assert_int_equal(get(x, 1).stock, 0);
	assert_int_equal(get(x, 1).tail, 30000);
	assert_int_equal(append(x, 1, 29000, 10), ST_KEY_GONE);
	assert_int_equal(append(x, 1, 30000, 10), ST_OK);
}

static void assigned_keys_are_delivered_once(void **state)
{
	struct store *x = *state;

	fill(x, 1, 9000);
	assert_int_equal(assign(x, 1, 64, 32, 100, 0), ST_OK);
	assert_int_equal(assign(x, 1, 64, 32, 100, 0), ST_OK);
	assert_int_equal(assign(x, 1, 96, 32, 10, 0), ST_OK);
	assert_int_equal(assign(x, 1, 80, 32, 10, 0), ST_CONFLICT);
	assert_int_equal(assign(x, 1, 64, 32, 200, 0), ST_CONFLICT);
	assert_int_equal(assign(x, 1, 8990, 32, 2, 0), ST_TOO_FEW_KEYS);
	assert_int_equal(get(x, 1).assigned, 3200);
	assert_int_equal(get(x, 1).stock, 5800);
	assert_int_equal(take_at(x, 1, 100, 32), ST_REPLAYED);
	assert_int_equal(deliver(x, 1, 3232, "app2"), ST_OK);
	assert_int_equal(deliver(x, 1, 3232, "app2"), ST_KEY_GONE);
	assert_int_equal(deliver(x, 1, 96, "mallory"), ST_DENIED);
	assert_int_equal(deliver(x, 1, 97, "app2"), ST_UNKNOWN_KEY_ID);
	assert_int_equal(deliver(x, 1, 5000, "app2"), ST_UNKNOWN_KEY_ID);
	assert_int_equal(deliver(x, 1, 96, "app2"), ST_OK);
	assert_int_equal(get(x, 1).assigned, 3136);
	take_ok(x, 1, 32, 50, 32, 0, 32);
	take_ok(x, 1, 64, 100, 32, 3264, 96); /* over the assigned; the remnant below is voided */
	assert_int_equal(get(x, 1).voided, 32);
	assert_int_equal(deliver(x, 1, 128, "app2"), ST_OK);
}

static void adjacent_assignments_join(void **state)
{
	struct store *x = *state;
	uint32_t n = 5000;

	fill(x, 1, 32 * n);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(assign(x, 1, 32 * i, 32, 1, 0), ST_OK);
	assert_int_equal(get(x, 1).head, 32 * n);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(deliver(x, 1, 32 * (i * 7 % n), "app2"), ST_OK);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(deliver(x, 1, 32 * i, "app2"), ST_KEY_GONE);
	assert_int_equal(get(x, 1).assigned, 0);
}

static void withdrawn_keys_are_gone(void **state)
{
	struct store *x = *state;

	fill(x, 1, 9000);
	assert_int_equal(assign(x, 1, 0, 32, 20, 0), ST_OK);
	assert_int_equal(deliver(x, 1, 32, "app2"), ST_OK);
	assert_int_equal(unassign(x, 1, 0, 64), ST_KEY_GONE);
	assert_int_equal(unassign(x, 1, 64, 64), ST_OK);
	assert_int_equal(unassign(x, 1, 64, 64), ST_OK);
	assert_int_equal(deliver(x, 1, 64, "app2"), ST_KEY_GONE);
	assert_int_equal(deliver(x, 1, 128, "app2"), ST_OK);
	assert_int_equal(unassign(x, 1, 1000, 64), ST_OK); /* before the assignment came */
	assert_int_equal(assign(x, 1, 1000, 32, 2, 0), ST_REPLAYED);
	assert_int_equal(get(x, 1).voided, 128);
	assert_int_equal(get(x, 1).assigned, 20 * 32 - 4 * 32);
}

static void keys_expire(void **state)
{
	struct store *x = *state;
	struct op o = {.kind = OP_EXPIRE, .offset = 50 * NS_PER_S, .count = 10};

	fill(x, 1, 9000);
	assert_int_equal(assign(x, 1, 0, 32, 20, 30 * NS_PER_S), ST_OK);
	assert_int_equal(assign(x, 1, 640, 32, 20, 100 * NS_PER_S), ST_OK);
	assert_int_equal(deliver(x, 1, 32, "app2"), ST_OK);
	assert_int_equal(op_run(x, &o), ST_OK);
	assert_int_equal(o.number, 19 * 32);
	assert_int_equal(op_run(x, &o), ST_OK);
	assert_int_equal(o.number, 0);
	assert_int_equal(deliver(x, 1, 0, "app2"), ST_KEY_GONE);
	assert_int_equal(deliver(x, 1, 640, "app2"), ST_OK);
	assert_int_equal(get(x, 1).assigned, 19 * 32);
}

static void failing_work_leaves_nothing(void **state)
{
	struct store *x = *state;
	struct op o = {
	    .kind = OP_TAKE, .pool = pool_id(1), .min = 32, .max = 700000, .granule = 1, .then_fail = true};
	struct ks_pool before, after;
	uint8_t bytes[100] = {0};

	fill(x, 1, 800000); /* more chunks than the cache holds */
	assert_int_equal(assign(x, 1, 1000, 32, 100, 0), ST_OK);
	before = get(x, 1);
	assert_int_equal(op_run(x, &o), ST_MISMATCH);
	assert_int_equal(o.status, ST_OK);
	secret_free(&o.out);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_DELIVER,
						  .pool = pool_id(1),
						  .offset = 1032,
						  .source = "app1",
						  .destination = "app2",
						  .then_fail = true}),
			 ST_MISMATCH);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_VOID,
						  .pool = pool_id(1),
						  .offset = 0,
						  .len = 900000,
						  .then_fail = true}),
			 ST_MISMATCH);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_APPEND,
						  .pool = pool_id(1),
						  .offset = 800000,
						  .bytes = bytes,
						  .len = 100,
						  .then_fail = true}),
			 ST_MISMATCH);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_CREATE, .pool = pool_id(2), .then_fail = true}),
			 ST_MISMATCH);
	after = get(x, 1);
	assert_same_cursors(&before, &after);
	assert_int_equal(append(x, 2, 0, 1), ST_NOT_FOUND);
	assert_int_equal(append(x, 1, 800000, 100), ST_OK);
	assert_int_equal(deliver(x, 1, 1032, "app2"), ST_OK);
	take_ok(x, 1, 800000 - 4200, 800000, 1, 4200, 800000 - 4200);
}

struct notes {
	char seen[64];
};

static bool note_seen(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	struct notes *n = arg;

	(void)value;
	(void)len;
	strncat(n->seen, key, key_len);
	strcat(n->seen, " ");
	return true;
}

static enum status notes_work(struct ks_txn *t, void *arg)
{
	char room[10];
	size_t len;

	assert_int_equal(ks_note_put(t, "a1", 2, "one", 3), ST_OK);
	assert_int_equal(ks_note_put(t, "a2", 2, "two", 3), ST_OK);
	assert_int_equal(ks_note_put(t, "b1", 2, "three", 5), ST_OK);
	assert_int_equal(ks_note_put(t, "a2", 2, "deux", 4), ST_OK);
	assert_int_equal(ks_note_get(t, "a2", 2, room, sizeof room, &len), ST_OK);
	assert_int_equal(len, 4);
	assert_memory_equal(room, "deux", 4);
	assert_int_equal(ks_note_get(t, "b1", 2, room, 4, &len), ST_BAD_REQUEST);
	assert_int_equal(ks_note_get(t, "c", 1, room, 4, &len), ST_NOT_FOUND);
	assert_int_equal(ks_note_put(t, "", 0, "", 0), ST_BAD_REQUEST);
	assert_int_equal(ks_note_delete(t, "a1", 2), ST_OK);
	assert_int_equal(ks_note_delete(t, "a1", 2), ST_OK);
	assert_int_equal(ks_note_put(t, "a", 1, "", 0), ST_OK);
	ks_note_each(t, "a", 1, note_seen, arg);
	return ST_OK;
}

static void notes_are_kept_in_order(void **state)
{
	struct store *x = *state;
	struct notes n = {""};

	ks_submit(x->ks, notes_work, NULL, &n);
	while (world_step(x->world))
		;
	assert_string_equal(n.seen, "a a2 ");
}

/* What becomes of an early work, in order: w(ork), r(an), d(one). */
struct early {
	char seen[16];
	bool fail;
	struct ks_pool pool;
	uint8_t key[32];
};

static enum status early_work(struct ks_txn *t, void *arg)
{
	struct early *x = arg;
	struct id pool = pool_id(1);
	uint64_t offset;
	size_t len;

	strcat(x->seen, "w");
	if (ks_take_into(t, &pool, 32, 32, 32, &offset, x->key, &len) != ST_OK || len != 32)
		return ST_INTERNAL;
	if (ks_pool_get(t, &pool, &x->pool) != ST_OK)
		return ST_INTERNAL;
	return x->fail ? ST_MISMATCH : ST_OK;
}

static void early_ran(void *arg)
{
	strcat(((struct early *)arg)->seen, "r");
}

static void early_done(enum status s, void *arg)
{
	struct early *x = arg;

	assert_int_equal(s, x->fail ? ST_MISMATCH : ST_OK);
	strcat(x->seen, "d");
}

static void early_works_are_told_before_their_end(void **state)
{
	struct store *x = *state;
	struct early e[3] = {{.fail = false}, {.fail = true}, {.fail = false}};
	uint8_t bytes[32];

	fill(x, 1, 1000);
	for (int i = 0; i < 3; i++)
		ks_submit_early(x->ks, early_work, early_ran, early_done, &e[i]);
	while (world_step(x->world))
		;
	assert_string_equal(e[0].seen, "wrd");
	assert_string_equal(e[1].seen, "wd"); /* one that fails is not told */
	assert_string_equal(e[2].seen, "wrd");
	assert_int_equal(e[0].pool.head, 32);
	assert_int_equal(e[0].pool.durable, 0);
	assert_int_equal(e[2].pool.head, 64);
	assert_int_equal(e[2].pool.durable, 32); /* in line, each work is a commit */
	pattern(bytes, 32, sizeof bytes);
	assert_memory_equal(e[2].key, bytes, sizeof bytes);
}

static void a_closed_store_opens_as_it_was(void **state)
{
	struct store *x = *state;
	struct ks_pool before, after;

	if (x->backend == KS_MEMORY)
		return;
	fill(x, 1, 50000);
	assert_int_equal(assign(x, 1, 10000, 32, 100, 0), ST_OK);
	assert_int_equal(deliver(x, 1, 10032, "app2"), ST_OK);
	take_ok(x, 1, 100, 100, 1, 0, 100);
	before = get(x, 1);
	store_close(x);
	store_open(x);
	after = get(x, 1);
	assert_same_cursors(&before, &after);
	assert_int_equal(deliver(x, 1, 10032, "app2"), ST_KEY_GONE);
	assert_int_equal(deliver(x, 1, 10064, "app2"), ST_OK);
	take_ok(x, 1, 100, 100, 1, 100, 100);
}

static void key_ids_invert(void **state)
{
	struct id a = pool_id(1), b = pool_id(2), key, other, row[5];
	uint64_t offset;
	uint32_t len;

	(void)state;
	ks_key_id(&a, 123456789, 32, &key);
	assert_true(ks_key_id_invert(&a, &key, &offset, &len));
	assert_int_equal(offset, 123456789);
	assert_int_equal(len, 32);
	assert_false(ks_key_id_invert(&b, &key, &offset, &len));
	ks_key_id(&a, 123456789, 64, &other);
	assert_false(id_equal(&key, &other));
	ks_key_ids(&a, 123456789 - 3 * 32, 32, ARRAY_LEN(row), row);
	assert_true(id_equal(&row[3], &key));
	assert_true(ks_key_id_invert(&a, &row[4], &offset, &len));
	assert_int_equal(offset, 123456789 + 32);
	key.bytes[3] ^= 1;
	assert_false(ks_key_id_invert(&a, &key, &offset, &len));
}

/* ---- a disk that cannot tell --------------------------------------------------------------------------- */

static const struct kv_ops *honest;

static enum status commit_and_deny(struct kv *kv)
{
	assert_int_equal(honest->commit(kv), ST_OK);
	return ST_STORAGE;
}

static enum status fail_to_commit(struct kv *kv)
{
	honest->abort(kv);
	return ST_STORAGE;
}

/* A chunk of bytes that are all the same, a key of which, another each time, is delivered in the same work. */
struct chunkful {
	uint8_t byte, key[32];
	enum status end, reported;
};

static enum status append_and_deliver(struct ks_txn *t, void *arg)
{
	struct chunkful *x = arg;
	struct id pool = pool_id(1);
	struct ks_assignment a = {
	    .key_len = 32, .count = CHUNK_BYTES / 32, .source = "app1", .destination = "app2"};
	uint8_t bytes[CHUNK_BYTES];
	enum status s;

	memset(bytes, x->byte, sizeof bytes);
	s = ks_append(t, &pool, 0, bytes, sizeof bytes);
	if (s == ST_OK)
		s = ks_settle(t, &pool, sizeof bytes);
	if (s == ST_OK)
		s = ks_assign(t, &pool, &a);
	if (s == ST_OK)
		s = ks_deliver_into(t, &pool, 32 * x->byte, 32, "app1", "app2", x->key);
	return s == ST_OK ? x->end : s;
}

static void chunkful_done(enum status s, void *arg)
{
	((struct chunkful *)arg)->reported = s;
}

static void chunkful_comes(struct store *x, uint8_t byte, enum status end, enum status reported)
{
	struct chunkful c = {.byte = byte, .end = end, .reported = ST_INTERNAL};

	ks_submit(x->ks, append_and_deliver, chunkful_done, &c);
	while (world_step(x->world))
		;
	assert_int_equal(c.reported, reported);
	for (size_t i = 0; i < sizeof c.key; i++)
		assert_int_equal(c.key[i], byte);
}

/* Keys of a chunk that is taken back are not those of the chunk that comes in its place. */
static void what_was_taken_back_is_not_delivered(void **state)
{
	struct store *x = *state;
	struct kv_ops ops;

	assert_int_equal(create(x, 1), ST_OK);
	chunkful_comes(x, 1, ST_MISMATCH, ST_MISMATCH);
	chunkful_comes(x, 2, ST_MISMATCH, ST_MISMATCH);
	honest = x->ks->kv->ops;
	ops = *honest;
	ops.commit = fail_to_commit;
	x->ks->kv->ops = &ops;
	chunkful_comes(x, 3, ST_OK, ST_STORAGE);
	x->ks->kv->ops = honest;
	chunkful_comes(x, 4, ST_OK, ST_OK);
}

/* A key whose delivery was taken back can be delivered, whole, and once. */
static void a_delivery_that_was_taken_back_comes_again(void **state)
{
	struct store *x = *state;
	struct op o = {.kind = OP_DELIVER,
		       .pool = pool_id(1),
		       .offset = 96,
		       .source = "app1",
		       .destination = "app2",
		       .then_fail = true};

	fill(x, 1, CHUNK_BYTES);
	assert_int_equal(assign(x, 1, 0, 32, CHUNK_BYTES / 32, 0), ST_OK);
	for (int i = 0; i < 3; i++)
		assert_int_equal(op_simple(x, o), ST_MISMATCH);
	assert_int_equal(deliver(x, 1, 64, "app2"), ST_OK);
	assert_int_equal(deliver(x, 1, 96, "app2"), ST_OK);
	assert_int_equal(deliver(x, 1, 96, "app2"), ST_KEY_GONE);
	assert_int_equal(deliver(x, 1, 128, "app2"), ST_OK);
}

/* What a batch did whose commit failed: keys assigned in it are not, keys delivered in it are not gone. */
static void a_failed_commit_has_done_nothing(void **state)
{
	enum { ASSIGNED = 4 * 32, NOT_ASSIGNED = 1024 };
	struct store *x = *state;
	struct kv_ops ops;

	fill(x, 1, CHUNK_BYTES);
	assert_int_equal(assign(x, 1, 0, 32, ASSIGNED / 32, 0), ST_OK);
	honest = x->ks->kv->ops;
	ops = *honest;
	ops.commit = fail_to_commit;
	x->ks->kv->ops = &ops;
	assert_int_equal(deliver(x, 1, 32, "app2"), ST_STORAGE);
	assert_int_equal(assign(x, 1, NOT_ASSIGNED, 32, 4, 0), ST_STORAGE);
	x->ks->kv->ops = honest;
	assert_int_equal(deliver(x, 1, NOT_ASSIGNED, "app2"), ST_UNKNOWN_KEY_ID);
	assert_int_equal(deliver(x, 1, 32, "app2"), ST_OK);
	assert_int_equal(deliver(x, 1, 32, "app2"), ST_KEY_GONE);
	take_ok(x, 1, 1, CHUNK_BYTES, 32, ASSIGNED, CHUNK_BYTES - ASSIGNED);
}

/* ---- damage ------------------------------------------------------------------------------------------- */

static const char noted[] = "noted";

struct damage_work {
	enum status seen, reported;
};

static void damage_done(enum status s, void *arg)
{
	((struct damage_work *)arg)->reported = s;
}

static enum status put_and_damage(struct ks_txn *t, void *arg)
{
	struct kv_slice key = slice_of(noted, sizeof noted), value;
	enum status s = ks_note_put(t, noted, sizeof noted, "value", 5);
	uint8_t sealed[200], *room;

	(void)arg;
	if (s == ST_OK)
		s = kv_get(t->ks->kv, KV_NOTE, key, &value);
	assert_true(s == ST_OK && value.len <= sizeof sealed);
	memcpy(sealed, value.bytes, value.len);
	sealed[value.len - 1] ^= 1;
	s = kv_reserve(t->ks->kv, KV_NOTE, key, value.len, &room);
	if (s == ST_OK)
		memcpy(room, sealed, value.len);
	return s;
}

static enum status take_and_overlook(struct ks_txn *t, void *arg)
{
	struct damage_work *w = arg;
	struct secret key = {NULL, 0};
	struct id pool = pool_id(1);
	char value[8];
	uint64_t at;
	size_t len;
	enum status s = ks_take(t, &pool, 32, 32, 32, &at, &key);

	w->seen = ks_note_get(t, noted, sizeof noted, value, sizeof value, &len);
	secret_free(&key);
	return s;
}

/* ... fails it, and leaves nothing of it. */
static void damage_that_a_work_overlooks(void **state)
{
	struct damage_work w = {ST_INTERNAL, ST_INTERNAL};
	struct store *x = *state;

	fill(x, 1, CHUNK_BYTES);
	ks_submit(x->ks, put_and_damage, damage_done, &w);
	store_step(x);
	assert_int_equal(w.reported, ST_OK);
	ks_submit(x->ks, take_and_overlook, damage_done, &w);
	store_step(x);
	assert_int_equal(w.seen, ST_STORAGE);
	assert_int_equal(w.reported, ST_STORAGE);
	take_ok(x, 1, 32, 32, 32, 0, 32);
}

/* A commit that is reported as failed, and is there: neither answer may be given, so the process ends. */
static void a_commit_that_cannot_be_told_stops(void **state)
{
	struct store *x = *state;
	struct kv_ops ops;
	int status;
	pid_t child;

	fill(x, 1, 100);
	child = fork();
	if (child == 0) {
		honest = x->ks->kv->ops;
		ops = *honest;
		ops.commit = commit_and_deny;
		x->ks->kv->ops = &ops;
		log_open("test_keystore", LOG_LEVEL_FATAL);
		(void)append(x, 1, 100, 100);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

#define BOTH(f)                                                                                              \
	{"lmdb: " #f, f, lmdb_set_up, store_tear_down, NULL},                                                      \
	{                                                                                                    \
		"memory: " #f, f, memory_set_up, store_tear_down, NULL                                             \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(pools_are_made_once),
	    BOTH(appended_bytes_are_taken_in_order),
	    BOTH(same_bytes_again_change_nothing),
	    BOTH(holes_are_skipped),
	    BOTH(take_at_is_the_other_end),
	    BOTH(voided_ranges_stay_empty),
	    BOTH(void_below_moves_head),
	    BOTH(assigned_keys_are_delivered_once),
	    BOTH(adjacent_assignments_join),
	    BOTH(withdrawn_keys_are_gone),
	    BOTH(keys_expire),
	    BOTH(failing_work_leaves_nothing),
	    BOTH(notes_are_kept_in_order),
	    BOTH(early_works_are_told_before_their_end),
	    BOTH(a_closed_store_opens_as_it_was),
	    BOTH(what_was_taken_back_is_not_delivered),
	    BOTH(a_delivery_that_was_taken_back_comes_again),
	    BOTH(a_failed_commit_has_done_nothing),
	    BOTH(damage_that_a_work_overlooks),
	    BOTH(a_commit_that_cannot_be_told_stops),
	    cmocka_unit_test(key_ids_invert),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
