/*
 * key_load.c - two applications that ask for keys to share, at both ends at once, while whatever serves
 * them is killed: the load of test_crash.py.
 *
 *	key_load JOURNAL SEED THREADS APP1 KM1 NAME1 DNS1 CRT1 KEY1 APP2 KM2 NAME2 DNS2 CRT2 KEY2 CA
 *
 * Direction 0 is keys requested by APP1 and fetched by APP2, direction 1 the other way round. The journal
 * has a line per event; the key follows in hexadecimal, so it is a secret for the test's folder alone:
 *
 *	supplied DIRECTION ID KEY       the KM acknowledged this key
 *	failed DIRECTION STATUS         a request brought none
 *	fetched DIRECTION ID KEY        and at the other end
 *	unknown DIRECTION ID STATUS     a fetch whose outcome is not known: the key may have been delivered
 *	refused DIRECTION ID STATUS     a fetch that the KM refused
 *	again DIRECTION ID STATUS       a second fetch of a key that was delivered
 *
 * When stdin says "finish" or ends, no more keys are requested, all that are left are fetched, and some a
 * second time.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "qkdn.h"

enum { THREADS_MAX = 64, KEYS_MOST = 4, SECOND_FETCHES = 10, PATIENCE_S = 100 };

struct key {
	struct qkdn_key_id id;
	bool fetched;
};

/* The keys that a requesting thread was given and that wait to be fetched. */
struct requester {
	pthread_t thread;
	int direction;
	unsigned seed;
	struct key *keys;
	size_t count, room;
};

static struct {
	struct qkdn_client *client;
	struct qkdn_options options;
	const char *name;
} ends[2];

static FILE *journal;
static atomic_bool over;

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 }, NULL);
}

/* One write a line: the threads share the file. */
static void note(const char *event, int direction, const struct qkdn_key_id *id, const char *rest)
{
	char text[QKDN_KEY_ID_TEXT_LENGTH];

	qkdn_key_id_format(id, text);
	fprintf(journal, "%s %d %s %s\n", event, direction, text, rest);
}

static void note_keys(const char *event, int direction, const struct qkdn_keys *keys)
{
	for (size_t i = 0; i < qkdn_keys_count(keys); i++) {
		const uint8_t *bytes = qkdn_keys_bytes(keys, i);
		size_t len = qkdn_keys_length(keys, i);
		char hex[2 * 1024 + 1];

		for (size_t j = 0; j < len && j < 1024; j++)
			snprintf(hex + 2 * j, 3, "%02x", bytes[j]);
		note(event, direction, qkdn_keys_id(keys, i), hex);
	}
}

/* ---- fetching -------------------------------------------------------------------------------------- */

/* It was not carried out, and may be tried again. */
static bool not_yet(enum qkdn_status s)
{
	return s == QKDN_PEER_UNREACHABLE || s == QKDN_BUSY || s == QKDN_STORAGE;
}

static enum qkdn_status fetch(int direction, struct key *key)
{
	struct qkdn_keys *keys;
	enum qkdn_status s = qkdn_get_keys_by_id(ends[!direction].client, ends[direction].name, &key->id, 1, 5000,
	                                         &keys, NULL);

	if (not_yet(s))
		return s;
	key->fetched = true;
	if (s == QKDN_OK)
		note_keys("fetched", direction, keys);
	else
		note(s == QKDN_TRANSPORT || s == QKDN_TIMED_OUT ? "unknown" : "refused", direction, &key->id,
		     qkdn_status_name(s));
	qkdn_keys_free(keys);
	return s;
}

static void fetch_patiently(int direction, struct key *key, time_t until)
{
	while (not_yet(fetch(direction, key))) {
		if (time(NULL) > until) {
			note("refused", direction, &key->id, "nobody-answered");
			return;
		}
		pause_ms(50);
	}
}

/* A key that was delivered is not delivered again, whatever has happened since. */
static void fetch_again(int direction, const struct key *key, time_t until)
{
	struct qkdn_keys *keys;
	enum qkdn_status s;

	do {
		s = qkdn_get_keys_by_id(ends[!direction].client, ends[direction].name, &key->id, 1, 30000, &keys, NULL);
		qkdn_keys_free(keys);
	} while ((not_yet(s) || s == QKDN_TRANSPORT || s == QKDN_TIMED_OUT) && time(NULL) <= until);
	note("again", direction, &key->id, qkdn_status_name(s));
}

