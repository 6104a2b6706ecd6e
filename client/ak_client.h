/*
 * ak_client.h - the calls of reference point Ak, under libqkdn's public face (qkdn.h).
 *
 * A client keeps one channel and opens it again after a loss. Any thread may call; no lock is held
 * across a call. Times are nanoseconds. Key bytes are in one struct secret, nowhere else.
 */
#ifndef QKDN_AK_CLIENT_H
#define QKDN_AK_CLIENT_H

#include "id.h"
#include "secret.h"

struct ak_client_options {
	const char *km;
	const char *km_name;
	const char *km_dns_name;
	const char *certificate, *private_key, *authority, *crl;
	const char *trace, *trace_id;
	uint64_t connect_ns;
};

struct ak_client;

/* Copies the options, checks them and opens the channel. The caller frees. */
MUST_CHECK enum status ak_client_new(struct ak_client **client, const struct ak_client_options *o,
                                     struct err *e);
void ak_client_free(struct ak_client *client);
const char *ak_client_application(const struct ak_client *client);

/* count keys, one after another in bytes; key i is bytes [ends[i-1], ends[i]). */
struct ak_keys {
	size_t count;
	struct id *ids;
	size_t *ends;
	struct secret bytes;
};

void ak_keys_free(struct ak_keys *keys); /* wipes; leaves it zeroed */

struct ak_option { /* an extension of the request */
	const char *name;
	const void *value;
	size_t length;
	bool mandatory;
};

struct ak_request {
	const char *destination;
	uint32_t number, size, priority;
	uint64_t deadline_ns; /* 0: the KM's default */
	const char *const *more_destinations;
	size_t more_count;
	const struct ak_option *extensions;
	size_t extension_count;
};

/* Both fill the zeroed *keys only with ST_OK, and then with what was asked for, in that order. */
MUST_CHECK enum status ak_get_keys(struct ak_client *client, const struct ak_request *request,
                                   struct ak_keys *keys, struct err *e);
MUST_CHECK enum status ak_get_keys_by_id(struct ak_client *client, const char *source,
                                         const struct id *ids, size_t count, uint64_t timeout_ns,
                                         struct ak_keys *keys, struct err *e);

struct ak_supply {
	char source_km[NAME_MAX_LEN + 1], destination_km[NAME_MAX_LEN + 1];
	uint32_t key_size, min_key_size, max_key_size, max_keys_per_request, max_more_destinations;
	uint64_t stored_keys, max_stored_keys;
};

MUST_CHECK enum status ak_get_status(struct ak_client *client, const char *destination,
                                     uint64_t timeout_ns, struct ak_supply *supply, struct err *e);

#endif
