/* session.c - from a socket to records inside TLS. */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "message.h"

enum {
	CLEARTEXT_RECORD_MAX = 1024,
	CLEARTEXT_CALLS_MAX = 16, /* before the probe; each but NULL is refused anyway */
	TLS_RECORD_MAX = 16 * 1024
};

static void set_socket_options(int fd)
{
	static const struct {
		int level, option, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },    { SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 30 },  { IPPROTO_TCP, TCP_KEEPINTVL, 10 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 3 },    { IPPROTO_TCP, TCP_USER_TIMEOUT, 60000 },
	};

	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		setsockopt(fd, options[i].level, options[i].option, &options[i].value, sizeof(int));
}

static void init(struct session *s, const struct session_options *options, int fd, enum session_phase phase)
{
	*s = (struct session){ .options = *options, .phase = phase, .fd = fd };
	s->options.credentials = tls_credentials_ref(options->credentials);
	s->reader.max = CLEARTEXT_RECORD_MAX;
	if (fd >= 0)
		set_socket_options(fd);
}

void session_accept(struct session *s, const struct session_options *options, int fd)
{
	init(s, options, fd, SESSION_AWAITING_PROBE);
}

enum status session_connect(struct session *s, const struct session_options *options,
                            const struct sockaddr *address, socklen_t len, struct err *e)
{
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);

	init(s, options, fd, SESSION_CONNECTING);
	if (fd < 0)
		return err_set(e, ST_TRANSPORT, "socket: %s", strerror(errno));
	if (connect(fd, address, len) != 0 && errno != EINPROGRESS)
		return err_set(e, ST_PEER_UNREACHABLE, "%s", strerror(errno));
	return ST_OK;
}

void session_end(struct session *s)
{
	if (s->tls != NULL && s->phase == SESSION_OPEN)
		tls_shutdown(s->tls);
	tls_free(s->tls);
	s->tls = NULL;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	buffer_free(&s->in);
	buffer_free(&s->out);
	rtls_credentials_free(s->options.credentials);
	s->options.credentials = NULL;
}

static enum io_result fault(struct err *e, const char *what)
{
	err_set(e, ST_TRANSPORT, "%s", what);
	return IO_FAILED;
}

/* ---- cleartext: the probe ---------------------------------------------------------------------- */

static enum io_result socket_result(ssize_t n, enum io_result blocked, struct err *e)
{
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return blocked;
	err_set(e, ST_TRANSPORT, "%s", n < 0 ? strerror(errno) : "closed by the peer");
	return IO_CLOSED;
}

static enum io_result send_clear(struct session *s, struct err *e)
{
	while (buffer_len(&s->out) > 0) {
		ssize_t n = send(s->fd, buffer_at(&s->out, 0), buffer_len(&s->out), MSG_NOSIGNAL);

		if (n <= 0)
			return socket_result(n, IO_WANT_WRITE, e);
		buffer_consume(&s->out, (size_t)n);
	}
	return IO_OK;
}

/* Reads until one record is there; the caller ends it with record_next. */
static enum io_result read_clear(struct session *s, uint8_t **record, size_t *len, struct err *e)
{
	for (;;) {
		enum record_result result = record_read(&s->reader, &s->in, record, len);
		ssize_t n;

		if (result == RECORD_WHOLE)
			return IO_OK;
		if (result != RECORD_MORE)
			return fault(e, record_fault(result));
		n = recv(s->fd, buffer_reserve(&s->in, CLEARTEXT_RECORD_MAX), CLEARTEXT_RECORD_MAX, 0);
		if (n <= 0)
			return socket_result(n, IO_WANT_READ, e);
		s->in.end += (size_t)n;
	}
}

static enum io_result begin_handshake(struct session *s, struct err *e)
{
	bool accepting = s->phase == SESSION_ANSWERING;

	if (buffer_len(&s->in) > 0)
		return fault(e, accepting ? "bytes behind the probe"
		                          : "bytes behind the answer to the probe");
	s->tls = tls_new(s->options.credentials, s->fd, accepting, s->options.host_name);
	s->reader.max = s->options.max_record;
	s->phase = SESSION_HANDSHAKE;
	return IO_OK;
}

static uint32_t probe_xid(const struct session *s)
{
	return 0x9289u + (uint32_t)s->fd; /* one call is on the connection: any number will do */
}

static enum io_result finish_connecting(struct session *s, struct err *e)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(int), peer_len = sizeof peer;
	int error = 0;

	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
		err_set(e, ST_PEER_UNREACHABLE, "%s", strerror(error));
		return IO_FAILED;
	}
	if (getpeername(s->fd, (struct sockaddr *)&peer, &peer_len) != 0)
		return IO_WANT_WRITE; /* still connecting */
	message_put_probe(&s->out, probe_xid(s), s->options.program, s->options.version);
	s->phase = SESSION_PROBING;
	return IO_OK;
}

