/*
 * test_relay_scenarios.c - what key relay must withstand, one fault a test.
 *
 * Every test ends with sim_settle: the fault ceases, keys go on without help, every key that was supplied is
 * fetched and is the same, and the checks of every message held: no pad twice, no key twice, each request
 * answered once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "log.h"
#include "scenario.h"

/* ---- the fault-free case --------------------------------------------------------------------------------------- */

static void neighbours_share_keys(void **state)
{
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, NULL);

	(void)state;
	assert_int_equal(ask(s, 0, 1, NS_PER_S), ST_OK);
	assert_int_equal(ask(s, 1, 0, NS_PER_S), ST_OK);
	end_with_loss(s, 0, 0);
}

static void far_nodes_share_keys(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(5, SIM_LINE, c, NULL);

		assert_int_equal(ask(s, 0, 4, 2 * NS_PER_S), ST_OK);
		assert_int_equal(ask(s, 4, 0, 2 * NS_PER_S), ST_OK);
		end(s);
	}
}

static void on_demand_over_two_hops(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_DISTRIBUTED, on_demand);

	(void)state;
	assert_int_equal(ask(s, 0, 2, 2 * NS_PER_S), ST_OK);
	end_with_loss(s, 0, 0);
}

static void large(struct sim_options *o)
{
	on_demand(o);
	o->block_interval = 8 * NS_PER_S;
	o->block_size = 16 * 1024;
}

/* As much in blocks that are eight times as large, where it does not matter when they come. */
static void in_large_blocks(struct sim_options *o)
{
	on_demand(o);
	o->block_interval *= 8;
	o->block_size *= 8;
}

/* As many key managers as the largest network has that was published, all in this process: a key over each of its
 * links. */
static void over_the_144_links_of_145_nodes(void **state)
{
	struct sim *s = network(145, SIM_LINE, SIM_CENTRALIZED, large);
	struct sim_stats stats;

	(void)state;
	assert_int_equal(ask(s, 0, 144, 5 * NS_PER_S), ST_OK);
	sim_stats(s, &stats);
	assert_int_equal(stats.fetched, 1);
	assert_int_equal(stats.pad_lost, 0);
	assert_int_equal(sim_violations(s), 0);
	sim_free(s);
}

static void reservations_go_beside(void **state)
{
	struct sim *s = network(4, SIM_LINE, SIM_CENTRALIZED, with_reservations);

	(void)state;
	sim_run(s, 20 * NS_PER_S);
	end(s);
}

/* ---- links and nodes ---------------------------------------------------------------------------------------------- */

static void link_down_in_the_middle_of_a_relay(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
	struct victim v = { .m = KM_RELAY, .from = "km000", .fate = FATE_DELIVER, .left = 3, .cut = true };

	(void)state;
	run_with(s, &v);
	end(s);
}

/* That message is delivered; the node is killed so long after it was sent, and is away so long. */
static struct victim killed_at(enum km_message m, const char *from, const char *to, struct node *node, uint64_t after,
                               uint64_t away)
{
	return (struct victim){ .m = m, .from = from, .to = to, .fate = FATE_DELIVER, .left = 1, .kill = node,
		                .kill_after = after, .restart_after = away };
}

static void node_on_the_way_killed_before_forwarding(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 6; after++) { /* before it came, at its commit, when it went on */
		struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
		struct victim v = killed_at(KM_RELAY, "km000", "km001", sim_node(s, 1), after * 500 * NS_PER_US, NS_PER_S);

		run_with(s, &v);
		end(s);
	}
}

static void destination_killed_around_its_commit(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 8; after++) {
		struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
		struct victim v = killed_at(KM_RELAY, "km001", "km002", sim_node(s, 2), after * 400 * NS_PER_US, 500 * NS_PER_MS);

		run_with(s, &v);
		end(s);
	}
}

/* It has answered that it holds the same, and what makes that ready may not be durable yet: its source has keys that
 * can be supplied all the same. */
