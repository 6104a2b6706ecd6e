/*
 * trace_log.h - trace files as the daemons, libqkdn and qkdn-keyreq write them, read back.
 *
 * One line is one end's view of one message, separated by tabs: UTC nanoseconds, trace ID,
 * reference point, message name, from, to (each role/name), "sent" or "received", status or "-".
 * Anybody who can write the folder can write lines: whatever is not of this form is left out and
 * counted, never printed.
 */
#ifndef QKDN_TRACE_LOG_H
#define QKDN_TRACE_LOG_H

#include <uthash.h>

#include "id.h"
#include "status.h"

enum {
	TRACE_POINT_MAX = 8,
	TRACE_MESSAGE_MAX = 64,
	TRACE_ACTOR_MAX = 32 + 1 + NAME_MAX_LEN,
	TRACE_STATUS_MAX = 24,
};

struct trace_event {
	uint64_t utc_ns;
	struct id trace;
	char point[TRACE_POINT_MAX + 1];
	char message[TRACE_MESSAGE_MAX + 1];
	char from[TRACE_ACTOR_MAX + 1]; /* "km/alice" */
	char to[TRACE_ACTOR_MAX + 1];
	bool sent;                         /* seen by from; else received, seen by to */
	char status[TRACE_STATUS_MAX + 1]; /* "-" where the message carries none */
	struct trace_event *next;          /* of the same trace */
};

struct trace {
	UT_hash_handle hh; /* by id; iterates in the order in which the traces began */
	struct id id;
	struct trace_event *first, *last;
};

struct trace_log {
	struct trace_event *events; /* by time, and as they were read where times are the same */
	size_t count, room;
	size_t malformed; /* lines left out */
	struct trace *traces;
};

/* Adds the *.trace files of dir/trace, or of dir where there is no such folder, to a zeroed log.
 * ST_NOT_FOUND where there are none. The caller frees, also after a failure. */
MUST_CHECK enum status trace_log_read(struct trace_log *log, const char *dir, struct err *e);
void trace_log_free(struct trace_log *log);

/* Finds the traces of a log whose events were put in by hand; trace_log_read has done it. */
void trace_log_index(struct trace_log *log);
const struct trace *trace_log_find(const struct trace_log *log, const struct id *id); /* NULL: none */

/* Some traces of a log. */
struct trace_set {
	struct id *ids;
	size_t count, room;
};

void trace_set_add(struct trace_set *set, const struct id *id); /* once each */
void trace_set_free(struct trace_set *set);

/* Every trace, in the order in which they began. */
void trace_log_all(const struct trace_log *log, struct trace_set *set);

/*
 * The traces of the last procedure that an application began: the last trace with a request at Ak
 * other than "Key request with ID", and those of the requests with ID that came after it, because
 * the far application fetches under a trace of its own. The last trace of all where no application
 * asked for anything; none where the log is empty.
 */
void trace_log_last(const struct trace_log *log, struct trace_set *set);

#endif
