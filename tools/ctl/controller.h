/* controller.h - how qkdnctl reaches a QKDN controller over Mc. */
#ifndef QKDN_CTL_CONTROLLER_H
#define QKDN_CTL_CONTROLLER_H

#include <argp.h>

#include "mc.h"
#include "rtls.h"

/* What the commands that ask a controller have in common; the child parser fills it in. */
struct controller_options {
	const char *lab, *node; /* --lab, --node */
	bool json;
};
extern const struct argp controller_argp; /* its input is a struct controller_options */

struct controller_client {
	struct rtls_channel *channel;
	CLIENT *rpc;
};

/* By the lab's files, or by QKDN_CONTROLLER (host:port), QKDN_CONTROLLER_NAME and the variables that
 * libqkdn reads. */
MUST_CHECK enum status controller_connect(struct controller_client *c, const struct controller_options *o,
                                          struct err *e);
void controller_disconnect(struct controller_client *c);

/* What became of a call: what the transport says, or else the outcome. */
MUST_CHECK enum status controller_answer(struct controller_client *c, enum clnt_stat stat,
                                         const qkdn_outcome *outcome, struct err *e);

void controller_new_trace(qkdn_header *h);

#endif
