/* loading.h - what the fuzzers of configuration files share: what loads prints, and what was printed loads again. */
#ifndef FUZZ_LOADING_H
#define FUZZ_LOADING_H

#include "conf.h"

struct fuzz_settings {
	const struct conf_option *options;
	size_t size; /* of the structure they are read into */
	enum status (*load)(const char *path, void *settings, struct err *e); /* leaves nothing behind where it fails */
};

void fuzz_settings_load(const struct fuzz_settings *s, const uint8_t *data, size_t size);

#endif
