/*
 * test_controller.c - the cores of distributed controllers, up to hundreds in one process under a virtual clock: link
 * states flooded, lost, doubled and delayed; restarts; next hops.
 *
 * A message takes one round (a millisecond) unless a test says otherwise.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller.h"
#include "env_virtual.h"
#include "log.h"

#define ROUND NS_PER_MS

enum { NODES_MAX = 160, DEGREE_MAX = 32 };

struct sim;

/* One node: a controller and what its KM reports. */
struct node {
	struct sim *sim;
	int index;
	char name[16]; /* of the KM; the controller's is c- and it */
	char controller_name[20];
	struct env *env;
	struct controller *controller;
	struct route_link links[DEGREE_MAX];
	int peers[DEGREE_MAX];
	size_t degree;
};

struct sim {
	struct world *world;
	struct env *env; /* the network's own */
	struct node nodes[NODES_MAX];
	int count;
	unsigned lose, twice; /* percent of messages */
	uint64_t jitter;      /* rounds */
	struct message *messages;
	uint64_t message_count;
};

/* A call on its way, its answer on its way back, or a doubled call that nobody waits for. */
struct message {
	struct sim *sim;
	struct message *next, **link;
	struct node *from, *to;
	struct env_timer *timer;
	bool answered, doubled;
	enum status status;
	bool is_summary;
	struct ls_edition *editions;
	char (*wanted)[NAME_MAX_LEN + 1];
	struct ls_record *records; /* of the call, then of the answer */
	size_t count;
	controller_summary_done summary_done;
	controller_states_done states_done;
	void *token;
};

/* ---- messages ------------------------------------------------------------------------------------ */

static struct ls_record *copy_records(const struct ls_record *records, size_t count)
{
	struct ls_record *copy = xcalloc(count, sizeof *copy);

	for (size_t i = 0; i < count; i++) {
		copy[i] = records[i];
		copy[i].links = xcalloc(records[i].count, sizeof *copy[i].links);
		if (records[i].count > 0)
			memcpy(copy[i].links, records[i].links, records[i].count * sizeof *copy[i].links);
	}
	return copy;
}

static void drop_records(struct message *m)
{
	for (size_t i = 0; m->records != NULL && i < m->count; i++)
		free(m->records[i].links);
	free(m->records);
	m->records = NULL;
}

static void message_free(struct message *m)
{
	*m->link = m->next;
	if (m->next != NULL)
		m->next->link = m->link;
	env_timer_free(m->sim->env, m->timer);
	drop_records(m);
	free(m->editions);
	free(m->wanted);
	free(m);
}

static void report_answer(struct message *m)
{
	const char *wanted[CONTROLLER_SUMMARY_MAX];

	if (m->doubled)
		return;
	if (!m->is_summary) {
		m->states_done(m->status, m->records, m->status == ST_OK ? m->count : 0, m->token);
		return;
	}
	for (size_t i = 0; i < m->count && m->wanted != NULL; i++)
		wanted[i] = m->wanted[i];
	m->summary_done(m->status, wanted, m->wanted != NULL ? m->count : 0, m->token);
}

static uint64_t delay(struct sim *sim)
{
	return ROUND + (sim->jitter > 0 ? world_random(sim->world) % (sim->jitter * ROUND) : 0);
}

static void deliver_states(struct message *m)
{
	struct ls_record newer[CONTROLLER_RECORDS_MAX];
	size_t count;

	m->status = controller_link_states(m->to->controller, m->from->controller_name, m->records, m->count, newer,
	                                   &count);
	drop_records(m);
	m->records = copy_records(newer, count);
	m->count = count;
}

static void deliver_summary(struct message *m)
{
	const char *wanted[CONTROLLER_SUMMARY_MAX];
	size_t count;

	m->status = controller_summary(m->to->controller, m->from->controller_name, m->editions, m->count, wanted,
	                               &count);
	m->wanted = xcalloc(count, sizeof *m->wanted);
	for (size_t i = 0; i < count; i++)
		snprintf(m->wanted[i], sizeof m->wanted[i], "%s", wanted[i]);
	m->count = count;
}

