/* settings.h - the configuration of qkdn-controllerd. */
#ifndef QKDN_CONTROLLER_SETTINGS_H
#define QKDN_CONTROLLER_SETTINGS_H

#include "conf.h"

struct km_conf {
	char *name;
};

struct neighbour_conf {
	char *name, *address, *dns_name;
};

struct reserve_conf {
	char *source, *destination;
	int64_t amount, low_water, high_water;
};

struct settings {
	char *name;
	struct conf_strings listen;
	int rpcbind; /* enum controllerd_rpcbind */
	char *certificate, *private_key, *authority, *crl, *trace;
	bool confine;
	int mode; /* enum controller_mode */
	struct conf_list kms, neighbours, reserve;
	int64_t report_interval, silence, refresh, max_age, min_origination, weight_interval, call_timeout, reservation_time;
};

enum controllerd_rpcbind { RPCBIND_OFF, RPCBIND_TRY, RPCBIND_REQUIRED };

extern const struct conf_option settings_options[];

/* Reads the file and checks what one setting alone cannot tell. */
MUST_CHECK enum status settings_load(const char *path, struct settings *s, struct err *e);

#endif
