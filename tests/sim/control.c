/*
 * control.c - a QKDN controller of cardboard: shortest ways over links that it believes in, and relay with
 * reservation now and then. It answers late, wrongly or not at all when it is told to.
 */
#include "inside.h"

/* A relay with reservation under way (I.4b). */
struct reservation {
	struct sim *sim;
	unsigned incarnation;
	struct id relay;
	unsigned path[PARTIES_MAX], count;
	const char *names[PARTIES_MAX];
	uint32_t len;
	uint64_t expires;
	struct reservation *prev, *next;
};

/* ---- ways ------------------------------------------------------------------------------------------------- */

typedef bool usable(struct sim *s, unsigned from, unsigned to, const void *arg);

/* The shortest way from a to b, both included; 0 if there is none. */
static unsigned find_path(struct sim *s, unsigned a, unsigned b, bool stale, usable *use, const void *arg,
                          unsigned path[PARTIES_MAX])
{
	unsigned n = s->options.nodes, queue[PARTIES_MAX], head = 0, tail = 0, length = 0;
	int before[PARTIES_MAX];

	for (unsigned i = 0; i < n; i++)
		before[i] = -1;
	queue[tail++] = b;
	before[b] = (int)b;
	while (head < tail && before[a] < 0) {
		unsigned at = queue[head++];

		for (unsigned i = 0; i < s->link_count; i++) {
			struct sim_link *l = &s->links[i];
			unsigned to;

			if (l->ends[0]->number != at && l->ends[1]->number != at)
				continue;
			to = l->ends[0]->number == at ? l->ends[1]->number : l->ends[0]->number;
			if (before[to] >= 0 || (!stale && (!conn_of(s, &l->ends[0]->party, &l->ends[1]->party)->up || !use(s, to, at, arg))))
				continue;
			before[to] = (int)at;
			queue[tail++] = to;
		}
	}
	if (before[a] < 0)
		return 0;
	for (unsigned at = a; length < n; at = (unsigned)before[at]) {
		path[length++] = at;
		if (at == b)
			return length;
	}
	return 0;
}

static struct node *node_named(struct sim *s, const char *name)
{
	for (unsigned i = 0; i < s->options.nodes; i++)
		if (strcmp(s->nodes[i].party.name, name) == 0)
			return &s->nodes[i];
	return NULL;
}

static bool not_excluded(struct sim *s, unsigned from, unsigned to, const void *arg)
{
	const struct km_ck_notification *m = arg;

	for (uint32_t i = 0; i < m->excluded_count; i++)
		if (strcmp(m->excluded[i].from, s->nodes[from].party.name) == 0 &&
		    strcmp(m->excluded[i].to, s->nodes[to].party.name) == 0)
			return false;
	return true;
}

static bool not_visited(struct sim *s, unsigned from, unsigned to, const void *arg)
{
	const struct km_ck_next_hop *m = arg;
	const char *here = m->visited.nodes[m->visited.count - 1], *there = s->nodes[to].party.name;

	for (uint32_t i = 0; i < m->visited.count; i++)
		if (strcmp(m->visited.nodes[i], there) == 0)
			return false;
	for (uint32_t i = 0; i < m->excluded_count; i++)
		if (strcmp(s->nodes[from].party.name, here) == 0 && strcmp(m->excluded[i], there) == 0)
			return false;
	return true;
}

static bool any(struct sim *s, unsigned from, unsigned to, const void *arg)
{
	(void)s, (void)from, (void)to, (void)arg;
	return true;
}

/* ---- answers ------------------------------------------------------------------------------------------------ */

static void give_route(struct sim *s, const struct km_ck_notification *m, km_reply reply, void *arg)
{
	struct km_ck_notification_answer a = { .count = 0 };
	struct node *from = node_named(s, m->source), *to = node_named(s, m->destination);
	unsigned path[PARTIES_MAX], count;
	const char *names[PARTIES_MAX];

	count = find_path(s, from->number, to->number, sim_chance(s, s->options.faults.control_stale), not_excluded, m, path);
	for (unsigned i = 0; i < count; i++)
		names[i] = s->nodes[path[i]].party.name;
	if (count == 0 || sim_chance(s, s->options.faults.control_no_route)) {
		err_set(&a.answer.err, ST_NO_ROUTE, "there is no way to %s", m->destination);
	} else {
		a.count = 1;
		a.routes[0] = (struct km_route){ count, names };
	}
	reply(&a.answer, arg);
}

static void give_next_hop(struct sim *s, const struct km_ck_next_hop *m, km_reply reply, void *arg)
{
	struct km_ck_next_hop_answer a = { .next_hop = "" };
	struct node *from = node_named(s, m->visited.nodes[m->visited.count - 1]), *to = node_named(s, m->destination);
	unsigned path[PARTIES_MAX];
	unsigned count = find_path(s, from->number, to->number, sim_chance(s, s->options.faults.control_stale),
	                           not_visited, m, path);

	a.hops_left = m->hops_left == 0 ? 2 * s->options.nodes : m->hops_left - 1;
	if (count < 2 || a.hops_left == 0 || sim_chance(s, s->options.faults.control_no_route))
		err_set(&a.answer.err, ST_NO_ROUTE, "there is no way to %s", m->destination);
	else
		a.next_hop = s->nodes[path[1]].party.name;
	reply(&a.answer, arg);
}

