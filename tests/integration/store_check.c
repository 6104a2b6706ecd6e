/*
 * store_check.c - opens one or two key stores that nobody else uses and reads all that is in them. Of two,
 * what both hold of a pool must be the same: the ends of the pools of test_crash.py.
 *
 *	store_check DIRECTORY MASTER-KEY [DIRECTORY MASTER-KEY]
 *
 * Prints the pools and the bytes compared; 1 and a message where something is wrong. Opening advances the
 * stores' generation, as every opening does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "env_event.h"
#include "keystore.h"
#include "log.h"

enum { POOLS_MOST = 64, STEP = 1024 };

static struct store {
	struct ks *ks;
	struct ks_pool pools[POOLS_MOST];
	size_t count;
	uint64_t bytes;
} stores[2];

static bool keep_pool(const struct ks_pool *p, void *arg)
{
	struct store *s = arg;

	if (s->count == POOLS_MOST)
		log_fatal("too many pools");
	s->pools[s->count++] = *p;
	return true;
}

static enum status list(struct ks_txn *t, void *arg)
{
	ks_pool_each(t, keep_pool, arg);
	return ST_OK;
}

struct piece {
	struct id pool;
	uint64_t offset;
	struct secret bytes;
	enum status status;
};

static enum status read_piece(struct ks_txn *t, void *arg)
{
	struct piece *p = arg;

	p->status = ks_read(t, &p->pool, p->offset, STEP, &p->bytes);
	return ST_OK;
}

static void ignore(enum status s, void *arg)
{
	(void)s;
	(void)arg;
}

/* Whether it is there. What cannot be read though it is not gone is damage. */
static bool have_piece(struct store *s, struct piece *p)
{
	ks_submit(s->ks, read_piece, ignore, p);
	if (p->status != ST_OK && p->status != ST_KEY_GONE)
		log_fatal("reading at %llu: %s", (unsigned long long)p->offset, status_name(p->status));
	return p->status == ST_OK;
}

static void open_store(struct store *s, struct env *env, char **words)
{
	const struct ks_options o = { .backend = KS_LMDB, .env = env, .directory = words[0],
		                      .master_key_file = words[1], .inline_writer = true };
	struct err e;

	if (ks_open(&s->ks, &o, &e) != ST_OK) {
		fprintf(stderr, "store_check: %s\n", e.text);
		exit(1);
	}
	ks_submit(s->ks, list, ignore, s);
}

static const struct ks_pool *same_pool(const struct store *s, const struct ks_pool *p)
{
	for (size_t i = 0; i < s->count; i++)
		if (id_equal(&s->pools[i].desc.id, &p->desc.id))
			return &s->pools[i];
	return NULL;
}

/* Reads a pool at one end, or at both; the bytes that were there, and those at both. */
static void walk(const struct ks_pool *p, const struct ks_pool *other, uint64_t *there, uint64_t *both)
{
	for (uint64_t at = p->head / STEP * STEP + STEP; at + STEP <= p->ready; at += STEP) {
		struct piece a = { .pool = p->desc.id, .offset = at }, b = a;
		bool here = have_piece(&stores[0], &a);

		*there += here ? STEP : 0;
		if (here && other != NULL && at >= other->head && at + STEP <= other->ready && have_piece(&stores[1], &b)) {
			if (memcmp(a.bytes.bytes, b.bytes.bytes, STEP) != 0)
				log_fatal("pool of %s to %s: differs at %llu", p->desc.source, p->desc.destination,
				          (unsigned long long)at);
			*both += STEP;
		}
		secret_free(&a.bytes);
		secret_free(&b.bytes);
	}
}

int main(int argc, char **argv)
{
	struct env *env = env_event_new();
	uint64_t there = 0, both = 0;

	log_open("store_check", LOG_LEVEL_INFO);
	if (argc != 3 && argc != 5)
		return 1;
	open_store(&stores[0], env, argv + 1);
	if (argc == 5)
		open_store(&stores[1], env, argv + 3);
	for (size_t i = 0; i < stores[0].count; i++)
		walk(&stores[0].pools[i], argc == 5 ? same_pool(&stores[1], &stores[0].pools[i]) : NULL, &there, &both);
	printf("pools %zu bytes %llu both %llu\n", stores[0].count, (unsigned long long)there,
	       (unsigned long long)both);
	for (int i = 0; i < (argc - 1) / 2; i++)
		ks_close(stores[i].ks);
	env_event_free(env);
	return 0;
}
