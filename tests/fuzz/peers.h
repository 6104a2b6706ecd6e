/*
 * peers.h - what the fuzzers of the cores share: a core's dispatchers, under a virtual clock, and the authenticated
 * peers that send them messages. No connection stands behind a peer: what is answered is dropped.
 */
#ifndef FUZZ_PEERS_H
#define FUZZ_PEERS_H

#include "endpoint.h"
#include "env_virtual.h"

enum { FUZZ_PEERS_MOST = 8 };

struct fuzz_peer {
	const char *role, *name;
};

/* A program, and the peer that calls it. */
struct fuzz_mouth {
	const struct rtls_program *program;
	unsigned from;
};

struct fuzz_net {
	struct world *world;
	struct rtls_endpoint ep; /* the core's programs are added to it */
	struct rtls_conn conns[FUZZ_PEERS_MOST];
	bool connected[FUZZ_PEERS_MOST]; /* as the core is told */
	unsigned peers;
};

void fuzz_net_init(struct fuzz_net *n);
void fuzz_net_join(struct fuzz_net *n, const struct fuzz_peer *peers, unsigned count);
/* A core that watches connections hears that the peer's is there, or is lost, where it is not so already. */
void fuzz_net_connect(struct fuzz_net *n, unsigned peer, bool up);
/* An input is messages: {mouth (1), procedure (1), length (2), arguments}. With the last of the procedures, which is
 * none, the mouth's peer is connected or lost. */
void fuzz_net_send(struct fuzz_net *n, const struct fuzz_mouth *mouths, size_t mouth_count, unsigned procedures,
                   const uint8_t *data, size_t size);
void fuzz_net_free(struct fuzz_net *n); /* after the core */

#endif
