/*
 * km_sync.c - synchronization of QKD-keys between the KMAs of a link (Kx-1).
 *
 * The leader offers a window of blocks: which of them it has, and for each a one-time tag over link ID,
 * sequence and bits, under key of its authentication pool. The follower compares with its own, settles
 * what both have alike, voids what differs, and what either end lacks when the leader gives it up; the
 * rest waits. It commits before it answers, and keeps its last answer, so that a lost one can be given
 * again. The leader commits the same when the answer, tagged from the follower's pool, has come.
 *
 * A kill anywhere leaves the follower at most one window ahead; the leader asks for that window again
 * and is given the kept answer.
 *
 * Authentication keys grow with the blocks that are settled: were some spent on every message that gets lost or
 * has to wait, none would be left in the end to settle a block with. So a key is taken for a block once, and
 * kept for it until the follower has decided: the same tag over the same block is sent again, which tells
 * nothing new. The follower spends keys on what it decides alone, and gives a kept answer with its kept tag.
 */
#include <stdlib.h>

#include "core.h"
#include "otp.h"

enum { RETRY_NS = 20 * 1000 * 1000, AUTH_KEYS_SHARE = 2 };

/* ---- what both ends do in a work -------------------------------------------------------------------- */

/* The tag of a stored block under key; ST_KEY_GONE if it is not stored. */
static enum status block_tag(struct ks_txn *t, const struct link_view *v, uint64_t sequence, const uint8_t *key,
                             uint8_t tag[KM_TAG_LEN])
{
	struct secret parts[KM_LINK_POOLS] = { { NULL, 0 } };
	uint64_t number = htobe64(sequence);
	struct otp_piece pieces[2 + KM_LINK_POOLS] = { { v->id.bytes, ID_LEN }, { &number, sizeof number } };
	enum status s = ST_OK;

	for (int p = 0; p < KM_LINK_POOLS && s == ST_OK; p++) {
		s = ks_read(t, &v->pools[p], link_offset(v, p, sequence), link_piece(v, p), &parts[p]);
		pieces[2 + p].bytes = parts[p].bytes;
		pieces[2 + p].len = parts[p].len;
	}
	if (s == ST_OK)
		otp_tag(key, pieces, ARRAY_LEN(pieces), tag);
	for (int p = 0; p < KM_LINK_POOLS; p++)
		secret_free(&parts[p]);
	return s;
}

static void verdict_tag(const struct link_view *v, const struct km_link_sync_answer *a, const uint8_t *key,
                        uint8_t tag[KM_TAG_LEN])
{
	uint64_t first = htobe64(a->first);
	const struct otp_piece pieces[] = {
		{ v->id.bytes, ID_LEN }, { &first, sizeof first }, { a->settled, a->count }
	};

	otp_tag(key, pieces, ARRAY_LEN(pieces), tag);
}

/* Applies a verdict: voids what was not agreed, makes the rest ready, remembers. */
static enum status settle(struct ks_txn *t, const struct link_view *v, const struct km_link_sync_answer *a)
{
	struct link_note note;
	enum status s = link_note_get(t, v->name, &note);

	for (int p = 0; p < KM_LINK_POOLS && s == ST_OK; p++) {
		for (uint32_t i = 0; i < a->count && s == ST_OK; i++)
			if (!a->settled[i])
				s = ks_void(t, &v->pools[p], link_offset(v, p, a->first + i), link_piece(v, p), NULL);
		if (s == ST_OK)
			s = ks_settle(t, &v->pools[p], link_offset(v, p, a->first + a->count));
	}
	if (s != ST_OK)
		return s;
	note.next_sequence = a->first + a->count;
	note.last_first = a->first;
	note.last_count = a->count;
	memcpy(note.last_settled, a->settled, sizeof note.last_settled);
	note.last_auth_offset = a->auth_offset;
	memcpy(note.last_tag, a->tag, sizeof note.last_tag);
	return link_note_put(t, v->name, &note);
}

static enum status read_stock(struct ks_txn *t, const struct link_view *v, uint64_t stock[2])
{
	struct ks_pool pool;
	enum status s = ST_OK;

