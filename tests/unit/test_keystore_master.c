/*
 * test_keystore_master.c - the making of a store, and the change of its master key. Wherever they are stopped the store
 * opens without help, with the one or the other key alone; nothing in it is lost. And what they replace a file
 * with is durable before, as is its name before anything relies on it: a power cut is no worse than a kill.
 */
#include "keystore_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/wait.h>

enum { STOPPED = 77, DONE = 78, KEY_LEN = 32 };

/* ---- stopping --------------------------------------------------------------------------------------- */

static int calls_left = -1; /* that change a file, before the process ends; -1: it does not */

static bool stops_here(void)
{
	return calls_left >= 0 && calls_left-- == 0;
}

/* ---- the order of writes ------------------------------------------------------------------------------ */

/* Files, or folders, by their inodes. */
struct inodes {
	ino_t items[16];
	size_t count;
};

static struct inodes unsynced, renamed_in; /* files that were written, folders in which one was renamed */
static unsigned disorders;                 /* what a power cut would have made another state of than a kill */

static size_t inode_at(const struct inodes *set, ino_t inode)
{
	size_t i = 0;

	while (i < set->count && set->items[i] != inode)
		i++;
	return i;
}

static void inode_add(struct inodes *set, const struct stat *st)
{
	if (inode_at(set, st->st_ino) < set->count)
		return;
	assert_true(set->count < ARRAY_LEN(set->items));
	set->items[set->count++] = st->st_ino;
}

static void inode_drop(struct inodes *set, ino_t inode)
{
	size_t i = inode_at(set, inode);

	if (i < set->count)
		set->items[i] = set->items[--set->count];
}

static void written(int fd)
{
	struct stat st;

	if (fd <= STDERR_FILENO || (fcntl(fd, F_GETFL) & O_DSYNC) != 0 || fstat(fd, &st) != 0)
		return;
	inode_add(&unsynced, &st);
	disorders += renamed_in.count > 0;
}

static void synced(int fd)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return;
	inode_drop(&unsynced, st.st_ino);
	inode_drop(&renamed_in, st.st_ino);
}

static void renamed(const char *from, const char *to)
{
	char *copy = xstrdup(to);
	struct stat st;

	if (stat(from, &st) == 0)
		disorders += renamed_in.count > 0 || inode_at(&unsynced, st.st_ino) < unsynced.count;
	if (stat(dirname(copy), &st) == 0)
		inode_add(&renamed_in, &st);
	free(copy);
}

static void begin_order(void)
{
	unsynced.count = renamed_in.count = disorders = 0;
}

static void all_was_in_order(void)
{
	assert_int_equal(disorders, 0);
	assert_int_equal(unsynced.count, 0);
	assert_int_equal(renamed_in.count, 0);
}

/* ---- the calls that both look at ---------------------------------------------------------------------- */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, mode_t mode);
int __wrap_open(const char *path, int flags, mode_t mode)
{
	if ((flags & O_CREAT) != 0 && stops_here())
		_exit(STOPPED);
	return __real_open(path, flags, mode);
}

static int writes_left = -1; /* before one finds the disk full, in the middle; -1: none does */

static bool is_full(int fd)
{
	return fd > STDERR_FILENO && writes_left >= 0 && writes_left-- == 0;
}

/* A write is stopped in the middle. */
ssize_t __real_write(int fd, const void *p, size_t len);
ssize_t __wrap_write(int fd, const void *p, size_t len);
ssize_t __wrap_write(int fd, const void *p, size_t len)
{
	bool full = is_full(fd);

	written(fd);
	if (!full && !stops_here())
		return __real_write(fd, p, len);
	(void)!__real_write(fd, p, len / 2);
	if (!full)
		_exit(STOPPED);
	errno = ENOSPC;
	return -1;
}

ssize_t __real_pwrite(int fd, const void *p, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *p, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *p, size_t len, off_t at)
{
	written(fd);
	if (!stops_here())
		return __real_pwrite(fd, p, len, at);
	(void)!__real_pwrite(fd, p, len / 2, at);
	_exit(STOPPED);
}

