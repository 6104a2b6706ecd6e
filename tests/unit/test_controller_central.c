/*
 * test_controller_central.c - the core of a centralized controller under a virtual clock: full routes, detours and
 * alternatives; relay with reservation and allocation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller.h"
#include "env_virtual.h"
#include "log.h"

#define ROUND NS_PER_MS

static const struct route_state good = { .up = true, .stock = 1 << 21, .generation_rate = 100000 };

/* One controller over a line a - b - c and a way around over d, with KMs that answer as told. */
struct scene {
	struct world *world;
	struct env *env;
	struct controller *controller;
	char log[1024];            /* calls: "reserve a; relay b; …" */
	enum status reserve[8], relay[8], allocate[8];
	unsigned reserves, relays, allocates;
	uint64_t took; /* bytes that a's pool got */
};

struct answer {
	struct scene *scene;
	struct env_timer *timer;
	enum status status;
	controller_done done;
	controller_reserve_done reserve_done;
	struct controller_relay relay;
	void *token;
};

static void answer_due(void *arg)
{
	struct answer *a = arg;

	if (a->reserve_done != NULL)
		a->reserve_done(a->status, &a->relay, a->token);
	else
		a->done(a->status, a->token);
	env_timer_free(a->scene->env, a->timer);
	free(a);
}

static struct answer *answer_later(struct scene *s, const char *what, const char *km, enum status status, void *token)
{
	struct answer *a = xcalloc(1, sizeof *a);
	size_t len = strlen(s->log);

	snprintf(s->log + len, sizeof s->log - len, "%s %s; ", what, km);
	a->scene = s;
	a->status = status;
	a->token = token;
	a->timer = env_timer_new(s->env, answer_due, a);
	env_timer_set(s->env, a->timer, status == ST_TIMED_OUT ? 5 * NS_PER_S : ROUND);
	return a;
}

static void scene_reserve(void *arg, const char *km, const struct controller_relay *relay,
                          controller_reserve_done done, void *token)
{
	struct scene *s = arg;
	struct answer *a = answer_later(s, "reserve", km, s->reserve[s->reserves++ % 8], token);

	a->reserve_done = done;
	a->relay = *relay;
	strcpy(a->relay.link, "ab");
	a->relay.link_offset = 4711;
	a->relay.ksa_offset = 42;
}

static void scene_relay(void *arg, const char *km, const struct controller_relay *relay, uint64_t timeout,
                        controller_done done, void *token)
{
	struct scene *s = arg;

	assert_string_equal(relay->link, "ab");
	assert_int_equal(relay->link_offset, 4711);
	assert_int_equal(relay->ksa_offset, 42);
	assert_string_equal(relay->route[0], "a");
	assert_string_equal(relay->route[relay->route_count - 1], "c");
	assert_true(timeout > 0);
	answer_later(s, "relay", km, s->relay[s->relays++ % 8], token)->done = done;
}

static void scene_allocate(void *arg, const char *km, const struct controller_relay *relay, controller_done done,
                           void *token)
{
	struct scene *s = arg;

	s->took += relay->len;
	answer_later(s, "allocate", km, s->allocate[s->allocates++ % 8], token)->done = done;
}

static void scene_give_up(void *arg, const char *km, const struct controller_relay *relay, controller_done done,
                          void *token)
{
	(void)relay;
	answer_later(arg, "void", km, ST_OK, token)->done = done;
}

static struct route_link link_to(const char *name, const char *peer)
{
	struct route_link l = { .state = good };

	strcpy(l.name, name);
	strcpy(l.peer, peer);
	return l;
}

static void scene_report(struct scene *s, bool ab_up)
{
	struct route_link a[] = { link_to("ab", "b"), link_to("ad", "d") }, b[] = { link_to("ab", "a"), link_to("bc", "c") },
			  c[] = { link_to("bc", "b"), link_to("ec", "e") }, d[] = { link_to("ad", "a"), link_to("de", "e") },
			  e[] = { link_to("de", "d"), link_to("ec", "c") };

	a[0].state.up = ab_up;
	assert_int_equal(controller_link_status(s->controller, "a", a, 2), ST_OK);
	assert_int_equal(controller_link_status(s->controller, "b", b, 2), ST_OK);
	assert_int_equal(controller_link_status(s->controller, "c", c, 2), ST_OK);
	assert_int_equal(controller_link_status(s->controller, "d", d, 2), ST_OK);
	assert_int_equal(controller_link_status(s->controller, "e", e, 2), ST_OK);
}

