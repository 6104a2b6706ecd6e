/*
 * km_supply.c - the KSA supplies keys (Ak), together with the far KSA (Kx-2): procedure I.1.
 *
 * A key request takes its keys from the pair's KSA pool (durable), has them assigned to the two
 * applications at the destination (durable there), and only then is answered. Requests that come
 * together share a commit and a message. From the take on the keys are used: whatever happens they are
 * never taken again; where the outcome is unknown both ends void them.
 *
 * A refusal consumes nothing: too few keys, an unknown application or ID, the wrong application are
 * found before anything is taken.
 */
#include <stdlib.h>

#include "core.h"

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
	struct request *prev, *next; /* in waiting or taken */
	struct application *source, *destination;
	struct id trace;
	uint32_t count, key_len, priority;
	bool queued;
	bool fell_short; /* the stock was enough in bytes, but not in whole keys */
	uint64_t give_up_at; /* monotonic */
	struct env_timer *deadline;
	km_reply reply;
	void *arg;

	/* what the work does */
	struct id pool_id;
	uint64_t stock;
	struct secret bytes;

	struct use use;      /* from the take until the assignment is answered */
	enum status failure; /* of the assignment message */
	unsigned run_count;
	struct run runs[]; /* room for count: no two keys need lie together */
};

/* ---- ending a request ---------------------------------------------------------------------------- */

static void request_free(struct request *r)
{
	env_timer_free(r->km->env, r->deadline);
	secret_free(&r->bytes);
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
	struct id *ids = xcalloc(r->count, sizeof *ids);
	struct km_keys keys = { .count = r->count, .key_len = r->key_len, .key_ids = ids };
	uint32_t k = 0;

	for (unsigned i = 0; i < r->run_count; i++)
		for (uint32_t j = 0; j < r->runs[i].count; j++)
			ks_key_id(&r->pool_id, r->runs[i].offset + (uint64_t)j * r->key_len, r->key_len, &ids[k++]);
	secret_move(&keys.bytes, &r->bytes);
	r->km->counters.keys_supplied += r->count;
	r->reply(&keys.answer, r->arg);
	secret_free(&keys.bytes);
	free(ids);
	request_free(r);
}

/* ---- assignment: one message for all that was taken together ------------------------------------------ */

struct batch {
	struct ksa_pool *pool;
	struct request *first;
	struct km_assignment assignments[KM_ASSIGNMENTS_MAX];
	struct km_assign m;
};

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
		struct km_void m = { .trace = r->trace, .pool = r->pool_id, .offset = r->runs[i].offset };

		m.len = (uint64_t)r->runs[i].count * r->key_len;
		p->km->counters.bytes_voided += m.len;
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

static void batch_answered(enum status s, const void *answer, void *arg)
{
	const struct km_assign_answer *a = answer;
	struct batch *b = arg;
	struct request *r, *next;

	if (s == ST_OK)
		s = a->answer.err.status;
	if (s == ST_OK && a->count != b->m.count)
		s = ST_TRANSPORT;
	if (s == ST_OK && id_equal(&b->m.pool, &b->pool->id))
		uses_told(&b->pool->uses, b->m.unused_below);
	DL_FOREACH_SAFE (b->first, r, next) {
		DL_DELETE(b->first, r);
		r->failure = s;
		for (unsigned i = 0; i < r->run_count && r->failure == ST_OK; i++)
			r->failure = a->results[r->runs[i].assignment];
		uses_end(&b->pool->uses, &r->use, r->failure == ST_OK);
		if (r->failure == ST_OK) {
			request_succeed(r);
			continue;
		}
		b->pool->given_up += (uint64_t)r->count * r->key_len;
		void_keys(b->pool, r);
		request_fail(r, r->failure, failure_text(r->failure));
	}
	tell_given_up(b->pool);
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
		if (b->m.count > 0 && !id_equal(&b->m.pool, &r->pool_id))
			break;
		b->m.pool = r->pool_id;
		if (b->m.count == 0)
			b->m.trace = r->trace;
		for (unsigned i = 0; i < r->run_count; i++)
			r->runs[i].assignment = batch_add(b, r, &r->runs[i]);
		DL_DELETE(p->taken, r);
		DL_APPEND(b->first, r);
	}
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

