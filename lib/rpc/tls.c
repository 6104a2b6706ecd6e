/*
 * tls.c - the only file that knows OpenSSL's TLS.
 *
 * OpenSSL's own purpose check asks for serverAuth and clientAuth; RFC 9289 has key purposes of its
 * own. So OpenSSL checks the chain for any purpose and the leaf's extended key usage is checked here.
 */
#include "tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "file.h"
#include "log.h"

#define EKU_RPC_CLIENT "1.3.6.1.5.5.7.3.33"
#define EKU_RPC_SERVER "1.3.6.1.5.5.7.3.34"

static const unsigned char alpn[] = { 6, 's', 'u', 'n', 'r', 'p', 'c' };

struct rtls_credentials {
	SSL_CTX *context;
	struct rtls_identity identity;
	atomic_uint references;
};

struct tls {
	SSL *ssl;
	struct rtls_credentials *credentials;
	bool accepting;
};

/* ---- errors ------------------------------------------------------------------------------------ */

/* OpenSSL's oldest error in words, and empties its queue. */
static const char *openssl_reason(void)
{
	unsigned long code = ERR_get_error();
	const char *reason = code != 0 ? ERR_reason_error_string(code) : NULL;

	if (code != 0 && ERR_SYSTEM_ERROR(code))
		reason = strerror(ERR_GET_REASON(code));
	ERR_clear_error();
	return reason != NULL ? reason : "unknown reason";
}

/* Before a call into OpenSSL whose failure will be asked for. Clearing costs much even where nothing is there. */
static void forget_errors(void)
{
	if (ERR_peek_error() != 0)
		ERR_clear_error();
	errno = 0;
}

static enum io_result fail(struct err *e, const char *reason)
{
	err_set(e, ST_TRANSPORT, "TLS: %s", reason);
	return IO_FAILED;
}

/* What this end found wrong with the peer's certificate, and what may help. */
static enum io_result refused(struct err *e, long verified)
{
	const char *advice = "";

	if (verified == X509_V_ERR_HOSTNAME_MISMATCH || verified == X509_V_ERR_IP_ADDRESS_MISMATCH)
		advice = ": its certificate does not name this host: tell the DNS name that it has, or issue one that does";
	else if (verified == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY)
		advice = ": its certificate is of an authority that is not trusted here";
	err_set(e, ST_TRANSPORT, "TLS: %s%s", X509_verify_cert_error_string(verified), advice);
	return IO_FAILED;
}

/* What the peer said that it does not like: mostly our certificate, and what may help then. */
static enum io_result told(struct err *e, int alert)
{
	const char *advice = "";

	if (alert == SSL_AD_CERTIFICATE_EXPIRED || alert == SSL_AD_CERTIFICATE_REVOKED)
		advice = ": this end's certificate: issue a new one";
	else if (alert == SSL_AD_UNKNOWN_CA)
		advice = ": this end's certificate is of an authority that it does not trust";
	err_set(e, ST_TRANSPORT, "TLS: refused by the peer: %s%s", SSL_alert_desc_string_long(alert), advice);
	return IO_FAILED;
}

static enum io_result map_result(struct tls *t, int result, struct err *e)
{
	unsigned long code;
	long verified;

	switch (SSL_get_error(t->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return IO_WANT_READ;
	case SSL_ERROR_WANT_WRITE:
		return IO_WANT_WRITE;
	case SSL_ERROR_ZERO_RETURN:
		err_set(e, ST_TRANSPORT, "closed by the peer");
		return IO_CLOSED;
	case SSL_ERROR_SYSCALL:
		ERR_clear_error();
		err_set(e, ST_TRANSPORT, "%s", errno != 0 ? strerror(errno) : "closed by the peer");
		return IO_CLOSED;
	default:
		break;
	}
	verified = SSL_get_verify_result(t->ssl);
	if (verified != X509_V_OK) {
		ERR_clear_error();
		return refused(e, verified);
	}
	code = ERR_peek_error();
	if (ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) > SSL_AD_REASON_OFFSET) {
		ERR_clear_error();
		return told(e, ERR_GET_REASON(code) - SSL_AD_REASON_OFFSET);
	}
	return fail(e, openssl_reason());
}