static void destination_killed_behind_its_verification(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 12; after++) {
		struct sim *s = network(3, SIM_LINE, SIM_DISTRIBUTED, on_demand);
		struct victim v = killed_at(KM_VERIFY, "km000", "km002", sim_node(s, 2), after * 400 * NS_PER_US, 500 * NS_PER_MS);

		assert_int_equal(ask(s, 0, 2, 2 * NS_PER_S), ST_OK);
		sim_set_hook(s, strike, &v);
		sim_request(s, 0, 2, 31, 256, NS_PER_S, NULL); /* one more than are left */
		sim_run(s, 5 * NS_PER_S);
		assert_int_equal(v.left, 0);
		for (int i = 0; i < 3; i++)
			assert_int_equal(ask(s, 0, 2, 2 * NS_PER_S), ST_OK);
		end(s);
	}
}

static void source_killed_in_the_middle_of_a_relay(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 5; after++) {
		struct sim *s = network(3, SIM_LINE, SIM_DISTRIBUTED, NULL);
		struct victim v = killed_at(KM_RELAY, "km000", "km001", sim_node(s, 0), after * NS_PER_MS, 500 * NS_PER_MS);

		run_with(s, &v);
		end(s);
	}
}

/* Its source gives a range up, as when a reservation lapses, while its arrival is being committed, and is killed before
 * it is void at its own end: it asks for the range again. */
struct late_void {
	struct victim kill;
	struct km_void range;
	uint64_t after;
	uint32_t answer;
};

static void void_now(void *arg)
{
	struct late_void *l = arg;

	sim_inject(l->kill.sim, KM_VOID, 0, 2, &l->range, &l->answer);
}

static enum sim_fate void_a_range_that_arrives(struct sim *s, enum km_message m, const char *from, const char *to,
                                               const void *message, void *arg)
{
	const struct km_relay *relay = message;
	struct late_void *l = arg;
	enum sim_fate fate = strike(s, m, from, to, message, &l->kill);

	if (fate == FATE_DICE)
		return FATE_DICE;
	l->range = (struct km_void){ .pool = relay->ksa_pool, .offset = relay->ksa_offset, .len = relay->len };
	sim_after(s, l->after, void_now, l);
	return fate;
}

static void a_range_is_voided_as_it_arrives(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 30; after++) {
		struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
		struct late_void l = { .kill = killed_at(KM_RELAY, "km001", "km002", sim_node(s, 0), 0, 500 * NS_PER_MS),
			               .after = after * 50 * NS_PER_US,
			               .answer = UINT32_MAX };

		sim_set_hook(s, void_a_range_that_arrives, &l);
		for (int i = 0; i < 4; i++) {
			sim_request(s, 0, 2, 40, 2048, NS_PER_S, NULL);
			sim_run(s, 2 * NS_PER_S);
		}
		assert_int_equal(l.kill.left, 0);
		assert_int_equal(l.answer, ST_OK);
		end(s);
	}
}

/* A range is lost, those behind it are verified with it, and the source is killed before it is void: the
 * destination is asked for it again, and is beyond it. */
struct lost_range {
	struct victim kill;
	uint64_t offset;
	unsigned lost, verified_behind;
};

static enum sim_fate lose_first_range(struct sim *s, enum km_message m, const char *from, const char *to,
                                      const void *message, void *arg)
{
	const struct km_relay *relay = message;
	const struct km_verify *verify = message;
	struct lost_range *l = arg;

	if (strcmp(to, "km002") != 0)
		return FATE_DICE;
	if (m == KM_RELAY && strcmp(relay->source, "km000") == 0 && l->lost == 0) {
		l->lost = 1;
		l->offset = relay->ksa_offset;
		return FATE_DROP;
	}
	if (l->lost > 0 && l->kill.left > 0 && m == KM_VERIFY && strcmp(from, "km000") == 0)
		l->verified_behind += verify->offset > l->offset;
	return strike(s, m, from, to, message, &l->kill);
}

static void range_lost_before_others_and_source_killed(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
	struct lost_range l = { .kill = { .m = KM_VOID, .from = "km000", .fate = FATE_DROP, .left = 1,
		                          .kill_after = 50 * NS_PER_MS, .restart_after = NS_PER_S } };

	(void)state;
	l.kill.kill = sim_node(s, 0);
	sim_set_hook(s, lose_first_range, &l);
	for (int i = 0; i < 15; i++) {
		drain(s);
		sim_run(s, 2 * NS_PER_S);
	}
	assert_int_equal(l.kill.left, 0);
	assert_true(l.verified_behind > 0);
	end(s);
}

