/* conf_value.h - single values: from the file's form or the table's default into a struct's member,
 * and back into text. For lib/conf alone. */
#ifndef QKDN_CONF_VALUE_H
#define QKDN_CONF_VALUE_H

#include "conf.h"

/* A value as it was written. */
struct conf_raw {
	enum { RAW_STRING, RAW_INTEGER, RAW_FLOAT, RAW_BOOL, RAW_OTHER } kind;
	const char *text; /* RAW_STRING; not owned */
	long long integer;
	double number;
	bool truth;
};

enum { CONF_WHY_LEN = 256 };

/* Puts a value into the member at room. false: why says what is wrong with it and what to write
 * instead. folder is where relative paths start. */
MUST_CHECK bool conf_value_set(const struct conf_option *o, const struct conf_raw *raw, const char *folder,
                               void *room, char why[CONF_WHY_LEN]);

/* The same from a table's default. */
MUST_CHECK bool conf_value_set_text(const struct conf_option *o, const char *text, const char *folder,
                                    void *room, char why[CONF_WHY_LEN]);

/* Checks one item of a list of strings. */
MUST_CHECK bool conf_value_check_item(const struct conf_option *o, const char *text, char why[CONF_WHY_LEN]);

void conf_value_print(FILE *to, const struct conf_option *o, const void *room);
void conf_value_print_string(FILE *to, const char *text);

/* Nothing was written and nothing is the default. */
bool conf_value_is_unset(const struct conf_option *o, const void *room);

/* The word of words (which ends with NULL) that was most likely meant, or NULL. */
const char *conf_nearest(const char *word, const char *const *words);

#endif
