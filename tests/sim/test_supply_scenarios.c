/*
 * test_supply_scenarios.c - what the supply of keys must withstand where the two ends' commits run side by side: an
 * end killed, or its commit failed, between what the other knows and what it has itself on disk.
 *
 * Every test ends with sim_settle, as those of relay do: keys go on without help, every key that was supplied
 * is fetched and is the same, none was assigned twice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../server/km/core.h"
#include "log.h"
#include "sim.h"
#include "stated.h"

static struct sim *pair(uint64_t seed)
{
	struct sim_options o;
	struct sim *s;

	sim_defaults(&o);
	o.seed = seed;
	o.nodes = 2;
	o.request_interval = 0;
	s = sim_new(&o);
	sim_run(s, 10 * NS_PER_S);
	return s;
}

static void end(struct sim *s)
{
	sim_settle(s);
	assert_int_equal(sim_violations(s), 0);
	sim_free(s);
}

static uint64_t given_up(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	return stats.bytes_voided;
}

/* A key request from node 0, for a key shared with node 1. */
static uint32_t ask(struct sim *s)
{
	uint32_t result;

	sim_request(s, 0, 1, 1, 256, NS_PER_S, &result);
	sim_run(s, 8 * NS_PER_S);
	return result;
}

/* ---- a message on Kx-2 is kept, to be said again later ------------------------------------------------------- */

struct kept {
	enum sim_fate fate;
	bool has_open, has_assign;
	struct km_pool_open open;
	struct km_assign assign;
	struct km_assignment first;
	struct node *kill; /* so long after the assignment was sent */
	uint64_t kill_after;
	struct sim *sim;
};

static void restart(void *arg)
{
	sim_start(((struct kept *)arg)->kill);
}

static void kill_now(void *arg)
{
	struct kept *k = arg;

	sim_kill(k->kill);
	sim_after(k->sim, 500 * NS_PER_MS, restart, k);
}

static enum sim_fate keep(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                          void *arg)
{
	struct kept *k = arg;

	(void)to;
	if (strcmp(from, "km000") != 0)
		return FATE_DELIVER;
	if (m == KM_POOL_OPEN) {
		k->has_open = true;
		k->open = *(const struct km_pool_open *)message;
	}
	if (m != KM_ASSIGN || k->has_assign)
		return FATE_DELIVER;
	k->has_assign = true;
	k->assign = *(const struct km_assign *)message;
	k->first = k->assign.assignments[0];
	k->first.source = "app0";
	k->first.destination = "app1";
	k->assign.count = 1;
	k->assign.assignments = &k->first;
	k->sim = s;
	if (k->kill != NULL)
		sim_after(s, k->kill_after, kill_now, k);
	return k->fate;
}

static uint32_t say_again(struct sim *s, enum km_message m, const void *message)
{
	uint32_t result;

	sim_inject(s, m, 0, 1, message, &result);
	sim_run(s, NS_PER_S);
	return result;
}

/* ---- the source ------------------------------------------------------------------------------------------------- */

/* It has sent the assignment, the destination has made it durable, and the source's own commit is lost. */
static void source_killed_before_its_commit(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *s = pair(seed);
		struct kept k = { .fate = FATE_DELIVER };
		uint64_t before = given_up(s);

		sim_set_hook(s, keep, &k);
		sim_next_commit(sim_node(s, 0), COMMIT_LOST);
		assert_int_equal(ask(s), UINT32_MAX); /* killed: no answer */
		assert_true(k.has_assign);
		for (int i = 0; i < 3; i++)
			assert_int_equal(ask(s), ST_OK);
		assert_true(given_up(s) == before || given_up(s) >= before + 64); /* never came, or is void at both ends */
		sim_run(s, 15 * NS_PER_S);
		assert_int_equal(sim_assigned(sim_node(s, 1)), 0); /* none waits there that nobody was given */
		end(s);
	}
}

