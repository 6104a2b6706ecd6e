/*
 * km_module.c - a link's QKD module under the KM's control (Kq-2): its registration, its start and stop, the
 * flow of its blocks, its status, its alarms.
 *
 * Credit says how many of the blocks that were made are taken; start and stop, whether more are made. A module
 * without credit keeps its blocks and waits for flow control. Where that is because the pools are full it is
 * stopped, and started again when an eighth of the bound is free, so that it neither makes what nobody takes
 * nor is switched for every block. What was made at both ends before still comes, since the far end may have it.
 *
 * Every status_interval the module is asked how it is. That also mends what a lost command left behind:
 * whoever says that it is started when it should be stopped is told again.
 */
#include <stdio.h>

#include "core.h"

enum { START_AT = 8 }; /* the part of the bound that is free then */

/* ---- commands -------------------------------------------------------------------------------------------- */

static void command_answered(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct link *l = arg;

	if (s != ST_OK && s != ST_PEER_UNREACHABLE) {
		link_complain(l, "module %s did not answer: %s", l->module.name, status_name(s));
		l->module.ask_at = 0; /* it may have been told or not */
	} else if (s == ST_OK && a->err.status != ST_OK) {
		link_complain(l, "module %s: %s", l->module.name, a->err.text);
	}
}

static void command(struct link *l)
{
	struct km_link_command m = { .link = l->view.name };

	km_trace_new(l->km, &m.trace);
	km_send(l->km, l->module.stopped ? KM_STOP : KM_START, l->module.name, &m, command_answered, l);
}

/* ---- flow -------------------------------------------------------------------------------------------------- */

static bool is_full(const struct link *l)
{
	return link_room(l) < l->view.half;
}

void module_has_no_credit(struct link *l)
{
	l->module.out_of_credit = true;
	link_recount_soon(l);
	if (!l->module.registered || l->module.stopped || !l->open || !is_full(l))
		return;
	l->module.stopped = true;
	log_info("link %s: its pools are full: module %s is stopped", l->view.name, l->module.name);
	command(l);
}

static void tell_credit(struct link *l)
{
	struct km_flow_control m = { .link = l->view.name, .credit = link_credit(l) };

	km_trace_new(l->km, &m.trace);
	km_send(l->km, KM_FLOW_CONTROL, l->module.name, &m, command_answered, l);
}

void link_check_credit(struct link *l)
{
	struct module *d = &l->module;

	if (!d->registered || l->km->stopping)
		return;
	if (d->stopped && link_room(l) >= l->km->limits.link_max_stock / START_AT) {
		d->stopped = false;
		log_info("link %s: its pools have room: module %s is started again", l->view.name, d->name);
		command(l);
	}
	if (!d->out_of_credit || link_credit(l) == 0)
		return;
	d->out_of_credit = false;
	if (d->pull)
		link_pull(l);
	else
		tell_credit(l);
}

/* ---- status ------------------------------------------------------------------------------------------------- */

static void status_answered(enum status s, const void *answer, void *arg)
{
	const struct km_module_status_answer *a = answer;
	struct link *l = arg;

	l->module.asking = false;
	if (!l->module.registered || s == ST_PEER_UNREACHABLE)
		return;
	if (s != ST_OK || a->answer.err.status != ST_OK) {
		link_complain(l, "module %s does not tell its status: %s", l->module.name,
		              s != ST_OK ? status_name(s) : a->answer.err.text);
		return;
	}
	l->module.told = true;
	l->module.status = a->status;
	if (a->status.started == l->module.stopped)
		command(l);
}

static void ask_status(struct link *l)
{
	struct km_link_command m = { .link = l->view.name };

	l->module.asking = true;
	km_trace_new(l->km, &m.trace);
	km_send(l->km, KM_MODULE_STATUS, l->module.name, &m, status_answered, l);
}

void link_tick_module(struct link *l)
{
	struct module *d = &l->module;
	uint64_t now = env_mono(l->km->env);

	link_check_credit(l);
	if (!d->registered || d->asking || now < d->ask_at)
		return;
	d->ask_at = now + l->km->limits.status_interval;
	ask_status(l);
}

/* ---- registration ---------------------------------------------------------------------------------------------- */

static void start(void *arg)
{
	struct link *l = arg;

	if (!l->module.registered || l->km->stopping)
		return;
	l->module.stopped = l->open && is_full(l);
	if (!l->module.stopped)
		command(l);
	link_check_credit(l);
}

void link_module_up(struct link *l, bool up)
{
	if (up)
		return; /* it registers before it counts */
	l->module.registered = false;
	env_timer_stop(l->km->env, l->pull_timer);
}

void handle_register(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_register *m = message;
	struct link *l = link_of_module(km, from, m->module, m->link, reply, arg);

	if (l == NULL)
		return;
	if (m->block_size != l->view.block_size) {
		km_refuse(reply, arg, ST_CONFLICT, "link %s: block_size is %u bytes at module %s and %u at %s: make them equal",
		          m->link, m->block_size, m->module, l->view.block_size, km->name);
		return;
	}
	l->module.registered = true;
	l->module.pull = m->pull;
	l->module.out_of_credit = true;
	l->module.told = false;
	l->module.alarm_count = 0; /* it tells those that stand again */
	l->module.ask_at = env_mono(km->env) + km->limits.status_interval;
	l->pulling = false;
	log_info("link %s: module %s registered (%s, %s)", l->view.name, l->module.name, m->protocol,
	         m->pull ? "pull" : "push");
	km_done(reply, arg);
	env_post(km->env, start, l);
}

/* ---- alarms ------------------------------------------------------------------------------------------------------- */

static struct module_alarm *standing(struct module *d, const char *cause)
{
	for (unsigned i = 0; i < d->alarm_count; i++)
		if (strcmp(d->alarms[i].cause, cause) == 0)
			return &d->alarms[i];
	return NULL;
}

static void note_alarm(struct module *d, const struct km_alarm *m)
{
	struct module_alarm *a = standing(d, m->cause);

	if (m->cleared) {
		if (a != NULL)
			*a = d->alarms[--d->alarm_count];
		return;
	}
	if (a == NULL && d->alarm_count < ARRAY_LEN(d->alarms))
		a = &d->alarms[d->alarm_count++];
	if (a == NULL)
		return; /* it stands in the log */
	snprintf(a->cause, sizeof a->cause, "%s", m->cause);
	snprintf(a->text, sizeof a->text, "%s", m->text);
	a->major = m->major;
	a->raised_at = m->raised_at;
}

void handle_alarm(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_alarm *m = message;
	struct link *l = link_of_module(km, from, m->module, m->link, reply, arg);

	if (l == NULL)
		return;
	note_alarm(&l->module, m);
	link_complain(l, "module %s: alarm %s (%s%s): %s", m->module, m->cause, m->major ? "major" : "minor",
	              m->cleared ? ", cleared" : "", m->text);
	km_done(reply, arg);
}

/* ---- what is shown of it -------------------------------------------------------------------------------------------- */

const char *module_state(const struct link *l)
{
	const struct module *d = &l->module;

	if (!d->registered)
		return "absent";
	if (d->stopped)
		return "stopped";
	if (!d->told)
		return "started";
	return d->status.running ? "running" : "waiting";
}
