/* test_quantum_link.c - module pairs against key managers of cardboard, under a virtual clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../server/quantum/qkd_link.h"
#include "env_virtual.h"

enum { BLOCK = 64, ROOM = 4096, BUFFER = 16, ROUND_TRIP_MS = 2 };

/* A key manager that keeps what it is supplied. */
struct km {
	struct env *env;
	struct qkd_module *module;
	uint8_t have[ROOM], bytes[ROOM][BLOCK];
	uint64_t next, order[ROOM];
	unsigned arrivals, repeats, differing;
	uint32_t credit;      /* after every message */
	enum status answer;   /* to every message */
	bool deaf;            /* connection lost while the message was on its way */
	char alarms[256];
	unsigned largest, in_flight;
	size_t on_the_way, most_on_the_way;
};

struct answer {
	struct km *km;
	struct supply *supply;
	struct env_timer *timer;
};

struct rig {
	struct world *world;
	struct env *env;
	struct qkd_link *link;
	struct km kms[2];
};

static void take(struct km *km, const struct key_block *b)
{
	assert_true(b->sequence < ROOM && km->arrivals < ROOM);
	assert_int_equal(b->bytes.len, BLOCK);
	km->order[km->arrivals++] = b->sequence;
	if (km->have[b->sequence]) {
		km->repeats++;
		assert_memory_equal(km->bytes[b->sequence], b->bytes.bytes, BLOCK);
	}
	km->have[b->sequence] = 1;
	memcpy(km->bytes[b->sequence], b->bytes.bytes, BLOCK);
	while (km->next < ROOM && km->have[km->next])
		km->next++;
}

static void answer_supply(void *arg)
{
	struct answer *a = arg;
	struct km *km = a->km;

	km->in_flight--;
	km->on_the_way -= a->supply->count;
	if (!km->deaf && km->answer == ST_OK)
		for (size_t i = 0; i < a->supply->count; i++)
			take(km, a->supply->blocks[i]);
	if (km->deaf)
		qkd_module_supplied(a->supply, ST_TRANSPORT, false, 0, 0);
	else
		qkd_module_supplied(a->supply, km->answer, true, km->next, km->credit);
	env_timer_free(km->env, a->timer);
	free(a);
}

static void supply(void *arg, struct supply *s)
{
	struct km *km = arg;
	struct answer *a = xcalloc(1, sizeof *a);

	a->km = km;
	a->supply = s;
	a->timer = env_timer_new(km->env, answer_supply, a);
	km->in_flight++;
	km->on_the_way += s->count;
	if (km->on_the_way > km->most_on_the_way)
		km->most_on_the_way = km->on_the_way;
	if (s->count > km->largest)
		km->largest = (unsigned)s->count;
	env_timer_set(km->env, a->timer, ROUND_TRIP_MS * NS_PER_MS);
}

static void hear_alarm(void *arg, const struct alarm *a)
{
	struct km *km = arg;
	size_t used = strlen(km->alarms);

	snprintf(km->alarms + used, sizeof km->alarms - used, "%s%s ", a->cleared ? "-" : "+", a->cause);
}

static void rig_up(struct rig *r, unsigned end)
{
	qkd_module_up(r->kms[end].module, r->kms[end].next, r->kms[end].credit);
	qkd_link_repeat_alarms(r->link, end);
	qkd_module_start(r->kms[end].module);
}

/* Both KMs come, and time goes by. */
static void both_up(struct rig *r, uint64_t ns)
{
	rig_up(r, 0);
	rig_up(r, 1);
	world_run(r->world, ns);
}

