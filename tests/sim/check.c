/* check.c - what is checked of the messages on the wire: no pad and no authentication key is used twice. */
#include <stdio.h>

#include "inside.h"
#include "stated.h"

void __real_ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg);

/* ---- ranges ----------------------------------------------------------------------------------------------- */

/* Index of the first range that ends at or behind from. */
static size_t ranges_find(const struct ranges *r, uint64_t from)
{
	size_t low = 0, high = r->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (r->items[middle].to < from)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* false: some of it is there already. */
static bool ranges_add(struct ranges *r, uint64_t from, uint64_t to)
{
	size_t i = ranges_find(r, from);
	bool joins_left = i < r->count && r->items[i].to == from;
	size_t next = joins_left ? i + 1 : i;

	if (next < r->count && r->items[next].from < to)
		return false;
	if (joins_left) {
		r->items[i].to = to;
		if (next < r->count && r->items[next].from == to) {
			r->items[i].to = r->items[next].to;
			memmove(&r->items[next], &r->items[next + 1], (--r->count - next) * sizeof *r->items);
		}
		return true;
	}
	if (i < r->count && r->items[i].from == to) {
		r->items[i].from = from;
		return true;
	}
	if (r->count == r->room) {
		r->room = r->room ? 2 * r->room : 16;
		r->items = xrealloc(r->items, r->room * sizeof *r->items);
	}
	memmove(&r->items[i + 1], &r->items[i], (r->count++ - i) * sizeof *r->items);
	r->items[i] = (struct range){ from, to };
	return true;
}

void ranges_free(struct ranges *r)
{
	free(r->items);
	*r = (struct ranges){ NULL, 0, 0 };
}

/* ---- messages ------------------------------------------------------------------------------------------------ */

static int direction(const struct sim_link *l, const struct party *from)
{
	return &l->ends[0]->party == from ? 0 : 1;
}

/* No node between the ends has anything to do with two shares of a range. */
static void check_share(struct sim *s, const struct party *node, const struct km_relay *m)
{
	struct seen_shares *seen;

	if (strcmp(node->name, m->source) == 0 || strcmp(node->name, m->destination) == 0)
		return;
	HASH_FIND(hh, s->shares_seen, &m->group, sizeof m->group, seen);
	if (seen == NULL) {
		seen = xcalloc(1, sizeof *seen);
		seen->group = m->group;
		HASH_ADD(hh, s->shares_seen, group, sizeof seen->group, seen);
	}
	if (seen->share[node->index] != 0 && seen->share[node->index] != m->share + 1)
		sim_violation(s, "%s sees share %u of a range and share %u", node->name, seen->share[node->index] - 1u, m->share);
	seen->share[node->index] = (uint8_t)(m->share + 1);
	s->stats.shares++;
}

static void check_relay(struct sim *s, struct party *from, struct party *to, const struct km_relay *m)
{
	struct sim_link *l = sim_link_by_name(s, m->link);
	uint64_t pad = 0;

	if (l == NULL) {
		sim_violation(s, "%s relays over link %s, which there is not", from->name, m->link);
		return;
	}
	for (uint32_t i = 0; i < m->pad_count; i++) {
		pad += m->pads[i].len;
		if (!ranges_add(&l->keys[direction(l, from)], m->pads[i].offset, m->pads[i].offset + m->pads[i].len))
			sim_violation(s, "%s used pad of link %s twice: %u bytes at %llu", from->name, l->name, m->pads[i].len,
			              (unsigned long long)m->pads[i].offset);
	}
	if (m->shares > 1) {
		check_share(s, from, m);
		check_share(s, to, m);
	}
	if (pad < m->len + 32u)
		sim_violation(s, "%s relays %u bytes under a pad of %llu", from->name, m->len, (unsigned long long)pad);
}

/* A range of a link pool that became one of a KSA pool. The same again is the same. */
static void check_taken(struct sim *s, struct party *from, const char *link, uint64_t offset, uint32_t len,
                        const struct id *ksa_pool, uint64_t ksa_offset)
{
	struct sim_link *l = sim_link_by_name(s, link);
	int d = direction(l, from);
	struct taken_range *t;

	LL_FOREACH (l->taken[d], t)
		if (t->from == offset && t->to == offset + len && t->ksa_offset == ksa_offset &&
		    id_equal(&t->ksa_pool, ksa_pool))
			return;
	if (!ranges_add(&l->keys[d], offset, offset + len))
		sim_violation(s, "%s used a range of link %s twice: %u bytes at %llu", from->name, link, len,
		              (unsigned long long)offset);
	t = xcalloc(1, sizeof *t);
	*t = (struct taken_range){ offset, offset + len, ksa_offset, *ksa_pool, NULL };
	LL_PREPEND(l->taken[d], t);
}

static struct pool_use *use_of(struct sim *s, const struct id *pool)
{
	struct pool_use *u;

	HASH_FIND(hh, s->pool_uses, pool, sizeof *pool, u);
	if (u == NULL) {
		u = xcalloc(1, sizeof *u);
		u->pool = *pool;
		HASH_ADD(hh, s->pool_uses, pool, sizeof u->pool, u);
	}
	return u;
}

/* What the destination has assigned. A message may come, and be taken, twice; what was sent and never came, for
 * the source was killed, may be assigned anew. */
static void check_assigned(struct sim *s, struct party *from, const struct km_assign *m,
                           const struct km_assign_answer *answer)
{
	struct pool_use *u = use_of(s, &m->pool);

	for (uint32_t i = 0; i < m->count && i < answer->count; i++) {
		const struct km_assignment *a = &m->assignments[i];
		uint64_t end = a->offset + (uint64_t)a->key_len * a->count;
		struct assigned_range *r;

		if (answer->results[i] != ST_OK)
			continue;
		LL_FOREACH (u->accepted, r)
			if (r->from == a->offset && r->to == end && r->opening == m->opening)
				break;
		if (r != NULL)
			continue;
		if (!ranges_add(&u->assigned, a->offset, end))
			sim_violation(s, "%s had keys assigned twice", from->name);
		r = xcalloc(1, sizeof *r);
		*r = (struct assigned_range){ a->offset, end, m->opening, NULL };
		LL_PREPEND(u->accepted, r);
	}
}

static void check_auth(struct sim_link *l, int pool, uint64_t offset, uint64_t about, const uint8_t *tag)
{
	struct auth_use *u;

	HASH_FIND(hh, l->auth[pool], &offset, sizeof offset, u);
	if (u == NULL) {
		u = xcalloc(1, sizeof *u);
		u->offset = offset;
		u->about = about;
		HASH_ADD(hh, l->auth[pool], offset, sizeof u->offset, u);
	}
	if (u->about != about || (tag != NULL && u->has_tag && memcmp(u->tag, tag, KM_TAG_LEN) != 0))
		sim_violation(l->sim, "an authentication key of link %s was used twice", l->name);
	if (tag != NULL) {
		u->has_tag = true;
		memcpy(u->tag, tag, KM_TAG_LEN);
	}
}

void check_link_free(struct sim_link *l, int end)
{
	struct auth_use *u, *next;

	HASH_ITER (hh, l->auth[end], u, next) {
		HASH_DEL(l->auth[end], u);
		free(u);
	}
}

void check_sent(struct sim *s, struct party *from, struct party *to, enum km_message m, const void *message)
{
	const struct km_allocate *a = message;
	const struct km_link_sync *sync = message;
	struct sim_link *l;

	switch (m) {
	case KM_RELAY:
		check_relay(s, from, to, message);
		break;
	case KM_ALLOCATE:
		s->stats.allocations += a->len > 0;
		check_taken(s, from, a->link, a->link_offset, a->len, &a->ksa_pool, a->ksa_offset);
		break;
	case KM_LINK_SYNC:
		l = sim_link_by_name(s, sync->link);
		for (uint32_t i = 0; i < sync->count; i++)
			if (sync->have[i] == KM_BLOCK_TAGGED)
				check_auth(l, 0, sync->auth_offsets[i], sync->first + i, sync->tags[i]);
		break;
	default:
		break;
	}
}

void check_answer(struct sim *s, struct party *from, struct party *to, enum km_message m, const void *message,
                  const struct km_answer *answer)
{
	const struct km_link_sync_answer *sync = (const struct km_link_sync_answer *)answer;
	const struct km_ck_reservation_answer *r = (const struct km_ck_reservation_answer *)answer;
	struct sim_link *l;

	if (answer->err.status != ST_OK)
		return;
	if (m == KM_ASSIGN)
		check_assigned(s, from, message, (const struct km_assign_answer *)answer);
	if (m == KM_LINK_SYNC && sync->count > 0) {
		l = sim_link_by_name(s, ((const struct km_link_sync *)message)->link);
		for (uint32_t i = 0; i < sync->count && sync->first + i == l->settled_next; i++, l->settled_next++)
			l->agreed += sync->settled[i];
		check_auth(l, 1, sync->auth_offset, sync->first, sync->tag);
	} else if (m == KM_CK_RESERVATION) {
		check_taken(s, to, r->link, r->link_offset, ((const struct km_ck_reservation *)message)->len, &r->ksa_pool,
		            r->ksa_offset);
	}
}

/* ---- at the end: what the two ends of a pool hold ------------------------------------------------------------------ */

struct look {
	struct sim *sim;
	struct node *node;
	struct seen_pool *seen;
};

struct seen_pool {
	struct ks_pool pool;
	struct node *node;
	struct seen_pool *next;
};

static bool look_at(const struct ks_pool *pool, void *arg)
{
	struct look *look = arg;
	struct seen_pool *p = xcalloc(1, sizeof *p);

	p->pool = *pool;
	p->node = look->node;
	LL_PREPEND(look->seen, p);
	return true;
}

static enum status look_work(struct ks_txn *t, void *arg)
{
	ks_pool_each(t, look_at, arg);
	return ST_OK;
}

struct probe {
	struct id pool;
	uint64_t offset;
	bool held;
};

static enum status probe_work(struct ks_txn *t, void *arg)
{
	struct probe *p = arg;
	struct secret byte = { NULL, 0 };

	p->held = ks_read(t, &p->pool, p->offset, 1, &byte) == ST_OK;
	secret_free(&byte);
	return ST_OK;
}

static bool holds(struct node *n, const struct id *pool, uint64_t offset)
{
	struct probe p = { *pool, offset, false };

	__real_ks_submit(n->ks, probe_work, NULL, &p);
	return p.held;
}

/* Tells which ranges only one end holds. */
static void tell_difference(const struct seen_pool *a, const struct seen_pool *b)
{
	uint64_t end = a->pool.tail > b->pool.tail ? a->pool.tail : b->pool.tail, from = 0;
	int was = 0;

	for (uint64_t at = 0; at <= end; at++) {
		int now = at < end ? holds(a->node, &a->pool.desc.id, at) - holds(b->node, &b->pool.desc.id, at) : 0;

		if (now == was)
			continue;
		if (was != 0)
			fprintf(stderr, "  only at %s: %llu bytes at %llu\n", was > 0 ? a->node->party.name : b->node->party.name,
			        (unsigned long long)(at - from), (unsigned long long)from);
		was = now;
		from = at;
	}
}

/*
 * Every byte of an agreed block is there, was named in a message, was too short to be taken, or was discarded
 * from a full direction; else it was lost without being in flight. That happens to what was taken when its node
 * was killed, or its store failed, before a message could leave.
 */
static void check_pad(struct sim *s, const struct seen_pool *p)
{
	struct sim_link *l = sim_link_by_name(s, p->pool.desc.link);
	const struct ranges *used = &l->keys[l->ends[0] == p->node ? 0 : 1];
	uint64_t made = l->agreed * ((s->options.block_size - 128) / 2), gone = p->pool.stock + p->pool.voided;

	for (size_t i = 0; i < used->count; i++)
		gone += used->items[i].to - used->items[i].from;
	gone += p->node->past.bytes_discarded + p->node->past.pad_unsent;
	if (p->node->km != NULL)
		gone += km_counters(p->node->km)->bytes_discarded + km_counters(p->node->km)->pad_unsent;
	if (made <= gone)
		return;
	s->stats.pad_unsent += made - gone;
	if (p->node->incarnations == 1 && s->stats.storage_failures == 0 && made - gone > s->options.limits.fill_most)
		sim_violation(s, "%llu bytes of link pool %s -> %s are gone, and were never sent", (unsigned long long)(made - gone),
		              p->pool.desc.source, p->pool.desc.destination);
}

/* a is the source's. Once nothing is on its way both ends hold the same, byte for byte. */
static void compare(struct sim *s, const struct seen_pool *at_source, const struct seen_pool *at_destination)
{
	const struct ks_pool *a = &at_source->pool, *b = &at_destination->pool;
	static const char *const kinds[] = { [KS_POOL_LINK] = "link", [KS_POOL_AUTH] = "auth", [KS_POOL_KSA] = "KSA",
		                              [KS_POOL_SHARE] = "share" };

	if (a->retired || b->retired || a->desc.kind == KS_POOL_AUTH) /* each end's keys may end with the other's word */
		return;
	if (a->stock != b->stock || a->unready != b->unready) {
		sim_violation(s, "%s pool %s -> %s: stock %llu and %llu, not ready %llu and %llu, head %llu and %llu, ready %llu "
		              "and %llu, tail %llu and %llu",
		              kinds[a->desc.kind], a->desc.source, a->desc.destination, (unsigned long long)a->stock,
		              (unsigned long long)b->stock, (unsigned long long)a->unready, (unsigned long long)b->unready,
		              (unsigned long long)a->head, (unsigned long long)b->head, (unsigned long long)a->ready,
		              (unsigned long long)b->ready, (unsigned long long)a->tail, (unsigned long long)b->tail);
		tell_difference(at_source, at_destination);
	} else if (b->assigned > 0 && s->options.limits.key_lifetime < 30 * NS_PER_S) {
		sim_violation(s, "KSA pool %s -> %s: %llu bytes outlive their time there", a->desc.source, a->desc.destination,
		              (unsigned long long)b->assigned);
	} else if (a->unready > 0)
		sim_violation(s, "%s pool %s -> %s: %llu bytes are never settled", kinds[a->desc.kind], a->desc.source,
		              a->desc.destination, (unsigned long long)a->unready);
}

static void look_everywhere(struct sim *s, struct look *look)
{
	look->sim = s;
	look->seen = NULL;
	for (unsigned i = 0; i < s->options.nodes; i++) {
		look->node = &s->nodes[i];
		__real_ks_submit(s->nodes[i].ks, look_work, NULL, look);
	}
}

/* Tells what the stores know of a key: to find out what went wrong with it. */
void check_explain(struct sim *s, const struct id *key)
{
	struct look look;
	struct seen_pool *p, *next;
	uint64_t offset;
	uint32_t len;

	look_everywhere(s, &look);
	LL_FOREACH_SAFE (look.seen, p, next) {
		if (p->pool.desc.kind == KS_POOL_KSA && ks_key_id_invert(&p->pool.desc.id, key, &offset, &len) && len < 128)
			fprintf(stderr, "  %s: pool %s -> %s%s, key of %u bytes at %llu: head %llu, ready %llu, tail %llu, assigned %llu\n",
			        p->node->party.name, p->pool.desc.source, p->pool.desc.destination,
			        p->pool.retired ? " (retired)" : "", len, (unsigned long long)offset,
			        (unsigned long long)p->pool.head, (unsigned long long)p->pool.ready,
			        (unsigned long long)p->pool.tail, (unsigned long long)p->pool.assigned);
		free(p);
	}
}

void check_stated(struct sim *s)
{
	uint64_t bytes = stated_bytes() - s->stated_before + s->never_stated;
	struct sim_stats stats;

	for (unsigned i = 0; i < s->options.nodes; i++)
		if (s->nodes[i].km != NULL)
			bytes += stated_later(s->nodes[i].km);
	sim_stats(s, &stats);
	if (bytes != stats.bytes_voided)
		sim_violation(s, "%llu bytes are given up, and %llu of them are stated in the log",
		              (unsigned long long)stats.bytes_voided, (unsigned long long)bytes);
}

/* Call when nothing is under way any more. */
void check_end(struct sim *s)
{
	struct look look;
	struct seen_pool *p, *q, *next;

	look_everywhere(s, &look);
	LL_FOREACH (look.seen, p)
		if (strcmp(p->pool.desc.source, p->node->party.name) == 0 && p->pool.desc.kind == KS_POOL_LINK)
			check_pad(s, p);
	LL_FOREACH (look.seen, p)
		if (p->pool.desc.kind == KS_POOL_SHARE && p->pool.stock + p->pool.unready > 0)
			sim_violation(s, "%s still holds %llu bytes of shares from %s", p->node->party.name,
			              (unsigned long long)(p->pool.stock + p->pool.unready), p->pool.desc.source);
	LL_FOREACH (look.seen, p)
		if (strcmp(p->pool.desc.source, p->node->party.name) == 0)
			LL_FOREACH (look.seen, q)
				if (q->node != p->node && id_equal(&p->pool.desc.id, &q->pool.desc.id))
					compare(s, p, q);
	LL_FOREACH_SAFE (look.seen, p, next)
		free(p);
	check_stated(s);
}

void check_free(struct sim *s)
{
	struct seen_shares *seen, *next_seen;
	struct pool_use *u, *next;
	struct assigned_range *r, *next_range;

	HASH_ITER (hh, s->shares_seen, seen, next_seen) {
		HASH_DEL(s->shares_seen, seen);
		free(seen);
	}
	HASH_ITER (hh, s->pool_uses, u, next) {
		HASH_DEL(s->pool_uses, u);
		ranges_free(&u->assigned);
		LL_FOREACH_SAFE (u->accepted, r, next_range)
			free(r);
		free(u);
	}
}
