/* kmd.c - qkdn-kmd: a node's key manager as a daemon. Settings, credentials, store, transport, core. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "address.h"
#include "ck.h"
#include "confine.h"
#include "daemon.h"
#include "env_event.h"
#include "file.h"
#include "km_conf.h"
#include "kx1.h"
#include "log.h"
#include "wire.h"

enum { SECRET_HEAP = 8 * 1024 * 1024, PEERS_MOST = 4096, LARGEST_RECORD = 4 * 1024 * 1024, LOOK_NS = 1000 * 1000 };
static const uint64_t rest_most = 10 * NS_PER_S, answers_most = NS_PER_S;

struct kmd {
	struct km_conf conf;
	struct env *env;
	struct daemon_signals *signals;
	struct rtls_credentials *credentials;
	struct rtls_endpoint *endpoint;
	struct wire *wire;
	struct ks *store;
	struct km *km;
	struct rtls_peer **peers; /* the KMs, then the controller, then NULL */
};

static const struct km_conf_link *link_conf(const struct kmd *d, size_t i)
{
	return &((const struct km_conf_link *)d->conf.links.items)[i];
}

static struct km_limits limits_of(const struct km_conf *c)
{
	struct km_limits l = km_default_limits;

	l.default_key_size = (uint32_t)c->keys.default_size;
	l.min_key_size = (uint32_t)c->keys.min_size;
	l.max_key_size = (uint32_t)c->keys.max_size;
	l.max_keys_per_request = (uint32_t)c->keys.max_per_request;
	l.ksa_low_water = (uint64_t)c->keys.low_water;
	l.ksa_high_water = (uint64_t)c->keys.high_water;
	l.link_reserve = (uint64_t)c->keys.link_reserve;
	l.link_max_stock = (uint64_t)c->keys.link_max_stock;
	l.request_deadline = (uint64_t)c->requests.deadline;
	l.max_request_deadline = (uint64_t)c->requests.max_deadline;
	l.max_waiting_requests = (uint32_t)c->requests.max_waiting;
	l.supply_ahead = c->requests.ahead;
	l.key_lifetime = (uint64_t)c->keys.lifetime;
	l.data_key_lifetime = (uint64_t)c->store.data_key_lifetime;
	l.missing_block_grace = (uint64_t)c->missing_block_grace;
	l.status_interval = (uint64_t)c->module_status_interval;
	l.call_timeout = (uint64_t)c->call_timeout;
	l.relay_timeout = (uint64_t)c->relay.timeout;
	l.route_lifetime = (uint64_t)c->relay.route_lifetime;
	l.shares = (uint32_t)c->relay.shares;
	l.shares_required = c->relay.shares_policy == SHARES_REQUIRED;
	l.fill_most = (uint64_t)c->relay.size;
	l.relay_ahead = c->relay.ahead;
	l.relay_to_neighbours = c->relay.to_neighbours;
	return l;
}

static enum status load_credentials(struct kmd *d, struct err *e)
{
	struct rtls_credentials *c;
	enum status s = rtls_credentials_load_as(&c, "km", d->conf.name, d->conf.certificate, d->conf.private_key,
	                                         d->conf.authority, d->conf.crl, e);

	if (s != ST_OK)
		return s;
	rtls_credentials_free(d->credentials);
	d->credentials = c;
	return ST_OK;
}

static void reload(void *arg)
{
	struct kmd *d = arg;
	struct err e;

	if (load_credentials(d, &e) != ST_OK) {
		log_error("reload: %s; the old credentials are kept", e.text);
		return;
	}
	rtls_set_credentials(d->endpoint, d->credentials);
	log_info("reloaded the credentials: they are used for new connections");
	if (d->conf.rpcbind != RPCBIND_OFF && rtls_register(d->endpoint, false, &e) != ST_OK)
		log_error("reload: %s", e.text);
}

static struct rtls_peer *keep_peer(struct kmd *d, const char *role, const struct km_conf_peer *p, uint32_t program)
{
	struct rtls_peer_options o = { .role = role, .name = p->name, .dns_name = p->dns_name, .program = program,
		                       .version = 1 };
	struct rtls_peer *peer;
	char *host;

	if (!address_split(p->address, &host, &o.port))
		log_fatal("%s: no address: the configuration was to be checked", p->address);
	o.host = host;
	peer = rtls_peer_new(d->endpoint, &o);
	free(host);
	return peer;
}

