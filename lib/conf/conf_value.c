/* conf_value.c - single values: parsing with units and bounds, and the way back. */
#include "conf_value.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "env.h"
#include "id.h"

static PRINTF_LIKE(2, 3) bool wrong(char why[CONF_WHY_LEN], const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, CONF_WHY_LEN, fmt, ap);
	va_end(ap);
	return false;
}

/* ---- the word that was meant ------------------------------------------------------------ */

/* Edits (insert, delete, replace) from a to b; words longer than the table count as far away. */
static unsigned distance(const char *a, const char *b)
{
	enum { LONGEST = 64 };
	unsigned row[LONGEST + 1];
	size_t n = strlen(b);

	if (n > LONGEST)
		return LONGEST;
	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (unsigned i = 1; a[i - 1] != '\0'; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= n; j++) {
			unsigned replace = diagonal + (a[i - 1] != b[j - 1]);
			unsigned step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;

			diagonal = row[j];
			row[j] = replace < step ? replace : step;
		}
	}
	return row[n];
}

const char *conf_nearest(const char *word, const char *const *words)
{
	unsigned least = (unsigned)strlen(word) / 3 + 2;
	const char *nearest = NULL;

	for (; *words != NULL; words++) {
		unsigned d = distance(word, *words);

		if (d < least) {
			least = d;
			nearest = *words;
		}
	}
	return nearest;
}

/* ---- units ------------------------------------------------------------------------------- */

struct unit {
	const char *name;
	int64_t factor;
};

/* From small to large: printing takes the largest that divides. */
static const struct unit size_units[] = {
	{ "B", 1 },
	{ "KiB", INT64_C(1) << 10 },
	{ "MiB", INT64_C(1) << 20 },
	{ "GiB", INT64_C(1) << 30 },
	{ "TiB", INT64_C(1) << 40 },
	{ NULL, 0 },
};
static const struct unit duration_units[] = {
	{ "ns", 1 },
	{ "us", NS_PER_US },
	{ "ms", NS_PER_MS },
	{ "s", NS_PER_S },
	{ "min", 60 * NS_PER_S },
	{ "h", 3600 * NS_PER_S },
	{ "d", 86400 * NS_PER_S },
	{ NULL, 0 },
};

/* "10 s", "64KiB"; a part of a unit is allowed ("1.5 s"). false: no number, no such unit, too large. */
static bool parse_unit(const char *text, const struct unit *units, int64_t *value)
{
	char *rest;
	double number;

	if (!isdigit((unsigned char)text[0]))
		return false;
	number = strtod(text, &rest);
	while (*rest == ' ')
		rest++;
	for (; units->name != NULL; units++) {
		if (strcmp(rest, units->name) != 0)
			continue;
		number *= (double)units->factor;
		if (!(number < 9.2e18))
			return false;
		*value = (int64_t)llround(number);
		return true;
	}
	return false;
}

static void format_unit(char *text, size_t len, int64_t value, const struct unit *units)
{
	const struct unit *best = units;

	for (; units->name != NULL; units++)
		if (value != 0 && value % units->factor == 0)
			best = units;
	snprintf(text, len, "%" PRId64 " %s", value / best->factor, best->name);
}

static void format_number(const struct conf_option *o, char *text, size_t len, double value)
{
	if (o->type == CONF_SIZE)
		format_unit(text, len, (int64_t)value, size_units);
	else if (o->type == CONF_DURATION)
		format_unit(text, len, (int64_t)llround(value * 1e9), duration_units);
	else
		snprintf(text, len, "%.15g", value);
}

static bool in_bounds(const struct conf_option *o, double value, char why[CONF_WHY_LEN])
{
	char is[48], min[48], max[48];

	if ((o->min == 0 && o->max == 0) || (value >= o->min && value <= o->max))
		return true;
	format_number(o, is, sizeof is, value);
	format_number(o, min, sizeof min, o->min);
	format_number(o, max, sizeof max, o->max);
	return wrong(why, "%s is too %s: give %s to %s", is, value < o->min ? "small" : "large", min, max);
}

/* ---- one setter per type ------------------------------------------------------------------- */

static bool is_address(const char *text, bool to_listen)
{
	uint16_t port;
	char *host;
	bool ok;

	if (!address_split(text, &host, &port))
		return false;
	ok = !to_listen || (port != 0 && address_is_numeric(host));
	free(host);
	return ok;
}

