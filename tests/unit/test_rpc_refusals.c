/* test_rpc_refusals.c - what a hostile or a wrong peer meets: a refusal in the words of RFC 5531 and RFC 9289, or a closed
 * connection, and everybody else served meanwhile. */
#include "echo_ends.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "message.h"

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

/* ---- a peer that may do anything --------------------------------------------------------------- */

struct raw {
	int fd;
	SSL_CTX *context;
	SSL *ssl;
	uint8_t answer[512];
	int len; /* of the answer; 0: the connection was closed */
};

/* From 127.0.0.1, or, with another number, another of this machine's own addresses. */
static void raw_connect_from(struct raw *r, const struct background *g, unsigned number)
{
	struct sockaddr_in at = { .sin_family = AF_INET }, from = at;
	struct timeval patience = { PATIENCE_NS / NS_PER_S, 0 };

	memset(r, 0, sizeof *r);
	at.sin_port = htons(rtls_port(g->b.bob.ep));
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	from.sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + number);
	r->fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	assert_int_equal(bind(r->fd, (struct sockaddr *)&from, sizeof from), 0);
	assert_int_equal(connect(r->fd, (struct sockaddr *)&at, sizeof at), 0);
}

static void raw_connect(struct raw *r, const struct background *g)
{
	raw_connect_from(r, g, 1);
}

static void raw_close(struct raw *r)
{
	SSL_free(r->ssl);
	SSL_CTX_free(r->context);
	close(r->fd);
}

static void raw_send(struct raw *r, const void *p, size_t len)
{
	if (r->ssl != NULL)
		SSL_write(r->ssl, p, (int)len);
	else if (send(r->fd, p, len, MSG_NOSIGNAL) < 0)
		assert_true(errno == EPIPE || errno == ECONNRESET);
}

/* What comes next; len 0: the connection was closed. Fails after a long time without either. */
static void raw_read(struct raw *r)
{
	if (r->ssl != NULL) {
		r->len = SSL_read(r->ssl, r->answer, sizeof r->answer);
		if (r->len < 0)
			assert_int_not_equal(SSL_get_error(r->ssl, r->len), SSL_ERROR_WANT_READ);
	} else {
		r->len = (int)recv(r->fd, r->answer, sizeof r->answer, 0);
		assert_false(r->len < 0 && errno == EAGAIN);
	}
	if (r->len < 0)
		r->len = 0;
}

static void raw_flush_buffer(struct raw *r, struct buffer *b)
{
	raw_send(r, buffer_at(b, 0), buffer_len(b));
	buffer_free(b);
}

static void raw_call(struct raw *r, uint32_t program, uint32_t procedure, uint32_t flavor)
{
	const struct message_call call = { .xid = 5, .program = program, .version = 1, .procedure = procedure,
		                           .flavor = flavor };
	struct buffer b = { .bytes = NULL };
	size_t begun = record_begin(&b);

	message_put_call(&b, &call);
	record_end(&b, begun);
	raw_flush_buffer(r, &b);
	raw_read(r);
}

static void assert_auth_error(const struct raw *r, enum auth_stat why)
{
	assert_int_equal(r->len, 24);
	assert_int_equal(get32(r->answer + 4), 5);
	assert_int_equal(get32(r->answer + 8), REPLY);
	assert_int_equal(get32(r->answer + 12), MSG_DENIED);
	assert_int_equal(get32(r->answer + 16), AUTH_ERROR);
	assert_int_equal(get32(r->answer + 20), why);
}

static void assert_accepted(const struct raw *r, enum accept_stat stat)
{
	assert_true(r->len >= 28);
	assert_int_equal(get32(r->answer + 12), MSG_ACCEPTED);
	assert_int_equal(get32(r->answer + 24), stat);
}

/* Probe and handshake with app1's certificate. false: the server ended it. */
static bool raw_tls(struct raw *r, const struct background *g, bool alpn, int version, const char *file)
{
	static const unsigned char protocol[] = "\6sunrpc";
	char *certificate, *key, *certificate_path, *key_path;
	int done;

	raw_connect(r, g);
	raw_call(r, ECHO, NULLPROC, FLAVOR_AUTH_TLS);
	if (r->len == 0)
		return false;
	assert_int_equal(r->len, 36);
	certificate = xasprintf("%s.crt", file);
	key = xasprintf("%s.key", file);
	certificate_path = test_pki_path(echo_pki, certificate);
	key_path = test_pki_path(echo_pki, key);
	r->context = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_max_proto_version(r->context, version);
	SSL_CTX_use_certificate_file(r->context, certificate_path, SSL_FILETYPE_PEM);
	SSL_CTX_use_PrivateKey_file(r->context, key_path, SSL_FILETYPE_PEM);
	r->ssl = SSL_new(r->context);
	if (alpn)
		SSL_set_alpn_protos(r->ssl, protocol, sizeof protocol - 1);
	SSL_set_fd(r->ssl, r->fd);
	done = SSL_connect(r->ssl);
	free(certificate);
	free(key);
	free(certificate_path);
	free(key_path);
	return done == 1;
}

