/*
 * km.c - qkdnctl km status, pool list, relay list: what key managers hold and do (Mk); km change-master-key.
 *
 * What they answer is gathered as JSON, and either printed so or drawn as a table.
 */
#include "ctl.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "daemon_client.h"
#include "id.h"
#include "mk.h"

/* ---- the command line -------------------------------------------------------------------------------- */

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	(void)arg;
	if (key == ARGP_KEY_INIT)
		state->child_inputs[0] = state->input;
	else if (key == ARGP_KEY_ARG)
		argp_error(state, "there is nothing to name behind the options");
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static const struct argp_child children[] = { { &ctl_where_argp, 0, NULL, 0 }, { 0 } };

/* ---- tables --------------------------------------------------------------------------------------------- */

struct column {
	const char *key, *title;
};

/* Of alarms, one behind another. */
static size_t causes(char *text, size_t room, const json_t *alarms)
{
	const json_t *alarm;
	size_t i, used = 0;

	text[0] = '\0';
	json_array_foreach(alarms, i, alarm)
		if (used < room)
			used += (size_t)snprintf(text + used, room - used, "%s%s (%s)", i > 0 ? ", " : "",
			                         json_string_value(json_object_get(alarm, "cause")),
			                         json_string_value(json_object_get(alarm, "severity")));
	return used < room ? used : room - 1;
}

static size_t cell(char *text, size_t room, const json_t *value)
{
	if (json_is_integer(value))
		return (size_t)snprintf(text, room, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	if (json_is_real(value))
		return (size_t)snprintf(text, room, "%.4f", json_real_value(value));
	if (json_is_array(value))
		return causes(text, room, value);
	if (json_is_boolean(value))
		return (size_t)snprintf(text, room, "%s", json_is_true(value) ? "yes" : "no");
	return (size_t)snprintf(text, room, "%s", json_string_value(value) ? json_string_value(value) : "");
}

/* Numbers to the right, words to the left, each column as wide as its widest cell. */
static void print_table(const json_t *rows, const struct column *columns)
{
	char text[600];
	const json_t *row;
	size_t i, widths[16] = { 0 };

	for (size_t c = 0; columns[c].key != NULL; c++) {
		widths[c] = strlen(columns[c].title);
		json_array_foreach(rows, i, row) {
			size_t len = cell(text, sizeof text, json_object_get(row, columns[c].key));

			widths[c] = len > widths[c] ? len : widths[c];
		}
	}
	for (size_t c = 0; columns[c].key != NULL; c++)
		printf("%s%-*s", c > 0 ? "  " : "", columns[c + 1].key != NULL ? (int)widths[c] : 0, columns[c].title);
	putchar('\n');
	json_array_foreach(rows, i, row) {
		for (size_t c = 0; columns[c].key != NULL; c++) {
			const json_t *value = json_object_get(row, columns[c].key);
			bool last = columns[c + 1].key == NULL;

			cell(text, sizeof text, value);
			printf("%s%*s", c > 0 ? "  " : "",
			       json_is_number(value) ? (int)widths[c] : last ? 0 : -(int)widths[c], text);
		}
		putchar('\n');
	}
}

/* Asks all that are to be asked, and shows what came, though some may have failed. */
static int show(int argc, char **argv, const char *description, ctl_ask ask, const struct column *columns)
{
	const struct argp parser = { NULL, parse_option, NULL, description, children, NULL, NULL };
	struct ctl_where where = { .lab = NULL };
	json_t *rows = json_array();
	int exit_status;

	argp_parse(&parser, argc, argv, 0, NULL, &where);
	exit_status = ctl_each(&ctl_km, &where, ask, rows);
	if (where.json) {
		json_dumpf(rows, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (exit_status == 0 || json_array_size(rows) > 0) {
		print_table(rows, columns);
	}
	json_decref(rows);
	return exit_status;
}

/* ---- km status --------------------------------------------------------------------------------------------- */

static enum status ask_status(struct ctl_client *c, void *arg, struct err *e)
{
	qkdn_request request;
	mk_status_result r = { .km = NULL };
	enum status s;

	ctl_new_trace(&request.header);
	s = ctl_answer(c, mk_status_1(&request, &r, c->rpc), &r.outcome, e);
	if (s == ST_OK)
		json_array_append_new(
			arg,
			json_pack("{s:s, s:s, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
		                  "km", r.km, "controller", r.controller, "registered", r.registered, "remembering",
		                  r.remembering, "routes_remembered", (json_int_t)r.routes_remembered, "keys_supplied",
		                  (json_int_t)r.keys_supplied, "keys_fetched", (json_int_t)r.keys_fetched,
		                  "requests_refused", (json_int_t)r.requests_refused, "blocks_received",
		                  (json_int_t)r.blocks_received, "blocks_agreed", (json_int_t)r.blocks_agreed,
		                  "blocks_voided", (json_int_t)r.blocks_voided, "blocks_differing",
		                  (json_int_t)r.blocks_differing, "bytes_voided", (json_int_t)r.bytes_voided,
		                  "bytes_discarded", (json_int_t)r.bytes_discarded, "pad_lost", (json_int_t)r.pad_lost,
		                  "pad_unsent", (json_int_t)r.pad_unsent, "relays_sent", (json_int_t)r.relays_sent, "relays_forwarded",
		                  (json_int_t)r.relays_forwarded, "relays_received", (json_int_t)r.relays_received,
		                  "relays_refused", (json_int_t)r.relays_refused, "relay_bytes",
		                  (json_int_t)r.relay_bytes));
	xdr_free((xdrproc_t)xdr_mk_status_result, &r);
	return s;
}

int ctl_km_status(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "km", "KM" },           { "controller", "CONTROLLER" },
		{ "registered", "REG" },        { "remembering", "REMEMBERS" },
		{ "keys_supplied", "SUPPLIED" },
		{ "keys_fetched", "FETCHED" },  { "requests_refused", "REFUSED" },
		{ "blocks_agreed", "BLOCKS" },  { "blocks_voided", "VOIDED" },
		{ "relays_sent", "SENT" },      { "relays_received", "ARRIVED" },
		{ "bytes_voided", "BYTES VOIDED" }, { "bytes_discarded", "DISCARDED" },
		{ "pad_lost", "PAD LOST" },     { NULL, NULL },
	};

	return show(argc, argv,
	            "Shows what key managers have done since their start, and whether relays take remembered routes "
	            "because the controller does not answer: keys supplied and fetched, requests refused, "
	            "blocks of QKD-keys agreed and voided, relays sent and arrived, bytes of keys given up, of links "
	            "discarded from a direction that was full, and of pad that was spent on relays that did not arrive.",
	            ask_status, columns);
}

/* ---- pool list ------------------------------------------------------------------------------------------------ */

/* Of a pool that relays fill: how many shares they are split into. */
static const char *policy_text(const mk_pool *p, char text[40])
{
	snprintf(text, 40, "%u %s", p->shares, p->shares_required ? "required" : "preferred");
	return p->shares == 0 ? "" : p->shares == 1 ? "1" : text;
}

static enum status ask_pools(struct ctl_client *c, void *arg, struct err *e)
{
	static const char *const kinds[] = { "link", "authentication", "KSA", "share" };
	qkdn_request request;
	mk_status_result who = { .km = NULL };
	mk_pools_result r = { .pools = { .pools_len = 0 } };
	enum status s;

	ctl_new_trace(&request.header);
	s = ctl_answer(c, mk_status_1(&request, &who, c->rpc), &who.outcome, e);
	if (s == ST_OK)
		s = ctl_answer(c, mk_pools_1(&request, &r, c->rpc), &r.outcome, e);
	for (u_int i = 0; s == ST_OK && i < r.pools.pools_len; i++) {
		const mk_pool *p = &r.pools.pools_val[i];
		char text[40];

		json_array_append_new(
			arg, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "km", who.km, "kind",
		                       p->kind <= MK_POOL_SHARE ? kinds[p->kind] : "?", "source", p->source, "destination",
		                       p->destination, "link", p->link, "state",
		                       p->replaced ? "replaced" : "in use", "stock", (json_int_t)p->stock, "unready",
		                       (json_int_t)p->unready, "assigned", (json_int_t)p->assigned, "taken_up_to",
		                       (json_int_t)p->taken_up_to, "ready_up_to", (json_int_t)p->ready_up_to, "voided",
		                       (json_int_t)p->voided, "shares", policy_text(p, text)));
	}
	xdr_free((xdrproc_t)xdr_mk_status_result, &who);
	xdr_free((xdrproc_t)xdr_mk_pools_result, &r);
	return s;
}

