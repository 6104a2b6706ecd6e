/* ca.c - a lab certificate authority on OpenSSL. Private keys leave memory only into 0600 files. */
#include "authority.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"
#include "id.h"

enum { PEM_MAX = 65536 };

static const struct role {
	const char *name;
	bool accepts; /* connections: its certificate gets a server's key usages, too */
} roles[] = {
	{ "km", true },     { "controller", true },  { "manager", true }, { "module", true },
	{ "switch", true }, { "relay-point", true }, { "app", false },    { "user-manager", false },
	{ "admin", false },
};

static enum status openssl_failed(struct err *e, const char *doing)
{
	unsigned long code = ERR_peek_last_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

	ERR_clear_error();
	return err_set(e, ST_INTERNAL, "%s: %s", doing, reason != NULL ? reason : "OpenSSL refused");
}

/* ---- PEM files ------------------------------------------------------------------------------ */

static enum status write_key(const char *path, EVP_PKEY *key, struct err *e)
{
	BIO *bio = BIO_new(BIO_s_secmem()); /* wiped when freed */
	enum status status;
	char *text;
	long len;

	if (bio == NULL || PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1) {
		BIO_free(bio);
		return openssl_failed(e, "encoding a private key");
	}
	len = BIO_get_mem_data(bio, &text);
	status = file_write(path, text, (size_t)len, 0600, e);
	BIO_free(bio);
	return status;
}

static enum status write_certificate(const char *path, X509 *certificate, struct err *e)
{
	BIO *bio = BIO_new(BIO_s_mem());
	enum status status;
	char *text;
	long len;

	if (bio == NULL || PEM_write_bio_X509(bio, certificate) != 1) {
		BIO_free(bio);
		return openssl_failed(e, "encoding a certificate");
	}
	len = BIO_get_mem_data(bio, &text);
	status = file_write(path, text, (size_t)len, 0644, e);
	BIO_free(bio);
	return status;
}

static enum status read_key(const char *path, EVP_PKEY **key, struct err *e)
{
	struct secret text = { NULL, 0 };
	enum status status = file_read_secret(path, PEM_MAX, &text, e);
	BIO *bio;

	if (status != ST_OK)
		return status;
	bio = BIO_new_mem_buf(text.bytes, (int)text.len);
	*key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
	BIO_free(bio);
	secret_free(&text);
	ERR_clear_error();
	if (*key == NULL)
		return err_set(e, ST_CONFIGURATION, "%s: holds no private key in PEM without a passphrase", path);
	return ST_OK;
}

enum status ca_read_certificate(const char *path, X509 **certificate, struct err *e)
{
	enum status status;
	char *text;
	size_t len;
	BIO *bio;

	status = file_read(path, PEM_MAX, &text, &len, e);
	if (status != ST_OK)
		return status;
	bio = BIO_new_mem_buf(text, (int)len);
	*certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	BIO_free(bio);
	free(text);
	ERR_clear_error();
	if (*certificate == NULL)
		return err_set(e, ST_CONFIGURATION, "%s: holds no certificate in PEM", path);
	return ST_OK;
}

/* ---- certificates ----------------------------------------------------------------------------- */

/* A positive random serial number of 127 bits. */
static bool set_serial(X509 *x)
{
	uint8_t bytes[16];
	BIGNUM *number;
	bool ok;

	secret_random(bytes, sizeof bytes);
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) | 0x40);
	number = BN_bin2bn(bytes, sizeof bytes, NULL);
	ok = number != NULL && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x)) != NULL;
	BN_free(number);
	return ok;
}

static bool set_validity(X509 *x, int days)
{
	time_t now = time(NULL), from = now - CLOCK_SKEW, until = now + (time_t)days * DAY;

	if (days < 0) /* over already: it began a day before it ended */
		from = until - DAY;
	return ASN1_TIME_set(X509_getm_notBefore(x), from) != NULL &&
	       ASN1_TIME_set(X509_getm_notAfter(x), until) != NULL;
}

static bool add_name_part(X509_NAME *name, const char *field, const char *value)
{
	return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8, (const unsigned char *)value, -1, -1, 0) == 1;
}

static bool set_subject(X509 *x, const char *organization, const char *unit, const char *common_name)
{
	X509_NAME *name = X509_get_subject_name(x);

	return add_name_part(name, "O", organization) && add_name_part(name, "OU", unit) &&
	       add_name_part(name, "CN", common_name);
}

static bool add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509_EXTENSION *extension;
	X509V3_CTX context;
	bool ok;

	X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
	extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
	ok = extension != NULL && X509_add_ext(x, extension, -1) == 1;
	X509_EXTENSION_free(extension);
	return ok;
}

/* A v3 certificate with everything but its extensions and signature; NULL when OpenSSL refuses. */
static X509 *draft(EVP_PKEY *key, X509 *issuer, int days)
{
	X509 *x = X509_new();

	if (x != NULL && X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x) && set_validity(x, days) &&
	    X509_set_pubkey(x, key) == 1 &&
	    (issuer == NULL || X509_set_issuer_name(x, X509_get_subject_name(issuer)) == 1))
		return x;
	X509_free(x);
	return NULL;
}

