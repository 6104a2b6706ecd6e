/*
 * message.h - what a key manager says and is told, free of the wire.
 *
 * One struct per message and one per answer. A request begins with the trace ID, an answer with the
 * outcome. Pointers in a message are the sender's and valid during the call only; what must live
 * longer is copied by the receiver. The files km_ak.c, km_kx1.c … turn these into the types of the
 * .x files and back; the simulation hands them from core to core.
 */
#ifndef QKDN_KM_MESSAGE_H
#define QKDN_KM_MESSAGE_H

#include "id.h"
#include "secret.h"
#include "status.h"

enum {
	KM_TAG_LEN = 16,
	KM_WINDOW_MAX = 64,
	KM_ASSIGNMENTS_MAX = 1024,
	KM_BLOCKS_MAX = 64,
	KM_KEYS_MAX = 1024,
	KM_PADS_MAX = 64,
	KM_ROUTE_MAX = 256,
	KM_SHARES_MAX = 8,
	KM_EXCLUDED_MAX = 64,
	KM_ALTERNATIVES_MAX = 8,
	KM_ALARMS_MAX = 8,
};

/* The messages a KM sends or receives, by reference point. */
enum km_message {
	/* Ak: application to KM */
	KM_KEY_REQUEST,
	KM_KEY_REQUEST_WITH_ID,
	KM_STATUS,
	/* Kq-1, Kq-2: module to KM */
	KM_KEY_SUPPLY,
	KM_KEY_SYNC,
	KM_REGISTER,
	KM_ALARM,
	/* Kq-1, Kq-2: KM to module */
	KM_KEY_PULL,
	KM_START,
	KM_STOP,
	KM_MODULE_STATUS,
	KM_FLOW_CONTROL,
	/* Kx-1: KMA to KMA */
	KM_LINK_OPEN,
	KM_LINK_SYNC,
	KM_ALLOCATE,
	KM_RELAY,
	KM_COMPLETION,
	/* Kx-2: KSA to KSA */
	KM_POOL_OPEN,
	KM_VERIFY,
	KM_ASSIGN,
	KM_VOID,
	/* Ck: KM to controller */
	KM_CK_REGISTER,
	KM_CK_LINK_STATUS,
	KM_CK_KEY_STORE_STATUS,
	KM_CK_NEXT_HOP,
	KM_CK_NOTIFICATION,
	KM_CK_RESPONSE,
	/* Ck: controller to KM */
	KM_CK_RESERVATION,
	KM_CK_RELAY,
	KM_CK_ALLOCATION,
	KM_CK_VOID,
	/* Mk: manager or administrator to KM; the message is a struct id, the trace */
	KM_MK_STATUS,
	KM_MK_POOLS,
	KM_MK_RELAYS,
	KM_MK_MODULES,
	KM_MK_CHANGE_MASTER_KEY,
	KM_MESSAGES
};

/* First in every answer; the whole of some. err.status is ST_OK and err.text empty where all is well. */
struct km_answer {
	struct err err;
};

/* ---- Ak ------------------------------------------------------------------------------------ */

struct km_key_request {
	struct id trace;
	const char *source, *destination; /* applications */
	uint32_t number;                  /* 0: 1 */
	uint32_t size;                    /* bits; 0: the default */
	uint32_t priority;
	uint64_t deadline; /* ns to wait for keys; 0: the default */
	unsigned more_destinations;       /* how many; none are served */
	const char *mandatory_extension;  /* name of one; NULL if there is none. None is known */
};

struct km_key_request_with_id {
	struct id trace;
	const char *source, *destination;
	const struct id *key_ids;
	uint32_t count;
};

/* The keys lie one behind another in bytes. */
struct km_keys {
	struct km_answer answer;
	uint32_t count, key_len;
	const struct id *key_ids; /* count of them; the sender's, like the bytes */
	const uint8_t *bytes;
	size_t len;               /* of all the bytes */
	const uint32_t *key_lens; /* with ID: the length of each; NULL: all have key_len */
};

struct km_status_request {
	struct id trace;
	const char *source, *destination;
};

struct km_status_answer {
	struct km_answer answer;
	const char *source_km, *destination_km;
	uint32_t key_size, min_key_size, max_key_size, max_keys_per_request; /* sizes in bits */
	uint64_t stored_keys, max_stored_keys;
};

/* ---- Kq-1 and Kq-2 ---------------------------------------------------------------------------- */

struct km_block {
	uint64_t sequence, generated_at;
	uint32_t qber_ppm;
	const uint8_t *bytes;
	uint32_t len;
};

struct km_key_supply {
	struct id trace;
	const char *link, *module, *protocol;
	const struct km_block *blocks;
	uint32_t count;
};

struct km_key_sync {
	struct id trace;
	const char *link, *module;
	uint64_t last_sequence;
};

