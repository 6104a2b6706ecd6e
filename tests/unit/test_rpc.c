/* test_rpc.c - calls in both directions over real sockets and real TLS: endpoints, peers, channels, trace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "echo.h"
#include "env_event.h"
#include "log.h"
#include "rtls.h"
#include "secret.h"
#include "test_pki.h"

static struct test_pki *pki;

/* ---- the program's server ---------------------------------------------------------------------- */

void echo_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

struct server {
	struct env *env;
	struct rtls_endpoint *ep;
	struct rtls_deferred *held; /* of ECHO_NEVER */
	unsigned calls;
	char last_caller[NAME_MAX_LEN + 1];
};

static const struct rtls_procedure echo_procedures[] = {
	{ ECHO_NOW, "Echo request", "Response to echo request", "km app" },
	{ ECHO_LATER, "Late echo request", "Response to late echo request", "km app" },
	{ ECHO_NEVER, "Endless request", "Response to endless request", "app km" },
	{ ECHO_FORBIDDEN, "Forbidden request", "Response to forbidden request", "manager" },
	{ ECHO_SILENT, "Silent request", "Response to silent request", "app" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_program echo_program = {
	.number = ECHO,
	.version = ECHO_V1,
	.reference_point = "Ex",
	.dispatch = echo_1,
	.procedures = echo_procedures,
	.traced = true,
};

static void fill(echo_result *result, const echo_args *args)
{
	memset(result, 0, sizeof *result);
	result->text = strdup(args->text);
	result->bytes.bytes_len = args->bytes.bytes_len;
	result->bytes.bytes_val = malloc(args->bytes.bytes_len + 1);
	if (args->bytes.bytes_len > 0)
		memcpy(result->bytes.bytes_val, args->bytes.bytes_val, args->bytes.bytes_len);
	if (strcmp(args->text, "too few") == 0)
		result->status = ST_TOO_FEW_KEYS;
}

bool_t echo_now_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	struct server *s = rtls_context(rq);

	s->calls++;
	snprintf(s->last_caller, sizeof s->last_caller, "%s", rtls_caller(rq)->name);
	fill(result, args);
	return TRUE;
}

struct late {
	struct rtls_deferred *deferred;
	echo_result result;
};

static void reply_late(void *arg)
{
	struct late *late = arg;

	rtls_reply(late->deferred, (xdrproc_t)xdr_echo_result, &late->result);
	free(late);
}

bool_t echo_later_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	struct server *s = rtls_context(rq);
	struct late *late = xcalloc(1, sizeof *late);

	(void)result;
	fill(&late->result, args);
	late->deferred = rtls_defer(rq);
	env_post(s->env, reply_late, late);
	return FALSE;
}

bool_t echo_never_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	struct server *s = rtls_context(rq);

	(void)args;
	(void)result;
	s->held = rtls_defer(rq);
	return FALSE;
}

bool_t echo_forbidden_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	return echo_now_1_svc(args, result, rq);
}

bool_t echo_silent_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	(void)args;
	(void)result;
	(void)rq;
	return FALSE;
}

int echo_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- two ends in one loop ----------------------------------------------------------------------------- */

struct both {
	struct env *env;
	struct env_timer *timer;
	struct server alice, bob;
	struct rtls_peer *peer; /* alice's connection to bob */
	int waiting;
	enum status status;
	char text[80];
	size_t bytes;
	bool timed_out;
};

static void give_up(void *arg)
{
	struct both *b = arg;

	b->timed_out = true;
	env_event_stop(b->env);
}

static void run(struct both *b)
{
	b->timed_out = false;
	env_timer_set(b->env, b->timer, 5 * NS_PER_S);
	env_event_run(b->env);
	env_timer_stop(b->env, b->timer);
	assert_false(b->timed_out);
}

static void run_for(struct both *b, uint64_t ns)
{
	env_timer_set(b->env, b->timer, ns);
	env_event_run(b->env);
}

