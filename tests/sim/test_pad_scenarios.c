/* test_pad_scenarios.c - pad that is short somewhere on the way: what is lost with it, and who is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "log.h"
#include "scenario.h"

static void scarce(struct sim_options *o)
{
	o->block_interval = NS_PER_S;
	o->request_interval = 50 * NS_PER_MS;
}

static void races_for_the_last_pad(void **state)
{
	struct sim *s = network(4, SIM_LINE, SIM_DISTRIBUTED, scarce);

	(void)state;
	sim_run(s, 60 * NS_PER_S);
	end(s);
}

static void a_path_with_too_little_pad(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);
	uint32_t result;

	(void)state;
	sim_link_down(s, 1, true); /* no block any more between km001 and km002 */
	do {
		result = ask(s, 0, 2, 2 * NS_PER_S);
		sim_request(s, 1, 2, 100, 512, 2 * NS_PER_S, NULL);
	} while (result == ST_OK);
	assert_int_equal(result, ST_TOO_FEW_KEYS);
	sim_link_down(s, 1, false);
	sim_run(s, 10 * NS_PER_S);
	assert_int_equal(ask(s, 0, 2, 5 * NS_PER_S), ST_OK);
	end(s);
}

/* ---- too little pad behind the first hop: that of the hops before is lost with each relay that is sent ------- */

enum { LEAST_RELAY = 1024 + 32 };

/* The last link of a line of four makes nothing any more. */
static struct sim *line_with_a_dead_end(enum sim_control control)
{
	struct sim *s = network(4, SIM_LINE, control, on_demand);

	sim_link_down(s, 2, true);
	for (int i = 0; i < 20; i++) { /* what is left is for relays alone */
		sim_request(s, 2, 3, 100, 512, 2 * NS_PER_S, NULL);
		sim_run(s, NS_PER_S);
	}
	return s;
}

static uint64_t pad_lost(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	assert_int_equal(stats.pad_counted, stats.pad_lost); /* an operator is told */
	return stats.pad_lost + stats.pad_foreseen;
}

static void use_up(struct sim *s)
{
	uint32_t result;

	for (int i = 0; i < 100; i++) {
		result = ask_for_many(s, 0, 3, 2 * NS_PER_S);
		if (result != ST_OK)
			break;
	}
	assert_int_equal(result, ST_TOO_FEW_KEYS);
}

/* What was sent before it was told, and nothing more, however often keys are asked for. */
static void pad_is_lost_once_behind_a_dry_link(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = line_with_a_dead_end(c);
		uint64_t lost;

		use_up(s);
		assert_in_range(pad_lost(s), 2 * LEAST_RELAY, 8 * 2 * LEAST_RELAY); /* as many as are under way at once */
		use_up(s); /* there may have been enough for a shorter one */
		lost = pad_lost(s);
		assert_in_range(lost, 2 * LEAST_RELAY, 16 * 2 * LEAST_RELAY);
		for (int i = 0; i < 10; i++)
			assert_int_equal(ask_for_many(s, 0, 3, 3 * NS_PER_S), ST_TOO_FEW_KEYS);
		assert_int_equal(pad_lost(s), lost);
		assert_non_null(strstr(sim_refusal(s), "too little pad on the way: "));
		assert_non_null(strstr(sim_refusal(s), "from km002 to km003"));
		sim_link_down(s, 2, false);
		sim_run(s, 5 * NS_PER_S);
		assert_int_equal(ask_for_many(s, 0, 3, 3 * NS_PER_S), ST_OK);
		assert_int_equal(pad_lost(s), lost);
		end(s);
	}
}

/* Without a controller nobody tells: the ways that it gave are tried more and more seldom. */
static void pad_is_lost_slowly_without_a_controller(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = line_with_a_dead_end(c);
		uint64_t lost;

		use_up(s);
		lost = pad_lost(s);
		sim_kill_controller(s, SIM_ALL);
		sim_run(s, NS_PER_S);
		for (int i = 0; i < 12; i++)
			assert_int_equal(ask_for_many(s, 0, 3, 5 * NS_PER_S), ST_TOO_FEW_KEYS);
		assert_in_range(pad_lost(s) - lost, 2 * LEAST_RELAY, 12 * 3 * 2 * LEAST_RELAY);
		assert_non_null(strstr(sim_refusal(s), "at km002: too little pad is left on link km002-km003 to km003: "));
		assert_non_null(strstr(sim_refusal(s), "and 1056 are needed (the way was a remembered one"));
		end(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(races_for_the_last_pad),
		cmocka_unit_test(a_path_with_too_little_pad),
		cmocka_unit_test(pad_is_lost_once_behind_a_dry_link),
		cmocka_unit_test(pad_is_lost_slowly_without_a_controller),
	};

	log_open("test_pad_scenarios", LOG_LEVEL_FATAL);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
