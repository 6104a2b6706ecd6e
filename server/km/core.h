/*
 * core.h - the inside of a key manager's core; for the files of server/km alone.
 *
 * A work on the store runs in the writer's thread: it sees the copy of what it needs in its own
 * struct, never a struct km. Its done callback, in the loop's thread, brings the result home.
 */
#ifndef QKDN_KM_CORE_H
#define QKDN_KM_CORE_H

#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "km.h"
#include "log.h"

enum {
	INITIAL_SECRET_LEN = 4096,
	AUTH_KEY_LEN = 32,     /* a one-time key of Poly1305 */
	AUTH_SHARE = 64,       /* bytes of each block for each direction's authentication pool */
	BLOCKS_AHEAD = 4096,   /* how far beyond the settled sequence a block may be */
	ARRIVED_MOST = 64,     /* ranges that came and are remembered until they are verified */
};

typedef char km_name[NAME_MAX_LEN + 1];

/* ---- km_use.c: ranges of a pool that its source has on their way ------------------------------------- */

struct use {
	uint64_t begin, end;
	bool under_way;
	struct use *prev, *next;
};

struct uses {
	struct use *list; /* by begin */
	uint64_t up_to;      /* where the highest range ever taken ends */
	uint64_t lost_below; /* the destination may hold what was lost or skipped below it, and is to be told; 0: nothing */
	bool telling;
};

void uses_begin(struct uses *u, struct use *use, uint64_t begin, uint64_t end);
/* Nothing happens where it has ended already. arrived: the destination is known to have taken the range. */
void uses_end(struct uses *u, struct use *use, bool arrived);
/* What is below end was taken, and is nowhere on its way. */
void uses_lost(struct uses *u, uint64_t end);
void uses_forget(struct uses *u); /* the pool is no more */
/* The source will use nothing of the pool below it any more. */
uint64_t uses_unused_below(const struct uses *u);
bool uses_to_be_told(const struct uses *u);
void uses_told(struct uses *u, uint64_t unused_below); /* the destination has taken that message */

/* ---- a QKD link: km_make.c (its pools), km_link.c (opening, the peer), km_ingest.c (Kq), km_module.c (its module),
 * km_sync.c (Kx-1 synchronization), km_stock.c (room in its pools) ---- */

/* What a work needs to know of a link. Does not change once the link has an ID. */
struct link_view {
	struct id id;
	struct id pools[KM_LINK_POOLS];
	uint32_t block_size, half; /* half: bytes of a block for each direction's key pool */
	bool leader;
	km_name name;
};

/* What the leader knows of a block that it offers. */
struct sync_slot {
	bool wanted, has_key; /* the follower has it, too; it has an authentication key, and never another one */
	uint64_t sequence, key_offset;
};

struct module_alarm {
	km_name cause;
	char text[513];
	bool major;
	uint64_t raised_at; /* UTC */
};

/* The QKD module of a link at this node: km_module.c. */
struct module {
	km_name name;
	bool registered, pull;
	bool stopped;       /* by this KM: the pools are full */
	bool out_of_credit; /* it was told so, and nothing else since */
	bool asking, told;  /* its status is asked for; was told since it registered */
	uint64_t ask_at;    /* monotonic */
	struct km_module_status status;
	unsigned alarm_count;
	struct module_alarm alarms[KM_ALARMS_MAX]; /* those that stand */
};

struct link {
	struct km *km;
	struct link_view view; /* view.id is zero until the link was opened once */
	km_name peer;
	struct module module;
	char *initial_secret;
	UT_hash_handle hh; /* by name */

	bool making; /* the pools are being made */
	bool open;   /* agreed with the peer on the standing connection */
	unsigned losses; /* of connections to the peer */
	bool begun;  /* the ends have agreed about a block; until then the first may lie higher */

	uint64_t next_sequence;            /* every lower block is settled */
	uint64_t seen;                     /* highest sequence stored, + 1 */
	uint8_t stored[BLOCKS_AHEAD / 8];  /* bit sequence % BLOCKS_AHEAD: stored, not settled */
	uint64_t stock[2];                 /* bytes in the key pools out and in (leader's view), unready ones too */

