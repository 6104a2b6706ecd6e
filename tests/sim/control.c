/*
 * control.c - the QKDN controllers: their real cores (server/controller), one for all KMs or one for each,
 * with Ck to the KMs and Cx between them over the simulated net, and their own faults.
 *
 * A controller that is killed forgets everything. One that is at fault says nothing, says that there is no
 * way, tells the answer that it gave to such a question before, or does not take in what it is told.
 */
#include <stdio.h>

#include "controller.h"
#include "inside.h"

enum { AMOUNT = 4096 }; /* of a relay with reservation */

struct stale {
	const char *names[PARTIES_MAX]; /* the nodes', which live as long as the simulation */
	uint32_t count;
};

struct sim_controller {
	struct party party;
	unsigned number;
	struct env *env;
	struct controller *core;
	struct stale *routes; /* from node to node, as given last */
};

/* ---- calls of the core ---------------------------------------------------------------------------------- */

struct asked {
	controller_done done;
	controller_reserve_done reserve_done;
	controller_summary_done summary_done;
	controller_states_done states_done;
	void *token;
};

static struct asked *asked_new(const struct asked *how)
{
	struct asked *a = xcalloc(1, sizeof *a);

	*a = *how;
	return a;
}

static enum status outcome(enum status s, const void *answer)
{
	return s == ST_OK ? ((const struct km_answer *)answer)->err.status : s;
}

static void answered(enum status s, const void *answer, void *arg)
{
	struct asked *a = arg;

	a->done(outcome(s, answer), a->token);
	free(a);
}

static void reservation_answered(enum status s, const void *answer, void *arg)
{
	const struct km_ck_reservation_answer *r = answer;
	struct controller_relay relay = { .route = NULL };
	struct asked *a = arg;

	s = outcome(s, answer);
	if (s == ST_OK) {
		strcpy(relay.link, r->link);
		relay.link_offset = r->link_offset;
		relay.ksa_pool = r->ksa_pool;
		relay.ksa_offset = r->ksa_offset;
	}
	a->reserve_done(s, &relay, a->token);
	free(a);
}

static void summary_answered(enum status s, const void *answer, void *arg)
{
	const struct cx_summary_answer *r = answer;
	struct asked *a = arg;

	s = outcome(s, answer);
	a->summary_done(s, s == ST_OK ? r->wanted : NULL, s == ST_OK ? r->count : 0, a->token);
	free(a);
}

static void states_answered(enum status s, const void *answer, void *arg)
{
	const struct cx_states_answer *r = answer;
	struct asked *a = arg;

	s = outcome(s, answer);
	a->states_done(s, s == ST_OK ? r->newer : NULL, s == ST_OK ? r->count : 0, a->token);
	free(a);
}

static void call(struct sim_controller *c, const char *to, int m, const void *message, uint64_t timeout,
                 km_answered done, const struct asked *how)
{
	net_send(&c->party, to, (enum km_message)m, message, timeout, done, asked_new(how));
}

static uint64_t call_timeout(const struct sim_controller *c)
{
	return c->party.sim->options.limits.call_timeout;
}

static void send_summary(void *arg, const char *neighbour, const struct id *trace, const struct ls_edition *editions,
                         size_t count, controller_summary_done done, void *token)
{
	struct cx_summary m = { (struct ls_edition *)editions, count };

	(void)trace;
	call(arg, neighbour, SIM_CX_SUMMARY, &m, call_timeout(arg), summary_answered,
	     &(struct asked){ .summary_done = done, .token = token });
}

static void send_states(void *arg, const char *neighbour, const struct id *trace, const struct ls_record *records,
                        size_t count, controller_states_done done, void *token)
{
	struct cx_states m = { (struct ls_record *)records, count };

	(void)trace;
	call(arg, neighbour, SIM_CX_LINK_STATES, &m, call_timeout(arg), states_answered,
	     &(struct asked){ .states_done = done, .token = token });
}

