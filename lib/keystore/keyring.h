/*
 * keyring.h - the file directory/keys: the data keys, wrapped by the master key, outside the database,
 * which copies on write and would keep a destroyed key in its free pages.
 */
#ifndef QKDN_KEYRING_H
#define QKDN_KEYRING_H

#include "id.h"
#include "seal.h"

enum { KEYRING_MAX = 4 };

struct keyring {
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
