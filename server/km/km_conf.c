/* km_conf.c - the settings of qkdn-kmd: one row each. */
#include "km_conf.h"

#include <string.h>

#include "message.h"

static const char *const rpcbind_words[] = { "off", "try", "required", NULL };

#define ROW(type, member, option) .name = option, .offset = offsetof(type, member)

static const struct conf_option store_options[] = {
	{ ROW(__typeof__(((struct km_conf *)0)->store), directory, "directory"), .type = CONF_PATH, .required = true,
	  .help = "directory of the key store, mode 0700; made if missing" },
	{ ROW(__typeof__(((struct km_conf *)0)->store), master_key, "master_key"), .type = CONF_PATH, .required = true,
	  .help = "file of the master key, mode 0600; qkdn-pki master-key makes one" },
	{ ROW(__typeof__(((struct km_conf *)0)->store), max_size, "max_size"), .type = CONF_SIZE, .fallback = "64 GiB",
	  .min = 16.0 * 1024 * 1024, .max = 1e15, .help = "bound on the size of the key store" },
	{ ROW(__typeof__(((struct km_conf *)0)->store), data_key_lifetime, "data_key_lifetime"), .type = CONF_DURATION,
	  .fallback = "24 h", .min = 1, .max = 3.2e8,
	  .help = "after it the store is sealed under a new data key, and what was spent before is gone for good" },
	{ .name = NULL },
};

static const struct conf_option link_options[] = {
	{ ROW(struct km_conf_link, name, "name"), .type = CONF_NAME, .required = true,
	  .help = "name of the QKD link, the same at both nodes" },
	{ ROW(struct km_conf_link, peer, "peer"), .type = CONF_NAME, .required = true, .help = "KM at its other end" },
	{ ROW(struct km_conf_link, module, "module"), .type = CONF_NAME, .required = true,
	  .help = "QKD module that delivers its keys here" },
	{ ROW(struct km_conf_link, initial_secret, "initial_secret"), .type = CONF_PATH, .required = true,
	  .help = "file of 4096 random bytes shared with the peer, mode 0600; read once and then removed" },
	{ ROW(struct km_conf_link, block_size, "block_size"), .type = CONF_SIZE, .fallback = "8 KiB", .min = 512,
	  .max = 1024.0 * 1024, .help = "bytes of a block of QKD-keys, a multiple of 64, the same at both nodes" },
	{ .name = NULL },
};

static const char *const policy_words[] = { "preferred", "required", NULL };

static const struct conf_option controller_options[] = {
	{ ROW(struct km_conf_peer, name, "name"), .type = CONF_NAME, .required = true, .help = "its name, as in its certificate" },
	{ ROW(struct km_conf_peer, address, "address"), .type = CONF_ADDRESS, .required = true,
	  .help = "host:port, or host alone to ask its rpcbind" },
	{ ROW(struct km_conf_peer, dns_name, "dns_name"), .type = CONF_STRING,
	  .help = "name its certificate must carry, where that is not the host" },
	{ .name = NULL },
};

static const struct conf_option peer_options[] = {
	{ ROW(struct km_conf_peer, name, "name"), .type = CONF_NAME, .required = true, .help = "its name, as in its certificate" },
	{ ROW(struct km_conf_peer, address, "address"), .type = CONF_ADDRESS, .required = true,
	  .help = "host:port, or host alone to ask its rpcbind" },
	{ ROW(struct km_conf_peer, dns_name, "dns_name"), .type = CONF_STRING,
	  .help = "name its certificate must carry, where that is not the host" },
	{ ROW(struct km_conf_peer, shares, "shares"), .type = CONF_INTEGER, .fallback = "0", .max = KM_SHARES_MAX,
	  .help = "as relay's shares, for relays to that KM; 0: as there" },
	{ .name = NULL },
};

static const struct conf_option application_options[] = {
	{ ROW(struct km_conf_application, name, "name"), .type = CONF_NAME, .required = true,
	  .help = "name of the cryptographic application, as in its certificate" },
	{ ROW(struct km_conf_application, km, "km"), .type = CONF_NAME, .required = true, .help = "KM that serves it" },
	{ .name = NULL },
};