static void server_start(struct server *s, struct env *env, const char *role, const char *name,
                         const struct rtls_options *o)
{
	struct rtls_credentials *c = test_pki_credentials(pki, role, name);
	struct err e;

	*s = (struct server){ .env = env };
	assert_int_equal(rtls_endpoint_new(&s->ep, env, c, o, &e), ST_OK);
	rtls_credentials_free(c);
	rtls_add_program(s->ep, &echo_program, s);
	if (rtls_listen(s->ep, "127.0.0.1:0", &e) != ST_OK)
		fail_msg("%s", e.text);
}

static void up(struct rtls_conn *conn, bool is_up, void *arg)
{
	struct both *b = arg;

	(void)conn;
	if (is_up && --b->waiting == 0)
		env_event_stop(b->env);
}

static struct rtls_peer *connect_alice_to_bob(struct both *b)
{
	const struct rtls_peer_options o = { .role = "km",
		                             .name = "bob",
		                             .host = "127.0.0.1",
		                             .port = rtls_port(b->bob.ep),
		                             .program = ECHO,
		                             .version = ECHO_V1 };

	return rtls_peer_new(b->alice.ep, &o);
}

static void both_start(struct both *b, const struct rtls_options *o)
{
	memset(b, 0, sizeof *b);
	b->env = env_event_new();
	assert_non_null(b->env);
	b->timer = env_timer_new(b->env, give_up, b);
	server_start(&b->alice, b->env, "km", "alice", o);
	server_start(&b->bob, b->env, "km", "bob", o);
	rtls_watch_conns(b->alice.ep, up, b);
	rtls_watch_conns(b->bob.ep, up, b);
	b->peer = connect_alice_to_bob(b);
	b->waiting = 2;
	run(b);
}

static void both_stop(struct both *b)
{
	rtls_endpoint_free(b->alice.ep);
	rtls_endpoint_free(b->bob.ep);
	env_timer_free(b->env, b->timer);
	env_event_free(b->env);
}

static void done(enum status s, void *result, void *arg)
{
	struct both *b = arg;
	echo_result *r = result;

	b->status = s;
	b->text[0] = '\0';
	if (s == ST_OK) {
		snprintf(b->text, sizeof b->text, "%s", r->text);
		b->bytes = r->bytes.bytes_len;
	}
	if (--b->waiting == 0)
		env_event_stop(b->env);
}

static struct rtls_call echo_call(struct both *b, uint32_t procedure, echo_args *args)
{
	return (struct rtls_call){ .program = ECHO,
		                   .version = ECHO_V1,
		                   .procedure = procedure,
		                   .xdr_args = (xdrproc_t)xdr_echo_args,
		                   .args = args,
		                   .xdr_result = (xdrproc_t)xdr_echo_result,
		                   .result_size = sizeof(echo_result),
		                   .timeout_ns = NS_PER_S,
		                   .done = done,
		                   .arg = b };
}

static void ask(struct both *b, uint32_t procedure, char *text)
{
	static char bytes[100000];
	echo_args args = { .text = text, .bytes = { sizeof bytes, bytes } };
	struct rtls_call call = echo_call(b, procedure, &args);

	b->waiting = 1;
	rtls_peer_call(b->peer, &call);
	run(b);
}

/* ---- tests ---------------------------------------------------------------------------------------------- */

static void a_call_is_answered_at_once_or_later(void **state)
{
	struct both b;

	(void)state;
	both_start(&b, &(struct rtls_options){ .max_record = 0 });
	assert_true(rtls_peer_is_up(b.peer));
	ask(&b, ECHO_NOW, "hello");
	assert_int_equal(b.status, ST_OK);
	assert_string_equal(b.text, "hello");
	assert_int_equal(b.bytes, 100000);
	assert_string_equal(b.bob.last_caller, "alice");
	ask(&b, ECHO_LATER, "later");
	assert_int_equal(b.status, ST_OK);
	assert_string_equal(b.text, "later");
	both_stop(&b);
}