/* The leader is killed when it has sent tags: at the first of each life, until few keys of the initial secret are
 * left; then at a later one of each. */
struct killed_leader {
	struct victim kill;
	unsigned lives, tags;
};

enum { LIVES = 90, LIVES_SHORT = 60 };

static enum sim_fate kill_leader(struct sim *s, enum km_message m, const char *from, const char *to,
                                 const void *message, void *arg)
{
	const struct km_link_sync *sync = message;
	struct killed_leader *l = arg;
	bool tagged = false;

	for (uint32_t i = 0; m == KM_LINK_SYNC && i < sync->count; i++)
		tagged |= sync->have[i] == KM_BLOCK_TAGGED;
	if (!tagged || l->lives == LIVES || l->tags++ < (l->lives < LIVES_SHORT ? 0 : l->lives % 6))
		return FATE_DICE;
	l->kill.left = 1;
	l->lives++;
	l->tags = 0;
	return strike(s, m, from, to, message, &l->kill);
}

/* Each kill loses the authentication keys of what was offered: they must not come to an end, however many blocks
 * wait. */
static void leader_killed_at_every_synchronization(void **state)
{
	struct killed_leader l = { .kill = { .m = KM_LINK_SYNC, .fate = FATE_DROP, .restart_after = 200 * NS_PER_MS } };
	struct sim_options o;
	struct sim *s;

	(void)state;
	sim_defaults(&o);
	o.seed = 20416;
	s = sim_new(&o);
	l.kill.kill = sim_node(s, 0);
	sim_set_hook(s, kill_leader, &l);
	sim_run(s, 90 * NS_PER_S);
	assert_int_equal(l.lives, LIVES);
	end(s);
}

/* ---- messages ------------------------------------------------------------------------------------------------------- */

static void completion_lost(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);
	struct victim v = { .m = KM_COMPLETION, .fate = FATE_DROP, .left = 1 };

	(void)state;
	sim_set_hook(s, strike, &v);
	assert_int_equal(ask(s, 0, 2, 5 * NS_PER_S), ST_OK); /* the verification tells that it is there */
	assert_int_equal(v.left, 0);
	end_with_loss(s, 0, 0);
}

/* ---- the controller ---------------------------------------------------------------------------------------------------- */

static void controller_killed_and_back(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, on_demand);

		sim_kill_controller(s, SIM_ALL);
		sim_run(s, NS_PER_S);
		assert_int_equal(ask(s, 0, 1, NS_PER_S), ST_OK); /* neighbours go on */
		assert_int_equal(ask(s, 0, 2, NS_PER_S), ST_NO_ROUTE);
		sim_start_controller(s, SIM_ALL);
		sim_run(s, 5 * NS_PER_S);
		assert_int_equal(ask(s, 0, 2, 2 * NS_PER_S), ST_OK);
		end(s);
	}
}

static void on_demand_and_forgetful(struct sim_options *o)
{
	on_demand(o);
	o->limits.route_lifetime = 60 * NS_PER_S;
}

static void reserving_and_forgetful(struct sim_options *o)
{
	o->reservation = true;
	o->request_interval = 0;
	o->limits.route_lifetime = 60 * NS_PER_S;
}

/* The simulation tells of a lost connection later than a store takes to commit. */
static void lose_controller(void *arg)
{
	km_controller_up(sim_core(sim_node(arg, 0)), false);
}

static enum sim_fate lose_while_it_reserves(struct sim *s, enum km_message m, const char *from, const char *to,
                                            const void *message, void *arg)
{
	uint64_t *after = arg;

	(void)message;
	if (*after == UINT64_MAX)
		return strncmp(from, "km", 2) != 0 || strncmp(to, "km", 2) != 0 ? FATE_DROP : FATE_DICE;
	if (m != KM_CK_RESERVATION || strcmp(to, "km000") != 0)
		return FATE_DICE;
	sim_after(s, *after, lose_controller, s);
	*after = UINT64_MAX;
	return FATE_DELIVER;
}

