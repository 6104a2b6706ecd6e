/*
 * output.h - what qkdn-keyreq prints: keys and status as text and as JSON.
 *
 * Key bytes are printed only where reveal says so. They pass through standard output's buffer and
 * JSON strings, both of which are wiped.
 */
#ifndef QKDN_KEYREQ_OUTPUT_H
#define QKDN_KEYREQ_OUTPUT_H

#include "base.h"
#include "qkdn.h"

/* Once, before anything is printed: standard output gets a buffer that output_finish can wipe, and
 * jansson memory that is wiped when it is freed. */
void output_open(void);

/* Flushes and wipes; false with errno set where something could not be written. */
MUST_CHECK bool output_finish(void);

struct output_style {
	bool json, reveal;
	const char *folder; /* of --out; NULL: none */
};

/* With json and reveal exactly the key container of ETSI GS QKD 014; with json alone the IDs. */
void output_keys(const struct qkdn_keys *keys, const struct output_style *style);

/* With json the status of ETSI GS QKD 014. */
void output_status(const struct qkdn_supply *supply, const char *application, const char *destination,
                   bool json);

#endif
