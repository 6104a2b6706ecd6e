/*
 * polite.c - an application that behaves: the one whose rate is to last while others misbehave.
 *
 *	polite DESTINATION THREADS
 *
 * The environment says who it is, as for libqkdn. For each line on standard input, a number of
 * milliseconds, it requests keys for that long, one at a time in each thread, and prints how many it got.
 * A refusal ends it.
 */
#include <err.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "qkdn.h"

enum { THREADS_MAX = 16 };

static struct qkdn_client *clients[THREADS_MAX];
static const char *destination;
static atomic_uint got;
static double end;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *ask(void *arg)
{
	const struct qkdn_request r = { .destination = destination, .number = 1, .size = 256, .timeout = 60000 };
	struct qkdn_client **client = arg;
	struct qkdn_error error;
	struct qkdn_keys *keys;

	while (now() < end) {
		if (qkdn_get_keys(*client, &r, &keys, &error) != QKDN_OK) {
			warnx("%s", error.text);
			_exit(1); /* exit would take OpenSSL's memory from under the other threads */
		}
		qkdn_keys_free(keys);
		got++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int threads = argc == 3 ? atoi(argv[2]) : 0, ms;
	pthread_t ids[THREADS_MAX];
	struct qkdn_error error;

	if (threads < 1 || threads > THREADS_MAX)
		errx(1, "usage: polite DESTINATION THREADS");
	destination = argv[1];
	for (int i = 0; i < threads; i++)
		if (qkdn_connect_environment(&clients[i], &error) != QKDN_OK)
			errx(1, "%s", error.text);
	while (scanf("%d", &ms) == 1) {
		got = 0;
		end = now() + ms / 1e3;
		for (int i = 0; i < threads; i++)
			if (pthread_create(&ids[i], NULL, ask, &clients[i]) != 0)
				errx(1, "no thread");
		for (int i = 0; i < threads; i++)
			pthread_join(ids[i], NULL);
		printf("%u\n", (unsigned)got);
		fflush(stdout);
	}
	for (int i = 0; i < threads; i++)
		qkdn_close(clients[i]);
	return 0;
}