static void message_due(void *arg)
{
	struct message *m = arg;
	struct sim *sim = m->sim;

	if (m->answered) {
		report_answer(m);
		message_free(m);
		return;
	}
	m->answered = true;
	m->status = ST_TIMED_OUT;
	if (m->to->controller == NULL || world_random(sim->world) % 100 < sim->lose) {
		env_timer_set(sim->env, m->timer, 5 * NS_PER_S);
		return;
	}
	if (m->is_summary)
		deliver_summary(m);
	else
		deliver_states(m);
	if (world_random(sim->world) % 100 < sim->lose) { /* the answer is lost */
		m->status = ST_TIMED_OUT;
		env_timer_set(sim->env, m->timer, 5 * NS_PER_S);
		return;
	}
	env_timer_set(sim->env, m->timer, delay(sim));
}

static struct node *node_of_controller(struct sim *sim, const char *name)
{
	for (int i = 0; i < sim->count; i++)
		if (strcmp(sim->nodes[i].controller_name, name) == 0)
			return &sim->nodes[i];
	return NULL;
}

static struct message *message_new(struct node *from, const char *to, size_t count)
{
	struct sim *sim = from->sim;
	struct message *m = xcalloc(1, sizeof *m);

	m->sim = sim;
	m->from = from;
	m->to = node_of_controller(sim, to);
	m->count = count;
	m->next = sim->messages;
	m->link = &sim->messages;
	if (m->next != NULL)
		m->next->link = &m->next;
	sim->messages = m;
	sim->message_count++;
	m->timer = env_timer_new(sim->env, message_due, m);
	env_timer_set(sim->env, m->timer, delay(sim));
	return m;
}

static void sim_summary(void *arg, const char *neighbour, const struct id *trace, const struct ls_edition *editions,
                        size_t count, controller_summary_done done, void *token)
{
	struct message *m = message_new(arg, neighbour, count);

	(void)trace;
	m->is_summary = true;
	m->editions = xcalloc(count, sizeof *editions);
	memcpy(m->editions, editions, count * sizeof *editions);
	m->summary_done = done;
	m->token = token;
}

static void sim_link_states(void *arg, const char *neighbour, const struct id *trace,
                            const struct ls_record *records, size_t count, controller_states_done done, void *token)
{
	struct node *from = arg;
	struct message *m = message_new(from, neighbour, count);

	(void)trace;
	m->records = copy_records(records, count);
	m->states_done = done;
	m->token = token;
	if (world_random(from->sim->world) % 100 < from->sim->twice) {
		m = message_new(from, neighbour, count);
		m->records = copy_records(records, count);
		m->doubled = true;
	}
}

/* ---- the network --------------------------------------------------------------------------------- */

static const struct route_state good = { .up = true, .stock = 1 << 21, .generation_rate = 100000 };

static void connect_nodes(struct sim *sim, int a, int b)
{
	for (int side = 0; side < 2; side++) {
		struct node *n = &sim->nodes[side ? b : a];
		struct route_link *l = &n->links[n->degree];

		assert_true(n->degree < DEGREE_MAX);
		n->peers[n->degree++] = side ? a : b;
		l->state = good;
		snprintf(l->name, sizeof l->name, "%d-%d", a < b ? a : b, a < b ? b : a);
		strcpy(l->peer, sim->nodes[side ? a : b].name);
	}
}

static bool are_connected(const struct sim *sim, int a, int b)
{
	for (size_t i = 0; i < sim->nodes[a].degree; i++)
		if (sim->nodes[a].peers[i] == b)
			return true;
	return a == b;
}

static struct sim *sim_new(int count, uint64_t seed)
{
	struct sim *sim = xcalloc(1, sizeof *sim);

	sim->world = world_new(seed);
	sim->env = env_virtual_new(sim->world);
	sim->count = count;
	for (int i = 0; i < count; i++) {
		struct node *n = &sim->nodes[i];

		n->sim = sim;
		n->index = i;
		n->env = env_virtual_new(sim->world);
		snprintf(n->name, sizeof n->name, "km%d", i);
		snprintf(n->controller_name, sizeof n->controller_name, "c-km%d", i);
	}
	return sim;
}

/* A random tree and some more links. */
static struct sim *sim_random(int count, int more, uint64_t seed)
{
	struct sim *sim = sim_new(count, seed);

	for (int i = 1; i < count; i++) {
		int back = i < 6 ? i : 6; /* to one of the last few: a long network, as backbones are */

		connect_nodes(sim, i, i - 1 - (int)(world_random(sim->world) % (uint64_t)back));
	}
	while (more > 0) {
		int a = (int)(world_random(sim->world) % (uint64_t)count);
		int b = (int)(world_random(sim->world) % (uint64_t)count);

		if (!are_connected(sim, a, b) && sim->nodes[a].degree < DEGREE_MAX - 1 &&
		    sim->nodes[b].degree < DEGREE_MAX - 1) {
			connect_nodes(sim, a, b);
			more--;
		}
	}
	return sim;
}

