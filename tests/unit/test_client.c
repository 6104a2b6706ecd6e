/*
 * test_client.c - libqkdn through its public header and its static library, against a fake KSA that
 * serves Ak over real sockets and TLS in another thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_ksa.h"
#include "log.h"
#include "qkdn.h"

enum { THREADS = 8, CALLS = 60 };

static struct test_pki *pki;
static struct fake_ksa *ksa;

/* The files that a certificate of the test authority has. */
static struct qkdn_options options_for(const char *certificate, char *km, size_t size)
{
	struct qkdn_options o = { .km = km, .km_name = "alice" };
	char *crt = xasprintf("%s.crt", certificate), *key = xasprintf("%s.key", certificate);

	snprintf(km, size, "127.0.0.1:%u", fake_ksa_port(ksa));
	o.certificate = test_pki_path(pki, crt);
	o.private_key = test_pki_path(pki, key);
	o.authority = test_pki_authority(pki);
	free(crt);
	free(key);
	return o;
}

static void free_options(struct qkdn_options *o)
{
	free((char *)(uintptr_t)o->certificate);
	free((char *)(uintptr_t)o->private_key);
}

static struct qkdn_client *connect_app(void)
{
	char km[64];
	struct qkdn_options o = options_for("app1", km, sizeof km);
	struct qkdn_client *client;
	struct qkdn_error error;

	if (qkdn_connect(&client, &o, &error) != QKDN_OK)
		fail_msg("%s", error.text);
	free_options(&o);
	return client;
}

static bool is_right_key(const struct qkdn_keys *keys, size_t i)
{
	const uint8_t *id = qkdn_keys_id(keys, i)->bytes, *bytes = qkdn_keys_bytes(keys, i);

	for (size_t j = 0; j < qkdn_keys_length(keys, i); j++)
		if (bytes[j] != (uint8_t)(id[j % QKDN_KEY_ID_LENGTH] ^ (j & 0xff)))
			return false;
	return qkdn_keys_length(keys, i) > 0;
}

static void keys_come_with_ids_and_by_id_in_order(void **state)
{
	struct qkdn_request request = { .destination = "app2", .number = 5, .size = 512 };
	struct qkdn_client *client = connect_app();
	struct qkdn_keys *keys, *again;
	struct qkdn_key_id ids[5];
	struct qkdn_error error;

	(void)state;
	assert_string_equal(qkdn_application(client), "app1");
	assert_int_equal(qkdn_get_keys(client, &request, &keys, &error), QKDN_OK);
	assert_string_equal(error.text, "");
	assert_int_equal(qkdn_keys_count(keys), 5);
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(qkdn_keys_length(keys, i), 64);
		assert_true(is_right_key(keys, i));
		ids[i] = *qkdn_keys_id(keys, i);
	}
	assert_int_equal(qkdn_get_keys_by_id(client, "app1", ids, 5, 0, &again, &error), QKDN_OK);
	for (size_t i = 0; i < 5; i++) {
		assert_memory_equal(qkdn_keys_id(again, i), &ids[i], sizeof ids[i]);
		assert_memory_equal(qkdn_keys_bytes(again, i), qkdn_keys_bytes(keys, i), 64);
	}
	qkdn_keys_free(again);
	assert_int_equal(qkdn_get_keys_by_id(client, "app1", ids, 1, 0, &again, &error), QKDN_KEY_GONE);
	assert_null(again);
	qkdn_keys_free(keys);
	qkdn_close(client);
}

static void defaults_are_the_kms(void **state)
{
	struct qkdn_request request = { .destination = "app2" };
	struct qkdn_client *client = connect_app();
	struct qkdn_supply supply;
	struct qkdn_keys *keys;

	(void)state;
	assert_int_equal(qkdn_get_keys(client, &request, &keys, NULL), QKDN_OK);
	assert_int_equal(qkdn_keys_count(keys), 1);
	assert_int_equal(qkdn_keys_length(keys, 0), 32);
	qkdn_keys_free(keys);
	assert_int_equal(qkdn_get_status(client, "app2", 0, &supply, NULL), QKDN_OK);
	assert_string_equal(supply.source_km, "alice");
	assert_string_equal(supply.destination_km, "bob");
	assert_int_equal(supply.key_size, 256);
	assert_true(supply.stored_keys == UINT64_C(1) << 40);
	assert_int_equal(qkdn_get_status(client, "unknown", 0, &supply, NULL), QKDN_UNKNOWN_APPLICATION);
	qkdn_close(client);
}