	for (int p = 0; p < 2 && s == ST_OK; p++) {
		s = ks_pool_get(t, &v->pools[KM_KEYS_OUT + p], &pool);
		stock[p] = pool.stock + pool.unready;
	}
	return s;
}

/* What a committed verdict means for the link in memory. */
static void apply(struct link *l, const struct km_link_sync_answer *a, const uint64_t stock[2])
{
	struct km_counters *c = &l->km->counters;

	for (uint32_t i = 0; i < a->count; i++) {
		if (a->settled[i])
			c->blocks_agreed++;
		else
			c->blocks_voided++;
	}
	link_settled(l, a->first + a->count);
	memcpy(l->stock, stock, sizeof l->stock);
	link_changed(l);
}

/* ---- the leader ---------------------------------------------------------------------------------------- */

struct offer {
	struct link *l;
	struct link_view view;
	uint32_t wanted;
	struct secret keys; /* kept from the message before, and taken for this one */
	uint8_t have[KM_WINDOW_MAX];
	struct km_link_sync m;
	struct km_link_sync_answer a;
	uint64_t stock[2];
};

/* Takes keys for the blocks that have none yet: behind those that are kept, and not all that are left. */
static enum status take_keys(struct ks_txn *t, struct offer *o)
{
	struct secret more = { NULL, 0 }, all = { NULL, 0 };
	uint64_t end = o->m.auth_offset + o->keys.len, offset;
	size_t lacking;
	struct ks_pool pool;
	enum status s = ks_pool_get(t, &o->view.pools[KM_AUTH_OUT], &pool);

	if (s != ST_OK || o->wanted * AUTH_KEY_LEN <= o->keys.len || (o->keys.len > 0 && pool.head != end))
		return s;
	lacking = o->wanted * AUTH_KEY_LEN - o->keys.len;
	if (lacking > pool.stock / AUTH_KEYS_SHARE)
		lacking = pool.stock / AUTH_KEYS_SHARE / AUTH_KEY_LEN * AUTH_KEY_LEN;
	if (lacking == 0 && o->keys.len == 0)
		lacking = AUTH_KEY_LEN;
	if (lacking == 0)
		return ST_OK;
	s = ks_take(t, &o->view.pools[KM_AUTH_OUT], AUTH_KEY_LEN, lacking, AUTH_KEY_LEN, &offset, &more);
	if (s != ST_OK)
		return s == ST_TOO_FEW_KEYS && o->keys.len > 0 ? ST_OK : s;
	if (o->keys.len == 0) {
		secret_move(&o->keys, &more);
		o->m.auth_offset = offset;
	} else if (offset == end) {
		secret_alloc(&all, o->keys.len + more.len);
		memcpy(all.bytes, o->keys.bytes, o->keys.len);
		memcpy(all.bytes + o->keys.len, more.bytes, more.len);
		secret_free(&o->keys);
		secret_move(&o->keys, &all);
	} /* else there is a hole of voided blocks between: these are lost, once */
	secret_free(&more);
	return ST_OK;
}

static enum status offer_work(struct ks_txn *t, void *arg)
{
	struct offer *o = arg;
	enum status s = take_keys(t, o);

	if (s != ST_OK)
		return s;
	o->m.count = (uint32_t)(o->keys.len / AUTH_KEY_LEN);
	if (o->m.count > o->wanted)
		o->m.count = o->wanted;
	for (uint32_t i = 0; i < o->m.count && s == ST_OK; i++) {
		o->m.have[i] = 0;
		if (!o->have[i])
			continue;
		s = block_tag(t, &o->view, o->m.first + i, o->keys.bytes + i * AUTH_KEY_LEN, o->m.tags[i]);
		o->m.have[i] = s == ST_OK;
		if (s == ST_KEY_GONE)
			s = ST_OK;
	}
	return s;
}

static enum status agree_work(struct ks_txn *t, void *arg)
{
	struct offer *o = arg;
	struct secret key = { NULL, 0 };
	uint8_t tag[KM_TAG_LEN];
	enum status s = ks_take_at(t, &o->view.pools[KM_AUTH_IN], o->a.auth_offset, AUTH_KEY_LEN, &key);