/* What it reserved, or was about to, keeps the ranges behind it for seconds only, not until it lapses. */
static void controller_lost_while_it_reserves(void **state)
{
	(void)state;
	for (uint64_t moment = 0; moment < 12; moment++) {
		struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, reserving_and_forgetful);
		uint64_t after = moment * 250 * NS_PER_US;

		sim_set_hook(s, lose_while_it_reserves, &after);
		for (int i = 0; i < 15; i++) { /* nothing is left of what was there before */
			sim_request(s, 0, 2, 40, 2048, NS_PER_S, NULL);
			sim_run(s, NS_PER_S / 2);
		}
		assert_int_equal(after, UINT64_MAX); /* it has happened */
		assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
		sim_set_hook(s, NULL, NULL);
		km_controller_up(sim_core(sim_node(s, 0)), true);
		end(s);
	}
}

static const uint64_t CALL_TIMEOUT = 2 * NS_PER_S;

struct reserved {
	struct sim *sim;
	bool is_reserved;
	struct km_ck_relay_id m;
	unsigned voids, beside; /* sent, none of which arrives; of these while another was not answered */
	uint64_t voided_at;
};

static void not_awaited(const struct km_answer *answer, void *arg)
{
	(void)answer;
	(void)arg;
}

static void void_it(void *arg)
{
	struct reserved *r = arg;

	km_receive(sim_core(sim_node(r->sim, 0)), KM_CK_VOID, "controller", &r->m, not_awaited, NULL);
}

static enum sim_fate reserve_and_void(struct sim *s, enum km_message m, const char *from, const char *to,
                                      const void *message, void *arg)
{
	struct reserved *r = arg;

	if (m == KM_VOID && strcmp(from, "km000") == 0) {
		r->beside += r->voids++ > 0 && sim_now(s) - r->voided_at < CALL_TIMEOUT;
		r->voided_at = sim_now(s);
		return FATE_DROP;
	}
	if (r->is_reserved && (strncmp(from, "km", 2) != 0 || strncmp(to, "km", 2) != 0))
		return FATE_DROP;
	if (m == KM_CK_RESERVATION && strcmp(to, "km000") == 0) {
		r->is_reserved = true;
		r->m.relay = ((const struct km_ck_reservation *)message)->relay;
		sim_after(s, 20 * NS_PER_MS, lose_controller, s);
		sim_after(s, 4 * NS_PER_S, void_it, r); /* it lapses a second later */
		return FATE_DELIVER;
	}
	return FATE_DICE;
}

/* A reservation that was voided does not lapse as well while the destination does not answer: of two voids, the second
 * answer would be for a range that is over. */
static void a_reservation_is_voided_once(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, reserving_and_forgetful);
	struct reserved r = { .sim = s };

	(void)state;
	sim_set_hook(s, reserve_and_void, &r);
	for (int i = 0; i < 15; i++) {
		sim_request(s, 0, 2, 40, 2048, NS_PER_S, NULL);
		sim_run(s, NS_PER_S / 2);
	}
	sim_run(s, 6 * NS_PER_S);
	assert_true(r.voids > 2);
	assert_int_equal(r.beside, 0);
	sim_set_hook(s, NULL, NULL);
	km_controller_up(sim_core(sim_node(s, 0)), true);
	end(s);
}

/* Between them the controller has given the ways over km001 and over km004. */
static struct sim *ring_that_knows_both_ways(enum sim_control control)
{
	struct sim *s = network(5, SIM_RING, control, on_demand_and_forgetful);

	assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
	sim_cut(s, 0, 1, 9 * NS_PER_S);
	sim_run(s, NS_PER_S);
	assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
	sim_run(s, 5 * NS_PER_S);
	sim_kill_controller(s, SIM_ALL);
	sim_run(s, NS_PER_S);
	return s;
}

