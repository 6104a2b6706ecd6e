/*
 * km_link.c - a QKD link between this KM and a neighbour: its four pools, how they are made from the
 * initial secret, and how the two ends agree where they stand (Kx-1).
 *
 * The KM with the lower name leads. A block of block_size bytes is cut alike at both ends: AUTH_SHARE
 * bytes for each direction's authentication pool, and half of the rest for each direction's key pool.
 * Where a block lies in the pools follows from its sequence number alone.
 *
 * The initial secret is two halves, the beginning of the two authentication pools. It may never be
 * read in twice, since its bytes would be used twice: the file is removed once it is in the store.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core.h"
#include "file.h"

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

enum status used_get(struct ks_txn *t, const struct id *pool, uint64_t *used)
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

/* ---- making the pools ------------------------------------------------------------------------------ */

/* The view of a link whose ID is known: the pools' IDs follow from it. */
static void view_set_id(struct link_view *v, const struct id *id)
{
	v->id = *id;
	for (unsigned p = 0; p < KM_LINK_POOLS; p++)
		id_derive(&v->pools[p], "qkdn link pool", id, p);
}

struct make {
	struct link *l;
	struct link_view view;
	km_name source[KM_LINK_POOLS], destination[KM_LINK_POOLS];
	struct secret initial;
	void (*then)(struct link *l, enum status s, void *arg);
	void *arg;
};

static enum status make_work(struct ks_txn *t, void *arg)
{
	struct make *m = arg;
	struct link_note note = { .version = LINK_NOTE_VERSION, .block_size = m->view.block_size };
	const size_t half = INITIAL_SECRET_LEN / 2;
	enum status s;

	for (int p = 0; p < KM_LINK_POOLS; p++) {
		struct ks_pool_desc d = { .id = m->view.pools[p] };

		d.kind = p == KM_AUTH_OUT || p == KM_AUTH_IN ? KS_POOL_AUTH : KS_POOL_LINK;
		strcpy(d.source, m->source[p]);
		strcpy(d.destination, m->destination[p]);
		strcpy(d.link, m->view.name);
		if ((s = ks_pool_create(t, &d)) != ST_OK)
			return s;
	}
	for (int i = 0; i < 2; i++) {
		const struct id *pool = &m->view.pools[KM_AUTH_OUT + i];

		if ((s = ks_append(t, pool, 0, m->initial.bytes + i * half, half)) != ST_OK)
			return s;
		if ((s = ks_settle(t, pool, half)) != ST_OK)
			return s;
	}
	note.id = m->view.id;
	return link_note_put(t, m->view.name, &note);
}

static void make_done(enum status s, void *arg)
{
	struct make *m = arg;
	struct link *l = m->l;

	l->making = false;
	if (s == ST_OK) {
		l->view = m->view;
		if (unlink(l->initial_secret) != 0)
			log_error("link %s: the initial secret %s is in the store now and must not be used again, but "
			          "could not be removed (%s): remove it",
			          l->view.name, l->initial_secret, strerror(errno));
	} else {
		log_error("link %s: making its pools failed: %s", l->view.name, status_name(s));
	}
	secret_free(&m->initial);
	m->then(l, s, m->arg);
	free(m);
}

/* Makes the link's pools under that ID; then, with ST_OK, the link has it. */
static void link_make(struct link *l, const struct id *id, void (*then)(struct link *, enum status, void *),
                      void *arg)
{
	struct make *m = xcalloc(1, sizeof *m);
	struct err e = { ST_OK, "" };
	enum status s = file_read_secret(l->initial_secret, INITIAL_SECRET_LEN, &m->initial, &e);

	if (s == ST_OK && m->initial.len != INITIAL_SECRET_LEN)
		s = err_set(&e, ST_CONFIGURATION, "%s: an initial secret has %d bytes: make one with qkdn-pki secret",
		            l->initial_secret, INITIAL_SECRET_LEN);
	if (s != ST_OK) {
		link_complain(l, "it has never been opened and its initial secret cannot be read: %s", e.text);
		secret_free(&m->initial);
		free(m);
		then(l, s, arg);
		return;
	}
	m->l = l;
	m->view = l->view;
	m->then = then;
	m->arg = arg;
	view_set_id(&m->view, id);
	for (int p = 0; p < KM_LINK_POOLS; p++) {
		bool out = p == KM_KEYS_OUT || p == KM_AUTH_OUT, mine = out == l->view.leader;

		strcpy(m->source[p], mine ? l->km->name : l->peer);
		strcpy(m->destination[p], mine ? l->peer : l->km->name);
	}
	l->making = true;
	ks_submit(l->km->ks, make_work, make_done, m);
}

