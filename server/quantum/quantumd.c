/* quantumd.c - qkdn-quantumd: stands in for the quantum layer. Settings, links, their modules as devices. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "confine.h"
#include "daemon.h"
#include "env_event.h"
#include "log.h"
#include "settings.h"

enum { SECRET_HEAP = 2 * 1024 * 1024 }; /* of blocks; large ones and what is more get mappings of their own */

struct quantumd {
	const char *path; /* of the configuration */
	struct settings settings;
	struct env *env;
	struct daemon_signals *signals;
	struct qkd_link **links;
	struct device **devices; /* two a link */
};

/* ---- faults and credentials, while it runs ------------------------------------------------ */

static void take_faults(struct quantumd *q, const struct settings *from)
{
	for (size_t i = 0; i < q->settings.links.count; i++) {
		for (size_t j = 0; j < from->links.count; j++) {
			const struct link_conf *l = settings_link(from, j);
			struct link_fault *faults;
			size_t count;

			if (strcmp(l->name, qkd_link_name(q->links[i])) != 0)
				continue;
			count = settings_faults(l, &faults);
			qkd_link_set_faults(q->links[i], faults, count);
			free(faults);
		}
	}
}

static void reload_faults(void *arg)
{
	struct quantumd *q = arg;
	struct settings fresh = { .name = NULL };
	struct err e;

	if (settings_load(q->path, &fresh, &e) != ST_OK) {
		log_error("reading the faults again: %s; the old ones stay", e.text);
		return;
	}
	take_faults(q, &fresh);
	conf_free(settings_options, &fresh);
	log_info("read the faults again");
}

static void reload(void *arg)
{
	struct quantumd *q = arg;
	struct err e;

	reload_faults(q);
	for (size_t i = 0; i < 2 * q->settings.links.count; i++)
		if (device_reload(q->devices[i], &e) != ST_OK)
			log_error("reload: %s; the old credentials are kept", e.text);
}

/* ---- start and stop ----------------------------------------------------------------------- */

static enum status start_device(struct quantumd *q, size_t link, unsigned end, struct err *e)
{
	const struct link_conf *l = settings_link(&q->settings, link);
	const struct module_conf *m = settings_module(&q->settings, l->modules.items[end]);
	struct device_options o = { .name = m->name,
		                    .peer_name = l->modules.items[1 - end],
		                    .receiver = m->role == 1,
		                    .km = m->km,
		                    .dns_name = m->dns_name,
		                    .certificate = m->certificate,
		                    .private_key = m->private_key,
		                    .authority = q->settings.authority,
		                    .crl = q->settings.crl,
		                    .trace = q->settings.trace,
		                    .link = q->links[link],
		                    .end = end };
	enum status s;
	char *host;

	if (!address_split(m->address, &host, &o.port))
		return err_set(e, ST_INTERNAL, "module %s: the address changed its meaning", m->name);
	o.host = host;
	s = device_new(&q->devices[2 * link + end], q->env, &o, e);
	free(host);
	return s;
}

/* -n: logs each certificate and key of a module that a start would refuse. */
static bool files_are_good(const struct settings *s)
{
	bool good = true;

	for (size_t i = 0; i < s->modules.count; i++) {
		const struct module_conf *m = &((const struct module_conf *)s->modules.items)[i];
		const struct device_options o = { .name = m->name,
			                          .certificate = m->certificate,
			                          .private_key = m->private_key,
			                          .authority = s->authority,
			                          .crl = s->crl };
		struct rtls_credentials *c = NULL;
		struct err e;

		good &= daemon_good(device_credentials(&o, &c, &e), &e);
		rtls_credentials_free(c);
	}
	return good;
}

static void start_link(struct quantumd *q, size_t i)
{
	const struct link_settings l = settings_of_link(&q->settings, settings_link(&q->settings, i));
	struct model_yield yield = model_vacuum_weak(&l.model);

	q->links[i] = qkd_link_new(q->env, &l);
	if (l.rate == LINK_RATE_MODEL && yield.key_rate > 0)
		log_info("link %s: %.0f km yield %.0f bit/s, error ratio %.2f %%", l.name, l.model.length_km,
		         yield.key_rate, 100 * yield.qber);
	else if (l.rate == LINK_RATE_MODEL)
		log_warning("link %s: %.0f km yield no key: shorten it, or give it better detectors", l.name,
		            l.model.length_km);
}

static enum status start(struct quantumd *q, struct err *e)
{
	const struct daemon_hooks hooks = { .reload = reload, .user = reload_faults, .arg = q };
	size_t count = q->settings.links.count;
	enum status s = daemon_harden(SECRET_HEAP, e);

	if (s == ST_OK && (q->env = env_event_new()) == NULL)
		s = err_set(e, ST_INTERNAL, "no event loop is to be had");
	if (s == ST_OK)
		s = daemon_signals_new(&q->signals, q->env, &hooks, e);
	if (s != ST_OK)
		return s;
	q->links = xcalloc(count, sizeof(struct qkd_link *));
	q->devices = xcalloc(2 * count, sizeof(struct device *));
	for (size_t i = 0; i < count && s == ST_OK; i++) {
		start_link(q, i);
		s = start_device(q, i, 0, e);
		if (s == ST_OK)
			s = start_device(q, i, 1, e);
	}
	if (s == ST_OK)
		take_faults(q, &q->settings);
	return s;
}

static void log_totals(struct qkd_link *l)
{
	for (unsigned end = 0; end < 2; end++) {
		struct module_state m = qkd_module_state(qkd_link_module(l, end));

		log_info("module %s: %llu blocks acknowledged, %llu given up, %u not acknowledged",
		         qkd_module_name(qkd_link_module(l, end)), (unsigned long long)m.acknowledged,
		         (unsigned long long)m.dropped, m.buffered);
	}
}

static void stop(struct quantumd *q)
{
	daemon_notify_stopping();
	for (size_t i = 0; q->devices != NULL && i < 2 * q->settings.links.count; i++)
		device_free(q->devices[i]);
	for (size_t i = 0; q->links != NULL && i < q->settings.links.count && q->links[i] != NULL; i++) {
		log_totals(q->links[i]);
		qkd_link_free(q->links[i]);
	}
	free(q->devices);
	free(q->links);
	daemon_signals_free(q->signals);
	if (q->env != NULL)
		env_event_free(q->env);
	conf_free(settings_options, &q->settings);
}

int main(int argc, char **argv)
{
	static const struct daemon_about about = { "qkdn-quantumd",
		                                   "Stands in for the quantum layer of a QKD network." };
	struct daemon_options options;
	struct quantumd q = { .path = NULL };
	struct err e = { ST_OK, "" };
	enum status s;

	daemon_parse(argc, argv, &about, &options);
	q.path = options.config;
	s = settings_load(options.config, &q.settings, &e);
	if (s == ST_OK && options.check) {
		bool good = files_are_good(&q.settings);

		if (good)
			conf_print(stdout, settings_options, &q.settings);
		conf_free(settings_options, &q.settings);
		return good ? EXIT_SUCCESS : EXIT_FAILURE;
	}
	if (s == ST_OK)
		s = start(&q, &e);
	if (s == ST_OK && q.settings.confine)
		s = confine_system_calls(&e);
	if (s == ST_OK) {
		daemon_notify_ready();
		env_event_run(q.env);
	} else {
		log_error("%s", e.text);
	}
	stop(&q);
	return s == ST_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
