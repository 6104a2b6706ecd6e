/*
 * net.c - the wire of the simulation: connections between parties, calls over them, and what happens
 * to both.
 *
 * A call keeps lib/rpc's promises: its end is reported exactly once, never before send returns, and not any
 * more once the caller was killed. Messages may overtake one another, get lost, come twice or too late.
 */
#include "inside.h"

enum { DELIVERIES_MAX = 4 };
#define MS NS_PER_MS

struct delivery {
	struct call *call;
	struct party *from;
	unsigned incarnation; /* of the receiver */
	void *message;
	bool forged, under_way, replied, first;
};

struct call {
	struct sim *sim;
	struct call *prev, *next;
	struct party *from, *to;
	unsigned incarnation, epoch, holds;
	enum km_message m;
	struct bag bag;
	void *message, *answer;
	km_answered answered;
	void *arg;
	uint64_t timeout, sent_at;
	enum sim_fate fate;
	bool over;
	uint32_t *injected; /* where the status of an injected message goes */
	struct delivery deliveries[DELIVERIES_MAX];
	unsigned delivery_count;
};

/* ---- parties --------------------------------------------------------------------------------------------- */

void party_add(struct sim *s, struct party *p, const char *name, enum party_kind kind)
{
	p->sim = s;
	p->kind = kind;
	strcpy(p->name, name);
	p->listening = kind != PARTY_KM;
	p->index = s->party_count;
	s->parties[s->party_count++] = p;
	HASH_ADD_STR(s->by_name, name, p);
}

struct party *party_by_name(struct sim *s, const char *name)
{
	struct party *p;

	HASH_FIND_STR(s->by_name, name, p);
	return p;
}

/* ---- connections -------------------------------------------------------------------------------------------- */

struct conn *conn_of(struct sim *s, const struct party *a, const struct party *b)
{
	unsigned low = a->index < b->index ? a->index : b->index, high = a->index < b->index ? b->index : a->index;

	return &s->conns[low * PARTIES_MAX + high];
}

static bool *seen(struct sim *s, const struct party *by, const struct party *other)
{
	return &conn_of(s, by, other)->seen[by->index < other->index ? 0 : 1];
}

bool conn_is_seen(struct sim *s, const struct party *by, const struct party *other)
{
	return *seen(s, by, other);
}

void net_want(struct sim *s, struct party *a, struct party *b)
{
	conn_of(s, a, b)->wanted = true;
}

struct notice {
	struct party *to, *other;
	unsigned incarnation, epoch;
	bool up;
};

static void count_lost(struct call *c)
{
	const struct km_relay *m = c->message;

	for (uint32_t i = 0; i < m->pad_count; i++)
		c->sim->stats.pad_lost += m->pads[i].len;
}

static void call_over(struct call *c, enum status s, const void *answer)
{
	if (c->over)
		return;
	c->over = true;
	if (c->m == KM_RELAY && (s != ST_OK || ((const struct km_answer *)answer)->err.status != ST_OK))
		count_lost(c);
	if (c->injected != NULL)
		*c->injected = s == ST_OK ? ((const struct km_answer *)answer)->err.status : s;
	if (c->answered == NULL)
		return;
	if (c->from->alive && c->from->incarnation == c->incarnation)
		c->answered(s, answer, c->arg);
	else
		graveyard(c->arg);
}

static void notice_run(void *arg)
{
	struct notice *n = arg;
	struct sim *s = n->to->sim;
	struct conn *conn = conn_of(s, n->to, n->other);
	struct call *c, *next;

	if (n->to->alive && n->to->incarnation == n->incarnation && *seen(s, n->to, n->other) != n->up &&
	    (!n->up || (conn->up && conn->epoch == n->epoch))) {
		*seen(s, n->to, n->other) = n->up;
		if (!n->up)
			DL_FOREACH_SAFE (s->calls, c, next)
				if (c->from == n->to && c->to == n->other && c->epoch < conn->epoch)
					call_over(c, ST_TRANSPORT, NULL);
		n->to->notice(n->to, n->other, n->up);
	}
	free(n);
}

static void notice_later(struct party *to, struct party *other, bool up)
{
	struct notice *n = xcalloc(1, sizeof *n);

	*n = (struct notice){ to, other, to->incarnation, conn_of(to->sim, to, other)->epoch, up };
	env_virtual_after(to->sim->env, (1 + sim_dice(to->sim, up ? 5 : 50)) * MS, notice_run, n);
}

