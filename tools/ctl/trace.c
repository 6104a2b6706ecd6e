/* trace.c - qkdnctl trace: the trace files of a network as ladders, as JSON, as a list. */
#include "ctl.h"

#include <argp.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "env.h"
#include "ladder.h"

enum { OPTION_ALL = 256, OPTION_LIST, OPTION_JSON, OPTION_SVG, OPTION_TRACE, OPTION_ONLY, OPTION_TIMES,
       OPTION_ASCII, OPTION_TITLE, OPTION_LINES };

struct arguments {
	const char *dir, *svg, *only, *title;
	struct trace_set wanted; /* --trace */
	bool all, list, json, lines;
	struct ladder_style style;
};

static const struct argp_option options[] = {
	{ "all", OPTION_ALL, NULL, 0, "Every trace, each as a ladder of its own", 0 },
	{ "ascii", OPTION_ASCII, NULL, 0, "Draw without box characters", 0 },
	{ "json", OPTION_JSON, NULL, 0, "Print the messages as JSON", 0 },
	{ "lines", OPTION_LINES, NULL, 0, "A line a message instead of a drawing, for narrow terminals", 0 },
	{ "list", OPTION_LIST, NULL, 0, "List the traces: when each began, with which message", 0 },
	{ "only", OPTION_ONLY, "POINTS", 0, "Only what went over these reference points, such as Ak,Kx-2", 0 },
	{ "svg", OPTION_SVG, "FILE", 0, "Write the ladder as a picture to FILE instead (- for standard output)",
	  0 },
	{ "times", OPTION_TIMES, NULL, 0, "Show milliseconds since the first message, and trace IDs", 0 },
	{ "title", OPTION_TITLE, "TEXT", 0, "Title of the picture", 0 },
	{ "trace", OPTION_TRACE, "ID[,ID...]", 0, "These traces, joined to one ladder", 0 },
	{ 0 },
};

static void add_wanted(struct trace_set *set, const char *list, struct argp_state *state)
{
	char *copy = xstrdup(list), *rest = copy;
	struct id id;

	for (char *word = strsep(&rest, ","); word != NULL; word = strsep(&rest, ",")) {
		if (!id_parse(&id, word))
			argp_error(state, "--trace %s: not a trace ID; `qkdnctl trace --list DIR` shows them",
			           word);
		trace_set_add(set, &id);
	}
	free(copy);
}

/* The reference points over which messages go; idl/ has a file for each. */
static const char points[] = "Ak, Ck, Cx, Kq-1, Kq-2, Kx-1, Kx-2, Mc, Mk";

static bool is_point(const char *word)
{
	size_t len = strlen(word);

	for (const char *p = points; *p != '\0'; p += strcspn(p, ","), p += strspn(p, ", "))
		if (strcspn(p, ",") == len && memcmp(p, word, len) == 0)
			return true;
	return false;
}

static void check_points(const char *list, struct argp_state *state)
{
	char *copy = xstrdup(list), *rest = copy;

	for (char *word = strsep(&rest, ","); word != NULL; word = strsep(&rest, ","))
		if (!is_point(word))
			argp_error(state, "--only %s: \"%s\" is no reference point; there are %s", list, word,
			           points);
	free(copy);
}

