/*
 * controller.h - the core of a QKDN controller: routing control (Y.3804) for the KMs of one node
 * (distributed) or of many (centralized).
 *
 * The core is given its clock and its way to call others, and is told what arrives; it knows neither
 * RPC nor sockets, and hundreds of them live in one process in the tests. It never sees a key byte.
 *
 * What it knows of its own KMs it has from their reports; of the others, from the link-state records
 * of its neighbours (lib/route/lsdb.h). Nothing of it is kept on disk: KMs register and report again
 * when it returns, and neighbours have its own records with their sequence numbers.
 */
#ifndef QKDN_CONTROLLER_H
#define QKDN_CONTROLLER_H

#include "env.h"
#include "lsdb.h"
#include "route.h"

struct controller;

enum controller_mode { CONTROLLER_CENTRALIZED, CONTROLLER_DISTRIBUTED };

/* Keep the KSA pool from source to destination between the water marks by relay with reservation
 * (I.4b), amount bytes at a time. */
struct controller_reserve {
	const char *source, *destination;
	uint32_t amount;
	uint64_t low_water, high_water; /* bytes */
};

/* Names are copied. Durations are nanoseconds. */
struct controller_options {
	const char *name;
	enum controller_mode mode;
	const char *const *kms; /* that may register here */
	size_t km_count;
	const char *const *neighbours; /* controllers to share link states with */
	size_t neighbour_count;
	const struct controller_reserve *reserve;
	size_t reserve_count;
	uint64_t report_interval;  /* that KMs are told */
	uint64_t silence;          /* a KM that reports nothing for so long has no links any more */
	uint64_t refresh;          /* a record is made anew at the latest after it */
	uint64_t max_age;          /* of a record; several times refresh */
	uint64_t min_origination;  /* between two records of one KM */
	uint64_t weight_interval;  /* the same where nothing changed but stock, rates and QBER */
	uint64_t call_timeout;     /* of a call to a KM or a controller */
	uint64_t reservation_time; /* a relay with reservation must be done within it */
};

/* What each duration is unless the configuration says otherwise. Names, KMs and neighbours are left. */
void controller_defaults(struct controller_options *o);

/* ---- calls out ----------------------------------------------------------------------------- */

/* Reports of calls. Each is made exactly once, never before the call returns, and not any more after
 * controller_free. ST_TIMED_OUT, ST_TRANSPORT: it may have been carried out. */
typedef void (*controller_done)(enum status s, void *token);
typedef void (*controller_summary_done)(enum status s, const char *const *wanted, size_t count, void *token);
typedef void (*controller_states_done)(enum status s, const struct ls_record *newer, size_t count,
                                       void *token);

/* One relay with reservation, as it grows from call to call. */
struct controller_relay {
	struct id relay, trace;
	const char *const *route; /* KM1 first */
	size_t route_count;
	uint32_t len;
	uint64_t expires; /* UTC */
	/* from here on: as KM1 has answered the reservation */
	char link[NAME_MAX_LEN + 1];
	uint64_t link_offset;
	struct id ksa_pool;
	uint64_t ksa_offset;
};
typedef void (*controller_reserve_done)(enum status s, const struct controller_relay *answered, void *token);

/* Arguments are valid until the call returns. */
struct controller_calls {
	/* Cx, to a neighbour */
	void (*summary)(void *arg, const char *neighbour, const struct id *trace,
	                const struct ls_edition *editions, size_t count, controller_summary_done done,
	                void *token);
	void (*link_states)(void *arg, const char *neighbour, const struct id *trace,
	                    const struct ls_record *records, size_t count, controller_states_done done,
	                    void *token);
	/* Ck, to a KM */
	void (*reserve)(void *arg, const char *km, const struct controller_relay *relay,
	                controller_reserve_done done, void *token);
	void (*relay)(void *arg, const char *km, const struct controller_relay *relay, uint64_t timeout,
	              controller_done done, void *token);
	void (*allocate)(void *arg, const char *km, const struct controller_relay *relay,
	                 controller_done done, void *token);
	void (*give_up)(void *arg, const char *km, const struct controller_relay *relay,
	                controller_done done, void *token); /* CK_KM_VOID */
	void *arg;
};

enum { CONTROLLER_SUMMARY_MAX = 2048, CONTROLLER_RECORDS_MAX = 32, CONTROLLER_BATCH_LINKS_MAX = 4096 };