/* ---- taking the keys -------------------------------------------------------------------------------------- */

static enum status take_work(struct ks_txn *t, void *arg)
{
	struct request *r = arg;
	struct secret part = { NULL, 0 };
	uint32_t got = 0;
	struct ks_pool pool;
	enum status s = ST_OK;

	secret_free(&r->bytes);
	for (r->run_count = 0; got < r->count && s == ST_OK; r->run_count++) {
		struct run *run = &r->runs[r->run_count];

		s = ks_take(t, &r->pool_id, r->key_len, (size_t)(r->count - got) * r->key_len, r->key_len, &run->offset,
		            &part);
		if (s != ST_OK)
			break;
		run->count = (uint32_t)(part.len / r->key_len);
		if (run->count == r->count) {
			secret_move(&r->bytes, &part);
			got = r->count;
			continue;
		}
		if (r->bytes.bytes == NULL)
			secret_alloc(&r->bytes, (size_t)r->count * r->key_len);
		memcpy(r->bytes.bytes + (size_t)got * r->key_len, part.bytes, part.len);
		got += run->count;
		secret_free(&part);
	}
	if (s == ST_OK)
		s = ks_pool_get(t, &r->pool_id, &pool);
	r->stock = s == ST_OK ? pool.stock : 0;
	return s;
}

static uint64_t request_end(const struct request *r)
{
	const struct run *last = &r->runs[r->run_count - 1];

	return last->offset + (uint64_t)last->count * r->key_len;
}

static void wait_for_keys(struct request *r);

static void taken(enum status s, void *arg)
{
	struct request *r = arg;
	struct ksa_pool *p = r->pool;

	if (s == ST_TOO_FEW_KEYS) {
		r->fell_short = true;
		wait_for_keys(r);
		return;
	}
	if (s != ST_OK) {
		request_fail(r, s, s == ST_STORAGE ? "the key store could not be written" : status_name(s));
		return;
	}
	p->stock = r->stock;
	if (id_equal(&r->pool_id, &p->id))
		uses_begin(&p->uses, &r->use, r->runs[0].offset, request_end(r));
	r->source->waiting--;
	DL_APPEND(p->taken, r);
	if (!p->flush_posted) {
		p->flush_posted = true;
		env_post(p->km->env, flush, p);
	}
	ksa_pool_fill(p);
}

/* ---- waiting for keys ------------------------------------------------------------------------------------------ */

static void dequeue(struct request *r)
{
	if (!r->queued)
		return;
	DL_DELETE(r->pool->waiting, r);
	r->pool->waiting_count--;
	r->queued = false;
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
	else
		fail_waiting(r, ST_TOO_FEW_KEYS, "fewer are ready than were asked for: ask for fewer, or try again later");
}

static void deadline_passed(void *arg)
{
	struct request *r = arg;

	if (r->queued) /* else its work is under way */
		give_up_waiting(r);
}