static void start(struct node *n)
{
	const char *neighbours[DEGREE_MAX], *km = n->name;
	struct controller_options o = { .name = n->controller_name, .mode = CONTROLLER_DISTRIBUTED, .kms = &km,
		                        .km_count = 1, .neighbours = neighbours, .neighbour_count = n->degree };
	struct controller_calls calls = { .summary = sim_summary, .link_states = sim_link_states, .arg = n };

	controller_defaults(&o);
	for (size_t i = 0; i < n->degree; i++)
		neighbours[i] = n->sim->nodes[n->peers[i]].controller_name;
	n->controller = controller_new(n->env, &o, &calls);
}

static void report(struct node *n)
{
	if (n->controller != NULL)
		assert_int_equal(controller_link_status(n->controller, n->name, n->links, n->degree), ST_OK);
}

static void neighbours_up(struct node *n)
{
	for (size_t i = 0; i < n->degree; i++) {
		struct node *peer = &n->sim->nodes[n->peers[i]];

		if (peer->controller == NULL)
			continue;
		controller_neighbour_up(n->controller, peer->controller_name);
		controller_neighbour_up(peer->controller, n->controller_name);
	}
}

/* As the transport does it: the connections break, the calls end, then the core goes. */
static void kill_node(struct node *n)
{
	struct sim *sim = n->sim;

	for (size_t i = 0; i < n->degree; i++) {
		struct node *peer = &sim->nodes[n->peers[i]];

		controller_neighbour_down(n->controller, peer->controller_name);
		if (peer->controller != NULL)
			controller_neighbour_down(peer->controller, n->controller_name);
	}
	for (struct message *m = sim->messages, *next; m != NULL; m = next) {
		next = m->next;
		if (m->from == n || m->to == n) {
			m->status = ST_TRANSPORT;
			if (m->is_summary && m->wanted == NULL)
				m->count = 0;
			report_answer(m);
			message_free(m);
		}
	}
	controller_free(n->controller);
	n->controller = NULL;
}

static void sim_free(struct sim *sim)
{
	for (int i = 0; i < sim->count; i++)
		if (sim->nodes[i].controller != NULL)
			kill_node(&sim->nodes[i]);
	while (sim->messages != NULL)
		message_free(sim->messages);
	for (int i = 0; i < sim->count; i++)
		env_virtual_free(sim->nodes[i].env);
	env_virtual_free(sim->env);
	world_free(sim->world);
	free(sim);
}

static void start_all(struct sim *sim)
{
	for (int i = 0; i < sim->count; i++)
		start(&sim->nodes[i]);
	for (int i = 0; i < sim->count; i++)
		report(&sim->nodes[i]);
	for (int i = 0; i < sim->count; i++)
		neighbours_up(&sim->nodes[i]);
}

/* KMs go on reporting, so that no controller takes them for silent. */
static void run(struct sim *sim, uint64_t ns)
{
	for (; ns >= NS_PER_S; ns -= NS_PER_S) {
		for (int i = 0; i < sim->count; i++)
			report(&sim->nodes[i]);
		world_run(sim->world, NS_PER_S);
	}
	world_run(sim->world, ns);
}

/* ---- what they believe ------------------------------------------------------------------------------ */

/* Order does not matter: a sum over directions of a hash of who leads where at which weight. */
static uint64_t belief(const char *from, const char *to, uint32_t weight)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);
	char text[64];

	snprintf(text, sizeof text, "%s>%s:%u", from, to, (unsigned)weight);
	for (const char *t = text; *t != '\0'; t++)
		h = (h ^ (uint8_t)*t) * UINT64_C(0x100000001b3);
	return h;
}

static void add_belief(const struct topology_link *l, void *arg)
{
	for (int side = 0; side < 2; side++)
		if (l->weight[side] != ROUTE_UNUSABLE)
			*(uint64_t *)arg += belief(l->ends[side], l->ends[!side], l->weight[side]);
}

static uint64_t beliefs_of(struct node *n)
{
	uint64_t sum = 0;

	topology_each_link(controller_topology(n->controller), add_belief, &sum);
	return sum;
}

