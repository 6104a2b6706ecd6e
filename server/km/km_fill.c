/*
 * km_fill.c - how key bits get into a KSA pool: taken, brought to the destination by a method, verified
 * over Kx-2, ready.
 *
 * Several ranges may be on their way into a pool. One is verified when those before it have arrived, too, so that
 * the destination does not pass over them, and made ready behind them. The note of a range is written with its
 * bytes and removed when it is ready or void, so a kill between any two steps leaves the note, and the range is
 * taken up again (fill_resume). A range that cannot be brought is voided at the destination first, then here: until
 * the destination has answered that it is void, it may have arrived.
 */
#include <stdlib.h>

#include "core.h"

enum {
	FILLS_MOST = 8,
	FILL_UNHURRIED = 32 * 1024, /* smallest fill while there are enough keys: fewer messages */
	RETRY_NS = 200 * 1000 * 1000,
};
static const uint64_t PAUSE_AFTER_FAILURE = NS_PER_S / 2;
enum { PAUSE_SHIFT_MAX = 3 };
static const uint64_t RESUMED_RESERVATION_NS = 10 * NS_PER_S; /* for its controller to ask for it */

static void advance(struct ksa_pool *p);
static void void_there(struct fill *f);

/* ---- works ------------------------------------------------------------------------------------------- */

struct fill_work {
	struct fill *fill;
	struct id pool, link_pool; /* link_pool zero: fresh random bytes */
	uint64_t least, most, reserve;
	bool half;
	struct secret random;
	struct fill_note note;
	uint8_t tag[KM_TAG_LEN];
	struct ks_pool state;
	bool ran; /* not durable yet */
	uint64_t erased; /* bytes: none that ended before, with the pool or since the destination had seen keys used behind */
	uint64_t link_left; /* bytes in the link pool behind the take */
	void (*taken)(struct fill *f, enum status s);
};

static size_t fill_key(char key[KS_NOTE_KEY_MAX], const struct id *pool, uint64_t offset)
{
	memcpy(key, "fill/", 5);
	memcpy(key + 5, pool->bytes, ID_LEN);
	for (int i = 0; i < 8; i++)
		key[5 + ID_LEN + i] = (char)(offset >> (56 - 8 * i));
	return 5 + ID_LEN + 8;
}

/* The bytes of a new fill: from the link pool, or the random ones. */
static enum status take_bytes(struct ks_txn *t, struct fill_work *w, struct secret *bytes)
{
	struct ks_pool link;
	uint64_t most = w->most;
	enum status s;

	if (id_is_zero(&w->link_pool)) {
		secret_move(bytes, &w->random);
		return ST_OK;
	}
	s = ks_pool_get(t, &w->link_pool, &link);
	if (s != ST_OK)
		return s;
	if (link.stock < w->reserve)
		return ST_TOO_FEW_KEYS;
	if (most > (link.stock - w->reserve) / (w->half ? 2 : 1))
		most = (link.stock - w->reserve) / (w->half ? 2 : 1);
	if (most < w->least)
		return ST_TOO_FEW_KEYS;
	s = ks_take(t, &w->link_pool, w->least, most, FILL_GRANULE, &w->note.link_offset, bytes);
	w->link_left = link.stock + link.unready - bytes->len;
	return s;
}

enum status fill_put(struct ks_txn *t, const struct id *pool, struct fill_note *note, const struct secret *bytes,
                     uint8_t tag[KM_TAG_LEN])
{
	char key[KS_NOTE_KEY_MAX];
	struct ks_pool state;
	enum status s = ks_pool_get(t, pool, &state);

	if (s != ST_OK)
		return s;
	note->len = (uint32_t)bytes->len;
	note->ksa_offset = state.tail;
	ksa_bytes_tag(pool, note->ksa_offset, bytes->bytes, bytes->len, tag);
	s = ks_append(t, pool, note->ksa_offset, bytes->bytes, bytes->len);
	return s == ST_OK ? ks_note_put(t, key, fill_key(key, pool, note->ksa_offset), note, sizeof *note) : s;
}

