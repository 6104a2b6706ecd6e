/* endpoint.c - programs, rights, listeners. */
#include "endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "env_event.h"

enum { ACCEPTS_PER_WAKEUP = 16, ANSWERS_A_TURN = 8, LISTEN_BACKLOG = 1024 };

/* How long nothing is accepted: out of descriptors or of memory, or at more than the bounded rate. */
#define EXHAUSTED_NS (500 * NS_PER_MS)
#define HURRIED_NS (10 * NS_PER_MS)

static void set_defaults(struct rtls_options *o)
{
	if (o->max_record == 0)
		o->max_record = 2 * 1024 * 1024;
	if (o->output_high_water == 0)
		o->output_high_water = 4 * 1024 * 1024;
	if (o->max_connections == 0)
		o->max_connections = 1000;
	if (o->max_per_identity == 0)
		o->max_per_identity = (o->max_connections + 3) / 4;
	if (o->max_unanswered == 0)
		o->max_unanswered = 4096;
	if (o->handshake_ns == 0)
		o->handshake_ns = 10 * NS_PER_S;
	if (o->record_ns == 0)
		o->record_ns = 30 * NS_PER_S;
}

static struct rtls_conn *next_to_flush(struct flush_list *list)
{
	struct rtls_conn *conn = list->first;

	if (conn != NULL) {
		list->first = conn->flush_next;
		conn->flush_is_due = false;
	}
	return conn;
}

/* Calls first: this end, and who waits for it, waits for their answers. Of many answers some wait for the next turn:
 * what has come meanwhile is not to wait behind them all. */
static void flush_some(evutil_socket_t fd, short what, void *arg)
{
	const struct timeval next_turn = { .tv_sec = 0 };
	struct rtls_endpoint *ep = arg;
	struct rtls_conn *conn;

	(void)fd;
	(void)what;
	while ((conn = next_to_flush(&ep->dialled_flush)) != NULL) {
		traffic_flush(conn);
		conn_release(conn);
	}
	for (int n = 0; n < ANSWERS_A_TURN && (conn = next_to_flush(&ep->accepted_flush)) != NULL; n++) {
		traffic_flush(conn);
		conn_release(conn);
	}
	if (ep->accepted_flush.first != NULL)
		evtimer_add(ep->flush_event, &next_turn);
}

/* Whoever hears of a failed call hears it in a turn of its own. */
static void run_failed(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	call_run_failed(arg);
}

enum status rtls_endpoint_new(struct rtls_endpoint **ep, struct env *env, struct rtls_credentials *c,
                              const struct rtls_options *o, struct err *e)
{
	struct rtls_endpoint *fresh = xcalloc(1, sizeof *fresh);
	enum status s = trace_open(&fresh->trace, o != NULL ? o->trace_path : NULL, e);

	if (s != ST_OK) {
		free(fresh);
		return s;
	}
	fresh->env = env;
	fresh->base = env_event_base(env);
	fresh->credentials = tls_credentials_ref(c);
	fresh->self = *rtls_credentials_identity(c);
	if (o != NULL)
		fresh->options = *o;
	set_defaults(&fresh->options);
	fresh->options.trace_path = NULL; /* the caller's */
	deadlines_init(&fresh->deadlines, env);
	fresh->flush_event = evtimer_new(fresh->base, flush_some, fresh);
	fresh->failed_event = evtimer_new(fresh->base, run_failed, fresh);
	if (fresh->flush_event == NULL || fresh->failed_event == NULL)
		log_fatal("no memory for an endpoint");
	turn_init(fresh);
	fresh->failed_last = &fresh->failed;
	env_random(env, &fresh->next_xid, sizeof fresh->next_xid);
	fresh->limit = (struct log_limit){ .interval_ns = NS_PER_S / 2, .burst = 20 };
	gate_init(fresh);
	*ep = fresh;
	return ST_OK;
}

static void listeners_free(struct rtls_endpoint *ep)
{
	struct listener *l, *next;

	for (l = ep->listeners; l != NULL; l = next) {
		next = l->next;
		deadline_clear(&ep->deadlines, &l->parked);
		event_free(l->event);
		close(l->fd);
		free(l);
	}
	ep->listeners = NULL;
}

static void programs_free(struct rtls_endpoint *ep)
{
	struct program *p, *next;

	for (p = ep->programs; p != NULL; p = next) {
		next = p->next;
		free(p->rights);
		free(p);
	}
}

static void conns_free(struct rtls_endpoint *ep)
{
	struct rtls_conn *c;

	while (ep->conns != NULL)
		conn_close(ep->conns, "the endpoint ends");
	while ((c = next_to_flush(&ep->dialled_flush)) != NULL || (c = next_to_flush(&ep->accepted_flush)) != NULL)
		conn_release(c);
}

