/*
 * flood.c - an application that asks for more than its share: the hostile one of test_hostile.py.
 *
 *	flood CONNECTIONS IN-FLIGHT [DESTINATION]
 *
 * Keeps so many calls in flight until it is killed: key requests for DESTINATION, or null calls. The
 * environment says who it is, as for libqkdn.
 */
#include <stdlib.h>
#include <string.h>

#include "ak.h"
#include "env_event.h"
#include "log.h"
#include "rtls.h"

static char *destination, *self;
static unsigned in_flight;

static void answered(enum status s, void *result, void *arg);

static bool_t nothing(XDR *xdr, ...)
{
	(void)xdr;
	return TRUE;
}

static void call(struct rtls_conn *conn)
{
	ak_key_request_args args = { .source = self, .destination = destination, .number = 1, .size = 256 };
	struct rtls_call c = { .program = QKDN_AK, .version = QKDN_AK_V1, .xdr_args = nothing, .xdr_result = nothing,
		               .timeout_ns = 100 * NS_PER_S, .done = answered, .arg = conn };

	if (destination != NULL) {
		c.procedure = AK_KEY_REQUEST;
		c.xdr_args = (xdrproc_t)xdr_ak_key_request_args;
		c.args = &args;
		c.xdr_result = (xdrproc_t)xdr_ak_keys_result;
		c.result_size = sizeof(ak_keys_result);
	}
	rtls_call(conn, &c);
}

static void answered(enum status s, void *result, void *arg)
{
	(void)result; /* keys or a refusal: it wants the next */
	if (s == ST_OK)
		call(arg);
}

static void watch(struct rtls_conn *conn, bool up, void *arg)
{
	(void)arg;
	for (unsigned i = 0; up && i < in_flight; i++)
		call(conn);
}

int main(int argc, char **argv)
{
	char *km = argc > 2 ? strdup(getenv("QKDN_KM")) : NULL, *colon = km != NULL ? strrchr(km, ':') : NULL;
	struct env *env = env_event_new();
	struct rtls_credentials *c;
	struct rtls_endpoint *ep;
	struct err e;

	log_open("flood", LOG_LEVEL_WARNING);
	if (colon == NULL)
		log_fatal("usage: flood CONNECTIONS IN-FLIGHT [DESTINATION]");
	*colon = '\0';
	in_flight = (unsigned)atoi(argv[2]);
	destination = argv[3];
	if (rtls_credentials_load(&c, getenv("QKDN_CERTIFICATE"), getenv("QKDN_PRIVATE_KEY"),
	                          getenv("QKDN_AUTHORITY"), NULL, &e) != ST_OK ||
	    rtls_endpoint_new(&ep, env, c, NULL, &e) != ST_OK)
		log_fatal("%s", e.text);
	self = strdup(rtls_credentials_identity(c)->name);
	rtls_watch_conns(ep, watch, NULL);
	for (int i = atoi(argv[1]); i > 0; i--)
		rtls_peer_new(ep, &(struct rtls_peer_options){ .role = "km", .name = getenv("QKDN_KM_NAME"),
		                                               .host = km, .dns_name = getenv("QKDN_KM_DNS_NAME"),
		                                               .port = (uint16_t)atoi(colon + 1),
		                                               .program = QKDN_AK, .version = QKDN_AK_V1 });
	env_event_run(env);
	return 0;
}