static bool other_end_is_up(const struct sim *sim, int a, int b)
{
	for (size_t i = 0; i < sim->nodes[b].degree; i++)
		if (sim->nodes[b].peers[i] == a)
			return sim->nodes[b].links[i].state.up;
	return false;
}

static uint64_t truth(const struct sim *sim)
{
	uint64_t sum = 0;

	for (int i = 0; i < sim->count; i++)
		for (size_t l = 0; l < sim->nodes[i].degree; l++)
			if (sim->nodes[i].links[l].state.up && other_end_is_up(sim, i, sim->nodes[i].peers[l]))
				sum += belief(sim->nodes[i].name, sim->nodes[i].links[l].peer,
				              route_weight(&sim->nodes[i].links[l].state));
	return sum;
}

static bool all_know_the_truth(struct sim *sim)
{
	uint64_t expected = truth(sim);

	for (int i = 0; i < sim->count; i++)
		if (sim->nodes[i].controller != NULL && beliefs_of(&sim->nodes[i]) != expected)
			return false;
	return true;
}

static void set_link(struct sim *sim, int a, int b, bool up)
{
	for (int side = 0; side < 2; side++) {
		struct node *n = &sim->nodes[side ? b : a];

		for (size_t i = 0; i < n->degree; i++)
			if (n->peers[i] == (side ? a : b))
				n->links[i].state.up = up;
	}
	report(&sim->nodes[a]);
	report(&sim->nodes[b]);
}

/* The longest of the shortest ways between controllers, in hops. */
static int diameter(const struct sim *sim)
{
	int longest = 0;

	for (int source = 0; source < sim->count; source++) {
		int distance[NODES_MAX], queue[NODES_MAX], head = 0, tail = 0;

		memset(distance, 0xff, sizeof distance);
		distance[source] = 0;
		queue[tail++] = source;
		while (head < tail) {
			const struct node *n = &sim->nodes[queue[head++]];

			for (size_t i = 0; i < n->degree; i++)
				if (distance[n->peers[i]] < 0) {
					distance[n->peers[i]] = distance[n->index] + 1;
					queue[tail++] = n->peers[i];
				}
			if (distance[n->index] > longest)
				longest = distance[n->index];
		}
	}
	return longest;
}

static int rounds_until_settled(struct sim *sim, int most)
{
	for (int rounds = 0; rounds <= most; rounds++) {
		if (all_know_the_truth(sim))
			return rounds;
		world_run(sim->world, ROUND);
	}
	return most + 1;
}

/* ---- link states ------------------------------------------------------------------------------------- */

static void check_settling(struct sim *sim, const char *what)
{
	int across = diameter(sim), worst = 0;
	uint64_t before;

	start_all(sim);
	run(sim, 10 * NS_PER_S);
	assert_true(all_know_the_truth(sim));
	for (int i = 0; i < 10; i++) {
		struct node *n = &sim->nodes[world_random(sim->world) % (uint64_t)sim->count];
		int peer = n->peers[world_random(sim->world) % n->degree], rounds;

		before = sim->message_count;
		set_link(sim, n->index, peer, false);
		rounds = rounds_until_settled(sim, 4 * across);
		if (rounds > worst)
			worst = rounds;
		run(sim, 5 * NS_PER_S);
		/* two records, each over each connection at most once in each direction */
		assert_true(sim->message_count - before <= 2 * 2 * 2 * (uint64_t)sim->count);
		set_link(sim, n->index, peer, true);
		run(sim, 5 * NS_PER_S);
		assert_true(all_know_the_truth(sim));
	}
	print_message("%s: %d controllers, diameter %d, settled after at most %d rounds (%.2f x diameter)\n", what,
	              sim->count, across, worst, (double)worst / across);
	assert_true(worst <= 2 * across);
	sim_free(sim);
}

static void routes_settle_within_twice_the_diameter(void **state)
{
	(void)state;
	check_settling(sim_random(145, 0, 1), "backbone of 144 links");
	check_settling(sim_random(145, 45, 2), "mesh of 189 links");
	check_settling(sim_random(12, 8, 3), "metro");
}

