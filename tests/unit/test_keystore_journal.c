/*
 * test_keystore_journal.c - the journal beside the database: writes that are cut short, fail or are lost
 * with the power, bits that flip, and files of different moments put together. The store opens as the last
 * commit that was reported left it, or as one that was on its way; or it is refused.
 *
 * The store is used in this process, by one operation at a time, and its files are copied between two of
 * them or made up from the writes that were seen: what a kill or a power cut would have left.
 */
#include "keystore_fixture.h"

#include <errno.h>
#include <lmdb.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "bytes.h"
#include "keyring.h"

enum { BLOCK = 4096, UNIT = 512, TAG = 16, TAKE = 100, FILLED = 40000, SMALL = 4 << 20 };

/* ---- seeing writes ----------------------------------------------------------------------------------- */

enum file { DATA, JOURNAL, FILES, OTHER = FILES };

static const char *const names[FILES] = {"data.mdb", "journal"};

struct event {
	enum { WROTE, SYNCED, REPORTED } kind;
	enum file file;
	off_t at;
	size_t len;
	uint8_t *bytes;
	bool durable;        /* at once */
	struct ks_pool pool; /* as reported */
};

static struct event *events;
static size_t event_count;
static bool recording;
static struct {
	int how_many; /* writes to it fail */
	int why;
	bool after; /* but reach the file */
} failing[FILES];

static enum file file_of(int fd)
{
	char link[64], path[512];
	ssize_t n;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof path - 1);
	path[n > 0 ? n : 0] = '\0';
	for (int i = 0; i < FILES; i++)
		if (n > 0 && strcmp(strrchr(path, '/') + 1, names[i]) == 0)
			return (enum file)i;
	return OTHER;
}

static struct event *add_event(int kind)
{
	if ((event_count & (event_count - 1)) == 0)
		events = xrealloc(events, (event_count ? 2 * event_count : 1) * sizeof *events);
	memset(&events[event_count], 0, sizeof *events);
	events[event_count].kind = kind;
	return &events[event_count++];
}

static void forget_events(void)
{
	for (size_t i = 0; i < event_count; i++)
		free(events[i].bytes);
	free(events);
	events = NULL;
	event_count = 0;
}

static void wrote(enum file file, int fd, const void *p, size_t len, off_t at)
{
	struct event *v;

	if (!recording || file == OTHER)
		return;
	v = add_event(WROTE);
	v->file = file;
	v->at = at;
	v->len = len;
	v->bytes = xcalloc(1, len);
	memcpy(v->bytes, p, len);
	v->durable = (fcntl(fd, F_GETFL) & O_DSYNC) != 0;
}

static bool fails(enum file file)
{
	if (file == OTHER || failing[file].how_many == 0)
		return false;
	failing[file].how_many--;
	errno = failing[file].why;
	return true;
}

ssize_t pwrite(int fd, const void *p, size_t len, off_t at)
{
	enum file file = file_of(fd);

	if (file != OTHER && failing[file].how_many > 0 && failing[file].after)
		syscall(SYS_pwrite64, fd, p, len, at);
	if (fails(file))
		return -1;
	wrote(file, fd, p, len, at);
	return syscall(SYS_pwrite64, fd, p, len, at);
}

ssize_t writev(int fd, const struct iovec *v, int count)
{
	enum file file = file_of(fd);
	off_t at = lseek(fd, 0, SEEK_CUR);

	if (fails(file))
		return -1;
	for (int i = 0; i < count && file != OTHER; i++) {
		wrote(file, fd, v[i].iov_base, v[i].iov_len, at);
		at += (off_t)v[i].iov_len;
	}
	return syscall(SYS_writev, fd, v, count);
}

int fdatasync(int fd)
{
	enum file file = file_of(fd);

	if (fails(file))
		return -1;
	if (recording && file != OTHER)
		add_event(SYNCED)->file = file;
	return (int)syscall(SYS_fdatasync, fd);
}

/* ---- stores and copies of them ----------------------------------------------------------------------- */

static int set_up(void **state)
{
	struct store *x = xcalloc(1, sizeof *x);

	store_make_of(x, KS_LMDB, SMALL);
	fill(x, 1, FILLED);
	store_close(x);
	store_open(x); /* all in data.mdb, and the journal begins again */
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	memset(failing, 0, sizeof failing);
	recording = false;
	forget_events();
	return store_tear_down(state);
}

