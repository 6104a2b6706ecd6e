/*
 * test_store_scenarios.c - what the two ends of a pool must agree on, whatever becomes of blocks, keys and stores.
 *
 * As test_relay_scenarios.c: every test ends with sim_settle, which holds both ends of every pool against each
 * other, byte for byte; but for those where a store was put back, for which only an operator can help.
 */
#include <stdio.h>
#include <unistd.h>

#include "inside.h"
#include "scenario.h"

#include "log.h"

/* ---- blocks --------------------------------------------------------------------------------------------- */

static void many_missing(struct sim_options *o)
{
	o->faults.missing = 200;
	o->faults.late_block = 100;
}

static void blocks_missing_at_both_ends(void **state)
{
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, many_missing);

	(void)state;
	sim_run(s, 20 * NS_PER_S);
	end(s);
}

static void most_missing(struct sim_options *o)
{
	o->faults.missing = 850;
	o->block_interval = 20 * NS_PER_MS;
}

/* Those that one end lacks bring no authentication keys: they may not cost any. */
static void most_blocks_at_one_end_only(void **state)
{
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, most_missing);

	(void)state;
	sim_run(s, 90 * NS_PER_S);
	end(s);
}

static void many_differing(struct sim_options *o)
{
	o->faults.differing = 250;
}

/* Runs between the holes are too short for what takes from them. */
static void bytes_between_differing_blocks(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, many_differing);

	(void)state;
	sim_run(s, 30 * NS_PER_S);
	end(s);
}

static void slow_and_hungry(struct sim_options *o)
{
	o->faults.slow = 500;
	o->request_interval = 20 * NS_PER_MS;
	o->limits.fill_most = 4096; /* many at once */
}

/* What is under way is not cleared at the destination by what overtakes it: nothing is lost where nothing fails. */
static void allocations_overtake_one_another(void **state)
{
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, slow_and_hungry);

	(void)state;
	sim_run(s, 20 * NS_PER_S);
	end_with_loss(s, 0, 0);
}

/* Half of the initial secret, the beginning of one direction's authentication keys, is another at one end: neither
 * the leader's tags nor the follower's verdict are believed. */
static void initial_secrets_that_differ(void **state)
{
	enum { HALF = 2048 };

	(void)state;
	for (long half = 0; half < 2; half++) {
		struct sim_options o;
		char path[256], other[HALF];
		struct sim *s;
		FILE *f;

		sim_defaults(&o);
		o.seed = 20416;
		s = sim_new(&o);
		snprintf(path, sizeof path, "%s/%s.0", s->directory, s->links[0].name);
		memset(other, 0x5a, sizeof other);
		f = fopen(path, "r+");
		assert_non_null(f);
		assert_int_equal(fseek(f, half * HALF, SEEK_SET), 0);
		assert_int_equal(fwrite(other, sizeof other, 1, f), 1);
		assert_int_equal(fclose(f), 0);
		sim_run(s, 20 * NS_PER_S);
		assert_int_equal(km_counters(sim_core(sim_node(s, 0)))->blocks_agreed, 0);
		assert_int_not_equal(ask(s, 0, 1, NS_PER_S), ST_OK);
		assert_int_not_equal(ask(s, 1, 0, NS_PER_S), ST_OK);
		sim_free(s);
	}
}

static void module_answered(const struct km_answer *answer, void *arg)
{
	*(enum status *)arg = answer->err.status;
}

/* A module speaks for itself. */
static void a_module_that_is_not_the_links(void **state)
{
	static const char *const from[] = { "module000-001", "module001-000", "module001-000" };
	static const char *const says[] = { "module000-001", "module000-001", "module001-000" };
	static const enum status told[] = { ST_OK, ST_DENIED, ST_NOT_FOUND };
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(told); i++) {
		struct km_key_sync m = { .module = says[i], .link = "km000-km001" };
		enum status status = ST_INTERNAL;

		km_receive(sim_core(sim_node(s, 0)), KM_KEY_SYNC, from[i], &m, module_answered, &status);
		assert_int_equal(status, told[i]);
	}
	end(s);
}

/* ---- what comes too late ----------------------------------------------------------------------------------- */

