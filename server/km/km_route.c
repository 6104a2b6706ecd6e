/*
 * km_route.c - which way a relay goes: the QKDN controller says; while it cannot be reached, what it said last.
 *
 * The ways that a controller gave are kept for each destination, the newest first: whole routes, or next hops
 * in distributed operation, and the alternatives that it named with them. They are used for limits.route_lifetime,
 * and only where there is no answer: a controller that refuses is obeyed. A way that failed goes to the end. They
 * outlive this KM's restart (km_recall.c).
 *
 * A controller that has given the remembered way again and again will most likely do so once more: what has to be
 * durable before a relay leaves can be prepared while it is asked (km_transit.c).
 */
#include <stdio.h>
#include <stdlib.h>

#include "core.h"

enum { WAYS_MOST = 8, ALTERNATIVES = 3, DESTINATIONS_MOST = 4096, STEADY_LEAST = 8 };

static const uint64_t PATIENCE_NS = NS_PER_S / 2;            /* with a controller, where a way is remembered */
static const uint64_t ALTERNATIVES_EVERY_NS = 30 * NS_PER_S; /* asked for again */
static const uint64_t FAILED_LATELY_NS = 5 * NS_PER_S;       /* that shares go around a hop */

/* ---- what is known ------------------------------------------------------------------------------------------ */

static struct known_destination *known(struct km *km, const char *destination)
{
	struct known_destination *d;

	HASH_FIND_STR(km->known, destination, d);
	return d;
}

static void ways_free(struct known_way **ways)
{
	struct known_way *w, *next;

	DL_FOREACH_SAFE (*ways, w, next) {
		free(w->route);
		free(w);
	}
	*ways = NULL;
}

static void forget(struct km *km, struct known_destination *d)
{
	HASH_DEL(km->known, d);
	ways_free(&d->ways);
	ways_free(&d->disjoint);
	free(d);
}

void ways_forget(struct km *km)
{
	while (km->known != NULL)
		forget(km, km->known);
}

struct km_route *route_copy(const struct km_route *r)
{
	size_t names = r->count * sizeof(char *), text = 0;
	struct km_route *c;
	const char **nodes;
	char *at;

	for (uint32_t i = 0; i < r->count; i++)
		text += strlen(r->nodes[i]) + 1;
	c = xcalloc(1, sizeof *c + names + text);
	nodes = (const char **)(c + 1);
	at = (char *)nodes + names;
	for (uint32_t i = 0; i < r->count; i++) {
		nodes[i] = strcpy(at, r->nodes[i]);
		at += strlen(at) + 1;
	}
	*c = (struct km_route){ r->count, nodes };
	return c;
}

bool route_equal(const struct km_route *a, const struct km_route *b)
{
	if (a->count != b->count)
		return false;
	for (uint32_t i = 0; i < a->count; i++)
		if (strcmp(a->nodes[i], b->nodes[i]) != 0)
			return false;
	return true;
}

struct known_destination *known_destination(struct km *km, const char *destination)
{
	struct known_destination *d = known(km, destination);

	if (d != NULL)
		return d;
	if (HASH_COUNT(km->known) >= DESTINATIONS_MOST)
		forget(km, km->known);
	d = xcalloc(1, sizeof *d);
	strcpy(d->name, destination);
	HASH_ADD_STR(km->known, name, d);
	return d;
}

/* The newest of ways. Those of the other kind, next hops or whole routes, are of another controller's time. */
static void learn(struct km *km, struct known_destination *d, struct known_way **ways, const struct km_route *route,
                  uint32_t hops_left)
{
	uint64_t now = env_utc(km->env);
	struct known_way *w, *next;
	unsigned count = 0;

	if (*ways == NULL || !route_equal((*ways)->route, route) || now - d->saved_at > km->limits.route_lifetime / 4)
		d->unsaved = true;
	DL_FOREACH_SAFE (*ways, w, next) {
		bool same = route_equal(w->route, route), same_kind = (w->hops_left == 0) == (hops_left == 0);

		if (same_kind && !same && ++count < WAYS_MOST)
			continue;
		if (same_kind && same && w->hops_left > hops_left) /* it was learned on the way of another's relay now */
			hops_left = w->hops_left;
		DL_DELETE(*ways, w);
		free(w->route);
		free(w);
	}
	w = xcalloc(1, sizeof *w);
	w->route = route_copy(route);
	w->hops_left = hops_left;
	w->learned_at = now;
	DL_PREPEND(*ways, w);
}

