/*
 * km_pool.c - the KSA pools: one per ordered pair of KMs, made and opened by its source (Kx-2).
 *
 * At the source a pool whose destination has seen more use than the source remembers is never used
 * again: the store was put back from an older copy. It is retired and a new one made.
 *
 * The other way round the destination learns what the source has taken: what of that was never assigned
 * was on its way when one of them was killed. It is given up then, and how much is said.
 */
#include <stdlib.h>

#include "core.h"

void ksa_pool_failed(struct ksa_pool *p, const char *doing, enum status s)
{
	unsigned held_back;

	if (!log_limit_pass(&p->complaints, env_mono(p->km->env), &held_back))
		return;
	if (held_back > 0)
		log_error("KSA pool to %s: %s: %s (%u such lines held back)", p->destination, doing, status_name(s), held_back);
	else
		log_error("KSA pool to %s: %s: %s", p->destination, doing, status_name(s));
}

bool ksa_pool_may_tell(struct ksa_pool *p)
{
	unsigned held_back; /* their bytes are told */

	return p->km->stopping || log_limit_pass(&p->sums, env_mono(p->km->env), &held_back);
}

/* Of the pair's old pool: *bytes is what is given up with it; zero: there is none. Runs in a work. */
static enum status retire_pool(struct ks_txn *t, const struct id *pool, uint64_t *bytes)
{
	struct ks_pool before, after;
	enum status s;

	*bytes = 0;
	if (id_is_zero(pool))
		return ST_OK;
	s = ks_pool_get(t, pool, &before);
	if (s == ST_OK)
		s = ks_pool_retire(t, pool);
	if (s == ST_OK)
		s = ks_pool_get(t, pool, &after);
	if (s == ST_OK)
		*bytes = after.voided - before.voided;
	return s;
}

/* ---- the source ------------------------------------------------------------------------------------ */

struct pool_work {
	struct ksa_pool *p;
	struct ks_pool_desc desc;
	struct id retire; /* zero: none */
	uint64_t retired; /* bytes that were in it */
	struct ks_pool state;
	uint64_t used;
	uint64_t taken; /* what is assigned above it was never answered here */
	uint64_t skip;  /* the destination has seen use up to here: it is not used again; 0: nothing is skipped */
	uint64_t before; /* bytes voided, before that */
};

static enum status make_work(struct ks_txn *t, void *arg)
{
	struct pool_work *w = arg;
	enum status s = retire_pool(t, &w->retire, &w->retired);

	if (s == ST_OK)
		s = ks_pool_create(t, &w->desc);
	return s == ST_OK ? ks_pool_get(t, &w->desc.id, &w->state) : s;
}

static enum status look_work(struct ks_txn *t, void *arg)
{
	struct pool_work *w = arg;

	return ks_pool_get(t, &w->desc.id, &w->state);
}

static void opened(struct pool_work *w)
{
	struct ksa_pool *p = w->p;

	p->making = false;
	p->open = true;
	uses_told(&p->uses, w->used);
	p->stock = w->state.stock;
	log_info("KSA pool to %s: open, %llu bytes ready", p->destination, (unsigned long long)p->stock);
	ksa_pool_fill(p);
	ksa_pool_ready(p);
	free(w);
}

static enum status skip_work(struct ks_txn *t, void *arg)
{
	struct pool_work *w = arg;
	enum status s = ks_void_below(t, &w->desc.id, w->skip);

	return s == ST_OK ? ks_pool_get(t, &w->desc.id, &w->state) : s;
}

static void skipped(enum status s, void *arg)
{
	struct pool_work *w = arg;
	uint64_t before = w->before, bytes = w->state.voided - before;

	if (s != ST_OK) { /* the tick tries again */
		ksa_pool_failed(w->p, "skipping what its destination has seen", s);
		w->p->making = false;
		free(w);
		return;
	}
	w->p->km->counters.bytes_voided += bytes;
	log_info("KSA pool to %s: %llu bytes that were assigned there and, when this key manager ended, not yet taken here "
	         "are given up",
	         w->p->destination, (unsigned long long)bytes);
	opened(w);
}

/* The destination knows more use than is durable here. It was shown keys before a commit that a crash or a fault
 * has undone; if it has seen an older commit outlived, this store is an older copy. */
