/* controller_cx.c - reference point Cx: link states and routes between controllers. */
#include "controllerd.h"

#include <stdlib.h>
#include <string.h>

#include "cx.h"

_Static_assert(CX_LINKS_MAX >= LS_LINKS_MAX, "a record fits a message");
_Static_assert(CX_RECORDS_MAX >= CONTROLLER_RECORDS_MAX, "so does a batch of them");
_Static_assert(CX_SUMMARY_MAX >= CONTROLLER_SUMMARY_MAX, "and a summary");

void qkdn_cx_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

static const struct rtls_procedure procedures[] = {
	{ CX_SUMMARY, "Link-state summary", "Response to link-state summary", "controller" },
	{ CX_LINK_STATES, "Link-state exchange", "Response to link-state exchange", "controller" },
	{ CX_ROUTE_EXCHANGE, "Route exchange", "Response to route exchange", "controller" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program controller_cx = { QKDN_CX, QKDN_CX_V1, "Cx", qkdn_cx_1, procedures, true };

int qkdn_cx_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- records on the wire ----------------------------------------------------------------------- */

static void write_link(qkdn_link_state *to, const struct route_link *from)
{
	*to = (qkdn_link_state){
		.link = xstrdup(from->name),
		.peer = xstrdup(from->peer),
		.up = from->state.up,
		.stock = from->state.stock,
		.generation_rate = from->state.generation_rate,
		.consumption_rate = from->state.consumption_rate,
		.qber_ppm = from->state.qber_ppm,
		.reported_at = from->state.reported_at,
	};
}

static void write_record(cx_record *to, const struct ls_record *from)
{
	to->km = xstrdup(from->km);
	to->controller = xstrdup(from->controller);
	to->sequence = from->sequence;
	to->age = from->age;
	to->links.links_len = (u_int)from->count;
	to->links.links_val = xcalloc(from->count, sizeof(qkdn_link_state));
	for (size_t i = 0; i < from->count; i++)
		write_link(&to->links.links_val[i], &from->links[i]);
}

static cx_record *write_records(const struct ls_record *records, size_t count)
{
	cx_record *to = xcalloc(count, sizeof *to);

	for (size_t i = 0; i < count; i++)
		write_record(&to[i], &records[i]);
	return to;
}

static bool read_record(struct ls_record *to, const cx_record *from)
{
	bool good = controllerd_copy_name(to->km, from->km);

	good = controllerd_copy_name(to->controller, from->controller) && good;
	to->sequence = from->sequence;
	to->age = from->age;
	to->count = from->links.links_len;
	to->links = xcalloc(to->count, sizeof *to->links);
	for (size_t i = 0; i < to->count; i++)
		good = controllerd_read_link(&to->links[i], &from->links.links_val[i]) && good;
	return good;
}

static void free_records(struct ls_record *records, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(records[i].links);
	free(records);
}

/* NULL where one of them is malformed. */
static struct ls_record *read_records(const cx_record *records, size_t count)
{
	struct ls_record *to = xcalloc(count, sizeof *to);
	bool good = true;

	for (size_t i = 0; i < count; i++)
		good = read_record(&to[i], &records[i]) && good;
	if (good)
		return to;
	free_records(to, count);
	return NULL;
}

/* ---- served ---------------------------------------------------------------------------------- */

static void set_outcome(qkdn_outcome *o, enum status s)
{
	const char *text = s == ST_OK       ? "" :
	                   s == ST_DENIED   ? "not a neighbour: name it in the controller's neighbours" :
	                   s == ST_NO_ROUTE ? "no way there is known" :
	                                      "the message is malformed";

	o->status = (qkdn_status)s;
	o->text = xstrdup(text);
}

static bool read_edition(struct ls_edition *to, const cx_summary_entry *from)
{
	to->sequence = from->sequence;
	to->digest = from->digest;
	return controllerd_copy_name(to->km, from->km);
}

static enum status take_summary(struct controllerd *d, const char *neighbour, const cx_summary_args *args,
                                cx_summary_result *result)
{
	size_t count = args->entries.entries_len, wanted_count = 0;
	struct ls_edition *editions = xcalloc(count, sizeof *editions);
	const char **wanted = xcalloc(count, sizeof(const char *));
	enum status s = ST_OK;

	for (size_t i = 0; i < count; i++)
		if (!read_edition(&editions[i], &args->entries.entries_val[i]))
			s = ST_BAD_REQUEST;
	if (s == ST_OK)
		s = controller_summary(d->core, neighbour, editions, count, wanted, &wanted_count);
	result->wanted.wanted_val = xcalloc(wanted_count, sizeof(qkdn_name));
	result->wanted.wanted_len = (u_int)wanted_count;
	for (size_t i = 0; i < wanted_count; i++)
		result->wanted.wanted_val[i] = xstrdup(wanted[i]);
	free(wanted);
	free(editions);
	return s;
}

bool_t cx_summary_1_svc(cx_summary_args *args, cx_summary_result *result, struct svc_req *rq)
{
	memset(result, 0, sizeof *result);
	set_outcome(&result->outcome, take_summary(rtls_context(rq), rtls_caller(rq)->name, args, result));
	return TRUE;
}

static enum status take_states(struct controllerd *d, const char *neighbour, const cx_link_states_args *args,
                               cx_link_states_result *result)
{
	struct ls_record newer[CONTROLLER_RECORDS_MAX];
	size_t count = args->records.records_len, newer_count = 0;
	struct ls_record *records = read_records(args->records.records_val, count);
	enum status s;

	if (records == NULL)
		return ST_BAD_REQUEST;
	s = controller_link_states(d->core, neighbour, records, count, newer, &newer_count);
	result->newer.newer_val = write_records(newer, newer_count);
	result->newer.newer_len = (u_int)newer_count;
	free_records(records, count);
	return s;
}

bool_t cx_link_states_1_svc(cx_link_states_args *args, cx_link_states_result *result, struct svc_req *rq)
{
	memset(result, 0, sizeof *result);
	set_outcome(&result->outcome, take_states(rtls_context(rq), rtls_caller(rq)->name, args, result));
	return TRUE;
}

/* A question: nothing is taken off the stock for it. */
static enum status look_for_route(struct controllerd *d, const cx_route_args *args, cx_route_result *result)
{
	struct topology *t = controller_topology(d->core);
	int from = topology_find(t, args->source), to = topology_find(t, args->destination);
	struct route r;

	if (from < 0 || to < 0 || !route_find(t, from, to, NULL, &r))
		return ST_NO_ROUTE;
	result->weight = r.weight;
	result->nodes.nodes_len = (u_int)r.count;
	result->nodes.nodes_val = xcalloc(r.count, sizeof(qkdn_name));
	for (size_t i = 0; i < r.count; i++)
		result->nodes.nodes_val[i] = xstrdup(topology_name(t, r.nodes[i]));
	return ST_OK;
}

bool_t cx_route_exchange_1_svc(cx_route_args *args, cx_route_result *result, struct svc_req *rq)
{
	memset(result, 0, sizeof *result);
	set_outcome(&result->outcome, look_for_route(rtls_context(rq), args, result));
	return TRUE;
}

/* ---- called ---------------------------------------------------------------------------------- */

struct asked {
	controller_summary_done summary_done;
	controller_states_done states_done;
	void *token;
};

static struct asked *asked_new(controller_summary_done summary_done, controller_states_done states_done,
                               void *token)
{
	struct asked *a = xcalloc(1, sizeof *a);

	*a = (struct asked){ summary_done, states_done, token };
	return a;
}

static void summary_answered(enum status s, void *result, void *arg)
{
	const cx_summary_result *r = result;
	struct asked *a = arg;

	if (s == ST_OK && r->outcome.status == QKDN_OK)
		a->summary_done(ST_OK, (const char *const *)r->wanted.wanted_val, r->wanted.wanted_len, a->token);
	else
		a->summary_done(s == ST_OK ? (enum status)r->outcome.status : s, NULL, 0, a->token);
	free(a);
}

void controller_cx_summary(void *controllerd, const char *neighbour, const struct id *trace,
                           const struct ls_edition *editions, size_t count, controller_summary_done done,
                           void *token)
{
	struct controllerd *d = controllerd;
	cx_summary_entry *entries = xcalloc(count, sizeof *entries);
	cx_summary_args args = { .entries = { .entries_len = (u_int)count, .entries_val = entries } };
	const struct rtls_call call = {
		.program = QKDN_CX,
		.version = QKDN_CX_V1,
		.procedure = CX_SUMMARY,
		.xdr_args = (xdrproc_t)xdr_cx_summary_args,
		.args = &args,
		.xdr_result = (xdrproc_t)xdr_cx_summary_result,
		.result_size = sizeof(cx_summary_result),
		.timeout_ns = d->call_timeout,
		.done = summary_answered,
		.arg = asked_new(done, NULL, token),
	};

	memcpy(args.header.trace, trace, sizeof *trace);
	for (size_t i = 0; i < count; i++)
		entries[i] = (cx_summary_entry){ .km = (char *)editions[i].km,
		                                 .sequence = editions[i].sequence,
		                                 .digest = editions[i].digest };
	controllerd_call(d, "controller", neighbour, &call);
	free(entries);
}

static void states_answered(enum status s, void *result, void *arg)
{
	const cx_link_states_result *r = result;
	struct ls_record *newer = NULL;
	struct asked *a = arg;
	size_t count = 0;

	if (s == ST_OK)
		s = (enum status)r->outcome.status;
	if (s == ST_OK && (newer = read_records(r->newer.newer_val, r->newer.newer_len)) != NULL)
		count = r->newer.newer_len;
	a->states_done(s, newer, count, a->token);
	if (newer != NULL)
		free_records(newer, count);
	free(a);
}

void controller_cx_link_states(void *controllerd, const char *neighbour, const struct id *trace,
                               const struct ls_record *records, size_t count, controller_states_done done,
                               void *token)
{
	struct controllerd *d = controllerd;
	cx_link_states_args args = {
		.records = { .records_len = (u_int)count, .records_val = write_records(records, count) },
	};
	const struct rtls_call call = {
		.program = QKDN_CX,
		.version = QKDN_CX_V1,
		.procedure = CX_LINK_STATES,
		.xdr_args = (xdrproc_t)xdr_cx_link_states_args,
		.args = &args,
		.xdr_result = (xdrproc_t)xdr_cx_link_states_result,
		.result_size = sizeof(cx_link_states_result),
		.timeout_ns = d->call_timeout,
		.done = states_answered,
		.arg = asked_new(NULL, done, token),
	};

	memcpy(args.header.trace, trace, sizeof *trace);
	controllerd_call(d, "controller", neighbour, &call);
	xdr_free((xdrproc_t)xdr_cx_link_states_args, &args);
}
