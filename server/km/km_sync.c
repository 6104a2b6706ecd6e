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
 * Authentication keys grow with the blocks that are agreed: were some spent on blocks that one end lacks, or on
 * every message that gets lost or has to wait, none would be left in the end to settle a block with. So while
 * keys are few the leader asks which blocks the follower has before it makes tags; a key is taken for a block
 * once, and kept for it until the follower has decided: the same tag over the same block is sent again, which
 * tells nothing new. The follower spends keys on what it decides alone, and gives a kept answer with its kept tag.
 */
#include <stdlib.h>

#include "core.h"
#include "otp.h"

enum {
	RETRY_NS = 20 * 1000 * 1000,
	AUTH_KEYS_SHARE = 2,
	AUTH_PLENTY = 32 * AUTH_KEY_LEN, /* bytes of keys from which on tags are made without asking before */
};

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

	l->begun = true;
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
	struct sync_slot slots[KM_WINDOW_MAX]; /* copies, with what was taken for this message */
	struct secret keys;
	uint8_t have[KM_WINDOW_MAX];
	struct km_link_sync m;
	struct km_link_sync_answer a;
	uint64_t stock[2];
};

static unsigned slot_of(uint64_t sequence)
{
	return (unsigned)(sequence % KM_WINDOW_MAX);
}

/* Whether block i of the window needs a key that it has not got. */
static bool needs_key(const struct offer *o, uint32_t i, bool plenty)
{
	const struct sync_slot *slot = &o->slots[slot_of(o->m.first + i)];

	return o->have[i] && !slot->has_key && (plenty || slot->wanted);
}

/* How many bytes of keys to take: those that are kept for blocks are lost if this KM is killed, so they are never more
 * than a part of all that are left. The first block of the window has one in any case: the others go on behind it. */
static size_t keys_wanted(const struct offer *o, uint64_t stock)
{
	bool plenty = stock >= AUTH_PLENTY;
	uint64_t kept = 0, most;
	size_t lacking = 0;

	for (unsigned k = 0; k < KM_WINDOW_MAX; k++)
		kept += o->slots[k].has_key ? AUTH_KEY_LEN : 0;
	for (uint32_t i = 0; i < o->m.count; i++)
		lacking += needs_key(o, i, plenty) ? AUTH_KEY_LEN : 0;
	most = (stock + kept) / AUTH_KEYS_SHARE / AUTH_KEY_LEN * AUTH_KEY_LEN;
	most = most > kept ? most - kept : 0;
	if (lacking <= most)
		return lacking;
	return most == 0 && needs_key(o, 0, plenty) ? AUTH_KEY_LEN : most;
}

/* Takes keys for the blocks that are to have one. */
static enum status take_keys(struct ks_txn *t, struct offer *o)
{
	struct secret keys = { NULL, 0 };
	size_t lacking, used = 0;
	uint64_t offset;
	struct ks_pool pool;
	enum status s = ks_pool_get(t, &o->view.pools[KM_AUTH_OUT], &pool);
	bool plenty;

	if (s != ST_OK)
		return s;
	plenty = pool.stock >= AUTH_PLENTY;
	lacking = keys_wanted(o, pool.stock);
	if (lacking == 0)
		return ST_OK;
	s = ks_take(t, &o->view.pools[KM_AUTH_OUT], AUTH_KEY_LEN, lacking, AUTH_KEY_LEN, &offset, &keys);
	if (s != ST_OK)
		return s;
	for (uint32_t i = 0; i < o->m.count && used < keys.len; i++) {
		unsigned k = slot_of(o->m.first + i);

		if (!needs_key(o, i, plenty))
			continue;
		memcpy(o->keys.bytes + k * AUTH_KEY_LEN, keys.bytes + used, AUTH_KEY_LEN);
		o->slots[k].has_key = true;
		o->slots[k].key_offset = offset + used;
		used += AUTH_KEY_LEN;
	}
	secret_free(&keys);
	return ST_OK;
}

/* Below the lowest key that is kept none is used any more. */
static enum status keys_unused_below(struct ks_txn *t, struct offer *o)
{
	struct ks_pool pool;
	enum status s = ks_pool_get(t, &o->view.pools[KM_AUTH_OUT], &pool);

	o->m.unused_below = pool.head;
	for (unsigned k = 0; k < KM_WINDOW_MAX; k++)
		if (o->slots[k].has_key && o->slots[k].key_offset < o->m.unused_below)
			o->m.unused_below = o->slots[k].key_offset;
	return s;
}

static enum status offer_work(struct ks_txn *t, void *arg)
{
	struct offer *o = arg;
	enum status s = take_keys(t, o);