/* Of two KMs the one with the lower name connects; calls go both ways on the connection. */
static void keep_peers(struct kmd *d)
{
	const struct km_conf *c = &d->conf;
	const struct km_conf_peer *peers = c->peers.items;
	size_t count = 0;

	d->peers = xcalloc(c->peers.count + 2, sizeof(struct rtls_peer *));
	for (size_t i = 0; i < c->peers.count; i++)
		if (strcmp(c->name, peers[i].name) < 0)
			d->peers[count++] = keep_peer(d, "km", &peers[i], QKDN_KX1);
	if (c->controller.name != NULL)
		d->peers[count] = keep_peer(d, "controller", &c->controller, QKDN_CK);
}

/* The store has been read: now others may come, and be called. */
static void ready(void *arg)
{
	struct kmd *d = arg;
	struct err e = { ST_OK, "" };
	enum status s = ST_OK;

	for (size_t i = 0; i < d->conf.listen.count && s == ST_OK; i++)
		s = rtls_listen(d->endpoint, d->conf.listen.items[i], &e);
	if (s == ST_OK && d->conf.rpcbind != RPCBIND_OFF)
		s = rtls_register(d->endpoint, d->conf.rpcbind == RPCBIND_REQUIRED, &e);
	if (s == ST_OK && d->conf.confine)
		s = confine_system_calls(&e);
	if (s != ST_OK) {
		log_error("%s", e.text);
		exit(EXIT_FAILURE);
	}
	keep_peers(d);
	daemon_notify_ready();
	log_info("%s serves at %s", d->conf.name, d->conf.listen.items[0]);
}

static enum status start_core(struct kmd *d, struct err *e)
{
	const struct km_conf *c = &d->conf;
	struct km_link_options *links = xcalloc(c->links.count, sizeof *links);
	struct km_application_options *applications = xcalloc(c->applications.count, sizeof *applications);
	struct km_peer_options *peers = xcalloc(c->peers.count, sizeof *peers);
	struct km_options o = { .name = c->name,
		                .env = d->env,
		                .ks = d->store,
		                .wire = &wire_ops,
		                .wire_ctx = d->wire,
		                .links = links,
		                .link_count = c->links.count,
		                .applications = applications,
		                .application_count = c->applications.count,
		                .peers = peers,
		                .controller = c->controller.name,
		                .limits = limits_of(c),
		                .ready = ready,
		                .ready_arg = d };
	enum status s;

	for (size_t i = 0; i < c->links.count; i++) {
		const struct km_conf_link *l = link_conf(d, i);

		links[i] = (struct km_link_options){ l->name, l->peer, l->module, l->initial_secret,
			                             (uint32_t)l->block_size };
	}
	for (size_t i = 0; i < c->applications.count; i++) {
		const struct km_conf_application *a = &((struct km_conf_application *)c->applications.items)[i];

		applications[i] = (struct km_application_options){ a->name, a->km };
	}
	for (size_t i = 0; i < c->peers.count; i++) {
		const struct km_conf_peer *p = &((struct km_conf_peer *)c->peers.items)[i];

		if (p->shares > 0)
			peers[o.peer_count++] = (struct km_peer_options){ p->name, (uint32_t)p->shares };
	}
	s = km_new(&d->km, &o, e);
	free(peers);
	free(links);
	free(applications);
	if (s == ST_OK)
		wire_set_core(d->wire, d->km);
	return s;
}

/* ---- the files that a start reads --------------------------------------------------------------------------- */

static struct ks_options store_options(const struct kmd *d)
{
	return (struct ks_options){ .backend = KS_LMDB,
		                    .env = d->env,
		                    .directory = d->conf.store.directory,
		                    .master_key_file = d->conf.store.master_key,
		                    .max_bytes = (uint64_t)d->conf.store.max_size };
}

/* Once a link has been opened its initial secret is gone; one that is still there is nobody else's to read. */
static enum status check_initial_secret(const struct km_conf_link *l, struct err *e)
{
	return access(l->initial_secret, F_OK) == 0 ? file_check_private(l->initial_secret, e) : ST_OK;
}

static enum status check_initial_secrets(const struct kmd *d, struct err *e)
{
	enum status s = ST_OK;

	for (size_t i = 0; i < d->conf.links.count && s == ST_OK; i++)
		s = check_initial_secret(link_conf(d, i), e);
	return s;
}

/* Whether a start would take them; logs everything that it would refuse. */
static bool files_are_good(struct kmd *d)
{
	const struct ks_options store = store_options(d);
	struct err e;
	bool good = daemon_good(load_credentials(d, &e), &e);

	good &= daemon_good(ks_check(&store, &e), &e);
	for (size_t i = 0; i < d->conf.links.count; i++)
		good &= daemon_good(check_initial_secret(link_conf(d, i), &e), &e);
	return good;
}