/* ---- a socket BIO with MSG_NOSIGNAL ------------------------------------------------------------ */

static int bio_fd(BIO *bio)
{
	return (int)(intptr_t)BIO_get_data(bio);
}

static bool would_block(void)
{
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static int bio_write(BIO *bio, const char *p, int len)
{
	ssize_t n = send(bio_fd(bio), p, (size_t)len, MSG_NOSIGNAL);

	BIO_clear_retry_flags(bio);
	if (n < 0 && would_block())
		BIO_set_retry_write(bio);
	return (int)n;
}

static int bio_read(BIO *bio, char *p, int len)
{
	ssize_t n = recv(bio_fd(bio), p, (size_t)len, 0);

	BIO_clear_retry_flags(bio);
	if (n < 0 && would_block())
		BIO_set_retry_read(bio);
	return (int)n;
}

static long bio_control(BIO *bio, int command, long number, void *p)
{
	(void)bio;
	(void)number;
	(void)p;
	return command == BIO_CTRL_FLUSH;
}

static int bio_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static BIO_METHOD *make_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "qkdn socket");

	if (m == NULL)
		log_fatal("no memory for TLS");
	BIO_meth_set_write(m, bio_write);
	BIO_meth_set_read(m, bio_read);
	BIO_meth_set_ctrl(m, bio_control);
	BIO_meth_set_create(m, bio_create);
	return m;
}

static BIO *bio_new(int fd)
{
	static _Atomic(BIO_METHOD *) method;
	BIO_METHOD *m = atomic_load(&method), *none = NULL;
	BIO *bio;

	if (m == NULL) {
		m = make_method();
		if (!atomic_compare_exchange_strong(&method, &none, m)) {
			BIO_meth_free(m); /* another thread was first */
			m = none;
		}
	}
	bio = BIO_new(m);
	if (bio == NULL)
		log_fatal("no memory for a TLS connection");
	BIO_set_data(bio, (void *)(intptr_t)fd);
	return bio;
}

/* ---- identity ---------------------------------------------------------------------------------- */

/* The characters of name_is_valid; a domain may be longer than a name. */
static bool part_is_valid(const char *part)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	return part[0] != '.' && part[0] != '-' && part[strspn(part, allowed)] == '\0';
}

static bool take_part(const char **text, char *part, size_t room, char end)
{
	size_t len = strcspn(*text, "/");

	if (len == 0 || len >= room || (*text)[len] != end)
		return false;
	memcpy(part, *text, len);
	part[len] = '\0';
	*text += len + (end != '\0');
	return part_is_valid(part);
}

/* spiffe://<trust domain>/<role>/<name> */
static bool parse_identity(const char *uri, struct rtls_identity *id)
{
	static const char scheme[] = "spiffe://";

	if (strncmp(uri, scheme, sizeof scheme - 1) != 0)
		return false;
	uri += sizeof scheme - 1;
	return take_part(&uri, id->domain, sizeof id->domain, '/') &&
	       take_part(&uri, id->role, sizeof id->role, '/') &&
	       take_part(&uri, id->name, sizeof id->name, '\0');
}

/* Exactly one SPIFFE URI among the certificate's alternative names. */
static enum status read_identity(X509 *certificate, struct rtls_identity *id, struct err *e)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	int found = 0;

	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		const ASN1_STRING *s = name->d.uniformResourceIdentifier;
		const char *uri;

		if (name->type != GEN_URI)
			continue;
		uri = (const char *)ASN1_STRING_get0_data(s);
		if (strlen(uri) != (size_t)ASN1_STRING_length(s) || !parse_identity(uri, id))
			continue;
		found++;
	}
	GENERAL_NAMES_free(names);
	if (found == 1)
		return ST_OK;
	return err_set(e, ST_DENIED,
	               "not one but %d names spiffe://<trust domain>/<role>/<name> are in the certificate's SAN",
	               found);
}

