/*
 * test_share_scenarios.c - relays in shares over disjoint routes: what they must withstand, one fault a test, and
 * the staging of shares by itself.
 *
 * The simulation holds all along that no node between the ends has anything to do with two shares of a range, and
 * at the end that no share is left anywhere.
 */
#include "../../server/km/core.h"
#include "scenario.h"

/* ---- a network of it -------------------------------------------------------------------------------------------- */

static const enum sim_control controls[] = { SIM_CENTRALIZED, SIM_DISTRIBUTED };

/* Ring of five: km000 has km002 behind km001, and behind km004 and km003. */
static struct sim *network_of_five(enum sim_topology topology, enum sim_control control, bool required)
{
	struct sim_options o;
	struct sim *s;

	sim_defaults(&o);
	o.seed = 20416;
	o.nodes = 5;
	o.topology = topology;
	o.control = control;
	o.block_interval = 150 * NS_PER_MS;
	o.limits.relay_ahead = false;
	o.limits.shares = 2;
	o.limits.shares_required = required;
	s = sim_new(&o);
	sim_run(s, 10 * NS_PER_S);
	return s;
}

static uint32_t ask_far(struct sim *s, uint64_t wait)
{
	return ask_for_many(s, 0, 2, wait);
}

static uint64_t shares_passed(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	return stats.shares;
}

static void keys_go_over_two_ways(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(controls); i++) {
		struct sim *s = network_of_five(SIM_RING, controls[i], true);

		assert_int_equal(ask_far(s, 2 * NS_PER_S), ST_OK);
		assert_true(shares_passed(s) > 0);
		assert_int_equal(km_counters(sim_core(sim_node(s, 2)))->relays_refused, 0);
		end(s);
	}
}

/* Nothing is on its way before it has. */
static void the_controller_has_not_answered_yet(void **state)
{
	struct sim *s = network_of_five(SIM_RING, SIM_CENTRALIZED, true);
	struct victim v = { .m = KM_CK_NOTIFICATION, .fate = FATE_LATE, .left = 1000 };

	(void)state;
	sim_set_hook(s, strike, &v);
	assert_int_equal(ask_far(s, NS_PER_S), ST_PEER_UNREACHABLE);
	assert_non_null(strstr(sim_refusal(s), "the controller has not answered which way"));
	sim_set_hook(s, NULL, NULL);
	end(s);
}

/* A message of a relay in shares fails; then keys go on, and nothing is left of it. */
static void with_victim(struct victim v, unsigned kill)
{
	struct sim *s = network_of_five(SIM_RING, SIM_CENTRALIZED, true);

	if (v.restart_after > 0)
		v.kill = sim_node(s, kill);
	sim_set_hook(s, strike, &v);
	ask_far(s, 5 * NS_PER_S);
	assert_int_equal(v.left, 0);
	sim_set_hook(s, NULL, NULL);
	sim_run(s, 5 * NS_PER_S);
	assert_int_equal(ask_far(s, 5 * NS_PER_S), ST_OK);
	end(s);
}

static void a_share_is_lost_or_late(void **state)
{
	static const char *const hops[][2] = { { "km000", "km001" }, { "km004", "km003" }, { "km003", "km002" } };
	static const enum sim_fate fates[] = { FATE_DROP, FATE_DROP_ANSWER, FATE_TWICE, FATE_LATE };

	(void)state;
	for (size_t f = 0; f < ARRAY_LEN(fates); f++)
		for (size_t i = 0; i < ARRAY_LEN(hops); i++)
			with_victim((struct victim){ .m = KM_RELAY, .from = hops[i][0], .to = hops[i][1], .fate = fates[f],
			                             .left = 1 }, 0);
}

static void completion_or_void_lost_or_twice(void **state)
{
	static const enum sim_fate fates[] = { FATE_DROP, FATE_DROP_ANSWER, FATE_TWICE, FATE_LATE };

	(void)state;
	for (size_t f = 0; f < ARRAY_LEN(fates); f++)
		with_victim((struct victim){ .m = KM_COMPLETION, .from = "km002", .fate = fates[f], .left = 1 }, 0);
}