static struct scene *scene_new(bool reserving)
{
	static const char *const kms[] = { "a", "b", "c", "d", "e" };
	const struct controller_reserve reserve = { "a", "c", 4096, 8192, 12000 };
	struct controller_options o = { .name = "central", .kms = kms, .km_count = 5, .reserve = &reserve,
		                        .reserve_count = reserving };
	struct scene *s = xcalloc(1, sizeof *s);
	struct controller_calls calls = { .reserve = scene_reserve, .relay = scene_relay, .allocate = scene_allocate,
		                          .give_up = scene_give_up, .arg = s };

	controller_defaults(&o);
	s->world = world_new(1);
	s->env = env_virtual_new(s->world);
	s->controller = controller_new(s->env, &o, &calls);
	return s;
}

static void scene_free(struct scene *s)
{
	controller_free(s->controller);
	env_virtual_free(s->env);
	world_free(s->world);
	free(s);
}

static bool routed(struct scene *s, const struct controller_route_request *r, const char *expected)
{
	struct route routes[ROUTE_DISJOINT_MAX];
	char text[256] = "";
	size_t count;

	if (controller_route(s->controller, r, routes, &count, NULL) != ST_OK)
		return expected == NULL;
	for (size_t i = 0; i < count; i++) {
		for (size_t n = 0; n < routes[i].count; n++)
			strcat(text, controller_node_name(s->controller, routes[i].nodes[n]));
		strcat(text, " ");
	}
	if (strcmp(text, expected) != 0)
		print_message("routes '%s', not '%s'\n", text, expected);
	return strcmp(text, expected) == 0;
}

static void full_routes_and_detours(void **state)
{
	struct scene *s = scene_new(false);
	struct controller_hop bad[] = { { "b", "c" }, { "d", "e" } };
	struct controller_route_request r = { .source = "a", .destination = "c", .len = 1000 };
	struct controller_stats stats;

	(void)state;
	assert_true(routed(s, &r, NULL)); /* nothing is known yet */
	scene_report(s, true);
	assert_true(routed(s, &r, "abc "));
	r.shares = 2;
	assert_true(routed(s, &r, "abc adec "));
	r.shares = 3; /* as many as there are */
	assert_true(routed(s, &r, "abc adec "));
	r.shares = 1;
	r.excluded = bad;
	r.excluded_count = 1;
	assert_true(routed(s, &r, "adec "));
	r.excluded_count = 2;
	assert_true(routed(s, &r, NULL));
	r.excluded_count = 0;
	r.len = (1 << 21) - 4096; /* takes the last of abc: the next goes around, the third where it must */
	scene_report(s, true);
	assert_true(routed(s, &r, "abc "));
	assert_true(routed(s, &r, "adec "));
	assert_true(routed(s, &r, "abc "));
	scene_report(s, false);
	r.len = 1000;
	assert_true(routed(s, &r, "adec "));
	assert_int_equal(controller_relay_result(s->controller, &r.relay, ST_OK, 1000), ST_OK);
	assert_int_equal(controller_relay_result(s->controller, &r.relay, ST_OK, 1000), ST_OK);
	controller_stats(s->controller, &stats);
	assert_int_equal(stats.relays_done, 1);
	scene_free(s);
}

