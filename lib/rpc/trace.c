/* trace.c - one line per message, written with a single write(2): several processes may share a file. */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

struct trace {
	int fd;
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
	return ST_OK;
}

void trace_close(struct trace *t)
{
	if (t == NULL)
		return;
	close(t->fd);
	free(t);
}

void trace_write(struct trace *t, const struct trace_message *m)
{
	char line[512], uuid[ID_TEXT_LEN];
	int n;

	if (m->name == NULL) /* an answer that is no message of its own */
		return;
	id_format(&m->id, uuid);
	n = snprintf(line, sizeof line, "%" PRIu64 "\t%s\t%s\t%s\t%s/%s\t%s/%s\t%s\t%s\n", m->utc_ns, uuid,
	             m->reference_point, m->name, m->from->role, m->from->name, m->to->role, m->to->name,
	             m->sent ? "sent" : "received", m->status != NULL ? m->status : "-");
	if (n < 0 || (size_t)n >= sizeof line)
		return; /* no message name is that long */
	if (write(t->fd, line, (size_t)n) != n)
		log_debug("writing the trace: %s", strerror(errno));
}