static bool check_text(const struct conf_option *o, const char *text, char why[CONF_WHY_LEN])
{
	switch (o->type) {
	case CONF_NAME:
		return name_is_valid(text) ||
		       wrong(why, "\"%.80s\" is no name: give 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or -",
		             text);
	case CONF_PATH:
		return text[0] != '\0' || wrong(why, "the path is empty: name a file or folder");
	case CONF_ADDRESS:
		return is_address(text, false) ||
		       wrong(why, "\"%.80s\" is no address: give \"host:port\", \"[v6]:port\" or \"host\"", text);
	case CONF_LISTEN:
		return is_address(text, true) ||
		       wrong(why, "\"%.80s\" is no address to listen at: give an IP address and a port, \"192.0.2.1:7001\" "
		                  "or \"[2001:db8::1]:7001\"",
		             text);
	default:
		return true;
	}
}

bool conf_value_check_item(const struct conf_option *o, const char *text, char why[CONF_WHY_LEN])
{
	return check_text(o, text, why);
}

static bool set_text(const struct conf_option *o, const struct conf_raw *raw, const char *folder, char **room,
                     char why[CONF_WHY_LEN])
{
	if (raw->kind != RAW_STRING)
		return wrong(why, "is not a string: put it into double quotes");
	if (!check_text(o, raw->text, why))
		return false;
	if (o->type == CONF_PATH && raw->text[0] != '/')
		*room = xasprintf("%s/%s", folder, raw->text);
	else
		*room = xstrdup(raw->text);
	return true;
}

static bool set_integer(const struct conf_option *o, const struct conf_raw *raw, int64_t *room,
                        char why[CONF_WHY_LEN])
{
	if (raw->kind != RAW_INTEGER)
		return wrong(why, "is not an integer: write a number without quotes and decimals");
	*room = raw->integer;
	return in_bounds(o, (double)raw->integer, why);
}

static bool set_float(const struct conf_option *o, const struct conf_raw *raw, double *room,
                      char why[CONF_WHY_LEN])
{
	if (raw->kind != RAW_INTEGER && raw->kind != RAW_FLOAT)
		return wrong(why, "is not a number: write one without quotes, such as 0.2");
	*room = raw->kind == RAW_INTEGER ? (double)raw->integer : raw->number;
	return in_bounds(o, *room, why);
}

static bool set_bool(const struct conf_raw *raw, bool *room, char why[CONF_WHY_LEN])
{
	if (raw->kind != RAW_BOOL)
		return wrong(why, "is neither true nor false: write one of them without quotes");
	*room = raw->truth;
	return true;
}

static bool set_size(const struct conf_option *o, const struct conf_raw *raw, int64_t *room,
                     char why[CONF_WHY_LEN])
{
	if (raw->kind == RAW_INTEGER && raw->integer >= 0)
		*room = raw->integer;
	else if (raw->kind != RAW_STRING || !parse_unit(raw->text, size_units, room))
		return wrong(why, "is no size: give bytes, or a string such as \"64 KiB\" (B, KiB, MiB, GiB, TiB)");
	return in_bounds(o, (double)*room, why);
}

static bool set_duration(const struct conf_option *o, const struct conf_raw *raw, int64_t *room,
                         char why[CONF_WHY_LEN])
{
	if (raw->kind != RAW_STRING || !parse_unit(raw->text, duration_units, room))
		return wrong(why,
		             "is no duration: give a string such as \"250 ms\" (ns, us, ms, s, min, h, d)");
	return in_bounds(o, (double)*room / 1e9, why);
}

static void list_words(const char *const *words, char *text, size_t len)
{
	size_t used = 0;

	text[0] = '\0';
	for (; *words != NULL && used < len; words++) {
		int n = snprintf(text + used, len - used, "%s\"%s\"", used ? (words[1] ? ", " : " or ") : "",
		                 *words);

		used += n > 0 ? (size_t)n : 0;
	}
}

static bool set_enum(const struct conf_option *o, const struct conf_raw *raw, int *room,
                     char why[CONF_WHY_LEN])
{
	const char *nearest;
	char all[160];

	list_words(o->words, all, sizeof all);
	if (raw->kind != RAW_STRING)
		return wrong(why, "is not a string: give %s", all);
	for (int i = 0; o->words[i] != NULL; i++) {
		if (strcmp(raw->text, o->words[i]) == 0) {
			*room = i;
			return true;
		}
	}
	nearest = conf_nearest(raw->text, o->words);
	if (nearest != NULL)
		return wrong(why, "\"%.40s\" is not known: did you mean \"%s\"?", raw->text, nearest);
	return wrong(why, "\"%.40s\" is not known: give %s", raw->text, all);
}