struct lost_and_voided {
	struct victim share, voided;
};

static enum sim_fate strike_both(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                                 void *arg)
{
	struct lost_and_voided *v = arg;

	return strike(s, m, from, to, message, m == KM_VOID ? &v->voided : &v->share);
}

static void voids_lost_or_twice(void **state)
{
	static const enum sim_fate fates[] = { FATE_DROP, FATE_DROP_ANSWER, FATE_TWICE, FATE_LATE };

	(void)state;
	for (size_t f = 0; f < ARRAY_LEN(fates); f++) {
		struct sim *s = network_of_five(SIM_RING, SIM_CENTRALIZED, true);
		struct lost_and_voided v = { .share = { .m = KM_RELAY, .from = "km003", .to = "km002", .fate = FATE_DROP, .left = 1 },
			                     .voided = { .m = KM_VOID, .from = "km000", .fate = fates[f], .left = 1 } };

		sim_set_hook(s, strike_both, &v);
		ask_far(s, 5 * NS_PER_S);
		sim_run(s, 20 * NS_PER_S);
		assert_int_equal(v.voided.left, 0);
		sim_set_hook(s, NULL, NULL);
		assert_int_equal(ask_far(s, 5 * NS_PER_S), ST_OK);
		end(s);
	}
}

/* One of two shares never comes, nor is it said that the range is void: what waits is given up when its time is over. */
static enum sim_fate lose_all(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                              void *arg)
{
	(void)s;
	(void)message;
	(void)arg;
	return m == KM_VOID || (m == KM_RELAY && strcmp(from, "km003") == 0 && strcmp(to, "km002") == 0) ? FATE_DROP : FATE_DICE;
}

static void shares_that_wait_in_vain_are_counted(void **state)
{
	struct sim *s = network_of_five(SIM_RING, SIM_CENTRALIZED, true);
	const struct km_counters *c = km_counters(sim_core(sim_node(s, 2)));
	uint64_t before = c->bytes_voided;

	(void)state;
	sim_set_hook(s, lose_all, NULL);
	ask_far(s, 2 * NS_PER_S);
	sim_run(s, 15 * NS_PER_S);
	sim_set_hook(s, NULL, NULL);
	assert_in_range(c->bytes_voided - before, FILL_LEAST, UINT64_MAX);
	end(s);
}

static void a_way_goes_down_midway(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 4; after++)
		with_victim((struct victim){ .m = KM_RELAY, .from = "km000", .to = "km004", .fate = FATE_DELIVER, .left = 1,
		                             .cut = true, .kill_after = after * 500 * NS_PER_US }, 0);
}

static void a_node_is_killed(unsigned which, const char *from, const char *to)
{
	for (unsigned after = 0; after < 4; after++)
		with_victim((struct victim){ .m = KM_RELAY, .from = from, .to = to, .fate = FATE_DELIVER, .left = 1,
		                             .kill_after = after * 800 * NS_PER_US, .restart_after = 500 * NS_PER_MS }, which);
}

static void destination_killed_around_joining(void **state)
{
	(void)state;
	a_node_is_killed(2, "km001", "km002");
	a_node_is_killed(2, "km003", "km002");
}

static void source_killed_between_its_shares(void **state)
{
	(void)state;
	a_node_is_killed(0, "km000", "km001");
	a_node_is_killed(0, "km003", "km002");
}

static void node_on_a_way_killed(void **state)
{
	(void)state;
	a_node_is_killed(4, "km000", "km004");
}

static void forged_replayed_and_misled(void **state)
{
	const struct sim_faults f = { .forge = 300, .replay = 400, .wrong_hop = 300 };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(controls); i++) {
		struct sim *s = network_of_five(SIM_RING, controls[i], true);
		struct sim_stats stats;

		sim_set_faults(s, &f);
		for (int n = 0; n < 20; n++)
			ask_far(s, NS_PER_S);
		sim_stats(s, &stats);
		assert_true(stats.forged > 10 && stats.replayed > 0);
		assert_int_equal(stats.forged_accepted, 0);
		end(s);
	}
}

