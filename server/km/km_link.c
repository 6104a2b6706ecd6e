/*
 * km_link.c - a QKD link between this KM and a neighbour: its four pools, and how the two ends agree where
 * they stand (Kx-1).
 *
 * The KM with the lower name leads. A block of block_size bytes is cut alike at both ends: AUTH_SHARE
 * bytes for each direction's authentication pool, and half of the rest for each direction's key pool.
 * Where a block lies in the pools follows from its sequence number alone.
 *
 * Where the first block lies is open until the ends have agreed about one: QKD modules count on, whatever
 * becomes of key managers. Both begin at the higher of what they know (link_begin_at).
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "core.h"

size_t link_piece(const struct link_view *v, enum km_link_pool p)
{
	return p == KM_KEYS_OUT || p == KM_KEYS_IN ? v->half : AUTH_SHARE;
}

uint64_t link_offset(const struct link_view *v, enum km_link_pool p, uint64_t sequence)
{
	uint64_t base = p == KM_KEYS_OUT || p == KM_KEYS_IN ? 0 : INITIAL_SECRET_LEN / 2;

	return base + sequence * link_piece(v, p);
}

const struct id *link_pool_out(const struct link *l)
{
	return &l->view.pools[l->view.leader ? KM_KEYS_OUT : KM_KEYS_IN];
}

const struct id *link_pool_in(const struct link *l)
{
	return &l->view.pools[l->view.leader ? KM_KEYS_IN : KM_KEYS_OUT];
}

struct link *link_by_name(struct km *km, const char *name)
{
	struct link *l;

	HASH_FIND_STR(km->links, name, l);
	return l;
}

struct link *link_to_peer(struct km *km, const char *peer)
{
	for (struct link *l = km->links; l != NULL; l = l->hh.next)
		if (strcmp(l->peer, peer) == 0)
			return l;
	return NULL;
}

bool link_has(const struct link *l, uint64_t sequence)
{
	unsigned bit = (unsigned)(sequence % BLOCKS_AHEAD);

	return sequence >= l->next_sequence && sequence < l->next_sequence + BLOCKS_AHEAD &&
	       (l->stored[bit / 8] & 1u << bit % 8) != 0;
}

void link_mark(struct link *l, uint64_t sequence, bool stored)
{
	unsigned bit = (unsigned)(sequence % BLOCKS_AHEAD);

	if (stored)
		l->stored[bit / 8] |= (uint8_t)(1u << bit % 8);
	else
		l->stored[bit / 8] &= (uint8_t)~(1u << bit % 8);
	if (stored && sequence >= l->seen)
		l->seen = sequence + 1;
}

void link_settled(struct link *l, uint64_t next)
{
	for (; l->next_sequence < next; l->next_sequence++)
		link_mark(l, l->next_sequence, false);
	if (l->seen < next)
		l->seen = next;
}

void link_set_stock_out(struct link *l, uint64_t bytes)
{
	l->stock[l->view.leader ? 0 : 1] = bytes;
}

uint64_t link_stock_out(const struct link *l)
{
	return l->stock[l->view.leader ? 0 : 1];
}

void link_complain(struct link *l, const char *fmt, ...)
{
	char text[512];
	unsigned held_back;
	va_list ap;

	if (!log_limit_pass(&l->complaints, env_mono(l->km->env), &held_back))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (held_back > 0)
		log_warning("link %s: %s (%u such lines held back)", l->view.name, text, held_back);
	else
		log_warning("link %s: %s", l->view.name, text);
}

void link_changed(struct link *l)
{
	for (struct ksa_pool *p = l->km->pools; p != NULL; p = p->hh.next)
		if (p->waiting != NULL || strcmp(p->destination, l->peer) == 0)
			ksa_pool_fill(p);
	link_check_credit(l);
}

/* ---- durable notes ------------------------------------------------------------------------------ */

static size_t note_key(char key[KS_NOTE_KEY_MAX], const char *link)
{
	return (size_t)snprintf(key, KS_NOTE_KEY_MAX, "link/%s", link);
}

enum status link_note_get(struct ks_txn *t, const char *link, struct link_note *n)
{
	char key[KS_NOTE_KEY_MAX];
	size_t len;
	enum status s = ks_note_get(t, key, note_key(key, link), n, sizeof *n, &len);

	if (s == ST_OK && (len != sizeof *n || n->version != LINK_NOTE_VERSION))
		return ST_STORAGE;
	return s;
}