static void the_accepting_side_calls_back(void **state)
{
	echo_args args = { .text = "reverse" };
	struct rtls_conn *conn;
	struct rtls_call call;
	struct both b;

	(void)state;
	both_start(&b, &(struct rtls_options){ .max_record = 0 });
	conn = rtls_find_conn(b.bob.ep, "km", "alice");
	assert_non_null(conn);
	assert_null(rtls_find_conn(b.bob.ep, "app", "alice"));
	call = echo_call(&b, ECHO_LATER, &args);
	b.waiting = 1;
	rtls_call(conn, &call);
	run(&b);
	assert_int_equal(b.status, ST_OK);
	assert_string_equal(b.text, "reverse");
	both_stop(&b);
}

static void refusals_have_their_statuses(void **state)
{
	echo_args args = { .text = "" };
	struct rtls_call call;
	struct both b;

	(void)state;
	both_start(&b, &(struct rtls_options){ .max_record = 0 });
	ask(&b, ECHO_FORBIDDEN, "no");
	assert_int_equal(b.status, ST_DENIED);
	assert_int_equal(b.bob.calls, 0);
	ask(&b, 77, "no such procedure");
	assert_int_equal(b.status, ST_UNSUPPORTED);
	call = echo_call(&b, ECHO_NOW, &args);
	call.program++;
	b.waiting = 1;
	rtls_peer_call(b.peer, &call);
	run(&b);
	assert_int_equal(b.status, ST_UNSUPPORTED);
	call.program--;
	call.xdr_args = (xdrproc_t)xdr_bool; /* too short for the real ones */
	b.waiting = 1;
	rtls_peer_call(b.peer, &call);
	run(&b);
	assert_int_equal(b.status, ST_BAD_REQUEST);
	both_stop(&b);
}

static void a_call_times_out_and_a_late_reply_is_dropped(void **state)
{
	echo_result late = { .text = strdup("late") };
	struct both b;

	(void)state;
	both_start(&b, &(struct rtls_options){ .max_record = 0 });
	ask(&b, ECHO_NEVER, "never");
	assert_int_equal(b.status, ST_TIMED_OUT);
	assert_true(rtls_reply(b.bob.held, (xdrproc_t)xdr_echo_result, &late));
	assert_null(late.text); /* wiped and freed */
	ask(&b, ECHO_NOW, "still here");
	assert_int_equal(b.status, ST_OK);
	both_stop(&b);
}

static void a_lost_connection_fails_its_calls_and_comes_back(void **state)
{
	echo_result late = { .text = strdup("late") };
	struct rtls_deferred *held;
	echo_args args = { .text = "x" };
	struct rtls_call call;
	struct both b;
	uint16_t port;
	char address[32];
	struct err e;

	(void)state;
	both_start(&b, &(struct rtls_options){ .max_record = 0 });
	call = echo_call(&b, ECHO_NEVER, &args);
	b.waiting = 2;
	rtls_peer_call(b.peer, &call);
	run_for(&b, 100 * NS_PER_MS);
	held = b.bob.held;
	assert_non_null(held);
	port = rtls_port(b.bob.ep);
	rtls_endpoint_free(b.bob.ep); /* bob restarts */
	b.waiting = 1;
	run(&b);
	assert_int_equal(b.status, ST_TRANSPORT);
	assert_false(rtls_peer_is_up(b.peer));
	assert_false(rtls_reply(held, (xdrproc_t)xdr_echo_result, &late));
	ask(&b, ECHO_NOW, "nobody there");
	assert_int_equal(b.status, ST_PEER_UNREACHABLE);
	snprintf(address, sizeof address, "127.0.0.1:%u", port);
	server_start(&b.bob, b.env, "km", "bob", &(struct rtls_options){ .max_record = 0 });
	assert_int_equal(rtls_listen(b.bob.ep, address, &e), ST_OK);
	b.waiting = 1; /* alice's watcher */
	run(&b);
	ask(&b, ECHO_NOW, "again");
	assert_int_equal(b.status, ST_OK);
	both_stop(&b);
}