/* What the lost commit had assigned comes when the pool was opened again. */
static void assignment_of_an_earlier_life(void **state)
{
	struct sim *s = pair(3);
	struct kept k = { .fate = FATE_DROP };

	(void)state;
	sim_set_hook(s, keep, &k);
	sim_next_commit(sim_node(s, 0), COMMIT_LOST);
	assert_int_equal(ask(s), UINT32_MAX);
	assert_true(k.has_assign);
	assert_int_equal(say_again(s, KM_ASSIGN, &k.assign), ST_NOT_FOUND);
	assert_int_equal(ask(s), ST_OK);
	assert_int_equal(say_again(s, KM_ASSIGN, &k.assign), ST_NOT_FOUND);
	end(s);
}

struct race {
	struct kept kept;
	uint64_t after; /* the opening was sent */
	uint32_t result;
};

static void assign_late(void *arg)
{
	struct race *r = arg;

	sim_inject(r->kept.sim, KM_ASSIGN, 0, 1, &r->kept.assign, &r->result);
}

static enum sim_fate race(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                          void *arg)
{
	struct race *r = arg;

	if (m == KM_POOL_OPEN && strcmp(from, "km000") == 0 && r->kept.has_assign)
		sim_after(s, r->after, assign_late, r);
	return keep(s, m, from, to, message, &r->kept);
}

/* ... or while it is opened: before it, and is void with it, or not at all. */
static void assignment_of_an_earlier_life_beside_the_opening(void **state)
{
	unsigned assigned = 0, refused = 0;

	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		struct sim *s = pair(500 + i);
		struct race r = { .kept = { .fate = FATE_DROP }, .after = i * 200 * NS_PER_US, .result = UINT32_MAX };

		sim_set_hook(s, race, &r);
		sim_next_commit(sim_node(s, 0), COMMIT_LOST);
		assert_int_equal(ask(s), UINT32_MAX);
		assigned += r.result == ST_OK;
		refused += r.result == ST_NOT_FOUND;
		assert_int_equal(ask(s), ST_OK);
		sim_run(s, 15 * NS_PER_S);
		assert_int_equal(sim_assigned(sim_node(s, 1)), 0);
		end(s);
	}
	assert_true(assigned > 0 && refused > 0);
}

/* What an opening says of the source's use is not believed when there was a later one. */
static void opening_of_an_earlier_life(void **state)
{
	struct sim *s = pair(4);
	struct kept k = { .fate = FATE_DELIVER };

	(void)state;
	sim_set_hook(s, keep, &k);
	sim_kill(sim_node(s, 0));
	sim_start(sim_node(s, 0));
	sim_run(s, 5 * NS_PER_S);
	assert_true(k.has_open);
	sim_request(s, 0, 1, 8, 256, NS_PER_S, NULL);
	sim_run(s, 30 * NS_PER_MS); /* supplied, and not fetched yet */
	assert_int_equal(say_again(s, KM_POOL_OPEN, &k.open), ST_BUSY);
	end(s);
}

/* That of a key request: those of other works are left alone, and what is under way with them. */
static void fail_a_commit(struct sim *s)
{
	uint32_t result = ST_OK;

	sim_next_commit(sim_node(s, 0), COMMIT_FAILS);
	for (int i = 0; i < 10 && result == ST_OK; i++)
		result = ask(s);
	assert_int_equal(result, ST_STORAGE);
}

/* The disk fails after the assignment was sent; the source lives on. */
static void commit_failed_at_the_source(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct sim *s = pair(seed);

		fail_a_commit(s);
		assert_int_equal(ask(s), ST_OK);
		assert_int_equal(ask(s), ST_OK);
		assert_true(given_up(s) >= 32);
		end(s);
	}
}

/* The disk is full, and stays so for a while: nothing more is shown before it is durable, so that it costs no more than
 * the keys of one request. */
static void commits_that_go_on_failing_cost_no_keys(void **state)
{
	struct sim *s = pair(8);
	uint64_t before = given_up(s);

	(void)state;
	sim_next_commit(sim_node(s, 0), COMMITS_FAIL);
	for (int i = 0; i < 6; i++)
		assert_int_equal(ask(s), ST_STORAGE);
	sim_next_commit(sim_node(s, 0), COMMIT_DONE);
	assert_int_equal(ask(s), ST_OK);
	assert_int_equal(given_up(s) - before, 32);
	end(s);
}