/* ---- start and stop ------------------------------------------------------------------------------------------- */

static enum status start(struct kmd *d, struct err *e)
{
	const struct rtls_options endpoint = { .trace_path = d->conf.trace, .max_record = LARGEST_RECORD,
		                               .max_connections = PEERS_MOST };
	const struct daemon_hooks hooks = { .reload = reload, .arg = d };
	struct ks_options store;
	enum status s = daemon_harden(SECRET_HEAP, e);

	if (s == ST_OK)
		s = check_initial_secrets(d, e);
	if (s == ST_OK && (d->env = env_event_new()) == NULL)
		s = err_set(e, ST_INTERNAL, "no event loop is to be had");
	if (s == ST_OK)
		s = daemon_signals_new(&d->signals, d->env, &hooks, e);
	if (s == ST_OK)
		s = load_credentials(d, e);
	if (s == ST_OK)
		s = rtls_endpoint_new(&d->endpoint, d->env, d->credentials, &endpoint, e);
	if (s != ST_OK)
		return s;
	d->wire = wire_new(d->endpoint, d->env);
	store = store_options(d);
	s = ks_open(&d->store, &store, e);
	return s == ST_OK ? start_core(d, e) : s;
}

/* Looks until the store is at rest, and was when last looked: what was posted in between has run, and what was sent has
 * left. Not for ever: where it does not come to rest, the end is that of a KM that was killed; and where a peer does
 * not answer, only it knows whether keys were assigned. */
struct rest {
	struct kmd *d;
	struct env_timer *timer;
	uint64_t until, answers_until;
	bool was;
};

static void look(void *arg)
{
	struct rest *r = arg;
	uint64_t now = env_mono(r->d->env);
	bool answered = now > r->answers_until || r->d->km == NULL || !km_awaits_answers(r->d->km);
	bool is = ks_is_idle(r->d->store) && answered;

	if ((is && r->was) || now > r->until)
		env_event_stop(r->d->env);
	else
		env_timer_set(r->d->env, r->timer, LOOK_NS);
	r->was = is;
}

/* Works on the store that are under way come to their ends, and whoever waits for them has an answer. */
static void rest(struct kmd *d)
{
	struct rest r = { .d = d };

	if (d->store == NULL)
		return;
	r.until = env_mono(d->env) + rest_most;
	r.answers_until = env_mono(d->env) + answers_most;
	r.timer = env_timer_new(d->env, look, &r);
	look(&r);
	env_event_run(d->env);
	env_timer_free(d->env, r.timer);
}

static void stop(struct kmd *d)
{
	daemon_notify_stopping();
	if (d->km != NULL)
		km_stop(d->km);
	rest(d); /* what is given up is told to those who have it */
	for (size_t i = 0; d->peers != NULL && d->peers[i] != NULL; i++)
		rtls_peer_free(d->peers[i]);
	free(d->peers);
	if (d->wire != NULL)
		wire_detach(d->wire);
	if (d->endpoint != NULL)
		rtls_endpoint_free(d->endpoint);
	rest(d); /* calls that went unanswered may have left works behind */
	if (d->store != NULL)
		ks_close(d->store);
	if (d->wire != NULL)
		wire_free(d->wire);
	if (d->km != NULL)
		km_free(d->km);
	rtls_credentials_free(d->credentials);
	daemon_signals_free(d->signals);
	if (d->env != NULL)
		env_event_free(d->env);
	conf_free(km_conf_options, &d->conf);
}

int main(int argc, char **argv)
{
	static const struct daemon_about about = { "qkdn-kmd", "Manages the keys of a QKD node (ITU-T Q.4160)." };
	struct daemon_options options;
	struct kmd d = { .env = NULL };
	struct err e = { ST_OK, "" };
	enum status s;

	daemon_parse(argc, argv, &about, &options);
	s = conf_load(options.config, km_conf_options, &d.conf, &e);
	if (s == ST_OK)
		s = km_conf_check(&d.conf, &e);
	if (s == ST_OK && options.check) {
		bool good = files_are_good(&d);

		if (good)
			conf_print(stdout, km_conf_options, &d.conf);
		rtls_credentials_free(d.credentials);
		conf_free(km_conf_options, &d.conf);
		return good ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	if (s == ST_OK)
		s = start(&d, &e);
	if (s == ST_OK)
		env_event_run(d.env);
	else
		log_error("%s", e.text);
	stop(&d);
	return s == ST_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