static void make_link(struct rig *r, enum link_rate rate, enum module_mode mode)
{
	struct link_settings s = {
		.name = "alice-bob",
		.block_size = BLOCK,
		.buffer_blocks = BUFFER,
		.rate = rate,
		.fixed_rate = 100 * 8 * BLOCK, /* 100 blocks a second */
		.model = { .length_km = 20, .attenuation_db_per_km = 0.21, .detector_efficiency = 0.045,
		           .dark_count = 1.7e-6, .misalignment = 0.033, .error_correction = 1.22,
		           .signal = 0.48, .decoy = 0.05, .pulse_rate = 1e8 },
		.qber_limit = 0.11,
		.modules = { { "alice-1", mode }, { "bob-1", mode } },
	};

	r->link = qkd_link_new(r->env, &s);
	for (unsigned end = 0; end < 2; end++) {
		struct module_transport t = { supply, hear_alarm, &r->kms[end] };

		r->kms[end].env = r->env;
		r->kms[end].module = qkd_link_module(r->link, end);
		qkd_module_attach(r->kms[end].module, &t);
	}
}

static struct rig *rig_new(enum link_rate rate, enum module_mode mode)
{
	struct rig *r = xcalloc(1, sizeof *r);

	r->world = world_new(7);
	r->env = env_virtual_new(r->world);
	r->kms[0].credit = r->kms[1].credit = 1000;
	make_link(r, rate, mode);
	return r;
}

static void settle(struct rig *r)
{
	for (unsigned end = 0; end < 2; end++) {
		qkd_module_down(r->kms[end].module);
		r->kms[end].deaf = true;
	}
	world_run(r->world, NS_PER_S);
}

static void rig_free(struct rig *r)
{
	settle(r);
	qkd_link_free(r->link);
	env_virtual_free(r->env);
	world_free(r->world);
	free(r);
}

/* Blocks that both have; fails where their bytes differ. */
static unsigned equal_blocks(struct rig *r)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ROOM; i++) {
		if (!r->kms[0].have[i] || !r->kms[1].have[i])
			continue;
		assert_memory_equal(r->kms[0].bytes[i], r->kms[1].bytes[i], BLOCK);
		n++;
	}
	return n;
}

static void a_fixed_rate_is_kept(void **state)
{
	struct rig *r = rig_new(LINK_RATE_FIXED, MODULE_PUSH);

	(void)state;
	rig_up(r, 0);
	world_run(r->world, NS_PER_S);
	assert_int_equal(r->kms[0].next, 0); /* the other KM has not come yet */
	rig_up(r, 1);
	world_run(r->world, 10 * NS_PER_S);
	assert_in_range(r->kms[0].next, 995, 1001);
	assert_in_range(r->kms[1].next, 995, 1001);
	assert_true(equal_blocks(r) >= 995);
	assert_true(qkd_link_state(r->link).running);
	assert_int_equal(r->kms[0].repeats, 0);
	rig_free(r);
}

static void the_model_gives_the_rate(void **state)
{
	struct rig *r = rig_new(LINK_RATE_MODEL, MODULE_PUSH);
	double rate = qkd_link_state(r->link).key_rate;

	(void)state;
	assert_true(rate == 0); /* not running yet */
	rig_up(r, 0);
	rig_up(r, 1);
	rate = qkd_link_state(r->link).key_rate; /* 9.08e-4 a pulse at 20 km */
	assert_in_range((uint64_t)rate, 90000, 91000);
	world_run(r->world, 10 * NS_PER_S);
	assert_in_range(r->kms[0].next, (uint64_t)(rate * 10 / 8 / BLOCK) - 5,
	                (uint64_t)(rate * 10 / 8 / BLOCK) + 1);
	assert_in_range((uint64_t)(qkd_link_state(r->link).qber * 1e6), 33000, 33200);
	rig_free(r);
}

static void credit_is_never_overrun(void **state)
{
	struct rig *r = rig_new(LINK_RATE_UNLIMITED, MODULE_PUSH);

	(void)state;
	r->kms[0].credit = 5;
	both_up(r, 100 * NS_PER_MS);
	assert_int_equal(r->kms[0].most_on_the_way, 5);
	assert_true(r->kms[0].next > 100);
	r->kms[0].credit = 0; /* from its next answers on */
	world_run(r->world, 100 * NS_PER_MS);
	assert_int_equal(r->kms[0].in_flight, 0);
	for (int i = 0; i < 3; i++) {
		uint64_t before = r->kms[0].next;

		qkd_module_flow(r->kms[0].module, 3);
		world_run(r->world, 100 * NS_PER_MS);
		assert_int_equal(r->kms[0].next, before + 3);
	}
	/* the other end is held up by the full buffer here, and loses nothing */
	assert_true(r->kms[1].next <= r->kms[0].next + BUFFER);
	assert_int_equal(qkd_module_state(r->kms[0].module).buffered, BUFFER);
	rig_free(r);
}

