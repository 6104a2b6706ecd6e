/*
 * km_recall.c - the ways to far nodes, in the key store: a KM that is restarted while its controller is away knows
 * them still.
 *
 * A note for each destination, "ways/" and its name, holds its ways in their order. It is written within a second
 * of what is new in it, beside the relays: one that is lost with a kill is asked for again. A start deletes those that
 * are too old to be used.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core.h"

enum { WAYS_VERSION = 1, SAVED_MOST = 64, WAYS_KEY_MAX = 5 + NAME_MAX_LEN };

/* Before each way, whose nodes follow, each ended by a zero. */
struct way_note {
	uint32_t version, hops_left, count, disjoint;
	uint64_t learned_at;
};

/* ---- out -------------------------------------------------------------------------------------------------------- */

struct saved {
	km_name destination;
	char *bytes;
	size_t len;
};

struct saving {
	struct km *km;
	unsigned count;
	struct saved saved[SAVED_MOST];
};

static void write_way(struct saved *to, const struct known_way *w, bool disjoint)
{
	struct way_note note = { WAYS_VERSION, w->hops_left, w->route->count, disjoint, w->learned_at };
	size_t len = sizeof note;

	for (uint32_t i = 0; i < w->route->count; i++)
		len += strlen(w->route->nodes[i]) + 1;
	if (to->len + len > KS_NOTE_MAX)
		return;
	to->bytes = xrealloc(to->bytes, to->len + len);
	memcpy(to->bytes + to->len, &note, sizeof note);
	to->len += sizeof note;
	for (uint32_t i = 0; i < w->route->count; i++) {
		strcpy(to->bytes + to->len, w->route->nodes[i]);
		to->len += strlen(w->route->nodes[i]) + 1;
	}
}

static size_t ways_key(char key[WAYS_KEY_MAX + 1], const char *destination)
{
	return (size_t)snprintf(key, WAYS_KEY_MAX + 1, "ways/%s", destination);
}

static enum status save_work(struct ks_txn *t, void *arg)
{
	struct saving *w = arg;
	enum status s = ST_OK;

	for (unsigned i = 0; i < w->count && s == ST_OK; i++) {
		char key[WAYS_KEY_MAX + 1];

		s = ks_note_put(t, key, ways_key(key, w->saved[i].destination), w->saved[i].bytes, w->saved[i].len);
	}
	return s;
}

/* Where the store could not take them, they are written with the next change. */
static void save_done(enum status s, void *arg)
{
	struct saving *w = arg;

	if (s != ST_OK)
		log_warning("keeping the routes to far nodes in the key store: %s", status_name(s));
	w->km->saving_ways = false;
	for (unsigned i = 0; i < w->count; i++)
		free(w->saved[i].bytes);
	free(w);
}

void ways_save(struct km *km)
{
	struct saving *work = NULL;
	const struct known_way *w;

	for (struct known_destination *d = km->known; d != NULL && !km->saving_ways; d = d->hh.next) {
		struct saved *to;

		if (!d->unsaved || (work != NULL && work->count == SAVED_MOST))
			continue;
		if (work == NULL)
			work = xcalloc(1, sizeof *work);
		to = &work->saved[work->count++];
		strcpy(to->destination, d->name);
		DL_FOREACH (d->ways, w)
			write_way(to, w, false);
		DL_FOREACH (d->disjoint, w)
			write_way(to, w, true);
		d->unsaved = false;
		d->saved_at = env_utc(km->env);
	}
	if (work == NULL)
		return;
	work->km = km;
	km->saving_ways = true;
	ks_submit(km->ks, save_work, save_done, work);
}

/* ---- in --------------------------------------------------------------------------------------------------------- */

struct found_note {
	struct saved note;
	struct found_note *next;
};

struct loading {
	struct km *km;
	uint64_t now, lifetime; /* of a way */
	struct found_note *found;
};

/* The next way of the note: its length, 0 where there is none that can be read. */
static size_t read_way(const char *from, size_t len, struct way_note *note, const char *nodes[KM_ROUTE_MAX])
{
	size_t at = sizeof *note;

	if (len < sizeof *note)
		return 0;
	memcpy(note, from, sizeof *note);
	if (note->version != WAYS_VERSION || note->count == 0 || note->count > KM_ROUTE_MAX)
		return 0;
	for (uint32_t i = 0; i < note->count; i++) {
		const char *end = memchr(from + at, '\0', len - at);

		if (end == NULL)
			return 0;
		nodes[i] = from + at;
		at = (size_t)(end - from) + 1;
	}
	return at;
}

static void recall(struct km *km, const struct saved *s)
{
	struct known_destination *d = known_destination(km, s->destination);
	const char *nodes[KM_ROUTE_MAX];
	struct way_note note;

	if (d->ways != NULL || d->disjoint != NULL) /* the controller was faster */
		return;
	for (size_t at = 0, len; (len = read_way(s->bytes + at, s->len - at, &note, nodes)) > 0; at += len) {
		struct known_way *w = xcalloc(1, sizeof *w);

		w->learned_at = note.learned_at;
		w->hops_left = note.hops_left;
		w->route = route_copy(&(struct km_route){ note.count, nodes });
		if (note.disjoint)
			DL_APPEND(d->disjoint, w);
		else
			DL_APPEND(d->ways, w);
	}
}

static bool find_note(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	struct loading *w = arg;
	struct found_note *f;

	if (key_len <= 5 || key_len > WAYS_KEY_MAX)
		return true;
	f = xcalloc(1, sizeof *f);
	memcpy(f->note.destination, (const char *)key + 5, key_len - 5);
	f->note.bytes = memcpy(xcalloc(len, 1), value, len);
	f->note.len = len;
	LL_PREPEND(w->found, f);
	return true;
}

static void found_note_free(struct found_note *f)
{
	free(f->note.bytes);
	free(f);
}

static void loading_clear(struct loading *w)
{
	struct found_note *f, *next;

	LL_FOREACH_SAFE (w->found, f, next)
		found_note_free(f);
	w->found = NULL;
}

static bool is_of_use(const struct loading *w, const struct saved *s)
{
	const char *nodes[KM_ROUTE_MAX];
	struct way_note note;

	for (size_t at = 0, len; (len = read_way(s->bytes + at, s->len - at, &note, nodes)) > 0; at += len)
		if (w->now <= note.learned_at || w->now - note.learned_at < w->lifetime)
			return true;
	return false;
}

static enum status load_work(struct ks_txn *t, void *arg)
{
	struct loading *w = arg;
	enum status s = ST_OK;
	struct found_note *f, *next;

	loading_clear(w);
	ks_note_each(t, "ways/", 5, find_note, w);
	LL_FOREACH_SAFE (w->found, f, next) {
		char key[WAYS_KEY_MAX + 1];

		if (s != ST_OK || is_of_use(w, &f->note))
			continue;
		s = ks_note_delete(t, key, ways_key(key, f->note.destination));
		LL_DELETE(w->found, f);
		found_note_free(f);
	}
	return s;
}

static void load_done(enum status s, void *arg)
{
	struct loading *w = arg;
	struct found_note *f;

	(void)s; /* without them it asks its controller */
	LL_FOREACH (w->found, f)
		recall(w->km, &f->note);
	loading_clear(w);
	free(w);
}

void ways_load(struct km *km)
{
	struct loading *w = xcalloc(1, sizeof *w);

	w->km = km;
	w->now = env_utc(km->env);
	w->lifetime = km->limits.route_lifetime;
	ks_submit(km->ks, load_work, load_done, w);
}
