/* test_pki.h - certificates made at run time, for tests and benchmarks of lib/rpc. */
#ifndef QKDN_TEST_PKI_H
#define QKDN_TEST_PKI_H

#include "rtls.h"

struct test_pki;

/* An authority of its own in a new folder under /tmp; free removes the folder. */
struct test_pki *test_pki_new(void);
void test_pki_free(struct test_pki *pki);
const char *test_pki_authority(const struct test_pki *pki); /* path of its certificate */

struct test_certificate { /* what differs from a good one */
	const char *uri;      /* "spiffe://test/km/alice"; '!' stands for a zero byte in it */
	const char *dns;      /* NULL: none; every certificate is for 127.0.0.1 and ::1 too unless bare */
	const char *eku;      /* NULL: both of RPC and both of TLS */
	bool bare, expired;
};

/* Writes FILE.crt and FILE.key into the folder. */
void test_pki_issue(struct test_pki *pki, const char *file, const struct test_certificate *c);

/* Issues a good certificate for test/role/name if need be, and loads it; aborts when it cannot. */
struct rtls_credentials *test_pki_credentials(struct test_pki *pki, const char *role, const char *name);
/* Loads FILE.crt and FILE.key of pki, trusting the authority of trusted. */
struct rtls_credentials *test_pki_load(struct test_pki *pki, const char *file, struct test_pki *trusted);

char *test_pki_path(const struct test_pki *pki, const char *file); /* in its folder; the caller frees */

#endif
