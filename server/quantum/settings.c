/* settings.c - the settings of qkdn-quantumd: one row each. */
#include "settings.h"

#include <stdlib.h>
#include <string.h>

/* In the order of the enums that they stand for. */
static const char *const roles[] = { "transmitter", "receiver", NULL };
static const char *const modes[] = { "push", "pull", NULL };
static const char *const rates[] = { "model", "fixed", "unlimited", NULL };
static const char *const faults[] = { "missing",   "repeated",  "late",         "differing",
	                              "link-loss", "qber-high", "module-fault", NULL };

#define AT(type, member) .offset = offsetof(struct type, member)

static const struct conf_option module_options[] = {
	{ "name", CONF_NAME, AT(module_conf, name), .required = true,
	  .help = "of the QKD module; as in its certificate" },
	{ "role", CONF_ENUM, AT(module_conf, role), .fallback = "transmitter", .words = roles,
	  .help = "its part in the protocol" },
	{ "km", CONF_NAME, AT(module_conf, km), .required = true, .help = "name of its node's key manager" },
	{ "address", CONF_ADDRESS, AT(module_conf, address), .required = true,
	  .help = "of the key manager; without a port rpcbind there is asked" },
	{ "dns_name", CONF_STRING, AT(module_conf, dns_name),
	  .help = "DNS name in the key manager's certificate; the address's host if not given" },
	{ "certificate", CONF_PATH, AT(module_conf, certificate), .required = true, .help = "of the module, PEM" },
	{ "private_key", CONF_PATH, AT(module_conf, private_key), .required = true,
	  .help = "of the module, PEM, mode 0600" },
	{ "mode", CONF_ENUM, AT(module_conf, mode), .fallback = "push", .words = modes,
	  .help = "push: the module supplies keys; pull: the key manager asks for them" },
	{ .name = NULL },
};

static const struct conf_option fault_options[] = {
	{ "kind", CONF_ENUM, AT(fault_conf, kind), .required = true, .words = faults, .help = "what goes wrong" },
	{ "module", CONF_NAME, AT(fault_conf, module),
	  .help = "at which end; not for link-loss and qber-high, which have both" },
	{ "every", CONF_INTEGER, AT(fault_conf, every), .fallback = "100", .min = 1, .max = 1e15,
	  .help = "which blocks: each so-and-so-manieth; faults of blocks only" },
	{ "count", CONF_INTEGER, AT(fault_conf, count), .fallback = "0", .min = 0, .max = 1e15,
	  .help = "how often at most; 0: without end; faults of blocks only" },
	{ "delay", CONF_DURATION, AT(fault_conf, delay), .fallback = "1 s", .min = 0.001, .max = 3600,
	  .help = "how late a late block comes" },
	{ .name = NULL },
};

