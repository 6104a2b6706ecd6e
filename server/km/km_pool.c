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

/* ---- the source ------------------------------------------------------------------------------------ */

struct pool_work {
	struct ksa_pool *p;
	struct ks_pool_desc desc;
	struct id retire; /* zero: none */
	struct ks_pool state;
	uint64_t used;
};

static enum status make_work(struct ks_txn *t, void *arg)
{
	struct pool_work *w = arg;
	enum status s = id_is_zero(&w->retire) ? ST_OK : ks_pool_retire(t, &w->retire);

	if (s == ST_OK)
		s = ks_pool_create(t, &w->desc);
	return s == ST_OK ? ks_pool_get(t, &w->desc.id, &w->state) : s;
}

static enum status look_work(struct ks_txn *t, void *arg)
{
	struct pool_work *w = arg;

	return ks_pool_get(t, &w->desc.id, &w->state);
}

static void open_answered(enum status s, const void *answer, void *arg)
{
	const struct km_pool_open_answer *a = answer;
	struct pool_work *w = arg;
	struct ksa_pool *p = w->p;

	p->making = false;
	if (s == ST_OK && a->answer.err.status != ST_OK) {
		log_warning("KSA pool to %s: %s", p->destination, a->answer.err.text);
		s = a->answer.err.status;
	}
	if (s == ST_OK && a->used > w->state.head) {
		log_error("KSA pool to %s: %s has forgotten keys that it supplied: an older copy of its key store was put "
		          "back. Their pool is retired and a new one made",
		          p->destination, p->km->name);
		s = ST_CONFLICT;
	}
	if (s == ST_OK) {
		p->open = true;
		uses_told(&p->uses, w->used);
		p->stock = w->state.stock;
		p->ready = w->state.ready;
		log_info("KSA pool to %s: open, %llu bytes ready", p->destination, (unsigned long long)p->stock);
		ksa_pool_fill(p);
		ksa_pool_ready(p);
	} else if (s == ST_CONFLICT || s == ST_KEY_GONE) {
		p->retire = p->id;
		memset(&p->id, 0, sizeof p->id);
		uses_forget(&p->uses);
		ksa_pool_make(p);
	}
	free(w);
}

