/* stream.c - ranges of bytes across chunks. */
#include "stream.h"

#include <string.h>

#include "pick.h"

/* The part of [lo, hi) that lies in one chunk. */
struct part {
	uint64_t index;
	unsigned from, to;
	uint64_t at; /* of its first byte in the pool */
};

static struct part part_at(uint64_t lo, uint64_t hi)
{
	struct part x = {.index = lo / CHUNK_BYTES, .from = (unsigned)(lo % CHUNK_BYTES), .at = lo};
	uint64_t left = hi - lo;

	x.to = left < CHUNK_BYTES - x.from ? x.from + (unsigned)left : CHUNK_BYTES;
	return x;
}

/* The next part at or after *lo that may hold something; *lo moves behind it. ST_NOT_FOUND at the end. */
static enum status part_next(struct ks_txn *t, struct pool *p, uint64_t *lo, uint64_t hi, struct part *x)
{
	uint64_t index = *lo / CHUNK_BYTES;
	enum status s;

	if (*lo >= hi)
		return ST_NOT_FOUND;
	s = chunk_next(t, p, &index, (hi - 1) / CHUNK_BYTES);
	if (s != ST_OK)
		return s;
	if (index * CHUNK_BYTES > *lo)
		*lo = index * CHUNK_BYTES;
	*x = part_at(*lo, hi);
	*lo += x->to - x->from;
	return ST_OK;
}

/* A whole chunk that is not open, with all its bytes there: a range of many goes by without opening any twice. */
static bool full_at_rest(struct ks_txn *t, struct pool *p, const struct part *x, struct kv_slice *sealed)
{
	return x->to - x->from == CHUNK_BYTES && chunk_full_at_rest(t, p, x->index, sealed);
}

static enum status at_end(enum status s)
{
	return s == ST_NOT_FOUND ? ST_OK : s;
}

enum status stream_count(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi, uint64_t *n)
{
	struct part x;
	struct chunk *c;
	uint64_t present;
	enum status s;

	*n = 0;
	while ((s = part_next(t, p, &lo, hi, &x)) == ST_OK) {
		if (x.to - x.from == CHUNK_BYTES) {
			s = chunk_count(t, p, x.index, &present);
		} else {
			s = chunk_get(t, p, x.index, CHUNK_ONCE, &c);
			present = s == ST_OK ? bits_count(c->present, x.from, x.to) : 0;
		}
		if (s != ST_OK)
			return s;
		*n += present;
	}
	return at_end(s);
}

enum status stream_whole(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi)
{
	for (struct part x; lo < hi; lo += x.to - x.from) {
		struct kv_slice sealed;
		struct chunk *c;
		enum status s;

		x = part_at(lo, hi);
		if (full_at_rest(t, p, &x, &sealed))
			continue;
		s = chunk_get(t, p, x.index, CHUNK_KEEP, &c);
		if (s != ST_OK)
			return s;
		if (bits_next_clear(c->present, x.from, x.to) < x.to)
			return ST_KEY_GONE;
	}
	return ST_OK;
}

enum status stream_copy(struct ks_txn *t, struct pool *p, uint64_t offset, size_t len, uint8_t *to,
			enum chunk_use use)
{
	uint64_t hi = offset + len;

	for (struct part x; offset < hi; offset += x.to - x.from) {
		struct kv_slice sealed;
		struct chunk *c;
		enum status s;

		x = part_at(offset, hi);
		if (full_at_rest(t, p, &x, &sealed)) {
			s = chunk_open_full(t, p, x.index, sealed, to);
		} else if (use == CHUNK_ONCE && chunk_cached(t->ks, p->number, x.index) == NULL) {
			s = pick(t, p, x.index, x.from, x.to, to);
		} else {
			s = chunk_get(t, p, x.index, CHUNK_KEEP, &c);
			if (s == ST_OK && bits_next_clear(c->present, x.from, x.to) < x.to)
				s = ST_KEY_GONE;
			if (s == ST_OK)
				memcpy(to, c->bytes.bytes + x.from, x.to - x.from);
		}
		if (s != ST_OK)
			return s;
		to += x.to - x.from;
	}
	return ST_OK;
}

enum status stream_cut(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t hi, uint64_t *n)
{
	struct part x;
	struct chunk *c;
	enum status s;

	while ((s = part_next(t, p, &lo, hi, &x)) == ST_OK) {
		struct kv_slice sealed;
		unsigned present;

		if (full_at_rest(t, p, &x, &sealed)) {
			s = chunk_delete_full(t, p, x.index, sealed);
			if (s != ST_OK)
				return s;
			if (n != NULL)
				*n += CHUNK_BYTES;
			continue;
		}
		s = chunk_get(t, p, x.index, CHUNK_ONCE, &c);
		if (s != ST_OK)
			return s;
		present = bits_count(c->present, x.from, x.to);
		if (present == 0)
			continue;
		chunk_touch(t, c);
		bits_clear(c->present, x.from, x.to);
		if (n != NULL)
			*n += present;
	}
	return at_end(s);
}

