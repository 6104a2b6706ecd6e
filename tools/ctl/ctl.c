/* ctl.c - qkdnctl: finds the subcommand and runs it. Each has a file of its own. */
#include "ctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct ctl_command commands[] = {
	{ "km change-master-key", ctl_km_change_master_key, "have the stores of key managers change to their next master key" },
	{ "km status", ctl_km_status, "show what key managers have done since their start" },
	{ "link list", ctl_link_list, "list QKD links with stock, rates and error ratio" },
	{ "pool list", ctl_pool_list, "list the key pools of key managers" },
	{ "relay list", ctl_relay_list, "list the ranges of key bits that are on their way" },
	{ "route show", ctl_route_show, "show the way between two nodes" },
	{ "topology show", ctl_topology_show, "show the network as a controller knows it" },
	{ "trace", ctl_trace, "draw the messages of a procedure as a ladder" },
};

int ctl_fail(const struct err *e)
{
	fprintf(stderr, "qkdnctl: %s\n", e->text);
	return status_exit_code(e->status);
}

static void print_usage(FILE *to)
{
	fputs("Usage: qkdnctl COMMAND [OPTION...] [ARGUMENT...]\n\n"
	      "What a QKD network does, and how it is. Commands:\n\n",
	      to);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(to, "  %-20s %s\n", commands[i].words, commands[i].description);
	fputs("\n`qkdnctl COMMAND --help` tells more; so does qkdnctl(8).\n", to);
}

/* How many of the arguments after the program's name are the command's words; 0: another command. */
static int words_matched(const char *words, int argc, char **argv)
{
	int n = 0;

	while (*words != '\0') {
		size_t len = strcspn(words, " ");

		n++;
		if (n >= argc || strlen(argv[n]) != len || strncmp(argv[n], words, len) != 0)
			return 0;
		words += len + (words[len] == ' ');
	}
	return n;
}

static int run(const struct ctl_command *command, int words, int argc, char **argv)
{
	char *name = xasprintf("qkdnctl %s", command->words);
	int status;

	argv[words] = name;
	status = command->run(argc - words, argv + words);
	free(name);
	return status;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		print_usage(stderr);
		return 1;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
		print_usage(stdout);
		return 0;
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("qkdnctl " QKDN_VERSION);
		return 0;
	}
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		int words = words_matched(commands[i].words, argc, argv);

		if (words > 0)
			return run(&commands[i], words, argc, argv);
	}
	fprintf(stderr, "qkdnctl: no command \"%s\": `qkdnctl --help` lists them\n", argv[1]);
	return 1;
}
