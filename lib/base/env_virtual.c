/*
 * env_virtual.c - env under a virtual clock.
 *
 * Posts and timers sit in one list ordered by (time, order of setting), so that a run
 * depends on the seed alone. The list is a binary heap with lazy deletion.
 */
#include "env_virtual.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct due {
	uint64_t at, order;
	struct env *env;
	struct env_timer *timer; /* NULL: a post */
	env_cb cb;
	void *arg;
};

struct world {
	uint64_t now, order, state;
	struct due *heap;
	size_t count, room;
	pthread_mutex_t lock; /* posts may come from any thread */
};

struct env_virtual {
	struct env env;
	struct world *world;
};

struct env_timer {
	struct env *env;
	env_cb cb;
	void *arg;
	uint64_t order; /* of the entry that counts; 0: not set */
	size_t entries; /* in the heap, dead ones too */
};

static struct world *world_of(struct env *env)
{
	return container_of(env, struct env_virtual, env)->world;
}

static bool earlier(const struct due *a, const struct due *b)
{
	return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void swap(struct due *a, struct due *b)
{
	struct due t = *a;

	*a = *b;
	*b = t;
}

static void sift_up(struct due *heap, size_t i)
{
	for (; i > 0 && earlier(&heap[i], &heap[(i - 1) / 2]); i = (i - 1) / 2)
		swap(&heap[i], &heap[(i - 1) / 2]);
}

static void sift_down(struct due *heap, size_t count, size_t i)
{
	for (;;) {
		size_t least = i, left = 2 * i + 1;

		for (size_t child = left; child <= left + 1 && child < count; child++)
			if (earlier(&heap[child], &heap[least]))
				least = child;
		if (least == i)
			return;
		swap(&heap[i], &heap[least]);
		i = least;
	}
}

static uint64_t push(struct world *w, struct due d, uint64_t after)
{
	pthread_mutex_lock(&w->lock);
	if (w->count == w->room) {
		w->room = w->room ? 2 * w->room : 64;
		w->heap = xrealloc(w->heap, w->room * sizeof *w->heap);
	}
	d.at = w->now + after;
	d.order = ++w->order;
	w->heap[w->count] = d;
	sift_up(w->heap, w->count++);
	pthread_mutex_unlock(&w->lock);
	return d.order;
}

static bool pop(struct world *w, uint64_t until, struct due *d)
{
	bool some;

	pthread_mutex_lock(&w->lock);
	some = w->count > 0 && w->heap[0].at <= until;
	if (some) {
		*d = w->heap[0];
		w->heap[0] = w->heap[--w->count];
		sift_down(w->heap, w->count, 0);
		w->now = d->at;
		if (d->timer != NULL)
			d->timer->entries--;
	}
	pthread_mutex_unlock(&w->lock);
	return some;
}

static uint64_t virtual_mono(struct env *env)
{
	return world_of(env)->now;
}

static uint64_t virtual_utc(struct env *env)
{
	return world_of(env)->now + UINT64_C(1700000000) * NS_PER_S;
}

static struct env_timer *virtual_timer_new(struct env *env, env_cb cb, void *arg)
{
	struct env_timer *t = xcalloc(1, sizeof *t);

	t->env = env;
	t->cb = cb;
	t->arg = arg;
	return t;
}

static void virtual_timer_set(struct env_timer *t, uint64_t after_ns)
{
	struct due d = { .env = t->env, .timer = t };

	t->entries++;
	t->order = push(world_of(t->env), d, after_ns);
}

static void virtual_timer_stop(struct env_timer *t)
{
	t->order = 0;
}

/* Removes every entry that match says is dead, and restores the heap. */
static void drop(struct world *w, const struct env *env, const struct env_timer *timer)
{
	size_t kept = 0;

	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->count; i++) {
		const struct due *d = &w->heap[i];

		if (timer != NULL ? d->timer != timer : d->env != env)
			w->heap[kept++] = *d;
	}
	w->count = kept;
	for (size_t i = kept / 2; i-- > 0;)
		sift_down(w->heap, kept, i);
	pthread_mutex_unlock(&w->lock);
}

static void virtual_timer_free(struct env_timer *t)
{
	if (t->entries > 0)
		drop(world_of(t->env), NULL, t);
	free(t);
}

static void virtual_post(struct env *env, env_cb cb, void *arg)
{
	struct due d = { .env = env, .cb = cb, .arg = arg };

	push(world_of(env), d, 0);
}

void env_virtual_after(struct env *env, uint64_t ns, env_cb cb, void *arg)
{
	struct due d = { .env = env, .cb = cb, .arg = arg };

	push(world_of(env), d, ns);
}

uint64_t world_random(struct world *w)
{
	/* splitmix64: a schedule needs dice, not secrets */
	uint64_t z = w->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void virtual_random(struct env *env, void *p, size_t len)
{
	for (uint8_t *b = p; len > 0;) {
		uint64_t r = world_random(world_of(env));
		size_t n = len < sizeof r ? len : sizeof r;

		memcpy(b, &r, n);
		b += n;
		len -= n;
	}
}

static const struct env_ops virtual_ops = {
	virtual_mono,       virtual_utc,        virtual_timer_new, virtual_timer_set,
	virtual_timer_stop, virtual_timer_free, virtual_post,      virtual_random,
};

struct world *world_new(uint64_t seed)
{
	struct world *w = xcalloc(1, sizeof *w);

	w->state = seed;
	pthread_mutex_init(&w->lock, NULL);
	return w;
}

void world_free(struct world *w)
{
	pthread_mutex_destroy(&w->lock);
	free(w->heap);
	free(w);
}

struct env *env_virtual_new(struct world *w)
{
	struct env_virtual *e = xcalloc(1, sizeof *e);

	e->env.ops = &virtual_ops;
	e->world = w;
	return &e->env;
}

void env_virtual_free(struct env *env)
{
	drop(world_of(env), env, NULL);
	free(container_of(env, struct env_virtual, env));
}

static bool step_until(struct world *w, uint64_t until)
{
	struct due d;

	while (pop(w, until, &d)) {
		if (d.timer == NULL) {
			d.cb(d.arg);
			return true;
		}
		if (d.timer->order == d.order) { /* neither stopped nor moved since */
			d.timer->order = 0;
			d.timer->cb(d.timer->arg);
			return true;
		}
	}
	return false;
}

bool world_step(struct world *w)
{
	return step_until(w, UINT64_MAX);
}

void world_run(struct world *w, uint64_t ns)
{
	uint64_t until = w->now + ns;

	while (step_until(w, until))
		;
	w->now = until;
}

uint64_t world_now(struct world *w)
{
	return w->now;
}
