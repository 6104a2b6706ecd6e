/*
 * km_fetch.c - the KSA supplies keys by ID (Ak): what was assigned to the application, once, durable as delivered
 * before it leaves. All the keys of a request or none. The requests of one turn of the loop are one work.
 */
#include <stdlib.h>

#include "core.h"

enum { GROUP_MOST = 512 };

/* A key request with ID. */
struct fetch {
	struct km *km;
	struct fetch *next;
	struct id pool;
	uint32_t count;
	km_name source, destination;
	uint64_t *offsets; /* these three behind the struct */
	struct id *ids;
	uint32_t *key_lens;
	size_t len;     /* of all keys */
	uint8_t *bytes; /* in the group's */
	uint32_t failed; /* which key */
	enum status status;
	km_reply reply;
	void *arg;
};

/* Those of one turn. */
struct group {
	struct km *km;
	struct fetch *first;
	struct secret bytes;
};

static struct fetch *fetch_new(uint32_t count)
{
	struct fetch *f = xcalloc(1, sizeof *f + count * (sizeof *f->offsets + sizeof *f->ids + sizeof *f->key_lens));

	f->count = count;
	f->offsets = (uint64_t *)(f + 1);
	f->ids = (struct id *)(f->offsets + count);
	f->key_lens = (uint32_t *)(f->ids + count);
	return f;
}

/* ---- the work ------------------------------------------------------------------------------------------------ */

static enum status fetch_keys(struct ks_txn *t, struct fetch *f)
{
	uint8_t *to = f->bytes;
	enum status s = ST_OK;

	for (uint32_t i = 0; i < f->count && s == ST_OK; i++) {
		f->failed = i;
		s = ks_deliver_into(t, &f->pool, f->offsets[i], f->key_lens[i], f->source, f->destination, to);
		to += f->key_lens[i];
	}
	return s;
}

/* A refusal of the first key has changed nothing. One of a later key has to be undone, and so has all that is done
 * with it: then each request of the group is tried by itself. */
static enum status group_work(struct ks_txn *t, void *arg)
{
	struct group *g = arg;

	for (struct fetch *f = g->first; f != NULL; f = f->next) {
		f->status = fetch_keys(t, f);
		if (f->status != ST_OK && f->failed > 0)
			return f->status;
	}
	return ST_OK;
}

/* ---- before and after ------------------------------------------------------------------------------------------- */

static void fetch_refuse(struct fetch *f, enum status s)
{
	char text[ID_TEXT_LEN];
	const char *why = status_name(s);

	id_format(&f->ids[f->failed], text);
	if (s == ST_UNKNOWN_KEY_ID)
		why = "no such key of that application is here: one or more keys specified are not found";
	else if (s == ST_DENIED)
		why = "it was requested for another application";
	else if (s == ST_KEY_GONE)
		why = "it was delivered already, or its time was over";
	f->km->counters.requests_refused++;
	km_refuse(f->reply, f->arg, s, "key %s from %s: %s; none was delivered", text, f->source, why);
}

static void fetch_over(struct fetch *f)
{
	struct km_keys keys = { .count = f->count,
		                .key_ids = f->ids,
		                .key_lens = f->key_lens,
		                .bytes = f->bytes,
		                .len = f->len };

	if (f->status != ST_OK) {
		fetch_refuse(f, f->status);
	} else {
		f->km->counters.keys_fetched += f->count;
		f->reply(&keys.answer, f->arg);
	}
	free(f);
}

static void group_done(enum status s, void *arg);

/* One behind the other in the pools, so that what the store opens for a key serves its neighbours, too. */
static int in_order(const struct fetch *a, const struct fetch *b)
{
	int by_pool = memcmp(&a->pool, &b->pool, sizeof a->pool);

	return by_pool != 0 ? by_pool : (a->offsets[0] > b->offsets[0]) - (a->offsets[0] < b->offsets[0]);
}

static void group_submit(struct km *km, struct fetch *first)
{
	struct group *g = xcalloc(1, sizeof *g);
	size_t len = 0;

	LL_SORT(first, in_order);
	g->km = km;
	g->first = first;
	for (struct fetch *f = first; f != NULL; f = f->next)
		len += f->len;
	secret_alloc(&g->bytes, len);
	len = 0;
	for (struct fetch *f = first; f != NULL; len += f->len, f = f->next)
		f->bytes = g->bytes.bytes + len;
	ks_submit(km->ks, group_work, group_done, g);
}

static void group_done(enum status s, void *arg)
{
	struct group *g = arg;
	bool alone = g->first->next == NULL;
	struct fetch *f, *next;

	for (f = g->first; f != NULL; f = next) {
		next = f->next;
		f->next = NULL;
		if (s != ST_OK && !alone) {
			group_submit(g->km, f);
			continue;
		}
		if (s != ST_OK)
			f->status = s;
		fetch_over(f);
	}
	secret_free(&g->bytes);
	free(g);
}

static void fetch_gathered(void *arg)
{
	struct km *km = arg;

	km->fetch_posted = false;
	while (km->fetches != NULL) {
		struct fetch *first = km->fetches, *last = first;

		for (unsigned n = 1; n < GROUP_MOST && last->next != NULL; n++)
			last = last->next;
		km->fetches = last->next;
		last->next = NULL;
		group_submit(km, first);
	}
	km->fetches_last = &km->fetches;
}

static void gather(struct km *km, struct fetch *f)
{
	*km->fetches_last = f;
	km->fetches_last = &f->next;
	if (km->fetch_posted)
		return;
	km->fetch_posted = true;
	env_post(km->env, fetch_gathered, km);
}

void fetch_stop(struct km *km)
{
	struct fetch *f;

	while ((f = km->fetches) != NULL) {
		km->fetches = f->next;
		km_refuse(f->reply, f->arg, ST_BUSY, "%s is stopping: try again", km->name);
		free(f);
	}
	km->fetches_last = &km->fetches;
}

/* Finds where each ID lies; false, with f->failed set, if one is none of the pool. */
static bool locate(struct fetch *f)
{
	for (uint32_t i = 0; i < f->count; i++) {
		f->failed = i;
		if (!ks_key_id_invert(&f->pool, &f->ids[i], &f->offsets[i], &f->key_lens[i]) ||
		    f->key_lens[i] > f->km->limits.max_key_size / 8)
			return false;
		f->len += f->key_lens[i];
	}
	return true;
}

void handle_key_request_with_id(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_key_request_with_id *m = message;
	struct application *source, *destination;
	struct ksa_inbound *in;
	struct fetch *f;

	if (!find_pair(km, from, m->destination, m->source, &destination, &source, reply, arg)) {
		km->counters.requests_refused++;
		return;
	}
	if (m->count == 0 || m->count > KM_KEYS_MAX) {
		km_refuse(reply, arg, ST_BAD_REQUEST, "%u key IDs given: between 1 and %d a request", m->count, KM_KEYS_MAX);
		return;
	}
	f = fetch_new(m->count);
	f->km = km;
	strcpy(f->source, m->source);
	strcpy(f->destination, m->destination);
	memcpy(f->ids, m->key_ids, m->count * sizeof *f->ids);
	f->reply = reply;
	f->arg = arg;
	in = ksa_inbound_from(km, source->km);
	if (in != NULL)
		f->pool = in->id;
	if (in != NULL && locate(f)) {
		gather(km, f);
		return;
	}
	f->status = ST_UNKNOWN_KEY_ID;
	fetch_over(f);
}
