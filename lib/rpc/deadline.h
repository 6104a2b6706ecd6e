/* deadline.h - many deadlines over one timer: a call, a handshake, a record begun. */
#ifndef QKDN_RPC_DEADLINE_H
#define QKDN_RPC_DEADLINE_H

#include "env.h"

struct deadline { /* zero-initialise but for passed */
	uint64_t at;
	size_t place; /* in the heap, from 1; 0: not set */
	void (*passed)(struct deadline *d);
};

struct deadlines {
	struct env *env;
	struct env_timer *timer;
	uint64_t timer_at; /* 0: not set */
	struct deadline **heap;
	size_t count, room;
};

void deadlines_init(struct deadlines *all, struct env *env);
void deadlines_free(struct deadlines *all);

void deadline_set(struct deadlines *all, struct deadline *d, uint64_t after_ns); /* moves a set one */
void deadline_clear(struct deadlines *all, struct deadline *d);

#endif