/* ---- requesting ---------------------------------------------------------------------------------------- */

static void keep(struct requester *r, const struct qkdn_keys *keys)
{
	for (size_t i = 0; i < qkdn_keys_count(keys); i++) {
		if (r->count == r->room) {
			r->room = r->room ? 2 * r->room : 256;
			r->keys = realloc(r->keys, r->room * sizeof *r->keys);
			if (r->keys == NULL)
				abort();
		}
		r->keys[r->count++] = (struct key){ .id = *qkdn_keys_id(keys, i) };
	}
}

static void fetch_the_rest(struct requester *r)
{
	time_t until = time(NULL) + PATIENCE_S;

	for (size_t i = 0; i < r->count; i++)
		if (!r->keys[i].fetched)
			fetch_patiently(r->direction, &r->keys[i], until);
	until = time(NULL) + PATIENCE_S;
	for (size_t i = 0; i < r->count; i += 1 + r->count / SECOND_FETCHES)
		fetch_again(r->direction, &r->keys[i], until);
}

static void *request(void *arg)
{
	static const unsigned sizes[] = { 0, 128, 256, 512, 1024 };
	struct requester *r = arg;

	while (!over) {
		struct qkdn_request q = { .destination = ends[!r->direction].name, .timeout = 1000 };
		struct qkdn_keys *keys;
		enum qkdn_status s;

		q.number = 1 + (unsigned)rand_r(&r->seed) % KEYS_MOST;
		q.size = sizes[(unsigned)rand_r(&r->seed) % 5];
		s = qkdn_get_keys(ends[r->direction].client, &q, &keys, NULL);
		if (s == QKDN_OK) {
			note_keys("supplied", r->direction, keys);
			keep(r, keys);
		} else {
			fprintf(journal, "failed %d %s\n", r->direction, qkdn_status_name(s));
			pause_ms(20);
		}
		qkdn_keys_free(keys);
		/* half of them are fetched at once, the others when all is over */
		if (s == QKDN_OK && rand_r(&r->seed) % 2 == 0)
			for (size_t i = r->count - q.number; i < r->count; i++)
				fetch(r->direction, &r->keys[i]);
		pause_ms((unsigned)rand_r(&r->seed) % 4);
	}
	fetch_the_rest(r);
	return NULL;
}

/* ---- the whole ------------------------------------------------------------------------------------------ */

static bool connect_end(int i, char **words, const char *authority)
{
	struct qkdn_error e;

	ends[i].name = words[0];
	ends[i].options = (struct qkdn_options){ .km = words[1], .km_name = words[2], .km_dns_name = words[3],
		                                 .certificate = words[4], .private_key = words[5],
		                                 .authority = authority, .connect_timeout = 20000 };
	if (qkdn_connect(&ends[i].client, &ends[i].options, &e) == QKDN_OK)
		return true;
	fprintf(stderr, "key_load: %s\n", e.text);
	return false;
}

int main(int argc, char **argv)
{
	static struct requester requesters[THREADS_MAX];
	unsigned threads, seed;
	char line[64];

	if (argc != 17 || (threads = (unsigned)atoi(argv[3])) == 0 || threads > THREADS_MAX)
		return 1;
	seed = (unsigned)strtoul(argv[2], NULL, 0);
	journal = fopen(argv[1], "w");
	if (journal == NULL || !connect_end(0, argv + 4, argv[16]) || !connect_end(1, argv + 10, argv[16]))
		return 1;
	puts("ready");
	fflush(stdout);
	for (unsigned t = 0; t < threads; t++) {
		requesters[t].direction = t % 2;
		requesters[t].seed = seed + t;
		pthread_create(&requesters[t].thread, NULL, request, &requesters[t]);
	}
	if (fgets(line, sizeof line, stdin) == NULL)
		fputs("key_load: stdin ended\n", stderr);
	over = true;
	for (unsigned t = 0; t < threads; t++)
		pthread_join(requesters[t].thread, NULL);
	for (unsigned t = 0; t < threads; t++)
		free(requesters[t].keys);
	qkdn_close(ends[0].client);
	qkdn_close(ends[1].client);
	return fclose(journal) == 0 ? 0 : 1;
}
