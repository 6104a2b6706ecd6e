/*
 * ladder_svg.c - the ladder as a picture: SVG 1.1 without scripts or outside files.
 *
 * Requests are solid arrows and responses dashed ones, as in UML; an arrow has the colour of its
 * reference point. Text widths are estimated (no font is at hand), on the generous side.
 */
#include "ladder.h"

#include <stdlib.h>
#include <string.h>

enum {
	LABEL_MAX = 128,
	MARGIN = 96,      /* left of the first box: number and reference point */
	EDGE = 28,        /* around everything */
	TITLE = 40,       /* height of the title */
	BOX_HEIGHT = 50,
	ROW = 42,         /* from one arrow to the next */
	FIRST_ROW = 50,   /* from the boxes to the first arrow */
	LETTER_EM = 62,   /* width of a letter, hundredths of the font's size */
	LABEL_SIZE = 13,
	NAME_SIZE = 14,
};

struct drawing {
	FILE *to;
	const struct ladder *l;
	double *x;     /* of each actor's line */
	double *boxes; /* width of each actor's box */
	double width, height, top;
};

static double text_width(size_t letters, int size)
{
	return (double)letters * size * LETTER_EM / 100.0;
}

static void put_escaped(FILE *to, const char *text)
{
	for (; *text != '\0'; text++) {
		switch (*text) {
		case '&':
			fputs("&amp;", to);
			break;
		case '<':
			fputs("&lt;", to);
			break;
		case '>':
			fputs("&gt;", to);
			break;
		case '"':
			fputs("&quot;", to);
			break;
		default:
			fputc(*text, to);
		}
	}
}

static void put_text(struct drawing *d, const char *class, double x, double y, const char *text)
{
	fprintf(d->to, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">", class, x, y);
	put_escaped(d->to, text);
	fputs("</text>\n", d->to);
}

/* Colours with enough contrast on white, and against each other for the colour-blind. */
static const char *point_colour(const char *point)
{
	static const struct {
		const char *prefix, *colour;
	} colours[] = {
		{ "Ak", "#1b6e3c" },   { "Kq", "#6b3fa0" }, { "Kx-1", "#b3261e" }, { "Kx-2", "#0b57a4" },
		{ "Ck", "#9a5b00" },   { "Cx", "#7a4a12" }, { "C", "#80652a" },    { "M", "#4a5568" },
	};

	for (size_t i = 0; i < ARRAY_LEN(colours); i++)
		if (strncmp(point, colours[i].prefix, strlen(colours[i].prefix)) == 0)
			return colours[i].colour;
	return "#333333";
}

static const char *actor_colour(const char *id)
{
	static const struct {
		const char *prefix, *colour;
	} colours[] = {
		{ "app/", "#1b6e3c" },     { "km/", "#12457f" },      { "controller/", "#9a5b00" },
		{ "module/", "#6b3fa0" },  { "switch/", "#6b3fa0" },  { "relay-point/", "#6b3fa0" },
		{ "manager/", "#4a5568" },
	};

	for (size_t i = 0; i < ARRAY_LEN(colours); i++)
		if (strncmp(id, colours[i].prefix, strlen(colours[i].prefix)) == 0)
			return colours[i].colour;
	return "#333333";
}

/* ---- layout ------------------------------------------------------------------------------------ */

static double label_width(const struct ladder_message *m)
{
	char label[LABEL_MAX];

	ladder_label(m, label, sizeof label);
	return text_width(strlen(label), LABEL_SIZE);
}

static void push_right(struct drawing *d, size_t actor, size_t other, double distance)
{
	double missing = d->x[other] + distance - d->x[actor];

	for (size_t i = actor; missing > 0 && i < d->l->actor_count; i++)
		d->x[i] += missing;
}

static void make_room(struct drawing *d, bool neighbours)
{
	for (size_t i = 0; i < d->l->message_count; i++) {
		const struct ladder_message *m = &d->l->messages[i];
		size_t low = m->from < m->to ? m->from : m->to, high = m->from < m->to ? m->to : m->from;

		if (low == high) {
			if (low + 1 < d->l->actor_count)
				push_right(d, low + 1, low, label_width(m) + 60);
		} else if ((high == low + 1) == neighbours) {
			push_right(d, high, low, label_width(m) + (m->lost ? 80 : 40));
		}
	}
}

static double box_width(const struct ladder_actor *a)
{
	double name = text_width(strlen(a->name), NAME_SIZE) * 1.1, role = text_width(strlen(a->role), 11);
	double widest = name > role ? name : role;

	return widest + 32 > 110 ? widest + 32 : 110;
}

static void lay_out(struct drawing *d, const char *title)
{
	size_t count = d->l->actor_count;
	double right, titled;

	for (size_t i = 0; i < count; i++) {
		d->boxes[i] = box_width(&d->l->actors[i]);
		d->x[i] = i == 0 ? EDGE + MARGIN + d->boxes[0] / 2
				 : d->x[i - 1] + d->boxes[i - 1] / 2 + d->boxes[i] / 2 + 24;
	}
	make_room(d, true);
	make_room(d, false);
	right = count > 0 ? d->x[count - 1] + d->boxes[count - 1] / 2 : 0;
	titled = title != NULL ? EDGE + text_width(strlen(title), 18) : 0;
	d->width = (right > titled ? right : titled) + EDGE;
	d->top = EDGE + (title != NULL ? TITLE : 0);
	d->height = d->top + BOX_HEIGHT + FIRST_ROW + (double)d->l->message_count * ROW + EDGE;
}

/* ---- drawing ----------------------------------------------------------------------------------- */

