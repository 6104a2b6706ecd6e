/* record.c - record marking. */
#include "record.h"

#define LAST_FRAGMENT UINT32_C(0x80000000)

static enum record_result check_fragment(const struct record_reader *r, size_t len, bool last)
{
	if (len > r->max - r->payload)
		return RECORD_TOO_LONG;
	if (len == 0 && (!last || r->payload == 0))
		return RECORD_EMPTY;
	if (r->fragments >= RECORD_FRAGMENTS_MAX)
		return RECORD_TOO_MANY_FRAGMENTS;
	return RECORD_WHOLE;
}

enum record_result record_read(struct record_reader *r, struct buffer *in, uint8_t **record, size_t *len)
{
	while (!r->whole) {
		enum record_result fault;
		uint32_t mark, fragment;

		if (buffer_len(in) < r->raw + RECORD_MARK_LEN)
			return RECORD_MORE;
		mark = get32(buffer_at(in, r->raw));
		fragment = mark & ~LAST_FRAGMENT;
		fault = check_fragment(r, fragment, (mark & LAST_FRAGMENT) != 0);
		if (fault != RECORD_WHOLE)
			return fault;
		if (buffer_len(in) < r->raw + RECORD_MARK_LEN + fragment)
			return RECORD_MORE;
		if (r->fragments++ > 0)
			memmove(buffer_at(in, RECORD_MARK_LEN + r->payload),
			        buffer_at(in, r->raw + RECORD_MARK_LEN), fragment);
		r->payload += fragment;
		r->raw += RECORD_MARK_LEN + fragment;
		r->whole = (mark & LAST_FRAGMENT) != 0;
	}
	*record = buffer_at(in, RECORD_MARK_LEN);
	*len = r->payload;
	return RECORD_WHOLE;
}

void record_next(struct record_reader *r, struct buffer *in)
{
	buffer_consume(in, r->raw);
	r->raw = r->payload = 0;
	r->fragments = 0;
	r->whole = false;
}

const char *record_fault(enum record_result result)
{
	static const char *const words[] = {
		[RECORD_WHOLE] = "none",
		[RECORD_MORE] = "unfinished record",
		[RECORD_TOO_LONG] = "record longer than allowed",
		[RECORD_TOO_MANY_FRAGMENTS] = "record of too many fragments",
		[RECORD_EMPTY] = "empty fragment",
	};

	return words[result];
}

size_t record_begin(struct buffer *out)
{
	size_t begun = buffer_len(out);

	buffer_reserve(out, RECORD_MARK_LEN);
	out->end += RECORD_MARK_LEN;
	return begun;
}

void record_end(struct buffer *out, size_t begun)
{
	size_t len = buffer_len(out) - begun - RECORD_MARK_LEN;

	put32(buffer_at(out, begun), (uint32_t)len | LAST_FRAGMENT);
}

void record_cancel(struct buffer *out, size_t begun)
{
	buffer_truncate(out, begun);
}
