/*
 * channel.c - one connection for threads that may wait.
 *
 * Any thread sends. Of the threads that wait for replies one reads, for all; when its own reply has
 * come it passes the reading on. The lock is never held while waiting for the socket.
 */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <uthash.h>

#include "lookup.h"
#include "message.h"
#include "secret.h"
#include "session.h"
#include "trace.h"

#define JUST_NOW_NS (50 * NS_PER_US)

enum { MAX_RECORD = 2 * 1024 * 1024, CHANNEL_PROGRAMS_MAX = 16 };

struct waiter { /* on the stack of the thread that waits */
	UT_hash_handle hh;
	uint32_t xid;
	pthread_cond_t wake;
	bool done;
	xdrproc_t xdr_result;
	void *result;
	enum clnt_stat stat;
	struct rpc_err error;
	const struct rtls_program *program; /* NULL: not traced */
	const struct rtls_procedure *procedure;
	struct id trace;
};

struct rtls_channel {
	pthread_mutex_t lock; /* over everything below */
	struct session session;
	struct rtls_identity self;
	struct waiter *waiters; /* by xid */
	bool reading;           /* some thread is */
	uint64_t read_at;       /* something, last */
	bool dead;
	char why[256];          /* it is dead */
	uint32_t next_xid;
	struct trace *trace;
	struct rtls_program programs[CHANNEL_PROGRAMS_MAX];
	unsigned program_count;
	char *host_name, *role, *name;
};

/* ---- time -------------------------------------------------------------------------------------- */

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* For poll: rounded up, so that a wait never ends just before its deadline. */
static int remaining_ms(uint64_t deadline)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	uint64_t ms = now >= deadline ? 0 : (deadline - now + NS_PER_MS - 1) / NS_PER_MS;

	return ms > 3600000 ? 3600000 : (int)ms;
}

/* false: the deadline has passed. */
static bool wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd p = { .fd = fd, .events = events };
	int ms, n;

	do {
		ms = remaining_ms(deadline);
		if (ms == 0)
			return false;
		n = poll(&p, 1, ms);
	} while (n < 0 && errno == EINTR);
	return n > 0;
}

/* ---- trace ------------------------------------------------------------------------------------- */

static void trace_message(struct rtls_channel *ch, const struct waiter *w, bool sent, const char *status)
{
	const struct rtls_identity *peer = &ch->session.peer.identity;
	const struct trace_message m = { .utc_ns = clock_ns(CLOCK_REALTIME),
		                         .id = w->trace,
		                         .reference_point = w->program->reference_point,
		                         .name = sent ? w->procedure->request : w->procedure->response,
		                         .from = sent ? &ch->self : peer,
		                         .to = sent ? peer : &ch->self,
		                         .sent = sent,
		                         .status = status };

	trace_write(ch->trace, &m);
}

static void trace_call(struct rtls_channel *ch, struct waiter *w, const struct message_call *call,
                       const uint8_t *args, size_t len)
{
	const struct rtls_procedure *q;

	for (unsigned i = 0; i < ch->program_count; i++) {
		const struct rtls_program *p = &ch->programs[i];

		if (p->number != call->program || p->version != call->version || !p->traced || len < ID_LEN)
			continue;
		for (q = p->procedures; q != NULL && q->request != NULL; q++)
			if (q->number == call->procedure) {
				w->program = p;
				w->procedure = q;
				memcpy(w->trace.bytes, args, ID_LEN);
				trace_message(ch, w, true, NULL);
				return;
			}
	}
}

/* ---- replies ----------------------------------------------------------------------------------- */

/* All waiters learn of it, and the others take over the reading. */
static void die(struct rtls_channel *ch, const char *why)
{
	struct waiter *w, *next;

	if (ch->dead)
		return;
	ch->dead = true;
	snprintf(ch->why, sizeof ch->why, "%s", why);
	HASH_ITER(hh, ch->waiters, w, next)
	{
		pthread_cond_signal(&w->wake);
	}
}

