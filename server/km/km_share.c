/*
 * km_share.c - a range as XOR shares over node-disjoint routes: split at its source, joined at its destination
 * (doc/shares.md).
 *
 * Whatever is killed when: the range is in the destination's KSA pool if and only if every share has arrived;
 * of an incomplete group nothing stays once it is void or its time is over.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core.h"
#include "otp.h"

/* ---- the source --------------------------------------------------------------------------------------------- */

struct share {
	struct split *split;
	struct transit *transit; /* NULL: not begun, or ended */
	struct km_route *route;
	struct secret bytes;
};

/* A range on its way in shares. Lives as long as something of it is under way, the fill or not. */
struct split {
	struct km *km;
	struct fill *fill; /* NULL: it has ended, whatever becomes of the shares */
	unsigned under_way;
	uint64_t expires;
	bool left;      /* a message with a share was sent */
	uint32_t count;
	struct share shares[KM_SHARES_MAX];
	/* copies, for the writer's thread */
	struct id ksa_pool;
	uint64_t ksa_offset;
	uint32_t len;
};

static void split_put(struct split *s)
{
	if (--s->under_way > 0)
		return;
	if (s->fill != NULL)
		s->fill->split = NULL;
	for (uint32_t i = 0; i < s->count; i++) {
		secret_free(&s->shares[i].bytes);
		free(s->shares[i].route);
	}
	free(s);
}

/* The fill goes on without them. What has left comes to its end by itself. */
void shares_abandon(struct fill *f)
{
	struct split *s = f->split;

	f->split = NULL;
	s->fill = NULL;
	s->under_way++;
	for (uint32_t i = 0; i < s->count; i++) {
		if (s->shares[i].transit == NULL)
			continue;
		transit_forget(s->shares[i].transit);
		s->shares[i].transit = NULL;
		s->under_way--;
	}
	split_put(s);
}

bool shares_are_asking(const struct split *s)
{
	return s->count == 0;
}

static bool is_over(const struct split *s)
{
	return s->fill == NULL || s->fill->stage != FILL_SENDING;
}

static void refuse(struct split *s, const struct transit_end *end)
{
	struct fill *f = s->fill;

	shares_abandon(f);
	relay_refused(f, end);
}

static void share_done(void *arg, const struct transit_end *end)
{
	struct share *one = arg;
	struct split *s = one->split;

	one->transit = NULL;
	s->left |= end->left;
	if (!is_over(s) && end->status != ST_OK && end->certain) { /* without this one the others are nothing */
		struct transit_end all = *end;
		char text[sizeof ((struct err *)0)->text];

		all.left = s->left || s->under_way > 1; /* which of those under way have left is not asked */
		snprintf(text, sizeof text, "share %u of %u: %s", (unsigned)(one - s->shares) + 1, s->count, end->text);
		all.text = text;
		refuse(s, &all);
	} else if (!is_over(s) && s->under_way == 1) { /* the notification is due, or the verification will tell */
		fill_later(s->fill, COMPLETION_GRACE_NS, fill_arrived);
	}
	split_put(s);
}

static void begin_share(struct split *s, uint32_t i)
{
	struct fill *f = s->fill;
	struct transit_plan plan = { .origin = FROM_SHARE,
		                     .trace = f->trace,
		                     .group = f->note.relay,
		                     .ksa_pool = s->ksa_pool,
		                     .source = s->km->name,
		                     .destination = f->pool->destination,
		                     .relayer = s->km->name,
		                     .ksa_offset = s->ksa_offset,
		                     .expires = s->expires,
		                     .len = s->len,
		                     .relay_case = 2,
		                     .share = i,
		                     .shares = s->count,
		                     .text = &s->shares[i].bytes,
		                     .route = *s->shares[i].route };

	env_random(s->km->env, &plan.relay, sizeof plan.relay);
	s->under_way++;
	s->shares[i].transit = transit_new(s->km, &plan, share_done, &s->shares[i]);
}

/* The first share is what the others leave of the range. */
static enum status split_work(struct ks_txn *t, void *arg)
{
	struct split *s = arg;
	struct secret *first = &s->shares[0].bytes;
	enum status status;

	secret_free(first);
	status = ks_read(t, &s->ksa_pool, s->ksa_offset, s->len, first);
	for (uint32_t i = 1; i < s->count && status == ST_OK; i++)
		otp_xor(first->bytes, first->bytes, s->shares[i].bytes.bytes, s->len);
	return status;
}