/* A square of a, b, c and d, and a way around by e behind it. */
static void alternatives_for_when_it_is_away(void **state)
{
	struct scene *s = scene_new(false);
	struct controller_route_request r = { .source = "a", .destination = "c", .len = 1000 };
	const struct controller_hop bad = { "d", "e" };
	const char *visited[] = { "a" }, *next, *others[CONTROLLER_ALTERNATIVES_MAX];
	struct controller_next_hop_request h = { .destination = "c", .visited = visited, .visited_count = 1, .len = 1000 };
	struct route given, more[4];
	size_t count;
	unsigned hops_left;

	(void)state;
	scene_report(s, true);
	assert_int_equal(controller_route(s->controller, &r, &given, &count, NULL), ST_OK);
	assert_int_equal(controller_alternative_routes(s->controller, &r, &given, 4, more), 1); /* no route is told twice */
	assert_int_equal(more[0].count, 4);
	assert_string_equal(controller_node_name(s->controller, more[0].nodes[1]), "d");
	assert_int_equal(controller_alternative_routes(s->controller, &r, &given, 0, more), 0);
	r.excluded = &bad;
	r.excluded_count = 1;
	assert_int_equal(controller_alternative_routes(s->controller, &r, &given, 4, more), 0);
	assert_int_equal(controller_next_hop(s->controller, &h, &next, &hops_left, NULL), ST_OK);
	assert_string_equal(next, "b");
	assert_int_equal(controller_alternative_hops(s->controller, &h, next, 4, others), 1);
	assert_string_equal(others[0], "d");
	assert_int_equal(controller_alternative_hops(s->controller, &h, next, 0, others), 0);
	scene_free(s);
}

static void no_way_and_no_pad_are_told_apart(void **state)
{
	struct scene *s = scene_new(false);
	struct controller_route_request r = { .source = "a", .destination = "b", .len = 1000 };
	struct route_link ab = link_to("ab", "b");
	struct route routes[ROUTE_DISJOINT_MAX];
	size_t count;

	(void)state;
	ab.state.stock = 10; /* too little for the relay, but its KM knows that best */
	assert_int_equal(controller_link_status(s->controller, "a", &ab, 1), ST_OK);
	assert_int_equal(controller_route(s->controller, &r, routes, &count, NULL), ST_OK);
	ab.state.stock = ab.state.generation_rate = 0;
	assert_int_equal(controller_link_status(s->controller, "a", &ab, 1), ST_OK);
	assert_int_equal(controller_route(s->controller, &r, routes, &count, NULL), ST_TOO_FEW_KEYS);
	assert_int_equal(count, 0);
	ab.state.up = false;
	assert_int_equal(controller_link_status(s->controller, "a", &ab, 1), ST_OK);
	assert_int_equal(controller_route(s->controller, &r, routes, &count, NULL), ST_NO_ROUTE);
	scene_free(s);
}

/* Behind the first hop no relay is sent over a link that was reported to have too little pad for it. */
static void pad_is_not_spent_before_a_thin_link(void **state)
{
	struct scene *s = scene_new(false);
	struct controller_route_request r = { .source = "a", .destination = "c", .len = 1000 };
	const char *visited[] = { "a", "b" }, *next;
	struct controller_next_hop_request h = { .destination = "c", .visited = visited, .visited_count = 1, .len = 1000 };
	struct route_link ab = link_to("ab", "b"), b[] = { link_to("ab", "a"), link_to("bc", "c") },
			  d[] = { link_to("ad", "a"), link_to("de", "e") };
	struct route routes[ROUTE_DISJOINT_MAX];
	struct err e = { ST_OK, "" };
	unsigned hops_left;
	size_t count;

	(void)state;
	b[1].state.stock = 1031;
	assert_int_equal(controller_link_status(s->controller, "a", &ab, 1), ST_OK);
	assert_int_equal(controller_link_status(s->controller, "b", b, 2), ST_OK);
	assert_int_equal(controller_route(s->controller, &r, routes, &count, &e), ST_TOO_FEW_KEYS);
	assert_int_equal(count, 0);
	assert_non_null(strstr(e.text, "1031 bytes from b to c, of 1032"));
	assert_int_equal(controller_next_hop(s->controller, &h, &next, &hops_left, &e), ST_TOO_FEW_KEYS);
	h.visited_count = 2;
	h.hops_left = 1;
	assert_int_equal(controller_next_hop(s->controller, &h, &next, &hops_left, &e), ST_OK); /* b knows itself */
	b[1].state.stock = 1032;
	assert_int_equal(controller_link_status(s->controller, "b", b, 2), ST_OK);
	assert_int_equal(controller_route(s->controller, &r, routes, &count, &e), ST_OK);
	assert_int_equal(controller_route(s->controller, &r, routes, &count, &e), ST_OK); /* it makes more meanwhile */
	assert_int_equal(controller_next_hop(s->controller, &h, &next, &hops_left, &e), ST_OK);
	scene_report(s, true);
	d[1].state.stock = 10;
	assert_int_equal(controller_link_status(s->controller, "d", d, 2), ST_OK);
	r.shares = 2; /* fewer ways, and those with pad */
	assert_true(routed(s, &r, "abc "));
	scene_free(s);
}

