/*
 * km_supply.c - the KSA supplies keys on request (Ak), together with the far KSA (Kx-2): procedure I.1.
 *
 * The keys of a request are taken from the pair's KSA pool and assigned to the two applications at the
 * destination; both are durable before it is answered. The two commits run side by side: the assignment is sent
 * as soon as it is known which keys they are. Requests that come at about the same time are one work (a draw); what was
 * taken together is assigned with one message.
 *
 * So the destination may know of keys that this end, after a crash or a commit that failed, has not taken. It
 * never takes them again: here the works remember how far they have shown the pool (struct ksa_shown) and void
 * up to there; a KM that was killed learns it from the destination when it opens the pool (km_pool.c).
 * doc/key-store.md has the whole argument.
 *
 * From the take on keys are used: whatever happens they are never taken again; where the outcome is unknown both
 * ends void them. A refusal consumes nothing: too few keys, an unknown application or ID, the wrong
 * application are found before anything is taken.
 */
#include <stdlib.h>

#include "core.h"

enum {
	DRAW_BYTES = 16 * 1024,            /* of keys in one draw, if it is for more than one request */
	GATHER_MOST_NS = 2 * 1000 * 1000,  /* for requests to gather */
	CROWD_FADES = 16,                  /* each draw makes it less by one part of so many */
	HURRIED_DRAWS = 16,                /* without gathering, after some gathered in vain */
};

/* Keys that lie one behind another. */
struct run {
	uint64_t offset;
	uint32_t count;
	uint32_t assignment; /* of the message that they are assigned with */
};

/* A key request on its way. */
struct request {
	struct ksa_pool *pool;
	struct km *km;
	struct request *prev, *next; /* in a queue, gathered, taken or a message's list */
	struct application *source, *destination;
	struct id trace;
	uint32_t count, key_len, priority;
	struct queue *queue; /* while it waits for keys */
	bool fell_short; /* the stock was enough in bytes, but not in whole keys */
	uint64_t give_up_at; /* monotonic */
	struct env_timer *deadline;
	km_reply reply;
	void *arg;

	struct use use; /* from the take until the assignment is answered */
	struct draw *draw; /* that takes its keys; NULL: none yet */
	struct request *next_drawn;
	uint8_t *bytes; /* in the draw's */
	bool unsent;    /* in taken */
	bool durable;   /* the draw's commit is over */
	bool assigned;  /* the message is answered */
	enum status failure;
	uint32_t got;
	unsigned run_count;
	struct run runs[]; /* room for count: no two keys need lie together */
};

/* Requests whose keys are taken by one work. */
struct draw {
	struct ksa_pool *pool;
	struct id pool_id;
	struct ksa_shown *shown;
	bool early; /* told before its commit */
	bool ran;
	unsigned holds; /* requests, and the work */
	uint64_t len;   /* bytes of all keys */
	struct secret bytes;
	struct request *requests;
	/* what the work finds */
	uint64_t base, stock, skipped;
};

/* ---- ending a request ---------------------------------------------------------------------------- */

static void draw_release(struct draw *d)
{
	if (--d->holds > 0)
		return;
	secret_free(&d->bytes);
	free(d);
}

static void leave_draw(struct request *r)
{
	r->pool->under_way--;
	draw_release(r->draw);
	r->draw = NULL;
	r->next_drawn = NULL;
}

static void request_free(struct request *r)
{
	env_timer_free(r->km->env, r->deadline);
	if (r->draw != NULL)
		leave_draw(r);
	free(r);
}

static void request_fail(struct request *r, enum status s, const char *text)
{
	r->km->counters.requests_refused++;
	km_refuse(r->reply, r->arg, s, "keys for %s at %s: %s", r->destination->name, r->destination->km, text);
	request_free(r);
}