int ctl_pool_list(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "km", "KM" },       { "kind", "KIND" },         { "source", "FROM" },
		{ "destination", "TO" }, { "link", "LINK" },      { "state", "STATE" }, { "stock", "STOCK" },
		{ "unready", "UNREADY" }, { "assigned", "ASSIGNED" }, { "voided", "VOIDED" },
		{ "shares", "SHARES" }, { NULL, NULL },
	};

	return show(argc, argv,
	            "Lists the key pools of key managers, in bytes: what could be taken now, what is stored but not agreed "
	            "with the other end yet, what waits for an application to fetch it, what was given up.",
	            ask_pools, columns);
}

/* ---- module list ---------------------------------------------------------------------------------------------- */

static json_t *alarms_of(const mk_module *m)
{
	json_t *all = json_array();

	for (u_int i = 0; i < m->alarms.alarms_len; i++) {
		const mk_alarm *a = &m->alarms.alarms_val[i];

		json_array_append_new(all, json_pack("{s:s, s:s, s:I, s:s}", "cause", a->cause, "severity",
		                                     a->major ? "major" : "minor", "raised_at", (json_int_t)a->raised_at,
		                                     "text", a->text));
	}
	return all;
}

static enum status ask_modules(struct ctl_client *c, void *arg, struct err *e)
{
	qkdn_request request;
	mk_status_result who = { .km = NULL };
	mk_modules_result r = { .modules = { .modules_len = 0 } };
	enum status s;

