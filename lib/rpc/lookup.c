/*
 * lookup.c - DNS and rpcbind, which both may block.
 *
 * The thread shares nothing with the loop but one end of a socket pair: it owns a copy of the
 * request, writes its result into the socket and ends. Cancelling closes the other end.
 */
#include "lookup.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <rpc/rpc.h>
#include <rpc/rpcb_prot.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

enum { RPCBIND_PORT = 111, RPCBIND_TIMEOUT_MS = 3000 };

struct lookup {
	int fd;
	struct event *event;
	lookup_found found;
	void *arg;
};

struct task { /* the thread's own */
	char host[LOOKUP_HOST_MAX + 1];
	struct lookup_request request;
	int fd;
};

/* ---- DNS --------------------------------------------------------------------------------------- */

static void set_port(struct lookup_address *a, uint16_t port)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->address.ss_family == AF_INET6) {
		struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a->address;

		v6->sin6_port = htons(port);
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
		snprintf(a->text, sizeof a->text, "[%s]:%u", host, port);
	} else {
		struct sockaddr_in *v4 = (struct sockaddr_in *)&a->address;

		v4->sin_port = htons(port);
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
		snprintf(a->text, sizeof a->text, "%s:%u", host, port);
	}
}

static void resolve(const struct lookup_request *r, int flags, struct lookup_result *result)
{
	const struct addrinfo hints = { .ai_flags = flags, .ai_socktype = SOCK_STREAM };
	struct addrinfo *list = NULL, *a;
	int failed = getaddrinfo(r->host, NULL, &hints, &list);

	memset(result, 0, sizeof *result);
	if (failed != 0) {
		snprintf(result->why, sizeof result->why, "%s: %s", r->host, gai_strerror(failed));
		return;
	}
	for (a = list; a != NULL && result->count < LOOKUP_ADDRESSES_MAX; a = a->ai_next) {
		struct lookup_address *to = &result->addresses[result->count];

		if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
			continue;
		memcpy(&to->address, a->ai_addr, a->ai_addrlen);
		to->len = a->ai_addrlen;
		set_port(to, r->port);
		result->count++;
	}
	freeaddrinfo(list);
}

bool lookup_numeric(const struct lookup_request *r, struct lookup_result *result)
{
	if (r->port == 0)
		return false;
	resolve(r, AI_NUMERICHOST, result);
	return result->count > 0;
}

/* ---- rpcbind ----------------------------------------------------------------------------------- */

/* A connected blocking socket, or -1 with errno. */
static int connect_within(const struct lookup_address *a, int timeout_ms)
{
	int fd = socket(a->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof error;

	if (fd < 0)
		return -1;
	if (connect(fd, (const struct sockaddr *)&a->address, a->len) != 0) {
		if (errno != EINPROGRESS)
			error = errno;
		else if (poll(&p, 1, timeout_ms) != 1)
			error = ETIMEDOUT;
		else
			getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	}
	if (error == 0 && fcntl(fd, F_SETFL, 0) == 0)
		return fd;
	close(fd);
	errno = error;
	return -1;
}

/* The port is the last two numbers of a universal address: 192.0.2.1.27.88. 0: none. */
static uint16_t universal_port(const char *uaddr)
{
	unsigned high, low;
	const char *p = strrchr(uaddr, '.');

	if (p == NULL || p == uaddr)
		return 0;
	while (--p > uaddr && *p != '.')
		;
	if (sscanf(p, ".%u.%u", &high, &low) != 2 || high > 255 || low > 255)
		return 0;
	return (uint16_t)(high << 8 | low);
}

static enum clnt_stat get_address(int fd, const struct lookup_address *a, const struct lookup_request *r,
                                  int timeout_ms, char **uaddr)
{
	char netid[] = "tcp\0", netid6[] = "tcp6", nothing[] = "";
	struct netbuf at = { .maxlen = a->len, .len = a->len, .buf = (void *)(uintptr_t)&a->address };
	struct rpcb asked = { .r_prog = r->program,
		              .r_vers = r->version,
		              .r_netid = a->address.ss_family == AF_INET6 ? netid6 : netid,
		              .r_addr = nothing,
		              .r_owner = nothing };
	struct timeval timeout = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
	CLIENT *client = clnt_vc_create(fd, &at, RPCBPROG, RPCBVERS4, 0, 0);
	enum clnt_stat stat;

	if (client == NULL)
		return RPC_SYSTEMERROR;
	stat = clnt_call(client, RPCBPROC_GETADDR, (xdrproc_t)xdr_rpcb, (char *)&asked,
	                 (xdrproc_t)xdr_wrapstring, (char *)uaddr, timeout);
	clnt_destroy(client);
	return stat;
}

/* libtirpc writes to the socket without MSG_NOSIGNAL, and this may run in an application's thread. */
static enum clnt_stat get_address_quietly(int fd, const struct lookup_address *a,
                                          const struct lookup_request *r, int timeout_ms, char **uaddr)
{
	static const struct timespec at_once = { 0, 0 };
	sigset_t pipe, before, pending;
	enum clnt_stat stat;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &pipe, &before);
	stat = get_address(fd, a, r, timeout_ms, uaddr);
	if (!sigismember(&pending, SIGPIPE)) /* else it is not ours to take */
		sigtimedwait(&pipe, NULL, &at_once);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return stat;
}

