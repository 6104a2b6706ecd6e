/*
 * qkd_module.c - one QKD module.
 *
 * The buffer is a list in the order of making. An entry leaves it when the KM says that it is
 * durable, or when the KM refuses it for good: then it is counted and logged, never silently lost.
 *
 * Credit: the KM says how many blocks it takes after the message that it answers; blocks that are
 * already on their way are subtracted, so that messages in flight never overrun it.
 */
#include "qkd_module.h"

#include <inttypes.h>
#include <stdlib.h>
#include <utlist.h>

#include "log.h"

static const uint64_t retry_after = NS_PER_S; /* after a refusal that may pass */

struct entry {
	struct key_block *block;
	uint64_t ready_at; /* monotonic; late blocks */
	bool sent;
	bool repeat; /* a fault: to be sent once more after its acknowledgement */
	bool again;  /* that second time is to come, or on its way */
	struct entry *prev, *next;
};

struct qkd_module {
	struct env *env;
	struct module_settings settings;
	struct module_transport transport;
	env_cb changed;
	void *arg;
	struct entry *buffer;
	unsigned buffered;
	bool up, started;
	uint32_t credit;
	size_t blocks_in_flight, supplies_in_flight;
	uint64_t next_sequence, retry_at;
	uint64_t acknowledged, dropped;
	struct env_timer *wake; /* a late block, a retry */
	struct log_limit refusals;
};

static void wake(void *arg)
{
	qkd_module_send(arg);
}

struct qkd_module *qkd_module_new(struct env *env, const struct module_settings *settings,
                                  env_cb changed, void *arg)
{
	struct qkd_module *m = xcalloc(1, sizeof *m);

	m->env = env;
	m->settings = *settings;
	m->changed = changed;
	m->arg = arg;
	m->wake = env_timer_new(env, wake, m);
	m->refusals = (struct log_limit){ .interval_ns = 10 * NS_PER_S, .burst = 5 };
	return m;
}

static void drop_entry(struct qkd_module *m, struct entry *entry)
{
	DL_DELETE(m->buffer, entry);
	m->buffered--;
	key_block_release(entry->block);
	free(entry);
}

void qkd_module_free(struct qkd_module *m)
{
	struct entry *entry, *next;

	DL_FOREACH_SAFE (m->buffer, entry, next)
		drop_entry(m, entry);
	env_timer_free(m->env, m->wake);
	free(m);
}

void qkd_module_attach(struct qkd_module *m, const struct module_transport *t)
{
	m->transport = *t;
}

const char *qkd_module_name(const struct qkd_module *m)
{
	return m->settings.name;
}

enum module_mode qkd_module_mode(const struct qkd_module *m)
{
	return m->settings.mode;
}

/* ---- towards the link ------------------------------------------------------------------- */

bool qkd_module_wants_block(const struct qkd_module *m)
{
	return m->up && m->started && m->buffered < m->settings.buffer_blocks;
}

void qkd_module_put(struct qkd_module *m, struct key_block *b, uint64_t delay_ns, bool repeat)
{
	struct entry *entry = xcalloc(1, sizeof *entry);

	key_block_hold(b);
	entry->block = b;
	entry->ready_at = env_mono(m->env) + delay_ns;
	entry->repeat = repeat;
	DL_APPEND(m->buffer, entry);
	m->buffered++;
}

/* Most blocks of one message: several messages should be on their way at a time. */
static size_t supply_limit(const struct qkd_module *m)
{
	size_t limit = SUPPLY_BYTES_MAX / m->settings.block_size, share = m->settings.buffer_blocks / 4;
	size_t credit = m->credit > m->blocks_in_flight ? m->credit - m->blocks_in_flight : 0;

	if (limit > SUPPLY_BLOCKS_MAX)
		limit = SUPPLY_BLOCKS_MAX;
	if (limit > share)
		limit = share;
	if (limit == 0)
		limit = 1;
	return limit < credit ? limit : credit;
}

/* The next message; NULL where nothing is ready. */
static struct supply *collect(struct qkd_module *m, size_t limit)
{
	uint64_t now = env_mono(m->env);
	struct supply *s = NULL;
	struct entry *entry;

	DL_FOREACH (m->buffer, entry) {
		if (entry->sent || entry->ready_at > now)
			continue;
		if (s == NULL)
			s = xcalloc(1, sizeof *s);
		entry->sent = true;
		key_block_hold(entry->block);
		s->blocks[s->count++] = entry->block;
		if (s->count == limit)
			break;
	}
	return s;
}

/* Sets the timer for the first late block or the retry. */
static void set_wake(struct qkd_module *m)
{
	uint64_t now = env_mono(m->env), at = m->retry_at > now ? m->retry_at : UINT64_MAX;
	struct entry *entry;

	DL_FOREACH (m->buffer, entry)
		if (!entry->sent && entry->ready_at > now && entry->ready_at < at)
			at = entry->ready_at;
	if (at != UINT64_MAX)
		env_timer_set(m->env, m->wake, at - now);
}

void qkd_module_send(struct qkd_module *m)
{
	if (m->settings.mode != MODULE_PUSH || !m->up)
		return;
	while (m->supplies_in_flight < SUPPLIES_IN_FLIGHT_MAX && env_mono(m->env) >= m->retry_at) {
		size_t limit = supply_limit(m);
		struct supply *s = limit > 0 ? collect(m, limit) : NULL;

		if (s == NULL)
			break;
		s->module = m;
		m->supplies_in_flight++;
		m->blocks_in_flight += s->count;
		m->transport.supply(m->transport.arg, s);
	}
	set_wake(m);
}