struct km_progress {
	struct km_answer answer;
	uint64_t next_sequence;
	uint32_t credit;
};

struct km_register {
	struct id trace;
	const char *module, *peer_module, *link, *protocol;
	bool pull;
	uint32_t block_size;
};

struct km_alarm {
	struct id trace;
	const char *module, *link, *cause, *text;
	uint64_t raised_at; /* UTC */
	bool major, cleared;
};

struct km_link_command { /* start, stop, status */
	struct id trace;
	const char *link;
};

struct km_module_status {
	bool started; /* by the KM, and not stopped since */
	bool running; /* it makes blocks */
	uint64_t secret_key_rate; /* bit/s */
	uint32_t qber_ppm, buffered;
	uint64_t next_sequence, dropped;
};

struct km_module_status_answer {
	struct km_answer answer;
	struct km_module_status status;
};

struct km_flow_control {
	struct id trace;
	const char *link;
	uint32_t credit;
};

struct km_key_pull {
	struct id trace;
	const char *link;
	uint64_t next_sequence;
	uint32_t blocks;
};

struct km_key_pull_answer {
	struct km_answer answer;
	const char *protocol;
	const struct km_block *blocks;
	uint32_t count;
};

/* ---- Kx-1 ---------------------------------------------------------------------------------------- */

enum km_link_pool { KM_KEYS_OUT, KM_KEYS_IN, KM_AUTH_OUT, KM_AUTH_IN, KM_LINK_POOLS };

struct km_link_state {
	uint64_t next_sequence;
	uint64_t used[KM_LINK_POOLS];
};

struct km_link_open {
	struct id trace;
	const char *link;
	struct id link_id;
	uint32_t block_size;
	struct km_link_state leader;
};

struct km_link_open_answer {
	struct km_answer answer;
	struct km_link_state follower;
};

enum km_block_offer { KM_BLOCK_LACKING, KM_BLOCK_STORED, KM_BLOCK_TAGGED };

struct km_link_sync {
	struct id trace;
	const char *link;
	uint64_t first, give_up_below, unused_below;
	uint32_t count;
	uint8_t have[KM_WINDOW_MAX]; /* enum km_block_offer */
	uint64_t auth_offsets[KM_WINDOW_MAX];
	uint8_t tags[KM_WINDOW_MAX][KM_TAG_LEN];
};

struct km_link_sync_answer {
	struct km_answer answer;
	uint64_t first;
	uint32_t count;
	uint8_t settled[KM_WINDOW_MAX];
	uint32_t stored_count; /* as many as were asked for, from that one on */
	uint8_t stored[KM_WINDOW_MAX];
	uint64_t auth_offset;
	uint8_t tag[KM_TAG_LEN];
};

struct km_allocate {
	struct id trace;
	const char *link;
	uint64_t link_offset;
	struct id ksa_pool;
	uint64_t ksa_offset;
	uint32_t len;
	uint64_t unused_below;
};

struct km_pad {
	uint64_t offset;
	uint32_t len;
};

/* The nodes of a route; the array and the names are the sender's. */
struct km_route {
	uint32_t count;
	const char *const *nodes;
};

struct km_relay {
	struct id trace;
	struct id relay, group; /* group: of the shares of a range; else the relay's */
	const char *source, *destination, *relayer;
	struct id ksa_pool;
	uint64_t ksa_offset;
	uint32_t relay_case, share, shares;
	struct km_route route; /* hops_left 0: the whole way; else the nodes visited */
	uint32_t hops_left;
	uint64_t expires;
	const char *link;
	uint32_t pad_count;
	const struct km_pad *pads;
	uint64_t unused_below;
	const uint8_t *ciphertext;
	uint32_t len; /* of the ciphertext */
	uint8_t tag[KM_TAG_LEN];
};

struct km_hop {
	const char *from, *to;
};

struct km_relay_answer {
	struct km_answer answer;
	struct km_hop failed; /* of a refusal: the hop that failed, where it is known; NULL or empty: it is not */
};

struct km_completion {
	struct id trace;
	struct id relay, ksa_pool;
	uint64_t ksa_offset;
	uint32_t len;
};

/* ---- Kx-2 ------------------------------------------------------------------------------------------ */

struct km_pool_open {
	struct id trace;
	struct id pool;
	uint64_t opening, used, taken, ready;
};

struct km_pool_open_answer {
	struct km_answer answer;
	uint64_t opening, used, base, ready;
};

struct km_verify {
	struct id trace;
	struct id pool;
	uint64_t offset;
	uint32_t len;
	uint8_t tag[KM_TAG_LEN];
};

struct km_assignment {
	uint64_t offset;
	uint32_t key_len, count;
	const char *source, *destination;
};

