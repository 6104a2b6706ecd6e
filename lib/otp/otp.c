/* otp.c - the pad by XOR, tags by OpenSSL's Poly1305. */
#include "otp.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "log.h"
#include "secret.h"

void otp_xor(uint8_t *to, const uint8_t *a, const uint8_t *pad, size_t len)
{
	size_t i = 0;

	/* a word at a time: memcpy, since neither side need be aligned */
	for (; i + sizeof(uint64_t) <= len; i += sizeof(uint64_t)) {
		uint64_t x, y;

		memcpy(&x, a + i, sizeof x);
		memcpy(&y, pad + i, sizeof y);
		x ^= y;
		memcpy(to + i, &x, sizeof x);
	}
	for (; i < len; i++)
		to[i] = a[i] ^ pad[i];
}

/* The algorithm is looked up once: the look-up costs more than a short tag. */
static EVP_MAC *poly1305_algorithm;
static pthread_once_t poly1305_once = PTHREAD_ONCE_INIT;

static void find_poly1305(void)
{
	poly1305_algorithm = EVP_MAC_fetch(NULL, "POLY1305", NULL);
	if (poly1305_algorithm == NULL)
		log_fatal("OpenSSL has no Poly1305: its default provider must be active (openssl.cnf)");
}

static EVP_MAC_CTX *mac_start(const uint8_t *key)
{
	EVP_MAC_CTX *mac;

	pthread_once(&poly1305_once, find_poly1305);
	mac = EVP_MAC_CTX_new(poly1305_algorithm);
	if (mac == NULL || EVP_MAC_init(mac, key, OTP_MAC_KEY_LEN, NULL) != 1)
		log_fatal("Poly1305 could not be started");
	return mac;
}

static void mac_add(EVP_MAC_CTX *mac, const void *bytes, size_t len)
{
	if (len > 0 && EVP_MAC_update(mac, bytes, len) != 1)
		log_fatal("Poly1305 failed");
}

/* OpenSSL's final step wipes the state that the key was copied to. */
static void mac_finish(EVP_MAC_CTX *mac, uint8_t *tag)
{
	size_t len;

	if (EVP_MAC_final(mac, tag, &len, OTP_TAG_LEN) != 1 || len != OTP_TAG_LEN)
		log_fatal("Poly1305 could not be finished");
	EVP_MAC_CTX_free(mac);
}

void otp_tag(const uint8_t key[OTP_MAC_KEY_LEN], const struct otp_piece *pieces, size_t count,
             uint8_t tag[OTP_TAG_LEN])
{
	EVP_MAC_CTX *mac = mac_start(key);

	for (size_t i = 0; i < count; i++) {
		uint8_t len[8];

		for (unsigned b = 0; b < sizeof len; b++)
			len[b] = (uint8_t)((uint64_t)pieces[i].len >> 8 * b);
		mac_add(mac, len, sizeof len);
		mac_add(mac, pieces[i].bytes, pieces[i].len);
	}
	mac_finish(mac, tag);
}

void otp_poly1305(const uint8_t key[OTP_MAC_KEY_LEN], const void *bytes, size_t len,
                  uint8_t tag[OTP_TAG_LEN])
{
	EVP_MAC_CTX *mac = mac_start(key);

	mac_add(mac, bytes, len);
	mac_finish(mac, tag);
}

bool otp_tag_equal(const uint8_t a[OTP_TAG_LEN], const uint8_t b[OTP_TAG_LEN])
{
	return secret_bytes_equal(a, b, OTP_TAG_LEN);
}
