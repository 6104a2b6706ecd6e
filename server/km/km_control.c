/*
 * km_control.c - the KM and its QKDN controller (Ck): registration, reports, and relay in case 1 (I.4b),
 * which the controller drives.
 *
 * Without its controller a KM goes on with its neighbours, and with the ways that it remembers (km_route.c).
 */
#include <stdlib.h>

#include "core.h"

enum { REGISTER_AGAIN_NS = 1000 * 1000 * 1000 };

#define RATE_INTERVAL (200 * NS_PER_MS)

static const uint64_t WITHOUT_CONTROLLER_NS = 5 * NS_PER_S; /* that a reservation outlives it */

/* ---- registration and reports -------------------------------------------------------------------------- */

static void told(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct km *km = arg;

	if (s == ST_OK)
		control_answered(km);
	if (s == ST_OK && a->err.status != ST_OK)
		log_warning("controller %s: %s", km->control.name, a->err.text);
}

/*
 * How fast keys towards the peer are made (blocks settled) and used (made, and not in stock any more), each a
 * moving average over a few reports. A block that is stored and not settled yet counts as used less, later as more.
 */
static void measure(struct link *l, uint64_t now)
{
	uint64_t stock = link_stock_out(l), elapsed = now - l->measured.at, made, before;
	double seconds = (double)elapsed / (double)NS_PER_S;

	if (l->measured.at != 0 && elapsed < RATE_INTERVAL)
		return;
	made = (l->next_sequence - l->measured.sequence) * l->view.half;
	before = l->measured.stock + made;
	if (l->measured.at != 0) {
		double generated = 8.0 * (double)made / seconds;
		double consumed = before > stock ? 8.0 * (double)(before - stock) / seconds : 0;

		l->generation_rate = (uint64_t)((double)l->generation_rate + (generated - (double)l->generation_rate) / 4);
		l->consumption_rate = (uint64_t)((double)l->consumption_rate + (consumed - (double)l->consumption_rate) / 4);
	}
	l->measured.at = now;
	l->measured.sequence = l->next_sequence;
	l->measured.stock = stock;
}

void control_report_links(struct km *km)
{
	struct km_ck_link_state *states;
	struct km_ck_link_status m = { .km = km->name };

	if (!km->control.registered)
		return;
	states = xcalloc(HASH_COUNT(km->links), sizeof *states);
	for (struct link *l = km->links; l != NULL; l = l->hh.next) {
		struct km_ck_link_state *s = &states[m.count++];

		measure(l, env_mono(km->env));
		s->link = l->view.name;
		s->peer = l->peer;
		s->up = l->open;
		s->stock = link_stock_out(l);
		s->generation_rate = l->generation_rate;
		s->consumption_rate = l->consumption_rate;
		s->qber_ppm = l->qber_ppm;
		s->reported_at = env_utc(km->env);
	}
	m.links = states;
	km_trace_new(km, &m.trace);
	km_send(km, KM_CK_LINK_STATUS, km->control.name, &m, told, km);
	free(states);
}

static void report_pools(struct km *km)
{
	struct km_ck_pool_state *states = xcalloc(HASH_COUNT(km->pools), sizeof *states);
	struct km_ck_key_store_status m = { .km = km->name };

	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next) {
		if (!p->open)
			continue;
		states[m.count++] = (struct km_ck_pool_state){ .peer = p->destination,
			                                       .stock = p->stock,
			                                       .low_water = km->limits.ksa_low_water,
			                                       .high_water = km->limits.ksa_high_water };
	}
	m.pools = states;
	km_trace_new(km, &m.trace);
	if (m.count > 0)
		km_send(km, KM_CK_KEY_STORE_STATUS, km->control.name, &m, told, km);
	free(states);
}

static void registered(enum status s, const void *answer, void *arg)
{
	const struct km_ck_register_answer *a = answer;
	struct km *km = arg;

	km->control.registering = false;
	if (s != ST_OK || !km->control.up)
		return; /* the tick asks again */
	if (a->answer.err.status != ST_OK) {
		log_error("controller %s refused this KM: %s", km->control.name, a->answer.err.text);
		return;
	}
	km->control.registered = true;
	control_answered(km);
	km->control.distributed = a->distributed;
	km->control.report_interval = a->report_interval;
	log_info("registered with controller %s (%s)", a->controller, a->distributed ? "distributed" : "centralized");
	control_report_links(km);
	report_pools(km);
	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next)
		ksa_pool_fill(p);
}

