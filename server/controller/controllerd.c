/* controllerd.c - qkdn-controllerd: settings, the endpoint, the core, and neighbours that are kept up. */
#include "controllerd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "confine.h"
#include "daemon.h"
#include "env_event.h"
#include "log.h"
#include "settings.h"

#include "cx.h"

enum { SECRET_HEAP = 256 * 1024 }; /* a controller sees no key; TLS's own secrets */

struct main {
	struct controllerd d;
	struct settings settings;
	struct rtls_credentials *credentials;
	struct daemon_signals *signals;
	struct rtls_peer **peers; /* per neighbour; NULL: that one connects to us */
};

/* One of the two connects: the one with the lower name. */
static enum status start_neighbour(struct main *m, size_t i)
{
	const struct neighbour_conf *n = (const struct neighbour_conf *)m->settings.neighbours.items + i;
	struct rtls_peer_options o = { .role = "controller",
		                       .name = n->name,
		                       .dns_name = n->dns_name,
		                       .program = QKDN_CX,
		                       .version = QKDN_CX_V1 };
	char *host;

	if (strcmp(m->settings.name, n->name) > 0)
		return ST_OK;
	if (!address_split(n->address, &host, &o.port))
		return ST_INTERNAL;
	o.host = host;
	m->peers[i] = rtls_peer_new(m->d.endpoint, &o);
	free(host);
	return ST_OK;
}

/* ---- start and stop --------------------------------------------------------------------------------- */

static void make_core(struct main *m)
{
	const struct settings *s = &m->settings;
	const struct controller_calls calls = { .summary = controller_cx_summary,
		                                .link_states = controller_cx_link_states,
		                                .reserve = controller_ck_reserve,
		                                .relay = controller_ck_relay,
		                                .allocate = controller_ck_allocate,
		                                .give_up = controller_ck_give_up,
		                                .arg = &m->d };
	struct controller_options o = { .name = s->name,
		                        .mode = (enum controller_mode)s->mode,
		                        .km_count = s->kms.count,
		                        .neighbour_count = s->neighbours.count,
		                        .reserve_count = s->reserve.count,
		                        .report_interval = (uint64_t)s->report_interval,
		                        .silence = (uint64_t)s->silence,
		                        .refresh = (uint64_t)s->refresh,
		                        .max_age = (uint64_t)s->max_age,
		                        .min_origination = (uint64_t)s->min_origination,
		                        .weight_interval = (uint64_t)s->weight_interval,
		                        .call_timeout = (uint64_t)s->call_timeout,
		                        .reservation_time = (uint64_t)s->reservation_time };
	const char **kms = xcalloc(o.km_count, sizeof(const char *));
	const char **neighbours = xcalloc(o.neighbour_count, sizeof(const char *));
	struct controller_reserve *reserve = xcalloc(o.reserve_count, sizeof *reserve);

	for (size_t i = 0; i < o.km_count; i++)
		kms[i] = ((const struct km_conf *)s->kms.items)[i].name;
	for (size_t i = 0; i < o.neighbour_count; i++)
		neighbours[i] = ((const struct neighbour_conf *)s->neighbours.items)[i].name;
	for (size_t i = 0; i < o.reserve_count; i++) {
		const struct reserve_conf *r = (const struct reserve_conf *)s->reserve.items + i;

		reserve[i] = (struct controller_reserve){ r->source, r->destination, (uint32_t)r->amount,
			                                  (uint64_t)r->low_water, (uint64_t)r->high_water };
	}
	o.kms = kms;
	o.neighbours = neighbours;
	o.reserve = reserve;
	m->d.core = controller_new(m->d.env, &o, &calls);
	free(kms);
	free(neighbours);
	free(reserve);
}

static enum status load_credentials(struct main *m, struct err *e)
{
	const struct settings *s = &m->settings;
	struct rtls_credentials *c;
	enum status st = rtls_credentials_load_as(&c, "controller", s->name, s->certificate, s->private_key,
	                                          s->authority, s->crl, e);

	if (st != ST_OK)
		return st;
	rtls_credentials_free(m->credentials);
	m->credentials = c;
	return ST_OK;
}

static void reload(void *arg)
{
	struct main *m = arg;
	struct err e;

	if (load_credentials(m, &e) != ST_OK) {
		log_error("reload: %s; the old credentials are kept", e.text);
		return;
	}
	rtls_set_credentials(m->d.endpoint, m->credentials);
	log_info("reloaded the credentials: they are used for new connections");
	if (m->settings.rpcbind != RPCBIND_OFF && rtls_register(m->d.endpoint, false, &e) != ST_OK)
		log_error("reload: %s", e.text);
}