static bool has_hop(const struct km_route *r, const char *from, const char *to)
{
	for (uint32_t i = 0; i + 1 < r->count; i++)
		if (strcmp(r->nodes[i], from) == 0 && strcmp(r->nodes[i + 1], to) == 0)
			return true;
	return false;
}

static void put_last(struct km *km, struct known_way **ways, const struct km_hop *hop)
{
	struct known_way *w, *next, *last = *ways != NULL ? (*ways)->prev : NULL;

	DL_FOREACH_SAFE (*ways, w, next) {
		bool with = w->hops_left == 0 ? has_hop(w->route, hop->from, hop->to)
		                              : strcmp(hop->from, km->name) == 0 && strcmp(w->route->nodes[0], hop->to) == 0;
		bool end = w == last;

		if (with) {
			DL_DELETE(*ways, w);
			DL_APPEND(*ways, w);
		}
		if (end)
			break;
	}
}

void way_failed(struct km *km, const char *destination, const struct km_hop *hop)
{
	struct known_destination *d = known(km, destination);
	struct failed_hop *f;

	if (d == NULL)
		return;
	put_last(km, &d->ways, hop);
	put_last(km, &d->disjoint, hop);
	f = &d->failed[d->failed_next++ % FAILED_MOST];
	snprintf(f->from, sizeof f->from, "%s", hop->from);
	snprintf(f->to, sizeof f->to, "%s", hop->to);
	f->at = env_mono(km->env);
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

/* Neither back nor over a hop that has failed: pad would be spent on it in vain. */
static bool leads_on(const struct km *km, const struct way_query *q, const char *next)
{
	const char *const hop[] = { km->name, next };

	return !is_visited(q, next) && !is_excluded(q, &(struct km_route){ 2, hop });
}

static bool next_hop_will_do(struct km *km, const struct way_query *q, const char *next)
{
	return is_open_to(km, next) && leads_on(km, q, next);
}

static bool will_do(struct km *km, const struct way_query *q, const struct known_way *w)
{
	uint64_t now = env_utc(km->env); /* the clock may have been set back */

	if (now > w->learned_at && now - w->learned_at >= km->limits.route_lifetime)
		return false;
	if (w->hops_left > 0)
		return hops_behind(q, w->hops_left) > 0 && next_hop_will_do(km, q, w->route->nodes[0]);
	return q->visited.count <= 1 && !is_excluded(q, w->route) && is_open_to(km, w->route->nodes[1]);
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
		way->route = *w->route;
		way->hops_left = w->hops_left == 0 ? 0 : hops_behind(q, w->hops_left);
		return true;
	}
	return false;
}

static void note_remembering(struct km *km)
{
	if (!km->control.remembering)
		log_warning("controller %s does not answer: relays go the way that it gave last", km->control.name);
	km->control.remembering = true;
	km->counters.routes_remembered++;
}

static void use_remembered(struct km *km, const struct way_query *q, const struct way *way, way_found found, void *arg)
{
	note_remembering(km);
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
	struct known_way expected; /* route NULL: none is known */
	way_found found;
	void *arg;
};

static void asking_free(struct asking *a)
{
	free(a->expected.route);
	free(a);
}

/* Before it is learned. hops_left as the next node is told. */
static void compare(struct asking *a, struct known_destination *d, const struct km_route *route, uint32_t hops_left)
{
	bool same = a->expected.route != NULL && a->expected.hops_left == hops_left &&
	            route_equal(a->expected.route, route);

	d->steady = same ? d->steady + 1 : 0;
}

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

/* By the controller, or because of its answer. What was foreseen did not come true. */
static void refused(struct asking *a, enum status s, const char *text)
{
	struct known_destination *d = known(a->km, a->q.destination);

	if (d != NULL)
		d->steady = 0;
	a->found(a->arg, s, text, NULL);
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
		refused(a, answer->err.status, answer->err.text);
	return answer->err.status == ST_OK;
}

/* Of a route that a controller gave: from here to the destination, no node twice, and no hop that has failed: pad
 * would be spent on it again. */
