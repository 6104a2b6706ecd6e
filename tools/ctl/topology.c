/* topology.c - qkdnctl topology show, link list, route show: what a QKDN controller knows. */
#include "ctl.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "daemon_client.h"
#include "mc.h"

enum { OPTION_DISJOINT = 256, WEIGHT_DRY = -2, WEIGHT_UNUSABLE = -1 };

struct arguments {
	struct ctl_where where;
	const char *source, *destination; /* route show */
	unsigned disjoint;
};

/* ---- fetching ------------------------------------------------------------------------------------ */

struct links {
	mc_link *items;
	size_t count;
};

static enum status fetch_page(struct ctl_client *c, struct links *links, bool *more, struct err *e)
{
	mc_topology_args args = { .first = (u_int)links->count };
	mc_topology_result r = { .links = { .links_len = 0 } };
	enum status s;

	ctl_new_trace(&args.header);
	s = ctl_answer(c, mc_topology_1(&args, &r, c->rpc), &r.outcome, e);
	if (s != ST_OK) {
		xdr_free((xdrproc_t)xdr_mc_topology_result, &r);
		return s;
	}
	links->items = xrealloc(links->items, (links->count + r.links.links_len) * sizeof(mc_link));
	for (u_int i = 0; i < r.links.links_len; i++)
		links->items[links->count++] = r.links.links_val[i];
	*more = r.links.links_len > 0 && links->count < r.links_in_all;
	free(r.links.links_val); /* what was in it has moved */
	free(r.outcome.text);
	return ST_OK;
}

static int by_name(const void *a, const void *b)
{
	const mc_link *x = a, *y = b;

	return strcmp(x->link, y->link);
}

static enum status fetch_links(struct ctl_client *c, struct links *links, struct err *e)
{
	enum status s = ST_OK;

	for (bool more = true; more && s == ST_OK;)
		s = fetch_page(c, links, &more, e);
	if (links->count > 0)
		qsort(links->items, links->count, sizeof(mc_link), by_name);
	return s;
}

static void links_free(struct links *links)
{
	for (size_t i = 0; i < links->count; i++)
		xdr_free((xdrproc_t)xdr_mc_link, &links->items[i]);
	free(links->items);
}

/* ---- showing --------------------------------------------------------------------------------------- */

static const char *state_of(const mc_direction *d)
{
	if (!d->reported)
		return "unknown";
	if ((int)d->weight == WEIGHT_UNUSABLE)
		return "down";
	return (int)d->weight == WEIGHT_DRY ? "dry" : "up";
}

static json_t *direction_json(const mc_link *l, int side)
{
	const mc_direction *d = &l->directions[side];
	json_t *o = json_pack("{s:s, s:s, s:s}", "from", l->ends[side], "to", l->ends[!side], "state", state_of(d));

	if (!d->reported)
		return o;
	json_object_set_new(o, "stock", json_integer((json_int_t)d->stock));
	json_object_set_new(o, "generation_rate", json_integer((json_int_t)d->generation_rate));
	json_object_set_new(o, "consumption_rate", json_integer((json_int_t)d->consumption_rate));
	json_object_set_new(o, "qber_ppm", json_integer(d->qber_ppm));
	json_object_set_new(o, "reported_at", json_integer((json_int_t)d->reported_at));
	if ((int)d->weight != WEIGHT_UNUSABLE && (int)d->weight != WEIGHT_DRY)
		json_object_set_new(o, "weight", json_integer(d->weight));
	return o;
}

static json_t *links_json(const struct links *links)
{
	json_t *list = json_array();

	for (size_t i = 0; i < links->count; i++) {
		json_t *directions = json_pack("[o, o]", direction_json(&links->items[i], 0),
		                               direction_json(&links->items[i], 1));

		json_array_append_new(list, json_pack("{s:s, s:o}", "name", links->items[i].link, "directions",
		                                      directions));
	}
	return list;
}

static void print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(value);
}

static void print_links(const struct links *links)
{
	printf("%-24s %-16s %-16s %-8s %12s %12s %12s %7s %8s\n", "link", "from", "to", "state", "stock (B)",
	       "made (bit/s)", "used (bit/s)", "QBER", "weight");
	for (size_t i = 0; i < 2 * links->count; i++) {
		const mc_link *l = &links->items[i / 2];
		const mc_direction *d = &l->directions[i % 2];
		bool usable = strcmp(state_of(d), "up") == 0;

		printf("%-24s %-16s %-16s %-8s ", l->link, l->ends[i % 2], l->ends[!(i % 2)], state_of(d));
		if (d->reported)
			printf("%12" PRIu64 " %12" PRIu64 " %12" PRIu64 " %6.2f%%", (uint64_t)d->stock,
			       (uint64_t)d->generation_rate, (uint64_t)d->consumption_rate, d->qber_ppm / 1e4);
		if (usable)
			printf(" %8u", d->weight);
		putchar('\n');
	}
}

