/* lab.c - the network as an object, and its memory in DIR/lab.json. */
#include <signal.h>

#include "lab.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "file.h"
#include "process.h"
#include "secret.h"

enum { FIRST_PORT = 7001, PORT_STEP = 20, PORT_TRIES = 100, STATE_MAX = 16 << 20 };

char *lab_path(const struct lab *lab, const char *fmt, ...)
{
	char *tail, *path;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&tail, fmt, ap) < 0)
		abort();
	va_end(ap);
	path = xasprintf("%s/%s", lab->directory, tail);
	free(tail);
	return path;
}

/* ---- addresses ------------------------------------------------------------------------------------ */

/* Node i (from 1) is at 127.0.0.(10+i), from the 201st on at 127.0.1.1 and so on; in namespaces
 * of its own at 10.204.0.i. */
static char *address_of(size_t i, bool netns)
{
	if (netns)
		return xasprintf("10.204.%zu.%zu", i / 250, i % 250 + 1);
	if (i < 200)
		return xasprintf("127.0.0.%zu", 11 + i);
	return xasprintf("127.0.%zu.%zu", 1 + (i - 200) / 250, 1 + (i - 200) % 250);
}

static bool port_is_free(const char *address, unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
	bool ok;

	inet_pton(AF_INET, address, &a.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
	close(fd);
	return ok;
}

static bool ports_are_free(const struct lab *lab, unsigned port)
{
	for (size_t i = 0; i < lab->site_count; i++)
		for (unsigned j = 0; j < LAB_KIND_COUNT; j++)
			if (!port_is_free(lab->sites[i].address, port + j))
				return false;
	return true;
}

/* Whoever holds the abstract socket of a port block is about to listen there. -1: somebody else is. */
static int reserve(unsigned port)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int len = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "qkdn-lab-port-%u", port);

	if (fd >= 0 &&
	    bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Several labs on one machine share 127.0.0.x: the first port block that nobody has or is about to. */
static enum status choose_port(struct lab *lab, struct err *e)
{
	lab->port = FIRST_PORT;
	if (lab->netns)
		return ST_OK;
	for (int i = 0; i < PORT_TRIES; i++, lab->port += PORT_STEP) {
		lab->reservation = reserve(lab->port);
		if (lab->reservation >= 0 && ports_are_free(lab, lab->port))
			return ST_OK;
		if (lab->reservation >= 0)
			close(lab->reservation);
		lab->reservation = -1;
	}
	return err_set(e, ST_CONFIGURATION, "ports %d to %u are taken on the nodes' loopback addresses", FIRST_PORT,
	               lab->port);
}

/* ---- from a topology -------------------------------------------------------------------------------- */

static size_t add_site(struct lab *lab, const char *name)
{
	size_t i = lab->site_count++;
	struct lab_site *s;

	lab->sites = xrealloc(lab->sites, lab->site_count * sizeof *lab->sites);
	s = &lab->sites[i];
	s->name = xstrdup(name);
	s->address = address_of(i, lab->netns);
	s->netns = lab->netns ? xasprintf("qkdn-%s-%s", lab->id, name) : NULL;
	return i;
}

static const struct {
	const char *word; /* in the daemon's name and its files' */
	bool has_config;
} kinds[LAB_KIND_COUNT] = {
	[LAB_RPCBIND] = { "rpcbind", false },
	[LAB_KM] = { "kmd", true },
	[LAB_QUANTUM] = { "quantumd", true },
	[LAB_CONTROLLER] = { "controllerd", true },
};

static void add_daemon(struct lab *lab, enum lab_kind kind, size_t site)
{
	const char *where = lab->sites[site].name, *word = kinds[kind].word;
	struct lab_daemon *d;

	lab->daemons = xrealloc(lab->daemons, (lab->daemon_count + 1) * sizeof *lab->daemons);
	d = &lab->daemons[lab->daemon_count++];
	*d = (struct lab_daemon){ .kind = kind, .site = site };
	d->name = xasprintf("%s/%s", where, word);
	d->config = kinds[kind].has_config ? lab_path(lab, "%s/%s.conf", where, word) : NULL;
	d->log = lab_path(lab, "%s/%s.log", where, word);
}

static void add_applications(struct lab *lab, const struct topology_node *n, size_t site)
{
	for (size_t i = 0; i < n->applications.count; i++) {
		lab->applications = xrealloc(lab->applications,
		                             (lab->application_count + 1) * sizeof *lab->applications);
		lab->applications[lab->application_count++] =
			(struct lab_application){ xstrdup(n->applications.items[i]), site };
	}
}

static enum status make_directory(struct lab *lab, const char *directory, struct err *e)
{
	if (mkdir(directory, 0755) != 0 && errno != EEXIST)
		return err_set(e, ST_CONFIGURATION, "making the folder %s: %s", directory, strerror(errno));
	lab->directory = realpath(directory, NULL);
	if (lab->directory == NULL)
		return err_set(e, ST_CONFIGURATION, "%s: %s", directory, strerror(errno));
	if (lab->netns && strncmp(lab->directory, "/run/", 5) == 0)
		return err_set(e, ST_CONFIGURATION,
		               "%s: with --netns every node has a /run of its own: choose a folder elsewhere",
		               lab->directory);
	return ST_OK;
}

enum status lab_plan(struct lab **made, const struct topology *t, const char *directory, bool netns,
                     struct err *e)
{
	struct lab *lab = xcalloc(1, sizeof *lab);
	enum status status;
	uint16_t random;

	lab->lock = lab->reservation = -1;
	lab->netns = netns;
	secret_random(&random, sizeof random);
	lab->id = xasprintf("%04x", random);
	status = make_directory(lab, directory, e);
	if (status != ST_OK) {
		lab_free(lab);
		return status;
	}
	for (size_t i = 0; i < t->nodes.count; i++) {
		size_t site = add_site(lab, topology_node(t, i)->name);

		if (netns)
			add_daemon(lab, LAB_RPCBIND, site);
		if (t->control == CONTROL_DISTRIBUTED && topology_controller(t, i) == i)
			add_daemon(lab, LAB_CONTROLLER, site);
		add_daemon(lab, LAB_KM, site);
		add_applications(lab, topology_node(t, i), site);
	}
	add_daemon(lab, LAB_QUANTUM, add_site(lab, "quantum"));
	if (t->control == CONTROL_CENTRALIZED) {
		size_t site = add_site(lab, "control");

		if (netns)
			add_daemon(lab, LAB_RPCBIND, site);
		add_daemon(lab, LAB_CONTROLLER, site);
	}
	status = choose_port(lab, e);
	if (status == ST_OK)
		*made = lab;
	else
		lab_free(lab);
	return status;
}

void lab_free(struct lab *lab)
{
	if (lab == NULL)
		return;
	for (size_t i = 0; i < lab->site_count; i++) {
		free(lab->sites[i].name);
		free(lab->sites[i].address);
		free(lab->sites[i].netns);
	}
	for (size_t i = 0; i < lab->daemon_count; i++) {
		free(lab->daemons[i].name);
		free(lab->daemons[i].config);
		free(lab->daemons[i].log);
	}
	for (size_t i = 0; i < lab->application_count; i++)
		free(lab->applications[i].name);
	if (lab->lock >= 0)
		close(lab->lock);
	if (lab->reservation >= 0)
		close(lab->reservation);
	free(lab->sites);
	free(lab->daemons);
	free(lab->applications);
	free(lab->directory);
	free(lab->id);
	free(lab);
}

enum status lab_take_lock(struct lab *lab, struct err *e)
{
	char *path = lab_path(lab, "lab.lock");

	lab->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	free(path);
	if (lab->lock < 0)
		return err_set(e, ST_CONFIGURATION, "locking %s: %s", lab->directory, strerror(errno));
	if (flock(lab->lock, LOCK_EX | LOCK_NB) != 0)
		return err_set(e, ST_BUSY, "another qkdn-lab is at work on %s: wait until it is done", lab->directory);
	return ST_OK;
}

/* ---- looking up --------------------------------------------------------------------------------------- */

struct lab_daemon *lab_find_daemon(struct lab *lab, const char *name)
{
	for (size_t i = 0; i < lab->daemon_count; i++)
		if (strcmp(lab->daemons[i].name, name) == 0)
			return &lab->daemons[i];
	return NULL;
}

const struct lab_application *lab_find_application(const struct lab *lab, const char *name)
{
	for (size_t i = 0; i < lab->application_count; i++)
		if (strcmp(lab->applications[i].name, name) == 0)
			return &lab->applications[i];
	return NULL;
}

const struct lab_site *lab_find_site(const struct lab *lab, const char *name)
{
	for (size_t i = 0; i < lab->site_count; i++)
		if (strcmp(lab->sites[i].name, name) == 0)
			return &lab->sites[i];
	return NULL;
}

bool lab_daemon_runs(const struct lab_daemon *d)
{
	return process_runs(d->pid, d->started);
}

/* ---- lab.json ------------------------------------------------------------------------------------------- */

enum status lab_save(const struct lab *lab, struct err *e)
{
	json_t *sites = json_array(), *daemons = json_array(), *applications = json_array(), *all;
	char *path = lab_path(lab, "lab.json"), *text;
	enum status status;

	for (size_t i = 0; i < lab->site_count; i++) {
		const struct lab_site *s = &lab->sites[i];

		json_array_append_new(sites, json_pack("{ss ss ss?}", "name", s->name, "address", s->address,
		                                       "netns", s->netns));
	}
	for (size_t i = 0; i < lab->daemon_count; i++) {
		const struct lab_daemon *d = &lab->daemons[i];

		json_array_append_new(daemons, json_pack("{ss ss sI ss? ss si sI}", "name", d->name, "kind",
		                                         kinds[d->kind].word, "site", (json_int_t)d->site,
		                                         "config", d->config, "log", d->log, "pid", (int)d->pid,
		                                         "started", (json_int_t)d->started));
	}
	for (size_t i = 0; i < lab->application_count; i++)
		json_array_append_new(applications,
		                      json_pack("{ss sI}", "name", lab->applications[i].name, "site",
		                                (json_int_t)lab->applications[i].site));
	all = json_pack("{ss sb si so so so}", "id", lab->id, "netns", lab->netns, "port", (int)lab->port, "sites",
	                sites, "daemons", daemons, "applications", applications);
	text = json_dumps(all, JSON_INDENT(2));
	status = file_write(path, text, strlen(text), 0644, e);
	json_decref(all);
	free(text);
	free(path);
	return status;
}

static char *copy_or_null(const json_t *value)
{
	return json_is_string(value) ? xstrdup(json_string_value(value)) : NULL;
}

static bool read_site(struct lab_site *s, json_t *from)
{
	const char *name, *address;

	if (json_unpack(from, "{ss ss}", "name", &name, "address", &address) != 0)
		return false;
	s->name = xstrdup(name);
	s->address = xstrdup(address);
	s->netns = copy_or_null(json_object_get(from, "netns"));
	return true;
}

static bool read_daemon(const struct lab *lab, struct lab_daemon *d, json_t *from)
{
	const char *name, *kind, *log;
	json_int_t site, started;
	int pid;

	if (json_unpack(from, "{ss ss sI ss si sI}", "name", &name, "kind", &kind, "site", &site, "log", &log, "pid",
	                &pid, "started", &started) != 0 ||
	    site < 0 || (size_t)site >= lab->site_count)
		return false;
	while (strcmp(kinds[d->kind].word, kind) != 0)
		if (++d->kind == LAB_KIND_COUNT)
			return false;
	d->name = xstrdup(name);
	d->log = xstrdup(log);
	d->config = copy_or_null(json_object_get(from, "config"));
	d->site = (size_t)site;
	d->pid = pid;
	d->started = (unsigned long long)started;
	return true;
}

static bool read_application(const struct lab *lab, struct lab_application *a, json_t *from)
{
	const char *name;
	json_int_t site;

	if (json_unpack(from, "{ss sI}", "name", &name, "site", &site) != 0 || site < 0 ||
	    (size_t)site >= lab->site_count)
		return false;
	a->name = xstrdup(name);
	a->site = (size_t)site;
	return true;
}

static bool read_state(struct lab *lab, json_t *all)
{
	json_t *sites, *daemons, *applications, *item;
	const char *id;
	int netns, port;
	size_t i;

	if (json_unpack(all, "{ss sb si so so so}", "id", &id, "netns", &netns, "port", &port, "sites", &sites,
	                "daemons", &daemons, "applications", &applications) != 0)
		return false;
	lab->id = xstrdup(id);
	lab->netns = netns;
	lab->port = (unsigned)port;
	lab->sites = xcalloc(json_array_size(sites), sizeof *lab->sites);
	lab->daemons = xcalloc(json_array_size(daemons), sizeof *lab->daemons);
	lab->applications = xcalloc(json_array_size(applications), sizeof *lab->applications);
	json_array_foreach(sites, i, item) {
		if (!read_site(&lab->sites[lab->site_count++], item))
			return false;
	}
	json_array_foreach(daemons, i, item) {
		if (!read_daemon(lab, &lab->daemons[lab->daemon_count++], item))
			return false;
	}
	json_array_foreach(applications, i, item) {
		if (!read_application(lab, &lab->applications[lab->application_count++], item))
			return false;
	}
	return true;
}

enum status lab_load(struct lab **made, const char *directory, struct err *e)
{
	struct lab *lab = xcalloc(1, sizeof *lab);
	enum status status = ST_OK;
	char *path = NULL, *text = NULL;
	json_t *all = NULL;
	size_t len;

	lab->lock = lab->reservation = -1;
	lab->directory = realpath(directory, NULL);
	if (lab->directory != NULL)
		path = lab_path(lab, "lab.json");
	if (path == NULL || access(path, F_OK) != 0)
		status = err_set(e, ST_NOT_FOUND, "no network is up in %s: qkdn-lab up FILE %s", directory, directory);
	if (status == ST_OK)
		status = file_read(path, STATE_MAX, &text, &len, e);
	if (status == ST_OK) {
		all = json_loads(text, 0, NULL);
		if (all == NULL || !read_state(lab, all))
			status = err_set(e, ST_CONFIGURATION, "%s: not written by this qkdn-lab", path);
	}
	json_decref(all);
	free(text);
	free(path);
	if (status == ST_OK)
		*made = lab;
	else
		lab_free(lab);
	return status;
}

void lab_forget(const struct lab *lab)
{
	char *path = lab_path(lab, "lab.json");

	unlink(path);
	free(path);
}