static enum status take(struct store *x, size_t len)
{
	struct op o = {.kind = OP_TAKE, .pool = pool_id(1), .min = len, .max = len, .granule = 1};
	enum status s = op_run(x, &o);

	if (s == ST_OK)
		assert_true(is_pattern(&o.out, o.number));
	secret_free(&o.out);
	return s;
}

static void take_some(struct store *x, int times)
{
	for (int i = 0; i < times; i++)
		assert_int_equal(take(x, TAKE), ST_OK);
}

static char *read_whole(const char *folder, const char *name, size_t *len)
{
	char *path = xasprintf("%s/%s", folder, name), *bytes = whole_file(path, len);

	free(path);
	return bytes;
}

static void write_whole(const char *folder, const char *name, const char *bytes, size_t len)
{
	char *path = xasprintf("%s/%s", folder, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0 && file_write_all(fd, bytes, len));
	close(fd);
	free(path);
}

static void drop(struct store *c)
{
	if (c->ks != NULL)
		store_close(c);
	remove_folder(c->dir);
}

/* What a kill now would leave: how far pool 1 is taken. */
static uint64_t head_after_a_kill(const struct store *x)
{
	struct store c = copy_of(x);
	uint64_t head;

	store_open(&c);
	head = get(&c, 1).head;
	assert_int_equal(take(&c, TAKE), ST_OK); /* what is there is right, and can be used */
	store_close(&c);
	store_open(&c);
	assert_int_equal(get(&c, 1).head, head + TAKE);
	drop(&c);
	return head;
}

/* ---- kills ------------------------------------------------------------------------------------------- */

static void a_kill_loses_nothing(void **state)
{
	struct store *x = *state;

	for (int i = 0; i < 60; i++) { /* several times around a journal of 15 blocks */
		take_some(x, 1);
		assert_int_equal(head_after_a_kill(x), (i + 1) * TAKE);
		if (i % 7 == 6) /* too much for it */
			assert_int_equal(append(x, 1, FILLED + (uint64_t)i / 7 * 70000, 70000), ST_OK);
	}
}

/* What changes more than a record keeps goes into data.mdb, together with what the journal has so far. */
static void big_commits_lose_nothing(void **state)
{
	struct store x, c;

	(void)state;
	store_make_of(&x, KS_LMDB, 1 << 26);
	fill(&x, 1, FILLED);
	store_close(&x);
	store_open(&x);
	for (int i = 1; i <= 3; i++) {
		take_some(&x, 1);
		assert_int_equal(append(&x, 1, get(&x, 1).tail, 200000), ST_OK);
		assert_int_equal(head_after_a_kill(&x), i * TAKE);
		c = copy_of(&x);
		store_open(&c);
		assert_int_equal(get(&c, 1).tail, FILLED + i * 200000);
		drop(&c);
	}
	assert_int_equal(settle(&x, 1, FILLED + 600000), ST_OK);
	assert_int_equal(take(&x, FILLED + 600000 - 3 * TAKE), ST_OK);
	store_unmake(&x);
}

static uint64_t tag_at(const char *journal, size_t unit)
{
	return get_be((const uint8_t *)journal + unit * UNIT + UNIT - TAG, 8);
}

/* The writing of a record is cut short: some of its units are those of before. Nobody was told of it. */
static void records_that_are_cut_short_are_forgotten(void **state)
{
	struct store *x = *state, c;
	size_t len, units[64], count = 0, there;
	char *before, *after, *cut;
	int whole = 0;

	take_some(x, 5);
	before = read_whole(x->store, "journal", &len);
	take_some(x, 1);
	after = read_whole(x->store, "journal", &len);
	cut = xcalloc(1, len);
	for (size_t u = 0; u < len / UNIT; u++)
		if (memcmp(before + u * UNIT, after + u * UNIT, UNIT) != 0)
			units[count++] = u;
	assert_true(count >= BLOCK / UNIT);
	for (int i = 0; i < 100; i++) {
		memcpy(cut, before, len);
		there = 0;
		for (size_t k = 0; k < count; k++)
			if (i < 30 ? k < (size_t)i : world_random(x->world) % 8 < (uint64_t)i % 9) {
				memcpy(cut + units[k] * UNIT, after + units[k] * UNIT, UNIT);
				there++;
			}
		c = copy_of(x);
		write_whole(c.store, "journal", cut, len);
		store_open(&c);
		assert_int_equal(get(&c, 1).head, there == count ? 6 * TAKE : 5 * TAKE);
		drop(&c);
		whole += there == count;
	}
	assert_true(whole > 0 && whole < 50);
	free(before);
	free(after);
	free(cut);
}

