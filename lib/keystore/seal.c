/*
 * seal.c - sealing.
 *
 * Nonces are 8 random bytes, drawn anew when the store is opened and after 2^32 values, and a
 * counter of 4 bytes. A counter kept on disk would repeat when an older disk comes back (a virtual
 * machine's snapshot, say), and repeating a nonce gives keys away; that two random prefixes meet
 * is a matter of one in 2^64 per pair of openings under one data key.
 */
#include "seal.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "log.h"

enum { NONCE_LEN = 12, TAG_LEN = 16, HEAD_LEN = 18, KEYS_MAX = 4, PLACE_MAX = 512 };

struct data_key {
	uint32_t number;
	EVP_CIPHER_CTX *closing, *opening;
};

struct seal {
	struct data_key keys[KEYS_MAX];
	int count;
	uint8_t nonce[NONCE_LEN];
	uint32_t used; /* nonces since the prefix was drawn */
};

static void must(int ok)
{
	if (ok != 1)
		log_fatal("key store: AES-256-GCM failed in the cryptographic library");
}

static EVP_CIPHER_CTX *context(const uint8_t *key, int encrypt)
{
	EVP_CIPHER *aes = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	EVP_CIPHER_CTX *c;

	must(aes != NULL);
	secret_contexts_begin();
	c = EVP_CIPHER_CTX_new();
	must(c != NULL && EVP_CipherInit_ex(c, aes, NULL, key, NULL, encrypt));
	secret_contexts_end();
	EVP_CIPHER_free(aes);
	return c;
}

static void draw_prefix(struct seal *s)
{
	secret_random(s->nonce, NONCE_LEN);
	s->used = 0;
}

struct seal *seal_new(void)
{
	struct seal *s = xcalloc(1, sizeof *s);

	draw_prefix(s);
	return s;
}

void seal_free(struct seal *s)
{
	while (s->count > 0)
		seal_forget_key(s, s->keys[0].number);
	free(s);
}

void seal_add_key(struct seal *s, uint32_t number, const uint8_t *key)
{
	if (s->count == KEYS_MAX)
		log_fatal("key store: too many data keys at once");
	s->keys[s->count++] = (struct data_key){number, context(key, 1), context(key, 0)};
}

void seal_forget_key(struct seal *s, uint32_t number)
{
	for (int i = 0; i < s->count; i++) {
		if (s->keys[i].number != number)
			continue;
		EVP_CIPHER_CTX_free(s->keys[i].closing); /* wipes */
		EVP_CIPHER_CTX_free(s->keys[i].opening);
		memmove(&s->keys[i], &s->keys[i + 1], (size_t)(s->count - i - 1) * sizeof s->keys[0]);
		s->count--;
		return;
	}
}

uint32_t seal_current(const struct seal *s)
{
	return s->keys[s->count - 1].number;
}

uint32_t seal_key_number(struct kv_slice sealed)
{
	return sealed.len < SEAL_OVERHEAD ? 0 : (uint32_t)get_be(sealed.bytes, 4);
}

uint16_t seal_hint(struct kv_slice sealed)
{
	return sealed.len < SEAL_OVERHEAD ? 0 : (uint16_t)get_be(sealed.bytes + 4, 2);
}

/* What is authenticated beside the value: its head without the nonce, and its place. */
static int authenticated(uint8_t aad[PLACE_MAX + 8], const uint8_t *head, enum kv_db db,
			 struct kv_slice place)
{
	if (place.len > PLACE_MAX)
		log_fatal("key store: a key of the database is too long");
	memcpy(aad, head, 6);
	aad[6] = (uint8_t)db;
	memcpy(aad + 7, place.bytes, place.len);
	return (int)place.len + 7;
}

static void next_nonce(struct seal *s, uint8_t *nonce)
{
	if (s->used == UINT32_MAX)
		draw_prefix(s);
	put_be(s->nonce + 8, s->used++, 4);
	memcpy(nonce, s->nonce, NONCE_LEN);
}

