/*
 * km.c - the key manager's core as a whole: how it is made, what the store remembers at the start, the
 * table of messages, the tick.
 *
 * Until the store has been read every message is answered ST_BUSY.
 */
#include "km.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core.h"

enum { TICK_NS = 100 * 1000 * 1000, TICKS_PER_EXPIRY = 10, EXPIRE_ROWS = 1000 };

const struct km_limits km_default_limits = {
	.default_key_size = 256,
	.min_key_size = 64,
	.max_key_size = 8192,
	.max_keys_per_request = 128,
	.ksa_low_water = 256 * 1024,
	.ksa_high_water = 1024 * 1024,
	.fill_most = 256 * 1024,
	.link_reserve = 8192,
	.link_max_stock = 64 * 1024 * 1024,
	.request_deadline = 2 * NS_PER_S,
	.max_request_deadline = 60 * NS_PER_S,
	.data_key_lifetime = 24 * 3600 * NS_PER_S,
	.key_lifetime = 3600 * NS_PER_S,
	.missing_block_grace = 2 * NS_PER_S,
	.status_interval = 10 * NS_PER_S,
	.call_timeout = 5 * NS_PER_S,
	.relay_timeout = 10 * NS_PER_S,
	.route_lifetime = 3600 * NS_PER_S,
	.relay_ahead = true,
	.max_waiting_requests = 4096,
	.supply_ahead = true,
};

/* ---- small services --------------------------------------------------------------------------------- */

struct application *application_by_name(struct km *km, const char *name)
{
	struct application *a;

	HASH_FIND_STR(km->applications, name, a);
	return a;
}

void km_send(struct km *km, enum km_message m, const char *to, const void *message, km_answered answered, void *arg)
{
	km->wire->send(km->wire_ctx, m, to, message, km->limits.call_timeout, answered, arg);
}

void km_trace_new(struct km *km, struct id *trace)
{
	env_random(km->env, trace, sizeof *trace);
}

/* The largest answer: a refusal is the answer of any message, the rest of it zero. */
union any_answer {
	struct km_answer plain;
	struct km_keys keys;
	struct km_status_answer status;
	struct km_progress progress;
	struct km_link_open_answer link_open;
	struct km_link_sync_answer link_sync;
	struct km_relay_answer relay;
	struct km_pool_open_answer pool_open;
	struct km_assign_answer assign;
	struct km_ck_reservation_answer reservation;
	struct km_mk_status_answer mk_status;
	struct km_mk_pools_answer mk_pools;
	struct km_mk_relays_answer mk_relays;
};

void km_refuse(km_reply reply, void *arg, enum status s, const char *fmt, ...)
{
	union any_answer a;
	va_list ap;

	memset(&a, 0, sizeof a);
	a.plain.err.status = s;
	va_start(ap, fmt);
	vsnprintf(a.plain.err.text, sizeof a.plain.err.text, fmt, ap);
	va_end(ap);
	reply(&a.plain, arg);
}

void km_done(km_reply reply, void *arg)
{
	struct km_answer a = { { ST_OK, "" } };

	reply(&a, arg);
}

const struct km_counters *km_counters(const struct km *km)
{
	return &km->counters;
}

/* ---- messages ------------------------------------------------------------------------------------------ */

static km_handler *const handlers[KM_MESSAGES] = {
	[KM_KEY_REQUEST] = handle_key_request,
	[KM_KEY_REQUEST_WITH_ID] = handle_key_request_with_id,
	[KM_STATUS] = handle_status,
	[KM_KEY_SUPPLY] = handle_key_supply,
	[KM_KEY_SYNC] = handle_key_sync,
	[KM_REGISTER] = handle_register,
	[KM_ALARM] = handle_alarm,
	[KM_LINK_OPEN] = handle_link_open,
	[KM_LINK_SYNC] = handle_link_sync,
	[KM_ALLOCATE] = handle_allocate,
	[KM_RELAY] = handle_relay,
	[KM_COMPLETION] = handle_completion,
	[KM_POOL_OPEN] = handle_pool_open,
	[KM_VERIFY] = handle_verify,
	[KM_ASSIGN] = handle_assign,
	[KM_VOID] = handle_void,
	[KM_CK_RESERVATION] = handle_ck_reservation,
	[KM_CK_RELAY] = handle_ck_relay,
	[KM_CK_ALLOCATION] = handle_ck_allocation,
	[KM_CK_VOID] = handle_ck_void,
	[KM_MK_STATUS] = handle_mk_status,
	[KM_MK_POOLS] = handle_mk_pools,
	[KM_MK_RELAYS] = handle_mk_relays,
	[KM_MK_MODULES] = handle_mk_modules,
	[KM_MK_CHANGE_MASTER_KEY] = handle_mk_change_master_key,
};

