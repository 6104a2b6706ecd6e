/*
 * fuzz_km.c - a whole key manager's core behind its dispatchers, with whatever authenticated peers may send:
 * every program's procedures, decoded by rpcgen's stubs, handled over a store in memory, in any order.
 *
 * The peer that leads the link, its neighbour, the QKD module, an application, the controller and a manager all
 * lie here. peers.h tells what an input is.
 */
#include <fcntl.h>
#include <sanitizer/lsan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "log.h"
#include "peers.h"
#include "wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum who { LEADER, NEIGHBOUR, MODULE, APPLICATION, CONTROLLER, MANAGER, PEERS };

static const struct fuzz_peer who_is[PEERS] = {
	[LEADER] = { "km", "alice" },     [NEIGHBOUR] = { "km", "carol" },   [MODULE] = { "module", "bob-1" },
	[APPLICATION] = { "app", "app2" }, [CONTROLLER] = { "controller", "c" }, [MANAGER] = { "manager", "m" },
};

/* Who may send what: the others are refused before they are decoded, which fuzz_record has. */
static const struct fuzz_mouth mouths[] = {
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
	struct fuzz_net net;
	struct wire *wire;
	struct ks *ks;
	struct km *km;
};

static void set_up_core(struct fuzzed *f)
{
	static const struct km_application_options applications[] = { { "app1", "alice" }, { "app2", "bob" },
		                                                      { "app3", "carol" } };
	const struct km_link_options links[] = { { "alice-bob", "alice", "bob-1", secret_path, 512 },
		                                 { "bob-carol", "carol", "bob-2", secret_path, 512 } };
	const struct ks_options store = { .backend = KS_MEMORY, .env = f->net.ep.env, .inline_writer = true };
	struct km_options o = { .name = "bob", .env = f->net.ep.env, .wire = &wire_ops, .links = links, .link_count = 2,
		                .applications = applications, .application_count = ARRAY_LEN(applications),
		                .controller = "c", .limits = km_default_limits };
	struct err e;

	write_initial_secret();
	if (ks_open(&f->ks, &store, &e) != ST_OK)
		abort();
	f->wire = wire_new(&f->net.ep, f->net.ep.env);
	o.ks = f->ks;
	o.wire_ctx = f->wire;
	if (km_new(&f->km, &o, &e) != ST_OK)
		abort();
	wire_set_core(f->wire, f->km);
	world_run(f->net.world, NS_PER_S / 100);
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
	struct fuzzed f;

	if (secret_path[0] == '\0')
		set_up_once();
	fuzz_net_init(&f.net);
	set_up_core(&f);
	fuzz_net_join(&f.net, who_is, PEERS);
	for (unsigned i = 0; i < MODULE; i++)
		fuzz_net_connect(&f.net, i, true);
	fuzz_net_send(&f.net, mouths, ARRAY_LEN(mouths), 32, data, size);
	world_run(f.net.world, NS_PER_S / 4);
	km_stop(f.km);
	world_run(f.net.world, NS_PER_MS); /* its store comes to rest */
	ks_close(f.ks);
	wire_set_core(f.wire, NULL);
	km_free(f.km);
	wire_free(f.wire);
	fuzz_net_free(&f.net);
	unlink(secret_path);
	return 0;
}
