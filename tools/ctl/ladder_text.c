/* ladder_text.c - the ladder on a terminal: a grid of characters, one row a message. */
#include "ladder.h"

#include <stdlib.h>
#include <string.h>

enum { LABEL_MAX = 128, MARGIN_MAX = 64 };

/* What lines are drawn with; each is one column wide. */
struct pen {
	const char *line, *vertical, *cross, *right, *left, *from_left, *from_right, *dash, *lost, *self;
	const char *top_left, *top_right, *bottom_left, *bottom_right, *foot;
};

static const struct pen box_pen = { "─", "│", "┼", "▶", "◀", "├", "┤", "╌", "✗",
	                            "↺", "┌", "┐", "└", "┘", "┬" };
static const struct pen ascii_pen = { "-", "|", "+", ">", "<", "|", "|", "~", "x",
	                              "@", "+", "+", "+", "+", "+" };

struct sheet {
	FILE *to;
	const struct ladder *l;
	const struct ladder_style *style;
	const struct pen *pen;
	const char **row; /* one string a column: static text or one of letters */
	size_t width, margin;
	size_t *x;     /* column of each actor's line */
	size_t *boxes; /* width of each actor's box, odd or even */
};

/* Characters as strings, so that a row is made of one kind of thing. */
static const char *letter(char c)
{
	static char letters[128][2];

	letters[(unsigned char)c & 127][0] = c;
	return letters[(unsigned char)c & 127];
}

static void clear(struct sheet *s)
{
	for (size_t i = 0; i < s->width; i++)
		s->row[i] = " ";
}

static void put_text(struct sheet *s, size_t at, const char *text)
{
	for (; *text != '\0' && at < s->width; text++)
		s->row[at++] = letter(*text);
}

static void print_row(struct sheet *s)
{
	size_t end = s->width;

	while (end > 0 && strcmp(s->row[end - 1], " ") == 0)
		end--;
	for (size_t i = 0; i < end; i++)
		fputs(s->row[i], s->to);
	fputc('\n', s->to);
}

/* ---- layout ------------------------------------------------------------------------------------ */

static size_t box_width(const struct ladder_actor *a)
{
	size_t role = strlen(a->role), name = strlen(a->name);

	return (role > name ? role : name) + 4;
}

static size_t label_length(const struct ladder_message *m)
{
	char label[LABEL_MAX];

	ladder_label(m, label, sizeof label);
	return strlen(label);
}

/* Moves actor and all to its right so that it stands at least distance from another. */
static void push_right(struct sheet *s, size_t actor, size_t other, size_t distance)
{
	size_t missing = s->x[other] + distance;

	if (s->x[actor] >= missing)
		return;
	missing -= s->x[actor];
	for (size_t i = actor; i < s->l->actor_count; i++)
		s->x[i] += missing;
}

/* Arrows between neighbours decide first, so that longer arrows find most of their room there. */
static void make_room(struct sheet *s, bool neighbours)
{
	for (size_t i = 0; i < s->l->message_count; i++) {
		const struct ladder_message *m = &s->l->messages[i];
		size_t low = m->from < m->to ? m->from : m->to, high = m->from < m->to ? m->to : m->from;

		if (low == high) {
			if (low + 1 < s->l->actor_count)
				push_right(s, low + 1, low, label_length(m) + 5);
		} else if ((high == low + 1) == neighbours) {
			push_right(s, high, low, label_length(m) + 6);
		}
	}
}

static void lay_out(struct sheet *s)
{
	size_t count = s->l->actor_count;

	for (size_t i = 0; i < count; i++) {
		s->boxes[i] = box_width(&s->l->actors[i]);
		s->x[i] = i == 0 ? s->margin + s->boxes[0] / 2
				 : s->x[i - 1] + (s->boxes[i - 1] + 1) / 2 + s->boxes[i] / 2 + 1;
	}
	make_room(s, true);
	make_room(s, false);
	s->width = s->x[count - 1] + s->boxes[count - 1] + LABEL_MAX;
}

/* ---- drawing ----------------------------------------------------------------------------------- */

static void draw_box_row(struct sheet *s, int part)
{
	const struct pen *p = s->pen;

	clear(s);
	for (size_t i = 0; i < s->l->actor_count; i++) {
		const struct ladder_actor *a = &s->l->actors[i];
		size_t left = s->x[i] - s->boxes[i] / 2, right = left + s->boxes[i] - 1;
		bool edge = part == 0 || part == 3;
		const char *text = part == 1 ? a->role : a->name;

		for (size_t c = left + 1; edge && c < right; c++)
			s->row[c] = p->line;
		s->row[left] = part == 0 ? p->top_left : part == 3 ? p->bottom_left : p->vertical;
		s->row[right] = part == 0 ? p->top_right : part == 3 ? p->bottom_right : p->vertical;
		if (part == 3)
			s->row[s->x[i]] = p->foot;
		if (!edge)
			put_text(s, left + (s->boxes[i] - strlen(text)) / 2, text);
	}
	print_row(s);
}

