/*
 * km.h - the core of a key manager: KMA, KSA, control and management function, over one key store.
 *
 * An object without global state that is given its loop, clock, randomness (env), its store and its
 * wire, and knows neither RPC nor configuration files. Everything runs in the thread of the loop,
 * but for the works it submits to the store.
 */
#ifndef QKDN_KM_H
#define QKDN_KM_H

#include "env.h"
#include "keystore.h"
#include "message.h"

struct km;

/* ---- the wire: how a KM's messages reach others ------------------------------------------------- */

/* answer is NULL, or of the message's answer type and valid during the callback. s is ST_OK when the
 * answer was received (whatever it says), else why not: ST_PEER_UNREACHABLE was never sent, anything
 * else may have been carried out. */
typedef void (*km_answered)(enum status s, const void *answer, void *arg);

struct km_wire {
	/* Sends message to the KM, module or controller named to. answered is called once, never before send returns. */
	void (*send)(void *ctx, enum km_message m, const char *to, const void *message, uint64_t timeout_ns,
	             km_answered answered, void *arg);
	/* Whether a connection to that KM stands. */
	bool (*peer_is_up)(void *ctx, const char *km);
};

/* ---- what it is made of ----------------------------------------------------------------------------- */

struct km_link_options {
	const char *name, *peer, *module;
	const char *initial_secret; /* file; read once, and removed after it is in the store */
	uint32_t block_size;        /* bytes, a multiple of 64 */
};

/* A policy of its own for relays to that KM. */
struct km_peer_options {
	const char *name;
	uint32_t shares; /* 1: a relay is not split */
};

struct km_application_options {
	const char *name, *km;
};

struct km_limits {
	uint32_t default_key_size, min_key_size, max_key_size; /* bits */
	uint32_t max_keys_per_request;
	uint64_t ksa_low_water, ksa_high_water; /* bytes of a KSA pool: filled below low, up to high */
	uint64_t fill_most;                     /* bytes of one range on its way into a KSA pool */
	uint64_t link_reserve;                  /* bytes of a link's key pool left for relay */
	uint64_t link_max_stock;                /* bytes of a link's key pools beyond which QKD-keys are not taken */
	uint64_t request_deadline;              /* ns: default wait for keys */
	uint64_t max_request_deadline;
	uint64_t data_key_lifetime;             /* ns between rotations of the store's data key; 0: never */
	uint64_t key_lifetime;                  /* ns until an unfetched key is voided */
	uint64_t missing_block_grace;           /* ns until a missing block is given up */
	uint64_t status_interval;               /* ns between two requests for a QKD module's status */
	uint64_t call_timeout;                  /* ns for an answer from a peer */
	uint64_t relay_timeout;                 /* ns for a relay to reach its destination */
	uint64_t route_lifetime;                /* ns that a controller's ways are used while it does not answer; 0: not */
	uint32_t shares;                        /* that a relay is split into, over node-disjoint routes; 0, 1: not split */
	bool shares_required;                   /* or is not begun; else over fewer routes, if need be over one */
	bool relay_ahead;                       /* keep KSA pools to far nodes filled, not only on demand */
	bool relay_to_neighbours;               /* instead of allocating keys of the link */
	uint32_t max_waiting_requests;          /* key requests of one application waiting at once */
	bool supply_ahead;                      /* take keys for requests to come, where they come one behind another */
};

extern const struct km_limits km_default_limits;

struct km_options {
	const char *name;
	struct env *env;
	struct ks *ks;
	const struct km_wire *wire;
	void *wire_ctx;
	const struct km_link_options *links;
	size_t link_count;
	const struct km_application_options *applications;
	size_t application_count;
	const struct km_peer_options *peers;
	size_t peer_count;
	const char *controller; /* name of the QKDN controller; NULL: none */
	struct km_limits limits;
	void (*ready)(void *arg); /* the store has been read: messages are served from now; may be NULL */
	void *ready_arg;
};

/* Everything in the options is copied, but for env, ks and wire. */
MUST_CHECK enum status km_new(struct km **km, const struct km_options *o, struct err *e);

/* Refuses what is waiting and what comes. Then the caller lets the store come to rest, and gives keys that were taken
 * some time to be answered for, ends the wire, which tells that calls out have failed, and lets the store come to rest
 * again: then nobody holds what is the core's, and it can be freed behind the store. Where that is cut short (the
 * store drops what it has not reported) memory is lost, nothing else. */
void km_stop(struct km *km);
bool km_awaits_answers(const struct km *km); /* of destinations, about keys that were taken */
void km_free(struct km *km);

/* ---- what it is told --------------------------------------------------------------------------------- */

/* Answers a received message: exactly once, perhaps before km_receive returns. answer is of the
 * message's answer type and, with all that it points to, the core's. */
typedef void (*km_reply)(const struct km_answer *answer, void *arg);

/* from: the sender's authenticated name, of the role that may send this message. */
void km_receive(struct km *km, enum km_message m, const char *from, const void *message, km_reply reply,
                void *arg);

/* A connection to a KM, from a module, to the controller was established or lost. */
void km_peer_up(struct km *km, const char *peer, bool up);
void km_controller_up(struct km *km, bool up);
void km_module_up(struct km *km, const char *module, bool up);

/* ---- what it can tell ----------------------------------------------------------------------------------- */

struct km_counters {
	uint64_t keys_supplied, keys_fetched, requests_refused;
	uint64_t blocks_received, blocks_agreed, blocks_voided, blocks_differing;
	uint64_t bytes_voided; /* in flight, and given up */
	uint64_t pad_lost;     /* bytes of pad under relays that are not known to have arrived */
	uint64_t pad_unsent;   /* of these, those whose relay did not even leave */
	uint64_t bytes_discarded; /* of links with a direction that is full */
	uint64_t relays_sent, relays_forwarded, relays_received, relays_refused;
	uint64_t relay_bytes;  /* that arrived here */
	uint64_t routes_remembered; /* ways taken while the controller did not answer */
};
const struct km_counters *km_counters(const struct km *km);

#endif