static enum io_result read_probe_answer(struct session *s, struct err *e)
{
	struct message_reply reply;
	uint8_t *record;
	size_t len;
	enum io_result r = send_clear(s, e);

	if (r == IO_OK)
		r = read_clear(s, &record, &len, e);
	if (r == IO_FAILED)
		err_prefix(e, "what listens there speaks no RPC");
	if (r != IO_OK)
		return r;
	/* accept_stat does not matter here: RFC 9289, section 4.1 */
	if (!message_read_reply(record, len, &reply) || reply.xid != probe_xid(s))
		return fault(e, "the answer to the probe is no RPC reply to it");
	if (!reply.starttls)
		return fault(e, "the peer does not offer RPC-with-TLS (no STARTTLS)");
	record_next(&s->reader, &s->in);
	return begin_handshake(s, e);
}

/* One cleartext call: only NULL is answered, and only the probe leads further. */
static enum io_result answer_clear(struct session *s, const uint8_t *record, size_t len, struct err *e)
{
	struct message_call call;
	bool served;

	if (!message_read_call(record, len, &call))
		return fault(e, "no RPC call");
	if (++s->cleartext_calls > CLEARTEXT_CALLS_MAX)
		return fault(e, "too many calls in cleartext");
	served = s->options.serves(s->options.arg, call.program, call.version);
	if (call.rpc_version != RPC_VERSION)
		message_put_rpc_mismatch(&s->out, call.xid);
	else if (call.flavor == FLAVOR_AUTH_TLS && (call.procedure != NULLPROC || len != CALL_HEADER_LEN))
		message_put_auth_error(&s->out, call.xid, AUTH_BADCRED);
	else if (call.flavor == FLAVOR_AUTH_TLS) {
		message_put_starttls(&s->out, call.xid, served ? SUCCESS : PROG_UNAVAIL);
		s->phase = SESSION_ANSWERING;
	} else if (call.procedure != NULLPROC)
		message_put_auth_error(&s->out, call.xid, AUTH_TOOWEAK);
	else
		message_put_accepted(&s->out, call.xid, served ? SUCCESS : PROG_UNAVAIL);
	return IO_OK;
}

static enum io_result await_probe(struct session *s, struct err *e)
{
	uint8_t *record;
	size_t len;
	enum io_result r = send_clear(s, e);

	if (r == IO_OK)
		r = read_clear(s, &record, &len, e);
	if (r != IO_OK)
		return r;
	r = answer_clear(s, record, len, e);
	record_next(&s->reader, &s->in);
	return r;
}

static enum io_result answer_probe(struct session *s, struct err *e)
{
	enum io_result r = buffer_len(&s->in) > 0 ? fault(e, "bytes behind the probe") : send_clear(s, e);

	return r == IO_OK ? begin_handshake(s, e) : r;
}

/* ---- inside TLS -------------------------------------------------------------------------------- */

static enum io_result handshake(struct session *s, struct err *e)
{
	enum io_result r = tls_handshake(s->tls, &s->peer, e);
	const struct rtls_identity *id = &s->peer.identity;

	if (r != IO_OK)
		return r;
	if (s->options.name != NULL &&
	    (strcmp(id->role, s->options.role) != 0 || strcmp(id->name, s->options.name) != 0)) {
		err_set(e, ST_DENIED, "the peer is %s/%s, not %s/%s", id->role, id->name, s->options.role,
		        s->options.name);
		return IO_FAILED;
	}
	s->phase = SESSION_OPEN;
	return IO_OK;
}

enum io_result session_start(struct session *s, struct err *e)
{
	static enum io_result (*const steps[])(struct session *, struct err *) = {
		[SESSION_CONNECTING] = finish_connecting, [SESSION_PROBING] = read_probe_answer,
		[SESSION_AWAITING_PROBE] = await_probe,   [SESSION_ANSWERING] = answer_probe,
		[SESSION_HANDSHAKE] = handshake,
	};

	while (s->phase != SESSION_OPEN) {
		enum io_result r = steps[s->phase](s, e);

		if (r != IO_OK)
			return r;
	}
	return IO_OK;
}

enum io_result session_read(struct session *s, struct err *e)
{
	uint8_t *p = buffer_reserve(&s->in, TLS_RECORD_MAX);
	size_t n = 0;
	enum io_result r = tls_read(s->tls, p, s->in.room - s->in.end, &n, e);

	if (r == IO_OK)
		s->in.end += n;
	return r;
}

enum io_result session_flush(struct session *s, struct err *e)
{
	while (buffer_len(&s->out) > 0) {
		size_t len = buffer_len(&s->out), n = 0;
		enum io_result r;

		if (len > TLS_RECORD_MAX)
			len = TLS_RECORD_MAX;
		if (s->offered < s->queued + len)
			s->offered = s->queued + len;
		r = tls_write(s->tls, buffer_at(&s->out, 0), len, &n, e);
		if (r != IO_OK)
			return r;
		buffer_consume(&s->out, n);
		s->queued += n;
	}
	return IO_OK;
}