static bool raw_try_open(struct raw *r, const struct background *g)
{
	rtls_credentials_free(test_pki_credentials(echo_pki, "app", "app1"));
	return raw_tls(r, g, true, TLS1_3_VERSION, "app1");
}

static void raw_open(struct raw *r, const struct background *g)
{
	assert_true(raw_try_open(r, g));
}

static bool still_serves(struct background *g)
{
	struct rtls_credentials *c = test_pki_credentials(echo_pki, "app", "app2");
	echo_args args = { .text = "still" };
	echo_result result = { .text = NULL };
	struct rtls_channel *ch;
	CLIENT *client;
	struct err e;
	bool open = open_channel(g, c, &ch, &e) == ST_OK;

	rtls_credentials_free(c);
	if (!open) {
		print_message("%s\n", e.text);
		return false;
	}
	client = rtls_channel_client(ch, ECHO, ECHO_V1);
	assert_int_equal(echo_now_1(&args, &result, client), RPC_SUCCESS);
	assert_string_equal(result.text, "still");
	clnt_freeres(client, (xdrproc_t)xdr_echo_result, (char *)&result);
	clnt_destroy(client);
	rtls_channel_close(ch);
	return true;
}

static void assert_still_serves(struct background *g)
{
	assert_true(still_serves(g));
}

/* Whether it holds with a time of the server's that is short, or else with a longer one. */
static bool in_some_time(bool (*holds)(uint64_t ns))
{
	for (uint64_t ns = 200 * NS_PER_MS; ns < PATIENCE_NS; ns *= 5)
		if (holds(ns))
			return true;
	return false;
}

/* ---- in cleartext ------------------------------------------------------------------------------ */

static void cleartext_gets_null_and_refusals(void **state)
{
	struct background g;
	struct raw r;

	(void)state;
	background_start(&g, NULL);
	raw_connect(&r, &g);
	raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_NONE);
	assert_accepted(&r, SUCCESS);
	raw_call(&r, ECHO + 1, NULLPROC, FLAVOR_AUTH_NONE);
	assert_accepted(&r, PROG_UNAVAIL);
	raw_call(&r, ECHO, ECHO_NOW, FLAVOR_AUTH_NONE);
	assert_auth_error(&r, AUTH_TOOWEAK);
	raw_call(&r, ECHO, ECHO_NOW, FLAVOR_AUTH_SYS);
	assert_auth_error(&r, AUTH_TOOWEAK);
	raw_call(&r, ECHO, ECHO_NOW, FLAVOR_AUTH_TLS);
	assert_auth_error(&r, AUTH_BADCRED);
	raw_call(&r, ECHO + 1, NULLPROC, FLAVOR_AUTH_TLS);
	assert_int_equal(r.len, 36);
	assert_memory_equal(r.answer + 24, "STARTTLS", 8);
	assert_int_equal(get32(r.answer + 32), PROG_UNAVAIL);
	raw_close(&r);
	assert_int_equal(g.b.bob.calls, 0);
	assert_still_serves(&g);
	background_stop(&g);
}

static void cleartext_calls_are_counted(void **state)
{
	struct background g;
	struct raw r;
	int answered = 0;

	(void)state;
	background_start(&g, NULL);
	raw_connect(&r, &g);
	do
		raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_NONE);
	while (r.len > 0 && ++answered < 100);
	assert_int_equal(answered, 16);
	raw_close(&r);
	background_stop(&g);
}

static void garbage_in_cleartext_ends_the_connection(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
	} garbage[] = {
		{ "GET / HTTP/1.1\r\n\r\n", 18 },
		{ "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11 }, /* a ClientHello without a probe */
		{ "\x00\x00\x00\x00", 4 },                              /* an empty fragment */
		{ "\x80\x00\x00\x00", 4 },                              /* an empty record */
		{ "\xff\xff\xff\xff", 4 },
		{ "\x80\x00\x00\x08\x00\x00\x00\x01\x00\x00\x00\x01", 12 }, /* a reply */
		{ "\x80\x00\x00\x04\x00\x00\x00\x01", 8 },
	};
	struct background g;

	(void)state;
	background_start(&g, NULL);
	for (size_t i = 0; i < ARRAY_LEN(garbage); i++) {
		struct raw r;

		raw_connect(&r, &g);
		raw_send(&r, garbage[i].bytes, garbage[i].len);
		raw_read(&r);
		assert_int_equal(r.len, 0);
		raw_close(&r);
	}
	assert_still_serves(&g);
	background_stop(&g);
}