	struct uses uses; /* of the outgoing key pool */
	uint64_t generation_rate, consumption_rate; /* bit/s, for the controller */
	uint32_t qber_ppm;
	struct {
		uint64_t at, sequence, stock;
	} measured; /* when the rates were last taken, and from what */

	bool syncing;
	/* Blocks below overdue_below have been waited for long enough: every missing_block_grace it becomes
	 * what seen was one such time before. */
	uint64_t overdue_below, overdue_next, overdue_at;
	struct env_timer *sync_timer;
	/* Leader: for blocks that the follower has not decided on, by sequence % KM_WINDOW_MAX; sync_keys has room for
	 * a key of each. */
	struct sync_slot sync_slots[KM_WINDOW_MAX];
	struct secret sync_keys;
	uint32_t sync_window; /* one block more than so many is offered at most; grows with what is settled */

	bool recounting; /* its stock, soon or now */
	struct env_timer *stock_timer;

	bool pulling;
	struct env_timer *pull_timer;
	struct log_limit complaints;
};

/* Where block sequence lies in pool p of a link. */
uint64_t link_offset(const struct link_view *v, enum km_link_pool p, uint64_t sequence);
size_t link_piece(const struct link_view *v, enum km_link_pool p);

/* The key pool in which this end chooses ranges, and the other one. */
const struct id *link_pool_out(const struct link *l);
const struct id *link_pool_in(const struct link *l);

struct link *link_by_name(struct km *km, const char *name);
struct link *link_to_peer(struct km *km, const char *peer);

/* What is left in the outgoing key pool, as a work on it has seen. */
void link_set_stock_out(struct link *l, uint64_t bytes);
uint64_t link_stock_out(const struct link *l);

/* How many bytes more of a direction blocks may bring; counts again soon, and gives up what is too much;
 * and the source of the incoming direction says that it gave up what is below (km_stock.c). */
uint64_t link_room(const struct link *l);
void link_recount_soon(struct link *l);
void link_discarded(struct link *l, uint64_t unused_below, km_reply reply, void *arg);
/* Tells the peer what of the outgoing key pool will not be used any more, where that is due. */
void link_tell_unused(struct link *l);

/* Wakes what waits for key bits of this link: allocation, credit. */
void link_changed(struct link *l);

void link_peer_up(struct link *l, bool up);
void link_sync_soon(struct link *l, uint64_t after_ns); /* leader: look for blocks to synchronize */

/* The link of a module that speaks for itself, or NULL and a refusal. */
struct link *link_of_module(struct km *km, const char *from, const char *module, const char *name, km_reply reply,
                            void *arg);
uint32_t link_credit(const struct link *l); /* blocks that it takes now */
void link_pull(void *link);                 /* asks its module for what it takes, or says that it takes none */
void link_module_up(struct link *l, bool up);
void link_check_credit(struct link *l);      /* there may be room again */
void module_has_no_credit(struct link *l);   /* it was told that nothing is taken, or is not asked for anything */
void link_tick_module(struct link *l);
const char *module_state(const struct link *l); /* in a word */

bool link_has(const struct link *l, uint64_t sequence);
void link_mark(struct link *l, uint64_t sequence, bool stored);
/* Blocks below next are settled; forgets their marks. */
void link_settled(struct link *l, uint64_t next);

static const uint64_t FIRST_SEQUENCE_MOST = UINT64_C(1) << 32;

/* While the ends have not agreed about any block: *to is the first now; what is stored below is void. Nothing is
 * changed where that is not so, or it does not begin at from any more. *to becomes where it begins. Runs in a work. */
MUST_CHECK enum status link_skip(struct ks_txn *t, const struct link_view *v, uint64_t from, uint64_t *to);
void link_begin_at(struct link *l, uint64_t sequence); /* what such a work means in memory */