/* ---- nodes, from the links ---------------------------------------------------------------------------- */

struct node {
	const char *name;
	unsigned links, up;
};

static int by_node(const void *a, const void *b)
{
	const struct node *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static size_t nodes_of(const struct links *links, struct node *nodes)
{
	size_t ends = 2 * links->count, count = 0;

	for (size_t i = 0; i < ends; i++) {
		const mc_direction *d = &links->items[i / 2].directions[i % 2];

		nodes[i] = (struct node){ links->items[i / 2].ends[i % 2], 1, strcmp(state_of(d), "up") == 0 };
	}
	if (ends > 0)
		qsort(nodes, ends, sizeof *nodes, by_node);
	for (size_t i = 0; i < ends; i++) {
		if (count > 0 && strcmp(nodes[count - 1].name, nodes[i].name) == 0) {
			nodes[count - 1].links += nodes[i].links;
			nodes[count - 1].up += nodes[i].up;
		} else {
			nodes[count++] = nodes[i];
		}
	}
	return count;
}

static json_t *topology_json(const mc_status_result *s, const struct links *links, const struct node *nodes,
                             size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, json_pack("{s:s, s:i, s:i}", "name", nodes[i].name, "links",
		                                      (int)nodes[i].links, "up", (int)nodes[i].up));
	return json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "controller", s->controller, "mode",
	                 s->distributed ? "distributed" : "centralized", "kms", (int)s->kms, "routes_given",
	                 (json_int_t)s->routes_given, "routes_refused", (json_int_t)s->routes_refused, "relays_done",
	                 (json_int_t)s->relays_done, "relays_failed", (json_int_t)s->relays_failed,
	                 "reservations_done", (json_int_t)s->reservations_done, "reservations_failed",
	                 (json_int_t)s->reservations_failed, "nodes", list, "links", links_json(links));
}

static void print_topology(const mc_status_result *s, const struct node *nodes, size_t count, size_t links)
{
	printf("controller   %s (%s), %u of its KMs connected\n", s->controller,
	       s->distributed ? "distributed" : "centralized", s->kms);
	printf("network      %zu nodes, %zu links\n", count, links);
	printf("routes       %" PRIu64 " given, %" PRIu64 " refused\n", (uint64_t)s->routes_given,
	       (uint64_t)s->routes_refused);
	printf("relays       %" PRIu64 " done, %" PRIu64 " failed; with reservation %" PRIu64 ", %" PRIu64 "\n\n",
	       (uint64_t)s->relays_done, (uint64_t)s->relays_failed, (uint64_t)s->reservations_done,
	       (uint64_t)s->reservations_failed);
	printf("%-24s %s\n", "node", "links that lead away: up of all");
	for (size_t i = 0; i < count; i++)
		printf("%-24s %u of %u\n", nodes[i].name, nodes[i].up, nodes[i].links);
}

/* ---- commands -------------------------------------------------------------------------------------------- */

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	bool is_route = strstr(state->argv[0], "route") != NULL;
	unsigned long n;
	char *end;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &a->where;
		return 0;
	case OPTION_DISJOINT:
		n = strtoul(arg, &end, 10);
		if (*end != '\0' || n < 1 || n > MC_ROUTES_MAX)
			argp_error(state, "--disjoint %s: give a number from 1 to %d", arg, MC_ROUTES_MAX);
		a->disjoint = (unsigned)n;
		return 0;
	case ARGP_KEY_ARG:
		if (!is_route || state->arg_num > 1)
			argp_error(state, "unexpected argument '%s'", arg);
		if (!name_is_valid(arg))
			argp_error(state, "'%s' is no name of a node", arg);
		*(state->arg_num == 0 ? &a->source : &a->destination) = arg;
		return 0;
	case ARGP_KEY_END:
		if (is_route && a->destination == NULL)
			argp_error(state, "name two nodes: SOURCE and DESTINATION");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option route_options[] = {
	{ "disjoint", OPTION_DISJOINT, "N", 0, "Up to N routes that share no node between", 0 },
	{ 0 },
};
static const struct argp_child children[] = { { &ctl_where_argp, 0, NULL, 0 }, { 0 } };
static const struct argp topology_parser = {
	NULL, parse_option, NULL, "Shows the network as a QKDN controller knows it.", children, NULL, NULL,
};
static const struct argp links_parser = {
	NULL, parse_option, NULL, "Lists the QKD links that a QKDN controller knows, a line for each direction.",
	children, NULL, NULL,
};
static const struct argp route_parser = {
	route_options, parse_option, "SOURCE DESTINATION",
	"Shows the way that a relay between two nodes would take now, with its weight.", children, NULL, NULL,
};

