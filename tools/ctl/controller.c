/* controller.c - qkdnctl's connection to a QKDN controller. */
#include "controller.h"

#include <jansson.h>
#include <libconfig.h>
#include <stdlib.h>
#include <string.h>

#include "conf.h"
#include "secret.h"

static const struct rtls_procedure procedures[] = {
	{ MC_STATUS, "Controller status request", "Response to controller status request", "" },
	{ MC_TOPOLOGY, "Topology request", "Response to topology request", "" },
	{ MC_ROUTE, "Route request", "Response to route request", "" },
	{ 0, NULL, NULL, NULL },
};
static const struct rtls_program mc_program = { QKDN_MC, QKDN_MC_V1, "Mc", NULL, procedures, true };

/* ---- options ----------------------------------------------------------------------------------- */

enum { OPTION_LAB = 512, OPTION_NODE, OPTION_JSON };

static const struct argp_option options[] = {
	{ "lab", OPTION_LAB, "DIR", 0, "Ask a controller of the lab in DIR, as its administrator", 0 },
	{ "node", OPTION_NODE, "NODE", 0, "In a lab: the controller of NODE, instead of the first one", 0 },
	{ "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct controller_options *o = state->input;

	switch (key) {
	case OPTION_LAB:
		o->lab = arg;
		return 0;
	case OPTION_NODE:
		o->node = arg;
		return 0;
	case OPTION_JSON:
		o->json = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp controller_argp = { options, parse_option, NULL, NULL, NULL, NULL, NULL };

/* ---- where it is, and as whom to ask --------------------------------------------------------------- */

struct place {
	char *name, *address, *dns_name, *certificate, *private_key, *authority;
};

static void place_free(struct place *p)
{
	free(p->name);
	free(p->address);
	free(p->dns_name);
	free(p->certificate);
	free(p->private_key);
	free(p->authority);
}

/* The configuration of the lab's controller: of the node that was asked for, or the first. */
static char *lab_configuration(const struct controller_options *o)
{
	char *path = xasprintf("%s/lab.json", o->lab), *found = NULL;
	json_t *lab = json_load_file(path, 0, NULL), *daemon;
	size_t i;

	json_array_foreach(json_object_get(lab, "daemons"), i, daemon) {
		const char *name = json_string_value(json_object_get(daemon, "name"));
		const char *kind = json_string_value(json_object_get(daemon, "kind"));
		const char *config = json_string_value(json_object_get(daemon, "config"));
		size_t len = o->node != NULL ? strlen(o->node) : 0;

		if (name == NULL || kind == NULL || config == NULL || strcmp(kind, "controllerd") != 0)
			continue;
		if (o->node != NULL && (strncmp(name, o->node, len) != 0 || name[len] != '/'))
			continue;
		found = xstrdup(config);
		break;
	}
	json_decref(lab);
	free(path);
	return found;
}

static enum status place_in_lab(struct place *p, const struct controller_options *o, struct err *e)
{
	const char *name = NULL, *address = NULL;
	char *path = lab_configuration(o);
	config_t conf;

	if (path == NULL)
		return err_set(e, ST_NOT_FOUND, "%s: no network with a controller%s%s is up there", o->lab,
		               o->node != NULL ? " at " : "", o->node != NULL ? o->node : "");
	config_init(&conf);
	if (config_read_file(&conf, path) && config_lookup_string(&conf, "name", &name) &&
	    config_lookup_string(&conf, "listen.[0]", &address)) {
		p->name = xstrdup(name);
		p->address = xstrdup(address);
	}
	config_destroy(&conf);
	if (p->name == NULL)
		err_set(e, ST_CONFIGURATION, "%s: does not say where the controller listens", path);
	free(path);
	p->certificate = xasprintf("%s/pki/admin.crt", o->lab);
	p->private_key = xasprintf("%s/pki/admin.key", o->lab);
	p->authority = xasprintf("%s/pki/ca.crt", o->lab);
	return p->name != NULL ? ST_OK : ST_CONFIGURATION;
}

static enum status from_environment(char **to, const char *variable, struct err *e)
{
	const char *value = getenv(variable);

	if (value == NULL || *value == '\0')
		return err_set(e, ST_CONFIGURATION,
		               "%s is not set: it says how to reach the controller (qkdnctl(8)); in a lab use --lab DIR",
		               variable);
	*to = xstrdup(value);
	return ST_OK;
}

static enum status place_in_environment(struct place *p, struct err *e)
{
	const char *dns_name = getenv("QKDN_CONTROLLER_DNS_NAME");
	enum status s = from_environment(&p->address, "QKDN_CONTROLLER", e);

	if (s == ST_OK)
		s = from_environment(&p->name, "QKDN_CONTROLLER_NAME", e);
	if (s == ST_OK)
		s = from_environment(&p->certificate, "QKDN_CERTIFICATE", e);
	if (s == ST_OK)
		s = from_environment(&p->private_key, "QKDN_PRIVATE_KEY", e);
	if (s == ST_OK)
		s = from_environment(&p->authority, "QKDN_AUTHORITY", e);
	if (dns_name != NULL)
		p->dns_name = xstrdup(dns_name);
	return s;
}

/* ---- the connection ----------------------------------------------------------------------------------- */

static enum status open_channel(struct controller_client *c, const struct place *p, struct err *e)
{
	struct rtls_channel_options o = { .peer = { .role = "controller", .name = p->name, .dns_name = p->dns_name,
		                                    .program = QKDN_MC, .version = QKDN_MC_V1 } };
	enum status s = rtls_credentials_load(&o.credentials, p->certificate, p->private_key, p->authority, e);
	char *host = NULL;

	if (s != ST_OK)
		return s;
	if (!conf_address_split(p->address, &host, &o.peer.port)) {
		rtls_credentials_free(o.credentials);
		return err_set(e, ST_CONFIGURATION, "\"%s\" is no address: give host:port", p->address);
	}
	o.peer.host = host;
	s = rtls_channel_open(&c->channel, &o, e);
	rtls_credentials_free(o.credentials);
	free(host);
	return s;
}

enum status controller_connect(struct controller_client *c, const struct controller_options *o, struct err *e)
{
	struct place p = { .name = NULL };
	enum status s = o->lab != NULL ? place_in_lab(&p, o, e) : place_in_environment(&p, e);

	memset(c, 0, sizeof *c);
	if (s == ST_OK)
		s = open_channel(c, &p, e);
	place_free(&p);
	if (s != ST_OK)
		return s;
	rtls_channel_name_program(c->channel, &mc_program);
	c->rpc = rtls_channel_client(c->channel, QKDN_MC, QKDN_MC_V1);
	return ST_OK;
}

void controller_disconnect(struct controller_client *c)
{
	clnt_destroy(c->rpc);
	rtls_channel_close(c->channel);
}

enum status controller_answer(struct controller_client *c, enum clnt_stat stat, const qkdn_outcome *outcome,
                              struct err *e)
{
	if (stat != RPC_SUCCESS)
		return rtls_channel_error(c->rpc, e);
	if (outcome->status != QKDN_OK)
		return err_set(e, (enum status)outcome->status, "%s", outcome->text);
	return ST_OK;
}

void controller_new_trace(qkdn_header *h)
{
	secret_random(h->trace, sizeof h->trace);
}