enum status link_note_put(struct ks_txn *t, const char *link, const struct link_note *n)
{
	char key[KS_NOTE_KEY_MAX];

	return ks_note_put(t, key, note_key(key, link), n, sizeof *n);
}

static size_t used_key(char key[KS_NOTE_KEY_MAX], const struct id *pool)
{
	memcpy(key, "used/", 5);
	memcpy(key + 5, pool->bytes, ID_LEN);
	return 5 + ID_LEN;
}

static enum status used_get(struct ks_txn *t, const struct id *pool, uint64_t *used)
{
	char key[KS_NOTE_KEY_MAX];
	size_t len;
	enum status s = ks_note_get(t, key, used_key(key, pool), used, sizeof *used, &len);

	if (s == ST_NOT_FOUND) {
		*used = 0;
		return ST_OK;
	}
	return s;
}

enum status used_raise(struct ks_txn *t, const struct id *pool, uint64_t used)
{
	char key[KS_NOTE_KEY_MAX];
	uint64_t before;
	enum status s = used_get(t, pool, &before);

	if (s != ST_OK || before >= used)
		return s;
	return ks_note_put(t, key, used_key(key, pool), &used, sizeof used);
}

enum status used_forget(struct ks_txn *t, const struct id *pool)
{
	char key[KS_NOTE_KEY_MAX];

	return ks_note_delete(t, key, used_key(key, pool));
}

/* ---- where it begins --------------------------------------------------------------------------------- */

enum status link_skip(struct ks_txn *t, const struct link_view *v, uint64_t from, uint64_t *to)
{
	struct link_note note;
	struct ks_pool pool;
	enum status s = link_note_get(t, v->name, &note);

	if (s == ST_OK && (note.last_count > 0 || note.next_sequence != from || *to <= from)) {
		*to = note.next_sequence;
		return ST_OK;
	}
	if (s == ST_OK && *to > FIRST_SEQUENCE_MOST)
		s = ST_BAD_REQUEST;
	for (int p = 0; p < KM_LINK_POOLS && s == ST_OK; p++) {
		uint64_t first = link_offset(v, p, from), end = link_offset(v, p, *to);

		s = ks_pool_get(t, &v->pools[p], &pool);
		if (s == ST_OK && pool.tail > first)
			s = ks_void(t, &v->pools[p], first, (pool.tail < end ? pool.tail : end) - first, NULL);
		if (s == ST_OK)
			s = ks_settle(t, &v->pools[p], end);
	}
	note.next_sequence = *to;
	return s == ST_OK ? link_note_put(t, v->name, &note) : s;
}

void link_begin_at(struct link *l, uint64_t sequence)
{
	if (sequence <= l->next_sequence)
		return;
	link_settled(l, sequence);
	l->measured.sequence = sequence; /* what was skipped was not generated */
}

/* ---- what one end remembers ---------------------------------------------------------------------------- */

struct recall {
	struct link *l;
	unsigned losses; /* of connections, when it began */
	struct link_view view;
	struct km_link_state state;
	struct km_link_state follower; /* leader: what it answered */
	struct km_link_open open;      /* follower: the leader's message, its names cut off */
	uint64_t begin;
	km_reply reply; /* of the follower */
	void *arg;
};

/* Whether that end knows of no block that was agreed about: the follower signs each verdict, the leader takes it. */
static bool has_not_begun(const struct km_link_state *s)
{
	return s->used[KM_AUTH_IN] == 0;
}

static bool is_unused(const struct km_link_state *s)
{
	for (int p = 0; p < KM_LINK_POOLS; p++)
		if (s->used[p] > 0)
			return false;
	return true;
}

/* Neither knows of any: they begin where the other does, if that is higher. */
static enum status begin_work(struct ks_txn *t, struct recall *r, const struct km_link_state *other)
{
	r->begin = r->state.next_sequence;
	if (!has_not_begun(&r->state) || !has_not_begun(other) || other->next_sequence <= r->begin)
		return ST_OK;
	r->begin = other->next_sequence;
	return link_skip(t, &r->view, r->state.next_sequence, &r->begin);
}

/* Whether this end chooses the ranges of pool p. */
static bool is_source(const struct link_view *v, int p)
{
	return v->leader == (p == KM_KEYS_OUT || p == KM_AUTH_OUT);
}

static enum status recall_work(struct ks_txn *t, void *arg)
{
	struct recall *r = arg;
	struct link_note note;
	struct ks_pool pool;
	enum status s = link_note_get(t, r->view.name, &note);