/* Where the certificate limits its purposes, the one of RFC 9289 (section 5.2.1) must be among them. */
static bool purpose_is_allowed(X509 *certificate, const char *wanted)
{
	EXTENDED_KEY_USAGE *uses = X509_get_ext_d2i(certificate, NID_ext_key_usage, NULL, NULL);
	bool allowed = uses == NULL;
	char oid[64];

	for (int i = 0; i < sk_ASN1_OBJECT_num(uses); i++) {
		OBJ_obj2txt(oid, sizeof oid, sk_ASN1_OBJECT_value(uses, i), 1);
		if (strcmp(oid, wanted) == 0)
			allowed = true;
	}
	EXTENDED_KEY_USAGE_free(uses);
	return allowed;
}

static void name_certificate(X509 *certificate, struct tls_peer *peer)
{
	BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
	char *hex = number != NULL ? BN_bn2hex(number) : NULL;
	BIO *text = BIO_new(BIO_s_mem());
	int n = 0;

	if (text != NULL &&
	    X509_NAME_print_ex(text, X509_get_issuer_name(certificate), 0, XN_FLAG_RFC2253) >= 0)
		n = BIO_read(text, peer->issuer, sizeof peer->issuer - 1);
	peer->issuer[n > 0 ? n : 0] = '\0';
	for (char *p = peer->issuer; *p != '\0'; p++) /* it goes into a log line */
		if (*p < ' ' || *p > '~')
			*p = '?';
	peer->serial[0] = '\0';
	if (hex != NULL)
		strncat(peer->serial, hex, sizeof peer->serial - 1);
	BIO_free(text);
	OPENSSL_free(hex);
	BN_free(number);
}

/* ---- credentials ------------------------------------------------------------------------------- */

static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                       unsigned in_len, void *arg)
{
	(void)ssl;
	(void)arg;
	for (unsigned i = 0; i < in_len; i += in[i] + 1u)
		if (in[i] == alpn[0] && i + sizeof alpn <= in_len && memcmp(in + i, alpn, sizeof alpn) == 0) {
			*out = in + i + 1;
			*out_len = alpn[0];
			return SSL_TLSEXT_ERR_OK;
		}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static bool configure(SSL_CTX *context)
{
	SSL_CTX_set_options(context,
	                    SSL_OP_CLEANSE_PLAINTEXT | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
	                              SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_read_ahead(context, 1);
	SSL_CTX_set_alpn_select_cb(context, select_alpn, NULL);
	return SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
	       SSL_CTX_set_num_tickets(context, 0) == 1 && SSL_CTX_set_max_early_data(context, 0) == 1 &&
	       SSL_CTX_set_purpose(context, X509_PURPOSE_ANY) == 1 &&
	       SSL_CTX_set_alpn_protos(context, alpn, sizeof alpn) == 0;
}

/* A clock may be wrong, and time passes: no error, but the reason why peers will refuse. */
static void warn_of_age(const X509 *certificate, const char *path)
{
	if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0)
		log_warning("certificate %s: its time is over: peers will refuse it, issue a new one", path);
	else if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0)
		log_warning("certificate %s: its time has not come yet: peers will refuse it, look at the clock", path);
}

/* Every certificate's authority must have a list then: who is not known to be good is not let in. */
static enum status load_crl(struct rtls_credentials *c, const char *crl, struct err *e)
{
	X509_STORE *store = SSL_CTX_get_cert_store(c->context);
	X509_LOOKUP *files = X509_STORE_add_lookup(store, X509_LOOKUP_file());

	if (crl == NULL)
		return ST_OK;
	if (files == NULL || X509_load_crl_file(files, crl, X509_FILETYPE_PEM) < 1 ||
	    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK) != 1)
		return err_set(e, ST_CONFIGURATION, "revoked certificates %s: %s", crl, openssl_reason());
	return ST_OK;
}

