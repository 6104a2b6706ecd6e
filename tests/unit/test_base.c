/* test_base.c - identifiers, statuses, bounded logs, files, the real and the virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "address.h"
#include "env_event.h"
#include "env_virtual.h"
#include "file.h"
#include "id.h"
#include "log.h"

static void id_text_round_trip(void **state)
{
	const char *text = "00112233-4455-6677-8899-aabbccddeeff";
	char back[ID_TEXT_LEN];
	struct id id;

	(void)state;
	assert_true(id_parse(&id, text));
	assert_int_equal(id.bytes[15], 0xff);
	id_format(&id, back);
	assert_string_equal(back, text);
	assert_false(id_parse(&id, "00112233-4455-6677-8899-aabbccddeef"));
	assert_false(id_parse(&id, "00112233-4455-6677-8899-aabbccddeefg"));
	assert_false(id_parse(&id, "001122334-455-6677-8899-aabbccddeeff"));
}

static void names_fit_a_uri_and_a_file(void **state)
{
	(void)state;
	assert_true(name_is_valid("alice-1.lab_A"));
	assert_false(name_is_valid(""));
	assert_false(name_is_valid("../x"));
	assert_false(name_is_valid("a b"));
	assert_false(name_is_valid("-n"));
	assert_false(name_is_valid("01234567890123456789012345678901234567890123456789012345678901234"));
}

static void errors_carry_context(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(err_set(&e, ST_STORAGE, "disk %d", 3), ST_STORAGE);
	assert_int_equal(err_prefix(&e, "opening"), ST_STORAGE);
	assert_string_equal(e.text, "opening: disk 3");
	assert_string_equal(status_name(ST_TOO_FEW_KEYS), "too-few-keys");
	assert_int_equal(status_exit_code(ST_TOO_FEW_KEYS), 3);
}

static void log_lines_are_bounded(void **state)
{
	struct log_limit limit = { .interval_ns = NS_PER_S, .burst = 3 };
	unsigned held_back, passed = 0;

	(void)state;
	for (int i = 0; i < 10; i++)
		passed += log_limit_pass(&limit, NS_PER_S, &held_back);
	assert_int_equal(passed, 3);
	assert_true(log_limit_pass(&limit, 3 * NS_PER_S, &held_back));
	assert_int_equal(held_back, 7);
}

/* Those that were held back last are told at the end, where there are any. */
static void no_held_back_line_is_forgotten(void **state)
{
	struct log_limit none = { .interval_ns = NS_PER_S, .burst = 3 }, limit = none;
	char path[] = "/tmp/qkdn-test-XXXXXX", text[256] = "";
	int err = dup(STDERR_FILENO), fd = mkstemp(path);
	unsigned held_back;

	(void)state;
	assert_true(err >= 0 && dup2(fd, STDERR_FILENO) >= 0);
	for (int i = 0; i < 10; i++)
		(void)log_limit_pass(&limit, NS_PER_S, &held_back);
	log_limit_end(&none, "link %s", "a");
	log_limit_end(&limit, "link %s", "b");
	dup2(err, STDERR_FILENO);
	close(err);
	assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
	close(fd);
	unlink(path);
	assert_non_null(strstr(text, "link b: 7 more lines were held back\n"));
	assert_null(strstr(text, "link a"));
}