	r->state.next_sequence = note.next_sequence;
	for (int p = 0; p < KM_LINK_POOLS && s == ST_OK; p++) {
		if (is_source(&r->view, p)) {
			s = ks_pool_get(t, &r->view.pools[p], &pool);
			r->state.used[p] = pool.head;
		} else {
			s = used_get(t, &r->view.pools[p], &r->state.used[p]);
		}
	}
	if (s != ST_OK || r->reply == NULL)
		return s;
	s = begin_work(t, r, &r->open.leader);
	r->state.next_sequence = r->begin;
	return s;
}

/* Whether two memories of the link can both be true. A store put back from an older copy has
 * forgotten what it used; going on would use it again. */
static enum status states_agree(const struct link *l, const struct km_link_state *mine,
                                const struct km_link_state *theirs, struct err *e)
{
	const struct km_link_state *leader = l->view.leader ? mine : theirs;
	const struct km_link_state *follower = l->view.leader ? theirs : mine;
	bool begun = !has_not_begun(mine) || !has_not_begun(theirs);
	const char *old = NULL;

	if (begun && follower->next_sequence < leader->next_sequence)
		old = l->view.leader ? l->peer : l->km->name;
	if (begun && follower->next_sequence > leader->next_sequence + KM_WINDOW_MAX)
		old = l->view.leader ? l->km->name : l->peer;
	for (int p = 0; p < KM_LINK_POOLS; p++) {
		bool source = is_source(&l->view, p);
		uint64_t chosen = source ? mine->used[p] : theirs->used[p];
		uint64_t witnessed = source ? theirs->used[p] : mine->used[p];

		if (witnessed > chosen)
			old = source ? l->km->name : l->peer;
	}
	if (old == NULL)
		return ST_OK;
	return err_set(e, ST_CONFLICT,
	               "link %s: the key store of %s has forgotten keys that were used: an older copy of it was put "
	               "back. Restore the newest one, or make the link anew: give both ends a fresh initial secret and "
	               "restart them",
	               l->view.name, old);
}

/* ---- opening: the leader's side ------------------------------------------------------------------------- */

static void leader_opened(enum status s, void *arg)
{
	struct recall *r = arg;
	struct link *l = r->l;

	if (s == ST_OK)
		link_begin_at(l, r->begin);
	if (r->losses != l->losses) {
		free(r); /* the next connection begins anew */
		return;
	}
	if (s == ST_OK) {
		l->open = true;
		l->syncing = false;
		log_info("link %s: open with %s, at block %llu", l->view.name, l->peer,
		         (unsigned long long)l->next_sequence);
		link_sync_soon(l, 0);
		control_report_links(l->km);
		link_changed(l);
	} else if (l->km->wire->peer_is_up(l->km->wire_ctx, l->peer)) {
		link_sync_soon(l, NS_PER_S); /* which opens it where it is not open */
	}
	free(r);
}

static enum status leader_begin_work(struct ks_txn *t, void *arg)
{
	struct recall *r = arg;

	return begin_work(t, r, &r->follower);
}

static void open_answered(enum status s, const void *answer, void *arg)
{
	struct recall *r = arg;
	struct link *l = r->l;
	const struct km_link_open_answer *a = answer;
	struct err e = { ST_OK, "" };

	if (s == ST_OK && a->answer.err.status != ST_OK) {
		link_complain(l, "%s refused to open it: %s", l->peer, a->answer.err.text);
		s = a->answer.err.status;
	} else if (s == ST_OK && states_agree(l, &r->state, &a->follower, &e) != ST_OK) {
		log_error("%s", e.text);
		s = e.status;
	}
	if (s != ST_OK) {
		leader_opened(s, r);
		return;
	}
	r->follower = a->follower;
	ks_submit(l->km->ks, leader_begin_work, leader_opened, r);
}

static void open_recalled(enum status s, void *arg)
{
	struct recall *r = arg;
	struct link *l = r->l;
	struct km_link_open m = { .link = l->view.name, .link_id = l->view.id, .block_size = l->view.block_size };

	if (s != ST_OK) {
		link_complain(l, "reading where it stands: %s", status_name(s));
		leader_opened(s, r);
		return;
	}
	m.leader = r->state;
	km_trace_new(l->km, &m.trace);
	km_send(l->km, KM_LINK_OPEN, l->peer, &m, open_answered, r);
}

