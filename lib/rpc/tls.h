/*
 * tls.h - TLS 1.3 as RFC 9289 wants it on a connected socket: mutual certificates, ALPN sunrpc, no
 * early data, no resumption (every connection proves anew who it is). tls.c alone knows OpenSSL.
 */
#ifndef QKDN_RPC_TLS_H
#define QKDN_RPC_TLS_H

#include "rtls.h"

struct tls;

enum io_result {
	IO_OK,
	IO_WANT_READ,
	IO_WANT_WRITE,
	IO_CLOSED, /* by the peer, in order or not; *e says how */
	IO_FAILED  /* *e says why */
};

/* The certificate at the other end, as the audit record names it. */
struct tls_peer {
	struct rtls_identity identity;
	char issuer[256];
	char serial[64];
};

struct rtls_credentials *tls_credentials_ref(struct rtls_credentials *c);

/* On a non-blocking socket, which stays the caller's. accepting: the server's side. host_name: what the
 * peer's certificate must be for, a DNS name or an address (the connecting side only). */
struct tls *tls_new(struct rtls_credentials *c, int fd, bool accepting, const char *host_name);
void tls_free(struct tls *t); /* NULL is allowed */

/* IO_OK once the handshake is done, the certificate and its purpose are right, and ALPN said sunrpc; *peer
 * is filled in. */
MUST_CHECK enum io_result tls_handshake(struct tls *t, struct tls_peer *peer, struct err *e);

MUST_CHECK enum io_result tls_read(struct tls *t, void *p, size_t room, size_t *n, struct err *e);
MUST_CHECK enum io_result tls_write(struct tls *t, const void *p, size_t len, size_t *n, struct err *e);
bool tls_peer_is_revoked(struct tls *t, const struct rtls_credentials *c); /* by c's list */
bool tls_has_pending(struct tls *t); /* whether tls_read may have more without the socket becoming readable */
void tls_shutdown(struct tls *t);    /* tells the peer, does not wait */

#endif