/* km001 has no pad for it, and has when a copy of the message comes: by then the source has given it up. */
static void a_copy_of_a_refused_relay(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);
	struct victim v = { .m = KM_RELAY, .from = "km000", .fate = FATE_COPY, .left = 1000 };
	uint32_t result;

	(void)state;
	sim_link_down(s, 1, true);
	do { /* until no pad is left behind km001 */
		result = ask_for_many(s, 0, 2, NS_PER_S);
		sim_request(s, 1, 2, 100, 512, 2 * NS_PER_S, NULL);
	} while (result == ST_OK);
	assert_int_equal(result, ST_TOO_FEW_KEYS);
	sim_set_hook(s, strike, &v);
	for (int i = 0; i < 10; i++) {
		sim_request(s, 0, 2, 60, 1024, NS_PER_S, NULL);
		sim_run(s, NS_PER_S);
		sim_link_down(s, 1, i % 3 != 2);
	}
	sim_set_hook(s, NULL, NULL);
	assert_true(v.left < 1000);
	end(s);
}

/* ---- keys that nobody fetches -------------------------------------------------------------------------------- */

static void short_lived(struct sim_options *o)
{
	o->limits.key_lifetime = 3 * NS_PER_S;
	o->faults.drop = o->faults.drop_answer = 30;
}

static void keys_expire_whatever_happens(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_DISTRIBUTED, short_lived);

	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		sim_run(s, 4 * NS_PER_S);
		sim_kill(sim_node(s, i % 3));
		sim_run(s, 2 * NS_PER_S);
		sim_start(sim_node(s, i % 3));
	}
	end(s);
}

/* ---- stores that fail ------------------------------------------------------------------------------------------ */

static void failing_stores(struct sim_options *o)
{
	o->faults.storage = 30;
}

static void transactions_that_fail(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, failing_stores);
		struct sim_stats stats;

		sim_run(s, 30 * NS_PER_S);
		sim_stats(s, &stats);
		assert_true(stats.storage_failures > 20);
		end(s);
	}
}

static void dead_stores(struct sim_options *o)
{
	o->request_interval = 0;
}

/* Nothing can be committed any more: every request is told so, and nobody is given a key. */
static void a_store_that_takes_nothing_any_more(void **state)
{
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, dead_stores);
	const struct sim_faults full = { .storage_full = 1000 };

	(void)state;
	sim_set_faults(s, &full);
	assert_int_equal(ask(s, 0, 1, NS_PER_S), ST_STORAGE);
	assert_int_equal(ask(s, 1, 0, NS_PER_S), ST_STORAGE);
	sim_set_faults(s, NULL);
	sim_run(s, 5 * NS_PER_S);
	assert_int_equal(ask(s, 0, 1, NS_PER_S), ST_OK);
	end(s);
}

/* The disk of the source, of the node between or of the destination is full again and again, in the middle of anything: what
 * was said before it was durable would be found missing now. */
static void a_disk_that_is_full_for_a_while(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 3; n++) {
		struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);

		for (unsigned i = 0; i < 12; i++) {
			drain(s);
			sim_run(s, i * 7 * NS_PER_MS);
			sim_next_commit(sim_node(s, n), COMMITS_FAIL);
			sim_run(s, 40 * NS_PER_MS);
			sim_next_commit(sim_node(s, n), COMMIT_DONE);
			sim_run(s, 3 * NS_PER_S);
		}
		end(s);
	}
}

/* Where the links stand cannot be read either, while their ends' connections come back. */
static void a_disk_that_is_full_while_links_are_opened(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 2; n++) {
		struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, NULL);
		uint64_t agreed;

		sim_next_commit(sim_node(s, n), COMMITS_FAIL);
		sim_cut(s, 0, 1, NS_PER_S);
		sim_run(s, 5 * NS_PER_S);
		sim_next_commit(sim_node(s, n), COMMIT_DONE);
		sim_run(s, 2 * NS_PER_S);
		agreed = km_counters(sim_core(sim_node(s, 0)))->blocks_agreed;
		sim_run(s, 3 * NS_PER_S);
		assert_in_range(km_counters(sim_core(sim_node(s, 0)))->blocks_agreed, agreed + 1, UINT64_MAX);
		end(s);
	}
}

/* ---- an older copy of a store ----------------------------------------------------------------------------------- */

static bool count_retired(const struct ks_pool *pool, void *arg)
{
	*(unsigned *)arg += pool->retired && pool->desc.kind == KS_POOL_KSA;
	return true;
}

static enum status look_for_retired(struct ks_txn *t, void *arg)
{
	ks_pool_each(t, count_retired, arg);
	return ST_OK;
}

static void looked(enum status s, void *arg)
{
	(void)arg;
	assert_int_equal(s, ST_OK);
}

static unsigned retired_pools(struct sim *s, unsigned node)
{
	unsigned count = 0;

	ks_submit(sim_store(sim_node(s, node)), look_for_retired, looked, &count);
	sim_run(s, NS_PER_S);
	return count;
}