static void too_few_ways(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(controls); i++) {
		struct sim *s = network_of_five(SIM_LINE, controls[i], true);

		assert_int_equal(ask_far(s, 2 * NS_PER_S), ST_NO_ROUTE);
		assert_int_equal(shares_passed(s), 0);
		assert_int_equal(km_counters(sim_core(sim_node(s, 0)))->relays_sent, 0);
		sim_free(s); /* nor would the others get keys */
		s = network_of_five(SIM_LINE, controls[i], false);
		assert_int_equal(ask_far(s, 2 * NS_PER_S), ST_OK);
		assert_int_equal(shares_passed(s), 0);
		end(s);
		s = network_of_five(SIM_RING, controls[i], true);
		sim_cut(s, 0, 1, UINT64_MAX);
		sim_run(s, NS_PER_S);
		assert_int_equal(ask_far(s, 2 * NS_PER_S), ST_NO_ROUTE);
		end(s);
	}
}

static void routes_are_remembered_for_shares(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(controls); i++) {
		struct sim *s = network_of_five(SIM_RING, controls[i], true);
		uint64_t before;

		assert_int_equal(ask_far(s, 2 * NS_PER_S), ST_OK);
		sim_kill_controller(s, SIM_ALL);
		sim_run(s, NS_PER_S);
		before = shares_passed(s);
		assert_int_equal(ask_far(s, 2 * NS_PER_S), ST_OK);
		assert_true(shares_passed(s) > before);
		sim_cut(s, 0, 1, UINT64_MAX);
		sim_run(s, NS_PER_S);
		assert_int_equal(ask_far(s, 2 * NS_PER_S), ST_NO_ROUTE);
		end(s);
	}
}

/* ---- staging by itself ------------------------------------------------------------------------------------------ */

enum { LEN = 96, OFFSET = 4096 };

struct bench {
	struct world *world;
	struct env *env;
	struct ks *ks;
	struct id pool, group;
	uint8_t range[LEN], shares[3][LEN];
};

typedef enum status step(struct ks_txn *t, struct bench *b);

struct stepping {
	struct bench *b;
	step *do_it;
	enum status result;
};

static enum status step_work(struct ks_txn *t, void *arg)
{
	struct stepping *s = arg;

	return s->result = s->do_it(t, s->b);
}

static void step_done(enum status s, void *arg)
{
	assert_int_equal(s, ((struct stepping *)arg)->result);
}

static enum status run_step(struct bench *b, step *do_it)
{
	struct stepping s = { b, do_it, ST_INTERNAL };

	ks_submit(b->ks, step_work, step_done, &s);
	world_run(b->world, NS_PER_MS);
	return s.result;
}

static enum status make_pool(struct ks_txn *t, struct bench *b)
{
	const struct ks_pool_desc d = { .id = b->pool, .kind = KS_POOL_KSA, .source = "s", .destination = "d" };

	return ks_pool_create(t, &d);
}

static int bench_new(void **state)
{
	struct bench *b = xcalloc(1, sizeof *b);
	struct ks_options o = { .backend = KS_MEMORY, .inline_writer = true };
	struct err e;

	b->world = world_new(1);
	o.env = b->env = env_virtual_new(b->world);
	assert_int_equal(ks_open(&b->ks, &o, &e), ST_OK);
	env_random(b->env, &b->pool, sizeof b->pool);
	env_random(b->env, &b->group, sizeof b->group);
	env_random(b->env, b->shares, sizeof b->shares);
	for (int i = 0; i < LEN; i++)
		b->range[i] = b->shares[0][i] ^ b->shares[1][i] ^ b->shares[2][i];
	assert_int_equal(run_step(b, make_pool), ST_OK);
	*state = b;
	return 0;
}

static int bench_free(void **state)
{
	struct bench *b = *state;

	ks_close(b->ks);
	env_virtual_free(b->env);
	world_free(b->world);
	free(b);
	return 0;
}