static void ways_are_remembered_while_the_controller_is_away(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = ring_that_knows_both_ways(c);

		assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
		assert_true(km_counters(sim_core(sim_node(s, 0)))->routes_remembered > 0);
		for (unsigned to = 1; to <= 4; to += 3) { /* either neighbour is gone: the way over the other one */
			sim_cut(s, 0, to, 9 * NS_PER_S);
			sim_run(s, NS_PER_S);
			assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
			sim_run(s, 5 * NS_PER_S);
		}
		sim_cut(s, 0, 1, UINT64_MAX);
		sim_cut(s, 0, 4, UINT64_MAX);
		sim_run(s, NS_PER_S);
		assert_int_equal(ask_for_many(s, 0, 2, NS_PER_S), ST_LINK_DOWN);
		end(s);
	}
}

static void ways_are_not_remembered_for_ever(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = ring_that_knows_both_ways(c);

		sim_run(s, 60 * NS_PER_S);
		assert_int_equal(ask_for_many(s, 0, 2, NS_PER_S), ST_NO_ROUTE);
		end(s);
	}
}

/* Its own restart does not make it forget them. */
static void ways_are_remembered_by_a_restarted_km(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(4, SIM_LINE, c, on_demand_and_forgetful);

		assert_int_equal(ask_for_many(s, 0, 3, 2 * NS_PER_S), ST_OK);
		sim_kill_controller(s, SIM_ALL);
		for (unsigned i = 0; i < 2; i++) {
			sim_kill(sim_node(s, i));
			sim_start(sim_node(s, i));
		}
		sim_run(s, 3 * NS_PER_S);
		assert_int_equal(ask_for_many(s, 0, 3, 2 * NS_PER_S), ST_OK);
		assert_true(km_counters(sim_core(sim_node(s, 0)))->routes_remembered > 0);
		sim_run(s, 60 * NS_PER_S);
		assert_int_equal(ask_for_many(s, 0, 3, NS_PER_S), ST_NO_ROUTE);
		end(s);
	}
}

static bool count_note(const void *key, size_t key_len, const void *value, size_t len, void *arg)
{
	(void)key;
	(void)key_len;
	(void)value;
	(void)len;
	++*(unsigned *)arg;
	return true;
}

static enum status count_ways(struct ks_txn *t, void *arg)
{
	ks_note_each(t, "ways/", 5, count_note, arg);
	return ST_OK;
}

static void counted(enum status s, void *arg)
{
	(void)arg;
	assert_int_equal(s, ST_OK);
}

static unsigned ways_kept(struct sim *s, unsigned node)
{
	unsigned count = 0;

	ks_submit(sim_store(sim_node(s, node)), count_ways, counted, &count);
	sim_run(s, NS_PER_S);
	return count;
}

/* Notes do not pile up: a start drops those that are too old, of nodes that are no more, and keeps the others. */
static void old_ways_are_dropped_at_a_start(void **state)
{
	struct sim *s = network(4, SIM_LINE, SIM_CENTRALIZED, on_demand_and_forgetful);
	static const unsigned kept[] = { 2, 1, 0 };

	(void)state;
	assert_int_equal(ask_for_many(s, 0, 3, 2 * NS_PER_S), ST_OK);
	sim_run(s, 30 * NS_PER_S);
	assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
	sim_kill_controller(s, SIM_ALL);
	for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
		sim_kill(sim_node(s, 0));
		sim_start(sim_node(s, 0));
		sim_run(s, NS_PER_S);
		assert_int_equal(ways_kept(s, 0), kept[i]);
		sim_run(s, 30 * NS_PER_S);
	}
	end(s);
}

static void a_controller_that_answers_too_late(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct victim v = { .m = c == SIM_CENTRALIZED ? KM_CK_NOTIFICATION : KM_CK_NEXT_HOP, .fate = FATE_LATE,
			            .left = 100 };
		struct sim *s = network(5, SIM_RING, c, on_demand);

		assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
		sim_set_hook(s, strike, &v);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
		}
		assert_true(v.left < 100);
		sim_set_hook(s, NULL, NULL);
		end(s);
	}
}