void km_receive(struct km *km, enum km_message m, const char *from, const void *message, km_reply reply, void *arg)
{
	if (m >= KM_MESSAGES || handlers[m] == NULL)
		km_refuse(reply, arg, ST_UNSUPPORTED, "a key manager does not take that message");
	else if (!km->loaded || km->stopping)
		km_refuse(reply, arg, ST_BUSY, "%s is %s: try again", km->name, km->loaded ? "stopping" : "starting");
	else
		handlers[m](km, from, message, reply, arg);
}

static bool serves_applications(struct km *km, const char *name)
{
	for (struct application *a = km->applications; a != NULL; a = a->hh.next)
		if (strcmp(a->km, name) == 0)
			return true;
	return false;
}

void km_peer_up(struct km *km, const char *peer, bool up)
{
	struct link *l = link_to_peer(km, peer);
	struct ksa_pool *p;

	if (!km->loaded || km->stopping)
		return;
	if (l != NULL)
		link_peer_up(l, up);
	HASH_FIND_STR(km->pools, peer, p);
	if (p == NULL && up && serves_applications(km, km->name) && serves_applications(km, peer))
		p = ksa_pool_to(km, peer); /* a pair that serves applications has a pool from the start */
	if (p != NULL)
		ksa_pool_peer_up(p, up);
}

void km_controller_up(struct km *km, bool up)
{
	if (km->loaded && !km->stopping && km->control.name != NULL)
		control_peer_up(km, up);
}

void km_module_up(struct km *km, const char *module, bool up)
{
	for (struct link *l = km->links; l != NULL; l = l->hh.next)
		if (strcmp(l->module.name, module) == 0)
			link_module_up(l, up);
}

/* ---- the tick: what no event announces ------------------------------------------------------------------ */

struct expiry {
	struct km *km;
	uint64_t now, bytes, shares;
};

static enum status expiry_work(struct ks_txn *t, void *arg)
{
	struct expiry *x = arg;

	enum status s = ks_expire(t, x->now, EXPIRE_ROWS, &x->bytes);

	x->shares = 0;
	return s == ST_OK ? shares_expire(t, x->now, &x->shares) : s;
}

static void expiry_done(enum status s, void *arg)
{
	struct expiry *x = arg;

	x->km->expiring = false;
	if (s == ST_OK && x->bytes > 0) {
		x->km->counters.bytes_voided += x->bytes;
		log_info("%llu bytes of keys were not fetched in time and are voided", (unsigned long long)x->bytes);
	}
	if (s == ST_OK && x->shares > 0) {
		x->km->counters.bytes_voided += x->shares;
		log_info("%llu bytes of shares are given up: the others did not come in time", (unsigned long long)x->shares);
	}
	free(x);
}

static void expire(struct km *km)
{
	struct expiry *x;

	if (km->expiring)
		return;
	km->expiring = true;
	x = xcalloc(1, sizeof *x);
	x->km = km;
	x->now = env_utc(km->env);
	ks_submit(km->ks, expiry_work, expiry_done, x);
}

static void rotated(enum status s, void *arg)
{
	struct km *km = arg;

	if (s == ST_OK)
		log_info("the key store has a new data key; what was spent under the old one cannot be recovered");
	else
		log_error("rotating the data key of the key store: %s; it is tried again", status_name(s));
	km->rotating = false;
}

/* What was spent stays recoverable from old pages of the file until its data key is destroyed. */
static void rotate_data_key(struct km *km)
{
	uint64_t now = env_mono(km->env);

	if (km->limits.data_key_lifetime == 0 || km->rotating || now < km->rotate_at)
		return;
	if (km->rotate_at != 0) {
		km->rotating = true;
		ks_rotate_data_key(km->ks, rotated, km);
	}
	km->rotate_at = now + km->limits.data_key_lifetime;
}

static void tick(void *arg)
{
	struct km *km = arg;

	for (struct link *l = km->links; l != NULL; l = l->hh.next) {
		link_tick_module(l);
		link_tell_unused(l);
	}
	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next) {
		if (!p->open && km->wire->peer_is_up(km->wire_ctx, p->destination) &&
		    (!id_is_zero(&p->id) || p->waiting != NULL))
			ksa_pool_make(p);
		ksa_pool_fill(p);
		ksa_pool_tell_unused(p);
	}
	if (++km->ticks % TICKS_PER_EXPIRY == 0) {
		expire(km);
		ways_save(km);
	}
	rotate_data_key(km);
	control_tick(km);
	env_timer_set(km->env, km->tick, TICK_NS);
}

/* ---- the start: what the store remembers ------------------------------------------------------------------ */

struct loaded_pool {
	struct ks_pool pool;
	struct loaded_pool *next;
};