static void request_succeed(struct request *r)
{
	struct id one, *ids = r->count == 1 ? &one : xcalloc(r->count, sizeof *ids);
	struct km_keys keys = { .count = r->count,
		                .key_len = r->key_len,
		                .key_ids = ids,
		                .bytes = r->bytes,
		                .len = (size_t)r->count * r->key_len };
	uint32_t k = 0;

	for (unsigned i = 0; i < r->run_count; i++)
		for (uint32_t j = 0; j < r->runs[i].count; j++)
			ks_key_id(&r->draw->pool_id, r->runs[i].offset + (uint64_t)j * r->key_len, r->key_len, &ids[k++]);
	r->km->counters.keys_supplied += r->count;
	r->reply(&keys.answer, r->arg);
	secret_wipe(r->bytes, keys.len); /* the draw may live on */
	if (ids != &one)
		free(ids);
	request_free(r);
}

static void void_answered(enum status s, const void *answer, void *arg)
{
	(void)s; /* if it got lost, the keys' lifetime ends them at the destination */
	(void)answer;
	(void)arg;
}

/* The keys of a failed request: used here, and not to be delivered there. */
static void void_keys(struct ksa_pool *p, const struct request *r)
{
	for (unsigned i = 0; i < r->run_count; i++) {
		struct km_void m = { .trace = r->trace, .pool = r->draw->pool_id, .offset = r->runs[i].offset };

		m.len = (uint64_t)r->runs[i].count * r->key_len;
		km_send(p->km, KM_VOID, p->destination, &m, void_answered, NULL);
	}
}

static const char *failure_text(enum status s)
{
	switch (s) {
	case ST_PEER_UNREACHABLE:
	case ST_TRANSPORT:
		return "the far key manager was lost; these keys are voided: ask again";
	case ST_TIMED_OUT:
		return "the far key manager did not answer in time; these keys are voided: ask again";
	case ST_UNKNOWN_APPLICATION:
		return "the far key manager does not serve that application: configure it there";
	case ST_STORAGE:
		return "the key store here or there could not be written";
	default:
		return "the far key manager refused to assign them";
	}
}

static void tell_given_up(struct ksa_pool *p)
{
	unsigned held_back;

	if (p->given_up == 0 || !log_limit_pass(&p->complaints, env_mono(p->km->env), &held_back))
		return;
	log_warning("KSA pool to %s: %llu bytes that were taken for requests and not assigned there are given up",
	            p->destination, (unsigned long long)p->given_up);
	p->given_up = 0;
}

static void give_up(struct ksa_pool *p, uint64_t bytes)
{
	p->given_up += bytes;
	p->km->counters.bytes_voided += bytes;
}

/* Both ends have had their say, or it never got to the other one. */
static void request_over(struct request *r, bool kept)
{
	if (r->failure == ST_OK) {
		request_succeed(r);
		return;
	}
	if (kept) /* else the next draw skips and counts them */
		give_up(r->pool, (uint64_t)r->count * r->key_len);
	void_keys(r->pool, r);
	request_fail(r, r->failure, failure_text(r->failure));
}

/* ---- assignment: one message for all that was taken together ------------------------------------------ */

struct batch {
	struct ksa_pool *pool;
	struct request *first;
	struct km_assignment *assignments;
	uint32_t room;
	struct km_assign m;
};

static void batch_answered(enum status s, const void *answer, void *arg)
{
	const struct km_assign_answer *a = answer;
	struct batch *b = arg;
	struct ksa_pool *p = b->pool;
	struct request *r, *next;

	if (s == ST_OK)
		s = a->answer.err.status;
	if (s == ST_OK && a->count != b->m.count)
		s = ST_TRANSPORT;
	if (s == ST_OK && id_equal(&b->m.pool, &b->pool->id))
		uses_told(&b->pool->uses, b->m.unused_below);
	DL_FOREACH_SAFE (b->first, r, next) {
		DL_DELETE(b->first, r);
		r->assigned = true;
		if (r->failure == ST_OK)
			r->failure = s;
		for (unsigned i = 0; i < r->run_count && r->failure == ST_OK; i++)
			r->failure = a->results[r->runs[i].assignment];
		uses_end(&p->uses, &r->use, r->failure == ST_OK);
		if (r->durable)
			request_over(r, true);
	}
	if (s == ST_NOT_FOUND)
		ksa_pool_open_again(p, b->m.opening);
	tell_given_up(p);
	free(b->assignments);
	free(b);
}

