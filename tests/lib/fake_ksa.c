/* fake_ksa.c - see fake_ksa.h. */
#include "fake_ksa.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "ak.h"
#include "env_event.h"
#include "log.h"
#include "secret.h"

enum { DEFAULT_SIZE = 256, MIN_SIZE = 64, MAX_SIZE = 4096 };

void qkdn_ak_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

struct given_key {
	UT_hash_handle hh;
	struct id id;
	uint32_t size;
	bool fetched;
};

struct fake_ksa {
	struct env *env;
	struct rtls_endpoint *ep;
	struct rtls_deferred *mute[16];
	unsigned mute_count;
	struct given_key *keys;
	pthread_t thread;
};

static const struct rtls_procedure procedures[] = {
	{ AK_KEY_REQUEST, "Key request", "Response to key request", "app" },
	{ AK_KEY_REQUEST_WITH_ID, "Key request with ID", "Response to key request", "app" },
	{ AK_STATUS, "Status request", "Response to status request", "app" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_program ak_program = { .number = QKDN_AK,
	                                        .version = QKDN_AK_V1,
	                                        .reference_point = "Ak",
	                                        .dispatch = qkdn_ak_1,
	                                        .procedures = procedures,
	                                        .traced = true };

int qkdn_ak_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static void set_outcome(qkdn_outcome *outcome, enum status status, const char *text)
{
	outcome->status = (qkdn_status)status;
	outcome->text = xstrdup(text);
}

static bool_t refuse(ak_keys_result *result, enum status status, const char *text)
{
	set_outcome(&result->outcome, status, text);
	return TRUE;
}

static void put_key(ak_key *key, const struct id *id, uint32_t size)
{
	memcpy(key->key_id, id->bytes, ID_LEN);
	key->bytes.qkdn_key_len = size / 8;
	key->bytes.qkdn_key_val = xcalloc(size / 8, 1);
	for (uint32_t j = 0; j < size / 8; j++)
		key->bytes.qkdn_key_val[j] = (char)(id->bytes[j % ID_LEN] ^ (j & 0xff));
}

static void alloc_keys(ak_keys_result *result, size_t count)
{
	set_outcome(&result->outcome, ST_OK, "");
	result->keys.keys_len = (u_int)count;
	result->keys.keys_val = xcalloc(count, sizeof *result->keys.keys_val);
}

static bool destinations_fit(const ak_key_request_args *args)
{
	char **more = args->more_destinations.more_destinations_val;

	if (strcmp(args->destination, "group") != 0)
		return args->more_destinations.more_destinations_len == 0;
	return args->more_destinations.more_destinations_len == 2 && strcmp(more[0], "app3") == 0 &&
	       strcmp(more[1], "app4") == 0;
}

static bool extensions_fit(const ak_key_request_args *args)
{
	for (u_int i = 0; i < args->extensions.extensions_len; i++) {
		const ak_extension *x = &args->extensions.extensions_val[i];
		bool known = strcmp(x->name, "of") == 0;

		if ((known && (x->value.value_len != 3 || memcmp(x->value.value_val, "\1\0\2", 3) != 0)) ||
		    (!known && x->mandatory))
			return false;
	}
	return true;
}

bool_t ak_key_request_1_svc(ak_key_request_args *args, ak_keys_result *result, struct svc_req *rq)
{
	struct fake_ksa *ksa = rtls_context(rq);
	uint32_t size = args->size ? args->size : DEFAULT_SIZE;

	memset(result, 0, sizeof *result);
	if (strcmp(args->source, rtls_caller(rq)->name) != 0)
		return refuse(result, ST_DENIED, "you are not the source");
	if (!destinations_fit(args) || !extensions_fit(args))
		return refuse(result, ST_UNSUPPORTED, "more destinations, or an extension");
	if (size < MIN_SIZE || size > MAX_SIZE)
		return refuse(result, ST_BAD_REQUEST, "size out of bounds");
	if (strcmp(args->destination, "unknown") == 0)
		return refuse(result, ST_UNKNOWN_APPLICATION, "no application \"unknown\"");
	if (strcmp(args->destination, "empty") == 0)
		return refuse(result, ST_TOO_FEW_KEYS, "0 keys,\n\x1b[31mred");
	if (strcmp(args->destination, "liar") == 0)
		size -= 8;
	alloc_keys(result, args->number - (strcmp(args->destination, "miser") == 0));
	for (u_int i = 0; i < result->keys.keys_len; i++) {
		struct given_key *key = xcalloc(1, sizeof *key);

		env_random(ksa->env, key->id.bytes, ID_LEN);
		key->size = size;
		HASH_ADD(hh, ksa->keys, id, sizeof key->id, key);
		put_key(&result->keys.keys_val[i], &key->id, size);
	}
	return TRUE;
}

/* Answers in the reverse order: the client must put the keys into the order it asked in. */
bool_t ak_key_request_with_id_1_svc(ak_key_request_with_id_args *args, ak_keys_result *result,
                                    struct svc_req *rq)
{
	struct fake_ksa *ksa = rtls_context(rq);
	u_int count = args->key_ids.key_ids_len;
	struct given_key *found[AK_KEYS_MAX];

	memset(result, 0, sizeof *result);
	if (strcmp(args->source, "mute") == 0 && ksa->mute_count < ARRAY_LEN(ksa->mute)) {
		ksa->mute[ksa->mute_count++] = rtls_defer(rq);
		return FALSE;
	}
	for (u_int i = 0; i < count; i++) {
		HASH_FIND(hh, ksa->keys, args->key_ids.key_ids_val[i], ID_LEN, found[i]);
		if (found[i] == NULL)
			return refuse(result, ST_UNKNOWN_KEY_ID, "no such key");
		if (found[i]->fetched)
			return refuse(result, ST_KEY_GONE, "delivered");
	}
	alloc_keys(result, count);
	for (u_int i = 0; i < count; i++) {
		struct id id = found[i]->id;

		found[i]->fetched = true;
		if (strcmp(args->source, "other") == 0)
			id.bytes[0] ^= 1;
		put_key(&result->keys.keys_val[count - 1 - i], &id, found[i]->size);
	}
	return TRUE;
}

bool_t ak_status_1_svc(ak_status_args *args, ak_status_result *result, struct svc_req *rq)
{
	(void)rq;
	memset(result, 0, sizeof *result);
	set_outcome(&result->outcome, strcmp(args->destination, "unknown") == 0 ? ST_UNKNOWN_APPLICATION : ST_OK,
	            "");
	result->source_km = xstrdup("alice");
	result->destination_km = xstrdup("bob");
	result->key_size = DEFAULT_SIZE;
	result->min_key_size = MIN_SIZE;
	result->max_key_size = MAX_SIZE;
	result->max_keys_per_request = 128;
	result->stored_keys = UINT64_C(1) << 40;
	result->max_stored_keys = UINT64_MAX;
	return TRUE;
}

static void *serve(void *arg)
{
	struct fake_ksa *ksa = arg;

	env_event_run(ksa->env);
	return NULL;
}

static void stop(void *arg)
{
	env_event_stop(arg);
}

struct fake_ksa *fake_ksa_start(struct test_pki *pki, const char *name, uint16_t port)
{
	struct fake_ksa *ksa = xcalloc(1, sizeof *ksa);
	struct rtls_credentials *c = test_pki_credentials(pki, "km", name);
	const struct rtls_options options = { 0 };
	char *address = xasprintf("127.0.0.1:%u", port);
	struct err e = { .status = ST_OK };

	ksa->env = env_event_new();
	if (ksa->env == NULL || rtls_endpoint_new(&ksa->ep, ksa->env, c, &options, &e) != ST_OK)
		log_fatal("fake KSA: %s", e.text);
	rtls_add_program(ksa->ep, &ak_program, ksa);
	if (rtls_listen(ksa->ep, address, &e) != ST_OK)
		log_fatal("fake KSA: %s", e.text);
	rtls_credentials_free(c);
	free(address);
	if (pthread_create(&ksa->thread, NULL, serve, ksa) != 0)
		log_fatal("fake KSA: no thread");
	return ksa;
}

uint16_t fake_ksa_port(const struct fake_ksa *ksa)
{
	return rtls_port(ksa->ep);
}

void fake_ksa_stop(struct fake_ksa *ksa)
{
	struct given_key *key, *next;

	env_post(ksa->env, stop, ksa->env);
	pthread_join(ksa->thread, NULL);
	for (unsigned i = 0; i < ksa->mute_count; i++) {
		ak_keys_result *result = xcalloc(1, sizeof *result);

		set_outcome(&result->outcome, ST_TIMED_OUT, "");
		rtls_reply(ksa->mute[i], (xdrproc_t)xdr_ak_keys_result, result);
		free(result);
	}
	rtls_endpoint_free(ksa->ep);
	env_event_free(ksa->env);
	HASH_ITER(hh, ksa->keys, key, next)
	{
		HASH_DEL(ksa->keys, key);
		free(key);
	}
	free(ksa);
}