static void recall(struct recall *r, ks_done done)
{
	r->view = r->l->view;
	r->losses = r->l->losses;
	ks_submit(r->l->km->ks, recall_work, done, r);
}

static void leader_made(struct link *l, enum status s, void *arg)
{
	(void)arg;
	if (s == ST_OK)
		link_peer_up(l, true);
	else
		link_sync_soon(l, 10 * NS_PER_S); /* which tries again: a secret may have been put there */
}

void link_peer_up(struct link *l, bool up)
{
	struct recall *r;
	struct id id;

	l->losses += !up;
	if (l->open) {
		l->open = false;
		control_report_links(l->km);
	}
	if (!up || !l->view.leader || l->making)
		return;
	if (id_is_zero(&l->view.id)) {
		env_random(l->km->env, &id, sizeof id);
		link_make(l, &id, leader_made, NULL);
		return;
	}
	r = xcalloc(1, sizeof *r);
	r->l = l;
	recall(r, open_recalled);
}

/* ---- opening: the follower's side ------------------------------------------------------------------------ */

static void follower_recalled(enum status s, void *arg)
{
	struct recall *r = arg;
	struct link *l = r->l;
	struct km_link_open_answer a = { .follower = r->state };

	if (s != ST_OK)
		err_set(&a.answer.err, s, "link %s: %s could not read where it stands", l->view.name, l->km->name);
	else
		s = states_agree(l, &r->state, &r->open.leader, &a.answer.err);
	if (s == ST_OK)
		link_begin_at(l, r->begin);
	if (s == ST_OK && r->losses != l->losses)
		s = err_set(&a.answer.err, ST_LINK_DOWN, "link %s: the connection on which %s was opening it is lost",
		            l->view.name, l->peer);
	if (s == ST_OK) {
		l->open = true;
		log_info("link %s: opened by %s, at block %llu", l->view.name, l->peer,
		         (unsigned long long)l->next_sequence);
	} else {
		log_error("%s", a.answer.err.text);
	}
	r->reply(&a.answer, r->arg);
	if (s == ST_OK) {
		control_report_links(l->km);
		link_changed(l);
	}
	free(r);
}

static void follower_made(struct link *l, enum status s, void *arg)
{
	struct recall *r = arg;

	(void)l;
	if (s == ST_OK) {
		recall(r, follower_recalled);
		return;
	}
	km_refuse(r->reply, r->arg, s,
	          "link %s: %s has not opened it before and has no initial secret for it: give both ends a fresh one",
	          r->l->view.name, r->l->km->name);
	free(r);
}

void handle_link_open(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_link_open *m = message;
	struct link *l = link_by_name(km, m->link);
	struct recall *r;

	if (l == NULL || strcmp(l->peer, from) != 0) {
		km_refuse(reply, arg, ST_NOT_FOUND, "link %s: %s has no such link to %s: configure it at both ends",
		          m->link, km->name, from);
		return;
	}
	if (l->view.leader || l->making) {
		km_refuse(reply, arg, l->making ? ST_BUSY : ST_BAD_REQUEST, "link %s: %s", m->link,
		          l->making ? "being made; try again" : "the KM with the lower name opens it");
		return;
	}
	if (m->block_size != l->view.block_size) {
		km_refuse(reply, arg, ST_CONFLICT, "link %s: block_size is %u bytes at %s and %u at %s: make them equal",
		          m->link, m->block_size, from, l->view.block_size, km->name);
		return;
	}
	if (!id_is_zero(&l->view.id) && !id_equal(&l->view.id, &m->link_id)) {
		km_refuse(reply, arg, ST_CONFLICT,
		          "link %s: %s has made it anew, %s still has the old one: give it the same fresh initial secret, "
		          "and restart it",
		          m->link, from, km->name);
		return;
	}
	if (id_is_zero(&l->view.id) && !is_unused(&m->leader)) {
		km_refuse(reply, arg, ST_CONFLICT,
		          "link %s: %s has lost its key store, or has forgotten the link, and %s still has it: give both "
		          "the same fresh initial secret, and restart %s",
		          m->link, km->name, from, from);
		return;
	}
	r = xcalloc(1, sizeof *r);
	r->l = l;
	r->open = *m;
	r->reply = reply;
	r->arg = arg;
	if (id_is_zero(&l->view.id))
		link_make(l, &m->link_id, follower_made, r);
	else
		recall(r, follower_recalled);
}