/* Into the pool's waiting list, behind those of the same or a higher priority. */
static void enqueue(struct request *r)
{
	struct ksa_pool *p = r->pool;
	struct request *other, *behind = NULL;

	DL_FOREACH (p->waiting, other)
		if (other->priority < r->priority && behind == NULL)
			behind = other;
	if (behind != NULL)
		DL_PREPEND_ELEM(p->waiting, behind, r);
	else
		DL_APPEND(p->waiting, r);
	r->queued = true;
	p->waiting_count++;
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

static void submit(struct request *r)
{
	r->pool_id = r->pool->id;
	ks_submit(r->km->ks, take_work, taken, r);
}

void ksa_pool_ready(struct ksa_pool *p)
{
	uint64_t stock = p->stock;

	while (p->open && p->waiting != NULL) {
		struct request *r = p->waiting;
		uint64_t need = (uint64_t)r->count * r->key_len;

		if (need > stock)
			return;
		stock -= need;
		dequeue(r);
		submit(r);
	}
}

/* Remnants at the ends of ranges are stock, but no keys: a request that fell short is to get a fresh range. */
uint64_t ksa_pool_waiting_bytes(const struct ksa_pool *p)
{
	uint64_t bytes = 0, usable = p->stock;
	const struct request *r;

	DL_FOREACH (p->waiting, r) {
		bytes += (uint64_t)r->count * r->key_len;
		if (!r->fell_short)
			continue;
		bytes += r->key_len; /* keys begin at a multiple of their length */
		usable = 0;
	}
	return bytes > usable ? bytes - usable : 0;
}

const struct id *ksa_pool_waiting_trace(const struct ksa_pool *p)
{
	return p->waiting != NULL ? &p->waiting->trace : NULL;
}

void ksa_pool_fail_waiting(struct ksa_pool *p, enum status s, const char *text)
{
	while (p->waiting != NULL)
		fail_waiting(p->waiting, s, text);
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

/* Finds the two applications of a request by from; true if it may speak for the source. */
static bool find_pair(struct km *km, const char *from, const char *source, const char *destination,
                      struct application **a, struct application **b, km_reply reply, void *arg)
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
	if (r->pool->open && r->pool->stock >= (uint64_t)count * r->key_len && r->pool->waiting == NULL) {
		submit(r);
		return;
	}
	wait_for_keys(r);
}

/* ---- key request with ID ------------------------------------------------------------------------------------------------ */

struct fetch {
	struct km *km;
	struct id pool;
	uint32_t count;
	km_name source, destination;
	struct id *ids;
	uint64_t *offsets;
	uint32_t *key_lens;
	struct secret bytes;
	uint32_t failed; /* which key */
	km_reply reply;
	void *arg;
};

static enum status fetch_work(struct ks_txn *t, void *arg)
{
	struct fetch *f = arg;
	struct secret key = { NULL, 0 };
	uint8_t *to = f->bytes.bytes;

	for (uint32_t i = 0; i < f->count; i++) {
		enum status s = ks_deliver(t, &f->pool, f->offsets[i], f->source, f->destination, &key);

		f->failed = i;
		if (s == ST_OK && key.len != f->key_lens[i])
			s = ST_UNKNOWN_KEY_ID;
		if (s != ST_OK) {
			secret_free(&key);
			return s;
		}
		memcpy(to, key.bytes, key.len);
		to += key.len;
		secret_free(&key);
	}
	return ST_OK;
}

static void fetch_free(struct fetch *f)
{
	secret_free(&f->bytes);
	free(f->ids);
	free(f->offsets);
	free(f->key_lens);
	free(f);
}

static void fetch_refuse(struct fetch *f, enum status s)
{
	char text[ID_TEXT_LEN];
	const char *why = status_name(s);

	id_format(&f->ids[f->failed], text);
	if (s == ST_UNKNOWN_KEY_ID)
		why = "no such key of that application is here: one or more keys specified are not found";
	else if (s == ST_DENIED)
		why = "it was requested for another application";
	else if (s == ST_KEY_GONE)
		why = "it was delivered already, or its time was over";
	f->km->counters.requests_refused++;
	km_refuse(f->reply, f->arg, s, "key %s from %s: %s; none was delivered", text, f->source, why);
}

static void fetched(enum status s, void *arg)
{
	struct fetch *f = arg;
	struct km_keys keys = { .count = f->count, .key_ids = f->ids, .key_lens = f->key_lens };

	if (s != ST_OK) {
		fetch_refuse(f, s);
		fetch_free(f);
		return;
	}
	secret_move(&keys.bytes, &f->bytes);
	f->km->counters.keys_fetched += f->count;
	f->reply(&keys.answer, f->arg);
	secret_free(&keys.bytes);
	fetch_free(f);
}

/* Finds where each ID lies; false, with f->failed set, if one is none of the pool. */
static bool locate(struct fetch *f)
{
	size_t total = 0;

	for (uint32_t i = 0; i < f->count; i++) {
		f->failed = i;
		if (!ks_key_id_invert(&f->pool, &f->ids[i], &f->offsets[i], &f->key_lens[i]) ||
		    f->key_lens[i] > f->km->limits.max_key_size / 8)
			return false;
		total += f->key_lens[i];
	}
	secret_alloc(&f->bytes, total);
	return true;
}

void handle_key_request_with_id(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_key_request_with_id *m = message;
	struct application *source, *destination;
	struct ksa_inbound *in;
	struct fetch *f;

	if (!find_pair(km, from, m->destination, m->source, &destination, &source, reply, arg)) {
		km->counters.requests_refused++;
		return;
	}
	if (m->count == 0 || m->count > KM_KEYS_MAX) {
		km_refuse(reply, arg, ST_BAD_REQUEST, "%u key IDs given: between 1 and %d a request", m->count, KM_KEYS_MAX);
		return;
	}
	f = xcalloc(1, sizeof *f);
	f->km = km;
	f->count = m->count;
	strcpy(f->source, m->source);
	strcpy(f->destination, m->destination);
	f->ids = xcalloc(m->count, sizeof *f->ids);
	memcpy(f->ids, m->key_ids, m->count * sizeof *f->ids);
	f->offsets = xcalloc(m->count, sizeof *f->offsets);
	f->key_lens = xcalloc(m->count, sizeof *f->key_lens);
	f->reply = reply;
	f->arg = arg;
	in = ksa_inbound_from(km, source->km);
	if (in != NULL)
		f->pool = in->id;
	if (in == NULL || !locate(f)) {
		fetch_refuse(f, ST_UNKNOWN_KEY_ID);
		fetch_free(f);
		return;
	}
	ks_submit(km->ks, fetch_work, fetched, f);
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

/* ---- the far KSA: assignment ---------------------------------------------------------------------------------------------- */

struct assigning {
	struct km *km;
	struct id pool;
	uint32_t count;
	uint64_t unused_below;
	struct ks_assignment *rows;
	enum status *results;
	km_reply reply;
	void *arg;
};

static enum status assign_work(struct ks_txn *t, void *arg)
{
	struct assigning *a = arg;
	uint64_t used = 0;
	enum status s;

	for (uint32_t i = 0; i < a->count; i++) {
		const struct ks_assignment *row = &a->rows[i];
		uint64_t end = row->offset + (uint64_t)row->key_len * row->count;

		if (row->key_len == 0) /* refused before */
			continue;
		a->results[i] = ks_assign(t, &a->pool, row);
		if (a->results[i] == ST_STORAGE || a->results[i] == ST_INTERNAL)
			return a->results[i];
		if (end > used)
			used = end;
	}
	s = ksa_pool_forget(t, &a->pool, a->unused_below);
	return s == ST_OK ? used_raise(t, &a->pool, used) : s;
}

static void assigned(enum status s, void *arg)
{
	struct assigning *a = arg;
	struct km_assign_answer answer = { .count = a->count, .results = a->results };

	if (s != ST_OK)
		err_set(&answer.answer.err, s, "assigning keys at %s: %s", a->km->name, status_name(s));
	a->reply(&answer.answer, a->arg);
	free(a->rows);
	free(a->results);
	free(a);
}

void handle_assign(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_assign *m = message;
	struct ksa_inbound *in = ksa_inbound_by_id(km, &m->pool);
	struct assigning *a;

	if (in == NULL || strcmp(in->source, from) != 0) {
		km_refuse(reply, arg, ST_NOT_FOUND, "%s has no KSA pool of that ID from %s: open it", km->name, from);
		return;
	}
	a = xcalloc(1, sizeof *a);
	a->km = km;
	a->pool = m->pool;
	a->count = m->count;
	a->unused_below = m->unused_below;
	a->rows = xcalloc(m->count, sizeof *a->rows);
	a->results = xcalloc(m->count, sizeof *a->results);
	a->reply = reply;
	a->arg = arg;
	for (uint32_t i = 0; i < m->count; i++) {
		const struct km_assignment *one = &m->assignments[i];
		struct application *app = application_by_name(km, one->destination);

		if (app == NULL || strcmp(app->km, km->name) != 0) {
			a->results[i] = ST_UNKNOWN_APPLICATION;
			continue;
		}
		if (one->key_len == 0 || one->count == 0 || one->key_len > km->limits.max_key_size / 8) {
			a->results[i] = ST_BAD_REQUEST;
			continue;
		}
		a->rows[i].offset = one->offset;
		a->rows[i].key_len = one->key_len;
		a->rows[i].count = one->count;
		a->rows[i].expires = m->expires;
		strcpy(a->rows[i].source, one->source);
		strcpy(a->rows[i].destination, one->destination);
	}
	ks_submit(km->ks, assign_work, assigned, a);
}
