/*
 * test_confine.c - a confined process: what a daemon needs goes on, in every thread; what it does not is refused and
 * told. Each test is a child's, for there is no way back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine.h"
#include "daemon.h"
#include "log.h"

enum { WATCHED = 50 }; /* under a sanitizer or valgrind: nothing is confined */

static char told[8192]; /* what the child said */

/* Runs it in a confined child; its exit status. */
static int confined(int (*test)(void))
{
	int out[2], status;
	size_t got = 0;
	pid_t child;
	ssize_t n;

	assert_int_equal(pipe(out), 0);
	child = fork();
	if (child == 0) {
		struct err e;

		dup2(out[1], STDERR_FILENO);
		close(out[1]);
		log_open("test", LOG_LEVEL_INFO);
		if (daemon_harden(1024 * 1024, &e) != ST_OK || confine_system_calls(&e) != ST_OK)
			_exit(99);
		_exit(prctl(PR_GET_SECCOMP) == 0 ? WATCHED : test());
	}
	close(out[1]);
	while (got < sizeof told - 1 && (n = read(out[0], told + got, sizeof told - 1 - got)) > 0)
		got += (size_t)n;
	told[got] = '\0';
	close(out[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFEXITED(status) && WEXITSTATUS(status) == WATCHED)
		skip();
	if (!WIFEXITED(status))
		print_error("ended by signal %d\n%s\n", WTERMSIG(status), told);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define CHECK(condition)                                                                                      \
	do {                                                                                                  \
		if (!(condition)) {                                                                           \
			fprintf(stderr, "not so: %s\n", #condition);                                          \
			return 1;                                                                             \
		}                                                                                             \
	} while (0)

static bool is_refused(long result)
{
	return result < 0 && errno == EPERM;
}

static int forbidden(void)
{
	char *none[] = { NULL };

	CHECK(is_refused(execve("/bin/true", none, none)));
	CHECK(is_refused(fork()));
	CHECK(is_refused(ptrace(PTRACE_TRACEME, 0, NULL, NULL)));
	CHECK(is_refused(kill(getppid(), 0)));
	CHECK(is_refused(socket(AF_PACKET, SOCK_RAW, 0)));
	CHECK(is_refused(syscall(SYS_unshare, 0)));
	CHECK(is_refused(syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0)));
	CHECK(is_refused(prctl(PR_SET_DUMPABLE, 1)));
	CHECK(is_refused(setuid(1)));
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	CHECK(errno == EPERM);
	for (int i = 0; i < 1000; i++)
		CHECK(is_refused(setuid(1)));
	return 0;
}

static void what_is_not_needed_is_refused_and_told(void **state)
{
	unsigned lines = 0;

	(void)state;
	assert_int_equal(confined(forbidden), 0);
	assert_non_null(strstr(told, "the system call execve ("));
	assert_non_null(strstr(told, "the system call ptrace ("));
	for (const char *p = told; (p = strstr(p, "the system call")) != NULL; p++)
		lines++;
	assert_in_range(lines, 10, 20);
}

static void *in_a_thread(void *arg)
{
	*(int *)arg = is_refused(fork()) && is_refused(setuid(1));
	return NULL;
}

static int with_threads(void)
{
	struct addrinfo *found = NULL;
	pthread_t thread;
	int refused = 0;

	CHECK(pthread_create(&thread, NULL, in_a_thread, &refused) == 0);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(refused);
	CHECK(getaddrinfo("localhost", "1", NULL, &found) == 0);
	freeaddrinfo(found);
	CHECK(open("/dev/null", O_RDWR) >= 0);
	return 0;
}

static void what_is_needed_goes_on_in_every_thread(void **state)
{
	(void)state;
	assert_int_equal(confined(with_threads), 0);
	assert_null(strstr(told, "not so"));
}

static int privileges(void)
{
	char line[256];
	unsigned seen = 0;
	unsigned long long number;
	FILE *status = fopen("/proc/self/status", "r");

	CHECK(status != NULL);
	while (fgets(line, sizeof line, status) != NULL) {
		const unsigned long long files = geteuid() == 0 ? 0x4006 : 0; /* as confine.c has it */

		if (sscanf(line, "CapEff: %llx", &number) == 1 || sscanf(line, "CapPrm: %llx", &number) == 1)
			CHECK((number & ~files) == 0 && ++seen);
		if (sscanf(line, "CapInh: %llx", &number) == 1 || sscanf(line, "CapAmb: %llx", &number) == 1)
			CHECK(number == 0 && ++seen);
		if (geteuid() == 0 && sscanf(line, "CapBnd: %llx", &number) == 1)
			CHECK(number == 0);
		if (sscanf(line, "NoNewPrivs: %llu", &number) == 1)
			CHECK(number == 1 && ++seen);
		if (sscanf(line, "Seccomp: %llu", &number) == 1)
			CHECK(number == 2 && ++seen);
	}
	fclose(status);
	CHECK(seen == 6);
	return 0;
}

static void no_privilege_is_left(void **state)
{
	(void)state;
	assert_int_equal(confined(privileges), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_needed_is_refused_and_told),
		cmocka_unit_test(what_is_needed_goes_on_in_every_thread),
		cmocka_unit_test(no_privilege_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