#define STOPPABLE(name, parameters, arguments, noted)                                                        \
	int __real_##name parameters;                                                                        \
	int __wrap_##name parameters;                                                                        \
	int __wrap_##name parameters                                                                         \
	{                                                                                                    \
		if (stops_here())                                                                            \
			_exit(STOPPED);                                                                      \
		noted;                                                                                       \
		return __real_##name arguments;                                                              \
	}

STOPPABLE(fsync, (int fd), (fd), synced(fd))
STOPPABLE(close, (int fd), (fd), (void)0)
STOPPABLE(unlink, (const char *path), (path), (void)0)

static int renames_that_fail; /* of a next master key's file */

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
	size_t len = strlen(from);

	if (stops_here())
		_exit(STOPPED);
	if (renames_that_fail > 0 && len > 5 && strcmp(from + len - 5, ".next") == 0) {
		renames_that_fail--;
		errno = EIO;
		return -1;
	}
	renamed(from, to);
	return __real_rename(from, to);
}

/* ---- the store ---------------------------------------------------------------------------------------- */

static int set_up(void **state)
{
	begin_order();
	lmdb_set_up(state);
	fill(*state, 1, 40000);
	return 0;
}

static int tear_down(void **state)
{
	calls_left = -1;
	return store_tear_down(state);
}

static const char *next_of(const struct store *x)
{
	static char path[256];

	snprintf(path, sizeof path, "%s.next", x->master);
	return path;
}

static void make_next(const struct store *x)
{
	struct err e;

	if (access(next_of(x), F_OK) != 0)
		assert_int_equal(ks_master_key_make(next_of(x), &e), ST_OK);
}

struct key {
	uint8_t bytes[KEY_LEN];
};

static struct key key_in(const char *path)
{
	struct secret s = {NULL, 0};
	struct key key;
	struct err e;

	assert_int_equal(file_read_secret(path, KEY_LEN, &s, &e), ST_OK);
	memcpy(key.bytes, s.bytes, KEY_LEN);
	secret_free(&s);
	return key;
}

/* With the file that would miss it. */
static void remove_store(const struct store *x)
{
	remove_folder(x->store);
	unlink(x->generation);
}

static bool same(struct key a, struct key b)
{
	return memcmp(a.bytes, b.bytes, KEY_LEN) == 0;
}

static void put_key(const char *path, struct key key)
{
	struct err e;

	assert_int_equal(file_write(path, key.bytes, KEY_LEN, 0600, &e), ST_OK);
}

static enum status changed;
static struct err why;

static void change_done(enum status s, void *arg)
{
	(void)arg;
	changed = s;
}

static enum status change(struct store *x)
{
	changed = ST_INTERNAL;
	ks_rotate_master_key(x->ks, &why, change_done, NULL);
	while (world_step(x->world))
		;
	return changed;
}

static void keys_are_there(struct store *x)
{
	struct op o = {.kind = OP_TAKE, .pool = pool_id(1), .min = 100, .max = 100, .granule = 1};

	assert_int_equal(op_run(x, &o), ST_OK);
	assert_true(is_pattern(&o.out, o.number));
	secret_free(&o.out);
}

/* ---- the tests ---------------------------------------------------------------------------------------- */

static void the_next_one_takes_its_place(void **state)
{
	struct store *x = *state;
	struct key old = key_in(x->master), next;

	make_next(x);
	next = key_in(next_of(x));
	assert_int_equal(change(x), ST_OK);
	keys_are_there(x);
	assert_true(same(key_in(x->master), next));
	assert_int_not_equal(access(next_of(x), F_OK), 0);
	store_close(x);
	store_open(x);
	keys_are_there(x);
	store_close(x);
	put_key(x->master, old);
	refused(x, "another master key");
	put_key(x->master, next);
	store_open(x);
	keys_are_there(x);
}