int ctl_link_list(int argc, char **argv)
{
	struct arguments a = { .disjoint = 1 };
	struct ctl_client c;
	struct links links = { NULL, 0 };
	struct err e;
	enum status s;

	argp_parse(&links_parser, argc, argv, 0, NULL, &a);
	if (ctl_connect(&c, &ctl_controller, &a.where, &e) != ST_OK)
		return command_fail(&e);
	s = fetch_links(&c, &links, &e);
	ctl_disconnect(&c);
	if (s == ST_OK && a.where.json)
		print_json(links_json(&links));
	else if (s == ST_OK)
		print_links(&links);
	links_free(&links);
	return s == ST_OK ? 0 : command_fail(&e);
}

static void show_topology(const struct arguments *a, const mc_status_result *status, const struct links *links)
{
	struct node *nodes = xcalloc(2 * links->count, sizeof *nodes);
	size_t count = nodes_of(links, nodes);

	if (a->where.json)
		print_json(topology_json(status, links, nodes, count));
	else
		print_topology(status, nodes, count, links->count);
	free(nodes);
}

int ctl_topology_show(int argc, char **argv)
{
	struct arguments a = { .disjoint = 1 };
	qkdn_request request;
	mc_status_result status = { .kms = 0 };
	struct ctl_client c;
	struct links links = { NULL, 0 };
	struct err e;
	enum status s;

	argp_parse(&topology_parser, argc, argv, 0, NULL, &a);
	if (ctl_connect(&c, &ctl_controller, &a.where, &e) != ST_OK)
		return command_fail(&e);
	ctl_new_trace(&request.header);
	s = ctl_answer(&c, mc_status_1(&request, &status, c.rpc), &status.outcome, &e);
	if (s == ST_OK)
		s = fetch_links(&c, &links, &e);
	ctl_disconnect(&c);
	if (s == ST_OK)
		show_topology(&a, &status, &links);
	links_free(&links);
	xdr_free((xdrproc_t)xdr_mc_status_result, &status);
	return s == ST_OK ? 0 : command_fail(&e);
}

static void print_routes(const mc_route_result *r)
{
	for (u_int i = 0; i < r->routes.routes_len; i++) {
		const mc_route *route = &r->routes.routes_val[i];

		for (u_int n = 0; n < route->nodes.nodes_len; n++)
			printf("%s%s", n > 0 ? " " : "", route->nodes.nodes_val[n]);
		printf("  (%u hops, weight %" PRIu64 ")\n", route->nodes.nodes_len - 1, (uint64_t)route->weight);
	}
}

static json_t *routes_json(const mc_route_result *r)
{
	json_t *list = json_array();

	for (u_int i = 0; i < r->routes.routes_len; i++) {
		const mc_route *route = &r->routes.routes_val[i];
		json_t *nodes = json_array();

		for (u_int n = 0; n < route->nodes.nodes_len; n++)
			json_array_append_new(nodes, json_string(route->nodes.nodes_val[n]));
		json_array_append_new(list, json_pack("{s:o, s:I}", "nodes", nodes, "weight", (json_int_t)route->weight));
	}
	return list;
}

int ctl_route_show(int argc, char **argv)
{
	struct arguments a = { .disjoint = 1 };
	mc_route_args args;
	mc_route_result r = { .routes = { .routes_len = 0 } };
	struct ctl_client c;
	struct err e;
	enum status s;

	argp_parse(&route_parser, argc, argv, 0, NULL, &a);
	if (ctl_connect(&c, &ctl_controller, &a.where, &e) != ST_OK)
		return command_fail(&e);
	args.source = (char *)a.source;
	args.destination = (char *)a.destination;
	args.disjoint = a.disjoint;
	ctl_new_trace(&args.header);
	s = ctl_answer(&c, mc_route_1(&args, &r, c.rpc), &r.outcome, &e);
	ctl_disconnect(&c);
	if (s == ST_OK && a.where.json)
		print_json(routes_json(&r));
	else if (s == ST_OK)
		print_routes(&r);
	xdr_free((xdrproc_t)xdr_mc_route_result, &r);
	return s == ST_OK ? 0 : command_fail(&e);
}
