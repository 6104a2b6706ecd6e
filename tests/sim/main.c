/*
 * main.c - runs random schedules of faults: for a time, or one by its seed.
 *
 *   sim                as many as fit in SIM_SECONDS (40), each run another
 *   sim --seed N       one of them again
 */
#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "sim.h"

struct options {
	struct sim_schedule schedule;
	unsigned runs, seconds;
	bool seed_given;
};

enum { SECONDS_DEFAULT = 40 };
enum { OPTION_SECONDS = 256, OPTION_FAULTY };

static const struct argp_option options[] = {
	{ "seed", 's', "N", 0, "the first seed; alone: this one run", 0 },
	{ "runs", 'r', "N", 0, "so many runs", 0 },
	{ "seconds", OPTION_SECONDS, "N", 0, "runs until so many seconds have passed", 0 },
	{ "minutes", 'm', "N", 0, "the same in minutes", 0 },
	{ "nodes", 'n', "N", 0, "nodes (2 to 6, from the seed)", 0 },
	{ "topology", 't', "line|ring|mesh", 0, "what the links make (from the seed)", 0 },
	{ "faulty", OPTION_FAULTY, "S", 0, "virtual seconds with faults in a run (30)", 0 },
	{ "verbose", 'v', NULL, 0, "tell what happens", 0 },
	{ 0 },
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	static const char *const topologies[] = { "line", "ring", "mesh" };
	struct options *o = state->input;

	switch (key) {
	case 's':
		o->schedule.seed = strtoull(arg, NULL, 0);
		o->seed_given = true;
		return 0;
	case 'r':
		o->runs = (unsigned)atoi(arg);
		return 0;
	case 'm':
		o->seconds = 60 * (unsigned)atoi(arg);
		return 0;
	case OPTION_SECONDS:
		o->seconds = (unsigned)atoi(arg);
		return 0;
	case 'n':
		o->schedule.nodes = (unsigned)atoi(arg);
		if (o->schedule.nodes < 2 || o->schedule.nodes > 15)
			argp_error(state, "--nodes: between 2 and 15");
		return 0;
	case 't':
		for (int i = 0; i < 3; i++)
			if (strcmp(arg, topologies[i]) == 0)
				o->schedule.topology = i;
		if (o->schedule.topology < 0)
			argp_error(state, "--topology: line, ring or mesh");
		return 0;
	case OPTION_FAULTY:
		o->schedule.faulty_ns = (uint64_t)atoi(arg) * NS_PER_S;
		return 0;
	case 'v':
		o->schedule.verbose = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int main(int argc, char **argv)
{
	static const struct argp argp = { options, parse, NULL, "Key managers under random faults.", NULL, NULL, NULL };
	struct options o = { .schedule = { .seed = 1, .topology = -1, .faulty_ns = 30 * NS_PER_S } };
	struct sim_stats sum = { 0 };
	unsigned runs = 0, failed = 0;
	time_t start = time(NULL);

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	log_open("sim", o.schedule.verbose ? LOG_LEVEL_INFO : LOG_LEVEL_FATAL);
	if (!o.seed_given)
		o.schedule.seed = (uint64_t)start * 1000;
	if (o.runs == 0 && o.seconds == 0) {
		o.runs = o.seed_given;
		o.seconds = getenv("SIM_SECONDS") ? (unsigned)atoi(getenv("SIM_SECONDS")) : SECONDS_DEFAULT;
	}
	for (; o.runs ? runs < o.runs : time(NULL) - start < (time_t)o.seconds; runs++, o.schedule.seed++) {
		struct sim_stats one;
		unsigned violations = sim_schedule_run(&o.schedule, &one);

		for (size_t i = 0; i < sizeof one / sizeof(uint64_t); i++)
			((uint64_t *)&sum)[i] += ((uint64_t *)&one)[i];
		if (violations > 0) {
			printf("FAILED: sim --seed %llu (%u violations)\n", (unsigned long long)o.schedule.seed, violations);
			failed++;
		}
	}
	printf("sim: %u runs, %u failed; %llu messages (%llu lost, %llu twice, %llu late, %llu relays forged, %llu replayed), "
	       "%llu kills, %llu cuts; %llu requests, %llu keys, %llu relays; given up: %llu bytes of keys, %llu of pad under way, %llu before\n",
	       runs, failed, (unsigned long long)sum.messages, (unsigned long long)sum.dropped,
	       (unsigned long long)sum.duplicated, (unsigned long long)sum.late, (unsigned long long)sum.forged,
	       (unsigned long long)sum.replayed, (unsigned long long)sum.kills, (unsigned long long)sum.cuts,
	       (unsigned long long)sum.requests, (unsigned long long)sum.keys, (unsigned long long)sum.relays,
	       (unsigned long long)sum.bytes_voided,
	       (unsigned long long)sum.pad_lost, (unsigned long long)sum.pad_unsent);
	return failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
