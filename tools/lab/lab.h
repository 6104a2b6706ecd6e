/*
 * lab.h - a network on one machine: its sites (a QKD node each, and one for the quantum layer), the
 * daemons at them, the applications. All of it is kept in DIR/lab.json, from before the first daemon
 * is started until the last one is gone, so that `down` finds whatever an interrupted `up` left.
 */
#ifndef QKDN_LAB_H
#define QKDN_LAB_H

#include <sys/types.h>

#include "status.h"
#include "topology.h"

/* Where daemons run. Without --netns all share the machine's loopback network. */
struct lab_site {
	char *name;    /* the node's; "quantum" stands apart (it is no valid pair of node and role) */
	char *address; /* IPv4 */
	char *netns;   /* NULL without --netns */
};

/* In this order a node's ports follow each other. */
enum lab_kind { LAB_RPCBIND, LAB_KM, LAB_QUANTUM, LAB_CONTROLLER, LAB_KIND_COUNT };

struct lab_daemon {
	char *name; /* "alice/kmd" */
	enum lab_kind kind;
	size_t site;        /* index */
	char *config, *log; /* config: NULL for rpcbind */
	pid_t pid;          /* 0: not started */
	unsigned long long started;
};

struct lab_application {
	char *name;
	size_t site;
};

struct lab {
	char *directory; /* absolute */
	char *id;        /* in the names of namespaces */
	bool netns;
	unsigned port; /* of the first daemon of every node; the others follow */
	int lock;        /* descriptor of DIR/lab.lock */
	int reservation; /* of the ports, until lab_free: the daemons listen by then */
	struct lab_site *sites;
	size_t site_count;
	struct lab_daemon *daemons;
	size_t daemon_count;
	struct lab_application *applications;
	size_t application_count;
};

/* From a topology: what runs where, with which files. Nothing is written or started. */
MUST_CHECK enum status lab_plan(struct lab **lab, const struct topology *t, const char *directory, bool netns,
                                struct err *e);

/* DIR/lab.json. ST_NOT_FOUND where no network is up. */
MUST_CHECK enum status lab_load(struct lab **lab, const char *directory, struct err *e);
MUST_CHECK enum status lab_save(const struct lab *lab, struct err *e);
void lab_forget(const struct lab *lab); /* removes lab.json */
void lab_free(struct lab *lab);

/* Holds DIR/lab.lock until lab_free: one command at a time works on a lab. */
MUST_CHECK enum status lab_take_lock(struct lab *lab, struct err *e);

struct lab_daemon *lab_find_daemon(struct lab *lab, const char *name); /* or NULL */
const struct lab_application *lab_find_application(const struct lab *lab, const char *name);
const struct lab_site *lab_find_site(const struct lab *lab, const char *name);
bool lab_daemon_runs(const struct lab_daemon *d);

/* A path below the lab's folder. The caller frees. */
char *lab_path(const struct lab *lab, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- files.c: certificates, secrets, configuration, the applications' environments ---------------- */

/* What is secret and there already is kept, so that a network can go up again on its key stores. */
MUST_CHECK enum status lab_write_files(const struct lab *lab, const struct topology *t, struct err *e);

/* ---- netns.c: a namespace per site on one bridge, in a namespace of its own ------------------------ */

MUST_CHECK enum status lab_netns_make(const struct lab *lab, struct err *e);
void lab_netns_remove(const struct lab *lab); /* whatever of them is there */

/* ---- daemons.c --------------------------------------------------------------------------------------- */

/* Set by a signal: what waits gives up. */
extern volatile sig_atomic_t lab_interrupted;

/* Starts the daemon (every one of the lab for NULL) and waits until it says that it is ready. */
MUST_CHECK enum status lab_start(struct lab *lab, struct lab_daemon *only, struct err *e);

/* Ends the daemon (all, last first, for NULL): SIGTERM, and SIGKILL where that does not help in 10 s.
 * number SIGKILL: at once. */
void lab_stop(struct lab *lab, struct lab_daemon *only, int number);

/* Waits until every link has brought keys to the applications at its ends, at most ms. */
MUST_CHECK enum status lab_wait_keys(struct lab *lab, const struct topology *t, unsigned ms, struct err *e);

/* Runs a command as the application (its environment and namespace). Returns only when that failed. */
enum status lab_become_application(const struct lab *lab, const struct lab_application *a,
                                   char *const *command, struct err *e);
/* Runs a command in the site's namespaces. Returns only when that failed. */
enum status lab_become_site(const struct lab *lab, const struct lab_site *s, char *const *command, struct err *e);

#endif