static enum clnt_stat stat_of(const struct message_reply *reply, struct rpc_err *error)
{
	switch (reply->outcome) {
	case MESSAGE_SUCCESS:
		return RPC_SUCCESS;
	case MESSAGE_UNAVAILABLE:
		return reply->accept_stat == PROG_UNAVAIL    ? RPC_PROGUNAVAIL
		       : reply->accept_stat == PROC_UNAVAIL ? RPC_PROCUNAVAIL
		                                            : RPC_PROGVERSMISMATCH;
	case MESSAGE_GARBAGE_ARGS:
		return RPC_CANTDECODEARGS;
	case MESSAGE_SYSTEM_ERROR:
		return RPC_SYSTEMERROR;
	case MESSAGE_AUTH_REFUSED:
		error->re_why = reply->auth_stat;
		return RPC_AUTHERROR;
	default:
		return RPC_CANTDECODERES;
	}
}

static const char *status_token(const struct message_reply *reply, const uint8_t *record, size_t len)
{
	if (reply->outcome == MESSAGE_SUCCESS && len - reply->body >= 4)
		return status_name((enum status)get32(record + reply->body));
	return status_name(reply->outcome == MESSAGE_AUTH_REFUSED ? ST_DENIED : ST_TRANSPORT);
}

static void decode(struct waiter *w, uint8_t *body, size_t len)
{
	XDR x;

	xdrmem_create(&x, (char *)body, (u_int)len, XDR_DECODE);
	if (w->xdr_result(&x, w->result) && xdr_getpos(&x) == len)
		return;
	rtls_wipe(w->xdr_result, w->result);
	w->stat = RPC_CANTDECODERES;
}

static bool take_reply(struct rtls_channel *ch, uint8_t *record, size_t len)
{
	struct message_reply reply;
	struct waiter *w;

	if (!message_read_reply(record, len, &reply))
		return false;
	HASH_FIND(hh, ch->waiters, &reply.xid, sizeof reply.xid, w);
	if (w == NULL || w->done)
		return true; /* its time was out */
	w->stat = stat_of(&reply, &w->error);
	if (w->program != NULL)
		trace_message(ch, w, false, status_token(&reply, record, len));
	if (w->stat == RPC_SUCCESS)
		decode(w, record + reply.body, len - reply.body);
	w->done = true;
	pthread_cond_signal(&w->wake);
	return true;
}

/* A channel serves nothing. */
static bool refuse_call(struct rtls_channel *ch, uint8_t *record, size_t len)
{
	struct message_call call;
	struct err e;

	if (!message_read_call(record, len, &call) || buffer_len(&ch->session.out) > MAX_RECORD)
		return false;
	message_put_accepted(&ch->session.out, call.xid, PROG_UNAVAIL);
	return session_flush(&ch->session, &e) <= IO_WANT_WRITE;
}

static void take_records(struct rtls_channel *ch)
{
	struct session *s = &ch->session;
	enum record_result r;
	uint8_t *record;
	size_t len;

	while ((r = record_read(&s->reader, &s->in, &record, &len)) == RECORD_WHOLE) {
		bool good = len >= RECORD_XID_LEN &&
		            (message_is_call(record) ? refuse_call : take_reply)(ch, record, len);

		if (!good) {
			die(ch, "the peer sent a record that is no RPC message");
			return;
		}
		record_next(&s->reader, &s->in);
	}
	if (r != RECORD_MORE)
		die(ch, record_fault(r));
}

static void read_all(struct rtls_channel *ch)
{
	struct err e = { .status = ST_OK };

	do {
		enum io_result r = session_read(&ch->session, &e);

		if (r == IO_WANT_READ || r == IO_WANT_WRITE)
			return;
		if (r != IO_OK) {
			die(ch, e.text);
			return;
		}
		ch->read_at = clock_ns(CLOCK_MONOTONIC);
		take_records(ch);
	} while (!ch->dead && tls_has_pending(ch->session.tls));
}

/* ---- one call ---------------------------------------------------------------------------------- */

