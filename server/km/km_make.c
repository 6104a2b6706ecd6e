/*
 * km_make.c - how a link's pools are made from the initial secret, what a KM finds of them at its start,
 * and how it gives them up.
 *
 * The initial secret is two halves, the beginning of the two authentication pools. It may never be
 * read in twice, since its bytes would be used twice: the file is removed once it is in the store, and
 * a print of it stays there, by which it is known again.
 *
 * A link is made anew where one end has lost its store, or an older copy of one was put back. A KM that knows
 * the link and finds at its start an initial secret that it has never used forgets the link (link_forget), in one
 * commit: its pools are retired, and all that stays is from which block on a new one may begin. From then on
 * it is like a link that was never opened, and the file is read, and removed, as for one of those; a kill
 * between the two leaves just that. The KM that has lost its store has forgotten already. The leader gives the link
 * an ID, which the follower takes over where it has none itself, and only while the leader has not begun to use the
 * link: so it does not matter which end is given the secret, or started, first.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "core.h"
#include "file.h"
#include "otp.h"

/* ---- initial secrets ----------------------------------------------------------------------------------- */

/* A secret is known again by a tag under a key of its own; both are in a note ("secret/" and the link's ID). */
struct secret_print {
	uint8_t key[OTP_MAC_KEY_LEN], tag[OTP_TAG_LEN];
};

static enum status read_initial_secret(const struct link *l, struct secret *secret, struct err *e)
{
	enum status s = file_read_secret(l->initial_secret, INITIAL_SECRET_LEN, secret, e);

	if (s != ST_OK || secret->len == INITIAL_SECRET_LEN)
		return s;
	secret_free(secret);
	return err_set(e, ST_CONFIGURATION, "%s: an initial secret has %d bytes: make one with qkdn-pki secret",
	               l->initial_secret, INITIAL_SECRET_LEN);
}

struct look_up {
	const struct secret *secret;
	bool found;
};

static bool compare_print(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	const struct secret_print *print = value;
	struct look_up *l = arg;
	uint8_t tag[OTP_TAG_LEN];

	(void)key;
	(void)key_len;
	if (len != sizeof *print)
		return true;
	otp_poly1305(print->key, l->secret->bytes, l->secret->len, tag);
	l->found = otp_tag_equal(tag, print->tag);
	return !l->found;
}

/* Whether any link was ever made of it here. */
static bool secret_was_used(struct ks_txn *t, const struct secret *secret)
{
	struct look_up l = { .secret = secret };

	ks_note_each(t, "secret/", 7, compare_print, &l);
	return l.found;
}

static enum status secret_used(struct ks_txn *t, const struct id *link, const struct secret *secret,
                               struct secret_print *print)
{
	char key[KS_NOTE_KEY_MAX];

	memcpy(key, "secret/", 7);
	memcpy(key + 7, link->bytes, ID_LEN);
	otp_poly1305(print->key, secret->bytes, secret->len, print->tag);
	return ks_note_put(t, key, 7 + ID_LEN, print, sizeof *print);
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
	struct secret_print print;
	uint64_t begin; /* the first block it may have */
	void (*then)(struct link *l, enum status s, void *arg);
	void *arg;
};

static enum status make_work(struct ks_txn *t, void *arg)
{
	struct make *m = arg;
	struct link_note note = { .version = LINK_NOTE_VERSION, .block_size = m->view.block_size }, old;
	const size_t half = INITIAL_SECRET_LEN / 2;
	enum status s = link_note_get(t, m->view.name, &old);

	m->begin = s == ST_OK ? old.next_sequence : 0;
	if (s != ST_OK && s != ST_NOT_FOUND)
		return s;
	if (s == ST_OK && !id_is_zero(&old.id)) /* one that is configured wrongly */
		return ST_CONFLICT;
	if (secret_was_used(t, &m->initial))
		return ST_REPLAYED;
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
	}
	for (int p = 0; p < KM_LINK_POOLS; p++)
		if ((s = ks_settle(t, &m->view.pools[p], link_offset(&m->view, p, m->begin))) != ST_OK)
			return s;
	note.id = m->view.id;
	note.next_sequence = m->begin;
	s = secret_used(t, &m->view.id, &m->initial, &m->print);
	return s == ST_OK ? link_note_put(t, m->view.name, &note) : s;
}

static void make_done(enum status s, void *arg)
{
	struct make *m = arg;
	struct link *l = m->l;

	l->making = false;
	if (s == ST_OK) {
		l->view = m->view;
		l->begun = false;
		link_begin_at(l, m->begin);
		if (unlink(l->initial_secret) != 0)
			log_error("link %s: the initial secret %s is in the store now and must not be used again, but "
			          "could not be removed (%s): remove it",
			          l->view.name, l->initial_secret, strerror(errno));
	} else if (s == ST_REPLAYED) {
		link_complain(l, "the initial secret %s was used before and is no secret any more: give both ends a fresh one",
		              l->initial_secret);
	} else {
		log_error("link %s: making its pools failed: %s", l->view.name, status_name(s));
	}
	secret_free(&m->initial);
	m->then(l, s, m->arg);
	free(m);
}

void link_make(struct link *l, const struct id *id, void (*then)(struct link *, enum status, void *), void *arg)
{
	struct make *m = xcalloc(1, sizeof *m);
	struct err e = { ST_OK, "" };
	enum status s = read_initial_secret(l, &m->initial, &e);

	if (s != ST_OK) {
		link_complain(l, "it has never been opened and its initial secret cannot be read: %s", e.text);
		free(m);
		then(l, s, arg);
		return;
	}
	m->l = l;
	m->view = l->view;
	m->then = then;
	m->arg = arg;
	env_random(l->km->env, m->print.key, sizeof m->print.key);
	view_set_id(&m->view, id);
	for (int p = 0; p < KM_LINK_POOLS; p++) {
		bool out = p == KM_KEYS_OUT || p == KM_AUTH_OUT, mine = out == l->view.leader;

		strcpy(m->source[p], mine ? l->km->name : l->peer);
		strcpy(m->destination[p], mine ? l->peer : l->km->name);
	}
	l->making = true;
	ks_submit(l->km->ks, make_work, make_done, m);
}

