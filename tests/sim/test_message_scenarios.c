/*
 * test_message_scenarios.c - every message of a relay lost, its answer lost, doubled, late or overtaken, one at a
 * time; and messages from those whom it is no business of.
 *
 * As test_relay_scenarios.c: every test ends with sim_settle.
 */
#include "../../server/km/core.h"
#include "scenario.h"

#include "otp.h"

/* ---- all of a kind, while nodes are killed --------------------------------------------------------------------- */

static const enum km_message between[] = { KM_LINK_OPEN, KM_LINK_SYNC, KM_ALLOCATE, KM_RELAY,       KM_COMPLETION,
	                                   KM_POOL_OPEN, KM_VERIFY,    KM_ASSIGN,   KM_VOID,        KM_CK_REGISTER,
	                                   KM_CK_NEXT_HOP, KM_CK_NOTIFICATION };

/* Each message in turn, five times, while nodes are killed so that all of them are said. */
static void each_message(enum sim_fate fate)
{
	for (size_t i = 0; i < ARRAY_LEN(between); i++) {
		struct sim *s = network(3, SIM_LINE, between[i] == KM_CK_NEXT_HOP ? SIM_DISTRIBUTED : SIM_CENTRALIZED, NULL);
		struct victim v = { .m = between[i], .fate = fate, .left = 5 };

		sim_set_hook(s, strike, &v);
		for (unsigned n = 0; n < 3; n++) {
			sim_kill(sim_node(s, n));
			sim_run(s, NS_PER_S / 2);
			sim_start(sim_node(s, n));
			for (int k = 0; k < 4; k++) {
				drain(s);
				sim_run(s, 2 * NS_PER_S);
			}
		}
		if (between[i] != KM_VOID)
			assert_true(v.left < 5);
		end(s);
	}
}

static void every_message_lost(void **state)
{
	(void)state;
	each_message(FATE_DROP);
}

static void every_answer_lost(void **state)
{
	(void)state;
	each_message(FATE_DROP_ANSWER);
}

static void every_message_twice(void **state)
{
	(void)state;
	each_message(FATE_TWICE);
}

static void every_message_behind_its_time_out(void **state)
{
	(void)state;
	each_message(FATE_LATE);
}

/* ---- one message, one fault -------------------------------------------------------------------------------------- */

/* A relay from km000 over km001 to km002 and what goes with it. */
struct procedure {
	const char *name;
	enum sim_control control;
	void (*change)(struct sim_options *o);
	void (*before)(struct sim *s); /* makes the messages be said */
	bool in_vain;                  /* the request may fail whatever becomes of the message */
	enum km_message lost;          /* always, which leads to them; KM_MESSAGES: none */
	enum km_message messages[8];   /* in turn, each time that it is said; ends with 0 */
};

struct fault {
	const char *name;
	enum sim_fate fate;
	bool harmless; /* the keys come */
};

static const struct fault single_faults[] = {
	{ "lost", FATE_DROP, false },
	{ "its answer lost", FATE_DROP_ANSWER, false },
	{ "twice", FATE_TWICE, true },
	{ "and a copy of it late", FATE_COPY, true },
	{ "behind its time-out", FATE_LATE, false },
	{ "overtaken", FATE_OVERTAKEN, true },
};

static void slow_modules(struct sim_options *o)
{
	o->block_interval = 150 * NS_PER_MS;
	o->request_interval = 0;
	o->limits.ksa_high_water = 24 * 1024; /* one drain leaves less than low water */
}

static void singly_on_demand(struct sim_options *o)
{
	slow_modules(o);
	on_demand(o);
}

static void singly_reserved(struct sim_options *o)
{
	slow_modules(o);
	with_reservations(o);
}

static void connections_break(struct sim *s)
{
	for (unsigned i = 0; i < 2; i++)
		sim_cut(s, i, i + 1, 300 * NS_PER_MS);
	sim_cut(s, 0, 2, 300 * NS_PER_MS);
}

static void controller_is_away(struct sim *s)
{
	sim_kill_controller(s, SIM_ALL);
	sim_run(s, 300 * NS_PER_MS);
	sim_start_controller(s, SIM_ALL);
}

