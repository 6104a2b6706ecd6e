/*
 * env_event.c - env over libevent. What is posted from other threads wakes the loop through an eventfd; what is posted
 * in its own needs no system call.
 */
#include "env_event.h"

#include <event2/event.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "secret.h"

struct post {
	env_cb cb;
	void *arg;
	struct post *next;
};

struct env_event {
	struct env env;
	struct event_base *base;
	struct event *wakeup;
	int wakeup_fd;
	pthread_mutex_t lock; /* over the five below */
	struct post *first, **last;
	bool woken;
	bool running;
	pthread_t runner; /* the loop's thread, while it runs */
	bool posting;     /* of that thread: it runs what was posted */
};

struct env_timer {
	struct event *event;
	uint64_t due; /* monotonic */
	env_cb cb;
	void *arg;
};

static uint64_t read_clock(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t event_mono(struct env *env)
{
	(void)env;
	return read_clock(CLOCK_MONOTONIC);
}

static uint64_t event_utc(struct env *env)
{
	(void)env;
	return read_clock(CLOCK_REALTIME);
}

static void add(struct env_timer *t, uint64_t after_ns)
{
	struct timeval tv = { .tv_sec = (time_t)(after_ns / NS_PER_S),
		              .tv_usec = (suseconds_t)(after_ns % NS_PER_S / NS_PER_US) };

	evtimer_add(t->event, &tv);
}

/* The loop's clock is that of its last wake-up, and coarse: a timer that it passes early is set again. */
static void timer_fired(evutil_socket_t fd, short what, void *arg)
{
	struct env_timer *t = arg;
	uint64_t now = read_clock(CLOCK_MONOTONIC);

	(void)fd;
	(void)what;
	if (now < t->due)
		add(t, t->due - now);
	else
		t->cb(t->arg);
}

static struct env_timer *event_timer_new(struct env *env, env_cb cb, void *arg)
{
	struct env_timer *t = xcalloc(1, sizeof *t);

	t->cb = cb;
	t->arg = arg;
	t->event = evtimer_new(env_event_base(env), timer_fired, t);
	if (t->event == NULL)
		log_fatal("no memory for a timer");
	return t;
}

static void event_timer_set(struct env_timer *t, uint64_t after_ns)
{
	t->due = read_clock(CLOCK_MONOTONIC) + after_ns;
	add(t, after_ns);
}

static void event_timer_stop(struct env_timer *t)
{
	evtimer_del(t->event);
}

static void event_timer_free(struct env_timer *t)
{
	event_free(t->event);
	free(t);
}

/* At the end of this turn; what a post posts, not before the loop has looked for input and timers again. */
static void wake_self(struct env_event *e)
{
	event_active(e->wakeup, EV_TIMEOUT, 0);
	if (e->posting)
		event_base_loopcontinue(e->base);
}

static void event_post(struct env *env, env_cb cb, void *arg)
{
	struct env_event *e = container_of(env, struct env_event, env);
	struct post *p = xcalloc(1, sizeof *p);
	bool wake, from_loop;

	p->cb = cb;
	p->arg = arg;
	pthread_mutex_lock(&e->lock);
	*e->last = p;
	e->last = &p->next;
	wake = !e->woken;
	e->woken = true;
	from_loop = e->running && pthread_equal(e->runner, pthread_self());
	pthread_mutex_unlock(&e->lock);
	if (wake && from_loop)
		wake_self(e);
	else if (wake && eventfd_write(e->wakeup_fd, 1) != 0)
		log_fatal("waking the event loop failed");
}

static void run_posts(evutil_socket_t fd, short what, void *arg)
{
	struct env_event *e = arg;
	struct post *p, *next;
	eventfd_t count;

	if ((what & EV_READ) != 0 && eventfd_read(fd, &count) != 0)
		return;
	pthread_mutex_lock(&e->lock);
	p = e->first;
	e->first = NULL;
	e->last = &e->first;
	e->woken = false;
	pthread_mutex_unlock(&e->lock);
	e->posting = true;
	for (; p != NULL; p = next) {
		next = p->next;
		p->cb(p->arg);
		free(p);
	}
	e->posting = false;
}

static void event_random(struct env *env, void *p, size_t len)
{
	(void)env;
	secret_random(p, len);
}

static const struct env_ops event_ops = {
	event_mono,       event_utc,        event_timer_new, event_timer_set,
	event_timer_stop, event_timer_free, event_post,      event_random,
};

struct env *env_event_new(void)
{
	struct env_event *e = xcalloc(1, sizeof *e);

	e->env.ops = &event_ops;
	e->last = &e->first;
	pthread_mutex_init(&e->lock, NULL);
	e->base = event_base_new();
	e->wakeup_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (e->base != NULL && e->wakeup_fd >= 0)
		e->wakeup = event_new(e->base, e->wakeup_fd, EV_READ | EV_PERSIST, run_posts, e);
	if (e->wakeup == NULL || event_add(e->wakeup, NULL) != 0) {
		env_event_free(&e->env);
		return NULL;
	}
	return &e->env;
}

void env_event_free(struct env *env)
{
	struct env_event *e = container_of(env, struct env_event, env);
	struct post *p, *next;

	if (e->wakeup != NULL)
		event_free(e->wakeup);
	for (p = e->first; p != NULL; p = next) {
		next = p->next;
		free(p);
	}
	if (e->wakeup_fd >= 0)
		close(e->wakeup_fd);
	if (e->base != NULL)
		event_base_free(e->base);
	pthread_mutex_destroy(&e->lock);
	free(e);
}

struct event_base *env_event_base(struct env *env)
{
	return container_of(env, struct env_event, env)->base;
}

static void set_running(struct env_event *e, bool running)
{
	pthread_mutex_lock(&e->lock);
	e->running = running;
	e->runner = pthread_self();
	pthread_mutex_unlock(&e->lock);
}

void env_event_run(struct env *env)
{
	struct env_event *e = container_of(env, struct env_event, env);

	set_running(e, true);
	event_base_dispatch(e->base);
	set_running(e, false);
}

void env_event_stop(struct env *env)
{
	event_base_loopbreak(env_event_base(env));
}