static uint64_t given_up(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	return stats.bytes_voided;
}

/* It has forgotten what it used: its links are refused at either end, and no key is taken from them again, nor from the
 * pool that it is the source of, which is retired at both ends, with all that was in it. */
static void an_older_copy_of_a_store(void **state)
{
	(void)state;
	for (unsigned which = 0; which < 2; which++) {
		struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, NULL);
		struct kv *copy = sim_store_copy(sim_node(s, which));
		uint64_t low_water = s->options.limits.ksa_low_water, lost;
		struct sim_stats before, after;

		drain_pair(s);
		sim_run(s, 10 * NS_PER_S);
		assert_int_equal(retired_pools(s, which), 0);
		lost = given_up(s);
		sim_store_put_back(sim_node(s, which), copy);
		sim_run(s, 5 * NS_PER_S);
		assert_true(retired_pools(s, which) > 0);
		assert_in_range(given_up(s) - lost, 4 * low_water, 9 * low_water); /* the other direction's is not half of it */
		check_stated(s);
		sim_stats(s, &before);
		for (int i = 0; i < 5; i++) {
			drain_pair(s);
			sim_run(s, 5 * NS_PER_S);
		}
		sim_stats(s, &after);
		assert_int_equal(after.allocations, before.allocations);
		assert_true(after.answered[ST_LINK_DOWN] > 0);
		assert_int_equal(sim_violations(s), 0);
		sim_free(s);
	}
}

static void by_relay_alone(struct sim_options *o)
{
	o->limits.relay_to_neighbours = true;
	o->request_interval = 0;
}

static void ask_three_times(struct sim *s)
{
	for (int i = 0; i < 3; i++) {
		sim_request(s, 0, 1, 40, 2048, NS_PER_S, NULL);
		sim_request(s, 0, 2, 40, 2048, NS_PER_S, NULL);
		sim_run(s, 3 * NS_PER_S);
	}
}

/* The same where relays are all that it forgot: no block was settled meanwhile, no key allocated. */
static void an_older_copy_that_forgot_relays(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, by_relay_alone);
	struct sim_stats before, after;
	struct kv *copy;

	(void)state;
	sim_link_down(s, 0, true);
	sim_run(s, 5 * NS_PER_S);
	copy = sim_store_copy(sim_node(s, 0));
	sim_stats(s, &before);
	ask_three_times(s);
	sim_stats(s, &after);
	assert_true(after.relays > before.relays);
	sim_store_put_back(sim_node(s, 0), copy);
	sim_run(s, 5 * NS_PER_S);
	ask_three_times(s);
	sim_stats(s, &after);
	assert_true(after.answered[ST_LINK_DOWN] > 0);
	check_stated(s);
	assert_int_equal(sim_violations(s), 0);
	sim_free(s);
}

static bool add_held(const struct ks_pool *pool, void *arg)
{
	if (pool->desc.kind == KS_POOL_KSA && strcmp(pool->desc.source, "km000") == 0)
		*(uint64_t *)arg += pool->stock + pool->unready;
	return true;
}

static enum status look_for_held(struct ks_txn *t, void *arg)
{
	ks_pool_each(t, add_held, arg);
	return ST_OK;
}

/* Ranges that were on their way in the copy end with their pools, and are counted with these. */
static void an_older_copy_with_ranges_on_their_way(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, by_relay_alone);
	struct victim v = { .m = KM_RELAY, .from = "km000", .fate = FATE_DROP, .left = 1000 };
	uint64_t held = 0;
	struct kv *copy;

	(void)state;
	sim_set_hook(s, strike, &v);
	ask_three_times(s);
	sim_run(s, NS_PER_S);
	assert_true(v.left < 1000);
	copy = sim_store_copy(sim_node(s, 0));
	sim_set_hook(s, NULL, NULL);
	for (int i = 0; i < 3; i++)
		ask_three_times(s);
	sim_store_put_back(sim_node(s, 0), copy);
	ks_submit(sim_store(sim_node(s, 0)), look_for_held, looked, &held);
	sim_run(s, 10 * NS_PER_S);
	assert_int_equal(retired_pools(s, 0), 2);
	assert_int_equal(km_counters(sim_core(sim_node(s, 0)))->bytes_voided, held);
	check_stated(s);
	sim_free(s);
}