/* ---- damage ------------------------------------------------------------------------------------------ */

/* bit is of the journal, len bytes, which is as it was afterwards. */
static void flipped_it_is_refused(struct store *x, char *journal, size_t len, size_t bit)
{
	struct store c = copy_of(x);
	struct err e;

	journal[bit / 8] ^= (char)(1 << bit % 8);
	write_whole(c.store, "journal", journal, len);
	journal[bit / 8] ^= (char)(1 << bit % 8);
	e.text[0] = '\0';
	if (store_try_open(&c, &e) == ST_OK)
		print_error("bit %zu of block %zu, unit %zu, byte %zu\n", bit % 8, bit / 8 / BLOCK,
			    bit / 8 % BLOCK / UNIT, bit / 8 % UNIT);
	assert_non_null(strstr(e.text, "damaged"));
	c.ks = NULL;
	drop(&c);
}

static void a_flipped_bit_is_refused(void **state)
{
	enum { AT_LEN = 56, LEN_LEN = 8, LAST = 1 + 4 * 2 };
	struct store *x = *state, c;
	size_t len, live = 0, bit;
	char *journal;
	struct err e;
	int rounds = getenv("QKDN_ROUNDS") ? atoi(getenv("QKDN_ROUNDS")) : 300;

	take_some(x, 5);
	journal = read_whole(x->store, "journal", &len);
	for (size_t u = BLOCK / UNIT; u < len / UNIT && tag_at(journal, u) >= tag_at(journal, BLOCK / UNIT); u++)
		live = u + 1;
	assert_true(live >= 6 * BLOCK / UNIT && live < len / UNIT);
	assert_int_equal(tag_at(journal, LAST * BLOCK / UNIT), tag_at(journal, BLOCK / UNIT) + 4);
	for (bit = 0; bit < LEN_LEN * 8; bit++) /* the last one must not look longer, and cut short */
		flipped_it_is_refused(x, journal, len, (LAST * BLOCK + AT_LEN) * 8 + bit);
	for (bit = 0; bit < TAG * 8; bit += 3) /* nor the first one look like that of a newer journal */
		flipped_it_is_refused(x, journal, len, (BLOCK + UNIT - TAG) * 8 + bit);
	for (int i = 0; i < rounds; i++) {
		bit = world_random(x->world) % (live * UNIT * 8);
		if (i % 3 == 0) /* a number or its complement */
			bit = bit / (UNIT * 8) * UNIT * 8 + (UNIT - TAG) * 8 + bit % (TAG * 8);
		if (i % 3 == 1) /* a record's head */
			bit = (1 + bit / (UNIT * 8) % 5 * 2) * BLOCK * 8 + bit % (64 * 8);
		flipped_it_is_refused(x, journal, len, bit);
	}
	for (int i = 0; i < rounds / 10; i++) { /* what is left of before does no harm */
		bit = live * UNIT * 8 + world_random(x->world) % ((len - live * UNIT) * 8);
		journal[bit / 8] ^= (char)(1 << bit % 8);
		c = copy_of(x);
		write_whole(c.store, "journal", journal, len);
		if (store_try_open(&c, &e) == ST_OK)
			assert_int_equal(get(&c, 1).head, 5 * TAKE);
		else
			c.ks = NULL;
		drop(&c);
		journal[bit / 8] ^= (char)(1 << bit % 8);
	}
	free(journal);
}

/* data.mdb has it. */
static void what_is_needed_no_longer_may_be_damaged(void **state)
{
	struct store *x = *state;
	char *journal;
	size_t len;

	take_some(x, 5);
	store_close(x);
	journal = read_whole(x->store, "journal", &len);
	journal[3 * BLOCK + UNIT] ^= 1;
	write_whole(x->store, "journal", journal, len);
	free(journal);
	store_open(x);
	assert_int_equal(get(x, 1).head, 5 * TAKE);
}

