/*
 * files.c - what the daemons of a lab read: certificates, master keys, initial secrets, their
 * configuration; and the applications' environments. Paths in the files are relative, so that a
 * stopped lab can be moved.
 */
#include <signal.h>

#include "lab.h"

#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../pki/ca.h"
#include "file.h"
#include "secret.h"

enum { LAB_DAYS = 30 };

struct files {
	const struct lab *lab;
	const struct topology *t;
	struct ca *ca;
	struct err *e;
};

static enum status make_folder(const struct files *f, const char *name, unsigned mode)
{
	char *path = lab_path(f->lab, "%s", name);
	enum status status = ST_OK;

	if (mkdir(path, mode) != 0 && errno != EEXIST)
		status = err_set(f->e, ST_CONFIGURATION, "making the folder %s: %s", path, strerror(errno));
	free(path);
	return status;
}

/* A text file that is written to memory first and then put in place as a whole. */
struct text {
	char *bytes;
	size_t len;
	FILE *to;
};

static FILE *text_open(struct text *text)
{
	text->to = open_memstream(&text->bytes, &text->len);
	return text->to;
}

static enum status text_put(struct text *text, const struct files *f, char *path)
{
	enum status status;

	fclose(text->to);
	status = file_write(path, text->bytes, text->len, 0644, f->e);
	free(text->bytes);
	free(path);
	return status;
}

/* ---- certificates and secrets ------------------------------------------------------------------------ */

static enum status issue(const struct files *f, const char *role, const char *name, const struct lab_site *at)
{
	char *prefix = lab_path(f->lab, "pki/%s", name);
	char *dns_name = at != NULL ? xasprintf("%s.%s", name, ca_domain(f->ca)) : NULL;
	const char *address = at != NULL ? at->address : NULL, *const dns_names[] = { dns_name };
	struct ca_request r = { .role = role, .name = name, .dns_names = dns_names, .dns_count = at != NULL,
		                .addresses = &address, .address_count = at != NULL, .days = LAB_DAYS,
		                .prefix = prefix };
	enum status status = ca_issue(f->ca, &r, f->e);

	free(prefix);
	free(dns_name);
	return status;
}

/* Makes a secret file unless it is there. */
static enum status make_secret(const struct files *f, char *path, size_t len)
{
	enum status status = ST_OK;

	if (access(path, F_OK) != 0)
		status = ca_write_random(path, len, f->e);
	free(path);
	return status;
}

/* Both ends get a copy, which a KM removes when it has opened the link: a mark remembers that they did. */
static enum status make_initial_secret(const struct files *f, const struct topology_link *l)
{
	char *mark = lab_path(f->lab, "pki/%s.given", l->name);
	struct secret s = { NULL, 0 };
	enum status status = ST_OK;

	if (access(mark, F_OK) != 0) {
		secret_alloc(&s, CA_INITIAL_SECRET_LEN);
		secret_random(s.bytes, s.len);
		for (unsigned end = 0; end < 2 && status == ST_OK; end++) {
			char *path = lab_path(f->lab, "%s/%s.secret", l->between.items[end], l->name);

			status = file_write(path, s.bytes, s.len, 0600, f->e);
			free(path);
		}
		secret_free(&s);
		if (status == ST_OK)
			status = file_write(mark, "", 0, 0644, f->e);
	}
	free(mark);
	return status;
}

static enum status open_authority(struct files *f)
{
	char *folder = lab_path(f->lab, "pki"), *certificate = lab_path(f->lab, "pki/ca.crt");
	enum status status = ST_OK;

	if (access(certificate, F_OK) != 0)
		status = ca_make(folder, f->t->domain, LAB_DAYS, f->e);
	if (status == ST_OK)
		status = ca_open(&f->ca, folder, f->e);
	free(folder);
	free(certificate);
	return status;
}

/* Modules are named after their node: alice-1 at alice's first link, and so on. The caller frees. */
static char *module_name(const struct topology *t, size_t link, unsigned end)
{
	const char *node = topology_link(t, link)->between.items[end];
	unsigned n = 1;

	for (size_t i = 0; i < link; i++)
		for (unsigned j = 0; j < 2; j++)
			n += strcmp(topology_link(t, i)->between.items[j], node) == 0;
	return xasprintf("%s-%u", node, n);
}

/* The controller of a site: "alice-controller", or "control-controller" of all. The caller frees. */
static char *controller_name(const struct lab *lab, size_t site)
{
	return xasprintf("%s-controller", lab->sites[site].name);
}

