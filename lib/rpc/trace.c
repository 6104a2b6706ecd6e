/*
 * trace.c - one line per message, written with a single write(2): several processes may share a file.
 *
 * Where the disk is full lines are missing, which the log tells. One that was cut short is ended before the next, by what
 * no whole line ends with: no reader takes half a line, or that and the next one, for a whole.
 */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

static const char end_of_a_part[] = "\t\t\n";
enum { END_LEN = sizeof end_of_a_part - 1 };

struct trace {
	int fd;
	char *path;
	atomic_bool cut_short; /* the last line that was written */
	atomic_ulong missing;  /* lines, since one was written */
};

enum status trace_open(struct trace **t, const char *path, struct err *e)
{
	int fd;

	*t = NULL;
	if (path == NULL)
		return ST_OK;
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (fd < 0)
		return err_set(e, ST_CONFIGURATION, "trace file %s: %s", path, strerror(errno));
	*t = xcalloc(1, sizeof **t);
	(*t)->fd = fd;
	(*t)->path = xstrdup(path);
	return ST_OK;
}

void trace_close(struct trace *t)
{
	if (t == NULL)
		return;
	close(t->fd);
	free(t->path);
	free(t);
}

static void was_written(struct trace *t)
{
	unsigned long missing = atomic_exchange(&t->missing, 0);

	if (missing > 0)
		log_warning("trace file %s can be written again: %lu messages are missing in it", t->path, missing);
}

static void was_not_written(struct trace *t, const char *why)
{
	if (atomic_fetch_add(&t->missing, 1) == 0)
		log_warning("writing the trace file %s: %s: messages are missing in it from now on; make room", t->path, why);
}

/* line begins with the end of a part, which is put where the one before was cut short. */
static void write_line(struct trace *t, const char *line, size_t len)
{
	bool cut_short = atomic_exchange(&t->cut_short, false);
	size_t skip = cut_short ? 0 : END_LEN;
	ssize_t n = write(t->fd, line + skip, len - skip);

	if (n == (ssize_t)(len - skip)) {
		was_written(t);
		return;
	}
	was_not_written(t, n < 0 ? strerror(errno) : "no room for a whole line");
	atomic_store(&t->cut_short, n > 0 || cut_short);
}

void trace_write(struct trace *t, const struct trace_message *m)
{
	char line[END_LEN + 512], uuid[ID_TEXT_LEN];
	int n;

	if (m->name == NULL) /* an answer that is no message of its own */
		return;
	id_format(&m->id, uuid);
	memcpy(line, end_of_a_part, END_LEN);
	n = snprintf(line + END_LEN, sizeof line - END_LEN, "%" PRIu64 "\t%s\t%s\t%s\t%s/%s\t%s/%s\t%s\t%s\n", m->utc_ns, uuid,
	             m->reference_point, m->name, m->from->role, m->from->name, m->to->role, m->to->name,
	             m->sent ? "sent" : "received", m->status != NULL ? m->status : "-");
	if (n >= 0 && (size_t)n < sizeof line - END_LEN) /* no message name is that long */
		write_line(t, line, END_LEN + (size_t)n);
}
