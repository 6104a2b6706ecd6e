/*
 * test_ladder.c - the ladders of made-up traces against golden files (tests/golden/ladder).
 *
 * After a wanted change: QKDN_GOLDEN=write build/tests/unit/test_ladder, and read the difference.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "ladder.h"

#define FOLDER "tests/golden/ladder"

struct drawn {
	char *text;
	size_t len;
};

static void read_log(struct trace_log *log, const char *name)
{
	char *dir = xasprintf(FOLDER "/%s", name);
	struct err e;

	memset(log, 0, sizeof *log);
	assert_int_equal(trace_log_read(log, dir, &e), ST_OK);
	free(dir);
}

static struct drawn draw(const char *name, bool everything, const char *only, bool svg)
{
	struct ladder_style style = { false, false };
	struct trace_set set = { NULL, 0, 0 };
	struct trace_log log;
	struct ladder ladder;
	struct drawn d;
	FILE *f = open_memstream(&d.text, &d.len);

	read_log(&log, name);
	if (everything)
		trace_log_all(&log, &set);
	else
		trace_log_last(&log, &set);
	ladder_build(&ladder, &log, &set, only);
	if (svg)
		ladder_print_svg(f, &ladder, "Key supply & more");
	else
		ladder_print_text(f, &ladder, &style);
	fclose(f);
	ladder_free(&ladder);
	trace_set_free(&set);
	trace_log_free(&log);
	return d;
}

static void assert_golden(struct drawn d, const char *name)
{
	const char *mode = getenv("QKDN_GOLDEN");
	char *path = xasprintf(FOLDER "/%s", name), *golden;
	size_t len;
	struct err e;

	if (mode != NULL && strcmp(mode, "write") == 0)
		assert_int_equal(file_write(path, d.text, d.len, 0644, &e), ST_OK);
	assert_int_equal(file_read(path, 1 << 20, &golden, &len, &e), ST_OK);
	assert_string_equal(golden, d.text);
	free(golden);
	free(d.text);
	free(path);
}

/* The far KM's clock is behind: by time alone, it would answer before it was asked. */
static void order_is_causal_and_the_far_fetch_belongs(void **state)
{
	(void)state;
	assert_golden(draw("upon-request", false, NULL, false), "upon-request.txt");
}

static void points_can_be_left_out(void **state)
{
	(void)state;
	assert_golden(draw("upon-request", false, "Ak", false), "upon-request-ak.txt");
}

/* Applications keep no trace here; carol's and the controller's clocks are wrong. */
static void relays_stand_along_the_route(void **state)
{
	(void)state;
	assert_golden(draw("centralized-relay", false, NULL, false), "centralized-relay.txt");
}

static void distributed_controllers_stand_between_their_kms(void **state)
{
	(void)state;
	assert_golden(draw("proactive", false, NULL, false), "proactive.txt");
}

static void refusals_and_losses_show(void **state)
{
	(void)state;
	assert_golden(draw("refused", true, NULL, false), "refused.txt");
}

static void picture_is_stable(void **state)
{
	(void)state;
	assert_golden(draw("refused", true, NULL, true), "refused.svg");
}

static void foreign_lines_are_left_out_and_counted(void **state)
{
	struct trace_log log;

	(void)state;
	read_log(&log, "refused");
	assert_int_equal(log.malformed, 3); /* no fields, too few, an escape sequence in a name */
	for (size_t i = 0; i < log.count; i++)
		assert_null(strchr(log.events[i].message, '\x1b'));
	trace_log_free(&log);
}

/* As a full disk leaves them: at the end, and where its writer went on. */
static void lines_that_were_cut_short_are_left_out(void **state)
{
	static const char line[] = "1790000000000400000\t4b6c2d1e-0a3f-4c5d-8e7f-000000000001\tAk\tKey request\tapp/app1\t"
	                           "km/alice\treceived\ttoo-few-keys\n";
	char dir[] = "/tmp/qkdn-test-XXXXXX", *path;
	const size_t len = strlen(line);
	struct trace_log log;
	struct err e;

	(void)state;
	assert_non_null(mkdtemp(dir));
	path = xasprintf("%s/km.trace", dir);
	for (size_t cut = 1; cut < len; cut++) {
		char *text = xasprintf("%s%.*s\t\t\n%s%.*s", line, (int)cut, line, line, (int)cut, line);

		assert_int_equal(file_write(path, text, strlen(text), 0600, &e), ST_OK);
		free(text);
		memset(&log, 0, sizeof log);
		assert_int_equal(trace_log_read(&log, dir, &e), ST_OK);
		assert_int_equal(log.count, 2);
		assert_int_equal(log.malformed, 2);
		trace_log_free(&log);
	}
	unlink(path);
	rmdir(dir);
	free(path);
}

/* Ends that contradict each other (a clock set back) must not hang or lose a rung. */
static void contradictions_still_make_a_ladder(void **state)
{
	struct trace_event events[4];
	struct trace_log log = { .events = events, .count = 4 };
	struct trace_set set = { NULL, 0, 0 };
	struct ladder ladder;

	(void)state;
	memset(events, 0, sizeof events);
	for (int i = 0; i < 4; i++) {
		struct trace_event *event = &events[i];

		event->utc_ns = (uint64_t)i + 1;
		strcpy(event->point, "Kx-2");
		strcpy(event->message, i == 0 || i == 3 ? "A" : "B");
		strcpy(event->from, i == 0 || i == 3 ? "km/a" : "km/b");
		strcpy(event->to, i == 0 || i == 3 ? "km/b" : "km/a");
		strcpy(event->status, "-");
		event->sent = i >= 2; /* each end has received before it sends */
	}
	trace_log_index(&log);
	trace_log_all(&log, &set);
	ladder_build(&ladder, &log, &set, NULL);
	assert_int_equal(ladder.message_count, 2);
	ladder_free(&ladder);
	trace_set_free(&set);
	log.events = NULL; /* they are on the stack */
	trace_log_free(&log);
}

static void no_trace_files_is_told(void **state)
{
	char dir[] = "/tmp/qkdn-test-XXXXXX";
	struct trace_log log = { .events = NULL };
	struct err e;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(trace_log_read(&log, dir, &e), ST_NOT_FOUND);
	assert_non_null(strstr(e.text, "trace ="));
	rmdir(dir);
	assert_int_equal(trace_log_read(&log, dir, &e), ST_NOT_FOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order_is_causal_and_the_far_fetch_belongs),
		cmocka_unit_test(points_can_be_left_out),
		cmocka_unit_test(relays_stand_along_the_route),
		cmocka_unit_test(distributed_controllers_stand_between_their_kms),
		cmocka_unit_test(refusals_and_losses_show),
		cmocka_unit_test(picture_is_stable),
		cmocka_unit_test(foreign_lines_are_left_out_and_counted),
		cmocka_unit_test(lines_that_were_cut_short_are_left_out),
		cmocka_unit_test(contradictions_still_make_a_ladder),
		cmocka_unit_test(no_trace_files_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
