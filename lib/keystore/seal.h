/*
 * seal.h - AES-256-GCM over every value in the database, under data keys.
 *
 * A sealed value is  key number (4) | hint (2) | nonce (12) | ciphertext | tag (16).  Number, hint
 * and the value's place (database and key) are authenticated with it, so that a value moved
 * to another place does not open. The hint is readable without opening.
 */
#ifndef QKDN_SEAL_H
#define QKDN_SEAL_H

#include "kv.h"
#include "secret.h"

enum { SEAL_KEY_LEN = 32, SEAL_OVERHEAD = 4 + 2 + 12 + 16 };

struct seal;

struct seal *seal_new(void);
void seal_free(struct seal *s); /* wipes */

/* The key added last seals; all of them open. key is SEAL_KEY_LEN bytes. */
void seal_add_key(struct seal *s, uint32_t number, const uint8_t *key);
void seal_forget_key(struct seal *s, uint32_t number);
uint32_t seal_current(const struct seal *s);

/* Seals len bytes into out, which has room for len + SEAL_OVERHEAD. */
void seal_close(struct seal *s, enum kv_db db, struct kv_slice place, uint16_t hint, const uint8_t *plain,
		size_t len, uint8_t *out);

/* Opens into out, which has room for sealed.len - SEAL_OVERHEAD bytes. false, and out wiped, where the value
 * is not what was sealed at this place under a key that is known. */
MUST_CHECK bool seal_open(struct seal *s, enum kv_db db, struct kv_slice place, struct kv_slice sealed,
			  uint8_t *out);
/* The same, its first head_len bytes into head. */
MUST_CHECK bool seal_open_parts(struct seal *s, enum kv_db db, struct kv_slice place, struct kv_slice sealed,
				uint8_t *head, size_t head_len, uint8_t *out);

/* Of a value that may be damaged; 0 where it is too short. */
uint32_t seal_key_number(struct kv_slice sealed);
uint16_t seal_hint(struct kv_slice sealed);

/* One-shot AES-256-GCM for keys that wrap keys: out is nonce (12) | ciphertext | tag (16). */
enum { WRAP_OVERHEAD = 28 };
void seal_wrap(const uint8_t *key, const void *aad, size_t aad_len, const uint8_t *plain, size_t len,
	       uint8_t *out);
MUST_CHECK bool seal_unwrap(const uint8_t *key, const void *aad, size_t aad_len, const uint8_t *wrapped,
			    size_t len, uint8_t *out);

#endif