struct km_assign {
	struct id trace;
	struct id pool;
	uint64_t opening, base;
	uint64_t expires, unused_below;
	uint32_t count; /* 0: only unused_below is told */
	const struct km_assignment *assignments;
};

struct km_assign_answer {
	struct km_answer answer;
	uint32_t count;
	const enum status *results;
};

struct km_void {
	struct id trace;
	struct id pool;
	uint64_t offset, len;
};

/* ---- Ck: to the controller ---------------------------------------------------------------------------- */

struct km_ck_register {
	struct id trace;
	const char *km;
};

struct km_ck_register_answer {
	struct km_answer answer;
	const char *controller;
	bool distributed;
	uint64_t report_interval;
};

struct km_ck_link_state {
	const char *link, *peer;
	bool up;
	uint64_t stock, generation_rate, consumption_rate; /* bytes, bit/s */
	uint32_t qber_ppm;
	uint64_t reported_at;
};

struct km_ck_link_status {
	struct id trace;
	const char *km;
	uint32_t count;
	const struct km_ck_link_state *links;
};

struct km_ck_pool_state {
	const char *peer;
	uint64_t stock, low_water, high_water, consumption_rate;
};

struct km_ck_key_store_status {
	struct id trace;
	const char *km;
	uint32_t count;
	const struct km_ck_pool_state *pools;
};

struct km_ck_next_hop {
	struct id trace;
	struct id relay;
	const char *source, *destination;
	struct km_route visited;
	uint32_t excluded_count;
	const char *const *excluded;
	uint32_t hops_left, alternatives;
	uint64_t len;
};

struct km_ck_next_hop_answer {
	struct km_answer answer;
	const char *next_hop;
	uint32_t hops_left;
	uint32_t alternative_count;
	const char *const *alternatives; /* next hops for when that one will not do and the controller is away */
};

struct km_ck_notification {
	struct id trace;
	struct id relay;
	const char *source, *destination;
	uint32_t excluded_count;
	const struct km_hop *excluded;
	uint32_t shares, alternatives;
	uint64_t len;
};

struct km_ck_notification_answer { /* Key relay request */
	struct km_answer answer;
	uint32_t count;
	struct km_route routes[KM_SHARES_MAX];
	uint32_t alternative_count;
	struct km_route alternatives[KM_ALTERNATIVES_MAX]; /* for when that one will not do and the controller is away */
};

struct km_ck_response { /* Response to key relay request */
	struct id trace;
	struct id relay;
	enum status status;
	const char *text;
	uint64_t len;
	struct km_hop failed; /* names may be "" */
};

/* ---- Ck: from the controller (I.4b) --------------------------------------------------------------------- */

struct km_ck_reservation {
	struct id trace;
	struct id relay;
	struct km_route route;
	uint32_t len;
	uint64_t expires;
};

struct km_ck_reservation_answer {
	struct km_answer answer;
	const char *link;
	uint64_t link_offset;
	struct id ksa_pool;
	uint64_t ksa_offset;
};

struct km_ck_relay {
	struct id trace;
	struct id relay;
	struct km_route route;
	const char *link;
	uint64_t link_offset;
	uint32_t len;
	struct id ksa_pool;
	uint64_t ksa_offset;
	uint64_t expires;
};

struct km_ck_relay_id { /* allocation, void */
	struct id trace;
	struct id relay;
};

/* ---- Mk ------------------------------------------------------------------------------------------------------ */

struct km_counters; /* km.h */

struct km_mk_status_answer {
	struct km_answer answer;
	const char *km, *controller; /* controller "": none */
	bool registered, remembering; /* remembering: it does not answer, relays take ways that it gave before */
	const struct km_counters *counters;
};

struct km_mk_pools_answer {
	struct km_answer answer;
	uint32_t count;
	const struct ks_pool *pools;
	const uint32_t *shares; /* of each; 0: not relayed from here */
	const bool *shares_required;
};

struct km_mk_relay {
	struct id relay;
	const char *source, *destination, *method, *stage;
	uint32_t share, shares;
	bool remembered; /* its way was given before the controller was away */
	uint32_t len;
};

struct km_mk_relays_answer {
	struct km_answer answer;
	uint32_t count;
	const struct km_mk_relay *relays;
};

struct km_mk_alarm {
	const char *cause, *text;
	bool major;
	uint64_t raised_at;
};

struct km_mk_module {
	const char *link, *module, *peer, *state;
	struct km_module_status status; /* as it was told last */
	uint32_t alarm_count;
	struct km_mk_alarm alarms[KM_ALARMS_MAX];
};

struct km_mk_modules_answer {
	struct km_answer answer;
	uint32_t count;
	const struct km_mk_module *modules;
};

struct km_mk_master_key_answer {
	struct km_answer answer;
	const char *km;
};

#endif
