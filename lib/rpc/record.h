/*
 * record.h - record marking (RFC 5531, section 11): records of fragments in a byte stream.
 *
 * The reader puts a record's fragments together where they lie. What a peer sends is bounded in
 * bytes and in fragments; an empty fragment that is not the last, and an empty record, are refused.
 */
#ifndef QKDN_RPC_RECORD_H
#define QKDN_RPC_RECORD_H

#include "buffer.h"

enum { RECORD_MARK_LEN = 4, RECORD_FRAGMENTS_MAX = 256 };

struct record_reader { /* zero-initialise but for max */
	size_t max;     /* bytes of a record */
	size_t payload; /* bytes of the record put together so far */
	size_t raw;     /* offset of the next fragment's mark */
	unsigned fragments;
	bool whole; /* the last fragment was read */
};

enum record_result { RECORD_WHOLE, RECORD_MORE, RECORD_TOO_LONG, RECORD_TOO_MANY_FRAGMENTS, RECORD_EMPTY };

/* RECORD_WHOLE: *record of *len bytes lies in the buffer, and is given again until record_next.
 * RECORD_MORE: not whole yet. Everything else is the peer's fault and ends the connection; record_fault
 * says it in words. */
enum record_result record_read(struct record_reader *r, struct buffer *in, uint8_t **record, size_t *len);
void record_next(struct record_reader *r, struct buffer *in); /* wipes the record that was read */
const char *record_fault(enum record_result result);

/* Writes one record of one fragment: whatever is appended between begin and end. */
size_t record_begin(struct buffer *out);
void record_end(struct buffer *out, size_t begun);
void record_cancel(struct buffer *out, size_t begun);

#endif
