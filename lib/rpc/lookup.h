/*
 * lookup.h - where a peer is: DNS for the host, rpcbind for the port (RFC 1833, version 4, GETADDR).
 *
 * What is found is a hint where to connect; the certificate decides who is there.
 */
#ifndef QKDN_RPC_LOOKUP_H
#define QKDN_RPC_LOOKUP_H

#include <sys/socket.h>

#include "base.h"

enum { LOOKUP_ADDRESSES_MAX = 8, LOOKUP_HOST_MAX = 255 };

struct lookup_request {
	const char *host;
	uint16_t port; /* 0: ask rpcbind at host */
	uint32_t program, version;
};

struct lookup_address {
	struct sockaddr_storage address;
	socklen_t len;
	char text[64];
};

struct lookup_result {
	unsigned count; /* 0: *why says it */
	struct lookup_address addresses[LOOKUP_ADDRESSES_MAX];
	char why[160];
};

/* Where nothing has to be asked: a numeric host and a port. false: something has to. */
MUST_CHECK bool lookup_numeric(const struct lookup_request *r, struct lookup_result *result);

/* Asks, and waits for the answers; at most about timeout_ms for rpcbind, DNS has its own time-outs. */
void lookup_wait(const struct lookup_request *r, int timeout_ms, struct lookup_result *result);

/* Asks in a thread of its own; found is called once from the loop, unless it is
 * cancelled before. NULL with errno: out of descriptors. */
struct lookup;
struct event_base;
typedef void (*lookup_found)(const struct lookup_result *result, void *arg);
struct lookup *lookup_start(struct event_base *base, const struct lookup_request *r, lookup_found found,
                            void *arg);
void lookup_cancel(struct lookup *l); /* NULL is allowed */

#endif