/* More than the controller keeps above the KMs' water marks. */
static void drain_well(struct sim *s)
{
	for (int i = 0; i < 3; i++)
		drain(s);
}

/* What was reserved is given up when its time is over. */
static void drain_and_lapse(struct sim *s)
{
	drain_well(s);
	sim_run(s, 8 * NS_PER_S);
}

static const struct procedure procedures[] = {
	{ "on demand, centralized", SIM_CENTRALIZED, singly_on_demand, NULL, false, KM_MESSAGES,
	  { KM_CK_NOTIFICATION, KM_CK_RESPONSE, KM_RELAY, KM_COMPLETION, KM_VERIFY, KM_ASSIGN } },
	{ "on demand, distributed", SIM_DISTRIBUTED, singly_on_demand, NULL, false, KM_MESSAGES,
	  { KM_CK_NEXT_HOP, KM_RELAY, KM_COMPLETION, KM_VERIFY, KM_ASSIGN } },
	{ "on demand, in vain", SIM_CENTRALIZED, singly_on_demand, NULL, true, KM_RELAY, { KM_VOID } },
	{ "ahead of demand", SIM_CENTRALIZED, slow_modules, drain, false, KM_MESSAGES,
	  { KM_LINK_SYNC, KM_ALLOCATE, KM_RELAY, KM_COMPLETION, KM_VERIFY, KM_ASSIGN, KM_CK_KEY_STORE_STATUS } },
	{ "reserved", SIM_CENTRALIZED, singly_reserved, drain_well, false, KM_MESSAGES,
	  { KM_CK_RESERVATION, KM_CK_RELAY, KM_RELAY, KM_COMPLETION, KM_CK_ALLOCATION, KM_VERIFY } },
	{ "reserved, in vain", SIM_CENTRALIZED, singly_reserved, drain_and_lapse, true, KM_CK_RELAY,
	  { KM_CK_VOID, KM_VOID } },
	{ "connections break", SIM_CENTRALIZED, singly_on_demand, connections_break, true, KM_MESSAGES,
	  { KM_LINK_OPEN, KM_POOL_OPEN } },
	{ "the controller comes back", SIM_DISTRIBUTED, singly_on_demand, controller_is_away, true, KM_MESSAGES,
	  { KM_CK_REGISTER, KM_CK_LINK_STATUS } },
};

/* In flight: the keys of one assignment, of drain_well and the request; a range of a relay is less. */
enum { OCCURRENCES_MOST = 2, IN_FLIGHT_MOST = 3 * 40 * 256 + 60 * 128 };

struct single {
	enum km_message message, lost;
	enum sim_fate fate;
	unsigned wait; /* until its turn */
	bool struck;
};

static enum sim_fate strike_once(struct sim *s, enum km_message m, const char *from, const char *to,
                                 const void *message, void *arg)
{
	struct single *v = arg;

	(void)s;
	(void)from;
	(void)to;
	(void)message;
	if (m == v->message && !v->struck && v->wait-- == 0) {
		v->struck = true;
		return v->fate;
	}
	return m == v->lost ? FATE_DROP : FATE_DICE;
}

static uint64_t given_up(struct sim *s)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	return stats.bytes_voided;
}

/* What is asked again until it is answered, or was to be known anyway, costs nothing; where the pad is enough. */
static bool costs_nothing(const struct procedure *p, enum km_message m)
{
	return !p->in_vain && p->before != drain_well && m != KM_RELAY && m != KM_ASSIGN && m != KM_LINK_SYNC;
}

