/*
 * km_supply.c - the KSA supplies keys on request (Ak): who may ask, who waits, what is answered.
 *
 * A key request is answered with keys that were taken ahead of it (km_ahead.c), or its keys are taken and assigned at
 * the destination (km_draw.c); where there are too few it waits for keys. A refusal consumes nothing: too few keys, an
 * unknown application, the wrong one are found before anything is taken.
 */
#include <stdlib.h>

#include "draw.h"

/* ---- ending a request ------------------------------------------------------------------------------------ */

static void request_fail(struct request *r, enum status s, const char *text)
{
	r->km->counters.requests_refused++;
	km_refuse(r->reply, r->arg, s, "keys for %s at %s: %s", r->destination->name, r->destination->km, text);
	request_free(r);
}

static void over(struct request *r, enum status s, const char *text)
{
	if (s != ST_OK) {
		request_fail(r, s, text);
		return;
	}
	ahead_counts(r, r->count);
	draw_supply(r, r->count, r->reply, r->arg);
	request_free(r);
}

static void wait_for_keys(struct request *r);

static void fell_short(struct request *r)
{
	r->fell_short = true;
	wait_for_keys(r);
}

static const struct request_kind of_application = { fell_short, over };

/* ---- waiting for keys ------------------------------------------------------------------------------------------ */

/* Of one application. Where keys are short each gets as many as the others, whatever it asks for and however urgent
 * it says that is: self-clocked fair queueing, with bytes for its clock. */
struct queue {
	struct queue *prev, *next;
	struct application *source;
	struct request *requests; /* highest priority first */
	uint64_t turn;            /* that of the last one served */
};

static uint64_t next_turn(const struct queue *q)
{
	return q->turn + request_len(q->requests);
}

static struct request *whose_turn(const struct ksa_pool *p)
{
	const struct queue *first = p->waiting, *q;

	DL_FOREACH (p->waiting, q)
		if (next_turn(q) < next_turn(first))
			first = q;
	return first->requests;
}

static struct queue *queue_of(struct ksa_pool *p, struct application *source)
{
	struct queue *q;

	DL_SEARCH_SCALAR (p->waiting, q, source, source);
	if (q != NULL)
		return q;
	q = xcalloc(1, sizeof *q);
	q->source = source;
	q->turn = p->turn;
	DL_APPEND(p->waiting, q);
	return q;
}

/* Behind those of the same or a higher priority. */
static void enqueue(struct request *r)
{
	struct queue *q = queue_of(r->pool, r->source);
	struct request *before = q->requests != NULL ? q->requests->prev : NULL;

	while (before != NULL && before->priority < r->priority)
		before = before != q->requests ? before->prev : NULL;
	DL_APPEND_ELEM(q->requests, before, r);
	r->queue = q;
}

static void dequeue(struct request *r)
{
	struct queue *q = r->queue;

	if (q == NULL)
		return;
	r->queue = NULL;
	DL_DELETE(q->requests, r);
	if (q->requests != NULL)
		return;
	DL_DELETE(r->pool->waiting, q);
	free(q);
}

void wait_in_turn(struct request *r)
{
	enqueue(r);
	ksa_pool_make(r->pool);
	ksa_pool_fill(r->pool);
}

void stop_waiting(struct request *r, enum status s, const char *text)
{
	dequeue(r);
	r->kind->over(r, s, text);
}

static bool waits_for_controller(const struct ksa_pool *p)
{
	const struct fill *f;

	DL_FOREACH (p->fills, f)
		if (relay_is_asking(f))
			return true;
	return false;
}

