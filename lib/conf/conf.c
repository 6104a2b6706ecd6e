/*
 * conf.c - walks a table of options along a file that libconfig has parsed.
 *
 * Every complaint has one form: FILE:LINE: SETTING: what is wrong: what to do. The setting is
 * named by its whole path ("links[1].block_size").
 */
#include "conf.h"

#include <errno.h>
#include <libconfig.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "conf_value.h"

struct walk {
	const char *file;
	const char *folder; /* where relative paths start */
	struct err *e;
};

/* Where we are: a chain on the stack, printed only when something is wrong. */
struct place {
	const struct place *up;
	const char *name; /* NULL for an item of a list */
	int index;
	const config_setting_t *setting; /* NULL where nothing is written */
};

static enum status load_group(const struct walk *w, const struct place *at, const struct conf_option *options,
                              void *room);

static void *member(void *room, const struct conf_option *o)
{
	return (char *)room + o->offset;
}

static const void *const_member(const void *room, const struct conf_option *o)
{
	return (const char *)room + o->offset;
}

/* ---- complaints ---------------------------------------------------------------------------- */

static void place_name(const struct place *at, char *text, size_t len)
{
	char up[256] = "";

	if (at->up == NULL) {
		text[0] = '\0';
		return;
	}
	place_name(at->up, up, sizeof up);
	if (at->name == NULL)
		snprintf(text, len, "%s[%d]", up, at->index);
	else
		snprintf(text, len, "%s%s%s", up, up[0] ? "." : "", at->name);
}

/* Line and file of what is written nearest around the place. */
static const config_setting_t *nearest_written(const struct place *at)
{
	while (at->setting == NULL && at->up != NULL)
		at = at->up;
	return at->setting;
}

static enum status complain(const struct walk *w, const struct place *at, const char *why)
{
	const config_setting_t *s = nearest_written(at);
	const char *file = s != NULL ? config_setting_source_file(s) : NULL;
	unsigned line = s != NULL ? config_setting_source_line(s) : 0;
	char name[256], where[32] = "";

	place_name(at, name, sizeof name);
	if (line > 0 && !config_setting_is_root(s))
		snprintf(where, sizeof where, ":%u", line);
	return err_set(w->e, ST_CONFIGURATION, "%s%s: %s: %s", file != NULL ? file : w->file, where, name, why);
}

static enum status complain_unknown(const struct walk *w, const struct place *at,
                                    const struct conf_option *options)
{
	const char *names[128], *nearest;
	char why[CONF_WHY_LEN];
	size_t n = 0;

	for (; options->name != NULL && n < ARRAY_LEN(names) - 1; options++)
		names[n++] = options->name;
	names[n] = NULL;
	nearest = conf_nearest(at->name, names);
	if (nearest != NULL)
		snprintf(why, sizeof why, "no such setting: did you mean \"%s\"?", nearest);
	else
		snprintf(why, sizeof why, "no such setting: remove it, or see the manual page for what there is");
	return complain(w, at, why);
}

static const char *example_of(const struct conf_option *o)
{
	switch (o->type) {
	case CONF_INTEGER:
		return "1";
	case CONF_FLOAT:
		return "1.0";
	case CONF_BOOL:
		return "true";
	case CONF_SIZE:
		return "\"64 KiB\"";
	case CONF_DURATION:
		return "\"10 s\"";
	case CONF_STRINGS:
	case CONF_LISTEN:
		return "[ \"…\" ]";
	case CONF_GROUP:
		return "{ … }";
	case CONF_LIST:
		return "( { … } )";
	default:
		return "\"…\"";
	}
}

static enum status complain_missing(const struct walk *w, const struct place *at, const struct conf_option *o)
{
	char why[CONF_WHY_LEN];

	snprintf(why, sizeof why, "missing: add %s = %s;%s%s%s", o->name, example_of(o), o->help ? " (" : "",
	         o->help ? o->help : "", o->help ? ")" : "");
	return complain(w, at, why);
}

/* ---- from the file ---------------------------------------------------------------------------- */

static struct conf_raw raw_of(const config_setting_t *s)
{
	struct conf_raw raw = { .kind = RAW_OTHER };

	switch (config_setting_type(s)) {
	case CONFIG_TYPE_STRING:
		raw.kind = RAW_STRING;
		raw.text = config_setting_get_string(s);
		break;
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		raw.kind = RAW_INTEGER;
		raw.integer = config_setting_get_int64(s);
		break;
	case CONFIG_TYPE_FLOAT:
		raw.kind = RAW_FLOAT;
		raw.number = config_setting_get_float(s);
		break;
	case CONFIG_TYPE_BOOL:
		raw.kind = RAW_BOOL;
		raw.truth = config_setting_get_bool(s) != 0;
		break;
	default:
		break;
	}
	return raw;
}

static enum status load_value(const struct walk *w, const struct place *at, const struct conf_option *o,
                              void *room)
{
	struct conf_raw raw = raw_of(at->setting);
	char why[CONF_WHY_LEN];

	if (!conf_value_set(o, &raw, w->folder, room, why))
		return complain(w, at, why);
	return ST_OK;
}