static enum status catch_up(struct pool_work *w, const struct km_pool_open_answer *a)
{
	if (a->ready == 0 && w->state.stock > 0) { /* what is ready here was durably ready there before */
		log_error("KSA pool to %s: it has none of its keys any more: it has lost its key store. The pool is "
		          "retired and a new one made",
		          w->p->destination);
		return ST_CONFLICT;
	}
	if (a->used <= w->taken)
		return ST_OK;
	if (w->state.head < a->base) {
		log_error("KSA pool to %s: %s has forgotten keys that it supplied: an older copy of its key store was put "
		          "back. Their pool is retired and a new one made",
		          w->p->destination, w->p->km->name);
		return ST_CONFLICT;
	}
	w->skip = a->used;
	w->before = w->state.voided;
	return ST_OK;
}

static void open_answered(enum status s, const void *answer, void *arg)
{
	const struct km_pool_open_answer *a = answer;
	struct pool_work *w = arg;
	struct ksa_pool *p = w->p;

	if (s == ST_OK && a->opening > p->opening)
		p->opening = a->opening; /* the next one is greater */
	if (s == ST_OK && a->answer.err.status != ST_OK) {
		log_warning("KSA pool to %s: %s", p->destination, a->answer.err.text);
		s = a->answer.err.status;
	}
	if (s == ST_OK)
		s = catch_up(w, a);
	if (s == ST_OK && w->skip > 0) {
		ks_submit(p->km->ks, skip_work, skipped, w);
		return;
	}
	if (s == ST_OK) {
		opened(w);
		return;
	}
	p->making = false;
	if (s == ST_CONFLICT || s == ST_KEY_GONE) {
		p->retire = p->id;
		memset(&p->id, 0, sizeof p->id);
		uses_forget(&p->uses);
		p->base = 0;
		ksa_pool_make(p);
	}
	free(w);
}

/* Greater than those of earlier lives of this KM, too, as far as clocks go forward; else the destination says so. */
static uint64_t next_opening(const struct ksa_pool *p)
{
	uint64_t now = env_utc(p->km->env);

	return now > p->opening ? now : p->opening + 1;
}

static void looked(enum status s, void *arg)
{
	struct pool_work *w = arg;
	struct ksa_pool *p = w->p;
	struct km_pool_open m = { .pool = w->desc.id, .ready = w->state.ready };

	if (s != ST_OK) {
		ksa_pool_failed(p, "making it", s);
		p->making = false;
		free(w);
		return;
	}
	if (!id_is_zero(&w->retire))
		log_warning("KSA pool to %s: made anew; %llu bytes of the old one are given up", p->destination,
		            (unsigned long long)w->retired);
	p->km->counters.bytes_voided += w->retired;
	p->id = w->desc.id;
	p->opening = next_opening(p);
	if (w->state.head > p->base)
		p->base = w->state.head;
	w->taken = p->uses.up_to > w->state.head ? p->uses.up_to : w->state.head;
	w->used = uses_unused_below(&p->uses);
	m.opening = p->opening;
	m.used = w->used;
	m.taken = w->taken;
	km_trace_new(p->km, &m.trace);
	km_send(p->km, KM_POOL_OPEN, p->destination, &m, open_answered, w);
}

void ksa_pool_make(struct ksa_pool *p)
{
	struct pool_work *w;

	if (p->making || p->open)
		return;
	p->making = true;
	w = xcalloc(1, sizeof *w);
	w->p = p;
	w->desc.kind = KS_POOL_KSA;
	strcpy(w->desc.source, p->km->name);
	strcpy(w->desc.destination, p->destination);
	w->desc.id = p->id;
	if (!id_is_zero(&p->id)) {
		ks_submit(p->km->ks, look_work, looked, w);
		return;
	}
	w->retire = p->retire;
	env_random(p->km->env, &w->desc.id, sizeof w->desc.id);
	ks_submit(p->km->ks, make_work, looked, w);
}

/* Until the destination has said how far it goes on. */
static void closed(struct ksa_pool *p)
{
	p->open = false;
	ahead_end(p);
}

void ksa_pool_open_again(struct ksa_pool *p, uint64_t opening)
{
	if (!p->open || p->opening != opening)
		return;
	closed(p);
	ksa_pool_make(p);
}

void ksa_pool_peer_up(struct ksa_pool *p, bool up)
{
	closed(p);
	if (up)
		ksa_pool_make(p);
}

struct ksa_pool *ksa_pool_to(struct km *km, const char *destination)
{
	struct ksa_pool *p;

	HASH_FIND_STR(km->pools, destination, p);
	if (p != NULL)
		return p;
	p = xcalloc(1, sizeof *p);
	p->km = km;
	p->relay_most = km->limits.fill_most;
	p->shares = km->limits.shares;
	p->shares_required = km->limits.shares_required;
	for (size_t i = 0; i < km->peer_count; i++)
		if (strcmp(km->peers[i].name, destination) == 0)
			p->shares = km->peers[i].shares;
	p->complaints.interval_ns = 10 * NS_PER_S;
	p->complaints.burst = 10;
	p->sums = p->complaints;
	strcpy(p->destination, destination);
	HASH_ADD_STR(km->pools, destination, p);
	return p;
}