/* Adds a run, to the last assignment where it lies behind that: keys that were asked for one by one are
 * mostly taken one behind another. */
static uint32_t batch_add(struct batch *b, const struct request *r, const struct run *run)
{
	struct km_assignment *last = b->m.count > 0 ? &b->assignments[b->m.count - 1] : NULL;

	if (last != NULL && last->key_len == r->key_len && last->source == r->source->name &&
	    last->destination == r->destination->name &&
	    last->offset + (uint64_t)last->count * last->key_len == run->offset) {
		last->count += run->count;
		return b->m.count - 1;
	}
	if (b->m.count == b->room) {
		b->room = b->room > 0 ? 2 * b->room : 16;
		b->assignments = xrealloc(b->assignments, b->room * sizeof *b->assignments);
	}
	b->assignments[b->m.count] = (struct km_assignment){ .offset = run->offset,
		                                             .key_len = r->key_len,
		                                             .count = run->count,
		                                             .source = r->source->name,
		                                             .destination = r->destination->name };
	return b->m.count++;
}

static void batch_send(struct ksa_pool *p)
{
	struct batch *b = xcalloc(1, sizeof *b);
	struct request *r, *next;

	b->pool = p;
	DL_FOREACH_SAFE (p->taken, r, next) {
		if (b->m.count + r->run_count > KM_ASSIGNMENTS_MAX)
			break;
		if (b->m.count > 0 && !id_equal(&b->m.pool, &r->draw->pool_id))
			break;
		b->m.pool = r->draw->pool_id;
		if (b->m.count == 0)
			b->m.trace = r->trace;
		for (unsigned i = 0; i < r->run_count; i++)
			r->runs[i].assignment = batch_add(b, r, &r->runs[i]);
		DL_DELETE(p->taken, r);
		DL_APPEND(b->first, r);
		r->unsent = false;
	}
	b->m.opening = p->opening;
	b->m.base = p->base;
	b->m.expires = env_utc(p->km->env) + p->km->limits.key_lifetime;
	b->m.assignments = b->assignments;
	b->m.unused_below = id_equal(&b->m.pool, &p->id) ? uses_unused_below(&p->uses) : 0;
	km_send(p->km, KM_ASSIGN, p->destination, &b->m, batch_answered, b);
}

static void flush(void *arg)
{
	struct ksa_pool *p = arg;

	p->flush_posted = false;
	while (p->taken != NULL)
		batch_send(p);
}

/* ---- taking the keys: the work ----------------------------------------------------------------------------- */

/* After a commit that failed: the destination may have heard of keys beyond head. */
static enum status skip_shown(struct ks_txn *t, struct draw *d, const struct ks_pool *before)
{
	struct ks_pool after;
	enum status s;

	if (!id_equal(&d->shown->pool, &d->pool_id))
		*d->shown = (struct ksa_shown){ .pool = d->pool_id };
	if (d->shown->up_to <= before->head)
		return ST_OK;
	s = ks_void_below(t, &d->pool_id, d->shown->up_to);
	if (s == ST_OK)
		s = ks_pool_get(t, &d->pool_id, &after);
	if (s == ST_OK)
		d->skipped = after.voided - before->voided;
	return s;
}

static uint64_t request_end(const struct request *r)
{
	const struct run *last = &r->runs[r->run_count - 1];

	return last->offset + (uint64_t)last->count * r->key_len;
}

