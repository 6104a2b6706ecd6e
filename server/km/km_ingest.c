/*
 * km_ingest.c - QKD-keys come in (Kq-1).
 *
 * A block is stored at once where it belongs in the link's pools, beyond what is ready: durable before
 * the module is told so, and not usable before the peer KMA has agreed to it (km_sync.c).
 */
#include <stdlib.h>

#include "core.h"

/* ---- credit ------------------------------------------------------------------------------------- */

uint32_t link_credit(const struct link *l)
{
	uint64_t blocks, ahead = l->seen - l->next_sequence;

	if (!l->open || id_is_zero(&l->view.id))
		return 0;
	blocks = link_room(l) / l->view.half;
	if (blocks > BLOCKS_AHEAD - ahead)
		blocks = BLOCKS_AHEAD - ahead;
	return (uint32_t)(blocks > 4 * KM_BLOCKS_MAX ? 4 * KM_BLOCKS_MAX : blocks);
}

static void answer_progress(struct link *l, enum status s, const char *text, km_reply reply, void *arg)
{
	struct km_progress p = { .next_sequence = l->next_sequence };

	while (link_has(l, p.next_sequence))
		p.next_sequence++;
	p.credit = link_credit(l);
	if (p.credit == 0)
		module_has_no_credit(l);
	if (s != ST_OK)
		err_set(&p.answer.err, s, "link %s: %s", l->view.name, text);
	reply(&p.answer, arg);
}

/* ---- storing blocks --------------------------------------------------------------------------------- */

struct ingest {
	struct link *l;
	struct link_view view;
	uint32_t count;
	uint64_t sequences[KM_BLOCKS_MAX];
	enum status results[KM_BLOCKS_MAX];
	uint64_t from, first; /* where the link begins is put up from the one to the other, if it is not open any more */
	uint64_t stock[2];
	struct secret bytes; /* the blocks, one behind another */
	void (*then)(struct link *l, enum status s, struct ingest *i);
	km_reply reply;
	void *arg;
};

static enum status store_block(struct ks_txn *t, const struct link_view *v, uint64_t sequence,
                               const uint8_t *block)
{
	static const enum km_link_pool order[] = { KM_AUTH_OUT, KM_AUTH_IN, KM_KEYS_OUT, KM_KEYS_IN };

	for (size_t i = 0; i < ARRAY_LEN(order); i++) {
		size_t len = link_piece(v, order[i]);
		enum status s = ks_append(t, &v->pools[order[i]], link_offset(v, order[i], sequence), block, len);

		if (s != ST_OK)
			return s; /* the first piece is the only one that a block can be refused for */
		block += len;
	}
	return ST_OK;
}

static enum status ingest_work(struct ks_txn *t, void *arg)
{
	struct ingest *i = arg;
	struct ks_pool pool;
	enum status s = i->first > i->from ? link_skip(t, &i->view, i->from, &i->first) : ST_OK;

	if (s != ST_OK)
		return s;
	for (uint32_t b = 0; b < i->count; b++) {
		i->results[b] = store_block(t, &i->view, i->sequences[b], i->bytes.bytes + b * i->view.block_size);
		if (i->results[b] == ST_STORAGE || i->results[b] == ST_INTERNAL)
			return i->results[b];
	}
	for (int p = 0; p < 2; p++) {
		if ((s = ks_pool_get(t, &i->view.pools[KM_KEYS_OUT + p], &pool)) != ST_OK)
			return s;
		i->stock[p] = pool.stock + pool.unready;
	}
	return ST_OK;
}

static void ingest_done(enum status s, void *arg)
{
	struct ingest *i = arg;
	struct link *l = i->l;

	secret_free(&i->bytes);
	if (s == ST_OK && !l->begun)
		link_begin_at(l, i->first);
	for (uint32_t b = 0; s == ST_OK && b < i->count; b++) {
		uint64_t sequence = i->sequences[b];

		l->km->counters.blocks_received++;
		if (i->results[b] == ST_OK && sequence >= l->next_sequence)
			link_mark(l, sequence, true);
		else if (i->results[b] == ST_CONFLICT)
			link_complain(l, "block %llu came again with other contents: the first is kept",
			              (unsigned long long)sequence);
		else if (i->results[b] == ST_KEY_GONE && sequence >= l->next_sequence)
			link_complain(l, "block %llu came too late", (unsigned long long)sequence);
	}
	if (s == ST_OK)
		memcpy(l->stock, i->stock, sizeof l->stock);
	i->then(l, s, i);
	free(i);
	if (s == ST_OK)
		link_sync_soon(l, 0);
}

/* Where the link begins, or would with these blocks: a QKD module has counted on while the link was made anew. */
static uint64_t first_with(const struct link *l, const struct km_block *blocks, uint32_t count)
{
	if (!l->begun && l->seen == l->next_sequence && count > 0 && blocks[0].sequence <= FIRST_SEQUENCE_MOST &&
	    blocks[0].sequence >= l->next_sequence + BLOCKS_AHEAD)
		return blocks[0].sequence;
	return l->next_sequence;
}