void rtls_endpoint_free(struct rtls_endpoint *ep)
{
	if (ep == NULL)
		return;
	ep->watch = NULL;
	rpcbind_withdraw(ep);
	listeners_free(ep);
	peers_free(ep);
	conns_free(ep);
	gate_free(ep);
	call_run_failed(ep);
	parties_orphan(ep);
	event_free(ep->flush_event);
	event_free(ep->failed_event);
	event_free(ep->turn.event);
	deadlines_free(&ep->deadlines);
	programs_free(ep);
	trace_close(ep->trace);
	rtls_credentials_free(ep->credentials);
	log_limit_end(&ep->limit, "connections");
	free(ep);
}

static void close_revoked(struct rtls_endpoint *ep)
{
	struct rtls_conn *conn, *next;

	for (conn = ep->conns; conn != NULL; conn = next) {
		next = conn->next;
		if (conn->session.phase == SESSION_OPEN && tls_peer_is_revoked(conn->session.tls, ep->credentials))
			conn_close(conn, "its certificate was revoked");
	}
}

void rtls_set_credentials(struct rtls_endpoint *ep, struct rtls_credentials *c)
{
	struct rtls_credentials *old = ep->credentials;
	const struct rtls_identity *id = rtls_credentials_identity(c);

	if (strcmp(id->domain, ep->self.domain) != 0 || strcmp(id->role, ep->self.role) != 0 ||
	    strcmp(id->name, ep->self.name) != 0) {
		log_error("the new certificate is for %s/%s of %s, not for %s/%s of %s; the old one stays",
		          id->role, id->name, id->domain, ep->self.role, ep->self.name, ep->self.domain);
		return;
	}
	ep->credentials = tls_credentials_ref(c);
	rtls_credentials_free(old);
	close_revoked(ep);
}

void rtls_watch_conns(struct rtls_endpoint *ep, rtls_watch watch, void *arg)
{
	ep->watch = watch;
	ep->watch_arg = arg;
}

void endpoint_warn(struct rtls_endpoint *ep, const char *fmt, ...)
{
	char text[512];
	unsigned held_back;
	va_list ap;

	if (!log_limit_pass(&ep->limit, env_mono(ep->env), &held_back))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (held_back > 0)
		log_warning("%s (and %u such lines before it were held back)", text, held_back);
	else
		log_warning("%s", text);
}

/* ---- programs and rights ----------------------------------------------------------------------- */

uint64_t endpoint_role_bit(struct rtls_endpoint *ep, const char *role, size_t len)
{
	unsigned i;

	for (i = 0; i < ep->role_count; i++)
		if (strlen(ep->roles[i]) == len && memcmp(ep->roles[i], role, len) == 0)
			return UINT64_C(1) << i;
	if (i == ROLES_MAX || len > RTLS_ROLE_MAX)
		return 0;
	memcpy(ep->roles[i], role, len);
	ep->role_count++;
	return UINT64_C(1) << i;
}

static uint64_t role_bits(struct rtls_endpoint *ep, const char *roles)
{
	uint64_t bits = 0;

	for (size_t len; *(roles += strspn(roles, " ")) != '\0'; roles += len) {
		len = strcspn(roles, " ");
		bits |= endpoint_role_bit(ep, roles, len);
	}
	return bits;
}

void rtls_add_program(struct rtls_endpoint *ep, const struct rtls_program *program, void *context)
{
	struct program *p = xcalloc(1, sizeof *p);

	p->is = *program;
	p->context = context;
	for (const struct rtls_procedure *q = program->procedures; q != NULL && q->request != NULL; q++) {
		if (q->number >= PROCEDURES_MAX)
			log_fatal("procedure %u of program 0x%x is beyond what a table may hold", q->number,
			          program->number);
		if (q->number >= p->count)
			p->count = q->number + 1;
	}
	p->rights = xcalloc(p->count, sizeof *p->rights);
	for (const struct rtls_procedure *q = program->procedures; q != NULL && q->request != NULL; q++) {
		p->rights[q->number].procedure = q;
		p->rights[q->number].roles = q->roles != NULL ? role_bits(ep, q->roles) : 0;
	}
	p->next = ep->programs;
	ep->programs = p;
}

void rtls_name_calls(struct rtls_endpoint *ep, uint32_t program, uint32_t version, uint32_t procedure,
                     rtls_call_name name)
{
	struct program *p = endpoint_program(ep, program, version);

	if (p != NULL && procedure < p->count)
		p->rights[procedure].name = name;
}

const char *right_call_name(const struct right *r, const uint8_t *args, size_t len)
{
	return r->name != NULL ? r->name(args, len) : r->procedure->request;
}

struct program *endpoint_program(struct rtls_endpoint *ep, uint32_t number, uint32_t version)
{
	struct program *p;

	for (p = ep->programs; p != NULL; p = p->next)
		if (p->is.number == number && p->is.version == version)
			return p;
	return NULL;
}