/* QKD modules keep what could not be stored, and supply it again. */
static void no_block_is_lost_with_a_commit(void **state)
{
	struct sim *s = pair(9);
	const struct km_counters *c = &sim_core(sim_node(s, 0))->counters;
	uint64_t agreed = c->blocks_agreed, voided = c->blocks_voided;

	(void)state;
	for (int i = 0; i < 20; i++) {
		sim_request(s, 0, 1, 40, 2048, NS_PER_S, NULL);
		sim_run(s, NS_PER_S);
		sim_next_commit(sim_node(s, 0), COMMITS_FAIL);
		sim_run(s, 100 * NS_PER_MS);
		sim_next_commit(sim_node(s, 0), COMMIT_DONE);
	}
	sim_run(s, 5 * NS_PER_S);
	assert_true(c->blocks_agreed > agreed + 20);
	assert_int_equal(c->blocks_voided, voided);
	end(s);
}

/* And it is killed before it has taken anything again: what it has shown is known at the destination alone. */
static void commit_failed_and_killed(void **state)
{
	struct sim *s = pair(6);

	(void)state;
	fail_a_commit(s);
	sim_kill(sim_node(s, 0));
	sim_start(sim_node(s, 0));
	sim_run(s, 5 * NS_PER_S);
	assert_int_equal(ask(s), ST_OK);
	end(s);
}

static enum sim_fate lose_assignments(struct sim *s, enum km_message m, const char *from, const char *to,
                                      const void *message, void *arg)
{
	const bool *voids_too = arg;

	(void)s;
	(void)from;
	(void)to;
	(void)message;
	return m == KM_ASSIGN || (m == KM_VOID && *voids_too) ? FATE_DROP : FATE_DELIVER;
}

/* The destination never heard of the keys; it voids them on the word of the next opening. Then the source is killed,
 * and knows nothing of them. */
static void commit_failed_opened_again_and_killed(void **state)
{
	(void)state;
	for (int voids_too = 0; voids_too < 2; voids_too++) {
		struct sim *s = pair(7);
		bool lost = voids_too;
		uint32_t result = ST_OK;

		sim_set_hook(s, lose_assignments, &lost);
		sim_next_commit(sim_node(s, 0), COMMIT_FAILS);
		for (int i = 0; i < 10 && result != ST_STORAGE; i++)
			result = ask(s);
		assert_int_equal(result, ST_STORAGE);
		sim_cut(s, 0, 1, 300 * NS_PER_MS);
		sim_run(s, 2 * NS_PER_S);
		sim_kill(sim_node(s, 0));
		sim_start(sim_node(s, 0));
		sim_set_hook(s, NULL, NULL);
		sim_run(s, 5 * NS_PER_S);
		for (int i = 0; i < 3; i++)
			assert_int_equal(ask(s), ST_OK);
		end(s);
	}
}

/* Its own commit is done, and what the destination did of it is not known. */
static void source_killed_around_an_assignment(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 12; after++) {
		struct sim *s = pair(100 + after);
		struct kept k = { .fate = FATE_DELIVER, .kill = sim_node(s, 0), .kill_after = after * 250 * NS_PER_US };

		sim_set_hook(s, keep, &k);
		ask(s);
		assert_int_equal(ask(s), ST_OK);
		end(s);
	}
}

/* ---- the destination ---------------------------------------------------------------------------------------------- */

/* What it forgets is that ranges were verified, and that keys of several of them were taken. */
static void source_killed_as_ranges_become_ready(void **state)
{
	struct sim_options o;
	struct sim *s;
	int killed = 0;

	(void)state;
	sim_defaults(&o);
	o.seed = 7;
	o.request_interval = 0;
	o.limits.fill_most = 1024;
	s = sim_new(&o);
	sim_run(s, 10 * NS_PER_S);
	for (int round = 0; round < 40; round++) {
		for (int i = 0; i < 100; i++) /* more than there are: they are taken as they become ready */
			sim_request(s, 0, 1, 8, 256, NS_PER_S, NULL);
		sim_run(s, 5 * NS_PER_MS);
		sim_cut(s, 0, 1, NS_PER_S / 4);
		sim_run(s, NS_PER_S / 4 + (unsigned)round * NS_PER_MS);
		sim_next_commit(sim_node(s, 0), COMMIT_LOST);
		sim_run(s, NS_PER_S);
		killed += !sim_node_is_up(sim_node(s, 0));
		sim_next_commit(sim_node(s, 0), COMMIT_DONE);
		sim_start(sim_node(s, 0));
		sim_run(s, 5 * NS_PER_S);
		assert_int_equal(ask(s), ST_OK);
	}
	assert_in_range(killed, 10, 40);
	end(s);
}

