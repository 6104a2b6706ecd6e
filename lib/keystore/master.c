/*
 * master.c - the master key, which wraps the data keys, and its change.
 *
 * The next master key is put beside the present one, in a file of that name and ".next", by the operator.
 * A change first writes the file of data keys anew, wrapped under the next one (keyring.c: the old file
 * or the new one, whatever happens), then renames the next one's file over the present one's. A crash between
 * the two leaves data keys that the file ".next" opens: opening tries it, and finishes the change. So at
 * any moment one of the two files opens the store, and none has to be moved by hand.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"
#include "internal.h"

static char *next_path(const struct ks *ks)
{
	return xasprintf("%s.next", ks->master_path);
}

static enum status read_key(const char *path, struct secret *key, struct err *e)
{
	enum status s;

	if (access(path, F_OK) != 0 && errno == ENOENT)
		return err_set(e, ST_CONFIGURATION,
			       "%s: there is no such file: a store opens with the master key alone that it was made with or last "
			       "changed to; qkdn-pki(8) makes a fresh one",
			       path);
	s = file_read_secret(path, SEAL_KEY_LEN, key, e);
	if (s != ST_OK || key->len == SEAL_KEY_LEN)
		return s;
	secret_free(key);
	return err_set(e, ST_CONFIGURATION, "%s: not a master key, which has %d bytes", path, SEAL_KEY_LEN);
}

/* The next one's file becomes that of the master key. */
static enum status put_in_place(struct ks *ks, const char *next, struct err *e)
{
	int old = open(ks->master_path, O_WRONLY | O_CLOEXEC);
	enum status s = file_rename(next, ks->master_path, e);

	ks->master_unplaced = s != ST_OK;
	if (old >= 0 && s == ST_OK)
		file_overwrite(old);
	if (old >= 0)
		close(old);
	return s;
}

/* The data keys are not under the master key: are they under the next one? */
static enum status open_with_next(struct ks *ks, const char *next, struct err *e)
{
	enum status s;

	secret_free(&ks->master);
	s = read_key(next, &ks->master, e);
	if (s == ST_OK)
		s = keyring_read(&ks->keyring, ks->keyring_path, &ks->master, e);
	if (s != ST_OK)
		return err_prefix(e, "with %s, and with %s", ks->master_path, next);
	log_warning("key store: its master key was being changed when the last run ended: %s opens it and is put in "
		    "the place of %s",
		    next, ks->master_path);
	return put_in_place(ks, next, e);
}

enum status master_open(struct ks *ks, bool has_keyring, struct err *e)
{
	enum status s = read_key(ks->master_path, &ks->master, e);
	char *next = next_path(ks);
	bool has_next = access(next, F_OK) == 0;

	if (s == ST_OK && has_keyring) {
		s = keyring_read(&ks->keyring, ks->keyring_path, &ks->master, e);
		if (s == ST_CONFIGURATION && has_next)
			s = open_with_next(ks, next, e);
		else if (s == ST_OK && has_next)
			log_info("key store: %s opens it; the master key in %s is not in use yet", ks->master_path, next);
	}
	free(next);
	return s;
}

static enum status opens(const char *path, const char *keyring_path, struct err *e)
{
	struct secret key = {NULL, 0};
	struct keyring keyring;
	enum status s = read_key(path, &key, e);

	if (s == ST_OK && access(keyring_path, F_OK) == 0) {
		s = keyring_read(&keyring, keyring_path, &key, e);
		if (s == ST_OK)
			keyring_free(&keyring);
	}
	secret_free(&key);
	return s;
}

enum status master_check(const char *master_path, const char *keyring_path, struct err *e)
{
	char *next = xasprintf("%s.next", master_path);
	enum status s = opens(master_path, keyring_path, e);

	if (s == ST_CONFIGURATION && access(master_path, F_OK) == 0 && access(next, F_OK) == 0)
		s = opens(next, keyring_path, e); /* a change was cut short: opening the store would finish it */
	free(next);
	return s;
}

static enum status wrap(struct ks *ks, struct secret *fresh, const char *next, struct err *e)
{
	enum status s = keyring_write(&ks->keyring, ks->keyring_path, fresh, e);
	struct err cause = *e;

	if (s != ST_OK) /* one of the two keys opens it, and nobody knows which until it is opened or written again */
		return err_set(e, s, "%s; keep %s and %s, and ask again", cause.text, ks->master_path, next);
	secret_free(&ks->master);
	secret_move(&ks->master, fresh);
	return ST_OK;
}

enum status master_change(struct ks *ks, struct err *why)
{
	struct secret fresh = {NULL, 0};
	enum status s;
	char *next;

	if (ks->keyring_path == NULL)
		return ST_OK;
	next = next_path(ks);
	s = read_key(next, &fresh, why);
	if (s == ST_OK && !secret_equal(&fresh, &ks->master))
		s = wrap(ks, &fresh, next, why);
	else if (s == ST_OK && !ks->master_unplaced)
		s = err_set(why, ST_CONFLICT, "%s: is the master key that is in use: make another", next);
	if (s == ST_OK)
		s = put_in_place(ks, next, why);
	if (s == ST_OK)
		log_info("key store: the master key was changed: %s is the new one", ks->master_path);
	else
		log_error("key store: changing the master key: %s", why->text);
	secret_free(&fresh);
	free(next);
	return s;
}