struct loaded_fill {
	struct id pool;
	struct fill_note note;
	struct loaded_fill *next;
};

struct load {
	struct km *km;
	struct loaded_pool *pools;
	struct loaded_fill *fills; /* in the order of pools and offsets */
	struct link_loaded *links;
	size_t link_count;
};

static void load_clear(struct load *load)
{
	struct loaded_pool *p, *next;
	struct loaded_fill *f, *next_fill;

	LL_FOREACH_SAFE (load->pools, p, next)
		free(p);
	LL_FOREACH_SAFE (load->fills, f, next_fill)
		free(f);
	load->pools = NULL;
	load->fills = NULL;
}

static bool load_pool(const struct ks_pool *pool, void *arg)
{
	struct load *load = arg;
	struct loaded_pool *p = xcalloc(1, sizeof *p);

	p->pool = *pool;
	LL_PREPEND(load->pools, p);
	return true;
}

static bool load_fill(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	struct load *load = arg;
	struct loaded_fill *f;

	if (key_len != 5 + ID_LEN + 8 || len != sizeof f->note)
		return true;
	f = xcalloc(1, sizeof *f);
	memcpy(f->pool.bytes, (const char *)key + 5, ID_LEN);
	memcpy(&f->note, value, sizeof f->note);
	LL_APPEND(load->fills, f);
	return true;
}

static enum status load_work(struct ks_txn *t, void *arg)
{
	struct load *load = arg;
	enum status s = ST_OK;

	load_clear(load);
	for (size_t i = 0; i < load->link_count && s == ST_OK; i++)
		s = link_load(t, &load->links[i]);
	if (s != ST_OK)
		return s;
	ks_pool_each(t, load_pool, load);
	ks_note_each(t, "fill/", 5, load_fill, load);
	return ST_OK;
}

static void take_over_pool(struct km *km, const struct loaded_pool *loaded)
{
	const struct ks_pool_desc *d = &loaded->pool.desc;
	struct ksa_pool *p;

	km->has_shares |= d->kind == KS_POOL_SHARE;
	if (d->kind != KS_POOL_KSA || loaded->pool.retired)
		return;
	if (strcmp(d->destination, km->name) == 0) {
		ksa_inbound_add(km, &d->id, d->source, 0);
		return;
	}
	p = ksa_pool_to(km, d->destination);
	p->id = d->id;
	p->stock = loaded->pool.stock;
	uses_lost(&p->uses, loaded->pool.head);
}

static void take_over_fill(struct km *km, const struct loaded_fill *loaded)
{
	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next)
		if (id_equal(&p->id, &loaded->pool) && loaded->note.version == FILL_VERSION)
			fill_resume(p, &loaded->note);
}

static void load_done(enum status s, void *arg)
{
	struct load *load = arg;
	struct km *km = load->km;
	struct loaded_pool *p;
	struct loaded_fill *f;

	if (s != ST_OK)
		log_fatal("reading the key store: %s", status_name(s));
	LL_FOREACH (load->pools, p)
		take_over_pool(km, p);
	LL_FOREACH (load->fills, f)
		take_over_fill(km, f);
	for (size_t i = 0; i < load->link_count; i++) {
		link_take_over(load->links[i].l, &load->links[i]);
		secret_free(&load->links[i].found);
	}
	load_clear(load);
	free(load->links);
	free(load);
	km->loaded = true;
	if (km->stopping)
		return;
	env_timer_set(km->env, km->tick, TICK_NS);
	if (km->ready != NULL)
		km->ready(km->ready_arg);
}

static void load(struct km *km)
{
	struct load *work = xcalloc(1, sizeof *work);
	size_t i = 0;

	work->km = km;
	work->link_count = HASH_COUNT(km->links);
	work->links = xcalloc(work->link_count, sizeof *work->links);
	for (struct link *l = km->links; l != NULL; l = l->hh.next, i++) {
		work->links[i].l = l;
		work->links[i].view = l->view;
		link_look_for_secret(l, &work->links[i].found);
	}
	ks_submit(km->ks, load_work, load_done, work);
}

/* ---- making and ending ---------------------------------------------------------------------------------------- */

static enum status add_link(struct km *km, const struct km_link_options *o, struct err *e)
{
	struct link *l;

