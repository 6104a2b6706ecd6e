/*
 * km_route.c - which way a relay goes: the QKDN controller says; while it cannot be reached, what it said last.
 *
 * The ways that a controller gave are kept for each destination, the newest first: whole routes, or next hops
 * in distributed operation, and the alternatives that it named with them. They are used for limits.route_lifetime,
 * and only where there is no answer: a controller that refuses is obeyed. A way that failed goes to the end.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core.h"

enum { WAYS_MOST = 8, ALTERNATIVES = 3, DESTINATIONS_MOST = 4096 };

static const uint64_t PATIENCE_NS = NS_PER_S / 2;            /* with a controller, where a way is remembered */
static const uint64_t ALTERNATIVES_EVERY_NS = 30 * NS_PER_S; /* asked for again */

struct known_way {
	struct known_way *prev, *next;
	uint64_t learned_at;
	uint32_t hops_left; /* 0: the route is whole; else it is a next hop, and so many were granted at the source */
	struct km_route route;
	const char *nodes[]; /* the names stand behind them */
};

struct known_destination {
	km_name name;
	uint64_t alternatives_at; /* when they were asked for; 0: never */
	struct known_way *ways;
	UT_hash_handle hh;
};

/* ---- what is known ------------------------------------------------------------------------------------------ */

static struct known_destination *known(struct km *km, const char *destination)
{
	struct known_destination *d;

	HASH_FIND_STR(km->known, destination, d);
	return d;
}

static void forget(struct km *km, struct known_destination *d)
{
	struct known_way *w, *next;

	HASH_DEL(km->known, d);
	DL_FOREACH_SAFE (d->ways, w, next)
		free(w);
	free(d);
}

void ways_forget(struct km *km)
{
	while (km->known != NULL)
		forget(km, km->known);
}

static struct known_way *way_new(const struct km_route *route, uint32_t hops_left)
{
	size_t names = route->count * sizeof(char *), text = 0;
	struct known_way *w;
	char *at;

	for (uint32_t i = 0; i < route->count; i++)
		text += strlen(route->nodes[i]) + 1;
	w = xcalloc(1, sizeof *w + names + text);
	at = (char *)w->nodes + names;
	for (uint32_t i = 0; i < route->count; i++) {
		w->nodes[i] = strcpy(at, route->nodes[i]);
		at += strlen(at) + 1;
	}
	w->route = (struct km_route){ route->count, w->nodes };
	w->hops_left = hops_left;
	return w;
}

static bool same_route(const struct km_route *a, const struct km_route *b)
{
	if (a->count != b->count)
		return false;
	for (uint32_t i = 0; i < a->count; i++)
		if (strcmp(a->nodes[i], b->nodes[i]) != 0)
			return false;
	return true;
}

static void learn(struct km *km, const char *destination, const struct km_route *route, uint32_t hops_left)
{
	struct known_destination *d = known(km, destination);
	struct known_way *w, *next;
	unsigned count = 0;

	if (d == NULL) {
		if (HASH_COUNT(km->known) >= DESTINATIONS_MOST)
			forget(km, km->known);
		d = xcalloc(1, sizeof *d);
		strcpy(d->name, destination);
		HASH_ADD_STR(km->known, name, d);
	}
	DL_FOREACH_SAFE (d->ways, w, next) {
		bool same = same_route(&w->route, route), same_kind = (w->hops_left == 0) == (hops_left == 0);

		if (same_kind && !same && ++count < WAYS_MOST)
			continue;
		if (same_kind && same && w->hops_left > hops_left) /* it was learned on the way of another's relay now */
			hops_left = w->hops_left;
		DL_DELETE(d->ways, w);
		free(w);
	}
	w = way_new(route, hops_left);
	w->learned_at = env_mono(km->env);
	DL_PREPEND(d->ways, w);
}

static bool has_hop(const struct km_route *r, const char *from, const char *to)
{
	for (uint32_t i = 0; i + 1 < r->count; i++)
		if (strcmp(r->nodes[i], from) == 0 && strcmp(r->nodes[i + 1], to) == 0)
			return true;
	return false;
}

void way_failed(struct km *km, const char *destination, const struct km_hop *hop)
{
	struct known_destination *d = known(km, destination);
	struct known_way *w, *next, *last;

	if (d == NULL || d->ways == NULL)
		return;
	last = d->ways->prev;
	DL_FOREACH_SAFE (d->ways, w, next) {
		bool with = w->hops_left == 0 ? has_hop(&w->route, hop->from, hop->to)
		                              : strcmp(hop->from, km->name) == 0 && strcmp(w->nodes[0], hop->to) == 0;
		bool end = w == last;

		if (with) {
			DL_DELETE(d->ways, w);
			DL_APPEND(d->ways, w);
		}
		if (end)
			break;
	}
}

/* ---- a way that is remembered -------------------------------------------------------------------------------- */