static const struct conf_option link_options[] = {
	{ "name", CONF_NAME, AT(link_conf, name), .required = true,
	  .help = "of the QKD link; as in both key managers" },
	{ "modules", CONF_STRINGS, AT(link_conf, modules), .required = true, .help = "its two QKD modules" },
	{ "block_size", CONF_SIZE, AT(link_conf, block_size), .fallback = "8 KiB", .min = 512, .max = 1048576,
	  .help = "bytes of a block of keys, a multiple of 64; as in both key managers" },
	{ "buffer_blocks", CONF_INTEGER, AT(link_conf, buffer_blocks), .fallback = "64", .min = 2, .max = 65536,
	  .help = "blocks that a module holds until its key manager has them" },
	{ "rate", CONF_ENUM, AT(link_conf, rate), .fallback = "model", .words = rates,
	  .help = "model: what the link's physics yield; fixed; unlimited: as fast as the key managers take it" },
	{ "fixed_rate", CONF_FLOAT, AT(link_conf, fixed_rate), .fallback = "0", .min = 0, .max = 1e12,
	  .help = "bit/s, with rate fixed" },
	{ "qber_limit", CONF_FLOAT, AT(link_conf, qber_limit), .fallback = "0.11", .min = 0, .max = 0.5,
	  .help = "quantum bit error ratio above which no key is made and an alarm is raised" },
	{ "length_km", CONF_FLOAT, AT(link_conf, length_km), .fallback = "20", .min = 0, .max = 1000,
	  .help = "length of the fibre" },
	{ "attenuation_db_per_km", CONF_FLOAT, AT(link_conf, attenuation), .fallback = "0.21", .min = 0, .max = 10,
	  .help = "loss of the fibre" },
	{ "detector_efficiency", CONF_FLOAT, AT(link_conf, detector_efficiency), .fallback = "0.045", .min = 1e-6,
	  .max = 1, .help = "share of the photons that reach the receiver and are detected" },
	{ "dark_count_probability", CONF_FLOAT, AT(link_conf, dark_count), .fallback = "1.7e-6", .min = 0, .max = 1,
	  .help = "clicks without a photon, per pulse" },
	{ "misalignment", CONF_FLOAT, AT(link_conf, misalignment), .fallback = "0.033", .min = 0, .max = 0.5,
	  .help = "share of the photons that go to the wrong detector" },
	{ "error_correction", CONF_FLOAT, AT(link_conf, error_correction), .fallback = "1.22", .min = 1, .max = 10,
	  .help = "bits that error correction spends, over Shannon's limit" },
	{ "signal_intensity", CONF_FLOAT, AT(link_conf, signal), .fallback = "0.48", .min = 1e-3, .max = 2,
	  .help = "mean photon number of signal pulses" },
	{ "decoy_intensity", CONF_FLOAT, AT(link_conf, decoy), .fallback = "0.05", .min = 1e-6, .max = 2,
	  .help = "mean photon number of weak decoy pulses" },
	{ "pulse_rate", CONF_FLOAT, AT(link_conf, pulse_rate), .fallback = "1e9", .min = 1, .max = 1e12,
	  .help = "signal pulses a second" },
	{ "faults", CONF_LIST, AT(link_conf, faults), .sub = fault_options, .sub_size = sizeof(struct fault_conf),
	  .help = "what goes wrong on purpose; read again on SIGUSR1" },
	{ .name = NULL },
};

const struct conf_option settings_options[] = {
	{ "name", CONF_NAME, AT(settings, name), .fallback = "quantum", .help = "of this program, in the log" },
	{ "authority", CONF_PATH, AT(settings, authority), .required = true,
	  .help = "certificates of the authorities to trust, PEM" },
	{ "crl", CONF_PATH, AT(settings, crl), .help = "the authorities' lists of revoked certificates, PEM" },
	{ "trace", CONF_PATH, AT(settings, trace), .help = "file that gets a line per message" },
	{ "confine", CONF_BOOL, AT(settings, confine), .fallback = "true",
	  .help = "whether to refuse, once started, all system calls but those that the daemon needs" },
	{ "modules", CONF_LIST, AT(settings, modules), .required = true, .sub = module_options,
	  .sub_size = sizeof(struct module_conf), .help = "the QKD modules" },
	{ "links", CONF_LIST, AT(settings, links), .required = true, .sub = link_options,
	  .sub_size = sizeof(struct link_conf), .help = "the QKD links, each between two of the modules" },
	{ .name = NULL },
};

struct link_conf *settings_link(const struct settings *s, size_t i)
{
	return (struct link_conf *)s->links.items + i;
}

struct module_conf *settings_module(const struct settings *s, const char *name)
{
	struct module_conf *m = s->modules.items;

	for (size_t i = 0; i < s->modules.count; i++)
		if (strcmp(m[i].name, name) == 0)
			return &m[i];
	return NULL;
}

/* ---- what one setting alone cannot tell --------------------------------------------------- */

static bool has_module(const struct link_conf *l, const char *name)
{
	return strcmp(l->modules.items[0], name) == 0 || strcmp(l->modules.items[1], name) == 0;
}

static enum status check_modules_of(const struct settings *s, size_t at, struct err *e)
{
	const struct link_conf *l = settings_link(s, at);

	if (l->modules.count != 2 || strcmp(l->modules.items[0], l->modules.items[1]) == 0)
		return err_set(e, ST_CONFIGURATION, "links[%zu].modules: name two different modules", at);
	for (size_t i = 0; i < 2; i++) {
		if (settings_module(s, l->modules.items[i]) == NULL)
			return err_set(e, ST_CONFIGURATION,
			               "links[%zu].modules: there is no module \"%.80s\": add it to modules", at,
			               l->modules.items[i]);
		for (size_t other = 0; other < at; other++)
			if (has_module(settings_link(s, other), l->modules.items[i]))
				return err_set(e, ST_CONFIGURATION,
				               "links[%zu].modules: \"%s\" is of another link already: a module is of one",
				               at, l->modules.items[i]);
	}
	return ST_OK;
}

