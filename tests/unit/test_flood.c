/* test_flood.c - one controller between two neighbours: which records it hands on, makes anew and keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "controller.h"
#include "env_virtual.h"
#include "log.h"

/* KM k is the controller's own; log: what it sends to x and y, "to:km#sequence/links ". */
struct scene {
	struct world *world;
	struct env *env;
	struct controller *controller;
	char log[1024];
};

struct later {
	controller_summary_done summary_done;
	controller_states_done states_done;
	void *token;
};

static void answer(void *arg)
{
	struct later *l = arg;

	if (l->summary_done != NULL)
		l->summary_done(ST_OK, NULL, 0, l->token);
	else
		l->states_done(ST_OK, NULL, 0, l->token);
	free(l);
}

static void answer_later(struct scene *s, struct later how)
{
	struct later *l = xcalloc(1, sizeof *l);

	*l = how;
	env_virtual_after(s->env, NS_PER_MS, answer, l);
}

static void scene_summary(void *arg, const char *neighbour, const struct id *trace, const struct ls_edition *editions,
                          size_t count, controller_summary_done done, void *token)
{
	(void)neighbour;
	(void)trace;
	(void)editions;
	(void)count;
	answer_later(arg, (struct later){ .summary_done = done, .token = token });
}

static void scene_states(void *arg, const char *neighbour, const struct id *trace, const struct ls_record *records,
                         size_t count, controller_states_done done, void *token)
{
	struct scene *s = arg;

	(void)trace;
	for (size_t i = 0; i < count; i++) {
		size_t used = strlen(s->log);

		snprintf(s->log + used, sizeof s->log - used, "%s:%s#%llu/%zu ", neighbour, records[i].km,
		         (unsigned long long)records[i].sequence, records[i].count);
	}
	answer_later(s, (struct later){ .states_done = done, .token = token });
}

static struct scene *scene_new(uint64_t max_age)
{
	static const char *const kms[] = { "k" }, *const neighbours[] = { "x", "y" };
	struct controller_options o = { .name = "me", .mode = CONTROLLER_DISTRIBUTED, .kms = kms, .km_count = 1,
		                        .neighbours = neighbours, .neighbour_count = 2 };
	struct scene *s = xcalloc(1, sizeof *s);
	struct controller_calls calls = { .summary = scene_summary, .link_states = scene_states, .arg = s };

	controller_defaults(&o);
	if (max_age != 0)
		o.max_age = max_age;
	s->world = world_new(1);
	s->env = env_virtual_new(s->world);
	s->controller = controller_new(s->env, &o, &calls);
	controller_neighbour_up(s->controller, "x");
	controller_neighbour_up(s->controller, "y");
	world_run(s->world, NS_PER_S);
	return s;
}

static void scene_free(struct scene *s)
{
	controller_free(s->controller);
	env_virtual_free(s->env);
	world_free(s->world);
	free(s);
}

static struct route_link link_to(const char *name, const char *peer)
{
	struct route_link l = { .state = { .up = true, .stock = 1 << 20, .generation_rate = 1000 } };

	strcpy(l.name, name);
	strcpy(l.peer, peer);
	return l;
}

static void from_x(struct scene *s, const char *km, const char *controller, uint64_t sequence, const char *peer)
{
	struct route_link link = link_to("a", peer);
	struct ls_record r = { .sequence = sequence, .count = 1, .links = &link }, newer[CONTROLLER_RECORDS_MAX];
	size_t count;

	strcpy(r.km, km);
	strcpy(r.controller, controller);
	assert_int_equal(controller_link_states(s->controller, "x", &r, 1, newer, &count), ST_OK);
	world_run(s->world, NS_PER_S);
}

static void k_reports(struct scene *s)
{
	struct route_link links[] = { link_to("a", "p"), link_to("b", "q") };

	assert_int_equal(controller_link_status(s->controller, "k", links, 2), ST_OK);
	world_run(s->world, NS_PER_S);
}

static bool knows(struct scene *s, const char *from, const char *to)
{
	struct topology *t = controller_topology(s->controller);
	struct route r;

	return topology_find(t, from) >= 0 && topology_find(t, to) >= 0 &&
	       route_find(t, topology_find(t, from), topology_find(t, to), NULL, &r);
}

static void nothing_goes_back_to_where_it_came_from(void **state)
{
	struct scene *s = scene_new(0);

	(void)state;
	from_x(s, "f", "other", 3, "g");
	assert_string_equal(s->log, "y:f#3/1 ");
	from_x(s, "f", "other", 3, "g");
	assert_string_equal(s->log, "y:f#3/1 ");
	scene_free(s);
}

/* The record that a controller made before it was restarted is the best that is known of its KM, until that reports. */
static void an_own_record_of_a_former_life(void **state)
{
	struct scene *s = scene_new(0);
	struct controller_stats stats;

	(void)state;
	from_x(s, "k", "me", 7, "p");
	controller_stats(s->controller, &stats);
	assert_int_equal(stats.records_made, 0);
	assert_string_equal(s->log, "y:k#7/1 ");
	assert_true(knows(s, "k", "p"));
	k_reports(s);
	assert_string_equal(s->log, "y:k#7/1 x:k#8/2 y:k#8/2 ");
	from_x(s, "k", "me", 20, "p"); /* and one that was slow to come */
	assert_string_equal(s->log, "y:k#7/1 x:k#8/2 y:k#8/2 x:k#21/2 y:k#21/2 ");
	assert_true(knows(s, "k", "q"));
	scene_free(s);
}

/* A record is forgotten with its age. What its own KM reports needs none. */
static void links_of_an_own_km_do_not_age(void **state)
{
	struct scene *s = scene_new(10 * NS_PER_S);

	(void)state;
	from_x(s, "f", "other", 3, "g");
	k_reports(s);
	world_run(s->world, 15 * NS_PER_S);
	assert_false(knows(s, "f", "g"));
	assert_true(knows(s, "k", "p"));
	scene_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_goes_back_to_where_it_came_from),
		cmocka_unit_test(an_own_record_of_a_former_life),
		cmocka_unit_test(links_of_an_own_km_do_not_age),
	};

	log_open("test_flood", LOG_LEVEL_FATAL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
