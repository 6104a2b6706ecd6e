/* client.c - the CLIENT under rpcgen's client stubs: its calls go over a channel. */
#include "channel.h"

#include <stdlib.h>
#include <string.h>

struct client {
	CLIENT is;
	struct rtls_channel *channel;
	uint32_t program, version;
	struct timeval timeout; /* set by CLSET_TIMEOUT; else tv_sec is -1 */
};

static _Thread_local struct err last_error;

enum status rtls_channel_error(CLIENT *client, struct err *e)
{
	(void)client;
	if (e != NULL)
		*e = last_error;
	return last_error.status;
}

static struct client *client_of(CLIENT *client)
{
	return container_of(client, struct client, is);
}

static enum clnt_stat client_call(CLIENT *client, rpcproc_t procedure, xdrproc_t xdr_args, void *args,
                                  xdrproc_t xdr_result, void *result, struct timeval timeout)
{
	const struct client *c = client_of(client);
	struct channel_call call = { .program = c->program,
		                     .version = c->version,
		                     .procedure = (uint32_t)procedure,
		                     .xdr_args = xdr_args,
		                     .args = args,
		                     .xdr_result = xdr_result,
		                     .result = result };

	if (c->timeout.tv_sec >= 0)
		timeout = c->timeout;
	call.timeout_ns = (uint64_t)timeout.tv_sec * NS_PER_S + (uint64_t)timeout.tv_usec * NS_PER_US;
	return channel_call(c->channel, &call, &last_error);
}

static void client_abort(CLIENT *client)
{
	(void)client;
}

static void client_error(CLIENT *client, struct rpc_err *error)
{
	static const enum clnt_stat stats[] = {
		[ST_OK] = RPC_SUCCESS,
		[ST_BAD_REQUEST] = RPC_CANTDECODEARGS,
		[ST_DENIED] = RPC_AUTHERROR,
		[ST_PEER_UNREACHABLE] = RPC_CANTSEND,
		[ST_TIMED_OUT] = RPC_TIMEDOUT,
		[ST_UNSUPPORTED] = RPC_PROGUNAVAIL,
		[ST_TRANSPORT] = RPC_CANTRECV,
	};

	(void)client;
	memset(error, 0, sizeof *error);
	error->re_status = stats[last_error.status];
}

static bool_t client_free_result(CLIENT *client, xdrproc_t xdr, void *result)
{
	(void)client;
	rtls_wipe(xdr, result);
	return TRUE;
}

static void client_destroy(CLIENT *client)
{
	free(client_of(client));
}

static bool_t client_control(CLIENT *client, u_int request, void *info)
{
	struct client *c = client_of(client);

	switch (request) {
	case CLSET_TIMEOUT:
		c->timeout = *(const struct timeval *)info;
		return TRUE;
	case CLGET_TIMEOUT:
		*(struct timeval *)info = c->timeout;
		return TRUE;
	default:
		return FALSE;
	}
}

CLIENT *rtls_channel_client(struct rtls_channel *ch, uint32_t program, uint32_t version)
{
	static struct clnt_ops ops = { client_call,        client_abort,   client_error,
		                       client_free_result, client_destroy, client_control };
	struct client *c = xcalloc(1, sizeof *c);

	c->is.cl_ops = &ops;
	c->is.cl_auth = authnone_create();
	c->channel = ch;
	c->program = program;
	c->version = version;
	c->timeout.tv_sec = -1;
	return &c->is;
}
