/*
 * keyreq.c - qkdn-keyreq: the application's command line on Ak. Stands on libqkdn alone.
 *
 * Key bytes never come from or go to the command line; they are shown only on demand, and standard
 * output is written only after everything else is done.
 */
#include <argp.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "id.h"
#include "key_files.h"
#include "output.h"
#include "secret.h"

#define PROGRAM "qkdn-keyreq"

enum { KEY_HEAP = 64 * 1024, IDS_MAX = 1024, NUMBER_MAX = 1024, SIZE_MAX_BITS = 8192, TIMEOUT_MAX_S = 86400 };
enum { OPTION_TO = 256, OPTION_FROM, OPTION_PRIORITY, OPTION_TIMEOUT, OPTION_REVEAL, OPTION_OUT, OPTION_JSON,
       OPTION_KM, OPTION_KM_NAME, OPTION_KM_DNS_NAME, OPTION_CERTIFICATE, OPTION_PRIVATE_KEY,
       OPTION_AUTHORITY, OPTION_TRACE, OPTION_TRACE_ID };

struct arguments {
	const char *to, *from;
	unsigned number, size, priority, timeout_ms;
	struct output_style style;
	struct qkdn_key_id *ids;
	size_t id_count;
	const struct argp_child *children; /* of the command's options */
};

/* What a command asks for, once its options are read and the key manager is reached. */
typedef int (*request_run)(struct qkdn_client *client, struct arguments *a, int folder_fd);

/* ---- telling what went wrong -------------------------------------------------------------------- */

/* What to do where the text of the failure need not say it. */
static const struct {
	enum qkdn_status status;
	const char *advice;
} advices[] = {
	{ QKDN_DENIED, "an application may ask only for pairs that it is one end of: check QKDN_CERTIFICATE, "
	               "--to and --from" },
	{ QKDN_UNKNOWN_APPLICATION, "check the name; the key manager's configuration lists the applications" },
	{ QKDN_UNKNOWN_KEY_ID, "check the IDs, and that --from names the application that requested the keys; "
	                       "nothing was consumed" },
	{ QKDN_KEY_GONE, "a key is delivered once, and expires: request new ones; nothing was consumed" },
	{ QKDN_TOO_FEW_KEYS, "nothing was consumed: try later, wait with --timeout, or ask for fewer; `" PROGRAM
	                     " status` shows what there is" },
	{ QKDN_NO_ROUTE, "nothing was consumed: no path leads to the destination's node now; try later" },
	{ QKDN_LINK_DOWN, "nothing was consumed: try later; `qkdn-lab status DIR` shows a lab's daemons" },
	{ QKDN_TIMED_OUT, "try later, or wait longer with --timeout" },
	{ QKDN_BUSY, "nothing was consumed: try later" },
	{ QKDN_TRANSPORT, "the call may have been carried out: keys that did not arrive are lost, request new "
	                  "ones" },
};

static int fail(enum status status, const char *text)
{
	fprintf(stderr, PROGRAM ": %s\n", text);
	for (size_t i = 0; i < ARRAY_LEN(advices); i++)
		if ((int)advices[i].status == (int)status)
			fprintf(stderr, PROGRAM ": %s\n", advices[i].advice);
	return status_exit_code(status);
}

static int fail_call(const struct qkdn_error *error)
{
	return fail((enum status)error->status, error->text);
}

/* Nothing was asked yet: the advices do not fit. */
static int fail_connecting(const struct qkdn_error *error)
{
	fprintf(stderr, PROGRAM ": %s\n", error->text);
	if (error->status == QKDN_PEER_UNREACHABLE || error->status == QKDN_TIMED_OUT)
		fprintf(stderr, PROGRAM ": is the key manager running, and is QKDN_KM right?\n");
	return status_exit_code((enum status)error->status);
}

/* ---- options -------------------------------------------------------------------------------------- */

static unsigned number_of(struct argp_state *state, const char *name, const char *text, unsigned min,
                          unsigned max)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno != 0 || text[0] < '0' || text[0] > '9' || *end != '\0' || n < min || n > max)
		argp_error(state, "%s %s: write a number from %u to %u", name, text, min, max);
	return (unsigned)n;
}

static unsigned milliseconds_of(struct argp_state *state, const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end != '\0' || !(seconds > 0) || seconds > TIMEOUT_MAX_S)
		argp_error(state, "--timeout %s: write seconds, more than 0 and at most %d", text, TIMEOUT_MAX_S);
	return (unsigned)ceil(seconds * 1000);
}

