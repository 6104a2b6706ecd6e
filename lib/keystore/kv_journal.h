/*
 * kv_journal.h - a file of numbered records, each durable with one write. What is in them is the affair of
 * who writes them.
 */
#ifndef QKDN_KV_JOURNAL_H
#define QKDN_KV_JOURNAL_H

#include "id.h"
#include "status.h"

struct journal;

/* A new file of about so many bytes, empty and durable. id: drawn at random, to tell it from all others. */
MUST_CHECK enum status journal_create(const char *path, const struct id *id, size_t bytes, struct err *e);

/* ST_STORAGE, with a text that says what is wrong, where it is missing, cut short or another's. */
MUST_CHECK enum status journal_open(struct journal **j, const char *path, const struct id *id, struct err *e);
void journal_close(struct journal *j); /* NULL: nothing */

/* Whether the file holds a record, of whatever journal. */
bool journal_was_written(const char *path);

typedef enum status (*journal_apply)(void *arg, const uint8_t *bytes, size_t len);

/*
 * Hands the records numbered from + 1 and so on to apply, in their order; *last is the number of the last
 * one, or from. A record that was not written whole was never acknowledged, and ends them. ST_STORAGE
 * where one that may have been is missing or damaged, or apply's status. most: what is behind that number
 * is left alone.
 */
MUST_CHECK enum status journal_replay(struct journal *j, uint64_t from, uint64_t most, uint64_t *last,
				      journal_apply apply, void *arg, struct err *e);

bool journal_has_room(const struct journal *j, size_t len);

/* The record of that number, one more than the last one's. Durable where true; else errno says why, and whether
 * it is there is not known: nothing may be added then before journal_restart. */
MUST_CHECK bool journal_add(struct journal *j, uint64_t number, const uint8_t *bytes, size_t len);

/* The records are needed no longer: the next one is written over the first. */
void journal_restart(struct journal *j);

#endif
