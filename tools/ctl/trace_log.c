/* trace_log.c - reads trace files, and finds the traces that belong to one procedure. */
#include "trace_log.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIELDS = 8 };

/* Copies a field of printable ASCII; false where it is empty, too long or anything else. */
static bool take(char *to, size_t max, const char *from)
{
	size_t len = strlen(from);

	if (len == 0 || len > max)
		return false;
	for (size_t i = 0; i <= len; i++) {
		if (i < len && (from[i] < ' ' || from[i] > '~'))
			return false;
		to[i] = from[i];
	}
	return true;
}

static bool take_time(uint64_t *ns, const char *text)
{
	char *end;

	errno = 0;
	*ns = strtoull(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && text[0] >= '0' && text[0] <= '9';
}

/* An actor is role/name. */
static bool take_actor(char *to, const char *from)
{
	const char *slash = strchr(from, '/');

	return slash != NULL && slash != from && name_is_valid(slash + 1) && take(to, TRACE_ACTOR_MAX, from);
}

/* false, too, where it has no end: what was cut short may look like a whole one. */
static bool parse_line(struct trace_event *event, char *line)
{
	char *fields[FIELDS], *end = strchr(line, '\n');
	int n = 0;

	if (end == NULL)
		return false;
	*end = '\0';
	for (char *f = strsep(&line, "\t"); f != NULL; f = strsep(&line, "\t")) {
		if (n == FIELDS)
			return false;
		fields[n++] = f;
	}
	if (n != FIELDS || (strcmp(fields[6], "sent") != 0 && strcmp(fields[6], "received") != 0))
		return false;
	event->sent = strcmp(fields[6], "sent") == 0;
	return take_time(&event->utc_ns, fields[0]) && id_parse(&event->trace, fields[1]) &&
	       take(event->point, TRACE_POINT_MAX, fields[2]) &&
	       take(event->message, TRACE_MESSAGE_MAX, fields[3]) && take_actor(event->from, fields[4]) &&
	       take_actor(event->to, fields[5]) && take(event->status, TRACE_STATUS_MAX, fields[7]);
}

static void add_event(struct trace_log *log, const struct trace_event *event)
{
	if (log->count == log->room) {
		log->room = log->room ? 2 * log->room : 256;
		log->events = xrealloc(log->events, log->room * sizeof *log->events);
	}
	log->events[log->count++] = *event;
}

static enum status read_file(struct trace_log *log, const char *path, struct err *e)
{
	FILE *f = fopen(path, "re");
	enum status status = ST_OK;
	struct trace_event event;
	char *line = NULL;
	size_t room = 0;

	if (f == NULL)
		return err_set(e, ST_CONFIGURATION, "reading %s: %s", path, strerror(errno));
	while (getline(&line, &room, f) > 0) {
		if (parse_line(&event, line))
			add_event(log, &event);
		else
			log->malformed++;
	}
	if (ferror(f))
		status = err_set(e, ST_CONFIGURATION, "reading %s: %s", path, strerror(errno));
	free(line);
	fclose(f);
	return status;
}

static int is_trace_file(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name);

	return len > 6 && entry->d_name[0] != '.' && strcmp(entry->d_name + len - 6, ".trace") == 0;
}

static enum status read_folder(struct trace_log *log, const char *dir, int *files, struct err *e)
{
	struct dirent **entries;
	enum status status = ST_OK;

	*files = scandir(dir, &entries, is_trace_file, alphasort);
	if (*files < 0)
		return err_set(e, errno == ENOENT ? ST_NOT_FOUND : ST_CONFIGURATION, "reading %s: %s", dir,
		               strerror(errno));
	for (int i = 0; i < *files; i++) {
		char *path = xasprintf("%s/%s", dir, entries[i]->d_name);

		if (status == ST_OK)
			status = read_file(log, path, e);
		free(path);
		free(entries[i]);
	}
	free(entries);
	return status;
}

/* Merges two sorted runs of events; stable, as qsort is not. */
static void merge(struct trace_event *out, const struct trace_event *a, size_t na,
                  const struct trace_event *b, size_t nb)
{
	while (na > 0 || nb > 0) {
		if (nb == 0 || (na > 0 && a->utc_ns <= b->utc_ns)) {
			*out++ = *a++;
			na--;
		} else {
			*out++ = *b++;
			nb--;
		}
	}
}

