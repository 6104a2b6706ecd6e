/*
 * keyring.h - the file directory/keys: the data keys, wrapped by the master key, outside the database,
 * which copies on write and would keep a destroyed key in its free pages.
 */
#ifndef QKDN_KEYRING_H
#define QKDN_KEYRING_H

#include "id.h"
#include "seal.h"

/* Format 2 is that of a store with a journal, which a program that knows 1 alone would leave unread. */
enum { KEYRING_MAX = 4, KEYRING_FORMAT = 2, KEYRING_FORMAT_LEAST = 1 };

struct keyring {
	unsigned format;  /* of the file that it was read from */
	struct id store; /* drawn when the store was made */
	unsigned count;
	uint32_t numbers[KEYRING_MAX]; /* rising; the last one seals */
	struct secret keys[KEYRING_MAX];
};

/* A fresh store's: a new identity, one data key. */
void keyring_new(struct keyring *r);
void keyring_free(struct keyring *r); /* wipes */
void keyring_add(struct keyring *r);
void keyring_drop_oldest(struct keyring *r);

/* ST_CONFIGURATION for another master key, ST_STORAGE for a damaged file or another version. */
MUST_CHECK enum status keyring_read(struct keyring *r, const char *path, const struct secret *master,
				    struct err *e);

/* Replaces the file, durably, and overwrites what the old one held: a key that was dropped is gone then. */
MUST_CHECK enum status keyring_write(const struct keyring *r, const char *path, const struct secret *master,
				     struct err *e);

#endif