static void enrol(struct km *km)
{
	struct km_ck_register m = { .km = km->name };

	km->control.registering = true;
	km->control.register_at = env_mono(km->env) + REGISTER_AGAIN_NS;
	km_trace_new(km, &m.trace);
	km_send(km, KM_CK_REGISTER, km->control.name, &m, registered, km);
}

/* A controller that is lost may have forgotten its reservations, and the ranges behind them wait. */
static void lapse_reservations(struct km *km)
{
	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next)
		for (struct fill *f = p->fills; f != NULL; f = f->next) {
			if (f->note.method == FILL_RESERVATION && f->stage == FILL_SENDING)
				fill_lapse(f, WITHOUT_CONTROLLER_NS);
			f->orphan = true;
		}
}

void control_peer_up(struct km *km, bool up)
{
	km->control.up = up;
	km->control.registered = false;
	if (!up)
		lapse_reservations(km);
	if (up && !km->control.registering)
		enrol(km);
}

void control_tick(struct km *km)
{
	uint64_t now = env_mono(km->env);

	if (km->control.up && !km->control.registered && !km->control.registering && now >= km->control.register_at)
		enrol(km);
	if (!km->control.registered || now < km->control.report_at)
		return;
	km->control.report_at = now + km->control.report_interval;
	control_report_links(km);
	report_pools(km);
}

/* ---- I.4b at the first node: reservation, allocation, void -------------------------------------------------- */

static void answer_reservation(const struct fill *f, km_reply reply, void *arg)
{
	struct km_ck_reservation_answer a = { .link = f->note.link,
		                              .link_offset = f->note.link_offset,
		                              .ksa_pool = f->pool->id,
		                              .ksa_offset = f->note.ksa_offset };

	reply(&a.answer, arg);
}

static void reserved(struct fill *f, enum status s)
{
	struct km *km = f->pool->km;
	km_reply reply = f->reply;

	f->reply = NULL;
	if (s != ST_OK) {
		km_refuse(reply, f->reply_arg, s, "reserving keys at %s: %s", km->name,
		          s == ST_TOO_FEW_KEYS ? "too few are on the link in one piece" : status_name(s));
		return;
	}
	fill_lapse(f, f->orphan || !km->control.up ? WITHOUT_CONTROLLER_NS : UINT64_MAX);
	answer_reservation(f, reply, f->reply_arg);
}

void handle_ck_reservation(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_ck_reservation *m = message;
	const struct km_route *r = &m->route;
	struct fill_source source = { .method = FILL_RESERVATION,
		                      .expires = m->expires,
		                      .relay = m->relay,
		                      .trace = m->trace };
	struct fill *known = fill_by_relay(km, &m->relay);
	struct ksa_pool *p;

	if (km->control.name == NULL || strcmp(from, km->control.name) != 0) {
		km_refuse(reply, arg, ST_DENIED, "%s is not the controller of %s", from, km->name);
		return;
	}
	if (known != NULL && known->note.method == FILL_RESERVATION && known->stage == FILL_SENDING) { /* asked again */
		answer_reservation(known, reply, arg);
		return;
	}
	if (known != NULL) {
		km_refuse(reply, arg, ST_BUSY, "reserving keys at %s: that relay is being reserved, allocated or voided",
		          km->name);
		return;
	}
	if (r->count < 3 || strcmp(r->nodes[0], km->name) != 0 || m->len < FILL_LEAST || m->len > FILL_MOST ||
	    m->len % FILL_GRANULE != 0) {
		km_refuse(reply, arg, ST_BAD_REQUEST, "reserving keys at %s: the route begins elsewhere, or %u bytes is not "
		          "a multiple of %d between %d and %d", km->name, m->len, FILL_GRANULE, FILL_LEAST, FILL_MOST);
		return;
	}
	source.link = link_to_peer(km, r->nodes[1]);
	if (source.link == NULL) {
		km_refuse(reply, arg, ST_BAD_REQUEST, "reserving keys at %s: it has no link to %s, the second node of the route",
		          km->name, r->nodes[1]);
		return;
	}
	p = ksa_pool_to(km, r->nodes[r->count - 1]);
	if (!p->open)
		ksa_pool_make(p);
	if (!source.link->open || !p->open) {
		km_refuse(reply, arg, !source.link->open ? ST_LINK_DOWN : ST_BUSY,
		          "reserving keys at %s: the link to %s or the KSA pool to %s is not open", km->name, r->nodes[1],
		          p->destination);
		return;
	}
	source.len_least = source.len_most = m->len;
	fill_new(p, &source, reserved);
	known = fill_by_relay(km, &m->relay);
	known->reply = reply;
	known->reply_arg = arg;
}