/* ... and where allocations are. */
static void an_older_copy_that_forgot_allocations(void **state)
{
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, NULL);
	struct sim_stats before, after;
	struct kv *copy;

	(void)state;
	sim_link_down(s, 0, true);
	sim_run(s, 5 * NS_PER_S);
	copy = sim_store_copy(sim_node(s, 0));
	sim_stats(s, &before);
	drain_pair(s);
	sim_run(s, 10 * NS_PER_S);
	sim_stats(s, &after);
	assert_true(after.allocations > before.allocations);
	sim_store_put_back(sim_node(s, 0), copy);
	sim_run(s, 5 * NS_PER_S);
	for (int i = 0; i < 5; i++) {
		drain_pair(s);
		sim_run(s, 5 * NS_PER_S);
	}
	sim_stats(s, &before);
	assert_int_equal(before.allocations, after.allocations);
	assert_true(before.answered[ST_LINK_DOWN] > 0);
	assert_int_equal(sim_violations(s), 0);
	sim_free(s);
}

/* ---- a lost store, and its link made anew ------------------------------------------------------------------------ */

static void secret_path(const struct sim *s, unsigned end, char path[256])
{
	snprintf(path, 256, "%s/%s.%u", s->directory, s->links[0].name, end);
}

static bool secret_is_there(const struct sim *s, unsigned end)
{
	char path[256];

	secret_path(s, end, path);
	return access(path, F_OK) == 0;
}

static void read_secret(const struct sim *s, uint8_t secret[SIM_SECRET_LEN])
{
	char path[256];
	FILE *f;

	secret_path(s, 0, path);
	f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fread(secret, SIM_SECRET_LEN, 1, f), 1);
	assert_int_equal(fclose(f), 0);
}

static struct sim *pair(const struct sim_faults *faults)
{
	struct sim_options o;

	sim_defaults(&o);
	o.seed = 20416;
	if (faults != NULL)
		o.faults = *faults;
	return sim_new(&o);
}

static void restart_node(struct sim *s, unsigned which)
{
	sim_kill(sim_node(s, which));
	sim_start(sim_node(s, which));
}

static bool keys_flow(struct sim *s)
{
	return ask(s, 0, 1, 5 * NS_PER_S) == ST_OK && ask(s, 1, 0, 5 * NS_PER_S) == ST_OK;
}

static uint64_t allocations(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	return stats.allocations;
}

/* Its node has a fresh secret first, and nothing happens; the other's finds it at its start. What is over by then is
 * no secret any more, nor the old one that is put back. The modules have counted on, by more than a KM takes ahead. */
static void a_link_is_made_anew(void **state)
{
	(void)state;
	for (unsigned lost = 0; lost < 2; lost++) {
		struct sim *s = pair(NULL);
		struct kv *nothing = sim_store_copy(sim_node(s, lost));
		uint8_t first[SIM_SECRET_LEN], fresh[SIM_SECRET_LEN];
		uint64_t before;

		read_secret(s, first);
		sim_run(s, 10 * NS_PER_S);
		assert_true(keys_flow(s));
		sim_store_put_back(sim_node(s, lost), nothing);
		s->links[0].next_sequence += lost * 10000;
		sim_run(s, 60 * NS_PER_S);
		before = allocations(s);
		sim_give_secret(s, 0, NULL);
		read_secret(s, fresh);
		sim_run(s, 20 * NS_PER_S);
		assert_int_equal(allocations(s), before);
		assert_true(secret_is_there(s, 1 - lost));
		restart_node(s, 1 - lost);
		sim_run(s, 20 * NS_PER_S);
		assert_true(keys_flow(s));
		assert_true(allocations(s) > before);
		assert_false(secret_is_there(s, 0) || secret_is_there(s, 1));
		for (int i = 0; i < 2; i++) {
			sim_give_secret(s, 0, i == 0 ? first : fresh);
			restart_node(s, 1 - lost);
			sim_run(s, 10 * NS_PER_S);
			assert_true(keys_flow(s));
			assert_false(secret_is_there(s, 1 - lost));
		}
		sim_settle(s);
		assert_int_equal(sim_violations(s), 0);
		sim_free(s);
	}
}

/* An operator may do so with nothing lost, and allocations under way. The modules begin again: what was in the old
 * link is not in the new one, and what is asked of it again is no use of the new one, which opens again. */
static void a_link_is_made_anew_between_two_stores(void **state)
{
	struct victim v = { .m = KM_ALLOCATE, .fate = FATE_DROP, .left = 1000 };
	struct sim *s = pair(NULL);
	uint64_t before;

	(void)state;
	sim_run(s, 10 * NS_PER_S);
	sim_set_hook(s, strike, &v);
	drain_pair(s);
	sim_run(s, 2 * NS_PER_S);
	assert_in_range(v.left, 1, 999);
	sim_kill(sim_node(s, 0));
	sim_kill(sim_node(s, 1));
	sim_set_hook(s, NULL, NULL);
	sim_give_secret(s, 0, NULL);
	s->links[0].next_sequence = 0;
	sim_start(sim_node(s, 0));
	sim_start(sim_node(s, 1));
	sim_run(s, 2 * NS_PER_S);
	before = allocations(s);
	restart_node(s, 0); /* before a key is taken of the new link */
	for (int i = 0; i < 10; i++) {
		drain_pair(s);
		sim_run(s, 6 * NS_PER_S);
	}
	assert_true(keys_flow(s));
	assert_true(allocations(s) > before);
	end(s);
}

