/*
 * km_assign.c - the far KSA: what a pool's source has taken for a pair of applications is theirs from now (Kx-2).
 *
 * The source may not have committed yet that it took these keys (km_supply.c). So the destination remembers
 * with each use how far the source had committed when it chose the keys, for the day it comes back from a
 * crash; and what comes late, under an opening that is over, is refused.
 *
 * What is assigned on demand was verified just before: it is made ready in the same commit.
 */
#include <stdlib.h>

#include "core.h"

/* ---- what is remembered of a pool's use: "used/" and its ID ------------------------------------------------ */

static size_t use_key(char key[KS_NOTE_KEY_MAX], const struct id *pool)
{
	memcpy(key, "used/", 5);
	memcpy(key + 5, pool->bytes, ID_LEN);
	return 5 + ID_LEN;
}

enum status ksa_use_get(struct ks_txn *t, const struct id *pool, struct ksa_use *use)
{
	char key[KS_NOTE_KEY_MAX];
	size_t len;
	enum status s = ks_note_get(t, key, use_key(key, pool), use, sizeof *use, &len);

	if (s != ST_NOT_FOUND)
		return s;
	*use = (struct ksa_use){ 0, 0 };
	return ST_OK;
}

static enum status use_raise(struct ks_txn *t, const struct id *pool, const struct ksa_use *use)
{
	char key[KS_NOTE_KEY_MAX];
	struct ksa_use before;
	enum status s = ksa_use_get(t, pool, &before);

	if (s != ST_OK || before.up_to >= use->up_to)
		return s;
	return ks_note_put(t, key, use_key(key, pool), use, sizeof *use);
}

/* ---- assignment --------------------------------------------------------------------------------------------- */

struct assigning {
	struct km *km;
	struct id pool;
	uint64_t base, unused_below;
	uint32_t count;
	struct ks_assignment *rows;
	enum status *results;
	km_reply reply;
	void *arg;
};

static enum status assign_work(struct ks_txn *t, void *arg)
{
	struct assigning *a = arg;
	uint64_t used = 0;
	enum status s;

	for (uint32_t i = 0; i < a->count; i++) {
		const struct ks_assignment *row = &a->rows[i];
		uint64_t end = row->offset + (uint64_t)row->key_len * row->count;

		if (row->key_len == 0) /* refused before */
			continue;
		a->results[i] = ks_assign(t, &a->pool, row);
		if (a->results[i] == ST_STORAGE || a->results[i] == ST_INTERNAL)
			return a->results[i];
		if (end > used)
			used = end;
	}
	if (a->unused_below > used) /* nor will the source, after a crash, use it again */
		used = a->unused_below;
	s = ksa_pool_forget(t, &a->pool, a->unused_below);
	return s == ST_OK ? use_raise(t, &a->pool, &(struct ksa_use){ used, a->base }) : s;
}

static void assigned(enum status s, void *arg)
{
	struct assigning *a = arg;
	struct km_assign_answer answer = { .count = a->count, .results = a->results };

	if (s != ST_OK)
		err_set(&answer.answer.err, s, "assigning keys at %s: %s", a->km->name, status_name(s));
	a->reply(&answer.answer, a->arg);
	free(a->rows);
	free(a->results);
	free(a);
}

void handle_assign(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_assign *m = message;
	struct ksa_inbound *in = ksa_inbound_by_id(km, &m->pool);
	struct assigning *a;

	if (in == NULL || strcmp(in->source, from) != 0 || in->opening != m->opening) {
		km_refuse(reply, arg, ST_NOT_FOUND, "%s has no KSA pool of that ID and opening from %s: open it", km->name, from);
		return;
	}
	a = xcalloc(1, sizeof *a);
	a->km = km;
	a->pool = m->pool;
	a->base = m->base;
	a->unused_below = m->unused_below;
	a->count = m->count;
	a->rows = xcalloc(m->count, sizeof *a->rows);
	a->results = xcalloc(m->count, sizeof *a->results);
	a->reply = reply;
	a->arg = arg;
	for (uint32_t i = 0; i < m->count; i++) {
		const struct km_assignment *one = &m->assignments[i];
		struct application *app = application_by_name(km, one->destination);

		if (app == NULL || strcmp(app->km, km->name) != 0) {
			a->results[i] = ST_UNKNOWN_APPLICATION;
			continue;
		}
		if (one->key_len == 0 || one->count == 0 || one->key_len > km->limits.max_key_size / 8) {
			a->results[i] = ST_BAD_REQUEST;
			continue;
		}
		a->rows[i].offset = one->offset;
		a->rows[i].key_len = one->key_len;
		a->rows[i].count = one->count;
		a->rows[i].expires = m->expires;
		strcpy(a->rows[i].source, one->source);
		strcpy(a->rows[i].destination, one->destination);
	}
	ks_hold(km->ks);
	make_verified_ready(km);
	ks_submit(km->ks, assign_work, assigned, a);
	ks_release(km->ks);
}