void handle_ck_allocation(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_ck_relay_id *m = message;
	struct fill *f = fill_by_relay(km, &m->relay);

	if (km->control.name == NULL || strcmp(from, km->control.name) != 0)
		km_refuse(reply, arg, ST_DENIED, "%s is not the controller of %s", from, km->name);
	else if (f == NULL || f->note.method != FILL_RESERVATION)
		km_refuse(reply, arg, ST_NOT_FOUND, "%s has no such reservation: it was allocated, or lapsed", km->name);
	else if (f->stage != FILL_SENDING)
		km_refuse(reply, arg, ST_BUSY, "the reservation is being allocated or voided already");
	else {
		env_timer_stop(km->env, f->timer);
		f->reply = reply;
		f->reply_arg = arg;
		fill_arrived(f);
	}
}

void handle_ck_void(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_ck_relay_id *m = message;
	struct fill *f = fill_by_relay(km, &m->relay);

	if (km->control.name == NULL || strcmp(from, km->control.name) != 0) {
		km_refuse(reply, arg, ST_DENIED, "%s is not the controller of %s", from, km->name);
		return;
	}
	if (f != NULL && f->note.method == FILL_RESERVATION && f->stage == FILL_SENDING)
		fill_failed(f, ST_KEY_GONE, "the controller voided the reservation");
	km_done(reply, arg);
}

/* ---- I.4b at the second node: relay of the keys it shares with the first --------------------------------------- */

struct ordered {
	struct km *km;
	km_reply reply;
	void *arg;
};

static void ordered_done(void *arg, const struct transit_end *end)
{
	struct ordered *o = arg;

	if (end->status == ST_OK)
		km_done(o->reply, o->arg);
	else
		km_refuse(o->reply, o->arg, end->status, "relay from %s: %s", o->km->name, end->text);
	free(o);
}

void handle_ck_relay(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_ck_relay *m = message;
	const struct km_route *r = &m->route;
	struct link *in = link_by_name(km, m->link);
	struct km_pad pad = { m->link_offset, m->len };
	struct transit_plan plan = { .origin = FROM_LINK,
		                     .trace = m->trace,
		                     .relay = m->relay,
		                     .ksa_pool = m->ksa_pool,
		                     .relayer = km->name,
		                     .ksa_offset = m->ksa_offset,
		                     .expires = m->expires,
		                     .len = m->len,
		                     .relay_case = 1,
		                     .route = m->route,
		                     .in = in,
		                     .pad_count = 1,
		                     .pads = &pad,
		                     .drop = free };
	struct ordered *o;

	if (km->control.name == NULL || strcmp(from, km->control.name) != 0) {
		km_refuse(reply, arg, ST_DENIED, "%s is not the controller of %s", from, km->name);
		return;
	}
	if (r->count < 3 || strcmp(r->nodes[1], km->name) != 0 || in == NULL || strcmp(in->peer, r->nodes[0]) != 0 ||
	    m->len < FILL_LEAST || m->len > FILL_MOST) {
		km_refuse(reply, arg, ST_BAD_REQUEST, "relay from %s: it is not the second node of the route, or has no such "
		          "link to the first, or the length is out of bounds", km->name);
		return;
	}
	plan.source = r->nodes[0];
	plan.destination = r->nodes[r->count - 1];
	o = xcalloc(1, sizeof *o);
	o->km = km;
	o->reply = reply;
	o->arg = arg;
	transit_new(km, &plan, ordered_done, o);
}