static void a_record_that_is_gone_is_refused(void **state)
{
	struct store *x = *state, c;
	size_t len;
	char *journal;

	take_some(x, 5);
	journal = read_whole(x->store, "journal", &len);
	for (size_t block = 1; block < 9; block++) { /* of the first four records */
		char kept[BLOCK];

		memcpy(kept, journal + block * BLOCK, BLOCK);
		memset(journal + block * BLOCK, 0, BLOCK);
		c = copy_of(x);
		write_whole(c.store, "journal", journal, len);
		refused(&c, "is missing");
		memcpy(journal + block * BLOCK, kept, BLOCK);
		drop(&c);
	}
	c = copy_of(x);
	write_whole(c.store, "journal", journal, len - BLOCK);
	refused(&c, "damaged");
	write_whole(c.store, "journal", journal, 100);
	refused(&c, "damaged");
	drop(&c);
	free(journal);
}

/* ---- files of different moments ---------------------------------------------------------------------- */

static void anothers_journal_is_refused(void **state)
{
	struct store *x = *state, *other, c;
	size_t len, their_len;
	char *ours, *theirs;

	set_up((void **)&other);
	take_some(x, 5);
	take_some(other, 5);
	ours = read_whole(x->store, "journal", &len);
	theirs = read_whole(other->store, "journal", &their_len);
	assert_int_equal(len, their_len);
	assert_int_equal(tag_at(ours, BLOCK / UNIT), tag_at(theirs, BLOCK / UNIT));
	c = copy_of(x);
	write_whole(c.store, "journal", theirs, len);
	refused(&c, "not the journal of");
	memcpy(theirs, ours, BLOCK); /* their records as ours */
	write_whole(c.store, "journal", theirs, len);
	refused(&c, "a record in it is damaged");
	drop(&c);
	free(theirs);
	free(ours);
	store_tear_down((void **)&other);
}

/* A record in the place of the next one, and numbered like that. */
static void a_record_of_another_number_is_refused(void **state)
{
	struct store *x = *state, c;
	char *journal, tags[2 * BLOCK / UNIT][TAG];
	size_t len;

	take_some(x, 3);
	journal = read_whole(x->store, "journal", &len);
	for (size_t u = 0; u < ARRAY_LEN(tags); u++)
		memcpy(tags[u], journal + 3 * BLOCK + (u + 1) * UNIT - TAG, TAG);
	memcpy(journal + 3 * BLOCK, journal + BLOCK, 2 * BLOCK);
	for (size_t u = 0; u < ARRAY_LEN(tags); u++)
		memcpy(journal + 3 * BLOCK + (u + 1) * UNIT - TAG, tags[u], TAG);
	assert_int_equal(tag_at(journal, 3 * BLOCK / UNIT), tag_at(journal, BLOCK / UNIT) + 1);
	c = copy_of(x);
	write_whole(c.store, "journal", journal, len);
	refused(&c, "a record in it is damaged");
	drop(&c);
	free(journal);
}

static void old_and_new_files_do_not_mix(void **state)
{
	struct store *x = *state, old, c;
	char *older, *newer;
	size_t older_len, newer_len;

	take_some(x, 3);
	old = copy_of(x);
	newer = read_whole(x->store, "data.mdb", &newer_len);
	take_some(x, 1); /* the older database with the newer journal is what a kill leaves */
	c = copy_of(x);
	write_whole(c.store, "data.mdb", newer, newer_len);
	store_open(&c);
	assert_int_equal(get(&c, 1).head, 4 * TAKE);
	free(newer);
	store_close(x);
	store_open(x); /* the journal begins again */
	take_some(x, 1);
	older = read_whole(old.store, "data.mdb", &older_len);
	drop(&c);
	c = copy_of(x);
	write_whole(c.store, "data.mdb", older, older_len);
	refused(&c, "which is older");
	free(older);
	drop(&c);
	newer = read_whole(x->store, "data.mdb", &newer_len);
	older = read_whole(x->store, "journal", &older_len);
	assert_int_equal(append(x, 1, FILLED, 100000), ST_OK); /* into data.mdb at once */
	c = copy_of(x);
	write_whole(c.store, "journal", older, older_len);
	store_open(&c); /* has nothing new */
	assert_int_equal(get(&c, 1).tail, FILLED + 100000);
	assert_int_equal(get(&c, 1).head, 5 * TAKE);
	drop(&c);
	free(newer);
	free(older);
}