static void add_id(struct arguments *a, const char *text, struct argp_state *state)
{
	if (a->id_count == IDS_MAX)
		argp_error(state, "more than %d key IDs: fetch them in several calls", IDS_MAX);
	if (qkdn_key_id_parse(&a->ids[a->id_count], text) != 0)
		argp_error(state, "\"%s\" is not a key ID: it looks like 01234567-89ab-cdef-0123-456789abcdef",
		           text);
	a->id_count++;
}

/* The first word of each line, so that the output of `get` can be piped in. */
static void read_ids(struct arguments *a, struct argp_state *state)
{
	char *line = NULL, *rest, *word;
	size_t room = 0;

	while (getline(&line, &room, stdin) > 0) {
		rest = line + strspn(line, " \t");
		word = strsep(&rest, " \t\r\n");
		if (word[0] != '\0')
			add_id(a, word, state);
	}
	free(line);
}

/* The connection's options are the environment's, set for this process. */
static const char *variable_of(int key)
{
	switch (key) {
	case OPTION_KM:
		return "QKDN_KM";
	case OPTION_KM_NAME:
		return "QKDN_KM_NAME";
	case OPTION_KM_DNS_NAME:
		return "QKDN_KM_DNS_NAME";
	case OPTION_CERTIFICATE:
		return "QKDN_CERTIFICATE";
	case OPTION_PRIVATE_KEY:
		return "QKDN_PRIVATE_KEY";
	case OPTION_AUTHORITY:
		return "QKDN_AUTHORITY";
	case OPTION_TRACE:
		return "QKDN_TRACE";
	case OPTION_TRACE_ID:
		return "QKDN_TRACE_ID";
	default:
		return NULL;
	}
}

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case OPTION_JSON:
		a->style.json = true;
		return 0;
	case OPTION_TIMEOUT:
		a->timeout_ms = milliseconds_of(state, arg);
		return 0;
	default:
		if (variable_of(key) == NULL)
			return ARGP_ERR_UNKNOWN;
		setenv(variable_of(key), arg, 1);
		return 0;
	}
}

