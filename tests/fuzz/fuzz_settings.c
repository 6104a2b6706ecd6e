/* fuzz_settings.c - the configuration of qkdn-quantumd or of qkdn-controllerd, read, checked and printed. */
#include "loading.h"
#include "settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum status load(const char *path, void *settings, struct err *e)
{
	return settings_load(path, settings, e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuzz_settings daemon = { settings_options, sizeof(struct settings), load };

	fuzz_settings_load(&daemon, data, size);
	return 0;
}