/* The journal alone is put back: what only the newer one had is missing. */
static void an_older_journal_is_refused(void **state)
{
	struct store *x = *state, c;
	char *older;
	size_t len;

	take_some(x, 1);
	older = read_whole(x->store, "journal", &len);
	world_run(x->world, 11 * NS_PER_S); /* the generation goes on */
	take_some(x, 1);
	c = copy_of(x);
	write_whole(c.store, "journal", older, len);
	refused(&c, "an older copy of the store");
	free(older);
	drop(&c);
	assert_int_equal(head_after_a_kill(x), 2 * TAKE);
}

/* Makes the older of the two roots the newer one: nothing in the tree is wrong then. */
static void go_back_a_root(const struct store *x)
{
	enum { TXN_IN_META = 16 + 24 + 2 * 48 + 8 };
	char *data = xasprintf("%s/data.mdb", x->store);
	int fd = open(data, O_RDWR), older;
	uint64_t txns[2];

	for (int i = 0; i < 2; i++)
		assert_int_equal(pread(fd, &txns[i], 8, 4096 * i + TXN_IN_META), 8);
	older = txns[1] < txns[0];
	txns[older] += 2;
	assert_int_equal(pwrite(fd, &txns[older], 8, 4096 * older + TXN_IN_META), 8);
	close(fd);
	free(data);
}

static void the_root_before_is_brought_up_or_refused(void **state)
{
	struct store *x = *state, c;

	take_some(x, 3);
	store_close(x);
	go_back_a_root(x);
	store_open(x); /* the journal has what is missing */
	assert_int_equal(get(x, 1).head, 3 * TAKE);
	take_some(x, 1);
	c = copy_of(x);
	go_back_a_root(&c);
	refused(&c, "which is older"); /* it has begun again */
	drop(&c);
}

/* As it was before there were journals: without one, and with the commit's number as LMDB counts. */
static void make_older_format(const struct store *x)
{
	enum { AT_FORMAT = 10 };
	static char commit[] = "commit";
	char *data = xasprintf("%s/data.mdb", x->store), *journal = xasprintf("%s/journal", x->store),
	     *keys = xasprintf("%s/keys", x->store), *bytes;
	uint8_t number[8], sealed[8 + SEAL_OVERHEAD];
	MDB_val key = {sizeof commit - 1, commit}, value = {sizeof sealed, sealed};
	struct secret master = {NULL, 0};
	struct seal *seal = seal_new();
	struct keyring ring;
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;
	struct err e;
	size_t len;

	assert_int_equal(file_read_secret(x->master, 32, &master, &e), ST_OK);
	assert_int_equal(keyring_read(&ring, keys, &master, &e), ST_OK);
	seal_add_key(seal, ring.numbers[0], ring.keys[0].bytes);
	assert_int_equal(mdb_env_create(&env), 0);
	assert_int_equal(mdb_env_set_maxdbs(env, 10), 0);
	assert_int_equal(mdb_env_open(env, data, MDB_NOSUBDIR | MDB_NOLOCK, 0600), 0);
	assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
	assert_int_equal(mdb_dbi_open(txn, "journal", 0, &dbi), 0);
	assert_int_equal(mdb_drop(txn, dbi, 1), 0);
	assert_int_equal(mdb_dbi_open(txn, "meta", 0, &dbi), 0);
	put_be(number, mdb_txn_id(txn), 8);
	seal_close(seal, KV_META, (struct kv_slice){(uint8_t *)commit, sizeof commit - 1}, 0, number, 8, sealed);
	assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
	assert_int_equal(mdb_txn_commit(txn), 0);
	mdb_env_close(env);
	seal_free(seal);
	keyring_free(&ring);
	secret_free(&master);
	unlink(journal);
	bytes = read_whole(x->store, "keys", &len);
	assert_int_equal(bytes[AT_FORMAT + 1], KEYRING_FORMAT);
	bytes[AT_FORMAT + 1] = 1;
	write_whole(x->store, "keys", bytes, len);
	free(bytes);
	free(data);
	free(journal);
	free(keys);
}

