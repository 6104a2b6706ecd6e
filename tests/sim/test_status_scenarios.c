/*
 * test_status_scenarios.c - what an application is told, whatever becomes of the relay that its keys wait for: each
 * fault has its status, words that say which it was, and its loss, in bytes.
 *
 * As test_relay_scenarios.c: every test ends with sim_settle.
 */
#include "log.h"
#include "scenario.h"

/* What ask_for_many relays, and the pad under it on one hop. */
enum { RANGE = 60 * 128 + 32, PAD = RANGE + 32 };
enum { NOBODY, BETWEEN, DESTINATION };

/* What befalls one key request over two hops, from km000 over km001 to km002. */
struct failure {
	const char *what;
	enum sim_control only;          /* 0: either */
	void (*happens)(struct sim *s); /* before it; or to messages: */
	enum km_message m;
	const char *from; /* NULL: any */
	enum sim_fate fate;
	void (*alter)(struct km_relay *m);
	unsigned times;
	unsigned killed, after_us; /* for five seconds */
	bool cut;                  /* km000 and km001, for two */
	uint64_t wait;             /* of the request; 0: three seconds */

	enum status told;
	const char *text;
	unsigned ranges, pads; /* that were lost, of RANGE and PAD bytes, at most */
};

static void far_end_is_dead(struct sim *s)
{
	sim_kill(sim_node(s, 2));
}

static void middle_is_dead(struct sim *s)
{
	sim_kill(sim_node(s, 1));
}

static void no_controller(struct sim *s)
{
	sim_kill_controller(s, SIM_ALL);
}

static void far_link_is_cut(struct sim *s)
{
	sim_cut(s, 1, 2, UINT64_MAX);
}

static void store_is_full(struct sim *s)
{
	const struct sim_faults f = { .storage_full = 1000 };

	sim_set_faults(s, &f);
}

static void no_way(struct sim *s)
{
	const struct sim_faults f = { .control_no_route = 1000 };

	sim_set_faults(s, &f);
}

/* The controller gives the way that was right before. */
static void stale_way(struct sim *s)
{
	const struct sim_faults f = { .control_stale = 1000 };

	assert_int_equal(ask_for_many(s, 0, 2, NS_PER_S), ST_OK);
	sim_set_faults(s, &f);
	far_link_is_cut(s);
}

static void far_link_is_dry(struct sim *s)
{
	sim_link_down(s, 1, true);
	for (int i = 0; i < 40; i++) {
		sim_request(s, 1, 2, 100, 512, 2 * NS_PER_S, NULL);
		sim_run(s, NS_PER_S);
	}
}

static void flip_a_bit(struct km_relay *m)
{
	*(uint8_t *)m->ciphertext ^= 1;
}

static void shift(struct km_relay *m)
{
	m->ksa_offset += 32;
}

static void over_another_link(struct km_relay *m)
{
	m->link = "km000-km001";
}

static void past_the_next_node(struct km_relay *m)
{
	((const char **)m->route.nodes)[1] = "km002";
	m->route.count = 2;
}

static void in_a_circle(struct km_relay *m)
{
	((const char **)m->route.nodes)[0] = "km001";
}

#define ALTERED(by, how) .m = KM_RELAY, .from = by, .fate = FATE_DELIVER, .times = 1000, .alter = how
#define ALWAYS(message, how) .m = message, .fate = how, .times = 1000
#define KILLED(who, after) .m = KM_RELAY, .fate = FATE_DELIVER, .times = 1, .killed = who, .after_us = after

