/*
 * otp.h - what makes Kx-1 secure in the information-theoretic sense: the one-time pad and the one-time
 * message authentication code.
 *
 * Pure functions: nothing here draws randomness, remembers, or knows where a pad came from. That a
 * pad and a MAC key are used once is the key store's affair: it makes them durable as spent before
 * these functions see them.
 */
#ifndef QKDN_OTP_H
#define QKDN_OTP_H

#include "base.h"

enum { OTP_MAC_KEY_LEN = 32, OTP_TAG_LEN = 16 };

/* ---- the pad ---------------------------------------------------------------------------- */

/* to = a XOR pad, len bytes each. to may be a or pad itself; other overlaps are not allowed. */
void otp_xor(uint8_t *to, const uint8_t *a, const uint8_t *pad, size_t len);

/* ---- the tag ---------------------------------------------------------------------------- */

/* One piece of what a tag covers: a header's field, a header, a ciphertext. */
struct otp_piece {
	const void *bytes; /* may be NULL where len is 0 */
	size_t len;
};

/*
 * Poly1305 (RFC 8439, section 2.5) under a key of 32 bytes that is used for this tag alone, over
 * the pieces in order, each behind its length as 8 bytes little-endian: moving a byte from one piece
 * to the next is another message. With a fresh key from the pool a forgery passes with probability
 * at most 8 * (covered bytes / 16) / 2^106, whatever the forger can compute.
 */
void otp_tag(const uint8_t key[OTP_MAC_KEY_LEN], const struct otp_piece *pieces, size_t count,
             uint8_t tag[OTP_TAG_LEN]);

/* In constant time. */
MUST_CHECK bool otp_tag_equal(const uint8_t a[OTP_TAG_LEN], const uint8_t b[OTP_TAG_LEN]);

/* Bare Poly1305 over one string, without the length: what the RFC's vectors test. */
void otp_poly1305(const uint8_t key[OTP_MAC_KEY_LEN], const void *bytes, size_t len,
                  uint8_t tag[OTP_TAG_LEN]);

#endif
