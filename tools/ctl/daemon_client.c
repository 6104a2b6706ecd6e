/* daemon_client.c - qkdnctl's connection to a controller or a KM. */
#include "daemon_client.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libconfig.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address.h"
#include "command.h"
#include "conf.h"
#include "mc.h"
#include "mk.h"
#include "secret.h"

const struct ctl_kind ctl_controller = { "controller", "controllerd", "QKDN_CONTROLLER", QKDN_MC, QKDN_MC_V1 };
const struct ctl_kind ctl_km = { "km", "kmd", "QKDN_KM", QKDN_MK, QKDN_MK_V1 };

/* ---- options ----------------------------------------------------------------------------------- */

enum { OPTION_LAB = 512, OPTION_NODE, OPTION_JSON };

static const struct argp_option options[] = {
	{ "lab", OPTION_LAB, "DIR", 0, "Ask the daemons of the lab in DIR, as its administrator", 0 },
	{ "node", OPTION_NODE, "NODE", 0, "In a lab: the daemon of NODE alone", 0 },
	{ "json", OPTION_JSON, NULL, 0, "Print JSON", 0 },
	{ 0 },
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct ctl_where *o = state->input;

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
	case ARGP_KEY_END:
		if (o->node != NULL && o->lab == NULL)
			argp_error(state, "--node is of a lab: name its folder with --lab");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

const struct argp ctl_where_argp = { options, parse_option, NULL, NULL, NULL, NULL, NULL };

/* ---- where it is, and as whom to ask --------------------------------------------------------------- */

struct place {
	char *name, *address, *dns_name, *certificate, *private_key, *authority, *crl;
	char *netns; /* in which the address is, by ip-netns(8)'s name; NULL: where we are */
};

static void place_free(struct place *p)
{
	free(p->name);
	free(p->address);
	free(p->dns_name);
	free(p->certificate);
	free(p->private_key);
	free(p->authority);
	free(p->crl);
	free(p->netns);
}

static char *lab_netns(const json_t *lab, const json_t *daemon)
{
	size_t number = (size_t)json_integer_value(json_object_get(daemon, "site"));
	const json_t *site = json_array_get(json_object_get(lab, "sites"), number);
	const char *name = json_string_value(json_object_get(site, "netns"));

	return name != NULL ? xstrdup(name) : NULL;
}

/* The configuration of the n-th daemon of that kind in the lab, or of that of the node asked for; NULL if
 * there is none. */
static char *lab_configuration(const struct ctl_kind *kind, const struct ctl_where *o, size_t n, char **netns)
{
	char *path = xasprintf("%s/lab.json", o->lab), *found = NULL;
	json_t *lab = json_load_file(path, 0, NULL), *daemon;
	size_t i;

	json_array_foreach(json_object_get(lab, "daemons"), i, daemon) {
		const char *name = json_string_value(json_object_get(daemon, "name"));
		const char *program = json_string_value(json_object_get(daemon, "kind"));
		const char *config = json_string_value(json_object_get(daemon, "config"));
		size_t len = o->node != NULL ? strlen(o->node) : 0;

		if (name == NULL || program == NULL || config == NULL || strcmp(program, kind->program) != 0)
			continue;
		if (o->node != NULL && (strncmp(name, o->node, len) != 0 || name[len] != '/'))
			continue;
		if (n-- > 0)
			continue;
		found = xstrdup(config);
		*netns = lab_netns(lab, daemon);
		break;
	}
	json_decref(lab);
	free(path);
	return found;
}

static enum status place_in_lab(struct place *p, const struct ctl_kind *kind, const struct ctl_where *o, size_t n,
                                struct err *e)
{
	const char *name = NULL, *address = NULL;
	char *path = lab_configuration(kind, o, n, &p->netns);
	config_t conf;

	if (path == NULL)
		return err_set(e, ST_NOT_FOUND, "%s: no network with a %s%s%s is up there", o->lab, kind->role,
		               o->node != NULL ? " at " : "", o->node != NULL ? o->node : "");
	config_init(&conf);
	if (config_read_file(&conf, path) && config_lookup_string(&conf, "name", &name) &&
	    config_lookup_string(&conf, "listen.[0]", &address)) {
		p->name = xstrdup(name);
		p->address = xstrdup(address);
	}
	config_destroy(&conf);
	if (p->name == NULL)
		err_set(e, ST_CONFIGURATION, "%s: does not say where the %s listens", path, kind->role);
	free(path);
	p->certificate = xasprintf("%s/pki/admin.crt", o->lab);
	p->private_key = xasprintf("%s/pki/admin.key", o->lab);
	p->authority = xasprintf("%s/pki/ca.crt", o->lab);
	return p->name != NULL ? ST_OK : ST_CONFIGURATION;
}

static enum status from_environment(char **to, const char *prefix, const char *suffix, struct err *e)
{
	char variable[64];
	const char *value;

	snprintf(variable, sizeof variable, "%s%s", prefix, suffix);
	value = getenv(variable);
	if (value == NULL || *value == '\0')
		return err_set(e, ST_CONFIGURATION,
		               "%s is not set: it says which daemon to ask and as whom (qkdnctl(8)); in a lab use --lab DIR",
		               variable);
	*to = xstrdup(value);
	return ST_OK;
}

static enum status place_in_environment(struct place *p, const struct ctl_kind *kind, struct err *e)
{
	struct err ignored;
	enum status s = from_environment(&p->address, kind->variable, "", e);

	if (s == ST_OK)
		s = from_environment(&p->name, kind->variable, "_NAME", e);
	if (s == ST_OK)
		s = from_environment(&p->certificate, "QKDN_CERTIFICATE", "", e);
	if (s == ST_OK)
		s = from_environment(&p->private_key, "QKDN_PRIVATE_KEY", "", e);
	if (s == ST_OK)
		s = from_environment(&p->authority, "QKDN_AUTHORITY", "", e);
	if (s == ST_OK && from_environment(&p->dns_name, kind->variable, "_DNS_NAME", &ignored) != ST_OK)
		p->dns_name = NULL; /* the host is the name, then */
	if (s == ST_OK && from_environment(&p->crl, "QKDN_CRL", "", &ignored) != ST_OK)
		p->crl = NULL; /* nothing is revoked */
	return s;
}

/* ---- the connection ----------------------------------------------------------------------------------- */

/* For the sockets that are made from now on. Within qkdn-lab exec the names are out of sight, and the network
 * is there. */
static enum status enter_netns(const char *name, struct err *e)
{
	char *path = xasprintf("/run/netns/%s", name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	enum status s = ST_OK;

	if (fd < 0 ? errno != ENOENT : setns(fd, CLONE_NEWNET) != 0)
		s = err_set(e, ST_CONFIGURATION,
		            "entering the lab's network namespace %s: %s: it needs root, as the lab did", name,
		            strerror(errno));
	if (fd >= 0)
		close(fd);
	free(path);
	return s;
}

static enum status open_channel(struct ctl_client *c, const struct ctl_kind *kind, const struct place *p,
                                struct err *e)
{
	struct rtls_channel_options o = { .peer = { .role = kind->role, .name = p->name, .dns_name = p->dns_name,
		                                    .program = kind->number, .version = kind->version } };
	enum status s = rtls_credentials_load(&o.credentials, p->certificate, p->private_key, p->authority,
	                                      p->crl, e);
	char *host = NULL;

	if (s != ST_OK)
		return s;
	if (!address_split(p->address, &host, &o.peer.port)) {
		rtls_credentials_free(o.credentials);
		return err_set(e, ST_CONFIGURATION, "\"%s\" is no address: give host:port", p->address);
	}
	o.peer.host = host;
	s = rtls_channel_open(&c->channel, &o, e);
	rtls_credentials_free(o.credentials);
	free(host);
	return s;
}

static enum status find_place(struct place *p, const struct ctl_kind *kind, const struct ctl_where *where, size_t n,
                              struct err *e)
{
	return where->lab != NULL ? place_in_lab(p, kind, where, n, e) : place_in_environment(p, kind, e);
}

static enum status connect_to(struct ctl_client *c, const struct ctl_kind *kind, const struct place *p, struct err *e)
{
	enum status s;

	memset(c, 0, sizeof *c);
	s = p->netns != NULL ? enter_netns(p->netns, e) : ST_OK;
	if (s != ST_OK)
		return s;
	s = open_channel(c, kind, p, e);
	if (s != ST_OK)
		return s;
	c->rpc = rtls_channel_client(c->channel, kind->number, kind->version);
	return ST_OK;
}

enum status ctl_connect(struct ctl_client *c, const struct ctl_kind *kind, const struct ctl_where *where,
                        struct err *e)
{
	struct place p = { .name = NULL };
	enum status s = find_place(&p, kind, where, 0, e);

	if (s == ST_OK)
		s = connect_to(c, kind, &p, e);
	place_free(&p);
	return s;
}

static enum status ask_at(const struct ctl_kind *kind, const struct place *p, ctl_ask ask, void *arg, struct err *e)
{
	struct ctl_client c;
	enum status s = connect_to(&c, kind, p, e);

	if (s != ST_OK)
		return s;
	s = ask(&c, arg, e);
	ctl_disconnect(&c);
	return s;
}

int ctl_each(const struct ctl_kind *kind, const struct ctl_where *where, ctl_ask ask, void *arg)
{
	int exit_status = 0;

	for (size_t n = 0; n == 0 || where->lab != NULL; n++) {
		struct place p = { .name = NULL };
		struct err e;
		enum status s = find_place(&p, kind, where, n, &e);
		bool found = s == ST_OK;

		if (s == ST_OK)
			s = ask_at(kind, &p, ask, arg, &e);
		place_free(&p);
		if (!found && n > 0)
			break; /* the last one was asked */
		if (s != ST_OK) {
			int failed = command_fail(&e);

			exit_status = exit_status == 0 ? failed : exit_status;
		}
		if (!found)
			break;
	}
	return exit_status;
}

void ctl_disconnect(struct ctl_client *c)
{
	clnt_destroy(c->rpc);
	rtls_channel_close(c->channel);
}

enum status ctl_answer(struct ctl_client *c, enum clnt_stat stat, const qkdn_outcome *outcome,
                              struct err *e)
{
	if (stat != RPC_SUCCESS)
		return rtls_channel_error(c->rpc, e);
	if (outcome->status != QKDN_OK)
		return err_set(e, (enum status)outcome->status, "%s", outcome->text);
	return ST_OK;
}

void ctl_new_trace(qkdn_header *h)
{
	secret_random(h->trace, sizeof h->trace);
}