struct program *endpoint_served(struct rtls_endpoint *ep, uint32_t number, uint32_t version, uint32_t *low,
                                uint32_t *high)
{
	*low = UINT32_MAX;
	*high = 0;
	for (struct program *p = ep->programs; p != NULL; p = p->next) {
		if (p->is.number != number || p->is.dispatch == NULL)
			continue;
		if (p->is.version == version)
			return p;
		*low = p->is.version < *low ? p->is.version : *low;
		*high = p->is.version > *high ? p->is.version : *high;
	}
	return NULL;
}

/* ---- listeners --------------------------------------------------------------------------------- */

static void address_text(const struct sockaddr_storage *address, char text[ADDRESS_TEXT_MAX])
{
	char host[INET6_ADDRSTRLEN] = "?";
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;

	if (address->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
		snprintf(text, ADDRESS_TEXT_MAX, "[%s]:%u", host, ntohs(v6->sin6_port));
	} else {
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
		snprintf(text, ADDRESS_TEXT_MAX, "%s:%u", host, ntohs(v4->sin_port));
	}
}

static void unpark(struct deadline *d)
{
	struct listener *l = container_of(d, struct listener, parked);

	event_add(l->event, NULL);
}

static void park(struct listener *l, uint64_t ns)
{
	event_del(l->event);
	deadline_set(&l->ep->deadlines, &l->parked, ns);
}

static bool makes_room(struct rtls_endpoint *ep)
{
	struct rtls_conn *c;

	if (ep->conn_count < ep->options.max_connections)
		return true;
	c = gate_who_makes_room(ep);
	if (c != NULL)
		conn_close(c, "others want its place, and it has not shown who it is");
	return c != NULL;
}

static void take(struct rtls_endpoint *ep, int fd, const struct sockaddr_storage *from)
{
	char text[ADDRESS_TEXT_MAX];

	address_text(from, text);
	if (makes_room(ep)) {
		conn_accept(ep, fd, from, text);
		return;
	}
	endpoint_warn(ep, "refused a connection from %s: %u are open, which is the limit", text, ep->conn_count);
	close(fd);
}

static void accept_some(evutil_socket_t fd, short what, void *arg)
{
	struct listener *l = arg;

	(void)what;
	for (int i = 0; i < ACCEPTS_PER_WAKEUP; i++) {
		struct sockaddr_storage from;
		socklen_t len = sizeof from;
		int got;

		if (!gate_lets_accept(l->ep)) {
			park(l, HURRIED_NS);
			return;
		}
		got = accept4(fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (got < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
			/* accepting again at once would only spin */
			endpoint_warn(l->ep, "accepting connections: %s; trying again in half a second",
			              strerror(errno));
			park(l, EXHAUSTED_NS);
			return;
		}
		if (got >= 0) /* else that connection is gone already */
			take(l->ep, got, &from);
	}
}

/* Splits "host:port" or "[host]:port". */
static bool split_address(const char *address, char *host, size_t room, const char **port)
{
	const char *colon = strrchr(address, ':');
	size_t len = colon != NULL ? (size_t)(colon - address) : 0;

	if (len >= 2 && address[0] == '[' && address[len - 1] == ']') {
		address++;
		len -= 2;
	}
	if (len == 0 || len >= room)
		return false;
	memcpy(host, address, len);
	host[len] = '\0';
	*port = colon + 1;
	return true;
}

static int listen_at(const struct addrinfo *a)
{
	static const int on = 1;
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, LISTEN_BACKLOG) != 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

enum status rtls_listen(struct rtls_endpoint *ep, const char *address, struct err *e)
{
	const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
		                        .ai_socktype = SOCK_STREAM };
	struct addrinfo *a;
	struct listener *l, **last = &ep->listeners;
	socklen_t len = sizeof l->address;
	char host[128];
	const char *port;
	int fd;

	if (!split_address(address, host, sizeof host, &port) || getaddrinfo(host, port, &hints, &a) != 0)
		return err_set(e, ST_CONFIGURATION,
		               "listening at %s: not an address and port like 192.0.2.1:7001 or [::1]:7001",
		               address);
	fd = listen_at(a);
	freeaddrinfo(a);
	if (fd < 0)
		return err_set(e, ST_CONFIGURATION, "listening at %s: %s", address, strerror(errno));
	l = xcalloc(1, sizeof *l);
	l->ep = ep;
	l->fd = fd;
	l->parked.passed = unpark;
	getsockname(fd, (struct sockaddr *)&l->address, &len);
	l->event = event_new(ep->base, fd, EV_READ | EV_PERSIST, accept_some, l);
	if (l->event == NULL || event_add(l->event, NULL) != 0)
		log_fatal("no memory for a listener");
	while (*last != NULL)
		last = &(*last)->next;
	*last = l;
	return ST_OK;
}

uint16_t rtls_port(const struct rtls_endpoint *ep)
{
	const struct listener *l = ep->listeners;

	if (l == NULL)
		return 0;
	if (l->address.ss_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)&l->address)->sin6_port);
	return ntohs(((const struct sockaddr_in *)&l->address)->sin_port);
}