static void was_split(enum status status, void *arg)
{
	struct split *s = arg;

	if (!is_over(s) && status == ST_OK)
		for (uint32_t i = 0; i < s->count; i++)
			begin_share(s, i);
	else if (!is_over(s))
		refuse(s, &(struct transit_end){ .status = status, .certain = true, .text = status_name(status),
		                                 .failed = { "", "" } });
	split_put(s);
}

static void draw(struct split *s, const struct km_route *routes, uint32_t count)
{
	s->count = count;
	for (uint32_t i = 0; i < count; i++) {
		struct share *one = &s->shares[i];

		one->split = s;
		one->route = route_copy(&routes[i]);
		if (i == 0)
			continue;
		secret_alloc(&one->bytes, s->len);
		env_random(s->km->env, one->bytes.bytes, s->len);
	}
}

static void found(void *arg, enum status status, const char *text, const struct km_route *routes, uint32_t count,
                  bool remembered)
{
	struct transit_end end = { .status = status, .certain = true, .text = text, .failed = { "", "" } };
	struct split *s = arg;
	struct fill *f = s->fill;
	char few[200];

	if (is_over(s)) {
		split_put(s);
		return;
	}
	if (count < 2 && !f->pool->shares_required) {
		shares_abandon(f);
		split_put(s);
		relay_send(f);
		return;
	}
	f->remembered = end.remembered = remembered;
	if (status == ST_OK && count < f->pool->shares && f->pool->shares_required) {
		snprintf(few, sizeof few, "%u shares are required, and there %s %u route%s without a common node",
		         f->pool->shares, count == 1 ? "is" : "are", count, count == 1 ? "" : "s");
		end.status = ST_NO_ROUTE;
		end.text = few;
	}
	if (end.status != ST_OK) {
		refuse(s, &end);
		split_put(s);
		return;
	}
	f->shares = count;
	draw(s, routes, count);
	ks_submit(s->km->ks, split_work, was_split, s);
}

void shares_send(struct fill *f)
{
	struct ksa_pool *p = f->pool;
	struct split *s = xcalloc(1, sizeof *s);
	const struct way_query q = { .trace = f->trace,
		                     .relay = f->note.relay,
		                     .source = p->km->name,
		                     .destination = p->destination,
		                     .len = f->note.len };

	s->km = p->km;
	s->fill = f;
	s->under_way = 1;
	s->expires = env_utc(p->km->env) + p->km->limits.relay_timeout;
	s->ksa_pool = p->id;
	s->ksa_offset = f->note.ksa_offset;
	s->len = f->note.len;
	f->split = s;
	ways_find_disjoint(p->km, &q, p->shares, found, s);
}

/* ---- the destination: what is staged -------------------------------------------------------------------------- */

/*
 * The note of an incomplete group: "share/", the KSA pool's ID and the range's offset. Behind it come the nodes
 * that its shares have passed, each as the number of the share, the name, a zero.
 */
struct share_note {
	uint32_t version; /* SHARE_VERSION */
	uint32_t len, shares, have; /* have: a bit for each */
	uint64_t expires;           /* UTC: no share of it comes later */
	struct id group;
};
enum { SHARE_VERSION = 1, SHARE_KEY_LEN = 6 + ID_LEN + 8, PASSED_MAX = KS_NOTE_MAX - sizeof(struct share_note) };

struct staged {
	struct share_note note;
	char passed[PASSED_MAX];
	size_t passed_len;
};

static void share_key(char key[SHARE_KEY_LEN], const struct id *ksa_pool, uint64_t offset)
{
	memcpy(key, "share/", 6);
	memcpy(key + 6, ksa_pool->bytes, ID_LEN);
	for (int i = 0; i < 8; i++)
		key[6 + ID_LEN + i] = (char)(offset >> (56 - 8 * i));
}

/* The pool where shares of that number wait, at the offsets that their ranges have in the KSA pool. */
static struct id staging_pool(const struct id *ksa_pool, uint32_t share)
{
	struct id id = *ksa_pool;

	id.bytes[ID_LEN - 1] ^= (uint8_t)(0x80 | share);
	return id;
}

static enum status staged_get(struct ks_txn *t, const struct km_relay *m, struct staged *st)
{
	char key[SHARE_KEY_LEN];
	size_t len = 0;
	enum status s;