/* Sets the address's port to the registered one; false: *why. */
static bool ask_rpcbind(struct lookup_address *a, const struct lookup_request *r, int timeout_ms, char *why,
                        size_t room)
{
	char *uaddr = NULL;
	enum clnt_stat stat;
	uint16_t port;
	int fd;

	set_port(a, RPCBIND_PORT);
	fd = connect_within(a, timeout_ms);
	if (fd < 0) {
		snprintf(why, room, "rpcbind at %s: %s", a->text, strerror(errno));
		return false;
	}
	stat = get_address_quietly(fd, a, r, timeout_ms, &uaddr);
	close(fd);
	port = stat == RPC_SUCCESS && uaddr != NULL ? universal_port(uaddr) : 0;
	free(uaddr);
	if (port == 0)
		snprintf(why, room, "rpcbind at %s: %s", a->text,
		         stat == RPC_SUCCESS ? "the program is not registered" : clnt_sperrno(stat));
	else
		set_port(a, port);
	return port != 0;
}

void lookup_wait(const struct lookup_request *r, int timeout_ms, struct lookup_result *result)
{
	unsigned kept = 0;

	resolve(r, 0, result);
	if (r->port != 0)
		return;
	for (unsigned i = 0; i < result->count; i++)
		if (ask_rpcbind(&result->addresses[i], r, timeout_ms, result->why, sizeof result->why))
			result->addresses[kept++] = result->addresses[i];
	result->count = kept;
}

/* ---- the thread -------------------------------------------------------------------------------- */

static void *run_task(void *arg)
{
	struct task *t = arg;
	struct lookup_result result;

	lookup_wait(&t->request, RPCBIND_TIMEOUT_MS, &result);
	if (send(t->fd, &result, sizeof result, MSG_NOSIGNAL) < 0)
		log_debug("nobody waits for the address of %s any more", t->host);
	close(t->fd);
	free(t);
	return NULL;
}

static void answered(evutil_socket_t fd, short what, void *arg)
{
	struct lookup *l = arg;
	struct lookup_result result = { .count = 0 };
	lookup_found found = l->found;
	void *found_arg = l->arg;
	ssize_t n = recv(fd, &result, sizeof result, 0);

	(void)what;
	if (n != (ssize_t)sizeof result) {
		result.count = 0;
		snprintf(result.why, sizeof result.why, "the lookup ended without a result");
	}
	lookup_cancel(l);
	found(&result, found_arg);
}

static bool start_thread(const struct lookup_request *r, int fd)
{
	struct task *t = xcalloc(1, sizeof *t);
	pthread_attr_t attributes;
	pthread_t thread;
	int failed;

	strncpy(t->host, r->host, LOOKUP_HOST_MAX);
	t->request = *r;
	t->request.host = t->host;
	t->fd = fd;
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	failed = pthread_create(&thread, &attributes, run_task, t);
	pthread_attr_destroy(&attributes);
	if (failed != 0)
		free(t);
	return failed == 0;
}

struct lookup *lookup_start(struct event_base *base, const struct lookup_request *r, lookup_found found,
                            void *arg)
{
	struct lookup *l;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return NULL;
	l = xcalloc(1, sizeof *l);
	l->fd = pair[0];
	l->found = found;
	l->arg = arg;
	l->event = event_new(base, l->fd, EV_READ, answered, l);
	if (l->event == NULL || event_add(l->event, NULL) != 0)
		log_fatal("no memory for a lookup");
	if (!start_thread(r, pair[1]))
		close(pair[1]); /* reads as an end without a result */
	return l;
}

void lookup_cancel(struct lookup *l)
{
	if (l == NULL)
		return;
	event_free(l->event);
	close(l->fd);
	free(l);
}