static enum status load_strings(const struct walk *w, const struct place *at, const struct conf_option *o,
                                struct conf_strings *room)
{
	char why[CONF_WHY_LEN];
	int n;

	if (!config_setting_is_array(at->setting) && !config_setting_is_list(at->setting))
		return complain(w, at, "is not a list of strings: write [ \"…\", \"…\" ]");
	n = config_setting_length(at->setting);
	room->items = xcalloc((size_t)n, sizeof *room->items);
	for (int i = 0; i < n; i++) {
		struct place item = { at, NULL, i, config_setting_get_elem(at->setting, (unsigned)i) };
		const char *text = config_setting_get_string(item.setting);

		if (text == NULL)
			return complain(w, &item, "is not a string: put it into double quotes");
		if (!conf_value_check_item(o, text, why))
			return complain(w, &item, why);
		room->items[room->count++] = xstrdup(text);
	}
	return ST_OK;
}

static enum status load_list(const struct walk *w, const struct place *at, const struct conf_option *o,
                             struct conf_list *room)
{
	enum status status = ST_OK;
	int n;

	if (!config_setting_is_list(at->setting))
		return complain(w, at, "is not a list of groups: write ( { … }, { … } )");
	n = config_setting_length(at->setting);
	room->items = xcalloc((size_t)n, o->sub_size);
	for (int i = 0; i < n && status == ST_OK; i++) {
		struct place item = { at, NULL, i, config_setting_get_elem(at->setting, (unsigned)i) };
		char *item_room = (char *)room->items + room->count++ * o->sub_size;

		status = load_group(w, &item, o->sub, item_room);
	}
	return status;
}

static bool has_required(const struct conf_option *options)
{
	for (; options->name != NULL; options++)
		if (options->required)
			return true;
	return false;
}

/* What is not written: its default, or a complaint. */
static enum status load_missing(const struct walk *w, const struct place *at, const struct conf_option *o,
                                void *room)
{
	char why[CONF_WHY_LEN];

	if (o->required)
		return complain_missing(w, at, o);
	if (o->type == CONF_GROUP)
		return has_required(o->sub) ? ST_OK : load_group(w, at, o->sub, room);
	if (o->fallback == NULL || o->type == CONF_LIST)
		return ST_OK;
	if (o->type == CONF_STRINGS || o->type == CONF_LISTEN) {
		struct conf_strings *strings = room;

		strings->items = xcalloc(1, sizeof *strings->items);
		strings->items[strings->count++] = xstrdup(o->fallback);
		return ST_OK;
	}
	if (!conf_value_set_text(o, o->fallback, w->folder, room, why))
		return complain(w, at, why);
	return ST_OK;
}

static enum status load_option(const struct walk *w, const struct place *at, const struct conf_option *o,
                               void *room)
{
	if (at->setting == NULL)
		return load_missing(w, at, o, room);
	switch (o->type) {
	case CONF_GROUP:
		return load_group(w, at, o->sub, room);
	case CONF_LIST:
		return load_list(w, at, o, room);
	case CONF_STRINGS:
	case CONF_LISTEN:
		return load_strings(w, at, o, room);
	default:
		return load_value(w, at, o, room);
	}
}

static enum status refuse_unknown(const struct walk *w, const struct place *at,
                                  const struct conf_option *options)
{
	int n = config_setting_length(at->setting);

	for (int i = 0; i < n; i++) {
		const config_setting_t *s = config_setting_get_elem(at->setting, (unsigned)i);
		struct place inner = { at, config_setting_name(s), 0, s };
		const struct conf_option *o = options;

		while (o->name != NULL && strcmp(o->name, inner.name) != 0)
			o++;
		if (o->name == NULL)
			return complain_unknown(w, &inner, options);
	}
	return ST_OK;
}

static enum status load_group(const struct walk *w, const struct place *at, const struct conf_option *options,
                              void *room)
{
	enum status status = ST_OK;

	if (at->setting != NULL && !config_setting_is_group(at->setting))
		return complain(w, at, "is not a group of settings: write { … }");
	if (at->setting != NULL)
		status = refuse_unknown(w, at, options);
	for (const struct conf_option *o = options; o->name != NULL && status == ST_OK; o++) {
		struct place inner = { at, o->name, 0, NULL };

		if (at->setting != NULL)
			inner.setting = config_setting_get_member(at->setting, o->name);
		status = load_option(w, &inner, o, member(room, o));
	}
	return status;
}

static enum status parse_failed(const char *path, const config_t *config, struct err *e)
{
	const char *file = config_error_file(config);

	if (config_error_type(config) == CONFIG_ERR_FILE_IO)
		return err_set(e, ST_CONFIGURATION, "%s: cannot be read: %s", path,
		               errno != 0 ? strerror(errno) : "not a file");
	if (strstr(config_error_text(config), "duplicate") != NULL)
		return err_set(e, ST_CONFIGURATION, "%s:%d: %s: it is there twice: remove one",
		               file != NULL ? file : path, config_error_line(config), config_error_text(config));
	return err_set(e, ST_CONFIGURATION,
	               "%s:%d: %s: look for a missing \";\", quote or bracket on this line or the one before",
	               file != NULL ? file : path, config_error_line(config), config_error_text(config));
}