static void send_reserve(void *arg, const char *km, const struct controller_relay *r, controller_reserve_done done,
                         void *token)
{
	struct km_ck_reservation m = { .trace = r->trace,
		                       .relay = r->relay,
		                       .route = { (uint32_t)r->route_count, r->route },
		                       .len = r->len,
		                       .expires = r->expires };

	call(arg, km, KM_CK_RESERVATION, &m, call_timeout(arg), reservation_answered,
	     &(struct asked){ .reserve_done = done, .token = token });
}

static void send_relay(void *arg, const char *km, const struct controller_relay *r, uint64_t timeout,
                       controller_done done, void *token)
{
	struct km_ck_relay m = { .trace = r->trace,
		                 .relay = r->relay,
		                 .route = { (uint32_t)r->route_count, r->route },
		                 .link = r->link,
		                 .link_offset = r->link_offset,
		                 .len = r->len,
		                 .ksa_pool = r->ksa_pool,
		                 .ksa_offset = r->ksa_offset,
		                 .expires = r->expires };

	call(arg, km, KM_CK_RELAY, &m, timeout, answered, &(struct asked){ .done = done, .token = token });
}

static void send_id(struct sim_controller *c, const char *km, enum km_message m, const struct controller_relay *r,
                    controller_done done, void *token)
{
	struct km_ck_relay_id id = { .trace = r->trace, .relay = r->relay };

	call(c, km, m, &id, call_timeout(c), answered, &(struct asked){ .done = done, .token = token });
}

static void send_allocate(void *arg, const char *km, const struct controller_relay *r, controller_done done,
                          void *token)
{
	send_id(arg, km, KM_CK_ALLOCATION, r, done, token);
}

static void send_give_up(void *arg, const char *km, const struct controller_relay *r, controller_done done,
                         void *token)
{
	send_id(arg, km, KM_CK_VOID, r, done, token);
}

/* ---- from KMs --------------------------------------------------------------------------------------------- */

static unsigned node_number(struct sim *s, const char *name)
{
	return container_of(party_by_name(s, name), struct node, party)->number;
}

/* What was given before for that pair; what is given now is kept. */
static struct stale *stale_route(struct sim_controller *c, const char *from, const char *to)
{
	struct sim *s = c->party.sim;

	return &c->routes[node_number(s, from) * s->options.nodes + node_number(s, to)];
}

static const char *node_name(struct sim *s, const char *name)
{
	return party_by_name(s, name)->name;
}

static bool fault(struct sim_controller *c, unsigned in_a_thousand)
{
	return sim_chance(c->party.sim, in_a_thousand);
}

static void refuse(struct km_answer *a, enum status s)
{
	if (s != ST_OK)
		err_set(&a->err, s, "the controller: %s", status_name(s));
}

static void look_for_routes(struct sim_controller *c, const struct km_ck_notification *m,
                            struct km_ck_notification_answer *a, struct stale given[ROUTE_DISJOINT_MAX])
{
	struct sim *s = c->party.sim;
	struct controller_hop excluded[KM_EXCLUDED_MAX];
	struct controller_route_request r = { .relay = m->relay,
		                              .source = m->source,
		                              .destination = m->destination,
		                              .excluded = excluded,
		                              .excluded_count = m->excluded_count,
		                              .shares = m->shares,
		                              .len = m->len };
	struct route *routes = xcalloc(ROUTE_DISJOINT_MAX, sizeof *routes);
	size_t count = 0;
	enum status st;

	for (uint32_t i = 0; i < m->excluded_count; i++)
		excluded[i] = (struct controller_hop){ m->excluded[i].from, m->excluded[i].to };
	st = controller_route(c->core, &r, routes, &count, &a->answer.err);
	for (a->count = 0; st == ST_OK && a->count < count && a->count < KM_SHARES_MAX; a->count++) {
		const struct route *one = &routes[a->count];

		given[a->count].count = (uint32_t)one->count;
		for (size_t k = 0; k < one->count; k++)
			given[a->count].names[k] = node_name(s, controller_node_name(c->core, one->nodes[k]));
	}
	free(routes);
}