static void net_break(struct sim *s, struct party *a, struct party *b)
{
	struct conn *conn = conn_of(s, a, b);

	if (!conn->up)
		return;
	conn->up = false;
	conn->epoch++;
	conn->down_at = world_now(s->world);
	notice_later(a, b, false);
	notice_later(b, a, false);
}

void net_cut(struct sim *s, struct party *a, struct party *b, uint64_t until)
{
	conn_of(s, a, b)->cut_until = until;
	net_break(s, a, b);
}

static void connect_pair(struct sim *s, struct party *a, struct party *b)
{
	struct conn *conn = conn_of(s, a, b);
	uint64_t now = world_now(s->world);

	if (conn->up || !conn->wanted || !a->alive || !b->alive || !a->listening || !b->listening || now < conn->cut_until ||
	    (conn->epoch > 0 && now < conn->down_at + 100 * MS))
		return;
	conn->up = true;
	conn->epoch++;
	notice_later(a, b, true);
	notice_later(b, a, true);
}

void net_tick(struct sim *s)
{
	for (unsigned a = 0; a < s->party_count; a++)
		for (unsigned b = a + 1; b < s->party_count; b++)
			connect_pair(s, s->parties[a], s->parties[b]);
}

void net_party_died(struct party *p)
{
	struct sim *s = p->sim;
	struct call *c, *next;

	for (unsigned i = 0; i < s->party_count; i++) {
		if (i == p->index)
			continue;
		net_break(s, p, s->parties[i]);
		*seen(s, p, s->parties[i]) = false;
	}
	DL_FOREACH_SAFE (s->calls, c, next) {
		if (c->from == p)
			call_over(c, ST_TRANSPORT, NULL);
		for (unsigned i = 0; i < c->delivery_count; i++)
			if (c->to == p && c->deliveries[i].under_way) {
				c->deliveries[i].under_way = false;
				c->holds--;
			}
	}
}

/* ---- calls ------------------------------------------------------------------------------------------------------ */

static void call_free(struct call *c)
{
	struct sim *s = c->sim;

	for (unsigned i = 0; i < ARRAY_LEN(s->relays_seen); i++)
		if (s->relays_seen[i] == c)
			return; /* kept, to be replayed */
	DL_DELETE(s->calls, c);
	bag_free(&c->bag);
	free(c);
}

static void release(struct call *c)
{
	if (--c->holds == 0)
		call_free(c);
}

static void at(struct call *c, uint64_t after, env_cb cb, void *arg)
{
	c->holds++;
	env_virtual_after(c->sim->env, after, cb, arg);
}

static void timed_out(void *arg)
{
	struct call *c = arg;

	if (!c->over && c->from->alive && c->from->incarnation == c->incarnation)
		sim_say(c->sim, "%s -> %s: %s timed out", c->from->name, c->to->name, message_name(c->m));
	call_over(c, ST_TIMED_OUT, NULL);
	release(c);
}

static void unreachable(void *arg)
{
	struct call *c = arg;

	call_over(c, ST_PEER_UNREACHABLE, NULL);
	release(c);
}

static void answer_arrives(void *arg)
{
	struct call *c = arg;

	if (conn_of(c->sim, c->from, c->to)->epoch == c->epoch || c->injected != NULL) {
		const struct km_answer *a = c->answer;

		if (!c->over && a->err.status != ST_OK)
			sim_say(c->sim, "%s -> %s: %s: %s", c->from->name, c->to->name, message_name(c->m), a->err.text);
		call_over(c, ST_OK, c->answer);
	}
	release(c);
}

static uint64_t some_delay(struct sim *s)
{
	uint64_t ns = (100 + sim_dice(s, 900)) * NS_PER_US;

	if (sim_chance(s, s->options.faults.slow))
		ns += sim_dice(s, 400) * MS;
	return ns;
}

static void replied(const struct km_answer *answer, void *arg)
{
	struct delivery *d = arg;
	struct call *c = d->call;
	struct sim *s = c->sim;
	bool lose;

	if (d->replied)
		sim_violation(s, "%s answered %s of %s twice", c->to->name, message_name(c->m), c->from->name);
	d->replied = true;
	if (!d->under_way) /* the one who answers is dead already */
		return;
	d->under_way = false;
	check_answer(s, c->from, c->to, c->m, d->message, answer);
	if (d->forged && answer->err.status == ST_OK) {
		s->stats.forged_accepted++;
		sim_violation(s, "%s took a forged %s", c->to->name, message_name(c->m));
	}
	lose = c->fate == FATE_DROP_ANSWER ||
	       (c->fate == FATE_DICE && sim_chance(s, s->options.faults.drop_answer));
	if (d->first && !c->over && !lose) {
		c->answer = copy_answer(&c->bag, c->m, answer);
		at(c, some_delay(s), answer_arrives, c);
	} else if (lose) {
		s->stats.dropped++;
	}
	release(c);
}