static enum status issue_modules(const struct files *f)
{
	enum status status = ST_OK;

	for (size_t i = 0; i < f->t->links.count; i++) {
		for (unsigned end = 0; end < 2 && status == ST_OK; end++) {
			char *name = module_name(f->t, i, end);

			status = issue(f, "module", name, lab_find_site(f->lab, "quantum"));
			free(name);
		}
	}
	return status;
}

static enum status make_credentials(struct files *f)
{
	const struct lab *lab = f->lab;
	enum status status = open_authority(f);

	for (size_t i = 0; i < f->t->nodes.count && status == ST_OK; i++) {
		status = issue(f, "km", lab->sites[i].name, &lab->sites[i]);
		if (status == ST_OK)
			status = make_secret(f, lab_path(lab, "%s/master.key", lab->sites[i].name), CA_MASTER_KEY_LEN);
	}
	for (size_t i = 0; i < f->t->links.count && status == ST_OK; i++)
		status = make_initial_secret(f, topology_link(f->t, i));
	for (size_t i = 0; i < lab->daemon_count && status == ST_OK; i++) {
		char *name = lab->daemons[i].kind == LAB_CONTROLLER ? controller_name(lab, lab->daemons[i].site) : NULL;

		if (name != NULL)
			status = issue(f, "controller", name, &lab->sites[lab->daemons[i].site]);
		free(name);
	}
	for (size_t i = 0; i < lab->application_count && status == ST_OK; i++)
		status = issue(f, "app", lab->applications[i].name, NULL);
	if (status == ST_OK)
		status = issue(f, "admin", "admin", NULL);
	if (status == ST_OK)
		status = issue_modules(f);
	return status;
}

/* ---- configuration -------------------------------------------------------------------------------------- */

/* Where a daemon is found: host and port, or the host alone where its rpcbind knows the port. */
static void print_address(FILE *to, const struct lab *lab, enum lab_kind kind, size_t site)
{
	unsigned port = lab->port + (kind == LAB_CONTROLLER ? 1 : 0);

	if (lab->netns)
		fprintf(to, "%s", lab->sites[site].address);
	else
		fprintf(to, "%s:%u", lab->sites[site].address, port);
}

static void print_credentials(FILE *to, const char *name, const char *separator)
{
	fprintf(to, "certificate = \"../pki/%s.crt\";%sprivate_key = \"../pki/%s.key\";", name, separator, name);
}

static void print_km_links(FILE *to, const struct files *f, size_t node)
{
	const char *name = f->lab->sites[node].name, *comma = "";

	fprintf(to, "links = (");
	for (size_t i = 0; i < f->t->links.count; i++) {
		const struct topology_link *l = topology_link(f->t, i);

		for (unsigned end = 0; end < 2; end++) {
			char *module;

			if (strcmp(l->between.items[end], name) != 0)
				continue;
			module = module_name(f->t, i, end);
			fprintf(to,
			        "%s\n\t{ name = \"%s\"; peer = \"%s\"; module = \"%s\"; "
			        "initial_secret = \"%s.secret\"; block_size = %lld; }",
			        comma, l->name, l->between.items[!end], module, l->name, (long long)l->block_size);
			comma = ",";
			free(module);
		}
	}
	fprintf(to, "\n);\n");
}

static bool are_neighbours(const struct topology *t, const char *a, const char *b)
{
	for (size_t i = 0; i < t->links.count; i++) {
		char *const *ends = topology_link(t, i)->between.items;

		if ((strcmp(ends[0], a) == 0 && strcmp(ends[1], b) == 0) ||
		    (strcmp(ends[0], b) == 0 && strcmp(ends[1], a) == 0))
			return true;
	}
	return false;
}

/* Whom a KM talks to: its neighbours, and, where it serves applications, the other KMs that do. In a small
 * network all know all, so that every completion notification finds its way (I.4b). */
static void print_km_peers(FILE *to, const struct files *f, size_t node)
{
	enum { SMALL = 20 };
	const struct topology_node *me = topology_node(f->t, node);
	const char *comma = "";

	fprintf(to, "peers = (");
	for (size_t i = 0; i < f->t->nodes.count; i++) {
		const struct topology_node *n = topology_node(f->t, i);

		if (i == node || (f->t->nodes.count > SMALL && !are_neighbours(f->t, me->name, n->name) &&
		                  (me->applications.count == 0 || n->applications.count == 0)))
			continue;
		fprintf(to, "%s\n\t{ name = \"%s\"; address = \"", comma, n->name);
		print_address(to, f->lab, LAB_KM, i);
		fprintf(to, "\"; dns_name = \"%s.%s\"; }", n->name, ca_domain(f->ca));
		comma = ",";
	}
	fprintf(to, "\n);\n");
}

