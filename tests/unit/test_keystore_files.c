/*
 * test_keystore_files.c - the key store's files in hostile hands: loose modes, wrong keys, flipped bits,
 * older copies, a full disk; and what can be found in them of keys that are spent.
 */
#include "keystore_fixture.h"

#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "bytes.h"
#include "internal.h"
#include "kv_lmdb_check.h"

static enum status take(struct store *x, int pool, size_t len)
{
	struct op o = {.kind = OP_TAKE, .pool = pool_id(pool), .min = len, .max = len, .granule = 1};
	enum status s = op_run(x, &o);

	if (s == ST_OK)
		assert_true(is_pattern(&o.out, o.number));
	secret_free(&o.out);
	return s;
}

/* ---- who may open it -------------------------------------------------------------------------------- */

static void loose_modes_are_refused(void **state)
{
	struct store *x = *state;
	char *data = joined(x, "data.mdb"), *journal = joined(x, "journal"), *keys = joined(x, "keys");
	const struct {
		const char *path;
		mode_t loose, tight;
	} files[] = {
	    {x->store, 0750, 0700},  {data, 0640, 0600},      {journal, 0620, 0600},
	    {keys, 0604, 0600},      {x->master, 0440, 0600}, {x->generation, 0660, 0600},
	};

	store_close(x);
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		assert_int_equal(chmod(files[i].path, files[i].loose), 0);
		refused(x, "chmod");
		assert_int_equal(chmod(files[i].path, files[i].tight), 0);
	}
	store_open(x);
	free(data);
	free(journal);
	free(keys);
}

static void a_store_has_one_owner(void **state)
{
	struct store *x = *state;
	struct ks *first = x->ks;

	refused(x, "another process");
	x->ks = first;
}

static void master_keys_are_not_overwritten(void **state)
{
	struct store *x = *state;
	struct err e;

	assert_int_equal(ks_master_key_make(x->master, &e), ST_CONFLICT);
}

static void a_wrong_master_key_is_refused(void **state)
{
	struct store *x = *state;
	char *kept = xasprintf("%s.kept", x->master);
	struct err e;

	fill(x, 1, 1000);
	store_close(x);
	assert_int_equal(rename(x->master, kept), 0);
	assert_int_equal(ks_master_key_make(x->master, &e), ST_OK);
	refused(x, "another master key");
	assert_int_equal(file_write(x->master, "short", 5, 0600, &e), ST_OK);
	refused(x, "32 bytes");
	assert_int_equal(rename(kept, x->master), 0);
	store_open(x);
	assert_int_equal(take(x, 1, 1000), ST_OK);
	free(kept);
}

static void missing_files_are_told(void **state)
{
	struct store *x = *state;
	char *keys = joined(x, "keys"), *data = joined(x, "data.mdb"), *kept = xasprintf("%s/kept", x->dir);
	char *journal = joined(x, "journal");
	struct err e;

	store_close(x);
	assert_int_equal(rename(x->master, kept), 0);
	refused(x, "no such file: a store opens with the master key alone");
	assert_int_equal(rename(kept, x->master), 0);
	assert_int_equal(rename(journal, kept), 0);
	refused(x, "missing");
	assert_int_equal(rename(kept, journal), 0);
	assert_int_equal(rename(keys, kept), 0);
	refused(x, "missing");
	assert_int_equal(rename(kept, keys), 0);
	assert_int_equal(rename(data, kept), 0);
	refused(x, "gone");
	unlink(data);
	assert_int_equal(rename(kept, data), 0);
	unlink(x->generation);
	refused(x, "accept");
	assert_int_equal(file_write(x->generation, "accept\n", 7, 0600, &e), ST_OK);
	store_open(x);
	free(keys);
	free(data);
	free(kept);
	free(journal);
}

