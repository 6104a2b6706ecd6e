/* keyring.c - the wrapped data keys. The file is
 *
 *     "qkdn keys" NUL | format (2) | store (16) | check (16) | count (4) | data keys
 *
 * each data key being number (4) | wrapped key (60), and
 * check tells a wrong master key from a damaged file: a MAC of the rest under the master key
 * would not, so it is a MAC of the store's identity alone.
 */
#include "keyring.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "advice.h"
#include "bytes.h"
#include "file.h"
#include "log.h"

enum {
	MAGIC_LEN = 10,
	CHECK_LEN = 16,
	AT_FORMAT = MAGIC_LEN,
	AT_STORE = AT_FORMAT + 2,
	AT_CHECK = AT_STORE + ID_LEN,
	AT_COUNT = AT_CHECK + CHECK_LEN,
	AT_KEYS = AT_COUNT + 4,
	ENTRY_LEN = 4 + SEAL_KEY_LEN + WRAP_OVERHEAD,
	FILE_MAX = AT_KEYS + KEYRING_MAX * ENTRY_LEN,
};

static const uint8_t magic[MAGIC_LEN] = "qkdn keys";

/* A key for one purpose from the master key. out is 32 bytes. */
static void derive(const struct secret *master, const char *purpose, const struct id *store, uint8_t *out)
{
	uint8_t text[64];
	size_t n = strlen(purpose);
	unsigned len = 32;

	memcpy(text, purpose, n);
	memcpy(text + n, store->bytes, ID_LEN);
	if (HMAC(EVP_sha256(), master->bytes, (int)master->len, text, n + ID_LEN, out, &len) == NULL)
		log_fatal("key store: HMAC failed in the cryptographic library");
}

void keyring_new(struct keyring *r)
{
	memset(r, 0, sizeof *r);
	secret_random(r->store.bytes, ID_LEN);
	keyring_add(r);
}

void keyring_free(struct keyring *r)
{
	for (unsigned i = 0; i < r->count; i++)
		secret_free(&r->keys[i]);
	r->count = 0;
}

void keyring_add(struct keyring *r)
{
	if (r->count == KEYRING_MAX)
		log_fatal("key store: too many data keys at once");
	r->numbers[r->count] = r->count > 0 ? r->numbers[r->count - 1] + 1 : 1;
	secret_alloc(&r->keys[r->count], SEAL_KEY_LEN);
	secret_random(r->keys[r->count].bytes, SEAL_KEY_LEN);
	r->count++;
}

void keyring_drop_oldest(struct keyring *r)
{
	secret_free(&r->keys[0]);
	r->count--;
	memmove(r->keys, r->keys + 1, r->count * sizeof r->keys[0]);
	memmove(r->numbers, r->numbers + 1, r->count * sizeof r->numbers[0]);
	r->keys[r->count] = (struct secret){NULL, 0};
}

static enum status damaged(const char *path, const char *what, struct err *e)
{
	return err_set(
	    e, ST_STORAGE,
	    "%s: %s: without it the keys at rest cannot be read: put the newest copy of it back, or "
	    START_EMPTY,
	    path, what);
}

static enum status open_keys(struct keyring *r, const uint8_t *file, const uint8_t *wrapping,
			     const char *path, struct err *e)
{
	uint32_t count = (uint32_t)get_be(file + AT_COUNT, 4);

	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *entry = file + AT_KEYS + i * ENTRY_LEN;

		secret_alloc(&r->keys[i], SEAL_KEY_LEN);
		r->numbers[i] = (uint32_t)get_be(entry, 4);
		r->count = i + 1;
		if (!seal_unwrap(wrapping, entry, 4, entry + 4, SEAL_KEY_LEN, r->keys[i].bytes) ||
		    (i > 0 && r->numbers[i] <= r->numbers[i - 1]))
			return damaged(path, "a data key in it is damaged", e);
	}
	return ST_OK;
}

static enum status parse(struct keyring *r, const uint8_t *file, size_t len, const struct secret *master,
			 const char *path, struct err *e)
{
	uint8_t check[32];
	struct secret wrapping = {NULL, 0};
	enum status s;
	uint64_t count;

	if (len < AT_KEYS || memcmp(file, magic, MAGIC_LEN) != 0)
		return damaged(path, "not a file of data keys", e);
	r->format = (unsigned)get_be(file + AT_FORMAT, 2);
	if (r->format < KEYRING_FORMAT_LEAST || r->format > KEYRING_FORMAT)
		return err_set(e, ST_STORAGE,
			       "%s: format %u, and this program knows formats %d to %d only: run the version "
			       "that wrote it",
			       path, r->format, KEYRING_FORMAT_LEAST, KEYRING_FORMAT);
	count = get_be(file + AT_COUNT, 4);
	if (count == 0 || count > KEYRING_MAX || len != AT_KEYS + count * ENTRY_LEN)
		return damaged(path, "its length is wrong", e);
	memcpy(r->store.bytes, file + AT_STORE, ID_LEN);
	derive(master, "qkdn key store check", &r->store, check);
	if (!secret_bytes_equal(check, file + AT_CHECK, CHECK_LEN))
		return err_set(e, ST_CONFIGURATION,
			       "%s: sealed under another master key: configure the one that this "
			       "store was made with or last changed to",
			       path);
	secret_alloc(&wrapping, 32);
	derive(master, "qkdn key store wrap", &r->store, wrapping.bytes);
	s = open_keys(r, file, wrapping.bytes, path, e);
	secret_free(&wrapping);
	return s;
}

enum status keyring_read(struct keyring *r, const char *path, const struct secret *master, struct err *e)
{
	struct secret file = {NULL, 0};
	enum status s = file_read_secret(path, FILE_MAX, &file, e);

	memset(r, 0, sizeof *r);
	if (s != ST_OK)
		return s;
	s = parse(r, file.bytes, file.len, master, path, e);
	secret_free(&file);
	if (s != ST_OK)
		keyring_free(r);
	return s;
}

enum status keyring_write(const struct keyring *r, const char *path, const struct secret *master,
			  struct err *e)
{
	uint8_t file[FILE_MAX] = {0}, check[32];
	struct secret wrapping = {NULL, 0};
	int old = open(path, O_WRONLY | O_CLOEXEC);
	enum status s;

	memcpy(file, magic, MAGIC_LEN);
	put_be(file + AT_FORMAT, KEYRING_FORMAT, 2);
	memcpy(file + AT_STORE, r->store.bytes, ID_LEN);
	derive(master, "qkdn key store check", &r->store, check);
	memcpy(file + AT_CHECK, check, CHECK_LEN);
	put_be(file + AT_COUNT, r->count, 4);
	secret_alloc(&wrapping, 32);
	derive(master, "qkdn key store wrap", &r->store, wrapping.bytes);
	for (unsigned i = 0; i < r->count; i++) {
		uint8_t *entry = file + AT_KEYS + i * ENTRY_LEN;

		put_be(entry, r->numbers[i], 4);
		seal_wrap(wrapping.bytes, entry, 4, r->keys[i].bytes, SEAL_KEY_LEN, entry + 4);
	}
	secret_free(&wrapping);
	s = file_write(path, file, AT_KEYS + r->count * ENTRY_LEN, 0600, e);
	if (old >= 0) {
		if (s == ST_OK)
			file_overwrite(old);
		close(old);
	}
	return s;
}