static const char *const more[] = { "app3", "app4" }, *const bad_names[] = { "app3", "no name" }, *const many[17];
static const struct qkdn_extension known = { "of", "\1\0\2", 3, 1 }, unknown = { "beyond", "", 0, 0 },
				   mandatory = { "beyond", NULL, 0, 1 }, nameless = { NULL, "", 0, 0 }, long_one = { "of", "", 257, 0 },
				   too_many[17];

static void what_a_km_may_know_reaches_it(void **state)
{
	const struct qkdn_extension both[] = { unknown, known };
	const struct qkdn_request requests[] = {
		{ .destination = "group", .more_destinations = more, .more_destinations_count = 2 },
		{ .destination = "app2", .extensions = both, .extensions_count = 2 },
	};
	struct qkdn_client *client = connect_app();
	struct qkdn_keys *keys;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		assert_int_equal(qkdn_get_keys(client, &requests[i], &keys, NULL), QKDN_OK);
		assert_true(is_right_key(keys, 0));
		qkdn_keys_free(keys);
	}
	qkdn_close(client);
}

static void refusals_keep_their_status(void **state)
{
	static const struct {
		struct qkdn_request request;
		enum qkdn_status status;
	} cases[] = {
		{ { .destination = "app2", .more_destinations = more, .more_destinations_count = 2 }, QKDN_UNSUPPORTED },
		{ { .destination = "group", .more_destinations = more, .more_destinations_count = 1 }, QKDN_UNSUPPORTED },
		{ { .destination = "group", .more_destinations = bad_names, .more_destinations_count = 2 }, QKDN_BAD_REQUEST },
		{ { .destination = "group", .more_destinations = many, .more_destinations_count = 17 }, QKDN_BAD_REQUEST },
		{ { .destination = "app2", .extensions = &mandatory, .extensions_count = 1 }, QKDN_UNSUPPORTED },
		{ { .destination = "app2", .extensions = &nameless, .extensions_count = 1 }, QKDN_BAD_REQUEST },
		{ { .destination = "app2", .extensions = &long_one, .extensions_count = 1 }, QKDN_BAD_REQUEST },
		{ { .destination = "app2", .extensions = too_many, .extensions_count = 17 }, QKDN_BAD_REQUEST },
		{ { .destination = "unknown" }, QKDN_UNKNOWN_APPLICATION },
		{ { .destination = "empty" }, QKDN_TOO_FEW_KEYS },
		{ { .destination = "liar", .size = 256 }, QKDN_INTERNAL },
		{ { .destination = "miser", .number = 3 }, QKDN_INTERNAL },
		{ { .destination = "app2", .size = 7 }, QKDN_BAD_REQUEST },     /* refused here */
		{ { .destination = "app2", .size = 8192 }, QKDN_BAD_REQUEST },  /* refused there */
		{ { .destination = "app2", .number = 5000 }, QKDN_BAD_REQUEST },
		{ { .destination = "no name" }, QKDN_BAD_REQUEST },
		{ { .destination = NULL }, QKDN_BAD_REQUEST },
	};
	struct qkdn_client *client = connect_app();
	struct qkdn_keys *keys;
	struct qkdn_error error;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(qkdn_get_keys(client, &cases[i].request, &keys, &error), cases[i].status);
		assert_int_equal(error.status, cases[i].status);
		assert_null(keys);
		assert_true(error.text[0] != '\0');
		for (const char *p = error.text; *p != '\0'; p++)
			assert_true((unsigned char)*p >= ' ');
	}
	qkdn_close(client);
}

static void keys_of_other_ids_are_thrown_away(void **state)
{
	struct qkdn_request request = { .destination = "app2", .number = 2 };
	struct qkdn_client *client = connect_app();
	struct qkdn_key_id ids[2];
	struct qkdn_error error;
	struct qkdn_keys *keys;

	(void)state;
	assert_int_equal(qkdn_get_keys(client, &request, &keys, &error), QKDN_OK);
	memcpy(ids, qkdn_keys_id(keys, 0), sizeof ids);
	qkdn_keys_free(keys);
	assert_int_equal(qkdn_get_keys_by_id(client, "other", ids, 2, 0, &keys, &error), QKDN_INTERNAL);
	assert_null(keys);
	memset(ids, 0, sizeof ids);
	assert_int_equal(qkdn_get_keys_by_id(client, "app1", ids, 1, 0, &keys, &error), QKDN_UNKNOWN_KEY_ID);
	assert_int_equal(qkdn_get_keys_by_id(client, "app1", ids, 0, 0, &keys, &error), QKDN_BAD_REQUEST);
	qkdn_close(client);
}