static const struct conf_option key_options[] = {
	{ ROW(__typeof__(((struct km_conf *)0)->keys), default_size, "default_size"), .type = CONF_INTEGER,
	  .fallback = "256", .min = 8, .max = 8192, .help = "bits of a key where a request names no size" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), min_size, "min_size"), .type = CONF_INTEGER, .fallback = "64",
	  .min = 8, .max = 8192, .help = "smallest key served, bits" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), max_size, "max_size"), .type = CONF_INTEGER, .fallback = "8192",
	  .min = 8, .max = 8192, .help = "largest key served, bits" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), max_per_request, "max_per_request"), .type = CONF_INTEGER,
	  .fallback = "128", .min = 1, .max = 1024, .help = "most keys in one request" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), lifetime, "lifetime"), .type = CONF_DURATION, .fallback = "1 h",
	  .min = 1, .max = 3.2e8, .help = "how long a supplied key waits to be fetched at the far end" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), low_water, "low_water"), .type = CONF_SIZE, .fallback = "256 KiB",
	  .min = 1024, .max = 1e12, .help = "a pair's KSA-keys are refilled below it" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), high_water, "high_water"), .type = CONF_SIZE, .fallback = "1 MiB",
	  .min = 2048, .max = 1e12, .help = "a pair's KSA-keys are refilled up to it" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), link_reserve, "link_reserve"), .type = CONF_SIZE,
	  .fallback = "8 KiB", .max = 1e12, .help = "bytes of a link's keys that are left for relay" },
	{ ROW(__typeof__(((struct km_conf *)0)->keys), link_max_stock, "link_max_stock"), .type = CONF_SIZE,
	  .fallback = "64 MiB", .min = 65536, .max = 1e13,
	  .help = "a link's keys in a direction; beyond it they make room where the other is short" },
	{ .name = NULL },
};

static const struct conf_option relay_options[] = {
	{ ROW(__typeof__(((struct km_conf *)0)->relay), ahead, "ahead"), .type = CONF_BOOL, .fallback = "true",
	  .help = "whether KSA-keys are relayed to far nodes ahead of demand, or only when a request waits" },
	{ ROW(__typeof__(((struct km_conf *)0)->relay), to_neighbours, "to_neighbours"), .type = CONF_BOOL,
	  .fallback = "false",
	  .help = "whether KSA-keys for a neighbour, too, are drawn at random and relayed; else they are keys of the link" },
	{ ROW(__typeof__(((struct km_conf *)0)->relay), size, "size"), .type = CONF_SIZE, .fallback = "256 KiB",
	  .min = 1024, .max = 1024.0 * 1024, .help = "most bytes in one allocation or relay" },
	{ ROW(__typeof__(((struct km_conf *)0)->relay), timeout, "timeout"), .type = CONF_DURATION, .fallback = "10 s",
	  .min = 0.1, .max = 600, .help = "how long a relay may take to its destination" },
	{ ROW(__typeof__(((struct km_conf *)0)->relay), route_lifetime, "route_lifetime"), .type = CONF_DURATION,
	  .fallback = "1 h", .max = 2.6e6,
	  .help = "how long the routes that the controller gave are used while it does not answer; 0 s: not at all" },
	{ ROW(__typeof__(((struct km_conf *)0)->relay), shares, "shares"), .type = CONF_INTEGER, .fallback = "1", .min = 1,
	  .max = KM_SHARES_MAX, .help = "into so many shares a relay is split, each over a route of its own; 1: it is not" },
	{ ROW(__typeof__(((struct km_conf *)0)->relay), shares_policy, "shares_policy"), .type = CONF_ENUM,
	  .words = policy_words, .fallback = "preferred",
	  .help = "whether fewer shares will do where there are fewer routes without a common node" },
	{ .name = NULL },
};

