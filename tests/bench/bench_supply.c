/*
 * bench_supply.c - many applications' connections to a real pair of qkdn-kmd: null calls, key requests,
 * key requests with ID. tests/bench/run brings the pair up and reads what this prints.
 *
 *	bench_supply null|keys|fetch CONNECTIONS IN-FLIGHT SECONDS CA \
 *		APP1 KM1 HOST1 PORT1 DNS1 CRT1 KEY1  APP2 KM2 HOST2 PORT2 DNS2 CRT2 KEY2
 *
 * null and keys: calls a second to KM1. fetch: APP2 fetches from KM2, in random order, keys that APP1
 * was given before; keys a second (SECONDS: how long APP1 asks for them).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ak.h"
#include "env_event.h"
#include "log.h"
#include "rtls.h"

enum { KEYS_A_REQUEST = 64, CALL_S = 30 };

enum mode { NULL_CALLS, ONE_KEY, MANY_KEYS, BY_ID };

struct end {
	char *app, *km, *host, *dns_name;
	uint16_t port;
	struct rtls_credentials *credentials;
};

static struct end ends[2];
static struct env *env;
static struct id *ids;
static size_t id_count, id_room, next_id;

/* One load on one KM. */
struct load {
	enum mode mode;
	const struct end *end, *other;
	unsigned connections, in_flight, up, running;
	uint64_t done, begun, ended;
	double seconds;
	bool over;
};

struct caller {
	struct load *load;
	struct rtls_conn *conn;
};

static void answered(enum status s, void *result, void *arg);

static bool_t xdr_nothing(XDR *xdr, ...)
{
	(void)xdr;
	return TRUE;
}

static void call_null(struct caller *c)
{
	rtls_call(c->conn, &(struct rtls_call){ .program = QKDN_AK, .version = QKDN_AK_V1, .procedure = NULLPROC,
	                                        .xdr_args = xdr_nothing, .xdr_result = xdr_nothing,
	                                        .timeout_ns = CALL_S * NS_PER_S, .done = answered, .arg = c });
}

static void call_keys(struct caller *c, unsigned number)
{
	ak_key_request_args args = { .source = c->load->end->app, .destination = c->load->other->app,
		                     .number = number, .size = 256 };

	rtls_call(c->conn, &(struct rtls_call){ .program = QKDN_AK, .version = QKDN_AK_V1, .procedure = AK_KEY_REQUEST,
	                                        .xdr_args = (xdrproc_t)xdr_ak_key_request_args, .args = &args,
	                                        .xdr_result = (xdrproc_t)xdr_ak_keys_result,
	                                        .result_size = sizeof(ak_keys_result),
	                                        .timeout_ns = CALL_S * NS_PER_S, .done = answered, .arg = c });
}

static void call_by_id(struct caller *c)
{
	ak_key_request_with_id_args args = { .source = c->load->other->app, .destination = c->load->end->app };

	args.key_ids.key_ids_len = 1;
	args.key_ids.key_ids_val = (qkdn_id *)&ids[next_id++];
	rtls_call(c->conn, &(struct rtls_call){ .program = QKDN_AK, .version = QKDN_AK_V1,
	                                        .procedure = AK_KEY_REQUEST_WITH_ID,
	                                        .xdr_args = (xdrproc_t)xdr_ak_key_request_with_id_args, .args = &args,
	                                        .xdr_result = (xdrproc_t)xdr_ak_keys_result,
	                                        .result_size = sizeof(ak_keys_result),
	                                        .timeout_ns = CALL_S * NS_PER_S, .done = answered, .arg = c });
}

static void call(struct caller *c)
{
	struct load *l = c->load;

	if (l->over || (l->mode == BY_ID && next_id == id_count)) {
		if (--l->running == 0) {
			l->ended = env_mono(env);
			env_event_stop(env);
		}
		return;
	}
	if (l->mode == NULL_CALLS)
		call_null(c);
	else if (l->mode == BY_ID)
		call_by_id(c);
	else
		call_keys(c, l->mode == ONE_KEY ? 1 : KEYS_A_REQUEST);
}

static void keep_ids(const ak_keys_result *r)
{
	for (unsigned i = 0; i < r->keys.keys_len; i++) {
		if (id_count == id_room) {
			id_room = id_room ? 2 * id_room : 65536;
			ids = realloc(ids, id_room * sizeof *ids);
			if (ids == NULL)
				log_fatal("out of memory");
		}
		memcpy(&ids[id_count++], r->keys.keys_val[i].key_id, sizeof *ids);
	}
}