static void bytes_behind_the_probe_end_the_connection(void **state)
{
	struct buffer b = { .bytes = NULL };
	struct background g;
	struct raw r;

	(void)state;
	background_start(&g, NULL);
	raw_connect(&r, &g);
	message_put_probe(&b, 1, ECHO, 1);
	message_put_probe(&b, 2, ECHO, 1);
	raw_flush_buffer(&r, &b);
	raw_read(&r);
	assert_int_equal(r.len, 0);
	raw_close(&r);
	background_stop(&g);
}

/* false: this machine was slower than who is to be dropped, who did not come so far. */
static bool slow_is_dropped_after(uint64_t ns)
{
	struct background g;
	struct raw silent, slow;
	bool begun;

	background_start(&g, &(struct rtls_options){ .handshake_ns = ns });
	raw_connect(&silent, &g);
	raw_connect(&slow, &g);
	raw_call(&slow, ECHO, NULLPROC, FLAVOR_AUTH_TLS);
	begun = slow.len == 36; /* and no ClientHello follows */
	raw_read(&silent);
	assert_int_equal(silent.len, 0);
	raw_read(&slow);
	assert_int_equal(slow.len, 0);
	raw_close(&silent);
	raw_close(&slow);
	begun = begun && still_serves(&g);
	background_stop(&g);
	return begun;
}

static void who_is_slow_is_dropped(void **state)
{
	(void)state;
	assert_true(in_some_time(slow_is_dropped_after));
}

static void silent_connections_do_not_keep_others_out(void **state)
{
	struct background g;
	struct raw r[40];
	size_t ended = 0;
	char byte;

	(void)state;
	background_start(&g, &(struct rtls_options){ .max_connections = 10 });
	for (size_t i = 0; i < ARRAY_LEN(r); i++)
		raw_connect(&r[i], &g);
	assert_still_serves(&g);
	for (size_t i = 0; i < ARRAY_LEN(r); i++) {
		ended += recv(r[i].fd, &byte, 1, MSG_DONTWAIT) == 0;
		raw_close(&r[i]);
	}
	assert_true(ended >= ARRAY_LEN(r) - 10);
	background_stop(&g);
}

static void one_identity_does_not_keep_others_out(void **state)
{
	struct background g;
	struct raw r[4];

	(void)state;
	background_start(&g, &(struct rtls_options){ .max_connections = 8 });
	for (size_t i = 0; i < ARRAY_LEN(r); i++) {
		raw_open(&r[i], &g);
		raw_call(&r[i], ECHO, NULLPROC, FLAVOR_AUTH_NONE);
		assert_int_equal(r[i].len > 0, i < 2); /* a quarter */
	}
	assert_still_serves(&g);
	for (size_t i = 0; i < ARRAY_LEN(r); i++)
		raw_close(&r[i]);
	background_stop(&g);
}

/* How many come as far as the handshake, one by one from so many addresses, and in what time. */
static unsigned let_in_from(unsigned addresses, uint64_t *ns)
{
	struct background g;
	struct timespec begun, now;
	unsigned n = 0;

	background_start(&g, NULL);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	do {
		struct raw r;

		raw_connect_from(&r, &g, 1 + n++ % addresses);
		raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_TLS);
		raw_close(&r);
		clock_gettime(CLOCK_MONOTONIC, &now);
		*ns = (uint64_t)(now.tv_sec - begun.tv_sec) * NS_PER_S + (uint64_t)now.tv_nsec - (uint64_t)begun.tv_nsec;
	} while (*ns < NS_PER_S);
	background_stop(&g);
	return n;
}

/* As gate.c has it: a handshake costs everybody else a millisecond. */
static void handshakes_have_a_bounded_rate(void **state)
{
	unsigned n;
	uint64_t ns;

	(void)state;
	n = let_in_from(1, &ns);
	assert_in_range(n, 1, 64 + 32 * ns / NS_PER_S + 2);
	n = let_in_from(50, &ns);
	assert_in_range(n, 1, 16 + 200 * ns / NS_PER_S + 2);
}