/* Absolute, so that what conf_print writes means the same wherever it is read. The caller frees. */
static char *folder_of(const char *path)
{
	char *copy = xstrdup(path);
	char *folder = realpath(dirname(copy), NULL);

	free(copy);
	return folder != NULL ? folder : xstrdup(".");
}

enum status conf_load(const char *path, const struct conf_option *options, void *settings, struct err *e)
{
	char *folder = folder_of(path);
	struct walk w = { path, folder, e };
	enum status status;
	config_t config;

	config_init(&config);
	config_set_include_dir(&config, folder);
	errno = 0;
	if (config_read_file(&config, path) != CONFIG_TRUE) {
		status = parse_failed(path, &config, e);
	} else {
		struct place root = { NULL, NULL, 0, config_root_setting(&config) };

		status = load_group(&w, &root, options, settings);
		if (status != ST_OK)
			conf_free(options, settings);
	}
	config_destroy(&config);
	free(folder);
	return status;
}

/* ---- freeing ----------------------------------------------------------------------------------- */

static void free_strings(struct conf_strings *s)
{
	for (size_t i = 0; i < s->count; i++)
		free(s->items[i]);
	free(s->items);
	*s = (struct conf_strings){ NULL, 0 };
}

static void free_list(const struct conf_option *o, struct conf_list *list)
{
	for (size_t i = 0; i < list->count; i++)
		conf_free(o->sub, (char *)list->items + i * o->sub_size);
	free(list->items);
	*list = (struct conf_list){ NULL, 0 };
}

void conf_free(const struct conf_option *options, void *settings)
{
	for (const struct conf_option *o = options; o->name != NULL; o++) {
		void *room = member(settings, o);

		switch (o->type) {
		case CONF_STRING:
		case CONF_NAME:
		case CONF_PATH:
		case CONF_ADDRESS:
			free(*(char **)room);
			*(char **)room = NULL;
			break;
		case CONF_STRINGS:
		case CONF_LISTEN:
			free_strings(room);
			break;
		case CONF_GROUP:
			conf_free(o->sub, room);
			break;
		case CONF_LIST:
			free_list(o, room);
			break;
		case CONF_INTEGER:
		case CONF_SIZE:
		case CONF_DURATION:
			*(int64_t *)room = 0;
			break;
		case CONF_FLOAT:
			*(double *)room = 0;
			break;
		case CONF_BOOL:
			*(bool *)room = false;
			break;
		case CONF_ENUM:
			*(int *)room = 0;
			break;
		}
	}
}

/* ---- printing ------------------------------------------------------------------------------------ */

static void print_group(FILE *to, const struct conf_option *options, const void *settings, int depth);

static void indent(FILE *to, int depth)
{
	while (depth-- > 0)
		putc('\t', to);
}

static void print_strings(FILE *to, const struct conf_strings *s)
{
	fputs("[ ", to);
	for (size_t i = 0; i < s->count; i++) {
		fputs(i > 0 ? ", " : "", to);
		conf_value_print_string(to, s->items[i]);
	}
	fputs(" ]", to);
}

static void print_list(FILE *to, const struct conf_option *o, const struct conf_list *list, int depth)
{
	fputs("(\n", to);
	for (size_t i = 0; i < list->count; i++) {
		indent(to, depth + 1);
		fputs("{\n", to);
		print_group(to, o->sub, (const char *)list->items + i * o->sub_size, depth + 2);
		indent(to, depth + 1);
		fprintf(to, "}%s\n", i + 1 < list->count ? "," : "");
	}
	indent(to, depth);
	putc(')', to);
}

/* A group that was not written and could not get defaults: all zero (see conf_load). */
static bool group_is_absent(const struct conf_option *o, const void *room)
{
	const char *bytes = room;

	if (o->required || !has_required(o->sub))
		return false;
	for (size_t i = 0; i < o->sub_size; i++)
		if (bytes[i] != 0)
			return false;
	return true;
}

static void print_group(FILE *to, const struct conf_option *options, const void *settings, int depth)
{
	for (const struct conf_option *o = options; o->name != NULL; o++) {
		const void *room = const_member(settings, o);

		if ((!o->required && conf_value_is_unset(o, room)) ||
		    (o->type == CONF_GROUP && group_is_absent(o, room)))
			continue;
		indent(to, depth);
		fprintf(to, "%s = ", o->name);
		if (o->type == CONF_GROUP) {
			fputs("{\n", to);
			print_group(to, o->sub, room, depth + 1);
			indent(to, depth);
			putc('}', to);
		} else if (o->type == CONF_LIST) {
			print_list(to, o, room, depth);
		} else if (o->type == CONF_STRINGS || o->type == CONF_LISTEN) {
			print_strings(to, room);
		} else {
			conf_value_print(to, o, room);
		}
		fputs(";\n", to);
	}
}

void conf_print(FILE *to, const struct conf_option *options, const void *settings)
{
	print_group(to, options, settings, 0);
}