/* Share number share of three over s - via - d, of the bytes of that number; -1: it joined. */
static int keep_of(struct ks_txn *t, struct bench *b, uint32_t share, uint32_t bytes, const char *via)
{
	const char *nodes[] = { "s", via, "d" };
	const struct km_relay m = { .group = b->group, .source = "s", .destination = "d", .ksa_pool = b->pool,
		                    .ksa_offset = OFFSET, .share = share, .shares = 3, .route = { 3, nodes }, .expires = 1000,
		                    .len = LEN };
	struct secret text = { b->shares[bytes], LEN };
	bool joined = false;
	enum status s = share_keep(t, &m, &text, &joined);

	assert_true(s == ST_OK || !joined);
	return joined ? -1 : (int)s;
}

static int staged(struct ks_txn *t, struct bench *b)
{
	int bytes = 0;

	for (uint32_t i = 0; i < KM_SHARES_MAX; i++) {
		struct id id = b->pool;
		struct ks_pool pool;

		id.bytes[ID_LEN - 1] ^= (uint8_t)(0x80 | i);
		if (ks_pool_get(t, &id, &pool) == ST_OK)
			bytes += (int)(pool.stock + pool.unready);
	}
	return bytes;
}

static bool is_range_there(struct ks_txn *t, struct bench *b)
{
	struct secret range = { NULL, 0 };
	bool there = ks_read(t, &b->pool, OFFSET, LEN, &range) == ST_OK && memcmp(range.bytes, b->range, LEN) == 0;

	secret_free(&range);
	return there;
}

static enum status two_of_three(struct ks_txn *t, struct bench *b)
{
	assert_int_equal(keep_of(t, b, 2, 2, "x"), ST_OK);
	assert_int_equal(keep_of(t, b, 0, 0, "y"), ST_OK);
	assert_int_equal(staged(t, b), 2 * LEN);
	assert_false(is_range_there(t, b));
	return ST_OK;
}

static enum status the_third(struct ks_txn *t, struct bench *b)
{
	assert_int_equal(keep_of(t, b, 1, 1, "z"), -1);
	assert_int_equal(staged(t, b), 0);
	assert_true(is_range_there(t, b));
	assert_int_equal(keep_of(t, b, 0, 0, "y"), -1); /* again, behind the last: told again, not stored */
	assert_int_equal(staged(t, b), 0);
	return ST_OK;
}

static void joined_with_the_last(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_step(b, two_of_three), ST_OK);
	assert_int_equal(run_step(b, the_third), ST_OK); /* in another commit */
}

static enum status others_refused(struct ks_txn *t, struct bench *b)
{
	assert_int_equal(keep_of(t, b, 2, 2, "x"), ST_OK);       /* the same again */
	assert_int_equal(keep_of(t, b, 2, 1, "x"), ST_CONFLICT); /* other bytes under its number */
	assert_int_equal(keep_of(t, b, 1, 1, "x"), ST_DENIED);   /* over a node that has passed another */
	assert_int_equal(keep_of(t, b, 1, 1, "y"), ST_DENIED);
	b->group.bytes[0] ^= 1;
	assert_int_equal(keep_of(t, b, 1, 1, "z"), ST_CONFLICT); /* of another group */
	b->group.bytes[0] ^= 1;
	assert_int_equal(staged(t, b), 2 * LEN);
	return the_third(t, b);
}

static void another_share_cannot_be_claimed(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_step(b, two_of_three), ST_OK);
	assert_int_equal(run_step(b, others_refused), ST_OK);
}

static enum status void_twice(struct ks_txn *t, struct bench *b)
{
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ks_void(t, &b->pool, OFFSET, LEN, NULL), ST_OK);
		assert_int_equal(shares_void(t, &b->pool, OFFSET, LEN), ST_OK);
		assert_int_equal(staged(t, b), 0);
	}
	return ST_OK;
}

static enum status late_first(struct ks_txn *t, struct bench *b)
{
	return (enum status)keep_of(t, b, 2, 2, "x");
}

static enum status late_other(struct ks_txn *t, struct bench *b)
{
	assert_int_equal(keep_of(t, b, 1, 1, "z"), ST_OK); /* that its number was voided nobody knew */
	return ST_OK;
}