	if (link_by_name(km, o->name) != NULL)
		return err_set(e, ST_CONFIGURATION, "link %s is named twice", o->name);
	if (link_to_peer(km, o->peer) != NULL)
		return err_set(e, ST_CONFIGURATION, "link %s: there is another link to %s: one a peer", o->name, o->peer);
	if (strcmp(o->peer, km->name) == 0)
		return err_set(e, ST_CONFIGURATION, "link %s: its peer is this KM", o->name);
	if (o->block_size % 64 != 0 || o->block_size < 512 || o->block_size > 1024 * 1024)
		return err_set(e, ST_CONFIGURATION, "link %s: block_size %u: a multiple of 64 between 512 and 1 MiB", o->name,
		               o->block_size);
	l = xcalloc(1, sizeof *l);
	l->km = km;
	strcpy(l->view.name, o->name);
	strcpy(l->peer, o->peer);
	strcpy(l->module.name, o->module ? o->module : "");
	l->initial_secret = xstrdup(o->initial_secret);
	l->view.block_size = o->block_size;
	l->view.half = (o->block_size - 2 * AUTH_SHARE) / 2;
	l->view.leader = strcmp(km->name, o->peer) < 0;
	l->complaints.interval_ns = NS_PER_S;
	l->complaints.burst = 10;
	l->pull_timer = env_timer_new(km->env, link_pull, l);
	HASH_ADD_STR(km->links, view.name, l);
	return ST_OK;
}

static void add_application(struct km *km, const struct km_application_options *o)
{
	struct application *a = xcalloc(1, sizeof *a);

	strcpy(a->name, o->name);
	strcpy(a->km, o->km);
	HASH_ADD_STR(km->applications, name, a);
}

enum status km_new(struct km **out, const struct km_options *o, struct err *e)
{
	struct km *km = xcalloc(1, sizeof *km);
	enum status s = ST_OK;

	strcpy(km->name, o->name);
	km->env = o->env;
	km->fetches_last = &km->fetches;
	km->ks = o->ks;
	km->wire = o->wire;
	km->wire_ctx = o->wire_ctx;
	km->limits = o->limits;
	km->control.name = o->controller ? xstrdup(o->controller) : NULL;
	km->peers = xcalloc(o->peer_count, sizeof *km->peers);
	for (; km->peer_count < o->peer_count; km->peer_count++)
		km->peers[km->peer_count] = (struct km_peer_options){ xstrdup(o->peers[km->peer_count].name),
			                                              o->peers[km->peer_count].shares };
	km->ready = o->ready;
	km->ready_arg = o->ready_arg;
	km->tick = env_timer_new(km->env, tick, km);
	for (size_t i = 0; i < o->link_count && s == ST_OK; i++)
		s = add_link(km, &o->links[i], e);
	for (size_t i = 0; i < o->application_count && s == ST_OK; i++) {
		if (application_by_name(km, o->applications[i].name) != NULL)
			s = err_set(e, ST_CONFIGURATION, "application %s is named twice", o->applications[i].name);
		else
			add_application(km, &o->applications[i]);
	}
	if (s != ST_OK) {
		km_free(km);
		return s;
	}
	*out = km;
	load(km);
	ways_load(km);
	return ST_OK;
}

void km_stop(struct km *km)
{
	km->stopping = true;
	env_timer_stop(km->env, km->tick);
	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next) {
		struct fill *f;

		ksa_pool_stop(p);
		DL_FOREACH (p->fills, f)
			fill_stop(f);
	}
	fetch_stop(km);
	make_verified_ready(km);
	ways_save(km);
}

bool km_awaits_answers(const struct km *km)
{
	for (const struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next)
		if (p->uses.list != NULL)
			return true;
	return false;
}

void km_free(struct km *km)
{
	struct link *l, *next_link;
	struct application *a, *next_application;
	struct ksa_pool *p, *next_pool;
	struct ksa_inbound *in, *next_in;

	HASH_ITER (hh, km->links, l, next_link) {
		HASH_DEL(km->links, l);
		env_timer_free(km->env, l->sync_timer);
		env_timer_free(km->env, l->pull_timer);
		secret_free(&l->sync_keys);
		env_timer_free(km->env, l->stock_timer);
		free(l->initial_secret);
		log_limit_end(&l->complaints, "link %s", l->view.name);
		free(l);
	}
	HASH_ITER (hh, km->applications, a, next_application) {
		HASH_DEL(km->applications, a);
		free(a);
	}
	HASH_ITER (hh, km->pools, p, next_pool) {
		struct fill *f, *next_fill;

		HASH_DEL(km->pools, p);
		DL_FOREACH_SAFE (p->fills, f, next_fill)
			fill_free(f);
		ahead_forget(p);
		log_limit_end(&p->complaints, "KSA pool to %s", p->destination);
		free(p);
	}
	HASH_ITER (hh, km->inbound, in, next_in) {
		HASH_DEL(km->inbound, in);
		free(in);
	}
	verified_free(km);
	ways_forget(km);
	transits_free(km);
	for (size_t i = 0; i < km->peer_count; i++)
		free((char *)km->peers[i].name);
	free(km->peers);
	env_timer_free(km->env, km->tick);
	free(km->control.name);
	free(km);
}