/* Many wait for their handshakes: who comes from another address need not wait for them. */
static void one_address_does_not_keep_others_out(void **state)
{
	static struct raw r[300];
	struct background g;
	struct raw other;
	unsigned let_in = 0;
	char byte;

	(void)state;
	background_start(&g, NULL);
	for (size_t i = 0; i < ARRAY_LEN(r); i++) {
		struct buffer b = { .bytes = NULL };

		raw_connect(&r[i], &g);
		message_put_probe(&b, 1, ECHO, 1);
		raw_flush_buffer(&r[i], &b);
	}
	raw_connect_from(&other, &g, 2);
	raw_call(&other, ECHO, NULLPROC, FLAVOR_AUTH_TLS);
	assert_int_equal(other.len, 36);
	for (size_t i = 0; i < ARRAY_LEN(r); i++) {
		let_in += recv(r[i].fd, &byte, 1, MSG_DONTWAIT) == 1;
		raw_close(&r[i]);
	}
	assert_in_range(let_in, 1, ARRAY_LEN(r) / 2);
	raw_close(&other);
	background_stop(&g);
}

/* Hundreds that come and go without a word: none of them is anybody's turn, not even at the same address. */
static void who_knocks_and_goes_keeps_nobody_out(void **state)
{
	const struct linger at_once = { .l_onoff = 1 };
	struct background g;
	struct raw other;
	struct timespec begun, now;

	(void)state;
	background_start(&g, NULL);
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (int i = 0; i < 600; i++) {
		struct raw r;

		raw_connect(&r, &g);
		setsockopt(r.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
		raw_close(&r);
	}
	raw_connect(&other, &g);
	raw_call(&other, ECHO, NULLPROC, FLAVOR_AUTH_TLS);
	clock_gettime(CLOCK_MONOTONIC, &now);
	assert_int_equal(other.len, 36);
	assert_in_range(now.tv_sec - begun.tv_sec, 0, 8); /* else 17: their handshakes, 32 a second */
	raw_close(&other);
	background_stop(&g);
}

/* The number that the next one gets: there may be open ones above it. */
static unsigned next_descriptor(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return (unsigned)fd;
}

/* By this process while it waits; both in microseconds. */
static clock_t processor_used_in(unsigned time)
{
	clock_t before = clock();

	usleep(time);
	return (clock() - before) * 1000000 / CLOCKS_PER_SEC;
}

static void without_descriptors_it_waits_and_goes_on(void **state)
{
	struct rlimit before, few;
	struct background g;
	struct raw r;

	(void)state;
	background_start(&g, NULL);
	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	few.rlim_cur = next_descriptor() + 1; /* the client's end, none for the server's */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	raw_connect(&r, &g);
	usleep(50000);
	assert_in_range(processor_used_in(200000), 0, 50000); /* it does not try again and again */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	if (RUNNING_ON_VALGRIND) { /* it closes what is accepted beyond the limit, where the kernel lets it wait */
		raw_close(&r);
		raw_connect(&r, &g);
	}
	raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_NONE); /* the listener is parked for half a second */
	assert_accepted(&r, SUCCESS);
	raw_close(&r);
	background_stop(&g);
}

/* ---- certificates and TLS ---------------------------------------------------------------------- */

/* Whether TLS with it comes so far that a call is answered. */
static bool is_let_in(struct background *g, bool alpn, int version, const char *file)
{
	struct raw r;
	bool in = raw_tls(&r, g, alpn, version, file);

	if (in) {
		raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_NONE);
		in = r.len > 0;
	}
	raw_close(&r);
	return in;
}

static void only_the_right_clients_come_in(void **state)
{
	struct test_pki *other = test_pki_new();
	struct background g;
	char *command;

	(void)state;
	background_start(&g, NULL);
	test_pki_issue(echo_pki, "good", &(struct test_certificate){ .uri = "spiffe://test/app/good" });
	test_pki_issue(echo_pki, "old", &(struct test_certificate){ .uri = "spiffe://test/app/old", .expired = true });
	test_pki_issue(echo_pki, "foreign", &(struct test_certificate){ .uri = "spiffe://elsewhere/app/foreign" });
	test_pki_issue(echo_pki, "nobody", &(struct test_certificate){ .uri = "https://test/app/nobody" });
	test_pki_issue(echo_pki, "odd", &(struct test_certificate){ .uri = "spiffe://test/app/odd/more" });
	test_pki_issue(echo_pki, "double",
	               &(struct test_certificate){ .uri = "spiffe://test/app/one,URI:spiffe://test/km/two" });
	test_pki_issue(echo_pki, "zero", &(struct test_certificate){ .uri = "spiffe://test/app/zero!.example" });
	test_pki_issue(echo_pki, "web", &(struct test_certificate){ .uri = "spiffe://test/app/web",
	                                                            .eku = "serverAuth,clientAuth" });
	test_pki_issue(echo_pki, "server", &(struct test_certificate){ .uri = "spiffe://test/app/server",
	                                                               .eku = "1.3.6.1.5.5.7.3.34" });
	test_pki_issue(other, "stranger", &(struct test_certificate){ .uri = "spiffe://test/app/stranger" });
	command = xasprintf("cp $(dirname %s)/stranger.* $(dirname %s)", test_pki_authority(other),
	                    test_pki_authority(echo_pki));
	assert_int_equal(system(command), 0);
	free(command);
	assert_true(is_let_in(&g, true, TLS1_3_VERSION, "good"));
	assert_false(is_let_in(&g, false, TLS1_3_VERSION, "good")); /* no ALPN */
	assert_false(is_let_in(&g, true, TLS1_2_VERSION, "good"));
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "none")); /* no certificate */
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "old"));
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "foreign"));
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "nobody"));
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "odd"));
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "double"));
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "zero")); /* read as text it is app/zero */
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "web"));
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "server")); /* not for RPC clients */
	assert_false(is_let_in(&g, true, TLS1_3_VERSION, "stranger"));
	assert_still_serves(&g);
	test_pki_free(other);
	background_stop(&g);
}

