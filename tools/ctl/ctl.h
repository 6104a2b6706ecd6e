/* ctl.h - what the subcommands of qkdnctl share. */
#ifndef QKDN_CTL_H
#define QKDN_CTL_H

#include "status.h"

/* One subcommand: its words, what runs it (argv[0] is "qkdnctl WORDS"), one line of help. The
 * function returns the exit status of the program. */
struct ctl_command {
	const char *words; /* "trace", "link list" */
	int (*run)(int argc, char **argv);
	const char *description;
};

/* Prints the text of a failure on standard error and returns the exit status for it. */
int ctl_fail(const struct err *e);

int ctl_trace(int argc, char **argv); /* trace.c */

/* topology.c */
int ctl_topology_show(int argc, char **argv);
int ctl_link_list(int argc, char **argv);
int ctl_route_show(int argc, char **argv);

/* km.c */
int ctl_km_status(int argc, char **argv);
int ctl_pool_list(int argc, char **argv);
int ctl_relay_list(int argc, char **argv);
int ctl_km_change_master_key(int argc, char **argv);

#endif
