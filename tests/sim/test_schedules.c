/* test_schedules.c - random schedules of all faults, by their seeds: the same each time, on every machine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "log.h"
#include "sim.h"

/* nodes: 0 and topology: -1: from the seed. */
static unsigned network_fails(uint64_t seed, unsigned nodes, int topology)
{
	struct sim_schedule o = { .seed = seed, .nodes = nodes, .topology = topology, .faulty_ns = 30 * NS_PER_S };
	struct sim_stats stats;

	if (sim_schedule_run(&o, &stats) == 0)
		return 0;
	print_error("FAILED: tests/sim/sim --seed %llu, %u nodes\n", (unsigned long long)seed, nodes);
	return 1;
}

static unsigned schedule_fails(uint64_t seed)
{
	return network_fails(seed, 0, -1);
}

/* Those that found something once. */
static void schedules_that_failed(void **state)
{
	static const uint64_t seeds[] = {
		1795463782010, /* verified in an earlier life of the destination, and settled here alone */
		1795389514038, /* a link that could not keep up with the blocks that it missed */
		3,             /* a copy of a refused relay found its way, and its key had been given up */
		12,            /* bytes skipped by the last take, of which no message told */
		46,            /* a commit failed, its keys were voided at the destination, then the source was killed */
		7,             /* a range was reserved while a relay begun before it waited for its way */
		1795463785001, /* a reservation was voided, and lapsed before the destination had answered: used after it was freed */
		1795485972411, /* a range was given up while its arrival was being committed, and verified by the source's next life */
	};
	unsigned failed = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(seeds); i++)
		failed += schedule_fails(seeds[i]);
	/* the leader of a link was killed while blocks waited behind a missing one, and all keys for tags were kept for them */
	failed += network_fails(1795488716132, 3, SIM_LINE);
	assert_int_equal(failed, 0);
}

enum { SCHEDULES = 60 };

/* make soak has others. */
static void random_schedules(void **state)
{
	unsigned failed = 0;

	(void)state;
	for (uint64_t seed = 1; seed <= SCHEDULES; seed++)
		failed += schedule_fails(seed);
	assert_int_equal(failed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(schedules_that_failed),
		cmocka_unit_test(random_schedules),
	};

	log_open("test_schedules", LOG_LEVEL_FATAL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