static void destination_killed_around_an_assignment(void **state)
{
	(void)state;
	for (unsigned after = 0; after < 12; after++) {
		struct sim *s = pair(200 + after);
		struct kept k = { .fate = FATE_DELIVER, .kill = sim_node(s, 1), .kill_after = after * 250 * NS_PER_US };

		sim_set_hook(s, keep, &k);
		ask(s);
		assert_int_equal(ask(s), ST_OK);
		end(s);
	}
}

/* The key is given up: counted once, and void at the destination before its lifetime ends it, assigned there or not. */
static void ask_in_vain(struct sim *s)
{
	uint64_t before = given_up(s);

	assert_int_equal(ask(s), ST_TIMED_OUT);
	assert_int_equal(given_up(s) - before, 32);
	assert_int_equal(sim_assigned(sim_node(s, 1)), 0);
}

static void assignment_lost_late_or_twice(void **state)
{
	static const enum sim_fate fates[] = { FATE_DROP, FATE_DROP_ANSWER, FATE_LATE, FATE_TWICE };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fates); i++) {
		struct sim *s = pair(300 + i);
		struct kept k = { .fate = fates[i] };

		sim_set_hook(s, keep, &k);
		if (fates[i] == FATE_TWICE)
			assert_int_equal(ask(s), ST_OK);
		else
			ask_in_vain(s);
		assert_int_equal(ask(s), ST_OK);
		end(s);
	}
}

/* ---- requests that come together ----------------------------------------------------------------------------------- */

enum { MANY = 64 };

struct asked {
	struct sim *sim;
	unsigned answered, refused, assignments;
	bool lose; /* the first assignment's answer */
};

static enum sim_fate count_assignments(struct sim *s, enum km_message m, const char *from, const char *to,
                                       const void *message, void *arg)
{
	struct asked *t = arg;

	(void)s;
	(void)from;
	(void)to;
	if (m != KM_ASSIGN || ((const struct km_assign *)message)->count == 0)
		return FATE_DELIVER;
	return t->assignments++ == 0 && t->lose ? FATE_DROP_ANSWER : FATE_DELIVER;
}

static void was_answered(const struct km_answer *answer, void *arg)
{
	struct asked *t = arg;

	*(answer->err.status == ST_OK ? &t->answered : &t->refused) += 1;
}

static void ask_one(struct asked *t)
{
	const struct km_key_request m = { .source = "app0", .destination = "app1", .number = 1, .size = 256 };

	km_receive(sim_core(sim_node(t->sim, 0)), KM_KEY_REQUEST, "app0", &m, was_answered, t);
}

static uint64_t works_done(struct sim *s)
{
	struct ks_stats stats;

	ks_stats(sim_store(sim_node(s, 0)), &stats);
	return stats.works;
}

/* Those of one turn are taken and assigned together. */
static void requests_of_a_turn_are_one_work(void **state)
{
	struct sim *s = pair(400);
	struct asked t = { .sim = s };
	uint64_t before = works_done(s);

	(void)state;
	sim_set_hook(s, count_assignments, &t);
	for (int i = 0; i < MANY; i++)
		ask_one(&t);
	sim_run(s, 20 * NS_PER_MS);
	assert_int_equal(t.answered, MANY);
	assert_int_equal(t.assignments, 1);
	assert_in_range(works_done(s) - before, 1, MANY / 4);
	end(s);
}

