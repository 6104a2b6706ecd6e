/* bits.c - ranges of bits in arrays of 64-bit words. */
#include "chunk.h"

static uint64_t mask(unsigned word, unsigned from, unsigned to)
{
	unsigned lo = word * 64 < from ? from - word * 64 : 0;
	unsigned hi = to - word * 64 < 64 ? to - word * 64 : 64;

	return (hi == 64 ? ~UINT64_C(0) : (UINT64_C(1) << hi) - 1) & ~UINT64_C(0) << lo;
}

void bits_set(uint64_t *bits, unsigned from, unsigned to)
{
	for (unsigned w = from / 64; w * 64 < to; w++)
		bits[w] |= mask(w, from, to);
}

void bits_clear(uint64_t *bits, unsigned from, unsigned to)
{
	for (unsigned w = from / 64; w * 64 < to; w++)
		bits[w] &= ~mask(w, from, to);
}

unsigned bits_count(const uint64_t *bits, unsigned from, unsigned to)
{
	unsigned n = 0;

	for (unsigned w = from / 64; w * 64 < to; w++)
		n += (unsigned)__builtin_popcountll(bits[w] & mask(w, from, to));
	return n;
}

unsigned bits_next_set(const uint64_t *bits, unsigned from, unsigned to)
{
	for (unsigned w = from / 64; w * 64 < to; w++) {
		uint64_t v = bits[w] & mask(w, from, to);

		if (v != 0)
			return w * 64 + (unsigned)__builtin_ctzll(v);
	}
	return to;
}

unsigned bits_next_clear(const uint64_t *bits, unsigned from, unsigned to)
{
	for (unsigned w = from / 64; w * 64 < to; w++) {
		uint64_t v = ~bits[w] & mask(w, from, to);

		if (v != 0)
			return w * 64 + (unsigned)__builtin_ctzll(v);
	}
	return to;
}