static void arrives(void *arg)
{
	struct delivery *d = arg;
	struct call *c = d->call;
	struct conn *conn = conn_of(c->sim, c->from, c->to);

	if (c->to->alive && ((conn->up && conn->epoch == c->epoch) || c->injected != NULL)) {
		d->under_way = true;
		d->incarnation = c->to->incarnation;
		c->holds++;
		c->to->receive(c->to, c->m, d->from, d->message, replied, d);
	}
	release(c);
}

static struct delivery *deliver(struct call *c, void *message, uint64_t after)
{
	struct delivery *d = &c->deliveries[c->delivery_count++];

	d->call = c;
	d->from = c->from;
	d->message = message;
	d->first = c->delivery_count == 1;
	at(c, after, arrives, d);
	return d;
}

/* One bit of a relay is not what it was. */
static void *forge(struct call *c)
{
	struct sim *s = c->sim;
	struct km_relay *m = copy_message(&c->bag, c->m, c->message);
	uint8_t *ciphertext = bag_copy(&c->bag, m->ciphertext, m->len);
	struct km_pad *pads = bag_copy(&c->bag, m->pads, m->pad_count * sizeof *pads);

	switch (sim_dice(s, 8)) {
	case 0:
		m->tag[sim_dice(s, KM_TAG_LEN)] ^= (uint8_t)(1u << sim_dice(s, 8));
		break;
	case 1:
		m->ksa_offset ^= 32;
		break;
	case 2:
		pads[0].offset ^= 32;
		break;
	case 3:
		m->expires ^= 1;
		break;
	case 4:
		m->unused_below ^= 4096;
		break;
	case 5:
		m->share ^= 1;
		break;
	case 6:
		m->group.bytes[0] ^= 1;
		break;
	default:
		ciphertext[sim_dice(s, m->len)] ^= (uint8_t)(1u << sim_dice(s, 8));
	}
	m->ciphertext = ciphertext;
	m->pads = pads;
	s->stats.forged++;
	return m;
}

static struct party *some_km(struct sim *s)
{
	return &s->nodes[sim_dice(s, s->options.nodes)].party;
}

/* What an attacker does with relays: alters, keeps and says again, leads astray. */
static void attack(struct call *c)
{
	struct sim *s = c->sim;
	struct sim_faults *f = &s->options.faults;
	struct call **kept = &s->relays_seen[sim_dice(s, ARRAY_LEN(s->relays_seen))], *old;

	if (sim_chance(s, f->forge))
		deliver(c, forge(c), some_delay(s))->forged = true;
	if (sim_chance(s, f->wrong_hop)) {
		struct delivery *d = deliver(c, c->message, some_delay(s));

		d->from = some_km(s);
		d->forged = d->from != c->from;
		s->stats.forged++;
	}
	if (f->replay == 0 || !sim_chance(s, 200))
		return;
	old = *kept;
	*kept = c;
	if (old != NULL && old->holds == 0 && old != c) {
		for (unsigned i = 0; i < ARRAY_LEN(s->relays_seen); i++)
			if (s->relays_seen[i] == old)
				return;
		call_free(old);
	}
}

static void replay(struct call *c)
{
	struct sim *s = c->sim;
	struct call *old = s->relays_seen[sim_dice(s, ARRAY_LEN(s->relays_seen))];

	if (old == NULL || old->from != c->from || old->to != c->to || old == c ||
	    !sim_chance(s, s->options.faults.replay))
		return;
	deliver(c, copy_message(&c->bag, KM_RELAY, old->message), some_delay(s));
	s->stats.replayed++;
}