static void give_up_waiting(struct request *r)
{
	if (!r->pool->open)
		stop_waiting(r, ST_PEER_UNREACHABLE, "the far key manager is not reached: try again later");
	else if (r->pool->failure.status != ST_OK)
		stop_waiting(r, r->pool->failure.status, r->pool->failure.text);
	else if (waits_for_controller(r->pool))
		stop_waiting(r, ST_PEER_UNREACHABLE, "the controller has not answered which way they are to be relayed: see "
		                                     "whether it runs, or try again later");
	else if (r->pool->in_flight > 0 && r->pool->stock + r->pool->in_flight >= (uint64_t)r->count * r->key_len)
		stop_waiting(r, ST_TIMED_OUT, "they are on their way and have not arrived in time: try again");
	else
		stop_waiting(r, ST_TOO_FEW_KEYS, "fewer are ready than were asked for: ask for fewer, or try again later");
}

static void deadline_passed(void *arg)
{
	struct request *r = arg;

	if (r->queue != NULL) /* else its work is under way */
		give_up_waiting(r);
}

static void wait_for_keys(struct request *r)
{
	uint64_t now = env_mono(r->km->env);

	if (now >= r->give_up_at) {
		give_up_waiting(r);
		return;
	}
	if (r->deadline == NULL)
		r->deadline = env_timer_new(r->km->env, deadline_passed, r);
	env_timer_set(r->km->env, r->deadline, r->give_up_at - now);
	wait_in_turn(r);
}

void ksa_pool_ready(struct ksa_pool *p)
{
	while (p->open && p->waiting != NULL) {
		struct request *r = whose_turn(p);

		if (request_len(r) > ksa_pool_available(p))
			return;
		r->queue->turn = next_turn(r->queue);
		if (p->turn < r->queue->turn)
			p->turn = r->queue->turn;
		dequeue(r);
		draw_gather(r);
	}
}

/* Remnants at the ends of ranges are stock, but no keys: a request that fell short is to get a fresh range. */
uint64_t ksa_pool_waiting_bytes(const struct ksa_pool *p)
{
	uint64_t bytes = 0, usable = ksa_pool_available(p);
	const struct queue *q;
	const struct request *r;

	DL_FOREACH (p->waiting, q)
		DL_FOREACH (q->requests, r) {
			bytes += request_len(r);
			if (!r->fell_short)
				continue;
			bytes += r->key_len; /* keys begin at a multiple of their length */
			usable = 0;
		}
	return bytes > usable ? bytes - usable : 0;
}

const struct id *ksa_pool_waiting_trace(const struct ksa_pool *p)
{
	return p->waiting != NULL ? &whose_turn(p)->trace : NULL;
}

void ksa_pool_fail_waiting(struct ksa_pool *p, enum status s, const char *text)
{
	while (p->waiting != NULL)
		stop_waiting(p->waiting->requests, s, text);
}

void ksa_pool_stop(struct ksa_pool *p)
{
	ksa_pool_fail_waiting(p, ST_BUSY, "the key manager is stopping");
	draw_stop(p);
	ahead_end(p);
}

/* ---- key request --------------------------------------------------------------------------------------------------- */

/* Checks what was asked against the bounds; true if it may go on. */
static bool request_fits(struct km *km, const struct km_key_request *m, uint32_t count, uint32_t size,
                         km_reply reply, void *arg)
{
	const struct km_limits *limits = &km->limits;

	if (count > limits->max_keys_per_request)
		km_refuse(reply, arg, ST_BAD_REQUEST, "%u keys asked for: at most %u a request", count,
		          limits->max_keys_per_request);
	else if (size % 8 != 0)
		km_refuse(reply, arg, ST_BAD_REQUEST, "size shall be a multiple of 8, not %u bits", size);
	else if (size < limits->min_key_size || size > limits->max_key_size)
		km_refuse(reply, arg, ST_BAD_REQUEST, "keys of %u bits asked for: between %u and %u are served", size,
		          limits->min_key_size, limits->max_key_size);
	else if (m->more_destinations > 0)
		km_refuse(reply, arg, ST_UNSUPPORTED, "keys for more than one destination are not served: ask for each pair");
	else if (m->mandatory_extension != NULL)
		km_refuse(reply, arg, ST_UNSUPPORTED, "not all extension_mandatory parameters are supported: %s is not",
		          m->mandatory_extension);
	else if (m->deadline > limits->max_request_deadline)
		km_refuse(reply, arg, ST_BAD_REQUEST, "a wait of %llu s asked for: at most %llu s",
		          (unsigned long long)(m->deadline / NS_PER_S),
		          (unsigned long long)(limits->max_request_deadline / NS_PER_S));
	else
		return true;
	return false;
}