static void give_routes(struct sim_controller *c, const struct km_ck_notification *m, km_reply reply, void *arg)
{
	struct km_ck_notification_answer a = { .count = 0 };
	struct stale *given = xcalloc(ROUTE_DISJOINT_MAX, sizeof *given);
	struct stale *before = stale_route(c, m->source, m->destination);
	struct sim_faults *f = &c->party.sim->options.faults;

	if (before->count > 0 && fault(c, f->control_stale)) {
		a.count = 1;
		given[0] = *before;
	} else if (fault(c, f->control_no_route)) {
		refuse(&a.answer, ST_NO_ROUTE);
	} else {
		look_for_routes(c, m, &a, given);
		if (a.count > 0)
			*before = given[0];
	}
	for (uint32_t i = 0; i < a.count; i++)
		a.routes[i] = (struct km_route){ given[i].count, given[i].names };
	reply(&a.answer, arg);
	free(given);
}

static void give_next_hop(struct sim_controller *c, const struct km_ck_next_hop *m, km_reply reply, void *arg)
{
	struct sim *s = c->party.sim;
	struct km_ck_next_hop_answer a = { .next_hop = "" };
	const char *here = m->visited.nodes[m->visited.count - 1], *next_hop = "";
	struct stale *before = stale_route(c, here, m->destination);
	const struct controller_next_hop_request r = { .destination = m->destination,
		                                       .visited = m->visited.nodes,
		                                       .visited_count = m->visited.count,
		                                       .excluded = m->excluded,
		                                       .excluded_count = m->excluded_count,
		                                       .hops_left = m->hops_left,
		                                       .len = m->len };

	if (before->count > 0 && m->hops_left != 1 && fault(c, s->options.faults.control_stale)) {
		a.next_hop = before->names[0];
		a.hops_left = m->hops_left == 0 ? s->options.nodes : m->hops_left - 1;
	} else if (fault(c, s->options.faults.control_no_route)) {
		refuse(&a.answer, ST_NO_ROUTE);
	} else {
		if (controller_next_hop(c->core, &r, &next_hop, &a.hops_left, &a.answer.err) == ST_OK) {
			a.next_hop = before->names[0] = node_name(s, next_hop);
			before->count = 1;
		}
	}
	reply(&a.answer, arg);
}

static enum status take_links(struct sim_controller *c, const struct km_ck_link_status *m)
{
	struct route_link *links = xcalloc(m->count, sizeof *links);
	enum status s;

	for (uint32_t i = 0; i < m->count; i++) {
		const struct km_ck_link_state *l = &m->links[i];

		strcpy(links[i].name, l->link);
		strcpy(links[i].peer, l->peer);
		links[i].state = (struct route_state){ .up = l->up,
			                               .stock = l->stock,
			                               .generation_rate = l->generation_rate,
			                               .consumption_rate = l->consumption_rate,
			                               .qber_ppm = l->qber_ppm,
			                               .reported_at = l->reported_at };
	}
	s = controller_link_status(c->core, m->km, links, m->count);
	free(links);
	return s;
}

static enum status take_pools(struct sim_controller *c, const struct km_ck_key_store_status *m)
{
	struct controller_pool *pools = xcalloc(m->count, sizeof *pools);
	enum status s;

	for (uint32_t i = 0; i < m->count; i++)
		pools[i] = (struct controller_pool){ m->pools[i].peer, m->pools[i].stock, m->pools[i].low_water,
			                             m->pools[i].high_water, m->pools[i].consumption_rate };
	s = controller_key_store_status(c->core, m->km, pools, m->count);
	free(pools);
	return s;
}

static void plain(enum status s, km_reply reply, void *arg)
{
	struct km_answer a = { { ST_OK, "" } };

	refuse(&a, s);
	reply(&a, arg);
}

static void enrol(struct sim_controller *c, const struct km_ck_register *m, km_reply reply, void *arg)
{
	struct km_ck_register_answer a = { .controller = c->party.name,
		                           .distributed = c->party.sim->options.control == SIM_DISTRIBUTED,
		                           .report_interval = NS_PER_S };

	refuse(&a.answer, controller_register(c->core, m->km));
	reply(&a.answer, arg);
}

/* ---- from neighbours ------------------------------------------------------------------------------------------ */

