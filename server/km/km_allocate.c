/*
 * km_allocate.c - a fill's way to a neighbour: a range of the link's key pool, which both ends hold
 * already, becomes a range of the KSA pool at both (Kx-1 allocate).
 *
 * Asked again until it is answered: at the destination it is idempotent.
 */
#include <stdlib.h>

#include "core.h"

enum { RETRY_NS = 200 * 1000 * 1000 };

static void allocate_answered(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct fill *f = arg;

	if (s == ST_OK && a->err.status == ST_OK) {
		uses_told(&link_by_name(f->pool->km, f->note.link)->uses, f->told);
		fill_arrived(f);
	} else if (s == ST_OK && a->err.status != ST_TOO_FEW_KEYS && a->err.status != ST_STORAGE &&
	           a->err.status != ST_BUSY) {
		fill_failed(f, a->err.status, a->err.text);
	} else { /* it may be that the destination has not settled the blocks yet */
		fill_later(f, s == ST_OK ? RETRY_NS / 10 : RETRY_NS, allocation_send);
	}
}

void allocation_send(struct fill *f)
{
	struct km *km = f->pool->km;
	struct link *l = link_by_name(km, f->note.link);
	struct km_allocate m = { .trace = f->trace,
		                 .link = f->note.link,
		                 .link_offset = f->note.link_offset,
		                 .ksa_pool = f->pool->id,
		                 .ksa_offset = f->note.ksa_offset,
		                 .len = f->note.len,
		                 .unused_below = l != NULL ? uses_unused_below(&l->uses) : 0 };

	if (l == NULL || !l->open || !f->pool->open) {
		fill_later(f, RETRY_NS, allocation_send);
		return;
	}
	f->told = m.unused_below;
	km_send(km, KM_ALLOCATE, f->pool->destination, &m, allocate_answered, f);
}

/* ---- the destination ------------------------------------------------------------------------------------ */

struct allocation {
	struct km_allocate m;
	struct id link_pool;
	km_reply reply;
	void *arg;
};

static enum status allocation_work(struct ks_txn *t, void *arg)
{
	struct allocation *a = arg;
	struct secret bytes = { NULL, 0 };
	enum status s = ks_take_at(t, &a->link_pool, a->m.link_offset, a->m.len, &bytes);

	if (s == ST_OK)
		s = ks_append(t, &a->m.ksa_pool, a->m.ksa_offset, bytes.bytes, bytes.len);
	if (s == ST_OK)
		s = used_raise(t, &a->link_pool, a->m.link_offset + a->m.len);
	if (s == ST_REPLAYED) /* asked again, or of a link before this one; whether it is here the verification tells */
		s = ST_OK;
	secret_free(&bytes);
	return s == ST_OK ? ks_void_below(t, &a->link_pool, a->m.unused_below) : s;
}

static void allocation_done(enum status s, void *arg)
{
	struct allocation *a = arg;

	if (s == ST_OK)
		km_done(a->reply, a->arg);
	else
		km_refuse(a->reply, a->arg, s, "allocating %u bytes at %llu: %s", a->m.len,
		          (unsigned long long)a->m.link_offset, status_name(s));
	free(a);
}

void handle_allocate(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_allocate *m = message;
	struct link *l = link_by_name(km, m->link);
	struct ksa_inbound *in = ksa_inbound_by_id(km, &m->ksa_pool);
	struct allocation *a;

	if (l != NULL && strcmp(l->peer, from) == 0 && m->len == 0) {
		link_discarded(l, m->unused_below, reply, arg);
		return;
	}
	if (l == NULL || strcmp(l->peer, from) != 0 || in == NULL || strcmp(in->source, from) != 0) {
		km_refuse(reply, arg, ST_BUSY, "link %s or the KSA pool of %s is not open at %s", m->link, from, km->name);
		return;
	}
	if (m->len <= FILL_TAG_KEY || m->len > FILL_MOST) {
		km_refuse(reply, arg, ST_BAD_REQUEST, "allocating %u bytes: out of bounds", m->len);
		return;
	}
	a = xcalloc(1, sizeof *a);
	a->m = *m;
	a->m.link = NULL;
	a->link_pool = *link_pool_in(l);
	a->reply = reply;
	a->arg = arg;
	ks_submit(km->ks, allocation_work, allocation_done, a);
}
