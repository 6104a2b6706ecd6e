/* topology.h - the file that describes a whole network (qkdn-topology(5)). */
#ifndef QKDN_TOPOLOGY_H
#define QKDN_TOPOLOGY_H

#include "conf.h"

enum topology_control { CONTROL_NONE, CONTROL_CENTRALIZED, CONTROL_DISTRIBUTED };

enum topology_rate { RATE_MODEL, RATE_FIXED, RATE_UNLIMITED };

struct topology_node {
	char *name;
	char *controller; /* the node whose controller serves this one; NULL: its own */
	struct conf_strings applications;
};

struct topology_fault {
	int kind, end;
	int64_t every;
};

struct topology_link {
	char *name;
	struct conf_strings between; /* two nodes */
	int64_t block_size;
	int mode, rate;
	double fixed_rate, length_km, attenuation_db_per_km, detector_efficiency, dark_count_probability;
	struct conf_list faults; /* struct topology_fault */
};

struct topology {
	char *domain;
	int control; /* enum topology_control */
	bool relay_ahead;
	int64_t shares;
	int shares_policy; /* index of topology_policies */
	char *km_settings, *quantum_settings, *controller_settings; /* go into the daemons' files as they are; may be NULL */
	struct conf_list nodes, links;
};

/* Loads and checks. topology_free afterwards. */
MUST_CHECK enum status topology_load(struct topology *t, const char *path, struct err *e);
void topology_free(struct topology *t);

static inline const struct topology_node *topology_node(const struct topology *t, size_t i)
{
	return (const struct topology_node *)t->nodes.items + i;
}
static inline const struct topology_link *topology_link(const struct topology *t, size_t i)
{
	return (const struct topology_link *)t->links.items + i;
}

/* Index of the node at which the controller of a node is; for distributed control. */
size_t topology_controller(const struct topology *t, size_t node);

/* Index of the node, or -1. */
int topology_find_node(const struct topology *t, const char *name);

extern const char *const topology_policies[];
extern const char *const topology_controls[], *const topology_modes[], *const topology_rates[], *const topology_faults[];

#endif
