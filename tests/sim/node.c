/*
 * node.c - key managers of the simulation: the core, its store, how it is killed and started again.
 *
 * The core's works on the store wait a little, as for a writer's thread and its commit (ks_submit and
 * ks_submit_early are replaced by the linker): some time passes before a batch of works runs, and again before
 * it is reported as durable. A kill drops what waits and reports of what was committed; the store stays.
 *
 * The commit of a batch with works that are told early may be made to fail, or to be lost: it ran, and what it
 * told has left, but nothing of it is in the store.
 */
#include <stdio.h>

#include "inside.h"
#include "stated.h"

void __real_ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg);
void __wrap_ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg);
void __wrap_ks_submit_early(struct ks *ks, ks_work work, ks_ran ran, ks_done done, void *arg);

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

static bool is_current(const struct store_job *j)
{
	return j->node->party.alive && j->node->party.incarnation == j->incarnation;
}

static void jobs_drop(struct store_job **jobs)
{
	struct store_job *j, *next;

	LL_FOREACH_SAFE (*jobs, j, next) {
		graveyard(j->arg);
		free(j);
	}
	*jobs = NULL;
}

static void commit(void *arg);

enum { SLOW_NS = 100 * 1000 * 1000 };

static void commit_later(struct node *n)
{
	n->commit_due = true;
	env_virtual_after(n->store_env, (50 + sim_dice(n->party.sim, 1000)) * NS_PER_US, commit, n);
}

/* The batch is durable, or has failed. */
static void batch_over(void *arg)
{
	struct node *n = arg;
	struct store_job *j = n->batch, *next;

	n->batch = NULL;
	n->commit_due = false;
	for (; j != NULL; j = next) {
		next = j->next;
		if (is_current(j))
			j->done(j->status, j->arg); /* a kill in here leaves the others to the check above */
		else
			graveyard(j->arg);
		free(j);
	}
	if (n->queue != NULL && !n->commit_due)
		commit_later(n);
}

static void tell_ran(struct node *n)
{
	struct store_job *j;

	LL_FOREACH (n->batch, j)
		if (j->ran != NULL && j->ran_well && is_current(j))
			j->ran(j->arg);
}

static enum status job_work(struct ks_txn *t, void *arg)
{
	struct store_job *j = arg;

	j->status = j->work(t, j->arg);
	j->ran_well = j->status == ST_OK;
	return j->status;
}

/* What the store says of it: its commit may have failed. */
static void job_done(enum status s, void *arg)
{
	((struct store_job *)arg)->status = s;
}

/* All of the batch, as in one transaction that is not committed. */
static enum status batch_work(struct ks_txn *t, void *arg)
{
	struct node *n = arg;
	struct store_job *j;
	enum status s = ST_OK;

	LL_FOREACH (n->batch, j)
		if (s == ST_OK)
			s = job_work(t, j);
		else
			j->status = s;
	return ST_STORAGE;
}

/* One commit that fails is one of early works alone: others would tell what failed in the log. */
static bool may_have(const struct node *n, enum sim_commit fate)
{
	const struct store_job *j;
	unsigned early = 0, others = 0;

	LL_FOREACH (n->batch, j)
		*(j->ran != NULL ? &early : &others) += 1;
	return fate >= COMMITS_FAIL || (early > 0 && (fate == COMMIT_LOST || others == 0));
}

static void no_report(enum status s, void *arg)
{
	(void)s;
	(void)arg;
}

/* The node is killed while it waits for the disk, and comes back after a while. */
struct loss {
	struct node *node;
	unsigned incarnation;
};

static void loss_return(void *arg)
{
	struct loss *l = arg;

	if (!l->node->party.sim->settling) /* else it is the end */
		sim_start(l->node);
	free(l);
}

static void loss_kill(void *arg)
{
	struct loss *l = arg;

	if (l->node->party.incarnation == l->incarnation)
		sim_kill(l->node);
	sim_after(l->node->party.sim, sim_dice(l->node->party.sim, 2000) * NS_PER_MS, loss_return, l);
}

static void lose(struct node *n)
{
	struct loss *l = xcalloc(1, sizeof *l);

	*l = (struct loss){ n, n->party.incarnation };
	n->lost = true;
	sim_after(n->party.sim, (1 + sim_dice(n->party.sim, 20000)) * NS_PER_US, loss_kill, l);
}

