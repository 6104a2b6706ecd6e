/*
 * lsdb.h - the link-state database of controllers that share the control of a network.
 *
 * One record per KM: the links that lead away from it, made by that KM's controller with a sequence
 * number that grows by each change. Every controller keeps the newest record of each that it has seen
 * and hands it on; all of them come to hold the same. What is decided about a received record is a
 * pure function of it and the database.
 *
 * Ages are nanoseconds since a record was made: they are told with it, and grow while it is kept.
 * Its maker refreshes a record long before LS_MAX_AGE; one that reaches it has no maker any more.
 */
#ifndef QKDN_LSDB_H
#define QKDN_LSDB_H

#include "route.h"

enum { LS_LINKS_MAX = 512 };
#define LS_SEQUENCE_END (UINT64_C(1) << 63) /* sequence numbers are from 1 to below it */

struct ls_record {
	char km[NAME_MAX_LEN + 1];
	char controller[NAME_MAX_LEN + 1]; /* that made it */
	uint64_t sequence;
	uint64_t age;
	size_t count;
	struct route_link *links;
};

/* What names one edition of a record. */
struct ls_edition {
	char km[NAME_MAX_LEN + 1];
	uint64_t sequence;
	uint64_t digest; /* over maker and links */
};

struct lsdb;

struct lsdb *lsdb_new(uint64_t max_age);
void lsdb_free(struct lsdb *db); /* NULL is allowed */

uint64_t ls_digest(const struct ls_record *r);

enum ls_decision {
	LS_STORE,        /* newer than what is here: store it and hand it on */
	LS_IGNORE,       /* the same as here, too old, or malformed */
	LS_RETURN_NEWER, /* what is here is newer: give that to the sender */
};

/*
 * The higher sequence number is newer. Where two records have the same number and differ (a maker
 * that restarted and has not yet heard of its own past), the one of the higher digest counts as
 * newer everywhere, and its maker then goes above both.
 */
enum ls_decision lsdb_decide(const struct lsdb *db, const struct ls_record *r, uint64_t now);

/* The same for an edition alone: whether its owner should be asked for it. */
MUST_CHECK bool lsdb_wants(const struct lsdb *db, const struct ls_edition *e);

/* Copies r in place of what was there. now is monotonic, as everywhere here. */
void lsdb_store(struct lsdb *db, const struct ls_record *r, uint64_t now);

/* A view of the record with its age as it is now, valid until the database changes. */
MUST_CHECK bool lsdb_get(const struct lsdb *db, const char *km, uint64_t now, struct ls_record *r);
size_t lsdb_count(const struct lsdb *db);

/* Every edition, in no particular order; each must not change the database. */
void lsdb_each(const struct lsdb *db, void (*each)(const struct ls_edition *e, void *arg), void *arg);

/* Removes one record that has reached the maximal age, and tells whose; false where there is none. */
MUST_CHECK bool lsdb_expire(struct lsdb *db, uint64_t now, char km[NAME_MAX_LEN + 1]);

#endif