	if (s == ST_TOO_FEW_KEYS && o->slots[slot_of(o->m.first)].has_key)
		s = ST_OK; /* the first of them can go on */
	if (s == ST_OK)
		s = keys_unused_below(t, o);
	for (uint32_t i = 0; i < o->m.count && s == ST_OK; i++) {
		unsigned k = slot_of(o->m.first + i);

		o->m.have[i] = o->have[i] ? KM_BLOCK_STORED : KM_BLOCK_LACKING;
		o->m.auth_offsets[i] = 0;
		if (!o->have[i] || !o->slots[k].has_key)
			continue;
		s = block_tag(t, &o->view, o->m.first + i, o->keys.bytes + k * AUTH_KEY_LEN, o->m.tags[i]);
		o->m.have[i] = s == ST_OK ? KM_BLOCK_TAGGED : KM_BLOCK_LACKING;
		if (s == ST_OK)
			o->m.auth_offsets[i] = o->slots[k].key_offset;
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

static void agreed(enum status s, void *arg)
{
	struct offer *o = arg;
	struct link *l = o->l;

	if (s == ST_OK) {
		apply(l, &o->a, o->stock);
		l->sync_window = l->sync_window < KM_WINDOW_MAX / 2 ? 2 * (l->sync_window + 1) : KM_WINDOW_MAX;
	} else {
		link_complain(l, "the answer of %s to a synchronization is not usable: %s", l->peer, status_name(s));
	}
	offer_over(o, s == ST_OK ? 0 : NS_PER_S);
}

/* Remembers which blocks the follower has; true if that is news of one that had no tag. */
static bool learn_stored(const struct offer *o)
{
	bool news = false;

	for (uint32_t i = 0; i < o->a.stored_count && i < o->m.count; i++) {
		struct sync_slot *slot = &o->l->sync_slots[slot_of(o->m.first + i)];

		news |= o->a.stored[i] && !slot->wanted && !slot->has_key;
		slot->wanted = o->a.stored[i];
	}
	return news;
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
			memset(l->sync_slots, 0, sizeof l->sync_slots); /* these keys are gone there: others */
	}
	if (s != ST_OK) {
		offer_over(o, NS_PER_S);
		return;
	}
	o->a = *a;
	if (a->count == 0) { /* the follower has not got the first of them yet, or waits for its tag */
		offer_over(o, learn_stored(o) ? 0 : RETRY_NS);
		return;
	}
	if (a->first != o->m.first || a->count > KM_WINDOW_MAX) {
		link_complain(l, "%s answered for other blocks than were offered", l->peer);
		offer_over(o, NS_PER_S);
		return;
	}
	learn_stored(o);
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
	memcpy(l->sync_slots, o->slots, sizeof l->sync_slots);
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

/* Those of this window; a slot of another block is empty. */
static void copy_slots(struct offer *o)
{
	struct link *l = o->l;

	if (l->sync_keys.len == 0)
		secret_alloc(&l->sync_keys, KM_WINDOW_MAX * AUTH_KEY_LEN);
	secret_copy(&o->keys, l->sync_keys.bytes, l->sync_keys.len);
	memcpy(o->slots, l->sync_slots, sizeof o->slots);
	for (uint64_t n = o->m.first; n < o->m.first + KM_WINDOW_MAX; n++)
		if (o->slots[slot_of(n)].sequence != n)
			o->slots[slot_of(n)] = (struct sync_slot){ .sequence = n };
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

	if (l->km->stopping)
		return;
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
	o->m.count = wanted;
	o->m.first = l->next_sequence;
	o->m.give_up_below = l->overdue_below;
	km_trace_new(l->km, &o->m.trace);
	for (uint32_t i = 0; i < wanted; i++)
		o->have[i] = link_has(l, l->next_sequence + i);
	copy_slots(o);
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
	uint64_t used; /* where the last authentication key ends that a tag was under */
	uint64_t overdue_below;
	uint8_t stored[KM_WINDOW_MAX];
	uint64_t stock[2];
	km_reply reply;
	void *arg;
};

/* Compares block i of the window: sets its verdict and returns true, or false if it has to wait. */
static bool compare(struct ks_txn *t, struct verdict *v, uint32_t i, enum status *s)
{
	uint64_t sequence = v->m.first + i;
	bool lacking = v->m.have[i] == KM_BLOCK_LACKING;
	struct secret key = { NULL, 0 };
	uint8_t tag[KM_TAG_LEN];

	v->a.settled[i] = 0;
	if (lacking || !v->stored[i]) /* the end that lacks it decides */
		return sequence < (lacking ? v->m.give_up_below : v->overdue_below);
	if (v->m.have[i] != KM_BLOCK_TAGGED)
		return false;
	*s = ks_take_at(t, &v->view.pools[KM_AUTH_OUT], v->m.auth_offsets[i], AUTH_KEY_LEN, &key);
	if (*s == ST_OK)
		*s = block_tag(t, &v->view, sequence, key.bytes, tag);
	secret_free(&key);
	if (*s != ST_OK)
		return false;
	v->a.settled[i] = otp_tag_equal(tag, v->m.tags[i]);
	v->differing += !v->a.settled[i];
	if (v->m.auth_offsets[i] + AUTH_KEY_LEN > v->used)
		v->used = v->m.auth_offsets[i] + AUTH_KEY_LEN;
	return true;
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
	struct link_note note;
	enum status s = link_note_get(t, v->view.name, &note);

	if (s != ST_OK)
		return s;
	v->a.first = v->m.first;
	v->a.count = 0;
	v->differing = 0;
	v->used = 0;
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
	for (uint32_t i = 0; s == ST_OK && i < v->m.count && compare(t, v, i, &s); i++)
		v->a.count = i + 1;
	if (s != ST_OK || v->a.count == 0)
		return s;
	s = ks_void_below(t, auth, v->m.unused_below);
	if (s == ST_OK)
		s = used_raise(t, auth, v->used);
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
	v->a.stored_count = v->m.count;
	memcpy(v->a.stored, v->stored, v->m.count);
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
	for (uint32_t i = 0; i < m->count; i++)
		v->stored[i] = link_has(l, m->first + i);
	v->reply = reply;
	v->arg = arg;
	ks_submit(km->ks, verdict_work, verdict_done, v);
}
