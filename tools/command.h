/* command.h - the frame of a command line with subcommands, and its way to fail. */
#ifndef QKDN_COMMAND_H
#define QKDN_COMMAND_H

#include "status.h"

struct command {
	const char *words; /* "trace", "link list" */
	int (*run)(int argc, char **argv); /* argv[0] is the program and the words; returns the exit status */
	const char *description;           /* one line, for --help */
};

struct command_line {
	const char *program; /* "qkdnctl" */
	const char *usage;   /* behind the program's name: "COMMAND [OPTION...]" */
	const char *about;   /* a sentence */
	const char *more;    /* lines below the list of commands; NULL: none */
	const char *page;    /* "qkdnctl(8)" */
	const struct command *commands;
	size_t count;
};

/* Runs the command that the first words name, or tells of all of them. Returns the exit status. */
int command_line_run(const struct command_line *line, int argc, char **argv);

/* Prints the text of a failure on standard error and returns the exit status for it. */
int command_fail(const struct err *e);

#endif
