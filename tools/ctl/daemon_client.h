/* daemon_client.h - how qkdnctl reaches a daemon at its reference point for managers (Mc, Mk). */
#ifndef QKDN_CTL_DAEMON_CLIENT_H
#define QKDN_CTL_DAEMON_CLIENT_H

#include <argp.h>

#include "common.h"
#include "rtls.h"

/* A kind of daemon, and what it is asked with. */
struct ctl_kind {
	const char *role;     /* in its certificate: "controller", "km" */
	const char *program;  /* as qkdn-lab's memory names it: "controllerd", "kmd" */
	const char *variable; /* QKDN_CONTROLLER: host:port; with _NAME and _DNS_NAME behind it the rest */
	uint32_t number, version; /* of the program */
};
extern const struct ctl_kind ctl_controller, ctl_km;

/* What the commands that ask a daemon have in common; the child parser fills it in. */
struct ctl_where {
	const char *lab, *node; /* --lab, --node */
	bool json;
};
extern const struct argp ctl_where_argp; /* its input is a struct ctl_where */

struct ctl_client {
	struct rtls_channel *channel;
	CLIENT *rpc;
};

/* By the lab's files (of the node that was asked for, or the first daemon of that kind), or by the
 * environment. */
MUST_CHECK enum status ctl_connect(struct ctl_client *c, const struct ctl_kind *kind, const struct ctl_where *where,
                                   struct err *e);
void ctl_disconnect(struct ctl_client *c);

/* Asks one after another: in a lab every daemon of that kind, but for --node; else the one of the
 * environment. Tells of each that fails, goes on to the others, and returns the exit status of the first that did. */
typedef enum status (*ctl_ask)(struct ctl_client *c, void *arg, struct err *e);
MUST_CHECK int ctl_each(const struct ctl_kind *kind, const struct ctl_where *where, ctl_ask ask, void *arg);

/* What became of a call: what the transport says, or else the outcome. */
MUST_CHECK enum status ctl_answer(struct ctl_client *c, enum clnt_stat stat, const qkdn_outcome *outcome,
                                  struct err *e);

void ctl_new_trace(qkdn_header *h);

#endif
