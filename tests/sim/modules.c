/* modules.c - QKD links and the modules at their ends: the same random blocks to both, and what goes wrong. */
#include <stdio.h>
#include <sys/stat.h>

#include "inside.h"

enum { SUPPLY_MOST = 32 };

static void block_free(struct module *m, struct block *b)
{
	DL_DELETE(m->blocks, b);
	m->kept--;
	free(b->bytes);
	free(b);
}

static void block_add(struct module *m, uint64_t sequence, const uint8_t *bytes, uint64_t not_before)
{
	struct sim *s = m->party.sim;
	struct block *b = xcalloc(1, sizeof *b);

	b->sequence = sequence;
	b->not_before = not_before;
	b->bytes = xcalloc(1, s->options.block_size);
	memcpy(b->bytes, bytes, s->options.block_size);
	DL_APPEND(m->blocks, b);
	if (++m->kept > MODULE_KEEPS)
		block_free(m, m->blocks);
}

static void make_at_end(struct module *m, uint64_t sequence, uint8_t *bytes)
{
	struct sim *s = m->party.sim;
	const struct sim_faults *f = &s->options.faults;
	uint64_t now = world_now(s->world), not_before = now;

	if (sim_chance(s, f->missing))
		return;
	if (sim_chance(s, f->differing))
		bytes[sim_dice(s, s->options.block_size)] ^= 4;
	if (sim_chance(s, f->late_block))
		not_before += sim_dice(s, 4000) * NS_PER_MS;
	block_add(m, sequence, bytes, not_before);
	if (sim_chance(s, f->repeated)) {
		bytes[sim_dice(s, s->options.block_size)] ^= (uint8_t)sim_dice(s, 2);
		block_add(m, sequence, bytes, now + sim_dice(s, 1000) * NS_PER_MS);
	}
}

void link_make_block(struct sim_link *l)
{
	uint32_t len = l->sim->options.block_size;
	uint8_t *bytes = xcalloc(2, len);

	env_random(l->sim->env, bytes, len);
	memcpy(bytes + len, bytes, len);
	make_at_end(&l->modules[0], l->next_sequence, bytes);
	make_at_end(&l->modules[1], l->next_sequence, bytes + len);
	l->next_sequence++;
	l->sim->stats.blocks++;
	free(bytes);
}

/* ---- what a module says to its KM ----------------------------------------------------------------------- */

static void forget_below(struct module *m, uint64_t sequence)
{
	struct block *b, *next;

	DL_FOREACH_SAFE (m->blocks, b, next)
		if (b->sequence < sequence)
			block_free(m, b);
}

static void registered(enum status s, const void *answer, void *arg)
{
	const struct km_answer *a = answer;
	struct module *m = arg;

	m->supplying = false;
	m->registered = s == ST_OK && a->err.status == ST_OK;
	m->synced = false;
}

static void synced(enum status s, const void *answer, void *arg)
{
	const struct km_progress *p = answer;
	struct module *m = arg;

	m->supplying = false;
	if (s != ST_OK || p->answer.err.status != ST_OK)
		return;
	m->synced = true;
	forget_below(m, p->next_sequence);
}

static void supplied(enum status s, const void *answer, void *arg)
{
	const struct km_progress *p = answer;
	struct module *m = arg;
	struct block *b, *next;
	uint64_t now = world_now(m->party.sim->world);

	m->supplying = false;
	if (s == ST_OK && p->answer.err.status == ST_OK) {
		DL_FOREACH_SAFE (m->blocks, b, next)
			if (b->not_before == UINT64_MAX)
				block_free(m, b);
		if (p->credit == 0)
			m->again_at = now + NS_PER_S;
		return;
	}
	DL_FOREACH (m->blocks, b)
		if (b->not_before == UINT64_MAX)
			b->not_before = 0;
	m->again_at = now + NS_PER_S / 5;
	m->synced = s == ST_OK && p->answer.err.status == ST_BUSY;
}

static void supply(struct module *m)
{
	struct sim *s = m->party.sim;
	struct km_block blocks[SUPPLY_MOST];
	struct km_key_supply msg = { .link = m->link->name, .module = m->party.name, .protocol = "sim", .blocks = blocks };
	struct block *b;

	DL_FOREACH (m->blocks, b) {
		if (b->not_before > world_now(s->world))
			continue;
		blocks[msg.count++] = (struct km_block){ .sequence = b->sequence, .bytes = b->bytes, .len = s->options.block_size };
		b->not_before = UINT64_MAX; /* on its way */
		if (msg.count == SUPPLY_MOST)
			break;
	}
	if (msg.count == 0)
		return;
	m->supplying = true;
	net_send(&m->party, m->node->party.name, KM_KEY_SUPPLY, &msg, 5 * NS_PER_S, supplied, m);
}

void module_tick(struct module *m)
{
	struct sim *s = m->party.sim;

	if (m->supplying || !conn_is_seen(s, &m->party, &m->node->party) || world_now(s->world) < m->again_at)
		return;
	if (!m->registered) {
		struct km_register msg = { .module = m->party.name, .peer_module = "", .link = m->link->name,
			                   .protocol = "sim", .block_size = s->options.block_size };

		m->supplying = true;
		net_send(&m->party, m->node->party.name, KM_REGISTER, &msg, 5 * NS_PER_S, registered, m);
	} else if (!m->synced) {
		struct km_key_sync msg = { .link = m->link->name, .module = m->party.name };

		m->supplying = true;
		net_send(&m->party, m->node->party.name, KM_KEY_SYNC, &msg, 5 * NS_PER_S, synced, m);
	} else {
		supply(m);
	}
}