static void all_agree_after_loss_doubling_and_delay(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 8; seed++) {
		struct sim *sim = sim_random(24, 12, seed);

		sim->lose = 25;
		sim->twice = 20;
		sim->jitter = 400;
		start_all(sim);
		for (int i = 0; i < 60; i++) {
			struct node *n = &sim->nodes[world_random(sim->world) % 24];
			size_t link = world_random(sim->world) % n->degree;

			if (world_random(sim->world) % 6 == 0 && n->controller != NULL) {
				kill_node(n);
				run(sim, world_random(sim->world) % (20 * NS_PER_S));
				start(n);
				if (world_random(sim->world) % 2)
					report(n); /* before it has met its own past, or after */
				neighbours_up(n);
			} else {
				set_link(sim, n->index, n->peers[link], world_random(sim->world) % 2);
			}
			run(sim, world_random(sim->world) % (2 * NS_PER_S));
		}
		sim->lose = 0;
		run(sim, 60 * NS_PER_S);
		assert_true(all_know_the_truth(sim));
		sim_free(sim);
	}
}

static void a_link_that_flaps_makes_no_storm(void **state)
{
	struct sim *sim = sim_random(40, 20, 4);
	struct controller_stats before, after;
	uint64_t messages;

	(void)state;
	start_all(sim);
	run(sim, 10 * NS_PER_S);
	controller_stats(sim->nodes[1].controller, &before);
	messages = sim->message_count;
	for (int i = 0; i < 1000; i++) {
		set_link(sim, 1, sim->nodes[1].peers[0], i % 2);
		world_run(sim->world, 2 * NS_PER_MS);
	}
	run(sim, 5 * NS_PER_S);
	controller_stats(sim->nodes[1].controller, &after);
	assert_in_range(after.records_made - before.records_made, 1, 22); /* 2 s, one in 100 ms */
	assert_true(sim->message_count - messages <= 2 * 22 * 2 * 59);
	assert_true(all_know_the_truth(sim));
	sim_free(sim);
}

static void refuse_states(void *arg, const char *neighbour, const struct id *trace,
                          const struct ls_record *records, size_t count, controller_states_done done, void *token)
{
	(void)neighbour;
	(void)trace;
	(void)records;
	(void)count;
	++*(int *)arg;
	done(ST_PEER_UNREACHABLE, NULL, 0, token);
}

static void accept_summary(void *arg, const char *neighbour, const struct id *trace,
                           const struct ls_edition *editions, size_t count, controller_summary_done done, void *token)
{
	(void)arg;
	(void)neighbour;
	(void)trace;
	(void)editions;
	(void)count;
	done(ST_OK, NULL, 0, token);
}

static void a_neighbour_that_fails_is_tried_once_a_second(void **state)
{
	const char *km = "a", *neighbour = "other";
	int calls = 0;
	struct controller_options o = { .name = "this", .kms = &km, .km_count = 1, .neighbours = &neighbour,
		                        .neighbour_count = 1 };
	struct controller_calls out = { .summary = accept_summary, .link_states = refuse_states, .arg = &calls };
	struct world *w = world_new(1);
	struct env *env = env_virtual_new(w);
	struct controller *c;

	(void)state;
	controller_defaults(&o);
	c = controller_new(env, &o, &out);
	controller_neighbour_up(c, "other");
	assert_int_equal(controller_link_status(c, "a", NULL, 0), ST_OK);
	world_run(w, 10 * NS_PER_S + NS_PER_MS);
	assert_in_range(calls, 10, 11);
	controller_free(c);
	env_virtual_free(env);
	world_free(w);
}

static void a_restarted_controller_learns_everything_again(void **state)
{
	struct sim *sim = sim_random(20, 6, 5);
	struct node *n = &sim->nodes[7];

	(void)state;
	start_all(sim);
	run(sim, 10 * NS_PER_S);
	for (int i = 0; i < 9; i++) { /* its KM's record gets a high number */
		set_link(sim, 7, n->peers[0], i % 2);
		run(sim, NS_PER_S);
	}
	kill_node(n);
	run(sim, 5 * NS_PER_S);
	n->links[0].state.up = true; /* its KM's news while it was away */
	start(n);
	neighbours_up(n);
	report(n);
	run(sim, 3 * NS_PER_S);
	set_link(sim, 7, n->peers[0], true);
	run(sim, 3 * NS_PER_S);
	assert_true(all_know_the_truth(sim));
	sim_free(sim);
}

