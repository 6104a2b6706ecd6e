/* log.c - one line per message, written with a single write(2). */
#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
	const char *program;
	enum log_level level;
	bool journal;
} log_state = { "qkdn", LOG_LEVEL_INFO, false };

void log_open(const char *program, enum log_level level)
{
	log_state.program = program;
	log_state.level = level;
	log_state.journal = getenv("JOURNAL_STREAM") != NULL;
}

__attribute__((format(printf, 2, 0))) static void log_line(enum log_level level, const char *fmt, va_list ap)
{
	static const struct {
		int priority;
		const char *word;
	} levels[] = { { 2, "fatal: " }, { 3, "error: " }, { 4, "warning: " }, { 6, "" }, { 7, "debug: " } };
	char line[2048];
	int saved_errno = errno, n, m;

	if (level > log_state.level)
		return;
	if (log_state.journal)
		n = snprintf(line, sizeof line, "<%d>", levels[level].priority);
	else
		n = snprintf(line, sizeof line, "%s: %s", log_state.program, levels[level].word);
	m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	if (m < 0)
		m = 0;
	n += m;
	if ((size_t)n > sizeof line - 2)
		n = sizeof line - 2;
	for (int i = 0; i < n; i++) /* what a peer sent must not forge a second line */
		if (line[i] == '\n' || line[i] == '\r')
			line[i] = ' ';
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)n) < 0) {
		/* nobody is left to tell */
	}
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