static void draw_life_lines(struct sheet *s)
{
	clear(s);
	for (size_t i = 0; i < s->l->actor_count; i++)
		s->row[s->x[i]] = s->pen->vertical;
}

/* The first column of a label between two life lines: in the widest gap on the way that holds it,
 * else in the middle of the way. */
static size_t label_column(const struct sheet *s, size_t low, size_t high, size_t len)
{
	size_t from = s->x[low], to = s->x[high], widest = 0;

	for (size_t i = low; i < high; i++) {
		size_t gap = s->x[i + 1] - s->x[i];

		if (gap > widest && gap >= len + 4) {
			widest = gap;
			from = s->x[i];
			to = s->x[i + 1];
		}
	}
	return from + 1 + (to - from - 1 - len) / 2;
}

static void draw_arrow(struct sheet *s, const struct ladder_message *m, const char *label)
{
	bool rightwards = m->from < m->to;
	size_t low = rightwards ? m->from : m->to, high = rightwards ? m->to : m->from;
	size_t len = strlen(label), at = label_column(s, low, high, len);
	const struct pen *p = s->pen;
	const char *head = m->lost ? p->lost : rightwards ? p->right : p->left;

	for (size_t c = s->x[low] + 1; c < s->x[high]; c++)
		s->row[c] = m->lost ? p->dash : strcmp(s->row[c], p->vertical) == 0 ? p->cross : p->line;
	s->row[s->x[m->from]] = rightwards ? p->from_left : p->from_right;
	s->row[rightwards ? s->x[high] - 1 : s->x[low] + 1] = head;
	put_text(s, at - 1, " ");
	put_text(s, at, label);
	put_text(s, at + len, " ");
}

static uint64_t first_time(const struct ladder *l)
{
	uint64_t first = UINT64_MAX;

	for (size_t i = 0; i < l->message_count; i++)
		if (l->messages[i].seen->utc_ns < first)
			first = l->messages[i].seen->utc_ns;
	return first;
}

static void draw_margin(struct sheet *s, size_t number, const struct ladder_message *m)
{
	char time[MARGIN_MAX] = "", text[2 * MARGIN_MAX];

	if (s->style->times)
		snprintf(time, sizeof time, "%11.3f", (double)(m->seen->utc_ns - first_time(s->l)) / 1e6);
	snprintf(text, sizeof text, "%3zu  %-4s %s", number, m->seen->point, time);
	put_text(s, 0, text);
}

static void draw_message(struct sheet *s, size_t number, const struct ladder_message *m)
{
	char label[LABEL_MAX];

	ladder_label(m, label, sizeof label);
	draw_life_lines(s);
	draw_margin(s, number, m);
	if (m->from == m->to) {
		s->row[s->x[m->from] + 1] = s->pen->self;
		put_text(s, s->x[m->from] + 3, label);
	} else {
		draw_arrow(s, m, label);
	}
	print_row(s);
}

static void print_traces(struct sheet *s)
{
	struct trace_set seen = { NULL, 0, 0 };
	char text[ID_TEXT_LEN];

	for (size_t i = 0; i < s->l->message_count; i++)
		trace_set_add(&seen, &s->l->messages[i].seen->trace);
	for (size_t i = 0; i < seen.count; i++) {
		id_format(&seen.ids[i], text);
		fprintf(s->to, "trace %s\n", text);
	}
	trace_set_free(&seen);
}

void ladder_print_text(FILE *to, const struct ladder *l, const struct ladder_style *style)
{
	struct sheet s = { .to = to, .l = l, .style = style, .margin = style->times ? 24 : 12 };

	if (l->message_count == 0) {
		fputs("no messages\n", to);
		return;
	}
	s.pen = style->ascii ? &ascii_pen : &box_pen;
	s.x = xcalloc(l->actor_count, sizeof *s.x);
	s.boxes = xcalloc(l->actor_count, sizeof *s.boxes);
	lay_out(&s);
	s.row = xcalloc(s.width, sizeof *s.row);
	if (style->times)
		print_traces(&s);
	for (int part = 0; part < 4; part++)
		draw_box_row(&s, part);
	for (size_t i = 0; i < l->message_count; i++)
		draw_message(&s, i + 1, &l->messages[i]);
	draw_life_lines(&s);
	print_row(&s);
	free(s.x);
	free(s.boxes);
	free(s.row);
}

/* ---- one line a message, for narrow terminals ------------------------------------------------------------- */

static int widest(const struct ladder *l)
{
	size_t width = 0;

	for (size_t i = 0; i < l->actor_count; i++)
		if (strlen(l->actors[i].id) > width)
			width = strlen(l->actors[i].id);
	return (int)width;
}

void ladder_print_lines(FILE *to, const struct ladder *l)
{
	int width = widest(l);
	char label[LABEL_MAX];

	for (size_t i = 0; i < l->message_count; i++) {
		const struct ladder_message *m = &l->messages[i];

		ladder_label(m, label, sizeof label);
		fprintf(to, "%3zu  %-4s  %-*s -> %-*s  %s%s\n", i + 1, m->seen->point, width, m->seen->from, width,
		        m->seen->to, label, m->lost ? " (lost)" : "");
	}
}