static bool put_call(struct rtls_channel *ch, struct waiter *w, const struct message_call *header,
                     xdrproc_t xdr, void *args)
{
	struct buffer *out = &ch->session.out;
	size_t begun = record_begin(out), at;
	struct buffer_xdr x;

	message_put_call(out, header);
	at = buffer_len(out);
	buffer_xdr_init(&x, out, begun + RECORD_MARK_LEN + MAX_RECORD);
	if (!xdr(&x.xdr, args)) {
		record_cancel(out, begun);
		return false;
	}
	record_end(out, begun);
	if (ch->trace != NULL)
		trace_call(ch, w, header, buffer_at(out, at), buffer_len(out) - at);
	return true;
}

/* Sends everything that waits to be sent. false: dead, or the deadline has passed. */
static bool flush(struct rtls_channel *ch, uint64_t deadline)
{
	struct err e = { .status = ST_OK };
	bool ready;

	while (!ch->dead) {
		switch (session_flush(&ch->session, &e)) {
		case IO_OK:
			return true;
		case IO_WANT_READ:
		case IO_WANT_WRITE:
			pthread_mutex_unlock(&ch->lock);
			ready = wait_for(ch->session.fd, POLLOUT, deadline);
			pthread_mutex_lock(&ch->lock);
			if (!ready)
				return false;
			break;
		default:
			die(ch, e.text);
		}
	}
	return false;
}

static void read_for_all(struct rtls_channel *ch, uint64_t deadline)
{
	bool ready;

	ch->reading = true;
	pthread_mutex_unlock(&ch->lock);
	ready = wait_for(ch->session.fd, POLLIN, deadline);
	pthread_mutex_lock(&ch->lock);
	if (ready && !ch->dead)
		read_all(ch);
	ch->reading = false;
}

/* Wakes one of the threads that wait, so that it reads. */
static void pass_on_reading(struct rtls_channel *ch)
{
	struct waiter *w, *next;

	if (ch->reading || ch->dead)
		return;
	HASH_ITER(hh, ch->waiters, w, next)
	{
		if (!w->done) {
			pthread_cond_signal(&w->wake);
			return;
		}
	}
}

static void wait_for_reply(struct rtls_channel *ch, struct waiter *w, uint64_t deadline)
{
	const struct timespec until = { .tv_sec = (time_t)(deadline / NS_PER_S),
		                        .tv_nsec = (long)(deadline % NS_PER_S) };

	while (!w->done && !ch->dead && clock_ns(CLOCK_MONOTONIC) < deadline) {
		if (ch->reading)
			pthread_cond_timedwait(&w->wake, &ch->lock, &until);
		else
			read_for_all(ch, deadline);
	}
}

static void waiter_init(struct waiter *w, uint32_t xid)
{
	pthread_condattr_t attributes;

	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	w->xid = xid;
}

