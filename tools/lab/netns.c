/*
 * netns.c - the network of a lab with --netns: a namespace per site, and one more with the bridge
 * that joins them. The machine's own network is not touched.
 */
#include <signal.h>

#include "lab.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "process.h"

enum { WORDS_MAX = 24, IP_MS = 10000 };

/* Runs `ip` with the words of a line. */
static PRINTF_LIKE(2, 3) enum status ip(struct err *e, const char *fmt, ...)
{
	const char *argv[WORDS_MAX + 1] = { "ip" };
	struct launch l = { .argv = argv, .output = -1 };
	char *line, *rest, *shown, output[256];
	enum status status = ST_OK;
	size_t n = 1;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&line, fmt, ap) < 0)
		abort();
	va_end(ap);
	shown = xstrdup(line);
	for (char *word = strtok_r(line, " ", &rest); word != NULL && n < WORDS_MAX;
	     word = strtok_r(NULL, " ", &rest))
		argv[n++] = word;
	if (process_run(&l, output, sizeof output, IP_MS) != 0)
		status = err_set(e, ST_CONFIGURATION,
		                 "ip %s: %s (network namespaces need root and the program ip of iproute2)", shown,
		                 output);
	free(shown);
	free(line);
	return status;
}

static enum status make_site(const struct lab *lab, const struct lab_site *s, size_t i, const char *bridge,
                             struct err *e)
{
	enum status status = ip(e, "netns add %s", s->netns);

	(void)lab;
	if (status == ST_OK)
		status = ip(e, "link add eth0 netns %s type veth peer name p%zu netns %s", s->netns, i, bridge);
	if (status == ST_OK)
		status = ip(e, "-n %s link set p%zu master br0 up", bridge, i);
	if (status == ST_OK)
		status = ip(e, "-n %s addr add %s/16 dev eth0", s->netns, s->address);
	if (status == ST_OK)
		status = ip(e, "-n %s link set eth0 up", s->netns);
	if (status == ST_OK)
		status = ip(e, "-n %s link set lo up", s->netns);
	return status;
}

static char *bridge_of(const struct lab *lab)
{
	return xasprintf("qkdn-%s+bridge", lab->id); /* no node's name has a plus */
}

enum status lab_netns_make(const struct lab *lab, struct err *e)
{
	char *bridge = bridge_of(lab);
	enum status status = ip(e, "netns add %s", bridge);

	if (status == ST_OK)
		status = ip(e, "-n %s link add br0 type bridge", bridge);
	if (status == ST_OK)
		status = ip(e, "-n %s link set br0 up", bridge);
	for (size_t i = 0; i < lab->site_count && status == ST_OK; i++)
		status = make_site(lab, &lab->sites[i], i, bridge, e);
	free(bridge);
	return status;
}

static void remove_one(const char *name)
{
	char path[300];
	struct err e;

	snprintf(path, sizeof path, "/run/netns/%s", name);
	if (access(path, F_OK) == 0 && ip(&e, "netns del %s", name) != ST_OK)
		fprintf(stderr, "qkdn-lab: %s\n", e.text);
}

void lab_netns_remove(const struct lab *lab)
{
	char *bridge = bridge_of(lab);

	for (size_t i = 0; i < lab->site_count; i++)
		if (lab->sites[i].netns != NULL)
			remove_one(lab->sites[i].netns);
	if (lab->netns)
		remove_one(bridge);
	free(bridge);
}