static const struct failure failures[] = {
	{ "nothing", .told = ST_OK },
	{ "the far end is dead", .happens = far_end_is_dead,
	  .told = ST_PEER_UNREACHABLE, .text = "the far key manager is not reached" },
	{ "the node between is dead", .happens = middle_is_dead,
	  .told = ST_LINK_DOWN, .text = "no QKD link of this node is open" },
	{ "the far link is cut", .happens = far_link_is_cut,
	  .told = ST_NO_ROUTE, .text = " knows no way from km000 to km002: see whether the links are up" },
	{ "the far link is dry", .happens = far_link_is_dry,
	  .told = ST_TOO_FEW_KEYS, .text = "too little pad on the way: ", .ranges = 2, .pads = 2 },
	{ "the controller knows no way", .happens = no_way,
	  .told = ST_NO_ROUTE, .text = "the controller: no-route" },
	{ "the controller is away", .happens = no_controller,
	  .told = ST_NO_ROUTE, .text = "the controller is not reached, and no " },
	{ "the controller's route is stale", SIM_CENTRALIZED, .happens = stale_way,
	  .told = ST_LINK_DOWN, .text = "at km001: the link to the next node is down", .ranges = 2, .pads = 2 },
	{ "the controller's next hop is stale", SIM_DISTRIBUTED, .happens = stale_way,
	  .told = ST_LINK_DOWN, .text = "at km001: the link to the next node is down", .ranges = 2, .pads = 2 },
	{ "the controller answers too late", SIM_CENTRALIZED, ALWAYS(KM_CK_NOTIFICATION, FATE_LATE),
	  .told = ST_NO_ROUTE, .text = "the controller does not answer, and no route is remembered" },
	{ "the controller answers too late", SIM_DISTRIBUTED, ALWAYS(KM_CK_NEXT_HOP, FATE_LATE),
	  .told = ST_NO_ROUTE, .text = "the controller does not answer, and no next hop is remembered" },
	{ "the controller has not answered yet", SIM_CENTRALIZED, ALWAYS(KM_CK_NOTIFICATION, FATE_LATE), .wait = NS_PER_S,
	  .told = ST_PEER_UNREACHABLE, .text = "the controller has not answered which way" },
	{ "the controller has not answered yet", SIM_DISTRIBUTED, ALWAYS(KM_CK_NEXT_HOP, FATE_LATE), .wait = NS_PER_S,
	  .told = ST_PEER_UNREACHABLE, .text = "the controller has not answered which way" },
	{ "the store takes nothing", .happens = store_is_full,
	  .told = ST_STORAGE, .text = "the key store could not be written" },
	{ "the link goes down in the middle", .m = KM_RELAY, .from = "km000", .fate = FATE_DELIVER, .times = 1, .cut = true,
	  .told = ST_OK, .ranges = 1, .pads = 1 },
	{ "the node between is killed before it forwards", .from = "km000", KILLED(BETWEEN, 500),
	  .told = ST_LINK_DOWN, .text = "no QKD link of this node is open", .ranges = 1, .pads = 1 },
	{ "the node between is killed when it has", .from = "km001", KILLED(BETWEEN, 100),
	  .told = ST_LINK_DOWN, .text = "no QKD link of this node is open", .ranges = 1, .pads = 2 },
	{ "the destination is killed before its commit", .from = "km001", KILLED(DESTINATION, 500),
	  .told = ST_PEER_UNREACHABLE, .text = "the far key manager is not reached", .ranges = 1, .pads = 2 },
	{ "the destination is killed behind its commit", .from = "km001", KILLED(DESTINATION, 3000),
	  .told = ST_PEER_UNREACHABLE, .text = "the far key manager is not reached", .ranges = 0, .pads = 2 },
	{ "relays are lost", ALWAYS(KM_RELAY, FATE_DROP),
	  .told = ST_TIMED_OUT, .text = "on their way and have not arrived in time", .ranges = 1, .pads = 1 },
	{ "relays are late", ALWAYS(KM_RELAY, FATE_LATE),
	  .told = ST_TIMED_OUT, .text = "on their way and have not arrived in time", .ranges = 1, .pads = 1 },
	{ "relays come twice", SIM_CENTRALIZED, ALWAYS(KM_RELAY, FATE_TWICE), .told = ST_OK },
	{ "relays are overtaken", ALWAYS(KM_RELAY, FATE_OVERTAKEN), .told = ST_OK },
	{ "copies overtake a relay on both hops", .m = KM_RELAY, .fate = FATE_COPY_BEFORE, .times = 2,
	  .told = ST_OK, .ranges = 1, .pads = 2 },
	{ "answers to relays are lost", ALWAYS(KM_RELAY, FATE_DROP_ANSWER), .told = ST_OK, .pads = 2 },
	{ "a bit is flipped on the first hop", ALTERED("km000", flip_a_bit),
	  .told = ST_FORGED, .text = "to km002 at km001: its tag is wrong", .ranges = 2, .pads = 2 },
	{ "a bit is flipped on the last hop", ALTERED("km001", flip_a_bit),
	  .told = ST_FORGED, .text = "to km002 at km002: its tag is wrong", .ranges = 2, .pads = 4 },
	{ "the header is forged", ALTERED("km001", shift),
	  .told = ST_FORGED, .text = "to km002 at km002: its tag is wrong", .ranges = 2, .pads = 4 },
	{ "it comes over a link of others", ALTERED("km001", over_another_link),
	  .told = ST_DENIED, .text = "there is no such link to the node it comes from", .ranges = 2, .pads = 4 },
	{ "a node is not on the route", SIM_CENTRALIZED, ALTERED("km000", past_the_next_node),
	  .told = ST_DENIED, .text = "this node is not on its route", .ranges = 2, .pads = 2 },
	{ "it was here before", SIM_DISTRIBUTED, ALTERED("km000", in_a_circle),
	  .told = ST_DENIED, .text = "it has been here before", .ranges = 2, .pads = 2 },
	{ "completions are lost", ALWAYS(KM_COMPLETION, FATE_DROP), .told = ST_OK },
	{ "verifications are lost", ALWAYS(KM_VERIFY, FATE_DROP),
	  .told = ST_TIMED_OUT, .text = "on their way and have not arrived in time" },
	{ "assignments are lost", ALWAYS(KM_ASSIGN, FATE_DROP),
	  .told = ST_TIMED_OUT, .text = "did not answer in time; these keys are voided", .ranges = 1 },
	{ "answers to assignments are lost", ALWAYS(KM_ASSIGN, FATE_DROP_ANSWER),
	  .told = ST_TIMED_OUT, .text = "did not answer in time; these keys are voided", .ranges = 1 },
};