bool conf_value_set(const struct conf_option *o, const struct conf_raw *raw, const char *folder, void *room,
                    char why[CONF_WHY_LEN])
{
	switch (o->type) {
	case CONF_STRING:
	case CONF_NAME:
	case CONF_PATH:
	case CONF_ADDRESS:
		return set_text(o, raw, folder, room, why);
	case CONF_INTEGER:
		return set_integer(o, raw, room, why);
	case CONF_FLOAT:
		return set_float(o, raw, room, why);
	case CONF_BOOL:
		return set_bool(raw, room, why);
	case CONF_SIZE:
		return set_size(o, raw, room, why);
	case CONF_DURATION:
		return set_duration(o, raw, room, why);
	case CONF_ENUM:
		return set_enum(o, raw, room, why);
	case CONF_STRINGS:
	case CONF_LISTEN:
	case CONF_GROUP:
	case CONF_LIST:
		break;
	}
	return wrong(why, "is not a single value");
}

bool conf_value_set_text(const struct conf_option *o, const char *text, const char *folder, void *room,
                         char why[CONF_WHY_LEN])
{
	struct conf_raw raw = { .kind = RAW_STRING, .text = text };

	if (o->type == CONF_INTEGER || (o->type == CONF_SIZE && strspn(text, "0123456789") == strlen(text))) {
		raw.kind = RAW_INTEGER;
		raw.integer = strtoll(text, NULL, 0);
	} else if (o->type == CONF_FLOAT) {
		raw.kind = RAW_FLOAT;
		raw.number = strtod(text, NULL);
	} else if (o->type == CONF_BOOL) {
		raw.kind = RAW_BOOL;
		raw.truth = strcmp(text, "true") == 0;
	}
	return conf_value_set(o, &raw, folder, room, why);
}

/* ---- the way back -------------------------------------------------------------------------- */

void conf_value_print_string(FILE *to, const char *text)
{
	putc('"', to);
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			fprintf(to, "\\%c", c);
		else if (c < 32)
			fprintf(to, "\\x%02x", c);
		else
			putc(c, to);
	}
	putc('"', to);
}

static void print_float(FILE *to, double value)
{
	char text[48];

	for (int digits = 6; digits <= 17; digits++) { /* the shortest that reads back as the same */
		snprintf(text, sizeof text, "%.*g", digits, value);
		if (strtod(text, NULL) == value)
			break;
	}
	fprintf(to, "%s%s", text, strpbrk(text, ".e") != NULL ? "" : ".0");
}

void conf_value_print(FILE *to, const struct conf_option *o, const void *room)
{
	char text[48];

	switch (o->type) {
	case CONF_INTEGER: {
		int64_t value = *(const int64_t *)room;

		fprintf(to, "%" PRId64 "%s", value, value > INT32_MAX || value < INT32_MIN ? "L" : "");
		break;
	}
	case CONF_FLOAT:
		print_float(to, *(const double *)room);
		break;
	case CONF_BOOL:
		fputs(*(const bool *)room ? "true" : "false", to);
		break;
	case CONF_SIZE:
	case CONF_DURATION:
		format_unit(text, sizeof text, *(const int64_t *)room,
		            o->type == CONF_SIZE ? size_units : duration_units);
		conf_value_print_string(to, text);
		break;
	case CONF_ENUM:
		conf_value_print_string(to, o->words[*(const int *)room]);
		break;
	default:
		conf_value_print_string(to, *(char *const *)room);
		break;
	}
}

bool conf_value_is_unset(const struct conf_option *o, const void *room)
{
	switch (o->type) {
	case CONF_STRING:
	case CONF_NAME:
	case CONF_PATH:
	case CONF_ADDRESS:
		return *(char *const *)room == NULL;
	case CONF_STRINGS:
	case CONF_LISTEN:
		return o->fallback == NULL && ((const struct conf_strings *)room)->count == 0;
	case CONF_LIST:
		return ((const struct conf_list *)room)->count == 0;
	case CONF_INTEGER:
	case CONF_SIZE:
	case CONF_DURATION:
		return o->fallback == NULL && *(const int64_t *)room == 0;
	case CONF_FLOAT:
		return o->fallback == NULL && *(const double *)room == 0;
	default:
		return false;
	}
}
