/*
 * session.h - one connection's bytes: socket, probe and STARTTLS (RFC 9289, section 4.1), TLS, the
 * records in and out. It neither waits nor knows a loop: the endpoint drives it by events, a channel by poll.
 */
#ifndef QKDN_RPC_SESSION_H
#define QKDN_RPC_SESSION_H

#include <sys/socket.h>

#include "record.h"
#include "tls.h"

enum session_phase {
	SESSION_CONNECTING,
	SESSION_PROBING,        /* the probe goes out, its answer is awaited */
	SESSION_AWAITING_PROBE, /* accepted, in cleartext */
	SESSION_ANSWERING,      /* STARTTLS goes out */
	SESSION_HANDSHAKE,
	SESSION_OPEN
};

struct session_options {
	struct rtls_credentials *credentials;
	size_t max_record;
	/* connecting: the names that the peer's certificate must carry, and what the probe asks for */
	const char *host_name, *role, *name;
	uint32_t program, version;
	/* accepting: whether the probe's program is served here */
	bool (*serves)(void *arg, uint32_t program, uint32_t version);
	void *arg;
};

struct session {
	struct session_options options; /* strings are the caller's and outlive the session */
	enum session_phase phase;
	int fd;
	unsigned cleartext_calls;
	struct tls *tls;
	struct tls_peer peer; /* good from SESSION_OPEN on */
	struct buffer in, out;
	struct record_reader reader;
	uint64_t queued;  /* bytes ever put behind out's end, as of the last flush */
	uint64_t offered; /* bytes of these that TLS has, or may have, taken */
};

/* Takes a connected non-blocking socket; session_connect makes one. Both copy *options. */
void session_accept(struct session *s, const struct session_options *options, int fd);
MUST_CHECK enum status session_connect(struct session *s, const struct session_options *options,
                                       const struct sockaddr *address, socklen_t len, struct err *e);
void session_end(struct session *s); /* closes and wipes */

/* Goes on with connecting, probe and handshake, as far as the socket lets it. IO_OK: open. */
MUST_CHECK enum io_result session_start(struct session *s, struct err *e);

/* Open sessions: reads once what is there; sends all of out. */
MUST_CHECK enum io_result session_read(struct session *s, struct err *e);
MUST_CHECK enum io_result session_flush(struct session *s, struct err *e);

/* The place in the stream of the byte that will be appended to out next: with session_was_offered
 * the answer to whether a call may have left. */
static inline uint64_t session_position(const struct session *s)
{
	return s->queued + buffer_len(&s->out);
}
static inline bool session_was_offered(const struct session *s, uint64_t position)
{
	return s->offered > position;
}

#endif
