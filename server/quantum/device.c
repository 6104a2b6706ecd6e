/* device.c - a QKD module on the network: connect, register, synchronize, supply. */
#include "device.h"

#include <stdlib.h>
#include <string.h>

#include "log.h"

static const uint64_t register_again = 5 * NS_PER_S;

static void register_now(void *arg)
{
	quantum_kq2_register(arg);
}

static void watch(struct rtls_conn *conn, bool up, void *arg)
{
	struct device *d = arg;

	(void)conn;
	d->connection++;
	env_timer_stop(d->env, d->retry);
	if (up) {
		log_info("module %s: connected to %s", d->is.name, d->is.km);
		quantum_kq2_register(d);
	} else {
		log_info("module %s: the connection to %s is lost", d->is.name, d->is.km);
		qkd_module_down(d->module);
	}
}

enum status device_credentials(const struct device_options *o, struct rtls_credentials **c, struct err *e)
{
	enum status s = rtls_credentials_load_as(c, "module", o->name, o->certificate, o->private_key, o->authority,
	                                         o->crl, e);

	return s == ST_OK ? s : err_prefix(e, "module %s", o->name);
}

static struct rtls_peer *connect_to_km(struct device *d)
{
	const struct rtls_peer_options to = { .role = "km",
		                              .name = d->is.km,
		                              .host = d->is.host,
		                              .dns_name = d->is.dns_name,
		                              .port = d->is.port,
		                              .program = quantum_kq1.number,
		                              .version = quantum_kq1.version };

	return rtls_peer_new(d->endpoint, &to);
}

enum status device_new(struct device **made, struct env *env, const struct device_options *o, struct err *e)
{
	const struct rtls_options endpoint = { .trace_path = o->trace };
	struct rtls_credentials *credentials;
	struct device *d;
	enum status s = device_credentials(o, &credentials, e);

	if (s != ST_OK)
		return s;
	d = xcalloc(1, sizeof *d);
	d->env = env;
	d->is = *o;
	d->module = qkd_link_module(o->link, o->end);
	s = rtls_endpoint_new(&d->endpoint, env, credentials, &endpoint, e);
	rtls_credentials_free(credentials);
	if (s != ST_OK) {
		free(d);
		return err_prefix(e, "module %s", o->name);
	}
	d->retry = env_timer_new(env, register_now, d);
	qkd_module_attach(d->module,
	                  &(struct module_transport){ quantum_kq1_supply, quantum_kq2_alarm, d });
	rtls_add_program(d->endpoint, &quantum_kq1, NULL);
	rtls_add_program(d->endpoint, &quantum_kq2, NULL);
	rtls_add_program(d->endpoint, &quantum_kq1_module, d);
	rtls_add_program(d->endpoint, &quantum_kq2_module, d);
	rtls_watch_conns(d->endpoint, watch, d);
	d->peer = connect_to_km(d);
	*made = d;
	return ST_OK;
}

void device_free(struct device *d)
{
	if (d == NULL)
		return;
	qkd_module_down(d->module);
	rtls_peer_free(d->peer);
	d->peer = NULL;
	rtls_endpoint_free(d->endpoint); /* answers every call that is on its way */
	env_timer_free(d->env, d->retry);
	free(d);
}

enum status device_reload(struct device *d, struct err *e)
{
	struct rtls_credentials *credentials;
	enum status s = device_credentials(&d->is, &credentials, e);

	if (s != ST_OK)
		return s;
	rtls_set_credentials(d->endpoint, credentials);
	rtls_credentials_free(credentials);
	return ST_OK;
}

/* ---- what the two mouths ask -------------------------------------------------------------- */

void device_random_id(struct device *d, char id[ID_LEN])
{
	env_random(d->env, id, ID_LEN);
}

struct device_call *device_call_new(struct device *d)
{
	struct device_call *call = xcalloc(1, sizeof *call);

	call->device = d;
	call->connection = d->connection;
	return call;
}

bool device_answer_is_good(struct device_call *call, const char *what, enum status s, int outcome,
                           const char *text)
{
	struct device *d = call->device;
	bool current = call->connection == d->connection;

	free(call);
	if (!current)
		return false;
	if (s == ST_OK && outcome == ST_OK)
		return true;
	log_warning("module %s: %s at %s: %s%s%s", d->is.name, what, d->is.km,
	            status_name(s != ST_OK ? s : (enum status)outcome), text[0] != '\0' ? ": " : "", text);
	return false;
}

void device_try_again(struct device *d)
{
	if (d->peer != NULL && rtls_peer_is_up(d->peer) && !qkd_module_is_up(d->module))
		env_timer_set(d->env, d->retry, register_again);
}

void device_registered(struct device *d)
{
	quantum_kq1_sync(d);
}

void device_synchronized(struct device *d, uint64_t next_sequence, uint32_t credit)
{
	log_info("module %s: synchronized with %s at block %llu", d->is.name, d->is.km,
	         (unsigned long long)next_sequence);
	qkd_module_up(d->module, next_sequence, credit);
	qkd_link_repeat_alarms(d->is.link, d->is.end);
}
