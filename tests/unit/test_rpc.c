/* test_rpc.c - calls in both directions over real sockets and real TLS: endpoints, peers, channels, trace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "echo_ends.h"
#include "log.h"

/* ---- tests ------------------------------------------------------------------------------------- */

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
	echo_args args = { .text = "never" };
	struct rtls_call call;
	struct both b;

	(void)state;
	both_start(&b, &(struct rtls_options){ .max_record = 0 });
	call = echo_call(&b, ECHO_NEVER, &args);
	call.timeout_ns = NS_PER_S / 2;
	b.waiting = 1;
	rtls_peer_call(b.peer, &call);
	run(&b);
	assert_int_equal(b.status, ST_TIMED_OUT);
	run_until_held(&b, 1);
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
	run_until_held(&b, 1);
	held = b.bob.held;
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
	both_start(&b, &(struct rtls_options){ .max_unanswered = 4, .output_high_water = 2000 });
	b.waiting = 3000;
	for (int i = 0; i < 3000; i++) {
		call = echo_call(&b, i % 2 ? ECHO_NOW : ECHO_LATER, &args);
		rtls_call(rtls_find_conn(i % 3 ? b.alice.ep : b.bob.ep, "km", i % 3 ? "bob" : "alice"), &call);
		if (i % 10 == 9)
			run_for(&b, 0);
	}
	run(&b);
	assert_int_equal(b.status, ST_OK);
	both_stop(&b);
}

struct asker {
	struct both *b;
	struct rtls_peer *peer;
	int left;
};

static void ask_next(struct asker *a);

static void answered_next(enum status s, void *result, void *arg)
{
	struct asker *a = arg;

	(void)result;
	a->b->status = s;
	if (s != ST_OK || --a->left == 0)
		env_event_stop(a->b->env);
	else
		ask_next(a);
}

static void ask_next(struct asker *a)
{
	echo_args args = { .text = "modest" };
	struct rtls_call call = echo_call(a->b, ECHO_NOW, &args);

	call.done = answered_next;
	call.arg = a;
	rtls_peer_call(a->peer, &call);
}

static void forget(enum status s, void *result, void *arg)
{
	(void)s;
	(void)result;
	(void)arg;
}

static void never(struct rtls_conn *conn, struct both *b)
{
	echo_args args = { .text = "never" };
	struct rtls_call call = echo_call(b, ECHO_NEVER, &args);

	call.done = forget;
	rtls_call(conn, &call);
}

/* A third one, connected to bob. */
static struct rtls_peer *carol_joins(struct both *b, struct server *carol)
{
	struct rtls_peer_options o = { .role = "km", .name = "bob", .host = "127.0.0.1", .program = ECHO,
		                       .version = ECHO_V1 };
	struct rtls_peer *peer;

	server_start(carol, b->env, "km", "carol", NULL);
	o.port = rtls_port(b->bob.ep);
	b->waiting = 1;
	peer = rtls_peer_new(carol->ep, &o);
	run(b);
	while (!rtls_peer_is_up(peer))
		run_for(b, NS_PER_MS);
	return peer;
}

static void who_has_more_calls_waiting_than_others_waits(void **state)
{
	echo_args args = { .text = "from here" };
	struct server carol;
	struct rtls_call call;
	struct both b;

	(void)state;
	both_start(&b, NULL);
	carol_joins(&b, &carol);
	never(rtls_find_conn(carol.ep, "km", "bob"), &b);
	run_until_held(&b, 1);
	run_for(&b, 50 * NS_PER_MS);
	never(rtls_find_conn(carol.ep, "km", "bob"), &b); /* what carol has waiting is seen */
	run_until_held(&b, 2);
	for (int i = 0; i < 50; i++)
		never(rtls_find_conn(b.alice.ep, "km", "bob"), &b);
	run_until_held(&b, 2 + 32);
	run_for(&b, 50 * NS_PER_MS);
	assert_int_equal(b.bob.held_count, 2 + 32);
	call = echo_call(&b, ECHO_NOW, &args); /* whose answer comes behind those that were not taken */
	b.waiting = 1;
	rtls_call(rtls_find_conn(b.bob.ep, "km", "alice"), &call);
	run(&b);
	assert_int_equal(b.status, ST_OK);
	assert_string_equal(b.text, "from here");
	assert_int_equal(b.bob.held_count, 2 + 50);
	for (unsigned i = 0; i < b.bob.held_count; i++)
		rtls_reply(b.bob.all_held[i], (xdrproc_t)xdr_echo_result, &(echo_result){ .text = strdup("late") });
	rtls_endpoint_free(carol.ep);
	both_stop(&b);
}

static void a_flood_waits_for_the_modest(void **state)
{
	enum { FLOOD = 20000, MODEST = 10 };
	echo_args args = { .text = "flood" };
	struct server carol;
	struct asker asker;
	struct both b;

	(void)state;
	both_start(&b, NULL);
	asker = (struct asker){ .b = &b, .peer = carol_joins(&b, &carol), .left = MODEST };
	b.waiting = FLOOD + 1; /* nobody waits for the last of these */
	for (int i = 0; i < FLOOD; i++) {
		struct rtls_call call = echo_call(&b, ECHO_NOW, &args);

		rtls_peer_call(b.peer, &call);
	}
	ask_next(&asker);
	run(&b);
	assert_int_equal(b.status, ST_OK);
	assert_int_equal(asker.left, 0);
	assert_in_range(b.bob.calls, MODEST, FLOOD / 4);
	rtls_endpoint_free(carol.ep);
	both_stop(&b);
}