static void take_summary(struct sim_controller *c, const char *from, const struct cx_summary *m, km_reply reply,
                         void *arg)
{
	struct cx_summary_answer a = { .wanted = xcalloc(m->count, sizeof(char *)) };

	refuse(&a.answer, controller_summary(c->core, from, m->editions, m->count, a.wanted, &a.count));
	reply(&a.answer, arg);
	free(a.wanted);
}

static void take_states(struct sim_controller *c, const char *from, const struct cx_states *m, km_reply reply, void *arg)
{
	struct ls_record newer[CONTROLLER_RECORDS_MAX];
	struct cx_states_answer a = { .newer = newer };

	refuse(&a.answer, controller_link_states(c->core, from, m->records, m->count, newer, &a.count));
	reply(&a.answer, arg);
}

static void receive(struct party *p, enum km_message m, struct party *from, const void *message, km_reply reply,
                    void *arg)
{
	struct sim_controller *c = container_of(p, struct sim_controller, party);
	const struct km_ck_response *response = message;
	const struct sim_faults *f = &p->sim->options.faults;

	if (fault(c, f->control_silent))
		return; /* and never will answer */
	switch ((int)m) {
	case KM_CK_REGISTER:
		enrol(c, message, reply, arg);
		break;
	case KM_CK_LINK_STATUS:
		plain(fault(c, f->control_stale) ? ST_OK : take_links(c, message), reply, arg);
		break;
	case KM_CK_KEY_STORE_STATUS:
		plain(take_pools(c, message), reply, arg);
		break;
	case KM_CK_NOTIFICATION:
		give_routes(c, message, reply, arg);
		break;
	case KM_CK_NEXT_HOP:
		give_next_hop(c, message, reply, arg);
		break;
	case KM_CK_RESPONSE:
		plain(controller_relay_result(c->core, &response->relay, response->status, response->len), reply, arg);
		break;
	case SIM_CX_SUMMARY:
		take_summary(c, from->name, message, reply, arg);
		break;
	case SIM_CX_LINK_STATES:
		take_states(c, from->name, message, reply, arg);
		break;
	default:
		plain(ST_UNSUPPORTED, reply, arg);
	}
}

static void notice(struct party *p, struct party *other, bool up)
{
	struct sim_controller *c = container_of(p, struct sim_controller, party);

	if (other->kind == PARTY_CONTROLLER && up)
		controller_neighbour_up(c->core, other->name);
	else if (other->kind == PARTY_CONTROLLER)
		controller_neighbour_down(c->core, other->name);
	else if (!up)
		controller_km_lost(c->core, other->name);
}

/* ---- life ------------------------------------------------------------------------------------------------------ */

static bool is_distributed(const struct sim *s)
{
	return s->options.control == SIM_DISTRIBUTED;
}

/* Pairs without a link of their own are kept stocked by relay with reservation, beside what the KMs relay. */
static size_t policies(struct sim *s, struct controller_reserve *list)
{
	unsigned n = s->options.nodes;
	size_t count = 0;

	for (unsigned a = 0; a < n && s->options.reservation && !s->settling; a++)
		for (unsigned b = 0; b < n; b++)
			if (a != b && !sim_is_link(s, a, b))
				list[count++] = (struct controller_reserve){ s->nodes[a].party.name, s->nodes[b].party.name, AMOUNT,
					                                     s->options.limits.ksa_high_water + AMOUNT,
					                                     2 * s->options.limits.ksa_high_water };
	return count;
}