static bool is_sound(const struct km *km, const struct way_query *q, const struct km_route *r)
{
	if (is_excluded(q, r) || r->count < 2 || r->count > KM_ROUTE_MAX || strcmp(r->nodes[0], km->name) != 0 ||
	    strcmp(r->nodes[r->count - 1], q->destination) != 0)
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
	struct known_destination *d;

	if (!is_answered(a, s, answer)) {
		asking_free(a);
		return;
	}
	if (r->count == 0 || !is_sound(a->km, &a->q, &r->routes[0])) {
		refused(a, ST_NO_ROUTE,
		        "the controller's route does not lead from here to the destination, or leads over a hop that failed");
		asking_free(a);
		return;
	}
	d = known_destination(a->km, a->q.destination);
	compare(a, d, &r->routes[0], 0);
	for (uint32_t i = r->alternative_count; i-- > 0;)
		if (is_sound(a->km, &a->q, &r->alternatives[i]))
			learn(a->km, d, &d->ways, &r->alternatives[i], 0);
	learn(a->km, d, &d->ways, &r->routes[0], 0);
	way.route = r->routes[0];
	a->found(a->arg, ST_OK, "", &way);
	asking_free(a);
}

static void hop_answered(enum status s, const void *answer, void *arg)
{
	const struct km_ck_next_hop_answer *r = answer;
	struct asking *a = arg;
	struct way way = { .remembered = false };
	struct known_destination *d;

	if (!is_answered(a, s, answer)) {
		asking_free(a);
		return;
	}
	if (r->hops_left == 0 || !leads_on(a->km, &a->q, r->next_hop)) {
		refused(a, ST_NO_ROUTE,
		        r->hops_left == 0 ? "the controller's answer allows no further hop"
		                          : "the controller's next hop leads back, or over a hop that failed");
		asking_free(a);
		return;
	}
	d = known_destination(a->km, a->q.destination);
	compare(a, d, &(struct km_route){ 1, &r->next_hop }, r->hops_left);
	for (uint32_t i = r->alternative_count; i-- > 0;)
		learn(a->km, d, &d->ways, &(struct km_route){ 1, &r->alternatives[i] }, r->hops_left);
	learn(a->km, d, &d->ways, &(struct km_route){ 1, &r->next_hop }, r->hops_left);
	way.route = (struct km_route){ 1, &r->next_hop };
	way.hops_left = r->hops_left;
	a->found(a->arg, ST_OK, "", &way);
	asking_free(a);
}

