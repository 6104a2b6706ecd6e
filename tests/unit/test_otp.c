/* test_otp.c - pad, tags against RFC 8439. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "otp.h"

static size_t unhex(const char *hex, uint8_t *to)
{
	size_t n = 0;

	for (; hex[0] != '\0'; hex += 2) {
		unsigned value = 0;

		for (int i = 0; i < 2; i++)
			value = value << 4 | (unsigned)(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);
		to[n++] = (uint8_t)value;
	}
	return n;
}

static void pad_and_its_inverse(void **state)
{
	uint8_t text[29], pad[29], sent[29];

	(void)state;
	for (unsigned i = 0; i < sizeof text; i++) {
		text[i] = (uint8_t)(i * 7);
		pad[i] = (uint8_t)(i * 31 + 5);
	}
	otp_xor(sent, text, pad, sizeof text);
	for (unsigned i = 0; i < sizeof text; i++)
		assert_int_equal(sent[i], text[i] ^ pad[i]);
	otp_xor(sent, sent, pad, sizeof sent); /* in place */
	assert_memory_equal(sent, text, sizeof text);
	otp_xor(sent, NULL, NULL, 0);
}

/* RFC 8439, section 2.5.2 and appendix A.3. */
static const struct {
	const char *key, *message, *tag;
} vectors[] = {
	{ "85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b",
	  "43727970746f6772617068696320466f72756d2052657365617263682047726f7570",
	  "a8061dc1305136c6c22b8baf0c0127a9" },
	/* A.3 #1: r = s = 0 */
	{ "0000000000000000000000000000000000000000000000000000000000000000",
	  "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
	  "000000000000000000000000000000000000000000000000",
	  "00000000000000000000000000000000" },
	/* A.3 #7: full words, a carry beyond 2^130 - 5 */
	{ "0200000000000000000000000000000000000000000000000000000000000000",
	  "ffffffffffffffffffffffffffffffff", "03000000000000000000000000000000" },
	/* A.3 #8: the addition of s overflows 2^128 */
	{ "02000000000000000000000000000000ffffffffffffffffffffffffffffffff",
	  "02000000000000000000000000000000", "03000000000000000000000000000000" },
	/* A.3 #9: data of the value of the key */
	{ "0100000000000000000000000000000000000000000000000000000000000000",
	  "fffffffffffffffffffffffffffffffff0ffffffffffffffffffffffffffffff"
	  "11000000000000000000000000000000",
	  "05000000000000000000000000000000" },
	/* A.3 #11 */
	{ "0200000000000000000000000000000000000000000000000000000000000000",
	  "fdffffffffffffffffffffffffffffff", "faffffffffffffffffffffffffffffff" },
};

static void poly1305_gives_the_rfc_vectors(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
		uint8_t key[32], message[128], expected[16], tag[16];
		size_t len = unhex(vectors[i].message, message);

		assert_int_equal(unhex(vectors[i].key, key), 32);
		unhex(vectors[i].tag, expected);
		otp_poly1305(key, message, len, tag);
		assert_memory_equal(tag, expected, 16);
		assert_true(otp_tag_equal(tag, expected));
	}
}

/* otp_tag is the bare code over the pieces, each behind its length. */
static void tag_covers_pieces_behind_their_lengths(void **state)
{
	const struct otp_piece pieces[] = { { "abc", 3 }, { NULL, 0 }, { "de", 2 } };
	const uint8_t framed[] = { 3, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c', 0,   0,  0, 0, 0,
		                   0, 0, 0, 2, 0, 0, 0, 0, 0,   0,   0,   'd', 'e' };
	uint8_t key[32], tag[16], expected[16];

	(void)state;
	for (unsigned i = 0; i < sizeof key; i++)
		key[i] = (uint8_t)(i + 1);
	otp_tag(key, pieces, ARRAY_LEN(pieces), tag);
	otp_poly1305(key, framed, sizeof framed, expected);
	assert_memory_equal(tag, expected, sizeof tag);
}

static void tag_tells_pieces_and_bits_apart(void **state)
{
	const struct otp_piece whole[] = { { "abcde", 5 } }, parts[] = { { "abc", 3 }, { "de", 2 } },
			       moved[] = { { "ab", 2 }, { "cde", 3 } };
	uint8_t key[32], tags[3][16], message[64] = { 0 }, flipped[16];
	struct otp_piece piece = { message, sizeof message };

	(void)state;
	for (unsigned i = 0; i < sizeof key; i++)
		key[i] = (uint8_t)(200 - i);
	otp_tag(key, whole, 1, tags[0]);
	otp_tag(key, parts, 2, tags[1]);
	otp_tag(key, moved, 2, tags[2]);
	assert_false(otp_tag_equal(tags[0], tags[1]));
	assert_false(otp_tag_equal(tags[1], tags[2]));
	otp_tag(key, &piece, 1, tags[0]);
	for (unsigned bit = 0; bit < 8 * sizeof message; bit++) {
		message[bit / 8] ^= (uint8_t)(1 << bit % 8);
		otp_tag(key, &piece, 1, flipped);
		assert_false(otp_tag_equal(tags[0], flipped));
		message[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (unsigned bit = 0; bit < 8 * OTP_TAG_LEN; bit++) {
		memcpy(flipped, tags[0], sizeof flipped);
		flipped[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_false(otp_tag_equal(tags[0], flipped));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pad_and_its_inverse),
		cmocka_unit_test(poly1305_gives_the_rfc_vectors),
		cmocka_unit_test(tag_covers_pieces_behind_their_lengths),
		cmocka_unit_test(tag_tells_pieces_and_bits_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
