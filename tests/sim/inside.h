/* inside.h - the inside of the simulation, for the files of tests/sim alone. */
#ifndef QKDN_SIM_INSIDE_H
#define QKDN_SIM_INSIDE_H

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "lsdb.h"
#include "sim.h"

enum { PARTIES_MAX = 512 };

/* Cx, beside the messages of a KM. */
enum { SIM_CX_SUMMARY = KM_MESSAGES, SIM_CX_LINK_STATES, SIM_MESSAGES };

/* Memory that is freed all at once. */
struct bag {
	struct bag_item *items;
};
void *bag_alloc(struct bag *b, size_t len);
void *bag_copy(struct bag *b, const void *p, size_t len);
void bag_free(struct bag *b);
void *copy_message(struct bag *b, enum km_message m, const void *message);
void *copy_answer(struct bag *b, enum km_message m, const struct km_answer *answer);

/* ---- parties and the net between them ----------------------------------------------------------------- */

enum party_kind { PARTY_CONTROLLER, PARTY_KM, PARTY_MODULE };

struct party {
	struct sim *sim;
	char name[NAME_MAX_LEN + 1];
	enum party_kind kind;
	unsigned index, incarnation;
	bool alive, listening;
	void (*receive)(struct party *p, enum km_message m, struct party *from, const void *message, km_reply reply,
	                void *arg);
	void (*notice)(struct party *p, struct party *other, bool up);
	UT_hash_handle hh;
};

struct conn {
	bool wanted, up;
	unsigned epoch;
	bool seen[2]; /* by the lower and the higher index */
	uint64_t down_at, cut_until;
};

struct call;

void party_add(struct sim *s, struct party *p, const char *name, enum party_kind kind);
struct party *party_by_name(struct sim *s, const char *name);
struct conn *conn_of(struct sim *s, const struct party *a, const struct party *b);
bool conn_is_seen(struct sim *s, const struct party *by, const struct party *other);
void net_want(struct sim *s, struct party *a, struct party *b);
void net_cut(struct sim *s, struct party *a, struct party *b, uint64_t until);
void net_party_died(struct party *p); /* after alive and incarnation were changed */
void net_tick(struct sim *s);
void net_send(struct party *from, const char *to, enum km_message m, const void *message, uint64_t timeout,
              km_answered answered, void *arg);
void net_check_quiet(struct sim *s);
void net_free(struct sim *s);
extern const struct km_wire sim_wire;

/* ---- key managers ------------------------------------------------------------------------------------------- */

struct store_job {
	struct node *node;
	unsigned incarnation;
	ks_work work;
	ks_ran ran;
	ks_done done;
	void *arg;
	enum status status;
	bool ran_well;
	struct store_job *next;
};

struct node {
	struct party party;
	unsigned number;
	struct env *store_env, *env;
	struct ks *ks;
	struct kv *kv, *copy; /* under ks; and to be opened instead of an empty one */
	bool put_back;        /* its store was once an older one: it has forgotten what it did */
	struct km *km;
	bool ready, commit_due, lost;
	enum sim_commit next_commit;
	struct store_job *queue, *batch; /* what waits, and what was run last and is not reported yet */
	struct km_counters past; /* of earlier incarnations */
	unsigned incarnations;
	UT_hash_handle by_ks;
};

void node_new(struct sim *s, struct node *n, unsigned number);
void node_free(struct node *n);
void store_open(struct node *n); /* its ks */
/* Works on its store are delayed from now on; and it has none any more. */
void store_add(struct node *n);
void store_close(struct node *n);
/* What a killed core would have freed: kept where a leak checker sees it. */
void graveyard(void *p);

/* ---- links and modules ---------------------------------------------------------------------------------------- */

enum { MODULE_KEEPS = 512 };

struct block {
	uint64_t sequence, not_before;
	uint8_t *bytes;
	struct block *prev, *next;
};

struct module {
	struct party party;
	struct sim_link *link;
	struct node *node;
	bool registered, started, supplying, synced;
	unsigned kept;
	struct block *blocks;
	uint64_t again_at;
	unsigned retry_dice;
};

struct range {
	uint64_t from, to;
};

/* Which parts of a stream were used. */
struct ranges {
	struct range *items;
	size_t count, room;
};
void ranges_free(struct ranges *r);