/* How far the run that is present at lo goes, below limit. */
static enum status run_end(struct ks_txn *t, struct pool *p, uint64_t lo, uint64_t limit, uint64_t *hi)
{
	for (*hi = lo; *hi < limit;) {
		struct part x = part_at(*hi, limit);
		struct kv_slice sealed;
		struct chunk *c;
		enum status s;
		unsigned end;

		if (full_at_rest(t, p, &x, &sealed)) {
			*hi += CHUNK_BYTES;
			continue;
		}
		s = chunk_get(t, p, x.index, CHUNK_KEEP, &c);
		if (s != ST_OK)
			return s;
		end = bits_next_clear(c->present, x.from, x.to);
		*hi += end - x.from;
		if (end < x.to)
			return ST_OK;
	}
	return ST_OK;
}

enum status stream_run(struct ks_txn *t, struct pool *p, uint64_t from, uint64_t limit, uint64_t most,
		       uint64_t *lo, uint64_t *hi)
{
	struct part x;
	struct chunk *c;
	enum status s;

	while ((s = part_next(t, p, &from, limit, &x)) == ST_OK) {
		unsigned first = x.from;
		struct kv_slice sealed;

		if (!full_at_rest(t, p, &x, &sealed)) {
			s = chunk_get(t, p, x.index, CHUNK_KEEP, &c);
			if (s != ST_OK)
				return s;
			first = bits_next_set(c->present, x.from, x.to);
		}
		if (first == x.to)
			continue;
		*lo = x.at + (first - x.from);
		return run_end(t, p, *lo, limit - *lo < most ? limit : *lo + most, hi);
	}
	return s;
}

static enum status put_part(struct ks_txn *t, struct pool *p, struct part x, const uint8_t *bytes,
			    uint64_t *fresh)
{
	struct chunk *c = chunk_cached(t->ks, p->number, x.index);
	enum status s;

	if (x.to - x.from == CHUNK_BYTES && x.at >= p->now.pub.tail &&
	    (c == NULL || (!c->dirty && !c->stored))) {
		*fresh += CHUNK_BYTES;
		return chunk_store_whole(t, p, x.index, bytes);
	}
	s = chunk_get(t, p, x.index, CHUNK_KEEP, &c);
	if (s != ST_OK)
		return s;
	chunk_touch(t, c);
	*fresh += x.to - x.from - bits_count(c->present, x.from, x.to);
	memcpy(c->bytes.bytes + x.from, bytes, x.to - x.from);
	bits_set(c->present, x.from, x.to);
	return ST_OK;
}

enum status stream_put(struct ks_txn *t, struct pool *p, uint64_t offset, const uint8_t *bytes, size_t len,
		       uint64_t *fresh)
{
	uint64_t hi = offset + len;

	*fresh = 0;
	for (struct part x; offset < hi; offset += x.to - x.from) {
		enum status s;

		x = part_at(offset, hi);
		s = put_part(t, p, x, bytes, fresh);
		if (s != ST_OK)
			return s;
		bytes += x.to - x.from;
	}
	return ST_OK;
}

static enum status compare_part(struct ks_txn *t, struct pool *p, struct part x, const uint8_t *bytes,
				uint64_t gone_below)
{
	struct chunk *c;
	enum status s = chunk_get(t, p, x.index, CHUNK_KEEP, &c);
	unsigned lo = x.from, hi;

	if (s != ST_OK)
		return s;
	for (; lo < x.to; lo = hi) {
		unsigned there = bits_next_set(c->present, lo, x.to);

		if (there > lo && x.at + (lo - x.from) < gone_below)
			return ST_KEY_GONE;
		hi = bits_next_clear(c->present, there, x.to);
		if (!secret_bytes_equal(c->bytes.bytes + there, bytes + (there - x.from), hi - there))
			return ST_CONFLICT;
	}
	return ST_OK;
}

enum status stream_compare(struct ks_txn *t, struct pool *p, uint64_t offset, const uint8_t *bytes,
			   size_t len, uint64_t gone_below)
{
	uint64_t hi = offset + len;

	for (struct part x; offset < hi; offset += x.to - x.from) {
		enum status s;

		x = part_at(offset, hi);
		s = compare_part(t, p, x, bytes, gone_below);
		if (s != ST_OK)
			return s;
		bytes += x.to - x.from;
	}
	return ST_OK;
}
