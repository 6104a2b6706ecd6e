/* qkd_link.c - a pair of QKD modules and the channel between them. */
#include "qkd_link.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

static const uint64_t shortest_tick = NS_PER_MS;
static const uint64_t longest_burst = 100 * NS_PER_MS; /* what a tick that came late may catch up */
static const double intercepted_qber = 0.25;           /* of intercept and resend on every pulse */

struct fault {
	struct link_fault is;
	uint64_t done;
};

/* What stands against making keys; one bit each, so that each is told and cleared by itself. */
enum { CHANNEL_LOST = 1, CHANNEL_NOISY = 2, MODULE_BROKEN_0 = 4, MODULE_BROKEN_1 = 8 };

struct qkd_link {
	struct env *env;
	struct link_settings settings;
	struct model_yield yield;
	struct qkd_module *modules[2];
	bool numbered[2]; /* the KM at that end has said where it stands, since we started */
	uint64_t next_sequence;
	struct env_timer *tick;
	bool making;       /* the tick is set */
	uint64_t ticked_at;
	double earned; /* bits that the channel has yielded and that no block holds yet */
	struct fault *faults;
	size_t fault_count;
	unsigned troubles;
	uint64_t troubled_at[4];
	uint64_t pauses;
	uint64_t window_from, window_blocks; /* measures the rate of an unlimited link */
	double measured;
};

/* ---- rate ------------------------------------------------------------------------------- */

static double nominal_rate(const struct qkd_link *l)
{
	switch (l->settings.rate) {
	case LINK_RATE_MODEL:
		return l->yield.key_rate;
	case LINK_RATE_FIXED:
		return l->settings.fixed_rate;
	default:
		return l->measured;
	}
}

static double qber(const struct qkd_link *l)
{
	if ((l->troubles & CHANNEL_NOISY) != 0 && l->yield.qber <= l->settings.qber_limit)
		return intercepted_qber;
	return l->yield.qber;
}

static double block_bits(const struct qkd_link *l)
{
	return 8.0 * (double)l->settings.block_size;
}

static void measure(struct qkd_link *l)
{
	uint64_t now = env_mono(l->env), passed = now - l->window_from;

	l->window_blocks++;
	if (passed < NS_PER_S)
		return;
	l->measured = (double)l->window_blocks * block_bits(l) * (double)NS_PER_S / (double)passed;
	l->window_from = now;
	l->window_blocks = 0;
}

/* ---- faults ----------------------------------------------------------------------------- */

static bool strikes(struct fault *f, uint64_t sequence)
{
	if (f->is.every == 0 || (sequence + 1) % f->is.every != 0)
		return false;
	if (f->is.count != 0 && f->done >= f->is.count)
		return false;
	f->done++;
	return true;
}

/* Hands one block to one module, with the faults that strike it there. */
static void deliver(struct qkd_link *l, unsigned end, struct key_block *b)
{
	bool missing = false, repeat = false, spoilt = false;
	uint64_t delay = 0;

	for (struct fault *f = l->faults; f < l->faults + l->fault_count; f++) {
		if (f->is.end != end || f->is.kind > FAULT_DIFFERING || !strikes(f, b->sequence))
			continue;
		log_debug("link %s: fault on block %" PRIu64 " at %s", l->settings.name, b->sequence,
		          qkd_module_name(l->modules[end]));
		missing |= f->is.kind == FAULT_MISSING;
		repeat |= f->is.kind == FAULT_REPEATED;
		spoilt |= f->is.kind == FAULT_DIFFERING;
		if (f->is.kind == FAULT_LATE)
			delay = f->is.delay_ns;
	}
	if (missing)
		return;
	if (spoilt)
		b = key_block_spoilt(l->env, b);
	qkd_module_put(l->modules[end], b, delay, repeat);
	if (spoilt)
		key_block_release(b);
}

/* ---- alarms ----------------------------------------------------------------------------- */

