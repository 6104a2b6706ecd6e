/*
 * flood.c - link states between controllers.
 *
 * No storms: a record is handed on only when it is newer than what was here, and never to the
 * neighbour it came from; a KM's record is made at most once in min_origination, however often its
 * links change; each neighbour has a set of KMs whose newest record it still lacks and a few calls in
 * flight, so that a slow neighbour gets each record's last edition, not its history.
 */
#include "controller_core.h"

#include <stdlib.h>
#include <string.h>

enum { CALLS_IN_FLIGHT_MAX = 8, AGEING_STEPS = 16 };

/* ---- to a neighbour ---------------------------------------------------------------------------- */

/* One call with records: what has to be sent again when it fails. */
struct sending {
	struct neighbour *neighbour;
	unsigned connection;
	size_t count;
	char kms[CONTROLLER_RECORDS_MAX][NAME_MAX_LEN + 1];
};

static void push(struct neighbour *n);
static void take_records(struct controller *c, struct neighbour *from, const struct ls_record *records,
                         size_t count);
static void push_all(struct controller *c);

static void mark_unsent(struct neighbour *n, const char *km)
{
	struct unsent *u;

	HASH_FIND_STR(n->unsent, km, u);
	if (u != NULL)
		return;
	u = xcalloc(1, sizeof *u);
	memcpy(u->km, km, strnlen(km, NAME_MAX_LEN));
	HASH_ADD_STR(n->unsent, km, u);
}

static void unmark(struct neighbour *n, const char *km)
{
	struct unsent *u;

	HASH_FIND_STR(n->unsent, km, u);
	if (u != NULL) {
		HASH_DELETE(hh, n->unsent, u);
		free(u);
	}
}

static void unmark_all(struct neighbour *n)
{
	while (n->unsent != NULL)
		unmark(n, n->unsent->km);
}

static void retry_later(struct neighbour *n)
{
	n->waiting = true;
	env_timer_set(n->controller->env, n->retry, NS_PER_S);
}

static void sent(enum status s, const struct ls_record *newer, size_t count, void *token)
{
	struct sending *sending = token;
	struct neighbour *n = sending->neighbour;
	struct controller *c = n->controller;

	if (sending->connection != n->connection) {
		free(sending);
		return;
	}
	n->in_flight--;
	if (s == ST_OK) {
		take_records(c, n, newer, count);
		push_all(c);
	} else {
		for (size_t i = 0; i < sending->count; i++)
			mark_unsent(n, sending->kms[i]);
		retry_later(n);
	}
	free(sending);
	push(n);
}

/* The next batch: as many records as one call may carry. */
static size_t next_batch(struct neighbour *n, struct ls_record *records, struct sending *sending)
{
	struct controller *c = n->controller;
	uint64_t now = env_mono(c->env);
	size_t links = 0, count = 0;
	struct unsent *u, *next;

	HASH_ITER(hh, n->unsent, u, next) {
		if (count == CONTROLLER_RECORDS_MAX)
			break;
		if (lsdb_get(c->lsdb, u->km, now, &records[count])) {
			if (count > 0 && links + records[count].count > CONTROLLER_BATCH_LINKS_MAX)
				break;
			links += records[count].count;
			memcpy(sending->kms[count++], u->km, sizeof u->km);
		}
		HASH_DELETE(hh, n->unsent, u);
		free(u);
	}
	return count;
}

static bool may_push(const struct neighbour *n)
{
	return n->up && !n->waiting && n->unsent != NULL && n->in_flight < CALLS_IN_FLIGHT_MAX;
}

static void push(struct neighbour *n)
{
	struct controller *c = n->controller;

	while (may_push(n)) {
		struct ls_record records[CONTROLLER_RECORDS_MAX];
		struct sending *sending = xcalloc(1, sizeof *sending);
		struct id trace;

		sending->neighbour = n;
		sending->connection = n->connection;
		sending->count = next_batch(n, records, sending);
		if (sending->count == 0) {
			free(sending);
			return;
		}
		n->in_flight++;
		c->stats.records_sent += sending->count;
		controller_trace(c, &trace);
		c->calls.link_states(c->calls.arg, n->name, &trace, records, sending->count, sent, sending);
	}
}