static void commit(void *arg)
{
	struct node *n = arg;
	struct sim *s = n->party.sim;
	enum sim_commit fate = n->next_commit;
	struct store_job *j;
	bool slow;

	n->batch = n->queue;
	n->queue = NULL;
	if (!may_have(n, fate))
		fate = COMMIT_DONE;
	else if (fate < COMMITS_FAIL)
		n->next_commit = COMMIT_DONE;
	slow = fate == COMMIT_SLOW || fate == COMMITS_SLOW;
	if (fate == COMMIT_DONE || slow)
		LL_FOREACH (n->batch, j)
			__real_ks_submit(n->ks, job_work, job_done, j);
	else
		__real_ks_submit(n->ks, batch_work, no_report, n);
	tell_ran(n);
	if (fate == COMMIT_DONE || slow) {
		uint64_t after = slow ? SLOW_NS : (50 + sim_dice(s, 1500)) * NS_PER_US;

		env_virtual_after(n->store_env, after, batch_over, n);
		return;
	}
	sim_say(s, "%s: a commit %s", n->party.name, fate != COMMIT_LOST ? "fails" : "never comes to an end");
	LL_FOREACH (n->batch, j)
		j->status = ST_STORAGE;
	if (fate != COMMIT_LOST)
		env_virtual_after(n->store_env, sim_dice(s, 20000) * NS_PER_US, batch_over, n);
	else
		lose(n);
}

void __wrap_ks_submit_early(struct ks *ks, ks_work work, ks_ran ran, ks_done done, void *arg)
{
	struct store_job *j;
	struct node *n;

	HASH_FIND(by_ks, stores, &ks, sizeof ks, n);
	if (n == NULL) {
		__real_ks_submit(ks, work, done, arg);
		return;
	}
	j = xcalloc(1, sizeof *j);
	*j = (struct store_job){ .node = n,
		                 .incarnation = n->party.incarnation,
		                 .work = work,
		                 .ran = ran,
		                 .done = done,
		                 .arg = arg };
	LL_APPEND(n->queue, j);
	if (!n->commit_due)
		commit_later(n);
}

void __wrap_ks_submit(struct ks *ks, ks_work work, ks_done done, void *arg)
{
	__wrap_ks_submit_early(ks, work, NULL, done, arg);
}

void sim_next_commit(struct node *n, enum sim_commit fate)
{
	n->next_commit = fate;
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
	applications[s->options.nodes] = (struct km_application_options){ "greedy", s->nodes[0].party.name };
	o.applications = applications;
	o.application_count = s->options.nodes + 1;
	o.controller = control_name(s, n);
	o.limits = s->options.limits;
	o.ready = ready;
	o.ready_arg = n;
	n->party.alive = true; /* for its own works */
	if (km_new(&n->km, &o, &e) != ST_OK)
		sim_violation(s, "%s does not start: %s", n->party.name, e.text);
	n->incarnations++;
	sim_say(s, "%s starts", n->party.name);
}

static void add_counters(struct km_counters *to, const struct km_counters *from)
{
	uint64_t *sum = (uint64_t *)to;
	const uint64_t *more = (const uint64_t *)from;

	for (size_t i = 0; i < sizeof *to / sizeof *sum; i++)
		sum[i] += more[i];
}

/* km_stop is there for what it frees. */
static void free_core(struct node *n)
{
	uint64_t stated = stated_bytes();

	n->party.sim->never_stated += stated_later(n->km);
	km_stop(n->km);
	n->party.sim->stated_before += stated_bytes() - stated;
	jobs_drop(&n->queue); /* what it begins when it is stopped, too */
	km_free(n->km);
	n->km = NULL;
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
	net_party_died(&n->party);
	app_node_died(n);
	add_counters(&n->past, km_counters(n->km));
	free_core(n);
	env_virtual_free(n->env);
	n->env = NULL;
	n->next_commit = COMMIT_DONE;
	if (n->lost) { /* its last batch never ends */
		jobs_drop(&n->batch);
		n->commit_due = n->lost = false;
	}
}

bool sim_node_is_up(const struct node *n)
{
	return n->party.listening;
}

struct km *sim_core(struct node *n)
{
	return n->km;
}

struct ks *sim_store(struct node *n)
{
	return n->ks;
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