static EVP_PKEY *fresh_key(void)
{
	return EVP_EC_gen("P-256");
}

/* ---- the authority ------------------------------------------------------------------------------ */

static bool domain_is_valid(const char *domain)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
	size_t len = strlen(domain);

	return len > 0 && len <= 128 && strspn(domain, allowed) == len && domain[0] != '.' &&
	       domain[len - 1] != '.';
}

static bool complete_authority(X509 *x, EVP_PKEY *key, const char *domain)
{
	char *uri = xasprintf("URI:spiffe://%s", domain), *within = xasprintf("critical,permitted;URI:%s", domain);
	bool ok = set_subject(x, "qkdn lab", domain, "lab authority") &&
	          X509_set_issuer_name(x, X509_get_subject_name(x)) == 1 &&
	          add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	          add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") &&
	          add_extension(x, x, NID_subject_key_identifier, "hash") &&
	          add_extension(x, x, NID_subject_alt_name, uri) &&
	          add_extension(x, x, NID_name_constraints, within) && X509_sign(x, key, EVP_sha256()) > 0;

	free(uri);
	free(within);
	return ok;
}

static enum status make_folder(const char *directory, struct err *e)
{
	if (mkdir(directory, 0755) != 0 && errno != EEXIST)
		return err_set(e, ST_CONFIGURATION, "making the folder %s: %s", directory, strerror(errno));
	return ST_OK;
}

static enum status refuse_existing(const char *path, struct err *e)
{
	if (access(path, F_OK) == 0)
		return err_set(e, ST_CONFLICT, "%s is there already: remove it first if it is not needed any more",
		               path);
	return ST_OK;
}

/* Both are on the disk before one of them is put in its place: where there is no room the old pair stays. */
static enum status write_pair(const char *prefix, X509 *x, EVP_PKEY *key, struct err *e)
{
	char *key_path = xasprintf("%s.key", prefix), *certificate_path = xasprintf("%s.crt", prefix);
	char *fresh_key = xasprintf("%s.next", key_path), *fresh_certificate = xasprintf("%s.next", certificate_path);
	enum status status = write_key(fresh_key, key, e);

	if (status == ST_OK)
		status = write_certificate(fresh_certificate, x, e);
	if (status == ST_OK)
		status = file_rename(fresh_key, key_path, e);
	if (status == ST_OK)
		status = file_rename(fresh_certificate, certificate_path, e);
	if (status != ST_OK) {
		unlink(fresh_key);
		unlink(fresh_certificate);
	}
	free(fresh_key);
	free(fresh_certificate);
	free(key_path);
	free(certificate_path);
	return status;
}

enum status ca_make(const char *directory, const char *domain, int days, struct err *e)
{
	char *prefix = xasprintf("%s/ca", directory), *key_path = xasprintf("%s.key", prefix);
	enum status status = make_folder(directory, e);
	EVP_PKEY *key = NULL;
	X509 *x = NULL;

	if (status == ST_OK && !domain_is_valid(domain))
		status = err_set(e, ST_BAD_REQUEST,
		                 "\"%s\" is no trust domain: give 1 to 128 of a-z 0-9 . - _, such as lab.qkdn", domain);
	if (status == ST_OK)
		status = refuse_existing(key_path, e);
	if (status == ST_OK) {
		key = fresh_key();
		x = key != NULL ? draft(key, NULL, days) : NULL;
		if (x == NULL || !complete_authority(x, key, domain))
			status = openssl_failed(e, "making the authority's certificate");
	}
	if (status == ST_OK)
		status = write_pair(prefix, x, key, e);
	X509_free(x);
	EVP_PKEY_free(key);
	free(key_path);
	free(prefix);
	return status;
}

/* The domain of the authority's own URI, spiffe://DOMAIN. The caller frees; NULL if there is none. */
static char *domain_of(const X509 *x)
{
	static const char scheme[] = "spiffe://";
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	char *domain = NULL;

	for (int i = 0; i < sk_GENERAL_NAME_num(names) && domain == NULL; i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		const char *uri;

		if (name->type != GEN_URI)
			continue;
		uri = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
		if (strncmp(uri, scheme, strlen(scheme)) == 0)
			domain = xstrdup(uri + strlen(scheme));
	}
	GENERAL_NAMES_free(names);
	return domain;
}

enum status ca_open(struct ca **made, const char *directory, struct err *e)
{
	char *certificate = xasprintf("%s/ca.crt", directory), *key = xasprintf("%s/ca.key", directory);
	struct ca *ca = xcalloc(1, sizeof *ca);
	enum status status = ca_read_certificate(certificate, &ca->certificate, e);