/* Complains, bounded. */
void link_complain(struct link *l, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* The durable note of a link ("link/NAME"): a record of this machine, not of the wire. */
struct link_note {
	uint32_t version; /* LINK_NOTE_VERSION */
	uint32_t block_size;
	struct id id; /* zero: forgotten; it may be made anew, and begin at next_sequence */
	uint64_t next_sequence;
	uint64_t last_first; /* follower: the last window it settled, to answer a lost answer again */
	uint32_t last_count;
	uint8_t last_settled[KM_WINDOW_MAX];
	uint64_t last_auth_offset;
	uint8_t last_tag[KM_TAG_LEN];
};
enum { LINK_NOTE_VERSION = 2 };
MUST_CHECK enum status link_note_get(struct ks_txn *t, const char *link, struct link_note *n);
MUST_CHECK enum status link_note_put(struct ks_txn *t, const char *link, const struct link_note *n);

/* How far a peer's use of a pool has been seen here: "used/" and the pool's ID. Run in a work. */
MUST_CHECK enum status used_raise(struct ks_txn *t, const struct id *pool, uint64_t used);
MUST_CHECK enum status used_forget(struct ks_txn *t, const struct id *pool);

/* km_make.c: makes the link's pools under that ID; then, with ST_OK, the link has it. */
void link_make(struct link *l, const struct id *id, void (*then)(struct link *l, enum status s, void *arg), void *arg);

/* What the start of a KM finds of a link (km_make.c). */
struct link_loaded {
	struct link *l;
	struct link_view view;
	struct secret found; /* in the file of the initial secret; empty: none */
	bool secret_is_spent; /* a link was made of it before */
	bool forgotten;       /* by this very load, since found is a fresh secret; voided: bytes of it */
	struct link_note note;
	uint8_t stored[BLOCKS_AHEAD / 8];
	uint64_t seen, stock[2], head_out, voided;
};
void link_look_for_secret(struct link *l, struct secret *found);
MUST_CHECK enum status link_load(struct ks_txn *t, struct link_loaded *l); /* runs in a work; again after a failure */
void link_take_over(struct link *l, const struct link_loaded *loaded);

/* ---- KSA pools at their source: km_pool.c (opening), km_fill.c (filling), km_supply.c, km_draw.c and km_ahead.c
 * (Ak) ---- */

/*
 * A fill is a range of key bits on its way into a KSA pool (km_fill.c). How it gets to the destination is
 * its method: allocation from the link to a neighbour (km_allocate.c), relay (km_relay.c), or, in case 1,
 * reservation and allocation by a controller (km_control.c).
 */
struct transit_end;
struct split;

enum fill_method { FILL_ALLOCATION = 1, FILL_RELAY, FILL_RESERVATION };

enum fill_stage {
	FILL_TAKING,    /* its bytes are to be written into the pool, beyond ready; nothing of it is durable yet */
	FILL_SENDING,   /* the method is at work */
	FILL_ARRIVED,   /* the destination has it; verified when it has those before, too */
	FILL_VERIFYING,
	FILL_VERIFIED,  /* settled behind those before */
	FILL_SETTLING,
	FILL_VOIDING,   /* ends at the destination, then here */
	FILL_VOIDED,    /* ended there; settled here when it is the first */
};

/* What survives a kill: "fill/", the pool's ID and the offset. */
struct fill_note {
	uint32_t version; /* FILL_VERSION */
	uint32_t method;
	uint32_t len;
	uint64_t ksa_offset, link_offset;
	uint64_t expires; /* UTC; a reservation that is not allocated by then is void */
	struct id relay;
	km_name link;
};
enum { FILL_VERSION = 2, FILL_TAG_KEY = AUTH_KEY_LEN, FILL_LEAST = 1024, FILL_MOST = 1024 * 1024, FILL_GRANULE = 32 };

struct fill {
	struct ksa_pool *pool;
	struct id pool_id; /* the pool may have been made anew since */
	struct fill *prev, *next;
	struct fill_note note;
	enum fill_stage stage;
	bool has_tag; /* else, after a restart, it is computed of what the pool holds */
	uint8_t tag[KM_TAG_LEN];
	uint64_t verified_in; /* of the pool's openings */
	struct use use; /* its range of the link pool is on its way */
	uint64_t told;  /* unused_below of the message that was sent last */
	bool never_left; /* it is no loss: nobody else ever had it */
	struct id trace;
	struct env_timer *timer;
	void (*again)(struct fill *f); /* what the timer does */
	struct transit *transit;       /* FILL_RELAY: the attempt under way */
	struct split *split;           /* or it is under way in shares */
	uint32_t shares;               /* 0: as one */
	bool remembered;               /* it went the way that the controller gave before it was away */
	bool orphan;                   /* FILL_RESERVATION: the controller was lost while it was being taken */
	km_reply reply;                /* FILL_RESERVATION: the controller waits for this */
	void *reply_arg;
};

/* How far a pool was taken by works whose keys may have been shown to the destination before their commit. Of the
 * works, in the writer's thread. */
struct ksa_shown {
	struct id pool;
	uint64_t up_to;
};

/* The KSA pool of an ordered pair whose source is this KM. */
struct ksa_pool {
	struct km *km;
	km_name destination;
	struct id id;      /* zero until made */
	struct id retire;  /* its predecessor, not to be used again; zero: none */
	UT_hash_handle hh; /* by destination */
	bool making, open;
	uint64_t opening;      /* the last one; 0: none yet */
	uint64_t stock;        /* bytes */
	struct uses uses;      /* keys taken, not yet assigned at the destination */
	uint64_t settling;     /* bytes that works under way make stock, for the works behind them */
	uint64_t promised;     /* bytes of the stock for requests whose keys are being taken */
	bool filling;          /* between low and high water */
	struct fill *fills;    /* in the order of their offsets; behind them those that are to be taken */
	uint64_t in_flight;    /* bytes of keys in them: without what verifies them */
	uint32_t shares;       /* a relay is split into so many; 1: not */
	bool shares_required;  /* or is not begun */
	uint64_t relay_most;   /* bytes of a relay: halved where pad was short on the way, doubled where it was not */
	uint64_t try_again_at; /* monotonic: no new fill before */
	unsigned in_vain;      /* relays that left and did not arrive, since one did */
	struct err failure;    /* why the last fill did not arrive; ST_OK since one did */
	struct queue *waiting;  /* key requests that wait for keys, by the applications that sent them */
	uint64_t turn;          /* how far these have come in being served, each in bytes */
	struct request *gathered; /* key requests whose keys are to be taken together */
	struct request *taken; /* keys taken, to be assigned with the next message */
	uint64_t base;         /* how far it is durably taken, at least */
	struct ksa_shown shown;
	bool careful;          /* the last commit failed: nothing is shown before its commit */
	uint64_t given_up;     /* bytes taken and not assigned that no log line has told yet */
	struct log_limit complaints, sums; /* the latter of lines that tell such bytes */
	bool flush_posted, gather_posted;
	struct ahead *aheads;  /* keys taken ahead of requests, by the applications and the length that they are for */
	uint64_t not_asked_for; /* bytes of such keys, given up, that no log line has told yet */
};

struct ksa_pool *ksa_pool_to(struct km *km, const char *destination); /* makes it where it is new */
void ksa_pool_make(struct ksa_pool *p);
/* The destination does not know the opening: it was started anew. */
void ksa_pool_open_again(struct ksa_pool *p, uint64_t opening);
void ksa_pool_peer_up(struct ksa_pool *p, bool up);
void ksa_pool_fill(struct ksa_pool *p); /* starts filling where there is need */
/* Logs what the key store could not do, within bounds: it is tried again and again. */
void ksa_pool_failed(struct ksa_pool *p, const char *doing, enum status s);
bool ksa_pool_may_tell(struct ksa_pool *p); /* how many bytes are given up: else with a later line, or at the end */
void ksa_pool_ready(struct ksa_pool *p); /* more keys are ready: serves those who wait */
uint64_t ksa_pool_waiting_bytes(const struct ksa_pool *p); /* that the waiting requests lack */
const struct id *ksa_pool_waiting_trace(const struct ksa_pool *p); /* of the first that waits; NULL: none does */
/* Tells the destination what will not be assigned any more, where that is due. */
void ksa_pool_tell_unused(struct ksa_pool *p);
uint64_t ksa_pool_available(const struct ksa_pool *p); /* bytes for further works: without what is promised */
void ksa_pool_fail_waiting(struct ksa_pool *p, enum status s, const char *text);
void ksa_pool_stop(struct ksa_pool *p); /* refuses what waits and what is not begun yet */
/* Keys that were taken ahead of requests (km_ahead.c): gives them up, at both ends; frees and wipes them. */
void ahead_end(struct ksa_pool *p);
void ahead_forget(struct ksa_pool *p);

/* In a work: a new range, behind what the pool holds, and its note. note tells the method, and afterwards where; tag is
 * what the range will be verified by. */
MUST_CHECK enum status fill_put(struct ks_txn *t, const struct id *pool, struct fill_note *note,
                                const struct secret *bytes, uint8_t tag[KM_TAG_LEN]);

/* Makes a fill: its bytes go from source into the pool's end, durable with its note; then taken is called. */
struct fill_source {
	enum fill_method method;
	uint64_t len_most, len_least; /* bytes */
	uint64_t link_reserve;        /* bytes of the link pool not to be touched */
	bool half;                    /* and no more than half of the rest: relays want pad, too */
	const struct link *link;      /* its outgoing key pool is taken from; NULL: fresh random bytes */
	uint64_t expires;
	struct id relay, trace;
};
void fill_new(struct ksa_pool *p, const struct fill_source *source, void (*taken)(struct fill *f, enum status s));
void fill_resume(struct ksa_pool *p, const struct fill_note *note);
void fill_free(struct fill *f); /* and what of its relay was on the way */
void fill_stop(struct fill *f); /* the KM ends: who waits for it is told */
struct fill *fill_by_relay(struct km *km, const struct id *relay);

/* The method's reports. */
void fill_taken(struct fill *f, const struct fill_note *note, const uint8_t tag[KM_TAG_LEN]); /* it is durable now */
void fill_not_taken(struct fill *f, enum status s, const char *text); /* it never will be, and is no more */
void fill_arrived(struct fill *f);
void fill_failed(struct fill *f, enum status s, const char *text); /* voids it at both ends */
void fill_refused(struct fill *f, enum status s, const char *text); /* it never left: voids it here */
/* A reservation that is not allocated when it expires, or in most nanoseconds from now, is void. */
void fill_lapse(struct fill *f, uint64_t most);
void fill_later(struct fill *f, uint64_t after, void (*again)(struct fill *f));

/* The methods' beginnings. */
void allocation_send(struct fill *f);
void relay_send(struct fill *f); /* as one, whatever the policy says; still to be taken, or taken */
void relay_refused(struct fill *f, const struct transit_end *end);
enum { COMPLETION_GRACE_NS = 500 * 1000 * 1000 };
void relay_abandon(struct fill *f);
bool relay_is_asking(const struct fill *f); /* the controller which way */

/* ---- a hop of a relay: km_hop.c ----------------------------------------------------------------------------- */

/* Takes total bytes of a pool in as many runs as it needs, at most KM_PADS_MAX, and none where there are too few.
 * *left: bytes that stay behind; all there are where they are too few. Runs in a work. */
MUST_CHECK enum status pads_take(struct ks_txn *t, const struct id *pool, size_t total, struct km_pad *pads,
                                 uint32_t *count, uint64_t *left, struct secret *out);
/* At the other end: the bytes of these, one behind another; they must be total. Runs in a work. */
MUST_CHECK enum status pads_take_at(struct ks_txn *t, const struct id *pool, const struct km_pad *pads,
                                    uint32_t count, size_t total, struct secret *out);
/* What both ends of a hop compute: the tag over a relay message, under the 32 bytes at key. */
void relay_tag(const struct km_relay *m, const uint8_t *key, uint8_t tag[KM_TAG_LEN]);
/* Takes a relay's pads and opens its ciphertext: the first len bytes of text. Runs in a work. */
MUST_CHECK enum status relay_open(struct ks_txn *t, const struct id *link_pool, const struct km_relay *m,
                                  struct secret *text);
/* A copy of a relay message that lives by itself; free() frees all of it. */
struct km_relay *relay_copy(const struct km_relay *m);

/* ---- relay: km_transit.c (a range on its way over this node), km_relay.c (its ends) ------------------------ */

struct transit;

enum transit_origin {
	FROM_KSA_POOL, /* the source (case 2): the range stands in its KSA pool, or is drawn and put there as it leaves */
	FROM_LINK,     /* the second node in case 1: the range is keys shared with the first */
	FROM_RELAY,    /* a node on the way */
	FROM_SHARE     /* the source: a share of a range */
};

/* What is known of a transit when it begins; names and route are copied. */
struct transit_plan {
	enum transit_origin origin;
	struct id trace, relay, ksa_pool;
	const char *source, *destination, *relayer;
	uint64_t ksa_offset, expires;
	uint32_t len, relay_case;
	struct id group; /* shares > 1: this is a share */
	uint32_t share, shares;
	struct secret *text; /* FROM_SHARE: taken over */
	const struct fill_note *note; /* FROM_KSA_POOL: the range is to be drawn; NULL: it stands there */
	void (*taken)(void *arg, const struct fill_note *note, const uint8_t tag[KM_TAG_LEN]); /* and then is durable */
	struct km_route route; /* hops_left 0: whole, or empty where it has to be asked for; else the nodes visited */
	uint32_t hops_left;
	/* FROM_LINK, FROM_RELAY: where the range or its pad lies */
	const struct link *in;
	uint32_t pad_count;
	const struct km_pad *pads;
	const struct km_relay *message; /* FROM_RELAY */
	void (*drop)(void *arg); /* frees done's arg where the KM ends before; NULL: it is another's */
};

/* How it ended. */
struct transit_end {
	enum status status; /* ST_OK: the destination has it */
	bool certain;       /* nothing behind this node has it, nor will, unless a copy of the message is on its way */
	bool left;          /* a message with the range was sent */
	const char *text;
	struct km_hop failed; /* the hop that failed, as far as it is known; else empty names */
	bool remembered;      /* the last way it took was one that the controller gave before it was away */
};
typedef void (*transit_done)(void *arg, const struct transit_end *end);
struct transit *transit_new(struct km *km, const struct transit_plan *plan, transit_done done, void *arg);
/* Tells each what is on its way over this node. */
void transit_each(struct km *km, void (*each)(const struct km_mk_relay *r, void *arg), void *arg);
bool transit_is_remembered(const struct transit *t); /* the way it takes */
bool transit_is_asking(const struct transit *t);     /* the controller for one */
void transit_forget(struct transit *t); /* its done is not called any more */
void transits_free(struct km *km);      /* wipes those under way */

/* ---- ways: km_route.c, and in the store km_recall.c ---------------------------------------------------------- */

enum { FAILED_MOST = 8 };

struct known_way {
	struct known_way *prev, *next;
	uint64_t learned_at; /* UTC */
	uint32_t hops_left; /* 0: the route is whole; else it is a next hop, and so many were granted at the source */
	struct km_route *route;
};

struct known_destination {
	km_name name;
	uint64_t alternatives_at; /* when they were asked for; 0: never */
	struct known_way *ways;
	struct known_way *disjoint; /* whole routes, each given together with others that share no node with it */
	struct failed_hop {
		km_name from, to;
		uint64_t at; /* 0: none */
	} failed[FAILED_MOST]; /* lately, the oldest at failed_next */
	unsigned failed_next;
	unsigned steady;   /* so many answers of the controller, one behind another, were the way that was remembered */
	bool unsaved;      /* its ways are not those in the store */
	uint64_t saved_at; /* UTC */
	UT_hash_handle hh;
};

struct known_destination *known_destination(struct km *km, const char *destination); /* makes it where it is new */
void ways_load(struct km *km); /* what is in the store */
void ways_save(struct km *km); /* what is new, some in a call */

struct way {
	struct km_route route; /* hops_left 0: the whole, from this node to the destination; else the next hop alone */
	uint32_t hops_left;    /* that the next node is told */
	bool remembered;       /* the controller gave it before it was away */
};

struct way_query {
	struct id trace, relay;
	const char *source, *destination;
	struct km_route visited; /* from the source on; the last is this node */
	uint32_t hops_left;      /* as carried; 0 at the source */
	uint32_t excluded_count;
	const struct km_hop *excluded; /* that failed before */
	uint64_t len;
};

/* s: ST_OK: way will do, and is valid during the call; else text says why there is none. */
typedef void (*way_found)(void *arg, enum status s, const char *text, const struct way *way);
/* Asks the controller; or remembers, where it does not answer. found is called once, perhaps before way_find
 * returns; what the query points to must stand until then. */
void way_find(struct km *km, const struct way_query *q, way_found found, void *arg);
/* The way that the controller will most likely answer with; false: that cannot be said. Valid until the next call. */
bool way_foresee(struct km *km, const struct way_query *q, struct way *way);
/* That hop failed: other ways are remembered first. */
void way_failed(struct km *km, const char *destination, const struct km_hop *hop);

/* Node-disjoint routes, at most as many as wanted and KM_SHARES_MAX; else as way_find. */
typedef void (*ways_found)(void *arg, enum status s, const char *text, const struct km_route *routes, uint32_t count,
                           bool remembered);
void ways_find_disjoint(struct km *km, const struct way_query *q, uint32_t wanted, ways_found found, void *arg);
/* A copy that lives by itself; free() frees all of it. */
struct km_route *route_copy(const struct km_route *r);
bool route_equal(const struct km_route *a, const struct km_route *b);
void ways_forget(struct km *km);

/* ---- shares: km_share.c (doc/shares.md) ------------------------------------------------------------------------ */

void shares_send(struct fill *f);
void shares_abandon(struct fill *f);
bool shares_are_asking(const struct split *s); /* the controller for ways */

/* At the destination; they run in works. share_keep stores a share, or joins the range where it completes it. */
MUST_CHECK enum status share_keep(struct ks_txn *t, const struct km_relay *m, const struct secret *text, bool *joined);
/* Wipes what is staged of a range, and it will not be filled; of all below ready; of the pool: *bytes grows by how much. */
MUST_CHECK enum status shares_void(struct ks_txn *t, const struct id *ksa_pool, uint64_t offset, uint64_t len);
MUST_CHECK enum status shares_settle(struct ks_txn *t, const struct id *ksa_pool, uint64_t ready);
MUST_CHECK enum status shares_retire(struct ks_txn *t, const struct id *ksa_pool, uint64_t *bytes);
/* Wipes groups whose time is over, some in a call; *bytes grows by how much. */
MUST_CHECK enum status shares_expire(struct ks_txn *t, uint64_t utc_now, uint64_t *bytes);

/* ---- the controller: km_control.c ---------------------------------------------------------------------------- */

struct control {
	char *name; /* NULL: this KM has no controller */
	bool up, registering, registered, distributed;
	bool silent;      /* it has let a question time out, and has not answered since */
	bool remembering; /* the last relay took a remembered way */
	uint64_t register_at, report_interval, report_at;
};

void control_peer_up(struct km *km, bool up);
void control_tick(struct km *km);
void control_answered(struct km *km);
void control_report_links(struct km *km);

/* ---- KSA pools at their destination: km_pool.c (opening), km_verify.c and km_assign.c (Kx-2) ----------------- */

/* The KSA pool of a pair whose destination is this KM; found by ID or by source. */
struct ksa_inbound {
	struct id id;
	km_name source;
	uint64_t opening; /* under which its source may assign; 0: it has not opened the pool since the start */
	UT_hash_handle hh; /* by ID */
};
struct ksa_inbound *ksa_inbound_by_id(struct km *km, const struct id *id);
struct ksa_inbound *ksa_inbound_from(struct km *km, const char *source);
/* At the destination: what the source will not assign any more. Runs in a work. */
MUST_CHECK enum status ksa_pool_forget(struct ks_txn *t, const struct id *pool, uint64_t unused_below);
void ksa_inbound_add(struct km *km, const struct id *id, const char *source, uint64_t opening);

/* What the destination knows of a pool's use (km_assign.c). Runs in a work. */
struct ksa_use {
	uint64_t up_to; /* its source has had keys assigned below this */
	uint64_t base;  /* and had durably taken up to here before it took the last of them */
};
MUST_CHECK enum status ksa_use_get(struct ks_txn *t, const struct id *pool, struct ksa_use *use);

/* Poly1305 over the bytes of a range of a KSA pool, keyed by their last FILL_TAG_KEY; len is more than that. */
void ksa_bytes_tag(const struct id *pool, uint64_t offset, const uint8_t *bytes, size_t len, uint8_t tag[KM_TAG_LEN]);
/* The same of a range that stands there. Runs in a work. */
MUST_CHECK enum status ksa_range_tag(struct ks_txn *t, const struct id *pool, uint64_t offset, uint32_t len,
                                     uint8_t tag[KM_TAG_LEN]);
/* Makes a verified range usable: voids the tag's key, moves ready behind it unless it is. Runs in a work. */
MUST_CHECK enum status ksa_range_settle(struct ks_txn *t, const struct id *pool, uint64_t offset, uint32_t len);

/* Of a range that came by relay, until it is verified; pool, offset and length are what the source calls it by. */
struct arrived {
	struct id pool;
	uint64_t offset;
	uint32_t len; /* 0: none */
	uint8_t tag[KM_TAG_LEN];
};
/* In memory, durable there: its verification is answered from here. The oldest is forgotten where they are many. */
void arrived_remember(struct km *km, const struct id *pool, uint64_t offset, uint32_t len,
                      const uint8_t tag[KM_TAG_LEN]);
void arrived_forget(struct km *km, const struct id *pool, uint64_t offset); /* it is void */
/* In works: its note, put with its bytes, gone when it is void; and those of a pool that end at or before below: they
 * are made ready, or only forgotten. */
MUST_CHECK enum status arrived_put(struct ks_txn *t, const struct id *pool, uint64_t offset, uint32_t len);
MUST_CHECK enum status arrived_void(struct ks_txn *t, const struct id *pool, uint64_t offset, uint64_t len);
MUST_CHECK enum status arrived_end(struct ks_txn *t, const struct id *pool, uint64_t below, bool settle);
void make_verified_ready(struct km *km); /* submits the works for what was verified and is not ready yet */
void verified_free(struct km *km);

/* ---- the whole ---------------------------------------------------------------------------------------- */

struct application {
	km_name name, km;
	struct ksa_pool *pool; /* to its key manager; NULL: not known yet */
	unsigned waiting;
	UT_hash_handle hh; /* by name */
};

struct km {
	km_name name;
	struct env *env;
	struct ks *ks;
	const struct km_wire *wire;
	void *wire_ctx;
	struct km_limits limits;
	struct km_counters counters;
	bool loaded, stopping;
	void (*ready)(void *arg);
	void *ready_arg;
	struct link *links;
	struct application *applications;
	struct ksa_pool *pools;
	struct ksa_inbound *inbound;
	struct fetch *fetches, **fetches_last; /* key requests with ID of this turn of the loop */
	bool fetch_posted;
	struct control control;
	struct known_destination *known; /* ways to them */
	bool saving_ways;
	struct transit *transits;
	struct km_peer_options *peers; /* those with a policy of their own */
	size_t peer_count;
	bool has_shares; /* shares have been staged here: there are pools for them */
	struct arrived arrived[ARRIVED_MOST]; /* in the order in which they came; the next one's place */
	unsigned arrived_next;
	struct verification *verified; /* and not ready yet */
	struct env_timer *verified_timer;
	struct env_timer *tick;
	unsigned ticks;
	bool expiring, rotating;
	uint64_t rotate_at; /* monotonic; 0: not set yet */
};

struct application *application_by_name(struct km *km, const char *name);
void km_send(struct km *km, enum km_message m, const char *to, const void *message, km_answered answered,
             void *arg);
void km_trace_new(struct km *km, struct id *trace);

void fetch_stop(struct km *km); /* refuses what is not begun yet */

/* The two applications of a message on Ak, by from; true if it may speak for the source, else it is refused. */
bool find_pair(struct km *km, const char *from, const char *source, const char *destination, struct application **a,
               struct application **b, km_reply reply, void *arg);

/* Answers with a status and a text, or with success. */
void km_refuse(km_reply reply, void *arg, enum status s, const char *fmt, ...) PRINTF_LIKE(4, 5);
void km_done(km_reply reply, void *arg);

/* The handlers of received messages, one per row of km.c's table. */
typedef void km_handler(struct km *km, const char *from, const void *message, km_reply reply, void *arg);
km_handler handle_key_request, handle_key_request_with_id, handle_status;
km_handler handle_key_supply, handle_key_sync, handle_register, handle_alarm;
km_handler handle_link_open, handle_link_sync, handle_allocate, handle_relay, handle_completion;
km_handler handle_pool_open, handle_verify, handle_assign, handle_void;
km_handler handle_mk_status, handle_mk_pools, handle_mk_modules, handle_mk_relays, handle_mk_change_master_key;
km_handler handle_ck_reservation, handle_ck_relay, handle_ck_allocation, handle_ck_void;

#endif