/* calls is copied. */
struct controller *controller_new(struct env *env, const struct controller_options *o,
                                  const struct controller_calls *calls);
void controller_free(struct controller *c); /* NULL is allowed; after what reports calls has stopped */

/* ---- from KMs (Ck) ----------------------------------------------------------------------------- */

/* ST_DENIED for a KM that is not one of this controller's. */
MUST_CHECK enum status controller_register(struct controller *c, const char *km);
void controller_km_lost(struct controller *c, const char *km); /* its last connection */

/* Whole: links that are not named are gone. Registers the KM, too, so that order does not matter. */
MUST_CHECK enum status controller_link_status(struct controller *c, const char *km,
                                              const struct route_link *links, size_t count);

struct controller_pool {
	const char *peer;
	uint64_t stock, low_water, high_water; /* bytes */
	uint64_t consumption_rate;             /* bit/s */
};
MUST_CHECK enum status controller_key_store_status(struct controller *c, const char *km,
                                                   const struct controller_pool *pools, size_t count);

struct controller_next_hop_request {
	const char *destination;
	const char *const *visited; /* the last one is the asking KM */
	size_t visited_count;
	const char *const *excluded;
	size_t excluded_count;
	unsigned hops_left;
	uint64_t len;
};
/* *next_hop is valid until the core is called again. ST_NO_ROUTE, ST_TOO_FEW_KEYS (all ways lead over
 * links that have too little pad), ST_BAD_REQUEST, ST_DENIED. */
MUST_CHECK enum status controller_next_hop(struct controller *c, const struct controller_next_hop_request *r,
                                           const char **next_hop, unsigned *hops_left, struct err *e);

/* Other next hops, the best first, for a KM that cannot ask again: each would be the answer if those before it
 * were excluded, too. They count for nothing in what routes are about to take. Valid as next_hop. */
enum { CONTROLLER_ALTERNATIVES_MAX = 8 };
size_t controller_alternative_hops(struct controller *c, const struct controller_next_hop_request *r,
                                   const char *next_hop, size_t wanted, const char **hops);

struct controller_hop {
	const char *from, *to;
};
struct controller_route_request {
	struct id relay;
	const char *source, *destination;
	const struct controller_hop *excluded;
	size_t excluded_count;
	unsigned shares;
	uint64_t len;
};
/* Fills at most ROUTE_DISJOINT_MAX routes; controller_node_name names their nodes. */
MUST_CHECK enum status controller_route(struct controller *c, const struct controller_route_request *r,
                                        struct route *routes, size_t *count, struct err *e);
/* Other routes than that one: without any of its nodes, then each the best that does without one of its hops. */
size_t controller_alternative_routes(struct controller *c, const struct controller_route_request *r,
                                     const struct route *given, size_t wanted, struct route *routes);
const char *controller_node_name(const struct controller *c, int node);

/* The result of a relay that was asked for with controller_route. ST_OK also where it is not known. */
MUST_CHECK enum status controller_relay_result(struct controller *c, const struct id *relay,
                                               enum status result, uint64_t len);

/* ---- from neighbours (Cx) ------------------------------------------------------------------------ */

void controller_neighbour_up(struct controller *c, const char *neighbour);
void controller_neighbour_down(struct controller *c, const char *neighbour);

/* Fills wanted with the KMs whose record should be sent here, pointing into editions; room for count. */
MUST_CHECK enum status controller_summary(struct controller *c, const char *neighbour,
                                          const struct ls_edition *editions, size_t count,
                                          const char **wanted, size_t *wanted_count);

/* Stores what is newer and hands it on. newer gets views of records that this side has newer, with
 * room for CONTROLLER_RECORDS_MAX; they are valid until the core is called again. */
MUST_CHECK enum status controller_link_states(struct controller *c, const char *neighbour,
                                              const struct ls_record *records, size_t count,
                                              struct ls_record *newer, size_t *newer_count);

/* ---- for the operator ---------------------------------------------------------------------------- */

struct controller_stats {
	uint64_t kms, nodes, links, records;
	uint64_t records_made, records_taken, records_ignored, records_sent;
	uint64_t routes_given, routes_refused, relays_done, relays_failed;
	uint64_t reservations_done, reservations_failed, reserved_bytes;
};
void controller_stats(const struct controller *c, struct controller_stats *s);
struct topology *controller_topology(struct controller *c);

#endif
