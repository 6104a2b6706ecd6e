/*
 * sim.h - a whole QKD network in one process: real key manager cores under one virtual clock, with
 * the QKD modules, the applications, the wire between them and its faults played by the simulation.
 *
 * Everything follows from the seed. What must always hold is checked all along (check.c); a violation is
 * printed with the seed and counted.
 */
#ifndef QKDN_SIM_H
#define QKDN_SIM_H

#include "env_virtual.h"
#include "keystore.h"
#include "../../server/km/km.h"

struct sim;
struct party;
struct node;
struct call;

enum sim_topology { SIM_LINE, SIM_RING, SIM_MESH };
enum sim_control { SIM_NO_CONTROLLER, SIM_CENTRALIZED, SIM_DISTRIBUTED };

/* How often what goes wrong, in parts of a thousand messages; 0: never. */
struct sim_faults {
	unsigned drop, drop_answer, late, duplicate, slow;
	unsigned forge, replay, wrong_hop; /* of relays */
	unsigned missing, repeated, late_block, differing; /* of blocks, at one end */
	unsigned storage, storage_full; /* of a store's transactions; the latter fail at their commit */
	unsigned control_silent, control_stale, control_no_route; /* of the controllers' answers */
};

struct sim_options {
	uint64_t seed;
	unsigned nodes;
	enum sim_topology topology;
	enum sim_control control;
	bool reservation;        /* the controller also fills by reservation (I.4b) */
	bool verbose;
	uint32_t block_size;
	uint64_t block_interval; /* ns between two blocks of a link */
	uint64_t request_interval; /* ns between two key requests of the whole; 0: none by themselves */
	struct km_limits limits;
	struct sim_faults faults;
};

/* Small and quick: block_size 2048, 20 blocks/s, KSA pools of 16 to 48 KiB. No fault. */
void sim_defaults(struct sim_options *o);

struct sim *sim_new(const struct sim_options *o);
void sim_free(struct sim *s);

/* Runs for a virtual time, with the invariants checked. */
void sim_run(struct sim *s, uint64_t ns);
uint64_t sim_now(const struct sim *s); /* ns since its beginning */
void sim_set_faults(struct sim *s, const struct sim_faults *f); /* NULL: none from now */
/* Ends faults and cuts, restarts what is down, and runs until everything is quiet and every key was fetched;
 * then checks what must hold at the end. */
void sim_settle(struct sim *s);

/* How many invariants were violated so far. */
unsigned sim_violations(const struct sim *s);
void sim_violation(struct sim *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
void sim_say(struct sim *s, const char *fmt, ...) PRINTF_LIKE(2, 3);
uint64_t sim_dice(struct sim *s, uint64_t sides); /* 0 … sides-1 */

/* ---- what can be done to it ------------------------------------------------------------------------- */

struct node *sim_node(struct sim *s, unsigned i);
bool sim_node_is_up(const struct node *n);
void sim_kill(struct node *n);
void sim_start(struct node *n);
/* What becomes of the next commit of works that are told early: it takes 100 ms, it fails, or it is lost, and the node
 * with it. */
enum sim_commit {
	COMMIT_DONE, COMMIT_SLOW, COMMIT_FAILS, COMMIT_LOST,
	COMMITS_FAIL, COMMITS_SLOW, /* all, until told otherwise: a full disk, a busy one */
};
void sim_next_commit(struct node *n, enum sim_commit fate);
struct km *sim_core(struct node *n);
struct ks *sim_store(struct node *n);
/* Bytes that wait there for applications to fetch them; runs for a moment. */
uint64_t sim_assigned(struct node *n);
/* A copy of what its store holds, and such a copy in the place of it: the node is killed, and started again where it
 * was up. The copy is used up. */
struct kv *sim_store_copy(struct node *n);
void sim_store_put_back(struct node *n, struct kv *copy);
/* Of a node in distributed operation, which is taken modulo their number; SIM_ALL: every controller. */
enum { SIM_ALL = UINT32_MAX };
void sim_kill_controller(struct sim *s, unsigned which);
void sim_start_controller(struct sim *s, unsigned which);
/* Cuts the connection of two KMs until the time is over; UINT64_MAX: until sim_settle. */
void sim_cut(struct sim *s, unsigned a, unsigned b, uint64_t ns);
/* The QKD link between neighbours: the modules make no blocks while it is down. */
void sim_link_down(struct sim *s, unsigned link, bool down);
/* A fresh initial secret at both ends, or that one; what authentication keys were used for is forgotten. */
enum { SIM_SECRET_LEN = 4096 };
void sim_give_secret(struct sim *s, unsigned link, const uint8_t secret[SIM_SECRET_LEN]);
unsigned sim_link_count(const struct sim *s);

/* A key request of the application at node a for a key shared with that at node b; and, with OK, the other's
 * fetch some time later. Results are counted and in *result, if that is not NULL (UINT32_MAX: not yet). */
void sim_request(struct sim *s, unsigned a, unsigned b, uint32_t number, uint32_t size, uint64_t deadline,
                 uint32_t *result);
/* The text of the last one that was refused. */
const char *sim_refusal(const struct sim *s);

/* Asked of every message that is sent between KMs, or KM and controller, before the dice are; it may be altered. */
enum sim_fate {
	FATE_DICE,
	FATE_DELIVER,
	FATE_DROP,
	FATE_DROP_ANSWER,
	FATE_TWICE,
	FATE_COPY,        /* and a copy three seconds later */
	FATE_COPY_BEFORE, /* which overtakes it; it is answered itself */
	FATE_LATE,        /* behind its time-out */
	FATE_OVERTAKEN,   /* late, but in time */
};
const char *message_name(enum km_message m);
typedef enum sim_fate (*sim_hook)(struct sim *s, enum km_message m, const char *from, const char *to,
                                  const void *message, void *arg);
void sim_set_hook(struct sim *s, sim_hook hook, void *arg);
/* A message out of nowhere, as if from had sent it; *result is the answer's status (UINT32_MAX: none yet). */
void sim_inject(struct sim *s, enum km_message m, unsigned from, unsigned to, const void *message, uint32_t *result);
/* Runs cb after this turn. */
void sim_after(struct sim *s, uint64_t ns, env_cb cb, void *arg);

struct sim_stats {
	uint64_t events, messages, dropped, duplicated, late, forged, replayed, kills, cuts, controller_kills;
	uint64_t requests, keys, fetched, blocks;
	uint64_t answered[32]; /* key requests, by status */
	uint64_t bytes_voided;        /* given up, by the KMs' counters */
	uint64_t pad_lost;            /* bytes of pad under relays that are not known to have arrived */
	uint64_t pad_counted;         /* the same, by the KMs' counters */
	uint64_t pad_foreseen;        /* spent for a way that the controller then did not give: counted there, too */
	uint64_t pad_unsent;          /* that no message ever named, beyond what was too short to be taken */
	uint64_t relays, relay_bytes, allocations;
	uint64_t shares; /* as often as a node between the ends had one */
	uint64_t forged_accepted, storage_failures;
};
void sim_stats(struct sim *s, struct sim_stats *stats);
void sim_print_stats(struct sim *s);

/* ---- schedules ------------------------------------------------------------------------------------------ */

/* A network, faults and their times, all from the seed; returns the violations. Keeps what the caller has set
 * in *o where that is not zero. */
struct sim_schedule {
	uint64_t seed;
	unsigned nodes; /* 0: 2 to 6 */
	int topology;   /* -1: any */
	uint64_t faulty_ns;
	bool verbose;
};
unsigned sim_schedule_run(const struct sim_schedule *o, struct sim_stats *stats);

#endif
