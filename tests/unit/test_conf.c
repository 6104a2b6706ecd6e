/*
 * test_conf.c - configuration: the golden files, values with units, what is printed parses again.
 *
 * tests/golden/conf/X.conf is loaded with the table below; X.out is what must come of it: the
 * settings as printed, or the complaint. QKDN_GOLDEN=write writes the .out files anew.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conf.h"
#include "file.h"

struct link {
	char *name, *peer, *initial_secret;
	int64_t block_size;
	int rate;
	double length_km;
};

struct settings {
	char *name, *note, *certificate, *controller;
	struct conf_strings listen, tags;
	int rpcbind;
	bool relay;
	int64_t workers, timeout, idle;
	struct {
		char *directory;
		int64_t max_bytes;
	} store;
	struct {
		char *url;
		int64_t every;
	} metrics;
	struct {
		int64_t low, high;
	} marks;
	struct conf_list links;
};

static const char *const rpcbind_words[] = { "required", "try", "off", NULL };
static const char *const rate_words[] = { "model", "fixed", "unlimited", NULL };

#define AT(member) .offset = offsetof(struct settings, member)
#define LINK(member) .offset = offsetof(struct link, member)

static const struct conf_option link_options[] = {
	{ "name", CONF_NAME, LINK(name), .required = true, .help = "of the QKD link" },
	{ "peer", CONF_NAME, LINK(peer), .required = true, .help = "KM at the other end" },
	{ "initial_secret", CONF_PATH, LINK(initial_secret) },
	{ "block_size", CONF_SIZE, LINK(block_size), .fallback = "8 KiB", .min = 64, .max = 1048576 },
	{ "rate", CONF_ENUM, LINK(rate), .fallback = "model", .words = rate_words },
	{ "length_km", CONF_FLOAT, LINK(length_km), .fallback = "20", .min = 0, .max = 1000 },
	{ NULL },
};
static const struct conf_option store_options[] = {
	{ "directory", CONF_PATH, .required = true, .help = "of the key store" },
	{ "max_bytes", CONF_SIZE, .offset = sizeof(char *), .fallback = "64 GiB" },
	{ NULL },
};
static const struct conf_option metrics_options[] = {
	{ "url", CONF_STRING, .required = true },
	{ "every", CONF_DURATION, .offset = sizeof(char *), .fallback = "15 s" },
	{ NULL },
};
static const struct conf_option mark_options[] = {
	{ "low", CONF_INTEGER, .fallback = "100", .min = 1, .max = 1000 },
	{ "high", CONF_INTEGER, .offset = sizeof(int64_t), .fallback = "1000" },
	{ NULL },
};
static const struct conf_option options[] = {
	{ "name", CONF_NAME, AT(name), .required = true, .help = "of this KM, the certificate's" },
	{ "note", CONF_STRING, AT(note) },
	{ "certificate", CONF_PATH, AT(certificate), .fallback = "pki/km.crt" },
	{ "controller", CONF_ADDRESS, AT(controller) },
	{ "listen", CONF_LISTEN, AT(listen), .required = true, .help = "addresses to listen at" },
	{ "tags", CONF_STRINGS, AT(tags), .fallback = "lab" },
	{ "rpcbind", CONF_ENUM, AT(rpcbind), .fallback = "try", .words = rpcbind_words },
	{ "relay", CONF_BOOL, AT(relay), .fallback = "true" },
	{ "workers", CONF_INTEGER, AT(workers), .fallback = "1", .min = 1, .max = 64 },
	{ "timeout", CONF_DURATION, AT(timeout), .fallback = "10 s", .min = 0.001, .max = 3600 },
	{ "idle", CONF_DURATION, AT(idle) },
	{ "store", CONF_GROUP, AT(store), .required = true, .sub = store_options,
	  .sub_size = sizeof ((struct settings *)0)->store, .help = "where keys are kept" },
	{ "metrics", CONF_GROUP, AT(metrics), .sub = metrics_options,
	  .sub_size = sizeof ((struct settings *)0)->metrics },
	{ "marks", CONF_GROUP, AT(marks), .sub = mark_options, .sub_size = sizeof ((struct settings *)0)->marks },
	{ "links", CONF_LIST, AT(links), .sub = link_options, .sub_size = sizeof(struct link) },
	{ NULL },
};

/* Settings as conf_print has them, or the complaint. The caller frees. */
static char *outcome_of(const char *path, bool *loaded)
{
	struct settings s = { 0 };
	struct err e = { 0 };
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	*loaded = conf_load(path, options, &s, &e) == ST_OK;
	if (*loaded)
		conf_print(to, options, &s);
	else
		fprintf(to, "%s\n", e.text);
	conf_free(options, &s);
	fclose(to);
	assert_int_equal(s.links.count, 0);
	assert_null(s.name);
	return text;
}