/* Files can be so long; RLIM_INFINITY: as long as they want. */
static void limit_files(rlim_t most)
{
	struct rlimit limit;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = most;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Where there is room again it is told how many lines are missing, and the one that was cut short is a line of its own. */
static void a_log_without_room_goes_on(void **state)
{
	char path[] = "/tmp/qkdn-test-XXXXXX", text[512] = "";
	int err = dup(STDERR_FILENO), fd = mkstemp(path);

	(void)state;
	assert_true(err >= 0 && fcntl(fd, F_SETFL, O_APPEND) == 0 && dup2(fd, STDERR_FILENO) >= 0);
	log_info("whole");
	limit_files((rlim_t)lseek(fd, 0, SEEK_END) + 12);
	for (int i = 0; i < 3; i++)
		log_info("no room");
	limit_files(RLIM_INFINITY);
	log_info("room");
	log_info("more");
	dup2(err, STDERR_FILENO);
	close(err);
	assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
	close(fd);
	unlink(path);
	assert_string_equal(text, "qkdn: whole\nqkdn: no roo\nqkdn: room\nqkdn: warning: 3 lines before this one could not be "
	                          "written: is there room on the disk?\nqkdn: more\n");
}

static void private_files_are_checked(void **state)
{
	char path[] = "/tmp/qkdn-test-XXXXXX";
	struct secret s = { NULL, 0 };
	struct err e;

	(void)state;
	close(mkstemp(path));
	assert_int_equal(file_write(path, "secret", 6, 0600, &e), ST_OK);
	assert_int_equal(file_read_secret(path, 6, &s, &e), ST_OK);
	assert_int_equal(s.len, 6);
	secret_free(&s);
	assert_int_equal(file_read_secret(path, 5, &s, &e), ST_CONFIGURATION);
	assert_int_equal(chmod(path, 0640), 0);
	assert_int_equal(file_read_secret(path, 6, &s, &e), ST_CONFIGURATION);
	assert_non_null(strstr(e.text, "chmod"));
	unlink(path);
}

/* Without a heap (an application that uses libqkdn), with one, and with one that is full. */
static void secrets_fit_anywhere(void **state)
{
	struct secret early, more[300];
	struct err e;

	(void)state;
	secret_copy(&early, "early", 5);
	assert_int_equal(secret_init(4096, &e), ST_OK);
	assert_int_equal(prctl(PR_GET_DUMPABLE), 0);
	for (size_t i = 0; i < ARRAY_LEN(more); i++) {
		secret_alloc(&more[i], 32);
		memset(more[i].bytes, (int)i, 32);
	}
	for (size_t i = 0; i < ARRAY_LEN(more); i++) {
		assert_int_equal(more[i].bytes[31], (uint8_t)i);
		secret_free(&more[i]);
		assert_null(more[i].bytes);
	}
	assert_memory_equal(early.bytes, "early", 5);
	secret_free(&early);
	secret_free(&early);
}

struct ticks {
	struct env *env;
	struct env_timer *timer;
	uint64_t at[4];
	int count;
};

static void tick(void *arg)
{
	struct ticks *t = arg;

	t->at[t->count++] = env_mono(t->env);
	if (t->count < 3)
		env_timer_set(t->env, t->timer, NS_PER_S);
}

static void virtual_clock_jumps(void **state)
{
	struct world *w = world_new(1);
	struct ticks t = { .env = env_virtual_new(w) };

	(void)state;
	t.timer = env_timer_new(t.env, tick, &t);
	env_timer_set(t.env, t.timer, 5 * NS_PER_S);
	env_timer_set(t.env, t.timer, NS_PER_S); /* moved, not doubled */
	world_run(w, 2 * NS_PER_S);
	assert_int_equal(t.count, 2);
	world_run(w, 10 * NS_PER_S);
	assert_int_equal(t.count, 3);
	assert_int_equal(t.at[2], 3 * NS_PER_S);
	assert_int_equal(world_now(w), 12 * NS_PER_S);
	env_timer_free(t.env, t.timer);
	assert_false(world_step(w));
	env_virtual_free(t.env);
	world_free(w);
}

/* A callback that takes its time leaves the loop with an old idea of now. */
static void dawdle(void *arg)
{
	struct ticks *t = arg;
	uint64_t begun = env_mono(t->env);

	while (env_mono(t->env) - begun < 30 * NS_PER_MS)
		;
	t->at[t->count++] = env_mono(t->env);
	env_timer_set(t->env, t->timer, 40 * NS_PER_MS);
}

static void last_tick(void *arg)
{
	struct ticks *t = arg;

	t->at[t->count++] = env_mono(t->env);
	env_event_stop(t->env);
}

static void real_timers_are_never_early(void **state)
{
	struct ticks t = { .env = env_event_new() };
	struct env_timer *first = env_timer_new(t.env, dawdle, &t);

	(void)state;
	t.timer = env_timer_new(t.env, last_tick, &t);
	env_timer_set(t.env, first, 0);
	env_event_run(t.env);
	assert_int_equal(t.count, 2);
	assert_true(t.at[1] - t.at[0] >= 40 * NS_PER_MS);
	env_timer_free(t.env, t.timer);
	env_timer_free(t.env, first);
	env_event_free(t.env);
}

/* Posts itself again and again: neither timers nor other threads may have to wait for its end. */
struct poster {
	struct env *env;
	struct env_timer *timer;
	unsigned posts, seen, told;
	bool over;
	pthread_t other;
};

enum { POSTS_MOST = 10 * 1000 * 1000 };

static void post_again(void *arg)
{
	struct poster *p = arg;

	if (!p->over && ++p->posts < POSTS_MOST)
		env_post(p->env, post_again, p);
	if (p->posts == POSTS_MOST)
		env_event_stop(p->env);
}

static void other_told(void *arg)
{
	struct poster *p = arg;

	if (++p->told < 2)
		return;
	p->over = true;
	env_event_stop(p->env);
}

static void *tell_from_elsewhere(void *arg)
{
	struct poster *p = arg;

	env_post(p->env, other_told, p);
	return NULL;
}

static void begin_posting(void *arg)
{
	struct poster *p = arg;

	env_timer_set(p->env, p->timer, 5 * NS_PER_MS);
	assert_int_equal(pthread_create(&p->other, NULL, tell_from_elsewhere, p), 0);
	post_again(p);
}

static void posts_leave_room_for_others(void **state)
{
	struct poster p = { .env = env_event_new() };

	(void)state;
	p.timer = env_timer_new(p.env, other_told, &p);
	env_post(p.env, begin_posting, &p); /* before the loop runs */
	env_event_run(p.env);
	assert_int_equal(pthread_join(p.other, NULL), 0);
	assert_int_equal(p.told, 2);
	assert_true(p.posts > 0 && p.posts < POSTS_MOST);
	env_timer_free(p.env, p.timer);
	env_event_free(p.env);
}

static void see_order(void *arg)
{
	struct poster *p = arg;

	assert_int_equal(p->seen++ % 2, 0);
}

static void see_last(void *arg)
{
	struct poster *p = arg;

	assert_int_equal(p->seen++ % 2, 1);
	if (p->seen == 4)
		env_event_stop(p->env);
}

static void post_two(void *arg)
{
	struct poster *p = arg;
	unsigned before = p->seen;

	env_post(p->env, see_order, p);
	env_post(p->env, see_last, p);
	assert_int_equal(p->seen, before); /* not before this callback is over */
}

/* From a timer's callback, and from a post. */
static void posts_run_in_order_after_the_callback(void **state)
{
	struct poster p = { .env = env_event_new() };

	(void)state;
	p.timer = env_timer_new(p.env, post_two, &p);
	env_timer_set(p.env, p.timer, 0);
	env_post(p.env, post_two, &p);
	env_event_run(p.env);
	assert_int_equal(p.seen, 4);
	env_timer_free(p.env, p.timer);
	env_event_free(p.env);
}

static void freed_secrets_come_back_zeroed(void **state)
{
	enum { LARGE = 100 * 1000, MANY = 100 };
	static const uint8_t zeros[LARGE];
	struct secret s[MANY];

	(void)state;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < MANY; i++) {
			secret_alloc(&s[i], (size_t)LARGE - (size_t)(i % 3) * 5000);
			assert_memory_equal(s[i].bytes, zeros, s[i].len);
			memset(s[i].bytes, 0xa5, s[i].len);
		}
		for (int i = 0; i < MANY; i++)
			secret_free(&s[i]);
	}
}