static void an_older_copy_is_refused(void **state)
{
	struct store *x = *state;
	char *older = xasprintf("%s/older", x->dir), *newer = xasprintf("%s/newer", x->dir);

	fill(x, 1, 1000);
	copy_store(x, older);
	assert_int_equal(take(x, 1, 100), ST_OK);
	store_close(x);
	assert_int_equal(rename(x->store, newer), 0);
	assert_int_equal(rename(older, x->store), 0);
	refused(x, "older copy");
	remove_folder(x->store);
	assert_int_equal(rename(newer, x->store), 0);
	store_open(x);
	assert_int_equal(take(x, 1, 901), ST_TOO_FEW_KEYS);
	assert_int_equal(take(x, 1, 900), ST_OK);
	free(older);
	free(newer);
}

/* A kill between making the generation durable in the store and in the file. */
static void a_store_ahead_of_its_generation_file_opens(void **state)
{
	struct store *x = *state;
	char *kept = xasprintf("%s/kept", x->dir);

	store_close(x);
	copy_file(x->generation, kept);
	store_open(x);
	store_close(x);
	assert_int_equal(rename(kept, x->generation), 0);
	store_open(x);
	free(kept);
}

/* ---- flipped bits -------------------------------------------------------------------------------------- */

enum { FLIP_REFUSED = 10, FLIP_RIGHT = 11, FLIP_WRONG = 12 };

static bool says_what_to_do(const char *text)
{
	return strstr(text, "start with an empty store and make its links anew (qkdn-kmd(8))") != NULL ||
	       strstr(text, "configure the one that this store was made with") != NULL ||
	       strstr(text, "run the version that wrote it") != NULL;
}

/* Opens and takes all there is: only right bytes may come. */
static void try_flipped(struct store *x)
{
	struct err e;

	close(STDERR_FILENO);
	if (store_try_open(x, &e) != ST_OK)
		_exit(says_what_to_do(e.text) ? FLIP_REFUSED : FLIP_WRONG);
	for (int i = 0; i < 200; i++) {
		struct op o = {
		    .kind = OP_TAKE_AT, .pool = pool_id(1), .offset = (uint64_t)i * 500, .len = 500};
		struct op d = {.kind = OP_DELIVER,
			       .pool = pool_id(2),
			       .offset = (uint64_t)i * 32,
			       .source = "app1",
			       .destination = "app2"};

		if (op_run(x, &o) == ST_OK && !is_pattern(&o.out, o.offset))
			_exit(FLIP_WRONG);
		if (op_run(x, &d) == ST_OK && !is_pattern(&d.out, d.offset))
			_exit(FLIP_WRONG);
	}
	ks_close(x->ks);
	_exit(FLIP_RIGHT);
}

static void flip(const char *path, uint64_t bit)
{
	int fd = open(path, O_RDWR);
	uint8_t b;

	assert_int_equal(pread(fd, &b, 1, (off_t)(bit / 8)), 1);
	b ^= (uint8_t)(1 << bit % 8);
	assert_int_equal(pwrite(fd, &b, 1, (off_t)(bit / 8)), 1);
	close(fd);
}

/* A random bit of a page of the tree or of a root: they are few of many. */
static uint64_t bit_of_tree(struct store *x, const char *path)
{
	size_t len;
	char *bytes = whole_file(path, &len);
	uint64_t page;

	do
		page = world_random(x->world) % (len / 4096);
	while (bytes[page * 4096 + 10] != 1 && bytes[page * 4096 + 10] != 2 && bytes[page * 4096 + 10] != 8);
	free(bytes);
	return (page * 4096 + world_random(x->world) % (world_random(x->world) & 1 ? 4096 : 160)) * 8 +
	       world_random(x->world) % 8;
}