static void wrong_options_are_told(void **state)
{
	char km[64];
	struct qkdn_options good = options_for("app1", km, sizeof km), o;
	struct qkdn_client *client;
	struct qkdn_error error;
	static const char *const addresses[] = { "", ":7001", "host:", "host:0", "host:70000", "host:7x", "[::1",
		                                 "[::1]x" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(addresses); i++) {
		o = good;
		o.km = addresses[i];
		assert_int_equal(qkdn_connect(&client, &o, &error), QKDN_CONFIGURATION);
		assert_null(client);
	}
	o = good;
	o.km_name = "bob"; /* it is alice */
	assert_int_not_equal(qkdn_connect(&client, &o, &error), QKDN_OK);
	o = good;
	o.trace_id = "no uuid";
	assert_int_equal(qkdn_connect(&client, &o, &error), QKDN_CONFIGURATION);
	o = good;
	o.certificate = "/nonexistent";
	assert_int_equal(qkdn_connect(&client, &o, &error), QKDN_CONFIGURATION);
	assert_non_null(strstr(error.text, "/nonexistent"));
	o = good;
	o.km = "127.0.0.1:1"; /* nobody listens there */
	assert_int_equal(qkdn_connect(&client, &o, &error), QKDN_PEER_UNREACHABLE);
	unsetenv("QKDN_KM");
	assert_int_equal(qkdn_connect_environment(&client, &error), QKDN_CONFIGURATION);
	assert_non_null(strstr(error.text, "QKDN_KM "));
	free_options(&good);
}

static void an_application_must_be_one(void **state)
{
	char km[64];
	struct qkdn_options o = options_for("alice", km, sizeof km);
	struct qkdn_client *client;
	struct qkdn_error error;

	(void)state;
	assert_int_equal(qkdn_connect(&client, &o, &error), QKDN_CONFIGURATION);
	assert_non_null(strstr(error.text, "role app"));
	free_options(&o);
}

static void *call_often(void *arg)
{
	struct qkdn_client *client = arg;
	uintptr_t wrong = 0;

	for (unsigned n = 0; n < CALLS; n++) {
		struct qkdn_request request = { .destination = "app2", .number = 1 + n % 7, .size = 128 + 8 * n };
		struct qkdn_keys *keys, *again = NULL;

		if (qkdn_get_keys(client, &request, &keys, NULL) != QKDN_OK) {
			wrong++;
			continue;
		}
		for (size_t i = 0; i < qkdn_keys_count(keys); i++)
			wrong += !is_right_key(keys, i);
		wrong += qkdn_get_keys_by_id(client, "app1", qkdn_keys_id(keys, 0), qkdn_keys_count(keys), 0,
		                             &again, NULL) != QKDN_OK;
		for (size_t i = 0; again != NULL && i < qkdn_keys_count(again); i++)
			wrong += !is_right_key(again, i);
		qkdn_keys_free(keys);
		qkdn_keys_free(again);
	}
	return (void *)wrong;
}

static void many_threads_share_a_client(void **state)
{
	struct qkdn_client *client = connect_app();
	pthread_t threads[THREADS];
	void *wrong;

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, call_often, client), 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &wrong);
		assert_null(wrong);
	}
	qkdn_close(client);
}

static void *wait_in_vain(void *arg)
{
	struct qkdn_key_id id = { { 0 } };
	struct qkdn_keys *keys;

	return (void *)(uintptr_t)qkdn_get_keys_by_id(arg, "mute", &id, 1, 300, &keys, NULL);
}

/* One call waits in vain; the others on the same connection do not wait with it. */
static void time_out_is_one_calls_own(void **state)
{
	struct qkdn_request request = { .destination = "app2" };
	struct qkdn_client *client = connect_app();
	struct qkdn_keys *keys;
	pthread_t thread;
	void *status;

	(void)state;
	assert_int_equal(pthread_create(&thread, NULL, wait_in_vain, client), 0);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(qkdn_get_keys(client, &request, &keys, NULL), QKDN_OK);
		qkdn_keys_free(keys);
	}
	pthread_join(thread, &status);
	assert_int_equal((uintptr_t)status, QKDN_TIMED_OUT);
	assert_int_equal(qkdn_get_keys(client, &request, &keys, NULL), QKDN_OK); /* the connection stands */
	qkdn_keys_free(keys);
	qkdn_close(client);
}