static bool is_excluded(const struct way_query *q, const struct km_route *r)
{
	for (uint32_t i = 0; i < q->excluded_count; i++)
		if (has_hop(r, q->excluded[i].from, q->excluded[i].to))
			return true;
	return false;
}

static bool is_visited(const struct way_query *q, const char *node)
{
	for (uint32_t i = 0; i < q->visited.count; i++)
		if (strcmp(q->visited.nodes[i], node) == 0)
			return true;
	return false;
}

/* How many hops may follow the next one; 0: none, so there is no next one either. */
static uint32_t hops_behind(const struct way_query *q, uint32_t granted)
{
	return q->hops_left == 0 ? granted : q->hops_left - 1;
}

static bool is_open_to(struct km *km, const char *peer)
{
	const struct link *l = link_to_peer(km, peer);

	return l != NULL && l->open;
}

static bool next_hop_will_do(struct km *km, const struct way_query *q, const char *next)
{
	const char *const hop[] = { km->name, next };

	return is_open_to(km, next) && !is_visited(q, next) && !is_excluded(q, &(struct km_route){ 2, hop });
}

static bool will_do(struct km *km, const struct way_query *q, const struct known_way *w)
{
	if (env_mono(km->env) - w->learned_at >= km->limits.route_lifetime)
		return false;
	if (w->hops_left > 0)
		return hops_behind(q, w->hops_left) > 0 && next_hop_will_do(km, q, w->nodes[0]);
	return q->visited.count <= 1 && !is_excluded(q, &w->route) && is_open_to(km, w->nodes[1]);
}

/* false: nothing that will do is remembered. way points into it. The destination behind a link of this node's
 * needs no controller to be found. */
static bool remember(struct km *km, const struct way_query *q, struct way *way)
{
	struct known_destination *d = known(km, q->destination);
	struct known_way *w;

	way->remembered = true;
	if (q->hops_left > 1 && km->limits.route_lifetime > 0 && next_hop_will_do(km, q, q->destination)) {
		way->route = (struct km_route){ 1, &q->destination };
		way->hops_left = q->hops_left - 1;
		return true;
	}
	if (d == NULL)
		return false;
	DL_FOREACH (d->ways, w) {
		if (!will_do(km, q, w))
			continue;
		way->route = w->route;
		way->hops_left = w->hops_left == 0 ? 0 : hops_behind(q, w->hops_left);
		return true;
	}
	return false;
}

static void use_remembered(struct km *km, const struct way_query *q, const struct way *way, way_found found, void *arg)
{
	if (!km->control.remembering)
		log_warning("controller %s does not answer: relays go the way that it gave last", km->control.name);
	km->control.remembering = true;
	km->counters.routes_remembered++;
	log_debug("relay to %s: a remembered way, next hop %s", q->destination,
	          way->route.nodes[way->hops_left == 0 ? 1 : 0]);
	found(arg, ST_OK, "", way);
}

void control_answered(struct km *km)
{
	km->control.silent = false;
	if (km->control.remembering)
		log_info("controller %s answers: it is asked for routes again", km->control.name);
	km->control.remembering = false;
}

/* ---- asking ---------------------------------------------------------------------------------------------------- */

struct asking {
	struct km *km;
	struct way_query q;
	way_found found;
	void *arg;
};

/* Without an answer. */
static void unanswered(struct km *km, const struct way_query *q, const char *why, way_found found, void *arg)
{
	char text[200];
	struct way way;

	if (remember(km, q, &way)) {
		use_remembered(km, q, &way, found, arg);
		return;
	}
	snprintf(text, sizeof text, "%s, and no %s is remembered that would do", why,
	         km->control.distributed ? "next hop" : "route");
	found(arg, ST_NO_ROUTE, text, NULL);
}

/* Whether the controller has answered with a way, and found was not called yet. */
static bool is_answered(struct asking *a, enum status s, const struct km_answer *answer)
{
	if (s != ST_OK) {
		a->km->control.silent = s == ST_TIMED_OUT;
		unanswered(a->km, &a->q, "the controller does not answer", a->found, a->arg);
		return false;
	}
	control_answered(a->km);
	if (answer->err.status != ST_OK)
		a->found(a->arg, answer->err.status, answer->err.text, NULL);
	return answer->err.status == ST_OK;
}

/* Of a route that a controller gave: from here to the destination, and no node twice. */
static bool is_sound(const struct asking *a, const struct km_route *r)
{
	if (r->count < 2 || r->count > KM_ROUTE_MAX || strcmp(r->nodes[0], a->km->name) != 0 ||
	    strcmp(r->nodes[r->count - 1], a->q.destination) != 0)
		return false;
	for (uint32_t i = 0; i < r->count; i++)
		for (uint32_t j = 0; j < i; j++)
			if (strcmp(r->nodes[i], r->nodes[j]) == 0)
				return false;
	return true;
}

