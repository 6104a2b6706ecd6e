/* ctl.h - the subcommands of qkdnctl. */
#ifndef QKDN_CTL_H
#define QKDN_CTL_H

#include "command.h"

int ctl_trace(int argc, char **argv); /* trace.c */

/* topology.c */
int ctl_topology_show(int argc, char **argv);
int ctl_link_list(int argc, char **argv);
int ctl_route_show(int argc, char **argv);

/* km.c */
int ctl_km_status(int argc, char **argv);
int ctl_pool_list(int argc, char **argv);
int ctl_module_list(int argc, char **argv);
int ctl_relay_list(int argc, char **argv);
int ctl_km_change_master_key(int argc, char **argv);

#endif