static const struct {
	const char *cause, *text;
	int end; /* -1: both modules tell */
} troubles[] = {
	{ "link-loss", "the quantum channel is lost", -1 },
	{ "qber-high", "the quantum bit error ratio is above the limit; no key is made", -1 },
	{ "module-fault", "the module is broken", 0 },
	{ "module-fault", "the module is broken", 1 },
};

static void tell(struct qkd_link *l, size_t trouble, unsigned end, bool cleared)
{
	struct alarm a = { .cause = troubles[trouble].cause,
		           .major = true,
		           .cleared = cleared,
		           .raised_at = l->troubled_at[trouble],
		           .text = troubles[trouble].text };

	if (troubles[trouble].end < 0 || troubles[trouble].end == (int)end)
		qkd_module_alarm(l->modules[end], &a);
}

static unsigned troubles_of(const struct qkd_link *l)
{
	unsigned found = l->yield.qber > l->settings.qber_limit ? CHANNEL_NOISY : 0;

	for (size_t i = 0; i < l->fault_count; i++) {
		const struct link_fault *f = &l->faults[i].is;

		if (f->kind == FAULT_LINK_LOSS)
			found |= CHANNEL_LOST;
		else if (f->kind == FAULT_QBER_HIGH)
			found |= CHANNEL_NOISY;
		else if (f->kind == FAULT_MODULE)
			found |= f->end == 0 ? MODULE_BROKEN_0 : MODULE_BROKEN_1;
	}
	return found;
}

static void update_troubles(struct qkd_link *l)
{
	unsigned now = troubles_of(l), news = l->troubles ^ now;

	l->troubles = now;
	for (size_t i = 0; i < ARRAY_LEN(troubles); i++) {
		bool stands = (now & 1U << i) != 0;

		if ((news & 1U << i) == 0)
			continue;
		if (stands)
			l->troubled_at[i] = env_utc(l->env);
		log_warning("link %s: %s%s", l->settings.name, troubles[i].cause, stands ? "" : " cleared");
		tell(l, i, 0, !stands);
		tell(l, i, 1, !stands);
	}
}

void qkd_link_repeat_alarms(struct qkd_link *l, unsigned end)
{
	for (size_t i = 0; i < ARRAY_LEN(troubles); i++)
		if ((l->troubles & 1U << i) != 0)
			tell(l, i, end, false);
}

/* ---- making blocks ---------------------------------------------------------------------- */

static bool may_make(const struct qkd_link *l)
{
	return l->numbered[0] && l->numbered[1] && l->troubles == 0 &&
	       qkd_module_wants_block(l->modules[0]) && qkd_module_wants_block(l->modules[1]);
}

static void make_block(struct qkd_link *l)
{
	struct key_block *b = key_block_new(l->env, l->next_sequence++, (uint32_t)(qber(l) * 1e6 + 0.5),
	                                    l->settings.block_size);

	deliver(l, 0, b);
	deliver(l, 1, b);
	key_block_release(b);
	measure(l);
}

static void make_unlimited(struct qkd_link *l)
{
	while (may_make(l))
		make_block(l);
}

/* Turns what the channel yielded since the last tick into blocks. */
static void make_earned(struct qkd_link *l)
{
	uint64_t now = env_mono(l->env), passed = now - l->ticked_at;

	if (passed > longest_burst && (double)passed * nominal_rate(l) > 2 * block_bits(l) * (double)NS_PER_S)
		passed = longest_burst;
	l->ticked_at = now;
	l->earned += nominal_rate(l) * (double)passed / (double)NS_PER_S;
	while (l->earned >= block_bits(l) && may_make(l)) {
		l->earned -= block_bits(l);
		make_block(l);
	}
	if (l->earned > block_bits(l))
		l->earned = block_bits(l); /* paused: what the channel could have yielded is not made up for */
}

static void set_tick(struct qkd_link *l)
{
	double wait = 0;

	if (l->settings.rate != LINK_RATE_UNLIMITED) {
		wait = (block_bits(l) - l->earned) / nominal_rate(l) * (double)NS_PER_S;
		if (wait < (double)shortest_tick)
			wait = (double)shortest_tick;
	}
	l->making = true;
	env_timer_set(l->env, l->tick, (uint64_t)wait);
}