static enum status listen_everywhere(struct main *m, struct err *e)
{
	enum status s = ST_OK;

	for (size_t i = 0; i < m->settings.listen.count && s == ST_OK; i++)
		s = rtls_listen(m->d.endpoint, m->settings.listen.items[i], e);
	if (s == ST_OK && m->settings.rpcbind != RPCBIND_OFF)
		s = rtls_register(m->d.endpoint, m->settings.rpcbind == RPCBIND_REQUIRED, e);
	return s;
}

static enum status start_endpoint(struct main *m, struct err *e)
{
	struct rtls_options o = { .trace_path = m->settings.trace };
	enum status s = load_credentials(m, e);

	if (s == ST_OK)
		s = rtls_endpoint_new(&m->d.endpoint, m->d.env, m->credentials, &o, e);
	if (s != ST_OK)
		return s;
	make_core(m);
	rtls_add_program(m->d.endpoint, &controller_ck, &m->d);
	rtls_add_program(m->d.endpoint, &controller_ck_km, &m->d);
	rtls_add_program(m->d.endpoint, &controller_cx, &m->d);
	rtls_add_program(m->d.endpoint, &controller_mc, &m->d);
	rtls_watch_conns(m->d.endpoint, controllerd_conn_changed, &m->d);
	s = listen_everywhere(m, e);
	m->peers = xcalloc(m->settings.neighbours.count, sizeof(struct rtls_peer *));
	for (size_t i = 0; i < m->settings.neighbours.count && s == ST_OK; i++)
		s = start_neighbour(m, i);
	return s;
}

static enum status start(struct main *m, struct err *e)
{
	const struct daemon_hooks hooks = { .reload = reload, .arg = m };
	enum status s = daemon_harden(SECRET_HEAP, e);

	if (s == ST_OK && (m->d.env = env_event_new()) == NULL)
		s = err_set(e, ST_INTERNAL, "no event loop is to be had");
	if (s == ST_OK)
		s = daemon_signals_new(&m->signals, m->d.env, &hooks, e);
	m->d.name = m->settings.name;
	m->d.mode = (enum controller_mode)m->settings.mode;
	m->d.report_interval = (uint64_t)m->settings.report_interval;
	m->d.call_timeout = (uint64_t)m->settings.call_timeout;
	return s == ST_OK ? start_endpoint(m, e) : s;
}

/* The endpoint first: its unanswered calls end, which the core still hears. */
static void stop(struct main *m)
{
	struct rtls_endpoint *endpoint = m->d.endpoint;

	daemon_notify_stopping();
	for (size_t i = 0; m->peers != NULL && i < m->settings.neighbours.count; i++)
		if (m->peers[i] != NULL)
			rtls_peer_free(m->peers[i]);
	free(m->peers);
	for (size_t i = 0; m->d.core != NULL && i < m->settings.neighbours.count; i++)
		controller_neighbour_down(m->d.core, ((struct neighbour_conf *)m->settings.neighbours.items)[i].name);
	m->d.endpoint = NULL; /* no call begins any more */
	if (endpoint != NULL)
		rtls_endpoint_free(endpoint);
	controller_free(m->d.core);
	rtls_credentials_free(m->credentials);
	daemon_signals_free(m->signals);
	if (m->d.env != NULL)
		env_event_free(m->d.env);
	conf_free(settings_options, &m->settings);
}

int main(int argc, char **argv)
{
	static const struct daemon_about about = { "qkdn-controllerd", "Controls the routes of a QKD network." };
	struct daemon_options options;
	struct main m = { .peers = NULL };
	struct err e = { ST_OK, "" };
	enum status s;

	daemon_parse(argc, argv, &about, &options);
	s = settings_load(options.config, &m.settings, &e);
	if (s == ST_OK && options.check) {
		bool good = daemon_good(load_credentials(&m, &e), &e);

		if (good)
			conf_print(stdout, settings_options, &m.settings);
		rtls_credentials_free(m.credentials);
		conf_free(settings_options, &m.settings);
		return good ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	if (s == ST_OK)
		s = start(&m, &e);
	if (s == ST_OK && m.settings.confine)
		s = confine_system_calls(&e);
	if (s == ST_OK) {
		daemon_notify_ready();
		env_event_run(m.d.env);
	} else {
		log_error("%s", e.text);
	}
	stop(&m);
	return s == ST_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
