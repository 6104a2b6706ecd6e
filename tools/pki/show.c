/* show.c - qkdn-pki show: what a certificate says, as lines or as JSON. */
#include "pki.h"

#include <argp.h>
#include <jansson.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"
#include "ca.h"
#include "command.h"

struct show {
	const char *path;
	bool json;
};

static error_t parse_show(int key, char *value, struct argp_state *state)
{
	struct show *o = state->input;

	switch (key) {
	case 'j':
		o->json = true;
		return 0;
	case ARGP_KEY_ARG:
		if (o->path != NULL)
			argp_error(state, "unexpected argument '%s'", value);
		o->path = value;
		return 0;
	case ARGP_KEY_END:
		if (o->path == NULL)
			argp_error(state, "which certificate? give FILE");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* What was written to a memory BIO, as a JSON string; frees it. */
static json_t *string_of(BIO *bio)
{
	char *text;
	long len = BIO_get_mem_data(bio, &text);
	json_t *value = json_stringn(text, (size_t)len);

	BIO_free(bio);
	return value != NULL ? value : json_string("?");
}

static json_t *name_of(const X509_NAME *name)
{
	BIO *bio = BIO_new(BIO_s_mem());

	X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253);
	return string_of(bio);
}

static json_t *time_of(const ASN1_TIME *t)
{
	BIO *bio = BIO_new(BIO_s_mem());

	ASN1_TIME_print_ex(bio, t, ASN1_DTFLGS_ISO8601);
	return string_of(bio);
}

static json_t *serial_of(const X509 *x)
{
	BIO *bio = BIO_new(BIO_s_mem());

	i2a_ASN1_INTEGER(bio, X509_get0_serialNumber(x));
	return string_of(bio);
}

static void add_name(json_t *to, const GENERAL_NAME *name)
{
	BIO *bio = BIO_new(BIO_s_mem());
	json_t *text;
	const char *colon;

	GENERAL_NAME_print(bio, (GENERAL_NAME *)name);
	text = string_of(bio);
	colon = strchr(json_string_value(text), ':');
	if (name->type == GEN_URI)
		json_object_set_new(to, "identity", json_string(colon != NULL ? colon + 1 : "?"));
	else
		json_array_append(json_object_get(to, "names"), text);
	json_decref(text);
}

static void add_names(json_t *to, const X509 *x)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);

	json_object_set_new(to, "names", json_array());
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++)
		add_name(to, sk_GENERAL_NAME_value(names, i));
	GENERAL_NAMES_free(names);
}

static const char *usage_name(const ASN1_OBJECT *usage, char *text, int len)
{
	OBJ_obj2txt(text, len, usage, 1);
	if (strcmp(text, CA_EKU_RPC_CLIENT) == 0)
		return "rpc-client";
	if (strcmp(text, CA_EKU_RPC_SERVER) == 0)
		return "rpc-server";
	return OBJ_obj2nid(usage) != NID_undef ? OBJ_nid2sn(OBJ_obj2nid(usage)) : text;
}

static void add_usages(json_t *to, const X509 *x)
{
	EXTENDED_KEY_USAGE *usages = X509_get_ext_d2i(x, NID_ext_key_usage, NULL, NULL);
	json_t *list = json_array();
	char text[80];

	for (int i = 0; i < sk_ASN1_OBJECT_num(usages); i++)
		json_array_append_new(list,
		                      json_string(usage_name(sk_ASN1_OBJECT_value(usages, i), text, sizeof text)));
	json_object_set_new(to, "usages", list);
	EXTENDED_KEY_USAGE_free(usages);
}

static json_t *describe(const X509 *x)
{
	json_t *o = json_object();

	add_names(o, x);
	json_object_set_new(o, "subject", name_of(X509_get_subject_name(x)));
	json_object_set_new(o, "issuer", name_of(X509_get_issuer_name(x)));
	json_object_set_new(o, "serial", serial_of(x));
	json_object_set_new(o, "not_before", time_of(X509_get0_notBefore(x)));
	json_object_set_new(o, "not_after", time_of(X509_get0_notAfter(x)));
	json_object_set_new(o, "expired", json_boolean(X509_cmp_current_time(X509_get0_notAfter(x)) < 0));
	add_usages(o, x);
	return o;
}

static void print_joined(const json_t *list)
{
	const json_t *item;
	size_t i;

	json_array_foreach(list, i, item) {
		printf("%s%s", i > 0 ? ", " : "", json_string_value(item));
	}
	printf("%s\n", json_array_size(list) == 0 ? "-" : "");
}

static void print_lines(json_t *o)
{
	static const struct {
		const char *key, *label;
	} rows[] = {
		{ "identity", "identity" },   { "names", "names" },         { "usages", "key usages" },
		{ "subject", "subject" },     { "issuer", "issuer" },       { "serial", "serial" },
		{ "not_before", "from" },     { "not_after", "until" },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const json_t *value = json_object_get(o, rows[i].key);
		bool over = strcmp(rows[i].key, "not_after") == 0 && json_is_true(json_object_get(o, "expired"));

		printf("%-10s  ", rows[i].label);
		if (json_is_array(value))
			print_joined(value);
		else
			printf("%s%s\n", json_is_string(value) ? json_string_value(value) : "-", over ? " (over)" : "");
	}
}

int pki_show(int argc, char **argv)
{
	static const struct argp_option options[] = {
		{ "json", 'j', NULL, 0, "As JSON", 0 },
		{ NULL, 0, NULL, 0, NULL, 0 },
	};
	const struct argp argp = { options, parse_show, "FILE", "Show what a certificate in PEM says.",
		                   NULL, NULL, NULL };
	struct show o = { NULL, false };
	struct err e;
	json_t *all;
	X509 *x;

	argp_parse(&argp, argc, argv, 0, NULL, &o);
	if (ca_read_certificate(o.path, &x, &e) != ST_OK)
		return command_fail(&e);
	all = describe(x);
	if (o.json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_lines(all);
	}
	json_decref(all);
	X509_free(x);
	return 0;
}