static void a_store_without_a_journal_gets_one(void **state)
{
	struct store *x = *state;
	char *keys;
	size_t len;

	take_some(x, 3);
	store_close(x);
	make_older_format(x);
	store_open(x);
	take_some(x, 2);
	assert_int_equal(head_after_a_kill(x), 5 * TAKE);
	keys = read_whole(x->store, "keys", &len); /* older programs refuse it now */
	assert_int_equal(keys[11], KEYRING_FORMAT);
	free(keys);
	store_close(x);
	store_open(x);
	assert_int_equal(get(x, 1).head, 5 * TAKE);
}

/* ---- writes that fail -------------------------------------------------------------------------------- */

static void a_journal_that_cannot_be_written_is_done_without(void **state)
{
	struct store *x = *state;
	uint64_t head;

	take_some(x, 3);
	for (int after = 0; after < 2; after++) {
		head = get(x, 1).head;
		failing[JOURNAL].how_many = 1;
		failing[JOURNAL].why = EIO;
		failing[JOURNAL].after = after;
		assert_int_equal(take(x, TAKE), ST_STORAGE);
		assert_int_equal(get(x, 1).head, head);
		/* refused, but it may have happened */
		assert_int_equal(head_after_a_kill(x), head + (after ? TAKE : 0));
		assert_int_equal(take(x, 2 * TAKE), ST_OK);
		assert_int_equal(head_after_a_kill(x), head + 2 * TAKE);
		take_some(x, 3);
		assert_int_equal(head_after_a_kill(x), head + 5 * TAKE);
	}
	failing[JOURNAL].how_many = 1000;
	for (int i = 0; i < 10; i++) /* every second one finds its way */
		assert_int_equal(take(x, TAKE), i % 2 == 0 ? ST_STORAGE : ST_OK);
	failing[JOURNAL].how_many = 0;
}

static void a_full_disk_leaves_the_journal(void **state)
{
	struct store *x = *state;
	int good = 0, refusals = 0;

	failing[DATA].how_many = 1 << 30;
	failing[DATA].why = ENOSPC;
	assert_int_equal(append(x, 1, FILLED, 100000), ST_STORAGE);
	while (refusals < 10) {
		if (take(x, TAKE) == ST_OK)
			good++;
		else
			refusals++;
		assert_int_equal(get(x, 1).head, good * TAKE);
	}
	assert_true(good > 3);
	assert_int_equal(get(x, 1).tail, FILLED);
	failing[DATA].how_many = 0;
	assert_int_equal(head_after_a_kill(x), good * TAKE);
	assert_int_equal(append(x, 1, FILLED, 100000), ST_OK);
	take_some(x, 1);
	assert_int_equal(head_after_a_kill(x), (good + 1) * TAKE);
	assert_int_equal(get(x, 1).tail, FILLED + 100000);
}

/* Works that fail in the middle leave nothing, in the journal neither. */
static void works_that_fail_leave_nothing(void **state)
{
	struct store *x = *state;

	for (int i = 0; i < 10; i++) {
		struct op o = {.kind = OP_TAKE, .pool = pool_id(1), .min = TAKE, .max = TAKE, .granule = 1};

		o.then_fail = true;
		assert_int_equal(op_run(x, &o), ST_MISMATCH);
		secret_free(&o.out);
		assert_int_equal(head_after_a_kill(x), i * TAKE);
		take_some(x, 1);
	}
}

static enum status take_and_fill_up(struct ks_txn *t, void *arg)
{
	static const char value[1000];
	struct secret out = {NULL, 0};
	struct id id = pool_id(1);
	uint64_t at;
	enum status s = ks_take(t, &id, TAKE, TAKE, 1, &at, &out);

	secret_free(&out);
	for (uint32_t i = 0; s == ST_OK && i < 2 * SMALL / sizeof value; i++)
		s = ks_note_put(t, &i, sizeof i, value, sizeof value);
	*(bool *)arg = s == ST_STORAGE;
	return s;
}

/* The database fails in the middle of a batch. */
static void a_full_database_takes_its_batch_back(void **state)
{
	struct store *x = *state;
	bool full = false;

	for (int i = 0; i < 3; i++) {
		take_some(x, 3);
		ks_submit(x->ks, take_and_fill_up, NULL, &full);
		assert_true(full);
		assert_int_equal(get(x, 1).head, (i + 1) * 3 * TAKE);
		assert_int_equal(head_after_a_kill(x), (i + 1) * 3 * TAKE);
	}
}

