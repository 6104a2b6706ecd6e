/* ladder.c - from lines of trace files to rungs and actors. Drawing is in ladder_text.c, ladder_svg.c. */
#include "ladder.h"

#include <stdlib.h>
#include <string.h>

/* ---- joining the two ends of each message --------------------------------------------------- */

/* A line of the trace on its way into the ladder. */
struct node {
	const struct trace_event *event;
	struct node *partner; /* the other end's line; NULL where there is none */
	struct node *next;    /* of the same observer */
	int waits_for;        /* lines that must come first */
	bool placed;
};

static const char *observer(const struct trace_event *event)
{
	return event->sent ? event->from : event->to;
}

static bool same_message(const struct trace_event *a, const struct trace_event *b)
{
	return id_equal(&a->trace, &b->trace) && strcmp(a->message, b->message) == 0 &&
	       strcmp(a->from, b->from) == 0 && strcmp(a->to, b->to) == 0 && strcmp(a->point, b->point) == 0;
}

/* Joins each line "sent" with the first free "received" of the same message: a message that is
 * sent several times is matched in order. */
static void join_partners(struct node *nodes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		for (size_t k = 0; nodes[i].event->sent && k < count; k++) {
			if (nodes[k].event->sent || nodes[k].partner != NULL ||
			    !same_message(nodes[i].event, nodes[k].event))
				continue;
			nodes[i].partner = &nodes[k];
			nodes[k].partner = &nodes[i];
			nodes[k].waits_for++;
			break;
		}
	}
}

/* Chains each observer's lines: nodes are by time, and one observer has one clock. */
static void chain_observers(struct node *nodes, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		for (size_t k = i + 1; k < count && nodes[i].next == NULL; k++)
			if (strcmp(observer(nodes[i].event), observer(nodes[k].event)) == 0)
				nodes[i].next = &nodes[k];
		if (nodes[i].next != NULL)
			nodes[i].next->waits_for++;
	}
}

/* The earliest line that waits for nothing. Where clocks were set back the rules can contradict
 * each other; the earliest line of all then breaks the circle. */
static struct node *next_node(struct node *nodes, size_t count)
{
	struct node *earliest = NULL;

	for (size_t i = 0; i < count; i++) {
		if (nodes[i].placed)
			continue;
		if (nodes[i].waits_for <= 0)
			return &nodes[i];
		if (earliest == NULL)
			earliest = &nodes[i];
	}
	return earliest;
}

static bool keeps_trace(const struct trace_log *log, const char *actor)
{
	for (size_t i = 0; i < log->count; i++)
		if (strcmp(observer(&log->events[i]), actor) == 0)
			return true;
	return false;
}

static void add_message(struct ladder *l, const struct trace_log *log, const struct node *node)
{
	const struct trace_event *other = node->partner ? node->partner->event : NULL;
	struct ladder_message *m = &l->messages[l->message_count++];

	m->seen = node->event;
	m->sent = node->event->sent ? node->event : other;
	m->received = node->event->sent ? other : node->event;
	m->status = strcmp(m->seen->status, "-") != 0 ? m->seen->status : "";
	m->lost = m->received == NULL && keeps_trace(log, m->seen->to);
}

static void order_messages(struct ladder *l, const struct trace_log *log, struct node *nodes, size_t count)
{
	struct node *node;

	for (size_t left = count; left > 0; left--) {
		node = next_node(nodes, count);
		node->placed = true;
		if (node->next != NULL)
			node->next->waits_for--;
		if (node->event->sent && node->partner != NULL)
			node->partner->waits_for--;
		if (node->partner == NULL || !node->partner->placed)
			add_message(l, log, node);
	}
}

/* ---- which reference points ------------------------------------------------------------------- */

bool ladder_shows(const char *only, const char *point)
{
	size_t len = strlen(point);

	if (only == NULL)
		return true;
	for (const char *p = only; *p != '\0'; p += strcspn(p, ","), p += *p == ',')
		if (strncmp(p, point, len) == 0 && (p[len] == ',' || p[len] == '\0'))
			return true;
	return false;
}