static void ipv6_and_names_lead_there_too(void **state)
{
	static const char *const hosts[][2] = { { "::1", NULL }, { "localhost", "127.0.0.1" }, { "localhost", "bob.example" } };
	struct rtls_peer_options o = { .role = "km", .name = "bob", .program = ECHO, .version = ECHO_V1 };
	struct rtls_credentials *c;
	char address[32];
	struct both b;
	struct err e;

	(void)state;
	test_pki_issue(echo_pki, "bob-dns",
	               &(struct test_certificate){ .uri = "spiffe://test/km/bob", .dns = "bob.example" });
	c = test_pki_load(echo_pki, "bob-dns", echo_pki);
	both_start(&b, NULL);
	rtls_set_credentials(b.bob.ep, c);
	rtls_set_credentials(b.alice.ep, c); /* refused: she is not bob */
	rtls_credentials_free(c);
	snprintf(address, sizeof address, "[::1]:%u", rtls_port(b.bob.ep));
	if (rtls_listen(b.bob.ep, address, &e) != ST_OK)
		skip(); /* a machine without IPv6 */
	o.port = rtls_port(b.bob.ep);
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
		rtls_peer_free(b.peer);
		o.host = hosts[i][0];
		o.dns_name = hosts[i][1];
		b.peer = rtls_peer_new(b.alice.ep, &o);
		b.waiting = 2;
		run(&b);
		ask(&b, ECHO_NOW, "there");
		assert_int_equal(b.status, ST_OK);
		assert_string_equal(b.bob.last_caller, "alice");
	}
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
	char *path = test_pki_path(echo_pki, "trace");
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

/* How long files can be; RLIM_INFINITY: as long as they want. */
static void limit_files(rlim_t most)
{
	struct rlimit limit;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = most;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Calls go on, the log tells it once and how many messages it was, and what was cut short is a line of its own. */
static void a_trace_without_room_goes_on(void **state)
{
	char *path = test_pki_path(echo_pki, "full"), log[4096] = "", *text;
	int err = dup(STDERR_FILENO), ends[2];
	struct both b;

	(void)state;
	log_open("test_rpc", LOG_LEVEL_WARNING);
	both_start(&b, &(struct rtls_options){ .trace_path = path });
	assert_true(err >= 0 && pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
	limit_files(10);
	ask(&b, ECHO_NOW, "one");
	assert_int_equal(b.status, ST_OK);
	limit_files(RLIM_INFINITY);
	ask(&b, ECHO_NOW, "two");
	dup2(err, STDERR_FILENO);
	close(err);
	close(ends[1]);
	both_stop(&b);
	text = read_trace(path);
	assert_int_equal(strspn(text, "0123456789"), 10);
	assert_memory_equal(text + 10, "\t\t\n", 3); /* no line that is whole has such an end */
	for (text += 13; *text != '\0'; text = strchr(text, '\n') + 1) {
		assert_int_equal(strspn(text, "0123456789"), 19);
		assert_non_null(strchr(text, '\n'));
	}
	assert_true(read(ends[0], log, sizeof log - 1) > 0);
	close(ends[0]);
	assert_non_null(strstr(log, path));
	assert_non_null(strstr(log, ": messages are missing in it from now on; make room\n"));
	assert_non_null(strstr(log, " can be written again: "));
	log_open("test_rpc", LOG_LEVEL_ERROR);
	free(path);
}

/* ---- channels ---------------------------------------------------------------------------------- */

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
	struct rtls_credentials *c = test_pki_credentials(echo_pki, "app", "app1");
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
	struct rtls_credentials *c = test_pki_credentials(echo_pki, "app", "app1");
	echo_args args = { .text = "x" };
	echo_result result = { .text = NULL };
	struct timeval short_time = { 0, 50000 }, long_time = { 10, 0 };
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
	clnt_control(client, CLSET_TIMEOUT, (char *)&long_time);
	assert_int_equal(echo_now_1(&args, &result, client), RPC_SUCCESS);
	clnt_freeres(client, (xdrproc_t)xdr_echo_result, (char *)&result);
	clnt_destroy(client);
	rtls_channel_close(ch);
	rtls_credentials_free(c);
	background_stop(&g);
	result.text = strdup("");
	assert_false(rtls_reply(g.b.bob.held, (xdrproc_t)xdr_echo_result, &result));
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
		cmocka_unit_test(who_has_more_calls_waiting_than_others_waits),
		cmocka_unit_test(a_flood_waits_for_the_modest),
		cmocka_unit_test(ipv6_and_names_lead_there_too),
		cmocka_unit_test(every_message_leaves_a_line),
		cmocka_unit_test(a_trace_without_room_goes_on),
		cmocka_unit_test(many_threads_share_a_channel),
		cmocka_unit_test(a_channel_tells_why_a_call_failed),
	};

	return cmocka_run_group_tests(tests, echo_start, echo_stop);
}