/* The journal is lost while the store is in use, and is needed: nothing goes on from the state before it. */
static void a_journal_that_is_lost_meanwhile_is_missed(void **state)
{
	struct store *x = *state;
	char *journal;
	bool full = false;
	size_t len;

	take_some(x, 3);
	journal = read_whole(x->store, "journal", &len);
	memset(journal + BLOCK, 0, len - BLOCK);
	write_whole(x->store, "journal", journal, len);
	free(journal);
	ks_submit(x->ks, take_and_fill_up, NULL, &full);
	assert_true(full);
	for (int i = 0; i < 3; i++)
		assert_int_equal(take(x, TAKE), ST_STORAGE);
}

/* ---- power cuts -------------------------------------------------------------------------------------- */

struct image {
	uint8_t *bytes;
	size_t len, room;
};

static void put(struct image *i, const struct event *v, size_t from, size_t to)
{
	size_t end = (size_t)v->at + to;

	if (end > i->room) {
		i->bytes = xrealloc(i->bytes, 2 * end);
		i->room = 2 * end;
	}
	if (end > i->len) {
		memset(i->bytes + i->len, 0, end - i->len);
		i->len = end;
	}
	memcpy(i->bytes + v->at + from, v->bytes + from, to - from);
}

/* Some of the sectors of a write. */
static void put_some(struct store *x, struct image *i, const struct event *v)
{
	uint64_t often = world_random(x->world) % 5;

	for (size_t from = 0, to; from < v->len; from = to) {
		to = from + UNIT - ((size_t)v->at + from) % UNIT;
		to = to < v->len ? to : v->len;
		if (world_random(x->world) % 4 < often)
			put(i, v, from, to);
	}
}

/* The files as a power cut during event number cut may leave them: what was durable, and some of the rest. */
static void make_images(struct store *x, const struct store *start, size_t cut, struct image images[FILES])
{
	size_t synced[FILES] = {0};

	for (size_t i = 0; i < cut; i++)
		if (events[i].kind == SYNCED)
			synced[events[i].file] = i;
	for (int f = 0; f < FILES; f++) {
		images[f].bytes = (uint8_t *)read_whole(start->store, names[f], &images[f].len);
		images[f].room = images[f].len;
	}
	for (size_t i = 0; i <= cut && i < event_count; i++) {
		const struct event *v = &events[i];

		if (v->kind != WROTE)
			continue;
		if (i < cut && (v->durable || i < synced[v->file]))
			put(&images[v->file], v, 0, v->len);
		else
			put_some(x, &images[v->file], v);
	}
}

static const struct ks_pool *reported(size_t from, int step)
{
	for (size_t i = from; i < event_count; i += (size_t)step)
		if (events[i].kind == REPORTED)
			return &events[i].pool;
	return NULL;
}

static void cut_power(struct store *x, const struct store *start, size_t cut)
{
	const struct ks_pool *before = reported(cut - 1, -1), *next = reported(cut, 1);
	struct image images[FILES];
	struct store c = copy_of(start);
	struct ks_pool p;

	make_images(x, start, cut, images);
	for (int f = 0; f < FILES; f++) {
		write_whole(c.store, names[f], (char *)images[f].bytes, images[f].len);
		free(images[f].bytes);
	}
	store_open(&c);
	p = get(&c, 1);
	if (p.head != before->head || p.tail != before->tail) {
		assert_non_null(next);
		assert_int_equal(p.head, next->head);
		assert_int_equal(p.tail, next->tail);
	}
	assert_int_equal(take(&c, p.ready - p.head), ST_OK);
	drop(&c);
}

static void report(struct store *x)
{
	add_event(REPORTED)->pool = get(x, 1);
}

/* One operation, of all that are big or small. */
static void use(struct store *x)
{
	struct ks_pool p = get(x, 1);
	size_t len = 1 + world_random(x->world) % 300;

	switch (world_random(x->world) % 8) {
	case 0:
		len += world_random(x->world) % 80000;
		if (p.tail < 1000000)
			assert_int_equal(append(x, 1, p.tail, len), ST_OK);
		break;
	case 1:
		assert_int_equal(settle(x, 1, p.tail), ST_OK);
		break;
	default:
		if (p.head + len < p.ready)
			assert_int_equal(take(x, len), ST_OK);
	}
}