	if (s != ST_OK)
		return s;
	verdict_tag(&o->view, &o->a, key.bytes, tag);
	secret_free(&key);
	if (!otp_tag_equal(tag, o->a.tag))
		return ST_FORGED;
	s = ks_void_below(t, &o->view.pools[KM_AUTH_IN], o->a.auth_offset);
	if (s == ST_OK)
		s = used_raise(t, &o->view.pools[KM_AUTH_IN], o->a.auth_offset + AUTH_KEY_LEN);
	if (s == ST_OK)
		s = settle(t, &o->view, &o->a);
	return s == ST_OK ? read_stock(t, &o->view, o->stock) : s;
}

static void offer_over(struct offer *o, uint64_t again_after)
{
	o->l->syncing = false;
	link_sync_soon(o->l, again_after);
	secret_free(&o->keys);
	free(o);
}

/* The follower has decided on the first count blocks: what is left of the keys is for those behind. */
static void drop_keys(struct link *l, uint32_t count)
{
	struct secret left = { NULL, 0 };
	size_t gone = (size_t)count * AUTH_KEY_LEN;

	if (gone < l->sync_keys.len)
		secret_copy(&left, l->sync_keys.bytes + gone, l->sync_keys.len - gone);
	secret_free(&l->sync_keys);
	secret_move(&l->sync_keys, &left);
	l->sync_keys_first += count;
	l->sync_keys_offset += gone;
}

static void agreed(enum status s, void *arg)
{
	struct offer *o = arg;
	struct link *l = o->l;

	if (s == ST_OK) {
		apply(l, &o->a, o->stock);
		drop_keys(l, o->a.count);
		l->sync_window = l->sync_window < KM_WINDOW_MAX / 2 ? 2 * (l->sync_window + 1) : KM_WINDOW_MAX;
	} else {
		link_complain(l, "the answer of %s to a synchronization is not usable: %s", l->peer, status_name(s));
	}
	offer_over(o, s == ST_OK ? 0 : NS_PER_S);
}

static void offer_answered(enum status s, const void *answer, void *arg)
{
	const struct km_link_sync_answer *a = answer;
	struct offer *o = arg;
	struct link *l = o->l;

	if (s == ST_OK && a->answer.err.status != ST_OK) {
		link_complain(l, "%s: %s", l->peer, a->answer.err.text);
		s = a->answer.err.status;
		if (s == ST_CONFLICT)
			l->open = false; /* open it anew: that tells what is wrong */
		if (s == ST_REPLAYED || s == ST_KEY_GONE)
			drop_keys(l, KM_WINDOW_MAX); /* these keys are gone there: others */
	}
	if (s != ST_OK) {
		offer_over(o, NS_PER_S);
		return;
	}
	l->follower_next = a->follower_next;
	if (a->count == 0) { /* the follower has not got the first of them yet */
		offer_over(o, RETRY_NS);
		return;
	}
	if (a->first != o->m.first || a->count > KM_WINDOW_MAX) {
		link_complain(l, "%s answered for other blocks than were offered", l->peer);
		offer_over(o, NS_PER_S);
		return;
	}
	o->a = *a;
	for (uint32_t i = 0; i < a->count; i++) {
		if (a->settled[i] && !link_has(l, a->first + i)) {
			link_complain(l, "%s agreed to block %llu, which %s does not have", l->peer,
			              (unsigned long long)(a->first + i), l->km->name);
			offer_over(o, NS_PER_S);
			return;
		}
	}
	ks_submit(l->km->ks, agree_work, agreed, o);
}

static void offered(enum status s, void *arg)
{
	struct offer *o = arg;
	struct link *l = o->l;

	if (s == ST_TOO_FEW_KEYS)
		link_complain(l, "no authentication key is left: the link needs a fresh initial secret at both ends");
	else if (s != ST_OK)
		link_complain(l, "reading blocks to synchronize: %s", status_name(s));
	if (s != ST_OK) {
		offer_over(o, 10 * NS_PER_S);
		return;
	}
	secret_free(&l->sync_keys);
	secret_move(&l->sync_keys, &o->keys);
	l->sync_keys_first = o->m.first;
	l->sync_keys_offset = o->m.auth_offset;
	o->m.link = l->view.name;
	km_send(l->km, KM_LINK_SYNC, l->peer, &o->m, offer_answered, o);
}