static enum status lapse(struct ks_txn *t, struct bench *b)
{
	uint64_t bytes = 0;

	assert_int_equal(shares_expire(t, 999, &bytes), ST_OK);
	assert_int_equal(bytes, 0);
	assert_int_equal(shares_expire(t, 1000, &bytes), ST_OK);
	assert_int_equal(staged(t, b), 0);
	return bytes > 0 ? ST_OK : ST_NOT_FOUND;
}

static void void_twice_and_late(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_step(b, two_of_three), ST_OK);
	assert_int_equal(run_step(b, void_twice), ST_OK);
	assert_int_equal(run_step(b, late_first), ST_KEY_GONE);
	assert_int_equal(run_step(b, late_other), ST_OK);
	assert_int_equal(run_step(b, lapse), ST_OK);
}

static void wiped_when_its_time_is_over(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_step(b, two_of_three), ST_OK);
	assert_int_equal(run_step(b, lapse), ST_OK);
	assert_int_equal(run_step(b, lapse), ST_NOT_FOUND);
	assert_int_equal(run_step(b, late_first), ST_KEY_GONE);
}

static enum status settle(struct ks_txn *t, struct bench *b)
{
	assert_int_equal(shares_settle(t, &b->pool, OFFSET + LEN), ST_OK);
	assert_int_equal(shares_settle(t, &b->pool, OFFSET), ST_OK); /* behind it: nothing to do */
	assert_int_equal(staged(t, b), 0);
	return ST_OK;
}

static enum status retire(struct ks_txn *t, struct bench *b)
{
	uint64_t bytes = 0, held = (uint64_t)staged(t, b);

	assert_int_equal(ks_pool_retire(t, &b->pool), ST_OK);
	assert_int_equal(shares_retire(t, &b->pool, &bytes), ST_OK);
	assert_int_equal(bytes, held);
	assert_int_equal(shares_retire(t, &b->pool, &bytes), ST_OK);
	assert_int_equal(bytes, held);
	assert_int_equal(staged(t, b), 0);
	return held > 0 ? ST_OK : ST_NOT_FOUND;
}

static void gone_with_what_is_ready_and_with_the_pool(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_step(b, two_of_three), ST_OK);
	assert_int_equal(run_step(b, settle), ST_OK);
	assert_int_equal(run_step(b, retire), ST_NOT_FOUND);
	assert_int_equal(run_step(b, late_first), ST_KEY_GONE);
}

static void given_up_with_the_pool(void **state)
{
	struct bench *b = *state;

	assert_int_equal(run_step(b, two_of_three), ST_OK);
	assert_int_equal(run_step(b, retire), ST_OK);
}

#define STAGING(test) cmocka_unit_test_setup_teardown(test, bench_new, bench_free)

int main(void)
{
	const struct CMUnitTest tests[] = {
		STAGING(joined_with_the_last),
		STAGING(another_share_cannot_be_claimed),
		STAGING(void_twice_and_late),
		STAGING(wiped_when_its_time_is_over),
		STAGING(gone_with_what_is_ready_and_with_the_pool),
		STAGING(given_up_with_the_pool),
		cmocka_unit_test(keys_go_over_two_ways),
		cmocka_unit_test(the_controller_has_not_answered_yet),
		cmocka_unit_test(a_share_is_lost_or_late),
		cmocka_unit_test(completion_or_void_lost_or_twice),
		cmocka_unit_test(voids_lost_or_twice),
		cmocka_unit_test(shares_that_wait_in_vain_are_counted),
		cmocka_unit_test(a_way_goes_down_midway),
		cmocka_unit_test(destination_killed_around_joining),
		cmocka_unit_test(source_killed_between_its_shares),
		cmocka_unit_test(node_on_a_way_killed),
		cmocka_unit_test(forged_replayed_and_misled),
		cmocka_unit_test(too_few_ways),
		cmocka_unit_test(routes_are_remembered_for_shares),
	};

	log_open("test_share_scenarios", LOG_LEVEL_FATAL);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
