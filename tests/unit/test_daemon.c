/* test_daemon.c - the command line of all daemons, signals on the loop, the service manager. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon.h"
#include "env_event.h"

static const struct daemon_about about = { "qkdn-test", "A daemon under test." };

static int parse(int argc, char **argv, struct daemon_options *o)
{
	daemon_parse(argc, argv, &about, o);
	return 0;
}

/* Exit status of a child that parses argv; its output is thrown away. */
static int exit_of(char **argv)
{
	struct daemon_options o;
	int argc = 0, status;
	pid_t pid;

	while (argv[argc] != NULL)
		argc++;
	pid = fork();
	if (pid == 0) {
		if (freopen("/dev/null", "w", stderr) == NULL || freopen("/dev/null", "w", stdout) == NULL)
			_exit(99);
		parse(argc, argv, &o);
		_exit(42);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void options_are_alike(void **state)
{
	char *argv[] = { "qkdn-test", "-n", "-c", "x.conf", NULL };
	struct daemon_options o;

	(void)state;
	parse(4, argv, &o);
	assert_string_equal(o.config, "x.conf");
	assert_true(o.check);
	assert_false(o.verbose);
	assert_int_equal(exit_of((char *[]){ "qkdn-test", "-c", "x", NULL }), 42);
	assert_int_equal(exit_of((char *[]){ "qkdn-test", NULL }), 1);
	assert_int_equal(exit_of((char *[]){ "qkdn-test", "-c", "x", "y", NULL }), 1);
	assert_int_equal(exit_of((char *[]){ "qkdn-test", "--nonsense", NULL }), 1);
	assert_int_equal(exit_of((char *[]){ "qkdn-test", "--version", NULL }), 0);
	assert_int_equal(exit_of((char *[]){ "qkdn-test", "--help", NULL }), 0);
}

struct seen {
	unsigned reloads, users;
};

static void on_reload(void *arg)
{
	((struct seen *)arg)->reloads++;
	raise(SIGUSR1);
}

static void on_user(void *arg)
{
	((struct seen *)arg)->users++;
	raise(SIGTERM);
}

static void signals_reach_the_loop(void **state)
{
	struct env *env = env_event_new();
	struct seen seen = { 0, 0 };
	struct daemon_signals *d;
	struct err e;

	(void)state;
	assert_int_equal(
		daemon_signals_new(&d, env, &(struct daemon_hooks){ on_reload, on_user, &seen }, &e), ST_OK);
	raise(SIGPIPE); /* ignored */
	raise(SIGHUP);
	env_event_run(env);
	assert_int_equal(seen.reloads, 1);
	assert_int_equal(seen.users, 1);
	daemon_signals_free(d);
	env_event_free(env);
}

static void expect_datagram(int fd, const char *beginning)
{
	char got[128] = "";

	assert_true(recv(fd, got, sizeof got - 1, MSG_DONTWAIT) > 0);
	assert_memory_equal(got, beginning, strlen(beginning));
}

static void the_service_manager_is_told(void **state)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	int n = snprintf(at.sun_path + 1, sizeof at.sun_path - 1, "qkdn-test-%d", (int)getpid());
	char name[sizeof at.sun_path + 1];

	(void)state;
	assert_return_code(bind(fd, (struct sockaddr *)&at,
	                        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)),
	                   0);
	snprintf(name, sizeof name, "@%s", at.sun_path + 1);
	setenv("NOTIFY_SOCKET", name, 1);
	daemon_notify_ready();
	expect_datagram(fd, "READY=1");
	daemon_notify_reloading();
	expect_datagram(fd, "RELOADING=1\nMONOTONIC_USEC=");
	daemon_notify_stopping();
	expect_datagram(fd, "STOPPING=1");
	unsetenv("NOTIFY_SOCKET");
	daemon_notify_ready();
	assert_int_equal(recv(fd, name, sizeof name, MSG_DONTWAIT), -1);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_are_alike),
		cmocka_unit_test(signals_reach_the_loop),
		cmocka_unit_test(the_service_manager_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
