/* topology.c - the topology file: its settings, and that they fit together. */
#include "topology.h"

#include <string.h>

#include "id.h"

const char *const topology_policies[] = { "preferred", "required", NULL };
const char *const topology_controls[] = { "none", "centralized", "distributed", NULL };
const char *const topology_modes[] = { "push", "pull", NULL };
const char *const topology_rates[] = { "model", "fixed", "unlimited", NULL };
const char *const topology_faults[] = { "missing", "repeated", "late", "differing", NULL };
static const char *const ends[] = { "first", "second", NULL };

#define T(member) .offset = offsetof(struct topology, member)
#define NODE(member) .offset = offsetof(struct topology_node, member)
#define LINK(member) .offset = offsetof(struct topology_link, member)
#define FAULT(member) .offset = offsetof(struct topology_fault, member)

static const struct conf_option node_options[] = {
	{ "name", CONF_NAME, NODE(name), .required = true, .help = "of the QKD node and its KM" },
	{ "controller", CONF_NAME, NODE(controller),
	  .help = "with distributed control: the node whose controller serves this one, too" },
	{ "applications", CONF_STRINGS, NODE(applications), .help = "cryptographic applications at the node" },
	{ .name = NULL },
};
static const struct conf_option fault_options[] = {
	{ "kind", CONF_ENUM, FAULT(kind), .required = true, .words = topology_faults, .help = "what goes wrong" },
	{ "end", CONF_ENUM, FAULT(end), .fallback = "second", .words = ends, .help = "at which end of the link" },
	{ "every", CONF_INTEGER, FAULT(every), .fallback = "100", .min = 1, .max = 1e9, .help = "blocks" },
	{ .name = NULL },
};
static const struct conf_option link_options[] = {
	{ "name", CONF_NAME, LINK(name), .required = true, .help = "of the QKD link" },
	{ "between", CONF_STRINGS, LINK(between), .required = true, .help = "its two nodes" },
	{ "block_size", CONF_SIZE, LINK(block_size), .fallback = "8 KiB", .min = 512, .max = 1048576,
	  .help = "of a block of QKD-keys" },
	{ "mode", CONF_ENUM, LINK(mode), .fallback = "push", .words = topology_modes,
	  .help = "who asks whom on Kq-1" },
	{ "rate", CONF_ENUM, LINK(rate), .fallback = "model", .words = topology_rates, .help = "secret key rate" },
	{ "fixed_rate", CONF_FLOAT, LINK(fixed_rate), .min = 0, .max = 1e12, .help = "bit/s, with rate = \"fixed\"" },
	{ "length_km", CONF_FLOAT, LINK(length_km), .fallback = "20", .min = 0, .max = 1000,
	  .help = "of the fibre" },
	{ "attenuation_db_per_km", CONF_FLOAT, LINK(attenuation_db_per_km), .min = 0, .max = 10,
	  .help = "of the fibre" },
	{ "detector_efficiency", CONF_FLOAT, LINK(detector_efficiency), .min = 0, .max = 1,
	  .help = "of the receiver" },
	{ "dark_count_probability", CONF_FLOAT, LINK(dark_count_probability), .min = 0, .max = 1,
	  .help = "per pulse" },
	{ "faults", CONF_LIST, LINK(faults), .sub = fault_options, .sub_size = sizeof(struct topology_fault),
	  .help = "that the QKD modules show on purpose" },
	{ .name = NULL },
};
static const struct conf_option options[] = {
	{ "domain", CONF_NAME, T(domain), .fallback = "lab.qkdn", .help = "trust domain" },
	{ "nodes", CONF_LIST, T(nodes), .required = true, .sub = node_options,
	  .sub_size = sizeof(struct topology_node), .help = "QKD nodes" },
	{ "links", CONF_LIST, T(links), .required = true, .sub = link_options,
	  .sub_size = sizeof(struct topology_link), .help = "QKD links" },
	{ "control", CONF_ENUM, T(control), .fallback = "none", .words = topology_controls,
	  .help = "QKDN controllers: one of all nodes, or one at each" },
	{ "relay_ahead", CONF_BOOL, T(relay_ahead), .fallback = "true",
	  .help = "whether keys are relayed to far nodes ahead of demand" },
	{ "shares", CONF_INTEGER, T(shares), .fallback = "1", .min = 1, .max = 8,
	  .help = "into so many shares relays are split, each over a route of its own" },
	{ "shares_policy", CONF_ENUM, T(shares_policy), .fallback = "preferred", .words = topology_policies,
	  .help = "whether fewer shares will do where there are fewer routes without a common node" },
	{ "km_settings", CONF_STRING, T(km_settings), .help = "lines for every qkdn-kmd's file" },
	{ "quantum_settings", CONF_STRING, T(quantum_settings), .help = "lines for qkdn-quantumd's file" },
	{ "controller_settings", CONF_STRING, T(controller_settings), .help = "lines for every qkdn-controllerd's file" },
	{ .name = NULL },
};

