/* stated.c - reads what the cores log: its functions are replaced by the linker. */
#include <stdarg.h>
#include <stdio.h>

#include "../../server/km/core.h"
#include "log.h"
#include "stated.h"

void __real_log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void __real_log_warning(const char *fmt, ...) PRINTF_LIKE(1, 2);
void __wrap_log_info(const char *fmt, ...) PRINTF_LIKE(1, 2);
void __wrap_log_warning(const char *fmt, ...) PRINTF_LIKE(1, 2);

static uint64_t stated;

static void listen(const char *line)
{
	const char *number = strstr(line, " bytes");

	if (number == NULL || (strstr(line, "given up") == NULL && strstr(line, "are voided") == NULL))
		return;
	while (number > line && number[-1] >= '0' && number[-1] <= '9')
		number--;
	stated += strtoull(number, NULL, 10);
}

#define LISTENS(name)                                  \
	void __wrap_##name(const char *fmt, ...)       \
	{                                              \
		char line[2048];                       \
		va_list ap;                            \
		va_start(ap, fmt);                     \
		vsnprintf(line, sizeof line, fmt, ap); \
		va_end(ap);                            \
		listen(line);                          \
		__real_##name("%s", line);             \
	}

LISTENS(log_info)
LISTENS(log_warning)

uint64_t stated_bytes(void)
{
	return stated;
}

uint64_t stated_later(const struct km *km)
{
	uint64_t bytes = 0;

	for (const struct ksa_pool *p = km->pools; p != NULL; p = p->hh.next)
		bytes += p->given_up + p->not_asked_for;
	return bytes;
}