/* The folder's absolute name differs from machine to machine: "@" stands for it. */
static void hide_folder(char *text, const char *path)
{
	char *folder = realpath(path, NULL), *hit;

	*strrchr(folder, '/') = '\0';
	while ((hit = strstr(text, folder)) != NULL) {
		*hit = '@';
		memmove(hit + 1, hit + strlen(folder), strlen(hit + strlen(folder)) + 1);
	}
	free(folder);
}

static void expect_again(const char *printed)
{
	char path[] = "/tmp/qkdn-test-conf-XXXXXX";
	bool loaded;
	char *again;

	close(mkstemp(path));
	assert_int_equal(file_write(path, printed, strlen(printed), 0600, NULL), ST_OK);
	again = outcome_of(path, &loaded);
	unlink(path);
	assert_string_equal(again, printed);
	free(again);
}

static void check_golden(const char *path)
{
	char *golden = xstrdup(path), *expected;
	bool loaded;
	char *text = outcome_of(path, &loaded);
	size_t len;

	assert_int_equal(loaded, strstr(path, "/bad-") == NULL);
	if (loaded)
		expect_again(text);
	hide_folder(text, path);
	strcpy(strrchr(golden, '.'), ".out");
	if (getenv("QKDN_GOLDEN") != NULL)
		assert_int_equal(file_write(golden, text, strlen(text), 0644, NULL), ST_OK);
	assert_int_equal(file_read(golden, 65536, &expected, &len, NULL), ST_OK);
	assert_string_equal(text, expected);
	free(expected);
	free(golden);
	free(text);
}

static void golden_files(void **state)
{
	glob_t found;

	(void)state;
	assert_int_equal(glob("tests/golden/conf/*.conf", 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++)
		check_golden(found.gl_pathv[i]);
	assert_true(found.gl_pathc >= 20);
	globfree(&found);
}

static void defaults_and_units(void **state)
{
	struct settings s = { 0 };
	struct link *links;
	struct err e = { 0 };

	(void)state;
	assert_int_equal(conf_load("tests/golden/conf/full.conf", options, &s, &e), ST_OK);
	links = s.links.items;
	assert_int_equal(s.rpcbind, 2);
	assert_int_equal(s.timeout, INT64_C(1500000000));
	assert_int_equal(s.idle, INT64_C(3600000000000));
	assert_int_equal(s.store.max_bytes, INT64_C(10) << 30);
	assert_int_equal(s.marks.low, 100);
	assert_null(s.metrics.url);
	assert_int_equal(s.metrics.every, 0);
	assert_int_equal(s.links.count, 2);
	assert_int_equal(links[0].block_size, 65536);
	assert_true(links[1].length_km == 20.0);
	conf_free(options, &s);
}

static void a_missing_file_is_told(void **state)
{
	struct settings s = { 0 };
	struct err e = { 0 };

	(void)state;
	assert_int_equal(conf_load("/nonexistent/x.conf", options, &s, &e), ST_CONFIGURATION);
	assert_non_null(strstr(e.text, "/nonexistent/x.conf"));
	assert_non_null(strstr(e.text, "No such file"));
	assert_int_equal(conf_load("tests/golden", options, &s, &e), ST_CONFIGURATION);
	assert_non_null(strstr(e.text, "tests/golden: cannot be read: not a file"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden_files),
		cmocka_unit_test(defaults_and_units),
		cmocka_unit_test(a_missing_file_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