static void power_cuts_lose_nothing(void **state)
{
	struct store *x = *state, start = copy_of(x), moved = start;
	int rounds = getenv("QKDN_ROUNDS") ? atoi(getenv("QKDN_ROUNDS")) : 200;
	size_t writes = 0;

	snprintf(moved.dir, sizeof moved.dir, "%.50s/start", x->dir);
	assert_int_equal(rename(start.dir, moved.dir), 0);
	snprintf(moved.store, sizeof moved.store, "%s/store", moved.dir);
	snprintf(moved.master, sizeof moved.master, "%s/master.key", moved.dir);
	snprintf(moved.generation, sizeof moved.generation, "%s.generation", moved.master);
	recording = true;
	report(x);
	for (int i = 0; i < 150; i++) {
		use(x);
		report(x);
	}
	recording = false;
	for (size_t i = 0; i < event_count; i++)
		writes += events[i].kind == WROTE;
	assert_true(writes > 150);
	for (int i = 0; i < rounds; i++)
		cut_power(x, &moved, 1 + world_random(x->world) % event_count);
}

/* ---- idleness ---------------------------------------------------------------------------------------- */

/* A store at rest puts into data.mdb what the journal has, so that the journal could be lost then. */
static void an_idle_store_makes_a_checkpoint(void **state)
{
	struct store *x = *state, c;
	struct env *virtual = x->env;
	const struct timespec pause = {.tv_nsec = 100000000};
	bool done = false;
	size_t len;
	char *journal;
	struct err e;

	store_close(x);
	x->env = env_event_new();
	x->threaded = true;
	store_open(x);
	take_some(x, 3);
	for (int i = 0; i < 300 && !done; i++) {
		nanosleep(&pause, NULL);
		c = copy_of(x);
		c.env = virtual;
		journal = read_whole(c.store, "journal", &len);
		memset(journal + BLOCK, 0, len - BLOCK);
		write_whole(c.store, "journal", journal, len);
		free(journal);
		if (store_try_open(&c, &e) == ST_OK)
			done = get(&c, 1).head == 3 * TAKE;
		else
			c.ks = NULL;
		drop(&c);
	}
	assert_true(done);
	store_close(x);
	env_event_free(x->env);
	x->env = virtual;
	x->threaded = false;
}

static uint64_t commits(const struct store *x)
{
	struct ks_stats s;

	ks_stats(x->ks, &s);
	return s.commits;
}

/* What can wait is not done in the gaps of a burst, which it would lengthen: it waits for a pause. */
static void the_sweep_waits_for_a_pause(void **state)
{
	struct store *x = *state;
	struct env *virtual = x->env;
	const struct timespec pause = {.tv_nsec = 1000000};
	uint64_t begun, before;

	store_close(x);
	x->env = env_event_new();
	x->threaded = true;
	store_open(x);
	before = commits(x);
	begun = env_mono(x->env);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_RETIRE, .pool = pool_id(1)}), ST_OK);
	while (commits(x) == before + 1 && env_mono(x->env) - begun < 60 * NS_PER_S)
		nanosleep(&pause, NULL);
	assert_true(commits(x) > before + 1);
	assert_true(env_mono(x->env) - begun >= 50 * NS_PER_MS);
	store_close(x);
	env_event_free(x->env);
	x->env = virtual;
	x->threaded = false;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    TEST(a_kill_loses_nothing),
	    TEST(big_commits_lose_nothing),
	    TEST(records_that_are_cut_short_are_forgotten),
	    TEST(a_flipped_bit_is_refused),
	    TEST(what_is_needed_no_longer_may_be_damaged),
	    TEST(a_record_that_is_gone_is_refused),
	    TEST(anothers_journal_is_refused),
	    TEST(a_record_of_another_number_is_refused),
	    TEST(old_and_new_files_do_not_mix),
	    TEST(an_older_journal_is_refused),
	    TEST(the_root_before_is_brought_up_or_refused),
	    TEST(a_store_without_a_journal_gets_one),
	    TEST(a_journal_that_cannot_be_written_is_done_without),
	    TEST(a_full_disk_leaves_the_journal),
	    TEST(a_full_database_takes_its_batch_back),
	    TEST(a_journal_that_is_lost_meanwhile_is_missed),
	    TEST(works_that_fail_leave_nothing),
	    TEST(power_cuts_lose_nothing),
	    TEST(an_idle_store_makes_a_checkpoint),
	    TEST(the_sweep_waits_for_a_pause),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