static enum status take_work(struct ks_txn *t, void *arg)
{
	struct fill_work *w = arg;
	struct secret bytes = { NULL, 0 };
	enum status s = take_bytes(t, w, &bytes);

	if (s == ST_OK)
		s = fill_put(t, &w->pool, &w->note, &bytes, w->tag);
	secret_free(&bytes);
	return s;
}

static enum status prove_work(struct ks_txn *t, void *arg)
{
	struct fill_work *w = arg;

	return ksa_range_tag(t, &w->pool, w->note.ksa_offset, w->note.len, w->tag);
}

/* ST_BUSY where the one before it is not settled, after all. */
static enum status settle_work(struct ks_txn *t, void *arg)
{
	struct fill_work *w = arg;
	char key[KS_NOTE_KEY_MAX];
	enum status s = ks_pool_get(t, &w->pool, &w->state);

	if (s == ST_OK && w->state.ready < w->note.ksa_offset)
		s = ST_BUSY;
	if (s == ST_OK)
		s = ksa_range_settle(t, &w->pool, w->note.ksa_offset, w->note.len);
	if (s == ST_OK)
		s = ks_note_delete(t, key, fill_key(key, &w->pool, w->note.ksa_offset));
	return s == ST_OK ? ks_pool_get(t, &w->pool, &w->state) : s;
}

static enum status void_work(struct ks_txn *t, void *arg)
{
	struct fill_work *w = arg;
	char key[KS_NOTE_KEY_MAX];
	uint64_t end = w->note.ksa_offset + w->note.len;
	enum status s = ks_void(t, &w->pool, w->note.ksa_offset, w->note.len, &w->erased);

	if (s == ST_OK)
		s = ks_pool_get(t, &w->pool, &w->state);
	if (s == ST_OK && w->state.ready < end) /* else it was skipped, for the destination had seen keys of it used */
		s = ks_settle(t, &w->pool, end);
	if (s == ST_OK || s == ST_KEY_GONE) /* the whole pool was retired */
		s = ks_note_delete(t, key, fill_key(key, &w->pool, w->note.ksa_offset));
	return s == ST_OK ? ks_pool_get(t, &w->pool, &w->state) : s;
}

static struct fill_work *work_of(struct fill *f)
{
	struct fill_work *w = xcalloc(1, sizeof *w);

	w->fill = f;
	w->pool = f->pool_id;
	w->note = f->note;
	return w;
}

static void submit(struct fill *f, ks_work work, ks_done done)
{
	ks_submit(f->pool->km->ks, work, done, work_of(f));
}

/* ---- a fill's life ------------------------------------------------------------------------------------- */

static struct fill *fill_alloc(struct ksa_pool *p, const struct id *trace)
{
	struct fill *f = xcalloc(1, sizeof *f);

	f->pool = p;
	f->pool_id = p->id;
	f->trace = *trace;
	DL_APPEND(p->fills, f);
	return f;
}

/* Until the destination has the range of the link pool, or never will, it must not be cleared there. */
static void use_begin(struct fill *f)
{
	struct link *l = link_by_name(f->pool->km, f->note.link);

	if (l == NULL)
		return;
	uses_begin(&l->uses, &f->use, f->note.link_offset, f->note.link_offset + f->note.len);
}

static void use_end(struct fill *f, bool arrived)
{
	struct link *l = link_by_name(f->pool->km, f->note.link);

	if (l != NULL)
		uses_end(&l->uses, &f->use, arrived);
}

void fill_free(struct fill *f)
{
	if (f->transit != NULL || f->split != NULL)
		relay_abandon(f);
	use_end(f, false);
	DL_DELETE(f->pool->fills, f);
	env_timer_free(f->pool->km->env, f->timer);
	free(f);
}