static void assert_open_fails(struct background *g, const struct rtls_channel_options *base, const char *host,
                              const char *dns_name, const char *name, const char *reason)
{
	struct rtls_channel_options o = *base;
	struct rtls_channel *ch = NULL;
	struct err e;

	o.peer = (struct rtls_peer_options){ .role = "km",
		                             .name = name,
		                             .host = host,
		                             .dns_name = dns_name,
		                             .port = rtls_port(g->b.bob.ep),
		                             .program = ECHO,
		                             .version = ECHO_V1 };
	assert_int_not_equal(rtls_channel_open(&ch, &o, &e), ST_OK);
	assert_null(ch);
	if (strstr(e.text, reason) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", e.text, reason);
}

static void a_client_refuses_the_wrong_server(void **state)
{
	struct test_pki *other = test_pki_new();
	struct rtls_credentials *c = test_pki_credentials(echo_pki, "app", "app1");
	struct rtls_credentials *stranger = test_pki_credentials(other, "app", "app1");
	struct rtls_credentials *mixed = test_pki_load(other, "app1", echo_pki);
	struct background g;

	(void)state;
	background_start(&g, NULL);
	assert_open_fails(&g, &(struct rtls_channel_options){ .credentials = c }, "127.0.0.1", NULL, "carol",
	                  "the peer is km/bob, not km/carol");
	assert_open_fails(&g, &(struct rtls_channel_options){ .credentials = c }, "127.0.0.1", "bob.example", "bob",
	                  "its certificate does not name this host");
	assert_open_fails(&g, &(struct rtls_channel_options){ .credentials = c }, "127.0.0.2", NULL, "bob",
	                  "refused"); /* nobody listens there */
	assert_open_fails(&g, &(struct rtls_channel_options){ .credentials = c }, "127.0.0.1", "127.0.0.9", "bob",
	                  "IP address mismatch: its certificate does not name");
	assert_open_fails(&g, &(struct rtls_channel_options){ .credentials = stranger }, "127.0.0.1", NULL, "bob",
	                  "of an authority that is not trusted here");
	/* the server does not trust this client's authority: only the confirming call shows it */
	assert_open_fails(&g, &(struct rtls_channel_options){ .credentials = mixed }, "127.0.0.1", NULL, "bob",
	                  "refused by the peer: unknown CA: this end's certificate is of an authority");
	assert_still_serves(&g);
	background_stop(&g);
	rtls_credentials_free(c);
	rtls_credentials_free(stranger);
	rtls_credentials_free(mixed);
	test_pki_free(other);
}

/* Servers of the right authority that are not the one that is meant, or not any more. */
static void a_client_refuses_the_right_server_s_likes(void **state)
{
	static const struct {
		struct test_certificate certificate;
		const char *dns_name, *reason;
	} servers[] = {
		{ { .uri = "spiffe://test/km/bob", .expired = true }, NULL, "certificate has expired" },
		{ { .uri = "spiffe://test/app/bob" }, NULL, "the peer is app/bob, not km/bob" },
		{ { .uri = "spiffe://test/km/carol" }, NULL, "the peer is km/carol, not km/bob" },
		{ { .uri = "spiffe://elsewhere/km/bob" }, NULL, "of another trust domain" },
		{ { .uri = "spiffe://test/km/bob", .eku = "1.3.6.1.5.5.7.3.33" }, NULL, "not for RPC servers" },
		{ { .uri = "spiffe://test/km/bob", .dns = "*.lab.example" }, "bob.lab.example", "does not name this host" },
		{ { .uri = "spiffe://test/km/bob", .bare = true }, "bob", "does not name this host" }, /* its subject does */
	};
	struct rtls_credentials *c = test_pki_credentials(echo_pki, "app", "app1");
	const struct rtls_channel_options o = { .credentials = c };
	struct background g;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(servers); i++) {
		test_pki_issue(echo_pki, "bob", &servers[i].certificate);
		background_start(&g, NULL);
		assert_open_fails(&g, &o, "127.0.0.1", servers[i].dns_name, "bob", servers[i].reason);
		background_stop(&g);
	}
	test_pki_issue(echo_pki, "bob", &(struct test_certificate){ .uri = "spiffe://test/km/bob" });
	background_start(&g, NULL);
	assert_still_serves(&g);
	background_stop(&g);
	rtls_credentials_free(c);
}

