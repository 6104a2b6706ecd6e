#include <sanitizer/lsan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "loading.h"
#include "log.h"

static enum status load(const struct fuzz_settings *s, const void *bytes, size_t len, void *settings)
{
	static int file = -1;
	static char path[64];
	struct err e;

	if (file < 0) {
		log_open("fuzz", LOG_LEVEL_FATAL);
		__lsan_disable(); /* libconfig leaks the string that a syntax error ends */
		file = memfd_create("conf", 0);
		snprintf(path, sizeof path, "/proc/self/fd/%d", file);
	}
	if (ftruncate(file, 0) != 0 || pwrite(file, bytes, len, 0) != (ssize_t)len)
		abort();
	memset(settings, 0, s->size);
	return s->load(path, settings, &e);
}

static void print_and_load_again(const struct fuzz_settings *s, const void *settings)
{
	void *again = xcalloc(1, s->size);
	char *text;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	conf_print(to, s->options, settings);
	fclose(to);
	if (load(s, text, len, again) != ST_OK)
		abort();
	conf_free(s->options, again);
	free(again);
	free(text);
}

void fuzz_settings_load(const struct fuzz_settings *s, const uint8_t *data, size_t size)
{
	void *settings = xcalloc(1, s->size);

	/* a file that includes others is the administrator's business, not the fuzzer's */
	if (memmem(data, size, "@include", 8) == NULL && load(s, data, size, settings) == ST_OK) {
		print_and_load_again(s, settings);
		conf_free(s->options, settings);
	}
	free(settings);
}