static void timer_fired(void *arg)
{
	struct fill *f = arg;

	if (!f->pool->km->stopping)
		f->again(f);
}

void fill_later(struct fill *f, uint64_t after, void (*again)(struct fill *f))
{
	struct env *env = f->pool->km->env;

	f->again = again;
	if (f->timer == NULL)
		f->timer = env_timer_new(env, timer_fired, f);
	env_timer_set(env, f->timer, after);
}

static void fill_over(struct fill *f)
{
	struct ksa_pool *p = f->pool;

	fill_free(f);
	ksa_pool_ready(p);
	advance(p);
	ksa_pool_fill(p);
}

static void over_later(struct fill *f)
{
	f->stage = f->stage == FILL_SETTLING ? FILL_VERIFIED : FILL_VOIDED;
	advance(f->pool);
}

static void answer_controller(struct fill *f, enum status s, const char *text)
{
	if (f->reply == NULL)
		return;
	if (s == ST_OK)
		km_done(f->reply, f->reply_arg);
	else
		km_refuse(f->reply, f->reply_arg, s, "%s", text);
	f->reply = NULL;
}

static uint64_t keys_of(const struct fill *f)
{
	return f->note.len - FILL_TAG_KEY;
}

static void settle_ran(void *arg)
{
	struct fill_work *w = arg;
	struct ksa_pool *p = w->fill->pool;

	w->ran = true;
	p->settling -= keys_of(w->fill);
	p->in_flight -= keys_of(w->fill);
	p->stock = w->state.stock;
}

void fill_stop(struct fill *f)
{
	if (f->stage != FILL_TAKING) /* a reservation that is being taken is answered when it was */
		answer_controller(f, ST_BUSY, "the key manager is stopping");
}

static void settled(enum status s, void *arg)
{
	struct fill_work *w = arg;
	struct fill *f = w->fill;
	struct ksa_pool *p = f->pool;

	if (s == ST_OK) {
		p->failure.status = ST_OK;
		p->in_vain = 0;
		if (f->note.method == FILL_RELAY)
			p->relay_most *= 2;
		answer_controller(f, ST_OK, "");
		fill_over(f);
	} else {
		if (w->ran) {
			p->stock -= p->stock < keys_of(f) ? p->stock : keys_of(f);
			p->in_flight += keys_of(f);
		} else {
			p->settling -= keys_of(f);
		}
		if (s != ST_BUSY)
			ksa_pool_failed(p, "making a range ready", s);
		fill_later(f, NS_PER_S, over_later);
	}
	free(w);
}

static void release(void *arg)
{
	struct km *km = arg;

	ks_release(km->ks);
}

/* The requests that wait for its keys take them behind it, in the same commit: what they post runs before. */
static void settle(struct fill *f)
{
	struct km *km = f->pool->km;

	f->stage = FILL_SETTLING;
	f->pool->settling += keys_of(f);
	ks_hold(km->ks);
	ks_submit_early(km->ks, settle_work, settle_ran, settled, work_of(f));
	ksa_pool_ready(f->pool);
	env_post(km->env, release, km);
}

static void voided(enum status s, void *arg)
{
	struct fill_work *w = arg;
	struct fill *f = w->fill;

	if (s == ST_OK) {
		if (!f->never_left && w->erased > 0) {
			f->pool->km->counters.bytes_voided += w->erased;
			log_warning("KSA pool to %s: %llu bytes on their way were given up", f->pool->destination,
			            (unsigned long long)w->erased);
		}
		answer_controller(f, f->pool->failure.status == ST_OK ? ST_KEY_GONE : f->pool->failure.status, "void");
		if (id_equal(&f->pool_id, &f->pool->id)) /* else it was retired: the stock is the next one's */
			f->pool->stock = w->state.stock;
		f->pool->in_flight -= keys_of(f);
		f->pool->filling = true; /* it had been counted on */
		fill_over(f);
	} else {
		ksa_pool_failed(f->pool, "voiding a range", s);
		fill_later(f, NS_PER_S, over_later);
	}
	free(w);
}