static void a_refusal_is_obeyed(void **state)
{
	const struct sim_faults no = { .control_no_route = 1000 };

	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, on_demand);

		assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_OK);
		sim_set_faults(s, &no);
		assert_int_equal(ask_for_many(s, 0, 2, 2 * NS_PER_S), ST_NO_ROUTE);
		assert_int_equal(km_counters(sim_core(sim_node(s, 0)))->routes_remembered, 0);
		end(s);
	}
}

static void bad_controller(struct sim_options *o)
{
	o->faults.control_silent = 200;
	o->faults.control_stale = 500;
	o->faults.control_no_route = 200;
}

static void controller_silent_stale_or_without_a_route(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(5, SIM_RING, c, bad_controller);

		sim_link_down(s, 0, true);
		sim_cut(s, 0, 1, 20 * NS_PER_S);
		sim_run(s, 30 * NS_PER_S);
		end(s);
	}
}

static void no_path(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);

	(void)state;
	sim_link_down(s, 1, true);
	sim_cut(s, 1, 2, UINT64_MAX);
	sim_run(s, NS_PER_S);
	assert_int_equal(ask(s, 0, 2, 2 * NS_PER_S), ST_NO_ROUTE);
	end(s);
}

/* ---- ways that are foreseen -------------------------------------------------------------------------------------- */

/* Of the source: when it has asked for a way last, when it has sent a relay, and to whom. */
struct departures {
	struct victim v;
	uint64_t asked_at, sent_at;
	char to[NAME_MAX_LEN + 1];
};

static bool is_question(enum km_message m)
{
	return m == KM_CK_NEXT_HOP || m == KM_CK_NOTIFICATION;
}

static enum sim_fate watch_departures(struct sim *s, enum km_message m, const char *from, const char *to,
                                      const void *message, void *arg)
{
	struct departures *d = arg;

	if (strcmp(from, "km000") == 0 && is_question(m))
		d->asked_at = sim_now(s);
	if (strcmp(from, "km000") == 0 && m == KM_RELAY) {
		d->sent_at = sim_now(s);
		strcpy(d->to, to);
	}
	return strike(s, is_question(m) ? KM_CK_NEXT_HOP : m, from, to, message, &d->v);
}

static uint64_t departs_after(struct sim *s, struct departures *d, unsigned to)
{
	d->asked_at = d->sent_at = 0;
	assert_int_equal(ask_for_many(s, 0, to, 3 * NS_PER_S), ST_OK);
	assert_true(d->asked_at > 0 && d->sent_at >= d->asked_at);
	return d->sent_at - d->asked_at;
}

/* The controller has given the way so often that it is foreseen. */
static void is_steady(struct sim *s, struct departures *d)
{
	for (int i = 0; i < 10; i++)
		departs_after(s, d, 2);
}

static uint64_t pad_foreseen(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	return stats.pad_foreseen;
}

/* As many keys as one relay of the smallest size brings on demand. */
static uint32_t ask_for_a_relay(struct sim *s)
{
	uint32_t result;

	sim_request(s, 0, 2, 32, 256, NS_PER_S, &result);
	sim_run(s, 6 * NS_PER_S);
	return result;
}

/* What has to be durable is, when the controller answers; and nothing leaves before it has. */
static void a_way_is_foreseen(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, on_demand);
		struct departures d = { .v = { .m = KM_CK_NEXT_HOP, .from = "km000", .fate = FATE_DROP } };
		uint64_t first;

		sim_set_hook(s, watch_departures, &d);
		first = departs_after(s, &d, 2);
		is_steady(s, &d);
		assert_true(departs_after(s, &d, 2) < first);
		d.v.left = 1;
		assert_true(departs_after(s, &d, 2) >= NS_PER_S / 2);
		assert_int_equal(d.v.left, 0);
		assert_int_equal(pad_foreseen(s), 0);
		end_with_loss(s, 0, 0);
	}
}

