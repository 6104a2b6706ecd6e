/* daemon.c - what the mains of all daemons share. Holds no key and knows no protocol. */
#include "daemon.h"

#include <argp.h>
#include <errno.h>
#include <event2/event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "confine.h"
#include "env_event.h"
#include "log.h"
#include "secret.h"

/* ---- command line ------------------------------------------------------------------------ */

static const struct daemon_about *about_us; /* for --version alone: argp gives its hook no argument */

static void print_version(FILE *to, struct argp_state *state)
{
	(void)state;
	fprintf(to, "%s %s\n", about_us->program, QKDN_VERSION);
}

static error_t parse_option(int key, char *value, struct argp_state *state)
{
	struct daemon_options *o = state->input;

	switch (key) {
	case 'c':
		o->config = value;
		return 0;
	case 'n':
		o->check = true;
		return 0;
	case 'v':
		o->verbose = true;
		return 0;
	case ARGP_KEY_ARG:
		argp_error(state, "unexpected argument '%s'", value);
		return 0;
	case ARGP_KEY_END:
		if (o->config == NULL)
			argp_error(state, "no configuration: give one with -c FILE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

void daemon_parse(int argc, char **argv, const struct daemon_about *about, struct daemon_options *o)
{
	static const struct argp_option options[] = {
		{ "config", 'c', "FILE", 0, "Read the configuration from FILE (required)", 0 },
		{ "check", 'n', NULL, 0, "Check the configuration, print it and exit", 0 },
		{ "verbose", 'v', NULL, 0, "Log debug messages too", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	const struct argp argp = { .options = options, .parser = parse_option, .doc = about->summary };

	memset(o, 0, sizeof *o);
	about_us = about;
	argp_program_version_hook = print_version;
	argp_err_exit_status = EXIT_FAILURE;
	log_open(about->program, LOG_LEVEL_INFO);
	if (argc > 0)
		argv[0] = (char *)(uintptr_t)about->program; /* whom getopt's complaints name */
	argp_parse(&argp, argc, argv, 0, NULL, o);
	if (o->verbose)
		log_open(about->program, LOG_LEVEL_DEBUG);
}

bool daemon_good(enum status s, const struct err *e)
{
	if (s != ST_OK)
		log_error("%s", e->text);
	return s == ST_OK;
}

/* ---- the process ------------------------------------------------------------------------- */

enum status daemon_harden(size_t heap_bytes, struct err *e)
{
	const struct rlimit none = { .rlim_cur = 0, .rlim_max = 0 };
	enum status s;

	if (setrlimit(RLIMIT_CORE, &none) != 0)
		return err_set(e, ST_INTERNAL, "turning core dumps off: %s", strerror(errno));
	umask(077);
	s = secret_init(heap_bytes, e);
	return s == ST_OK ? confine_privileges(e) : s;
}

/* ---- signals ----------------------------------------------------------------------------- */

static const int watched[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };

struct daemon_signals {
	struct env *env;
	struct daemon_hooks hooks;
	struct event *events[ARRAY_LEN(watched)];
};

static void reload(struct daemon_signals *d)
{
	daemon_notify_reloading();
	if (d->hooks.reload != NULL)
		d->hooks.reload(d->hooks.arg);
	daemon_notify_ready();
}

static void signal_came(evutil_socket_t number, short what, void *arg)
{
	struct daemon_signals *d = arg;

	(void)what;
	switch (number) {
	case SIGHUP:
		reload(d);
		break;
	case SIGUSR1:
		if (d->hooks.user != NULL)
			d->hooks.user(d->hooks.arg);
		break;
	default:
		log_info("stopping on %s", strsignal((int)number));
		env_event_stop(d->env);
	}
}

enum status daemon_signals_new(struct daemon_signals **made, struct env *env,
                               const struct daemon_hooks *hooks, struct err *e)
{
	struct daemon_signals *d = xcalloc(1, sizeof *d);

	signal(SIGPIPE, SIG_IGN);
	d->env = env;
	d->hooks = *hooks;
	for (size_t i = 0; i < ARRAY_LEN(watched); i++) {
		d->events[i] = evsignal_new(env_event_base(env), watched[i], signal_came, d);
		if (d->events[i] == NULL || evsignal_add(d->events[i], NULL) != 0) {
			daemon_signals_free(d);
			return err_set(e, ST_INTERNAL, "watching for %s failed", strsignal(watched[i]));
		}
	}
	*made = d;
	return ST_OK;
}

void daemon_signals_free(struct daemon_signals *d)
{
	if (d == NULL)
		return;
	for (size_t i = 0; i < ARRAY_LEN(watched); i++)
		if (d->events[i] != NULL)
			event_free(d->events[i]);
	free(d);
}

/* ---- the service manager ----------------------------------------------------------------- */

/* sd_notify(3)'s protocol: one datagram to $NOTIFY_SOCKET; a leading '@' is an abstract name. */
static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	size_t len = path != NULL ? strlen(path) : 0;
	int fd;

	if (len == 0 || len >= sizeof to.sun_path)
		return;
	memcpy(to.sun_path, path, len);
	if (to.sun_path[0] == '@')
		to.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to,
	                     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
		log_debug("telling the service manager at %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

void daemon_notify_ready(void)
{
	notify("READY=1");
}

void daemon_notify_reloading(void)
{
	struct timespec t;
	char state[96];

	clock_gettime(CLOCK_MONOTONIC, &t); /* Type=notify-reload wants to know when it began */
	snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%llu",
	         (unsigned long long)t.tv_sec * 1000000 + (unsigned long long)t.tv_nsec / 1000);
	notify(state);
}

void daemon_notify_stopping(void)
{
	notify("STOPPING=1");
}
