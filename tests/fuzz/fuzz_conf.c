/* fuzz_conf.c - the configuration of qkdn-kmd, read, checked and printed. */
#include "km_conf.h"
#include "loading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum status load(const char *path, void *settings, struct err *e)
{
	enum status s = conf_load(path, km_conf_options, settings, e);

	if (s != ST_OK)
		return s;
	s = km_conf_check(settings, e);
	if (s != ST_OK)
		conf_free(km_conf_options, settings);
	return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct fuzz_settings kmd = { km_conf_options, sizeof(struct km_conf), load };

	fuzz_settings_load(&kmd, data, size);
	return 0;
}
