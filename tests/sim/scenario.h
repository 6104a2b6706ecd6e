/* scenario.h - what the scenarios of the simulation share; for the tests alone. */
#ifndef QKDN_SIM_SCENARIO_H
#define QKDN_SIM_SCENARIO_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sim.h"

/* not every test needs all of it */
#define SCENARIO static __attribute__((unused))

/* A line (or another topology) whose pools are filled. */
SCENARIO struct sim *network(unsigned nodes, enum sim_topology topology, enum sim_control control,
                           void (*change)(struct sim_options *o))
{
	struct sim_options o;
	struct sim *s;

	sim_defaults(&o);
	o.seed = 20416;
	o.nodes = nodes;
	o.topology = topology;
	o.control = control;
	o.request_interval = 100 * NS_PER_MS;
	if (change != NULL)
		change(&o);
	s = sim_new(&o);
	sim_run(s, 10 * NS_PER_S);
	return s;
}

SCENARIO void end(struct sim *s)
{
	sim_settle(s);
	assert_int_equal(sim_violations(s), 0);
	sim_free(s);
}

/* What was lost on the way, in bytes, is no more than that. */
SCENARIO void end_with_loss(struct sim *s, uint64_t keys, uint64_t pad)
{
	struct sim_stats stats;

	sim_settle(s);
	sim_stats(s, &stats);
	assert_int_equal(sim_violations(s), 0);
	assert_in_range(stats.bytes_voided, 0, keys);
	assert_in_range(stats.pad_lost, 0, pad);
	assert_int_equal(stats.pad_unsent, 0);
	sim_free(s);
}

/* No key is stocked ahead for far nodes: each request relays. */
SCENARIO void on_demand(struct sim_options *o)
{
	o->limits.relay_ahead = false;
	o->request_interval = 0;
}

SCENARIO void with_reservations(struct sim_options *o)
{
	o->reservation = true;
}

SCENARIO uint32_t ask(struct sim *s, unsigned a, unsigned b, uint64_t wait)
{
	uint32_t result;

	sim_request(s, a, b, 1, 256, wait, &result);
	sim_run(s, wait + 5 * NS_PER_S);
	return result;
}

/* More than can be in stock on demand. */
SCENARIO uint32_t ask_for_many(struct sim *s, unsigned a, unsigned b, uint64_t wait)
{
	uint32_t result;

	sim_request(s, a, b, 60, 1024, wait, &result);
	sim_run(s, wait + 5 * NS_PER_S);
	return result;
}

/* ---- hooks: one message is the victim ---------------------------------------------------------------------- */

struct victim {
	enum km_message m;
	const char *from, *to; /* NULL: any */
	enum sim_fate fate;
	unsigned left;      /* how often */
	struct node *kill;  /* once it was sent: killed, and restarted */
	uint64_t kill_after, restart_after;
	bool cut;           /* the connection of node 0 and 1 */
	struct sim *sim;
};

SCENARIO void restart(void *arg)
{
	sim_start(((struct victim *)arg)->kill);
}

SCENARIO void kill_now(void *arg)
{
	struct victim *v = arg;

	sim_kill(v->kill);
	sim_after(v->sim, v->restart_after, restart, v);
}

SCENARIO void cut_now(void *arg)
{
	struct victim *v = arg;

	sim_cut(v->sim, 0, 1, 2 * NS_PER_S);
}

SCENARIO enum sim_fate strike(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                              void *arg)
{
	struct victim *v = arg;

	(void)message;
	if (m != v->m || v->left == 0 || (v->from != NULL && strcmp(from, v->from) != 0) ||
	    (v->to != NULL && strcmp(to, v->to) != 0))
		return FATE_DICE;
	v->left--;
	v->sim = s;
	if (v->kill != NULL)
		sim_after(s, v->kill_after, kill_now, v);
	if (v->cut)
		sim_after(s, v->kill_after, cut_now, v);
	return v->fate;
}

/* Keys by the dozen from every pool, so that all of them are filled again. */
SCENARIO void drain(struct sim *s)
{
	for (unsigned a = 0; a < 3; a++)
		for (unsigned b = 0; b < 3; b++)
			if (a != b)
				sim_request(s, a, b, 40, 2048, NS_PER_S, NULL);
}

SCENARIO void drain_pair(struct sim *s)
{
	for (unsigned a = 0; a < 2; a++)
		for (int i = 0; i < 4; i++)
			sim_request(s, a, 1 - a, 40, 2048, NS_PER_S, NULL);
}

SCENARIO void run_with(struct sim *s, struct victim *v)
{
	sim_set_hook(s, strike, v);
	for (int i = 0; i < 15; i++) {
		drain(s);
		sim_run(s, 2 * NS_PER_S);
	}
	assert_int_equal(v->left, 0); /* it has happened */
}

#endif
