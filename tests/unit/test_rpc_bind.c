/* test_rpc_bind.c - a real rpcbind, in a network namespace of this test's own. Skipped where that is not allowed. */
#include "echo_ends.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t rpcbind;

static bool own_namespace(void)
{
	return unshare(CLONE_NEWNET | CLONE_NEWNS) == 0 &&
	       system("mount --make-rprivate / && ip link set lo up && mount -t tmpfs none /run && "
	              "mkdir -p /run/rpcbind") == 0;
}

static int start(void **state)
{
	echo_start(state);
	if (!own_namespace())
		return 0;
	rpcbind = fork();
	if (rpcbind == 0) {
		execl("/sbin/rpcbind", "rpcbind", "-f", (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 3000 && system("rpcinfo -p 127.0.0.1 >/dev/null 2>&1") != 0; i++) {
		if (waitpid(rpcbind, NULL, WNOHANG) != 0) {
			rpcbind = 0;
			break;
		}
		usleep(20000);
	}
	return 0;
}

static int stop(void **state)
{
	if (rpcbind > 0) {
		kill(rpcbind, SIGTERM);
		waitpid(rpcbind, NULL, 0);
	}
	return echo_stop(state);
}

static bool is_registered(void)
{
	return system("rpcinfo 127.0.0.1 2>/dev/null | grep -q '541159408 *1 *tcp '") == 0;
}

static void a_peer_is_found_through_rpcbind(void **state)
{
	struct rtls_peer_options o = { .role = "km", .name = "bob", .host = "localhost", .dns_name = "127.0.0.1",
		                       .program = ECHO, .version = ECHO_V1 };
	struct both b;
	struct err e;

	(void)state;
	if (rpcbind <= 0)
		skip();
	both_start(&b, NULL);
	assert_false(is_registered());
	if (rtls_register(b.bob.ep, true, &e) != ST_OK)
		fail_msg("%s", e.text);
	assert_true(is_registered());
	rtls_peer_free(b.peer);
	b.peer = rtls_peer_new(b.alice.ep, &o);
	b.waiting = 2;
	run(&b);
	ask(&b, ECHO_NOW, "found");
	assert_string_equal(b.text, "found");
	both_stop(&b);
	assert_false(is_registered());
}

static void what_was_left_behind_is_replaced(void **state)
{
	struct both b;
	struct err e;

	(void)state;
	if (rpcbind <= 0)
		skip();
	both_start(&b, NULL);
	assert_int_equal(rtls_register(b.alice.ep, true, &e), ST_OK); /* as if killed */
	assert_int_equal(rtls_register(b.bob.ep, true, &e), ST_OK);
	both_stop(&b);
	assert_false(is_registered());
}

static void another_s_registration_is_left_alone(void **state)
{
	struct both b, later;
	struct err e;

	(void)state;
	if (rpcbind <= 0)
		skip();
	both_start(&b, NULL);
	both_start(&later, NULL);
	assert_int_equal(rtls_register(b.bob.ep, true, &e), ST_OK);
	assert_int_equal(rtls_register(later.bob.ep, true, &e), ST_OK);
	both_stop(&b);
	assert_true(is_registered());
	assert_int_equal(rtls_register(later.bob.ep, true, &e), ST_OK); /* again: as after a restart of rpcbind */
	assert_true(is_registered());
	both_stop(&later);
	assert_false(is_registered());
}

static void without_rpcbind_only_required_fails(void **state)
{
	struct both b;
	struct err e;

	(void)state;
	if (rpcbind <= 0)
		skip();
	kill(rpcbind, SIGTERM);
	waitpid(rpcbind, NULL, 0);
	rpcbind = 0;
	both_start(&b, NULL);
	assert_int_equal(rtls_register(b.bob.ep, true, &e), ST_CONFIGURATION);
	assert_non_null(strstr(e.text, "start rpcbind"));
	assert_int_equal(rtls_register(b.bob.ep, false, &e), ST_OK);
	both_stop(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_peer_is_found_through_rpcbind),
		cmocka_unit_test(what_was_left_behind_is_replaced),
		cmocka_unit_test(another_s_registration_is_left_alone),
		cmocka_unit_test(without_rpcbind_only_required_fails),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