/* And those of later turns do not wait for them: an answer that is lost keeps nobody waiting but those that it was for. */
static void requests_do_not_wait_for_others(void **state)
{
	struct sim *s = pair(401);
	struct asked t = { .sim = s, .lose = true };

	(void)state;
	sim_set_hook(s, count_assignments, &t);
	for (int i = 0; i < 4; i++)
		ask_one(&t);
	sim_run(s, 20 * NS_PER_MS);
	assert_int_equal(t.assignments, 1);
	assert_int_equal(t.answered, 0);
	ask_one(&t);
	sim_run(s, 20 * NS_PER_MS);
	assert_int_equal(t.answered, 1);
	end(s);
}

/* ---- an orderly stop ------------------------------------------------------------------------------------------------ */

static void stop_now(const struct km_answer *answer, void *arg)
{
	(void)answer;
	km_stop(arg);
}

/* In the moment when its keys are taken, durable, and about to be assigned: after a commit that failed these come in
 * this order. They are given up, counted and stated. */
static void stopped_before_an_assignment(void **state)
{
	struct sim *s = pair(402);
	struct asked t = { .sim = s };
	struct km *km = sim_core(sim_node(s, 0));
	uint64_t before = given_up(s), stated = stated_bytes();

	(void)state;
	ksa_pool_to(km, "km001")->careful = true;
	ksa_pool_to(km, "km001")->sums.burst = 0; /* there were many lines */
	sim_set_hook(s, count_assignments, &t);
	ask_one(&t);
	sim_run(s, 10 * NS_PER_US); /* its keys are to be taken with the next commit */
	km_receive(km, KM_MK_POOLS, "admin", NULL, stop_now, km);
	sim_run(s, NS_PER_S);
	assert_int_equal(t.refused, 1);
	assert_int_equal(t.assignments, 0);
	assert_int_equal(given_up(s) - before, 32);
	assert_int_equal(stated_bytes() - stated, 32);
	sim_kill(sim_node(s, 0));
	sim_start(sim_node(s, 0));
	sim_run(s, 5 * NS_PER_S);
	assert_int_equal(ask(s), ST_OK);
	end(s);
}

/* ---- keys by ID ----------------------------------------------------------------------------------------------------- */

enum { KEYS = 4 };

struct supplied {
	uint32_t status;
	struct id ids[KEYS];
	uint8_t bytes[KEYS * 32];
};

static void keys_came(const struct km_answer *answer, void *arg)
{
	const struct km_keys *keys = (const struct km_keys *)answer;
	struct supplied *x = arg;

	x->status = answer->err.status;
	if (x->status != ST_OK)
		return;
	assert_in_range(keys->count, 1, KEYS);
	memcpy(x->ids, keys->key_ids, keys->count * sizeof x->ids[0]);
	memcpy(x->bytes, keys->bytes, keys->len);
}

static void fetch(struct sim *s, const struct id *ids, uint32_t count, struct supplied *x)
{
	struct km_key_request_with_id m = { .source = "app0", .destination = "app1", .key_ids = ids, .count = count };

	x->status = UINT32_MAX;
	km_receive(sim_core(sim_node(s, 1)), KM_KEY_REQUEST_WITH_ID, "app1", &m, keys_came, x);
}

