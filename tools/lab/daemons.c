/*
 * daemons.c - starting the daemons of a lab, waiting until they are ready and keys flow, ending them.
 *
 * A daemon says that it is ready as it would to systemd (sd_notify(3)): READY=1 to a socket of ours,
 * with its pid as the kernel gives it.
 */
#include <signal.h>

#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"

enum { READY_MS = 30000, STOP_MS = 30000, KILL_MS = 5000, POLL_MS = 50, LOG_TAIL = 240 };

volatile sig_atomic_t lab_interrupted;

/* ---- where the programs are -------------------------------------------------------------------------------- */

/* Beside this program (a build folder), or as installed (daemons in sbin, tools in bin), or in PATH.
 * The caller frees. */
static char *find_program(const char *name)
{
	static const char *const folders[] = { ".", "../sbin", "../bin", NULL };
	char self[4096];
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	if (n <= 0)
		return xstrdup(name);
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	for (size_t i = 0; folders[i] != NULL; i++) {
		char *path = xasprintf("%s/%s/%s", self, folders[i], name);

		if (access(path, X_OK) == 0)
			return path;
		free(path);
	}
	return xstrdup(name);
}

/* The programs beside this one come first for what `exec` runs. */
static void own_folder_first(void)
{
	char *program = find_program("qkdn-keyreq"), *slash = strrchr(program, '/'), *path;
	const char *old = getenv("PATH");

	if (slash != NULL) {
		path = xasprintf("%.*s:%s", (int)(slash - program), program, old != NULL ? old : "/usr/bin:/bin");
		setenv("PATH", path, 1);
		free(path);
	}
	free(program);
}

/* ---- being told that a daemon is ready --------------------------------------------------------------------- */

struct ready {
	char folder[32], path[64];
	int fd;
};

static enum status ready_open(struct ready *r, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int on = 1;

	strcpy(r->folder, "/tmp/qkdn-lab-XXXXXX"); /* short: a socket's path has little room */
	r->fd = -1;
	if (mkdtemp(r->folder) == NULL)
		return err_set(e, ST_CONFIGURATION, "making a folder in /tmp: %s", strerror(errno));
	snprintf(r->path, sizeof r->path, "%s/notify", r->folder);
	snprintf(a.sun_path, sizeof a.sun_path, "%s", r->path);
	r->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (r->fd < 0 || bind(r->fd, (struct sockaddr *)&a, sizeof a) != 0 ||
	    setsockopt(r->fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) != 0)
		return err_set(e, ST_CONFIGURATION, "listening at %s: %s", r->path, strerror(errno));
	return ST_OK;
}

static void ready_close(struct ready *r)
{
	if (r->fd >= 0)
		close(r->fd);
	unlink(r->path);
	rmdir(r->folder);
}

/* The pid that said READY=1 next; 0: nothing more for now. */
static pid_t ready_next(struct ready *r)
{
	char text[512], control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec v = { text, sizeof text - 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct ucred who;
	ssize_t n;

	while ((n = recvmsg(r->fd, &m, MSG_CMSG_CLOEXEC)) >= 0) {
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);

		text[n] = '\0';
		m.msg_controllen = sizeof control;
		if (strstr(text, "READY=1") == NULL || c == NULL || c->cmsg_type != SCM_CREDENTIALS)
			continue;
		memcpy(&who, CMSG_DATA(c), sizeof who);
		return who.pid;
	}
	return 0;
}

/* ---- starting ------------------------------------------------------------------------------------------------ */

/* The end of a daemon's log, for the message that it ended. */
static void log_tail(const char *path, char text[LOG_TAIL])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n = 0;

	if (fd >= 0 && fstat(fd, &st) == 0) {
		off_t from = st.st_size > LOG_TAIL - 1 ? st.st_size - (LOG_TAIL - 1) : 0;

		n = pread(fd, text, LOG_TAIL - 1, from);
	}
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	while (n > 0 && text[n - 1] == '\n')
		text[--n] = '\0';
}

