/*
 * qkdn.h - keys from a QKD network, for applications (reference point Ak of ITU-T Y.3802).
 *
 * An application asks the key manager (KM) of its node for keys that it will share with a
 * destination application, tells the IDs to that application by any way it likes, and the
 * destination fetches the same keys, once, from its own KM by ID:
 *
 *	struct qkdn_client *client;
 *	struct qkdn_keys *keys;
 *	struct qkdn_error error;
 *	struct qkdn_request request = { .destination = "app2", .number = 2, .size = 256 };
 *
 *	if (qkdn_connect_environment(&client, &error) != QKDN_OK ||
 *	    qkdn_get_keys(client, &request, &keys, &error) != QKDN_OK)
 *		errx(1, "%s", error.text);
 *	… qkdn_keys_id(keys, 0), qkdn_keys_bytes(keys, 0), qkdn_keys_length(keys, 0) …
 *	qkdn_keys_free(keys);
 *	qkdn_close(client);
 *
 * Every function may be called from any thread; one client serves them all over one TLS
 * connection, and opens it again after a loss. A call is never sent twice: after QKDN_TRANSPORT
 * or QKDN_TIMED_OUT keys may have been taken at the KM that nobody received; ask for new ones.
 * The library prints nothing and aborts only where memory is out. See libqkdn(3).
 */
#ifndef QKDN_H
#define QKDN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum qkdn_status {
	QKDN_OK = 0,
	QKDN_BAD_REQUEST = 1,         /* malformed, or out of the KM's bounds */
	QKDN_DENIED = 2,              /* the certificate may not do this */
	QKDN_UNKNOWN_APPLICATION = 3, /* the KM does not know the other application */
	QKDN_UNKNOWN_KEY_ID = 4,      /* no such key for this pair of applications */
	QKDN_KEY_GONE = 5,            /* it was: delivered, expired or void */
	QKDN_TOO_FEW_KEYS = 6,        /* try later; nothing was consumed */
	QKDN_NO_ROUTE = 7,            /* no path to the destination's node */
	QKDN_LINK_DOWN = 8,
	QKDN_PEER_UNREACHABLE = 9,    /* a daemon did not answer; the call was not carried out */
	QKDN_TIMED_OUT = 10,
	QKDN_MISMATCH = 11,
	QKDN_FORGED = 12,
	QKDN_REPLAYED = 13,
	QKDN_CONFLICT = 14,
	QKDN_BUSY = 15,               /* a quota or a bound is reached: try later */
	QKDN_STORAGE = 16,
	QKDN_UNKNOWN_SESSION = 17,
	QKDN_REJECTED = 18,
	QKDN_NOT_FOUND = 19,
	QKDN_UNSUPPORTED = 20,
	QKDN_TRANSPORT = 21,          /* connection or TLS failed; the call may have been carried out */
	QKDN_CONFIGURATION = 22,      /* options, files or environment here are wrong */
	QKDN_INTERNAL = 23            /* a bug, here or in the KM */
};

struct qkdn_error {
	enum qkdn_status status;
	char text[512]; /* what was wrong and what to do; never a key byte. "" with QKDN_OK */
};

/* "too-few-keys"; "unknown-status" for any other number. Static. */
const char *qkdn_status_name(enum qkdn_status status);

/* The version of the library: "0.1.0". Static. */
const char *qkdn_version(void);

/* ---- connecting ------------------------------------------------------------------------ */

struct qkdn_client;

struct qkdn_options {
	const char *km;           /* "host:port", "[2001:db8::1]:port"; "host": the port is asked of rpcbind */
	const char *km_name;      /* name in the KM's certificate */
	const char *km_dns_name;  /* DNS name in the KM's certificate; NULL: the host of km */
	const char *certificate;  /* PEM files: this application's certificate, */
	const char *private_key;  /* its key (mode 0600 or stricter) */
	const char *authority;    /* and the authority that signed the KM's */
	const char *crl;          /* the authority's list of revoked certificates; NULL: none */
	const char *trace;        /* a file that gets a line per message; NULL: none */
	const char *trace_id;     /* the trace ID of every call, as a UUID; NULL: a random one per call */
	unsigned connect_timeout; /* milliseconds; 0: ten seconds */
};

/*
 * Opens the connection. The options are copied. *error (which may be NULL here and below) tells
 * why it failed; *client is then NULL. The caller ends it with qkdn_close.
 */
enum qkdn_status qkdn_connect(struct qkdn_client **client, const struct qkdn_options *options,
                              struct qkdn_error *error);