static void verify_again(struct fill *f)
{
	f->stage = FILL_ARRIVED;
	advance(f->pool);
}

static void verify_answered(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct fill *f = arg;

	if (s == ST_OK && a->err.status == ST_OK) {
		f->stage = FILL_VERIFIED;
		advance(f->pool);
	} else if (s == ST_OK && (a->err.status == ST_MISMATCH || a->err.status == ST_KEY_GONE)) {
		fill_failed(f, a->err.status, a->err.text);
	} else {
		fill_later(f, RETRY_NS, verify_again);
	}
}

static void set_tag(struct fill *f, const uint8_t tag[KM_TAG_LEN])
{
	f->has_tag = true;
	memcpy(f->tag, tag, sizeof f->tag);
}

static void send_verify(struct fill *f)
{
	struct km_verify m = { .trace = f->trace, .pool = f->pool_id, .offset = f->note.ksa_offset, .len = f->note.len };

	memcpy(m.tag, f->tag, sizeof m.tag);
	f->verified_in = f->pool->opening;
	km_send(f->pool->km, KM_VERIFY, f->pool->destination, &m, verify_answered, f);
}

static void proved(enum status s, void *arg)
{
	struct fill_work *w = arg;
	struct fill *f = w->fill;

	if (s == ST_OK) {
		set_tag(f, w->tag);
		send_verify(f);
	} else if (s == ST_KEY_GONE) {
		fill_failed(f, s, "its bytes are gone here");
	} else {
		fill_later(f, NS_PER_S, verify_again);
	}
	free(w);
}

static void verify(struct fill *f)
{
	struct ksa_pool *p = f->pool;

	if (!id_equal(&f->pool_id, &p->id)) {
		f->stage = FILL_VOIDED;
	} else if (p->open) {
		if (f->timer != NULL) /* it may have waited for the pool to be open */
			env_timer_stop(p->km->env, f->timer);
		f->stage = FILL_VERIFYING;
		if (f->has_tag)
			send_verify(f);
		else
			submit(f, prove_work, proved);
	} else {
		fill_later(f, RETRY_NS, verify_again);
	}
}

/* The destination may have answered before it made the range ready (km_verify.c). If it was killed it learns how far
 * it should have when the pool is opened again: not of a range that waits here for those before it. */
static bool is_forgotten(const struct fill *f)
{
	return f->stage == FILL_VERIFIED && (!f->pool->open || f->verified_in != f->pool->opening);
}

/* Takes the pool's fills to their next stages, as far as those before them let them. */
static void advance(struct ksa_pool *p)
{
	bool settling = true; /* all before this one */
	struct fill *f;

	if (p->km->stopping)
		return;
	DL_FOREACH (p->fills, f) {
		if (f->stage == FILL_TAKING || f->stage == FILL_SENDING)
			return;
		if (is_forgotten(f))
			f->stage = FILL_ARRIVED;
		if (f->stage == FILL_ARRIVED)
			verify(f);
		if (f->stage == FILL_VERIFIED && settling) {
			settle(f);
		} else if (f->stage == FILL_VOIDED && f == p->fills) {
			f->stage = FILL_VOIDING;
			submit(f, void_work, voided);
		}
		settling &= f->stage == FILL_SETTLING;
	}
}

void fill_arrived(struct fill *f)
{
	if (f->stage != FILL_SENDING)
		return;
	f->stage = FILL_ARRIVED;
	use_end(f, true);
	advance(f->pool);
}

static void void_answered(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct fill *f = arg;

	if (s == ST_OK && a->err.status != ST_STORAGE && a->err.status != ST_BUSY) {
		f->stage = FILL_VOIDED;
		advance(f->pool);
	} else {
		fill_later(f, RETRY_NS, void_there);
	}
}

