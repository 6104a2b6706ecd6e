/*
 * fuzz_km.c - a whole key manager's core behind its dispatchers, with whatever authenticated peers may send:
 * every program's procedures, decoded by rpcgen's stubs, handled over a store in memory, in any order.
 *
 * An input is messages: {who sends and program (1), procedure (1), length (2), arguments}. The peer that leads
 * the link, its neighbour, the QKD module, an application, the controller and a manager all lie here.
 */
#include <event2/event.h>
#include <fcntl.h>
#include <sanitizer/lsan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "endpoint.h"
#include "env_virtual.h"
#include "log.h"
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGES_MOST = 24, HEAD = 4 };
enum who { LEADER, NEIGHBOUR, MODULE, APPLICATION, CONTROLLER, MANAGER, PEERS };

static const struct {
	const char *role, *name;
} who_is[PEERS] = {
	[LEADER] = { "km", "alice" },     [NEIGHBOUR] = { "km", "carol" },   [MODULE] = { "module", "bob-1" },
	[APPLICATION] = { "app", "app2" }, [CONTROLLER] = { "controller", "c" }, [MANAGER] = { "manager", "m" },
};

/* Who may send what: the others are refused before they are decoded, which fuzz_record has. */
static const struct {
	const struct rtls_program *program;
	enum who from;
} mouths[] = {
	{ &wire_kx1, LEADER },    { &wire_kx2, LEADER },    { &wire_kq1, MODULE },     { &wire_kq2, MODULE },
	{ &wire_ak, APPLICATION }, { &wire_kx1, NEIGHBOUR }, { &wire_kx2, NEIGHBOUR }, { &wire_ck_km, CONTROLLER },
	{ &wire_mk, MANAGER },
};

static char secret_path[64];

static void write_initial_secret(void)
{
	static uint8_t bytes[4096];
	int fd = open(secret_path, O_WRONLY | O_CREAT, 0600);

	if (fd < 0)
		abort();
	if (write(fd, bytes, sizeof bytes) != sizeof bytes)
		abort();
	close(fd);
}

struct fuzzed {
	struct world *world;
	struct rtls_endpoint ep;
	struct rtls_conn conns[PEERS];
	struct wire *wire;
	struct ks *ks;
	struct km *km;
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

static void set_up_core(struct fuzzed *f)
{
	static const struct km_application_options applications[] = { { "app1", "alice" }, { "app2", "bob" },
		                                                      { "app3", "carol" } };
	const struct km_link_options links[] = { { "alice-bob", "alice", "bob-1", secret_path, 512 },
		                                 { "bob-carol", "carol", "bob-2", secret_path, 512 } };
	const struct ks_options store = { .backend = KS_MEMORY, .env = f->ep.env, .inline_writer = true };
	struct km_options o = { .name = "bob", .env = f->ep.env, .wire = &wire_ops, .links = links, .link_count = 2,
		                .applications = applications, .application_count = ARRAY_LEN(applications),
		                .controller = "c", .limits = km_default_limits };
	struct err e;

	write_initial_secret();
	if (ks_open(&f->ks, &store, &e) != ST_OK)
		abort();
	f->wire = wire_new(&f->ep, f->ep.env);
	o.ks = f->ks;
	o.wire_ctx = f->wire;
	if (km_new(&f->km, &o, &e) != ST_OK)
		abort();
	wire_set_core(f->wire, f->km);
	world_run(f->world, NS_PER_S / 100);
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
	for (int i = 0; i < MODULE; i++)
		km_peer_up(f->km, who_is[i].name, true);
}

/* What is left of the input behind the message. */
static size_t send_one(struct fuzzed *f, const uint8_t *data, size_t size)
{
	size_t mouth = data[0] % ARRAY_LEN(mouths), len = (size_t)(data[2] << 8 | data[3]) % (size - HEAD + 1);
	const struct message_call call = { .xid = 1, .rpc_version = 2, .procedure = data[1] % 32,
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
	km_stop(f->km);
	ks_close(f->ks);
	wire_set_core(f->wire, NULL);
	km_free(f->km);
	wire_free(f->wire);
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
	env_virtual_free(f->ep.env);
	world_free(f->world);
	event_free(f->ep.failed_event);
	event_base_free(f->ep.base);
}

static void set_up_once(void)
{
	struct err e;

	log_open("fuzz_km", LOG_LEVEL_FATAL);
	if (secret_init(4 * 1024 * 1024, &e) != ST_OK) { /* slower then */
	}
	__lsan_disable(); /* calls that were not answered when a KM stops are dropped as they are */
	snprintf(secret_path, sizeof secret_path, "/dev/shm/fuzz_km-%d.secret", (int)getpid());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzzed f = { .world = world_new(1) };

	if (secret_path[0] == '\0')
		set_up_once();
	set_up_endpoint(&f);
	set_up_core(&f);
	set_up_peers(&f);
	for (int i = 0; i < MESSAGES_MOST && size >= HEAD; i++) {
		size_t left = send_one(&f, data, size);

		data += size - left;
		size = left;
	}
	world_run(f.world, NS_PER_S / 4);
	tear_down(&f);
	unlink(secret_path);
	return 0;
}