/* How many of at most max blocks from the first unsettled one on to offer: those that are here or have been
 * missing too long. Few at first: a kill loses the keys of what was offered, and a KM
 * that is killed again and again before it has settled a block must not come to the end of them. */
static uint32_t window(const struct link *l, uint64_t max)
{
	uint64_t next = l->next_sequence;
	uint32_t n = 0;

	while (n < max && n <= l->sync_window && n < KM_WINDOW_MAX &&
	       (next + n < l->overdue_below || link_has(l, next + n)))
		n++;
	return n;
}

static void look_for_overdue(struct link *l)
{
	uint64_t now = env_mono(l->km->env);

	if (now < l->overdue_at)
		return;
	l->overdue_below = l->overdue_next;
	l->overdue_next = l->seen;
	l->overdue_at = now + l->km->limits.missing_block_grace;
}

/* Offers blocks from the first unsettled one on, and settles in time for blocks that are missing. */
static void look_for_blocks(void *arg)
{
	struct link *l = arg;
	struct offer *o;
	uint64_t end = l->seen;
	uint32_t wanted;

	if (!l->open) {
		if (l->km->wire->peer_is_up(l->km->wire_ctx, l->peer))
			link_peer_up(l, true);
		return;
	}
	if (l->syncing || end <= l->next_sequence)
		return;
	look_for_overdue(l);
	wanted = window(l, end - l->next_sequence);
	if (wanted == 0) { /* missing here: it may be late */
		link_sync_soon(l, RETRY_NS);
		return;
	}
	o = xcalloc(1, sizeof *o);
	o->l = l;
	o->view = l->view;
	o->wanted = wanted;
	o->m.first = l->next_sequence;
	o->m.give_up_below = l->overdue_below;
	km_trace_new(l->km, &o->m.trace);
	for (uint32_t i = 0; i < o->wanted; i++)
		o->have[i] = link_has(l, l->next_sequence + i);
	if (l->sync_keys.len > 0 && l->sync_keys_first == o->m.first) {
		secret_copy(&o->keys, l->sync_keys.bytes, l->sync_keys.len);
		o->m.auth_offset = l->sync_keys_offset;
	}
	l->syncing = true;
	ks_submit(l->km->ks, offer_work, offered, o);
}

void link_sync_soon(struct link *l, uint64_t after)
{
	if (!l->view.leader || l->km->stopping)
		return;
	if (l->sync_timer == NULL)
		l->sync_timer = env_timer_new(l->km->env, look_for_blocks, l);
	if (l->syncing)
		return; /* looks again when the answer is in */
	env_timer_set(l->km->env, l->sync_timer, after);
}

/* ---- the follower ------------------------------------------------------------------------------------------- */

struct verdict {
	struct link *l;
	struct link_view view;
	struct km_link_sync m;
	struct km_link_sync_answer a;
	bool again; /* a kept answer: nothing is settled by it */
	unsigned differing;
	uint64_t overdue_below;
	uint64_t stock[2];
	km_reply reply;
	void *arg;
};

/* Compares block i of the window: sets its verdict and returns true, or false if it has to wait. */
static bool compare(struct ks_txn *t, struct verdict *v, uint32_t i, const uint8_t *key, enum status *s)
{
	uint64_t sequence = v->m.first + i;
	uint8_t tag[KM_TAG_LEN];

	*s = block_tag(t, &v->view, sequence, key, tag);
	if (*s != ST_OK && *s != ST_KEY_GONE)
		return false;
	if (*s == ST_OK && v->m.have[i]) {
		v->a.settled[i] = otp_tag_equal(tag, v->m.tags[i]);
		v->differing += !v->a.settled[i];
		return true;
	}
	*s = ST_OK;
	v->a.settled[i] = 0;
	return sequence < (v->m.have[i] ? v->overdue_below : v->m.give_up_below); /* the end that lacks it decides */
}

