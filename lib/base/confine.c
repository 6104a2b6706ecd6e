/*
 * confine.c - capabilities dropped, system calls filtered.
 *
 * The list below is of what the tests saw the daemons, the C library and the libraries between them call once
 * they had started, and of its next of kin: what another version of the C library calls for the same end. What
 * is not there: executing, forking, tracing, signals to others, mounts, namespaces, keys, modules, clocks, users.
 * The units of systemd say the same from outside, from before the start (packaging/hardening.conf).
 */
#include "confine.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "log.h"

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

static bool is_watched(void)
{
	return SANITIZED || RUNNING_ON_VALGRIND;
}

/* ---- capabilities --------------------------------------------------------------------------------------- */

static enum status drop_capabilities(struct err *e)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct now[2], kept[2] = { { 0 }, { 0 } };
	const uint32_t of_root = 1U << CAP_DAC_OVERRIDE | 1U << CAP_DAC_READ_SEARCH | 1U << CAP_IPC_LOCK;

	if (syscall(SYS_capget, &head, now) != 0)
		return err_set(e, ST_INTERNAL, "reading the capabilities: %s", strerror(errno));
	for (int c = 0; prctl(PR_CAPBSET_READ, c) >= 0; c++)
		prctl(PR_CAPBSET_DROP, c); /* not allowed where there is none to drop it with */
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if ((now[0].permitted | now[1].permitted | now[0].inheritable | now[1].inheritable) == 0)
		return ST_OK; /* nothing to drop, which a unit may not even allow */
	kept[0].effective = kept[0].permitted = geteuid() == 0 ? now[0].permitted & of_root : 0;
	if (syscall(SYS_capset, &head, kept) != 0)
		return err_set(e, ST_INTERNAL, "dropping the capabilities: %s", strerror(errno));
	return ST_OK;
}

enum status confine_privileges(struct err *e)
{
	if (is_watched())
		return ST_OK;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return err_set(e, ST_INTERNAL, "giving up new privileges: %s", strerror(errno));
	return drop_capabilities(e);
}

/* ---- system calls --------------------------------------------------------------------------------------- */

static const int allowed[] = {
	/* what is open */
	SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(pread64), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(pwrite64),
	SCMP_SYS(pwritev), SCMP_SYS(lseek), SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(ioctl), SCMP_SYS(dup),
	SCMP_SYS(pipe2), SCMP_SYS(eventfd2),
	/* files: certificates, the store, the trace, what the resolver reads */
	SCMP_SYS(open), SCMP_SYS(openat), SCMP_SYS(fstat), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(newfstatat),
	SCMP_SYS(statx), SCMP_SYS(statfs), SCMP_SYS(fstatfs), SCMP_SYS(access), SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2), SCMP_SYS(getdents64), SCMP_SYS(readlink), SCMP_SYS(readlinkat), SCMP_SYS(getcwd),
	SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(ftruncate), SCMP_SYS(fallocate), SCMP_SYS(flock),
	SCMP_SYS(rename), SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(unlink), SCMP_SYS(unlinkat),
	SCMP_SYS(fchmod), SCMP_SYS(umask), SCMP_SYS(msync),
	/* memory; mmap and mprotect are below */
	SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(mlock), SCMP_SYS(mlock2),
	SCMP_SYS(munlock),
	/* the network; socket is below */
	SCMP_SYS(socketpair), SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(connect),
	SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg),
	SCMP_SYS(shutdown), SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(getsockopt), SCMP_SYS(setsockopt),
	/* waiting and time */
	SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_pwait2), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(select), SCMP_SYS(pselect6),
	SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(clock_gettime), SCMP_SYS(clock_getres),
	SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(restart_syscall),
	/* threads and the process; clone is below */
	SCMP_SYS(futex), SCMP_SYS(set_robust_list), SCMP_SYS(rseq), SCMP_SYS(sched_yield), SCMP_SYS(sched_getaffinity),
	SCMP_SYS(sched_getparam), SCMP_SYS(sched_getscheduler), SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigpending), SCMP_SYS(rt_sigtimedwait), SCMP_SYS(sigaltstack),
	SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getuid),
	SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getrandom), SCMP_SYS(uname), SCMP_SYS(sysinfo),
	SCMP_SYS(getrlimit), SCMP_SYS(getrusage), SCMP_SYS(exit), SCMP_SYS(exit_group),
};