static void flipped_bits_never_give_wrong_keys(void **state)
{
	struct store *x = *state;
	char *data = joined(x, "data.mdb"), *keys = joined(x, "keys"), kept[96], generation[96];
	unsigned outcomes[256] = {0}, crashes = 0,
		 rounds = getenv("QKDN_ROUNDS") ? (unsigned)atoi(getenv("QKDN_ROUNDS")) : 150;
	struct stat st;

	snprintf(kept, sizeof kept, "%s/kept", x->dir);
	snprintf(generation, sizeof generation, "%s/kept.generation", x->dir);
	fill(x, 1, 100000);
	fill(x, 2, 6400);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_ASSIGN,
						  .pool = pool_id(2),
						  .key_len = 32,
						  .count = 200,
						  .source = "app1",
						  .destination = "app2"}),
			 ST_OK);
	store_close(x);
	copy_store(x, kept);
	copy_file(x->generation, generation);
	assert_int_equal(stat(data, &st), 0);
	for (unsigned i = 0; i < rounds; i++) {
		const char *path = i % 10 == 0 ? keys : data;
		uint64_t bits = 8 * (uint64_t)(i % 10 == 0 ? 90 : st.st_size);
		uint64_t bit = world_random(x->world) % bits;
		int status;
		pid_t child;

		remove_folder(x->store);
		assert_int_equal(rename(kept, x->store), 0);
		copy_store(x, kept);
		copy_file(generation, x->generation);
		if (i % 2 == 1)
			bit = bit_of_tree(x, data);
		flip(path, bit);
		fflush(NULL);
		child = fork();
		if (child == 0)
			try_flipped(x);
		assert_int_equal(waitpid(child, &status, 0), child);
		if (!WIFEXITED(status))
			crashes++;
		else
			outcomes[WEXITSTATUS(status)]++;
	}
	print_message("%u flips: %u refused at opening, %u later or without effect, %u ended the process\n",
		      rounds, outcomes[FLIP_REFUSED], outcomes[FLIP_RIGHT], crashes);
	assert_int_equal(outcomes[FLIP_WRONG], 0);
	assert_true(outcomes[FLIP_REFUSED] > 0 && outcomes[FLIP_RIGHT] > 0);
	assert_int_equal(crashes, 0);
	store_open(x);
	free(data);
	free(keys);
}

static enum status put_note(struct ks_txn *t, void *arg)
{
	static const char bytes[20000];

	return ks_note_put(t, "note", 4, bytes, *(size_t *)arg);
}

/* LMDB leaves a value that is shortened within a transaction, of which a store at work makes one of many
 * commits, the pages that it had: that is no damage. */
static void what_was_shortened_is_no_damage(void **state)
{
	struct store *x = *state;
	size_t lens[] = {20000, 9000, 100};

	for (size_t from = 0; from < ARRAY_LEN(lens); from++) {
		fill(x, (int)from + 1, 1000);
		for (size_t i = from; i < ARRAY_LEN(lens); i++)
			ks_submit(x->ks, put_note, NULL, &lens[i]);
		store_close(x);
		store_open(x);
		assert_int_equal(take(x, (int)from + 1, 1000), ST_OK);
	}
}

/* Whether a flip is seen before LMDB sees it. */
static bool is_seen(const char *path, uint64_t bit)
{
	struct err e = {ST_OK, ""};
	enum status s;

	flip(path, bit);
	s = kv_lmdb_check(path, &e);
	flip(path, bit);
	return s != ST_OK && strstr(e.text, "is damaged: ") != NULL;
}

/* What LMDB goes by in a page of a tree: its head and where its entries lie. What is in free pages does no harm,
 * and those of a tree are known by their numbers. */
static void flipped_bits_of_a_page_s_head_are_seen(void **state)
{
	enum { PAGE = 4096, HEAD = 16, BRANCH = 1, LEAF = 2 };
	struct store *x = *state;
	char *data = joined(x, "data.mdb"), *bytes;
	unsigned pages[3] = {0}, refusals = 0;
	size_t len;

	fill(x, 1, 400000);
	for (int pool = 2; pool < 200; pool++) /* pages enough for branches */
		assert_int_equal(create(x, pool), ST_OK);
	store_close(x);
	bytes = whole_file(data, &len);
	for (size_t page = 2; page < len / PAGE; page++) {
		const uint8_t *head = (const uint8_t *)bytes + page * PAGE;
		unsigned kind = head[10], lower = head[12] + 256u * head[13];
		uint64_t first = page * PAGE * 8;

		if ((kind != BRANCH && kind != LEAF) || head[11] != 0 || !is_seen(data, first))
			continue;
		pages[kind]++;
		for (unsigned bit = 0; bit < lower * 8; bit += bit < HEAD * 8 ? 1 : 13)
			if (bit / 8 != 8 && bit / 8 != 9 && !is_seen(data, first + bit)) /* these mean nothing */
				fail_msg("bit %u of page %zu, of kind %u", bit, page, kind);
		if (refusals++ % 8 == 0) { /* and so does whoever opens it */
			flip(data, first);
			refused(x, "is damaged: ");
			flip(data, first);
		}
	}
	assert_true(pages[BRANCH] >= 1 && pages[LEAF] >= 10);
	store_open(x);
	free(bytes);
	free(data);
}

