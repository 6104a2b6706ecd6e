/* controller_core.h - the inside of a controller's core, for the files of the core alone. */
#ifndef QKDN_CONTROLLER_CORE_H
#define QKDN_CONTROLLER_CORE_H

#include "controller.h"
#include "log.h"

#include <uthash.h>

/* The stock of a KSA pool that starts at one of our KMs. */
struct pool {
	char peer[NAME_MAX_LEN + 1];
	uint64_t stock;
	UT_hash_handle hh;
};

/* A KM that may register here. */
struct km {
	char name[NAME_MAX_LEN + 1];
	struct controller *controller;
	bool connected;
	bool reported; /* its links are known from itself */
	uint64_t reported_at;
	struct route_link *links; /* as reported last */
	size_t link_count;
	struct route_link *told; /* as in the record made last: what the others believe */
	size_t told_count;
	uint64_t sequence;         /* of the newest record of it that was ever seen here */
	uint64_t made_at;          /* of the record made last */
	uint64_t due;              /* of the record that waits */
	bool made, change_waiting; /* change_waiting: a record waits for due, else for the refresh */
	struct env_timer *timer;   /* for the next record */
	struct env_timer *silence_timer;
	struct pool *pools;
	bool pools_reported;
	UT_hash_handle hh;
};

/* A KM whose newest record a neighbour has yet to be sent. */
struct unsent {
	char km[NAME_MAX_LEN + 1];
	UT_hash_handle hh;
};

struct neighbour {
	char name[NAME_MAX_LEN + 1];
	struct controller *controller;
	bool up;
	unsigned connection; /* counts them: an answer that belongs to an old one is not looked at */
	unsigned in_flight;  /* calls with records */
	bool summary_failed; /* to be sent again */
	bool waiting;        /* for retry: a call has failed */
	struct unsent *unsent;
	struct env_timer *retry;
	UT_hash_handle hh;
};

/* A relay that a KM was given routes for. */
struct asked_relay {
	struct id relay;
	UT_hash_handle hh;
};

enum reserve_step {
	RESERVE_IDLE,
	RESERVE_RESERVING,
	RESERVE_RELAYING,
	RESERVE_ALLOCATING,
	RESERVE_GIVING_UP,
};

/* One policy of relay with reservation, and its relay under way. */
struct reserve {
	struct controller *controller;
	char source[NAME_MAX_LEN + 1], destination[NAME_MAX_LEN + 1];
	uint32_t amount;
	uint64_t low_water, high_water;
	uint64_t given; /* bytes since the stock was reported */
	bool filling;   /* between the low and the high water mark */
	enum reserve_step step;
	bool waiting; /* for the timer: to try the step again, or after a failure */
	bool known;   /* KM1 may hold the reservation */
	unsigned failures;
	struct env_timer *timer;
	struct controller_relay relay;
	struct route route;
	const char *names[ROUTE_NODES_MAX];
};

struct controller {
	struct env *env;
	struct controller_options options; /* without its lists */
	char name[NAME_MAX_LEN + 1];
	struct controller_calls calls;
	struct topology *topology;
	struct lsdb *lsdb;
	struct km *kms;
	struct neighbour *neighbours;
	struct asked_relay *asked; /* in the order of asking */
	struct reserve *reserve;
	size_t reserve_count;
	struct env_timer *ageing;
	struct controller_stats stats;
	struct log_limit limit;
};

struct km *controller_find_km(const struct controller *c, const char *name);
void controller_trace(struct controller *c, struct id *trace);
void controller_learn(struct controller *c, const char *km, const struct route_link *links, size_t count);

/* routes.c: what KMs ask for */
void routes_free(struct controller *c);

/* flood.c: link states to and from neighbours */
void flood_init(struct controller *c, const struct controller_options *o);
void flood_free(struct controller *c);
void flood_changed(struct km *km);   /* its links are not what they were */
void flood_withdraw(struct km *km);  /* it is silent */
void flood_km_init(struct km *km);
void flood_km_free(struct km *km);

/* reserve.c: relay with reservation */
void reserve_init(struct controller *c, const struct controller_options *o);
void reserve_free(struct controller *c);
void reserve_consider(struct controller *c, const char *source, bool with_stock); /* a report came */

#endif