bool find_pair(struct km *km, const char *from, const char *source, const char *destination, struct application **a,
               struct application **b, km_reply reply, void *arg)
{
	*a = application_by_name(km, source);
	*b = application_by_name(km, destination);
	if (strcmp(from, source) != 0)
		km_refuse(reply, arg, ST_DENIED, "application %s asks for itself, not for %s", from, source);
	else if (*a == NULL || strcmp((*a)->km, km->name) != 0)
		km_refuse(reply, arg, ST_UNKNOWN_APPLICATION,
		          "application %s is not served by %s: ask its own key manager, or have it configured here", source,
		          km->name);
	else if (*b == NULL)
		km_refuse(reply, arg, ST_UNKNOWN_APPLICATION, "application %s is not known to %s: have it configured there",
		          destination, km->name);
	else if (strcmp((*b)->km, km->name) == 0)
		km_refuse(reply, arg, ST_BAD_REQUEST, "applications %s and %s are both at %s: no key has to be shared",
		          source, destination, km->name);
	else
		return true;
	return false;
}

void handle_key_request(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_key_request *m = message;
	uint32_t count = m->number ? m->number : 1, size = m->size ? m->size : km->limits.default_key_size;
	uint64_t wait = m->deadline ? m->deadline : km->limits.request_deadline, now = env_mono(km->env);
	struct application *source, *destination;
	struct ksa_pool *pool;
	struct request *r;

	if (!find_pair(km, from, m->source, m->destination, &source, &destination, reply, arg) ||
	    !request_fits(km, m, count, size, reply, arg)) {
		km->counters.requests_refused++;
		return;
	}
	if (destination->pool == NULL)
		destination->pool = ksa_pool_to(km, destination->km);
	pool = destination->pool;
	if (source->waiting >= km->limits.max_waiting_requests) {
		km->counters.requests_refused++;
		km_refuse(reply, arg, ST_BUSY, "application %s has %u requests waiting here already: wait for their answers",
		          source->name, source->waiting);
		return;
	}
	if (ahead_supplies(pool, source, destination, count, size / 8, m, now, reply, arg))
		return;
	r = request_new(&of_application, pool, count, size / 8);
	r->source = source;
	r->destination = destination;
	r->trace = m->trace;
	r->priority = m->priority;
	r->give_up_at = now + wait;
	r->reply = reply;
	r->arg = arg;
	r->counted = true;
	source->waiting++;
	if (pool->open && ksa_pool_available(pool) >= request_len(r) && pool->waiting == NULL)
		draw_gather(r);
	else
		wait_for_keys(r);
}

/* ---- status ------------------------------------------------------------------------------------------------------------- */

void handle_status(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_status_request *m = message;
	struct application *source, *destination;
	struct km_status_answer a = { .source_km = km->name };
	struct ksa_pool *p;

	if (!find_pair(km, from, m->source, m->destination, &source, &destination, reply, arg))
		return;
	p = ksa_pool_to(km, destination->km);
	a.destination_km = destination->km;
	a.key_size = km->limits.default_key_size;
	a.min_key_size = km->limits.min_key_size;
	a.max_key_size = km->limits.max_key_size;
	a.max_keys_per_request = km->limits.max_keys_per_request;
	a.stored_keys = p->stock / (a.key_size / 8);
	a.max_stored_keys = km->limits.ksa_high_water / (a.key_size / 8);
	reply(&a.answer, arg);
}