static void records_of_one_that_is_gone_age_out(void **state)
{
	struct sim *sim = sim_random(10, 4, 6);
	struct controller_stats s;

	(void)state;
	start_all(sim);
	run(sim, 10 * NS_PER_S);
	kill_node(&sim->nodes[9]);
	run(sim, 900 * NS_PER_S);
	controller_stats(sim->nodes[0].controller, &s);
	assert_int_equal(s.records, 10);
	run(sim, 300 * NS_PER_S);
	controller_stats(sim->nodes[0].controller, &s);
	assert_int_equal(s.records, 9); /* and the others were refreshed in time */
	sim_free(sim);
}

static void a_silent_km_loses_its_links(void **state)
{
	struct sim *sim = sim_random(6, 2, 7);
	struct topology *t;
	struct route r;

	(void)state;
	start_all(sim);
	run(sim, 5 * NS_PER_S);
	t = controller_topology(sim->nodes[0].controller);
	assert_true(route_find(t, topology_find(t, "km5"), topology_find(t, "km0"), NULL, &r));
	for (int s = 0; s < 40; s++) {
		for (int i = 0; i < 5; i++)
			report(&sim->nodes[i]);
		world_run(sim->world, NS_PER_S);
	}
	assert_false(route_find(t, topology_find(t, "km5"), topology_find(t, "km0"), NULL, &r));
	run(sim, 5 * NS_PER_S);
	assert_true(route_find(t, topology_find(t, "km5"), topology_find(t, "km0"), NULL, &r));
	assert_true(all_know_the_truth(sim));
	sim_free(sim);
}

/*
 * Two levels, as a backbone has them: sixteen centralized controllers of nine KMs each, in a ring of
 * controllers with a few chords; every KM's links are known everywhere, and full routes cross regions.
 */
enum { REGIONS = 16, REGION_KMS = 9 };

static void start_region(struct sim *sim, int region, const char *const *names)
{
	struct node *n = &sim->nodes[region * REGION_KMS]; /* its first node stands for the controller */
	const char *neighbours[] = {
		sim->nodes[(region + 1) % REGIONS * REGION_KMS].controller_name,
		sim->nodes[(region + REGIONS - 1) % REGIONS * REGION_KMS].controller_name,
		sim->nodes[(region + REGIONS / 2) % REGIONS * REGION_KMS].controller_name,
	};
	struct controller_options o = { .name = n->controller_name, .kms = names + region * REGION_KMS,
		                        .km_count = REGION_KMS, .neighbours = neighbours,
		                        .neighbour_count = ARRAY_LEN(neighbours) };
	struct controller_calls calls = { .summary = sim_summary, .link_states = sim_link_states, .arg = n };

	controller_defaults(&o);
	n->controller = controller_new(n->env, &o, &calls);
}

static void report_regions(struct sim *sim)
{
	for (int i = 0; i < sim->count; i++) {
		const struct node *n = &sim->nodes[i];
		struct controller *c = sim->nodes[i / REGION_KMS * REGION_KMS].controller;

		assert_int_equal(controller_link_status(c, n->name, n->links, n->degree), ST_OK);
	}
}

static void region_up(struct sim *sim, int a, int b)
{
	struct node *x = &sim->nodes[a * REGION_KMS], *y = &sim->nodes[b % REGIONS * REGION_KMS];

	controller_neighbour_up(x->controller, y->controller_name);
	controller_neighbour_up(y->controller, x->controller_name);
}

static void regions_with_controllers_of_their_own_are_one_network(void **state)
{
	struct sim *sim = sim_random(REGIONS * REGION_KMS, 20, 11);
	struct route *routes = xcalloc(ROUTE_DISJOINT_MAX, sizeof *routes);
	struct controller_route_request r = { .source = "km3", .destination = "km140", .len = 1000 };
	const char *names[REGIONS * REGION_KMS];
	size_t count;

	(void)state;
	for (int i = 0; i < sim->count; i++)
		names[i] = sim->nodes[i].name;
	for (int i = 0; i < REGIONS; i++)
		start_region(sim, i, names);
	report_regions(sim);
	for (int i = 0; i < REGIONS; i++)
		region_up(sim, i, i + 1);
	for (int i = 0; i < REGIONS / 2; i++)
		region_up(sim, i, i + REGIONS / 2);
	world_run(sim->world, 5 * NS_PER_S);
	assert_true(all_know_the_truth(sim));
	assert_int_equal(controller_route(sim->nodes[0].controller, &r, routes, &count, NULL), ST_OK);
	assert_string_equal(controller_node_name(sim->nodes[0].controller, routes[0].nodes[0]), "km3");
	assert_string_equal(
		controller_node_name(sim->nodes[0].controller, routes[0].nodes[routes[0].count - 1]), "km140");
	for (size_t i = 0; i < sim->nodes[140].degree; i++) /* far away: it is cut off */
		sim->nodes[140].links[i].state.up = false;
	report_regions(sim);
	world_run(sim->world, NS_PER_S);
	assert_int_equal(controller_route(sim->nodes[0].controller, &r, routes, &count, NULL), ST_NO_ROUTE);
	free(routes);
	sim_free(sim);
}

