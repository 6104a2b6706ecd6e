/*
 * rpcbind.c - registering with the local rpcbind (RFC 1833) and withdrawing from it.
 *
 * rpcbind keeps one address for each program, version and kind of transport, so that the first
 * listener of each address family is registered. What a daemon that was killed left behind is replaced.
 * These calls wait for rpcbind: they are for a daemon's start and end.
 */
#include "endpoint.h"

#include <netconfig.h>
#include <rpc/rpcb_clnt.h>

static const struct kind {
	const char *netid;
	sa_family_t family;
} kinds[] = { { "tcp", AF_INET }, { "tcp6", AF_INET6 } };

static struct listener *first_of(struct rtls_endpoint *ep, sa_family_t family)
{
	struct listener *l;

	for (l = ep->listeners; l != NULL && l->address.ss_family != family; l = l->next)
		;
	return l;
}

static enum status set(const struct program *p, struct listener *l, const struct netconfig *kind,
                       struct err *e)
{
	struct netbuf at = { .maxlen = sizeof l->address,
		             .len = l->address.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
		                                                     : sizeof(struct sockaddr_in),
		             .buf = &l->address };

	rpcb_unset(p->is.number, p->is.version, (struct netconfig *)(uintptr_t)kind);
	memset(&rpc_createerr, 0, sizeof rpc_createerr);
	if (rpcb_set(p->is.number, p->is.version, kind, &at))
		return ST_OK;
	if (rpc_createerr.cf_stat != RPC_SUCCESS)
		return err_set(e, ST_CONFIGURATION,
		               "registering program 0x%x with rpcbind (%s): %s: start rpcbind, or set "
		               "rpcbind = \"off\" and configure addresses with ports",
		               p->is.number, kind->nc_netid, clnt_sperrno(rpc_createerr.cf_stat));
	return err_set(e, ST_CONFIGURATION,
	               "registering program 0x%x with rpcbind (%s): rpcbind refused; another user's program "
	               "may be registered under this number (rpcinfo -p, rpcinfo -d as root)",
	               p->is.number, kind->nc_netid);
}

/* Every served program, for one kind of transport. */
static enum status register_kind(struct rtls_endpoint *ep, const struct kind *k, struct err *e)
{
	struct listener *l = first_of(ep, k->family);
	struct netconfig *config;
	enum status s = ST_OK;

	if (l == NULL)
		return ST_OK;
	config = getnetconfigent(k->netid);
	if (config == NULL)
		return err_set(e, ST_CONFIGURATION,
		               "/etc/netconfig has no line for %s: install libtirpc-common", k->netid);
	for (struct program *p = ep->programs; p != NULL && s == ST_OK; p = p->next)
		if (p->is.dispatch != NULL)
			s = set(p, l, config, e);
	freenetconfigent(config);
	return s;
}

enum status rtls_register(struct rtls_endpoint *ep, bool required, struct err *e)
{
	struct err why = { .status = ST_OK };
	enum status s = ST_OK;

	ep->registered = true; /* what is registered before a failure is withdrawn too */
	for (size_t i = 0; i < ARRAY_LEN(kinds) && s == ST_OK; i++)
		s = register_kind(ep, &kinds[i], &why);
	if (s == ST_OK)
		return ST_OK;
	if (required)
		return err_set(e, s, "%s", why.text);
	log_warning("%s; going on without, since rpcbind is not required", why.text);
	return ST_OK;
}

static void withdraw_kind(struct rtls_endpoint *ep, const struct kind *k)
{
	struct netconfig *config = first_of(ep, k->family) != NULL ? getnetconfigent(k->netid) : NULL;

	if (config == NULL)
		return;
	for (struct program *p = ep->programs; p != NULL; p = p->next)
		if (p->is.dispatch != NULL)
			rpcb_unset(p->is.number, p->is.version, config);
	freenetconfigent(config);
}

void rpcbind_withdraw(struct rtls_endpoint *ep)
{
	if (!ep->registered)
		return;
	ep->registered = false;
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		withdraw_kind(ep, &kinds[i]);
}
