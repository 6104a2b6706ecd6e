/* env_event.h - the real world: libevent's loop, the kernel's clocks, OpenSSL's DRBG. */
#ifndef QKDN_ENV_EVENT_H
#define QKDN_ENV_EVENT_H

#include "env.h"

struct event_base;

/* NULL where the kernel denies an event queue. Free it after everything that was given it. */
struct env *env_event_new(void);
void env_event_free(struct env *env);

/* The loop itself, for what watches file descriptors and signals. */
struct event_base *env_event_base(struct env *env);

/* Runs until env_event_stop. Stopping is allowed from a signal's callback. */
void env_event_run(struct env *env);
void env_event_stop(struct env *env);

#endif