static enum status check_faults_of(const struct link_conf *l, size_t at, struct err *e)
{
	for (size_t i = 0; i < l->faults.count; i++) {
		const struct fault_conf *f = (struct fault_conf *)l->faults.items + i;
		bool both = f->kind == FAULT_LINK_LOSS || f->kind == FAULT_QBER_HIGH;

		if (both != (f->module == NULL))
			return err_set(e, ST_CONFIGURATION, "links[%zu].faults[%zu].module: %s", at, i,
			               both ? "leave it out: both ends have this fault" :
			                      "missing: name the module that has the fault");
		if (f->module != NULL && !has_module(l, f->module))
			return err_set(e, ST_CONFIGURATION,
			               "links[%zu].faults[%zu].module: \"%s\" is not of this link", at, i, f->module);
	}
	return ST_OK;
}

static enum status check_link(const struct settings *s, size_t at, struct err *e)
{
	const struct link_conf *l = settings_link(s, at);
	enum status status = check_modules_of(s, at, e);

	if (status != ST_OK)
		return status;
	for (size_t other = 0; other < at; other++)
		if (strcmp(settings_link(s, other)->name, l->name) == 0)
			return err_set(e, ST_CONFIGURATION, "links[%zu].name: \"%s\" is there twice", at, l->name);
	if (l->block_size % 64 != 0)
		return err_set(e, ST_CONFIGURATION, "links[%zu].block_size: give a multiple of 64 bytes", at);
	if (l->rate == LINK_RATE_FIXED && l->fixed_rate <= 0)
		return err_set(e, ST_CONFIGURATION, "links[%zu].fixed_rate: give bit/s, such as 1000000.0", at);
	if (l->decoy >= l->signal)
		return err_set(e, ST_CONFIGURATION,
		               "links[%zu].decoy_intensity: must be weaker than signal_intensity", at);
	return check_faults_of(l, at, e);
}

static enum status check(const struct settings *s, struct err *e)
{
	for (size_t i = 0; i < s->modules.count; i++) {
		const struct module_conf *m = (struct module_conf *)s->modules.items + i;

		if (settings_module(s, m->name) != m)
			return err_set(e, ST_CONFIGURATION, "modules[%zu].name: \"%s\" is there twice", i, m->name);
	}
	for (size_t i = 0; i < s->links.count; i++) {
		enum status status = check_link(s, i, e);

		if (status != ST_OK)
			return status;
	}
	return ST_OK;
}

enum status settings_load(const char *path, struct settings *s, struct err *e)
{
	enum status status = conf_load(path, settings_options, s, e);

	if (status != ST_OK)
		return status;
	status = check(s, e);
	if (status == ST_OK)
		return ST_OK;
	conf_free(settings_options, s);
	return err_prefix(e, "%s", path);
}

/* ---- for the link ------------------------------------------------------------------------- */

struct link_settings settings_of_link(const struct settings *s, const struct link_conf *l)
{
	struct link_settings is = {
		.name = l->name,
		.block_size = (size_t)l->block_size,
		.buffer_blocks = (unsigned)l->buffer_blocks,
		.rate = (enum link_rate)l->rate,
		.fixed_rate = l->fixed_rate,
		.qber_limit = l->qber_limit,
		.model = { .length_km = l->length_km,
		           .attenuation_db_per_km = l->attenuation,
		           .detector_efficiency = l->detector_efficiency,
		           .dark_count = l->dark_count,
		           .misalignment = l->misalignment,
		           .error_correction = l->error_correction,
		           .signal = l->signal,
		           .decoy = l->decoy,
		           .pulse_rate = l->pulse_rate },
	};

	for (unsigned end = 0; end < 2; end++) {
		is.modules[end].name = l->modules.items[end];
		is.modules[end].mode = (enum module_mode)settings_module(s, l->modules.items[end])->mode;
	}
	return is;
}

size_t settings_faults(const struct link_conf *l, struct link_fault **made)
{
	const struct fault_conf *from = l->faults.items;
	struct link_fault *to = xcalloc(l->faults.count, sizeof *to);

	for (size_t i = 0; i < l->faults.count; i++) {
		to[i].kind = (enum fault_kind)from[i].kind;
		to[i].end = from[i].module != NULL && strcmp(from[i].module, l->modules.items[1]) == 0;
		to[i].every = (uint64_t)from[i].every;
		to[i].count = (uint64_t)from[i].count;
		to[i].delay_ns = (uint64_t)from[i].delay;
	}
	*made = to;
	return l->faults.count;
}