static void push_all(struct controller *c)
{
	for (struct neighbour *n = c->neighbours; n != NULL; n = n->hh.next)
		push(n);
}

static void send_summary(struct neighbour *n);

static void retry(void *arg)
{
	struct neighbour *n = arg;

	n->waiting = false;
	if (n->summary_failed)
		send_summary(n);
	push(n);
}

static void hand_on(struct controller *c, const char *km, const struct neighbour *from)
{
	for (struct neighbour *n = c->neighbours; n != NULL; n = n->hh.next)
		if (n != from && n->up)
			mark_unsent(n, km);
}

/* ---- records of our own KMs ---------------------------------------------------------------------- */

static void make_record(struct km *km)
{
	struct controller *c = km->controller;
	struct ls_record r = { .sequence = km->sequence + 1, .count = km->link_count, .links = km->links };

	memcpy(r.km, km->name, sizeof r.km);
	memcpy(r.controller, c->name, sizeof r.controller);
	km->sequence = r.sequence;
	km->made = true;
	km->made_at = env_mono(c->env);
	km->change_waiting = false;
	km->told = xrealloc(km->told, km->link_count * sizeof *km->told);
	if (km->link_count > 0)
		memcpy(km->told, km->links, km->link_count * sizeof *km->told);
	km->told_count = km->link_count;
	lsdb_store(c->lsdb, &r, km->made_at);
	c->stats.records_made++;
	hand_on(c, km->name, NULL);
	if (km->reported) /* one that is silent is left to age */
		env_timer_set(c->env, km->timer, c->options.refresh);
	else
		env_timer_stop(c->env, km->timer);
}

/* Now, or as soon as interval has passed since the last: all changes until then are one record. */
static void make_record_within(struct km *km, uint64_t interval)
{
	struct controller *c = km->controller;
	uint64_t now = env_mono(c->env), due = km->made_at + interval;

	if (!km->made || now >= due) {
		make_record(km);
		return;
	}
	if (km->change_waiting && km->due <= due)
		return;
	km->change_waiting = true;
	km->due = due;
	env_timer_set(c->env, km->timer, due - now);
}

static void make_record_soon(struct km *km)
{
	make_record_within(km, km->controller->options.min_origination);
}

static void record_due(void *arg)
{
	struct km *km = arg;

	make_record(km);
	push_all(km->controller);
}

enum news { NEWS_NONE, NEWS_OF_WEIGHT, NEWS_OF_LINKS };

enum { LEAST = 1024 + 32, OF_USE = 4096 }; /* bytes that a relay takes, a short one and any of use */

/* Whether a link has come to carry relays, or has ceased to, since the others were told. */
static bool has_turned(const struct route_link *now, const struct route_link *told)
{
	return (now->state.stock < OF_USE) != (told->state.stock < OF_USE) ||
	       (now->state.stock < LEAST) != (told->state.stock < LEAST);
}

/* A weight that is more than a quarter away from what the others believe is worth telling them. */
static enum news compare(const struct route_link *now, const struct route_link *told)
{
	uint64_t x = route_weight(&now->state), y = route_weight(&told->state);

	if (strcmp(now->name, told->name) != 0 || strcmp(now->peer, told->peer) != 0 ||
	    (x == ROUTE_UNUSABLE) != (y == ROUTE_UNUSABLE) || has_turned(now, told))
		return NEWS_OF_LINKS;
	return 4 * (x > y ? x - y : y - x) > y ? NEWS_OF_WEIGHT : NEWS_NONE;
}

static enum news news_of(const struct km *km)
{
	enum news most = NEWS_NONE;

	if (!km->made || km->told_count != km->link_count)
		return NEWS_OF_LINKS;
	for (size_t i = 0; i < km->link_count; i++) {
		enum news news = compare(&km->links[i], &km->told[i]);

		most = news > most ? news : most;
	}
	return most;
}