static enum status verdict_sign(struct ks_txn *t, struct verdict *v)
{
	struct secret key = { NULL, 0 };
	enum status s = ks_take(t, &v->view.pools[KM_AUTH_IN], AUTH_KEY_LEN, AUTH_KEY_LEN, AUTH_KEY_LEN,
	                        &v->a.auth_offset, &key);

	if (s == ST_OK)
		verdict_tag(&v->view, &v->a, key.bytes, v->a.tag);
	secret_free(&key);
	return s;
}

static enum status verdict_work(struct ks_txn *t, void *arg)
{
	struct verdict *v = arg;
	const struct id *auth = &v->view.pools[KM_AUTH_OUT];
	struct secret keys = { NULL, 0 };
	struct link_note note;
	enum status s = link_note_get(t, v->view.name, &note);

	if (s != ST_OK)
		return s;
	v->a.first = v->m.first;
	v->a.count = 0;
	v->differing = 0;
	v->again = false;
	if (v->m.first != note.next_sequence) {
		if (note.last_count == 0 || v->m.first != note.last_first)
			return ST_CONFLICT;
		v->again = true;
		v->a.count = note.last_count;
		memcpy(v->a.settled, note.last_settled, sizeof v->a.settled);
		v->a.auth_offset = note.last_auth_offset;
		memcpy(v->a.tag, note.last_tag, sizeof v->a.tag);
		return ST_OK;
	}
	s = ks_read(t, auth, v->m.auth_offset, v->m.count * AUTH_KEY_LEN, &keys);
	for (uint32_t i = 0; s == ST_OK && i < v->m.count; i++) {
		if (!compare(t, v, i, keys.bytes + i * AUTH_KEY_LEN, &s))
			break;
		v->a.count = i + 1;
	}
	secret_free(&keys);
	if (s != ST_OK || v->a.count == 0)
		return s;
	s = ks_take_at(t, auth, v->m.auth_offset, v->a.count * AUTH_KEY_LEN, &keys);
	secret_free(&keys);
	if (s == ST_OK)
		s = ks_void_below(t, auth, v->m.auth_offset);
	if (s == ST_OK)
		s = used_raise(t, auth, v->m.auth_offset + v->a.count * AUTH_KEY_LEN);
	if (s == ST_OK)
		s = verdict_sign(t, v);
	if (s == ST_OK)
		s = settle(t, &v->view, &v->a);
	return s == ST_OK ? read_stock(t, &v->view, v->stock) : s;
}

static void verdict_done(enum status s, void *arg)
{
	struct verdict *v = arg;
	struct link *l = v->l;

	if (s != ST_OK)
		err_set(&v->a.answer.err, s, "link %s: %s could not synchronize blocks from %llu: %s", l->view.name,
		        l->km->name, (unsigned long long)v->m.first, status_name(s));
	if (v->differing > 0) {
		l->km->counters.blocks_differing += v->differing;
		link_complain(l, "%u block(s) differ from those of %s and are voided at both ends", v->differing, l->peer);
	}
	if (s == ST_OK && !v->again && v->a.count > 0)
		apply(l, &v->a, v->stock);
	v->a.follower_next = l->seen;
	v->reply(&v->a.answer, v->arg);
	free(v);
}

void handle_link_sync(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_link_sync *m = message;
	struct link *l = link_by_name(km, m->link);
	struct verdict *v;

	if (l == NULL || strcmp(l->peer, from) != 0 || l->view.leader) {
		km_refuse(reply, arg, ST_NOT_FOUND, "link %s: %s does not follow %s on it", m->link, km->name, from);
		return;
	}
	if (!l->open || m->count == 0 || m->count > KM_WINDOW_MAX) {
		km_refuse(reply, arg, l->open ? ST_BAD_REQUEST : ST_CONFLICT, "link %s: %s", m->link,
		          l->open ? "an empty window" : "not open: open it first");
		return;
	}
	v = xcalloc(1, sizeof *v);
	v->l = l;
	v->view = l->view;
	v->m = *m;
	v->m.link = NULL;
	look_for_overdue(l);
	v->overdue_below = l->overdue_below;
	v->reply = reply;
	v->arg = arg;
	ks_submit(km->ks, verdict_work, verdict_done, v);
}
