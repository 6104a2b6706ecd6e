/*
 * test_ahead_scenarios.c - keys that are taken and assigned before they are asked for: that they are supplied,
 * that few are lost where nobody asks, and that none is supplied which the destination may not have any more.
 *
 * Every test ends with sim_settle: every key that was supplied is fetched and is the same, none was supplied twice.
 */
#include "../../server/km/core.h"
#include "log.h"
#include "scenario.h"
#include "stated.h"

enum { KEY = 32, AT_ONCE = 10, SHARE = 16 };

/* Much is in stock at either. */
static struct sim *rich_pair_that(uint64_t seed, bool supplies_ahead)
{
	struct sim_options o;
	struct sim *s;

	sim_defaults(&o);
	o.limits.supply_ahead = supplies_ahead;
	o.seed = seed;
	o.nodes = 2;
	o.request_interval = 0;
	o.block_size = 16 * 1024;
	o.limits.ksa_low_water = 384 * 1024;
	o.limits.ksa_high_water = 512 * 1024;
	o.limits.fill_most = 64 * 1024;
	o.limits.link_max_stock = 1024 * 1024;
	s = sim_new(&o);
	sim_run(s, 10 * NS_PER_S);
	return s;
}

static struct sim *rich_pair(uint64_t seed)
{
	return rich_pair_that(seed, true);
}

/* The application at node 0 asks for AT_ONCE keys every millisecond, in requests of so many. */
static void steadily(struct sim *s, unsigned milliseconds, uint32_t number)
{
	for (unsigned i = 0; i < milliseconds; i++) {
		for (unsigned n = 0; n < AT_ONCE; n += number)
			sim_request(s, 0, 1, number, 8 * KEY, NS_PER_S, NULL);
		sim_run(s, NS_PER_MS);
	}
}

/* How many of so many requests are answered before anything else happens. */
static unsigned at_once(struct sim *s, unsigned requests, uint32_t number)
{
	unsigned answered = 0;
	uint32_t result;

	for (unsigned i = 0; i < requests; i++) {
		sim_request(s, 0, 1, number, 8 * KEY, NS_PER_S, &result);
		answered += result == ST_OK;
		if (result == UINT32_MAX)
			sim_run(s, NS_PER_S / 20); /* before result is another's */
	}
	return answered;
}

static struct sim_stats stats_of(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	return stats;
}

static struct ksa_pool *pool_of(struct sim *s)
{
	return ksa_pool_to(sim_core(sim_node(s, 0)), "km001");
}

static enum sim_fate count_assignments(struct sim *s, enum km_message m, const char *from, const char *to,
                                       const void *message, void *arg)
{
	(void)s;
	(void)from;
	(void)to;
	*(unsigned *)arg += m == KM_ASSIGN && ((const struct km_assign *)message)->count > 0;
	return FATE_DELIVER;
}

static void who_goes_on_asking_does_not_wait(void **state)
{
	struct sim *s = rich_pair(1);
	struct sim_stats before, after;
	unsigned assignments = 0;

	(void)state;
	assert_int_equal(at_once(s, 1, 1), 0);
	steadily(s, 200, 1);
	assert_int_equal(at_once(s, AT_ONCE, 1), AT_ONCE);
	before = stats_of(s);
	sim_set_hook(s, count_assignments, &assignments);
	steadily(s, 100, 1);
	after = stats_of(s);
	assert_in_range(after.keys - before.keys, 100 * AT_ONCE - 1, 101 * AT_ONCE);
	assert_in_range(assignments, 10, 100 * AT_ONCE / 48);
	assert_int_equal(after.bytes_voided, 0);
	end(s);
}

static void unless_it_is_told_not_to(void **state)
{
	struct sim *s = rich_pair_that(1, false);

	(void)state;
	steadily(s, 200, 1);
	assert_int_equal(at_once(s, AT_ONCE, 1), 0);
	assert_int_equal(stats_of(s).bytes_voided, 0);
	end(s);
}

/* For the same two, and keys of the same length. */
static void they_are_for_nobody_else(void **state)
{
	struct sim *s = rich_pair(2);
	uint32_t result;

	(void)state;
	steadily(s, 200, 1);
	sim_request(s, 1, 0, 1, 8 * KEY, NS_PER_S, &result);
	assert_int_equal(result, UINT32_MAX);
	sim_run(s, NS_PER_MS);
	sim_request(s, 0, 1, 1, 4 * KEY, NS_PER_S, &result);
	assert_int_equal(result, UINT32_MAX);
	sim_run(s, 20 * NS_PER_MS);
	assert_int_equal(at_once(s, 1, 1), 1);
	end(s);
}

