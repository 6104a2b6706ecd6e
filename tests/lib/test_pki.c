/* test_pki.c - a certificate authority for the length of a test. */
#include "test_pki.h"

#include <fcntl.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define ALL_EKUS "serverAuth,clientAuth,1.3.6.1.5.5.7.3.33,1.3.6.1.5.5.7.3.34"

struct test_pki {
	char folder[64];
	char *authority;
	EVP_PKEY *key;
	X509 *certificate;
	long serial;
};

static void must(bool good)
{
	if (!good)
		log_fatal("making a certificate for a test failed");
}

char *test_pki_path(const struct test_pki *pki, const char *file)
{
	return xasprintf("%s/%s", pki->folder, file);
}

static void extend(X509 *subject, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *extension;
	X509V3_CTX context;

	X509V3_set_ctx(&context, issuer, subject, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
	must(extension != NULL && X509_add_ext(subject, extension, -1) == 1);
	X509_EXTENSION_free(extension);
}

static X509 *make(struct test_pki *pki, EVP_PKEY *key, const char *name, bool expired)
{
	X509 *x = X509_new();
	X509_NAME *subject = X509_get_subject_name(x);

	must(X509_set_version(x, 2) == 1 && ASN1_INTEGER_set(X509_get_serialNumber(x), ++pki->serial) == 1 &&
	     X509_gmtime_adj(X509_getm_notBefore(x), expired ? -7200 : -3600) != NULL &&
	     X509_gmtime_adj(X509_getm_notAfter(x), expired ? -3600 : 86400) != NULL &&
	     X509_set_pubkey(x, key) == 1 &&
	     X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0) == 1);
	return x;
}

static FILE *open_new(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;

	must(f != NULL);
	return f;
}

static void write_certificate(const char *path, X509 *x)
{
	FILE *f = open_new(path);

	must(PEM_write_X509(f, x) == 1 && fclose(f) == 0);
}

static void write_key(const char *path, EVP_PKEY *key)
{
	FILE *f = open_new(path);

	must(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1 && fclose(f) == 0);
}

struct test_pki *test_pki_new(void)
{
	struct test_pki *pki = xcalloc(1, sizeof *pki);

	strcpy(pki->folder, "/tmp/qkdn-test-XXXXXX");
	must(mkdtemp(pki->folder) != NULL);
	pki->authority = test_pki_path(pki, "ca.crt");
	pki->key = EVP_EC_gen("P-256");
	pki->certificate = make(pki, pki->key, pki->folder, false);
	must(X509_set_issuer_name(pki->certificate, X509_get_subject_name(pki->certificate)) == 1);
	extend(pki->certificate, pki->certificate, NID_basic_constraints, "critical,CA:TRUE");
	extend(pki->certificate, pki->certificate, NID_key_usage, "critical,keyCertSign");
	must(X509_sign(pki->certificate, pki->key, EVP_sha256()) > 0);
	write_certificate(pki->authority, pki->certificate);
	return pki;
}

void test_pki_free(struct test_pki *pki)
{
	char *command = xasprintf("rm -rf %s", pki->folder);

	must(system(command) == 0);
	free(command);
	free(pki->authority);
	EVP_PKEY_free(pki->key);
	X509_free(pki->certificate);
	free(pki);
}

const char *test_pki_authority(const struct test_pki *pki)
{
	return pki->authority;
}

static char *path_with(const struct test_pki *pki, const char *file, const char *ending)
{
	return xasprintf("%s/%s%s", pki->folder, file, ending);
}

/* No configuration of OpenSSL's can say this. */
static void put_zeros(X509 *x)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	ASN1_IA5STRING *uri = sk_GENERAL_NAME_value(names, 0)->d.uniformResourceIdentifier;
	int len = ASN1_STRING_length(uri);
	char *text = xasprintf("%s", (const char *)ASN1_STRING_get0_data(uri));

	for (int i = 0; i < len; i++)
		if (text[i] == '!')
			text[i] = '\0';
	must(ASN1_STRING_set(uri, text, len) == 1 &&
	     X509_add1_ext_i2d(x, NID_subject_alt_name, names, 0, X509V3_ADD_REPLACE) == 1);
	free(text);
	GENERAL_NAMES_free(names);
}

void test_pki_issue(struct test_pki *pki, const char *file, const struct test_certificate *c)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = make(pki, key, file, c->expired);
	char *names = xasprintf("URI:%s%s%s%s", c->uri, c->dns != NULL ? ",DNS:" : "", c->dns != NULL ? c->dns : "",
	                        c->bare ? "" : ",IP:127.0.0.1,IP:::1");
	char *certificate_path = path_with(pki, file, ".crt"), *key_path = path_with(pki, file, ".key");

	must(X509_set_issuer_name(x, X509_get_subject_name(pki->certificate)) == 1);
	extend(x, pki->certificate, NID_subject_alt_name, names);
	if (strchr(c->uri, '!') != NULL)
		put_zeros(x);
	extend(x, pki->certificate, NID_ext_key_usage, c->eku != NULL ? c->eku : ALL_EKUS);
	must(X509_sign(x, pki->key, EVP_sha256()) > 0);
	write_certificate(certificate_path, x);
	write_key(key_path, key);
	free(names);
	free(certificate_path);
	free(key_path);
	X509_free(x);
	EVP_PKEY_free(key);
}

struct rtls_credentials *test_pki_load(struct test_pki *pki, const char *file, struct test_pki *trusted)
{
	char *certificate = path_with(pki, file, ".crt"), *key = path_with(pki, file, ".key");
	struct rtls_credentials *c = NULL;
	struct err e;

	if (rtls_credentials_load(&c, certificate, key, trusted->authority, NULL, &e) != ST_OK)
		log_fatal("%s", e.text);
	free(certificate);
	free(key);
	return c;
}

struct rtls_credentials *test_pki_credentials(struct test_pki *pki, const char *role, const char *name)
{
	char *uri = xasprintf("spiffe://test/%s/%s", role, name);
	char *path = path_with(pki, name, ".crt");
	struct rtls_credentials *c;

	if (access(path, F_OK) != 0)
		test_pki_issue(pki, name, &(struct test_certificate){ .uri = uri });
	c = test_pki_load(pki, name, pki);
	free(uri);
	free(path);
	return c;
}
