/* channel.h - a call on a channel, whoever asks for it: channel.c carries it out, client.c asks. */
#ifndef QKDN_RPC_CHANNEL_H
#define QKDN_RPC_CHANNEL_H

#include "rtls.h"

struct channel_call {
	uint32_t program, version, procedure;
	xdrproc_t xdr_args;
	void *args;
	xdrproc_t xdr_result;
	void *result;
	uint64_t timeout_ns;
};

/* Waits for the answer. RPC_SUCCESS, or why not, with *e in words. */
enum clnt_stat channel_call(struct rtls_channel *ch, const struct channel_call *c, struct err *e);

#endif
