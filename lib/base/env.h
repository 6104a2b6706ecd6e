/*
 * env.h - what a daemon's core is given of the world: time, timers, the next turn of the
 * loop, and randomness.
 *
 * The real one (env_event.h) stands on libevent; the virtual one (env_virtual.h) runs many
 * cores in one process under a clock that jumps from timer to timer, reproducibly from a seed.
 * A core never reads a clock or a random source in any other way.
 */
#ifndef QKDN_ENV_H
#define QKDN_ENV_H

#include "base.h"

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

struct env;
struct env_timer;
typedef void (*env_cb)(void *arg);

struct env_ops {
	uint64_t (*mono)(struct env *);
	uint64_t (*utc)(struct env *);
	struct env_timer *(*timer_new)(struct env *, env_cb cb, void *arg);
	void (*timer_set)(struct env_timer *, uint64_t after_ns);
	void (*timer_stop)(struct env_timer *);
	void (*timer_free)(struct env_timer *);
	void (*post)(struct env *, env_cb cb, void *arg);
	void (*random)(struct env *, void *p, size_t len);
};

struct env {
	const struct env_ops *ops;
};

/* Monotonic and UTC time in nanoseconds. */
static inline uint64_t env_mono(struct env *env) { return env->ops->mono(env); }
static inline uint64_t env_utc(struct env *env) { return env->ops->utc(env); }

/* A one-shot timer; setting a set one moves it. cb runs in the loop's thread. */
static inline struct env_timer *env_timer_new(struct env *env, env_cb cb, void *arg)
{
	return env->ops->timer_new(env, cb, arg);
}
static inline void env_timer_set(struct env *env, struct env_timer *t, uint64_t after_ns)
{
	env->ops->timer_set(t, after_ns);
}
static inline void env_timer_stop(struct env *env, struct env_timer *t) { env->ops->timer_stop(t); }
static inline void env_timer_free(struct env *env, struct env_timer *t) /* NULL is allowed */
{
	if (t != NULL)
		env->ops->timer_free(t);
}

/* Runs cb in the loop's thread, after the current callback. The only call here that any
 * thread may make: it is how the key store's writer reports. */
static inline void env_post(struct env *env, env_cb cb, void *arg) { env->ops->post(env, cb, arg); }

/* Random bytes for keys and identifiers. */
static inline void env_random(struct env *env, void *p, size_t len)
{
	env->ops->random(env, p, len);
}

#endif
