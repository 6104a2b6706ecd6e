/*
 * keyid.c - key IDs that need no index.
 *
 * ID = AES-256(K, offset (8) | length (4) | 0 (4)), K = SHA-256("qkdn key id" | pool). Both ends know
 * the pool's ID and so compute the same; a stranger's ID opens to something without the zeros, but
 * for one in 2^32, and then to an offset far beyond any pool.
 */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

struct permutation {
	bool valid;
	struct id pool;
	EVP_CIPHER_CTX *forth, *back;
};

enum { PERMUTATIONS = 4 };

/* What a thread used last, since setting up a cipher costs ten times its use. */
struct permutations {
	struct permutation last[PERMUTATIONS];
	unsigned next;
};

static pthread_key_t thread_key;
static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;

static void permutations_free(void *arg)
{
	struct permutations *all = arg;

	for (int i = 0; i < PERMUTATIONS; i++) {
		EVP_CIPHER_CTX_free(all->last[i].forth);
		EVP_CIPHER_CTX_free(all->last[i].back);
	}
	free(all);
}

static void thread_key_make(void)
{
	if (pthread_key_create(&thread_key, permutations_free) != 0)
		log_fatal("key store: no thread-specific data left");
}

static void must(int ok)
{
	if (ok != 1)
		log_fatal("key store: AES-256 failed in the cryptographic library");
}

static void set_up(struct permutation *p, const struct id *pool)
{
	static const char purpose[] = "qkdn key id";
	uint8_t text[sizeof purpose - 1 + ID_LEN], key[32];

	memcpy(text, purpose, sizeof purpose - 1);
	memcpy(text + sizeof purpose - 1, pool->bytes, ID_LEN);
	must(EVP_Digest(text, sizeof text, key, NULL, EVP_sha256(), NULL));
	if (p->forth == NULL) {
		p->forth = EVP_CIPHER_CTX_new();
		p->back = EVP_CIPHER_CTX_new();
	}
	must(EVP_EncryptInit_ex(p->forth, EVP_aes_256_ecb(), NULL, key, NULL));
	must(EVP_DecryptInit_ex(p->back, EVP_aes_256_ecb(), NULL, key, NULL));
	EVP_CIPHER_CTX_set_padding(p->forth, 0);
	EVP_CIPHER_CTX_set_padding(p->back, 0);
	p->pool = *pool;
	p->valid = true;
}

static struct permutation *permutation_of(const struct id *pool)
{
	struct permutations *all;
	struct permutation *p;

	pthread_once(&thread_key_once, thread_key_make);
	all = pthread_getspecific(thread_key);
	if (all == NULL) {
		all = xcalloc(1, sizeof *all);
		pthread_setspecific(thread_key, all);
	}
	for (int i = 0; i < PERMUTATIONS; i++)
		if (all->last[i].valid && id_equal(&all->last[i].pool, pool))
			return &all->last[i];
	p = &all->last[all->next++ % PERMUTATIONS];
	set_up(p, pool);
	return p;
}

/* Calling the cipher costs several times what a block does. */
void ks_key_ids(const struct id *pool, uint64_t offset, uint32_t key_len, uint32_t count, struct id *key_ids)
{
	uint8_t *blocks = key_ids[0].bytes;
	int n;

	for (uint32_t i = 0; i < count; i++, offset += key_len) {
		put_be(key_ids[i].bytes, offset, 8);
		put_be(key_ids[i].bytes + 8, key_len, 4);
		memset(key_ids[i].bytes + 12, 0, 4);
	}
	must(EVP_EncryptUpdate(permutation_of(pool)->forth, blocks, &n, blocks, (int)(count * ID_LEN)));
}

void ks_key_id(const struct id *pool, uint64_t offset, uint32_t key_len, struct id *key_id)
{
	ks_key_ids(pool, offset, key_len, 1, key_id);
}

bool ks_key_id_invert(const struct id *pool, const struct id *key_id, uint64_t *offset, uint32_t *key_len)
{
	uint8_t block[ID_LEN + 16];
	int n;

	must(EVP_DecryptUpdate(permutation_of(pool)->back, block, &n, key_id->bytes, ID_LEN));
	*offset = get_be(block, 8);
	*key_len = (uint32_t)get_be(block + 8, 4);
	return get_be(block + 12, 4) == 0 && *offset<OFFSET_LIMIT && * key_len> 0 &&
	       *key_len <= KS_KEY_LEN_MAX;
}
