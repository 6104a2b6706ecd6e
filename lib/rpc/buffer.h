/*
 * buffer.h - bytes on their way in or out, and the XDR stream that writes into them.
 *
 * Keys pass through here on their way between the wire and struct secret, so whatever is
 * consumed, cut off or left behind by growing is wiped.
 */
#ifndef QKDN_RPC_BUFFER_H
#define QKDN_RPC_BUFFER_H

#include <rpc/rpc.h>
#include <string.h>

#include "base.h"

struct buffer { /* zero-initialise */
	uint8_t *bytes;
	size_t start, end; /* what is in it: bytes[start] up to bytes[end] */
	size_t room;
};

static inline size_t buffer_len(const struct buffer *b) { return b->end - b->start; }
static inline uint8_t *buffer_at(const struct buffer *b, size_t offset)
{
	return b->bytes + b->start + offset;
}

/* Makes room for n bytes behind the last one and returns where they go; the caller moves end. Earlier
 * pointers into the buffer are void. */
uint8_t *buffer_make_room(struct buffer *b, size_t n);
static inline uint8_t *buffer_reserve(struct buffer *b, size_t n)
{
	return b->room - b->end >= n && b->bytes != NULL ? b->bytes + b->end : buffer_make_room(b, n);
}
void buffer_append(struct buffer *b, const void *bytes, size_t n);
void buffer_consume(struct buffer *b, size_t n);    /* wipes the first n bytes */
void buffer_truncate(struct buffer *b, size_t len); /* wipes what is behind the first len bytes */
void buffer_free(struct buffer *b);

static inline void put32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof v);
}
static inline uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof v);
	return __builtin_bswap32(v);
}

/* An encoding stream that appends to a buffer until it holds max bytes. The pointers that
 * x_inline gives are good until the next call on the stream. */
struct buffer_xdr {
	XDR xdr;
	struct buffer *buffer;
	size_t max;
};
void buffer_xdr_init(struct buffer_xdr *x, struct buffer *b, size_t max);

#endif