/* ---- what it is told ---------------------------------------------------------------------------------------- */

static void receive(struct party *p, enum km_message msg, struct party *from, const void *message, km_reply reply,
                    void *arg)
{
	struct module *m = container_of(p, struct module, party);
	struct km_module_status_answer a = { .status = { .started = m->started, .running = m->started } };

	(void)from;
	(void)message;
	if (msg == KM_FLOW_CONTROL)
		m->again_at = 0;
	else if (msg == KM_START || msg == KM_STOP)
		m->started = msg == KM_START;
	reply(&a.answer, arg);
}

static void notice(struct party *p, struct party *other, bool up)
{
	struct module *m = container_of(p, struct module, party);

	(void)other;
	if (!up)
		m->registered = m->started = false;
}

/* ---- links --------------------------------------------------------------------------------------------------- */

struct sim_link *sim_link_by_name(struct sim *s, const char *name)
{
	for (unsigned i = 0; i < s->link_count; i++)
		if (strcmp(s->links[i].name, name) == 0)
			return &s->links[i];
	return NULL;
}

static void write_secret(struct sim_link *l, const uint8_t bytes[SIM_SECRET_LEN])
{
	for (int end = 0; end < 2; end++) {
		char path[192];
		FILE *file;

		snprintf(path, sizeof path, "%s/%s.%d", l->sim->directory, l->name, end);
		file = fopen(path, "w");
		if (file == NULL || fwrite(bytes, SIM_SECRET_LEN, 1, file) != 1 || chmod(path, 0600) != 0 || fclose(file) != 0)
			abort();
	}
}

void sim_give_secret(struct sim *s, unsigned link, const uint8_t secret[SIM_SECRET_LEN])
{
	uint8_t fresh[SIM_SECRET_LEN];

	env_random(s->env, fresh, sizeof fresh);
	write_secret(&s->links[link], secret != NULL ? secret : fresh);
	check_link_free(&s->links[link], 0);
	check_link_free(&s->links[link], 1);
}

static void link_add(struct sim *s, unsigned a, unsigned b)
{
	struct sim_link *l;

	if (a > b) {
		link_add(s, b, a);
		return;
	}
	for (unsigned i = 0; i < s->link_count; i++)
		if (s->links[i].ends[0] == &s->nodes[a] && s->links[i].ends[1] == &s->nodes[b])
			return;
	if (a == b)
		return;
	l = &s->links[s->link_count++];
	l->sim = s;
	snprintf(l->name, sizeof l->name, "km%03u-km%03u", a, b);
	l->ends[0] = &s->nodes[a];
	l->ends[1] = &s->nodes[b];
	for (int end = 0; end < 2; end++) {
		struct module *m = &l->modules[end];
		char name[NAME_MAX_LEN + 1];

		snprintf(name, sizeof name, "module%03u-%03u", end ? b : a, end ? a : b);
		party_add(s, &m->party, name, PARTY_MODULE);
		m->party.alive = true;
		m->party.receive = receive;
		m->party.notice = notice;
		m->link = l;
		m->node = l->ends[end];
		net_want(s, &m->party, &m->node->party);
	}
	sim_give_secret(s, (unsigned)(l - s->links), NULL);
}

bool sim_is_link(const struct sim *s, unsigned a, unsigned b)
{
	for (unsigned i = 0; i < s->link_count; i++)
		if ((s->links[i].ends[0] == &s->nodes[a] && s->links[i].ends[1] == &s->nodes[b]) ||
		    (s->links[i].ends[0] == &s->nodes[b] && s->links[i].ends[1] == &s->nodes[a]))
			return true;
	return false;
}

/* At most two rows of links: the modules are parties too. */
void links_new(struct sim *s)
{
	unsigned n = s->options.nodes;

	s->links = xcalloc(3 * n, sizeof *s->links);
	for (unsigned i = 0; i + 1 < n; i++)
		link_add(s, i, i + 1);
	if (s->options.topology != SIM_LINE && n > 2)
		link_add(s, n - 1, 0);
	if (s->options.topology == SIM_MESH)
		for (unsigned i = 0; i < n; i++)
			link_add(s, i, (unsigned)sim_dice(s, n));
}

void links_free(struct sim *s)
{
	for (unsigned i = 0; i < s->link_count; i++) {
		struct sim_link *l = &s->links[i];

		for (int end = 0; end < 2; end++) {
			struct taken_range *t, *next;
			char path[192];

			while (l->modules[end].blocks != NULL)
				block_free(&l->modules[end], l->modules[end].blocks);
			ranges_free(&l->keys[end]);
			check_link_free(l, end);
			LL_FOREACH_SAFE (l->taken[end], t, next)
				free(t);
			snprintf(path, sizeof path, "%s/%s.%d", s->directory, l->name, end);
			remove(path);
		}
	}
	free(s->links);
}

void sim_link_down(struct sim *s, unsigned link, bool down)
{
	s->links[link].down = down;
}

unsigned sim_link_count(const struct sim *s)
{
	return s->link_count;
}