static enum sim_fate find_most(struct sim *s, enum km_message m, const char *from, const char *to,
                               const void *message, void *arg)
{
	const struct km_assign *a = message;
	uint32_t keys = 0;

	(void)s;
	(void)from;
	(void)to;
	for (uint32_t i = 0; m == KM_ASSIGN && i < a->count; i++)
		keys += a->assignments[i].count;
	if (*(uint32_t *)arg < keys)
		*(uint32_t *)arg = keys;
	return FATE_DELIVER;
}

/* So many small keys a millisecond, in requests of 100. */
static void many_small(struct sim *s, unsigned milliseconds, unsigned requests)
{
	for (unsigned i = 0; i < milliseconds; i++) {
		for (unsigned n = 0; n < requests; n++)
			sim_request(s, 0, 1, 100, 64, NS_PER_S, NULL);
		sim_run(s, NS_PER_MS);
	}
}

/* Of small keys, too, no more are drawn at once than a message assigns, wherever they lie, and twice as many at most
 * are there. */
static void no_more_than_a_message_assigns(void **state)
{
	struct sim *s = rich_pair(9);
	uint32_t most = 0;

	(void)state;
	many_small(s, 250, 2);
	sim_set_hook(s, find_most, &most);
	many_small(s, 50, 2);
	assert_in_range(most, KM_ASSIGNMENTS_MAX, KM_ASSIGNMENTS_MAX + 200); /* requests of that millisecond may be in it */
	sim_run(s, NS_PER_S);
	assert_in_range(stats_of(s).bytes_voided, 1024 * 8, 2048 * 8);
	end(s);
}

/* What is not asked for is given up soon, no more than a sixteenth, counted, and voided at the destination. */
static void what_is_not_asked_for_is_given_up(void **state)
{
	(void)state;
	for (unsigned ms = 1; ms <= 300; ms = 3 * ms + 5) {
		struct sim *s = rich_pair(ms);
		uint64_t supplied;

		steadily(s, ms, 1);
		sim_run(s, 300 * NS_PER_MS);
		supplied = stats_of(s).keys;
		assert_int_equal(supplied, ms * AT_ONCE);
		assert_null(pool_of(s)->aheads);
		assert_in_range(stats_of(s).bytes_voided, 0, supplied * KEY / SHARE);
		assert_int_equal(stats_of(s).bytes_voided > 0, ms * AT_ONCE > 8 * SHARE);
		sim_run(s, 15 * NS_PER_S); /* what was supplied is fetched */
		assert_int_equal(sim_assigned(sim_node(s, 1)), 0);
		assert_int_equal(at_once(s, 1, 1), 0);
		end(s);
	}
}

/* Again and again, however much was asked for before: it is never more than that. */
static void bursts_lose_no_more_than_their_share(void **state)
{
	struct sim *s = rich_pair(3);

	(void)state;
	for (int i = 0; i < 40; i++) {
		steadily(s, 20, 1);
		sim_run(s, NS_PER_S);
	}
	assert_int_equal(stats_of(s).keys, 40 * 20 * AT_ONCE);
	assert_in_range(stats_of(s).bytes_voided, 1, 40 * 20 * AT_ONCE * KEY / SHARE);
	steadily(s, 40, 1);
	for (int i = 0; i < 50; i++) { /* and one now and then in between */
		steadily(s, 1, 1);
		for (int n = 0; n < 7; n++) {
			sim_run(s, 40 * NS_PER_MS);
			sim_request(s, 0, 1, 1, 8 * KEY, NS_PER_S, NULL);
		}
	}
	sim_run(s, NS_PER_S);
	assert_in_range(stats_of(s).bytes_voided, 1, stats_of(s).keys * KEY / SHARE);
	end(s);
}

/* No more than what is asked for in a moment. */
static void few_for_who_asks_for_few(void **state)
{
	struct sim *s = rich_pair(7);

	(void)state;
	steadily(s, 200, 1);
	for (int i = 0; i < 100; i++) {
		sim_request(s, 0, 1, 1, 8 * KEY, NS_PER_S, NULL);
		sim_run(s, NS_PER_MS);
	}
	sim_run(s, NS_PER_S);
	assert_in_range(stats_of(s).bytes_voided, 1, 30 * KEY); /* ten came in ten milliseconds */
	end(s);
}

