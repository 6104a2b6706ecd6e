/*
 * deadline.c - a binary heap of deadlines.
 *
 * Most calls are answered long before their deadline, and deadlines mostly come in order, so that
 * adding one is a store behind the end. The timer is moved only when an earlier deadline comes; when it
 * finds nothing due it sets itself again.
 */
#include "deadline.h"

#include <stdlib.h>

static void put(struct deadlines *all, struct deadline *d, size_t place)
{
	all->heap[place - 1] = d;
	d->place = place;
}

static void sift_up(struct deadlines *all, struct deadline *d, size_t place)
{
	for (; place > 1 && d->at < all->heap[place / 2 - 1]->at; place /= 2)
		put(all, all->heap[place / 2 - 1], place);
	put(all, d, place);
}

static void sift_down(struct deadlines *all, struct deadline *d, size_t place)
{
	for (;;) {
		size_t child = 2 * place;

		if (child < all->count && all->heap[child]->at < all->heap[child - 1]->at)
			child++;
		if (child > all->count || all->heap[child - 1]->at >= d->at)
			break;
		put(all, all->heap[child - 1], place);
		place = child;
	}
	put(all, d, place);
}

static void set_timer(struct deadlines *all, uint64_t now)
{
	uint64_t at;

	if (all->count == 0)
		return;
	at = all->heap[0]->at;
	if (all->timer_at != 0 && all->timer_at <= at)
		return;
	all->timer_at = at;
	env_timer_set(all->env, all->timer, at > now ? at - now : 0);
}

static void timer_passed(void *arg)
{
	struct deadlines *all = arg;
	uint64_t now = env_mono(all->env);

	all->timer_at = 0;
	while (all->count > 0 && all->heap[0]->at <= now) {
		struct deadline *d = all->heap[0];

		deadline_clear(all, d);
		d->passed(d);
	}
	set_timer(all, now);
}

void deadlines_init(struct deadlines *all, struct env *env)
{
	*all = (struct deadlines){ .env = env };
	all->timer = env_timer_new(env, timer_passed, all);
}

void deadlines_free(struct deadlines *all)
{
	env_timer_free(all->env, all->timer);
	free(all->heap);
}

void deadline_set(struct deadlines *all, struct deadline *d, uint64_t after_ns)
{
	uint64_t now = env_mono(all->env);

	deadline_clear(all, d);
	if (all->count == all->room) {
		all->room = all->room ? 2 * all->room : 64;
		all->heap = xrealloc(all->heap, all->room * sizeof(struct deadline *));
	}
	d->at = now + after_ns;
	sift_up(all, d, ++all->count);
	set_timer(all, now);
}

void deadline_clear(struct deadlines *all, struct deadline *d)
{
	size_t place = d->place;
	struct deadline *last;

	if (place == 0)
		return;
	d->place = 0;
	last = all->heap[--all->count];
	if (last == d)
		return;
	if (place > 1 && last->at < all->heap[place / 2 - 1]->at)
		sift_up(all, last, place);
	else
		sift_down(all, last, place);
}