/* A server that answers one probe: with TLS offered, or not; with more behind, or not. */
struct prober {
	int listener;
	bool offers, adds;
};

static void *answer_probe(void *arg)
{
	const struct prober *p = arg;
	int fd = accept(p->listener, NULL, NULL);
	struct buffer b = { .bytes = NULL };
	uint8_t probe[100];

	if (recv(fd, probe, sizeof probe, 0) > 8) {
		(p->offers ? message_put_starttls : message_put_accepted)(&b, get32(probe + RECORD_MARK_LEN), SUCCESS);
		if (p->adds)
			message_put_accepted(&b, 1, SUCCESS);
		send(fd, buffer_at(&b, 0), buffer_len(&b), MSG_NOSIGNAL);
	}
	while (recv(fd, probe, sizeof probe, 0) > 0)
		;
	close(fd);
	buffer_free(&b);
	return NULL;
}

static void a_client_refuses(bool offers, bool adds, const char *reason)
{
	struct rtls_credentials *c = test_pki_credentials(echo_pki, "app", "app1");
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct prober p = { socket(AF_INET, SOCK_STREAM, 0), offers, adds };
	struct rtls_channel_options o = { .credentials = c };
	socklen_t len = sizeof at;
	struct rtls_channel *ch;
	pthread_t thread;
	struct err e;

	assert_int_equal(bind(p.listener, (struct sockaddr *)&at, sizeof at), 0);
	assert_int_equal(listen(p.listener, 1), 0);
	assert_int_equal(getsockname(p.listener, (struct sockaddr *)&at, &len), 0);
	assert_int_equal(pthread_create(&thread, NULL, answer_probe, &p), 0);
	o.peer = (struct rtls_peer_options){ .role = "km", .name = "bob", .host = "127.0.0.1",
		                             .port = ntohs(at.sin_port), .program = ECHO, .version = ECHO_V1 };
	assert_int_not_equal(rtls_channel_open(&ch, &o, &e), ST_OK);
	if (strstr(e.text, reason) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", e.text, reason);
	pthread_join(thread, NULL);
	close(p.listener);
	rtls_credentials_free(c);
}

/* What somebody between them puts behind the answer would else be taken for what the server says inside TLS. */
static void a_client_refuses_what_is_no_answer_to_its_probe(void **state)
{
	(void)state;
	a_client_refuses(true, true, "bytes behind the answer to the probe");
	a_client_refuses(false, false, "does not offer RPC-with-TLS");
}

static void loose_or_wrong_files_are_refused(void **state)
{
	struct rtls_credentials *c = NULL;
	char *certificate = test_pki_path(echo_pki, "good.crt"), *key = test_pki_path(echo_pki, "good.key");
	char *other_key = test_pki_path(echo_pki, "other.key");
	struct err e;

	(void)state;
	test_pki_issue(echo_pki, "good", &(struct test_certificate){ .uri = "spiffe://test/app/good" });
	test_pki_issue(echo_pki, "other", &(struct test_certificate){ .uri = "spiffe://test/app/other" });
	assert_int_equal(rtls_credentials_load(&c, certificate, key, "/nonexistent", NULL, &e), ST_CONFIGURATION);
	assert_int_equal(rtls_credentials_load(&c, certificate, other_key, test_pki_authority(echo_pki), NULL, &e),
	                 ST_CONFIGURATION);
	assert_non_null(strstr(e.text, "mismatch"));
	assert_int_equal(chmod(key, 0644), 0);
	assert_int_equal(rtls_credentials_load(&c, certificate, key, test_pki_authority(echo_pki), NULL, &e),
	                 ST_CONFIGURATION);
	assert_non_null(strstr(e.text, "chmod"));
	assert_null(c);
	free(certificate);
	free(key);
	free(other_key);
}

/* ---- inside TLS -------------------------------------------------------------------------------- */

static void inside_tls_calls_are_refused_in_order(void **state)
{
	struct background g;
	struct raw r;

	(void)state;
	background_start(&g, NULL);
	raw_open(&r, &g);
	raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_TLS);
	assert_auth_error(&r, AUTH_BADCRED);
	raw_call(&r, ECHO, ECHO_NOW, FLAVOR_AUTH_TLS);
	assert_auth_error(&r, AUTH_BADCRED);
	raw_call(&r, ECHO, ECHO_NOW, 6);
	assert_auth_error(&r, AUTH_REJECTEDCRED);
	raw_call(&r, ECHO, ECHO_FORBIDDEN, FLAVOR_AUTH_SYS);
	assert_auth_error(&r, AUTH_FAILED);
	raw_call(&r, ECHO + 1, 1, FLAVOR_AUTH_NONE);
	assert_accepted(&r, PROG_UNAVAIL);
	raw_call(&r, ECHO, 200, FLAVOR_AUTH_NONE);
	assert_accepted(&r, PROC_UNAVAIL);
	raw_call(&r, ECHO, ECHO_NOW, FLAVOR_AUTH_NONE); /* without arguments */
	assert_accepted(&r, GARBAGE_ARGS);
	raw_call(&r, ECHO, ECHO_SILENT, FLAVOR_AUTH_NONE);
	assert_accepted(&r, GARBAGE_ARGS);
	raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_SYS);
	assert_accepted(&r, SUCCESS);
	raw_close(&r);
	background_stop(&g);
}