	share_key(key, &m->ksa_pool, m->ksa_offset);
	s = ks_note_get(t, key, sizeof key, st, sizeof st->note + sizeof st->passed, &len);
	if (s == ST_NOT_FOUND) {
		st->note = (struct share_note){ .version = SHARE_VERSION, .len = m->len, .shares = m->shares, .group = m->group };
		return ST_OK;
	}
	if (s != ST_OK)
		return s;
	if (len < sizeof st->note || st->note.version != SHARE_VERSION || st->note.len != m->len ||
	    st->note.shares != m->shares || !id_equal(&st->note.group, &m->group))
		return ST_CONFLICT;
	st->passed_len = len - sizeof st->note;
	return ST_OK;
}

static enum status staged_put(struct ks_txn *t, const struct km_relay *m, const struct staged *st)
{
	char key[SHARE_KEY_LEN];

	share_key(key, &m->ksa_pool, m->ksa_offset);
	return ks_note_put(t, key, sizeof key, st, sizeof st->note + st->passed_len);
}

static bool has_passed_another(const struct staged *st, const char *node, uint32_t share)
{
	for (size_t i = 0; i < st->passed_len; i += 1 + strlen(st->passed + i + 1) + 1)
		if ((uint32_t)st->passed[i] != share && strcmp(st->passed + i + 1, node) == 0)
			return true;
	return false;
}

/* No node on the way may have passed another share of the range: ST_DENIED. */
static enum status add_passed(struct staged *st, const struct km_relay *m)
{
	for (uint32_t i = 1; i + 1 < m->route.count; i++) {
		const char *node = m->route.nodes[i];
		size_t len = strlen(node) + 1;

		if (has_passed_another(st, node, m->share))
			return ST_DENIED;
		if (st->passed_len + 1 + len > sizeof st->passed)
			return ST_BAD_REQUEST;
		st->passed[st->passed_len] = (char)m->share;
		memcpy(st->passed + st->passed_len + 1, node, len);
		st->passed_len += 1 + len;
	}
	return ST_OK;
}

static enum status stage(struct ks_txn *t, const struct km_relay *m, const struct secret *text)
{
	struct ks_pool_desc d = { .id = staging_pool(&m->ksa_pool, m->share), .kind = KS_POOL_SHARE };
	enum status s;

	snprintf(d.source, sizeof d.source, "%s", m->source);
	snprintf(d.destination, sizeof d.destination, "%s", m->destination);
	s = ks_pool_create(t, &d);
	return s == ST_OK ? ks_append(t, &d.id, m->ksa_offset, text->bytes, m->len) : s;
}

/* With the share that was missing: the range, into the KSA pool; the others are wiped in the same commit. */
static enum status join(struct ks_txn *t, const struct km_relay *m, const struct secret *text)
{
	struct secret range = { NULL, 0 };
	enum status s = ST_OK;

	secret_copy(&range, text->bytes, m->len);
	for (uint32_t i = 0; i < m->shares && s == ST_OK; i++) {
		struct id pool = staging_pool(&m->ksa_pool, i);
		struct secret other = { NULL, 0 };

		if (i == m->share)
			continue;
		s = ks_read(t, &pool, m->ksa_offset, m->len, &other);
		if (s == ST_OK)
			otp_xor(range.bytes, range.bytes, other.bytes, m->len);
		secret_free(&other);
	}
	if (s == ST_OK)
		s = ks_append(t, &m->ksa_pool, m->ksa_offset, range.bytes, m->len);
	secret_free(&range);
	return s == ST_OK ? shares_void(t, &m->ksa_pool, m->ksa_offset, m->len) : s;
}

static bool is_there(struct ks_txn *t, const struct km_relay *m)
{
	struct secret range = { NULL, 0 };
	bool there = ks_read(t, &m->ksa_pool, m->ksa_offset, m->len, &range) == ST_OK;

	secret_free(&range);
	return there;
}

enum status share_keep(struct ks_txn *t, const struct km_relay *m, const struct secret *text, bool *joined)
{
	uint32_t all = (1u << m->shares) - 1, bit = 1u << m->share;
	struct staged *st;
	enum status s;

	*joined = is_there(t, m); /* it comes again, behind the last */
	if (*joined)
		return ST_OK;
	st = xcalloc(1, sizeof *st);
	s = staged_get(t, m, st);
	if (s == ST_OK && (st->note.have & bit) != 0) {
		s = stage(t, m, text);
	} else if (s == ST_OK && (s = add_passed(st, m)) == ST_OK) {
		st->note.have |= bit;
		st->note.expires = m->expires > st->note.expires ? m->expires : st->note.expires;
		*joined = st->note.have == all;
		s = *joined ? join(t, m, text) : stage(t, m, text);
		if (s == ST_OK && !*joined)
			s = staged_put(t, m, st);
	}
	free(st);
	return s;
}