/* Or an end of input. Nobody asks at once after the last answer: to look costs as much as to send. */
static bool has_input(const struct rtls_channel *ch, uint64_t now)
{
	char byte;

	if (now - ch->read_at < JUST_NOW_NS)
		return false;
	return recv(ch->session.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 ||
	       (errno != EAGAIN && errno != EWOULDBLOCK);
}

static enum clnt_stat locked_call(struct rtls_channel *ch, struct waiter *w, struct message_call *header,
                                  const struct channel_call *c, uint64_t now)
{
	uint64_t deadline = now + c->timeout_ns;
	bool sent;

	if (!ch->reading && has_input(ch, now))
		read_all(ch); /* shows whether the peer has closed, while the call is still unsent */
	if (ch->dead)
		return RPC_CANTSEND;
	waiter_init(w, ch->next_xid++);
	header->xid = w->xid;
	if (!put_call(ch, w, header, c->xdr_args, c->args)) {
		pthread_cond_destroy(&w->wake);
		return RPC_CANTENCODEARGS;
	}
	HASH_ADD(hh, ch->waiters, xid, sizeof w->xid, w);
	sent = flush(ch, deadline);
	if (sent)
		wait_for_reply(ch, w, deadline);
	HASH_DEL(ch->waiters, w);
	pass_on_reading(ch);
	pthread_cond_destroy(&w->wake);
	if (w->done)
		return w->stat;
	return ch->dead ? RPC_CANTRECV : RPC_TIMEDOUT;
}

/* ---- for client.c ------------------------------------------------------------------------------ */

static void explain(const struct rtls_channel *ch, const struct waiter *w, enum clnt_stat stat,
                    struct err *e)
{
	switch (stat) {
	case RPC_SUCCESS:
		*e = (struct err){ .status = ST_OK };
		break;
	case RPC_TIMEDOUT:
		err_set(e, ST_TIMED_OUT, "%s/%s did not answer in time", ch->role, ch->name);
		break;
	case RPC_CANTSEND:
	case RPC_CANTRECV:
		err_set(e, stat == RPC_CANTSEND ? ST_PEER_UNREACHABLE : ST_TRANSPORT,
		        "the connection to %s/%s was lost: %s", ch->role, ch->name, ch->why);
		break;
	case RPC_AUTHERROR:
		err_set(e, ST_DENIED, "%s/%s does not let %s/%s do this (authentication error %d)",
		        ch->role, ch->name, ch->self.role, ch->self.name, w->error.re_why);
		break;
	case RPC_PROGUNAVAIL:
	case RPC_PROCUNAVAIL:
	case RPC_PROGVERSMISMATCH:
		err_set(e, ST_UNSUPPORTED, "%s/%s does not serve this: %s", ch->role, ch->name,
		        clnt_sperrno(stat));
		break;
	case RPC_CANTENCODEARGS:
	case RPC_CANTDECODEARGS:
		err_set(e, ST_BAD_REQUEST, "calling %s/%s: %s", ch->role, ch->name,
		        clnt_sperrno(stat));
		break;
	default:
		err_set(e, ST_TRANSPORT, "calling %s/%s: %s", ch->role, ch->name,
		        clnt_sperrno(stat));
	}
}

enum clnt_stat channel_call(struct rtls_channel *ch, const struct channel_call *c, struct err *e)
{
	struct message_call header = { .program = c->program,
		                       .version = c->version,
		                       .procedure = c->procedure,
		                       .flavor = FLAVOR_AUTH_NONE };
	struct waiter w = { .xdr_result = c->xdr_result, .result = c->result };
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	enum clnt_stat stat;

	pthread_mutex_lock(&ch->lock);
	stat = locked_call(ch, &w, &header, c, now);
	explain(ch, &w, stat, e);
	pthread_mutex_unlock(&ch->lock);
	return stat;
}

/* ---- opening and closing ----------------------------------------------------------------------- */

static enum status start(struct session *s, uint64_t deadline, struct err *e)
{
	for (;;) {
		switch (session_start(s, e)) {
		case IO_OK:
			return ST_OK;
		case IO_WANT_READ:
			if (!wait_for(s->fd, POLLIN, deadline))
				return err_set(e, ST_TIMED_OUT, "probe and handshake were not done in time");
			break;
		case IO_WANT_WRITE:
			if (!wait_for(s->fd, POLLOUT, deadline))
				return err_set(e, ST_TIMED_OUT, "no connection in time");
			break;
		default:
			return e->status;
		}
	}
}

/* The peer's answer to a NULL call shows that it has taken our certificate: in TLS 1.3 the connecting
 * side is done with the handshake before that. */
static enum status confirm(struct rtls_channel *ch, const struct rtls_peer_options *o, uint64_t timeout_ns,
                           struct err *e)
{
	CLIENT *client = rtls_channel_client(ch, o->program, o->version);
	struct timeval timeout = { .tv_sec = (time_t)(timeout_ns / NS_PER_S),
		                   .tv_usec = (suseconds_t)(timeout_ns % NS_PER_S / NS_PER_US) };
	enum status s = ST_OK;

	if (clnt_call(client, NULLPROC, (xdrproc_t)(void (*)(void))xdr_void, NULL,
	              (xdrproc_t)(void (*)(void))xdr_void, NULL, timeout) != RPC_SUCCESS)
		s = rtls_channel_error(client, e);
	clnt_destroy(client);
	if (s == ST_PEER_UNREACHABLE) /* it was reached, and hung up */
		return ST_TRANSPORT;
	return s == ST_UNSUPPORTED ? ST_OK : s;
}

static enum status connect_any(struct rtls_channel *ch, const struct rtls_channel_options *o,
                               uint64_t connect_ns, struct err *e)
{
	const struct session_options options = { .credentials = o->credentials,
		                                 .max_record = MAX_RECORD,
		                                 .host_name = ch->host_name,
		                                 .role = ch->role,
		                                 .name = ch->name,
		                                 .program = o->peer.program,
		                                 .version = o->peer.version };
	const struct lookup_request request = {
		.host = o->peer.host,
		.port = o->peer.port,
		.program = o->peer.program,
		.version = o->peer.version,
	};
	uint64_t deadline = clock_ns(CLOCK_MONOTONIC) + connect_ns;
	struct lookup_result found;
	enum status s;

	lookup_wait(&request, (int)(connect_ns / NS_PER_MS), &found);
	s = err_set(e, ST_PEER_UNREACHABLE, "%s", found.why);
	for (unsigned i = 0; i < found.count && s != ST_OK; i++) {
		const struct lookup_address *a = &found.addresses[i];

		s = session_connect(&ch->session, &options, (const struct sockaddr *)&a->address, a->len, e);
		if (s == ST_OK)
			s = start(&ch->session, deadline, e);
		if (s != ST_OK)
			session_end(&ch->session);
	}
	return s;
}

enum status rtls_channel_open(struct rtls_channel **channel, const struct rtls_channel_options *o,
                              struct err *e)
{
	struct rtls_channel *ch = xcalloc(1, sizeof *ch);
	uint64_t connect_ns = o->connect_ns != 0 ? o->connect_ns : 10 * NS_PER_S;
	struct err why = { .status = ST_OK };
	enum status s;

	pthread_mutex_init(&ch->lock, NULL);
	ch->session.fd = -1;
	ch->self = *rtls_credentials_identity(o->credentials);
	ch->role = xstrdup(o->peer.role);
	ch->name = xstrdup(o->peer.name);
	ch->host_name = xstrdup(o->peer.dns_name != NULL ? o->peer.dns_name : o->peer.host);
	secret_random(&ch->next_xid, sizeof ch->next_xid);
	s = trace_open(&ch->trace, o->trace_path, &why);
	if (s == ST_OK)
		s = connect_any(ch, o, connect_ns, &why);
	if (s == ST_OK)
		s = confirm(ch, &o->peer, connect_ns, &why);
	if (s == ST_OK) {
		*channel = ch;
		return ST_OK;
	}
	rtls_channel_close(ch);
	if (o->peer.port == 0)
		return err_set(e, s, "connecting to %s/%s at %s: %s", o->peer.role, o->peer.name, o->peer.host, why.text);
	return err_set(e, s, "connecting to %s/%s at %s, port %u: %s", o->peer.role, o->peer.name, o->peer.host,
	               o->peer.port, why.text);
}

void rtls_channel_close(struct rtls_channel *ch)
{
	if (ch == NULL)
		return;
	session_end(&ch->session);
	trace_close(ch->trace);
	pthread_mutex_destroy(&ch->lock);
	free(ch->role);
	free(ch->name);
	free(ch->host_name);
	free(ch);
}

void rtls_channel_name_program(struct rtls_channel *ch, const struct rtls_program *program)
{
	pthread_mutex_lock(&ch->lock);
	if (ch->program_count < CHANNEL_PROGRAMS_MAX)
		ch->programs[ch->program_count++] = *program;
	pthread_mutex_unlock(&ch->lock);
}
