/* command.c - the frame of a command line with subcommands. */
#include "command.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command_line *running; /* argp's hook for --version and command_fail are given no argument */

int command_fail(const struct err *e)
{
	fprintf(stderr, "%s: %s\n", running->program, e->text);
	return status_exit_code(e->status);
}

static void print_version(FILE *to, struct argp_state *state)
{
	(void)state;
	fprintf(to, "%s %s\n", running->program, QKDN_VERSION);
}

static void print_help(const struct command_line *line, FILE *to)
{
	int width = 0;

	for (size_t i = 0; i < line->count; i++)
		if ((int)strlen(line->commands[i].words) > width)
			width = (int)strlen(line->commands[i].words);
	fprintf(to, "Usage: %s %s\n\n%s Commands:\n\n", line->program, line->usage, line->about);
	for (size_t i = 0; i < line->count; i++)
		fprintf(to, "  %-*s  %s\n", width, line->commands[i].words, line->commands[i].description);
	fprintf(to, "\n%s`%s COMMAND --help` tells more; so does %s.\n", line->more != NULL ? line->more : "",
	        line->program, line->page);
}

/* How many of the arguments behind the program's name are the first words of a command. */
static int words_matched(const char *words, int argc, char **argv, bool *all)
{
	int n = 0;

	for (*all = false; !*all; n++) {
		size_t len = strcspn(words, " ");

		if (n + 1 >= argc || strlen(argv[n + 1]) != len || strncmp(argv[n + 1], words, len) != 0)
			return n;
		*all = words[len] == '\0';
		words += len + 1;
	}
	return n;
}

static int run(const struct command *command, int words, int argc, char **argv)
{
	char *name = xasprintf("%s %s", running->program, command->words);
	int status;

	argv[words] = name;
	status = command->run(argc - words, argv + words);
	free(name);
	return status;
}

static bool begins(const struct command *command, int argc, char **argv)
{
	bool all;

	return words_matched(command->words, argc, argv, &all) > 0;
}

/* A command that is not there. Of two words, those that begin with the first one are told, else all. */
static int not_a_command(const struct command_line *line, int argc, char **argv)
{
	const char *separator = "", *second = "";
	bool begun = false;

	for (size_t i = 0; i < line->count; i++)
		begun |= begins(&line->commands[i], argc, argv);
	if (begun && argc > 2 && argv[2][0] != '-')
		second = argv[2];
	fprintf(stderr, "%s: no command \"%s%s%s\": %s", line->program, argv[1], second[0] != '\0' ? " " : "",
	        second, begun ? "there is " : "");
	for (size_t i = 0; i < line->count; i++) {
		if (begun && !begins(&line->commands[i], argc, argv))
			continue;
		fprintf(stderr, begun ? "%s\"%s\"" : "%s%s", separator, line->commands[i].words);
		separator = begun ? " or " : ", ";
	}
	fputc('\n', stderr);
	return 1;
}

int command_line_run(const struct command_line *line, int argc, char **argv)
{
	running = line;
	argp_program_version_hook = print_version;
	argp_err_exit_status = 1;
	if (argc < 2) {
		print_help(line, stderr);
		return 1;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
		print_help(line, stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		print_version(stdout, NULL);
		return 0;
	}
	for (size_t i = 0; i < line->count; i++) {
		bool all;
		int words = words_matched(line->commands[i].words, argc, argv, &all);

		if (all)
			return run(&line->commands[i], words, argc, argv);
	}
	return not_a_command(line, argc, argv);
}
