/*
 * draw.h - requests whose keys are taken from a KSA pool here and assigned at its destination: those of applications
 * (km_supply.c) and the KM's own, ahead of them (km_ahead.c). km_draw.c takes and assigns; no other file needs this.
 */
#ifndef QKDN_KM_DRAW_H
#define QKDN_KM_DRAW_H

#include "core.h"

/* Keys that lie one behind another. */
struct run {
	uint64_t offset;
	uint32_t count;
	uint32_t assignment; /* of the message that they are assigned with */
};

struct request;

/* Whose it is. */
struct request_kind {
	void (*fell_short)(struct request *r); /* too few keys are left; nothing was taken */
	/* s: ST_OK: its keys are taken and assigned, durably, and nobody else's. Else they are void, or none was taken, and
	 * text says why. The request is the callee's, to be freed. */
	void (*over)(struct request *r, enum status s, const char *text);
};

struct request {
	const struct request_kind *kind;
	struct ksa_pool *pool;
	struct km *km;
	struct request *prev, *next; /* in a queue, gathered, taken, a message's or ready */
	struct application *source, *destination;
	struct id trace;
	uint32_t count, key_len;
	bool counted; /* in source->waiting */

	uint32_t priority;
	struct queue *queue; /* while it waits for keys */

	/* of an application */
	bool fell_short;     /* the stock was enough in bytes, but not in whole keys */
	uint64_t give_up_at; /* monotonic */
	struct env_timer *deadline;
	km_reply reply;
	void *arg;

	/* of the KM's own */
	struct ahead *ahead;
	uint64_t since; /* monotonic: on its way, then ready */

	struct use use;    /* from the take until the assignment is answered */
	struct draw *draw; /* that takes its keys; NULL: none yet */
	struct request *next_drawn;
	uint8_t *bytes; /* in the draw's, as are their IDs */
	struct id *ids;
	bool unsent;    /* in taken */
	bool durable;   /* the draw's commit is over */
	bool assigned;  /* the message is answered */
	enum status failure;
	uint32_t got, given; /* keys taken for it, and of these supplied */
	unsigned run_count;
	struct run runs[]; /* room for count: no two keys need lie together */
};

struct request *request_new(const struct request_kind *kind, struct ksa_pool *p, uint32_t count, uint32_t key_len);
void request_free(struct request *r); /* wipes the keys that it has */
void request_not_counted(struct request *r);

static inline uint64_t request_len(const struct request *r)
{
	return (uint64_t)r->count * r->key_len;
}

/* Takes its keys, together with those of others that come at about the same time. */
void draw_gather(struct request *r);
/* Takes its keys at once, and by themselves. */
void draw_alone(struct request *r);

/* Ends those whose keys are not taken yet, or are not on their way to the destination. */
void draw_stop(struct ksa_pool *p);

/* Of a request that has its keys: supplies the next count of them, and wipes them. */
void draw_supply(struct request *r, uint32_t count, km_reply reply, void *arg);
/* Of a request that has its keys: the pool's ID where they were taken. */
const struct id *draw_pool_id(const struct request *r);
/* Of a request that has its keys: gives up those that are left, here, and has them voided there. */
void draw_give_up(struct request *r);

/* Waiting for keys, in fair turns with those of other applications: km_supply.c. When its turn comes its keys are taken;
 * when it cannot come it is over. */
void wait_in_turn(struct request *r);
void stop_waiting(struct request *r, enum status s, const char *text); /* it is over */

/* Keys that were taken ahead of requests: km_ahead.c. True: the request m of that many keys, of so many bytes, which
 * came just now, is answered with such. */
bool ahead_supplies(struct ksa_pool *p, struct application *source, struct application *destination, uint32_t count,
                    uint32_t key_len, const struct km_key_request *m, uint64_t now, km_reply reply, void *arg);
/* Keys supplied to an application's request count for how many are taken ahead, and for how many of these may be lost. */
void ahead_counts(const struct request *r, uint32_t count);

#endif