static void answered(enum status s, void *result, void *arg)
{
	struct caller *c = arg;
	struct load *l = c->load;

	if (s != ST_OK)
		log_fatal("a call failed: %s", status_name(s));
	if (l->mode != NULL_CALLS) {
		const ak_keys_result *r = result;

		if (r->outcome.status != QKDN_OK)
			log_fatal("refused: %s", r->outcome.text);
		if (l->mode == MANY_KEYS)
			keep_ids(r);
	}
	if (!l->over)
		l->done++;
	call(c);
}

static void time_is_over(void *arg)
{
	struct load *l = arg;

	l->over = true;
	l->ended = env_mono(env);
}

/* All begin when the last connection stands. */
static void is_up(struct rtls_conn *conn, bool up, void *arg)
{
	static struct caller *callers;
	struct load *l = arg;

	if (!up)
		log_fatal("a connection was lost");
	if (l->up == 0)
		callers = xcalloc(l->connections, sizeof *callers);
	callers[l->up++] = (struct caller){ l, conn };
	if (l->up < l->connections)
		return;
	l->running = l->connections * l->in_flight;
	l->begun = env_mono(env);
	if (l->mode != BY_ID)
		env_timer_set(env, env_timer_new(env, time_is_over, l), (uint64_t)(l->seconds * 1e9));
	for (unsigned i = 0; i < l->connections; i++)
		for (unsigned j = 0; j < l->in_flight; j++)
			call(&callers[i]);
}

/* Calls a second. Connections and memory end with the process. */
static double run(enum mode mode, int at, unsigned connections, unsigned in_flight, double seconds)
{
	struct load *l = xcalloc(1, sizeof *l);
	const struct end *end = &ends[at];
	const struct rtls_peer_options o = { .role = "km", .name = end->km, .host = end->host, .port = end->port,
		                             .dns_name = end->dns_name, .program = QKDN_AK, .version = QKDN_AK_V1 };
	struct rtls_endpoint *ep;
	struct err e;

	*l = (struct load){ .mode = mode, .end = end, .other = &ends[!at], .connections = connections,
		            .in_flight = in_flight, .seconds = seconds };
	if (rtls_endpoint_new(&ep, env, end->credentials, NULL, &e) != ST_OK)
		log_fatal("%s", e.text);
	rtls_watch_conns(ep, is_up, l);
	for (unsigned i = 0; i < connections; i++)
		rtls_peer_new(ep, &o);
	env_event_run(env);
	return (double)l->done / ((double)(l->ended - l->begun) / 1e9);
}

static void shuffle(void)
{
	srandom(1);
	for (size_t i = id_count; i > 1; i--) {
		size_t j = (size_t)random() % i;
		struct id other = ids[i - 1];

		ids[i - 1] = ids[j];
		ids[j] = other;
	}
}

static void read_end(struct end *end, char **words, const char *authority)
{
	struct err e;

	*end = (struct end){ .app = words[0], .km = words[1], .host = words[2], .port = (uint16_t)atoi(words[3]),
		             .dns_name = words[4] };
	if (rtls_credentials_load(&end->credentials, words[5], words[6], authority, NULL, &e) != ST_OK)
		log_fatal("%s", e.text);
}

int main(int argc, char **argv)
{
	unsigned connections, in_flight;
	double seconds, rate;

	log_open("bench_supply", LOG_LEVEL_ERROR);
	if (argc != 20)
		return 1;
	env = env_event_new();
	connections = (unsigned)atoi(argv[2]);
	in_flight = (unsigned)atoi(argv[3]);
	seconds = atof(argv[4]);
	read_end(&ends[0], argv + 6, argv[5]);
	read_end(&ends[1], argv + 13, argv[5]);
	if (strcmp(argv[1], "null") == 0) {
		rate = run(NULL_CALLS, 0, connections, in_flight, seconds);
	} else if (strcmp(argv[1], "keys") == 0) {
		rate = run(ONE_KEY, 0, connections, in_flight, seconds);
	} else {
		run(MANY_KEYS, 0, 4, 4, seconds);
		shuffle();
		rate = run(BY_ID, 1, connections, in_flight, seconds);
	}
	printf("%.1f\n", rate);
	return 0;
}