static void receive(struct party *p, enum km_message m, struct party *from, const void *message, km_reply reply,
                    void *arg)
{
	struct sim *s = p->sim;
	struct km_ck_register_answer registered = { .controller = p->name,
		                                    .distributed = s->options.control == SIM_DISTRIBUTED,
		                                    .report_interval = NS_PER_S };
	struct km_answer done = { { ST_OK, "" } };

	if (sim_chance(s, s->options.faults.control_silent))
		return; /* and never will */
	switch (m) {
	case KM_CK_REGISTER:
		s->control.registered[from->index] = true;
		reply(&registered.answer, arg);
		break;
	case KM_CK_NOTIFICATION:
		give_route(s, message, reply, arg);
		break;
	case KM_CK_NEXT_HOP:
		give_next_hop(s, message, reply, arg);
		break;
	default:
		reply(&done, arg);
	}
}

static void notice(struct party *p, struct party *other, bool up)
{
	if (!up)
		p->sim->control.registered[other->index] = false;
}

/* ---- relay with reservation ------------------------------------------------------------------------------------ */

static void reservation_over(struct reservation *r)
{
	DL_DELETE(r->sim->control.reservations, r);
	free(r);
}

static void voided(enum status s, const void *answer, void *arg)
{
	(void)s, (void)answer;
	reservation_over(arg);
}

static void send_to(struct reservation *r, unsigned node, enum km_message m, const void *message, uint64_t timeout,
                    km_answered answered)
{
	net_send(&r->sim->control.party, r->names[node], m, message, timeout, answered, r);
}

static void allocated(enum status s, const void *answer, void *arg)
{
	struct reservation *r = arg;
	const struct km_answer *a = answer;

	sim_say(r->sim, "a relay with reservation: %s", status_name(s == ST_OK ? a->err.status : s));
	reservation_over(r);
}

static void relayed(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct reservation *r = arg;
	struct km_ck_relay_id m = { .relay = r->relay };

	if (s == ST_OK && a->err.status == ST_OK)
		send_to(r, 0, KM_CK_ALLOCATION, &m, 5 * NS_PER_S, allocated);
	else
		send_to(r, 0, KM_CK_VOID, &m, 5 * NS_PER_S, voided);
}

static void reserved(enum status s, const void *answer, void *arg)
{
	const struct km_ck_reservation_answer *a = answer;
	struct reservation *r = arg;
	struct km_ck_relay m = { .relay = r->relay, .route = { r->count, r->names }, .len = r->len, .expires = r->expires };

	if (s != ST_OK || a->answer.err.status != ST_OK) {
		reservation_over(r);
		return;
	}
	m.link = a->link;
	m.link_offset = a->link_offset;
	m.ksa_pool = a->ksa_pool;
	m.ksa_offset = a->ksa_offset;
	send_to(r, 1, KM_CK_RELAY, &m, 10 * NS_PER_S, relayed);
}

static void reserve(struct sim *s)
{
	unsigned a = (unsigned)sim_dice(s, s->options.nodes), b = (unsigned)sim_dice(s, s->options.nodes);
	struct reservation *r = xcalloc(1, sizeof *r);
	struct km_ck_reservation m;

	r->sim = s;
	r->count = find_path(s, a, b, false, any, NULL, r->path);
	if (r->count < 3) {
		free(r);
		return;
	}
	for (unsigned i = 0; i < r->count; i++)
		r->names[i] = s->nodes[r->path[i]].party.name;
	env_random(s->env, &r->relay, sizeof r->relay);
	r->len = 1024 + 32 * (uint32_t)sim_dice(s, 64);
	r->expires = env_utc(s->env) + 10 * NS_PER_S;
	m = (struct km_ck_reservation){ .relay = r->relay, .route = { r->count, r->names }, .len = r->len,
		                        .expires = r->expires };
	DL_APPEND(s->control.reservations, r);
	send_to(r, 0, KM_CK_RESERVATION, &m, 5 * NS_PER_S, reserved);
}

void control_tick_sim(struct sim *s)
{
	struct controller_state *c = &s->control;
	uint64_t now = world_now(s->world);

	if (!c->party.alive || !s->options.reservation || s->settling || now < c->next_reservation_at)
		return;
	c->next_reservation_at = now + sim_dice(s, 1000) * NS_PER_MS;
	reserve(s);
}

void control_new(struct sim *s)
{
	party_add(s, &s->control.party, "controller", PARTY_CONTROLLER);
	s->control.party.receive = receive;
	s->control.party.notice = notice;
	s->control.party.alive = s->options.control != SIM_NO_CONTROLLER;
}

void control_free(struct sim *s)
{
	while (s->control.reservations != NULL)
		reservation_over(s->control.reservations);
}

void sim_kill_controller(struct sim *s)
{
	struct party *p = &s->control.party;

	if (!p->alive)
		return;
	sim_say(s, "the controller is killed");
	s->stats.controller_kills++;
	p->alive = false;
	p->incarnation++;
	net_party_died(p);
	while (s->control.reservations != NULL)
		reservation_over(s->control.reservations);
}

void sim_start_controller(struct sim *s)
{
	if (s->options.control == SIM_NO_CONTROLLER || s->control.party.alive)
		return;
	sim_say(s, "the controller starts");
	s->control.party.alive = true;
}
