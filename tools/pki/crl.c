/* crl.c - the authority's list of revoked certificates. It is read, added to, and signed anew. */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "authority.h"
#include "file.h"

enum { CRL_MAX = 16 * 1024 * 1024 };

static enum status failed(struct err *e, const char *path)
{
	ERR_clear_error();
	return err_set(e, ST_INTERNAL, "%s: OpenSSL could not make the list of revoked certificates", path);
}

/* The list as it is; a new one where there is none. */
static enum status read_list(const char *path, X509_CRL **list, struct err *e)
{
	enum status s;
	char *text;
	size_t len;
	BIO *bio;

	if (access(path, F_OK) != 0) {
		*list = X509_CRL_new();
		return *list != NULL ? ST_OK : failed(e, path);
	}
	s = file_read(path, CRL_MAX, &text, &len, e);
	if (s != ST_OK)
		return s;
	bio = BIO_new_mem_buf(text, (int)len);
	*list = PEM_read_bio_X509_CRL(bio, NULL, NULL, NULL);
	BIO_free(bio);
	free(text);
	ERR_clear_error();
	if (*list == NULL)
		return err_set(e, ST_CONFIGURATION, "%s: holds no list of revoked certificates", path);
	return ST_OK;
}

static bool add_entry(X509_CRL *list, X509 *x, ASN1_TIME *now)
{
	X509_REVOKED *entry = X509_REVOKED_new();

	if (entry != NULL && X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(x)) == 1 &&
	    X509_REVOKED_set_revocationDate(entry, now) == 1 && X509_CRL_add0_revoked(list, entry) == 1)
		return true;
	X509_REVOKED_free(entry);
	return false;
}

/* Nothing is done where it is there already. */
static enum status add(X509_CRL *list, const struct ca *ca, const char *path, ASN1_TIME *now, struct err *e)
{
	X509_REVOKED *there;
	enum status s;
	X509 *x;

	s = ca_read_certificate(path, &x, e);
	if (s != ST_OK)
		return s;
	if (X509_verify(x, X509_get0_pubkey(ca->certificate)) != 1)
		s = err_set(e, ST_BAD_REQUEST, "%s is not of this authority: its own has to revoke it", path);
	else if (X509_cmp(x, ca->certificate) == 0)
		s = err_set(e, ST_BAD_REQUEST, "%s is the authority itself: take it away from all that trust it",
		            path);
	else if (X509_CRL_get0_by_cert(list, &there, x) != 1 && !add_entry(list, x, now))
		s = failed(e, path);
	X509_free(x);
	ERR_clear_error();
	return s;
}

/* One more than the last list's. */
static bool number(X509_CRL *list)
{
	ASN1_INTEGER *last = X509_CRL_get_ext_d2i(list, NID_crl_number, NULL, NULL), *next = ASN1_INTEGER_new();
	bool ok = next != NULL && ASN1_INTEGER_set(next, last != NULL ? ASN1_INTEGER_get(last) + 1 : 1) == 1 &&
	          X509_CRL_add1_ext_i2d(list, NID_crl_number, next, 0, X509V3_ADD_REPLACE) == 1;

	ASN1_INTEGER_free(last);
	ASN1_INTEGER_free(next);
	return ok;
}

static bool sign(X509_CRL *list, const struct ca *ca, ASN1_TIME *now, int days)
{
	ASN1_TIME *until = ASN1_TIME_adj(NULL, time(NULL), days, 0);
	bool ok = until != NULL && X509_CRL_set_version(list, X509_CRL_VERSION_2) == 1 &&
	          X509_CRL_set_issuer_name(list, X509_get_subject_name(ca->certificate)) == 1 &&
	          X509_CRL_set1_lastUpdate(list, now) == 1 && X509_CRL_set1_nextUpdate(list, until) == 1 &&
	          number(list) && X509_CRL_sort(list) == 1 && X509_CRL_sign(list, ca->key, EVP_sha256()) > 0;

	ASN1_TIME_free(until);
	return ok;
}

static enum status write_list(const char *path, X509_CRL *list, struct err *e)
{
	BIO *bio = BIO_new(BIO_s_mem());
	enum status s;
	char *text;
	long len;

	if (bio == NULL || PEM_write_bio_X509_CRL(bio, list) != 1) {
		BIO_free(bio);
		return failed(e, path);
	}
	len = BIO_get_mem_data(bio, &text);
	s = file_write(path, text, (size_t)len, 0644, e);
	BIO_free(bio);
	return s;
}

enum status ca_revoke(struct ca *ca, const char *const *certificates, size_t count, int days, struct err *e)
{
	char *path = xasprintf("%s/ca.crl", ca->directory);
	ASN1_TIME *now = ASN1_TIME_set(NULL, time(NULL) - CLOCK_SKEW);
	X509_CRL *list = NULL;
	enum status s = read_list(path, &list, e);

	for (size_t i = 0; i < count && s == ST_OK; i++)
		s = add(list, ca, certificates[i], now, e);
	if (s == ST_OK && !sign(list, ca, now, days))
		s = failed(e, path);
	if (s == ST_OK)
		s = write_list(path, list, e);
	X509_CRL_free(list);
	ASN1_TIME_free(now);
	free(path);
	return s;
}
