/*
 * node.c - key managers of the simulation: the core, its store, how it is killed and started again.
 *
 * The core's works on the store wait a little, as for a writer's thread and its commit (ks_submit is
 * replaced by the linker). A kill drops what waits and reports of what was committed; the store stays.
 */
#include <stdio.h>

#include "inside.h"

void __real_ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg);
void __wrap_ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg);

/* A test's stores that are none of a simulation are not delayed. */
static struct node *stores;

/* ---- the store under the core ------------------------------------------------------------------------------ */

void graveyard(void *p)
{
	static void **graves;
	static size_t count;

	if (p == NULL)
		return;
	if ((count & (count - 1)) == 0)
		graves = xrealloc(graves, (count ? 2 * count : 1) * sizeof *graves);
	graves[count++] = p;
}

static void job_done(enum status s, void *arg)
{
	struct store_job *j = arg;

	if (j->node->party.alive && j->node->party.incarnation == j->incarnation)
		j->done(s, j->arg);
	else
		graveyard(j->arg);
	free(j);
}

static enum status job_work(struct ks_txn *t, void *arg)
{
	struct store_job *j = arg;

	return j->work(t, j->arg);
}

static void commit(void *arg)
{
	struct node *n = arg;
	struct store_job *j = n->queue, *next;

	n->queue = NULL;
	n->commit_due = false;
	for (; j != NULL; j = next) {
		next = j->next;
		__real_ks_submit(n->ks, job_work, job_done, j);
	}
}

void __wrap_ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg)
{
	struct store_job *j;
	struct node *n;

	HASH_FIND(by_ks, stores, &ks, sizeof ks, n);
	if (n == NULL) {
		__real_ks_submit(ks, work, done, arg);
		return;
	}
	j = xcalloc(1, sizeof *j);
	*j = (struct store_job){ n, n->party.incarnation, work, done, arg, NULL };
	LL_APPEND(n->queue, j);
	if (!n->commit_due) {
		n->commit_due = true;
		env_virtual_after(n->store_env, (50 + sim_dice(n->party.sim, 1500)) * NS_PER_US, commit, n);
	}
}

static void queue_drop(struct node *n)
{
	struct store_job *j, *next;

	LL_FOREACH_SAFE (n->queue, j, next) {
		graveyard(j->arg);
		free(j);
	}
	n->queue = NULL;
}

void store_add(struct node *n)
{
	HASH_ADD(by_ks, stores, ks, sizeof n->ks, n);
}

void store_close(struct node *n)
{
	HASH_DELETE(by_ks, stores, n);
	ks_close(n->ks);
}

/* ---- starting ----------------------------------------------------------------------------------------------- */

static void receive(struct party *p, enum km_message m, struct party *from, const void *message, km_reply reply,
                    void *arg)
{
	struct node *n = container_of(p, struct node, party);

	km_receive(n->km, m, from->name, message, reply, arg);
}

static void notice(struct party *p, struct party *other, bool up)
{
	struct node *n = container_of(p, struct node, party);

	if (other->kind == PARTY_KM)
		km_peer_up(n->km, other->name, up);
	else if (other->kind == PARTY_CONTROLLER)
		km_controller_up(n->km, up);
	else
		km_module_up(n->km, other->name, up);
}

/* The KM listens from now on. */
static void ready(void *arg)
{
	struct node *n = arg;

	n->party.listening = true;
}

void sim_start(struct node *n)
{
	struct sim *s = n->party.sim;
	struct km_link_options links[PARTIES_MAX];
	struct km_application_options applications[PARTIES_MAX];
	char text[PARTIES_MAX][2][NAME_MAX_LEN + 1], files[16][192];
	struct km_options o = { .name = n->party.name, .ks = n->ks, .wire = &sim_wire, .wire_ctx = n };
	struct err e = { ST_OK, "" };

	if (n->km != NULL)
		return;
	n->env = env_virtual_new(s->world);
	for (unsigned i = 0; i < s->link_count; i++) {
		struct sim_link *l = &s->links[i];
		int end = l->ends[0] == n ? 0 : 1;
		struct km_link_options *k = &links[o.link_count];

		if (l->ends[end] != n)
			continue;
		snprintf(files[o.link_count], sizeof files[0], "%s/%s.%d", s->directory, l->name, end);
		*k = (struct km_link_options){ l->name, l->ends[!end]->party.name, l->modules[end].party.name,
			                       files[o.link_count], s->options.block_size };
		o.link_count++;
	}
	for (unsigned i = 0; i < s->options.nodes; i++) {
		snprintf(text[i][0], sizeof text[i][0], "app%u", i);
		applications[i] = (struct km_application_options){ text[i][0], s->nodes[i].party.name };
	}
	o.env = n->env;
	o.links = links;
	o.applications = applications;
	o.application_count = s->options.nodes;
	o.controller = control_name(s, n);
	o.limits = s->options.limits;
	o.ready = ready;
	o.ready_arg = n;
	n->party.alive = true; /* for its own works */
	if (km_new(&n->km, &o, &e) != ST_OK)
		sim_violation(s, "%s does not start: %s", n->party.name, e.text);
	sim_say(s, "%s starts", n->party.name);
}

static void add_counters(struct km_counters *to, const struct km_counters *from)
{
	uint64_t *sum = (uint64_t *)to;
	const uint64_t *more = (const uint64_t *)from;

	for (size_t i = 0; i < sizeof *to / sizeof *sum; i++)
		sum[i] += more[i];
}

void sim_kill(struct node *n)
{
	struct sim *s = n->party.sim;

	if (n->km == NULL)
		return;
	sim_say(s, "%s is killed", n->party.name);
	s->stats.kills++;
	n->party.alive = n->party.listening = false;
	n->party.incarnation++;
	queue_drop(n);
	net_party_died(&n->party);
	app_node_died(n);
	add_counters(&n->past, km_counters(n->km));
	km_stop(n->km);
	km_free(n->km);
	n->km = NULL;
	env_virtual_free(n->env);
	n->env = NULL;
}

bool sim_node_is_up(const struct node *n)
{
	return n->party.listening;
}

struct km *sim_core(struct node *n)
{
	return n->km;
}

void node_new(struct sim *s, struct node *n, unsigned number)
{
	char name[NAME_MAX_LEN + 1];

	n->number = number;
	snprintf(name, sizeof name, "km%03u", number);
	party_add(s, &n->party, name, PARTY_KM);
	n->party.receive = receive;
	n->party.notice = notice;
	n->store_env = env_virtual_new(s->world);
	store_open(n);
	store_add(n);
}

void node_free(struct node *n)
{
	sim_kill(n);
	store_close(n);
	env_virtual_free(n->store_env);
}