static void another_way_than_foreseen(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(4, SIM_RING, c, on_demand);
		struct departures d = { .v = { .left = 0 } };
		uint64_t lost;

		sim_set_hook(s, watch_departures, &d);
		sim_cut(s, 0, 3, 90 * NS_PER_S);
		sim_run(s, 5 * NS_PER_S);
		is_steady(s, &d);
		assert_string_equal(d.to, "km001");
		sim_cut(s, 1, 2, UINT64_MAX);
		sim_run(s, 20 * NS_PER_S);
		departs_after(s, &d, 2);
		assert_string_equal(d.to, "km003");
		lost = pad_foreseen(s);
		assert_in_range(lost, 1056, 16 * 1024); /* one relay's */
		for (int i = 0; i < 3; i++)
			departs_after(s, &d, 2);
		assert_int_equal(pad_foreseen(s), lost);
		end_with_loss(s, 0, 0);
	}
}

static void a_way_is_foreseen_and_refused(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, on_demand);
		struct departures d = { .v = { .left = 0 } };
		uint64_t lost;

		sim_set_hook(s, watch_departures, &d);
		is_steady(s, &d);
		sim_cut(s, 1, 2, 20 * NS_PER_S);
		sim_run(s, 5 * NS_PER_S);
		assert_int_equal(ask_for_many(s, 0, 2, NS_PER_S), ST_NO_ROUTE);
		lost = pad_foreseen(s);
		assert_in_range(lost, 1056, 16 * 1024);
		assert_int_equal(ask_for_many(s, 0, 2, NS_PER_S), ST_NO_ROUTE);
		assert_int_equal(pad_foreseen(s), lost);
		sim_run(s, 20 * NS_PER_S);
		departs_after(s, &d, 2);
		assert_int_equal(pad_foreseen(s), lost);
		end_with_loss(s, 0, 0);
	}
}

/* The controller takes the question for one about another destination. */
static enum sim_fate mislead(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                             void *arg)
{
	(void)s;
	(void)from;
	(void)to;
	(void)arg;
	if (m == KM_CK_NOTIFICATION)
		((struct km_ck_notification *)message)->destination = "km001";
	return FATE_DELIVER;
}

/* An answer that is of no use is another than was foreseen, too. */
static void a_way_is_foreseen_and_is_unsound(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);
	struct departures d = { .v = { .left = 0 } };
	uint64_t lost;

	(void)state;
	sim_set_hook(s, watch_departures, &d);
	is_steady(s, &d);
	sim_set_hook(s, mislead, NULL);
	assert_int_equal(ask_for_many(s, 0, 2, NS_PER_S), ST_NO_ROUTE);
	lost = pad_foreseen(s);
	assert_in_range(lost, 1056, 16 * 1024);
	assert_int_equal(ask_for_many(s, 0, 2, NS_PER_S), ST_NO_ROUTE);
	assert_int_equal(pad_foreseen(s), lost);
	end_with_loss(s, 0, 0);
}

/* The controller refuses next: pad that was spent before it has said so is lost. */
static void refused_without_loss(struct sim *s)
{
	uint64_t lost = pad_foreseen(s);

	sim_cut(s, 1, 2, 20 * NS_PER_S);
	sim_run(s, 5 * NS_PER_S);
	assert_int_equal(ask_for_a_relay(s), ST_NO_ROUTE);
	assert_int_equal(pad_foreseen(s), lost);
	sim_run(s, 20 * NS_PER_S);
	assert_int_equal(ask_for_a_relay(s), ST_OK); /* there was enough for one */
}

/* A way that was given a few times only may change as well. */
static void a_new_way_is_not_foreseen(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, on_demand);

		for (int i = 0; i < 5; i++)
			assert_int_equal(ask_for_a_relay(s), ST_OK);
		refused_without_loss(s);
		end_with_loss(s, 0, 0);
	}
}

/* Where little pad is left, none of it is spent before the controller has said for what. */
static void nothing_is_foreseen_with_little_pad(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, on_demand);

		sim_link_down(s, 0, true);
		while (ask_for_many(s, 0, 2, 3 * NS_PER_S) == ST_OK)
			;
		while (ask_for_a_relay(s) == ST_OK)
			;
		sim_link_down(s, 0, false);
		sim_run(s, 400 * NS_PER_MS); /* eight blocks */
		sim_link_down(s, 0, true);
		refused_without_loss(s);
		end(s);
	}
}