/* Hands out keys to the requests, from *next on. */
static void hand_out(struct request **next, uint64_t offset, uint32_t keys)
{
	while (keys > 0) {
		struct request *r = *next;
		uint32_t n = keys < r->count - r->got ? keys : r->count - r->got;

		r->runs[r->run_count++] = (struct run){ .offset = offset, .count = n };
		r->got += n;
		keys -= n;
		offset += (uint64_t)n * r->key_len;
		if (r->got == r->count)
			*next = r->next_drawn;
	}
}

/* The keys of the requests from *next on that want the same length, into room; *used grows by their bytes. */
static enum status draw_alike(struct ks_txn *t, struct draw *d, struct request **next, size_t *used)
{
	uint32_t key_len = (*next)->key_len;
	size_t left = 0, len;

	for (struct request *r = *next; r != NULL && r->key_len == key_len; r = r->next_drawn) {
		r->bytes = d->bytes.bytes + *used + left;
		r->got = 0;
		r->run_count = 0;
		left += (size_t)r->count * key_len;
	}
	for (; left > 0; left -= len, *used += len) {
		uint64_t offset;
		enum status s = ks_take_into(t, &d->pool_id, key_len, left, key_len, &offset, d->bytes.bytes + *used, &len);

		if (s != ST_OK)
			return s;
		hand_out(next, offset, (uint32_t)(len / key_len));
	}
	return ST_OK;
}

static enum status draw_work(struct ks_txn *t, void *arg)
{
	struct draw *d = arg;
	struct request *next = d->requests;
	struct ks_pool pool;
	size_t used = 0;
	enum status s = ks_pool_get(t, &d->pool_id, &pool);

	if (s != ST_OK)
		return s;
	d->base = pool.durable;
	s = skip_shown(t, d, &pool);
	while (s == ST_OK && next != NULL)
		s = draw_alike(t, d, &next, &used);
	if (s == ST_OK)
		s = ks_pool_get(t, &d->pool_id, &pool);
	if (s != ST_OK)
		return s;
	d->stock = pool.stock;
	if (d->early)
		d->shown->up_to = pool.head;
	return ST_OK;
}

/* ---- taking the keys: before and after ---------------------------------------------------------------------- */

static void wait_for_keys(struct request *r);
static void draw_submit(struct ksa_pool *p, struct request *first);

uint64_t ksa_pool_available(const struct ksa_pool *p)
{
	uint64_t stock = p->stock + p->settling;

	return stock > p->promised ? stock - p->promised : 0;
}

static uint64_t request_len(const struct request *r)
{
	return (uint64_t)r->count * r->key_len;
}

/* The keys are known: they are assigned at the end of this turn, with those of other draws. */
static void draw_ran(void *arg)
{
	struct draw *d = arg;
	struct ksa_pool *p = d->pool;
	struct request *r;
	bool current = id_equal(&d->pool_id, &p->id);

	d->ran = true;
	p->promised -= d->len;
	if (current)
		p->stock = d->stock;
	if (current && d->base > p->base)
		p->base = d->base;
	for (r = d->requests; r != NULL; r = r->next_drawn) {
		if (current)
			uses_begin(&p->uses, &r->use, r->runs[0].offset, request_end(r));
		r->source->waiting--;
		r->unsent = true;
		DL_APPEND(p->taken, r);
	}
	if (!p->flush_posted) {
		p->flush_posted = true;
		env_post(p->km->env, flush, p);
	}
	ksa_pool_fill(p);
}

/* Nothing was taken. Too few for all of them may be enough for some. */
static void draw_failed(struct draw *d, enum status s)
{
	struct ksa_pool *p = d->pool;
	struct request *r, *next;
	bool alone = d->requests->next_drawn == NULL;

	p->promised -= d->len;
	for (r = d->requests; r != NULL; r = next) {
		next = r->next_drawn;
		if (s != ST_TOO_FEW_KEYS) {
			r->source->waiting--;
			request_fail(r, s, s == ST_STORAGE ? "the key store could not be written" : status_name(s));
			continue;
		}
		leave_draw(r);
		if (!alone) {
			draw_submit(p, r);
			continue;
		}
		r->fell_short = true;
		wait_for_keys(r);
	}
}