/* The same with the options from QKDN_KM, QKDN_KM_NAME, QKDN_KM_DNS_NAME, QKDN_CERTIFICATE,
 * QKDN_PRIVATE_KEY, QKDN_AUTHORITY, QKDN_CRL, QKDN_TRACE and QKDN_TRACE_ID. */
enum qkdn_status qkdn_connect_environment(struct qkdn_client **client, struct qkdn_error *error);

/* After the last call of every thread has returned. NULL is allowed. */
void qkdn_close(struct qkdn_client *client);

/* The application's name, as its certificate says; until qkdn_close. */
const char *qkdn_application(const struct qkdn_client *client);

/* ---- keys -------------------------------------------------------------------------------- */

enum { QKDN_KEY_ID_LENGTH = 16, QKDN_KEY_ID_TEXT_LENGTH = 37 };

struct qkdn_key_id {
	uint8_t bytes[QKDN_KEY_ID_LENGTH];
};

/* IDs as UUIDs: 36 characters and a NUL. Parsing returns 0, or -1 where text is no UUID. */
void qkdn_key_id_format(const struct qkdn_key_id *id, char text[QKDN_KEY_ID_TEXT_LENGTH]);
int qkdn_key_id_parse(struct qkdn_key_id *id, const char *text);

/* Some keys with their IDs, in locked memory where the limits allow it; wiped by qkdn_keys_free,
 * after which nothing that the accessors returned may be used. */
struct qkdn_keys;

size_t qkdn_keys_count(const struct qkdn_keys *keys);
const struct qkdn_key_id *qkdn_keys_id(const struct qkdn_keys *keys, size_t index);
const uint8_t *qkdn_keys_bytes(const struct qkdn_keys *keys, size_t index);
size_t qkdn_keys_length(const struct qkdn_keys *keys, size_t index); /* bytes */
void qkdn_keys_free(struct qkdn_keys *keys);                         /* NULL is allowed */

/* What a KM may know beyond this interface. One that does not know a mandatory extension refuses the request with
 * QKDN_UNSUPPORTED; others it passes over. */
struct qkdn_extension {
	const char *name;
	const void *value; /* up to 256 bytes */
	size_t length;
	int mandatory;
};

struct qkdn_request {
	const char *destination; /* application that will fetch the keys by ID */
	unsigned number;         /* of keys; 0: one */
	unsigned size;           /* of each key in bits; 0: the KM's default */
	unsigned priority;       /* 0: ordinary; higher is served first */
	unsigned timeout;        /* milliseconds the KM may wait for keys; 0: its default */

	/* Applications that shall have the same keys, beside destination: as many as qkdn_get_status tells, 16 at
	 * most. Where the KM does not serve that it is QKDN_UNSUPPORTED. */
	const char *const *more_destinations;
	size_t more_destinations_count;

	const struct qkdn_extension *extensions; /* 16 at most */
	size_t extensions_count;
};

/* New keys, all of them or none: *keys is NULL unless QKDN_OK is returned. */
enum qkdn_status qkdn_get_keys(struct qkdn_client *client, const struct qkdn_request *request,
                               struct qkdn_keys **keys, struct qkdn_error *error);

/*
 * The keys with these IDs, in their order, all of them or none. source is the application that
 * requested them. A key is delivered once. timeout is how long to wait for the answer, in
 * milliseconds; 0: thirty seconds.
 */
enum qkdn_status qkdn_get_keys_by_id(struct qkdn_client *client, const char *source,
                                     const struct qkdn_key_id *ids, size_t count, unsigned timeout,
                                     struct qkdn_keys **keys, struct qkdn_error *error);

/* ---- status ------------------------------------------------------------------------------ */

enum { QKDN_NAME_LENGTH = 65 };

struct qkdn_supply {
	char source_km[QKDN_NAME_LENGTH], destination_km[QKDN_NAME_LENGTH];
	unsigned key_size;     /* default, bits */
	unsigned min_key_size; /* bits */
	unsigned max_key_size; /* bits */
	unsigned max_keys_per_request;
	unsigned max_more_destinations; /* 0: a key has one destination */
	uint64_t stored_keys;           /* of the default size that a request could have now */
	uint64_t max_stored_keys;
};

/* What keys could be had for this destination. timeout as in qkdn_get_keys_by_id. */
enum qkdn_status qkdn_get_status(struct qkdn_client *client, const char *destination, unsigned timeout,
                                 struct qkdn_supply *supply, struct qkdn_error *error);

#ifdef __cplusplus
}
#endif

#endif