static void void_there(struct fill *f)
{
	struct km_void m = { .trace = f->trace, .pool = f->pool_id, .offset = f->note.ksa_offset, .len = f->note.len };

	if (!f->pool->open) {
		fill_later(f, RETRY_NS, void_there);
		return;
	}
	km_send(f->pool->km, KM_VOID, f->pool->destination, &m, void_answered, f);
}

/* What left and did not arrive has cost pad: the more often, the longer until the next. */
static uint64_t pause_after_failure(const struct ksa_pool *p)
{
	return PAUSE_AFTER_FAILURE << (p->in_vain < PAUSE_SHIFT_MAX ? p->in_vain : PAUSE_SHIFT_MAX);
}

static void note_failure(struct fill *f, enum status s, const char *text)
{
	struct ksa_pool *p = f->pool;

	use_end(f, false);
	err_set(&p->failure, s, "%s", text);
	log_warning("KSA pool to %s: %u bytes did not arrive (%s): %s", p->destination, f->note.len, status_name(s),
	            text);
	p->try_again_at = env_mono(p->km->env) + pause_after_failure(p);
	if (s == ST_TOO_FEW_KEYS)
		p->relay_most = f->note.len / 2;
}

void fill_failed(struct fill *f, enum status s, const char *text)
{
	note_failure(f, s, text);
	if (f->timer != NULL) /* a reservation does not lapse as well */
		env_timer_stop(f->pool->km->env, f->timer);
	f->stage = FILL_VOIDING;
	void_there(f);
}

void fill_refused(struct fill *f, enum status s, const char *text)
{
	note_failure(f, s, text);
	f->never_left = true;
	f->stage = FILL_VOIDED;
	advance(f->pool);
}

/* ---- beginnings ---------------------------------------------------------------------------------------------- */

/* Before those that are to be taken: another may have been taken while this one waited for its way. */
static void put_in_order(struct fill *f)
{
	struct fill *other, *behind = NULL;

	DL_DELETE(f->pool->fills, f);
	DL_FOREACH (f->pool->fills, other)
		if (other->stage == FILL_TAKING && behind == NULL)
			behind = other;
	if (behind != NULL)
		DL_PREPEND_ELEM(f->pool->fills, behind, f);
	else
		DL_APPEND(f->pool->fills, f);
}

void fill_taken(struct fill *f, const struct fill_note *note, const uint8_t tag[KM_TAG_LEN])
{
	f->note = *note;
	set_tag(f, tag);
	f->stage = FILL_SENDING;
	f->pool->in_flight += keys_of(f);
	put_in_order(f);
	use_begin(f);
}

void fill_not_taken(struct fill *f, enum status s, const char *text)
{
	struct ksa_pool *p = f->pool;

	note_failure(f, s, text);
	if (s == ST_TOO_FEW_KEYS && f->note.len > FILL_LEAST) /* a shorter one may do, at once: nothing was spent */
		p->try_again_at = 0;
	fill_free(f);
	ksa_pool_fill(p);
}

static void taken(enum status s, void *arg)
{
	struct fill_work *w = arg;
	struct fill *f = w->fill;
	void (*then)(struct fill *, enum status) = w->taken;

	secret_free(&w->random);
	if (s == ST_OK) {
		fill_taken(f, &w->note, w->tag);
		if (!id_is_zero(&w->link_pool))
			link_set_stock_out(link_by_name(f->pool->km, f->note.link), w->link_left);
	} else if (s != ST_TOO_FEW_KEYS) {
		ksa_pool_failed(f->pool, "taking key bits for it", s);
	}
	free(w);
	then(f, s); /* while the fill still stands: a failed one says who waits for it */
	if (s != ST_OK)
		fill_free(f);
}

static struct fill *fill_of(struct ksa_pool *p, const struct fill_source *source)
{
	struct fill *f = fill_alloc(p, &source->trace);

	f->note = (struct fill_note){ .version = FILL_VERSION,
		                      .method = source->method,
		                      .len = (uint32_t)source->len_most,
		                      .expires = source->expires,
		                      .relay = source->relay };
	if (source->link != NULL)
		strcpy(f->note.link, source->link->view.name);
	return f;
}