static void leave_out(struct ladder *l, const char *only)
{
	size_t kept = 0;

	for (size_t i = 0; i < l->message_count; i++)
		if (ladder_shows(only, l->messages[i].seen->point))
			l->messages[kept++] = l->messages[i];
	l->message_count = kept;
}

/* ---- actors from left to right ------------------------------------------------------------------ */

static const char *role_title(const char *actor)
{
	static const struct {
		const char *role, *title;
	} titles[] = {
		{ "app/", "application" },       { "km/", "KM" },
		{ "controller/", "controller" }, { "module/", "QKD module" },
		{ "manager/", "manager" },       { "switch/", "optical switch" },
		{ "admin/", "administrator" },   { "relay-point/", "relay point" },
		{ "user-manager/", "user manager" },
	};

	for (size_t i = 0; i < ARRAY_LEN(titles); i++)
		if (strncmp(actor, titles[i].role, strlen(titles[i].role)) == 0)
			return titles[i].title;
	return "";
}

static bool has_role(const char *actor, const char *role)
{
	size_t len = strlen(role);

	return strncmp(actor, role, len) == 0 && actor[len] == '/';
}

/* A list of actors' IDs that refer to the log. */
struct names {
	const char **items;
	size_t count;
};

static size_t position(const struct names *n, const char *actor)
{
	size_t i = 0;

	while (i < n->count && strcmp(n->items[i], actor) != 0)
		i++;
	return i;
}

static void insert(struct names *n, size_t at, const char *actor)
{
	memmove(n->items + at + 1, n->items + at, (n->count - at) * sizeof *n->items);
	n->items[at] = actor;
	n->count++;
}

static void collect(struct names *n, const struct ladder *l, bool kms)
{
	for (size_t i = 0; i < l->message_count; i++) {
		const char *ends[2] = { l->messages[i].seen->from, l->messages[i].seen->to };

		for (int k = 0; k < 2; k++)
			if (has_role(ends[k], "km") == kms && position(n, ends[k]) == n->count)
				insert(n, n->count, ends[k]);
	}
}

/* KMs stand in the order in which they appear, but along the route where keys are relayed. */
static void follow_relays(struct names *kms, const struct ladder *l)
{
	for (size_t i = 0; i < l->message_count; i++) {
		const struct trace_event *event = l->messages[i].seen;
		size_t from = position(kms, event->from), to = position(kms, event->to);
		const char *moved;

		if (strcmp(event->message, "Key relay") != 0 || from >= kms->count || to >= kms->count ||
		    to <= from + 1)
			continue;
		moved = kms->items[to];
		memmove(kms->items + from + 2, kms->items + from + 1, (to - from - 1) * sizeof *kms->items);
		kms->items[from + 1] = moved;
	}
}

/* The first KM that an actor speaks with; NULL where there is none. */
static const char *km_of(const struct ladder *l, const char *actor)
{
	for (size_t i = 0; i < l->message_count; i++) {
		const struct trace_event *event = l->messages[i].seen;

		if (strcmp(event->from, actor) == 0 && has_role(event->to, "km"))
			return event->to;
		if (strcmp(event->to, actor) == 0 && has_role(event->from, "km"))
			return event->from;
	}
	return NULL;
}

/* The KMs at both ends of the ladder, and whether an application stands beside the first. */
struct sides {
	const char *first_km, *last_km;
	bool first_taken;
};

/*
 * Where an actor other than a KM goes. What belongs to the first KM stands to the left of it, what
 * belongs to another to the right; controllers stand between the KMs. The first application stands
 * leftmost, the others beyond what else their KM has.
 */
