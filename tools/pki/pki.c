/* pki.c - qkdn-pki: main, and the subcommands that write. Secrets go to files, never to a terminal. */
#include "pki.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ca.h"
#include "command.h"
#include "log.h"

/* Whatever it is, it is on this machine. */
static int failed(const struct err *e)
{
	command_fail(e);
	return 1;
}

/* ---- init ----------------------------------------------------------------------------------- */

struct init {
	const char *directory, *domain;
	int days;
};

enum { DAYS_MAX = 36500 };

static int parse_days(struct argp_state *state, const char *text)
{
	char *rest;
	long days = strtol(text, &rest, 10);

	if (*text == '\0' || *rest != '\0' || days == 0 || days < -DAYS_MAX || days > DAYS_MAX)
		argp_error(state, "--days %s: write a number of days from 1 to %d, or a negative one for what is over",
		           text, DAYS_MAX);
	return (int)days;
}

static error_t parse_init(int key, char *value, struct argp_state *state)
{
	struct init *o = state->input;

	switch (key) {
	case 'd':
		o->domain = value;
		return 0;
	case 'D':
		o->days = parse_days(state, value);
		return 0;
	case ARGP_KEY_ARG:
		if (o->directory != NULL)
			return ARGP_ERR_UNKNOWN;
		o->directory = value;
		return 0;
	case ARGP_KEY_END:
		if (o->directory == NULL)
			argp_error(state, "which folder? give DIR");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int pki_init(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "domain", 'd', "DOMAIN", 0, "Trust domain (default: lab.qkdn)", 0 },
		{ "days", 'D', "N", 0, "Validity (default: 3650)", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	const struct argp argp = { options, parse_init, "DIR",
		                   "Make a certificate authority: DIR/ca.crt and DIR/ca.key.", NULL, NULL, NULL };
	struct init o = { .domain = "lab.qkdn", .days = 3650 };
	struct err e;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	return ca_make(o.directory, o.domain, o.days, &e) == ST_OK ? 0 : failed(&e);
}

/* ---- issue ---------------------------------------------------------------------------------- */

enum { NAMES_MAX = 32 };

struct issue {
	const char *directory, *out;
	struct ca_request request;
	const char *dns_names[NAMES_MAX], *addresses[NAMES_MAX];
};

static void append_name(struct argp_state *state, const char **names, size_t *count, const char *value)
{
	if (*count == NAMES_MAX)
		argp_error(state, "more than %d names in one certificate", NAMES_MAX);
	names[(*count)++] = value;
}

static void take_argument(struct argp_state *state, struct issue *o, const char *value)
{
	const char **slots[] = { &o->directory, &o->request.role, &o->request.name };

	if (state->arg_num >= ARRAY_LEN(slots))
		argp_error(state, "unexpected argument '%s'", value);
	*slots[state->arg_num] = value;
}

static error_t parse_issue(int key, char *value, struct argp_state *state)
{
	struct issue *o = state->input;

	switch (key) {
	case 'n':
		append_name(state, o->dns_names, &o->request.dns_count, value);
		return 0;
	case 'i':
		append_name(state, o->addresses, &o->request.address_count, value);
		return 0;
	case 'o':
		o->out = value;
		return 0;
	case 'D':
		o->request.days = parse_days(state, value);
		return 0;
	case ARGP_KEY_ARG:
		take_argument(state, o, value);
		return 0;
	case ARGP_KEY_END:
		if (state->arg_num < 3)
			argp_error(state, "give DIR, ROLE and NAME");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* An old certificate of the same holder may be written over; a module's must not take the place of a KM's. */
static enum status check_holder(const char *prefix, const char *role, struct err *e)
{
	char *path = xasprintf("%s.crt", prefix), has[64] = "";
	enum status status = ST_OK;
	X509 *old;

	if (access(path, F_OK) == 0 && ca_read_certificate(path, &old, e) == ST_OK) {
		X509_NAME_get_text_by_NID(X509_get_subject_name(old), NID_organizationalUnitName, has, sizeof has);
		if (strcmp(has, role) != 0)
			status = err_set(e, ST_CONFIGURATION, "%s is there already, of role %s: give another --out", path, has);
		X509_free(old);
	}
	free(path);
	return status;
}

int pki_issue(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "dns", 'n', "NAME", 0, "DNS name it is reached by; may be repeated", 0 },
		{ "ip", 'i', "ADDRESS", 0, "IP address it is reached by; may be repeated", 0 },
		{ "out", 'o', "PREFIX", 0, "Write PREFIX.crt and PREFIX.key (default: DIR/NAME)", 0 },
		{ "days", 'D', "N", 0, "Validity (default: 365); -N: over since N days, for tests", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	const struct argp argp = { options, parse_issue, "DIR ROLE NAME",
		                   "Issue a certificate for spiffe://DOMAIN/ROLE/NAME.\v"
		                   "Roles: km, controller, manager, module, switch, relay-point, app, "
		                   "user-manager, admin.",
		                   NULL, NULL, NULL };
	struct issue o = { .request = { .days = 365 } };
	enum status status;
	char *prefix;
	struct ca *ca;
	struct err e;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (ca_open(&ca, o.directory, &e) != ST_OK)
		return failed(&e);
	prefix = o.out != NULL ? xstrdup(o.out) : xasprintf("%s/%s", o.directory, o.request.name);
	o.request.prefix = prefix;
	o.request.dns_names = o.dns_names;
	o.request.addresses = o.addresses;
	status = check_holder(prefix, o.request.role, &e);
	if (status == ST_OK)
		status = ca_issue(ca, &o.request, &e);
	free(prefix);
	ca_free(ca);
	return status == ST_OK ? 0 : failed(&e);
}

/* ---- revoke --------------------------------------------------------------------------------- */

struct revoke {
	const char *directory;
	char **certificates;
	int count, days;
};

static error_t parse_revoke(int key, char *value, struct argp_state *state)
{
	struct revoke *o = state->input;

	switch (key) {
	case 'D':
		o->days = parse_days(state, value);
		return 0;
	case ARGP_KEY_ARG:
		if (o->directory != NULL)
			return ARGP_ERR_UNKNOWN; /* the rest come together */
		o->directory = value;
		return 0;
	case ARGP_KEY_ARGS:
		o->certificates = state->argv + state->next;
		o->count = state->argc - state->next;
		return 0;
	case ARGP_KEY_END:
		if (o->directory == NULL)
			argp_error(state, "give DIR, and the certificates");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int pki_revoke(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "days", 'D', "N", 0, "How long the list may be used (default: 3650)", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	const struct argp argp = { options, parse_revoke, "DIR [CERTIFICATE...]",
		                   "Add certificates to the authority's list of revoked ones, DIR/ca.crl, and sign it "
		                   "anew.",
		                   NULL, NULL, NULL };
	struct revoke o = { .days = 3650 };
	enum status status;
	struct ca *ca;
	struct err e;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (ca_open(&ca, o.directory, &e) != ST_OK)
		return failed(&e);
	status = ca_revoke(ca, (const char *const *)o.certificates, (size_t)o.count, o.days, &e);
	ca_free(ca);
	return status == ST_OK ? 0 : failed(&e);
}

/* ---- secret, master-key ----------------------------------------------------------------------- */

static error_t parse_file(int key, char *value, struct argp_state *state)
{
	const char **path = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (*path != NULL)
			argp_error(state, "unexpected argument '%s'", value);
		*path = value;
		return 0;
	case ARGP_KEY_END:
		if (*path == NULL)
			argp_error(state, "which file? give FILE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int write_random(int argc, char **argv, const char *doc, size_t len)
{
	const struct argp argp = { NULL, parse_file, "FILE", doc, NULL, NULL, NULL };
	const char *path = NULL;
	struct err e;

	argp_parse(&argp, argc, argv, 0, NULL, &path);
	return ca_write_random(path, len, &e) == ST_OK ? 0 : failed(&e);
}

int pki_secret(int argc, char **argv)
{
	return write_random(argc, argv,
	                    "Make the initial secret of a QKD link: 4096 random bytes, mode 0600. "
	                    "Both key managers of the link get the same file, by a safe way.",
	                    CA_INITIAL_SECRET_LEN);
}

int pki_master_key(int argc, char **argv)
{
	return write_random(argc, argv, "Make the master key of a key store: 32 random bytes, mode 0600.",
	                    CA_MASTER_KEY_LEN);
}

/* ---- main --------------------------------------------------------------------------------------- */

static const struct command commands[] = {
	{ "init", pki_init, "make a certificate authority for a trust domain" },
	{ "issue", pki_issue, "issue a certificate and its private key" },
	{ "revoke", pki_revoke, "add to the list of revoked certificates" },
	{ "secret", pki_secret, "make the initial secret of a QKD link" },
	{ "master-key", pki_master_key, "make the master key of a key store" },
	{ "show", pki_show, "show what a certificate says" },
};

int main(int argc, char **argv)
{
	static const struct command_line line = {
		.program = "qkdn-pki",
		.usage = "COMMAND [OPTION...] [ARGUMENT...]",
		.about = "A certificate authority for a laboratory.",
		.page = "qkdn-pki(8)",
		.commands = commands,
		.count = ARRAY_LEN(commands),
	};
	struct err e;

	log_open("qkdn-pki", LOG_LEVEL_INFO);
	if (secret_init(1 << 16, &e) != ST_OK)
		log_warning("%s", e.text);
	return command_line_run(&line, argc, argv);
}