void fill_new(struct ksa_pool *p, const struct fill_source *source, void (*then)(struct fill *f, enum status s))
{
	struct fill_work *w = work_of(fill_of(p, source));

	w->least = source->len_least;
	w->most = source->len_most;
	w->reserve = source->link_reserve;
	w->half = source->half;
	w->taken = then;
	if (source->link != NULL) {
		w->link_pool = *link_pool_out(source->link);
	} else {
		secret_alloc(&w->random, source->len_most);
		env_random(p->km->env, w->random.bytes, w->random.len);
	}
	ks_submit(p->km->ks, take_work, taken, w);
}

static bool is_taking(const struct ksa_pool *p, unsigned *count)
{
	const struct fill *f;
	bool taking = false;

	*count = 0;
	DL_FOREACH (p->fills, f) {
		taking |= f->stage == FILL_TAKING;
		++*count;
	}
	return taking;
}

static void begun(struct fill *f, enum status s)
{
	struct ksa_pool *p = f->pool;

	if (s != ST_OK) {
		if (s != ST_TOO_FEW_KEYS)
			err_set(&p->failure, s, "the key store could not be written");
		p->try_again_at = env_mono(p->km->env) + NS_PER_S / 50;
		return;
	}
	if (f->note.method == FILL_RELAY)
		shares_send(f);
	else
		allocation_send(f);
	ksa_pool_fill(p);
}

/* How many bytes the next fill should be; 0: none is wanted. On demand, what the waiting requests lack; else
 * between low and high water. */
static uint64_t wanted(struct ksa_pool *p, bool on_demand)
{
	const struct km_limits *limits = &p->km->limits;
	uint64_t have = p->stock + p->in_flight, lack = ksa_pool_waiting_bytes(p), want;

	lack = lack > p->in_flight ? lack - p->in_flight + FILL_TAG_KEY : 0;
	if (have < limits->ksa_low_water)
		p->filling = true;
	if (have >= limits->ksa_high_water)
		p->filling = false;
	want = on_demand || !p->filling ? lack : limits->ksa_high_water - have + FILL_TAG_KEY;
	if (want == 0)
		return 0;
	want = want < FILL_LEAST ? FILL_LEAST : want > limits->fill_most ? limits->fill_most : want;
	return (want + FILL_GRANULE - 1) / FILL_GRANULE * FILL_GRANULE;
}

/* How long a relay may be: no longer than pad is at the first hop, or was on the way of late. */
static uint64_t relay_most(struct ksa_pool *p)
{
	uint64_t most = 0;

	for (struct link *l = p->km->links; l != NULL; l = l->hh.next)
		if (l->open && link_stock_out(l) > most)
			most = link_stock_out(l);
	if (most < FILL_LEAST + AUTH_KEY_LEN)
		return 0;
	most -= AUTH_KEY_LEN;
	p->relay_most = p->relay_most < FILL_LEAST ? FILL_LEAST
	                : p->relay_most > p->km->limits.fill_most ? p->km->limits.fill_most
	                                                          : p->relay_most;
	return (most < p->relay_most ? most : p->relay_most) / FILL_GRANULE * FILL_GRANULE;
}

/* Why none can even be begun, for those who wait for keys. to: the link to a neighbour. */
static void note_no_pad(struct ksa_pool *p, const struct link *to)
{
	bool open = false;

	for (struct link *l = p->km->links; l != NULL; l = l->hh.next)
		open |= l->open;
	if (to != NULL)
		err_set(&p->failure, ST_LINK_DOWN, "the QKD link to it is not open");
	else if (open)
		err_set(&p->failure, ST_TOO_FEW_KEYS, "too little pad is left on the QKD links of this node");
	else
		err_set(&p->failure, ST_LINK_DOWN, "no QKD link of this node is open");
}

