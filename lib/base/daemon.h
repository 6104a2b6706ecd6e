/*
 * daemon.h - what the mains of all daemons share: the command line, a process fit to hold keys,
 * signals on the loop, and telling systemd.
 *
 * A main is a flat list:
 *
 *	daemon_parse(argc, argv, &about, &options);       opens the log; may exit (--help, usage)
 *	… load the configuration; with options.check look at its files, print it and return …
 *	daemon_harden(heap_bytes, &e);                    before the first thread and the first key
 *	env = env_event_new();
 *	daemon_signals_new(&signals, env, &hooks, &e);
 *	… make the core …
 *	confine_system_calls(&e);                         (confine.h) unless the setting confine is false
 *	daemon_notify_ready();
 *	env_event_run(env);                               until SIGTERM or SIGINT
 *	daemon_notify_stopping();
 *	… free the core …
 *	daemon_signals_free(signals);
 *	env_event_free(env);
 */
#ifndef QKDN_DAEMON_H
#define QKDN_DAEMON_H

#include "env.h"
#include "status.h"

/* Kept, not copied. */
struct daemon_about {
	const char *program; /* "qkdn-kmd" */
	const char *summary; /* one line, for --help */
};

struct daemon_options {
	const char *config; /* -c FILE; never NULL */
	bool check;         /* -n: check the configuration, print it, exit */
	bool verbose;       /* -v: debug messages too */
};

/* Parses -c FILE, -n, -v, --version, --help and opens the log. Exits with 1 on a wrong usage. */
void daemon_parse(int argc, char **argv, const struct daemon_about *about, struct daemon_options *o);

/* For -n, which tells more than the first of what is wrong: whether s is ST_OK; else logs e. */
bool daemon_good(enum status s, const struct err *e);

/* Makes the process fit to hold keys: no core dumps, a umask of 077, heap_bytes (a power of two)
 * of locked memory for secrets, no capabilities (confine.h). Call it before any thread is started. */
MUST_CHECK enum status daemon_harden(size_t heap_bytes, struct err *e);

/* Called from the loop. */
struct daemon_hooks {
	void (*reload)(void *arg); /* SIGHUP; between it systemd sees RELOADING and READY; or NULL */
	void (*user)(void *arg);   /* SIGUSR1; NULL: ignored */
	void *arg;
};

struct daemon_signals;

/* Watches SIGTERM and SIGINT (they stop the loop), SIGHUP and SIGUSR1 over a real env
 * (env_event_new), and ignores SIGPIPE. hooks is copied. Free it before env. */
MUST_CHECK enum status daemon_signals_new(struct daemon_signals **d, struct env *env,
                                          const struct daemon_hooks *hooks, struct err *e);
void daemon_signals_free(struct daemon_signals *d); /* NULL is allowed */

/* Tell the service manager (sd_notify(3)); without $NOTIFY_SOCKET they do nothing. */
void daemon_notify_ready(void);
void daemon_notify_reloading(void);
void daemon_notify_stopping(void);

#endif