static enum status has_ended(const struct lab_daemon *d, struct err *e)
{
	char tail[LOG_TAIL];

	log_tail(d->log, tail);
	return err_set(e, ST_CONFIGURATION, "%s has ended; %s ends with: %s", d->name, d->log, tail);
}

/* The mounts of a site with an rpcbind of its own are that rpcbind's. */
static pid_t mounts_of_site(const struct lab *lab, size_t site)
{
	for (size_t i = 0; i < lab->daemon_count; i++) {
		const struct lab_daemon *d = &lab->daemons[i];

		if (d->kind == LAB_RPCBIND && d->site == site && lab_daemon_runs(d))
			return d->pid;
	}
	return 0;
}

static enum status spawn(const struct lab *lab, struct lab_daemon *d, const struct ready *r, struct err *e)
{
	static const char *const programs[] = { "rpcbind", "qkdn-kmd", "qkdn-quantumd", "qkdn-controllerd" };
	char *program = find_program(programs[d->kind]);
	const char *const with_config[] = { program, "-c", d->config, NULL };
	const char *const rpcbind[] = { program, "-f", "-w", NULL };
	struct launch l = { .argv = d->kind == LAB_RPCBIND ? rpcbind : with_config,
		            .netns = lab->sites[d->site].netns,
		            .mounts_of = d->kind == LAB_RPCBIND ? 0 : mounts_of_site(lab, d->site),
		            .own_run = d->kind == LAB_RPCBIND,
		            .log = d->log,
		            .output = -1,
		            .notify = r->path };
	enum status status = process_start(&l, &d->pid, e);

	if (status == ST_OK)
		d->started = process_started(d->pid);
	free(program);
	return status;
}

static bool rpcbind_answers(const struct lab *lab, const struct lab_daemon *d)
{
	const char *const argv[] = { "rpcinfo", "-s", "127.0.0.1", NULL };
	struct launch l = { .argv = argv, .netns = lab->sites[d->site].netns, .mounts_of = d->pid, .output = -1 };
	char output[256];

	return process_run(&l, output, sizeof output, 2000) == 0;
}

/* Takes in everybody who has said so, and looks whether this one has. */
static bool is_ready(const struct lab *lab, const struct lab_daemon *d, struct ready *r, bool *told)
{
	pid_t pid;

	if (d->kind == LAB_RPCBIND)
		return rpcbind_answers(lab, d);
	while ((pid = ready_next(r)) != 0)
		for (size_t i = 0; i < lab->daemon_count; i++)
			if (lab->daemons[i].pid == pid)
				told[i] = true;
	return told[d - lab->daemons];
}

static enum status wait_ready(const struct lab *lab, const struct lab_daemon *d, struct ready *r, bool *told,
                              struct err *e)
{
	for (unsigned waited = 0; !is_ready(lab, d, r, told); waited += POLL_MS) {
		struct pollfd p = { .fd = r->fd, .events = POLLIN };

		waitpid(d->pid, NULL, WNOHANG); /* an ended child is no zombie that looks alive */
		if (!lab_daemon_runs(d))
			return has_ended(d, e);
		if (lab_interrupted)
			return err_set(e, ST_TIMED_OUT, "interrupted");
		if (waited >= READY_MS)
			return err_set(e, ST_TIMED_OUT, "%s was not ready after %d s: see %s", d->name,
			               READY_MS / 1000, d->log);
		poll(&p, 1, POLL_MS);
	}
	return ST_OK;
}

/* All daemons of a kind at once, then the next kind: rpcbind is there when the KMs register, and the
 * KMs when the QKD modules call. */
static enum status start_kind(struct lab *lab, struct lab_daemon *only, enum lab_kind kind, struct ready *r,
                              struct err *e)
{
	bool *told = xcalloc(lab->daemon_count, sizeof *told);
	enum status status = ST_OK;