static enum status load_files(struct rtls_credentials *c, const char *certificate, const char *private_key,
                              const char *authority, const char *crl, struct err *e)
{
	enum status s = file_check_private(private_key, e);

	if (s != ST_OK)
		return s;
	if (SSL_CTX_use_certificate_chain_file(c->context, certificate) != 1)
		return err_set(e, ST_CONFIGURATION, "certificate %s: %s", certificate, openssl_reason());
	if (SSL_CTX_use_PrivateKey_file(c->context, private_key, SSL_FILETYPE_PEM) != 1)
		return err_set(e, ST_CONFIGURATION, "private key %s for %s: %s", private_key, certificate,
		               openssl_reason());
	if (SSL_CTX_load_verify_locations(c->context, authority, NULL) != 1)
		return err_set(e, ST_CONFIGURATION, "authority %s: %s", authority, openssl_reason());
	s = load_crl(c, crl, e);
	if (s != ST_OK)
		return s;
	warn_of_age(SSL_CTX_get0_certificate(c->context), certificate);
	s = read_identity(SSL_CTX_get0_certificate(c->context), &c->identity, e);
	if (s != ST_OK) {
		err_prefix(e, "certificate %s", certificate);
		s = e != NULL ? (e->status = ST_CONFIGURATION) : ST_CONFIGURATION;
	}
	return s;
}

enum status rtls_credentials_load(struct rtls_credentials **c, const char *certificate,
                                  const char *private_key, const char *authority, const char *crl,
                                  struct err *e)
{
	struct rtls_credentials *fresh = xcalloc(1, sizeof *fresh);
	enum status s;

	atomic_init(&fresh->references, 1);
	ERR_clear_error();
	fresh->context = SSL_CTX_new(TLS_method());
	if (fresh->context == NULL || !configure(fresh->context))
		s = err_set(e, ST_INTERNAL, "setting up TLS 1.3: %s", openssl_reason());
	else
		s = load_files(fresh, certificate, private_key, authority, crl, e);
	if (s != ST_OK) {
		rtls_credentials_free(fresh);
		return s;
	}
	*c = fresh;
	return ST_OK;
}

enum status rtls_credentials_load_as(struct rtls_credentials **c, const char *role, const char *name,
                                     const char *certificate, const char *private_key, const char *authority,
                                     const char *crl, struct err *e)
{
	struct rtls_credentials *fresh;
	enum status s = rtls_credentials_load(&fresh, certificate, private_key, authority, crl, e);

	if (s != ST_OK)
		return s;
	if (strcmp(fresh->identity.role, role) != 0 || strcmp(fresh->identity.name, name) != 0) {
		err_set(e, ST_CONFIGURATION, "%s: is the certificate of %s/%s, not of %s/%s: give each its own",
		        certificate, fresh->identity.role, fresh->identity.name, role, name);
		rtls_credentials_free(fresh);
		return ST_CONFIGURATION;
	}
	*c = fresh;
	return ST_OK;
}

struct rtls_credentials *tls_credentials_ref(struct rtls_credentials *c)
{
	atomic_fetch_add(&c->references, 1);
	return c;
}

void rtls_credentials_free(struct rtls_credentials *c)
{
	if (c == NULL || atomic_fetch_sub(&c->references, 1) > 1)
		return;
	SSL_CTX_free(c->context);
	free(c);
}

const struct rtls_identity *rtls_credentials_identity(const struct rtls_credentials *c)
{
	return &c->identity;
}

/* ---- sessions ---------------------------------------------------------------------------------- */

static bool is_address(const char *host)
{
	struct in6_addr address;

	return inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
}

/* The locally configured name, without wildcards, never the subject's common name (RFC 9289, section
 * 5.2.1). */
