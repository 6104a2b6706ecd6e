/* bytes.h - numbers as big-endian bytes, so that keys of the database sort as the numbers do. */
#ifndef QKDN_BYTES_H
#define QKDN_BYTES_H

#include "base.h"

static inline void put_be(uint8_t *p, uint64_t v, int bytes)
{
	for (int i = bytes; i-- > 0; v >>= 8)
		p[i] = (uint8_t)v;
}

static inline uint64_t get_be(const uint8_t *p, int bytes)
{
	uint64_t v = 0;

	for (int i = 0; i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

#endif
