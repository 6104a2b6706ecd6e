/*
 * test_keystore_model.c - random works against a model that keeps every byte's state in an array.
 *
 * Each work is a few operations, some of which must be refused, and fails as a whole now and then, alone in
 * its commit or between others; the store is closed and opened again between. Statuses, bytes and counters must be the model's. The seed
 * is printed on a failure; QKDN_SEED and QKDN_STEPS repeat and prolong it.
 */
#include <semaphore.h>

#include "keystore_fixture.h"

enum { SPACE = 30000, PAIRS = 2 };

enum state { EMPTY, PRESENT, WAITING, DELIVERED, VOIDED_KEY, FORBIDDEN };

struct model {
	uint8_t state[SPACE], bytes[SPACE], pair[SPACE];
	uint16_t key_len[SPACE], key_at[SPACE]; /* of the key that a byte belongs to, in a row */
	uint64_t expires[SPACE];
	uint64_t head, ready, tail, voided;
};

static const char *const apps[PAIRS] = {"app1", "app2"};

static bool in_row(const struct model *m, uint64_t i)
{
	return m->state[i] == WAITING || m->state[i] == DELIVERED || m->state[i] == VOIDED_KEY;
}

static uint64_t count(const struct model *m, uint64_t lo, uint64_t hi, enum state state)
{
	uint64_t n = 0;

	for (uint64_t i = lo; i < hi; i++)
		n += m->state[i] == state;
	return n;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static enum status model_append(struct model *m, const struct op *o)
{
	uint64_t end = o->offset + o->len;

	if (o->offset < m->head)
		return ST_KEY_GONE;
	for (uint64_t i = o->offset; i < least(end, m->ready); i++)
		if (m->state[i] == DELIVERED || m->state[i] == VOIDED_KEY)
			return ST_KEY_GONE;
	for (uint64_t i = most(o->offset, m->ready); i < end; i++)
		if (m->state[i] == FORBIDDEN)
			return ST_KEY_GONE;
	for (uint64_t i = o->offset; i < end; i++) {
		bool there = m->state[i] == PRESENT || m->state[i] == WAITING;

		if (!there && i < m->ready)
			return ST_KEY_GONE;
		if (there && m->bytes[i] != o->bytes[i - o->offset])
			return ST_CONFLICT;
	}
	for (uint64_t i = o->offset; i < end; i++) {
		m->bytes[i] = o->bytes[i - o->offset];
		if (m->state[i] == EMPTY)
			m->state[i] = PRESENT;
	}
	m->tail = most(m->tail, end);
	return ST_OK;
}

static enum status model_settle(struct model *m, uint64_t ready)
{
	if (ready < m->ready)
		return ST_CONFLICT;
	m->ready = ready;
	m->tail = most(m->tail, ready);
	return ST_OK;
}

static enum status model_whole(const struct model *m, uint64_t offset, uint64_t len)
{
	return count(m, offset, offset + len, PRESENT) == len ? ST_OK : ST_KEY_GONE;
}

static enum status model_read(const struct model *m, const struct op *o)
{
	if (o->offset < m->head || o->offset + o->len > m->tail)
		return ST_KEY_GONE;
	return model_whole(m, o->offset, o->len);
}

static void cut(struct model *m, uint64_t lo, uint64_t hi, bool voided)
{
	for (uint64_t i = lo; i < hi; i++)
		if (m->state[i] == PRESENT) {
			m->state[i] = EMPTY;
			m->voided += voided;
		}
}

static enum status model_take(struct model *m, struct op *o, uint64_t *len)
{
	uint64_t min = (o->min + o->granule - 1) / o->granule * o->granule,
		 max = o->max / o->granule * o->granule;

	if (min > max)
		return ST_BAD_REQUEST;
	for (uint64_t pos = m->head; pos < m->ready;) {
		uint64_t end, start;

		if (m->state[pos] != PRESENT) {
			pos++;
			continue;
		}
		for (end = pos;
		     end < m->ready && m->state[end] == PRESENT && end - pos < max + o->granule - 1;)
			end++;
		start = (pos + o->granule - 1) / o->granule * o->granule;
		*len = end > start ? least((end - start) / o->granule * o->granule, max) : 0;
		if (*len >= min) {
			cut(m, m->head, start, true);
			cut(m, start, start + *len, false);
			m->head = start + *len;
			o->number = start;
			return ST_OK;
		}
		pos = end;
	}
	return ST_TOO_FEW_KEYS;
}

static void advance(struct model *m, uint64_t offset, uint64_t len)
{
	if (m->head < offset || m->head >= offset + len)
		return;
	for (m->head = offset + len;
	     m->head < m->ready && (m->state[m->head] == EMPTY || m->state[m->head] == FORBIDDEN);)
		m->head++;
}

static enum status model_takeable(const struct model *m, uint64_t offset, uint64_t len)
{
	uint64_t below = least(offset + len, m->ready);

	if (offset < m->head)
		return ST_REPLAYED;
	if (offset < below && model_whole(m, offset, below - offset) != ST_OK)
		return ST_REPLAYED;
	for (uint64_t i = most(offset, m->ready); i < offset + len; i++)
		if (m->state[i] == FORBIDDEN)
			return ST_REPLAYED;
	return offset + len > m->ready ? ST_TOO_FEW_KEYS : ST_OK;
}

static enum status model_take_at(struct model *m, const struct op *o)
{
	enum status s = model_takeable(m, o->offset, o->len);

	if (s != ST_OK)
		return s;
	cut(m, o->offset, o->offset + o->len, false);
	advance(m, o->offset, o->len);
	return ST_OK;
}

static void void_keys(struct model *m, uint64_t lo, uint64_t hi)
{
	for (uint64_t i = lo; i < hi; i++) {
		if (m->state[i] != WAITING)
			continue;
		for (uint64_t k = m->key_at[i], end = k + m->key_len[i]; k < end; k++) {
			m->state[k] = VOIDED_KEY;
			m->voided++;
		}
	}
}

static enum status model_void(struct model *m, uint64_t lo, uint64_t hi)
{
	void_keys(m, lo, hi);
	cut(m, most(lo, m->head), hi, true);
	for (uint64_t i = most(lo, m->ready); i < hi; i++)
		m->state[i] = FORBIDDEN;
	if (lo <= m->head && m->head < hi)
		m->head = least(hi, m->ready);
	return ST_OK;
}

static enum status model_void_below(struct model *m, uint64_t offset)
{
	if (offset <= m->head)
		return ST_OK;
	cut(m, m->head, offset, true);
	m->head = offset;
	m->ready = most(m->ready, offset);
	m->tail = most(m->tail, offset);
	return ST_OK;
}

static enum status model_assign(struct model *m, const struct op *o, uint8_t pair)
{
	uint64_t len = (uint64_t)o->key_len * o->count, end = o->offset + len;
	uint64_t rows = 0, same = 0;
	enum status s;

	for (uint64_t i = o->offset; i < end; i++) {
		rows += in_row(m, i);
		same += in_row(m, i) && m->pair[i] == pair && m->key_len[i] == o->key_len &&
			m->key_at[i] == o->offset + (i - o->offset) / o->key_len * o->key_len;
	}
	if (rows > 0)
		return same == len ? ST_OK : ST_CONFLICT;
	s = model_takeable(m, o->offset, len);
	if (s != ST_OK)
		return s;
	for (uint64_t i = o->offset; i < end; i++) {
		m->state[i] = WAITING;
		m->pair[i] = pair;
		m->key_len[i] = (uint16_t)o->key_len;
		m->key_at[i] = (uint16_t)(o->offset + (i - o->offset) / o->key_len * o->key_len);
		m->expires[i] = o->expires == 0 ? UINT64_MAX - 1 : o->expires >> 30; /* steps of the store */
	}
	advance(m, o->offset, len);
	return ST_OK;
}

static enum status model_deliver(struct model *m, const struct op *o, uint8_t pair, uint64_t *len)
{
	uint64_t i = o->offset;

	if (!in_row(m, i)) {
		if (i >= m->ready)
			return ST_UNKNOWN_KEY_ID;
		return i < m->head || m->state[i] != PRESENT ? ST_KEY_GONE : ST_UNKNOWN_KEY_ID;
	}
	if (m->key_at[i] != i)
		return ST_UNKNOWN_KEY_ID;
	if (m->pair[i] != pair)
		return ST_DENIED;
	if (m->state[i] != WAITING)
		return ST_KEY_GONE;
	*len = m->key_len[i];
	memset(m->state + i, DELIVERED, *len);
	return ST_OK;
}

static enum status model_unassign(struct model *m, const struct op *o)
{
	if (count(m, o->offset, o->offset + o->len, DELIVERED) > 0)
		return ST_KEY_GONE;
	return model_void(m, o->offset, o->offset + o->len);
}

static enum status model_expire(struct model *m, uint64_t now)
{
	for (uint64_t i = 0; i < SPACE; i++) {
		if (!in_row(m, i) || m->expires[i] + 1 > now >> 30)
			continue;
		m->voided += m->state[i] == WAITING;
		m->state[i] = EMPTY;
	}
	return ST_OK;
}

/* ---- the dice -------------------------------------------------------------------------------------- */

struct run {
	struct store *x;
	struct model m;
	uint64_t dice;
	uint8_t bytes[SPACE];
	uint64_t takes, delivers, fails;
};

static uint64_t roll(struct run *r, uint64_t n)
{
	return world_random(r->x->world) % n;
}

/* Mostly near where something happens. */
static uint64_t roll_offset(struct run *r)
{
	uint64_t marks[] = {r->m.head, r->m.ready, r->m.tail, 0};
	uint64_t at = marks[roll(r, 4)] + roll(r, 2000);

	if (roll(r, 2))
		at = at / 32 * 32;
	return roll(r, 8) == 0 ? roll(r, SPACE - 5000) : least(at, SPACE - 5001);
}

static struct op roll_op(struct run *r)
{
	static const uint32_t lens[] = {16, 32, 32, 64, 7};
	struct op o = {
	    .pool = pool_id(1), .offset = roll_offset(r), .len = 1 + roll(r, roll(r, 3) ? 300 : 10000)};
	uint64_t pick = roll(r, 100);
	uint8_t twist = roll(r, 20) == 0 ? 0xff : 0;

	o.kind = pick < 25   ? OP_APPEND
		 : pick < 37 ? OP_SETTLE
		 : pick < 42 ? OP_READ
		 : pick < 50 ? OP_TAKE
		 : pick < 58 ? OP_TAKE_AT
		 : pick < 61 ? OP_VOID
		 : pick < 62 ? OP_VOID_BELOW
		 : pick < 74 ? OP_ASSIGN
		 : pick < 95 ? OP_DELIVER
		 : pick < 98 ? OP_UNASSIGN
			     : OP_EXPIRE;
	if (o.kind == OP_APPEND && roll(r, 2))
		o.offset = r->m.tail;
	if (o.offset + o.len > SPACE)
		o.len = SPACE - least(o.offset, SPACE - 1);
	if (o.offset >= SPACE)
		o.offset = SPACE - o.len;
	for (uint64_t i = 0; i < o.len; i++) {
		pattern(&r->bytes[i], o.offset + i, 1);
		r->bytes[i] ^= twist;
	}
	o.bytes = r->bytes;
	if (o.kind == OP_SETTLE)
		o.offset = roll(r, 10) ? least(r->m.ready + roll(r, 2000), SPACE) : o.offset;
	o.granule = lens[roll(r, 5)];
	o.min = 1 + roll(r, 200);
	o.max = o.min + roll(r, 10000);
	o.key_len = lens[roll(r, 5)];
	o.count = 1 + (uint32_t)roll(r, 40);
	if (o.kind == OP_ASSIGN && roll(r, 2))
		o.offset = r->m.head;
	if (o.kind == OP_ASSIGN || o.kind == OP_DELIVER)
		o.offset = least(o.offset, SPACE - 64);
	while (o.offset + (uint64_t)o.key_len * o.count > SPACE && o.count > 1)
		o.count--;
	o.expires = roll(r, 3) ? 0 : world_now(r->x->world) + roll(r, 5) * NS_PER_S * 10 + 1;
	o.source = "source";
	o.destination = apps[roll(r, 20) == 0];
	for (uint64_t i = 0; o.kind == OP_DELIVER && i < SPACE && roll(r, 1000); i++)
		if (r->m.state[(o.offset + i) % SPACE] == WAITING) {
			o.offset = r->m.key_at[(o.offset + i) % SPACE];
			break;
		}
	if (o.kind == OP_EXPIRE) {
		o.offset = world_now(r->x->world);
		o.count = 10000;
	}
	return o;
}

/* ---- one work of several operations ---------------------------------------------------------------- */

enum { OPS_MAX = 5 };

struct work {
	struct run *r;
	struct op ops[OPS_MAX];
	int count;
	bool fail, done;
	enum status reported;
};

static enum status model_op(struct run *r, struct op *o, uint64_t *len)
{
	struct model *m = &r->m;
	uint8_t pair = o->destination == apps[1];

	*len = o->len;
	switch (o->kind) {
	case OP_APPEND:
		return model_append(m, o);
	case OP_SETTLE:
		return model_settle(m, o->offset);
	case OP_READ:
		return model_read(m, o);
	case OP_TAKE:
		return model_take(m, o, len);
	case OP_TAKE_AT:
		return model_take_at(m, o);
	case OP_VOID:
		return model_void(m, o->offset, o->offset + o->len);
	case OP_VOID_BELOW:
		return model_void_below(m, o->offset);
	case OP_ASSIGN:
		return model_assign(m, o, pair);
	case OP_DELIVER:
		return model_deliver(m, o, pair, len);
	case OP_UNASSIGN:
		return model_unassign(m, o);
	case OP_EXPIRE:
		return model_expire(m, o->offset);
	default:
		return ST_INTERNAL;
	}
}

static void check_counters(struct run *r, const struct ks_pool *p)
{
	struct model *m = &r->m;

	assert_int_equal(p->head, m->head);
	assert_int_equal(p->ready, m->ready);
	assert_int_equal(p->tail, m->tail);
	assert_int_equal(p->voided, m->voided);
	assert_int_equal(p->stock, count(m, m->head, m->ready, PRESENT));
	assert_int_equal(p->unready, count(m, m->ready, SPACE, PRESENT));
	assert_int_equal(p->assigned, count(m, 0, SPACE, WAITING));
}

static enum status random_work(struct ks_txn *t, void *arg)
{
	struct work *w = arg;
	struct run *r = w->r;

	for (int i = 0; i < w->count; i++) {
		struct op o = roll_op(r), expected = o;
		uint64_t len;
		uint8_t before[SPACE];
		struct ks_pool p;

		assert_int_equal(ks_pool_get(t, &o.pool, &p), ST_OK);
		check_counters(r, &p);
		memcpy(before, r->m.bytes, sizeof before);
		expected.status = model_op(r, &expected, &len);
		o.status = op_call(t, &o);
		if (getenv("QKDN_TELL") != NULL)
			print_error("operation %d at %llu, length %llu: %s\n", o.kind,
				    (unsigned long long)o.offset, (unsigned long long)o.len,
				    status_name(o.status));
		assert_int_equal(o.status, expected.status);
		if (o.kind == OP_TAKE && o.status == ST_OK)
			assert_int_equal(o.number, expected.number);
		if (o.out.len > 0) {
			assert_int_equal(o.status, ST_OK);
			assert_int_equal(o.out.len, len);
			assert_memory_equal(o.out.bytes, before + (o.kind == OP_TAKE ? o.number : o.offset),
					    len);
			secret_free(&o.out);
		}
		r->takes += o.status == ST_OK && (o.kind == OP_TAKE || o.kind == OP_TAKE_AT);
		r->delivers += o.status == ST_OK && o.kind == OP_DELIVER;
		assert_int_equal(ks_pool_get(t, &o.pool, &p), ST_OK);
		check_counters(r, &p);
	}
	return w->fail ? ST_MISMATCH : ST_OK;
}

static void work_done(enum status s, void *arg)
{
	struct work *w = arg;

	w->reported = s;
	w->done = true;
}

/* Something to take and deliver. */
static void begin(struct run *r)
{
	struct op o = {.kind = OP_APPEND, .pool = pool_id(1), .bytes = r->bytes, .len = 20000};

	pattern(r->bytes, 0, o.len);
	assert_int_equal(model_append(&r->m, &o), op_run(r->x, &o));
	o = (struct op){.kind = OP_SETTLE, .pool = pool_id(1), .offset = 15000};
	assert_int_equal(model_settle(&r->m, o.offset), op_run(r->x, &o));
}

/* ---- works that share a commit ----------------------------------------------------------------------- */

static enum status wait_work(struct ks_txn *t, void *arg)
{
	(void)t;
	sem_wait(arg);
	return ST_OK;
}

static enum status note_work(struct ks_txn *t, void *arg)
{
	return ks_note_put(t, "beside", 6, arg, 1);
}

/* Alone, a work that fails is undone with its whole transaction; between two that succeed, by its notes. */
static void submit_between(struct store *x, ks_work work, ks_done done, void *arg)
{
	static uint8_t note;
	sem_t all_submitted;

	sem_init(&all_submitted, 0, 0);
	ks_submit(x->ks, wait_work, NULL, &all_submitted);
	ks_submit(x->ks, note_work, NULL, &note);
	ks_submit(x->ks, work, done, arg);
	sem_post(&all_submitted);
	while (!((struct work *)arg)->done)
		store_step(x);
	sem_destroy(&all_submitted);
}

static void random_works(enum ks_backend backend, bool shared, uint64_t seed, int steps)
{
	struct store x;
	struct run *r = xcalloc(1, sizeof *r);
	struct model *saved = xcalloc(1, sizeof *saved);

	store_make(&x, backend);
	store_close(&x);
	x.hot_chunks = 3; /* so that chunks leave the cache in the middle of works */
	env_virtual_free(x.env);
	world_free(x.world);
	x.world = world_new(seed);
	x.threaded = shared;
	x.env = shared ? env_event_new() : env_virtual_new(x.world);
	r->x = &x;
	print_message("seed %llu\n", (unsigned long long)seed);
	for (int i = 0; i < steps; i++) {
		struct work w = {.r = r, .count = 1 + (int)roll(r, OPS_MAX), .fail = roll(r, 6) == 0};

		if (i % 100 == 0 && (i == 0 || backend == KS_LMDB)) {
			if (x.ks != NULL)
				store_close(&x);
			store_open(&x);
		}
		if (i % 250 == 0 ||
		    r->m.head > SPACE - 6000) { /* start over with a new pool: the number stays */
			if (i > 0) {
				store_close(&x);
				remove_folder(x.store);
				unlink(x.generation);
				store_open(&x);
			}
			memset(&r->m, 0, sizeof r->m);
			assert_int_equal(create(&x, 1), ST_OK);
			begin(r);
		}
		*saved = r->m;
		world_run(x.world, roll(r, NS_PER_S));
		if (shared)
			submit_between(&x, random_work, work_done, &w);
		else
			ks_submit(x.ks, random_work, work_done, &w);
		while (!w.done)
			store_step(&x);
		assert_int_equal(w.reported, w.fail ? ST_MISMATCH : ST_OK);
		if (getenv("QKDN_TELL") != NULL)
			print_error("%s\n", w.fail ? "undone" : "done");
		if (w.fail)
			r->m = *saved;
		if (roll(r, 300) == 0)
			ks_rotate_data_key(x.ks, NULL, NULL);
	}
	print_message("%llu takes, %llu deliveries\n", (unsigned long long)r->takes,
		      (unsigned long long)r->delivers);
	assert_true(r->takes > (uint64_t)steps / 100 && r->delivers > (uint64_t)steps / 100);
	store_unmake(&x);
	free(saved);
	free(r);
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
	const char *v = getenv(name);

	return v != NULL ? strtoull(v, NULL, 0) : otherwise;
}

static void random_works_in_memory(void **state)
{
	(void)state;
	for (uint64_t seed = from_environment("QKDN_SEED", 1), n = 0; n < 3; n++)
		random_works(KS_MEMORY, false, seed + n, (int)from_environment("QKDN_STEPS", 3000));
}

static void random_works_in_lmdb(void **state)
{
	(void)state;
	random_works(KS_LMDB, false, from_environment("QKDN_SEED", 1), (int)from_environment("QKDN_STEPS", 1000));
}

static void random_works_in_shared_commits(void **state)
{
	(void)state;
	random_works(KS_LMDB, true, from_environment("QKDN_SEED", 1), (int)from_environment("QKDN_STEPS", 1000));
}

static enum status held_work(struct ks_txn *t, void *arg)
{
	(void)arg;
	return ks_note_put(t, "held", 4, "x", 1);
}

static void held_done(enum status s, void *arg)
{
	assert_int_equal(s, ST_OK);
	++*(unsigned *)arg;
}

/* None is begun before the last hold is over, however long that takes, and then all are. */
static void held_works_share_a_commit(void **state)
{
	struct store x;
	struct ks_stats before, held, after;
	unsigned done = 0;

	(void)state;
	store_make(&x, KS_MEMORY);
	store_close(&x);
	env_virtual_free(x.env);
	x.threaded = true;
	x.env = env_event_new();
	store_open(&x);
	ks_stats(x.ks, &before);
	ks_hold(x.ks);
	ks_hold(x.ks);
	for (int i = 0; i < 3; i++) {
		ks_submit(x.ks, held_work, held_done, &done);
		usleep(3000);
	}
	ks_release(x.ks);
	usleep(3000);
	ks_stats(x.ks, &held);
	assert_int_equal(held.works, before.works);
	ks_release(x.ks);
	while (done < 3)
		store_step(&x);
	ks_stats(x.ks, &after);
	assert_int_equal(after.works, before.works + 3);
	assert_int_equal(after.commits, before.commits + 1);
	store_unmake(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(random_works_in_memory),
	    cmocka_unit_test(random_works_in_lmdb),
	    cmocka_unit_test(random_works_in_shared_commits),
	    cmocka_unit_test(held_works_share_a_commit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
