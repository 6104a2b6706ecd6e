/* key_block.c - a numbered block of QKD-keys. */
#include "key_block.h"

#include <stdlib.h>

struct key_block *key_block_new(struct env *env, uint64_t sequence, uint32_t qber_ppm, size_t size)
{
	struct key_block *b = xcalloc(1, sizeof *b);

	b->sequence = sequence;
	b->generated_at = env_utc(env);
	b->qber_ppm = qber_ppm;
	b->references = 1;
	secret_alloc(&b->bytes, size);
	env_random(env, b->bytes.bytes, size);
	return b;
}

struct key_block *key_block_spoilt(struct env *env, const struct key_block *b)
{
	struct key_block *copy = xcalloc(1, sizeof *copy);
	uint32_t bit;

	copy->sequence = b->sequence;
	copy->generated_at = b->generated_at;
	copy->qber_ppm = b->qber_ppm;
	copy->references = 1;
	secret_copy(&copy->bytes, b->bytes.bytes, b->bytes.len);
	env_random(env, &bit, sizeof bit);
	copy->bytes.bytes[bit / 8 % b->bytes.len] ^= (uint8_t)(1 << bit % 8);
	return copy;
}

void key_block_hold(struct key_block *b)
{
	b->references++;
}

void key_block_release(struct key_block *b)
{
	if (--b->references > 0)
		return;
	secret_free(&b->bytes);
	free(b);
}