	ca->directory = xstrdup(directory);
	if (status == ST_OK)
		status = read_key(key, &ca->key, e);
	if (status == ST_OK) {
		ca->domain = domain_of(ca->certificate);
		if (ca->domain == NULL || !domain_is_valid(ca->domain))
			status = err_set(e, ST_CONFIGURATION,
			                 "%s names no trust domain: make the authority with qkdn-pki init",
			                 certificate);
	}
	if (status == ST_OK) {
		*made = ca;
	} else {
		err_prefix(e, "opening the authority in %s", directory);
		ca_free(ca);
	}
	free(certificate);
	free(key);
	return status;
}

void ca_free(struct ca *ca)
{
	if (ca == NULL)
		return;
	X509_free(ca->certificate);
	EVP_PKEY_free(ca->key);
	free(ca->directory);
	free(ca->domain);
	free(ca);
}

const char *ca_domain(const struct ca *ca)
{
	return ca->domain;
}

/* ---- issuing -------------------------------------------------------------------------------------- */

static const struct role *find_role(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(roles); i++)
		if (strcmp(roles[i].name, name) == 0)
			return &roles[i];
	return NULL;
}

static bool dns_name_is_valid(const char *name)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-";
	size_t len = strlen(name);

	return len > 0 && len <= 253 && strspn(name, allowed) == len && name[0] != '.' && name[0] != '-';
}

static enum status check_request(const struct ca_request *r, struct err *e)
{
	if (find_role(r->role) == NULL) {
		char all[160] = "";

		for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
			strcat(all, " ");
			strcat(all, roles[i].name);
		}
		return err_set(e, ST_BAD_REQUEST, "\"%.40s\" is no role: give one of%s", r->role, all);
	}
	if (!name_is_valid(r->name))
		return err_set(e, ST_BAD_REQUEST,
		               "\"%.80s\" is no name: give 1 to 64 of A-Z a-z 0-9 . _ -, not starting with . or -",
		               r->name);
	for (size_t i = 0; i < r->dns_count; i++)
		if (!dns_name_is_valid(r->dns_names[i]))
			return err_set(e, ST_BAD_REQUEST, "\"%.80s\" is no DNS name; wildcards are not allowed",
			               r->dns_names[i]);
	for (size_t i = 0; i < r->address_count; i++) {
		ASN1_OCTET_STRING *address = a2i_IPADDRESS(r->addresses[i]);

		if (address == NULL)
			return err_set(e, ST_BAD_REQUEST, "\"%.80s\" is no IP address", r->addresses[i]);
		ASN1_OCTET_STRING_free(address);
	}
	return ST_OK;
}

/* The names a certificate goes by, as OpenSSL's configuration writes them. All were checked to hold
 * no comma. The caller frees. */
static char *subject_names(const struct ca *ca, const struct ca_request *r)
{
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	fprintf(to, "URI:spiffe://%s/%s/%s", ca->domain, r->role, r->name);
	for (size_t i = 0; i < r->dns_count; i++)
		fprintf(to, ",DNS:%s", r->dns_names[i]);
	for (size_t i = 0; i < r->address_count; i++)
		fprintf(to, ",IP:%s", r->addresses[i]);
	fclose(to);
	return text;
}

static bool complete_certificate(X509 *x, const struct ca *ca, const struct ca_request *r)
{
	static const char client[] = "clientAuth," CA_EKU_RPC_CLIENT;
	static const char both[] = "clientAuth,serverAuth," CA_EKU_RPC_CLIENT "," CA_EKU_RPC_SERVER;
	char *names = subject_names(ca, r);
	bool ok = set_subject(x, "qkdn lab", r->role, r->name) &&
	          add_extension(x, ca->certificate, NID_basic_constraints, "critical,CA:FALSE") &&
	          add_extension(x, ca->certificate, NID_key_usage, "critical,digitalSignature") &&
	          add_extension(x, ca->certificate, NID_ext_key_usage, find_role(r->role)->accepts ? both : client) &&
	          add_extension(x, ca->certificate, NID_subject_key_identifier, "hash") &&
	          add_extension(x, ca->certificate, NID_authority_key_identifier, "keyid:always") &&
	          add_extension(x, ca->certificate, NID_subject_alt_name, names) &&
	          X509_sign(x, ca->key, EVP_sha256()) > 0;

	free(names);
	return ok;
}

enum status ca_issue(struct ca *ca, const struct ca_request *r, struct err *e)
{
	enum status status = check_request(r, e);
	EVP_PKEY *key;
	X509 *x;

	if (status != ST_OK)
		return status;
	key = fresh_key();
	x = key != NULL ? draft(key, ca->certificate, r->days) : NULL;
	if (x == NULL || !complete_certificate(x, ca, r))
		status = openssl_failed(e, "making a certificate");
	else
		status = write_pair(r->prefix, x, key, e);
	X509_free(x);
	EVP_PKEY_free(key);
	return status;
}

enum status ca_write_random(const char *path, size_t len, struct err *e)
{
	enum status status = refuse_existing(path, e);
	struct secret s = { NULL, 0 };

	if (status != ST_OK)
		return status;
	secret_alloc(&s, len);
	secret_random(s.bytes, s.len);
	status = file_write(path, s.bytes, s.len, 0600, e);
	secret_free(&s);
	return status;
}
