/*
 * km_draw.c - keys are taken from a KSA pool for requests, and assigned at the destination (Kx-2): procedure I.1.
 *
 * Both are durable before a request has its keys. The two commits run side by side: the assignment is sent
 * as soon as it is known which keys they are. Requests that come at about the same time are one work (a draw);
 * what was taken together is assigned with one message.
 *
 * So the destination may know of keys that this end, after a crash or a commit that failed, has not taken. It
 * never takes them again: here the works remember how far they have shown the pool (struct ksa_shown) and void
 * up to there; a KM that was killed learns it from the destination when it opens the pool (km_pool.c).
 * doc/key-supply.md has the whole argument.
 *
 * From the take on keys are used: whatever happens they are never taken again; where the outcome is unknown both
 * ends void them.
 */
#include <stdlib.h>

#include "draw.h"

enum { DRAW_BYTES = 16 * 1024 }; /* of keys in one draw, if it is for more than one request */

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
	struct id *ids; /* of all keys, in the order of their bytes */
	struct request *requests;
	/* what the work finds */
	uint64_t base, stock, skipped;
};

/* ---- requests ------------------------------------------------------------------------------------------ */

struct request *request_new(const struct request_kind *kind, struct ksa_pool *p, uint32_t count, uint32_t key_len)
{
	struct request *r = xcalloc(1, sizeof *r + count * sizeof r->runs[0]);

	r->kind = kind;
	r->pool = p;
	r->km = p->km;
	r->count = count;
	r->key_len = key_len;
	return r;
}

static void draw_release(struct draw *d)
{
	if (--d->holds > 0)
		return;
	secret_free(&d->bytes);
	free(d->ids);
	free(d);
}

static void leave_draw(struct request *r)
{
	draw_release(r->draw);
	r->draw = NULL;
	r->next_drawn = NULL;
}

void request_not_counted(struct request *r)
{
	if (r->counted)
		r->source->waiting--;
	r->counted = false;
}

void request_free(struct request *r)
{
	request_not_counted(r);
	env_timer_free(r->km->env, r->deadline);
	if (r->draw != NULL) {
		if (r->bytes != NULL)
			secret_wipe(r->bytes, request_len(r)); /* the draw may live on */
		leave_draw(r);
	}
	free(r);
}

const struct id *draw_pool_id(const struct request *r)
{
	return &r->draw->pool_id;
}

/* Its next count keys are no more its own. */
static void give(struct request *r, uint32_t count)
{
	r->given += count;
	for (struct run *run = r->runs; count > 0; run++) {
		uint32_t n = count < run->count ? count : run->count;

		run->count -= n;
		run->offset += (uint64_t)n * r->key_len;
		count -= n;
	}
}

void draw_supply(struct request *r, uint32_t count, km_reply reply, void *arg)
{
	uint8_t *bytes = r->bytes + (size_t)r->given * r->key_len;
	struct km_keys keys = { .count = count,
		                .key_len = r->key_len,
		                .key_ids = r->ids + r->given,
		                .bytes = bytes,
		                .len = (size_t)count * r->key_len };

	give(r, count);
	r->km->counters.keys_supplied += count;
	reply(&keys.answer, arg);
	secret_wipe(bytes, keys.len);
}

/* ---- giving keys up --------------------------------------------------------------------------------------- */

static void void_answered(enum status s, const void *answer, void *arg)
{
	(void)s; /* if it got lost, the keys' lifetime ends them at the destination */
	(void)answer;
	(void)arg;
}

