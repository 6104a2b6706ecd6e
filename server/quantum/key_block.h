/* key_block.h - a numbered block of QKD-keys, which both modules of a pair hold until their KMs do. */
#ifndef QKDN_QUANTUM_KEY_BLOCK_H
#define QKDN_QUANTUM_KEY_BLOCK_H

#include "env.h"
#include "secret.h"

struct key_block {
	uint64_t sequence;
	uint64_t generated_at; /* UTC */
	uint32_t qber_ppm;
	struct secret bytes;
	unsigned references;
};

/* Random bytes of env, one reference. An emulator's: no photon was sent for them. */
struct key_block *key_block_new(struct env *env, uint64_t sequence, uint32_t qber_ppm, size_t size);

/* A copy that differs in one bit: what a failed error correction leaves at one end. */
struct key_block *key_block_spoilt(struct env *env, const struct key_block *b);

void key_block_hold(struct key_block *b);
void key_block_release(struct key_block *b); /* the last release wipes and frees */

#endif