static const int families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK };

/* Those that are allowed with some arguments only. 0 or a negative errno. */
static int add_conditions(scmp_filter_ctx f)
{
	static const uint64_t not_both[] = { 0, PROT_WRITE, PROT_EXEC };
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(not_both) && rc == 0; i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
		                      SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_WRITE | PROT_EXEC, not_both[i]));
	if (rc == 0)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	for (size_t i = 0; i < ARRAY_LEN(families) && rc == 0; i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i], 0));
	if (rc == 0) /* a thread, not a process */
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
		                      SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	if (rc == 0) /* its arguments cannot be seen from a filter: the C library goes back to clone */
		rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (rc == 0) /* names of threads and of anonymous memory */
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1, SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME, 0));
	if (rc == 0) /* abort */
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
		                      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0));
	if (rc == 0) /* reading limits, not setting them */
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1, SCMP_A2(SCMP_CMP_EQ, 0, 0));
	return rc;
}

/* Of system calls by number, made beforehand: at a call that is refused locks of the C library may be held. */
enum { NAMES = 512 };
static char *names[NAMES];

static void make_names(void)
{
	for (int i = 0; i < NAMES; i++)
		if (names[i] == NULL)
			names[i] = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, i);
}

static int load(scmp_filter_ctx f)
{
	int rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);

	for (size_t i = 0; i < ARRAY_LEN(allowed) && rc == 0; i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
	if (rc == 0)
		rc = add_conditions(f);
	if (rc == 0)
		rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree: every call passes through it */
	return rc == 0 ? seccomp_load(f) : rc;
}

/* In the thread that made the call, at the call: it fails, and the log names it, a bounded number of times. */
static void refused(int number, siginfo_t *info, void *context)
{
	enum { LINES_MOST = 20 };
	static atomic_uint lines;
	ucontext_t *at = context;

	(void)number;
#if defined(__x86_64__)
	at->uc_mcontext.gregs[REG_RAX] = -EPERM;
#elif defined(__aarch64__)
	at->uc_mcontext.regs[0] = (unsigned long long)-EPERM;
#else
#error "which register a system call's result is in is to be told here"
#endif
	if (atomic_fetch_add(&lines, 1) < LINES_MOST) {
		unsigned call = (unsigned)info->si_syscall;
		const char *name = call < NAMES ? names[call] : NULL;

		log_error("the system call %s (%d) is not among those that this daemon needs and was refused: if it is "
		          "wanted, the setting confine turns the filter off; please report it",
		          name != NULL ? name : "?", info->si_syscall);
	}
}

enum status confine_system_calls(struct err *e)
{
	const struct sigaction on_refusal = { .sa_sigaction = refused, .sa_flags = SA_SIGINFO | SA_NODEFER };
	scmp_filter_ctx f;
	int rc;

	if (is_watched())
		return ST_OK;
	make_names();
	if (sigaction(SIGSYS, &on_refusal, NULL) != 0)
		return err_set(e, ST_INTERNAL, "watching for refused system calls: %s", strerror(errno));
	f = seccomp_init(SCMP_ACT_TRAP);
	rc = f != NULL ? load(f) : -ENOMEM;
	seccomp_release(f);
	if (rc != 0)
		return err_set(e, ST_INTERNAL,
		               "filtering system calls: %s: if this system has no such filter, set confine = false",
		               strerror(-rc));
	return ST_OK;
}
