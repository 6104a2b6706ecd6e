/*
 * test_rpc_turn.c - whose turn it is, and what leaves first. The endpoint and its loop are real; what its
 * connections have to do is told by the tests, in units of work, and they move the clock: nothing here
 * depends on how fast a machine is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "endpoint.h"
#include "env_event.h"
#include "test_pki.h"

enum { SERVED_MAX = 256, MUCH = 1000000 };

/* One connection. */
struct caller {
	struct rtls_conn conn; /* first: who frees that frees the caller */
	struct scene *scene;
	char letter;
	int wants, had; /* units of work */
	unsigned costs; /* each of them elsewhere */
	bool is_paused; /* its work waits for something else */
};

struct scene {
	struct env *env;
	struct env_ops ops; /* the environment's own, but for the clock */
	struct rtls_endpoint *ep;
	char served[SERVED_MAX]; /* the letters of who was, in the last turn of the loop */
	struct caller *comes;    /* has something to do once something was flushed */
};

static struct test_pki *pki;
static uint64_t clock_ns;

static void note(struct caller *c)
{
	size_t len = strlen(c->scene->served);

	assert_in_range(len, 0, SERVED_MAX - 2);
	c->scene->served[len] = c->letter;
	c->scene->served[len + 1] = '\0';
}

static void wants(struct caller *c, int units)
{
	c->wants += units;
	turn_add(&c->conn);
}

/* ---- instead of traffic.c ---------------------------------------------------------------------------- */

bool __wrap_traffic_run(struct rtls_conn *conn, int *slice);
bool __wrap_traffic_run(struct rtls_conn *conn, int *slice)
{
	struct caller *c = container_of(conn, struct caller, conn);
	note(c);
	for (; c->wants > 0 && *slice > 0; c->wants--) {
		c->had++;
		turn_costs(conn, c->costs);
		*slice -= 1 + conn->costs;
		conn->costs = 0;
	}
	if (c->is_paused)
		turn_pause(conn);
	return c->wants > 0 && !c->is_paused;
}

void __wrap_traffic_flush(struct rtls_conn *conn);
void __wrap_traffic_flush(struct rtls_conn *conn)
{
	struct caller *c = container_of(conn, struct caller, conn), *comes = c->scene->comes;

	note(c);
	c->scene->comes = NULL;
	if (comes != NULL)
		wants(comes, 1);
}

/* ---- the scene ---------------------------------------------------------------------------------------- */

static uint64_t scene_mono(struct env *env)
{
	(void)env;
	return clock_ns;
}

static void scene_start(struct scene *s)
{
	struct rtls_credentials *c = test_pki_credentials(pki, "km", "k");
	struct err e;

	*s = (struct scene){ .env = env_event_new() };
	assert_non_null(s->env);
	clock_ns = NS_PER_S;
	s->ops = *s->env->ops;
	s->ops.mono = scene_mono;
	s->env->ops = &s->ops;
	assert_int_equal(rtls_endpoint_new(&s->ep, s->env, c, NULL, &e), ST_OK);
	rtls_credentials_free(c);
}

static void scene_stop(struct scene *s)
{
	rtls_endpoint_free(s->ep);
	env_event_free(s->env);
}

static struct caller *caller_new(struct scene *s, const char *role, const char *name, char letter)
{
	struct caller *c = xcalloc(1, sizeof *c);
	struct rtls_identity *id = &c->conn.session.peer.identity;

	c->scene = s;
	c->letter = letter;
	c->conn.ep = s->ep;
	c->conn.references = 1;
	c->conn.accepted = true;
	snprintf(id->role, sizeof id->role, "%s", role);
	snprintf(id->name, sizeof id->name, "%s", name);
	party_join(&c->conn);
	return c;
}

static void caller_free(struct caller *c)
{
	c->conn.closed = true;
	party_leave(&c->conn);
	conn_release(&c->conn);
}

