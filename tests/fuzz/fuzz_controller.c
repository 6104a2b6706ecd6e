/*
 * fuzz_controller.c - a controller's core behind its dispatchers, with whatever authenticated KMs, controllers
 * and administrators may send, decoded by rpcgen's stubs, in any order. peers.h tells what an input is.
 */
#include "controllerd.h"
#include "log.h"
#include "peers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum who { ALICE, BOB, NEIGHBOUR, ADMIN, PEERS };

static const struct fuzz_peer who_is[PEERS] = {
	[ALICE] = { "km", "alice" },
	[BOB] = { "km", "bob" },
	[NEIGHBOUR] = { "controller", "other" },
	[ADMIN] = { "admin", "admin" },
};

static const struct fuzz_mouth mouths[] = {
	{ &controller_ck, ALICE }, { &controller_ck, BOB }, { &controller_cx, NEIGHBOUR }, { &controller_mc, ADMIN },
};

struct fuzzed {
	struct fuzz_net net;
	struct controllerd d;
};

/* Nobody answers the controller's own calls: no connection stands for them. */
static void set_up_core(struct fuzzed *f)
{
	static const char *const kms[] = { "alice", "bob" }, *const neighbours[] = { "other" };
	static const struct controller_reserve reserve = { "alice", "carol", 4096, 8192, 16384 };
	const struct controller_calls calls = { controller_cx_summary, controller_cx_link_states, controller_ck_reserve,
		                                controller_ck_relay,   controller_ck_allocate,    controller_ck_give_up,
		                                &f->d };
	struct controller_options o = { .name = "this", .kms = kms, .km_count = ARRAY_LEN(kms), .neighbours = neighbours,
		                        .neighbour_count = ARRAY_LEN(neighbours), .reserve = &reserve,
		                        .reserve_count = 1 };

	controller_defaults(&o);
	f->d = (struct controllerd){ .env = f->net.ep.env, .name = "this", .report_interval = NS_PER_S,
		                     .call_timeout = NS_PER_S };
	f->d.core = controller_new(f->net.ep.env, &o, &calls);
	rtls_add_program(&f->net.ep, &controller_ck, &f->d);
	rtls_add_program(&f->net.ep, &controller_cx, &f->d);
	rtls_add_program(&f->net.ep, &controller_mc, &f->d);
	controller_neighbour_up(f->d.core, "other");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzzed f;

	log_open("fuzz_controller", LOG_LEVEL_FATAL);
	fuzz_net_init(&f.net);
	set_up_core(&f);
	fuzz_net_join(&f.net, who_is, PEERS);
	fuzz_net_send(&f.net, mouths, ARRAY_LEN(mouths), 8, data, size);
	world_run(f.net.world, 100 * NS_PER_S);
	controller_neighbour_down(f.d.core, "other");
	world_run(f.net.world, 0); /* calls that found nobody end */
	controller_free(f.d.core);
	fuzz_net_free(&f.net);
	return 0;
}
