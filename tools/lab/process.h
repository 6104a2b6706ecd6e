/*
 * process.h - programs started by the lab: in a namespace, with a log, known by pid and start time,
 * so that a pid that was given to somebody else since is never signalled.
 */
#ifndef QKDN_PROCESS_H
#define QKDN_PROCESS_H

#include <sys/types.h>

#include "status.h"

struct launch {
	const char *const *argv; /* argv[0]: a path, or looked up in PATH */
	const char *netns;       /* name (ip-netns(8)) or NULL */
	pid_t mounts_of;         /* share this process's mounts; 0: our own */
	bool own_run;            /* a fresh tmpfs on /run, with /run/rpcbind */
	const char *log;         /* stdout and stderr are appended to it; NULL: to ours */
	int output;              /* stdout goes here; -1: to the log */
	const char *notify;      /* NOTIFY_SOCKET or NULL */
};

/* Forks and executes. What fails in the child before exec is in the log, and its status is 127. */
MUST_CHECK enum status process_start(const struct launch *l, pid_t *pid, struct err *e);

/* Replaces this process (no fork): only returns when it failed. */
enum status process_become(const struct launch *l, struct err *e);

/* Start time in clock ticks after boot (/proc/PID/stat, field 22); 0: no such process, or a zombie. */
unsigned long long process_started(pid_t pid);

/* Is it still the process that was started then? */
bool process_runs(pid_t pid, unsigned long long started);

/* Sends the signal if it is still that process. */
void process_signal(pid_t pid, unsigned long long started, int number);

/* Waits until it is gone, up to ms. */
bool process_wait_gone(pid_t pid, unsigned long long started, unsigned ms);

/* Runs a program to its end, at most ms; its exit status, or -1. Up to len - 1 bytes of what it
 * writes (stdout and stderr) go to output. */
int process_run(const struct launch *l, char *output, size_t len, unsigned ms);

void process_sleep(unsigned ms);
uint64_t process_now_ms(void); /* monotonic */

#endif
