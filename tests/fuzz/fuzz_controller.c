/*
 * fuzz_controller.c - a controller's core behind its dispatchers, with whatever authenticated KMs, controllers
 * and administrators may send, decoded by rpcgen's stubs, in any order.
 *
 * An input is messages: {who sends and program (1), procedure (1), length (2), arguments}.
 */
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "controllerd.h"
#include "endpoint.h"
#include "env_virtual.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGES_MOST = 24, HEAD = 4 };
enum who { ALICE, BOB, NEIGHBOUR, ADMIN, PEERS };

static const struct {
	const char *role, *name;
} who_is[PEERS] = {
	[ALICE] = { "km", "alice" },
	[BOB] = { "km", "bob" },
	[NEIGHBOUR] = { "controller", "other" },
	[ADMIN] = { "admin", "admin" },
};

static const struct {
	const struct rtls_program *program;
	enum who from;
} mouths[] = {
	{ &controller_ck, ALICE }, { &controller_ck, BOB }, { &controller_cx, NEIGHBOUR }, { &controller_mc, ADMIN },
};

struct fuzzed {
	struct world *world;
	struct rtls_endpoint ep;
	struct rtls_conn conns[PEERS];
	struct controllerd d;
};

static void set_up_endpoint(struct fuzzed *f)
{
	struct rtls_endpoint *ep = &f->ep;

	ep->env = env_virtual_new(f->world);
	ep->base = event_base_new();
	ep->failed_event = evtimer_new(ep->base, NULL, NULL);
	ep->failed_last = &ep->failed;
	ep->options = (struct rtls_options){ .max_record = 64 * 1024, .output_high_water = 1024 * 1024,
		                             .max_unanswered = 64 };
	ep->limit = (struct log_limit){ .interval_ns = NS_PER_S, .burst = 1 };
	deadlines_init(&ep->deadlines, ep->env);
}

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
	f->d = (struct controllerd){ .env = f->ep.env, .name = "this", .report_interval = NS_PER_S,
		                     .call_timeout = NS_PER_S };
	f->d.core = controller_new(f->ep.env, &o, &calls);
	rtls_add_program(&f->ep, &controller_ck, &f->d);
	rtls_add_program(&f->ep, &controller_cx, &f->d);
	rtls_add_program(&f->ep, &controller_mc, &f->d);
	controller_neighbour_up(f->d.core, "other");
}

static void set_up_peers(struct fuzzed *f)
{
	for (int i = 0; i < PEERS; i++) {
		struct rtls_conn *c = &f->conns[i];

		/* not established: nothing is sent over it */
		*c = (struct rtls_conn){ .ep = &f->ep, .references = 1, .writing = true };
		strcpy(c->session.peer.identity.role, who_is[i].role);
		strcpy(c->session.peer.identity.name, who_is[i].name);
		party_join(c);
	}
}

/* What is left of the input behind the message. */
static size_t send_one(struct fuzzed *f, const uint8_t *data, size_t size)
{
	size_t mouth = data[0] % ARRAY_LEN(mouths), len = (size_t)(data[2] << 8 | data[3]) % (size - HEAD + 1);
	const struct message_call call = { .xid = 1, .rpc_version = 2, .procedure = data[1] % 8,
		                           .program = mouths[mouth].program->number,
		                           .version = mouths[mouth].program->version };
	struct rtls_conn *from = &f->conns[mouths[mouth].from];
	struct buffer record = { .room = 0 };
	uint8_t *copy;

	message_put_call(&record, &call);
	buffer_append(&record, data + HEAD, len);
	copy = xcalloc(1, buffer_len(&record)); /* of its very size, so that a read behind it is seen */
	memcpy(copy, buffer_at(&record, 0), buffer_len(&record));
	if (!dispatch_call(from, copy, buffer_len(&record)))
		abort(); /* the header is well-formed */
	world_run(f->world, NS_PER_S / 50);
	buffer_truncate(&from->session.out, 0);
	buffer_free(&record);
	free(copy);
	return size - HEAD - len;
}

static void tear_down(struct fuzzed *f)
{
	controller_neighbour_down(f->d.core, "other");
	world_run(f->world, 0); /* calls that found nobody end */
	controller_free(f->d.core);
	for (int i = 0; i < PEERS; i++) {
		party_leave(&f->conns[i]);
		party_release(f->conns[i].party);
		buffer_free(&f->conns[i].session.out);
	}
	while (f->ep.programs != NULL) {
		struct program *p = f->ep.programs;

		f->ep.programs = p->next;
		free(p->rights);
		free(p);
	}
	deadlines_free(&f->ep.deadlines);
	env_virtual_free(f->ep.env);
	world_free(f->world);
	event_free(f->ep.failed_event);
	event_base_free(f->ep.base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzzed f = { .world = world_new(1) };

	log_open("fuzz_controller", LOG_LEVEL_FATAL);
	set_up_endpoint(&f);
	set_up_core(&f);
	set_up_peers(&f);
	for (int i = 0; i < MESSAGES_MOST && size >= HEAD; i++) {
		size_t left = send_one(&f, data, size);

		data += size - left;
		size = left;
	}
	world_run(f.world, 100 * NS_PER_S);
	tear_down(&f);
	return 0;
}