int topology_find_node(const struct topology *t, const char *name)
{
	for (size_t i = 0; i < t->nodes.count; i++)
		if (strcmp(topology_node(t, i)->name, name) == 0)
			return (int)i;
	return -1;
}

size_t topology_controller(const struct topology *t, size_t node)
{
	const char *at = topology_node(t, node)->controller;

	return at != NULL ? (size_t)topology_find_node(t, at) : node;
}

static enum status check_controller(const struct topology *t, size_t node, struct err *e)
{
	const struct topology_node *n = topology_node(t, node);

	if (n->controller == NULL)
		return ST_OK;
	if (t->control != CONTROL_DISTRIBUTED)
		return err_set(e, ST_CONFIGURATION, "node %s: controller: only with control = \"distributed\"", n->name);
	if (topology_find_node(t, n->controller) < 0)
		return err_set(e, ST_CONFIGURATION, "node %s: controller: there is no node %s", n->name, n->controller);
	if (topology_node(t, topology_controller(t, node))->controller != NULL)
		return err_set(e, ST_CONFIGURATION, "node %s: controller: node %s has none itself", n->name, n->controller);
	return ST_OK;
}

static enum status check_application(const struct topology *t, size_t node, const char *name, struct err *e)
{
	unsigned seen = 0;

	if (!name_is_valid(name))
		return err_set(e, ST_CONFIGURATION,
		               "nodes[%zu].applications: \"%.80s\" is no name: give 1 to 64 of A-Z a-z 0-9 . _ -",
		               node, name);
	for (size_t i = 0; i < t->nodes.count; i++) {
		const struct conf_strings *others = &topology_node(t, i)->applications;

		for (size_t j = 0; j < others->count; j++)
			seen += strcmp(others->items[j], name) == 0;
	}
	if (seen > 1)
		return err_set(e, ST_CONFIGURATION,
		               "nodes[%zu].applications: \"%s\" is there twice: an application belongs to one node",
		               node, name);
	return ST_OK;
}

static enum status check_node(const struct topology *t, size_t i, struct err *e)
{
	static const char *const taken[] = { "quantum", "control", "pki", "trace", "apps", NULL };
	const struct topology_node *n = topology_node(t, i);
	enum status status = ST_OK;

	for (size_t j = 0; taken[j] != NULL; j++)
		if (strcmp(n->name, taken[j]) == 0)
			return err_set(e, ST_CONFIGURATION,
			               "nodes[%zu].name: \"%s\" is a folder that qkdn-lab needs itself: rename it", i,
			               n->name);
	if (topology_find_node(t, n->name) != (int)i)
		return err_set(e, ST_CONFIGURATION, "nodes[%zu].name: \"%s\" is there twice: rename one of them", i,
		               n->name);
	if (status == ST_OK)
		status = check_controller(t, i, e);
	for (size_t j = 0; j < n->applications.count && status == ST_OK; j++)
		status = check_application(t, i, n->applications.items[j], e);
	return status;
}

static enum status check_link(const struct topology *t, size_t i, struct err *e)
{
	const struct topology_link *l = topology_link(t, i);

	if (l->between.count != 2 || strcmp(l->between.items[0], l->between.items[1]) == 0)
		return err_set(e, ST_CONFIGURATION, "links[%zu].between: name two different nodes", i);
	for (size_t j = 0; j < 2; j++)
		if (topology_find_node(t, l->between.items[j]) < 0)
			return err_set(e, ST_CONFIGURATION,
			               "links[%zu].between: there is no node \"%.80s\": add it to nodes", i,
			               l->between.items[j]);
	for (size_t j = 0; j < i; j++)
		if (strcmp(topology_link(t, j)->name, l->name) == 0)
			return err_set(e, ST_CONFIGURATION, "links[%zu].name: \"%s\" is there twice: rename one of them",
			               i, l->name);
	if (l->block_size % 64 != 0)
		return err_set(e, ST_CONFIGURATION, "links[%zu].block_size: must be a multiple of 64 bytes", i);
	if (l->rate == RATE_FIXED && l->fixed_rate <= 0)
		return err_set(e, ST_CONFIGURATION, "links[%zu].fixed_rate: missing: give bit/s, such as 1000000.0", i);
	return ST_OK;
}

static enum status check(const struct topology *t, struct err *e)
{
	enum status status = ST_OK;

	if (t->nodes.count == 0)
		return err_set(e, ST_CONFIGURATION, "nodes: empty: a network has at least one node");
	for (size_t i = 0; i < t->nodes.count && status == ST_OK; i++)
		status = check_node(t, i, e);
	for (size_t i = 0; i < t->links.count && status == ST_OK; i++)
		status = check_link(t, i, e);
	return status;
}

enum status topology_load(struct topology *t, const char *path, struct err *e)
{
	enum status status;

	memset(t, 0, sizeof *t);
	status = conf_load(path, options, t, e);
	if (status != ST_OK)
		return status;
	status = check(t, e);
	if (status != ST_OK) {
		err_prefix(e, "%s", path);
		topology_free(t);
	}
	return status;
}

void topology_free(struct topology *t)
{
	conf_free(options, t);
}