static void several_messages_are_in_flight(void **state)
{
	struct rig *r = rig_new(LINK_RATE_UNLIMITED, MODULE_PUSH);

	(void)state;
	both_up(r, ROUND_TRIP_MS * NS_PER_MS / 2);
	assert_int_equal(r->kms[0].in_flight, 4);
	assert_int_equal(r->kms[0].largest, BUFFER / 4);
	world_run(r->world, 200 * NS_PER_MS);
	assert_true(r->kms[0].next >= 95 * BUFFER); /* a buffer a round trip */
	rig_free(r);
}

static void lost_messages_are_sent_again(void **state)
{
	struct rig *r = rig_new(LINK_RATE_UNLIMITED, MODULE_PUSH);
	uint64_t before;

	(void)state;
	both_up(r, 51 * NS_PER_MS);
	before = r->kms[0].next;
	qkd_module_down(r->kms[0].module);
	r->kms[0].deaf = true; /* what was on its way is lost */
	world_run(r->world, 100 * NS_PER_MS);
	assert_int_equal(r->kms[0].next, before);
	r->kms[0].deaf = false;
	rig_up(r, 0);
	world_run(r->world, 100 * NS_PER_MS);
	assert_true(r->kms[0].next > before + 500);
	assert_int_equal(equal_blocks(r), r->kms[0].next < r->kms[1].next ? r->kms[0].next : r->kms[1].next);
	rig_free(r);
}

static void a_restart_goes_on_above_both(void **state)
{
	struct rig *r = rig_new(LINK_RATE_UNLIMITED, MODULE_PUSH);
	uint64_t next[2];

	(void)state;
	r->kms[1].credit = 20;
	both_up(r, 51 * NS_PER_MS);
	settle(r);
	qkd_link_free(r->link);
	r->kms[1].next -= 3; /* it had not got the last ones */
	memset(r->kms[1].have + r->kms[1].next, 0, 8);
	next[0] = r->kms[0].next;
	next[1] = r->kms[1].next;
	assert_true(next[0] > next[1]);
	make_link(r, LINK_RATE_UNLIMITED, MODULE_PUSH);
	r->kms[0].deaf = r->kms[1].deaf = false;
	rig_up(r, 1);
	world_run(r->world, 100 * NS_PER_MS);
	assert_int_equal(r->kms[1].next, next[1]); /* nothing before both have said where they stand */
	rig_up(r, 0);
	world_run(r->world, 100 * NS_PER_MS);
	assert_int_equal(r->kms[1].next, next[1]); /* those are lost … */
	assert_false(r->kms[1].have[next[0] - 1]);
	assert_true(r->kms[1].have[next[0]] && r->kms[1].have[next[0] + 50]); /* … and it goes on above */
	assert_int_equal(r->kms[0].repeats, 0);
	rig_free(r);
}

static void a_stopped_module_stops_the_link(void **state)
{
	struct rig *r = rig_new(LINK_RATE_FIXED, MODULE_PUSH);
	uint64_t before;

	(void)state;
	both_up(r, NS_PER_S);
	qkd_module_stop(r->kms[1].module);
	assert_false(qkd_link_state(r->link).running);
	world_run(r->world, 10 * NS_PER_MS);
	before = r->kms[0].next;
	world_run(r->world, NS_PER_S);
	assert_int_equal(r->kms[0].next, before);
	qkd_module_start(r->kms[1].module);
	world_run(r->world, NS_PER_S);
	assert_in_range(r->kms[0].next, before + 95, before + 101); /* no burst for the pause */
	rig_free(r);
}

