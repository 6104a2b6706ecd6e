/* trace.h - the file of messages sent and received. Safe from any thread. */
#ifndef QKDN_RPC_TRACE_H
#define QKDN_RPC_TRACE_H

#include "rtls.h"

struct trace;

/* Appends to the file. *t stays NULL where path is NULL. */
MUST_CHECK enum status trace_open(struct trace **t, const char *path, struct err *e);
void trace_close(struct trace *t); /* NULL is allowed */

struct trace_message {
	uint64_t utc_ns;
	struct id id;
	const char *reference_point, *name;
	const struct rtls_identity *from, *to;
	bool sent;
	const char *status; /* NULL: a request has none */
};

/* One line: `<utc ns> <trace uuid> <reference point> <message> <from role/name> <to role/name>
 * <sent|received> <status or ->`, separated by tabs. */
void trace_write(struct trace *t, const struct trace_message *m);

#endif