static void print_applications(FILE *to, const struct files *f)
{
	fprintf(to, "applications = (");
	for (size_t i = 0; i < f->lab->application_count; i++) {
		const struct lab_application *a = &f->lab->applications[i];

		fprintf(to, "%s\n\t{ name = \"%s\"; km = \"%s\"; }", i > 0 ? "," : "", a->name,
		        f->lab->sites[a->site].name);
	}
	fprintf(to, "\n);\n");
}

/* The controller that node's KM registers with. */
static void print_km_controller(FILE *to, const struct files *f, size_t node)
{
	size_t site = topology_controller(f->t, node);
	char *name;

	if (f->t->control == CONTROL_NONE)
		return;
	if (f->t->control == CONTROL_CENTRALIZED)
		site = (size_t)(lab_find_site(f->lab, "control") - f->lab->sites);
	name = controller_name(f->lab, site);
	fprintf(to, "controller = { name = \"%s\"; address = \"", name);
	print_address(to, f->lab, LAB_CONTROLLER, site);
	fprintf(to, "\"; dns_name = \"%s.%s\"; };\n", name, ca_domain(f->ca));
	free(name);
}

static enum status write_km(const struct files *f, size_t node)
{
	const char *name = f->lab->sites[node].name;
	struct text text;
	FILE *to = text_open(&text);

	fprintf(to, "# qkdn-kmd(8) of node %s, written by qkdn-lab\n", name);
	fprintf(to, "name = \"%s\";\nlisten = [ \"%s:%u\" ];\nrpcbind = \"%s\";\n", name,
	        f->lab->sites[node].address, f->lab->port, f->lab->netns ? "required" : "off");
	print_credentials(to, name, "\n");
	fprintf(to, "\nauthority = \"../pki/ca.crt\";\ntrace = \"../trace/%s.trace\";\n", name);
	fprintf(to, "store = { directory = \"store\"; master_key = \"master.key\"; };\n");
	print_km_links(to, f, node);
	print_km_peers(to, f, node);
	print_applications(to, f);
	print_km_controller(to, f, node);
	if (!f->t->relay_ahead || f->t->shares > 1) /* else km_settings may have it */
		fprintf(to, "relay = { ahead = %s; shares = %d; shares_policy = \"%s\"; };\n", f->t->relay_ahead ? "true" : "false",
		        (int)f->t->shares, topology_policies[f->t->shares_policy]);
	if (f->t->km_settings != NULL)
		fprintf(to, "%s\n", f->t->km_settings);
	return text_put(&text, f, lab_path(f->lab, "%s/kmd.conf", name));
}

static void print_controller_kms(FILE *to, const struct files *f, size_t site)
{
	const char *comma = "";

	fprintf(to, "kms = (");
	for (size_t i = 0; i < f->t->nodes.count; i++) {
		if (f->t->control == CONTROL_DISTRIBUTED && topology_controller(f->t, i) != site)
			continue;
		fprintf(to, "%s { name = \"%s\"; }", comma, f->lab->sites[i].name);
		comma = ",";
	}
	fprintf(to, " );\n");
}

/* Distributed: the controllers that a QKD link leads to, each once. */
static void print_controller_neighbours(FILE *to, const struct files *f, size_t site)
{
	const struct topology *t = f->t;
	bool *told = xcalloc(t->nodes.count, sizeof *told);
	const char *comma = "";

	fprintf(to, "neighbours = (");
	for (size_t i = 0; t->control == CONTROL_DISTRIBUTED && i < t->links.count; i++) {
		char *const *ends = topology_link(t, i)->between.items;
		size_t a = topology_controller(t, (size_t)topology_find_node(t, ends[0]));
		size_t b = topology_controller(t, (size_t)topology_find_node(t, ends[1])), other = a == site ? b : a;
		char *name;

		if ((a != site && b != site) || a == b || told[other])
			continue;
		told[other] = true;
		name = controller_name(f->lab, other);
		fprintf(to, "%s\n\t{ name = \"%s\"; address = \"", comma, name);
		print_address(to, f->lab, LAB_CONTROLLER, other);
		fprintf(to, "\"; dns_name = \"%s.%s\"; }", name, ca_domain(f->ca));
		comma = ",";
		free(name);
	}
	fprintf(to, " );\n");
	free(told);
}

