/* qkdn.c - libqkdn's public face: its types from and to ours. The calls are in ak_client.c. */
#include "qkdn.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ak_client.h"
#include "env.h"
#include "log.h"

/* The public numbers are those of lib/base/status.h. */
#define SAME_NUMBER(name, number, token) \
	_Static_assert((int)QKDN_##name == (number), "qkdn.h and status.h differ");
ST_LIST(SAME_NUMBER)
_Static_assert(sizeof(((struct qkdn_error *)0)->text) == sizeof(((struct err *)0)->text), "text is cut");
_Static_assert(sizeof(struct qkdn_key_id) == sizeof(struct id), "key IDs differ");

enum { DEFAULT_TIMEOUT_S = 30, DEFAULT_CONNECT_S = 10, EXTENSIONS_MOST = 16 };

struct qkdn_client {
	struct ak_client *ak;
};

struct qkdn_keys {
	struct ak_keys ak;
};

static enum qkdn_status tell(struct qkdn_error *error, enum status status, const struct err *e)
{
	if (error != NULL) {
		error->status = (enum qkdn_status)status;
		snprintf(error->text, sizeof error->text, "%s", status == ST_OK ? "" : e->text);
	}
	return (enum qkdn_status)status;
}

static uint64_t timeout_ns(unsigned milliseconds, unsigned fallback_s)
{
	return milliseconds > 0 ? milliseconds * NS_PER_MS : fallback_s * NS_PER_S;
}

const char *qkdn_status_name(enum qkdn_status status)
{
	return status_name((enum status)status);
}

const char *qkdn_version(void)
{
	return QKDN_VERSION;
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* Standard error belongs to the application. */
static void keep_quiet(void)
{
	log_open("libqkdn", LOG_LEVEL_FATAL);
}

enum qkdn_status qkdn_connect(struct qkdn_client **client, const struct qkdn_options *options,
                              struct qkdn_error *error)
{
	struct ak_client_options o = {
		.km = options->km,
		.km_name = options->km_name,
		.km_dns_name = options->km_dns_name,
		.certificate = options->certificate,
		.private_key = options->private_key,
		.authority = options->authority,
		.crl = options->crl,
		.trace = options->trace,
		.trace_id = options->trace_id,
		.connect_ns = timeout_ns(options->connect_timeout, DEFAULT_CONNECT_S),
	};
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct ak_client *ak;
	enum status status;
	struct err e;

	*client = NULL;
	pthread_once(&once, keep_quiet);
	status = ak_client_new(&ak, &o, &e);
	if (status != ST_OK)
		return tell(error, status, &e);
	*client = xcalloc(1, sizeof **client);
	(*client)->ak = ak;
	return tell(error, ST_OK, &e);
}

/* An empty variable is none. */
static const char *environment(const char *name)
{
	const char *value = getenv(name);

	return value != NULL && value[0] != '\0' ? value : NULL;
}

enum qkdn_status qkdn_connect_environment(struct qkdn_client **client, struct qkdn_error *error)
{
	struct qkdn_options o = { .km = NULL };
	const struct {
		const char *name, **option;
		bool required;
	} variables[] = {
		{ "QKDN_KM", &o.km, true },
		{ "QKDN_KM_NAME", &o.km_name, true },
		{ "QKDN_KM_DNS_NAME", &o.km_dns_name, false },
		{ "QKDN_CERTIFICATE", &o.certificate, true },
		{ "QKDN_PRIVATE_KEY", &o.private_key, true },
		{ "QKDN_AUTHORITY", &o.authority, true },
		{ "QKDN_CRL", &o.crl, false },
		{ "QKDN_TRACE", &o.trace, false },
		{ "QKDN_TRACE_ID", &o.trace_id, false },
	};
	struct err e;

	for (size_t i = 0; i < ARRAY_LEN(variables); i++) {
		*variables[i].option = environment(variables[i].name);
		if (*variables[i].option != NULL || !variables[i].required)
			continue;
		*client = NULL;
		err_set(&e, ST_CONFIGURATION,
		        "%s is not set: the environment says which KM to ask and as whom; in a lab, "
		        "`eval \"$(qkdn-lab env DIR APP)\"` sets it",
		        variables[i].name);
		return tell(error, ST_CONFIGURATION, &e);
	}
	return qkdn_connect(client, &o, error);
}

void qkdn_close(struct qkdn_client *client)
{
	if (client == NULL)
		return;
	ak_client_free(client->ak);
	free(client);
}

const char *qkdn_application(const struct qkdn_client *client)
{
	return ak_client_application(client->ak);
}

/* ---- keys -------------------------------------------------------------------------------------- */

void qkdn_key_id_format(const struct qkdn_key_id *id, char text[QKDN_KEY_ID_TEXT_LENGTH])
{
	struct id ours;

	memcpy(ours.bytes, id->bytes, sizeof ours.bytes);
	id_format(&ours, text);
}

int qkdn_key_id_parse(struct qkdn_key_id *id, const char *text)
{
	struct id ours;

	if (!id_parse(&ours, text))
		return -1;
	memcpy(id->bytes, ours.bytes, sizeof id->bytes);
	return 0;
}

size_t qkdn_keys_count(const struct qkdn_keys *keys)
{
	return keys->ak.count;
}

const struct qkdn_key_id *qkdn_keys_id(const struct qkdn_keys *keys, size_t index)
{
	return (const struct qkdn_key_id *)(const void *)&keys->ak.ids[index];
}

static size_t begin(const struct qkdn_keys *keys, size_t index)
{
	return index > 0 ? keys->ak.ends[index - 1] : 0;
}

const uint8_t *qkdn_keys_bytes(const struct qkdn_keys *keys, size_t index)
{
	return keys->ak.bytes.bytes + begin(keys, index);
}

size_t qkdn_keys_length(const struct qkdn_keys *keys, size_t index)
{
	return keys->ak.ends[index] - begin(keys, index);
}

void qkdn_keys_free(struct qkdn_keys *keys)
{
	if (keys == NULL)
		return;
	ak_keys_free(&keys->ak);
	free(keys);
}

static enum qkdn_status hand_out(struct qkdn_keys **keys, struct ak_keys *ak, enum status status,
                                 const struct err *e, struct qkdn_error *error)
{
	*keys = NULL;
	if (status == ST_OK) {
		*keys = xcalloc(1, sizeof **keys);
		(*keys)->ak = *ak;
	}
	return tell(error, status, e);
}

enum qkdn_status qkdn_get_keys(struct qkdn_client *client, const struct qkdn_request *request,
                               struct qkdn_keys **keys, struct qkdn_error *error)
{
	struct ak_option extensions[EXTENSIONS_MOST]; /* where there are more, their number is refused */
	struct ak_request r = {
		.destination = request->destination,
		.number = request->number,
		.size = request->size,
		.priority = request->priority,
		.deadline_ns = request->timeout * NS_PER_MS,
		.more_destinations = request->more_destinations,
		.more_count = request->more_destinations_count,
		.extensions = extensions,
		.extension_count = request->extensions_count,
	};
	struct ak_keys ak = { 0 };
	enum status status;
	struct err e;

	for (size_t i = 0; i < request->extensions_count && i < EXTENSIONS_MOST; i++) {
		const struct qkdn_extension *x = &request->extensions[i];

		extensions[i] = (struct ak_option){ x->name, x->value, x->length, x->mandatory != 0 };
	}
	status = ak_get_keys(client->ak, &r, &ak, &e);
	return hand_out(keys, &ak, status, &e, error);
}

enum qkdn_status qkdn_get_keys_by_id(struct qkdn_client *client, const char *source,
                                     const struct qkdn_key_id *ids, size_t count, unsigned timeout,
                                     struct qkdn_keys **keys, struct qkdn_error *error)
{
	struct ak_keys ak = { 0 };
	struct err e;
	enum status status = ak_get_keys_by_id(client->ak, source, (const struct id *)(const void *)ids, count,
	                                       timeout_ns(timeout, DEFAULT_TIMEOUT_S), &ak, &e);

	return hand_out(keys, &ak, status, &e, error);
}

/* ---- status -------------------------------------------------------------------------------------- */

enum qkdn_status qkdn_get_status(struct qkdn_client *client, const char *destination, unsigned timeout,
                                 struct qkdn_supply *supply, struct qkdn_error *error)
{
	struct ak_supply ak;
	struct err e;
	enum status status =
		ak_get_status(client->ak, destination, timeout_ns(timeout, DEFAULT_TIMEOUT_S), &ak, &e);

	memset(supply, 0, sizeof *supply);
	if (status != ST_OK)
		return tell(error, status, &e);
	memcpy(supply->source_km, ak.source_km, sizeof supply->source_km);
	memcpy(supply->destination_km, ak.destination_km, sizeof supply->destination_km);
	supply->key_size = ak.key_size;
	supply->min_key_size = ak.min_key_size;
	supply->max_key_size = ak.max_key_size;
	supply->max_keys_per_request = ak.max_keys_per_request;
	supply->max_more_destinations = ak.max_more_destinations;
	supply->stored_keys = ak.stored_keys;
	supply->max_stored_keys = ak.max_stored_keys;
	return tell(error, ST_OK, &e);
}
