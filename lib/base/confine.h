/*
 * confine.h - a daemon that could do no more than it must: capabilities, privileges, system calls.
 */
#ifndef QKDN_CONFINE_H
#define QKDN_CONFINE_H

#include "status.h"

/* Before the first thread: no more privileges than now, ever (a program of another user that is executed included),
 * and no capabilities. A daemon that root runs, as in a laboratory, keeps those that let it at files of others and lock memory. */
MUST_CHECK enum status confine_privileges(struct err *e);

/*
 * At the end of the start, for all threads: a system call that is not among those that the daemons need (confine.c
 * lists them) fails with EPERM, and the log names it. Not under sanitizers and valgrind, which need more.
 */
MUST_CHECK enum status confine_system_calls(struct err *e);

#endif