static void addresses_split(void **state)
{
	char longest[1 + 253 + 1] = ""; /* but for its first letter it is short enough for a name */
	const struct {
		const char *text, *host;
		uint16_t port;
	} cases[] = {
		{ "127.0.0.1:7001", "127.0.0.1", 7001 },
		{ "km.lab", "km.lab", 0 },
		{ "[::1]:7001", "::1", 7001 },
		{ "[fe80::1]", "fe80::1", 0 },
		{ "fe80::1", "fe80::1", 0 },
		{ "km.lab:65535", "km.lab", 65535 },
		{ "", NULL, 0 },
		{ ":7001", NULL, 0 },
		{ "km:", NULL, 0 },
		{ "km:0", NULL, 0 },
		{ "km:65536", NULL, 0 },
		{ "km:70x", NULL, 0 },
		{ "km lab:1", NULL, 0 },
		{ "[::1", NULL, 0 },
		{ "[::1]7", NULL, 0 },
		{ "[km]:7", NULL, 0 },
		{ "a:b:c", NULL, 0 },
		{ "km:-1", NULL, 0 },
		{ longest + 1, longest + 1, 0 },
		{ longest, NULL, 0 },
	};

	(void)state;
	memset(longest, 'a', sizeof longest - 1);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		char *host = NULL;
		uint16_t port;
		bool ok = address_split(cases[i].text, &host, &port);

		assert_int_equal(ok, cases[i].host != NULL);
		if (!ok)
			continue;
		assert_string_equal(host, cases[i].host);
		assert_int_equal(port, cases[i].port);
		free(host);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(id_text_round_trip),        cmocka_unit_test(names_fit_a_uri_and_a_file),
		cmocka_unit_test(errors_carry_context),      cmocka_unit_test(log_lines_are_bounded),
		cmocka_unit_test(no_held_back_line_is_forgotten), cmocka_unit_test(a_log_without_room_goes_on),
		cmocka_unit_test(freed_secrets_come_back_zeroed),
		cmocka_unit_test(private_files_are_checked), cmocka_unit_test(virtual_clock_jumps),
		cmocka_unit_test(secrets_fit_anywhere),
		cmocka_unit_test(real_timers_are_never_early),
		cmocka_unit_test(posts_leave_room_for_others),
		cmocka_unit_test(posts_run_in_order_after_the_callback),
		cmocka_unit_test(addresses_split),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