/* One round: the fault and a request in it; then, without it, one that succeeds. */
static bool strikes(struct sim *s, const struct procedure *p, const struct fault *f, enum km_message m,
                    unsigned occurrence)
{
	struct single v = { .message = m, .lost = p->lost, .fate = f->fate, .wait = occurrence };
	uint64_t before = given_up(s), after;
	uint32_t told, then;

	sim_set_hook(s, strike_once, &v);
	if (p->before != NULL)
		p->before(s);
	told = ask_for_many(s, 0, 2, 4 * NS_PER_S);
	after = given_up(s);
	sim_set_hook(s, NULL, NULL);
	sim_run(s, 3 * NS_PER_S);
	then = ask_for_many(s, 0, 2, 4 * NS_PER_S);
	if (then != ST_OK)
		fail_msg("%s, %s %u %s: %s, and then %s", p->name, message_name(m), occurrence, f->name,
		         status_name((enum status)told), status_name((enum status)then));
	if (after - before > (costs_nothing(p, m) ? 0 : IN_FLIGHT_MOST) || (f->harmless && !p->in_vain && told != ST_OK))
		fail_msg("%s, %s %u %s: %s, and %llu bytes were given up", p->name, message_name(m), occurrence, f->name,
		         status_name((enum status)told), (unsigned long long)(after - before));
	return v.struck;
}

static void each_message_each_fault(void **state)
{
	const struct procedure *p = *state;

	for (size_t f = 0; f < ARRAY_LEN(single_faults); f++) {
		struct sim *s = network(3, SIM_LINE, p->control, p->change);

		for (const enum km_message *m = p->messages; *m != 0; m++) {
			unsigned n = 0;

			while (n < OCCURRENCES_MOST && strikes(s, p, &single_faults[f], *m, n))
				n++;
			assert_true(n > 0);
		}
		end(s);
	}
}

/* The relay is there, durable; its answer is lost with the connection, the completion too: that is no refusal. */
struct lost_behind {
	unsigned relays;
};

static void cut_behind(void *arg)
{
	sim_cut(arg, 1, 2, 500 * NS_PER_MS);
}

static enum sim_fate lose_behind(struct sim *s, enum km_message m, const char *from, const char *to,
                                 const void *message, void *arg)
{
	struct lost_behind *l = arg;

	(void)message;
	if (m == KM_COMPLETION)
		return FATE_DROP;
	if (m != KM_RELAY || strcmp(from, "km001") != 0 || strcmp(to, "km002") != 0)
		return FATE_DELIVER;
	l->relays++;
	sim_after(s, 10 * NS_PER_MS, cut_behind, s);
	return FATE_DROP_ANSWER;
}

static void an_answer_lost_behind_is_no_refusal(void **state)
{
	(void)state;
	for (enum sim_control c = SIM_CENTRALIZED; c <= SIM_DISTRIBUTED; c++) {
		struct sim *s = network(3, SIM_LINE, c, on_demand);
		struct lost_behind l = { 0 };

		sim_set_hook(s, lose_behind, &l);
		assert_int_equal(ask_for_many(s, 0, 2, 3 * NS_PER_S), ST_OK);
		assert_true(l.relays > 0);
		assert_int_equal(given_up(s), 0);
		assert_int_equal(km_counters(sim_core(sim_node(s, 0)))->relays_refused, 0);
		end(s);
	}
}

static void slow_network(struct sim_options *o)
{
	o->faults.slow = 500;
}

static void messages_overtake_one_another(void **state)
{
	struct sim *s = network(4, SIM_RING, SIM_DISTRIBUTED, slow_network);

	(void)state;
	sim_run(s, 30 * NS_PER_S);
	end(s);
}

/* ---- whom it is no business of ------------------------------------------------------------------------------------ */

static void attacked(struct sim_options *o)
{
	o->faults.forge = 300;
	o->faults.replay = 500;
	o->faults.wrong_hop = 300;
}

static void forged_replayed_and_misled_relays(void **state)
{
	struct sim *s = network(4, SIM_LINE, SIM_CENTRALIZED, attacked);
	struct sim_stats stats;

	(void)state;
	sim_run(s, 40 * NS_PER_S);
	sim_stats(s, &stats);
	assert_true(stats.forged > 10);
	assert_int_equal(stats.forged_accepted, 0);
	end(s);
}

