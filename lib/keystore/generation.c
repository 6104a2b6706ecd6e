/*
 * generation.c - noticing that an older copy of the store was put back.
 *
 * A number in the store, sealed, is advanced at every opening, at the end and now and then between;
 * first it is made durable in the store, then it is written to the file beside the master key. So the store
 * is never behind the file, whatever moment a crash finds - but for a store that is older than the file.
 *
 * Each commit writes down its own number, sealed. LMDB has two roots and goes by the one with the greater
 * number, which is not sealed, and neither is that by which the journal's records are found: were they of
 * another commit than the rest, it shows.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "advice.h"
#include "file.h"
#include "internal.h"

static const char meta_key[] = "generation";
static const char commit_key[] = "commit";

static char *path_of(const struct ks *ks)
{
	return xasprintf("%s.generation", ks->master_path);
}

/* 0 where it is not there. */
static enum status read_number(struct ks *ks, const char *name, uint64_t *number)
{
	struct kv_slice key = slice_of(name, strlen(name)), sealed;
	enum status s = kv_get(ks->kv, KV_META, key, &sealed);
	uint8_t record[8];

	*number = 0;
	if (s == ST_NOT_FOUND)
		return ST_OK;
	if (s != ST_OK || sealed.len != sizeof record + SEAL_OVERHEAD ||
	    !seal_open(ks->seal, KV_META, key, sealed, record))
		return ST_STORAGE;
	*number = get_be(record, 8);
	return ST_OK;
}

static enum status read_store(struct ks *ks, struct err *e)
{
	uint64_t commit = 0;

	if (read_number(ks, meta_key, &ks->generation) != ST_OK ||
	    read_number(ks, commit_key, &commit) != ST_OK || (commit != 0 && commit + 1 != kv_number(ks->kv)))
		return err_set(e, ST_STORAGE,
			       "%s: the store's own record is damaged, or not of the last commit: " START_EMPTY,
			       ks->directory);
	return ST_OK;
}

enum status commit_number_put(struct ks_txn *t)
{
	uint8_t record[8];

	put_be(record, kv_number(t->ks->kv), 8);
	return record_put(t, KV_META, slice_of(commit_key, sizeof commit_key - 1), record, sizeof record);
}

enum status generation_put(struct ks_txn *t)
{
	uint8_t record[8];

	t->ks->generation++;
	put_be(record, t->ks->generation, 8);
	return record_put(t, KV_META, slice_of(meta_key, sizeof meta_key - 1), record, sizeof record);
}

static char *text_of(const char *store, unsigned long long generation)
{
	return xasprintf("qkdn key store %s generation %llu\n", store, generation);
}

enum status generation_write(struct ks *ks, struct err *e)
{
	char *path = path_of(ks), id[ID_TEXT_LEN], *text;
	enum status s;

	id_format(&ks->keyring.store, id);
	text = text_of(id, ks->generation);
	s = file_write(path, text, strlen(text), 0600, e);
	ks->generation_at = env_mono(ks->env);
	free(text);
	free(path);
	return s;
}

/* Whether the text is as it was written, to the last byte. */
static bool parse(const char *text, char store[ID_TEXT_LEN], unsigned long long *generation)
{
	char *written;
	bool same;

	if (sscanf(text, "qkdn key store %36s generation %llu", store, generation) != 2)
		return false;
	written = text_of(store, *generation);
	same = strcmp(text, written) == 0;
	free(written);
	return same;
}

/* What the file says of this store. */
static enum status compare(struct ks *ks, const char *path, const char *text, bool fresh, struct err *e)
{
	char id[ID_TEXT_LEN], theirs[ID_TEXT_LEN];
	unsigned long long generation;

	if (strcmp(text, "accept\n") == 0) {
		log_warning("key store: %s: taken as it is, as %s says", ks->directory, path);
		return ST_OK;
	}
	id_format(&ks->keyring.store, id);
	if (!parse(text, theirs, &generation))
		return err_set(e, ST_STORAGE,
			       "%s: not what was written there: if %s is surely the newest state of "
			       "the store, write the one word \"accept\" into it",
			       path, ks->directory);
	if (strcmp(id, theirs) != 0 || fresh)
		return err_set(e, ST_STORAGE,
			       "%s: %s: put the right store back, or, to go on with this one, remove %s and "
			       "make its links anew (qkdn-kmd(8))",
			       ks->directory,
			       fresh ? "the store that was here is gone" : "another store than was here",
			       path);
	if (ks->generation < generation)
		return err_set(
		    e, ST_STORAGE,
		    "%s: an older copy of the store (generation %llu, the last one was %llu): keys in it were "
		    "used since. Put the newest one back; if it is lost, remove %s, " START_EMPTY,
		    ks->directory, (unsigned long long)ks->generation, generation, path);
	return ST_OK;
}

static enum status check(struct ks *ks, bool fresh, struct err *e)
{
	char *path = path_of(ks), *text = NULL;
	enum status s = read_store(ks, e);
	size_t len;

	if (s == ST_OK && access(path, F_OK) != 0 && errno == ENOENT) {
		/* a kill between the two first writes leaves a store of one generation without a file */
		if (!fresh && ks->generation > 1)
			s = err_set(e, ST_STORAGE,
				    "%s: missing, so that an older copy of %s would not be noticed: put it "
				    "back; if this "
				    "is surely the newest state of the store, make it with the one word "
				    "\"accept\" in it",
				    path, ks->directory);
	} else if (s == ST_OK) {
		s = file_check_private(path, e);
		if (s == ST_OK)
			s = file_read(path, 200, &text, &len, e);
		if (s == ST_OK)
			s = compare(ks, path, text, fresh, e);
		free(text);
	}
	free(path);
	return s;
}

enum status generation_open(struct ks *ks, bool fresh, struct err *e)
{
	struct ks_txn t = {.ks = ks};
	enum status s = kv_begin(ks->kv);

	if (s != ST_OK)
		return err_set(e, s, "%s: cannot be written", ks->directory);
	s = check(ks, fresh, e);
	if (s == ST_OK && (generation_put(&t) != ST_OK || commit_number_put(&t) != ST_OK))
		s = err_set(e, ST_STORAGE, "%s: cannot be written", ks->directory);
	if (s != ST_OK) {
		kv_abort(ks->kv);
		return s;
	}
	if (kv_commit(ks->kv) != ST_OK)
		return err_set(e, ST_STORAGE, "%s: cannot be written: is there room on the disk?",
			       ks->directory);
	return generation_write(ks, e);
}