/* One is asked for every millisecond: how many of 2000 are answered at once. */
static unsigned ahead_of_2000(struct sim *s, bool commits_are_slow)
{
	static uint32_t result; /* outlives the simulation */
	unsigned ahead = 0;

	for (int i = 0; i < 2000; i++) {
		if (commits_are_slow)
			sim_next_commit(sim_node(s, 0), COMMIT_SLOW);
		sim_request(s, 0, 1, 1, 8 * KEY, NS_PER_S, &result);
		ahead += result == ST_OK;
		sim_run(s, NS_PER_MS);
	}
	return ahead;
}

/* Where a commit takes long, more: they last until the next come. */
static void more_where_commits_are_slow(void **state)
{
	struct sim *s = rich_pair(11);

	(void)state;
	steadily(s, 200, 1);
	assert_in_range(ahead_of_2000(s, false), 1600, 2000);
	assert_in_range(ahead_of_2000(s, true), 1000, 2000);
	end(s);
}

static void all_at_once_and_never_again(void **state)
{
	struct sim *s = rich_pair(4);

	(void)state;
	for (int i = 0; i < 16 * 7; i++)
		sim_request(s, 0, 1, 1, 8 * KEY, NS_PER_S, NULL);
	sim_run(s, NS_PER_S);
	assert_int_equal(stats_of(s).keys, 16 * 7);
	assert_int_equal(stats_of(s).bytes_voided, 0);
	end(s);
}

/* A request gets all of its keys from those that were taken together, or none; remnants do not stay. */
static void requests_for_more_than_one(void **state)
{
	struct sim *s = rich_pair(5);

	(void)state;
	steadily(s, 300, 5);
	assert_in_range(at_once(s, 8, 5), 7, 8);
	for (int i = 0; i < 300; i++) {
		const struct sim_stats now = stats_of(s);

		steadily(s, 1, i % 2 ? 5 : 1);
		assert_in_range(now.bytes_voided, 0, now.keys * KEY / SHARE);
	}
	sim_run(s, 300 * NS_PER_MS);
	assert_null(pool_of(s)->aheads);
	assert_in_range(stats_of(s).bytes_voided, 1, stats_of(s).keys * KEY / SHARE);
	end(s);
}

static void links_down(struct sim *s, bool down)
{
	for (unsigned i = 0; i < sim_link_count(s); i++)
		sim_link_down(s, i, down);
	if (down)
		sim_run(s, NS_PER_S);
}

static void drain_to(struct sim *s, uint64_t keys)
{
	while (pool_of(s)->stock > keys * KEY) {
		sim_request(s, 0, 1, 8, 8 * KEY, NS_PER_S, NULL);
		sim_run(s, NS_PER_MS / 4);
	}
	sim_run(s, 300 * NS_PER_MS);
	assert_null(pool_of(s)->aheads);
}

/* None of so many are answered at once. */
static void none_at_once(struct sim *s, unsigned requests, uint64_t apart)
{
	static uint32_t result; /* outlives the simulation */

	for (unsigned i = 0; i < requests; i++) {
		sim_request(s, 0, 1, 1, 8 * KEY, 2 * NS_PER_S, &result);
		assert_int_equal(result, UINT32_MAX);
		sim_run(s, apart);
	}
}

/* Nothing is kept for requests that may come where little is in stock. */
static void none_where_keys_are_short(void **state)
{
	struct sim *s = rich_pair(6);

	(void)state;
	links_down(s, true);
	drain_to(s, 8 * (SHARE + SHARE));
	none_at_once(s, 8 * SHARE + 60, NS_PER_MS / 8);
	links_down(s, false);
	end(s);
}

/* ---- where others wait ----------------------------------------------------------------------------------------- */

enum { SMALL = 64 };

static void greedy_asks(void *arg);

static void greedy_answered(const struct km_answer *answer, void *arg)
{
	(void)answer;
	if (arg != NULL)
		sim_after(arg, NS_PER_MS, greedy_asks, arg);
}

static void greedy_asks(void *arg)
{
	static const struct km_key_request m = { .source = "greedy", .destination = "app1", .number = 128, .size = SMALL,
		                                 .deadline = 5 * NS_PER_S };
	struct sim *s = arg;

	km_receive(sim_core(sim_node(s, 0)), KM_KEY_REQUEST, m.source, &m, greedy_answered,
	           sim_now(s) < 14 * NS_PER_S ? s : NULL);
}

