/*
 * store_check.c - opens key stores that nobody else uses, reads what is in them, and holds the two ends of each
 * pool that two of them share against each other:
 *
 *	what both hold is the same;
 *	what the source may still use the destination holds, too: no key is supplied that the far end lacks;
 *	of a link the destination has seen nothing used beyond the source's cursor: no pad is used twice.
 *
 *	store_check [--most BYTES] NODE/STORE MASTER-KEY…
 *
 * NODE is the name of the key manager. Prints the pools and bytes of the first store, those that another holds,
 * too, and how many bytes destinations hold alone: what was on its way when they stopped. 1 and a message where
 * something is wrong. Opening advances the stores' generation, as every opening does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "env_event.h"
#include "keystore.h"
#include "log.h"

enum { POOLS_MOST = 512, STORES_MOST = 256, STEP = 1024 };

static struct store {
	struct ks *ks;
	char name[NAME_MAX_LEN + 1];
	struct ks_pool pools[POOLS_MOST];
	size_t count;
} stores[STORES_MOST];

static uint64_t most = UINT64_MAX; /* bytes of a pool that are read */

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

/* "…/NODE/STORE": whose it is. */
static void name_store(struct store *s, const char *directory)
{
	char *path = xstrdup(directory), *slash = strrchr(path, '/'), *name = path;

	if (slash == NULL)
		log_fatal("%s: not NODE/STORE", directory);
	*slash = '\0';
	slash = strrchr(path, '/');
	if (slash != NULL)
		name = slash + 1;
	if (!name_is_valid(name))
		log_fatal("%s: not the name of a node", name);
	strcpy(s->name, name);
	free(path);
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
	name_store(s, words[0]);
	ks_submit(s->ks, list, ignore, s);
}

static const struct ks_pool *same_pool(const struct store *s, const struct ks_pool *p)
{
	for (size_t i = 0; i < s->count; i++)
		if (id_equal(&s->pools[i].desc.id, &p->desc.id) && !s->pools[i].retired && !p->retired)
			return &s->pools[i];
	return NULL;
}

/* ---- one pool ---------------------------------------------------------------------------------------- */

static uint64_t first_piece(const struct ks_pool *p)
{
	return p->head / STEP * STEP + STEP;
}

static bool within(const struct ks_pool *p, uint64_t at)
{
	return at + STEP <= p->ready && (most == UINT64_MAX || at - p->head < most);
}

static void tell(const char *what, const struct store *s, const struct ks_pool *p, uint64_t at)
{
	fprintf(stderr, "store_check: %s: pool of %s to %s: %s at %llu\n", s->name, p->desc.source, p->desc.destination, what,
	        (unsigned long long)at);
	exit(1);
}

struct seen {
	struct id pool;
	uint64_t used;
};

static enum status read_used(struct ks_txn *t, void *arg)
{
	struct seen *s = arg;
	char key[5 + ID_LEN] = "used/";
	size_t len;

	memcpy(key + 5, s->pool.bytes, ID_LEN);
	if (ks_note_get(t, key, sizeof key, &s->used, sizeof s->used, &len) != ST_OK)
		s->used = 0;
	return ST_OK;
}

/*
 * How far the destination has seen the pool used (km_link.c). Of a link that is never beyond the source's cursor.
 * A KSA pool's source may be killed between an assignment and its own commit (doc/key-supply.md): what lies
 * between is voided at both ends when it opens the pool.
 */
static uint64_t used_of(struct store *source, const struct ks_pool *p, struct store *destination)
{
	struct seen seen = { p->desc.id, 0 };

	ks_submit(destination->ks, read_used, ignore, &seen);
	if (p->desc.kind != KS_POOL_KSA && seen.used > p->head)
		tell("its cursor is behind what was used of it, and would use it again", source, p, seen.used);
	return seen.used;
}

/* Reads a pool at a, and at b where that has it, too; returns the bytes at a, and in *both those at both. */
static uint64_t walk(struct store *a, const struct ks_pool *p, struct store *b, uint64_t *both)
{
	bool is_source = b != NULL && strcmp(p->desc.source, a->name) == 0;
	uint64_t there = 0, used = is_source ? used_of(a, p, b) : 0;

	for (uint64_t at = first_piece(p); within(p, at); at += STEP) {
		struct piece here = { .pool = p->desc.id, .offset = at }, far = here;

		if (!have_piece(a, &here))
			continue;
		there += STEP;
		if (b != NULL && have_piece(b, &far)) {
			if (memcmp(here.bytes.bytes, far.bytes.bytes, STEP) != 0)
				tell("not what the other end holds", a, p, at);
			*both += STEP;
		} else if (is_source && (p->desc.kind != KS_POOL_KSA || at >= used)) {
			tell("the destination lacks it", a, p, at);
		}
		secret_free(&here.bytes);
		secret_free(&far.bytes);
	}
	return there;
}

/* ---- all of them ------------------------------------------------------------------------------------------ */

static void stop(void *env)
{
	env_event_stop(env);
}

/* The store's reports, which nobody here waits for, are run and gone. */
static void run_reports(struct env *env)
{
	env_post(env, stop, env);
	env_event_run(env);
}

/* The other store that has the pool. */
static struct store *other_end(const struct store *a, const struct ks_pool *p, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (&stores[i] != a && same_pool(&stores[i], p) != NULL)
			return &stores[i];
	return NULL;
}

int main(int argc, char **argv)
{
	struct env *env = env_event_new();
	uint64_t there = 0, first_both = 0, alone = 0;
	size_t count = 0;

	log_open("store_check", LOG_LEVEL_INFO);
	if (argc > 2 && strcmp(argv[1], "--most") == 0) {
		most = strtoull(argv[2], NULL, 10);
		argc -= 2;
		argv += 2;
	}
	if (argc < 3 || argc % 2 == 0 || argc > 2 * STORES_MOST)
		return 1;
	for (int i = 1; i < argc; i += 2)
		open_store(&stores[count++], env, argv + i);
	for (size_t i = 0; i < count; i++)
		for (size_t k = 0; k < stores[i].count; k++) {
			const struct ks_pool *p = &stores[i].pools[k];
			struct store *other = other_end(&stores[i], p, count);
			uint64_t both = 0, here = walk(&stores[i], p, other, &both);

			if (i == 0) {
				there += here;
				first_both += both;
			}
			if (other != NULL && strcmp(p->desc.source, stores[i].name) != 0)
				alone += here - both;
			run_reports(env);
		}
	printf("pools %zu bytes %llu both %llu alone %llu\n", stores[0].count, (unsigned long long)there,
	       (unsigned long long)first_both, (unsigned long long)alone);
	for (size_t i = 0; i < count; i++)
		ks_close(stores[i].ks);
	run_reports(env);
	env_event_free(env);
	return 0;
}