static void a_restarted_km_is_found_again(void **state)
{
	struct test_pki *other = test_pki_new();
	struct qkdn_request request = { .destination = "app2" };
	struct qkdn_client *client = connect_app();
	uint16_t port = fake_ksa_port(ksa);
	struct qkdn_keys *keys;
	struct qkdn_error error;

	(void)state;
	assert_int_equal(qkdn_get_keys(client, &request, &keys, &error), QKDN_OK);
	qkdn_keys_free(keys);
	fake_ksa_stop(ksa);
	assert_int_equal(qkdn_get_keys(client, &request, &keys, &error), QKDN_PEER_UNREACHABLE);
	assert_null(keys);
	/* another one in its place is told no request, so that no key can be lost */
	ksa = fake_ksa_start(other, "alice", port);
	assert_int_equal(qkdn_get_keys(client, &request, &keys, &error), QKDN_PEER_UNREACHABLE);
	assert_non_null(strstr(error.text, "authority that is not trusted"));
	fake_ksa_stop(ksa);
	ksa = fake_ksa_start(pki, "alice", port);
	if (qkdn_get_keys(client, &request, &keys, &error) != QKDN_OK)
		fail_msg("%s", error.text);
	qkdn_keys_free(keys);
	/* and without a call in between: nothing of the lost connection is noticed */
	fake_ksa_stop(ksa);
	ksa = fake_ksa_start(pki, "alice", port);
	if (qkdn_get_keys(client, &request, &keys, &error) != QKDN_OK)
		fail_msg("%s", error.text);
	qkdn_keys_free(keys);
	qkdn_close(client);
	test_pki_free(other);
}

static size_t lines_with(const char *path, const char *word)
{
	FILE *f = fopen(path, "r");
	char line[512];
	size_t n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof line, f) != NULL)
		n += strstr(line, word) != NULL;
	fclose(f);
	return n;
}

static void traces_carry_the_given_id(void **state)
{
	char km[64], path[] = "/tmp/qkdn-test-XXXXXX";
	struct qkdn_options o = options_for("app1", km, sizeof km);
	struct qkdn_request request = { .destination = "app2" };
	struct qkdn_client *client;
	struct qkdn_keys *keys;
	struct qkdn_error error;

	(void)state;
	close(mkstemp(path));
	o.trace = path;
	o.trace_id = "00112233-4455-6677-8899-aabbccddeeff";
	assert_int_equal(qkdn_connect(&client, &o, &error), QKDN_OK);
	assert_int_equal(qkdn_get_keys(client, &request, &keys, &error), QKDN_OK);
	qkdn_keys_free(keys);
	qkdn_close(client);
	assert_int_equal(lines_with(path, "\t00112233-4455-6677-8899-aabbccddeeff\tAk\tKey request\tapp/app1\tkm/alice"
	                                  "\tsent\t-"),
	                 1);
	assert_int_equal(lines_with(path, "\tResponse to key request\tkm/alice\tapp/app1\treceived\tok"), 1);
	unlink(path);
	free_options(&o);
}

static int set_up(void **state)
{
	(void)state;
	log_open("test_client", LOG_LEVEL_ERROR);
	pki = test_pki_new();
	rtls_credentials_free(test_pki_credentials(pki, "app", "app1"));
	ksa = fake_ksa_start(pki, "alice", 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	fake_ksa_stop(ksa);
	test_pki_free(pki);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(keys_come_with_ids_and_by_id_in_order),
		cmocka_unit_test(defaults_are_the_kms),
		cmocka_unit_test(what_a_km_may_know_reaches_it),
		cmocka_unit_test(refusals_keep_their_status),
		cmocka_unit_test(keys_of_other_ids_are_thrown_away),
		cmocka_unit_test(wrong_options_are_told),
		cmocka_unit_test(an_application_must_be_one),
		cmocka_unit_test(many_threads_share_a_client),
		cmocka_unit_test(time_out_is_one_calls_own),
		cmocka_unit_test(a_restarted_km_is_found_again),
		cmocka_unit_test(traces_carry_the_given_id),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