struct befallen {
	const struct failure *failure;
	struct victim victim;
};

static enum sim_fate befall(struct sim *s, enum km_message m, const char *from, const char *to, const void *message,
                            void *arg)
{
	struct befallen *b = arg;
	enum sim_fate fate = strike(s, m, from, to, message, &b->victim);

	if (fate != FATE_DICE && b->failure->alter != NULL)
		b->failure->alter((struct km_relay *)message);
	return fate;
}

static void check_loss(struct sim *s, const struct failure *f)
{
	struct sim_stats stats;

	sim_stats(s, &stats);
	if (stats.bytes_voided > f->ranges * RANGE || stats.pad_lost > f->pads * PAD || stats.pad_unsent > 0)
		fail_msg("%s: %llu bytes of keys were given up, %llu of pad, %llu of pad before it left", f->what,
		         (unsigned long long)stats.bytes_voided, (unsigned long long)stats.pad_lost,
		         (unsigned long long)stats.pad_unsent);
}

static void befalls(const struct failure *f, enum sim_control control)
{
	struct sim *s = network(3, SIM_LINE, control, on_demand);
	struct befallen b = { f, { .m = f->m, .from = f->from, .fate = f->fate, .left = f->times, .cut = f->cut,
		                   .kill_after = f->after_us * NS_PER_US, .restart_after = 5 * NS_PER_S } };
	uint32_t told;

	if (f->killed != NOBODY)
		b.victim.kill = sim_node(s, f->killed);
	if (f->happens != NULL)
		f->happens(s);
	else
		sim_set_hook(s, befall, &b);
	sim_run(s, NS_PER_S);
	told = ask_for_many(s, 0, 2, f->wait > 0 ? f->wait : 3 * NS_PER_S);
	if (told != f->told)
		fail_msg("%s: told %s, not %s: \"%s\"", f->what, status_name((enum status)told), status_name(f->told),
		         sim_refusal(s));
	if (f->text != NULL && strstr(sim_refusal(s), f->text) == NULL)
		fail_msg("%s: told \"%s\"", f->what, sim_refusal(s));
	if (f->times > 0 && b.victim.left == f->times)
		fail_msg("%s: it did not happen", f->what);
	sim_run(s, 10 * NS_PER_S); /* what was lost is known */
	check_loss(s, f);
	end(s);
}

static void every_failure_has_its_status(void **state)
{
	enum sim_control control = SIM_CENTRALIZED;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
		befalls(&failures[i], failures[i].only ? failures[i].only : control);
		control = control == SIM_CENTRALIZED ? SIM_DISTRIBUTED : SIM_CENTRALIZED;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_failure_has_its_status),
	};

	log_open("test_status_scenarios", LOG_LEVEL_FATAL);
	if (getenv("SIM_TEST") != NULL)
		cmocka_set_test_filter(getenv("SIM_TEST"));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