static void note_status(const struct km_answer *answer, void *arg)
{
	*(uint32_t *)arg = answer->err.status;
}

/* Whether it is answered before anything else happens. */
static bool is_ahead(struct sim *s, uint32_t priority)
{
	const struct km_key_request m = { .source = "app0", .destination = "app1", .number = 1, .size = SMALL,
		                          .deadline = 2 * NS_PER_S, .priority = priority };
	static uint32_t result; /* outlives the simulation */

	result = UINT32_MAX;
	km_receive(sim_core(sim_node(s, 0)), KM_KEY_REQUEST, m.source, &m, note_status, &result);
	return result == ST_OK;
}

/* How many of 2000 keys that are asked for beside the greedy are ahead. */
static unsigned ahead_in_turn(uint32_t priority)
{
	struct sim_options o;
	struct sim *s;
	unsigned ahead = 0;

	sim_defaults(&o);
	o.seed = 10;
	o.nodes = 2;
	o.request_interval = 0;
	s = sim_new(&o);
	sim_run(s, 10 * NS_PER_S);
	for (int i = 0; i < 500; i++)
		greedy_asks(s);
	sim_run(s, NS_PER_S);
	assert_non_null(pool_of(s)->waiting);
	for (int i = 0; i < 2000; i++) {
		ahead += is_ahead(s, priority);
		sim_run(s, NS_PER_MS);
	}
	assert_non_null(pool_of(s)->waiting);
	sim_run(s, 10 * NS_PER_S);
	assert_null(pool_of(s)->aheads);
	end(s);
	return ahead;
}

/* What is drawn ahead waits in turn with the requests of others: who goes on asking has its share, and does not wait
 * for each key. It has the priority of the application's own requests, so that this makes no difference. */
static void who_goes_on_asking_has_a_turn(void **state)
{
	unsigned ahead = ahead_in_turn(0);

	(void)state;
	assert_in_range(ahead, 300, 2000);
	assert_int_equal(ahead_in_turn(7), ahead);
	assert_int_equal(ahead_in_turn(UINT32_MAX), ahead); /* nothing is above it, nor is it the lowest */
}

/* To have waited in vain costs nothing of the right to lose keys: they are taken ahead again as soon as there are enough,
 * by who has been supplied with fewer since than would earn it. */
static void to_wait_in_vain_loses_nothing(void **state)
{
	struct sim *s = rich_pair(12);

	(void)state;
	links_down(s, true);
	drain_to(s, 100 * SHARE);
	steadily(s, 40, 1);
	sim_request(s, 0, 1, 128, 8192, NS_PER_S / 2, NULL); /* more than there is */
	for (int i = 0; i < 500; i++) {
		if (i < 30 || i % 50 == 0)
			sim_request(s, 0, 1, AT_ONCE, 8 * KEY, NS_PER_MS, NULL);
		sim_run(s, NS_PER_MS);
	}
	sim_run(s, 10 * NS_PER_MS);
	assert_null(pool_of(s)->waiting);
	steadily(s, 8, 1);
	assert_int_equal(at_once(s, 1, 1), 1);
	links_down(s, false);
	end(s);
}

/* Nor is anybody supplied so before those who have waited longer. */
static void none_where_others_wait(void **state)
{
	struct sim *s = rich_pair(8);

	(void)state;
	links_down(s, true);
	drain_to(s, 100 * SHARE);
	steadily(s, 40, 1);
	sim_request(s, 0, 1, 128, 8192, 2 * NS_PER_S, NULL); /* more than there is */
	steadily(s, 30, 1);
	none_at_once(s, 20, NS_PER_MS / 8);
	sim_run(s, 300 * NS_PER_MS);
	assert_non_null(pool_of(s)->waiting);
	assert_null(pool_of(s)->aheads); /* they do not wait for ever themselves */
	links_down(s, false);
	end(s);
}

/* ---- what the destination may not have any more --------------------------------------------------------------- */

static void none_are_supplied_once_the_destination_was_lost(void **state)
{
	struct sim *s = rich_pair(100);

	(void)state;
	for (unsigned i = 0; i < 60; i++) {
		steadily(s, 60, 1);
		for (int n = 0; n < AT_ONCE; n++)
			sim_request(s, 0, 1, 1, 8 * KEY, NS_PER_S, NULL);
		sim_run(s, i * NS_PER_MS / 10); /* some are on their way */
		sim_cut(s, 0, 1, NS_PER_S / 4);
		while (pool_of(s)->open)
			sim_run(s, NS_PER_MS / 10);
		none_at_once(s, 10, NS_PER_MS);
		sim_run(s, 3 * NS_PER_S);
		assert_true(pool_of(s)->open);
	}
	end(s);
}