static const struct conf_option request_options[] = {
	{ ROW(__typeof__(((struct km_conf *)0)->requests), deadline, "deadline"), .type = CONF_DURATION, .fallback = "2 s",
	  .min = 0.001, .max = 3600, .help = "how long a request waits for keys where it names no time" },
	{ ROW(__typeof__(((struct km_conf *)0)->requests), max_deadline, "max_deadline"), .type = CONF_DURATION,
	  .fallback = "60 s", .min = 0.001, .max = 3600, .help = "longest time a request may name" },
	{ ROW(__typeof__(((struct km_conf *)0)->requests), max_waiting, "max_waiting"), .type = CONF_INTEGER,
	  .fallback = "4096", .min = 1, .max = 1e6, .help = "requests of one application that may wait at once" },
	{ ROW(__typeof__(((struct km_conf *)0)->requests), ahead, "ahead"), .type = CONF_BOOL, .fallback = "true",
	  .help = "whether keys are taken for applications that go on asking before they do; a sixteenth may be lost" },
	{ .name = NULL },
};

const struct conf_option km_conf_options[] = {
	{ ROW(struct km_conf, name, "name"), .type = CONF_NAME, .required = true,
	  .help = "name of this KM, as in its certificate" },
	{ ROW(struct km_conf, listen, "listen"), .type = CONF_LISTEN, .required = true,
	  .help = "addresses to listen on, \"192.0.2.1:7001\" or \"[2001:db8::1]:7001\"" },
	{ ROW(struct km_conf, rpcbind, "rpcbind"), .type = CONF_ENUM, .words = rpcbind_words, .fallback = "try",
	  .help = "whether to register the programs with the local rpcbind" },
	{ ROW(struct km_conf, certificate, "certificate"), .type = CONF_PATH, .required = true, .help = "PEM file" },
	{ ROW(struct km_conf, private_key, "private_key"), .type = CONF_PATH, .required = true,
	  .help = "PEM file, mode 0600" },
	{ ROW(struct km_conf, authority, "authority"), .type = CONF_PATH, .required = true,
	  .help = "PEM file of the certificate authorities that are trusted" },
	{ ROW(struct km_conf, crl, "crl"), .type = CONF_PATH,
	  .help = "PEM file of the authorities' lists of revoked certificates; none by default" },
	{ ROW(struct km_conf, trace, "trace"), .type = CONF_PATH, .help = "file that gets one line per message; none by default" },
	{ ROW(struct km_conf, confine, "confine"), .type = CONF_BOOL, .fallback = "true",
	  .help = "whether to refuse, once started, all system calls but those that the daemon needs" },
	{ ROW(struct km_conf, store, "store"), .type = CONF_GROUP, .required = true, .sub = store_options,
	  .sub_size = sizeof(((struct km_conf *)0)->store), .help = "the key store" },
	{ ROW(struct km_conf, links, "links"), .type = CONF_LIST, .sub = link_options,
	  .sub_size = sizeof(struct km_conf_link), .help = "QKD links that end at this node" },
	{ ROW(struct km_conf, peers, "peers"), .type = CONF_LIST, .sub = peer_options,
	  .sub_size = sizeof(struct km_conf_peer), .help = "KMs to keep a connection to" },
	{ ROW(struct km_conf, applications, "applications"), .type = CONF_LIST, .sub = application_options,
	  .sub_size = sizeof(struct km_conf_application), .help = "cryptographic applications of the network" },
	{ ROW(struct km_conf, controller, "controller"), .type = CONF_GROUP, .sub = controller_options,
	  .sub_size = sizeof(struct km_conf_peer), .help = "the QKDN controller of this KM; none by default" },
	{ ROW(struct km_conf, keys, "keys"), .type = CONF_GROUP, .sub = key_options,
	  .sub_size = sizeof(((struct km_conf *)0)->keys), .help = "sizes and stocks of keys" },
	{ ROW(struct km_conf, relay, "relay"), .type = CONF_GROUP, .sub = relay_options,
	  .sub_size = sizeof(((struct km_conf *)0)->relay), .help = "key relay" },
	{ ROW(struct km_conf, requests, "requests"), .type = CONF_GROUP, .sub = request_options,
	  .sub_size = sizeof(((struct km_conf *)0)->requests), .help = "waiting for keys" },
	{ ROW(struct km_conf, call_timeout, "call_timeout"), .type = CONF_DURATION, .fallback = "5 s", .min = 0.01,
	  .max = 600, .help = "how long to wait for a peer's answer" },
	{ ROW(struct km_conf, missing_block_grace, "missing_block_grace"), .type = CONF_DURATION, .fallback = "2 s",
	  .min = 0.01, .max = 3600, .help = "how long a missing block of QKD-keys may be late before it is given up" },
	{ ROW(struct km_conf, module_status_interval, "module_status_interval"), .type = CONF_DURATION, .fallback = "10 s",
	  .min = 0.1, .max = 3600, .help = "how often a QKD module is asked for its status" },
	{ .name = NULL },
};