static void route_answered(enum status s, const void *answer, void *arg)
{
	const struct km_ck_notification_answer *r = answer;
	struct asking *a = arg;
	struct way way = { .remembered = false };

	if (!is_answered(a, s, answer)) {
		free(a);
		return;
	}
	if (r->count == 0 || !is_sound(a, &r->routes[0])) {
		a->found(a->arg, ST_NO_ROUTE, "the controller's route does not lead from here to the destination", NULL);
		free(a);
		return;
	}
	for (uint32_t i = r->alternative_count; i-- > 0;)
		if (is_sound(a, &r->alternatives[i]))
			learn(a->km, a->q.destination, &r->alternatives[i], 0);
	learn(a->km, a->q.destination, &r->routes[0], 0);
	way.route = r->routes[0];
	a->found(a->arg, ST_OK, "", &way);
	free(a);
}

static void hop_answered(enum status s, const void *answer, void *arg)
{
	const struct km_ck_next_hop_answer *r = answer;
	struct asking *a = arg;
	struct way way = { .remembered = false };

	if (!is_answered(a, s, answer)) {
		free(a);
		return;
	}
	if (r->hops_left == 0) {
		a->found(a->arg, ST_NO_ROUTE, "the controller's answer allows no further hop", NULL);
		free(a);
		return;
	}
	for (uint32_t i = r->alternative_count; i-- > 0;)
		learn(a->km, a->q.destination, &(struct km_route){ 1, &r->alternatives[i] }, r->hops_left);
	learn(a->km, a->q.destination, &(struct km_route){ 1, &r->next_hop }, r->hops_left);
	way.route = (struct km_route){ 1, &r->next_hop };
	way.hops_left = r->hops_left;
	a->found(a->arg, ST_OK, "", &way);
	free(a);
}

/* How many alternatives to ask for: now and then. */
static uint32_t alternatives_wanted(struct km *km, const char *destination)
{
	struct known_destination *d = known(km, destination);
	uint64_t now = env_mono(km->env);

	if (km->limits.route_lifetime == 0)
		return 0;
	if (d == NULL || d->alternatives_at == 0 || now - d->alternatives_at >= ALTERNATIVES_EVERY_NS) {
		if (d != NULL)
			d->alternatives_at = now;
		return ALTERNATIVES;
	}
	return 0;
}

static void ask_route(struct asking *a, uint64_t patience)
{
	struct km *km = a->km;
	struct km_ck_notification m = { .trace = a->q.trace,
		                        .relay = a->q.relay,
		                        .source = a->q.source,
		                        .destination = a->q.destination,
		                        .excluded_count = a->q.excluded_count,
		                        .excluded = a->q.excluded,
		                        .shares = 1,
		                        .alternatives = alternatives_wanted(km, a->q.destination),
		                        .len = a->q.len };

	km->wire->send(km->wire_ctx, KM_CK_NOTIFICATION, km->control.name, &m, patience, route_answered, a);
}

static void ask_next_hop(struct asking *a, uint64_t patience)
{
	struct km *km = a->km;
	const char *excluded[KM_EXCLUDED_MAX];
	struct km_ck_next_hop m = { .trace = a->q.trace,
		                    .relay = a->q.relay,
		                    .source = a->q.source,
		                    .destination = a->q.destination,
		                    .visited = a->q.visited,
		                    .excluded = excluded,
		                    .hops_left = a->q.hops_left,
		                    .alternatives = alternatives_wanted(km, a->q.destination),
		                    .len = a->q.len };

	for (uint32_t i = 0; i < a->q.excluded_count; i++)
		if (strcmp(a->q.excluded[i].from, km->name) == 0)
			excluded[m.excluded_count++] = a->q.excluded[i].to;
	km->wire->send(km->wire_ctx, KM_CK_NEXT_HOP, km->control.name, &m, patience, hop_answered, a);
}

void way_find(struct km *km, const struct way_query *q, way_found found, void *arg)
{
	const struct control *c = &km->control;
	struct asking *a;
	struct way way;
	bool known_way;

	if (c->name == NULL) {
		found(arg, ST_NO_ROUTE, "there is no link to the destination, and no controller to ask for a route", NULL);
		return;
	}
	if (!c->registered) {
		unanswered(km, q, "the controller is not reached", found, arg);
		return;
	}
	known_way = remember(km, q, &way);
	if (known_way && c->silent) { /* its next answer, to a report, ends that */
		use_remembered(km, q, &way, found, arg);
		return;
	}
	a = xcalloc(1, sizeof *a);
	*a = (struct asking){ km, *q, found, arg };
	if (c->distributed)
		ask_next_hop(a, known_way && PATIENCE_NS < km->limits.call_timeout ? PATIENCE_NS : km->limits.call_timeout);
	else
		ask_route(a, known_way && PATIENCE_NS < km->limits.call_timeout ? PATIENCE_NS : km->limits.call_timeout);
}