static void draw_head(struct drawing *d, const char *title)
{
	fprintf(d->to,
	        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
	        "viewBox=\"0 0 %.0f %.0f\">\n",
	        d->width, d->height, d->width, d->height);
	fputs("<style>\n"
	      "text { font-family: 'DejaVu Sans', Verdana, sans-serif; fill: #1d2733 }\n"
	      ".title { font-size: 18px; font-weight: bold }\n"
	      ".role { font-size: 11px; fill: #ffffff; fill-opacity: .85; text-anchor: middle }\n"
	      ".name { font-size: 14px; font-weight: bold; fill: #ffffff; text-anchor: middle }\n"
	      ".label { font-size: 13px; text-anchor: middle }\n"
	      ".beside { font-size: 13px }\n"
	      ".halo { font-size: 13px; text-anchor: middle; fill: #ffffff; stroke: #ffffff; stroke-width: 5px; "
	      "stroke-linejoin: round }\n"
	      ".number { font-size: 11px; fill: #6b7785; text-anchor: end }\n"
	      ".point { font-size: 11px; font-weight: bold; fill: #ffffff; text-anchor: middle }\n"
	      ".failed { fill: #b3261e; font-weight: bold }\n"
	      "</style>\n",
	      d->to);
	fprintf(d->to, "<rect width=\"%.0f\" height=\"%.0f\" fill=\"#ffffff\"/>\n", d->width, d->height);
	if (title != NULL)
		put_text(d, "title", EDGE, EDGE + 14, title);
}

static void draw_actor(struct drawing *d, size_t i)
{
	const struct ladder_actor *a = &d->l->actors[i];

	fprintf(d->to,
	        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#b4bfcb\" "
	        "stroke-width=\"1.5\"/>\n",
	        d->x[i], d->top + BOX_HEIGHT, d->x[i], d->height - EDGE);
	fprintf(d->to,
	        "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"8\" fill=\"%s\"/>\n",
	        d->x[i] - d->boxes[i] / 2, d->top, d->boxes[i], BOX_HEIGHT, actor_colour(a->id));
	put_text(d, "role", d->x[i], d->top + 19, a->role);
	put_text(d, "name", d->x[i], d->top + 37, a->name);
}

static void draw_margin(struct drawing *d, size_t number, const char *point, double y)
{
	char text[24];

	snprintf(text, sizeof text, "%zu", number);
	put_text(d, "number", EDGE + 22, y + 4, text);
	fprintf(d->to,
	        "<rect x=\"%d\" y=\"%.1f\" width=\"44\" height=\"18\" rx=\"9\" fill=\"%s\"/>\n",
	        EDGE + 32, y - 9, point_colour(point));
	put_text(d, "point", EDGE + 54, y + 4, point);
}

/* The white copy beneath keeps life lines from running through the words. */
static void draw_label(struct drawing *d, const struct ladder_message *m, double x, double y)
{
	bool failed = m->lost || (m->status[0] != '\0' && strcmp(m->status, "ok") != 0);
	char label[LABEL_MAX];

	ladder_label(m, label, sizeof label);
	put_text(d, "halo", x, y, label);
	put_text(d, failed ? "label failed" : "label", x, y, label);
}

static void draw_own(struct drawing *d, const struct ladder_message *m, double y)
{
	char label[LABEL_MAX];

	ladder_label(m, label, sizeof label);
	fprintf(d->to,
	        "<path d=\"M %.1f %.1f h 22 v 12 h -20\" fill=\"none\" stroke=\"%s\" "
	        "stroke-width=\"2\"/>\n",
	        d->x[m->from], y - 6, point_colour(m->seen->point));
	put_text(d, "beside", d->x[m->from] + 30, y + 4, label);
}

static void draw_arrow(struct drawing *d, const struct ladder_message *m, double y)
{
	const char *colour = point_colour(m->seen->point);
	double from = d->x[m->from], to = d->x[m->to], way = to > from ? 1 : -1;
	bool response = strncmp(m->seen->message, "Response", 8) == 0;
	double end = m->lost ? to - way * 28 : to - way * 2;

	fprintf(d->to,
	        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"%s/>\n",
	        from, y, end - way * 8, y, colour, response ? " stroke-dasharray=\"6 4\"" : "");
	fprintf(d->to, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", from, y, colour);
	if (m->lost)
		fprintf(d->to,
		        "<path d=\"M %.1f %.1f l 12 12 m 0 -12 l -12 12\" stroke=\"#b3261e\" "
		        "stroke-width=\"2.5\"/>\n",
		        end - 6, y - 6);
	else
		fprintf(d->to, "<path d=\"M %.1f %.1f l %.1f -5 v 10 z\" fill=\"%s\"/>\n", end, y, -way * 11,
		        colour);
	draw_label(d, m, (from + (m->lost ? end - way * 8 : to)) / 2, y - 7);
}

void ladder_print_svg(FILE *to, const struct ladder *l, const char *title)
{
	struct drawing d = { .to = to, .l = l };

	d.x = xcalloc(l->actor_count, sizeof *d.x);
	d.boxes = xcalloc(l->actor_count, sizeof *d.boxes);
	lay_out(&d, title);
	draw_head(&d, title);
	for (size_t i = 0; i < l->actor_count; i++)
		draw_actor(&d, i);
	for (size_t i = 0; i < l->message_count; i++) {
		const struct ladder_message *m = &l->messages[i];
		double y = d.top + BOX_HEIGHT + FIRST_ROW + (double)i * ROW;

		draw_margin(&d, i + 1, m->seen->point, y);
		if (m->from == m->to)
			draw_own(&d, m, y);
		else
			draw_arrow(&d, m, y);
	}
	fputs("</svg>\n", to);
	free(d.x);
	free(d.boxes);
}