/* Each bit of the two files beside the store: it is refused, and the text says why, or what comes is right. */
static void flipped_bits_beside_it_are_refused(void **state)
{
	struct store *x = *state;
	const char *const files[] = {x->master, x->generation};
	unsigned taken_all_the_same = 0;

	fill(x, 1, 1000);
	for (int i = 0; i < 11; i++) { /* generations of two digits */
		store_close(x);
		store_open(x);
	}
	for (size_t f = 0; f < ARRAY_LEN(files); f++) {
		char *kept = xasprintf("%s.kept", files[f]);
		struct stat st;

		store_close(x);
		copy_file(files[f], kept);
		assert_int_equal(stat(files[f], &st), 0);
		for (uint64_t bit = 0; bit < 8 * (uint64_t)st.st_size; bit++) {
			struct err e = {ST_OK, ""};

			flip(files[f], bit);
			if (store_try_open(x, &e) == ST_OK) {
				taken_all_the_same++;
				assert_int_equal(get(x, 1).ready, 1000);
				store_close(x);
				copy_file(files[f], kept); /* it has gone on */
				continue;
			}
			assert_non_null(strstr(e.text, x->dir));
			assert_true(strlen(e.text) > strlen(x->dir) + 40);
			copy_file(kept, files[f]);
		}
		store_open(x);
		free(kept);
	}
	assert_in_range(taken_all_the_same, 0, 8); /* a digit that is less: a store is newer than that */
}

/* ---- a full disk --------------------------------------------------------------------------------------- */