	ctl_new_trace(&request.header);
	s = ctl_answer(c, mk_status_1(&request, &who, c->rpc), &who.outcome, e);
	if (s == ST_OK)
		s = ctl_answer(c, mk_modules_1(&request, &r, c->rpc), &r.outcome, e);
	for (u_int i = 0; s == ST_OK && i < r.modules.modules_len; i++) {
		const mk_module *m = &r.modules.modules_val[i];

		json_array_append_new(arg, json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:f, s:I, s:I, s:o}",
		                                     "km", who.km, "module", m->module, "link", m->link,
		                                     "peer", m->peer, "state", m->state,
		                                     "secret_key_rate", (json_int_t)m->secret_key_rate,
		                                     "qber", m->qber_ppm / 1e6, "buffered", (json_int_t)m->buffered,
		                                     "dropped", (json_int_t)m->dropped, "alarms", alarms_of(m)));
	}
	xdr_free((xdrproc_t)xdr_mk_status_result, &who);
	xdr_free((xdrproc_t)xdr_mk_modules_result, &r);
	return s;
}

int ctl_module_list(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "km", "KM" },       { "module", "MODULE" },     { "link", "LINK" },       { "state", "STATE" },
		{ "secret_key_rate", "BIT/S" }, { "qber", "QBER" }, { "buffered", "BUFFERED" }, { "dropped", "DROPPED" },
		{ "alarms", "ALARMS" }, { NULL, NULL },
	};

	return show(argc, argv,
	            "Lists the QKD modules of key managers: whether they run, their secret key rate and quantum bit error "
	            "ratio as they told last, blocks made and not taken yet, blocks given up, alarms that stand.",
	            ask_modules, columns);
}

/* ---- relay list ------------------------------------------------------------------------------------------------- */

/* "2 shares" at the source, "1 of 2" on the way. */
static const char *share_text(const mk_relay *r, char text[40])
{
	if (strcmp(r->method, "transit") == 0)
		snprintf(text, 40, "%u of %u", r->share + 1, r->shares);
	else
		snprintf(text, 40, "%u shares", r->shares);
	return r->shares > 1 ? text : "";
}

static enum status ask_relays(struct ctl_client *c, void *arg, struct err *e)
{
	qkdn_request request;
	mk_status_result who = { .km = NULL };
	mk_relays_result r = { .relays = { .relays_len = 0 } };
	enum status s;

	ctl_new_trace(&request.header);
	s = ctl_answer(c, mk_status_1(&request, &who, c->rpc), &who.outcome, e);
	if (s == ST_OK)
		s = ctl_answer(c, mk_relays_1(&request, &r, c->rpc), &r.outcome, e);
	for (u_int i = 0; s == ST_OK && i < r.relays.relays_len; i++) {
		const mk_relay *one = &r.relays.relays_val[i];
		char text[ID_TEXT_LEN], share[40];
		struct id id;

		memcpy(id.bytes, one->relay, ID_LEN);
		id_format(&id, text);
		json_array_append_new(arg, json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:I}", "km", who.km, "relay",
		                                     text, "source", one->source, "destination", one->destination,
		                                     "method", one->method, "stage", one->stage, "share",
		                                     share_text(one, share), "remembered",
		                                     one->remembered, "bytes", (json_int_t)one->len));
	}
	xdr_free((xdrproc_t)xdr_mk_status_result, &who);
	xdr_free((xdrproc_t)xdr_mk_relays_result, &r);
	return s;
}

int ctl_relay_list(int argc, char **argv)
{
	static const struct column columns[] = {
		{ "km", "KM" },         { "relay", "RELAY" }, { "source", "FROM" }, { "destination", "TO" },
		{ "method", "METHOD" }, { "stage", "STAGE" }, { "share", "SHARE" }, { "remembered", "REMEMBERED ROUTE" },
		{ "bytes", "BYTES" },   { NULL, NULL },
	};

	return show(argc, argv,
	            "Lists the ranges of key bits that are on their way into KSA pools: allocations from a link, relays, "
	            "reservations, and transits at the nodes between.",
	            ask_relays, columns);
}

/* ---- km change-master-key ------------------------------------------------------------------------------------ */

static enum status ask_change_master_key(struct ctl_client *c, void *arg, struct err *e)
{
	qkdn_request request;
	mk_master_key_result r = { .km = NULL };
	enum status s;

	ctl_new_trace(&request.header);
	s = ctl_answer(c, mk_change_master_key_1(&request, &r, c->rpc), &r.outcome, e);
	if (s == ST_OK)
		json_array_append_new(arg, json_pack("{s:s, s:s}", "km", r.km, "master_key", "changed"));
	xdr_free((xdrproc_t)xdr_mk_master_key_result, &r);
	return s;
}

int ctl_km_change_master_key(int argc, char **argv)
{
	static const struct column columns[] = { { "km", "KM" }, { "master_key", "MASTER KEY" }, { NULL, NULL } };

	return show(argc, argv,
	            "Has the key stores of key managers change to the next master key, which lies beside the present one "
	            "(master_key and \".next\"; qkdn-pki master-key makes it). No key goes over the network.",
	            ask_change_master_key, columns);
}
