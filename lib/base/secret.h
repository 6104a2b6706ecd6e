/*
 * secret.h - the one type that holds key bytes.
 *
 * The bytes live in locked memory that is left out of core dumps: small ones in OpenSSL's secure
 * heap, large ones in a mapping of their own. They are wiped when freed, compared in constant time
 * and have no printable form. Nothing here frees without wiping.
 */
#ifndef QKDN_SECRET_H
#define QKDN_SECRET_H

#include "base.h"
#include "status.h"

/* Once, at the start of main, before any thread: sets up a secure heap of heap_bytes (a power
 * of two) and makes the process undumpable. Fails where the memory cannot be locked
 * (RLIMIT_MEMLOCK); the text says how to raise it. */
MUST_CHECK enum status secret_init(size_t heap_bytes, struct err *e);

struct secret {
	uint8_t *bytes; /* NULL where len is 0 */
	size_t len;
};

/* Allocates len zero bytes. Aborts when memory is out. secret_free wipes, frees and
 * leaves an empty secret; freeing an empty one does nothing. */
void secret_alloc(struct secret *s, size_t len);
void secret_free(struct secret *s);

void secret_copy(struct secret *to, const void *bytes, size_t len); /* to was empty */
void secret_move(struct secret *to, struct secret *from);           /* to was empty; from becomes so */
bool secret_equal(const struct secret *a, const struct secret *b);

/* For memory that is not a struct secret: key bytes in a buffer of the transport. */
void secret_wipe(void *p, size_t len);
bool secret_bytes_equal(const void *a, const void *b, size_t len);

/* Overwrites the stack below the caller, where generated stubs left their arguments. */
void secret_burn_stack(void);

/* What the cryptographic library allocates in this thread between the two lies in the secure heap as well, where
 * there is one: contexts that hold an expanded key. */
void secret_contexts_begin(void);
void secret_contexts_end(void);

/* Random bytes of the approved source (OpenSSL's private DRBG). Aborts when it fails. */
void secret_random(void *p, size_t len);

#endif