/* A name that two groups of a list have: the first member of each. NULL: none. */
static const char *named_twice(const struct conf_list *list, size_t size)
{
	const char *items = list->items;

	for (size_t i = 0; i < list->count; i++)
		for (size_t k = 0; k < i; k++) {
			char *const *a = (char *const *)(const void *)(items + i * size);
			char *const *b = (char *const *)(const void *)(items + k * size);

			if (strcmp(*a, *b) == 0)
				return *a;
		}
	return NULL;
}

static enum status check_names(const struct km_conf *c, struct err *e)
{
	const struct {
		const char *list;
		const char *name;
	} twice[] = {
		{ "links", named_twice(&c->links, sizeof(struct km_conf_link)) },
		{ "peers", named_twice(&c->peers, sizeof(struct km_conf_peer)) },
		{ "applications", named_twice(&c->applications, sizeof(struct km_conf_application)) },
	};

	for (size_t i = 0; i < ARRAY_LEN(twice); i++)
		if (twice[i].name != NULL)
			return err_set(e, ST_CONFIGURATION, "%s: %s is named twice", twice[i].list, twice[i].name);
	return ST_OK;
}

static enum status check_link(const struct km_conf *c, const struct km_conf_link *l, struct err *e)
{
	const struct km_conf_link *links = c->links.items;
	const struct km_conf_peer *peers = c->peers.items;
	bool found = false;

	if (l->block_size % 64 != 0)
		return err_set(e, ST_CONFIGURATION, "links: %s: block_size is not a multiple of 64", l->name);
	if (strcmp(l->peer, c->name) == 0)
		return err_set(e, ST_CONFIGURATION, "links: %s: its peer is this KM: name the one at its other end", l->name);
	for (const struct km_conf_link *other = links; other < l; other++)
		if (strcmp(other->peer, l->peer) == 0)
			return err_set(e, ST_CONFIGURATION, "links: %s and %s both lead to %s: one link a peer", other->name,
			               l->name, l->peer);
	for (size_t p = 0; p < c->peers.count; p++)
		found |= strcmp(peers[p].name, l->peer) == 0;
	if (!found && strcmp(c->name, l->peer) < 0)
		return err_set(e, ST_CONFIGURATION,
		               "links: %s: its peer %s is not among the peers: this end has the lower name and opens "
		               "the link, so add the peer's address",
		               l->name, l->peer);
	return ST_OK;
}

enum status km_conf_check(const struct km_conf *c, struct err *e)
{
	const struct km_conf_link *links = c->links.items;
	enum status s = ST_OK;

	if (c->listen.count == 0)
		return err_set(e, ST_CONFIGURATION, "listen: no address: name at least one");
	if (c->keys.low_water >= c->keys.high_water)
		return err_set(e, ST_CONFIGURATION, "keys: low_water must be below high_water");
	if (c->keys.min_size > c->keys.default_size || c->keys.default_size > c->keys.max_size)
		return err_set(e, ST_CONFIGURATION, "keys: min_size, default_size, max_size must not decrease");
	if (c->keys.min_size % 8 != 0 || c->keys.default_size % 8 != 0 || c->keys.max_size % 8 != 0)
		return err_set(e, ST_CONFIGURATION, "keys: sizes are multiples of 8 bits");
	s = check_names(c, e);
	for (size_t i = 0; i < c->links.count && s == ST_OK; i++)
		s = check_link(c, &links[i], e);
	return s;
}
