/*
 * device.h - a QKD module on the network: its certificate, its connection to its key manager, and
 * what it says there over Kq-1 and Kq-2. quantum_kq1.c and quantum_kq2.c, which alone know the
 * generated types, are its two mouths; device.c decides when they speak.
 *
 * On every connection: registration (Kq-2), synchronization (Kq-1), then the module is up.
 */
#ifndef QKDN_QUANTUM_DEVICE_H
#define QKDN_QUANTUM_DEVICE_H

#include "qkd_link.h"
#include "rtls.h"

struct device_options {
	const char *name, *peer_name; /* this module and the one at the other end */
	bool receiver;
	const char *km, *host, *dns_name; /* dns_name: NULL where it is the host */
	uint16_t port;                    /* 0: by rpcbind */
	const char *certificate, *private_key, *authority, *crl, *trace;
	struct qkd_link *link;
	unsigned end; /* of the link */
};

struct device;

/* What the options point at is kept, not copied, but for host. Free devices before their link. */
MUST_CHECK enum status device_new(struct device **d, struct env *env, const struct device_options *o,
                                  struct err *e);
void device_free(struct device *d); /* NULL is allowed */

/* The module's, or why a device would not begin with what the options name; they need neither link nor KM. */
MUST_CHECK enum status device_credentials(const struct device_options *o, struct rtls_credentials **c,
                                          struct err *e);

/* Reads the credentials again, for new connections; the old ones are kept where it fails. */
MUST_CHECK enum status device_reload(struct device *d, struct err *e);

/* ---- between device.c and the two mouths -------------------------------------------------- */

struct device {
	struct env *env;
	struct device_options is;
	struct qkd_module *module;
	struct rtls_endpoint *endpoint;
	struct rtls_peer *peer;
	struct env_timer *retry;
	uint64_t connection; /* counts them: an answer of an earlier one means nothing */
};

/* What an answer needs to be understood. */
struct device_call {
	struct device *device;
	uint64_t connection;
};

enum { DEVICE_TIMEOUT_S = 30 };

void device_random_id(struct device *d, char id[ID_LEN]); /* a trace ID */

/* Whether the KM's answer to a call on this connection is good; if not it is logged. Frees the call. */
bool device_answer_is_good(struct device_call *call, const char *what, enum status s, int outcome,
                           const char *text);
struct device_call *device_call_new(struct device *d);

/* What follows a registration and a synchronization: good ones, and those that are to be tried again. */
void device_registered(struct device *d);
void device_synchronized(struct device *d, uint64_t next_sequence, uint32_t credit);
void device_try_again(struct device *d);

extern const struct rtls_program quantum_kq1, quantum_kq1_module, quantum_kq2, quantum_kq2_module;
void quantum_kq1_sync(struct device *d);
void quantum_kq1_supply(void *device, struct supply *s);
void quantum_kq2_register(struct device *d);
void quantum_kq2_alarm(void *device, const struct alarm *a);

#endif