static bool buffer_is_full(const struct qkd_link *l)
{
	for (unsigned end = 0; end < 2; end++)
		if (qkd_module_state(l->modules[end]).buffered >= l->settings.buffer_blocks)
			return true;
	return false;
}

static void tick(void *arg)
{
	struct qkd_link *l = arg;

	l->making = false;
	if (l->settings.rate == LINK_RATE_UNLIMITED)
		make_unlimited(l);
	else
		make_earned(l);
	if (may_make(l))
		set_tick(l);
	else if (l->settings.rate != LINK_RATE_UNLIMITED && buffer_is_full(l))
		l->pauses++;
	qkd_module_send(l->modules[0]);
	qkd_module_send(l->modules[1]);
}

static void take_numbers(struct qkd_link *l)
{
	for (unsigned end = 0; end < 2; end++) {
		if (!qkd_module_is_up(l->modules[end]))
			continue;
		l->numbered[end] = true;
		if (qkd_module_next(l->modules[end]) > l->next_sequence)
			l->next_sequence = qkd_module_next(l->modules[end]);
	}
}

/* A module came, went, was started or stopped, or has room again. */
static void changed(void *arg)
{
	struct qkd_link *l = arg;

	take_numbers(l);
	if (!may_make(l)) {
		if (l->making)
			env_timer_stop(l->env, l->tick);
		l->making = false;
		return;
	}
	if (l->making || (l->settings.rate != LINK_RATE_UNLIMITED && nominal_rate(l) <= 0))
		return;
	l->ticked_at = env_mono(l->env); /* nothing was yielded while it paused */
	set_tick(l);
}

/* ---- the object ------------------------------------------------------------------------- */

struct qkd_link *qkd_link_new(struct env *env, const struct link_settings *settings)
{
	struct qkd_link *l = xcalloc(1, sizeof *l);

	l->env = env;
	l->settings = *settings;
	l->yield = model_vacuum_weak(&settings->model);
	l->tick = env_timer_new(env, tick, l);
	l->window_from = env_mono(env);
	for (unsigned end = 0; end < 2; end++) {
		struct module_settings s = { .name = settings->modules[end].name,
			                     .mode = settings->modules[end].mode,
			                     .block_size = settings->block_size,
			                     .buffer_blocks = settings->buffer_blocks };

		l->modules[end] = qkd_module_new(env, &s, changed, l);
	}
	update_troubles(l);
	return l;
}

void qkd_link_free(struct qkd_link *l)
{
	if (l == NULL)
		return;
	qkd_module_free(l->modules[0]);
	qkd_module_free(l->modules[1]);
	env_timer_free(l->env, l->tick);
	free(l->faults);
	free(l);
}

const char *qkd_link_name(const struct qkd_link *l)
{
	return l->settings.name;
}

const struct link_settings *qkd_link_settings(const struct qkd_link *l)
{
	return &l->settings;
}

struct qkd_module *qkd_link_module(struct qkd_link *l, unsigned end)
{
	return l->modules[end];
}

void qkd_link_set_faults(struct qkd_link *l, const struct link_fault *faults, size_t count)
{
	free(l->faults);
	l->faults = xcalloc(count, sizeof *l->faults);
	l->fault_count = count;
	for (size_t i = 0; i < count; i++)
		l->faults[i].is = faults[i];
	update_troubles(l);
	changed(l);
}

struct link_state qkd_link_state(const struct qkd_link *l)
{
	bool running = l->troubles == 0;

	for (unsigned end = 0; end < 2; end++) {
		struct module_state m = qkd_module_state(l->modules[end]);

		running = running && m.up && m.started;
	}
	return (struct link_state){ .running = running,
		                    .key_rate = running ? nominal_rate(l) : 0,
		                    .qber = qber(l),
		                    .next_sequence = l->next_sequence,
		                    .pauses = l->pauses };
}