/* ---- the destination: wiping ------------------------------------------------------------------------------------ */

/* For each staging pool that there is. ST_KEY_GONE: it was retired with its KSA pool. */
static enum status void_staged(struct ks_txn *t, const struct id *ksa_pool, uint64_t offset, uint64_t len, uint64_t *bytes)
{
	enum status s = ST_OK;

	for (uint32_t i = 0; i < KM_SHARES_MAX && s == ST_OK; i++) {
		struct id pool = staging_pool(ksa_pool, i);
		uint64_t erased = 0;

		s = ks_void(t, &pool, offset, len, &erased);
		*bytes += erased;
		if (s == ST_NOT_FOUND || s == ST_KEY_GONE)
			s = ST_OK;
	}
	return s;
}

enum status shares_void(struct ks_txn *t, const struct id *ksa_pool, uint64_t offset, uint64_t len)
{
	char key[SHARE_KEY_LEN];
	uint64_t bytes = 0;
	enum status s = void_staged(t, ksa_pool, offset, len, &bytes);

	share_key(key, ksa_pool, offset);
	return s == ST_OK ? ks_note_delete(t, key, sizeof key) : s;
}

/* Ranges are made ready in their order: below, none is incomplete any more. */
enum status shares_settle(struct ks_txn *t, const struct id *ksa_pool, uint64_t ready)
{
	enum status s = ST_OK;

	for (uint32_t i = 0; i < KM_SHARES_MAX && s == ST_OK; i++) {
		struct id pool = staging_pool(ksa_pool, i);

		s = ks_settle(t, &pool, ready);
		if (s == ST_OK)
			s = ks_void_below(t, &pool, ready);
		if (s == ST_NOT_FOUND || s == ST_CONFLICT) /* there is none, or it is behind it already */
			s = ST_OK;
	}
	return s;
}

enum status shares_retire(struct ks_txn *t, const struct id *ksa_pool, uint64_t *bytes)
{
	enum status s = ST_OK;
	struct ks_pool staging;

	for (uint32_t i = 0; i < KM_SHARES_MAX && s == ST_OK; i++) {
		struct id pool = staging_pool(ksa_pool, i);

		if (ks_pool_get(t, &pool, &staging) == ST_OK)
			*bytes += staging.stock + staging.unready;
		s = ks_pool_retire(t, &pool);
		if (s == ST_NOT_FOUND || s == ST_KEY_GONE)
			s = ST_OK;
	}
	return s; /* the notes go when their time is over */
}

enum { LAPSED_MOST = 64 };

struct lapsed {
	uint64_t now;
	unsigned count;
	struct {
		struct id ksa_pool;
		uint64_t offset, len;
	} groups[LAPSED_MOST];
};

static bool find_lapsed(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	const uint8_t *offset = (const uint8_t *)key + 6 + ID_LEN;
	struct lapsed *l = arg;
	struct share_note note;

	if (key_len != SHARE_KEY_LEN || len < sizeof note)
		return true;
	memcpy(&note, value, sizeof note);
	if (note.expires > l->now)
		return true;
	memcpy(l->groups[l->count].ksa_pool.bytes, (const uint8_t *)key + 6, ID_LEN);
	l->groups[l->count].offset = 0;
	for (int i = 0; i < 8; i++)
		l->groups[l->count].offset = l->groups[l->count].offset << 8 | offset[i];
	l->groups[l->count++].len = note.len;
	return l->count < LAPSED_MOST;
}

enum status shares_expire(struct ks_txn *t, uint64_t utc_now, uint64_t *bytes)
{
	struct lapsed l = { .now = utc_now };
	enum status s = ST_OK;

	ks_note_each(t, "share/", 6, find_lapsed, &l);
	for (unsigned i = 0; i < l.count && s == ST_OK; i++) {
		char key[SHARE_KEY_LEN];

		s = void_staged(t, &l.groups[i].ksa_pool, l.groups[i].offset, l.groups[i].len, bytes);
		share_key(key, &l.groups[i].ksa_pool, l.groups[i].offset);
		if (s == ST_OK)
			s = ks_note_delete(t, key, sizeof key);
	}
	return s;
}
