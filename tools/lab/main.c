/* main.c - qkdn-lab: the subcommands. */
#include <signal.h>

#include "lab.h"

#include <argp.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "file.h"
#include "log.h"

enum { KEYS_S = 60, WORDS = 3 };

struct words {
	const char *word[WORDS];
	unsigned count, least, most;
	const char *wanted; /* "FILE DIR" */
	bool netns, json, kill;
	unsigned wait_s;
};

static unsigned parse_seconds(struct argp_state *state, const char *text)
{
	char *rest;
	unsigned long n = strtoul(text, &rest, 10);

	if (*text == '\0' || *rest != '\0' || n > 3600)
		argp_error(state, "--wait: '%s' is no number of seconds up to 3600", text);
	return (unsigned)n;
}

static error_t parse(int key, char *value, struct argp_state *state)
{
	struct words *w = state->input;

	switch (key) {
	case 'n':
		w->netns = true;
		return 0;
	case 'w':
		w->wait_s = parse_seconds(state, value);
		return 0;
	case 'j':
		w->json = true;
		return 0;
	case 'k':
		w->kill = true;
		return 0;
	case ARGP_KEY_ARG:
		if (w->count == w->most)
			argp_error(state, "unexpected argument '%s'", value);
		w->word[w->count++] = value;
		return 0;
	case ARGP_KEY_END:
		if (w->count < w->least)
			argp_error(state, "give %s", w->wanted);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void parse_words(struct words *w, unsigned least, unsigned most, const struct argp_option *options,
                        const char *args, const char *doc, int argc, char **argv)
{
	const struct argp argp = { options, parse, args, doc, NULL, NULL, NULL };

	w->least = least;
	w->most = most;
	w->wanted = args;
	argp_parse(&argp, argc, argv, 0, NULL, w);
}

static enum status load_locked(struct lab **lab, const char *directory, struct err *e)
{
	enum status status = lab_load(lab, directory, e);

	if (status != ST_OK)
		return status;
	status = lab_take_lock(*lab, e);
	if (status != ST_OK)
		lab_free(*lab);
	return status;
}

static void interrupted(int number)
{
	lab_interrupted = number;
}

static void watch_signals(void)
{
	struct sigaction a = { .sa_handler = interrupted };

	sigaction(SIGINT, &a, NULL);
	sigaction(SIGTERM, &a, NULL);
}

/* ---- up, down ------------------------------------------------------------------------------------------- */

static enum status refuse_running(const char *directory, struct err *e)
{
	struct lab *lab;
	enum status status = lab_load(&lab, directory, e);

	if (status == ST_NOT_FOUND)
		return ST_OK;
	if (status != ST_OK)
		return status;
	lab_free(lab);
	return err_set(e, ST_CONFLICT, "a network is up in %s already: qkdn-lab down %s first", directory, directory);
}

static void take_down(struct lab *lab)
{
	lab_stop(lab, NULL, SIGTERM);
	lab_netns_remove(lab);
	lab_forget(lab);
}

static enum status bring_up(struct lab *lab, const struct topology *t, unsigned wait_s, struct err *e)
{
	enum status status = lab_write_files(lab, t, e);

	if (status == ST_OK)
		status = lab_save(lab, e);
	if (status == ST_OK && lab->netns)
		status = lab_netns_make(lab, e);
	if (status == ST_OK)
		status = lab_start(lab, NULL, e);
	if (status == ST_OK && wait_s > 0)
		status = lab_wait_keys(lab, t, wait_s * 1000, e);
	if (status != ST_OK)
		take_down(lab);
	return status;
}

static int up(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "netns", 'n', NULL, 0, "A network namespace with an rpcbind for every node (needs root)", 0 },
		{ "wait", 'w', "SECONDS", 0, "How long to wait for keys (default: 60; 0: not at all)", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	struct words w = { .wait_s = KEYS_S };
	struct lab *lab = NULL;
	struct topology t;
	enum status status;
	struct err e;

	parse_words(&w, 2, 2, options, "FILE DIR", "Bring the network of topology FILE up, with its files in DIR.",
	            argc, argv);
	watch_signals();
	if (topology_load(&t, w.word[0], &e) != ST_OK)
		return command_fail(&e);
	status = lab_plan(&lab, &t, w.word[1], w.netns, &e);
	if (status == ST_OK)
		status = lab_take_lock(lab, &e);
	if (status == ST_OK)
		status = refuse_running(w.word[1], &e);
	if (status == ST_OK)
		status = bring_up(lab, &t, w.wait_s, &e);
	lab_free(lab);
	topology_free(&t);
	return status == ST_OK ? 0 : command_fail(&e);
}

static int down(int argc, char **argv)
{
	struct words w = { .count = 0 };
	struct lab *lab;
	struct err e;

	parse_words(&w, 1, 1, NULL, "DIR", "Stop the daemons of the network in DIR and remove its namespaces.", argc,
	            argv);
	if (load_locked(&lab, w.word[0], &e) != ST_OK)
		return command_fail(&e);
	take_down(lab);
	lab_free(lab);
	return 0;
}

/* ---- start, stop one daemon -------------------------------------------------------------------------------- */

static int with_daemon(const struct words *w, bool start)
{
	struct lab_daemon *d;
	enum status status;
	struct lab *lab;
	struct err e;

	if (load_locked(&lab, w->word[0], &e) != ST_OK)
		return command_fail(&e);
	d = lab_find_daemon(lab, w->word[1]);
	if (d == NULL) {
		status = err_set(&e, ST_NOT_FOUND, "no daemon \"%s\": qkdn-lab status %s lists them", w->word[1],
		                 w->word[0]);
	} else if (start) {
		status = lab_start(lab, d, &e);
	} else {
		lab_stop(lab, d, w->kill ? SIGKILL : SIGTERM);
		status = lab_save(lab, &e);
	}
	lab_free(lab);
	return status == ST_OK ? 0 : command_fail(&e);
}

static int start(int argc, char **argv)
{
	struct words w = { .count = 0 };

	parse_words(&w, 2, 2, NULL, "DIR DAEMON", "Start a stopped daemon again, such as alice/kmd.", argc, argv);
	return with_daemon(&w, true);
}

static int stop(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "kill", 'k', NULL, 0, "With SIGKILL, as a crash", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	struct words w = { .count = 0 };

	parse_words(&w, 2, 2, options, "DIR DAEMON", "Stop one daemon, such as alice/kmd.", argc, argv);
	return with_daemon(&w, false);
}

/* ---- status -------------------------------------------------------------------------------------------------- */

static json_t *status_of(const struct lab *lab)
{
	json_t *daemons = json_array(), *applications = json_array();

	for (size_t i = 0; i < lab->daemon_count; i++) {
		const struct lab_daemon *d = &lab->daemons[i];
		const struct lab_site *s = &lab->sites[d->site];

		json_array_append_new(daemons,
		                      json_pack("{ss sb si ss ss? ss}", "name", d->name, "running",
		                                lab_daemon_runs(d), "pid", (int)d->pid, "address", s->address,
		                                "netns", s->netns, "log", d->log));
	}
	for (size_t i = 0; i < lab->application_count; i++)
		json_array_append_new(applications,
		                      json_pack("{ss ss}", "name", lab->applications[i].name, "node",
		                                lab->sites[lab->applications[i].site].name));
	return json_pack("{ss sb so so}", "directory", lab->directory, "netns", lab->netns, "daemons", daemons,
	                 "applications", applications);
}

static bool print_status(const struct lab *lab)
{
	bool all = true;

	for (size_t i = 0; i < lab->daemon_count; i++) {
		const struct lab_daemon *d = &lab->daemons[i];
		bool runs = lab_daemon_runs(d);

		printf("%-24s %-8s %-15s ", d->name, runs ? "running" : "stopped", lab->sites[d->site].address);
		if (runs)
			printf("pid %d", (int)d->pid);
		putchar('\n');
		all = all && runs;
	}
	for (size_t i = 0; i < lab->application_count; i++)
		printf("%-24s application at %s\n", lab->applications[i].name,
		       lab->sites[lab->applications[i].site].name);
	return all;
}

static bool all_run(const struct lab *lab)
{
	for (size_t i = 0; i < lab->daemon_count; i++)
		if (!lab_daemon_runs(&lab->daemons[i]))
			return false;
	return true;
}

static int show_status(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "json", 'j', NULL, 0, "As JSON", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	struct words w = { .count = 0 };
	struct lab *lab;
	struct err e;
	bool all;

	parse_words(&w, 1, 1, options, "DIR", "Show which daemons of the network run. Status 3: not all do.", argc,
	            argv);
	if (lab_load(&lab, w.word[0], &e) != ST_OK)
		return command_fail(&e);
	if (w.json) {
		json_t *o = status_of(lab);

		json_dumpf(o, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(o);
	} else {
		print_status(lab);
	}
	all = all_run(lab);
	lab_free(lab);
	return all ? 0 : 3;
}

/* ---- env, exec ---------------------------------------------------------------------------------------------- */

static const struct lab_application *need_application(const struct lab *lab, const char *name, struct err *e)
{
	const struct lab_application *a = lab_find_application(lab, name);

	if (a == NULL)
		err_set(e, ST_NOT_FOUND, "no application \"%s\": qkdn-lab status %s lists them", name, lab->directory);
	return a;
}

static int env(int argc, char **argv)
{
	struct words w = { .count = 0 };
	enum status status = ST_OK;
	char *path, *text;
	struct lab *lab;
	struct err e;
	size_t len;

	parse_words(&w, 2, 2, NULL, "DIR APP",
	            "Print shell exports that make qkdn-keyreq speak as APP: eval \"$(qkdn-lab env DIR APP)\".", argc,
	            argv);
	if (lab_load(&lab, w.word[0], &e) != ST_OK)
		return command_fail(&e);
	if (need_application(lab, w.word[1], &e) == NULL) {
		lab_free(lab);
		return command_fail(&e);
	}
	path = lab_path(lab, "apps/%s.env", w.word[1]);
	status = file_read(path, 1 << 16, &text, &len, &e);
	if (status == ST_OK) {
		fputs(text, stdout);
		free(text);
	}
	free(path);
	lab_free(lab);
	return status == ST_OK ? 0 : command_fail(&e);
}

/* Everything behind the name belongs to the command: no options of ours there. */
static int execute(int argc, char **argv)
{
	const struct lab_application *a;
	const struct lab_site *s;
	struct lab *lab;
	struct err e;

	if (argc < 4 || argv[1][0] == '-') {
		bool help = argc == 2 && strcmp(argv[1], "--help") == 0;

		fprintf(help ? stdout : stderr,
		        "Usage: qkdn-lab exec DIR APP|NODE COMMAND…\n"
		        "Run COMMAND as the application, or at the node, in its namespace if it has one.\n");
		return help ? 0 : 1;
	}
	if (lab_load(&lab, argv[1], &e) != ST_OK)
		return command_fail(&e);
	a = lab_find_application(lab, argv[2]);
	s = lab_find_site(lab, argv[2]);
	if (a != NULL)
		lab_become_application(lab, a, argv + 3, &e);
	else if (s != NULL)
		lab_become_site(lab, s, argv + 3, &e);
	else
		err_set(&e, ST_NOT_FOUND, "no application or node \"%s\": qkdn-lab status %s lists them", argv[2],
		        argv[1]);
	lab_free(lab);
	return command_fail(&e);
}

/* ---- main ---------------------------------------------------------------------------------------------------- */

static const struct command commands[] = {
	{ "up", up, "bring a network up from a topology file" },
	{ "down", down, "take it down" },
	{ "status", show_status, "show which daemons run" },
	{ "env", env, "print shell exports for an application" },
	{ "exec", execute, "run a command as an application, or at a node" },
	{ "stop", stop, "stop one daemon" },
	{ "start", start, "start it again" },
};

int main(int argc, char **argv)
{
	static const struct command_line line = {
		.program = "qkdn-lab",
		.usage = "COMMAND [OPTION...] [ARGUMENT...]",
		.about = "A whole QKD network on one machine.",
		.page = "qkdn-lab(8)",
		.commands = commands,
		.count = ARRAY_LEN(commands),
	};

	log_open("qkdn-lab", LOG_LEVEL_INFO);
	return command_line_run(&line, argc, argv);
}