/* The keys that nobody was given: used here, and not to be delivered there. */
static void void_keys(struct ksa_pool *p, const struct request *r)
{
	for (unsigned i = 0; i < r->run_count; i++) {
		struct km_void m = { .trace = r->trace, .pool = r->draw->pool_id, .offset = r->runs[i].offset };

		m.len = (uint64_t)r->runs[i].count * r->key_len;
		if (m.len > 0)
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
	if (p->given_up == 0 || !ksa_pool_may_tell(p))
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
	if (r->failure != ST_OK) {
		if (kept) /* else the next draw skips and counts them */
			give_up(r->pool, request_len(r));
		void_keys(r->pool, r);
	}
	r->kind->over(r, r->failure, failure_text(r->failure));
}

void draw_give_up(struct request *r)
{
	r->km->counters.bytes_voided += (uint64_t)(r->count - r->given) * r->key_len;
	void_keys(r->pool, r);
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

/* The keys of the requests from *next on that want the same length, and their IDs, into room; *used grows by their
 * bytes, *count by their number. */
static enum status draw_alike(struct ks_txn *t, struct draw *d, struct request **next, size_t *used, size_t *count)
{
	uint32_t key_len = (*next)->key_len;
	size_t left = 0, len;

	for (struct request *r = *next; r != NULL && r->key_len == key_len; r = r->next_drawn) {
		r->bytes = d->bytes.bytes + *used + left;
		r->ids = d->ids + *count + left / key_len;
		r->got = 0;
		r->run_count = 0;
		left += (size_t)r->count * key_len;
	}
	for (; left > 0; left -= len, *used += len) {
		uint64_t offset;
		uint32_t keys;
		enum status s = ks_take_into(t, &d->pool_id, key_len, left, key_len, &offset, d->bytes.bytes + *used, &len);

		if (s != ST_OK)
			return s;
		keys = (uint32_t)(len / key_len);
		ks_key_ids(&d->pool_id, offset, key_len, keys, d->ids + *count);
		*count += keys;
		hand_out(next, offset, keys);
	}
	return ST_OK;
}

static enum status draw_work(struct ks_txn *t, void *arg)
{
	struct draw *d = arg;
	struct request *next = d->requests;
	struct ks_pool pool;
	size_t used = 0, count = 0;
	enum status s = ks_pool_get(t, &d->pool_id, &pool);

	if (s != ST_OK)
		return s;
	d->base = pool.durable;
	s = skip_shown(t, d, &pool);
	while (s == ST_OK && next != NULL)
		s = draw_alike(t, d, &next, &used, &count);
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

static void draw_submit(struct ksa_pool *p, struct request *first);

uint64_t ksa_pool_available(const struct ksa_pool *p)
{
	uint64_t stock = p->stock + p->settling;

	return stock > p->promised ? stock - p->promised : 0;
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
		request_not_counted(r);
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
		leave_draw(r);
		if (s != ST_TOO_FEW_KEYS)
			r->kind->over(r, s, s == ST_STORAGE ? "the key store could not be written" : status_name(s));
		else if (!alone)
			draw_submit(p, r);
		else
			r->kind->fell_short(r);
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
			r->kind->over(r, s, failure_text(s));
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
	size_t count = 0;
	struct request *r;

	*d = (struct draw){ .pool = p, .pool_id = p->id, .shown = &p->shown, .early = !p->careful, .requests = first };
	d->holds = 1;
	for (r = first; r != NULL; r = r->next_drawn) {
		r->draw = d;
		d->holds++;
		d->len += request_len(r);
		count += r->count;
	}
	p->promised += d->len;
	secret_alloc(&d->bytes, d->len);
	d->ids = xcalloc(count, sizeof *d->ids);
	if (d->early)
		ks_submit_early(p->km->ks, draw_work, draw_ran, drawn, d);
	else
		ks_submit(p->km->ks, draw_work, drawn, d);
}

/* ---- taking the keys: together ------------------------------------------------------------------------------ */

static void draw_gathered(void *arg)
{
	struct ksa_pool *p = arg;

	p->gather_posted = false;
	while (p->gathered != NULL) {
		struct request *first = NULL, **last = &first, *r;
		uint64_t len = 0;

		while ((r = p->gathered) != NULL && (len == 0 || len + request_len(r) <= DRAW_BYTES)) {
			DL_DELETE(p->gathered, r);
			len += request_len(r);
			*last = r;
			last = &r->next_drawn;
		}
		*last = NULL;
		p->promised -= len;
		draw_submit(p, first);
	}
}

/* A draw costs two commits and a message, for however many requests: those of this turn of the loop are one. */
void draw_gather(struct request *r)
{
	struct ksa_pool *p = r->pool;

	p->promised += request_len(r);
	DL_APPEND(p->gathered, r);
	if (p->gather_posted)
		return;
	p->gather_posted = true;
	env_post(p->km->env, draw_gathered, p);
}

void draw_alone(struct request *r)
{
	draw_submit(r->pool, r);
}

void draw_stop(struct ksa_pool *p)
{
	static const char text[] = "the key manager is stopping";
	struct request *r, *next;

	DL_FOREACH_SAFE (p->gathered, r, next) {
		DL_DELETE(p->gathered, r);
		r->kind->over(r, ST_BUSY, text);
	}
	DL_FOREACH_SAFE (p->taken, r, next) {
		if (!r->durable)
			continue; /* its draw's */
		DL_DELETE(p->taken, r);
		uses_end(&p->uses, &r->use, false);
		give_up(p, request_len(r));
		r->kind->over(r, ST_BUSY, text);
	}
	tell_given_up(p);
}
