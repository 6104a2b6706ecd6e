/*
 * rpcbind.c - registering with the local rpcbind (RFC 1833) and withdrawing from it.
 *
 * rpcbind keeps one address for each program, version and kind of transport, so that the first
 * listener of each address family is registered. What a daemon that was killed left behind is replaced, and so
 * is another daemon's address, with a warning; only an address of this endpoint's own is withdrawn.
 * These calls wait for rpcbind: they are for a daemon's start and end, and for a reload.
 */
#include "endpoint.h"

#include <netconfig.h>
#include <netinet/in.h>
#include <rpc/pmap_prot.h>
#include <rpc/rpcb_clnt.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TIMEOUT_S = 3 };

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

static struct netbuf address_of(struct listener *l)
{
	return (struct netbuf){ .maxlen = sizeof l->address,
		                .len = l->address.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
		                                                        : sizeof(struct sockaddr_in),
		                .buf = &l->address };
}

/* What rpcbind on this host has now; NULL where it does not say. libtirpc's rpcb_getmaps leaks. */
static rpcblist *registrations(const struct kind *k)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(PMAPPORT),
		                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(PMAPPORT), .sin6_addr = in6addr_loopback };
	struct netbuf at = { .buf = k->family == AF_INET6 ? (void *)&v6 : (void *)&v4 };
	struct timeval timeout = { TIMEOUT_S, 0 };
	rpcblist *list = NULL;
	CLIENT *client = NULL;
	int fd = socket(k->family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return NULL;
	at.len = at.maxlen = k->family == AF_INET6 ? sizeof v6 : sizeof v4;
	if (connect(fd, at.buf, at.len) == 0)
		client = clnt_vc_create(fd, &at, RPCBPROG, RPCBVERS4, 0, 0);
	if (client != NULL) {
		clnt_call(client, RPCBPROC_DUMP, (xdrproc_t)(void (*)(void))xdr_void, NULL,
		          (xdrproc_t)xdr_rpcblist_ptr, (char *)&list, timeout);
		clnt_destroy(client);
	}
	close(fd);
	return list;
}

/* The universal address that rpcbind has for the program now, if it is not the listener's. The caller frees. */
static char *address_of_another(const rpcblist *list, const struct program *p, struct listener *l,
                                const struct netconfig *kind)
{
	struct netbuf at = address_of(l);
	char *ours = taddr2uaddr(kind, &at), *another = NULL;

	for (const rpcblist *i = list; i != NULL && ours != NULL && another == NULL; i = i->rpcb_next)
		if (i->rpcb_map.r_prog == p->is.number && i->rpcb_map.r_vers == p->is.version &&
		    strcmp(i->rpcb_map.r_netid, kind->nc_netid) == 0 && strcmp(i->rpcb_map.r_addr, ours) != 0)
			another = xstrdup(i->rpcb_map.r_addr);
	free(ours);
	return another;
}

static enum status set(const struct program *p, struct listener *l, const struct netconfig *kind,
                       struct err *e)
{
	struct netbuf at = address_of(l);

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
	bool warned = false;
	rpcblist *before;
	char *another;

	if (l == NULL)
		return ST_OK;
	config = getnetconfigent(k->netid);
	if (config == NULL)
		return err_set(e, ST_CONFIGURATION,
		               "/etc/netconfig has no line for %s: install libtirpc-common", k->netid);
	before = registrations(k);
	for (struct program *p = ep->programs; p != NULL && s == ST_OK; p = p->next) {
		if (p->is.dispatch == NULL)
			continue;
		another = warned ? NULL : address_of_another(before, p, l, config);
		if (another != NULL)
			log_warning("rpcbind had another address for program 0x%x (%s, %s), which is replaced: where several "
			            "such daemons run on one host, all but one need rpcbind = \"off\"",
			            p->is.number, config->nc_netid, another);
		warned |= another != NULL;
		free(another);
		s = set(p, l, config, e);
	}
	xdr_free((xdrproc_t)xdr_rpcblist_ptr, (char *)&before);
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
	struct listener *l = first_of(ep, k->family);
	struct netconfig *config = l != NULL ? getnetconfigent(k->netid) : NULL;
	rpcblist *now;
	char *another;

	if (config == NULL)
		return;
	now = registrations(k);
	for (struct program *p = ep->programs; p != NULL; p = p->next) {
		if (p->is.dispatch == NULL)
			continue;
		another = address_of_another(now, p, l, config);
		if (another == NULL)
			rpcb_unset(p->is.number, p->is.version, config);
		free(another);
	}
	xdr_free((xdrproc_t)xdr_rpcblist_ptr, (char *)&now);
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
