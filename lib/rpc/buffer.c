/* buffer.c - byte buffers that wipe, and the XDR stream that encodes into them. */
#include "buffer.h"

#include <stdlib.h>

#include "secret.h"

enum { SMALLEST_BUFFER = 4096, LARGEST_IDLE_BUFFER = 64 * 1024 };

static void buffer_grow(struct buffer *b, size_t n)
{
	size_t len = buffer_len(b), room = b->room ? b->room : SMALLEST_BUFFER;
	uint8_t *bytes;

	while (room - len < n)
		room *= 2;
	bytes = xrealloc(NULL, room); /* not zeroed: only what was written is read or sent */
	if (len > 0)
		memcpy(bytes, buffer_at(b, 0), len);
	buffer_free(b);
	*b = (struct buffer){ .bytes = bytes, .end = len, .room = room };
}

static void buffer_move_to_front(struct buffer *b)
{
	size_t len = buffer_len(b), old_end = b->end;

	memmove(b->bytes, b->bytes + b->start, len);
	b->start = 0;
	b->end = len;
	secret_wipe(b->bytes + len, old_end - len);
}

uint8_t *buffer_make_room(struct buffer *b, size_t n)
{
	/* moving is worth it where it frees at least as much as it moves */
	if (b->bytes != NULL && b->room - buffer_len(b) >= n && b->start >= buffer_len(b))
		buffer_move_to_front(b);
	else
		buffer_grow(b, n);
	return b->bytes + b->end;
}

void buffer_append(struct buffer *b, const void *bytes, size_t n)
{
	memcpy(buffer_reserve(b, n), bytes, n);
	b->end += n;
}

void buffer_consume(struct buffer *b, size_t n)
{
	if (n > 0)
		secret_wipe(b->bytes + b->start, n);
	b->start += n;
	if (b->start < b->end)
		return;
	b->start = b->end = 0;
	if (b->room > LARGEST_IDLE_BUFFER) /* empty: nothing is left to wipe */
		buffer_free(b);
}

void buffer_truncate(struct buffer *b, size_t len)
{
	size_t cut = buffer_len(b) - len;

	b->end -= cut;
	if (cut > 0)
		secret_wipe(b->bytes + b->end, cut);
}

void buffer_free(struct buffer *b)
{
	if (b->bytes != NULL && b->end > b->start)
		secret_wipe(buffer_at(b, 0), buffer_len(b));
	free(b->bytes);
	*b = (struct buffer){ .bytes = NULL };
}

/* ---- the stream -------------------------------------------------------------------------------- */

static struct buffer_xdr *stream(XDR *xdr)
{
	return container_of(xdr, struct buffer_xdr, xdr);
}

static uint8_t *stream_take(XDR *xdr, size_t n)
{
	struct buffer_xdr *x = stream(xdr);
	uint8_t *p;

	if (buffer_len(x->buffer) + n > x->max)
		return NULL;
	p = buffer_reserve(x->buffer, n);
	x->buffer->end += n;
	return p;
}

static bool_t stream_putlong(XDR *xdr, const long *value)
{
	uint8_t *p = stream_take(xdr, 4);

	if (p == NULL)
		return FALSE;
	put32(p, (uint32_t)*value);
	return TRUE;
}

static bool_t stream_putbytes(XDR *xdr, const char *bytes, u_int n)
{
	uint8_t *p = stream_take(xdr, n);

	if (p == NULL)
		return FALSE;
	if (n > 0)
		memcpy(p, bytes, n);
	return TRUE;
}

static int32_t *stream_inline(XDR *xdr, u_int n)
{
	struct buffer_xdr *x = stream(xdr);

	if ((x->buffer->end & 3) != 0)
		return NULL;
	return (int32_t *)(void *)stream_take(xdr, n);
}

static bool_t stream_getlong(XDR *xdr, long *value)
{
	(void)xdr;
	(void)value;
	return FALSE;
}

static bool_t stream_getbytes(XDR *xdr, char *bytes, u_int n)
{
	(void)xdr;
	(void)bytes;
	(void)n;
	return FALSE;
}

static u_int stream_position(XDR *xdr)
{
	return (u_int)buffer_len(stream(xdr)->buffer);
}

static bool_t stream_set_position(XDR *xdr, u_int position)
{
	(void)xdr;
	(void)position;
	return FALSE;
}

static void stream_destroy(XDR *xdr)
{
	(void)xdr;
}

static const struct xdr_ops stream_ops = {
	stream_getlong,      stream_putlong, stream_getbytes, stream_putbytes, stream_position,
	stream_set_position, stream_inline,  stream_destroy,  NULL,
};

void buffer_xdr_init(struct buffer_xdr *x, struct buffer *b, size_t max)
{
	*x = (struct buffer_xdr){ .xdr = { .x_op = XDR_ENCODE, .x_ops = &stream_ops },
		                  .buffer = b,
		                  .max = max };
}
