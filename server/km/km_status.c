/* km_status.c - what a KM tells its manager: counters, pools, QKD modules, ranges on their way; and what the manager
 * may have it do, which is to change the master key of its store (Mk). */
#include <stdlib.h>

#include "core.h"

enum { POOLS_MOST = 2048, RELAYS_MOST = 1024, MODULES_MOST = 256 };

void handle_mk_status(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	struct km_mk_status_answer a = { .km = km->name,
		                         .controller = km->control.name ? km->control.name : "",
		                         .registered = km->control.registered,
		                         .remembering = km->control.remembering,
		                         .counters = &km->counters };

	(void)from;
	(void)message;
	reply(&a.answer, arg);
}

/* ---- pools ------------------------------------------------------------------------------------------ */

struct pools {
	struct km *km;
	struct ks_pool *pools;
	uint32_t count;
	km_reply reply;
	void *arg;
};

static bool add_pool(const struct ks_pool *pool, void *arg)
{
	struct pools *p = arg;

	p->pools = xrealloc(p->pools, (p->count + 1) * sizeof *p->pools);
	p->pools[p->count++] = *pool;
	return p->count < POOLS_MOST;
}

static enum status pools_work(struct ks_txn *t, void *arg)
{
	struct pools *p = arg;

	p->count = 0;
	ks_pool_each(t, add_pool, p);
	return ST_OK;
}

/* Into how many shares relays into that pool are split; 0: it is not filled by relay from here. */
static uint32_t policy_of(struct km *km, const struct ks_pool *pool, bool *required)
{
	struct ksa_pool *p = NULL;

	if (pool->desc.kind == KS_POOL_KSA && strcmp(pool->desc.source, km->name) == 0)
		HASH_FIND_STR(km->pools, pool->desc.destination, p);
	if (p == NULL || link_to_peer(km, p->destination) != NULL)
		return 0;
	*required = p->shares_required && p->shares > 1;
	return p->shares > 1 ? p->shares : 1;
}

static void pools_done(enum status s, void *arg)
{
	struct pools *p = arg;
	uint32_t *shares = xcalloc(p->count, sizeof *shares);
	bool *required = xcalloc(p->count, sizeof *required);
	struct km_mk_pools_answer a = { .count = p->count, .pools = p->pools, .shares = shares,
		                        .shares_required = required };

	for (uint32_t i = 0; i < p->count; i++)
		shares[i] = policy_of(p->km, &p->pools[i], &required[i]);
	if (s == ST_OK)
		p->reply(&a.answer, p->arg);
	else
		km_refuse(p->reply, p->arg, s, "reading the pools: %s", status_name(s));
	free(shares);
	free(required);
	free(p->pools);
	free(p);
}

void handle_mk_pools(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	struct pools *p = xcalloc(1, sizeof *p);

	(void)from;
	(void)message;
	p->km = km;
	p->reply = reply;
	p->arg = arg;
	ks_submit(km->ks, pools_work, pools_done, p);
}

/* ---- QKD modules -------------------------------------------------------------------------------------- */

static void describe_module(const struct link *l, struct km_mk_module *m)
{
	const struct module *d = &l->module;

	m->link = l->view.name;
	m->peer = l->peer;
	m->module = d->name;
	m->state = module_state(l);
	if (d->registered && d->told)
		m->status = d->status;
	m->alarm_count = d->registered ? d->alarm_count : 0;
	for (uint32_t i = 0; i < m->alarm_count; i++)
		m->alarms[i] = (struct km_mk_alarm){ .cause = d->alarms[i].cause,
			                             .text = d->alarms[i].text,
			                             .major = d->alarms[i].major,
			                             .raised_at = d->alarms[i].raised_at };
}

void handle_mk_modules(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	struct km_mk_module *modules = xcalloc(HASH_COUNT(km->links), sizeof *modules);
	struct km_mk_modules_answer a = { .modules = modules };

	(void)from;
	(void)message;
	for (const struct link *l = km->links; l != NULL && a.count < MODULES_MOST; l = l->hh.next)
		describe_module(l, &modules[a.count++]);
	reply(&a.answer, arg);
	free(modules);
}

/* ---- ranges on their way -------------------------------------------------------------------------------- */

struct relays {
	uint32_t count;
	struct km_mk_relay relays[RELAYS_MOST];
};

static void add_relay(const struct km_mk_relay *r, void *arg)
{
	struct relays *all = arg;

	if (all->count < RELAYS_MOST)
		all->relays[all->count++] = *r;
}

static const char *method_name(uint32_t method)
{
	return method == FILL_ALLOCATION ? "allocation" : method == FILL_RELAY ? "relay" : "reservation";
}

static const char *stage_name(enum fill_stage stage)
{
	static const char *const names[] = { [FILL_TAKING] = "taking",       [FILL_SENDING] = "sending",
		                             [FILL_ARRIVED] = "arrived",     [FILL_VERIFYING] = "verifying",
		                             [FILL_VERIFIED] = "verified",
		                             [FILL_SETTLING] = "settling",   [FILL_VOIDING] = "voiding",
		                             [FILL_VOIDED] = "voided" };

	return names[stage];
}

void handle_mk_relays(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	struct relays *all = xcalloc(1, sizeof *all);
	struct km_mk_relays_answer a = { .relays = all->relays };

	(void)from;
	(void)message;
	for (struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next)
		for (struct fill *f = p->fills; f != NULL; f = f->next)
			add_relay(&(struct km_mk_relay){ .relay = f->note.relay,
			                                 .source = km->name,
			                                 .destination = p->destination,
			                                 .method = method_name(f->note.method),
			                                 .stage = stage_name(f->stage),
			                                 .shares = f->shares > 1 ? f->shares : 1,
			                                 .remembered = f->transit != NULL ? transit_is_remembered(f->transit)
			                                                                  : f->remembered,
			                                 .len = f->note.len },
			          all);
	transit_each(km, add_relay, all);
	a.count = all->count;
	reply(&a.answer, arg);
	free(all);
}

/* ---- the master key ---------------------------------------------------------------------------------------- */

struct master_change {
	struct km *km;
	struct err why;
	km_reply reply;
	void *arg;
};

/* Old copies of the wrapped data keys open with the old master key: what comes is sealed under another one. */
static void master_changed(enum status s, void *arg)
{
	struct master_change *c = arg;
	struct km_mk_master_key_answer a = { .km = c->km->name };

	if (s == ST_OK) {
		c->km->rotate_at = env_mono(c->km->env);
		c->reply(&a.answer, c->arg);
	} else {
		km_refuse(c->reply, c->arg, s, "%s", c->why.text);
	}
	free(c);
}

void handle_mk_change_master_key(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	struct master_change *c = xcalloc(1, sizeof *c);

	(void)message;
	log_info("%s asks for a change of the key store's master key", from);
	*c = (struct master_change){ .km = km, .reply = reply, .arg = arg };
	ks_rotate_master_key(km->ks, &c->why, master_changed, c);
}