/* A controller of several nodes plans whole routes for them; one of a single node, the next hop. */
static const char *controller_mode(const struct topology *t, size_t site)
{
	size_t served = 0;

	for (size_t i = 0; t->control == CONTROL_DISTRIBUTED && i < t->nodes.count; i++)
		served += topology_controller(t, i) == site;
	return topology_controls[served == 1 ? CONTROL_DISTRIBUTED : CONTROL_CENTRALIZED];
}

static enum status write_controller(const struct files *f, size_t site)
{
	const char *at = f->lab->sites[site].name;
	char *name = controller_name(f->lab, site);
	struct text text;
	FILE *to = text_open(&text);

	fprintf(to, "# qkdn-controllerd(8) at %s, written by qkdn-lab\n", at);
	fprintf(to, "name = \"%s\";\nlisten = [ \"%s:%u\" ];\nrpcbind = \"%s\";\nmode = \"%s\";\n", name,
	        f->lab->sites[site].address, f->lab->port + 1, f->lab->netns ? "required" : "off",
	        controller_mode(f->t, site));
	print_credentials(to, name, "\n");
	fprintf(to, "\nauthority = \"../pki/ca.crt\";\ntrace = \"../trace/%s.trace\";\n", name);
	print_controller_kms(to, f, site);
	print_controller_neighbours(to, f, site);
	if (f->t->controller_settings != NULL)
		fprintf(to, "%s\n", f->t->controller_settings);
	free(name);
	return text_put(&text, f, lab_path(f->lab, "%s/controllerd.conf", at));
}

static void print_modules(FILE *to, const struct files *f)
{
	fprintf(to, "modules = (");
	for (size_t i = 0; i < f->t->links.count; i++) {
		const struct topology_link *l = topology_link(f->t, i);

		for (unsigned end = 0; end < 2; end++) {
			const char *km = l->between.items[end];
			char *module = module_name(f->t, i, end);

			fprintf(to, "%s\n\t{ name = \"%s\"; role = \"%s\"; mode = \"%s\"; km = \"%s\"; address = \"",
			        i + end > 0 ? "," : "", module, end == 0 ? "transmitter" : "receiver",
			        topology_modes[l->mode], km);
			print_address(to, f->lab, LAB_KM, (size_t)topology_find_node(f->t, km));
			fprintf(to, "\"; dns_name = \"%s.%s\"; ", km, ca_domain(f->ca));
			print_credentials(to, module, " ");
			fprintf(to, " }");
			free(module);
		}
	}
	fprintf(to, "\n);\n");
}

static void print_faults(FILE *to, const struct files *f, size_t link)
{
	const struct topology_link *l = topology_link(f->t, link);

	if (l->faults.count == 0)
		return;
	fprintf(to, " faults = (");
	for (size_t i = 0; i < l->faults.count; i++) {
		const struct topology_fault *fault = (const struct topology_fault *)l->faults.items + i;
		char *module = module_name(f->t, link, (unsigned)fault->end);

		fprintf(to, "%s { kind = \"%s\"; module = \"%s\"; every = %lld; }", i > 0 ? "," : "",
		        topology_faults[fault->kind], module, (long long)fault->every);
		free(module);
	}
	fprintf(to, " );");
}

/* Only what was given: the defaults of the model are qkdn-quantumd's. */
static void print_number(FILE *to, const char *name, double value)
{
	if (value > 0)
		fprintf(to, " %s = %.9e;", name, value);
}

static void print_quantum_links(FILE *to, const struct files *f)
{
	fprintf(to, "links = (");
	for (size_t i = 0; i < f->t->links.count; i++) {
		const struct topology_link *l = topology_link(f->t, i);
		char *first = module_name(f->t, i, 0), *second = module_name(f->t, i, 1);

		fprintf(to, "%s\n\t{ name = \"%s\"; modules = [ \"%s\", \"%s\" ]; block_size = %lld; rate = \"%s\";",
		        i > 0 ? "," : "", l->name, first, second, (long long)l->block_size,
		        topology_rates[l->rate]);
		print_number(to, "fixed_rate", l->fixed_rate);
		print_number(to, "length_km", l->length_km);
		print_number(to, "attenuation_db_per_km", l->attenuation_db_per_km);
		print_number(to, "detector_efficiency", l->detector_efficiency);
		print_number(to, "dark_count_probability", l->dark_count_probability);
		print_faults(to, f, i);
		fprintf(to, " }");
		free(first);
		free(second);
	}
	fprintf(to, "\n);\n");
}