/* ---- what one end remembers ---------------------------------------------------------------------------- */

struct recall {
	struct link *l;
	struct link_view view;
	struct km_link_state state;
	struct km_link_open open; /* follower: the leader's message, its names cut off */
	km_reply reply;
	void *arg;
};

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
	return s;
}

/* Whether two memories of the link can both be true. A store put back from an older copy has
 * forgotten what it used; going on would use it again. */
static enum status states_agree(const struct link *l, const struct km_link_state *mine,
                                const struct km_link_state *theirs, struct err *e)
{
	const struct km_link_state *leader = l->view.leader ? mine : theirs;
	const struct km_link_state *follower = l->view.leader ? theirs : mine;
	const char *old = NULL;

	if (follower->next_sequence < leader->next_sequence)
		old = l->view.leader ? l->peer : l->km->name;
	if (follower->next_sequence > leader->next_sequence + KM_WINDOW_MAX)
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
	               "back. Restore the newest one, or make the link anew at both ends with a fresh initial secret",
	               l->view.name, old);
}

/* ---- opening: the leader's side ------------------------------------------------------------------------- */

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

static void open_recalled(enum status s, void *arg)
{
	struct recall *r = arg;
	struct link *l = r->l;
	struct km_link_open m = { .link = l->view.name, .link_id = l->view.id, .block_size = l->view.block_size };

	if (s != ST_OK) {
		log_error("link %s: reading where it stands: %s", l->view.name, status_name(s));
		free(r);
		return;
	}
	m.leader = r->state;
	km_trace_new(l->km, &m.trace);
	km_send(l->km, KM_LINK_OPEN, l->peer, &m, open_answered, r);
}

static void recall(struct recall *r, ks_done done)
{
	r->view = r->l->view;
	ks_submit(r->l->km->ks, recall_work, done, r);
}

static void leader_made(struct link *l, enum status s, void *arg)
{
	(void)arg;
	if (s == ST_OK)
		link_peer_up(l, true);
}

void link_peer_up(struct link *l, bool up)
{
	struct recall *r;
	struct id id;

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
		          "link %s: %s has made it anew, %s still has the old one: remove it there too "
		          "and give both ends a fresh initial secret",
		          m->link, from, km->name);
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

/* ---- after a restart --------------------------------------------------------------------------------------- */

void link_load(struct ks_txn *t, struct link_view *v, struct link_note *note, uint8_t *stored, uint64_t *seen)
{
	struct secret piece = { NULL, 0 };
	struct ks_pool pool;

	memset(stored, 0, BLOCKS_AHEAD / 8);
	*seen = 0;
	if (link_note_get(t, v->name, note) != ST_OK)
		return;
	view_set_id(v, &note->id);
	*seen = note->next_sequence;
	if (ks_pool_get(t, &v->pools[KM_AUTH_OUT], &pool) != ST_OK)
		return;
	for (uint64_t n = note->next_sequence; link_offset(v, KM_AUTH_OUT, n) < pool.tail; n++) {
		unsigned bit = (unsigned)(n % BLOCKS_AHEAD);

		if (ks_read(t, &v->pools[KM_AUTH_OUT], link_offset(v, KM_AUTH_OUT, n), AUTH_SHARE, &piece) != ST_OK)
			continue;
		secret_free(&piece);
		stored[bit / 8] |= (uint8_t)(1u << bit % 8);
		*seen = n + 1;
	}
}