static void what_is_no_next_one_is_refused(void **state)
{
	struct store *x = *state;
	struct key old = key_in(x->master);
	struct err e;

	assert_int_equal(change(x), ST_CONFIGURATION);
	assert_non_null(strstr(why.text, next_of(x)));
	assert_int_equal(file_write(next_of(x), "short", 5, 0600, &e), ST_OK);
	assert_int_equal(change(x), ST_CONFIGURATION);
	assert_non_null(strstr(why.text, "32 bytes"));
	put_key(next_of(x), old);
	assert_int_equal(change(x), ST_CONFLICT);
	unlink(next_of(x));
	make_next(x);
	chmod(next_of(x), 0640);
	assert_int_equal(change(x), ST_CONFIGURATION);
	assert_non_null(strstr(why.text, "chmod"));
	assert_true(same(key_in(x->master), old));
	keys_are_there(x);
	store_close(x);
	store_open(x); /* a file that is no key is no hindrance */
	keys_are_there(x);
}

/* The old key's bytes are in its file no more, should anybody still hold that. */
static void the_old_one_is_overwritten(void **state)
{
	struct store *x = *state;
	int fd = open(x->master, O_RDONLY, 0);
	struct key left, none = {{0}};

	make_next(x);
	assert_int_equal(change(x), ST_OK);
	assert_int_equal(pread(fd, left.bytes, KEY_LEN, 0), KEY_LEN);
	close(fd);
	assert_true(same(left, none));
}

static void a_folder_that_cannot_be_written_is_told(void **state)
{
	struct store *x = *state;
	struct key old = key_in(x->master);
	char *blocked = xasprintf("%s/keys.new", x->store);

	make_next(x);
	assert_int_equal(mkdir(blocked, 0700), 0);
	assert_int_equal(change(x), ST_STORAGE);
	assert_non_null(strstr(why.text, "ask again"));
	assert_true(same(key_in(x->master), old));
	keys_are_there(x);
	assert_int_equal(rmdir(blocked), 0);
	assert_int_equal(change(x), ST_OK);
	keys_are_there(x);
	free(blocked);
}

/* The data keys are under the next one then, and its file is where it was: asked again, it is put in its place. */
static void one_that_cannot_take_its_place_does_later(void **state)
{
	struct store *x = *state;
	struct key next, old = key_in(x->master);

	make_next(x);
	next = key_in(next_of(x));
	renames_that_fail = 2;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(change(x), ST_STORAGE);
		assert_true(same(key_in(x->master), old) && same(key_in(next_of(x)), next));
		keys_are_there(x);
	}
	assert_int_equal(change(x), ST_OK);
	assert_true(same(key_in(x->master), next));
	store_close(x);
	store_open(x);
	keys_are_there(x);
}

static void with_two_wrong_keys_it_is_refused(void **state)
{
	struct store *x = *state;
	struct err e;

	store_close(x);
	unlink(x->master);
	assert_int_equal(ks_master_key_make(x->master, &e), ST_OK);
	make_next(x);
	refused(x, next_of(x));
}

static void what_it_replaces_is_durable(void **state)
{
	struct store *x = *state;

	make_next(x);
	begin_order();
	assert_int_equal(change(x), ST_OK);
	all_was_in_order();
	store_close(x);
	remove_store(x);
	begin_order();
	store_open(x);
	all_was_in_order();
}

static enum status make(struct store *x)
{
	struct err e;

	return store_try_open(x, &e);
}

static enum status go_on(struct store *x)
{
	world_run(x->world, 11 * NS_PER_S);
	keys_are_there(x);
	return ST_OK;
}

static enum status make_data_key(struct store *x)
{
	changed = ST_INTERNAL;
	ks_rotate_data_key(x->ks, change_done, NULL);
	while (world_step(x->world))
		;
	return changed;
}

/* A child is stopped in the n-th call; false: it came to the end. */
static bool stopped_at(struct store *x, enum status (*doing)(struct store *x), int n)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		if (doing != make)
			store_open(x);
		calls_left = n;
		if (doing(x) != ST_OK)
			_exit(1);
		_exit(DONE);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) == STOPPED || WEXITSTATUS(status) == DONE);
	return WEXITSTATUS(status) == STOPPED;
}