/* ---- next hops ----------------------------------------------------------------------------------------- */

/* A relay goes hop by hop, each KM asking its own controller; refused ones are tried around. */
static bool relay(struct sim *sim, int source, int destination)
{
	const char *visited[NODES_MAX];
	size_t count = 0;
	unsigned hops_left = 0;

	for (int here = source; here != destination;) {
		struct controller_next_hop_request r = { .destination = sim->nodes[destination].name,
			                                 .visited = visited, .hops_left = hops_left, .len = 32 };
		unsigned before = hops_left;
		const char *next;

		visited[count++] = sim->nodes[here].name;
		r.visited_count = count;
		if (controller_next_hop(sim->nodes[here].controller, &r, &next, &hops_left, NULL) != ST_OK)
			return false;
		assert_true(count == 1 || hops_left < before);
		for (size_t i = 0; i < count; i++)
			assert_string_not_equal(visited[i], next);
		here = atoi(next + 2);
	}
	return true;
}

static void relays_end_while_link_states_disagree(void **state)
{
	struct sim *sim = sim_random(60, 40, 8);
	int arrived = 0, tried = 0;

	(void)state;
	sim->lose = 30;
	sim->jitter = 2000;
	start_all(sim);
	run(sim, 60 * NS_PER_S);
	for (int i = 0; i < 300; i++) {
		struct node *n = &sim->nodes[world_random(sim->world) % 60];

		set_link(sim, n->index, n->peers[world_random(sim->world) % n->degree], world_random(sim->world) % 3 > 0);
		world_run(sim->world, 20 * NS_PER_MS);
		arrived += relay(sim, (int)(world_random(sim->world) % 60), (int)(world_random(sim->world) % 60));
		tried++;
	}
	assert_false(all_know_the_truth(sim)); /* they did disagree */
	assert_true(arrived > tried / 2);
	sim->lose = 0;
	run(sim, 60 * NS_PER_S);
	assert_true(all_know_the_truth(sim));
	sim_free(sim);
}

static void only_own_kms_are_served(void **state)
{
	struct sim *sim = sim_random(3, 0, 9);
	const char *visited[] = { "km1" }, *next;
	struct controller_next_hop_request r = { .destination = "km2", .visited = visited, .visited_count = 1 };
	struct ls_record newer[CONTROLLER_RECORDS_MAX];
	unsigned hops_left;
	size_t count;

	(void)state;
	start_all(sim);
	run(sim, 2 * NS_PER_S);
	assert_int_equal(controller_next_hop(sim->nodes[0].controller, &r, &next, &hops_left, NULL), ST_DENIED);
	assert_int_equal(controller_next_hop(sim->nodes[1].controller, &r, &next, &hops_left, NULL), ST_OK);
	r.destination = "nowhere";
	assert_int_equal(controller_next_hop(sim->nodes[1].controller, &r, &next, &hops_left, NULL), ST_NO_ROUTE);
	assert_int_equal(controller_link_status(sim->nodes[0].controller, "km1", NULL, 0), ST_DENIED);
	assert_int_equal(controller_link_states(sim->nodes[0].controller, "c-km77", NULL, 0, newer, &count), ST_DENIED);
	sim_free(sim);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(routes_settle_within_twice_the_diameter),
		cmocka_unit_test(all_agree_after_loss_doubling_and_delay),
		cmocka_unit_test(a_link_that_flaps_makes_no_storm),
		cmocka_unit_test(regions_with_controllers_of_their_own_are_one_network),
		cmocka_unit_test(a_neighbour_that_fails_is_tried_once_a_second),
		cmocka_unit_test(a_restarted_controller_learns_everything_again),
		cmocka_unit_test(records_of_one_that_is_gone_age_out),
		cmocka_unit_test(a_silent_km_loses_its_links),
		cmocka_unit_test(relays_end_while_link_states_disagree),
		cmocka_unit_test(only_own_kms_are_served),
	};

	log_open("test_controller", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
