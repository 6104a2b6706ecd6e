/* ctl.c - qkdnctl: its subcommands. Each has a file of its own. */
#include "ctl.h"

static const struct command commands[] = {
	{ "km change-master-key", ctl_km_change_master_key, "have the stores of key managers change to their next master key" },
	{ "km status", ctl_km_status, "show what key managers have done since their start" },
	{ "link list", ctl_link_list, "list QKD links with stock, rates and error ratio" },
	{ "pool list", ctl_pool_list, "list the key pools of key managers" },
	{ "module list", ctl_module_list, "list the QKD modules of key managers, with their alarms" },
	{ "relay list", ctl_relay_list, "list the ranges of key bits that are on their way" },
	{ "route show", ctl_route_show, "show the way between two nodes" },
	{ "topology show", ctl_topology_show, "show the network as a controller knows it" },
	{ "trace", ctl_trace, "draw the messages of a procedure as a ladder" },
};

int main(int argc, char **argv)
{
	static const struct command_line line = {
		.program = "qkdnctl",
		.usage = "COMMAND [OPTION...] [ARGUMENT...]",
		.about = "What a QKD network does, and how it is.",
		.page = "qkdnctl(8)",
		.commands = commands,
		.count = ARRAY_LEN(commands),
	};

	return command_line_run(&line, argc, argv);
}