static void allow_growth(rlim_t bytes)
{
	struct rlimit l;

	getrlimit(RLIMIT_FSIZE, &l);
	l.rlim_cur = bytes;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static void a_full_disk_loses_nothing(void **state)
{
	struct store *x = *state;
	char *data = joined(x, "data.mdb");
	struct ks_pool before, after;
	unsigned refusals = 0;
	uint64_t at = 100000;
	struct stat st;

	fill(x, 1, at);
	assert_int_equal(stat(data, &st), 0);
	signal(SIGXFSZ, SIG_IGN);
	allow_growth((rlim_t)st.st_size + 40000);
	for (int i = 0; i < 50; i++) {
		before = get(x, 1);
		if (append(x, 1, at, 10000) == ST_OK) {
			at += 10000;
			continue;
		}
		refusals++;
		after = get(x, 1);
		assert_same_cursors(&before, &after);
	}
	assert_true(refusals > 10);
	allow_growth(RLIM_INFINITY);
	assert_int_equal(append(x, 1, at, 10000), ST_OK);
	assert_int_equal(settle(x, 1, at + 10000), ST_OK);
	assert_int_equal(take(x, 1, at + 10000), ST_OK);
	store_close(x);
	store_open(x);
	assert_int_equal(get(x, 1).head, at + 10000);
	free(data);
}

static void the_bound_on_the_file_is_kept(void **state)
{
	struct store *x = *state;
	struct ks_options o = {.backend = KS_LMDB,
			       .env = x->env,
			       .directory = x->store,
			       .master_key_file = x->master,
			       .max_bytes = 4 << 20,
			       .inline_writer = true};
	struct err e;
	uint64_t at = 0;

	store_close(x);
	assert_int_equal(ks_open(&x->ks, &o, &e), ST_OK);
	assert_int_equal(create(x, 1), ST_OK);
	while (append(x, 1, at, 8192) == ST_OK)
		at += 8192;
	assert_true(at > 3 << 20 && at < 4 << 20);
	assert_int_equal(settle(x, 1, at), ST_OK);
	for (uint64_t i = 0; i < 20; i++)
		assert_int_equal(take(x, 1, 8192), ST_OK);
	assert_int_equal(append(x, 1, at, 8192), ST_OK);
}

/* ---- what the files give away ----------------------------------------------------------------------------
 */

static bool contains(const char *bytes, size_t len, const uint8_t *wanted, size_t wanted_len)
{
	return memmem(bytes, len, wanted, wanted_len) != NULL;
}

/* The bytes of the store's file; those of the journal without what is behind each of its units. */
static char *bytes_of(const struct store *x, const char *name, size_t *len)
{
	enum { UNIT = 512, PIECE = UNIT - 16 };
	char *path = joined(x, name), *bytes = whole_file(path, len);

	free(path);
	if (strcmp(name, "journal") == 0) {
		for (size_t i = 0; i < *len / UNIT; i++)
			memmove(bytes + i * PIECE, bytes + i * UNIT, PIECE);
		*len = *len / UNIT * PIECE;
	}
	return bytes;
}

static const char *const files_of_keys[] = {"data.mdb", "journal"};

/* Whether chunk index of pool number 1, as it was when whole, can be opened anywhere in the file
 * with what the store and the master key give today. */
static bool recoverable_from(struct store *x, const char *file, uint64_t index)
{
	enum { SEALED = CHUNK_BYTES + 6 + SEAL_OVERHEAD };
	char *keys = joined(x, "keys"), *bytes;
	struct secret master = {NULL, 0};
	struct keyring ring;
	struct seal *seal = seal_new();
	uint8_t place[12] = {0, 0, 0, 1}, plain[SEALED], number[4];
	bool found = false;
	struct err e;
	size_t len;

	place[10] = (uint8_t)(index >> 8);
	place[11] = (uint8_t)index;
	assert_int_equal(file_read_secret(x->master, 32, &master, &e), ST_OK);
	assert_int_equal(keyring_read(&ring, keys, &master, &e), ST_OK);
	bytes = bytes_of(x, file, &len);
	for (unsigned i = 0; i < ring.count; i++) {
		seal_add_key(seal, ring.numbers[i], ring.keys[i].bytes);
		put_be(number, ring.numbers[i], 4);
		for (char *at = bytes; !found && (at = memmem(at, len - (size_t)(at - bytes), number, 4)) != NULL &&
				       len - (size_t)(at - bytes) >= SEALED;
		     at++)
			found = seal_open(seal, KV_CHUNK, (struct kv_slice){place, sizeof place},
					  (struct kv_slice){(uint8_t *)at, SEALED}, plain);
	}
	free(bytes);
	seal_free(seal);
	keyring_free(&ring);
	secret_free(&master);
	free(keys);
	return found;
}

/* How many there are in its file; 0: a new one takes its place just now. */
static unsigned data_keys(struct store *x)
{
	char *keys = joined(x, "keys");
	struct secret master = {NULL, 0};
	struct keyring ring;
	unsigned count = 0;
	struct err e;

	assert_int_equal(file_read_secret(x->master, 32, &master, &e), ST_OK);
	if (keyring_read(&ring, keys, &master, &e) == ST_OK) {
		count = ring.count;
		keyring_free(&ring);
	}
	secret_free(&master);
	free(keys);
	return count;
}

static bool recoverable(struct store *x, uint64_t index)
{
	for (size_t i = 0; i < ARRAY_LEN(files_of_keys); i++)
		if (recoverable_from(x, files_of_keys[i], index))
			return true;
	return false;
}

static void no_plaintext(struct store *x)
{
	uint8_t piece[16];

	for (size_t file = 0; file < ARRAY_LEN(files_of_keys); file++) {
		size_t len;
		char *bytes = bytes_of(x, files_of_keys[file], &len);

		for (uint64_t at = 0; at < 40000; at += 1000) {
			pattern(piece, at, sizeof piece);
			assert_false(contains(bytes, len, piece, sizeof piece));
		}
		free(bytes);
	}
}

static enum status rotated;

static void rotation_done(enum status s, void *arg)
{
	(void)arg;
	rotated = s;
}

static void rotate(struct store *x)
{
	rotated = ST_INTERNAL;
	ks_rotate_data_key(x->ks, rotation_done, NULL);
	while (world_step(x->world))
		;
	assert_int_equal(rotated, ST_OK);
}

static enum status deliver(struct store *x, int pool, uint64_t offset)
{
	struct op o = {.kind = OP_DELIVER,
		       .pool = pool_id(pool),
		       .offset = offset,
		       .source = "app1",
		       .destination = "app2"};
	enum status s = op_run(x, &o);

	if (s == ST_OK)
		assert_true(is_pattern(&o.out, offset));
	secret_free(&o.out);
	return s;
}

static void spent_keys_cannot_be_recovered(void **state)
{
	struct store *x = *state;

	fill(x, 1, 40000);
	assert_true(recoverable_from(x, "journal", 0)); /* alone; opening puts it into data.mdb, too */
	assert_false(recoverable_from(x, "data.mdb", 0));
	store_close(x);
	store_open(x);
	assert_true(recoverable_from(x, "data.mdb", 0));
	no_plaintext(x);
	assert_int_equal(take(x, 1, 4032), ST_OK);
	for (size_t i = 0; i < ARRAY_LEN(files_of_keys); i++) /* before the horizon: the data key is there */
		assert_true(recoverable_from(x, files_of_keys[i], 0));
	assert_int_equal(op_simple(x, (struct op){.kind = OP_ASSIGN,
						  .pool = pool_id(1),
						  .offset = 4032,
						  .key_len = 32,
						  .count = 126,
						  .source = "app1",
						  .destination = "app2"}),
			 ST_OK);
	assert_int_equal(deliver(x, 1, 4064), ST_OK);
	no_plaintext(x);
	assert_true(recoverable(x, 1)); /* delivered, not cut out yet */
	rotate(x);
	assert_false(recoverable(x, 0));
	assert_false(recoverable(x, 1)); /* its first key was delivered and is cut out */
	assert_true(recoverable(x, 2));  /* nothing of it is spent */
	no_plaintext(x);
	assert_int_equal(deliver(x, 1, 4064), ST_KEY_GONE);
	assert_int_equal(deliver(x, 1, 4096), ST_OK);
	store_close(x);
	store_open(x);
	assert_int_equal(take(x, 1, 40000 - 8064), ST_OK);
	rotate(x);
	for (uint64_t i = 0; i < 9; i++)
		assert_false(recoverable(x, i));
	assert_int_equal(deliver(x, 1, 4128), ST_OK);
}

static void what_void_below_gave_up_is_erased_too(void **state)
{
	struct store *x = *state;

	fill(x, 1, 40000);
	assert_int_equal(
	    op_simple(x, (struct op){.kind = OP_VOID_BELOW, .pool = pool_id(1), .offset = 30000}), ST_OK);
	rotate(x);
	for (uint64_t i = 0; i < 7; i++)
		assert_false(recoverable(x, i));
	assert_true(recoverable(x, 8));
	assert_int_equal(op_simple(x, (struct op){.kind = OP_RETIRE, .pool = pool_id(1)}), ST_OK);
	rotate(x);
	assert_false(recoverable(x, 8));
}

/* More than a step of the sweep does: a rotation waits for the round's end. */
static void much_that_was_given_up_is_erased_too(void **state)
{
	enum { CHUNKS = 600 };
	struct store *x = *state;

	fill(x, 1, CHUNKS * CHUNK_BYTES);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_VOID_BELOW,
						  .pool = pool_id(1),
						  .offset = (CHUNKS - 1) * CHUNK_BYTES}),
			 ST_OK);
	rotate(x);
	for (uint64_t i = 0; i < CHUNKS - 1; i += 37)
		assert_false(recoverable(x, i));
	assert_false(recoverable(x, CHUNKS - 2));
	assert_true(recoverable(x, CHUNKS - 1));
}

