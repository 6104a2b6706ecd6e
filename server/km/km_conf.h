/* km_conf.h - the settings of qkdn-kmd (qkdn-kmd.conf(5)). */
#ifndef QKDN_KM_CONF_H
#define QKDN_KM_CONF_H

#include "conf.h"

struct km_conf_link {
	char *name, *peer, *module, *initial_secret;
	int64_t block_size;
};

struct km_conf_peer {
	char *name, *address, *dns_name;
	int64_t shares; /* of a peer */
};

struct km_conf_application {
	char *name, *km;
};

struct km_conf {
	char *name;
	struct conf_strings listen;
	int rpcbind; /* enum km_conf_rpcbind */
	char *certificate, *private_key, *authority, *crl, *trace;
	bool confine;
	struct {
		char *directory, *master_key;
		int64_t max_size, data_key_lifetime;
	} store;
	struct conf_list links, peers, applications;
	struct {
		int64_t default_size, min_size, max_size, max_per_request;
		int64_t lifetime, low_water, high_water, link_reserve, link_max_stock;
	} keys;
	struct {
		int64_t deadline, max_deadline, max_waiting;
		bool ahead;
	} requests;
	struct km_conf_peer controller; /* name NULL: none */
	struct {
		bool ahead, to_neighbours;
		int64_t size, timeout, route_lifetime, shares;
		int shares_policy; /* enum km_conf_shares */
	} relay;
	int64_t call_timeout, missing_block_grace, module_status_interval;
};

enum km_conf_shares { SHARES_PREFERRED, SHARES_REQUIRED };
enum km_conf_rpcbind { RPCBIND_OFF, RPCBIND_TRY, RPCBIND_REQUIRED };

extern const struct conf_option km_conf_options[];

/* What no single setting shows: that settings fit together. */
MUST_CHECK enum status km_conf_check(const struct km_conf *c, struct err *e);

#endif