static void many_calls_wait_for_each_other_in_no_order(void **state)
{
	char text[] = "one of many";
	echo_args args = { .text = text };
	struct rtls_call call;
	struct both b;

	(void)state;
	both_start(&b, &(struct rtls_options){ .max_per_peer_calls = 4, .output_high_water = 2000 });
	b.waiting = 3000;
	for (int i = 0; i < 3000; i++) {
		call = echo_call(&b, i % 2 ? ECHO_NOW : ECHO_LATER, &args);
		call.timeout_ns = 4 * NS_PER_S;
		rtls_call(rtls_find_conn(i % 3 ? b.alice.ep : b.bob.ep, "km", i % 3 ? "bob" : "alice"), &call);
		if (i % 10 == 9)
			run_for(&b, 0);
	}
	run(&b);
	assert_int_equal(b.status, ST_OK);
	both_stop(&b);
}

static char *read_trace(const char *path)
{
	static char text[4096];
	FILE *f = fopen(path, "r");
	size_t n;

	assert_non_null(f);
	n = fread(text, 1, sizeof text - 1, f);
	text[n] = '\0';
	fclose(f);
	return text;
}

static void every_message_leaves_a_line(void **state)
{
	char *path = test_pki_path(pki, "trace");
	struct both b;
	char *text;

	(void)state;
	both_start(&b, &(struct rtls_options){ .trace_path = path });
	ask(&b, ECHO_NOW, "too few");
	ask(&b, ECHO_LATER, "well");
	both_stop(&b);
	text = read_trace(path);
	assert_non_null(strstr(text, "\t00000000-0000-0000-0000-000000000000\tEx\tEcho request\tkm/alice\tkm/bob\tsent\t-\n"));
	assert_non_null(strstr(text, "\tEcho request\tkm/alice\tkm/bob\treceived\t-\n"));
	assert_non_null(strstr(text, "\tResponse to echo request\tkm/bob\tkm/alice\tsent\ttoo-few-keys\n"));
	assert_non_null(strstr(text, "\tResponse to echo request\tkm/bob\tkm/alice\treceived\ttoo-few-keys\n"));
	assert_non_null(strstr(text, "\tResponse to late echo request\tkm/bob\tkm/alice\tsent\tok\n"));
	free(path);
}

/* ---- channels --------------------------------------------------------------------------------------------- */

struct background {
	struct both b;
	pthread_t thread;
};

static void *serve(void *arg)
{
	struct background *g = arg;

	env_event_run(g->b.env);
	return NULL;
}

static void stop_serving(void *arg)
{
	struct background *g = arg;

	env_event_stop(g->b.env);
}

static void background_start(struct background *g, const struct rtls_options *o)
{
	memset(g, 0, sizeof *g);
	g->b.env = env_event_new();
	server_start(&g->b.bob, g->b.env, "km", "bob", o);
	assert_int_equal(pthread_create(&g->thread, NULL, serve, g), 0);
}

static void background_stop(struct background *g)
{
	env_post(g->b.env, stop_serving, g);
	pthread_join(g->thread, NULL);
	rtls_endpoint_free(g->b.bob.ep);
	env_event_free(g->b.env);
}

static enum status open_channel(struct background *g, struct rtls_credentials *c, struct rtls_channel **ch, struct err *e)
{
	const struct rtls_channel_options o = { .credentials = c,
		                                .peer = { .role = "km",
		                                          .name = "bob",
		                                          .host = "127.0.0.1",
		                                          .port = rtls_port(g->b.bob.ep),
		                                          .program = ECHO,
		                                          .version = ECHO_V1 } };

	return rtls_channel_open(ch, &o, e);
}

struct user {
	pthread_t thread;
	CLIENT *client;
	int number, good;
};