	for (size_t i = 0; i < lab->daemon_count && status == ST_OK; i++) {
		struct lab_daemon *d = &lab->daemons[i];

		if (d->kind == kind && (only == NULL || only == d) && !lab_daemon_runs(d))
			status = spawn(lab, d, r, e);
	}
	if (status == ST_OK)
		status = lab_save(lab, e);
	for (size_t i = 0; i < lab->daemon_count && status == ST_OK; i++) {
		struct lab_daemon *d = &lab->daemons[i];

		if (d->kind == kind && (only == NULL || only == d))
			status = wait_ready(lab, d, r, told, e);
	}
	free(told);
	return status;
}

enum status lab_start(struct lab *lab, struct lab_daemon *only, struct err *e)
{
	enum status status;
	struct ready r;

	if (only != NULL && lab_daemon_runs(only))
		return err_set(e, ST_CONFLICT, "%s runs already", only->name);
	status = ready_open(&r, e);
	for (int kind = 0; kind < LAB_KIND_COUNT && status == ST_OK; kind++)
		status = start_kind(lab, only, (enum lab_kind)kind, &r, e);
	ready_close(&r);
	return status;
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static bool is_to_end(const struct lab_daemon *d, const struct lab_daemon *only, bool rpcbinds)
{
	return (only == NULL || only == d) && (d->kind == LAB_RPCBIND) == rpcbinds;
}

static void end_some(struct lab *lab, const struct lab_daemon *only, bool rpcbinds, int number)
{
	for (size_t i = lab->daemon_count; i-- > 0;)
		if (is_to_end(&lab->daemons[i], only, rpcbinds))
			process_signal(lab->daemons[i].pid, lab->daemons[i].started, number);
	for (size_t i = lab->daemon_count; i-- > 0;) {
		struct lab_daemon *d = &lab->daemons[i];

		if (!is_to_end(d, only, rpcbinds))
			continue;
		if (!process_wait_gone(d->pid, d->started, STOP_MS)) {
			fprintf(stderr, "qkdn-lab: %s did not stop in %d s: killed\n", d->name, STOP_MS / 1000);
			process_signal(d->pid, d->started, SIGKILL);
			process_wait_gone(d->pid, d->started, KILL_MS);
		}
		waitpid(d->pid, NULL, WNOHANG);
		d->pid = 0;
		d->started = 0;
	}
}

/* rpcbind last: the others withdraw their programs there. */
void lab_stop(struct lab *lab, struct lab_daemon *only, int number)
{
	end_some(lab, only, false, number);
	end_some(lab, only, true, number);
}

/* ---- as an application ------------------------------------------------------------------------------------------- */

/* sh reads the environment's file, then becomes the command: "$0" is the file. */
static const char run_with_environment[] = ". \"$0\" && exec \"$@\"";

/* What as_application made. */
struct command {
	const char **argv;
	char *environment; /* the file */
	struct launch launch;
};

static void as_application(const struct lab *lab, const struct lab_application *a, char *const *words,
                           struct command *c)
{
	size_t n = 0, count = 0;

	while (words[count] != NULL)
		count++;
	c->environment = lab_path(lab, "apps/%s.env", a->name);
	c->argv = xcalloc(count + 5, sizeof *c->argv);
	c->argv[n++] = "sh";
	c->argv[n++] = "-c";
	c->argv[n++] = run_with_environment;
	c->argv[n++] = c->environment;
	memcpy(c->argv + n, words, count * sizeof *words);
	c->launch = (struct launch){ .argv = c->argv, .netns = lab->sites[a->site].netns,
		                     .mounts_of = mounts_of_site(lab, a->site), .output = -1 };
}

static void command_free(struct command *c)
{
	free(c->argv);
	free(c->environment);
}

enum status lab_become_application(const struct lab *lab, const struct lab_application *a,
                                   char *const *words, struct err *e)
{
	struct command c;
	enum status status;

	own_folder_first();
	as_application(lab, a, words, &c);
	status = process_become(&c.launch, e);
	command_free(&c);
	return status;
}

enum status lab_become_site(const struct lab *lab, const struct lab_site *s, char *const *command, struct err *e)
{
	struct launch l = { .argv = (const char *const *)command, .netns = s->netns,
		            .mounts_of = mounts_of_site(lab, (size_t)(s - lab->sites)), .output = -1 };

