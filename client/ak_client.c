/*
 * ak_client.c - Ak over one channel that is opened again after a loss.
 *
 * A call is sent once. Only where the transport says that it was never sent (the KM was restarted
 * since the last call) it is made again, on a new connection. Every result that can hold keys is
 * wiped with rtls_wipe before its memory is freed, and the stack is burnt behind it.
 */
#include "ak_client.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "ak.h"
#include "env.h"
#include "rtls.h"

enum { GRACE_S = 5, DEFAULT_CALL_S = 30 };

static const struct rtls_procedure procedures[] = {
	{ AK_KEY_REQUEST, "Key request", "Response to key request", "" },
	{ AK_KEY_REQUEST_WITH_ID, "Key request with ID", "Response to key request", "" },
	{ AK_STATUS, "Status request", "Response to status request", "" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_program program = {
	.number = QKDN_AK,
	.version = QKDN_AK_V1,
	.reference_point = "Ak",
	.procedures = procedures,
	.traced = true,
};

/* An open channel and the calls that are on it. */
struct connection {
	struct rtls_channel *channel;
	CLIENT *rpc;
	unsigned users;
};

struct ak_client {
	char *host, *km_name, *dns_name, *trace;
	uint16_t port;
	struct id trace_id; /* zero: a random one per call */
	uint64_t connect_ns;
	struct rtls_credentials *credentials;

	pthread_mutex_t lock; /* over the rest */
	pthread_cond_t connected;
	struct connection *current; /* NULL: none, or lost */
	bool connecting;            /* by some thread; the others wait for what it gets */
	uint64_t attempts;
	struct err failure; /* of the last attempt */
};

/* ---- options --------------------------------------------------------------------------------------- */

static enum status take_options(struct ak_client *c, const struct ak_client_options *o, struct err *e)
{
	if (o->km == NULL || !address_split(o->km, &c->host, &c->port))
		return err_set(e, ST_CONFIGURATION, "the KM's address \"%s\" is none: write host:port or host",
		               o->km ? o->km : "");
	if (o->km_name == NULL || !name_is_valid(o->km_name))
		return err_set(e, ST_CONFIGURATION,
		               "the KM's name \"%s\" is none: give the name in its certificate",
		               o->km_name ? o->km_name : "");
	if (o->certificate == NULL || o->private_key == NULL || o->authority == NULL)
		return err_set(e, ST_CONFIGURATION, "a certificate, a private key and an authority are needed");
	if (o->trace_id != NULL && !id_parse(&c->trace_id, o->trace_id))
		return err_set(e, ST_CONFIGURATION, "the trace ID \"%s\" is no UUID", o->trace_id);
	c->km_name = xstrdup(o->km_name);
	c->dns_name = o->km_dns_name ? xstrdup(o->km_dns_name) : NULL;
	c->trace = o->trace ? xstrdup(o->trace) : NULL;
	c->connect_ns = o->connect_ns;
	return ST_OK;
}

/* ---- the connection -------------------------------------------------------------------------------- */

static enum status open_connection(struct ak_client *c, struct connection **conn, struct err *e)
{
	const struct rtls_channel_options o = {
		.credentials = c->credentials,
		.peer = { .role = "km", .name = c->km_name, .host = c->host, .dns_name = c->dns_name,
		          .port = c->port, .program = QKDN_AK, .version = QKDN_AK_V1 },
		.connect_ns = c->connect_ns,
		.trace_path = c->trace,
	};
	struct rtls_channel *channel;
	enum status status = rtls_channel_open(&channel, &o, e);

	if (status != ST_OK)
		return status;
	rtls_channel_name_program(channel, &program);
	*conn = xcalloc(1, sizeof **conn);
	(*conn)->channel = channel;
	(*conn)->rpc = rtls_channel_client(channel, QKDN_AK, QKDN_AK_V1);
	return ST_OK;
}

static void close_connection(struct connection *conn)
{
	clnt_destroy(conn->rpc);
	rtls_channel_close(conn->channel);
	free(conn);
}

/* One thread connects, without the lock, and all that came meanwhile share what it gets. */
static void connect_for_all(struct ak_client *c)
{
	struct connection *conn = NULL;
	struct err e = { .status = ST_OK };

	c->connecting = true;
	pthread_mutex_unlock(&c->lock);
	if (open_connection(c, &conn, &e) != ST_OK)
		conn = NULL;
	pthread_mutex_lock(&c->lock);
	c->connecting = false;
	c->current = conn;
	c->failure = e;
	c->attempts++;
	pthread_cond_broadcast(&c->connected);
}

/* The connection, counted as used; a new one where there is none. NULL where none could be had. */
static struct connection *acquire(struct ak_client *c, struct err *e)
{
	struct connection *conn = NULL;
	uint64_t attempts;

	pthread_mutex_lock(&c->lock);
	attempts = c->attempts;
	while (c->current == NULL) {
		if (c->connecting)
			pthread_cond_wait(&c->connected, &c->lock);
		else if (c->attempts == attempts || c->failure.status == ST_OK)
			connect_for_all(c);
		else
			break;
	}
	conn = c->current;
	if (conn != NULL)
		conn->users++;
	else
		*e = c->failure;
	pthread_mutex_unlock(&c->lock);
	return conn;
}

static void release(struct ak_client *c, struct connection *conn, bool lost)
{
	bool last;

	pthread_mutex_lock(&c->lock);
	if (lost && c->current == conn)
		c->current = NULL;
	last = --conn->users == 0 && c->current != conn;
	pthread_mutex_unlock(&c->lock);
	if (last)
		close_connection(conn);
}

/* ---- a call ------------------------------------------------------------------------------------------ */

struct call {
	uint32_t procedure;
	xdrproc_t xdr_args;
	void *args;
	xdrproc_t xdr_result;
	void *result; /* zeroed */
	uint64_t timeout_ns;
};

/* There is no connection: whatever kept it from being opened, the call was not carried out. */
static enum status not_sent(struct err *e)
{
	if (e->status == ST_TRANSPORT || e->status == ST_TIMED_OUT)
		e->status = ST_PEER_UNREACHABLE;
	return e->status;
}

static enum status try_call(struct ak_client *c, const struct call *call, struct err *e)
{
	const struct timeval timeout = { .tv_sec = (time_t)(call->timeout_ns / NS_PER_S),
		                         .tv_usec = (suseconds_t)(call->timeout_ns % NS_PER_S / NS_PER_US) };
	struct connection *conn = acquire(c, e);
	enum status status = ST_OK;

	if (conn == NULL)
		return not_sent(e);
	if (clnt_call(conn->rpc, call->procedure, call->xdr_args, call->args, call->xdr_result, call->result,
	              timeout) != RPC_SUCCESS)
		status = rtls_channel_error(conn->rpc, e);
	release(c, conn, status == ST_TRANSPORT || status == ST_PEER_UNREACHABLE);
	return status;
}

static bool has_connection(struct ak_client *c)
{
	bool has;

	pthread_mutex_lock(&c->lock);
	has = c->current != NULL;
	pthread_mutex_unlock(&c->lock);
	return has;
}

static enum status carry_out(struct ak_client *c, const struct call *call, struct err *e)
{
	bool had_one = has_connection(c);
	enum status status = try_call(c, call, e);

	if (status == ST_PEER_UNREACHABLE && had_one)
		status = try_call(c, call, e);
	return status;
}

/* What a KM says may reach a terminal: only what can be printed passes. */
static enum status outcome_status(const qkdn_outcome *outcome, const char *what, struct err *e)
{
	enum status status = (enum status)outcome->status;

	if (status == ST_OK)
		return ST_OK;
	if (outcome->text == NULL || outcome->text[0] == '\0')
		return err_set(e, status, "%s: %s", what, status_name(status));
	err_set(e, status, "%s: %s", what, outcome->text);
	for (char *p = e->text; *p != '\0'; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	return status;
}

static void fill_header(const struct ak_client *c, qkdn_header *header)
{
	struct id id = c->trace_id;

	if (id_is_zero(&id))
		secret_random(id.bytes, sizeof id.bytes);
	memcpy(header->trace, id.bytes, sizeof id.bytes);
}

/* For the generated types, where nothing is const: xdr only reads it when it encodes. */
static char *lend(const void *ours)
{
	return (char *)(uintptr_t)ours;
}

static enum status check_name(const char *name, struct err *e)
{
	if (name != NULL && name_is_valid(name))
		return ST_OK;
	return err_set(e, ST_BAD_REQUEST,
	               "\"%s\" is not the name of an application: 1 to 64 letters, digits, dots, dashes and "
	               "underscores",
	               name ? name : "");
}

/* ---- keys -------------------------------------------------------------------------------------------- */

void ak_keys_free(struct ak_keys *keys)
{
	secret_free(&keys->bytes);
	free(keys->ids);
	free(keys->ends);
	memset(keys, 0, sizeof *keys);
}

static const ak_key *find_key(const ak_keys_result *result, const struct id *id)
{
	for (u_int i = 0; i < result->keys.keys_len; i++)
		if (memcmp(result->keys.keys_val[i].key_id, id->bytes, ID_LEN) == 0)
			return &result->keys.keys_val[i];
	return NULL;
}

/* Copies the keys in the order of ids, or as they came where ids is NULL. */
static bool copy_keys(struct ak_keys *keys, const ak_keys_result *result, const struct id *ids)
{
	size_t count = result->keys.keys_len, total = 0;

	for (size_t i = 0; i < count; i++)
		total += result->keys.keys_val[i].bytes.qkdn_key_len;
	keys->ids = xcalloc(count, sizeof *keys->ids);
	keys->ends = xcalloc(count, sizeof *keys->ends);
	secret_alloc(&keys->bytes, total);
	for (size_t i = 0, at = 0; i < count; i++) {
		const ak_key *key = ids ? find_key(result, &ids[i]) : &result->keys.keys_val[i];

		if (key == NULL || key->bytes.qkdn_key_len == 0 || key->bytes.qkdn_key_len > total - at) {
			ak_keys_free(keys);
			return false;
		}
		memcpy(keys->ids[i].bytes, key->key_id, ID_LEN);
		memcpy(keys->bytes.bytes + at, key->bytes.qkdn_key_val, key->bytes.qkdn_key_len);
		at += key->bytes.qkdn_key_len;
		keys->ends[i] = at;
	}
	keys->count = count;
	return true;
}

/* number and size are what was asked for; a size of 0 fits any. */
static bool is_as_asked(const ak_keys_result *result, size_t number, uint32_t size)
{
	if (result->keys.keys_len != number)
		return false;
	for (size_t i = 0; i < number; i++)
		if (size != 0 && result->keys.keys_val[i].bytes.qkdn_key_len * UINT64_C(8) != size)
			return false;
	return true;
}

static enum status call_for_keys(struct ak_client *c, struct call *call, size_t number, uint32_t size,
                                 const struct id *ids, const char *what, struct ak_keys *keys, struct err *e)
{
	ak_keys_result result;
	enum status status;

	memset(&result, 0, sizeof result);
	call->xdr_result = (xdrproc_t)xdr_ak_keys_result;
	call->result = &result;
	status = carry_out(c, call, e);
	if (status == ST_OK) { /* a call that failed has left nothing in the result */
		status = outcome_status(&result.outcome, what, e);
		if (status == ST_OK && (!is_as_asked(&result, number, size) || !copy_keys(keys, &result, ids)))
			status = err_set(e, ST_INTERNAL,
			                 "%s: KM %s answered with other keys than were asked for; they were "
			                 "thrown away",
			                 what, c->km_name);
		rtls_wipe((xdrproc_t)xdr_ak_keys_result, &result);
	}
	secret_burn_stack();
	return status;
}

static enum status check_extras(const struct ak_request *r, struct err *e)
{
	enum status s = ST_OK;

	if (r->more_count > AK_DESTINATIONS_MAX)
		return err_set(e, ST_BAD_REQUEST, "%zu more destinations: name at most %d", r->more_count,
		               AK_DESTINATIONS_MAX);
	if (r->extension_count > AK_EXTENSIONS_MAX)
		return err_set(e, ST_BAD_REQUEST, "%zu extensions: give at most %d", r->extension_count, AK_EXTENSIONS_MAX);
	for (size_t i = 0; i < r->more_count && s == ST_OK; i++)
		s = check_name(r->more_destinations[i], e);
	for (size_t i = 0; i < r->extension_count && s == ST_OK; i++) {
		const struct ak_option *x = &r->extensions[i];

		if (x->name == NULL || !name_is_valid(x->name))
			s = err_set(e, ST_BAD_REQUEST, "\"%s\" is not the name of an extension", x->name ? x->name : "");
		else if (x->length > AK_EXTENSION_MAX)
			s = err_set(e, ST_BAD_REQUEST, "the extension %s has %zu bytes: at most %d are sent", x->name, x->length,
			            AK_EXTENSION_MAX);
	}
	return s;
}

/* The arrays point to what is the caller's. */
static void fill_extras(ak_key_request_args *args, const struct ak_request *r)
{
	args->more_destinations.more_destinations_len = (u_int)r->more_count;
	args->more_destinations.more_destinations_val = xcalloc(r->more_count, sizeof(qkdn_name));
	for (size_t i = 0; i < r->more_count; i++)
		args->more_destinations.more_destinations_val[i] = lend(r->more_destinations[i]);
	args->extensions.extensions_len = (u_int)r->extension_count;
	args->extensions.extensions_val = xcalloc(r->extension_count, sizeof(ak_extension));
	for (size_t i = 0; i < r->extension_count; i++) {
		ak_extension *x = &args->extensions.extensions_val[i];

		x->name = lend(r->extensions[i].name);
		x->value.value_len = (u_int)r->extensions[i].length;
		x->value.value_val = lend(r->extensions[i].value);
		x->mandatory = r->extensions[i].mandatory;
	}
}

enum status ak_get_keys(struct ak_client *c, const struct ak_request *request, struct ak_keys *keys,
                        struct err *e)
{
	enum status status;
	uint64_t wait_ns = request->deadline_ns ? request->deadline_ns : DEFAULT_CALL_S * NS_PER_S;
	ak_key_request_args args = {
		.source = lend(ak_client_application(c)),
		.destination = lend(request->destination),
		.number = request->number ? request->number : 1,
		.size = request->size,
		.qos = { .priority = request->priority, .deadline = request->deadline_ns },
	};
	struct call call = {
		.procedure = AK_KEY_REQUEST,
		.xdr_args = (xdrproc_t)xdr_ak_key_request_args,
		.args = &args,
		.timeout_ns = wait_ns + GRACE_S * NS_PER_S, /* so that the KM's own verdict arrives */
	};

	if (check_name(request->destination, e) != ST_OK || check_extras(request, e) != ST_OK)
		return e->status;
	if (args.number > AK_KEYS_MAX)
		return err_set(e, ST_BAD_REQUEST, "%u keys at once are too many: ask for at most %d", args.number,
		               AK_KEYS_MAX);
	if (args.size % 8 != 0)
		return err_set(e, ST_BAD_REQUEST, "a key of %u bits: the size must be a multiple of 8", args.size);
	fill_header(c, &args.header);
	fill_extras(&args, request);
	status = call_for_keys(c, &call, args.number, args.size, NULL, "requesting keys", keys, e);
	free(args.more_destinations.more_destinations_val);
	free(args.extensions.extensions_val);
	return status;
}

enum status ak_get_keys_by_id(struct ak_client *c, const char *source, const struct id *ids, size_t count,
                              uint64_t timeout_ns, struct ak_keys *keys, struct err *e)
{
	ak_key_request_with_id_args args = {
		.source = lend(source),
		.destination = lend(ak_client_application(c)),
	};
	struct call call = {
		.procedure = AK_KEY_REQUEST_WITH_ID,
		.xdr_args = (xdrproc_t)xdr_ak_key_request_with_id_args,
		.args = &args,
		.timeout_ns = timeout_ns,
	};
	enum status status;

	if (check_name(source, e) != ST_OK)
		return e->status;
	if (count == 0 || count > AK_KEYS_MAX)
		return err_set(e, ST_BAD_REQUEST, "%zu key IDs: name 1 to %d", count, AK_KEYS_MAX);
	args.key_ids.key_ids_val = xcalloc(count, sizeof *args.key_ids.key_ids_val);
	args.key_ids.key_ids_len = (u_int)count;
	for (size_t i = 0; i < count; i++)
		memcpy(args.key_ids.key_ids_val[i], ids[i].bytes, ID_LEN);
	fill_header(c, &args.header);
	status = call_for_keys(c, &call, count, 0, ids, "fetching keys by ID", keys, e);
	free(args.key_ids.key_ids_val);
	return status;
}

/* ---- status ---------------------------------------------------------------------------------------------- */

static void copy_supply(struct ak_supply *to, const ak_status_result *from)
{
	snprintf(to->source_km, sizeof to->source_km, "%s", from->source_km);
	snprintf(to->destination_km, sizeof to->destination_km, "%s", from->destination_km);
	to->key_size = from->key_size;
	to->min_key_size = from->min_key_size;
	to->max_key_size = from->max_key_size;
	to->max_keys_per_request = from->max_keys_per_request;
	to->max_more_destinations = from->max_more_destinations;
	to->stored_keys = from->stored_keys;
	to->max_stored_keys = from->max_stored_keys;
}

enum status ak_get_status(struct ak_client *c, const char *destination, uint64_t timeout_ns,
                          struct ak_supply *supply, struct err *e)
{
	ak_status_args args = {
		.source = lend(ak_client_application(c)),
		.destination = lend(destination),
	};
	ak_status_result result;
	struct call call = {
		.procedure = AK_STATUS,
		.xdr_args = (xdrproc_t)xdr_ak_status_args,
		.args = &args,
		.xdr_result = (xdrproc_t)xdr_ak_status_result,
		.result = &result,
		.timeout_ns = timeout_ns,
	};
	enum status status = check_name(destination, e);

	if (status != ST_OK)
		return status;
	memset(&result, 0, sizeof result);
	fill_header(c, &args.header);
	status = carry_out(c, &call, e);
	if (status == ST_OK)
		status = outcome_status(&result.outcome, "asking for the status", e);
	if (status == ST_OK)
		copy_supply(supply, &result);
	xdr_free((xdrproc_t)xdr_ak_status_result, (char *)&result);
	return status;
}

/* ---- the client -------------------------------------------------------------------------------------------- */

enum status ak_client_new(struct ak_client **client, const struct ak_client_options *o, struct err *e)
{
	struct ak_client *c = xcalloc(1, sizeof *c);
	enum status status;

	*client = NULL;
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->connected, NULL);
	status = take_options(c, o, e);
	if (status == ST_OK)
		status = rtls_credentials_load(&c->credentials, o->certificate, o->private_key, o->authority,
		                               o->crl, e);
	if (status == ST_OK && strcmp(rtls_credentials_identity(c->credentials)->role, "app") != 0)
		status = err_set(e, ST_CONFIGURATION,
		                 "%s is the certificate of %s/%s: applications need one with the role app", o->certificate,
		                 rtls_credentials_identity(c->credentials)->role,
		                 rtls_credentials_identity(c->credentials)->name);
	if (status == ST_OK)
		status = open_connection(c, &c->current, e);
	if (status != ST_OK) {
		ak_client_free(c);
		return status;
	}
	*client = c;
	return ST_OK;
}

void ak_client_free(struct ak_client *c)
{
	if (c->current != NULL)
		close_connection(c->current);
	if (c->credentials != NULL)
		rtls_credentials_free(c->credentials);
	pthread_cond_destroy(&c->connected);
	pthread_mutex_destroy(&c->lock);
	free(c->host);
	free(c->km_name);
	free(c->dns_name);
	free(c->trace);
	free(c);
}

const char *ak_client_application(const struct ak_client *c)
{
	return rtls_credentials_identity(c->credentials)->name;
}
