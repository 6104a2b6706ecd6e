/* settings.c - the settings of qkdn-controllerd: one row each. */
#include "settings.h"

#include <string.h>

/* In the order of the enums that they stand for. */
static const char *const rpcbind_words[] = { "off", "try", "required", NULL };
static const char *const mode_words[] = { "centralized", "distributed", NULL };

#define AT(type, member) .offset = offsetof(struct type, member)

static const struct conf_option km_options[] = {
	{ "name", CONF_NAME, AT(km_conf, name), .required = true, .help = "of a KM that may register; as in its certificate" },
	{ .name = NULL },
};

static const struct conf_option neighbour_options[] = {
	{ "name", CONF_NAME, AT(neighbour_conf, name), .required = true,
	  .help = "of another controller; as in its certificate" },
	{ "address", CONF_ADDRESS, AT(neighbour_conf, address), .required = true,
	  .help = "where it listens; without a port rpcbind there is asked" },
	{ "dns_name", CONF_STRING, AT(neighbour_conf, dns_name),
	  .help = "DNS name in its certificate; the address's host if not given" },
	{ .name = NULL },
};

static const struct conf_option reserve_options[] = {
	{ "source", CONF_NAME, AT(reserve_conf, source), .required = true, .help = "KM that requests the keys" },
	{ "destination", CONF_NAME, AT(reserve_conf, destination), .required = true, .help = "KM at the far end" },
	{ "amount", CONF_SIZE, AT(reserve_conf, amount), .fallback = "16 KiB", .min = 64, .max = 1048576,
	  .help = "bytes of one relay, a multiple of 64" },
	{ "low_water", CONF_SIZE, AT(reserve_conf, low_water), .fallback = "64 KiB", .min = 1, .max = 1e12,
	  .help = "a stock below it is filled" },
	{ "high_water", CONF_SIZE, AT(reserve_conf, high_water), .fallback = "256 KiB", .min = 1, .max = 1e12,
	  .help = "up to here" },
	{ .name = NULL },
};

const struct conf_option settings_options[] = {
	{ "name", CONF_NAME, AT(settings, name), .required = true, .help = "of this controller; as in its certificate" },
	{ "listen", CONF_LISTEN, AT(settings, listen), .required = true, .help = "addresses, host:port" },
	{ "rpcbind", CONF_ENUM, AT(settings, rpcbind), .fallback = "try", .words = rpcbind_words,
	  .help = "whether to register the programs with the local rpcbind" },
	{ "certificate", CONF_PATH, AT(settings, certificate), .required = true, .help = "of this controller, PEM" },
	{ "private_key", CONF_PATH, AT(settings, private_key), .required = true, .help = "of this controller, PEM, mode 0600" },
	{ "authority", CONF_PATH, AT(settings, authority), .required = true,
	  .help = "certificates of the authorities to trust, PEM" },
	{ "crl", CONF_PATH, AT(settings, crl), .help = "the authorities' lists of revoked certificates, PEM" },
	{ "trace", CONF_PATH, AT(settings, trace), .help = "file that gets a line per message" },
	{ "confine", CONF_BOOL, AT(settings, confine), .fallback = "true",
	  .help = "whether to refuse, once started, all system calls but those that the daemon needs" },
	{ "mode", CONF_ENUM, AT(settings, mode), .fallback = "centralized", .words = mode_words,
	  .help = "centralized: full routes for the KMs that are sources; distributed: next hops" },
	{ "kms", CONF_LIST, AT(settings, kms), .required = true, .sub = km_options, .sub_size = sizeof(struct km_conf),
	  .help = "the KMs under this controller" },
	{ "neighbours", CONF_LIST, AT(settings, neighbours), .sub = neighbour_options,
	  .sub_size = sizeof(struct neighbour_conf), .help = "controllers to share link states with" },
	{ "reserve", CONF_LIST, AT(settings, reserve), .sub = reserve_options, .sub_size = sizeof(struct reserve_conf),
	  .help = "pairs of KMs to fill by relay with reservation" },
	{ "report_interval", CONF_DURATION, AT(settings, report_interval), .fallback = "1 s", .min = 0.01, .max = 3600,
	  .help = "how often KMs report" },
	{ "silence", CONF_DURATION, AT(settings, silence), .fallback = "30 s", .min = 0.1, .max = 86400,
	  .help = "a KM that reports nothing for so long has no links any more" },
	{ "refresh", CONF_DURATION, AT(settings, refresh), .fallback = "5 min", .min = 1, .max = 86400,
	  .help = "a link-state record is made anew at the latest after it" },
	{ "max_age", CONF_DURATION, AT(settings, max_age), .fallback = "17 min", .min = 3, .max = 864000,
	  .help = "a link-state record that old is forgotten; at least three times refresh, alike at all controllers" },
	{ "min_origination", CONF_DURATION, AT(settings, min_origination), .fallback = "100 ms", .min = 0.001, .max = 60,
	  .help = "between two link-state records of one KM" },
	{ "weight_interval", CONF_DURATION, AT(settings, weight_interval), .fallback = "5 s", .min = 0.001, .max = 3600,
	  .help = "the same where nothing changed but stock, rates and error ratio" },
	{ "call_timeout", CONF_DURATION, AT(settings, call_timeout), .fallback = "5 s", .min = 0.1, .max = 60,
	  .help = "of a call to a KM or a controller" },
	{ "reservation_time", CONF_DURATION, AT(settings, reservation_time), .fallback = "1 min", .min = 1, .max = 3600,
	  .help = "a relay with reservation that takes longer is given up" },
	{ .name = NULL },
};

