/*
 * fuzz_store.c - the key store over records that are not what it wrote. Sealing is left out (the linker puts
 * the two functions below in its place), so that the readers of pools, chunks, rows, ends, voids and notes meet
 * what only a holder of the data keys could write: it may be refused, or be nonsense, but no more than that.
 *
 * An input is steps of 6 bytes: {what, which, offset or record (2), length or place (2)}; those that put a
 * record are followed by its bytes.
 */
#include <sanitizer/lsan_interface.h>
#include <stdlib.h>
#include <string.h>

#include "env_virtual.h"
#include "internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEAL_HEAD = 18, POOLS = 3, POOL_BYTES = 3 * CHUNK_BYTES, STEP = 6, STEPS_MOST = 64, KEY_LEN = 32, HUGE_FROM = 0xff00 };

/* ---- sealing that does not seal ----------------------------------------------------------------------- */

bool __wrap_seal_open(struct seal *s, enum kv_db db, struct kv_slice place, struct kv_slice sealed, uint8_t *out);
bool __wrap_seal_open(struct seal *s, enum kv_db db, struct kv_slice place, struct kv_slice sealed, uint8_t *out)
{
	(void)s;
	(void)db;
	(void)place;
	if (sealed.len < SEAL_OVERHEAD)
		return false;
	memcpy(out, sealed.bytes + SEAL_HEAD, sealed.len - SEAL_OVERHEAD);
	return true;
}

void __wrap_seal_close(struct seal *s, enum kv_db db, struct kv_slice place, uint16_t hint, const uint8_t *plain,
                       size_t len, uint8_t *out);
void __wrap_seal_close(struct seal *s, enum kv_db db, struct kv_slice place, uint16_t hint, const uint8_t *plain,
                       size_t len, uint8_t *out)
{
	(void)db;
	(void)place;
	memset(out, 0, len + SEAL_OVERHEAD);
	put_be(out, seal_current(s), 4);
	put_be(out + 4, hint, 2);
	memcpy(out + SEAL_HEAD, plain, len);
}

/* ---- the store ------------------------------------------------------------------------------------------ */

enum what {
	APPEND,
	SETTLE,
	READ,
	TAKE,
	TAKE_AT,
	VOID,
	VOID_BELOW,
	ASSIGN,
	DELIVER,
	UNASSIGN,
	EXPIRE,
	LIST,
	RETIRE,
	NOTE,
	PUT_RECORD,   /* under the key of one that is there */
	PUT_ANYWHERE, /* under a key from the input */
	FLIP,
	WHATS
};

struct step {
	enum what what;
	struct id pool;
	uint64_t offset;
	size_t len;
	const uint8_t *bytes; /* behind it */
	size_t left;
	size_t used; /* of those */
	uint8_t which;
	bool anew; /* what is open or in memory is read again */
};

static struct id pool_id(unsigned n)
{
	return (struct id){ { 0xab, (uint8_t)(n % POOLS) } };
}

static bool count_pool(const struct ks_pool *p, void *arg)
{
	(void)p;
	return --*(int *)arg > 0;
}

static bool count_note(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	(void)key;
	(void)key_len;
	(void)value;
	(void)len;
	return --*(int *)arg > 0;
}

static enum status list(struct ks_txn *t)
{
	int most = 100;

	ks_pool_each(t, count_pool, &most);
	ks_note_each(t, "n", 1, count_note, &most);
	return ST_OK;
}

static enum status note(struct ks_txn *t, const struct step *s)
{
	uint8_t room[300];
	size_t len;

	if (s->which & 1)
		return ks_note_put(t, "note", 4, room, (size_t)memset(room, 7, sizeof room) ? s->len % sizeof room : 0);
	return ks_note_get(t, "note", 4, room, sizeof room, &len);
}

/* The n-th key of a database; false: it is empty. */
static bool nth_key(struct ks_txn *t, enum kv_db db, unsigned n, uint8_t *key, size_t *len)
{
	struct kv_slice at = { NULL, 0 }, value;

	*len = 0;
	for (unsigned i = 0; i <= n; i++)
		if (kv_seek(t->ks->kv, db, i == 0 ? KV_AT_OR_AFTER : KV_AFTER, (struct kv_slice){ key, *len }, &at, &value) !=
		    ST_OK)
			break;
		else
			memcpy(key, at.bytes, *len = at.len);
	return at.bytes != NULL;
}

static enum status put(struct ks_txn *t, enum kv_db db, struct kv_slice key, struct step *s)
{
	size_t len = s->len % 512 < s->left ? s->len % 512 : s->left;
	uint8_t *room;

	if (kv_reserve(t->ks->kv, db, key, len + SEAL_OVERHEAD, &room) != ST_OK)
		return ST_STORAGE;
	__wrap_seal_close(t->ks->seal, db, key, (uint16_t)s->offset, s->bytes, len, room);
	s->used = len;
	return ST_OK;
}

static enum status flip(struct ks_txn *t, enum kv_db db, struct kv_slice key, const struct step *s)
{
	struct kv_slice old;
	uint8_t *copy, *room;

	if (kv_get(t->ks->kv, db, key, &old) != ST_OK)
		return ST_NOT_FOUND;
	copy = xcalloc(1, old.len + 1);
	memcpy(copy, old.bytes, old.len);
	copy[s->len % (old.len + 1)] ^= (uint8_t)(1 << (s->offset & 7));
	if (kv_reserve(t->ks->kv, db, key, old.len, &room) == ST_OK)
		memcpy(room, copy, old.len);
	free(copy);
	return ST_OK;
}

static enum status tamper(struct ks_txn *t, struct step *s)
{
	enum kv_db db = s->which % KV_DBS;
	uint8_t key[512];
	size_t len;