static void a_version_that_is_not_served_is_told_which_are(void **state)
{
	static const uint8_t wrong_version[] = { 0x80, 0, 0, 40, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0x20, 0x41, 0x6f, 0xf0,
		                                 0, 0, 0, 9 /* version */, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		                                 0, 0, 0, 0, 0, 0 };
	uint8_t wrong_rpc[sizeof wrong_version];
	struct background g;
	struct raw r;

	(void)state;
	background_start(&g, NULL);
	raw_open(&r, &g);
	raw_send(&r, wrong_version, sizeof wrong_version);
	raw_read(&r);
	assert_accepted(&r, PROG_MISMATCH);
	assert_int_equal(get32(r.answer + 28), 1);
	assert_int_equal(get32(r.answer + 32), 1);
	memcpy(wrong_rpc, wrong_version, sizeof wrong_rpc);
	wrong_rpc[15] = 3;
	raw_send(&r, wrong_rpc, sizeof wrong_rpc);
	raw_read(&r);
	assert_int_equal(get32(r.answer + 12), MSG_DENIED);
	assert_int_equal(get32(r.answer + 16), RPC_MISMATCH);
	raw_close(&r);
	background_stop(&g);
}

static void garbage_inside_tls_ends_the_connection(void **state)
{
	static const char *const garbage[] = {
		"\xff\xff\xff\xff", "\x80\x20\x00\x01", "\x80\x00\x00\x04zzzz", "\x80\x00\x00\x0c" "abcd\x00\x00\x00\x07" "efgh",
		"\x80\x00\x00\x0c" "abcd\x00\x00\x00\x01" "efgh",
	};
	static const size_t lengths[] = { 4, 4, 8, 16, 16 };
	struct background g;
	uint8_t fragment[8] = { 0, 0, 0, 4 };

	(void)state;
	background_start(&g, NULL);
	for (size_t i = 0; i <= ARRAY_LEN(garbage); i++) {
		struct raw r;

		raw_open(&r, &g);
		if (i < ARRAY_LEN(garbage))
			raw_send(&r, garbage[i], lengths[i]);
		for (int n = 0; i == ARRAY_LEN(garbage) && n < 300; n++)
			raw_send(&r, fragment, sizeof fragment); /* never the last one */
		raw_read(&r);
		assert_int_equal(r.len, 0);
		raw_close(&r);
	}
	assert_still_serves(&g);
	background_stop(&g);
}

static void a_reply_to_nothing_is_ignored(void **state)
{
	struct buffer b = { .bytes = NULL };
	struct background g;
	struct raw r;

	(void)state;
	background_start(&g, NULL);
	raw_open(&r, &g);
	message_put_accepted(&b, 99, SUCCESS);
	raw_flush_buffer(&r, &b);
	raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_NONE);
	assert_accepted(&r, SUCCESS);
	raw_close(&r);
	background_stop(&g);
}

static void a_begun_record_has_a_deadline(void **state)
{
	struct background g;
	struct raw r;

	(void)state;
	background_start(&g, &(struct rtls_options){ .record_ns = 200 * NS_PER_MS });
	raw_open(&r, &g);
	raw_send(&r, "\x80\x00\x00\x28" "abcd", 8);
	raw_read(&r);
	assert_int_equal(r.len, 0);
	raw_close(&r);
	background_stop(&g);
}