void qkd_module_alarm(struct qkd_module *m, const struct alarm *a)
{
	if (m->up)
		m->transport.alarm(m->transport.arg, a);
}

/* ---- towards the key manager ------------------------------------------------------------ */

/* The KM has this block durable. A block to be repeated stays for its second time. */
static void acknowledge(struct qkd_module *m, struct entry *entry)
{
	if (entry->again && !entry->sent)
		return;
	if (entry->repeat) {
		entry->repeat = false;
		entry->again = true;
		entry->sent = false;
		return;
	}
	m->acknowledged++;
	drop_entry(m, entry);
}

static void forget_below(struct qkd_module *m, uint64_t next_sequence)
{
	struct entry *entry, *next;

	if (next_sequence > m->next_sequence)
		m->next_sequence = next_sequence;
	DL_FOREACH_SAFE (m->buffer, entry, next)
		if (entry->block->sequence < next_sequence)
			acknowledge(m, entry);
}

void qkd_module_up(struct qkd_module *m, uint64_t next_sequence, uint32_t credit)
{
	struct entry *entry;

	m->up = true;
	m->credit = credit;
	m->retry_at = 0;
	forget_below(m, next_sequence);
	DL_FOREACH (m->buffer, entry)
		entry->sent = false;
	m->changed(m->arg);
	qkd_module_send(m);
}

void qkd_module_down(struct qkd_module *m)
{
	m->up = false;
	m->started = false;
	env_timer_stop(m->env, m->wake);
	m->changed(m->arg);
}

bool qkd_module_is_up(const struct qkd_module *m)
{
	return m->up;
}

uint64_t qkd_module_next(const struct qkd_module *m)
{
	return m->next_sequence;
}

void qkd_module_start(struct qkd_module *m)
{
	m->started = true;
	m->changed(m->arg);
	qkd_module_send(m);
}

void qkd_module_stop(struct qkd_module *m)
{
	m->started = false;
	m->changed(m->arg);
}

void qkd_module_flow(struct qkd_module *m, uint32_t credit)
{
	m->credit = credit;
	m->retry_at = 0;
	qkd_module_send(m);
}

/* Whether sending the same bytes again can never help. */
static bool is_final(enum status status)
{
	return status == ST_MISMATCH || status == ST_CONFLICT || status == ST_REPLAYED;
}

static void refused(struct qkd_module *m, const struct supply *s, enum status status)
{
	unsigned held_back;

	if (!is_final(status))
		m->retry_at = env_mono(m->env) + retry_after;
	if (!log_limit_pass(&m->refusals, env_mono(m->env), &held_back))
		return;
	log_warning("module %s: supplying blocks %" PRIu64 " to %" PRIu64 ": %s: %s (%u more such lines)",
	            m->settings.name, s->blocks[0]->sequence, s->blocks[s->count - 1]->sequence,
	            status_name(status), is_final(status) ? "given up" : "will be sent again", held_back);
}

static void settle(struct qkd_module *m, struct entry *entry, enum status status)
{
	if (status == ST_OK) {
		acknowledge(m, entry);
	} else if (is_final(status)) {
		m->dropped++;
		drop_entry(m, entry);
	} else {
		entry->sent = false;
	}
}

/* Both the buffer and a message are in the order of making: one walk over both. */
static void settle_blocks(struct qkd_module *m, const struct supply *s, enum status status)
{
	struct entry *entry, *next;
	size_t i = 0;

	DL_FOREACH_SAFE (m->buffer, entry, next) {
		while (i < s->count && s->blocks[i]->sequence < entry->block->sequence)
			i++;
		if (i == s->count)
			break;
		if (s->blocks[i] == entry->block)
			settle(m, entry, status);
	}
}

void qkd_module_supplied(struct supply *s, enum status status, bool answered, uint64_t next_sequence,
                         uint32_t credit)
{
	struct qkd_module *m = s->module;

	m->supplies_in_flight--;
	m->blocks_in_flight -= s->count;
	if (answered) {
		m->credit = credit;
		forget_below(m, next_sequence);
	}
	if (status != ST_OK && m->up)
		refused(m, s, status);
	settle_blocks(m, s, status);
	for (size_t i = 0; i < s->count; i++)
		key_block_release(s->blocks[i]);
	free(s);
	m->changed(m->arg);
	qkd_module_send(m);
}

size_t qkd_module_request(struct qkd_module *m, uint64_t next_sequence, size_t max,
                          const struct key_block *blocks[SUPPLY_BLOCKS_MAX])
{
	uint64_t now = env_mono(m->env);
	size_t count = 0, limit = SUPPLY_BYTES_MAX / m->settings.block_size;
	struct entry *entry;

	forget_below(m, next_sequence);
	m->changed(m->arg);
	if (limit > SUPPLY_BLOCKS_MAX)
		limit = SUPPLY_BLOCKS_MAX;
	if (limit > max)
		limit = max;
	DL_FOREACH (m->buffer, entry) {
		if (count == limit)
			break;
		if (entry->ready_at > now)
			continue;
		entry->sent = true;
		blocks[count++] = entry->block;
	}
	return count;
}

struct module_state qkd_module_state(const struct qkd_module *m)
{
	return (struct module_state){ .up = m->up,
		                      .started = m->started,
		                      .buffered = m->buffered,
		                      .acknowledged = m->acknowledged,
		                      .dropped = m->dropped };
}
