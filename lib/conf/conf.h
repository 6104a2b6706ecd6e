/*
 * conf.h - configuration files: libconfig under a table of typed options.
 *
 * A program describes its settings by tables; conf_load fills its struct from a file, and every
 * error names the file, the line, the setting and the remedy: unknown settings (with the nearest
 * known name), missing ones, wrong types, values out of range. conf_print writes the settings with
 * their defaults filled in, in a form that parses again.
 */
#ifndef QKDN_CONF_H
#define QKDN_CONF_H

#include <stdio.h>

#include "status.h"

enum conf_type {
	CONF_STRING,   /* char *; owned by the struct */
	CONF_NAME,     /* char *; name_is_valid */
	CONF_PATH,     /* char *; relative ones are taken from the configuration file's folder */
	CONF_ADDRESS,  /* char *; "host:port", "[v6]:port", "host" (port by rpcbind) */
	CONF_INTEGER,  /* int64_t within [min, max] */
	CONF_FLOAT,    /* double within [min, max]; an integer is accepted */
	CONF_BOOL,     /* bool */
	CONF_SIZE,     /* int64_t bytes; integer, or a string such as "64 KiB", "10 GiB" */
	CONF_DURATION, /* int64_t nanoseconds; a string such as "250 ms", "10 s", "1 h" */
	CONF_ENUM,     /* int: index into words */
	CONF_STRINGS,  /* struct conf_strings: a list of strings */
	CONF_GROUP,    /* a nested struct, described by sub */
	CONF_LIST,     /* struct conf_list: a list of groups, each described by sub */
	CONF_LISTEN,   /* struct conf_strings: a list of IP addresses with ports, "192.0.2.1:7001" */
};

struct conf_strings {
	char **items;
	size_t count;
};

struct conf_list {
	void *items; /* count structs of sub_size bytes */
	size_t count;
};

/* One setting. A table ends with a NULL name. */
struct conf_option {
	const char *name;
	enum conf_type type;
	size_t offset;            /* of the member in the struct */
	bool required;
	const char *fallback;     /* default as it would be written ("10 s", "3", "true", "word"); NULL: zero */
	double min, max;          /* INTEGER, FLOAT, SIZE (bytes), DURATION (s); both 0: no bounds */
	const char *const *words; /* ENUM: ends with NULL */
	const struct conf_option *sub;
	size_t sub_size;          /* GROUP and LIST: size of the nested struct */
	const char *help;         /* one line, the same as in the manual page */
};

/*
 * Fills the zeroed struct at settings. On failure everything allocated is freed again. What is not
 * written gets its default, in groups that are not written too; only a group that is not required
 * and not written but has required members stays zero as a whole.
 */
MUST_CHECK enum status conf_load(const char *path, const struct conf_option *options, void *settings,
                                 struct err *e);
void conf_free(const struct conf_option *options, void *settings); /* leaves it zeroed */
void conf_print(FILE *to, const struct conf_option *options, const void *settings);

#endif
