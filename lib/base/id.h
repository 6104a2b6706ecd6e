/* id.h - 16-byte identifiers (keys, pools, sessions, relays, links, traces), written as UUIDs. */
#ifndef QKDN_ID_H
#define QKDN_ID_H

#include "base.h"

enum { ID_LEN = 16, ID_TEXT_LEN = 37, NAME_MAX_LEN = 64 };

struct id {
	uint8_t bytes[ID_LEN];
};

void id_format(const struct id *id, char text[ID_TEXT_LEN]);
MUST_CHECK bool id_parse(struct id *id, const char *text); /* either case; exactly 36 characters */
bool id_equal(const struct id *a, const struct id *b);
bool id_is_zero(const struct id *id);

/* An ID that both ends of something compute alike: the head of SHA-256 over label, from and n. */
void id_derive(struct id *id, const char *label, const struct id *from, unsigned n);

/* A name of a KM, module, link, application …: 1 to 64 of [A-Za-z0-9._-], not starting with a dot
 * or dash, so that it can stand in a URI, a file name and a command line. */
bool name_is_valid(const char *name);

#endif