/* A node that says what is none of its business. */
static void relay_of_a_stranger(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
	const char *nodes[] = { "km000", "km002" }, *around[] = { "km000", "km001", "km002" };
	struct km_pad pad = { 0, 1056 };
	uint8_t bytes[1024] = { 0 };
	struct km_relay m = { .source = "km000", .destination = "km002", .relayer = "km000", .relay_case = 2,
		              .shares = 1, .route = { 2, nodes }, .expires = UINT64_MAX, .link = "km001-km002",
		              .pad_count = 1, .pads = &pad, .ciphertext = bytes, .len = sizeof bytes };
	const char *back[] = { "km000", "km002", "km001" };
	uint32_t result[6];

	(void)state;
	sim_inject(s, KM_RELAY, 0, 2, &m, &result[0]); /* over a link that is not its own */
	sim_inject(s, KM_RELAY, 1, 2, &m, &result[3]); /* by a node that is not on the route */
	m.route = (struct km_route){ 3, around };
	sim_inject(s, KM_RELAY, 0, 2, &m, &result[1]); /* a hop is left out */
	sim_inject(s, KM_RELAY, 1, 2, &m, &result[2]); /* the right way, without the pad */
	m.route.count = 2;
	sim_inject(s, KM_RELAY, 1, 2, &m, &result[4]); /* to a node that is not on the route */
	m.route = (struct km_route){ 3, back };
	m.hops_left = 3;
	sim_inject(s, KM_RELAY, 1, 2, &m, &result[5]); /* where it has been before */
	sim_run(s, NS_PER_S);
	assert_int_equal(result[0], ST_DENIED);
	assert_int_equal(result[1], ST_DENIED);
	for (int i = 3; i < 6; i++)
		assert_int_equal(result[i], ST_DENIED);
	assert_true(result[2] != ST_OK && result[2] != UINT32_MAX);
	end(s);
}

/* What km000 has said to km002 of the pool between them. */
struct overheard {
	bool verify, assign;
	struct km_verify verified;
	struct km_assign assigned;
};

static enum sim_fate overhear(struct sim *s, enum km_message m, const char *from, const char *to,
                              const void *message, void *arg)
{
	struct overheard *o = arg;

	(void)s;
	if (strcmp(from, "km000") != 0 || strcmp(to, "km002") != 0)
		return FATE_DICE;
	if (m == KM_VERIFY) {
		o->verified = *(const struct km_verify *)message;
		o->verify = true;
	} else if (m == KM_ASSIGN) {
		o->assigned = *(const struct km_assign *)message;
		o->assign = true;
	}
	return FATE_DICE;
}

/* km001 passed the relays on and so knows the pool's ID. Nothing of the pool is its own. */
static void only_its_source_speaks_of_a_pool(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
	struct overheard o = { 0 };
	uint32_t result[5];

	(void)state;
	sim_set_hook(s, overhear, &o);
	for (int i = 0; i < 10; i++) {
		drain(s);
		sim_run(s, NS_PER_S);
	}
	sim_set_hook(s, NULL, NULL);
	assert_true(o.verify && o.assign);
	{
		struct km_assignment one = { .offset = o.verified.offset, .key_len = 32, .count = 1, .source = "app1",
			                     .destination = "app2" };
		struct km_assign assign = { .pool = o.assigned.pool, .opening = o.assigned.opening, .base = o.assigned.base,
			                    .expires = o.assigned.expires, .count = 1, .assignments = &one };
		struct km_void voided = { .pool = o.verified.pool, .offset = o.verified.offset, .len = 64 };
		struct km_allocate allocate = { .link = "km001-km002", .ksa_pool = o.verified.pool,
			                        .ksa_offset = o.verified.offset + (1 << 24), .len = 1024 };
		struct km_pool_open open = { .pool = o.verified.pool, .opening = UINT64_MAX, .used = UINT64_MAX / 4 };

		sim_inject(s, KM_ASSIGN, 1, 2, &assign, &result[0]);
		sim_inject(s, KM_VOID, 1, 2, &voided, &result[1]);
		sim_inject(s, KM_VERIFY, 1, 2, &o.verified, &result[2]);
		sim_inject(s, KM_ALLOCATE, 1, 2, &allocate, &result[3]);
		sim_inject(s, KM_POOL_OPEN, 1, 2, &open, &result[4]);
	}
	sim_run(s, NS_PER_S);
	assert_int_equal(result[0], ST_NOT_FOUND);
	assert_int_equal(result[1], ST_NOT_FOUND);
	assert_int_equal(result[2], ST_BUSY);
	assert_int_equal(result[3], ST_BUSY);
	assert_int_equal(result[4], ST_CONFLICT);
	end(s);
}