void seal_close(struct seal *s, enum kv_db db, struct kv_slice place, uint16_t hint, const uint8_t *plain,
		size_t len, uint8_t *out)
{
	struct data_key *k = &s->keys[s->count - 1];
	uint8_t aad[PLACE_MAX + 8], *text = out + HEAD_LEN;
	int n, aad_len;

	put_be(out, k->number, 4);
	put_be(out + 4, hint, 2);
	next_nonce(s, out + 6);
	aad_len = authenticated(aad, out, db, place);
	must(EVP_EncryptInit_ex(k->closing, NULL, NULL, NULL, out + 6));
	must(EVP_EncryptUpdate(k->closing, NULL, &n, aad, aad_len));
	must(EVP_EncryptUpdate(k->closing, text, &n, plain, (int)len));
	must(EVP_EncryptFinal_ex(k->closing, text + n, &n));
	must(EVP_CIPHER_CTX_ctrl(k->closing, EVP_CTRL_GCM_GET_TAG, TAG_LEN, text + len));
}

static struct data_key *key_of(struct seal *s, uint32_t number)
{
	for (int i = 0; i < s->count; i++)
		if (s->keys[i].number == number)
			return &s->keys[i];
	return NULL;
}

bool seal_open_parts(struct seal *s, enum kv_db db, struct kv_slice place, struct kv_slice sealed, uint8_t *head,
		     size_t head_len, uint8_t *out)
{
	struct data_key *k = sealed.len < SEAL_OVERHEAD + head_len ? NULL : key_of(s, seal_key_number(sealed));
	size_t len = sealed.len - SEAL_OVERHEAD;
	uint8_t aad[PLACE_MAX + 8], tag[TAG_LEN];
	const uint8_t *text;
	int n, aad_len;

	if (k == NULL)
		return false;
	text = sealed.bytes + HEAD_LEN;
	memcpy(tag, text + len, TAG_LEN);
	aad_len = authenticated(aad, sealed.bytes, db, place);
	must(EVP_DecryptInit_ex(k->opening, NULL, NULL, NULL, sealed.bytes + 6));
	must(EVP_DecryptUpdate(k->opening, NULL, &n, aad, aad_len));
	if (head_len > 0)
		must(EVP_DecryptUpdate(k->opening, head, &n, text, (int)head_len));
	must(EVP_DecryptUpdate(k->opening, out, &n, text + head_len, (int)(len - head_len)));
	must(EVP_CIPHER_CTX_ctrl(k->opening, EVP_CTRL_GCM_SET_TAG, TAG_LEN, tag));
	if (EVP_DecryptFinal_ex(k->opening, out + n, &n) == 1)
		return true;
	secret_wipe(out, len - head_len);
	return false;
}

bool seal_open(struct seal *s, enum kv_db db, struct kv_slice place, struct kv_slice sealed, uint8_t *out)
{
	return seal_open_parts(s, db, place, sealed, NULL, 0, out);
}

void seal_wrap(const uint8_t *key, const void *aad, size_t aad_len, const uint8_t *plain, size_t len,
	       uint8_t *out)
{
	EVP_CIPHER_CTX *c = context(key, 1);
	int n;

	secret_random(out, NONCE_LEN);
	must(EVP_EncryptInit_ex(c, NULL, NULL, NULL, out));
	must(EVP_EncryptUpdate(c, NULL, &n, aad, (int)aad_len));
	must(EVP_EncryptUpdate(c, out + NONCE_LEN, &n, plain, (int)len));
	must(EVP_EncryptFinal_ex(c, out + NONCE_LEN + n, &n));
	must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_LEN, out + NONCE_LEN + len));
	EVP_CIPHER_CTX_free(c);
}

bool seal_unwrap(const uint8_t *key, const void *aad, size_t aad_len, const uint8_t *wrapped, size_t len,
		 uint8_t *out)
{
	EVP_CIPHER_CTX *c = context(key, 0);
	uint8_t tag[TAG_LEN];
	bool ok;
	int n;

	memcpy(tag, wrapped + NONCE_LEN + len, TAG_LEN);
	must(EVP_DecryptInit_ex(c, NULL, NULL, NULL, wrapped));
	must(EVP_DecryptUpdate(c, NULL, &n, aad, (int)aad_len));
	must(EVP_DecryptUpdate(c, out, &n, wrapped + NONCE_LEN, (int)len));
	must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_LEN, tag));
	ok = EVP_DecryptFinal_ex(c, out + n, &n) == 1;
	if (!ok)
		secret_wipe(out, len);
	EVP_CIPHER_CTX_free(c);
	return ok;
}