static void make_core(struct sim_controller *c)
{
	static const struct controller_calls calls = { send_summary,  send_states,  send_reserve, send_relay,
		                                       send_allocate, send_give_up, NULL };
	struct sim *s = c->party.sim;
	struct controller_calls mine = calls;
	struct controller_options o = { .name = c->party.name,
		                        .mode = is_distributed(s) ? CONTROLLER_DISTRIBUTED : CONTROLLER_CENTRALIZED };
	unsigned n = s->options.nodes;
	const char **kms = xcalloc(n, sizeof(char *)), **neighbours = xcalloc(n, sizeof(char *));
	struct controller_reserve *reserve = xcalloc((size_t)n * n, sizeof *reserve);

	mine.arg = c;
	controller_defaults(&o);
	o.call_timeout = s->options.limits.call_timeout;
	o.reservation_time = 10 * NS_PER_S;
	for (unsigned i = 0; i < n; i++) {
		if (!is_distributed(s) || i == c->number)
			kms[o.km_count++] = s->nodes[i].party.name;
		if (is_distributed(s) && sim_is_link(s, i, c->number))
			neighbours[o.neighbour_count++] = s->controllers[i].party.name;
	}
	o.kms = kms;
	o.neighbours = neighbours;
	o.reserve = reserve;
	o.reserve_count = policies(s, reserve);
	c->env = env_virtual_new(s->world);
	c->core = controller_new(c->env, &o, &mine);
	c->routes = xcalloc((size_t)n * n, sizeof *c->routes);
	c->party.alive = true;
	free(kms);
	free(neighbours);
	free(reserve);
}

static void end(struct sim_controller *c)
{
	if (!c->party.alive)
		return;
	c->party.alive = false;
	c->party.incarnation++;
	net_party_died(&c->party);
	controller_free(c->core);
	env_virtual_free(c->env);
	free(c->routes);
	c->core = NULL;
}

/* Once nodes and links are there. */
void control_new(struct sim *s)
{
	s->controller_count = s->options.control == SIM_NO_CONTROLLER ? 0 : is_distributed(s) ? s->options.nodes : 1;
	s->controllers = xcalloc(s->options.nodes, sizeof *s->controllers);
	for (unsigned i = 0; i < s->controller_count; i++) {
		struct sim_controller *c = &s->controllers[i];
		char name[NAME_MAX_LEN + 1] = "controller";

		if (is_distributed(s))
			snprintf(name, sizeof name, "controller%03u", i);
		c->number = i;
		party_add(s, &c->party, name, PARTY_CONTROLLER);
		c->party.receive = receive;
		c->party.notice = notice;
		for (unsigned k = 0; k < s->options.nodes; k++) {
			if (!is_distributed(s) || k == i)
				net_want(s, &c->party, &s->nodes[k].party);
			if (k < i && sim_is_link(s, i, k))
				net_want(s, &c->party, &s->controllers[k].party);
		}
	}
	for (unsigned i = 0; i < s->controller_count; i++)
		make_core(&s->controllers[i]);
}

const char *control_name(const struct sim *s, const struct node *n)
{
	return s->controller_count == 0 ? NULL : s->controllers[is_distributed(s) ? n->number : 0].party.name;
}

void control_free(struct sim *s)
{
	for (unsigned i = 0; i < s->controller_count; i++)
		end(&s->controllers[i]);
	free(s->controllers);
}

/* No relay with reservation begins any more. */
void control_settle(struct sim *s)
{
	for (unsigned i = 0; s->options.reservation && i < s->controller_count; i++) {
		end(&s->controllers[i]);
		make_core(&s->controllers[i]);
	}
}

static void kill_one(struct sim_controller *c)
{
	if (!c->party.alive)
		return;
	sim_say(c->party.sim, "%s is killed", c->party.name);
	c->party.sim->stats.controller_kills++;
	end(c);
}

static bool chosen(const struct sim *s, unsigned i, unsigned which)
{
	return which == SIM_ALL || which % s->controller_count == i;
}

void sim_kill_controller(struct sim *s, unsigned which)
{
	for (unsigned i = 0; i < s->controller_count; i++)
		if (chosen(s, i, which))
			kill_one(&s->controllers[i]);
}

void sim_start_controller(struct sim *s, unsigned which)
{
	for (unsigned i = 0; i < s->controller_count; i++) {
		struct sim_controller *c = &s->controllers[i];

		if (!chosen(s, i, which) || c->party.alive)
			continue;
		sim_say(s, "%s starts", c->party.name);
		make_core(c);
	}
}

void control_cut(struct sim *s, unsigned a, unsigned b, uint64_t until)
{
	if (is_distributed(s) && a != b && sim_dice(s, 2))
		net_cut(s, &s->controllers[a].party, &s->controllers[b].party, until);
}
