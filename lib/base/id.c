/* id.c - identifiers as text and back. */
#include "id.h"

#include <openssl/evp.h>
#include <string.h>

#include "log.h"

void id_format(const struct id *id, char text[ID_TEXT_LEN])
{
	static const char hex[] = "0123456789abcdef";
	char *t = text;

	for (int i = 0; i < ID_LEN; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*t++ = '-';
		*t++ = hex[id->bytes[i] >> 4];
		*t++ = hex[id->bytes[i] & 15];
	}
	*t = '\0';
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool id_parse(struct id *id, const char *text)
{
	if (strlen(text) != ID_TEXT_LEN - 1)
		return false;
	for (int i = 0; i < ID_LEN; i++) {
		int high, low;

		if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
			return false;
		high = hex_digit(text[0]);
		low = high < 0 ? -1 : hex_digit(text[1]);
		if (low < 0)
			return false;
		id->bytes[i] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	return true;
}

bool id_equal(const struct id *a, const struct id *b)
{
	return memcmp(a, b, sizeof *a) == 0;
}

bool id_is_zero(const struct id *id)
{
	static const struct id zero;

	return id_equal(id, &zero);
}

void id_derive(struct id *id, const char *label, const struct id *from, unsigned n)
{
	uint8_t text[128 + ID_LEN + 1], digest[32];
	size_t len = strlen(label);

	if (len > 128 || n > 255)
		log_fatal("deriving an ID: label or number out of bounds");
	memcpy(text, label, len);
	memcpy(text + len, from->bytes, ID_LEN);
	text[len + ID_LEN] = (uint8_t)n;
	if (EVP_Digest(text, len + ID_LEN + 1, digest, NULL, EVP_sha256(), NULL) != 1)
		log_fatal("deriving an ID: SHA-256 is not to be had");
	memcpy(id->bytes, digest, ID_LEN);
}

bool name_is_valid(const char *name)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t len = strlen(name);

	return len > 0 && len <= NAME_MAX_LEN && name[0] != '.' && name[0] != '-' &&
	       strspn(name, allowed) == len;
}
