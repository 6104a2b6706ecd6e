/* output.c - prints keys and status; see output.h for what is wiped. */
#include "output.h"

#include <inttypes.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "secret.h"

static char out_buffer[64 * 1024];

/* ---- jansson's memory ------------------------------------------------------------------------ */

union sized { /* before each piece, so that free knows how much to wipe */
	size_t size;
	max_align_t align;
};

static void *json_alloc(size_t size)
{
	union sized *p = malloc(sizeof *p + size);

	if (p == NULL)
		return NULL;
	p->size = size;
	return p + 1;
}

static void json_wipe_and_free(void *memory)
{
	union sized *p = memory;

	if (p == NULL)
		return;
	p--;
	secret_wipe(p, sizeof *p + p->size);
	free(p);
}

void output_open(void)
{
	setvbuf(stdout, out_buffer, _IOFBF, sizeof out_buffer);
	json_set_alloc_funcs(json_alloc, json_wipe_and_free);
}

bool output_finish(void)
{
	bool ok = fflush(stdout) == 0 && !ferror(stdout);

	secret_wipe(out_buffer, sizeof out_buffer);
	secret_burn_stack(); /* what formatting left there, vector registers that were saved included */
	return ok;
}

static void print_json(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(value);
}

/* ---- keys --------------------------------------------------------------------------------------- */

static json_t *base64(const uint8_t *bytes, size_t len)
{
	struct secret text;
	json_t *string;

	secret_alloc(&text, 4 * ((len + 2) / 3) + 1);
	EVP_EncodeBlock(text.bytes, bytes, (int)len);
	string = json_string((const char *)text.bytes);
	secret_free(&text);
	return string;
}

static json_t *key_json(const struct qkdn_keys *keys, size_t i, const struct output_style *style)
{
	size_t len = qkdn_keys_length(keys, i);
	char id[QKDN_KEY_ID_TEXT_LENGTH];
	json_t *key;

	qkdn_key_id_format(qkdn_keys_id(keys, i), id);
	key = json_pack("{s:s}", "key_ID", id);
	if (style->reveal) {
		json_object_set_new(key, "key", base64(qkdn_keys_bytes(keys, i), len));
		return key;
	}
	json_object_set_new(key, "size", json_integer((json_int_t)len * 8));
	if (style->folder != NULL)
		json_object_set_new(key, "file", json_sprintf("%s/%s", style->folder, id));
	return key;
}

static void print_hex(const uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		putchar("0123456789abcdef"[bytes[i] >> 4]);
		putchar("0123456789abcdef"[bytes[i] & 15]);
	}
}

static void print_key(const struct qkdn_keys *keys, size_t i, const struct output_style *style)
{
	char id[QKDN_KEY_ID_TEXT_LENGTH];

	qkdn_key_id_format(qkdn_keys_id(keys, i), id);
	printf("%s  %zu bits  ", id, qkdn_keys_length(keys, i) * 8);
	if (style->reveal)
		print_hex(qkdn_keys_bytes(keys, i), qkdn_keys_length(keys, i));
	else if (style->folder != NULL)
		printf("%s/%s", style->folder, id);
	else
		fputs("(hidden)", stdout);
	putchar('\n');
}

void output_keys(const struct qkdn_keys *keys, const struct output_style *style)
{
	json_t *list;

	if (!style->json) {
		for (size_t i = 0; i < qkdn_keys_count(keys); i++)
			print_key(keys, i, style);
		return;
	}
	list = json_array();
	for (size_t i = 0; i < qkdn_keys_count(keys); i++)
		json_array_append_new(list, key_json(keys, i, style));
	print_json(json_pack("{s:o}", style->reveal ? "keys" : "key_IDs", list));
}

/* ---- status --------------------------------------------------------------------------------------- */

static json_int_t counted(uint64_t n)
{
	return n > INT64_MAX ? INT64_MAX : (json_int_t)n;
}

void output_status(const struct qkdn_supply *s, const char *application, const char *destination, bool json)
{
	if (json) {
		print_json(json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "source_KME_ID",
		                     s->source_km, "target_KME_ID", s->destination_km, "master_SAE_ID",
		                     application, "slave_SAE_ID", destination, "key_size",
		                     counted(s->key_size), "stored_key_count", counted(s->stored_keys),
		                     "max_key_count", counted(s->max_stored_keys), "max_key_per_request",
		                     counted(s->max_keys_per_request), "max_key_size",
		                     counted(s->max_key_size), "min_key_size", counted(s->min_key_size),
		                     "max_SAE_ID_count", counted(s->max_more_destinations)));
		return;
	}
	printf("from               %s at KM %s\n", application, s->source_km);
	printf("to                 %s at KM %s\n", destination, s->destination_km);
	printf("keys stored        %" PRIu64 " of at most %" PRIu64 "\n", s->stored_keys, s->max_stored_keys);
	printf("key size           %u bits (%u to %u)\n", s->key_size, s->min_key_size, s->max_key_size);
	printf("keys per request   at most %u\n", s->max_keys_per_request);
}