static void looked(enum status s, void *arg)
{
	struct pool_work *w = arg;
	struct ksa_pool *p = w->p;
	struct km_pool_open m = { .pool = w->desc.id, .ready = w->state.ready };

	if (s != ST_OK) {
		log_error("KSA pool to %s: %s", p->destination, status_name(s));
		p->making = false;
		free(w);
		return;
	}
	p->id = w->desc.id;
	m.used = w->used = uses_unused_below(&p->uses);
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

void ksa_pool_peer_up(struct ksa_pool *p, bool up)
{
	p->open = false;
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
	p->complaints.interval_ns = NS_PER_S;
	p->complaints.burst = 10;
	strcpy(p->destination, destination);
	HASH_ADD_STR(km->pools, destination, p);
	return p;
}

/* ---- telling the destination what it may forget ------------------------------------------------------------ */

struct telling {
	struct ksa_pool *p;
	struct id pool;
	uint64_t unused_below;
};

static void told(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct telling *t = arg;

	if (id_equal(&t->pool, &t->p->id)) {
		t->p->uses.telling = false;
		if (s == ST_OK && a->err.status == ST_OK)
			uses_told(&t->p->uses, t->unused_below);
	}
	free(t);
}

void ksa_pool_tell_unused(struct ksa_pool *p)
{
	struct km_assign m = { .pool = p->id, .unused_below = uses_unused_below(&p->uses) };
	struct telling *t;

	if (!p->open || p->uses.telling || !uses_to_be_told(&p->uses))
		return;
	t = xcalloc(1, sizeof *t);
	*t = (struct telling){ p, p->id, m.unused_below };
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

void ksa_inbound_add(struct km *km, const struct id *id, const char *source)
{
	struct ksa_inbound *old = ksa_inbound_from(km, source), *in;

	if (old != NULL) {
		HASH_DEL(km->inbound, old);
		free(old);
	}
	in = xcalloc(1, sizeof *in);
	in->id = *id;
	strcpy(in->source, source);
	HASH_ADD(hh, km->inbound, id, sizeof in->id, in);
}

struct opening {
	struct km *km;
	struct ks_pool_desc desc;
	struct id retire; /* the pair's old pool; zero: none */
	uint64_t used;    /* the source assigns nothing below any more */
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

/* What the source took and had not had assigned when it, or this KM, was killed. */
static enum status give_up_used(struct ks_txn *t, struct opening *o, const struct ks_pool *before)
{
	struct ks_pool after;
	enum status s = ksa_pool_forget(t, &o->desc.id, o->used);

	if (s == ST_OK)
		s = ks_pool_get(t, &o->desc.id, &after);
	if (s == ST_OK)
		o->given_up = after.voided - before->voided;
	return s;
}

static enum status opening_work(struct ks_txn *t, void *arg)
{
	struct opening *o = arg;
	struct ks_pool pool = { .retired = false };
	enum status s = id_is_zero(&o->retire) ? ST_OK : ks_pool_retire(t, &o->retire);

	if (s == ST_OK)
		s = ks_pool_create(t, &o->desc);
	if (s == ST_OK)
		s = ks_pool_get(t, &o->desc.id, &pool);
	if (s == ST_OK && pool.retired)
		s = ST_KEY_GONE;
	o->a.ready = pool.ready;
	if (s == ST_OK)
		s = give_up_used(t, o, &pool);
	return s == ST_OK ? used_get(t, &o->desc.id, &o->a.used) : s;
}

static void opening_done(enum status s, void *arg)
{
	struct opening *o = arg;

	if (s != ST_OK) {
		err_set(&o->a.answer.err, s, "KSA pool of %s: %s cannot open it: %s", o->desc.source, o->km->name,
		        status_name(s));
	} else {
		if (o->given_up > 0)
			log_info("KSA pool from %s: %llu bytes that were taken there and never assigned here are given up",
			         o->desc.source, (unsigned long long)o->given_up);
		o->km->counters.bytes_voided += o->given_up;
		ksa_inbound_add(o->km, &o->desc.id, o->desc.source);
	}
	o->reply(&o->a.answer, o->arg);
	free(o);
}

void handle_pool_open(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_pool_open *m = message;
	struct ksa_inbound *old = ksa_inbound_from(km, from);
	struct opening *o = xcalloc(1, sizeof *o);

	o->km = km;
	o->reply = reply;
	o->arg = arg;
	o->used = m->used;
	o->desc.id = m->pool;
	o->desc.kind = KS_POOL_KSA;
	strcpy(o->desc.source, from);
	strcpy(o->desc.destination, km->name);
	if (old != NULL && !id_equal(&old->id, &m->pool)) {
		log_warning("KSA pool from %s: made anew there; the keys of the old one are voided", from);
		o->retire = old->id;
	}
	ks_submit(km->ks, opening_work, opening_done, o);
}

struct voiding {
	struct km_void m;
	km_reply reply;
	void *arg;
};

static enum status void_work(struct ks_txn *t, void *arg)
{
	struct voiding *v = arg;
	enum status s = ks_unassign(t, &v->m.pool, v->m.offset, v->m.len);

	if (s == ST_UNKNOWN_KEY_ID) /* never assigned: a range on its way */
		s = ST_OK;
	/* not a use: a range on its way is void here before its source has used what lies below it */
	return s == ST_OK ? ks_void(t, &v->m.pool, v->m.offset, v->m.len, NULL) : s;
}

static void void_done(enum status s, void *arg)
{
	struct voiding *v = arg;

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
	v->m = *m;
	v->reply = reply;
	v->arg = arg;
	ks_submit(km->ks, void_work, void_done, v);
}