/* One turn's requests are one work; yet each of them gets all of its keys or none, whatever becomes of the others. */
static void fetched_together_each_for_itself(void **state)
{
	struct sim *s = pair(7);
	struct km_key_request m = { .source = "app0", .destination = "app1", .number = KEYS, .size = 256 };
	struct supplied near, far[4];
	struct id spent[2], strange[2];

	(void)state;
	km_receive(sim_core(sim_node(s, 0)), KM_KEY_REQUEST, "app0", &m, keys_came, &near);
	sim_run(s, NS_PER_S);
	assert_int_equal(near.status, ST_OK);
	fetch(s, &near.ids[0], 1, &far[0]);
	sim_run(s, NS_PER_S);
	assert_int_equal(far[0].status, ST_OK);

	spent[0] = near.ids[1];
	spent[1] = near.ids[0]; /* delivered already: so the first is not either */
	strange[0] = near.ids[3];
	strange[1] = near.ids[3];
	fetch(s, &near.ids[2], 1, &far[0]);
	fetch(s, spent, 2, &far[1]);
	fetch(s, &near.ids[0], 1, &far[2]);
	fetch(s, strange, 2, &far[3]); /* the same twice */
	sim_run(s, NS_PER_S);
	assert_int_equal(far[0].status, ST_OK);
	assert_memory_equal(far[0].bytes, near.bytes + 64, 32);
	assert_int_equal(far[1].status, ST_KEY_GONE);
	assert_int_equal(far[2].status, ST_KEY_GONE);
	assert_int_equal(far[3].status, ST_KEY_GONE);

	fetch(s, &near.ids[1], 1, &far[1]);
	fetch(s, &near.ids[3], 1, &far[3]);
	sim_run(s, NS_PER_S);
	assert_int_equal(far[1].status, ST_OK);
	assert_memory_equal(far[1].bytes, near.bytes + 32, 32);
	assert_int_equal(far[3].status, ST_OK);
	assert_memory_equal(far[3].bytes, near.bytes + 96, 32);
	end(s);
}

/* ---- where keys are short ----------------------------------------------------------------------------------------- */

/* An application that asks as soon as it is answered. */
struct asker {
	struct sim *sim;
	const char *name;
	uint32_t number, priority;
	uint64_t bytes;
	bool over;
};

enum { ASKED_SIZE = 256 };

static void ask_on(void *arg);

static void asker_answered(const struct km_answer *answer, void *arg)
{
	const struct km_keys *keys = (const struct km_keys *)answer;
	struct asker *a = arg;

	if (answer->err.status == ST_OK)
		a->bytes += keys->len;
	if (!a->over)
		sim_after(a->sim, 2 * NS_PER_MS, ask_on, a);
}

static void ask_on(void *arg)
{
	struct asker *a = arg;
	const struct km_key_request m = { .source = a->name, .destination = "app1", .number = a->number, .size = ASKED_SIZE,
		                          .deadline = 5 * NS_PER_S, .priority = a->priority };

	km_receive(sim_core(sim_node(a->sim, 0)), KM_KEY_REQUEST, a->name, &m, asker_answered, a);
}

static uint64_t bytes_in(struct sim *s, struct asker *a, unsigned seconds)
{
	uint64_t before = a->bytes;

	sim_run(s, seconds * NS_PER_S);
	return a->bytes - before;
}

