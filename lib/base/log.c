/*
 * log.c - one line per message, written with a single write(2).
 *
 * Where it cannot be written (a file on a full disk) nobody can be told; how many lines that were is told when it can.
 */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	const char *program;
	enum log_level level;
	bool journal;
	atomic_bool cut_short; /* the last line that was written */
	atomic_uint missing;   /* lines, since one was written */
} log_state = { "qkdn", LOG_LEVEL_INFO, false, false, 0 };

void log_open(const char *program, enum log_level level)
{
	log_state.program = program;
	log_state.level = level;
	log_state.journal = getenv("JOURNAL_STREAM") != NULL;
}

/* line begins with the end of the one before, which is put where that was cut short. */
static void write_line(const char *line, size_t len)
{
	bool cut_short = atomic_exchange(&log_state.cut_short, false);
	size_t skip = cut_short ? 0 : 1;
	ssize_t n = write(STDERR_FILENO, line + skip, len - skip);
	unsigned missing;

	if (n != (ssize_t)(len - skip)) {
		atomic_fetch_add(&log_state.missing, 1);
		atomic_store(&log_state.cut_short, n > 0 || cut_short);
		return;
	}
	missing = atomic_exchange(&log_state.missing, 0);
	if (missing > 0)
		log_warning("%u lines before this one could not be written: is there room on the disk?", missing);
}

__attribute__((format(printf, 2, 0))) static void log_line(enum log_level level, const char *fmt, va_list ap)
{
	static const struct {
		int priority;
		const char *word;
	} levels[] = { { 2, "fatal: " }, { 3, "error: " }, { 4, "warning: " }, { 6, "" }, { 7, "debug: " } };
	char line[2048] = "\n";
	int saved_errno = errno, n, m;

	if (level > log_state.level)
		return;
	if (log_state.journal)
		n = 1 + snprintf(line + 1, sizeof line - 1, "<%d>", levels[level].priority);
	else
		n = 1 + snprintf(line + 1, sizeof line - 1, "%s: %s", log_state.program, levels[level].word);
	m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	if (m < 0)
		m = 0;
	n += m;
	if ((size_t)n > sizeof line - 2)
		n = sizeof line - 2;
	for (int i = 1; i < n; i++) /* what a peer sent must not forge a second line */
		if (line[i] == '\n' || line[i] == '\r')
			line[i] = ' ';
	line[n++] = '\n';
	write_line(line, (size_t)n);
	errno = saved_errno;
}

#define LOG_FUNCTION(name, level)             \
	void name(const char *fmt, ...)       \
	{                                     \
		va_list ap;                   \
		va_start(ap, fmt);            \
		log_line(level, fmt, ap);     \
		va_end(ap);                   \
	}

LOG_FUNCTION(log_error, LOG_LEVEL_ERROR)
LOG_FUNCTION(log_warning, LOG_LEVEL_WARNING)
LOG_FUNCTION(log_info, LOG_LEVEL_INFO)
LOG_FUNCTION(log_debug, LOG_LEVEL_DEBUG)

void log_fatal(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	log_line(LOG_LEVEL_FATAL, fmt, ap);
	va_end(ap);
	abort();
}

bool log_limit_pass(struct log_limit *limit, uint64_t now, unsigned *held_back)
{
	uint64_t refill = (now - limit->refilled_at) / limit->interval_ns;

	if (refill > 0) {
		limit->spent = refill >= limit->spent ? 0 : limit->spent - (unsigned)refill;
		limit->refilled_at = now;
	}
	if (limit->spent >= limit->burst) {
		limit->held_back++;
		return false;
	}
	limit->spent++;
	*held_back = limit->held_back;
	limit->held_back = 0;
	return true;
}

void log_limit_end(const struct log_limit *limit, const char *fmt, ...)
{
	char about[256];
	va_list ap;

	if (limit->held_back == 0)
		return;
	va_start(ap, fmt);
	vsnprintf(about, sizeof about, fmt, ap);
	va_end(ap);
	log_warning("%s: %u more lines were held back", about, limit->held_back);
}