/* A key that is delivered where a round of the sweep has been already: a rotation waits for the round after it. */
static void what_a_round_has_passed_is_erased_too(void **state)
{
	enum { CHUNKS = 600, ROUND_THE_SWEEP = 256 /* works, of which one brings a step of it */ };
	struct store *x = *state;

	fill(x, 1, 40000);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_ASSIGN,
						  .pool = pool_id(1),
						  .key_len = 32,
						  .count = 126,
						  .source = "app1",
						  .destination = "app2"}),
			 ST_OK);
	fill(x, 2, CHUNKS * CHUNK_BYTES);
	assert_int_equal(op_simple(x, (struct op){.kind = OP_VOID_BELOW,
						  .pool = pool_id(2),
						  .offset = CHUNKS * CHUNK_BYTES}),
			 ST_OK);
	for (int i = 0; i < ROUND_THE_SWEEP; i++)
		get(x, 1);
	assert_int_equal(deliver(x, 1, 32), ST_OK);
	rotate(x);
	assert_false(recoverable(x, 0));
	assert_true(recoverable(x, 1));
}

/* The file with the old data key is overwritten: who still has it open finds nothing there. */
static void the_old_data_key_is_overwritten(void **state)
{
	struct store *x = *state;
	char *keys = joined(x, "keys");
	int fd = open(keys, O_RDONLY);
	uint8_t left[90], none[sizeof left] = {0};

	rotate(x);
	assert_int_equal(pread(fd, left, sizeof left, 0), sizeof left);
	assert_memory_equal(left, none, sizeof left);
	close(fd);
	free(keys);
}