static void sort_by_time(struct trace_event *events, struct trace_event *room, size_t count)
{
	size_t half = count / 2;

	if (count < 2)
		return;
	sort_by_time(events, room, half);
	sort_by_time(events + half, room, count - half);
	merge(room, events, half, events + half, count - half);
	memcpy(events, room, count * sizeof *events);
}

enum status trace_log_read(struct trace_log *log, const char *dir, struct err *e)
{
	char *sub = xasprintf("%s/trace", dir);
	struct trace_event *room;
	enum status status;
	int files = 0;

	status = read_folder(log, sub, &files, e);
	if (status == ST_NOT_FOUND)
		status = read_folder(log, dir, &files, e);
	free(sub);
	if (status != ST_OK)
		return status;
	if (files == 0)
		return err_set(e, ST_NOT_FOUND,
		               "%s: no *.trace files here or in its trace/ folder: name the folder that "
		               "qkdn-lab was given, and set trace = \"…\" in the daemons' configuration",
		               dir);
	room = xcalloc(log->count, sizeof *room);
	sort_by_time(log->events, room, log->count);
	free(room);
	trace_log_index(log);
	return ST_OK;
}

const struct trace *trace_log_find(const struct trace_log *log, const struct id *id)
{
	struct trace *trace;

	HASH_FIND(hh, log->traces, id, sizeof *id, trace);
	return trace;
}

void trace_log_index(struct trace_log *log)
{
	for (size_t i = 0; i < log->count; i++) {
		struct trace_event *event = &log->events[i];
		struct trace *trace;

		event->next = NULL;
		HASH_FIND(hh, log->traces, &event->trace, sizeof event->trace, trace);
		if (trace == NULL) {
			trace = xcalloc(1, sizeof *trace);
			trace->id = event->trace;
			trace->first = event;
			HASH_ADD(hh, log->traces, id, sizeof trace->id, trace);
		} else {
			trace->last->next = event;
		}
		trace->last = event;
	}
}

void trace_log_free(struct trace_log *log)
{
	struct trace *trace, *next;

	HASH_ITER (hh, log->traces, trace, next) {
		HASH_DEL(log->traces, trace);
		free(trace);
	}
	free(log->events);
	memset(log, 0, sizeof *log);
}

static bool trace_set_has(const struct trace_set *set, const struct id *id)
{
	for (size_t i = 0; i < set->count; i++)
		if (id_equal(&set->ids[i], id))
			return true;
	return false;
}

static void append(struct trace_set *set, const struct id *id)
{
	if (set->count == set->room) {
		set->room = set->room ? 2 * set->room : 16;
		set->ids = xrealloc(set->ids, set->room * sizeof *set->ids);
	}
	set->ids[set->count++] = *id;
}

void trace_set_add(struct trace_set *set, const struct id *id)
{
	if (!trace_set_has(set, id))
		append(set, id);
}

void trace_set_free(struct trace_set *set)
{
	free(set->ids);
	memset(set, 0, sizeof *set);
}

void trace_log_all(const struct trace_log *log, struct trace_set *set)
{
	for (const struct trace *trace = log->traces; trace != NULL; trace = trace->hh.next)
		append(set, &trace->id);
}

static bool is_request_at_ak(const struct trace_event *event)
{
	return strcmp(event->point, "Ak") == 0 && strncmp(event->message, "Response", 8) != 0;
}

static bool is_request_with_id(const struct trace_event *event)
{
	return is_request_at_ak(event) && strcmp(event->message, "Key request with ID") == 0;
}

void trace_log_last(const struct trace_log *log, struct trace_set *set)
{
	size_t first = log->count;

	for (size_t i = log->count; i-- > 0 && first == log->count;)
		if (is_request_at_ak(&log->events[i]) && !is_request_with_id(&log->events[i]))
			first = i;
	if (first == log->count) {
		if (log->count > 0)
			trace_set_add(set, &log->events[log->count - 1].trace);
		return;
	}
	trace_set_add(set, &log->events[first].trace);
	for (size_t i = first; i < log->count; i++)
		if (is_request_with_id(&log->events[i]))
			trace_set_add(set, &log->events[i].trace);
}
