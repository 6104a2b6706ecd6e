/*
 * bench_demand.c - how long an application waits for a key that is relayed while it waits, beside what that is made
 * of: round trips and durable commits. tests/bench/bench_relay brings the nodes up and reads what this prints.
 *
 *	bench_demand DESTINATION TIMES FOLDER
 *
 * The application is that of the environment (libqkdn(3)). A commit is one of a key store in FOLDER, of as many
 * bytes as the least relay. Prints three medians in milliseconds: key, round trip, commit.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "env_event.h"
#include "keystore.h"
#include "log.h"
#include "qkdn.h"

enum { RELAY = 1024, KEY_BITS = 256, KEYS_A_RELAY = (RELAY - 32) / (KEY_BITS / 8), TIMES_MOST = 1000 };

struct samples {
	double ms[TIMES_MOST];
	unsigned count;
};

static struct env *env;
static struct ks *ks;
static struct qkdn_client *client;
static const char *destination;

/* ---- what is measured ------------------------------------------------------------------------------------- */

static void request(unsigned number)
{
	const struct qkdn_request r = { .destination = destination, .number = number, .size = KEY_BITS };
	struct qkdn_keys *keys;
	struct qkdn_error e;

	if (qkdn_get_keys(client, &r, &keys, &e) != QKDN_OK)
		log_fatal("%s", e.text);
	qkdn_keys_free(keys);
}

static void one_key(void)
{
	request(1);
}

static struct qkdn_supply status(void)
{
	struct qkdn_supply info;
	struct qkdn_error e;

	if (qkdn_get_status(client, destination, 0, &info, &e) != QKDN_OK)
		log_fatal("%s", e.text);
	return info;
}

static void round_trip(void)
{
	status();
}

static enum status append_work(struct ks_txn *t, void *arg)
{
	const struct ks_pool_desc d = { .id = { { 1 } }, .source = "alice", .destination = "bob" };
	static uint8_t bytes[RELAY];
	uint64_t *offset = arg;
	enum status s = ks_pool_create(t, &d);

	if (s == ST_OK)
		s = ks_append(t, &d.id, *offset, bytes, sizeof bytes);
	*offset += sizeof bytes;
	return s;
}

static void append_done(enum status s, void *arg)
{
	(void)arg;
	if (s != ST_OK)
		log_fatal("a commit failed: %s", status_name(s));
	env_event_stop(env);
}

static void commit(void)
{
	static uint64_t offset;

	ks_submit(ks, append_work, append_done, &offset);
	env_event_run(env);
}

static void sample(struct samples *s, void (*what)(void))
{
	uint64_t begun = env_mono(env);

	what();
	s->ms[s->count++] = (double)(env_mono(env) - begun) / (double)NS_PER_MS;
}

/* What a relay brought beside the one key is used up, so that the next key needs a relay again. */
static void use_up(void)
{
	uint64_t left;

	while ((left = status().stored_keys) > 0)
		request(left < KEYS_A_RELAY ? (unsigned)left : KEYS_A_RELAY);
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(struct samples *s)
{
	qsort(s->ms, s->count, sizeof s->ms[0], by_size);
	return s->ms[s->count / 2];
}

static void open_store(const char *folder)
{
	char *directory = xasprintf("%s/store", folder), *master = xasprintf("%s/master.key", folder);
	const struct ks_options o = { .backend = KS_LMDB, .env = env, .directory = directory, .master_key_file = master };
	struct err e;

	if (ks_master_key_make(master, &e) != ST_OK || ks_open(&ks, &o, &e) != ST_OK)
		log_fatal("%s", e.text);
	free(directory);
	free(master);
}

int main(int argc, char **argv)
{
	static struct samples keys, round_trips, commits;
	struct qkdn_error e;
	unsigned times;

	log_open("bench_demand", LOG_LEVEL_ERROR);
	if (argc != 4)
		return 1;
	destination = argv[1];
	times = (unsigned)atoi(argv[2]);
	env = env_event_new();
	open_store(argv[3]);
	if (qkdn_connect_environment(&client, &e) != QKDN_OK)
		log_fatal("%s", e.text);
	request(1); /* opens what has to be open */
	for (unsigned i = 0; i < times && i < TIMES_MOST; i++) {
		use_up();
		sample(&round_trips, round_trip);
		sample(&commits, commit);
		sample(&keys, one_key);
	}
	printf("%.4f %.4f %.4f\n", median(&keys), median(&round_trips), median(&commits));
	qkdn_close(client);
	ks_close(ks);
	env_event_free(env);
	return 0;
}
