/* status.c - names of statuses, and the text that travels with them. */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *status_name(enum status s)
{
	switch (s) {
#define ST_NAME(name, number, token) \
	case ST_##name:              \
		return token;
		ST_LIST(ST_NAME)
#undef ST_NAME
	}
	return "unknown-status";
}

int status_exit_code(enum status s)
{
	switch (s) {
	case ST_OK:
		return 0;
	case ST_CONFIGURATION:
	case ST_INTERNAL:
		return 1;
	case ST_UNKNOWN_APPLICATION:
	case ST_UNKNOWN_KEY_ID:
	case ST_KEY_GONE:
	case ST_TOO_FEW_KEYS:
	case ST_UNKNOWN_SESSION:
	case ST_NOT_FOUND:
		return 3;
	case ST_TIMED_OUT:
		return 4;
	default:
		return 2;
	}
}

enum status err_set(struct err *e, enum status s, const char *fmt, ...)
{
	va_list ap;

	if (e != NULL) {
		e->status = s;
		va_start(ap, fmt);
		vsnprintf(e->text, sizeof e->text, fmt, ap);
		va_end(ap);
	}
	return s;
}

enum status err_prefix(struct err *e, const char *fmt, ...)
{
	char context[sizeof e->text], old[sizeof e->text];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(context, sizeof context, fmt, ap);
	va_end(ap);
	memcpy(old, e->text, sizeof old);
	if (snprintf(e->text, sizeof e->text, "%s: %s", context, old) < 0)
		e->text[0] = '\0';
	return e->status;
}