/* What a fill that nobody waits for should have at least: never more than a link gives whose module was stopped,
 * for it is not started again before something is taken. */
static uint64_t unhurried(const struct ksa_pool *p)
{
	const struct km_limits *limits = &p->km->limits;
	uint64_t most = limits->link_max_stock > limits->link_reserve ? limits->link_max_stock - limits->link_reserve : 0;

	most = most / 4 / FILL_GRANULE * FILL_GRANULE;
	return most < FILL_LEAST ? FILL_LEAST : most < FILL_UNHURRIED ? most : FILL_UNHURRIED;
}

static bool goes_in_shares(const struct ksa_pool *p)
{
	return p->shares > 1 && link_to_peer(p->km, p->destination) == NULL;
}

void ksa_pool_fill(struct ksa_pool *p)
{
	struct link *l = p->km->limits.relay_to_neighbours ? NULL : link_to_peer(p->km, p->destination);
	struct fill_source source = { .len_least = FILL_LEAST };
	unsigned count;

	if (!p->open || p->km->stopping || env_mono(p->km->env) < p->try_again_at)
		return;
	if (l != NULL && !l->open) {
		note_no_pad(p, l);
		return;
	}
	if (is_taking(p, &count) || count >= (p->in_vain > 0 ? 1 : FILLS_MOST)) /* one tries it for all */
		return;
	source.len_most = wanted(p, l == NULL && !p->km->limits.relay_ahead);
	if (p->waiting == NULL && p->stock + p->in_flight >= p->km->limits.ksa_low_water / 4)
		source.len_least = source.len_most < unhurried(p) ? source.len_most : unhurried(p);
	if (source.len_most == 0)
		return;
	if (l == NULL && source.len_most > relay_most(p))
		source.len_most = relay_most(p);
	if (source.len_most < FILL_LEAST) { /* of a link that is allocated from, enough is wanted always */
		note_no_pad(p, NULL);
		return;
	}
	source.method = l != NULL ? FILL_ALLOCATION : FILL_RELAY;
	source.link = l;
	source.link_reserve = p->km->limits.link_reserve;
	source.half = p->waiting == NULL;
	if (p->waiting != NULL) /* it is part of that procedure */
		source.trace = *ksa_pool_waiting_trace(p);
	else
		km_trace_new(p->km, &source.trace);
	env_random(p->km->env, &source.relay, sizeof source.relay);
	if (source.method == FILL_RELAY && !goes_in_shares(p))
		relay_send(fill_of(p, &source));
	else
		fill_new(p, &source, begun);
}

/* After a restart. A relay's outcome is not known: the destination is asked, by verification, whether it has
 * the range; if not, it is void. A reservation waits for its controller until it lapses. */
static void reservation_lapsed(struct fill *f)
{
	fill_failed(f, ST_TIMED_OUT, "the reservation lapsed");
}

void fill_lapse(struct fill *f, uint64_t most)
{
	uint64_t now = env_utc(f->pool->km->env), left = f->note.expires > now ? f->note.expires - now : 0;

	fill_later(f, left < most ? left : most, reservation_lapsed);
}

void fill_resume(struct ksa_pool *p, const struct fill_note *note)
{
	struct id trace;
	struct fill *f;

	km_trace_new(p->km, &trace);
	f = fill_alloc(p, &trace);
	f->note = *note;
	f->stage = FILL_SENDING;
	p->in_flight += keys_of(f);
	use_begin(f);
	if (note->method == FILL_ALLOCATION)
		fill_later(f, 0, allocation_send);
	else if (note->method == FILL_RELAY)
		fill_later(f, 0, fill_arrived);
	else
		fill_lapse(f, RESUMED_RESERVATION_NS);
}

struct fill *fill_by_relay(struct km *km, const struct id *relay)
{
	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next)
		for (struct fill *f = p->fills; f != NULL; f = f->next)
			if (id_equal(&f->note.relay, relay))
				return f;
	return NULL;
}