/* What is said to km001: of the link to km000, by that, and by km002 of the pool between them. */
struct overheard_link {
	bool has_open, has_sync, has_pool;
	struct km_link_open open;
	struct km_link_sync sync;
	struct id pool;
};

static enum sim_fate overhear_link(struct sim *s, enum km_message m, const char *from, const char *to,
                                   const void *message, void *arg)
{
	struct overheard_link *o = arg;

	(void)s;
	if (strcmp(to, "km001") != 0)
		return FATE_DELIVER;
	if (m == KM_LINK_OPEN && strcmp(from, "km000") == 0) {
		o->open = *(const struct km_link_open *)message;
		o->has_open = true;
	} else if (m == KM_LINK_SYNC && strcmp(from, "km000") == 0) {
		o->sync = *(const struct km_link_sync *)message;
		o->has_sync = true;
	} else if (m == KM_POOL_OPEN && strcmp(from, "km002") == 0) {
		o->pool = ((const struct km_pool_open *)message)->pool;
		o->has_pool = true;
	}
	return FATE_DELIVER;
}

/* km002 is the other neighbour of km001, with a pool of its own there. */
static void only_its_other_end_speaks_of_a_link(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
	struct overheard_link o = { false };
	uint32_t result[4];

	(void)state;
	sim_set_hook(s, overhear_link, &o);
	sim_cut(s, 0, 1, 300 * NS_PER_MS);
	sim_cut(s, 1, 2, 300 * NS_PER_MS);
	sim_run(s, 10 * NS_PER_S);
	sim_set_hook(s, NULL, NULL);
	assert_true(o.has_open && o.has_sync && o.has_pool);
	o.open.link = o.sync.link = "km000-km001";
	{
		struct km_allocate allocate = { .link = "km000-km001", .ksa_pool = o.pool, .ksa_offset = 1 << 24, .len = 1024 };
		struct km_allocate unused = { .link = "km000-km001", .unused_below = UINT64_MAX / 4 };

		sim_inject(s, KM_LINK_OPEN, 2, 1, &o.open, &result[0]);
		sim_inject(s, KM_LINK_SYNC, 2, 1, &o.sync, &result[1]);
		sim_inject(s, KM_ALLOCATE, 2, 1, &allocate, &result[2]);
		sim_inject(s, KM_ALLOCATE, 2, 1, &unused, &result[3]);
	}
	sim_run(s, NS_PER_S);
	assert_int_equal(result[0], ST_NOT_FOUND);
	assert_int_equal(result[1], ST_NOT_FOUND);
	assert_int_equal(result[2], ST_BUSY);
	assert_int_equal(result[3], ST_BUSY);
	end(s);
}

/* A relay under pads of its link, with the right tag: as only the neighbour could say it. */
struct sealed {
	struct km_relay m;
	struct km_pad pad;
	uint8_t bytes[1024];
	struct id link_pool;
};

static enum status seal_work(struct ks_txn *t, void *arg)
{
	struct sealed *x = arg;
	struct secret pad = { NULL, 0 };
	size_t len = sizeof x->bytes + AUTH_KEY_LEN;
	enum status s = ks_take(t, &x->link_pool, len, len, FILL_GRANULE, &x->pad.offset, &pad);

	assert_int_equal(s, ST_OK);
	x->pad.len = (uint32_t)len;
	otp_xor(x->bytes, x->bytes, pad.bytes, sizeof x->bytes);
	relay_tag(&x->m, pad.bytes + sizeof x->bytes, x->m.tag);
	secret_free(&pad);
	return ST_OK;
}

static void sealed_now(enum status s, void *arg)
{
	(void)arg;
	assert_int_equal(s, ST_OK);
}

