/*
 * rotate.c - new data keys.
 *
 * A rotation of the data key first lets the sweep finish a round, so that all that was spent is cut out
 * of the chunks; then adds a key, durably, under which everything is sealed from now on; seals what is
 * still under the old one, in steps; and when a commit has made the last step durable, destroys the
 * old key. What LMDB's free pages and the journal hold of the spent keys cannot be opened by anything then. A kill
 * anywhere between leaves two keys in the file, and the next opening goes on with the sealing.
 */
#include <stdlib.h>
#include <string.h>

#include "file.h"
#include "internal.h"

enum { VALUES_A_STEP = 256 };

static enum status keyring_save(struct ks *ks)
{
	struct err e;

	if (ks->keyring_path == NULL ||
	    keyring_write(&ks->keyring, ks->keyring_path, &ks->master, &e) == ST_OK)
		return ST_OK;
	log_error("key store: %s", e.text);
	return ST_STORAGE;
}

static void rotation_start(struct ks *ks)
{
	struct rotation *r = &ks->rotation;

	r->phase = ROTATION_SWEEP;
	/* a round that runs now may have passed what was spent since: the one after it counts */
	r->round = ks->sweep.rounds + (ks->sweep.running ? 2 : 1);
	ks->sweep.running = true;
}

enum status rotation_request(struct ks *ks, struct job *job)
{
	struct rotation *r = &ks->rotation;
	struct job **list = r->phase == ROTATION_NONE ? &r->jobs : &r->waiting;

	job->next = *list;
	*list = job;
	if (r->phase == ROTATION_NONE)
		rotation_start(ks);
	return ST_OK;
}

static enum status add_key(struct ks *ks)
{
	struct rotation *r = &ks->rotation;
	unsigned last;

	keyring_add(&ks->keyring);
	last = ks->keyring.count - 1;
	if (keyring_save(ks) != ST_OK) {
		/* the file has the old keys or all of them: the new one is not in use and may be drawn anew
		 */
		secret_free(&ks->keyring.keys[last]);
		ks->keyring.count--;
		return ST_STORAGE;
	}
	seal_add_key(ks->seal, ks->keyring.numbers[last], ks->keyring.keys[last].bytes);
	r->phase = ROTATION_SEAL;
	memset(&r->at, 0, sizeof r->at);
	r->committed = r->at;
	return ST_OK;
}

static enum status reseal(struct ks_txn *t, enum kv_db db, struct kv_slice key, struct kv_slice sealed)
{
	struct ks *ks = t->ks;
	size_t len = sealed.len - SEAL_OVERHEAD;
	uint16_t hint = seal_hint(sealed);
	struct secret plain = {NULL, 0};
	uint8_t *room, *note = NULL;
	enum status s = ST_OK;

	if (sealed.len < SEAL_OVERHEAD)
		return damage(t, "a value");
	if (db == KV_CHUNK)
		secret_alloc(&plain, len + 1);
	else
		note = xcalloc(1, len + 1);
	if (!seal_open(ks->seal, db, key, sealed, note ? note : plain.bytes))
		s = damage(t, "a value"); /* lost already: the others go on */
	else if (kv_reserve(ks->kv, db, key, sealed.len, &room) != ST_OK)
		s = broken(t);
	else
		seal_close(ks->seal, db, key, hint, note ? note : plain.bytes, len, room);
	t->wrote = true;
	free(note);
	secret_free(&plain);
	return s;
}

static enum status seal_some(struct ks_txn *t)
{
	struct rotation *r = &t->ks->rotation;

	for (unsigned n = 0; n < VALUES_A_STEP && r->at.db < KV_DBS;) {
		struct kv_slice from = slice_of(r->at.key, r->at.len), key, sealed;
		enum status s = r->at.db == KV_EXPIRY
				    ? ST_NOT_FOUND
				    : kv_seek(t->ks->kv, r->at.db, r->at.len > 0 ? KV_AFTER : KV_AT_OR_AFTER,
					      from, &key, &sealed);

		if (s == ST_NOT_FOUND) {
			r->at.db++;
			r->at.len = 0;
			continue;
		}
		if (s != ST_OK || key.len > sizeof r->at.key)
			return broken(t);
		memcpy(r->at.key, key.bytes, key.len);
		r->at.len = key.len;
		if (seal_key_number(sealed) == seal_current(t->ks->seal))
			continue;
		n++;
		if (reseal(t, r->at.db, slice_of(r->at.key, r->at.len), sealed) != ST_OK && t->broken)
			return ST_STORAGE;
	}
	if (r->at.db == KV_DBS)
		r->phase = ROTATION_DESTROY;
	return ST_OK;
}

enum status rotation_step(struct ks_txn *t)
{
	struct ks *ks = t->ks;
	struct rotation *r = &ks->rotation;

	if (r->phase == ROTATION_SWEEP && ks->sweep.rounds >= r->round) {
		if (add_key(ks) != ST_OK)
			return ST_STORAGE;
	} else if (r->phase == ROTATION_SWEEP) {
		ks->sweep.running = true;
	}
	return r->phase == ROTATION_SEAL ? seal_some(t) : ST_OK;
}

void rotation_aborted(struct ks *ks)
{
	ks->rotation.at = ks->rotation.committed;
	if (ks->rotation.phase == ROTATION_DESTROY)
		ks->rotation.phase = ROTATION_SEAL;
}

static struct job *destroy(struct ks *ks)
{
	struct rotation *r = &ks->rotation;
	struct job *told = r->jobs;

	while (ks->keyring.count > 1) {
		seal_forget_key(ks->seal, ks->keyring.numbers[0]);
		keyring_drop_oldest(&ks->keyring);
	}
	for (struct job *j = told; j != NULL; j = j->next)
		j->status = ST_OK;
	r->phase = ROTATION_NONE;
	r->jobs = r->waiting;
	r->waiting = NULL;
	if (r->jobs != NULL)
		rotation_start(ks);
	return told;
}

struct job *rotation_committed(struct ks *ks)
{
	struct rotation *r = &ks->rotation;
	struct keyring rest;

	r->committed = r->at;
	if (r->phase != ROTATION_DESTROY)
		return NULL;
	rest = ks->keyring; /* the newest alone; the secrets stay ks->keyring's */
	rest.count = 1;
	rest.numbers[0] = ks->keyring.numbers[ks->keyring.count - 1];
	rest.keys[0] = ks->keyring.keys[ks->keyring.count - 1];
	if (ks->keyring_path != NULL) {
		struct err e;

		if (keyring_write(&rest, ks->keyring_path, &ks->master, &e) != ST_OK) {
			log_error("key store: destroying the old data key: %s", e.text);
			ks->retry_at = env_mono(ks->env) + NS_PER_S;
			return NULL; /* tried again with the next batch */
		}
	}
	return destroy(ks);
}