/* ---- telling the destination what it may forget ------------------------------------------------------------ */

struct telling {
	struct ksa_pool *p;
	struct id pool;
	uint64_t opening, unused_below;
};

static void told(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct telling *t = arg;

	if (id_equal(&t->pool, &t->p->id)) {
		t->p->uses.telling = false;
		if (s == ST_OK && a->err.status == ST_OK)
			uses_told(&t->p->uses, t->unused_below);
		if (s == ST_OK && a->err.status == ST_NOT_FOUND)
			ksa_pool_open_again(t->p, t->opening);
	}
	free(t);
}

void ksa_pool_tell_unused(struct ksa_pool *p)
{
	struct km_assign m = { .pool = p->id,
		                   .opening = p->opening,
		                   .base = p->base,
		                   .unused_below = uses_unused_below(&p->uses) };
	struct telling *t;

	if (!p->open || p->uses.telling || !uses_to_be_told(&p->uses))
		return;
	t = xcalloc(1, sizeof *t);
	*t = (struct telling){ p, p->id, m.opening, m.unused_below };
	p->uses.telling = true;
	km_trace_new(p->km, &m.trace);
	km_send(p->km, KM_ASSIGN, p->destination, &m, told, t);
}

/* ---- the destination ------------------------------------------------------------------------------------- */

struct ksa_inbound *ksa_inbound_by_id(struct km *km, const struct id *id)
{
	struct ksa_inbound *in;

	HASH_FIND(hh, km->inbound, id, sizeof *id, in);
	return in;
}

struct ksa_inbound *ksa_inbound_from(struct km *km, const char *source)
{
	for (struct ksa_inbound *in = km->inbound; in != NULL; in = in->hh.next)
		if (strcmp(in->source, source) == 0)
			return in;
	return NULL;
}

void ksa_inbound_add(struct km *km, const struct id *id, const char *source, uint64_t opening)
{
	struct ksa_inbound *old = ksa_inbound_from(km, source), *in;

	if (old != NULL) {
		HASH_DEL(km->inbound, old);
		free(old);
	}
	in = xcalloc(1, sizeof *in);
	in->id = *id;
	strcpy(in->source, source);
	in->opening = opening;
	HASH_ADD(hh, km->inbound, id, sizeof in->id, in);
}

struct opening {
	struct km *km;
	struct ks_pool_desc desc;
	struct id retire; /* the pair's old pool; zero: none */
	uint64_t retired; /* bytes that were in it */
	uint64_t opening;
	uint64_t ready; /* the source has verified all below */
	uint64_t used;  /* the source assigns nothing below any more */
	uint64_t taken; /* and what it had assigned above this is void */
	uint64_t given_up;
	struct km_pool_open_answer a;
	km_reply reply;
	void *arg;
};

enum status ksa_pool_forget(struct ks_txn *t, const struct id *pool, uint64_t unused_below)
{
	struct ks_pool state;
	enum status s = ks_pool_get(t, pool, &state);

	return s == ST_OK ? ks_void_below(t, pool, unused_below < state.ready ? unused_below : state.ready) : s;
}

/* What the source took and had not had assigned when it, or this KM, was killed; and what it had assigned and,
 * for its commit was lost, not taken. If it has forgotten more than that it retires the pool. */
static enum status give_up_used(struct ks_txn *t, struct opening *o, const struct ks_pool *before)
{
	struct ks_pool after;
	enum status s = ksa_pool_forget(t, &o->desc.id, o->used);

	if (s == ST_OK && o->a.used > o->taken && o->taken >= o->a.base)
		s = ks_void(t, &o->desc.id, o->taken, o->a.used - o->taken, NULL);
	if (s == ST_OK)
		s = ks_pool_get(t, &o->desc.id, &after);
	if (s != ST_OK)
		return s;
	o->given_up = after.voided - before->voided;
	/* Keys voided here, by a request or an opening, on the word of a commit that had failed there: after a
	 * crash the source knows nothing of it. */
	if (after.head > o->a.used)
		o->a.used = after.head;
	return ST_OK;
}

static enum status opening_work(struct ks_txn *t, void *arg)
{
	struct opening *o = arg;
	struct ks_pool pool = { .retired = false };
	struct ksa_use use = { 0, 0 };
	enum status s = retire_pool(t, &o->retire, &o->retired);