static uint32_t say_sealed(struct sim *s, unsigned from, unsigned to, struct sealed *x)
{
	struct node *n = sim_node(s, from);
	uint32_t result;

	x->link_pool = *link_pool_out(link_by_name(sim_core(n), x->m.link));
	x->m.pads = &x->pad;
	x->m.pad_count = 1;
	x->m.ciphertext = x->bytes;
	x->m.len = sizeof x->bytes;
	x->m.group = x->m.relay;
	ks_submit(sim_store(n), seal_work, sealed_now, x);
	sim_run(s, 20 * NS_PER_MS);
	sim_inject(s, KM_RELAY, from, to, &x->m, &result);
	sim_run(s, NS_PER_S);
	uses_lost(&link_by_name(sim_core(n), x->m.link)->uses, x->pad.offset + x->pad.len); /* as had it been its own */
	return result;
}

static void a_relay_that_is_not_what_it_says(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, NULL);
	const char *nodes[] = { "km000", "km001", "km002" };
	struct sealed good = { .m = { .source = "km000", .destination = "km002", .relayer = "km000", .relay_case = 2,
		                      .shares = 1, .route = { 3, nodes }, .expires = UINT64_MAX, .link = "km001-km002" } };
	struct sealed x;

	(void)state;
	good.m.ksa_pool = ksa_pool_to(sim_core(sim_node(s, 0)), "km002")->id;
	x = good;
	x.m.expires = 1; /* it comes when its time is over */
	assert_int_equal(say_sealed(s, 1, 2, &x), ST_TIMED_OUT);
	x = good;
	x.m.ksa_pool = ksa_pool_to(sim_core(sim_node(s, 1)), "km002")->id; /* into another's pool */
	assert_int_equal(say_sealed(s, 1, 2, &x), ST_NOT_FOUND);
	x = good; /* over what is there already */
	assert_int_not_equal(say_sealed(s, 1, 2, &x), ST_OK);
	for (int i = 0; i < 5; i++) { /* the messages behind tell that these pads, which km001's core knows nothing of, are gone */
		drain(s);
		sim_run(s, 2 * NS_PER_S);
	}
	end(s);
}

static enum sim_fate note_expiry(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                                 void *arg)
{
	(void)s;
	(void)to;
	if (m == KM_RELAY && strcmp(from, "km001") == 0)
		*(uint64_t *)arg = ((const struct km_relay *)message)->expires;
	return FATE_DICE;
}

/* A relay and a share that are said to have time for ever: nobody waits for the one so long, nor holds the other. */
static void a_relay_does_not_last_for_ever(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);
	const char *nodes[] = { "km000", "km001", "km002" };
	struct sealed relay = { .m = { .source = "km000", .destination = "km002", .relayer = "km000", .relay_case = 2,
		                       .shares = 1, .route = { 3, nodes }, .expires = UINT64_MAX, .link = "km000-km001" } };
	const struct km_counters *c = km_counters(sim_core(sim_node(s, 2)));
	struct sealed share;
	uint64_t expires = 0;

	(void)state;
	relay.m.ksa_pool = ksa_pool_to(sim_core(sim_node(s, 0)), "km002")->id;
	relay.m.ksa_offset = 1 << 20;
	share = relay;
	share.m.link = "km001-km002";
	share.m.shares = 2;
	share.m.ksa_offset = 2 << 20;
	sim_set_hook(s, note_expiry, &expires);
	assert_int_equal(say_sealed(s, 0, 1, &relay), ST_OK);
	assert_in_range(expires, 1, UINT64_MAX / 2);
	sim_set_hook(s, NULL, NULL);
	assert_int_equal(say_sealed(s, 1, 2, &share), ST_OK);
	for (unsigned l = 0; l < sim_link_count(s); l++)
		sim_link_down(s, l, true);
	assert_int_equal(c->bytes_voided, 0);
	sim_run(s, 605 * NS_PER_S);
	assert_int_equal(c->bytes_voided, sizeof share.bytes);
	sim_free(s);
}

struct intercepted {
	bool there;
	struct id relay, ksa_pool;
	uint64_t ksa_offset, expires;
	uint32_t len;
};

static enum sim_fate intercept(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                               void *arg)
{
	const struct km_relay *r = message;
	struct intercepted *i = arg;