static void draw_durable(struct draw *d, enum status s)
{
	struct request *r, *next;

	for (r = d->requests; r != NULL; r = next) {
		next = r->next_drawn;
		r->durable = true;
		if (s != ST_OK)
			r->failure = s;
		if (r->unsent && s != ST_OK) {
			DL_DELETE(d->pool->taken, r);
			uses_end(&d->pool->uses, &r->use, false);
			request_fail(r, s, failure_text(s));
		} else if (r->assigned) {
			request_over(r, s == ST_OK);
		}
	}
}

static void drawn(enum status s, void *arg)
{
	struct draw *d = arg;
	struct ksa_pool *p = d->pool;

	if (s == ST_OK && !d->ran)
		draw_ran(d);
	if (d->ran)
		draw_durable(d, s);
	else
		draw_failed(d, s);
	if (s == ST_OK)
		give_up(p, d->skipped);
	p->careful = s != ST_OK && (s == ST_STORAGE || p->careful);
	tell_given_up(p);
	draw_release(d);
}

/* Takes the keys of a chain of requests with one work. */
static void draw_submit(struct ksa_pool *p, struct request *first)
{
	struct draw *d = xcalloc(1, sizeof *d);
	struct request *r;

	*d = (struct draw){ .pool = p, .pool_id = p->id, .shown = &p->shown, .early = !p->careful, .requests = first };
	d->holds = 1;
	for (r = first; r != NULL; r = r->next_drawn) {
		r->draw = d;
		p->under_way++;
		d->holds++;
		d->len += request_len(r);
	}
	p->promised += d->len;
	secret_alloc(&d->bytes, d->len);
	if (d->early)
		ks_submit_early(p->km->ks, draw_work, draw_ran, drawn, d);
	else
		ks_submit(p->km->ks, draw_work, drawn, d);
}

/* ---- taking the keys: together ------------------------------------------------------------------------------ */

/*
 * A draw costs two commits and a message, for however many requests. So requests gather until they are most of those
 * that were here at once lately, and have not been answered: under load few go alone, and who comes alone waits for nobody.
 * Where those do not come again, a short time is lost, and then for some draws nobody is waited for.
 */

static void draw_gathered(void *arg)
{
	struct ksa_pool *p = arg;

	p->gather_posted = false;
	if (p->gather_timer != NULL)
		env_timer_stop(p->km->env, p->gather_timer);
	p->crowd -= (p->crowd + CROWD_FADES - 1) / CROWD_FADES;
	if (p->hurried > 0)
		p->hurried--;
	while (p->gathered != NULL) {
		struct request *first = NULL, **last = &first, *r;
		uint64_t len = 0;

		while ((r = p->gathered) != NULL && (len == 0 || len + request_len(r) <= DRAW_BYTES)) {
			DL_DELETE(p->gathered, r);
			p->gathering--;
			len += request_len(r);
			*last = r;
			last = &r->next_drawn;
		}
		*last = NULL;
		p->promised -= len;
		draw_submit(p, first);
	}
}

static void gathered_in_vain(void *arg)
{
	struct ksa_pool *p = arg;

	p->crowd = 0;
	p->hurried = HURRIED_DRAWS;
	draw_gathered(p);
}

static void gather(struct request *r)
{
	struct ksa_pool *p = r->pool;

	p->promised += request_len(r);
	DL_APPEND(p->gathered, r);
	p->gathering++;
	if (p->hurried == 0 && p->crowd < p->gathering + p->under_way)
		p->crowd = p->gathering + p->under_way;
	if (p->gather_posted)
		return;
	if (4 * p->gathering >= 3 * p->crowd) { /* at the end of this turn: more may come in it */
		p->gather_posted = true;
		env_post(p->km->env, draw_gathered, p);
		return;
	}
	if (p->gathering > 1) /* the timer runs */
		return;
	if (p->gather_timer == NULL)
		p->gather_timer = env_timer_new(p->km->env, gathered_in_vain, p);
	env_timer_set(p->km->env, p->gather_timer, GATHER_MOST_NS);
}

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