static void refusals_that_pass_are_retried(void **state)
{
	struct rig *r = rig_new(LINK_RATE_FIXED, MODULE_PUSH);

	(void)state;
	r->kms[0].answer = ST_STORAGE;
	both_up(r, 5 * NS_PER_S);
	assert_int_equal(r->kms[0].next, 0);
	assert_int_equal(qkd_module_state(r->kms[0].module).buffered, BUFFER);
	assert_true(qkd_link_state(r->link).pauses > 0);
	r->kms[0].answer = ST_OK;
	world_run(r->world, 5 * NS_PER_S);
	assert_true(r->kms[0].next > 300);
	assert_int_equal(qkd_module_state(r->kms[0].module).dropped, 0);
	rig_free(r);
}

static void refusals_for_good_are_counted(void **state)
{
	struct rig *r = rig_new(LINK_RATE_FIXED, MODULE_PUSH);

	(void)state;
	r->kms[0].answer = ST_CONFLICT;
	both_up(r, NS_PER_S);
	assert_in_range(qkd_module_state(r->kms[0].module).dropped, 95, 101);
	rig_free(r);
}

static unsigned requested(struct rig *r, unsigned end, uint64_t next, size_t max)
{
	const struct key_block *blocks[SUPPLY_BLOCKS_MAX];
	size_t n = qkd_module_request(r->kms[end].module, next, max, blocks);

	for (size_t i = 0; i < n; i++)
		take(&r->kms[end], blocks[i]);
	return (unsigned)n;
}

static void pull_waits_to_be_asked(void **state)
{
	struct rig *r = rig_new(LINK_RATE_UNLIMITED, MODULE_PULL);

	(void)state;
	rig_up(r, 0);
	rig_up(r, 1);
	assert_int_equal(requested(r, 0, 0, 4), 0); /* none made yet */
	world_run(r->world, 100 * NS_PER_MS);
	assert_int_equal(r->kms[0].arrivals, 0);
	assert_int_equal(requested(r, 0, 0, 4), 4);
	assert_int_equal(requested(r, 0, 0, 4), 4); /* the answer was lost: the same again */
	assert_int_equal(r->kms[0].repeats, 4);
	assert_int_equal(requested(r, 0, 4, 1000), BUFFER - 4);
	assert_int_equal(requested(r, 1, 0, 1000), BUFFER);
	assert_int_equal(qkd_module_state(r->kms[0].module).acknowledged, 4);
	requested(r, 0, r->kms[0].next, 1);
	requested(r, 1, r->kms[1].next, 1);
	world_run(r->world, 100 * NS_PER_MS);
	assert_int_equal(requested(r, 0, r->kms[0].next, 1000), BUFFER);
	requested(r, 1, r->kms[1].next, 1000);
	assert_int_equal(equal_blocks(r), 2 * BUFFER);
	rig_free(r);
}

static void fault_at_bob(struct rig *r, enum fault_kind kind, uint64_t every, uint64_t count)
{
	struct link_fault f = { kind, 1, every, count, 50 * NS_PER_MS };

	qkd_link_set_faults(r->link, &f, 1);
}

/* Two seconds with a fault of bob's module. */
static struct rig *rig_with_fault(enum fault_kind kind, uint64_t every, uint64_t count)
{
	struct rig *r = rig_new(LINK_RATE_FIXED, MODULE_PUSH);

	fault_at_bob(r, kind, every, count);
	both_up(r, 2 * NS_PER_S);
	return r;
}

static void a_missing_block_is_missing_at_one_end(void **state)
{
	struct rig *r = rig_with_fault(FAULT_MISSING, 10, 3);

	(void)state;
	assert_int_equal(r->kms[1].next, 9);
	assert_false(r->kms[1].have[9] || r->kms[1].have[19] || r->kms[1].have[29]);
	assert_true(r->kms[1].have[39] && r->kms[0].have[9]);
	assert_in_range(qkd_module_state(r->kms[1].module).buffered, 0, 1); /* durable above the gap */
	rig_free(r);
}