/* Its pads are durable as spent, or not yet, the controller has answered, or not. */
static void killed_while_a_way_is_asked_for(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3 * 10; i++) {
		enum sim_control c = i % 3 == 0 ? SIM_CENTRALIZED : SIM_DISTRIBUTED;
		struct sim *s = network(3, SIM_LINE, c, in_large_blocks);
		struct departures d = { .v = killed_at(KM_CK_NEXT_HOP, i % 3 == 2 ? "km001" : "km000", NULL,
		                                       sim_node(s, i % 3 == 2 ? 1 : 0), i / 3 * 250 * NS_PER_US, 500 * NS_PER_MS) };

		d.v.left = 0;
		sim_set_hook(s, watch_departures, &d);
		is_steady(s, &d);
		d.v.left = 1;
		ask_for_many(s, 0, 2, 3 * NS_PER_S);
		assert_int_equal(d.v.left, 0);
		for (int k = 0; k < 3; k++)
			assert_int_equal(ask_for_many(s, 0, 2, 3 * NS_PER_S), ST_OK);
		end(s);
	}
}

static void in_two_ranges(struct sim_options *o)
{
	on_demand(o);
	o->limits.fill_most = 2048;
}

/* A request on demand is answered with as few ranges as hold its keys: what verifies a range is no key of it. */
static void as_many_ranges_as_a_request_needs(void **state)
{
	enum { KEYS = 2 * (2048 - 32) / 32 };
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, in_two_ranges);
	const struct km_counters *c = km_counters(sim_core(sim_node(s, 0)));
	uint64_t before = c->relays_sent;
	uint32_t result;

	(void)state;
	sim_request(s, 0, 2, KEYS, 256, 5 * NS_PER_S, &result);
	sim_run(s, 5 * NS_PER_S);
	assert_int_equal(result, ST_OK);
	assert_int_equal(c->relays_sent - before, 2);
	end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(neighbours_share_keys),
		cmocka_unit_test(far_nodes_share_keys),
		cmocka_unit_test(on_demand_over_two_hops),
		cmocka_unit_test(over_the_144_links_of_145_nodes),
		cmocka_unit_test(reservations_go_beside),
		cmocka_unit_test(link_down_in_the_middle_of_a_relay),
		cmocka_unit_test(node_on_the_way_killed_before_forwarding),
		cmocka_unit_test(destination_killed_around_its_commit),
		cmocka_unit_test(destination_killed_behind_its_verification),
		cmocka_unit_test(source_killed_in_the_middle_of_a_relay),
		cmocka_unit_test(a_range_is_voided_as_it_arrives),
		cmocka_unit_test(range_lost_before_others_and_source_killed),
		cmocka_unit_test(leader_killed_at_every_synchronization),
		cmocka_unit_test(completion_lost),
		cmocka_unit_test(controller_killed_and_back),
		cmocka_unit_test(controller_lost_while_it_reserves),
		cmocka_unit_test(a_reservation_is_voided_once),
		cmocka_unit_test(ways_are_remembered_while_the_controller_is_away),
		cmocka_unit_test(ways_are_not_remembered_for_ever),
		cmocka_unit_test(ways_are_remembered_by_a_restarted_km),
		cmocka_unit_test(old_ways_are_dropped_at_a_start),
		cmocka_unit_test(a_controller_that_answers_too_late),
		cmocka_unit_test(a_refusal_is_obeyed),
		cmocka_unit_test(controller_silent_stale_or_without_a_route),
		cmocka_unit_test(no_path),
		cmocka_unit_test(a_way_is_foreseen),
		cmocka_unit_test(another_way_than_foreseen),
		cmocka_unit_test(a_way_is_foreseen_and_refused),
		cmocka_unit_test(a_way_is_foreseen_and_is_unsound),
		cmocka_unit_test(a_new_way_is_not_foreseen),
		cmocka_unit_test(nothing_is_foreseen_with_little_pad),
		cmocka_unit_test(killed_while_a_way_is_asked_for),
		cmocka_unit_test(as_many_ranges_as_a_request_needs),
	};

	log_open("test_relay_scenarios", LOG_LEVEL_FATAL);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