/* Why the blocks cannot be taken; NULL if they can. */
static const char *unfit(const struct link *l, const struct km_block *blocks, uint32_t count)
{
	if (count > KM_BLOCKS_MAX)
		return "too many blocks in one message";
	for (uint32_t b = 0; b < count; b++) {
		if (blocks[b].len != l->view.block_size)
			return "a block is not of the link's block_size: configure both alike";
		if (blocks[b].sequence >= first_with(l, blocks, count) + BLOCKS_AHEAD)
			return "a block is too far ahead: synchronize (Kq-1 sync) first";
	}
	return NULL;
}

/* A moving average over some blocks, for the controller. */
static void take_qber(struct link *l, uint32_t qber_ppm)
{
	int64_t change = ((int64_t)qber_ppm - (int64_t)l->qber_ppm) / 8;

	l->qber_ppm = l->qber_ppm == 0 ? qber_ppm : (uint32_t)((int64_t)l->qber_ppm + change);
}

static void ingest(struct link *l, const struct km_block *blocks, uint32_t count,
                   void (*then)(struct link *, enum status, struct ingest *), km_reply reply, void *arg)
{
	struct ingest *i = xcalloc(1, sizeof *i);

	i->l = l;
	i->view = l->view;
	i->count = count;
	i->then = then;
	i->reply = reply;
	i->arg = arg;
	i->from = l->next_sequence;
	i->first = first_with(l, blocks, count);
	secret_alloc(&i->bytes, (size_t)count * l->view.block_size);
	for (uint32_t b = 0; b < count; b++) {
		i->sequences[b] = blocks[b].sequence;
		take_qber(l, blocks[b].qber_ppm);
		memcpy(i->bytes.bytes + b * l->view.block_size, blocks[b].bytes, l->view.block_size);
	}
	ks_submit(l->km->ks, ingest_work, ingest_done, i);
}

static void pushed(struct link *l, enum status s, struct ingest *i)
{
	answer_progress(l, s, "the blocks could not be stored: keep them and supply them again", i->reply, i->arg);
}

struct link *link_of_module(struct km *km, const char *from, const char *module, const char *name, km_reply reply,
                            void *arg)
{
	struct link *l = link_by_name(km, name);

	if (l != NULL && strcmp(l->module.name, module) == 0 && strcmp(from, module) == 0)
		return l;
	if (l != NULL && strcmp(from, module) != 0)
		km_refuse(reply, arg, ST_DENIED, "module %s speaks for itself, not for %s", from, module);
	else
		km_refuse(reply, arg, ST_NOT_FOUND, "%s knows no module %s of link %s: configure it in its links",
		          km->name, module, name);
	return NULL;
}

void handle_key_supply(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_key_supply *m = message;
	struct link *l = link_of_module(km, from, m->module, m->link, reply, arg);
	const char *why;

	if (l == NULL)
		return;
	if (!l->open) {
		answer_progress(l, ST_BUSY, "not open with the peer KM yet: keep the blocks and try again", reply, arg);
		return;
	}
	why = unfit(l, m->blocks, m->count);
	if (why != NULL)
		answer_progress(l, ST_BAD_REQUEST, why, reply, arg);
	else
		ingest(l, m->blocks, m->count, pushed, reply, arg);
}

void handle_key_sync(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_key_sync *m = message;
	struct link *l = link_of_module(km, from, m->module, m->link, reply, arg);

	if (l != NULL)
		answer_progress(l, ST_OK, "", reply, arg);
}

/* ---- pull -------------------------------------------------------------------------------------------- */

static void pull_soon(struct link *l, uint64_t after)
{
	if (l->module.registered && l->module.pull)
		env_timer_set(l->km->env, l->pull_timer, after);
}

static void pulled(struct link *l, enum status s, struct ingest *i)
{
	l->pulling = false;
	pull_soon(l, s == ST_OK && i->count > 0 ? 0 : NS_PER_S / 10);
}

static void pull_answered(enum status s, const void *answer, void *arg)
{
	const struct km_key_pull_answer *a = answer;
	struct link *l = arg;

	if (s == ST_OK && a->answer.err.status == ST_OK && a->count > 0 && unfit(l, a->blocks, a->count) == NULL) {
		ingest(l, a->blocks, a->count, pulled, NULL, NULL);
		return;
	}
	if (s == ST_OK && a->answer.err.status != ST_OK && a->answer.err.status != ST_TOO_FEW_KEYS)
		link_complain(l, "module %s: %s", l->module.name, a->answer.err.text);
	l->pulling = false;
	pull_soon(l, NS_PER_S / 10);
}

void link_pull(void *arg)
{
	struct link *l = arg;
	struct km_key_pull m = { .link = l->view.name, .next_sequence = l->next_sequence };

	if (!l->module.registered || l->pulling)
		return;
	m.blocks = link_credit(l) < KM_BLOCKS_MAX ? link_credit(l) : KM_BLOCKS_MAX;
	if (m.blocks == 0) {
		module_has_no_credit(l);
		return;
	}
	while (link_has(l, m.next_sequence))
		m.next_sequence++;
	l->pulling = true;
	km_trace_new(l->km, &m.trace);
	km_send(l->km, KM_KEY_PULL, l->module.name, &m, pull_answered, l);
}