static error_t parse_output(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case OPTION_REVEAL:
		a->style.reveal = true;
		return 0;
	case OPTION_OUT:
		a->style.folder = arg;
		return 0;
	case ARGP_KEY_END:
		if (a->style.reveal && a->style.folder != NULL)
			argp_error(state, "--reveal and --out: keys go to one of them");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void give_input(struct argp_state *state)
{
	const struct arguments *a = state->input;

	for (int i = 0; a->children[i].argp != NULL; i++)
		state->child_inputs[i] = state->input;
}

static const char *application_of(struct argp_state *state, const char *option, const char *name)
{
	if (!name_is_valid(name))
		argp_error(state, "%s \"%s\": a name is 1 to %d letters, digits, dots, dashes and underscores", option, name,
		           NAME_MAX_LEN);
	return name;
}

/* For get and status. */
static error_t parse_to(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		give_input(state);
		return 0;
	case OPTION_TO:
		a->to = application_of(state, "--to", arg);
		return 0;
	case 'n':
		a->number = number_of(state, "-n", arg, 1, NUMBER_MAX);
		return 0;
	case 's':
		a->size = number_of(state, "-s", arg, 8, SIZE_MAX_BITS);
		if (a->size % 8 != 0)
			argp_error(state, "-s %s: the size must be a multiple of 8", arg);
		return 0;
	case OPTION_PRIORITY:
		a->priority = number_of(state, "--priority", arg, 0, UINT32_MAX);
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "\"%s\": nothing is expected there; name the destination with --to", arg);
		return 0;
	case ARGP_KEY_END:
		if (a->to == NULL)
			argp_error(state, "--to APP is missing: name the destination application");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_from(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		give_input(state);
		return 0;
	case OPTION_FROM:
		a->from = application_of(state, "--from", arg);
		return 0;
	case ARGP_KEY_ARG:
		if (strcmp(arg, "-") == 0)
			read_ids(a, state);
		else
			add_id(a, arg, state);
		return 0;
	case ARGP_KEY_END:
		if (a->from == NULL)
			argp_error(state, "--from APP is missing: name the application that requested the keys");
		if (a->id_count == 0)
			argp_error(state, "no key ID: name at least one, or - to read them from standard input");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option common_options[] = {
	{ NULL, 0, NULL, 0, "The connection, if not from the environment:", 2 },
	{ "authority", OPTION_AUTHORITY, "FILE", 0, "The authority that signed certificates (QKDN_AUTHORITY)", 2 },
	{ "certificate", OPTION_CERTIFICATE, "FILE", 0, "Whom to talk as (QKDN_CERTIFICATE)", 2 },
	{ "km", OPTION_KM, "ADDRESS", 0, "The key manager: HOST:PORT, or HOST to ask rpcbind (QKDN_KM)", 2 },
	{ "km-dns-name", OPTION_KM_DNS_NAME, "NAME", 0, "Its DNS name, if not HOST (QKDN_KM_DNS_NAME)", 2 },
	{ "km-name", OPTION_KM_NAME, "NAME", 0, "Its name (QKDN_KM_NAME)", 2 },
	{ "private-key", OPTION_PRIVATE_KEY, "FILE", 0, "The certificate's key (QKDN_PRIVATE_KEY)", 2 },
	{ "trace", OPTION_TRACE, "FILE", 0, "Append a line per message (QKDN_TRACE)", 2 },
	{ "trace-id", OPTION_TRACE_ID, "UUID", 0, "Trace ID of the call, else random (QKDN_TRACE_ID)", 2 },
	{ "json", OPTION_JSON, NULL, 0, "Print JSON, as in ETSI GS QKD 014", 1 },
	{ "timeout", OPTION_TIMEOUT, "S", 0, "Seconds to wait for keys or an answer", 1 },
	{ 0 },
};

static const struct argp_option output_options[] = {
	{ "out", OPTION_OUT, "DIR", 0, "Write each key to DIR/ID (mode 0600), made if need be", 0 },
	{ "reveal", OPTION_REVEAL, NULL, 0, "Print the keys: hexadecimal, or base64 with --json", 0 },
	{ 0 },
};

static const struct argp_option get_options[] = {
	{ "to", OPTION_TO, "APP", 0, "Destination application", 0 },
	{ "number", 'n', "N", 0, "How many keys (1)", 0 },
	{ "size", 's', "BITS", 0, "Size of each key (the key manager's default)", 0 },
	{ "priority", OPTION_PRIORITY, "N", 0, "0: ordinary; of your requests, higher is served first", 0 },
	{ 0 },
};

static const struct argp_option from_options[] = {
	{ "from", OPTION_FROM, "APP", 0, "Application that requested the keys", 0 },
	{ 0 },
};

static const struct argp_option to_options[] = {
	{ "to", OPTION_TO, "APP", 0, "Destination application", 0 },
	{ 0 },
};

static const struct argp common_argp = { common_options, parse_common, NULL, NULL, NULL, NULL, NULL };
static const struct argp output_argp = { output_options, parse_output, NULL, NULL, NULL, NULL, NULL };
static const struct argp_child key_children[] = { { &output_argp, 0, NULL, 0 },
	                                          { &common_argp, 0, NULL, 0 },
	                                          { 0 } };
static const struct argp_child status_children[] = { { &common_argp, 0, NULL, 0 }, { 0 } };

/* ---- commands --------------------------------------------------------------------------------------- */

static int deliver(struct qkdn_keys *keys, struct arguments *a, int folder_fd)
{
	enum status status = ST_OK;
	struct err e;

	if (a->style.folder != NULL)
		status = key_files_write(folder_fd, a->style.folder, keys, &e);
	if (status == ST_OK)
		output_keys(keys, &a->style);
	qkdn_keys_free(keys);
	return status == ST_OK ? 0 : fail(status, e.text);
}

static int run_get(struct qkdn_client *client, struct arguments *a, int folder_fd)
{
	const struct qkdn_request request = { .destination = a->to,
		                              .number = a->number,
		                              .size = a->size,
		                              .priority = a->priority,
		                              .timeout = a->timeout_ms };
	struct qkdn_error error;
	struct qkdn_keys *keys;

	if (qkdn_get_keys(client, &request, &keys, &error) != QKDN_OK)
		return fail_call(&error);
	return deliver(keys, a, folder_fd);
}

static int run_get_by_id(struct qkdn_client *client, struct arguments *a, int folder_fd)
{
	struct qkdn_error error;
	struct qkdn_keys *keys;

	if (qkdn_get_keys_by_id(client, a->from, a->ids, a->id_count, a->timeout_ms, &keys, &error) != QKDN_OK)
		return fail_call(&error);
	return deliver(keys, a, folder_fd);
}

static int run_status(struct qkdn_client *client, struct arguments *a, int folder_fd)
{
	struct qkdn_error error;
	struct qkdn_supply supply;

	(void)folder_fd;
	if (qkdn_get_status(client, a->to, a->timeout_ms, &supply, &error) != QKDN_OK)
		return fail_call(&error);
	output_status(&supply, qkdn_application(client), a->to, a->style.json);
	return 0;
}

/* What must be right before a key leaves the key manager. */
static enum status prepare(const struct arguments *a, int *folder_fd, struct err *e)
{
	enum status status;

	if (a->style.folder == NULL)
		return ST_OK;
	status = key_files_open(a->style.folder, folder_fd, e);
	if (status == ST_OK)
		status = key_files_check(*folder_fd, a->style.folder, a->ids, a->id_count, e);
	return status;
}

static int connect_and(request_run ask, struct arguments *a)
{
	struct qkdn_client *client;
	struct qkdn_error error;
	int folder_fd = -1, exit_status;
	struct err e;

	if (secret_init(KEY_HEAP, &e) != ST_OK || prepare(a, &folder_fd, &e) != ST_OK)
		return fail(e.status, e.text);
	if (qkdn_connect_environment(&client, &error) != QKDN_OK)
		return fail_connecting(&error);
	exit_status = ask(client, a, folder_fd);
	qkdn_close(client);
	if (folder_fd >= 0)
		close(folder_fd);
	return exit_status;
}

static int parse_and(request_run ask, const struct argp *argp, int argc, char **argv)
{
	struct arguments a = { .ids = xcalloc(IDS_MAX, sizeof *a.ids), .children = argp->children };
	int exit_status;

	argp_parse(argp, argc, argv, 0, NULL, &a);
	output_open();
	exit_status = connect_and(ask, &a);
	if (!output_finish() && exit_status == 0) {
		fprintf(stderr, PROGRAM ": writing to standard output: %s\n", strerror(errno));
		exit_status = 1;
	}
	free(a.ids);
	return exit_status;
}

static int get(int argc, char **argv)
{
	static const struct argp argp = { get_options, parse_to, "--to APP",
		                          "Requests keys that the destination application can fetch by ID.\v"
		                          "Examples:\n"
		                          "  " PROGRAM " get --to app2\n"
		                          "  " PROGRAM " get --to app2 -n 10 -s 512 --out keys\n"
		                          "  " PROGRAM " get --to app2 --json --reveal",
		                          key_children, NULL, NULL };

	return parse_and(run_get, &argp, argc, argv);
}

static int get_by_id(int argc, char **argv)
{
	static const struct argp argp = {
		from_options, parse_from, "--from APP ID...",
		"Fetches keys that another application requested, once.\v"
		"An ID of - reads IDs from standard input: the first word of each line.\n\n"
		"Examples:\n"
		"  " PROGRAM " get-by-id --from app1 01234567-89ab-cdef-0123-456789abcdef\n"
		"  " PROGRAM " get-by-id --from app1 --out keys - < ids.txt",
		key_children, NULL, NULL
	};

	return parse_and(run_get_by_id, &argp, argc, argv);
}

static int show_status(int argc, char **argv)
{
	static const struct argp argp = { to_options, parse_to, "--to APP",
		                          "Shows what keys could be had for a destination application.\v"
		                          "Example:\n"
		                          "  " PROGRAM " status --to app2 --json",
		                          status_children, NULL, NULL };

	return parse_and(run_status, &argp, argc, argv);
}

int main(int argc, char **argv)
{
	static const struct command commands[] = {
		{ "get", get, "request keys, shared with another application" },
		{ "get-by-id", get_by_id, "fetch the keys that another application requested" },
		{ "status", show_status, "show what keys could be had" },
	};
	static const struct command_line line = {
		.program = PROGRAM,
		.usage = "COMMAND [OPTION...]",
		.about = "Asks a QKD network's key manager for keys.",
		.more = "Which key manager, and as whom, is in the environment; in a lab:\n"
		        "  eval \"$(qkdn-lab env DIR app1)\"\n"
		        "  " PROGRAM " get --to app2\n\n",
		.page = PROGRAM "(1)",
		.commands = commands,
		.count = ARRAY_LEN(commands),
	};

	return command_line_run(&line, argc, argv);
}