/* Which traces, and in which form: one answer each. */
static void check_together(const struct arguments *a, struct argp_state *state)
{
	if (a->all + a->list + (a->wanted.count > 0) > 1)
		argp_error(state, "--all, --list and --trace: give one of them");
	if (a->json + a->lines + (a->svg != NULL) > 1)
		argp_error(state, "--json, --lines and --svg: give one of them");
	if (a->list && (a->lines || a->svg != NULL))
		argp_error(state, "--list prints a line a trace, or --json: leave out --lines and --svg");
	if (a->all && a->svg != NULL)
		argp_error(state, "--svg draws one ladder: name its traces with --trace instead of --all");
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case OPTION_ALL:
		a->all = true;
		return 0;
	case OPTION_LIST:
		a->list = true;
		return 0;
	case OPTION_LINES:
		a->lines = true;
		return 0;
	case OPTION_JSON:
		a->json = true;
		return 0;
	case OPTION_SVG:
		a->svg = arg;
		return 0;
	case OPTION_TRACE:
		add_wanted(&a->wanted, arg, state);
		return 0;
	case OPTION_ONLY:
		check_points(arg, state);
		a->only = arg;
		return 0;
	case OPTION_TIMES:
		a->style.times = true;
		return 0;
	case OPTION_ASCII:
		a->style.ascii = true;
		return 0;
	case OPTION_TITLE:
		a->title = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (state->arg_num > 0)
			argp_error(state, "one folder at a time: \"%s\" is too many", arg);
		a->dir = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "name the folder with the trace files");
		return 0;
	case ARGP_KEY_END:
		check_together(a, state);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const char doc[] =
	"Draws the messages that went over the reference points as a ladder, in causal order.\v"
	"DIR is the folder of a lab (its trace/ is read) or of *.trace files. Without --all, --list or "
	"--trace it is the last procedure that an application began, together with the requests with "
	"ID that came after it.\n\n"
	"Examples:\n"
	"  qkdnctl trace lab\n"
	"  qkdnctl trace --only Ak,Kx-2 --svg ladder.svg lab\n"
	"  qkdnctl trace --list lab";

/* ---- JSON --------------------------------------------------------------------------------------- */

static json_t *time_json(const struct trace_event *event)
{
	return event != NULL ? json_integer((json_int_t)event->utc_ns) : json_null();
}

static json_t *message_json(const struct ladder_message *m)
{
	char trace[ID_TEXT_LEN];

	id_format(&m->seen->trace, trace);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:s*, s:b}", "trace", trace, "reference_point",
	                 m->seen->point, "message", m->seen->message, "from", m->seen->from, "to",
	                 m->seen->to, "sent_at", time_json(m->sent), "received_at", time_json(m->received),
	                 "status", m->status[0] != '\0' ? m->status : NULL, "lost", m->lost);
}

static json_t *ladder_json(const struct ladder *l)
{
	json_t *actors = json_array(), *messages = json_array();

	for (size_t i = 0; i < l->actor_count; i++)
		json_array_append_new(actors, json_string(l->actors[i].id));
	for (size_t i = 0; i < l->message_count; i++)
		json_array_append_new(messages, message_json(&l->messages[i]));
	return json_pack("{s:o, s:o}", "actors", actors, "messages", messages);
}

static void print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(value);
}

static void print_text(const struct ladder *l, const struct arguments *a)
{
	if (a->lines)
		ladder_print_lines(stdout, l);
	else
		ladder_print_text(stdout, l, &a->style);
}

/* ---- the ways to show --------------------------------------------------------------------------- */

static int write_svg(const struct ladder *l, const struct arguments *a)
{
	bool standard = strcmp(a->svg, "-") == 0;
	FILE *f = standard ? stdout : fopen(a->svg, "we");
	bool ok;

	if (f != NULL)
		ladder_print_svg(f, l, a->title);
	ok = f != NULL && fflush(f) == 0 && !ferror(f);
	if (f != NULL && !standard && fclose(f) != 0)
		ok = false;
	if (!ok) {
		fprintf(stderr, "qkdnctl: writing %s: %s\n", a->svg, strerror(errno));
		return 1;
	}
	return 0;
}

static int show_one(const struct trace_log *log, const struct trace_set *set, const struct arguments *a)
{
	struct ladder ladder;
	int status = 0;

	ladder_build(&ladder, log, set, a->only);
	if (a->svg != NULL)
		status = write_svg(&ladder, a);
	else if (a->json)
		print_json(ladder_json(&ladder));
	else
		print_text(&ladder, a);
	ladder_free(&ladder);
	return status;
}

