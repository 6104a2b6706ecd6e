/* sim.c - the simulation as a whole: what is made when, its ticks, its end. */
#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "inside.h"
#include "stated.h"

static const uint64_t TICK_NS = 20 * NS_PER_MS;

void sim_defaults(struct sim_options *o)
{
	*o = (struct sim_options){ .nodes = 2,
		                   .block_size = 2048,
		                   .block_interval = 50 * NS_PER_MS,
		                   .limits = km_default_limits };
	o->limits.ksa_low_water = 16 * 1024;
	o->limits.ksa_high_water = 48 * 1024;
	o->limits.fill_most = 16 * 1024;
	o->limits.link_reserve = 2048;
	o->limits.link_max_stock = 512 * 1024;
	o->limits.relay_timeout = 4 * NS_PER_S;
	o->limits.call_timeout = 2 * NS_PER_S;
}

uint64_t sim_dice(struct sim *s, uint64_t sides)
{
	return sides ? world_random(s->world) % sides : 0;
}

bool sim_chance(struct sim *s, unsigned in_a_thousand)
{
	return in_a_thousand > 0 && sim_dice(s, 1000) < in_a_thousand;
}

static void print(struct sim *s, const char *what, const char *fmt, va_list ap)
{
	uint64_t us = world_now(s->world) / NS_PER_US;

	fprintf(stderr, "%6llu.%06llu %s", (unsigned long long)(us / 1000000), (unsigned long long)(us % 1000000), what);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void sim_say(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	if (!s->options.verbose)
		return;
	va_start(ap, fmt);
	print(s, "", fmt, ap);
	va_end(ap);
}

void sim_violation(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	s->violations++;
	if (s->violations > 20)
		return;
	fprintf(stderr, "seed %llu: ", (unsigned long long)s->options.seed);
	va_start(ap, fmt);
	print(s, "VIOLATION: ", fmt, ap);
	va_end(ap);
}

unsigned sim_violations(const struct sim *s)
{
	return s->violations;
}

/* ---- ticks ---------------------------------------------------------------------------------------------- */

static void make_blocks(struct sim *s)
{
	uint64_t now = world_now(s->world);

	while (s->next_block_at <= now) {
		for (unsigned i = 0; i < s->link_count && !s->settling; i++)
			if (!s->links[i].down)
				link_make_block(&s->links[i]);
		s->next_block_at += s->options.block_interval;
	}
}

static void tick(void *arg)
{
	struct sim *s = arg;

	net_tick(s);
	make_blocks(s);
	for (unsigned i = 0; i < s->link_count; i++)
		for (int end = 0; end < 2; end++)
			module_tick(&s->links[i].modules[end]);
	app_tick(s);
	env_virtual_after(s->env, TICK_NS, tick, s);
}

/* ---- making ------------------------------------------------------------------------------------------------ */

struct sim *sim_new(const struct sim_options *o)
{
	struct sim *s = xcalloc(1, sizeof *s);

	s->options = *o;
	s->stated_before = stated_bytes();
	s->world = world_new(o->seed);
	s->env = env_virtual_new(s->world);
	strcpy(s->directory, "/tmp/qkdn-sim-XXXXXX");
	if (mkdtemp(s->directory) == NULL)
		abort();
	s->conns = xcalloc((size_t)PARTIES_MAX * PARTIES_MAX, sizeof *s->conns);
	s->nodes = xcalloc(o->nodes, sizeof *s->nodes);
	for (unsigned i = 0; i < o->nodes; i++)
		node_new(s, &s->nodes[i], i);
	links_new(s);
	control_new(s);
	for (unsigned i = 0; i < o->nodes; i++) {
		for (unsigned j = 0; j < i; j++)
			net_want(s, &s->nodes[i].party, &s->nodes[j].party);
		sim_start(&s->nodes[i]);
	}
	tick(s);
	return s;
}

void sim_free(struct sim *s)
{
	s->settling = true;
	for (unsigned i = 0; i < s->options.nodes; i++)
		sim_kill(&s->nodes[i]);
	sim_kill_controller(s, SIM_ALL);
	sim_run(s, 60 * NS_PER_S); /* what is under way frees itself */
	for (unsigned i = 0; i < s->options.nodes; i++)
		node_free(&s->nodes[i]);
	control_free(s);
	net_free(s);
	app_free(s);
	check_free(s);
	links_free(s);
	rmdir(s->directory);
	env_virtual_free(s->env);
	world_free(s->world);
	free(s->nodes);
	free(s->conns);
	free(s);
}

struct node *sim_node(struct sim *s, unsigned i)
{
	return &s->nodes[i];
}

void sim_run(struct sim *s, uint64_t ns)
{
	world_run(s->world, ns);
}

void sim_set_faults(struct sim *s, const struct sim_faults *f)
{
	s->options.faults = f != NULL ? *f : (struct sim_faults){ 0 };
}

void sim_set_hook(struct sim *s, sim_hook hook, void *arg)
{
	s->hook = hook;
	s->hook_arg = arg;
}

void sim_after(struct sim *s, uint64_t ns, env_cb cb, void *arg)
{
	env_virtual_after(s->env, ns, cb, arg);
}

void sim_cut(struct sim *s, unsigned a, unsigned b, uint64_t ns)
{
	struct party *pa = &s->nodes[a].party, *pb = &s->nodes[b].party;
	uint64_t until = ns == UINT64_MAX ? UINT64_MAX : world_now(s->world) + ns;

	sim_say(s, "%s and %s are cut off from each other", pa->name, pb->name);
	s->stats.cuts++;
	net_cut(s, pa, pb, until);
	control_cut(s, a, b, until);
}

/* ---- the end of the faults ------------------------------------------------------------------------------------ */

static void mend(struct sim *s)
{
	sim_say(s, "---- no more faults ----");
	sim_set_faults(s, NULL);
	if (s->options.block_interval > NS_PER_S / 10) /* enough for every pair in the time that is given */
		s->options.block_interval = NS_PER_S / 10;
	for (unsigned i = 0; i < s->party_count; i++)
		for (unsigned j = i + 1; j < s->party_count; j++)
			conn_of(s, s->parties[i], s->parties[j])->cut_until = 0;
	for (unsigned i = 0; i < s->link_count; i++)
		s->links[i].down = false;
	for (unsigned i = 0; i < s->options.nodes; i++)
		sim_start(&s->nodes[i]);
	sim_start_controller(s, SIM_ALL);
}

/* Whether there is a way from a to b at all. */
static bool is_served(const struct sim *s, unsigned a, unsigned b)
{
	return s->options.control != SIM_NO_CONTROLLER || sim_is_link(s, a, b);
}

/* Every pair that has a way gets a key without help. */
static void check_liveness(struct sim *s)
{
	unsigned n = s->options.nodes, count = 0;
	uint32_t *results = xcalloc((size_t)n * n, sizeof *results);

	for (unsigned a = 0; a < n; a++)
		for (unsigned b = 0; b < n; b++)
			if (a != b && is_served(s, a, b) && (n <= 12 || sim_dice(s, n) < 8)) {
				sim_request(s, a, b, 1, 256, 20 * NS_PER_S, &results[a * n + b]);
				count++;
			}
	sim_run(s, 25 * NS_PER_S);
	for (unsigned i = 0; i < n * n; i++)
		if (results[i] != ST_OK)
			sim_violation(s, "after the faults %s has no key for %s: %s", s->nodes[i / n].party.name,
			              s->nodes[i % n].party.name,
			              results[i] == UINT32_MAX ? "no answer" : status_name((enum status)results[i]));
	sim_say(s, "%u requests to see whether keys go on", count);
	free(results);
}

void sim_settle(struct sim *s)
{
	uint64_t requests = s->options.request_interval;

	s->hook = NULL;
	for (unsigned i = 0; i < s->options.nodes; i++)
		sim_next_commit(&s->nodes[i], COMMIT_DONE);
	s->options.request_interval = 0;
	mend(s);
	sim_run(s, 40 * NS_PER_S);
	check_liveness(s);
	s->settling = true; /* no more blocks, no more reservations */
	control_settle(s);
	sim_run(s, 30 * NS_PER_S);
	app_settle_check(s);
	net_check_quiet(s);
	check_end(s);
	s->settling = false;
	control_settle(s);
	s->options.request_interval = requests;
	s->next_block_at = world_now(s->world);
}

uint64_t sim_now(const struct sim *s)
{
	return world_now(s->world);
}

/* ---- figures ---------------------------------------------------------------------------------------------------- */

void sim_stats(struct sim *s, struct sim_stats *stats)
{
	*stats = s->stats;
	for (unsigned i = 0; i < s->options.nodes; i++) {
		struct node *n = &s->nodes[i];

		stats->bytes_voided += n->past.bytes_voided;
		stats->pad_counted += n->past.pad_lost - n->past.pad_unsent;
		stats->pad_foreseen += n->past.pad_unsent;
		stats->relays += n->past.relays_received;
		stats->relay_bytes += n->past.relay_bytes;
		if (n->km != NULL) {
			const struct km_counters *c = km_counters(n->km);

			stats->bytes_voided += c->bytes_voided;
			stats->pad_counted += c->pad_lost - c->pad_unsent;
			stats->pad_foreseen += c->pad_unsent;
			stats->relays += c->relays_received;
			stats->relay_bytes += c->relay_bytes;
		}
	}
}

void sim_print_stats(struct sim *s)
{
	struct sim_stats t;

	sim_stats(s, &t);
	printf("%llu s: %llu messages (%llu lost, %llu twice, %llu late, %llu forged, %llu replayed), %llu kills, %llu cuts; "
	       "%llu blocks, %llu requests, %llu keys, %llu fetched; %llu relays, %llu bytes, %llu shares passed on; given up: %llu bytes of keys, "
	       "%llu of pad under way, %llu before;",
	       (unsigned long long)(world_now(s->world) / NS_PER_S), (unsigned long long)t.messages,
	       (unsigned long long)t.dropped, (unsigned long long)t.duplicated, (unsigned long long)t.late,
	       (unsigned long long)t.forged, (unsigned long long)t.replayed, (unsigned long long)t.kills,
	       (unsigned long long)t.cuts, (unsigned long long)t.blocks, (unsigned long long)t.requests,
	       (unsigned long long)t.keys, (unsigned long long)t.fetched, (unsigned long long)t.relays,
	       (unsigned long long)t.relay_bytes, (unsigned long long)t.shares, (unsigned long long)t.bytes_voided, (unsigned long long)t.pad_lost,
	       (unsigned long long)t.pad_unsent);
	for (unsigned i = 0; i < ARRAY_LEN(t.answered); i++)
		if (t.answered[i] > 0)
			printf(" %s %llu", status_name((enum status)i), (unsigned long long)t.answered[i]);
	printf("\n");
}