	(void)s;
	(void)to;
	if (m != KM_RELAY || i->there || strcmp(from, "km000") != 0)
		return FATE_DELIVER;
	*i = (struct intercepted){ true, r->relay, r->ksa_pool, r->ksa_offset, r->expires, r->len };
	return FATE_DROP;
}

/* A node on the way hands on other bytes than it was given: the verification between the ends tells. */
static void other_bytes_are_handed_on(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);
	const char *nodes[] = { "km000", "km001", "km002" };
	struct sealed x = { .m = { .source = "km000", .destination = "km002", .relayer = "km000", .relay_case = 2,
		                   .shares = 1, .route = { 3, nodes }, .link = "km001-km002" } };
	struct intercepted i = { .there = false };
	uint32_t result;

	(void)state;
	sim_set_hook(s, intercept, &i);
	sim_request(s, 0, 2, 1, 256, 3 * NS_PER_S, &result);
	sim_run(s, 100 * NS_PER_MS);
	assert_true(i.there);
	assert_int_equal(i.len, sizeof x.bytes);
	x.m.relay = i.relay;
	x.m.ksa_pool = i.ksa_pool;
	x.m.ksa_offset = i.ksa_offset;
	x.m.expires = i.expires;
	assert_int_equal(say_sealed(s, 1, 2, &x), ST_OK);
	sim_run(s, 5 * NS_PER_S);
	assert_int_equal(given_up(s), sizeof x.bytes);
	end(s);
}

struct watched {
	struct km_completion m;
	bool relayed, verified;
};

/* The relay does not come further, and nobody asks whether it has. */
static enum sim_fate watch_relay(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                                 void *arg)
{
	const struct km_relay *r = message;
	struct watched *w = arg;

	(void)s;
	(void)to;
	if (strcmp(from, "km000") != 0)
		return FATE_DICE;
	if (m == KM_RELAY) {
		w->relayed = true;
		w->m = (struct km_completion){ .relay = r->relay, .ksa_pool = r->ksa_pool, .ksa_offset = r->ksa_offset,
			                       .len = r->len };
	}
	w->verified |= m == KM_VERIFY;
	return m == KM_RELAY ? FATE_DROP : FATE_DICE;
}

/* Nobody but its destination says of a relay that it has arrived: not even a node that has passed it. */
static void only_its_destination_completes_a_relay(void **state)
{
	struct sim *s = network(3, SIM_LINE, SIM_CENTRALIZED, on_demand);
	struct watched w = { .relayed = false };
	uint32_t told;

	(void)state;
	sim_set_hook(s, watch_relay, &w);
	sim_request(s, 0, 2, 1, 256, NS_PER_S, NULL);
	sim_run(s, 100 * NS_PER_MS);
	assert_true(w.relayed && !w.verified);
	sim_inject(s, KM_COMPLETION, 1, 0, &w.m, &told);
	sim_run(s, 100 * NS_PER_MS);
	assert_int_equal(told, ST_DENIED);
	assert_false(w.verified);
	sim_inject(s, KM_COMPLETION, 2, 0, &w.m, &told);
	sim_run(s, 100 * NS_PER_MS);
	assert_int_equal(told, ST_OK);
	assert_true(w.verified);
	sim_set_hook(s, NULL, NULL);
	end(s);
}

static void note_answer(const struct km_answer *answer, void *arg)
{
	*(struct err *)arg = answer->err;
}

/* It will not be one later either. */
static void a_reservation_over_no_neighbour(void **state)
{
	struct sim *s = network(4, SIM_LINE, SIM_CENTRALIZED, NULL);
	static const char *const nodes[] = { "km000", "km002", "km003" };
	struct km_ck_reservation m = { .relay = { { 1 } }, .route = { 3, nodes }, .len = 4096, .expires = UINT64_MAX };
	struct err e = { ST_OK, "" };

	(void)state;
	km_receive(sim_core(sim_node(s, 0)), KM_CK_RESERVATION, "controller", &m, note_answer, &e);
	assert_int_equal(e.status, ST_BAD_REQUEST);
	assert_non_null(strstr(e.text, "it has no link to km002"));
	end(s);
}

