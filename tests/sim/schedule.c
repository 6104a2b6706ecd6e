/* schedule.c - a random network with random faults, all from the seed. */
#include <stdio.h>

#include "inside.h"

static void pick_faults(struct sim *s, struct sim_faults *f)
{
	*f = (struct sim_faults){ .slow = (unsigned)sim_dice(s, 100) };
	if (sim_dice(s, 2)) {
		f->drop = (unsigned)sim_dice(s, 50);
		f->drop_answer = (unsigned)sim_dice(s, 50);
	}
	if (sim_dice(s, 2))
		f->late = (unsigned)sim_dice(s, 30);
	if (sim_dice(s, 2))
		f->duplicate = (unsigned)sim_dice(s, 200);
	if (sim_dice(s, 2)) {
		f->forge = (unsigned)sim_dice(s, 200);
		f->replay = (unsigned)sim_dice(s, 300);
		f->wrong_hop = (unsigned)sim_dice(s, 100);
	}
	if (sim_dice(s, 2)) {
		f->missing = (unsigned)sim_dice(s, 50);
		f->repeated = (unsigned)sim_dice(s, 100);
		f->late_block = (unsigned)sim_dice(s, 50);
		f->differing = (unsigned)sim_dice(s, 50);
	}
	if (sim_dice(s, 3) == 0)
		f->storage = (unsigned)sim_dice(s, 20);
	if (sim_dice(s, 2)) {
		f->control_silent = (unsigned)sim_dice(s, 200);
		f->control_stale = (unsigned)sim_dice(s, 300);
		f->control_no_route = (unsigned)sim_dice(s, 200);
	}
}

struct later {
	struct sim *s;
	unsigned which;
};

static void later(struct sim *s, unsigned which, uint64_t ms, env_cb cb)
{
	struct later *l = xcalloc(1, sizeof *l);

	*l = (struct later){ s, which };
	sim_after(s, ms * NS_PER_MS, cb, l);
}

static void start_again(void *arg)
{
	struct later *l = arg;

	sim_start(&l->s->nodes[l->which]);
	free(l);
}

static void start_controller(void *arg)
{
	struct later *l = arg;

	sim_start_controller(l->s, l->which);
	free(l);
}

static void link_up(void *arg)
{
	struct later *l = arg;

	sim_link_down(l->s, l->which, false);
	free(l);
}

static void kill_some(struct sim *s)
{
	unsigned i = (unsigned)sim_dice(s, s->options.nodes);

	if (s->nodes[i].km == NULL)
		return;
	sim_kill(&s->nodes[i]);
	later(s, i, sim_dice(s, 2) ? sim_dice(s, 200) : sim_dice(s, 8000), start_again);
}

static void cut_some(struct sim *s)
{
	unsigned a = (unsigned)sim_dice(s, s->options.nodes), b = (unsigned)sim_dice(s, s->options.nodes);

	if (a != b)
		sim_cut(s, a, b, (sim_dice(s, 2) ? sim_dice(s, 300) : sim_dice(s, 6000)) * NS_PER_MS);
}

static void down_some(struct sim *s)
{
	unsigned i = (unsigned)sim_dice(s, s->link_count);

	sim_say(s, "link %s is down", s->links[i].name);
	sim_link_down(s, i, true);
	later(s, i, sim_dice(s, 10000), link_up);
	if (sim_dice(s, 2))
		sim_cut(s, s->links[i].ends[0]->number, s->links[i].ends[1]->number, sim_dice(s, 6000) * NS_PER_MS);
}

static void kill_controller(struct sim *s)
{
	unsigned which = sim_dice(s, 3) ? (unsigned)sim_dice(s, s->options.nodes) : SIM_ALL;

	sim_kill_controller(s, which);
	later(s, which, sim_dice(s, 6000), start_controller);
}

/* An application that goes on asking, so that keys are taken ahead for it; what else goes wrong meanwhile. */
struct wave {
	struct sim *s;
	unsigned a, b, milliseconds;
};

static void wave(void *arg)
{
	struct wave *w = arg;

	for (int i = 0; i < 10; i++)
		sim_request(w->s, w->a, w->b, 1, 256, 0, NULL);
	if (w->milliseconds-- > 0)
		sim_after(w->s, NS_PER_MS, wave, w);
	else
		free(w);
}

static void begin_wave(struct sim *s)
{
	struct wave *w = xcalloc(1, sizeof *w);

	w->s = s;
	w->a = (unsigned)sim_dice(s, s->options.nodes);
	w->b = (w->a + 1 + (unsigned)sim_dice(s, s->options.nodes - 1)) % s->options.nodes;
	w->milliseconds = 20 + (unsigned)sim_dice(s, 40);
	sim_after(s, 0, wave, w);
}

static void disturb(struct sim *s)
{
	switch (sim_dice(s, 6)) {
	case 0:
		kill_some(s);
		break;
	case 5:
		sim_next_commit(&s->nodes[sim_dice(s, s->options.nodes)], sim_dice(s, 2) ? COMMIT_FAILS : COMMIT_LOST);
		break;
	case 1:
	case 2:
		cut_some(s);
		break;
	case 3:
		down_some(s);
		break;
	default:
		kill_controller(s);
	}
}

unsigned sim_schedule_run(const struct sim_schedule *schedule, struct sim_stats *stats)
{
	struct sim_options o;
	struct sim_faults f;
	struct sim *s;
	uint64_t end, pause;
	struct world *dice = world_new(schedule->seed);
	unsigned violations;
	bool waves;

	sim_defaults(&o);
	o.seed = schedule->seed;
	o.verbose = schedule->verbose;
	o.nodes = schedule->nodes ? schedule->nodes : 2 + (unsigned)(world_random(dice) % 5);
	o.topology = (enum sim_topology)(schedule->topology >= 0 ? (uint64_t)schedule->topology : world_random(dice) % 3);
	o.control = o.nodes == 2 ? SIM_NO_CONTROLLER : (enum sim_control)(1 + world_random(dice) % 2);
	o.reservation = o.control == SIM_CENTRALIZED && world_random(dice) % 2;
	o.request_interval = (20 + world_random(dice) % 200) * NS_PER_MS;
	o.limits.relay_ahead = world_random(dice) % 4 > 0;
	o.limits.relay_to_neighbours = o.control != SIM_NO_CONTROLLER && world_random(dice) % 8 == 0;
	o.limits.shares = world_random(dice) % 2 ? 2 + (uint32_t)(world_random(dice) % 2) : 1;
	/* where every pair has two ways, so that keys go on */
	o.limits.shares_required = o.limits.shares == 2 && o.topology == SIM_RING && world_random(dice) % 2;
	o.block_interval = (20 + world_random(dice) % 150) * NS_PER_MS;
	waves = world_random(dice) % 2;
	world_free(dice);
	s = sim_new(&o);
	pick_faults(s, &f);
	sim_set_faults(s, &f);
	pause = 200 + sim_dice(s, 5000);
	for (end = world_now(s->world) + schedule->faulty_ns; world_now(s->world) < end;) {
		sim_run(s, sim_dice(s, 2 * pause) * NS_PER_MS);
		if (waves && sim_dice(s, 2))
			begin_wave(s);
		sim_run(s, waves ? sim_dice(s, 80) * NS_PER_MS : 0);
		disturb(s);
	}
	sim_settle(s);
	if (schedule->verbose)
		sim_print_stats(s);
	sim_stats(s, stats);
	violations = sim_violations(s);
	sim_free(s);
	return violations;
}