/* ---- ... where it cannot be written -------------------------------------------------------------------- */

static const struct kv_ops *honest;
static int commits_left; /* that succeed, before the others fail */
static const char *blocked; /* by a folder in its place, before the first commit */

static enum status commit_while_it_can(struct kv *kv)
{
	if (blocked != NULL)
		assert_int_equal(mkdir(blocked, 0700), 0);
	blocked = NULL;
	if (commits_left-- > 0)
		return honest->commit(kv);
	honest->abort(kv);
	return ST_STORAGE;
}

/* A rotation that does not come to its end while commits go on like this. */
static void rotate_in_vain(struct store *x, int commits)
{
	struct kv_ops ops = *x->ks->kv->ops;

	honest = x->ks->kv->ops;
	ops.commit = commit_while_it_can;
	commits_left = commits;
	x->ks->kv->ops = &ops;
	rotated = ST_INTERNAL;
	ks_rotate_data_key(x->ks, rotation_done, NULL);
	x->ks->kv->ops = honest;
	while (world_step(x->world))
		;
	assert_int_equal(rotated, ST_INTERNAL);
}

/* Any work brings the rest with it here. */
static void go_on(struct store *x)
{
	world_run(x->world, 2 * NS_PER_S);
	get(x, 1);
	while (world_step(x->world))
		;
}

static void all_is_there(struct store *x, uint64_t len)
{
	assert_int_equal(take(x, 1, len), ST_OK);
}

/* What was sealed anew in a step whose commit failed is under the old key still. */
static void a_rotation_that_cannot_be_committed_goes_on_later(void **state)
{
	enum { LEN = 600 * CHUNK_BYTES, COMMITS = 3 };
	struct store *x = *state;

	fill(x, 1, LEN);
	for (int commits = 0; commits < COMMITS; commits++) {
		rotate_in_vain(x, commits);
		go_on(x);
		assert_int_equal(rotated, ST_OK);
		assert_int_equal(data_keys(x), 1);
	}
	store_close(x);
	store_open(x);
	all_is_there(x, LEN);
}

/* One that is asked for while another runs is one of its own: it alone erases what is spent meanwhile. */
static void a_rotation_asked_for_meanwhile_erases_too(void **state)
{
	enum { LEN = 600 * CHUNK_BYTES };
	struct store *x = *state;

	fill(x, 1, LEN);
	rotate_in_vain(x, 2);
	assert_int_equal(data_keys(x), 2);
	rotate_in_vain(x, 0);
	assert_true(recoverable(x, 0));
	assert_int_equal(take(x, 1, CHUNK_BYTES), ST_OK);
	go_on(x);
	assert_int_equal(rotated, ST_OK);
	assert_false(recoverable(x, 0));
	all_is_there(x, LEN - CHUNK_BYTES);
}

/* The file of data keys cannot be written: neither is a new key used that it has not, nor an old one said to be
 * gone that it still has. */