static bool expect_host(SSL *ssl, const char *host)
{
	X509_VERIFY_PARAM *p = SSL_get0_param(ssl);

	if (is_address(host))
		return X509_VERIFY_PARAM_set1_ip_asc(p, host) == 1;
	X509_VERIFY_PARAM_set_hostflags(p,
	                                X509_CHECK_FLAG_NO_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
	return X509_VERIFY_PARAM_set1_host(p, host, 0) == 1 && SSL_set_tlsext_host_name(ssl, host) == 1;
}

struct tls *tls_new(struct rtls_credentials *c, int fd, bool accepting, const char *host_name)
{
	struct tls *t = xcalloc(1, sizeof *t);
	BIO *bio = bio_new(fd);

	t->credentials = tls_credentials_ref(c);
	t->accepting = accepting;
	t->ssl = SSL_new(c->context);
	if (t->ssl == NULL || (!accepting && !expect_host(t->ssl, host_name)))
		log_fatal("no memory for a TLS connection");
	SSL_set_bio(t->ssl, bio, bio);
	if (accepting)
		SSL_set_accept_state(t->ssl);
	else
		SSL_set_connect_state(t->ssl);
	return t;
}

void tls_free(struct tls *t)
{
	if (t == NULL)
		return;
	SSL_free(t->ssl);
	rtls_credentials_free(t->credentials);
	free(t);
}

static enum io_result check_peer(struct tls *t, struct tls_peer *peer, struct err *e)
{
	X509 *certificate = SSL_get0_peer_certificate(t->ssl);
	const unsigned char *protocol;
	unsigned len;

	SSL_get0_alpn_selected(t->ssl, &protocol, &len);
	if (len != alpn[0] || memcmp(protocol, alpn + 1, len) != 0)
		return fail(e, "the peer did not agree on the protocol sunrpc (ALPN)");
	if (certificate == NULL)
		return fail(e, "no certificate");
	name_certificate(certificate, peer);
	if (!purpose_is_allowed(certificate, t->accepting ? EKU_RPC_CLIENT : EKU_RPC_SERVER))
		return fail(e, t->accepting ? "the certificate is not for RPC clients (extended key usage)"
		                            : "the certificate is not for RPC servers (extended key usage)");
	if (read_identity(certificate, &peer->identity, e) != ST_OK)
		return IO_FAILED;
	if (strcmp(peer->identity.domain, t->credentials->identity.domain) != 0)
		return fail(e, "the certificate is of another trust domain");
	return IO_OK;
}

enum io_result tls_handshake(struct tls *t, struct tls_peer *peer, struct err *e)
{
	int result;

	forget_errors();
	result = SSL_do_handshake(t->ssl);
	return result == 1 ? check_peer(t, peer, e) : map_result(t, result, e);
}

enum io_result tls_read(struct tls *t, void *p, size_t room, size_t *n, struct err *e)
{
	int result;

	forget_errors();
	result = SSL_read_ex(t->ssl, p, room, n);
	return result == 1 ? IO_OK : map_result(t, result, e);
}

enum io_result tls_write(struct tls *t, const void *p, size_t len, size_t *n, struct err *e)
{
	int result;

	forget_errors();
	result = SSL_write_ex(t->ssl, p, len, n);
	return result == 1 ? IO_OK : map_result(t, result, e);
}

bool tls_peer_is_revoked(struct tls *t, const struct rtls_credentials *c)
{
	X509_STORE_CTX *check = X509_STORE_CTX_new();
	bool revoked;

	if (check == NULL || X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(c->context),
	                                         SSL_get0_peer_certificate(t->ssl),
	                                         SSL_get_peer_cert_chain(t->ssl)) != 1)
		log_fatal("no memory for checking a certificate");
	revoked = X509_verify_cert(check) != 1 && X509_STORE_CTX_get_error(check) == X509_V_ERR_CERT_REVOKED;
	X509_STORE_CTX_free(check);
	ERR_clear_error();
	return revoked;
}

bool tls_has_pending(struct tls *t)
{
	return SSL_has_pending(t->ssl) == 1;
}

void tls_shutdown(struct tls *t)
{
	ERR_clear_error();
	SSL_shutdown(t->ssl);
	ERR_clear_error();
}
