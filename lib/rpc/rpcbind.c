/* rpcbind.c - registering with the local rpcbind (RFC 1833). */
#include "endpoint.h"

void rpcbind_withdraw(struct rtls_endpoint *ep)
{
	(void)ep;
}

enum status rtls_register(struct rtls_endpoint *ep, bool required, struct err *e)
{
	(void)ep;
	if (required)
		return err_set(e, ST_UNSUPPORTED, "registering with rpcbind is yet to be written");
	return ST_OK;
}