/* Hundreds of requests at once, large ones or small ones, with whatever priority: the other has half of the keys. */
static void who_asks_for_more_gets_no_more(void **state)
{
	static const struct {
		unsigned at_once;
		uint32_t number, priority;
	} greedy[] = { { 300, 32, 0 }, { 300, 32, UINT32_MAX }, { 100, 128, 9 }, { 2000, 2, 1 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(greedy); i++) {
		struct sim *s = pair(1);
		struct asker modest = { .sim = s, .name = "app0", .number = 32 };
		struct asker other = { .sim = s, .name = "greedy", .number = greedy[i].number,
			               .priority = greedy[i].priority };
		uint64_t alone, beside;

		for (int n = 0; n < 8; n++)
			ask_on(&modest);
		sim_run(s, 5 * NS_PER_S); /* what was in stock */
		alone = bytes_in(s, &modest, 10);
		for (unsigned n = 0; n < greedy[i].at_once; n++)
			ask_on(&other);
		sim_run(s, 2 * NS_PER_S);
		beside = bytes_in(s, &modest, 10);
		assert_true(alone > 100000);
		assert_in_range(beside, alone / 2 - modest.number * ASKED_SIZE / 8, alone); /* one may be on its way */
		assert_in_range(other.bytes, alone / 2, UINT64_MAX);
		modest.over = other.over = true;
		sim_run(s, 10 * NS_PER_S);
		end(s);
	}
}

/* ---- how far a pool is filled -------------------------------------------------------------------------------- */

static struct ksa_pool *filled_pool(struct sim *s)
{
	return ksa_pool_to(sim_core(sim_node(s, 0)), "km001");
}

/* The tag over the range that makes the pool full, with those before it, is another at the destination. */
static enum sim_fate spoil_the_last(struct sim *s, enum km_message m, const char *from, const char *to,
                                    const void *message, void *arg)
{
	const struct ksa_pool *p = filled_pool(s);
	bool *spoilt = arg;

	(void)to;
	if (m == KM_VERIFY && !*spoilt && strcmp(from, "km000") == 0 && !p->filling) {
		((struct km_verify *)message)->tag[0] ^= 1;
		*spoilt = true;
	}
	return FATE_DELIVER;
}

static void what_did_not_arrive_is_made_up_for(void **state)
{
	struct sim *s = pair(1);
	bool spoilt = false;

	(void)state;
	sim_set_hook(s, spoil_the_last, &spoilt);
	for (int i = 0; i < 20 && !spoilt; i++) {
		for (int n = 0; n < 4; n++)
			sim_request(s, 0, 1, 40, 2048, NS_PER_S, NULL);
		sim_run(s, NS_PER_S);
	}
	assert_true(spoilt);
	sim_run(s, 10 * NS_PER_S);
	assert_in_range(filled_pool(s)->stock, sim_core(sim_node(s, 0))->limits.ksa_high_water - 1024, UINT64_MAX);
	end(s);
}

static void drain_and_commit_slowly(struct sim *s)
{
	for (int n = 0; n < 4; n++)
		sim_request(s, 0, 1, 40, 2048, NS_PER_S, NULL);
	for (int n = 0; n < 200; n++) {
		sim_next_commit(sim_node(s, 0), COMMIT_SLOW);
		sim_run(s, 5 * NS_PER_MS);
		ksa_pool_fill(filled_pool(s));
	}
	sim_next_commit(sim_node(s, 0), COMMIT_DONE);
	sim_run(s, 5 * NS_PER_S);
}

/* What became ready is in the stock and no longer on its way, however long its commit takes. */
static void ranges_that_become_ready_count_once(void **state)
{
	struct sim *s = pair(1);
	struct km_limits *limits = &sim_core(sim_node(s, 0))->limits;

	(void)state;
	limits->fill_most = limits->ksa_high_water / 16; /* more than may be on their way at once */
	for (int i = 0; i < 5; i++) {
		drain_and_commit_slowly(s);
		assert_in_range(filled_pool(s)->stock, limits->ksa_high_water - 1024, UINT64_MAX);
	}
	end(s);
}

/* ---- what was taken when a source was killed ------------------------------------------------------------------- */

struct looking {
	struct id pool;
	bool take;
	struct ks_pool seen;
};

static enum status look_work(struct ks_txn *t, void *arg)
{
	struct looking *l = arg;
	uint64_t offset;

	if (l->take)
		assert_int_equal(ks_take(t, &l->pool, 64, 64, 64, &offset, NULL), ST_OK);
	return ks_pool_get(t, &l->pool, &l->seen);
}

static void has_looked(enum status s, void *arg)
{
	(void)arg;
	assert_int_equal(s, ST_OK);
}

static uint64_t stock_of(struct sim *s, unsigned n, const struct id *pool, bool take)
{
	struct looking l = { .pool = *pool, .take = take };

	ks_submit(sim_store(sim_node(s, n)), look_work, has_looked, &l);
	sim_run(s, 20 * NS_PER_MS);
	return l.seen.stock + l.seen.unready;
}

/* Of a link and of a KSA pool. No message says so, and none follows; the other end is told once the source is back. */
static void what_a_kill_left_taken_is_told(void **state)
{
	(void)state;
	for (int of_link = 0; of_link < 2; of_link++) {
		struct sim *s = pair(21);
		struct km *km = sim_core(sim_node(s, 0));
		struct id pool = of_link ? *link_pool_out(km->links) : km->pools->id;
		uint64_t before;

		sim_link_down(s, 0, true); /* no block comes that would need an answer */
		sim_run(s, 3 * NS_PER_S);
		before = stock_of(s, 1, &pool, false);
		assert_int_equal(stock_of(s, 0, &pool, true), before - 64);
		sim_kill(sim_node(s, 0));
		sim_start(sim_node(s, 0));
		sim_run(s, 3 * NS_PER_S);
		assert_int_equal(stock_of(s, 1, &pool, false), before - 64);
		sim_free(s);
	}
}

/* ---- one direction of a link is used, the other is not -------------------------------------------------------- */

enum { LINK_MOST = 64 * 1024 };

/* What its source gives up of the direction that is full, the far end gives up, too: it is told so, though no message
 * uses that direction. Else it would fill up there, and blocks were taken no more. */
static void one_direction_does_not_fill_up(void **state)
{
	struct sim_options o;
	struct sim *s;

	(void)state;
	sim_defaults(&o);
	o.seed = 20416;
	o.nodes = 2;
	o.request_interval = 0;
	o.limits.link_max_stock = LINK_MOST;
	s = sim_new(&o);
	for (int i = 0; i < 90; i++) {
		for (int k = 0; k < 4; k++)
			sim_request(s, 0, 1, 30, 2048, NS_PER_S, NULL);
		sim_run(s, NS_PER_S);
	}
	for (unsigned n = 0; n < 2; n++)
		assert_in_range(sim_core(sim_node(s, n))->links->stock[1], LINK_MOST / 2, 2 * LINK_MOST);
	assert_int_equal(km_counters(sim_core(sim_node(s, 0)))->bytes_discarded, 0);
	assert_in_range(km_counters(sim_core(sim_node(s, 1)))->bytes_discarded, LINK_MOST, UINT64_MAX);
	end(s);
}

/* ---- the log ---------------------------------------------------------------------------------------------------- */

/* Those that were held back last, of a link and of a pool, are told when the key manager ends. */
static void held_back_lines_are_told_at_the_end(void **state)
{
	struct sim *s = pair(22);
	struct km *km = sim_core(sim_node(s, 0));
	int err = dup(STDERR_FILENO), ends[2];
	char text[4096] = "";

	(void)state;
	km->links->complaints.held_back = 3;
	km->pools->complaints.held_back = 4;
	assert_true(err >= 0 && pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
	log_open("test", LOG_LEVEL_WARNING);
	sim_free(s);
	log_open("test_supply_scenarios", LOG_LEVEL_FATAL);
	dup2(err, STDERR_FILENO);
	close(err);
	close(ends[1]);
	assert_true(read(ends[0], text, sizeof text - 1) > 0);
	close(ends[0]);
	assert_non_null(strstr(text, "link km000-km001: 3 more lines were held back\n"));
	assert_non_null(strstr(text, "KSA pool to km001: 4 more lines were held back\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(source_killed_before_its_commit),
		cmocka_unit_test(assignment_of_an_earlier_life),
		cmocka_unit_test(assignment_of_an_earlier_life_beside_the_opening),
		cmocka_unit_test(opening_of_an_earlier_life),
		cmocka_unit_test(commit_failed_at_the_source),
		cmocka_unit_test(commits_that_go_on_failing_cost_no_keys),
		cmocka_unit_test(no_block_is_lost_with_a_commit),
		cmocka_unit_test(commit_failed_and_killed),
		cmocka_unit_test(commit_failed_opened_again_and_killed),
		cmocka_unit_test(source_killed_around_an_assignment),
		cmocka_unit_test(source_killed_as_ranges_become_ready),
		cmocka_unit_test(destination_killed_around_an_assignment),
		cmocka_unit_test(assignment_lost_late_or_twice),
		cmocka_unit_test(requests_of_a_turn_are_one_work),
		cmocka_unit_test(requests_do_not_wait_for_others),
		cmocka_unit_test(stopped_before_an_assignment),
		cmocka_unit_test(fetched_together_each_for_itself),
		cmocka_unit_test(who_asks_for_more_gets_no_more),
		cmocka_unit_test(what_did_not_arrive_is_made_up_for),
		cmocka_unit_test(ranges_that_become_ready_count_once),
		cmocka_unit_test(what_a_kill_left_taken_is_told),
		cmocka_unit_test(held_back_lines_are_told_at_the_end),
		cmocka_unit_test(one_direction_does_not_fill_up),
	};

	log_open("test_supply_scenarios", LOG_LEVEL_FATAL);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