static void dispatch(struct call *c)
{
	struct sim *s = c->sim;
	struct sim_faults *f = &s->options.faults;
	uint64_t delay = some_delay(s);
	bool dice = c->fate == FATE_DICE;

	s->stats.messages++;
	if (c->fate == FATE_LATE || (dice && sim_chance(s, f->late))) {
		delay += c->timeout + sim_dice(s, 2000) * MS;
		s->stats.late++;
	}
	if (c->fate == FATE_OVERTAKEN)
		delay += 300 * MS;
	if (c->fate == FATE_COPY_BEFORE)
		delay += 2 * MS;
	if (c->fate == FATE_DROP || (dice && sim_chance(s, f->drop))) {
		s->stats.dropped++;
		sim_say(s, "%s -> %s: %s is lost", c->from->name, c->to->name, message_name(c->m));
	} else {
		deliver(c, c->message, delay);
	}
	if (c->fate == FATE_TWICE || (dice && sim_chance(s, f->duplicate))) {
		deliver(c, c->message, delay + some_delay(s));
		s->stats.duplicated++;
	}
	if (c->fate == FATE_COPY)
		deliver(c, c->message, delay + 3 * NS_PER_S);
	if (c->fate == FATE_COPY_BEFORE)
		deliver(c, c->message, delay - 2 * MS);
	if (c->m == KM_RELAY && dice) {
		attack(c);
		if (c->delivery_count < DELIVERIES_MAX)
			replay(c);
	}
}

static struct call *call_new(struct party *from, struct party *to, enum km_message m, const void *message,
                             uint64_t timeout, km_answered answered, void *arg)
{
	struct call *c = xcalloc(1, sizeof *c);

	c->sim = from->sim;
	c->from = from;
	c->to = to;
	c->incarnation = from->incarnation;
	c->m = m;
	c->message = copy_message(&c->bag, m, message);
	c->answered = answered;
	c->arg = arg;
	c->timeout = timeout;
	c->sent_at = world_now(c->sim->world);
	DL_APPEND(c->sim->calls, c);
	return c;
}

void net_send(struct party *from, const char *name, enum km_message m, const void *message, uint64_t timeout,
              km_answered answered, void *arg)
{
	struct sim *s = from->sim;
	struct party *to = party_by_name(s, name);
	struct call *c;

	if (to == NULL) {
		sim_violation(s, "%s calls %s, which there is not", from->name, name);
		to = from;
	}
	c = call_new(from, to, m, message, timeout, answered, arg);
	if (to == from || !*seen(s, from, to)) {
		at(c, 0, unreachable, c);
		return;
	}
	c->epoch = conn_of(s, from, to)->epoch;
	check_sent(s, from, to, m, message);
	if (from->kind != PARTY_MODULE && to->kind != PARTY_MODULE && s->hook != NULL && !s->settling)
		c->fate = s->hook(s, m, from->name, to->name, c->message, s->hook_arg);
	if (from->kind == PARTY_MODULE || to->kind == PARTY_MODULE)
		c->fate = FATE_DELIVER;
	at(c, timeout, timed_out, c);
	dispatch(c);
}

void sim_inject(struct sim *s, enum km_message m, unsigned from, unsigned to, const void *message, uint32_t *result)
{
	struct call *c = call_new(&s->nodes[from].party, &s->nodes[to].party, m, message, NS_PER_S, NULL, NULL);

	*result = UINT32_MAX;
	c->injected = result;
	c->fate = FATE_DELIVER;
	deliver(c, c->message, 0);
}

/* Every message that was received has to have been answered. */
void net_check_quiet(struct sim *s)
{
	struct call *c;

	DL_FOREACH (s->calls, c)
		for (unsigned i = 0; i < c->delivery_count; i++)
			if (c->to->kind == PARTY_KM && c->deliveries[i].under_way && world_now(s->world) - c->sent_at > 60 * NS_PER_S)
				sim_violation(s, "%s never answered %s of %s, sent %llu s ago", c->to->name, message_name(c->m),
				              c->from->name, (unsigned long long)((world_now(s->world) - c->sent_at) / NS_PER_S));
}

void net_free(struct sim *s)
{
	struct call *c, *next;

	memset(s->relays_seen, 0, sizeof s->relays_seen);
	DL_FOREACH_SAFE (s->calls, c, next) {
		if (!c->over && c->answered != NULL)
			graveyard(c->arg);
		call_free(c);
	}
	HASH_CLEAR(hh, s->by_name);
}

static void wire_send(void *ctx, enum km_message m, const char *to, const void *message, uint64_t timeout,
                      km_answered answered, void *arg)
{
	struct node *n = ctx;

	net_send(&n->party, to, m, message, timeout, answered, arg);
}

static bool wire_peer_is_up(void *ctx, const char *km)
{
	struct node *n = ctx;
	struct party *p = party_by_name(n->party.sim, km);

	return p != NULL && conn_is_seen(n->party.sim, &n->party, p);
}

const struct km_wire sim_wire = { wire_send, wire_peer_is_up };