/* Nor if they come to be ready while it is away. */
static void none_that_were_on_their_way_when_it_was_lost(void **state)
{
	struct sim *s = rich_pair(101);
	unsigned asked = 0;

	(void)state;
	steadily(s, 200, 1);
	sim_next_commit(sim_node(s, 0), COMMIT_SLOW);
	steadily(s, 30, 1); /* assigned there meanwhile */
	sim_cut(s, 0, 1, NS_PER_S / 50);
	while (pool_of(s)->open)
		sim_run(s, NS_PER_MS / 10);
	for (; !pool_of(s)->open; asked++)
		none_at_once(s, 1, NS_PER_MS / 2);
	assert_in_range(asked, 40, 2000);
	end(s);
}

/* An orderly stop: what comes to be ready behind it is given up at once, and stated, though there were many lines. */
static void none_are_held_by_a_key_manager_that_stops(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		struct sim *s = rich_pair(400 + i);
		uint64_t stated = stated_bytes(), lost;

		pool_of(s)->sums.burst = 0;
		steadily(s, 200 + i, 1);
		km_stop(sim_core(sim_node(s, 0)));
		sim_run(s, 50 * NS_PER_MS); /* what was on its way has come */
		lost = stats_of(s).bytes_voided;
		assert_in_range(lost, KEY, 512 * KEY);
		assert_int_equal(stated_bytes() - stated, lost);
		sim_run(s, NS_PER_S);
		assert_int_equal(stats_of(s).bytes_voided, lost);
		sim_kill(sim_node(s, 0));
		end(s);
	}
}

static void either_end_is_killed(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		struct sim *s = rich_pair(200 + i);
		struct node *victim = sim_node(s, i % 2);

		steadily(s, 200, 1);
		sim_run(s, i * NS_PER_MS / 3);
		sim_kill(victim);
		sim_run(s, 5 * NS_PER_MS);
		sim_start(victim);
		sim_run(s, 2 * NS_PER_S);
		steadily(s, 200, 1);
		assert_int_equal(at_once(s, 1, 1), 1);
		end(s);
	}
}

/* What is drawn for requests to come is lost with a commit, or fails with it, as what is drawn for others. */
static void commits_fail(void **state)
{
	static const enum sim_commit fates[] = { COMMIT_FAILS, COMMIT_LOST };

	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		struct sim *s = rich_pair(300 + i);

		steadily(s, 200 + i, 1);
		sim_next_commit(sim_node(s, 0), fates[i % 2]);
		steadily(s, 50, 1);
		if (!sim_node_is_up(sim_node(s, 0)))
			sim_start(sim_node(s, 0));
		sim_run(s, 2 * NS_PER_S);
		steadily(s, 200, 1);
		assert_int_equal(at_once(s, 1, 1), 1);
		end(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_goes_on_asking_does_not_wait),
		cmocka_unit_test(unless_it_is_told_not_to),
		cmocka_unit_test(they_are_for_nobody_else),
		cmocka_unit_test(no_more_than_a_message_assigns),
		cmocka_unit_test(what_is_not_asked_for_is_given_up),
		cmocka_unit_test(bursts_lose_no_more_than_their_share),
		cmocka_unit_test(few_for_who_asks_for_few),
		cmocka_unit_test(more_where_commits_are_slow),
		cmocka_unit_test(all_at_once_and_never_again),
		cmocka_unit_test(requests_for_more_than_one),
		cmocka_unit_test(none_where_keys_are_short),
		cmocka_unit_test(none_where_others_wait),
		cmocka_unit_test(who_goes_on_asking_has_a_turn),
		cmocka_unit_test(to_wait_in_vain_loses_nothing),
		cmocka_unit_test(none_are_supplied_once_the_destination_was_lost),
		cmocka_unit_test(none_that_were_on_their_way_when_it_was_lost),
		cmocka_unit_test(none_are_held_by_a_key_manager_that_stops),
		cmocka_unit_test(either_end_is_killed),
		cmocka_unit_test(commits_fail),
	};

	log_open("test_ahead_scenarios", LOG_LEVEL_ERROR);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