static void place(struct names *all, const struct ladder *l, const char *actor, struct sides *sides)
{
	const char *km = km_of(l, actor);
	size_t at = km ? position(all, km) : all->count;
	bool first = km != NULL && strcmp(km, sides->first_km) == 0, app = has_role(actor, "app");

	if (km == NULL || has_role(actor, "manager")) {
		insert(all, all->count, actor);
		return;
	}
	if (has_role(actor, "controller")) {
		insert(all, !first && strcmp(km, sides->last_km) == 0 ? at : at + 1, actor);
		return;
	}
	if (first && !(app && sides->first_taken)) {
		sides->first_taken = sides->first_taken || app;
		insert(all, app ? 0 : at, actor);
		return;
	}
	at++;
	while (app && at < all->count && !has_role(all->items[at], "km"))
		at++;
	insert(all, at, actor);
}

static void set_actors(struct ladder *l, const struct names *all)
{
	l->actors = xcalloc(all->count, sizeof *l->actors);
	l->actor_count = all->count;
	for (size_t i = 0; i < all->count; i++) {
		struct ladder_actor *a = &l->actors[i];

		strcpy(a->id, all->items[i]);
		a->role = role_title(a->id);
		a->name = strchr(a->id, '/') + 1;
	}
	for (size_t i = 0; i < l->message_count; i++) {
		l->messages[i].from = position(all, l->messages[i].seen->from);
		l->messages[i].to = position(all, l->messages[i].seen->to);
	}
}

static void order_actors(struct ladder *l)
{
	struct names all = { xcalloc(2 * l->message_count + 1, sizeof *all.items), 0 };
	struct names others = { xcalloc(2 * l->message_count + 1, sizeof *others.items), 0 };
	struct sides sides = { "", "", false };

	collect(&all, l, true);
	follow_relays(&all, l);
	collect(&others, l, false);
	if (all.count > 0) {
		sides.first_km = all.items[0];
		sides.last_km = all.items[all.count - 1];
	}
	for (size_t i = 0; i < others.count; i++)
		if (!has_role(others.items[i], "app"))
			place(&all, l, others.items[i], &sides);
	for (size_t i = 0; i < others.count; i++)
		if (has_role(others.items[i], "app"))
			place(&all, l, others.items[i], &sides);
	set_actors(l, &all);
	free(all.items);
	free(others.items);
}

/* ---- the lines of some traces ------------------------------------------------------------------------ */

static size_t count_lines(const struct trace_log *log, const struct trace_set *set)
{
	size_t count = 0;

	for (size_t i = 0; i < set->count; i++) {
		const struct trace *trace = trace_log_find(log, &set->ids[i]);

		for (const struct trace_event *e = trace ? trace->first : NULL; e != NULL; e = e->next)
			count++;
	}
	return count;
}

static void collect_lines(struct node *nodes, const struct trace_log *log, const struct trace_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		const struct trace *trace = trace_log_find(log, &set->ids[i]);

		for (const struct trace_event *e = trace ? trace->first : NULL; e != NULL; e = e->next)
			(nodes++)->event = e;
	}
}

/* The log is by time: where a line stands in it is its place. */
static int in_order_of_log(const void *a, const void *b)
{
	const struct node *x = a, *y = b;

	return (x->event > y->event) - (x->event < y->event);
}

/* ---- the ladder ----------------------------------------------------------------------------------- */

void ladder_build(struct ladder *l, const struct trace_log *log, const struct trace_set *set,
                  const char *only)
{
	size_t count = count_lines(log, set);
	struct node *nodes = xcalloc(count, sizeof *nodes);

	memset(l, 0, sizeof *l);
	collect_lines(nodes, log, set);
	qsort(nodes, count, sizeof *nodes, in_order_of_log);
	l->messages = xcalloc(count, sizeof *l->messages);
	join_partners(nodes, count);
	chain_observers(nodes, count);
	order_messages(l, log, nodes, count);
	free(nodes);
	leave_out(l, only);
	order_actors(l);
}

void ladder_free(struct ladder *l)
{
	free(l->actors);
	free(l->messages);
	memset(l, 0, sizeof *l);
}

void ladder_label(const struct ladder_message *m, char *text, size_t size)
{
	bool plain = m->status[0] == '\0' || strcmp(m->status, "ok") == 0;

	snprintf(text, size, "%s%s%s%s", m->seen->message, plain ? "" : " [", plain ? "" : m->status,
	         plain ? "" : "]");
}
