/*
 * ladder.h - the messages of a procedure as a ladder, as in the Recommendation's Figures I-1 to I-5b.
 *
 * The trace has one line from each end of a message; the ladder has one rung. Rungs are in causal
 * order: nothing is received before it was sent, each end's lines stay in that end's order, and only
 * what neither rule decides goes by time, so clocks of different hosts need not agree.
 */
#ifndef QKDN_LADDER_H
#define QKDN_LADDER_H

#include <stdio.h>

#include "trace_log.h"

struct ladder_actor {
	char id[TRACE_ACTOR_MAX + 1]; /* "km/alice" */
	const char *role;             /* as figures call it: "KM", "application" */
	const char *name;             /* within id */
};

struct ladder_message {
	const struct trace_event *sent, *received; /* one of them may be NULL: that end keeps no trace */
	const struct trace_event *seen;            /* the one that is there */
	size_t from, to;                           /* actors */
	const char *status;                        /* "" where the message carries none */
	bool lost;                                 /* its receiver keeps a trace and never saw it */
};

struct ladder {
	struct ladder_actor *actors; /* from left to right */
	size_t actor_count;
	struct ladder_message *messages; /* from top to bottom */
	size_t message_count;
};

/* Whether the reference points to show, separated by commas ("Ak,Kx-2"), name that one; NULL shows all. */
bool ladder_shows(const char *only, const char *point);

/* The ladder of the traces in set, at the reference points that only shows. It refers to the log; the caller
 * frees. */
void ladder_build(struct ladder *l, const struct trace_log *log, const struct trace_set *set,
                  const char *only);
void ladder_free(struct ladder *l);

/* The words at a rung: the message's name, and what was answered where that is not "ok". */
void ladder_label(const struct ladder_message *m, char *text, size_t size);

struct ladder_style {
	bool ascii; /* no box-drawing characters */
	bool times; /* milliseconds since the first rung, and the traces' IDs */
};

/* Without times the text is the same for every run of the same procedure: a golden file. */
void ladder_print_text(FILE *to, const struct ladder *l, const struct ladder_style *style);

/* A line a message, as narrow as the names allow. */
void ladder_print_lines(FILE *to, const struct ladder *l);

/* A picture that stands alone; title may be NULL. */
void ladder_print_svg(FILE *to, const struct ladder *l, const char *title);

#endif