static enum status write_quantum(const struct files *f)
{
	struct text text;
	FILE *to = text_open(&text);

	fprintf(to, "# qkdn-quantumd(8): the quantum layer of the lab, written by qkdn-lab\n");
	fprintf(to, "authority = \"../pki/ca.crt\";\ntrace = \"../trace/quantum.trace\";\n");
	print_modules(to, f);
	print_quantum_links(to, f);
	if (f->t->quantum_settings != NULL)
		fprintf(to, "%s\n", f->t->quantum_settings);
	return text_put(&text, f, lab_path(f->lab, "quantum/quantumd.conf"));
}

/* ---- applications --------------------------------------------------------------------------------------- */

/* A value for a shell: in single quotes; folders may hold anything. */
static void print_export(FILE *to, const char *name, const char *value)
{
	fprintf(to, "export %s='", name);
	for (; *value != '\0'; value++) {
		if (*value == '\'')
			fputs("'\\''", to);
		else
			putc(*value, to);
	}
	fputs("'\n", to);
}

static void print_export_path(FILE *to, const struct lab *lab, const char *name, const char *folder,
                              const char *file, const char *suffix)
{
	char *path = lab_path(lab, "%s/%s%s", folder, file, suffix);

	print_export(to, name, path);
	free(path);
}

static enum status write_environment(const struct files *f, const char *name, size_t site)
{
	const char *km = f->lab->sites[site].name;
	char *dns_name = xasprintf("%s.%s", km, ca_domain(f->ca)), *address = NULL;
	struct text text;
	size_t len;
	FILE *to = open_memstream(&address, &len);

	print_address(to, f->lab, LAB_KM, site);
	fclose(to);
	to = text_open(&text);
	print_export(to, "QKDN_KM", address);
	print_export(to, "QKDN_KM_NAME", km);
	print_export(to, "QKDN_KM_DNS_NAME", dns_name);
	print_export_path(to, f->lab, "QKDN_CERTIFICATE", "pki", name, ".crt");
	print_export_path(to, f->lab, "QKDN_PRIVATE_KEY", "pki", name, ".key");
	print_export_path(to, f->lab, "QKDN_AUTHORITY", "pki", "ca", ".crt");
	print_export_path(to, f->lab, "QKDN_TRACE", "trace", name, ".trace");
	free(dns_name);
	free(address);
	return text_put(&text, f, lab_path(f->lab, "apps/%s.env", name));
}

/* Logs and traces are of one run: what the last one left would only mislead. */
static void remove_old(const struct files *f)
{
	char *traces = lab_path(f->lab, "trace/*.trace");
	glob_t found;

	for (size_t i = 0; i < f->lab->daemon_count; i++)
		unlink(f->lab->daemons[i].log);
	if (glob(traces, GLOB_NOSORT, NULL, &found) == 0) {
		for (size_t i = 0; i < found.gl_pathc; i++)
			unlink(found.gl_pathv[i]);
		globfree(&found);
	}
	free(traces);
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static enum status make_folders(const struct files *f)
{
	enum status status = make_folder(f, "pki", 0755);

	if (status == ST_OK)
		status = make_folder(f, "trace", 0755);
	if (status == ST_OK)
		status = make_folder(f, "apps", 0755);
	for (size_t i = 0; i < f->lab->site_count && status == ST_OK; i++)
		status = make_folder(f, f->lab->sites[i].name, 0755);
	return status;
}

enum status lab_write_files(const struct lab *lab, const struct topology *t, struct err *e)
{
	struct files f = { lab, t, NULL, e };
	enum status status = make_folders(&f);

	if (status == ST_OK)
		remove_old(&f);
	if (status == ST_OK)
		status = make_credentials(&f);
	for (size_t i = 0; i < t->nodes.count && status == ST_OK; i++)
		status = write_km(&f, i);
	if (status == ST_OK)
		status = write_quantum(&f);
	for (size_t i = 0; i < lab->daemon_count && status == ST_OK; i++)
		if (lab->daemons[i].kind == LAB_CONTROLLER)
			status = write_controller(&f, lab->daemons[i].site);
	for (size_t i = 0; i < lab->application_count && status == ST_OK; i++)
		status = write_environment(&f, lab->applications[i].name, lab->applications[i].site);
	ca_free(f.ca);
	return status;
}
