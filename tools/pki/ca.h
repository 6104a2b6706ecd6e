/*
 * ca.h - a lab certificate authority: a folder with ca.crt and ca.key.
 *
 * The authority's certificate names its trust domain and may vouch for no other. What it issues
 * carries one identity URI (spiffe://domain/role/name), P-256 keys and the extended key usages of
 * RPC-with-TLS (RFC 9289, section 5.2.1). Sites with a PKI of their own do without all this.
 */
#ifndef QKDN_CA_H
#define QKDN_CA_H

#include <openssl/x509.h>
#include <time.h>

#include "secret.h"
#include "status.h"

struct ca;

/* Makes the folder (if need be) with a fresh key and a certificate for days. Refuses to overwrite. */
MUST_CHECK enum status ca_make(const char *directory, const char *domain, int days, struct err *e);

/* Reads the folder; the key's mode is checked. The caller frees. */
MUST_CHECK enum status ca_open(struct ca **ca, const char *directory, struct err *e);
void ca_free(struct ca *ca); /* NULL is allowed; wipes the key */
const char *ca_domain(const struct ca *ca);

struct ca_request {
	const char *role;             /* one of those of identities (qkdn(7)) */
	const char *name;             /* name_is_valid */
	const char *const *dns_names; /* dns_count of them, no wildcards */
	size_t dns_count;
	const char *const *addresses; /* IPv4 or IPv6 */
	size_t address_count;
	int days;           /* of validity; negative: over since so many days, for tests */
	const char *prefix; /* writes prefix.crt (0644) and prefix.key (0600), over old ones */
};

MUST_CHECK enum status ca_issue(struct ca *ca, const struct ca_request *r, struct err *e);

/* Adds certificates (files in PEM) to the authority's list of revoked ones, DIR/ca.crl, and signs it anew for so
 * many days; the list is made where there is none. */
MUST_CHECK enum status ca_revoke(struct ca *ca, const char *const *certificates, size_t count, int days,
                                 struct err *e);

/* The first certificate of a file in PEM. The caller frees. */
MUST_CHECK enum status ca_read_certificate(const char *path, X509 **certificate, struct err *e);

/* len random bytes in a new file of mode 0600. Refuses to overwrite. */
MUST_CHECK enum status ca_write_random(const char *path, size_t len, struct err *e);

enum { CA_INITIAL_SECRET_LEN = 4096, CA_MASTER_KEY_LEN = 32 };

/* Object identifiers of RFC 9289's key usages. */
#define CA_EKU_RPC_CLIENT "1.3.6.1.5.5.7.3.33"
#define CA_EKU_RPC_SERVER "1.3.6.1.5.5.7.3.34"

#endif