static void wherever_it_is_stopped_one_of_the_two_opens(void **state)
{
	struct store *x = *state;
	int n = 0, before = 0, after = 0;
	bool stopped = true;

	store_close(x);
	for (; stopped; n++) {
		struct key old = key_in(x->master), next;
		bool was_changed;

		make_next(x);
		next = key_in(next_of(x));
		stopped = stopped_at(x, change, n);
		store_open(x);
		keys_are_there(x);
		store_close(x);
		was_changed = same(key_in(x->master), next);
		assert_true(was_changed || same(key_in(x->master), old));
		assert_int_equal(access(next_of(x), F_OK) != 0, was_changed);
		before += !was_changed;
		after += was_changed;
		unlink(next_of(x));
		put_key(x->master, was_changed ? old : next);
		refused(x, "another master key");
		put_key(x->master, was_changed ? next : old);
	}
	assert_true(n > 10 && before > 3 && after > 3);
	store_open(x);
}

static void wherever_its_making_is_stopped_it_opens(void **state)
{
	struct store *x = *state;
	bool stopped = true;
	int n = 0;

	store_close(x);
	for (; stopped; n++) {
		remove_store(x);
		stopped = stopped_at(x, make, n);
		store_open(x);
		fill(x, 1, 1000);
		store_close(x);
		store_open(x);
		keys_are_there(x);
		store_close(x);
	}
	assert_true(n > 20);
	store_open(x);
}

static bool has_room(struct store *x, enum status (*doing)(struct store *x), int writes)
{
	enum status s;
	bool room;

	if (doing == make) {
		store_close(x);
		remove_store(x);
	}
	writes_left = writes;
	s = doing(x);
	room = writes_left >= 0;
	writes_left = -1;
	assert_true(s == ST_OK || (s == ST_STORAGE && !room));
	assert_true(s == ST_STORAGE || room || doing == go_on || doing == make_data_key);
	if (doing == make && s != ST_OK)
		x->ks = NULL;
	else
		store_close(x);
	store_open(x);
	if (doing != make)
		keys_are_there(x);
	return room;
}

/* Each write of these finds the disk full in turn: it is told, or done later, and what was there is used as before. */
static void a_full_disk_leaves_what_was_there(void **state)
{
	enum status (*const doing[])(struct store *) = {change, make_data_key, go_on, make};

	for (size_t i = 0; i < ARRAY_LEN(doing); i++) {
		int writes = 0;

		make_next(*state);
		while (!has_room(*state, doing[i], writes))
			writes++;
		assert_true(writes > 0);
	}
}

/* Never is a data key gone, or not yet there, under which anything is sealed. */
static void wherever_a_new_data_key_is_stopped_it_opens(void **state)
{
	struct store *x = *state;
	bool stopped = true;
	int n = 0;

	store_close(x);
	for (; stopped; n++) {
		stopped = stopped_at(x, make_data_key, n);
		store_open(x);
		keys_are_there(x);
		store_close(x);
	}
	assert_true(n > 12);
	store_open(x);
}

/* With the commit that has the next generation, or without it, but never with the file that has it alone. */
static void wherever_its_generation_is_stopped_it_opens(void **state)
{
	struct store *x = *state;
	bool stopped = true;
	int n = 0;

	store_close(x);
	for (; stopped; n++) {
		stopped = stopped_at(x, go_on, n);
		store_open(x);
		keys_are_there(x);
		store_close(x);
	}
	assert_true(n > 6);
	store_open(x);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    TEST(the_next_one_takes_its_place),
	    TEST(what_is_no_next_one_is_refused),
	    TEST(the_old_one_is_overwritten),
	    TEST(a_folder_that_cannot_be_written_is_told),
	    TEST(one_that_cannot_take_its_place_does_later),
	    TEST(with_two_wrong_keys_it_is_refused),
	    TEST(what_it_replaces_is_durable),
	    TEST(wherever_it_is_stopped_one_of_the_two_opens),
	    TEST(wherever_its_making_is_stopped_it_opens),
	    TEST(a_full_disk_leaves_what_was_there),
	    TEST(wherever_a_new_data_key_is_stopped_it_opens),
	    TEST(wherever_its_generation_is_stopped_it_opens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