/* What the lost store's node makes of an old secret the other does not join, in whatever order they start. */
static void an_old_secret_makes_no_link(void **state)
{
	(void)state;
	for (unsigned lost = 0; lost < 2; lost++) {
		struct sim *s = pair(NULL);
		struct kv *nothing = sim_store_copy(sim_node(s, lost));
		uint8_t first[SIM_SECRET_LEN];
		uint64_t before;

		read_secret(s, first);
		sim_run(s, 10 * NS_PER_S);
		sim_store_put_back(sim_node(s, lost), nothing);
		sim_run(s, 5 * NS_PER_S);
		before = allocations(s);
		for (unsigned i = 0; i < 4; i++) {
			sim_give_secret(s, 0, first);
			restart_node(s, i % 2);
			sim_run(s, 10 * NS_PER_S);
		}
		assert_int_equal(allocations(s), before);
		assert_int_not_equal(ask(s, 0, 1, NS_PER_S), ST_OK);
		sim_give_secret(s, 0, NULL);
		restart_node(s, 0);
		restart_node(s, 1);
		sim_run(s, 20 * NS_PER_S);
		assert_true(keys_flow(s));
		assert_int_equal(sim_violations(s), 0);
		sim_free(s);
	}
}

/* Nodes that are killed at any moment of it, with stores that fail now and then. */
static void a_link_is_made_anew_whatever_happens(void **state)
{
	const struct sim_faults faults = { .drop = 50, .drop_answer = 50, .duplicate = 20, .slow = 100, .storage = 50 };

	(void)state;
	for (unsigned round = 0; round < 12; round++) {
		struct sim *s = pair(NULL);
		unsigned lost = round % 2;
		struct kv *nothing = sim_store_copy(sim_node(s, lost));

		sim_run(s, 5 * NS_PER_S);
		drain_pair(s);
		sim_run(s, round * NS_PER_S / 10);
		sim_store_put_back(sim_node(s, lost), nothing);
		if (round % 3 == 0)
			s->links[0].next_sequence += 10000;
		sim_run(s, 40 * NS_PER_S);
		sim_set_faults(s, &faults);
		sim_give_secret(s, 0, NULL);
		for (unsigned i = 0; i < 12; i++) {
			restart_node(s, (unsigned)sim_dice(s, 2));
			sim_run(s, sim_dice(s, 200) * NS_PER_MS);
		}
		sim_set_faults(s, NULL);
		restart_node(s, 1 - lost);
		sim_run(s, 30 * NS_PER_S);
		assert_true(keys_flow(s));
		sim_settle(s);
		assert_int_equal(sim_violations(s), 0);
		sim_free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_missing_at_both_ends),
		cmocka_unit_test(most_blocks_at_one_end_only),
		cmocka_unit_test(bytes_between_differing_blocks),
		cmocka_unit_test(initial_secrets_that_differ),
		cmocka_unit_test(a_link_is_made_anew),
		cmocka_unit_test(a_link_is_made_anew_between_two_stores),
		cmocka_unit_test(an_old_secret_makes_no_link),
		cmocka_unit_test(a_link_is_made_anew_whatever_happens),
		cmocka_unit_test(a_module_that_is_not_the_links),
		cmocka_unit_test(allocations_overtake_one_another),
		cmocka_unit_test(a_copy_of_a_refused_relay),
		cmocka_unit_test(keys_expire_whatever_happens),
		cmocka_unit_test(transactions_that_fail),
		cmocka_unit_test(a_store_that_takes_nothing_any_more),
		cmocka_unit_test(a_disk_that_is_full_for_a_while),
		cmocka_unit_test(a_disk_that_is_full_while_links_are_opened),
		cmocka_unit_test(an_older_copy_of_a_store),
		cmocka_unit_test(an_older_copy_that_forgot_relays),
		cmocka_unit_test(an_older_copy_that_forgot_allocations),
		cmocka_unit_test(an_older_copy_with_ranges_on_their_way),
	};

	log_open("test_store_scenarios", LOG_LEVEL_FATAL);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