static void a_repeated_block_comes_twice(void **state)
{
	struct rig *r = rig_with_fault(FAULT_REPEATED, 10, 3);

	(void)state;
	assert_int_equal(r->kms[1].repeats, 3);
	assert_int_equal(r->kms[0].repeats, 0);
	assert_in_range(equal_blocks(r), 195, 201);
	rig_free(r);
}

static void a_late_block_comes_after_later_ones(void **state)
{
	struct rig *r = rig_with_fault(FAULT_LATE, 10, 1);
	unsigned at = 0;

	(void)state;
	while (at < ROOM && r->kms[1].order[at] != 9)
		at++;
	assert_in_range(at, 12, 15); /* 50 ms late at 100 blocks a second */
	assert_in_range(equal_blocks(r), 195, 201);
	rig_free(r);
}

static void a_differing_block_differs_in_one_bit(void **state)
{
	struct rig *r = rig_with_fault(FAULT_DIFFERING, 10, 1);
	unsigned bits = 0;

	(void)state;
	for (unsigned i = 0; i < BLOCK; i++)
		bits += (unsigned)__builtin_popcount(r->kms[0].bytes[9][i] ^ r->kms[1].bytes[9][i]);
	assert_int_equal(bits, 1);
	r->kms[0].have[9] = 0;
	assert_true(equal_blocks(r) > 90);
	rig_free(r);
}

static void a_lost_channel_is_told_and_heals(void **state)
{
	struct rig *r = rig_new(LINK_RATE_FIXED, MODULE_PUSH);
	uint64_t before;

	(void)state;
	both_up(r, NS_PER_S);
	fault_at_bob(r, FAULT_LINK_LOSS, 0, 0);
	world_run(r->world, NS_PER_S);
	before = r->kms[0].next;
	assert_in_range(before, 95, 101);
	assert_false(qkd_link_state(r->link).running);
	qkd_module_down(r->kms[1].module); /* whoever comes now is told, too */
	rig_up(r, 1);
	qkd_link_set_faults(r->link, NULL, 0);
	assert_string_equal(r->kms[0].alarms, "+link-loss -link-loss ");
	assert_string_equal(r->kms[1].alarms, "+link-loss +link-loss -link-loss ");
	world_run(r->world, NS_PER_S);
	assert_in_range(r->kms[0].next, before + 95, before + 101);
	rig_free(r);
}

static void an_eavesdropper_and_a_broken_module_are_told(void **state)
{
	struct rig *r = rig_new(LINK_RATE_FIXED, MODULE_PUSH);

	(void)state;
	rig_up(r, 0);
	rig_up(r, 1);
	fault_at_bob(r, FAULT_QBER_HIGH, 0, 0);
	assert_true(qkd_link_state(r->link).qber > 0.11);
	fault_at_bob(r, FAULT_MODULE, 0, 0);
	assert_string_equal(r->kms[0].alarms, "+qber-high -qber-high ");
	assert_string_equal(r->kms[1].alarms, "+qber-high -qber-high +module-fault ");
	world_run(r->world, NS_PER_S);
	assert_int_equal(r->kms[0].next, 0);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_fixed_rate_is_kept),
		cmocka_unit_test(the_model_gives_the_rate),
		cmocka_unit_test(credit_is_never_overrun),
		cmocka_unit_test(several_messages_are_in_flight),
		cmocka_unit_test(lost_messages_are_sent_again),
		cmocka_unit_test(a_restart_goes_on_above_both),
		cmocka_unit_test(a_stopped_module_stops_the_link),
		cmocka_unit_test(refusals_that_pass_are_retried),
		cmocka_unit_test(refusals_for_good_are_counted),
		cmocka_unit_test(pull_waits_to_be_asked),
		cmocka_unit_test(a_missing_block_is_missing_at_one_end),
		cmocka_unit_test(a_repeated_block_comes_twice),
		cmocka_unit_test(a_late_block_comes_after_later_ones),
		cmocka_unit_test(a_differing_block_differs_in_one_bit),
		cmocka_unit_test(a_lost_channel_is_told_and_heals),
		cmocka_unit_test(an_eavesdropper_and_a_broken_module_are_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