/* ---- what one setting alone cannot tell --------------------------------------------------- */

static bool has_km(const struct settings *s, const char *name)
{
	const struct km_conf *km = s->kms.items;

	for (size_t i = 0; i < s->kms.count; i++)
		if (strcmp(km[i].name, name) == 0)
			return true;
	return false;
}

static enum status check_neighbours(const struct settings *s, struct err *e)
{
	const struct neighbour_conf *n = s->neighbours.items;

	for (size_t i = 0; i < s->neighbours.count; i++) {
		if (strcmp(n[i].name, s->name) == 0)
			return err_set(e, ST_CONFIGURATION, "neighbours[%zu].name: \"%s\" is this controller itself", i,
			               n[i].name);
		for (size_t j = 0; j < i; j++)
			if (strcmp(n[i].name, n[j].name) == 0)
				return err_set(e, ST_CONFIGURATION, "neighbours[%zu].name: \"%s\" is there twice", i,
				               n[i].name);
	}
	return ST_OK;
}

static enum status check_reserve(const struct settings *s, struct err *e)
{
	const struct reserve_conf *r = s->reserve.items;

	for (size_t i = 0; i < s->reserve.count; i++) {
		if (!has_km(s, r[i].source))
			return err_set(e, ST_CONFIGURATION,
			               "reserve[%zu].source: \"%s\" is not one of the kms: only they can be called", i,
			               r[i].source);
		if (strcmp(r[i].source, r[i].destination) == 0)
			return err_set(e, ST_CONFIGURATION, "reserve[%zu].destination: is the source itself", i);
		if (r[i].amount % 64 != 0)
			return err_set(e, ST_CONFIGURATION, "reserve[%zu].amount: make it a multiple of 64", i);
		if (r[i].high_water < r[i].low_water)
			return err_set(e, ST_CONFIGURATION, "reserve[%zu].high_water: is below low_water", i);
	}
	return ST_OK;
}

static enum status check(const struct settings *s, struct err *e)
{
	enum status st;

	if (s->mode == 1 && s->kms.count != 1)
		return err_set(e, ST_CONFIGURATION, "kms: a distributed controller is of one node: name its KM alone");
	if (s->mode == 1 && s->reserve.count > 0)
		return err_set(e, ST_CONFIGURATION, "reserve: is for mode \"centralized\" alone");
	if (s->max_age < 3 * s->refresh)
		return err_set(e, ST_CONFIGURATION,
		               "max_age: is less than three times refresh: a lost message would cost a node its links");
	st = check_neighbours(s, e);
	return st == ST_OK ? check_reserve(s, e) : st;
}

enum status settings_load(const char *path, struct settings *s, struct err *e)
{
	enum status st = conf_load(path, settings_options, s, e);

	if (st != ST_OK)
		return st;
	st = check(s, e);
	if (st != ST_OK) {
		conf_free(settings_options, s);
		return err_prefix(e, "%s", path);
	}
	return ST_OK;
}