static bool idle_is_dropped_after(uint64_t ns)
{
	struct background g;
	struct raw r;
	bool called;

	background_start(&g, &(struct rtls_options){ .idle_ns = ns });
	called = raw_try_open(&r, &g);
	if (called) {
		raw_call(&r, ECHO, NULLPROC, FLAVOR_AUTH_NONE);
		called = r.len > 0;
	}
	if (called) {
		assert_accepted(&r, SUCCESS);
		raw_read(&r);
		assert_int_equal(r.len, 0);
	}
	raw_close(&r);
	background_stop(&g);
	return called;
}

static void who_is_idle_is_dropped(void **state)
{
	(void)state;
	assert_true(in_some_time(idle_is_dropped_after));
}

/* Another attempt to write what there was no room for. false: no room again after a while, or the connection is gone. */
static bool raw_write(struct raw *r, const struct buffer *b, bool *gone)
{
	int wrote = SSL_write(r->ssl, buffer_at(b, 0), (int)buffer_len(b));

	*gone = wrote <= 0 && SSL_get_error(r->ssl, wrote) != SSL_ERROR_WANT_WRITE;
	return wrote > 0;
}

/* Calls whose answers are large, and none of the answers is read. */
static void who_does_not_read_is_not_read_and_dropped(void **state)
{
	static char bytes[500000];
	echo_args args = { .text = "flood", .bytes = { sizeof bytes, bytes } };
	const struct message_call call = { .program = ECHO, .version = 1, .procedure = ECHO_NOW };
	struct timeval patience = { 0, 500000 };
	struct buffer b = { .bytes = NULL };
	struct buffer_xdr x;
	struct background g;
	struct raw r;
	size_t begun = record_begin(&b);
	unsigned n = 0, stopped = 0;
	bool gone = false;

	(void)state;
	message_put_call(&b, &call);
	buffer_xdr_init(&x, &b, 1000000);
	assert_true(xdr_echo_args(&x.xdr, &args));
	record_end(&b, begun);
	background_start(&g, &(struct rtls_options){ .record_ns = 2 * NS_PER_S, .output_high_water = 1000000 });
	raw_open(&r, &g);
	setsockopt(r.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	while (!gone && n < 200 && stopped < 200) {
		if (raw_write(&r, &b, &gone))
			n++;
		else if (!gone && stopped++ == 0)
			assert_still_serves(&g);
	}
	assert_in_range(n, 1, 100); /* the server stopped reading */
	assert_true(gone);
	assert_still_serves(&g);
	raw_close(&r);
	buffer_free(&b);
	background_stop(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cleartext_gets_null_and_refusals),
		cmocka_unit_test(cleartext_calls_are_counted),
		cmocka_unit_test(garbage_in_cleartext_ends_the_connection),
		cmocka_unit_test(bytes_behind_the_probe_end_the_connection),
		cmocka_unit_test(who_is_slow_is_dropped),
		cmocka_unit_test(silent_connections_do_not_keep_others_out),
		cmocka_unit_test(one_identity_does_not_keep_others_out),
		cmocka_unit_test(handshakes_have_a_bounded_rate),
		cmocka_unit_test(who_knocks_and_goes_keeps_nobody_out),
		cmocka_unit_test(one_address_does_not_keep_others_out),
		cmocka_unit_test(without_descriptors_it_waits_and_goes_on),
		cmocka_unit_test(only_the_right_clients_come_in),
		cmocka_unit_test(a_client_refuses_the_wrong_server),
		cmocka_unit_test(a_client_refuses_the_right_server_s_likes),
		cmocka_unit_test(a_client_refuses_what_is_no_answer_to_its_probe),
		cmocka_unit_test(loose_or_wrong_files_are_refused),
		cmocka_unit_test(inside_tls_calls_are_refused_in_order),
		cmocka_unit_test(a_version_that_is_not_served_is_told_which_are),
		cmocka_unit_test(garbage_inside_tls_ends_the_connection),
		cmocka_unit_test(a_reply_to_nothing_is_ignored),
		cmocka_unit_test(a_begun_record_has_a_deadline),
		cmocka_unit_test(who_is_idle_is_dropped),
		cmocka_unit_test(who_does_not_read_is_not_read_and_dropped),
	};

	signal(SIGPIPE, SIG_IGN); /* OpenSSL's own socket BIO, in the raw peer; lib/rpc's does not need it */
	return cmocka_run_group_tests(tests, echo_start, echo_stop);
}
