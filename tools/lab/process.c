/* process.c - starting programs, watching and ending them by pid and start time. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- into the namespaces ----------------------------------------------------------------------- */

static bool enter(const char *path, int kind)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool ok = fd >= 0 && setns(fd, kind) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool mount_own_run(void)
{
	return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755") == 0 &&
	       mkdir("/run/rpcbind", 0755) == 0;
}

/* What failed, or NULL. The network namespace first: its name lies in our own /run. */
static const char *enter_namespaces(const struct launch *l)
{
	char path[256];

	if (l->netns != NULL) {
		snprintf(path, sizeof path, "/run/netns/%s", l->netns);
		if (!enter(path, CLONE_NEWNET))
			return "entering the network namespace";
	}
	if (l->mounts_of > 0) {
		snprintf(path, sizeof path, "/proc/%d/ns/mnt", (int)l->mounts_of);
		if (!enter(path, CLONE_NEWNS))
			return "entering the mount namespace";
	}
	if (l->own_run && !mount_own_run())
		return "mounting /run";
	return NULL;
}

/* ---- starting ------------------------------------------------------------------------------------ */

static const char *redirect(const struct launch *l)
{
	int in = open("/dev/null", O_RDONLY), log = -1;

	if (in < 0 || dup2(in, STDIN_FILENO) < 0)
		return "opening /dev/null";
	if (l->log != NULL)
		log = open(l->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (l->log != NULL && (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0))
		return "opening the log";
	if (l->output >= 0 && (dup2(l->output, STDOUT_FILENO) < 0 || (l->log == NULL && dup2(l->output, STDERR_FILENO) < 0)))
		return "opening the output";
	return NULL;
}

static NORETURN void run_child(const struct launch *l)
{
	const char *failed;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	setsid(); /* an interrupt at the terminal is for qkdn-lab, which then stops its daemons */
	failed = redirect(l);
	if (failed == NULL)
		failed = enter_namespaces(l);
	if (failed == NULL && l->notify != NULL)
		setenv("NOTIFY_SOCKET", l->notify, 1);
	if (failed == NULL) {
		execvp(l->argv[0], (char *const *)l->argv);
		failed = l->argv[0];
	}
	dprintf(STDERR_FILENO, "qkdn-lab: %s: %s\n", failed, strerror(errno));
	_exit(127);
}

enum status process_start(const struct launch *l, pid_t *pid, struct err *e)
{
	*pid = fork();
	if (*pid < 0)
		return err_set(e, ST_INTERNAL, "starting %s: %s", l->argv[0], strerror(errno));
	if (*pid == 0)
		run_child(l);
	return ST_OK;
}

enum status process_become(const struct launch *l, struct err *e)
{
	const char *failed = enter_namespaces(l);

	if (failed == NULL) {
		execvp(l->argv[0], (char *const *)l->argv);
		failed = l->argv[0];
	}
	return err_set(e, ST_CONFIGURATION, "%s: %s", failed, strerror(errno));
}

/* ---- pid and start time ---------------------------------------------------------------------------- */

unsigned long long process_started(pid_t pid)
{
	char path[64], text[1024], *after;
	unsigned long long started = 0;
	long threads;
	ssize_t n;
	char state;
	int fd;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	after = strrchr(text, ')'); /* the program's name may hold anything before it */
	if (after == NULL || sscanf(after + 1,
	                            " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu",
	                            &state, &threads, &started) != 3)
		return 0;
	/* where the first thread has ended, another may be in the midst of a write, and its files are open until then */
	return (state == 'Z' || state == 'X') && threads <= 1 ? 0 : started;
}

bool process_runs(pid_t pid, unsigned long long started)
{
	return pid > 0 && started != 0 && process_started(pid) == started;
}

void process_signal(pid_t pid, unsigned long long started, int number)
{
	if (process_runs(pid, started))
		kill(pid, number);
}

void process_sleep(unsigned ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	nanosleep(&t, NULL);
}

bool process_wait_gone(pid_t pid, unsigned long long started, unsigned ms)
{
	for (unsigned waited = 0; process_runs(pid, started); waited += 10) {
		if (waited >= ms)
			return false;
		process_sleep(10);
	}
	waitpid(pid, NULL, WNOHANG);
	return true;
}

/* ---- to the end ---------------------------------------------------------------------------------------- */

uint64_t process_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Reads until end of file or the time is over; false: over. */
static bool collect(int fd, char *output, size_t len, uint64_t deadline)
{
	size_t used = 0;
	char chunk[1024];

	for (;;) {
		uint64_t now = process_now_ms();
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (now >= deadline || (poll(&p, 1, (int)(deadline - now)) <= 0 && errno != EINTR))
			return false;
		n = read(fd, chunk, sizeof chunk);
		if (n <= 0)
			return true;
		for (ssize_t i = 0; i < n && used + 1 < len; i++)
			output[used++] = chunk[i];
		output[used] = '\0';
	}
}

int process_run(const struct launch *l, char *output, size_t len, unsigned ms)
{
	struct launch with_pipe = *l;
	int ends[2], wait_status;
	bool ended;
	pid_t pid;

	output[0] = '\0';
	if (pipe2(ends, O_CLOEXEC) != 0)
		return -1;
	with_pipe.output = ends[1];
	if (process_start(&with_pipe, &pid, NULL) != ST_OK) {
		close(ends[0]);
		close(ends[1]);
		return -1;
	}
	close(ends[1]);
	ended = collect(ends[0], output, len, process_now_ms() + ms);
	close(ends[0]);
	if (!ended)
		kill(pid, SIGKILL);
	if (waitpid(pid, &wait_status, 0) != pid || !ended || !WIFEXITED(wait_status))
		return -1;
	return WEXITSTATUS(wait_status);
}
