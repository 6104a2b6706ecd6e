/* authority.h - what an opened authority is, for the files that sign with it: ca.c and crl.c. */
#ifndef QKDN_AUTHORITY_H
#define QKDN_AUTHORITY_H

#include "ca.h"

enum { DAY = 86400, CLOCK_SKEW = 300 }; /* seconds */

struct ca {
	char *directory, *domain;
	X509 *certificate;
	EVP_PKEY *key;
};

#endif