static int show_all(const struct trace_log *log, const struct arguments *a)
{
	json_t *list = json_array();
	struct trace_set all = { NULL, 0, 0 };
	bool first = true;

	trace_log_all(log, &all);
	for (size_t i = 0; i < all.count; i++) {
		struct trace_set one = { &all.ids[i], 1, 1 };
		struct ladder ladder;

		ladder_build(&ladder, log, &one, a->only);
		if (ladder.message_count > 0 && a->json) {
			json_array_append_new(list, ladder_json(&ladder));
		} else if (ladder.message_count > 0) {
			fputs(first ? "" : "\n", stdout);
			print_text(&ladder, a);
			first = false;
		}
		ladder_free(&ladder);
	}
	trace_set_free(&all);
	if (a->json)
		print_json(list);
	else
		json_decref(list);
	return 0;
}

/* The first line of a trace at the reference points that are shown, and the last status that is not "ok". */
struct summary {
	const struct trace_event *first; /* NULL: nothing of it is shown */
	const char *status;
};

static void summarize(struct summary *s, const struct trace *trace, const char *only)
{
	*s = (struct summary){ .status = "ok" };
	for (const struct trace_event *event = trace->first; event != NULL; event = event->next) {
		if (!ladder_shows(only, event->point))
			continue;
		if (s->first == NULL)
			s->first = event;
		if (strcmp(event->status, "-") != 0 && strcmp(event->status, "ok") != 0)
			s->status = event->status;
	}
}

static void format_time(uint64_t utc_ns, char *text, size_t size)
{
	time_t seconds = (time_t)(utc_ns / NS_PER_S);
	struct tm tm;
	size_t n;

	gmtime_r(&seconds, &tm);
	n = strftime(text, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, size - n, ".%03uZ", (unsigned)(utc_ns % NS_PER_S / NS_PER_MS));
}

static int show_list(const struct trace_log *log, const struct arguments *a)
{
	json_t *list = json_array();

	for (const struct trace *trace = log->traces; trace != NULL; trace = trace->hh.next) {
		char id[ID_TEXT_LEN], when[64];
		struct summary s;

		summarize(&s, trace, a->only);
		if (s.first == NULL)
			continue;
		id_format(&trace->id, id);
		format_time(s.first->utc_ns, when, sizeof when);
		if (a->json)
			json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "trace", id,
			                                      "began", when, "reference_point", s.first->point,
			                                      "message", s.first->message, "from", s.first->from,
			                                      "to", s.first->to, "status", s.status));
		else
			printf("%s  %s  %-4s  %s -> %s  %s  %s\n", when, id, s.first->point, s.first->from,
			       s.first->to, s.first->message, s.status);
	}
	if (a->json)
		print_json(list);
	else
		json_decref(list);
	return 0;
}

static int show(const struct trace_log *log, struct arguments *a)
{
	if (a->list)
		return show_list(log, a);
	if (a->all)
		return show_all(log, a);
	if (a->wanted.count == 0)
		trace_log_last(log, &a->wanted);
	for (size_t i = 0; i < a->wanted.count; i++) {
		char text[ID_TEXT_LEN];

		if (trace_log_find(log, &a->wanted.ids[i]) != NULL)
			continue;
		id_format(&a->wanted.ids[i], text);
		fprintf(stderr, "qkdnctl: no trace %s in %s: `qkdnctl trace --list %s` shows what there is\n",
		        text, a->dir, a->dir);
		return status_exit_code(ST_NOT_FOUND);
	}
	return show_one(log, &a->wanted, a);
}

int ctl_trace(int argc, char **argv)
{
	static const struct argp argp = { options, parse_option, "DIR", doc, NULL, NULL, NULL };
	struct arguments a = { .dir = NULL };
	struct trace_log log = { .events = NULL };
	struct err e;
	int status;

	argp_parse(&argp, argc, argv, 0, NULL, &a);
	if (trace_log_read(&log, a.dir, &e) != ST_OK) {
		status = command_fail(&e);
	} else {
		if (log.malformed > 0)
			fprintf(stderr, "qkdnctl: left out %zu lines that are not trace lines\n", log.malformed);
		status = show(&log, &a);
	}
	trace_log_free(&log);
	trace_set_free(&a.wanted);
	return status;
}