/* A range of a link pool that went into a KSA pool: may be told again, never otherwise. */
struct taken_range {
	uint64_t from, to, ksa_offset;
	struct id ksa_pool;
	struct taken_range *next;
};

/* An authentication key: for one text only, which may be sent again. */
struct auth_use {
	uint64_t offset, about; /* the block, or the first of the window */
	uint8_t tag[KM_TAG_LEN];
	bool has_tag;
	UT_hash_handle hh;
};

struct sim_link {
	struct sim *sim;
	char name[NAME_MAX_LEN + 1];
	struct node *ends[2]; /* the leader first */
	struct module modules[2];
	bool down;
	uint64_t next_sequence;
	struct ranges keys[2]; /* used, by direction: that of the leader first */
	uint64_t settled_next, agreed; /* sequence; blocks */
	struct auth_use *auth[2];
	struct taken_range *taken[2];
};

void links_new(struct sim *s);
void links_free(struct sim *s);
void link_make_block(struct sim_link *l);
void module_tick(struct module *m);
struct sim_link *sim_link_by_name(struct sim *s, const char *name);
bool sim_is_link(const struct sim *s, unsigned a, unsigned b);

/* ---- applications --------------------------------------------------------------------------------------------- */

struct app_request;
struct app_key;
void app_tick(struct sim *s);
void app_settle_check(struct sim *s);
void app_node_died(struct node *n);
void app_free(struct sim *s);

/* ---- controllers ------------------------------------------------------------------------------------------------ */

struct sim_controller;

struct cx_summary {
	struct ls_edition *editions;
	size_t count;
};

struct cx_summary_answer {
	struct km_answer answer;
	const char **wanted;
	size_t count;
};

struct cx_states {
	struct ls_record *records;
	size_t count;
};

struct cx_states_answer {
	struct km_answer answer;
	struct ls_record *newer;
	size_t count;
};

void control_new(struct sim *s);
const char *control_name(const struct sim *s, const struct node *n); /* of a node's controller; NULL: none */
void control_settle(struct sim *s);
void control_cut(struct sim *s, unsigned a, unsigned b, uint64_t until);
void control_free(struct sim *s);

/* ---- checks of messages ------------------------------------------------------------------------------------------- */

void check_sent(struct sim *s, struct party *from, struct party *to, enum km_message m, const void *message);
void check_answer(struct sim *s, struct party *from, struct party *to, enum km_message m, const void *message,
                  const struct km_answer *answer);
void check_end(struct sim *s);
void check_stated(struct sim *s); /* what was given up is, in the log, in bytes */
void check_explain(struct sim *s, const struct id *key);
void check_free(struct sim *s);
void check_link_free(struct sim_link *l, int end);

struct assigned_range {
	uint64_t from, to, opening;
	struct assigned_range *next;
};

/* Which share of a range each node between its ends has seen, + 1. */
struct seen_shares {
	struct id group;
	uint8_t share[PARTIES_MAX];
	UT_hash_handle hh;
};

struct pool_use {
	struct id pool;
	struct ranges assigned;
	struct assigned_range *accepted;
	UT_hash_handle hh;
};

struct sim {
	struct sim_options options;
	struct world *world;
	struct env *env; /* of the net and all that is played */
	char directory[64];
	struct node *nodes;
	struct sim_link *links;
	unsigned link_count, party_count, violations;
	struct err refusal; /* of a key request, the last */
	struct party *parties[PARTIES_MAX], *by_name;
	struct node *by_ks;
	struct conn *conns;
	struct call *calls;
	struct call *relays_seen[16]; /* to be replayed */
	struct sim_controller *controllers;
	unsigned controller_count;
	struct app_request *requests;
	struct app_key *keys, *keys_by_id;
	uint64_t next_request_at, next_block_at;
	bool settling;
	sim_hook hook;
	void *hook_arg;
	struct pool_use *pool_uses;
	struct seen_shares *shares_seen;
	struct sim_stats stats;
	uint64_t stated_before; /* by others in the log, or behind a kill that only frees: of stated_bytes() */
	uint64_t never_stated;  /* bytes given up of which a kill was faster than the line */
};

bool sim_chance(struct sim *s, unsigned in_a_thousand);

#endif