	if (s == ST_OK && !id_is_zero(&o->retire))
		s = shares_retire(t, &o->retire, &o->retired);
	if (s == ST_OK && !id_is_zero(&o->retire))
		s = arrived_end(t, &o->retire, UINT64_MAX, false);
	if (s == ST_OK)
		s = ks_pool_create(t, &o->desc);
	if (s == ST_OK)
		s = arrived_end(t, &o->desc.id, o->ready, true);
	if (s == ST_OK)
		s = ks_pool_get(t, &o->desc.id, &pool);
	if (s == ST_OK && pool.retired)
		s = ST_KEY_GONE;
	if (s == ST_OK)
		s = ksa_use_get(t, &o->desc.id, &use);
	o->a.ready = pool.ready;
	o->a.used = use.up_to;
	o->a.base = use.base;
	return s == ST_OK ? give_up_used(t, o, &pool) : s;
}

static void opening_done(enum status s, void *arg)
{
	struct opening *o = arg;

	if (s != ST_OK) {
		err_set(&o->a.answer.err, s, "KSA pool of %s: %s cannot open it: %s", o->desc.source, o->km->name,
		        status_name(s));
	} else {
		if (!id_is_zero(&o->retire))
			log_warning("KSA pool from %s: made anew there; %llu bytes of the old one are given up",
			            o->desc.source, (unsigned long long)o->retired);
		if (o->given_up > 0)
			log_info("KSA pool from %s: %llu bytes that were on their way to applications there are given up",
			         o->desc.source, (unsigned long long)o->given_up);
		o->km->counters.bytes_voided += o->retired + o->given_up;
		ksa_inbound_add(o->km, &o->desc.id, o->desc.source, o->opening);
	}
	o->reply(&o->a.answer, o->arg);
	free(o);
}

/* What it says of the source's use may be over long since. */
static void opening_is_late(const struct ksa_inbound *in, km_reply reply, void *arg)
{
	struct km_pool_open_answer a = { .opening = in->opening };

	err_set(&a.answer.err, ST_BUSY, "KSA pool of %s: there was a later opening", in->source);
	reply(&a.answer, arg);
}

void handle_pool_open(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_pool_open *m = message;
	struct ksa_inbound *old = ksa_inbound_from(km, from);
	struct opening *o;

	if (old != NULL && id_equal(&old->id, &m->pool) && m->opening <= old->opening) {
		opening_is_late(old, reply, arg);
		return;
	}
	o = xcalloc(1, sizeof *o);
	o->km = km;
	o->reply = reply;
	o->arg = arg;
	o->opening = m->opening;
	o->ready = m->ready;
	o->used = m->used;
	o->taken = m->taken;
	o->desc.id = m->pool;
	o->desc.kind = KS_POOL_KSA;
	strcpy(o->desc.source, from);
	strcpy(o->desc.destination, km->name);
	if (old != NULL && !id_equal(&old->id, &m->pool))
		o->retire = old->id;
	else if (old != NULL)
		old->opening = m->opening; /* from now: what comes late under the old one is refused */
	ks_submit(km->ks, opening_work, opening_done, o);
}

struct voiding {
	struct km *km;
	struct km_void m;
	km_reply reply;
	void *arg;
};

static enum status void_work(struct ks_txn *t, void *arg)
{
	struct voiding *v = arg;
	enum status s = ks_unassign(t, &v->m.pool, v->m.offset, v->m.len);

	/* not a use: a range on its way is void here before its source has used what lies below it */
	if (s == ST_OK)
		s = shares_void(t, &v->m.pool, v->m.offset, v->m.len);
	return s == ST_OK ? arrived_void(t, &v->m.pool, v->m.offset, v->m.len) : s;
}

static void void_done(enum status s, void *arg)
{
	struct voiding *v = arg;

	arrived_forget(v->km, &v->m.pool, v->m.offset); /* now: its arrival may have been remembered meanwhile */
	if (s == ST_OK)
		km_done(v->reply, v->arg);
	else
		km_refuse(v->reply, v->arg, s, "voiding keys: %s",
		          s == ST_KEY_GONE ? "one of them was delivered already" : status_name(s));
	free(v);
}

void handle_void(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_void *m = message;
	struct ksa_inbound *in = ksa_inbound_by_id(km, &m->pool);
	struct voiding *v;

	if (in == NULL || strcmp(in->source, from) != 0) {
		km_refuse(reply, arg, ST_NOT_FOUND, "%s has no KSA pool of that ID from %s: open it", km->name, from);
		return;
	}
	v = xcalloc(1, sizeof *v);
	v->km = km;
	v->m = *m;
	v->reply = reply;
	v->arg = arg;
	ks_submit(km->ks, void_work, void_done, v);
}