static void *use(void *arg)
{
	struct user *u = arg;

	for (int i = 0; i < 200; i++) {
		char text[40];
		echo_args args = { .text = text };
		echo_result result;

		memset(&result, 0, sizeof result);
		snprintf(text, sizeof text, "%d of %d", i, u->number);
		if ((i % 2 ? echo_now_1 : echo_later_1)(&args, &result, u->client) == RPC_SUCCESS &&
		    strcmp(result.text, text) == 0)
			u->good++;
		clnt_freeres(u->client, (xdrproc_t)xdr_echo_result, (char *)&result);
	}
	return NULL;
}

static void many_threads_share_a_channel(void **state)
{
	struct rtls_credentials *c = test_pki_credentials(pki, "app", "app1");
	struct background g;
	struct rtls_channel *ch;
	struct user users[8];
	CLIENT *client;
	struct err e;

	(void)state;
	background_start(&g, &(struct rtls_options){ .max_record = 0 });
	if (open_channel(&g, c, &ch, &e) != ST_OK)
		fail_msg("%s", e.text);
	client = rtls_channel_client(ch, ECHO, ECHO_V1);
	for (int i = 0; i < 8; i++) {
		users[i] = (struct user){ .client = client, .number = i };
		assert_int_equal(pthread_create(&users[i].thread, NULL, use, &users[i]), 0);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(users[i].thread, NULL);
		assert_int_equal(users[i].good, 200);
	}
	clnt_destroy(client);
	rtls_channel_close(ch);
	rtls_credentials_free(c);
	background_stop(&g);
}

static void a_channel_tells_why_a_call_failed(void **state)
{
	struct rtls_credentials *c = test_pki_credentials(pki, "app", "app1");
	echo_args args = { .text = "x" };
	echo_result result = { .text = NULL };
	struct timeval short_time = { 0, 50000 };
	struct background g;
	struct rtls_channel *ch;
	CLIENT *client;
	struct err e;

	(void)state;
	background_start(&g, &(struct rtls_options){ .max_record = 0 });
	assert_int_equal(open_channel(&g, c, &ch, &e), ST_OK);
	client = rtls_channel_client(ch, ECHO, ECHO_V1);
	assert_int_equal(echo_forbidden_1(&args, &result, client), RPC_AUTHERROR);
	assert_int_equal(rtls_channel_error(client, &e), ST_DENIED);
	assert_int_equal(echo_silent_1(&args, &result, client), RPC_SYSTEMERROR);
	clnt_control(client, CLSET_TIMEOUT, (char *)&short_time);
	assert_int_equal(echo_never_1(&args, &result, client), RPC_TIMEDOUT);
	assert_int_equal(rtls_channel_error(client, &e), ST_TIMED_OUT);
	assert_int_equal(echo_now_1(&args, &result, client), RPC_SUCCESS);
	clnt_freeres(client, (xdrproc_t)xdr_echo_result, (char *)&result);
	clnt_destroy(client);
	rtls_channel_close(ch);
	rtls_credentials_free(c);
	rtls_reply(g.b.bob.held, (xdrproc_t)xdr_echo_result, &result);
	background_stop(&g);
}

static int start(void **state)
{
	(void)state;
	log_open("test_rpc", getenv("QKDN_TEST_LOG") != NULL ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	pki = test_pki_new();
	return 0;
}

static int stop(void **state)
{
	(void)state;
	test_pki_free(pki);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_call_is_answered_at_once_or_later),
		cmocka_unit_test(the_accepting_side_calls_back),
		cmocka_unit_test(refusals_have_their_statuses),
		cmocka_unit_test(a_call_times_out_and_a_late_reply_is_dropped),
		cmocka_unit_test(a_lost_connection_fails_its_calls_and_comes_back),
		cmocka_unit_test(many_calls_wait_for_each_other_in_no_order),
		cmocka_unit_test(every_message_leaves_a_line),
		cmocka_unit_test(many_threads_share_a_channel),
		cmocka_unit_test(a_channel_tells_why_a_call_failed),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