	s->anew = true;
	t->wrote = true;
	if (s->what == PUT_ANYWHERE) {
		uint8_t from_input[24];

		len = s->offset % sizeof from_input < s->left ? s->offset % sizeof from_input : s->left;
		memcpy(from_input, s->bytes, len);
		return len > 0 ? put(t, db, (struct kv_slice){ from_input, len }, s) : ST_OK;
	}
	if (!nth_key(t, db, (unsigned)(s->offset >> 3) % 8, key, &len))
		return ST_OK;
	return s->what == FLIP ? flip(t, db, (struct kv_slice){ key, len }, s) : put(t, db, (struct kv_slice){ key, len }, s);
}

static enum status run_step(struct ks_txn *t, struct step *s)
{
	static const uint8_t bytes[UINT16_MAX + 1];
	struct ks_assignment a = { .offset = s->offset, .key_len = KEY_LEN, .count = (uint32_t)s->len % 300,
		                   .source = "app1", .destination = "app2", .expires = s->which & 1 ? 1000 : 0 };
	struct secret out = { NULL, 0 };
	enum status status = ST_OK;
	uint64_t number;

	switch (s->what) {
	case APPEND:
		status = ks_append(t, &s->pool, s->offset, bytes, s->len);
		break;
	case SETTLE:
		status = ks_settle(t, &s->pool, s->offset);
		break;
	case READ:
		status = ks_read(t, &s->pool, s->offset, s->len, &out);
		break;
	case TAKE:
		status = ks_take(t, &s->pool, 1, s->len + 1, 1 + s->which % 64, &number, &out);
		break;
	case TAKE_AT:
		status = ks_take_at(t, &s->pool, s->offset, s->len, &out);
		break;
	case VOID:
		status = ks_void(t, &s->pool, s->offset, s->len, &number);
		break;
	case VOID_BELOW:
		status = ks_void_below(t, &s->pool, s->offset);
		break;
	case ASSIGN:
		status = ks_assign(t, &s->pool, &a);
		break;
	case DELIVER:
		status = ks_deliver(t, &s->pool, s->offset, "app1", "app2", &out);
		break;
	case UNASSIGN:
		status = ks_unassign(t, &s->pool, s->offset, s->len);
		break;
	case EXPIRE:
		status = ks_expire(t, s->offset, 100, &number);
		break;
	case LIST:
		status = list(t);
		break;
	case RETIRE:
		status = ks_pool_retire(t, &s->pool);
		break;
	case NOTE:
		status = note(t, s);
		break;
	case PUT_RECORD:
	case PUT_ANYWHERE:
	case FLIP:
		status = tamper(t, s);
		break;
	case WHATS:
		break;
	}
	secret_free(&out);
	return status;
}

static enum status work(struct ks_txn *t, void *arg)
{
	return run_step(t, arg);
}

static enum status fill_work(struct ks_txn *t, void *arg)
{
	static uint8_t bytes[POOL_BYTES];

	(void)arg;
	for (unsigned i = 0; i < POOLS; i++) {
		struct id id = pool_id(i);
		struct ks_pool_desc d = { .id = id, .kind = KS_POOL_KSA, .source = "alice", .destination = "bob" };
		struct ks_assignment a = { .offset = 1000, .key_len = KEY_LEN, .count = 200, .source = "app1",
			                   .destination = "app2", .expires = 500 };

		if (ks_pool_create(t, &d) != ST_OK || ks_append(t, &id, 0, bytes, POOL_BYTES) != ST_OK ||
		    ks_settle(t, &id, POOL_BYTES - 2000) != ST_OK || ks_assign(t, &id, &a) != ST_OK ||
		    ks_void(t, &id, POOL_BYTES + 100, 100, NULL) != ST_OK || ks_note_put(t, "note", 4, "text", 4) != ST_OK)
			abort();
	}
	return ST_OK;
}

static void done(enum status s, void *arg)
{
	(void)s;
	(void)arg;
}

static size_t one_step(struct ks *ks, const uint8_t *data, size_t size)
{
	uint16_t offset = (uint16_t)get_be(data + 2, 2);
	struct step s = { .what = data[0] % WHATS, .which = data[1], .pool = pool_id(data[1]), .offset = offset,
		          .len = (size_t)get_be(data + 4, 2), .bytes = data + STEP, .left = size - STEP };

	if (offset >= HUGE_FROM) /* ends and beginnings of what a number can be */
		s.offset = ((uint64_t)offset << 48) - s.len;
	ks_submit(ks, work, done, &s);
	if (s.anew) {
		chunks_drop_all(ks);
		rows_drop_all(ks);
		ks->attempted = UINT64_MAX; /* as if no commit were in doubt */
		ks->reload = true;
	}
	return STEP + s.used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;
	struct world *world = world_new(1);
	struct ks_options o = { .backend = KS_MEMORY, .env = env_virtual_new(world), .inline_writer = true, .hot_chunks = 2 };
	struct ks *ks;
	struct err e;

	if (!ready) {
		log_open("fuzz_store", LOG_LEVEL_FATAL);
		if (secret_init(1024 * 1024, &e) != ST_OK) { /* slower then */
		}
		ready = true;
	}
	if (ks_open(&ks, &o, &e) != ST_OK)
		abort();
	ks->directory = xstrdup("memory");
	ks_submit(ks, fill_work, done, NULL);
	for (int i = 0; i < STEPS_MOST && size >= STEP; i++) {
		size_t used = one_step(ks, data, size);

		data += used;
		size -= used;
	}
	ks_rotate_data_key(ks, NULL, NULL); /* walks over all there is, the sweep before it */
	ks_close(ks);
	while (world_step(world))
		;
	env_virtual_free(o.env);
	world_free(world);
	return 0;
}
