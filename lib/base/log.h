/*
 * log.h - messages for the operator, on standard error.
 *
 * Under systemd (JOURNAL_STREAM set) a line begins with journald's <N>; on a terminal
 * with the program's name. A log line never holds a key byte: nothing here formats
 * one, and struct secret has no printable form.
 */
#ifndef QKDN_LOG_H
#define QKDN_LOG_H

#include "base.h"

enum log_level { LOG_LEVEL_FATAL, LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Call once in main. program is kept, not copied. LOG_LEVEL_FATAL is for libraries: nothing but the
 * last words of a process that aborts. */
void log_open(const char *program, enum log_level level);

void log_error(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_warning(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void log_debug(const char *fmt, ...) PRINTF_LIKE(1, 2);
NORETURN void log_fatal(const char *fmt, ...) PRINTF_LIKE(1, 2); /* logs, then abort() */

/*
 * A bound on lines that somebody outside can provoke: at most burst lines, refilled
 * at one per interval_ns; what was held back is counted and told with the next line
 * that passes. Zero-initialise but for the two numbers; now is monotonic.
 */
struct log_limit {
	uint64_t interval_ns;
	unsigned burst;
	unsigned spent;
	unsigned held_back;
	uint64_t refilled_at;
};

/* Whether a line may be written now; *held_back is how many were suppressed before it. */
bool log_limit_pass(struct log_limit *limit, uint64_t now, unsigned *held_back);
/* The last word about what they were: logs how many were held back that no line has told. */
void log_limit_end(const struct log_limit *limit, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
