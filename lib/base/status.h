/*
 * status.h - the one idiom for errors.
 *
 * A function that can fail returns an enum status and, where a person will read
 * about it, fills a struct err with what was being done, to what, why it failed
 * and what to do about it. The same numbers go over the wire (idl/common.x), so
 * that an application is told what the key manager knew.
 */
#ifndef QKDN_STATUS_H
#define QKDN_STATUS_H

#include "base.h"

/* ST_LIST(X): X(name, wire number, token). The token is what tools and logs print. */
#define ST_LIST(X)                                                                       \
	X(OK, 0, "ok")                                                                   \
	X(BAD_REQUEST, 1, "bad-request")           /* out of bounds or malformed */      \
	X(DENIED, 2, "denied")                     /* identity may not do this */        \
	X(UNKNOWN_APPLICATION, 3, "unknown-application")                                 \
	X(UNKNOWN_KEY_ID, 4, "unknown-key-id")     /* no such key here */                \
	X(KEY_GONE, 5, "key-gone")                 /* delivered, expired or voided */    \
	X(TOO_FEW_KEYS, 6, "too-few-keys")         /* try later; nothing was consumed */ \
	X(NO_ROUTE, 7, "no-route")                 /* no path to the far node */         \
	X(LINK_DOWN, 8, "link-down")                                                     \
	X(PEER_UNREACHABLE, 9, "peer-unreachable") /* the other daemon did not answer */ \
	X(TIMED_OUT, 10, "timed-out")                                                    \
	X(MISMATCH, 11, "mismatch")                /* the two ends do not agree */       \
	X(FORGED, 12, "forged")                    /* an authentication tag failed */    \
	X(REPLAYED, 13, "replayed")                /* a range or sequence seen before */ \
	X(CONFLICT, 14, "conflict")                /* contradicts what is recorded */    \
	X(BUSY, 15, "busy")                        /* a quota or a bound is reached */   \
	X(STORAGE, 16, "storage")                  /* the key store could not do it */   \
	X(UNKNOWN_SESSION, 17, "unknown-session")                                        \
	X(REJECTED, 18, "rejected")                /* the far application said no */     \
	X(NOT_FOUND, 19, "not-found")              /* any other named thing */           \
	X(UNSUPPORTED, 20, "unsupported")                                                \
	X(TRANSPORT, 21, "transport")              /* connection, TLS or RPC failed */   \
	X(CONFIGURATION, 22, "configuration")                                            \
	X(INTERNAL, 23, "internal")                /* our own bug */

enum status {
#define ST_ENUM(name, number, token) ST_##name = (number),
	ST_LIST(ST_ENUM)
#undef ST_ENUM
};

/* Token of a status ("too-few-keys"); "unknown-status" for a number not listed. Static. */
const char *status_name(enum status s);

/* Exit status of the command-line tools: 0 done, 1 usage or local, 2 refused by
 * the peer or transport, 3 not found or too few keys, 4 time-out. */
int status_exit_code(enum status s);

struct err {
	enum status status;
	char text[512]; /* "" where status is ST_OK */
};

/* Fills *e (which may be NULL) and returns s, so that a failing function can end with
 * `return err_set(e, ST_…, "…")`. The text must never hold a key byte. */
enum status err_set(struct err *e, enum status s, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "context: " before the text of *e, keeps its status and returns it. */
enum status err_prefix(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
