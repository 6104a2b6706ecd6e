/*
 * supply.c - two applications that ask each other's keys of a real network, both ways at once.
 *
 *	supply REQUESTS THREADS
 *
 * A_QKDN_…, A_NAME and B_QKDN_…, B_NAME are the environments and names of the two. THREADS threads
 * each way share two clients; each request's keys are fetched by ID at the other side at once and
 * compared. Too few keys is waited out; any other refusal counts. Prints one JSON object.
 */
#include <err.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qkdn.h"

enum { PREFIX = 16, PATIENCE_MS = 60000, WAIT_MS = 20000, PAUSE_MS = 50, NUMBER_MAX = 4 };

struct side {
	struct qkdn_client *client;
	const char *name;
};

struct direction {
	const struct side *from, *to;
	unsigned requests;
	atomic_uint begun;
};

/* The first bytes of every key seen, to find one that was handed out twice. */
static struct {
	pthread_mutex_t lock;
	uint8_t (*starts)[PREFIX];
	size_t count, room;
} seen = { .lock = PTHREAD_MUTEX_INITIALIZER };

static atomic_uint keys_equal, keys_differing, refused, waited;
static char first_refusal[600];

static void remember(const struct qkdn_keys *keys)
{
	pthread_mutex_lock(&seen.lock);
	for (size_t i = 0; i < qkdn_keys_count(keys); i++) {
		if (seen.count == seen.room) {
			seen.room = seen.room ? 2 * seen.room : 4096;
			seen.starts = realloc(seen.starts, seen.room * sizeof *seen.starts);
			if (seen.starts == NULL)
				err(1, "memory");
		}
		memcpy(seen.starts[seen.count++], qkdn_keys_bytes(keys, i), PREFIX);
	}
	pthread_mutex_unlock(&seen.lock);
}

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, PREFIX);
}

static size_t handed_out_twice(void)
{
	size_t twice = 0;

	qsort(seen.starts, seen.count, PREFIX, compare);
	for (size_t i = 1; i < seen.count; i++)
		twice += memcmp(seen.starts[i - 1], seen.starts[i], PREFIX) == 0;
	return twice;
}

static void count_refusal(const char *what, const struct qkdn_error *error)
{
	pthread_mutex_lock(&seen.lock);
	if (first_refusal[0] == '\0')
		snprintf(first_refusal, sizeof first_refusal, "%s: %s: %s", what,
		         qkdn_status_name(error->status), error->text);
	pthread_mutex_unlock(&seen.lock);
	atomic_fetch_add(&refused, 1);
}

/* Keys are made at a rate: where there are too few just now, more will come, and on a busy machine late. */
static struct qkdn_keys *request(const struct direction *d, unsigned number, unsigned size)
{
	const struct qkdn_request r = { .destination = d->to->name, .number = number, .size = size, .timeout = WAIT_MS };
	const struct timespec pause = { .tv_nsec = PAUSE_MS * 1000000L };
	struct qkdn_keys *keys;
	struct qkdn_error error;

	for (int ms = 0; ms < PATIENCE_MS; ms += PAUSE_MS) {
		if (qkdn_get_keys(d->from->client, &r, &keys, &error) == QKDN_OK)
			return keys;
		if (error.status != QKDN_TOO_FEW_KEYS)
			break;
		atomic_fetch_add(&waited, 1);
		nanosleep(&pause, NULL);
	}
	count_refusal("get", &error);
	return NULL;
}

static void fetch_and_compare(const struct direction *d, const struct qkdn_keys *keys)
{
	struct qkdn_keys *same;
	struct qkdn_error error;

	if (qkdn_get_keys_by_id(d->to->client, d->from->name, qkdn_keys_id(keys, 0), qkdn_keys_count(keys), 0, &same,
	                        &error) != QKDN_OK) {
		count_refusal("get-by-id", &error);
		return;
	}
	for (size_t i = 0; i < qkdn_keys_count(keys); i++) {
		size_t len = qkdn_keys_length(keys, i);
		int equal = qkdn_keys_length(same, i) == len &&
		            memcmp(qkdn_keys_bytes(keys, i), qkdn_keys_bytes(same, i), len) == 0;

		atomic_fetch_add(equal ? &keys_equal : &keys_differing, 1);
	}
	qkdn_keys_free(same);
}

static void *ask(void *arg)
{
	struct direction *d = arg;
	struct qkdn_keys *keys;
	unsigned n;

	while ((n = atomic_fetch_add(&d->begun, 1)) < d->requests) {
		keys = request(d, 1 + n % NUMBER_MAX, 128 + 8 * (n % 113));
		if (keys == NULL)
			continue;
		remember(keys);
		fetch_and_compare(d, keys);
		qkdn_keys_free(keys);
	}
	return NULL;
}

static const char *variable(char side, const char *name)
{
	char full[64];

	snprintf(full, sizeof full, "%c_%s", side, name);
	return getenv(full);
}

static void open_side(struct side *side, char letter)
{
	const struct qkdn_options o = {
		.km = variable(letter, "QKDN_KM"),
		.km_name = variable(letter, "QKDN_KM_NAME"),
		.km_dns_name = variable(letter, "QKDN_KM_DNS_NAME"),
		.certificate = variable(letter, "QKDN_CERTIFICATE"),
		.private_key = variable(letter, "QKDN_PRIVATE_KEY"),
		.authority = variable(letter, "QKDN_AUTHORITY"),
	};
	struct qkdn_error error;

	if (qkdn_connect(&side->client, &o, &error) != QKDN_OK)
		errx(1, "%c: %s", letter, error.text);
	side->name = qkdn_application(side->client);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	unsigned threads = argc == 3 ? (unsigned)atoi(argv[2]) : 0;
	struct direction directions[2] = { { .requests = 0 } };
	struct side a, b;
	pthread_t *ids;
	double started;

	if (threads == 0)
		errx(1, "usage: supply REQUESTS THREADS");
	open_side(&a, 'A');
	open_side(&b, 'B');
	directions[0] = (struct direction){ .from = &a, .to = &b, .requests = (unsigned)atoi(argv[1]) };
	directions[1] = (struct direction){ .from = &b, .to = &a, .requests = (unsigned)atoi(argv[1]) };
	ids = calloc(2 * threads, sizeof *ids);
	started = now();
	for (unsigned i = 0; ids != NULL && i < 2 * threads; i++)
		if (pthread_create(&ids[i], NULL, ask, &directions[i % 2]) != 0)
			errx(1, "no thread");
	for (unsigned i = 0; ids != NULL && i < 2 * threads; i++)
		pthread_join(ids[i], NULL);
	printf("{\"keys\": %zu, \"equal\": %u, \"differing\": %u, \"twice\": %zu, \"refused\": %u, \"waited\": %u, "
	       "\"seconds\": %.3f}\n",
	       seen.count, keys_equal, keys_differing, handed_out_twice(), refused, waited, now() - started);
	if (first_refusal[0] != '\0')
		warnx("%s", first_refusal);
	qkdn_close(a.client);
	qkdn_close(b.client);
	free(seen.starts);
	free(ids);
	return 0;
}