/* One turn of the loop, so long after the one before. */
static void turn(struct scene *s, uint64_t us)
{
	clock_ns += us * NS_PER_US;
	s->served[0] = '\0';
	event_base_loop(s->ep->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
}

static char last_served(const struct scene *s)
{
	return s->served[0] != '\0' ? s->served[strlen(s->served) - 1] : '\0';
}

/* Has had more to do than a turn allows, and has more. */
static struct caller *flooding(struct scene *s, const char *role, const char *name, char letter)
{
	struct caller *c = caller_new(s, role, name, letter);

	wants(c, MUCH);
	turn(s, 2000);
	assert_true(c->had > 0);
	c->had = 0;
	return c;
}

/* ---- whose turn it is --------------------------------------------------------------------------------- */

/* Though it came first, and is there in every turn. */
static void who_floods_comes_after_all_others(void **state)
{
	struct caller *flood, *modest;
	struct scene s;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	modest = caller_new(&s, "km", "modest", 'm');
	for (int i = 0; i < 10; i++) {
		wants(modest, 20);
		turn(&s, 50);
		assert_int_equal(s.served[0], 'm');
		assert_int_equal(last_served(&s), 'f');
		assert_int_equal(modest->wants, 0);
	}
	caller_free(modest);
	caller_free(flood);
	scene_stop(&s);
}

/* Half of what the modest of other roles have, but as much as one of them may; two have it together. */
static void a_flood_has_its_share_beside_other_roles(void **state)
{
	enum { MODEST = 8, TURNS = 20, EACH = 100 };
	struct caller *flood, *second, *modest[MODEST];
	int beside_one, beside_all;
	struct scene s;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	for (int i = 0; i < MODEST; i++)
		modest[i] = caller_new(&s, "km", (char[]){ 'm', (char)('0' + i), '\0' }, 'm');
	for (int i = 0; i < TURNS; i++) {
		wants(modest[0], EACH);
		turn(&s, 50);
	}
	beside_one = flood->had / TURNS;
	second = flooding(&s, "module", "second", 's');
	flood->had = 0;
	for (int i = 0; i < TURNS; i++) {
		for (int k = 0; k < MODEST; k++)
			wants(modest[k], EACH);
		turn(&s, 50);
	}
	beside_all = (flood->had + second->had) / TURNS;
	assert_in_range(beside_one, EACH, 2 * EACH);
	assert_in_range(beside_all, MODEST * EACH / 2 - EACH / 2, MODEST * EACH / 2 + EACH / 2);
	assert_in_range(flood->had, second->had - 2 * EACH, second->had + 2 * EACH);
	for (int i = 0; i < MODEST; i++)
		caller_free(modest[i]);
	caller_free(second);
	caller_free(flood);
	scene_stop(&s);
}

/* Turns in which somebody modest has something to do, and all of it is done. */
static void turns_beside(struct scene *s, struct caller *modest, int turns, uint64_t us)
{
	for (int i = 0; i < turns; i++) {
		wants(modest, 20);
		turn(s, us);
		assert_int_equal(modest->wants, 0);
	}
}

/* A third of the time, and what it may have saved up; so have two that flood, together. */
static void beside_others_of_its_role_a_flood_has_a_third_of_the_time(void **state)
{
	enum { TURNS = 200, US = 60, SAVED = 150 };
	struct caller *flood, *second, *modest;
	struct scene s;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	modest = caller_new(&s, "app", "modest", 'm');
	turns_beside(&s, modest, TURNS, US);
	assert_in_range(flood->had, TURNS * US / 3 - SAVED, TURNS * US / 3 + SAVED);
	second = flooding(&s, "app", "second", 's');
	flood->had = 0;
	turns_beside(&s, modest, TURNS, US);
	assert_in_range(flood->had + second->had, TURNS * US / 3 - 2 * SAVED, TURNS * US / 3 + 2 * SAVED);
	assert_in_range(flood->had, second->had - SAVED, second->had + SAVED);
	caller_free(second);
	caller_free(modest);
	caller_free(flood);
	scene_stop(&s);
}

/* What its work costs elsewhere is of its third, too; what that of others costs is nobody's. */
static void a_flood_pays_for_what_its_work_costs_elsewhere(void **state)
{
	enum { TURNS = 2000, US = 60, COSTS = 9, SAVED = 150 };
	struct caller *flood, *modest;
	struct scene s;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	modest = caller_new(&s, "app", "modest", 'm');
	flood->costs = COSTS;
	modest->costs = 100 * COSTS;
	turns_beside(&s, modest, TURNS, US);
	assert_in_range(flood->had * (1 + COSTS), TURNS * US / 3 - SAVED * COSTS, TURNS * US / 3 + SAVED * COSTS);
	caller_free(modest);
	caller_free(flood);
	scene_stop(&s);
}

/* While all that flood wait somebody modest is served at once, and they are not forgotten. */
static void who_comes_while_all_wait_does_not_wait(void **state)
{
	struct caller *flood, *modest;
	struct scene s;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	modest = caller_new(&s, "app", "modest", 'm');
	for (int i = 0; i < 10; i++) { /* the clock stands: what it has saved up goes */
		wants(modest, 1);
		turn(&s, 0);
	}
	turn(&s, 0);
	assert_string_equal(s.served, "");
	wants(modest, 1);
	turn(&s, 0);
	assert_string_equal(s.served, "m");
	clock_ns += 5 * NS_PER_MS; /* nobody modest came for so long */
	event_base_loop(s.ep->base, EVLOOP_ONCE);
	assert_int_equal(last_served(&s), 'f');
	caller_free(modest);
	caller_free(flood);
	scene_stop(&s);
}

static void alone_a_flood_has_more_from_turn_to_turn(void **state)
{
	struct caller *flood, *modest;
	int had[6];
	struct scene s;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	modest = caller_new(&s, "km", "modest", 'm');
	for (unsigned i = 0; i < ARRAY_LEN(had); i++) {
		flood->had = 0;
		if (i == 4)
			wants(modest, 1);
		turn(&s, 50);
		had[i] = flood->had;
	}
	assert_true(had[1] > had[0] && had[2] > had[1]);
	assert_in_range(had[3], 3 * had[0], 8 * had[0]); /* but there is a turn for others */
	assert_true(had[4] < had[0] && had[5] < had[2]); /* once others are there it is as at first */
	caller_free(modest);
	caller_free(flood);
	scene_stop(&s);
}

/* Not before: what waits for its answers to go is still to be done. */
static void a_flood_is_forgiven_when_all_is_done(void **state)
{
	struct caller *flood, *other;
	struct scene s;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	other = caller_new(&s, "km", "other", 'o');
	flood->is_paused = true;
	turn(&s, 2000);
	turn(&s, 2000);
	assert_string_equal(s.served, "");
	flood->is_paused = false;
	wants(flood, 1);
	wants(other, 1);
	turn(&s, 2000);
	assert_int_equal(s.served[0], 'o');
	flood->wants = 1;
	turn(&s, 2000); /* the last of it */
	wants(flood, 1);
	wants(other, 1);
	turn(&s, 2000);
	assert_string_equal(s.served, "fo");
	caller_free(other);
	caller_free(flood);
	scene_stop(&s);
}

static void an_identity_has_one_share_however_many_connections(void **state)
{
	enum { CONNECTIONS = 8, TURNS = 50 };
	struct caller *one, *many[CONNECTIONS];
	int all = 0, first;
	struct scene s;

	(void)state;
	scene_start(&s);
	one = caller_new(&s, "app", "one", 'o');
	for (int i = 0; i < CONNECTIONS; i++) {
		many[i] = caller_new(&s, "app", "many", 'm');
		wants(many[i], MUCH);
	}
	wants(one, MUCH);
	for (int i = 0; i < TURNS; i++)
		turn(&s, 2000);
	first = many[0]->had;
	for (int i = 0; i < CONNECTIONS; i++) {
		assert_in_range(many[i]->had, first - first / 10, first + first / 10);
		all += many[i]->had;
	}
	assert_in_range(one->had, all - all / 10, all + all / 10);
	for (int i = 0; i < CONNECTIONS; i++)
		caller_free(many[i]);
	caller_free(one);
	scene_stop(&s);
}

/* It has so much less of a turn, and no more is owed than some turns make up for. */
static void work_outside_of_a_turn_is_owed(void **state)
{
	struct caller *owes, *other;
	int turns = 0;
	struct scene s;

	(void)state;
	scene_start(&s);
	owes = caller_new(&s, "app", "owes", 'w');
	other = caller_new(&s, "app", "other", 'o');
	turn_charge(&owes->conn, 100);
	wants(owes, 150);
	wants(other, 150);
	turn(&s, 2000);
	assert_int_equal(other->wants, 0);
	assert_in_range(owes->wants, 1, 149);
	turn(&s, 2000);
	assert_int_equal(owes->wants, 0);
	for (int i = 0; i < 1000; i++)
		turn_charge(&owes->conn, 100);
	wants(owes, 1);
	for (; owes->wants > 0; turns++) {
		wants(other, 1);
		turn(&s, 2000);
		assert_in_range(turns, 0, 40);
	}
	assert_true(turns > 2);
	caller_free(other);
	caller_free(owes);
	scene_stop(&s);
}

/* Nobody else wants what it has beyond its turn. */
static void alone_nothing_is_owed(void **state)
{
	struct caller *flood;
	struct scene s;
	int had;

	(void)state;
	scene_start(&s);
	flood = flooding(&s, "app", "flood", 'f');
	for (int i = 0; i < 10; i++)
		turn(&s, 50);
	flood->had = 0;
	turn(&s, 50);
	had = flood->had;
	turn_charge(&flood->conn, had / 2);
	turn(&s, 50);
	assert_in_range(flood->had - had, had - had / 10, had + had / 10);
	caller_free(flood);
	scene_stop(&s);
}

static void what_is_left_of_a_turn_is_not_saved_up(void **state)
{
	struct caller *patient, *fresh;
	struct scene s;

	(void)state;
	scene_start(&s);
	patient = caller_new(&s, "app", "patient", 'p');
	fresh = caller_new(&s, "km", "fresh", 'f');
	for (int i = 0; i < 100; i++) {
		wants(patient, 1);
		turn(&s, 2000);
	}
	patient->had = 0;
	wants(patient, MUCH);
	wants(fresh, MUCH);
	turn(&s, 2000);
	assert_in_range(patient->had, fresh->had - 10, fresh->had + 10);
	caller_free(fresh);
	caller_free(patient);
	scene_stop(&s);
}

/* ---- what leaves first -------------------------------------------------------------------------------- */

enum { ANSWERS = 20 };

struct output {
	struct caller *answers[ANSWERS], *calls[2], *other;
};

/* 'a' and those that follow it, in this order. */
static void put_answers(struct scene *s, struct output *o)
{
	for (int i = 0; i < ANSWERS; i++) {
		o->answers[i] = caller_new(s, "app", "asks", (char)('a' + i));
		traffic_flush_later(&o->answers[i]->conn);
	}
	for (int i = 0; i < 2; i++) {
		o->calls[i] = caller_new(s, "km", "peer", (char)('1' + i));
		o->calls[i]->conn.accepted = false;
	}
	o->other = caller_new(s, "km", "other", '!');
}

static void output_free(struct output *o)
{
	for (int i = 0; i < ANSWERS; i++)
		caller_free(o->answers[i]);
	for (int i = 0; i < 2; i++)
		caller_free(o->calls[i]);
	caller_free(o->other);
}

/* Of this turn, though they were put last; and of the next. */
static void calls_leave_before_answers(void **state)
{
	struct scene s;
	struct output o;

	(void)state;
	scene_start(&s);
	put_answers(&s, &o);
	traffic_flush_later(&o.calls[0]->conn);
	traffic_flush_later(&o.answers[0]->conn); /* once is enough */
	traffic_flush_later(&o.calls[1]->conn);
	turn(&s, 50);
	assert_memory_equal(s.served, "12ab", 4);
	assert_true(last_served(&s) < 'a' + ANSWERS - 1);
	traffic_flush_later(&o.calls[1]->conn);
	turn(&s, 50);
	assert_int_equal(s.served[0], '2');
	assert_true(s.served[1] > 'b');
	output_free(&o);
	scene_stop(&s);
}

/* What comes while many answers leave does not wait for all of them. None is lost, nor overtakes another. */
static void what_comes_is_not_kept_waiting_by_many_answers(void **state)
{
	char all[4 * ANSWERS] = "";
	struct scene s;
	struct output o;
	const char *came;

	(void)state;
	scene_start(&s);
	put_answers(&s, &o);
	s.comes = o.other;
	for (int i = 0; i < 10; i++) {
		turn(&s, 50);
		strcat(all, s.served);
	}
	came = strchr(all, '!');
	assert_non_null(came);
	assert_in_range(came - all, 1, ANSWERS / 2);
	memmove(all + (came - all), came + 1, strlen(came));
	assert_string_equal(all, "abcdefghijklmnopqrst");
	output_free(&o);
	scene_stop(&s);
}

/* ---- the end ------------------------------------------------------------------------------------------- */

static void held_back_lines_are_told_at_the_end(void **state)
{
	int err = dup(STDERR_FILENO), ends[2];
	char text[512] = "";
	struct scene s;

	(void)state;
	scene_start(&s);
	s.ep->limit.held_back = 5;
	assert_true(err >= 0 && pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
	log_open("test", LOG_LEVEL_WARNING);
	scene_stop(&s);
	log_open("test_rpc_turn", LOG_LEVEL_ERROR);
	dup2(err, STDERR_FILENO);
	close(err);
	close(ends[1]);
	assert_true(read(ends[0], text, sizeof text - 1) > 0);
	close(ends[0]);
	assert_string_equal(text, "test: warning: connections: 5 more lines were held back\n");
}

static int group_start(void **state)
{
	(void)state;
	pki = test_pki_new();
	return 0;
}

static int group_stop(void **state)
{
	(void)state;
	test_pki_free(pki);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_floods_comes_after_all_others),
		cmocka_unit_test(a_flood_has_its_share_beside_other_roles),
		cmocka_unit_test(beside_others_of_its_role_a_flood_has_a_third_of_the_time),
		cmocka_unit_test(a_flood_pays_for_what_its_work_costs_elsewhere),
		cmocka_unit_test(who_comes_while_all_wait_does_not_wait),
		cmocka_unit_test(alone_a_flood_has_more_from_turn_to_turn),
		cmocka_unit_test(a_flood_is_forgiven_when_all_is_done),
		cmocka_unit_test(an_identity_has_one_share_however_many_connections),
		cmocka_unit_test(work_outside_of_a_turn_is_owed),
		cmocka_unit_test(alone_nothing_is_owed),
		cmocka_unit_test(what_is_left_of_a_turn_is_not_saved_up),
		cmocka_unit_test(calls_leave_before_answers),
		cmocka_unit_test(what_comes_is_not_kept_waiting_by_many_answers),
		cmocka_unit_test(held_back_lines_are_told_at_the_end),
	};

	log_open("test_rpc_turn", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, group_start, group_stop);
}