void flood_changed(struct km *km)
{
	enum news news = news_of(km);

	if (news == NEWS_NONE)
		return;
	if (news == NEWS_OF_LINKS)
		make_record_soon(km);
	else
		make_record_within(km, km->controller->options.weight_interval);
	push_all(km->controller);
}

void flood_withdraw(struct km *km)
{
	if (km->made)
		make_record_soon(km);
	push_all(km->controller);
}

void flood_km_init(struct km *km)
{
	km->timer = env_timer_new(km->controller->env, record_due, km);
}

void flood_km_free(struct km *km)
{
	env_timer_free(km->controller->env, km->timer);
	free(km->told);
}

/* ---- from a neighbour ------------------------------------------------------------------------------ */

/*
 * A newer record of one of our own KMs: made in a former life of this controller. It raises our
 * sequence number. Once the KM has reported, ours goes above it; until then the old one is the best
 * that is known, and is kept and handed on like any other.
 */
static bool supersede(struct controller *c, const struct ls_record *r)
{
	struct km *km = controller_find_km(c, r->km);
	unsigned held_back;

	if (km == NULL)
		return false;
	if (strcmp(r->controller, c->name) != 0 && log_limit_pass(&c->limit, env_mono(c->env), &held_back))
		log_warning("controller %s makes records of KM %s, which is ours: one of the two is configured "
		            "wrongly",
		            r->controller, r->km);
	if (r->sequence > km->sequence)
		km->sequence = r->sequence;
	if (!km->reported)
		return false;
	make_record_soon(km);
	return true;
}

static void take_record(struct controller *c, struct neighbour *from, const struct ls_record *r)
{
	c->stats.records_taken++;
	if (supersede(c, r))
		return;
	lsdb_store(c->lsdb, r, env_mono(c->env));
	controller_learn(c, r->km, r->links, r->count);
	unmark(from, r->km); /* it has this one already */
	hand_on(c, r->km, from);
}

static void take_records(struct controller *c, struct neighbour *from, const struct ls_record *records,
                         size_t count)
{
	uint64_t now = env_mono(c->env);

	for (size_t i = 0; i < count; i++) {
		enum ls_decision decision = lsdb_decide(c->lsdb, &records[i], now);

		if (decision == LS_STORE)
			take_record(c, from, &records[i]);
		else
			c->stats.records_ignored++;
		if (decision == LS_IGNORE) /* the same here: no need to send it there */
			unmark(from, records[i].km);
	}
}

/* Views of what is newer here, once nothing is stored any more. */
static size_t find_newer(struct controller *c, const struct ls_record *records, size_t count,
                         struct ls_record *newer)
{
	uint64_t now = env_mono(c->env);
	size_t found = 0;

	for (size_t i = 0; i < count; i++)
		if (lsdb_decide(c->lsdb, &records[i], now) == LS_RETURN_NEWER &&
		    lsdb_get(c->lsdb, records[i].km, now, &newer[found]))
			found++;
	return found;
}

static struct neighbour *find_neighbour(const struct controller *c, const char *name)
{
	struct neighbour *n;

	HASH_FIND_STR(c->neighbours, name, n);
	return n;
}

enum status controller_link_states(struct controller *c, const char *neighbour,
                                   const struct ls_record *records, size_t count, struct ls_record *newer,
                                   size_t *newer_count)
{
	struct neighbour *n = find_neighbour(c, neighbour);

	*newer_count = 0;
	if (n == NULL)
		return ST_DENIED;
	if (count > CONTROLLER_RECORDS_MAX)
		return ST_BAD_REQUEST;
	take_records(c, n, records, count);
	push_all(c);
	*newer_count = find_newer(c, records, count, newer);
	return ST_OK;
}

enum status controller_summary(struct controller *c, const char *neighbour, const struct ls_edition *editions,
                               size_t count, const char **wanted, size_t *wanted_count)
{
	*wanted_count = 0;
	if (find_neighbour(c, neighbour) == NULL)
		return ST_DENIED;
	for (size_t i = 0; i < count; i++)
		if (lsdb_wants(c->lsdb, &editions[i]))
			wanted[(*wanted_count)++] = editions[i].km;
	return ST_OK;
}

