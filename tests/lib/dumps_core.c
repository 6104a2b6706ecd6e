/*
 * dumps_core.c - loaded before a program (LD_PRELOAD) that forbids cores of itself: it has them after all, so
 * that a test can look what would be in one.
 *
 * QKDN_CORES is the folder they go to, where the kernel writes them into the process's working directory. With
 * QKDN_CORE_AT_EXIT the program ends in one, instead of in exit.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

int prctl(int option, ...)
{
	unsigned long words[4];
	va_list list;

	va_start(list, option);
	for (int i = 0; i < 4; i++)
		words[i] = va_arg(list, unsigned long);
	va_end(list);
	if (option == PR_SET_DUMPABLE)
		words[0] = 1;
	return (int)syscall(SYS_prctl, option, words[0], words[1], words[2], words[3]);
}

int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	if (resource == RLIMIT_CORE)
		return 0;
	return (int)syscall(SYS_prlimit64, 0, resource, limit, NULL);
}

__attribute__((constructor)) static void go_there(void)
{
	const char *folder = getenv("QKDN_CORES");

	if (folder != NULL && chdir(folder) != 0)
		_exit(126);
}

__attribute__((destructor)) static void end_in_a_core(void)
{
	if (getenv("QKDN_CORE_AT_EXIT") == NULL)
		return;
	fflush(stdout);
	abort();
}