static void scene_low(struct scene *s, uint64_t stock)
{
	struct controller_pool pool = { .peer = "c", .stock = stock };

	assert_int_equal(controller_key_store_status(s->controller, "a", &pool, 1), ST_OK);
}

static void reservation_relay_allocation_in_order(void **state)
{
	struct scene *s = scene_new(true);

	(void)state;
	scene_report(s, true);
	scene_low(s, 8192);
	world_run(s->world, NS_PER_S);
	assert_string_equal(s->log, ""); /* enough */
	scene_low(s, 7900);
	world_run(s->world, NS_PER_S); /* up to the high water mark */
	assert_string_equal(s->log, "reserve a; relay b; allocate a; reserve a; relay b; allocate a; ");
	assert_int_equal(s->took, 8192);
	scene_free(s);
}

static void lost_answers_are_asked_for_again(void **state)
{
	struct scene *s = scene_new(true);
	struct controller_stats stats;

	(void)state;
	s->reserve[0] = ST_TIMED_OUT;
	s->relay[0] = ST_TRANSPORT;
	s->allocate[0] = ST_PEER_UNREACHABLE;
	scene_report(s, true);
	scene_low(s, 8191);
	world_run(s->world, 8 * NS_PER_S + 100 * ROUND);
	assert_string_equal(s->log, "reserve a; reserve a; relay b; relay b; allocate a; allocate a; ");
	controller_stats(s->controller, &stats);
	assert_int_equal(stats.reservations_done, 1);
	scene_free(s);
}

static void a_refused_relay_is_given_up_at_both(void **state)
{
	struct scene *s = scene_new(true);

	(void)state;
	s->relay[0] = ST_TOO_FEW_KEYS;
	scene_report(s, true);
	scene_low(s, 8191);
	world_run(s->world, 500 * ROUND);
	assert_string_equal(s->log, "reserve a; relay b; void b; void a; ");
	s->log[0] = '\0';
	world_run(s->world, NS_PER_S); /* and begun anew */
	assert_string_equal(s->log, "reserve a; relay b; allocate a; ");
	scene_free(s);
}

static void a_refused_reservation_leaves_nothing_to_give_up(void **state)
{
	struct scene *s = scene_new(true);

	(void)state;
	s->reserve[0] = ST_TOO_FEW_KEYS;
	scene_report(s, true);
	scene_low(s, 8191);
	world_run(s->world, 500 * ROUND);
	assert_string_equal(s->log, "reserve a; ");
	scene_free(s);
}

static void a_relay_that_is_not_answered_lapses(void **state)
{
	struct scene *s = scene_new(true);
	struct controller_stats stats;

	(void)state;
	for (int i = 0; i < 8; i++)
		s->relay[i] = ST_TIMED_OUT;
	scene_report(s, true);
	scene_low(s, 8191);
	for (int i = 0; i < 75; i++) {
		world_run(s->world, NS_PER_S);
		scene_report(s, true);
	}
	controller_stats(s->controller, &stats);
	assert_true(stats.reservations_failed >= 1);
	assert_non_null(strstr(s->log, "void b; void a; "));
	assert_null(strstr(s->log, "allocate"));
	world_run(s->world, 10 * NS_PER_S);
	scene_free(s);
}
int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(full_routes_and_detours),
		cmocka_unit_test(alternatives_for_when_it_is_away),
		cmocka_unit_test(no_way_and_no_pad_are_told_apart),
		cmocka_unit_test(pad_is_not_spent_before_a_thin_link),
		cmocka_unit_test(reservation_relay_allocation_in_order),
		cmocka_unit_test(lost_answers_are_asked_for_again),
		cmocka_unit_test(a_refused_relay_is_given_up_at_both),
		cmocka_unit_test(a_refused_reservation_leaves_nothing_to_give_up),
		cmocka_unit_test(a_relay_that_is_not_answered_lapses),
	};

	log_open("test_controller_central", LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
