/*
 * fuzz_conf.c - conf_load, conf_print and conf_free with qkdn-kmd's options, and km_conf_check: what loads
 * prints, and what was printed loads again.
 */
#include <sanitizer/lsan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "km_conf.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum status load(const void *bytes, size_t len, struct km_conf *c)
{
	static int file = -1;
	static char path[64];
	struct err e;

	if (file < 0) {
		log_open("fuzz_conf", LOG_LEVEL_FATAL);
		__lsan_disable(); /* libconfig leaks the string that a syntax error ends */
		file = memfd_create("conf", 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", file);
	}
	if (ftruncate(file, 0) != 0 || pwrite(file, bytes, len, 0) != (ssize_t)len)
		abort();
	memset(c, 0, sizeof *c);
	return conf_load(path, km_conf_options, c, &e);
}

static void print_and_load_again(const struct km_conf *c)
{
	struct km_conf again;
	char *text;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	conf_print(to, km_conf_options, c);
	fclose(to);
	if (load(text, len, &again) != ST_OK)
		abort();
	conf_free(km_conf_options, &again);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct km_conf c;
	struct err e;

	/* a file that includes others is the administrator's business, not the fuzzer's */
	if (memmem(data, size, "@include", 8) != NULL || load(data, size, &c) != ST_OK)
		return 0;
	if (km_conf_check(&c, &e) == ST_OK)
		print_and_load_again(&c);
	conf_free(km_conf_options, &c);
	return 0;
}