/* ---- after a restart --------------------------------------------------------------------------------------- */

static void load_stored(struct ks_txn *t, struct link_loaded *l)
{
	const struct link_view *v = &l->view;
	struct secret piece = { NULL, 0 };
	struct ks_pool pool;

	if (ks_pool_get(t, &v->pools[KM_AUTH_OUT], &pool) != ST_OK)
		return;
	for (uint64_t n = l->note.next_sequence; link_offset(v, KM_AUTH_OUT, n) < pool.tail; n++) {
		unsigned bit = (unsigned)(n % BLOCKS_AHEAD);

		if (ks_read(t, &v->pools[KM_AUTH_OUT], link_offset(v, KM_AUTH_OUT, n), AUTH_SHARE, &piece) != ST_OK)
			continue;
		secret_free(&piece);
		l->stored[bit / 8] |= (uint8_t)(1u << bit % 8);
		l->seen = n + 1;
	}
}

static void load_stock(struct ks_txn *t, struct link_loaded *l)
{
	struct ks_pool pool;

	for (int k = 0; k < 2; k++) {
		if (ks_pool_get(t, &l->view.pools[KM_KEYS_OUT + k], &pool) != ST_OK)
			continue;
		l->stock[k] = pool.stock + pool.unready;
		if (k == (l->view.leader ? 0 : 1))
			l->head_out = pool.head;
	}
}

/* Retires the pools; the note keeps where the next link may begin: behind every block that these pools had, lest one
 * be used again that its module still keeps. So no range of theirs is one of the next link's either, and an
 * allocation that was under way from them ends as void. */
static enum status link_forget(struct ks_txn *t, struct link_loaded *l)
{
	const struct link_note forgotten = { .version = LINK_NOTE_VERSION,
		                             .block_size = l->note.block_size,
		                             .next_sequence = l->seen };
	enum status s = ST_OK;
	struct ks_pool pool;

	for (int p = 0; p < KM_LINK_POOLS && s == ST_OK; p++) {
		s = ks_pool_get(t, &l->view.pools[p], &pool);
		if (s == ST_OK)
			s = ks_pool_retire(t, &l->view.pools[p]);
		if (s == ST_OK)
			s = used_forget(t, &l->view.pools[p]);
		l->voided += pool.stock + pool.unready;
	}
	if (s != ST_OK)
		return s;
	l->note = forgotten;
	l->forgotten = true;
	return link_note_put(t, l->view.name, &forgotten);
}

enum status link_load(struct ks_txn *t, struct link_loaded *l)
{
	enum status s;

	memset(l->stored, 0, sizeof l->stored);
	memset(&l->view.id, 0, sizeof l->view.id);
	l->seen = l->voided = l->head_out = l->stock[0] = l->stock[1] = 0;
	l->forgotten = false;
	l->secret_is_spent = l->found.len > 0 && secret_was_used(t, &l->found);
	s = link_note_get(t, l->view.name, &l->note);
	if (s != ST_OK) {
		memset(&l->note, 0, sizeof l->note);
		return s == ST_NOT_FOUND ? ST_OK : s;
	}
	l->seen = l->note.next_sequence;
	if (id_is_zero(&l->note.id))
		return ST_OK;
	view_set_id(&l->view, &l->note.id);
	load_stored(t, l);
	if (l->found.len > 0 && !l->secret_is_spent)
		return link_forget(t, l);
	load_stock(t, l);
	return ST_OK;
}

void link_look_for_secret(struct link *l, struct secret *found)
{
	struct err e;

	if (access(l->initial_secret, F_OK) == 0 && read_initial_secret(l, found, &e) != ST_OK)
		log_warning("link %s: %s", l->view.name, e.text);
}

/* The file is of no use any more where it was used: a kill came between its commit and its removal, or it was put
 * back. */
static void remove_spent_secret(const struct link *l)
{
	if (unlink(l->initial_secret) == 0)
		log_info("link %s: the initial secret %s was used already and is removed", l->view.name, l->initial_secret);
}

void link_take_over(struct link *l, const struct link_loaded *loaded)
{
	if (loaded->secret_is_spent)
		remove_spent_secret(l);
	l->next_sequence = loaded->note.next_sequence;
	l->seen = loaded->seen;
	if (loaded->forgotten) {
		l->km->counters.bytes_voided += loaded->voided;
		log_warning("link %s: it is made anew, with the fresh initial secret %s: %llu bytes of the old one are "
		            "given up",
		            l->view.name, l->initial_secret, (unsigned long long)loaded->voided);
	}
	if (id_is_zero(&loaded->note.id))
		return;
	if (loaded->note.block_size != l->view.block_size) {
		log_error("link %s: made with a block_size of %u bytes, configured with %u: put the old value back",
		          l->view.name, loaded->note.block_size, l->view.block_size);
		return;
	}
	l->view = loaded->view;
	l->begun = loaded->note.last_count > 0;
	memcpy(l->stored, loaded->stored, sizeof l->stored);
	memcpy(l->stock, loaded->stock, sizeof l->stock);
	uses_lost(&l->uses, loaded->head_out); /* what was on its way, but for the fills that are taken up again */
}