static void a_rotation_whose_file_cannot_be_written_goes_on_later(void **state)
{
	enum { LEN = 40000 };
	struct store *x = *state, copy;
	char *fresh = joined(x, "keys.new");

	fill(x, 1, LEN);
	for (int round = 0; round < 2; round++) {
		if (round == 0)
			assert_int_equal(mkdir(fresh, 0700), 0);
		else
			blocked = fresh;
		rotate_in_vain(x, INT_MAX);
		go_on(x);
		assert_int_equal(rotated, ST_INTERNAL);
		assert_int_equal(data_keys(x), round + 1);
		assert_int_equal(rmdir(fresh), 0);
		copy = copy_of(x); /* as a kill would leave it */
		store_open(&copy);
		all_is_there(&copy, LEN);
		store_close(&copy);
		remove_folder(copy.dir);
		go_on(x);
		assert_int_equal(rotated, ST_OK);
		assert_int_equal(data_keys(x), 1);
	}
	store_close(x);
	store_open(x);
	all_is_there(x, LEN);
	free(fresh);
}

/* ---- ... where it is killed ---------------------------------------------------------------------------- */

/* A child takes a chunk's keys, begins a rotation and is killed so long after there were two data keys. false: it
 * was at its end before that. */
static bool killed_while_it_rotates(struct store *x, uint64_t ns)
{
	const struct timespec pause = {.tv_nsec = (long)ns};
	pid_t child;
	int status;
	bool begun = false;

	fflush(NULL);
	child = fork();
	if (child == 0) {
		store_open(x);
		if (take(x, 1, CHUNK_BYTES) != ST_OK)
			_exit(1);
		rotate(x);
		_exit(0);
	}
	while (!begun && waitpid(child, &status, WNOHANG) == 0)
		begun = data_keys(x) > 1;
	if (!begun)
		return false;
	nanosleep(&pause, NULL);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	return data_keys(x) > 1;
}

/* The next start ends it. */
static void a_rotation_that_was_killed_erases_too(void **state)
{
	enum { CHUNKS = 2000 };
	struct store *x = *state;
	unsigned in_the_middle = 0;

	fill(x, 1, CHUNKS * CHUNK_BYTES);
	for (uint64_t round = 0; round < 4; round++) {
		store_close(x);
		in_the_middle += killed_while_it_rotates(x, round * 4 * NS_PER_MS);
		store_open(x);
		assert_int_equal(get(x, 1).head, (round + 1) * CHUNK_BYTES); /* any work brings the rest with it here */
		assert_int_equal(data_keys(x), 1);
		assert_false(recoverable(x, round));
		assert_true(recoverable(x, CHUNKS - 1));
	}
	assert_true(in_the_middle > 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, lmdb_set_up, store_tear_down)
	const struct CMUnitTest tests[] = {
	    TEST(loose_modes_are_refused),
	    TEST(a_store_has_one_owner),
	    TEST(master_keys_are_not_overwritten),
	    TEST(a_wrong_master_key_is_refused),
	    TEST(missing_files_are_told),
	    TEST(an_older_copy_is_refused),
	    TEST(a_store_ahead_of_its_generation_file_opens),
	    TEST(a_full_disk_loses_nothing),
	    TEST(the_bound_on_the_file_is_kept),
	    TEST(spent_keys_cannot_be_recovered),
	    TEST(what_void_below_gave_up_is_erased_too),
	    TEST(much_that_was_given_up_is_erased_too),
	    TEST(what_a_round_has_passed_is_erased_too),
	    TEST(the_old_data_key_is_overwritten),
	    TEST(a_rotation_that_cannot_be_committed_goes_on_later),
	    TEST(a_rotation_asked_for_meanwhile_erases_too),
	    TEST(a_rotation_whose_file_cannot_be_written_goes_on_later),
	    TEST(a_rotation_that_was_killed_erases_too),
	    TEST(flipped_bits_never_give_wrong_keys),
	    TEST(what_was_shortened_is_no_damage),
	    TEST(flipped_bits_of_a_page_s_head_are_seen),
	    TEST(flipped_bits_beside_it_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