/* ---- connections ------------------------------------------------------------------------------------ */

struct summing {
	struct neighbour *neighbour;
	unsigned connection;
};

static void summed(enum status s, const char *const *wanted, size_t count, void *token)
{
	struct summing *summing = token;
	struct neighbour *n = summing->neighbour;

	if (summing->connection == n->connection && s != ST_OK) {
		n->summary_failed = true;
		retry_later(n);
	} else if (summing->connection == n->connection) {
		for (size_t i = 0; i < count; i++)
			mark_unsent(n, wanted[i]);
		push(n);
	}
	free(summing);
}

struct summary {
	struct ls_edition *editions;
	size_t count;
};

static void sum_up(const struct ls_edition *e, void *arg)
{
	struct summary *s = arg;

	s->editions[s->count++] = *e;
}

static void send_summary(struct neighbour *n)
{
	struct controller *c = n->controller;
	struct summary s = { .editions = xcalloc(lsdb_count(c->lsdb), sizeof *s.editions) };

	n->summary_failed = false;
	lsdb_each(c->lsdb, sum_up, &s);
	for (size_t at = 0; at < s.count; at += CONTROLLER_SUMMARY_MAX) {
		size_t part = s.count - at < CONTROLLER_SUMMARY_MAX ? s.count - at : CONTROLLER_SUMMARY_MAX;
		struct summing *summing = xcalloc(1, sizeof *summing);
		struct id trace;

		summing->neighbour = n;
		summing->connection = n->connection;
		controller_trace(c, &trace);
		c->calls.summary(c->calls.arg, n->name, &trace, s.editions + at, part, summed, summing);
	}
	free(s.editions);
}

void controller_neighbour_up(struct controller *c, const char *name)
{
	struct neighbour *n = find_neighbour(c, name);

	if (n == NULL)
		return;
	log_info("controller %s is connected", n->name);
	n->up = true;
	n->connection++;
	n->in_flight = 0;
	n->waiting = false;
	unmark_all(n);
	send_summary(n);
}

void controller_neighbour_down(struct controller *c, const char *name)
{
	struct neighbour *n = find_neighbour(c, name);

	if (n == NULL || !n->up)
		return;
	log_info("controller %s is not connected any more", n->name);
	n->up = false;
	n->connection++;
	n->in_flight = 0;
	unmark_all(n);
	env_timer_stop(c->env, n->retry);
}

/* ---- age -------------------------------------------------------------------------------------------- */

static void age(void *arg)
{
	struct controller *c = arg;
	char km[NAME_MAX_LEN + 1];

	while (lsdb_expire(c->lsdb, env_mono(c->env), km)) {
		const struct km *own = controller_find_km(c, km);

		log_info("the record of KM %s is too old and is forgotten", km);
		if (own == NULL || !own->reported)
			controller_learn(c, km, NULL, 0);
	}
	env_timer_set(c->env, c->ageing, c->options.max_age / AGEING_STEPS);
}

void flood_init(struct controller *c, const struct controller_options *o)
{
	for (size_t i = 0; i < o->neighbour_count; i++) {
		struct neighbour *n = find_neighbour(c, o->neighbours[i]);

		if (n != NULL)
			continue;
		n = xcalloc(1, sizeof *n);
		memcpy(n->name, o->neighbours[i], strnlen(o->neighbours[i], NAME_MAX_LEN));
		n->controller = c;
		n->retry = env_timer_new(c->env, retry, n);
		HASH_ADD_STR(c->neighbours, name, n);
	}
	c->ageing = env_timer_new(c->env, age, c);
	env_timer_set(c->env, c->ageing, o->max_age / AGEING_STEPS);
}

void flood_free(struct controller *c)
{
	struct neighbour *n, *next;

	HASH_ITER(hh, c->neighbours, n, next) {
		HASH_DELETE(hh, c->neighbours, n);
		unmark_all(n);
		env_timer_free(c->env, n->retry);
		free(n);
	}
	env_timer_free(c->env, c->ageing);
}