static void fail_waiting(struct request *r, enum status s, const char *text)
{
	dequeue(r);
	r->source->waiting--;
	request_fail(r, s, text);
}

static void give_up_waiting(struct request *r)
{
	if (!r->pool->open)
		fail_waiting(r, ST_PEER_UNREACHABLE, "the far key manager is not reached: try again later");
	else if (r->pool->failure.status != ST_OK)
		fail_waiting(r, r->pool->failure.status, r->pool->failure.text);
	else if (r->pool->in_flight > 0 && r->pool->stock + r->pool->in_flight >= (uint64_t)r->count * r->key_len)
		fail_waiting(r, ST_TIMED_OUT, "they are on their way and have not arrived in time: try again");
	else
		fail_waiting(r, ST_TOO_FEW_KEYS, "fewer are ready than were asked for: ask for fewer, or try again later");
}

static void deadline_passed(void *arg)
{
	struct request *r = arg;

	if (r->queue != NULL) /* else its work is under way */
		give_up_waiting(r);
}

static void wait_for_keys(struct request *r)
{
	struct ksa_pool *p = r->pool;
	uint64_t now = env_mono(r->km->env);

	enqueue(r);
	if (now >= r->give_up_at) {
		give_up_waiting(r);
		return;
	}
	if (r->deadline == NULL)
		r->deadline = env_timer_new(r->km->env, deadline_passed, r);
	env_timer_set(r->km->env, r->deadline, r->give_up_at - now);
	ksa_pool_make(p);
	ksa_pool_fill(p);
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
		gather(r);
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
		fail_waiting(p->waiting->requests, s, text);
}

void ksa_pool_stop(struct ksa_pool *p)
{
	static const char text[] = "the key manager is stopping";
	struct request *r, *next;

	ksa_pool_fail_waiting(p, ST_BUSY, text);
	DL_FOREACH_SAFE (p->gathered, r, next) {
		DL_DELETE(p->gathered, r);
		p->gathering--;
		request_fail(r, ST_BUSY, text);
	}
	DL_FOREACH_SAFE (p->taken, r, next) {
		if (!r->durable)
			continue; /* its draw's */
		DL_DELETE(p->taken, r);
		uses_end(&p->uses, &r->use, false);
		request_fail(r, ST_BUSY, text);
	}
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
	uint64_t wait = m->deadline ? m->deadline : km->limits.request_deadline;
	struct application *source, *destination;
	struct request *r;

	if (!find_pair(km, from, m->source, m->destination, &source, &destination, reply, arg) ||
	    !request_fits(km, m, count, size, reply, arg)) {
		km->counters.requests_refused++;
		return;
	}
	if (source->waiting >= km->limits.max_waiting_requests) {
		km->counters.requests_refused++;
		km_refuse(reply, arg, ST_BUSY, "application %s has %u requests waiting here already: wait for their answers",
		          source->name, source->waiting);
		return;
	}
	r = xcalloc(1, sizeof *r + count * sizeof r->runs[0]);
	r->km = km;
	r->pool = ksa_pool_to(km, destination->km);
	r->source = source;
	r->destination = destination;
	r->trace = m->trace;
	r->count = count;
	r->key_len = size / 8;
	r->priority = m->priority;
	r->give_up_at = env_mono(km->env) + wait;
	r->reply = reply;
	r->arg = arg;
	source->waiting++;
	if (r->pool->open && ksa_pool_available(r->pool) >= request_len(r) && r->pool->waiting == NULL)
		gather(r);
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