/* ---- a connection that is lost while its ends agree where the link stands ---------------------------------------- */

static bool is_open(struct sim *s, unsigned n)
{
	return link_by_name(sim_core(sim_node(s, n)), "km000-km001")->open;
}

/* The store of one end is slow, and the connection gone when it has read: nobody is there to use the link with. */
static void a_link_is_not_opened_without_its_connection(void **state)
{
	(void)state;
	for (unsigned n = 0; n < 2; n++) {
		struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, NULL);
		struct victim v = { .m = KM_LINK_OPEN, .left = 1, .cut = true, .kill_after = n == 0 ? 20 : 2 };

		v.kill_after *= NS_PER_MS;
		sim_set_hook(s, strike, &v);
		sim_next_commit(sim_node(s, n), COMMITS_SLOW);
		sim_cut(s, 0, 1, 100 * NS_PER_MS);
		sim_run(s, 1500 * NS_PER_MS);
		assert_int_equal(v.left, 0);
		assert_false(is_open(s, 0));
		assert_false(is_open(s, 1));
		sim_next_commit(sim_node(s, n), COMMIT_DONE);
		sim_run(s, 5 * NS_PER_S);
		assert_true(is_open(s, 0));
		assert_true(is_open(s, 1));
		end(s);
	}
}

static void without_requests(struct sim_options *o)
{
	o->request_interval = 0;
}

static void wait_for_a_block(struct sim *s)
{
	const uint64_t *agreed = &km_counters(sim_core(sim_node(s, 0)))->blocks_agreed, before = *agreed;

	while (*agreed == before)
		sim_run(s, NS_PER_MS);
	assert_int_equal(*agreed, before + 1);
}

/* An older copy of a store that has forgotten nothing but one block, as if the last answer had been lost: that the
 * authentication key of it was used the follower alone knows, of its verdict. */
static void a_link_is_not_opened_with_a_key_that_was_used(void **state)
{
	struct sim *s = network(2, SIM_LINE, SIM_NO_CONTROLLER, without_requests);
	struct kv *copy;

	(void)state;
	wait_for_a_block(s);
	copy = sim_store_copy(sim_node(s, 0));
	wait_for_a_block(s);
	sim_store_put_back(sim_node(s, 0), copy);
	sim_run(s, 5 * NS_PER_S);
	assert_false(is_open(s, 0));
	assert_false(is_open(s, 1));
	assert_int_equal(sim_violations(s), 0);
	sim_free(s);
}

#define EACH_FAULT(i) { procedures[i].name, each_message_each_fault, NULL, NULL, (void *)&procedures[i] }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_message_lost),
		cmocka_unit_test(every_answer_lost),
		cmocka_unit_test(every_message_twice),
		cmocka_unit_test(every_message_behind_its_time_out),
		EACH_FAULT(0), EACH_FAULT(1), EACH_FAULT(2), EACH_FAULT(3),
		EACH_FAULT(4), EACH_FAULT(5), EACH_FAULT(6), EACH_FAULT(7),
		cmocka_unit_test(an_answer_lost_behind_is_no_refusal),
		cmocka_unit_test(messages_overtake_one_another),
		cmocka_unit_test(forged_replayed_and_misled_relays),
		cmocka_unit_test(relay_of_a_stranger),
		cmocka_unit_test(only_its_source_speaks_of_a_pool),
		cmocka_unit_test(only_its_other_end_speaks_of_a_link),
		cmocka_unit_test(a_relay_that_is_not_what_it_says),
		cmocka_unit_test(a_relay_does_not_last_for_ever),
		cmocka_unit_test(other_bytes_are_handed_on),
		cmocka_unit_test(only_its_destination_completes_a_relay),
		cmocka_unit_test(a_reservation_over_no_neighbour),
		cmocka_unit_test(a_link_is_not_opened_without_its_connection),
		cmocka_unit_test(a_link_is_not_opened_with_a_key_that_was_used),
	};

	log_open("test_message_scenarios", LOG_LEVEL_FATAL);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
