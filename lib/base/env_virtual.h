/* env_virtual.h - a world of its own: a clock that jumps from timer to timer, and a seeded
 * random source. For tests and simulation only: its random bytes are no key material.
 * One world may hold many cores; each core is given its own struct env by env_virtual_new. */
#ifndef QKDN_ENV_VIRTUAL_H
#define QKDN_ENV_VIRTUAL_H

#include "env.h"

struct world;

struct world *world_new(uint64_t seed);
void world_free(struct world *w); /* after every env and timer of it */

struct env *env_virtual_new(struct world *w);
void env_virtual_free(struct env *env); /* drops the timers and posts still set on it */

/* Runs cb once, ns from now: a timer that needs no keeping. */
void env_virtual_after(struct env *env, uint64_t ns, env_cb cb, void *arg);

/* Runs the next post or timer; false when nothing is left to run. */
bool world_step(struct world *w);

/* Runs everything due until the clock stands at now + ns. */
void world_run(struct world *w, uint64_t ns);

uint64_t world_now(struct world *w);
uint64_t world_random(struct world *w); /* the schedule's own dice, from the seed */

#endif