	own_folder_first();
	return process_become(&l, e);
}

/* ---- until keys flow ----------------------------------------------------------------------------------------------- */

static const struct lab_application *first_at(const struct lab *lab, const char *node)
{
	for (size_t i = 0; i < lab->application_count; i++)
		if (strcmp(lab->sites[lab->applications[i].site].name, node) == 0)
			return &lab->applications[i];
	return NULL;
}

/* Asks the KM of from, as from, how many keys there are for to. */
static bool has_keys(const struct lab *lab, const struct lab_application *from,
                     const struct lab_application *to, char *said, size_t len)
{
	char *keyreq = find_program("qkdn-keyreq");
	char *const words[] = { keyreq, (char *)"status", (char *)"--to", to->name, (char *)"--json", NULL };
	struct command c;
	bool enough = false;

	as_application(lab, from, words, &c);
	if (process_run(&c.launch, said, len, 10000) == 0) {
		json_t *all = json_loads(said, 0, NULL);

		enough = json_integer_value(json_object_get(all, "stored_key_count")) > 0;
		json_decref(all);
	}
	command_free(&c);
	free(keyreq);
	return enough;
}

static enum status check_all_run(const struct lab *lab, struct err *e)
{
	for (size_t i = 0; i < lab->daemon_count; i++) {
		waitpid(lab->daemons[i].pid, NULL, WNOHANG);
		if (!lab_daemon_runs(&lab->daemons[i]))
			return has_ended(&lab->daemons[i], e);
	}
	return ST_OK;
}

static enum status wait_pair(const struct lab *lab, const struct lab_application *from,
                             const struct lab_application *to, uint64_t until, struct err *e)
{
	char said[1024];

	while (!has_keys(lab, from, to, said, sizeof said)) {
		if (check_all_run(lab, e) != ST_OK)
			return e->status;
		if (lab_interrupted)
			return err_set(e, ST_TIMED_OUT, "interrupted");
		if (process_now_ms() >= until)
			return err_set(e, ST_TIMED_OUT, "no keys from %s to %s yet: see the daemons' logs below %s; %s",
			               from->name, to->name, lab->directory, said);
		process_sleep(2 * POLL_MS);
	}
	return ST_OK;
}

/* Where keys are relayed: from every node that has an application to the next one that has, and back. */
static enum status wait_far_pairs(const struct lab *lab, uint64_t until, struct err *e)
{
	enum status status = ST_OK;

	for (size_t i = 1; i < lab->application_count && status == ST_OK; i++) {
		const struct lab_application *a = &lab->applications[i - 1], *b = &lab->applications[i];

		if (a->site == b->site)
			continue;
		status = wait_pair(lab, a, b, until, e);
		if (status == ST_OK)
			status = wait_pair(lab, b, a, until, e);
	}
	return status;
}

enum status lab_wait_keys(struct lab *lab, const struct topology *t, unsigned ms, struct err *e)
{
	uint64_t until = process_now_ms() + ms;
	enum status status = ST_OK;

	for (size_t i = 0; i < t->links.count && status == ST_OK; i++) {
		const struct topology_link *l = topology_link(t, i);
		const struct lab_application *a = first_at(lab, l->between.items[0]);
		const struct lab_application *b = first_at(lab, l->between.items[1]);

		if (a == NULL || b == NULL)
			continue;
		status = wait_pair(lab, a, b, until, e);
		if (status == ST_OK)
			status = wait_pair(lab, b, a, until, e);
	}
	if (status == ST_OK && t->control != CONTROL_NONE && t->relay_ahead)
		status = wait_far_pairs(lab, until, e);
	return status;
}
