/* settings.h - the settings of qkdn-quantumd, and what they mean to links and devices. */
#ifndef QKDN_QUANTUM_SETTINGS_H
#define QKDN_QUANTUM_SETTINGS_H

#include "conf.h"
#include "device.h"

struct module_conf {
	char *name, *km, *address, *dns_name, *certificate, *private_key;
	int role; /* 1: receiver */
	int mode; /* enum module_mode */
};

struct fault_conf {
	int kind; /* enum fault_kind */
	char *module;
	int64_t every, count, delay;
};

struct link_conf {
	char *name;
	struct conf_strings modules;
	int64_t block_size, buffer_blocks;
	int rate; /* enum link_rate */
	double fixed_rate, qber_limit;
	double length_km, attenuation, detector_efficiency, dark_count, misalignment, error_correction;
	double signal, decoy, pulse_rate;
	struct conf_list faults; /* of struct fault_conf */
};

struct settings {
	char *name, *authority, *crl, *trace;
	bool confine;
	struct conf_list modules; /* of struct module_conf */
	struct conf_list links;   /* of struct link_conf */
};

extern const struct conf_option settings_options[];

/* conf_load, and what one setting alone cannot tell. The caller frees with conf_free. */
MUST_CHECK enum status settings_load(const char *path, struct settings *s, struct err *e);

struct link_conf *settings_link(const struct settings *s, size_t i);
struct module_conf *settings_module(const struct settings *s, const char *name); /* NULL: none */

/* These point into the settings. */
struct link_settings settings_of_link(const struct settings *s, const struct link_conf *l);
size_t settings_faults(const struct link_conf *l, struct link_fault **faults); /* the caller frees */

#endif