/* How many alternatives to ask for: now and then; soon again where none is known. */
static uint32_t alternatives_wanted(struct km *km, const char *destination)
{
	struct known_destination *d = known(km, destination);
	uint64_t now = env_mono(km->env), every = NS_PER_S;

	if (km->limits.route_lifetime == 0)
		return 0;
	if (d == NULL)
		return ALTERNATIVES;
	if (d->ways != NULL && d->ways->next != NULL)
		every = ALTERNATIVES_EVERY_NS;
	if (d->alternatives_at != 0 && now - d->alternatives_at < every)
		return 0;
	d->alternatives_at = now;
	return ALTERNATIVES;
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

static uint64_t patience(const struct km *km, bool known_way)
{
	return known_way && PATIENCE_NS < km->limits.call_timeout ? PATIENCE_NS : km->limits.call_timeout;
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
	*a = (struct asking){ .km = km, .q = *q, .found = found, .arg = arg };
	if (known_way)
		a->expected = (struct known_way){ .route = route_copy(&way.route), .hops_left = way.hops_left };
	if (c->distributed)
		ask_next_hop(a, patience(km, known_way));
	else
		ask_route(a, patience(km, known_way));
}

/* Not around a hop that failed: such an answer is about the one attempt. */
bool way_foresee(struct km *km, const struct way_query *q, struct way *way)
{
	const struct control *c = &km->control;
	const struct known_destination *d = known(km, q->destination);

	if (c->name == NULL || !c->registered || c->silent || d == NULL || d->steady < STEADY_LEAST || q->excluded_count > 0 ||
	    !remember(km, q, way))
		return false;
	way->remembered = false;
	return true;
}

/* ---- routes without a common node, for shares ----------------------------------------------------------------------- */

struct asking_disjoint {
	struct km *km;
	struct way_query q;
	uint32_t wanted;
	ways_found found;
	void *arg;
};

static bool meet(const struct km_route *a, const struct km_route *b)
{
	for (uint32_t i = 1; i + 1 < a->count; i++)
		for (uint32_t j = 1; j + 1 < b->count; j++)
			if (strcmp(a->nodes[i], b->nodes[j]) == 0)
				return true;
	return false;
}

/* Takes the route to the others if it shares no node with them. */
static void add_disjoint(struct km_route *routes, uint32_t *count, const struct km_route *r)
{
	for (uint32_t i = 0; i < *count; i++)
		if (meet(&routes[i], r) || r->count < 3)
			return;
	routes[(*count)++] = *r;
}

static uint32_t failed_lately(struct km *km, const char *destination, struct km_hop hops[FAILED_MOST])
{
	struct known_destination *d = known(km, destination);
	uint64_t now = env_mono(km->env);
	uint32_t count = 0;

	for (unsigned i = 0; d != NULL && i < FAILED_MOST; i++)
		if (d->failed[i].at != 0 && now - d->failed[i].at < FAILED_LATELY_NS)
			hops[count++] = (struct km_hop){ d->failed[i].from, d->failed[i].to };
	return count;
}

static uint32_t remember_disjoint(struct km *km, const char *destination, uint32_t wanted, struct km_route *routes)
{
	struct known_destination *d = known(km, destination);
	struct km_hop failed[FAILED_MOST];
	struct way_query q = { .destination = destination, .excluded = failed };
	struct known_way *w;
	uint32_t count = 0;

	if (d == NULL)
		return 0;
	q.excluded_count = failed_lately(km, destination, failed);
	DL_FOREACH (d->disjoint, w)
		if (count < wanted && will_do(km, &q, w))
			add_disjoint(routes, &count, w->route);
	return count;
}

static void disjoint_unanswered(struct km *km, const char *destination, uint32_t wanted, ways_found found, void *arg)
{
	struct km_route routes[KM_SHARES_MAX];
	uint32_t count = remember_disjoint(km, destination, wanted, routes);

	if (count > 0)
		note_remembering(km);
	found(arg, count > 0 ? ST_OK : ST_NO_ROUTE,
	      count > 0 ? "" : "the controller does not answer, and no route for shares is remembered that would do", routes,
	      count, true);
}

static void disjoint_answered(enum status s, const void *answer, void *arg)
{
	const struct km_ck_notification_answer *r = answer;
	struct asking_disjoint *a = arg;
	struct km_route routes[KM_SHARES_MAX];
	struct known_destination *d;
	uint32_t count = 0;

	if (s != ST_OK) {
		a->km->control.silent = s == ST_TIMED_OUT;
		disjoint_unanswered(a->km, a->q.destination, a->wanted, a->found, a->arg);
		free(a);
		return;
	}
	control_answered(a->km);
	for (uint32_t i = 0; r->answer.err.status == ST_OK && i < r->count && count < a->wanted; i++)
		if (is_sound(a->km, &a->q, &r->routes[i]))
			add_disjoint(routes, &count, &r->routes[i]);
	d = count > 0 ? known_destination(a->km, a->q.destination) : NULL;
	for (uint32_t i = count; i-- > 0;)
		learn(a->km, d, &d->disjoint, &routes[i], 0);
	if (r->answer.err.status != ST_OK)
		a->found(a->arg, r->answer.err.status, r->answer.err.text, NULL, 0, false);
	else if (count == 0)
		a->found(a->arg, ST_NO_ROUTE, "the controller's routes do not lead from here to the destination", NULL, 0, false);
	else
		a->found(a->arg, ST_OK, "", routes, count, false);
	free(a);
}

/* In distributed operation too the controller of the source gives whole routes, from its own link states. */
void ways_find_disjoint(struct km *km, const struct way_query *q, uint32_t wanted, ways_found found, void *arg)
{
	const struct control *c = &km->control;
	struct km_hop failed[FAILED_MOST];
	struct km_ck_notification m = { .trace = q->trace,
		                        .relay = q->relay,
		                        .source = q->source,
		                        .destination = q->destination,
		                        .excluded = failed,
		                        .shares = wanted,
		                        .len = q->len };
	struct km_route routes[KM_SHARES_MAX];
	struct asking_disjoint *a;
	bool known_ways;

	wanted = wanted < KM_SHARES_MAX ? wanted : KM_SHARES_MAX;
	known_ways = remember_disjoint(km, q->destination, wanted, routes) == wanted;
	if (c->name == NULL || !c->registered || (known_ways && c->silent)) {
		disjoint_unanswered(km, q->destination, wanted, found, arg);
		return;
	}
	m.excluded_count = failed_lately(km, q->destination, failed);
	a = xcalloc(1, sizeof *a);
	*a = (struct asking_disjoint){ km, *q, wanted, found, arg };
	km->wire->send(km->wire_ctx, KM_CK_NOTIFICATION, c->name, &m, patience(km, known_ways), disjoint_answered, a);
}
