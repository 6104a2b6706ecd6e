/* echo_ends.c - servers and callers of the program in echo.x. */
#include "echo_ends.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

struct test_pki *echo_pki;

/* ---- the program's server ---------------------------------------------------------------------- */

void echo_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

static const struct rtls_procedure echo_procedures[] = {
	{ ECHO_NOW, "Echo request", "Response to echo request", "km app" },
	{ ECHO_LATER, "Late echo request", "Response to late echo request", "km app" },
	{ ECHO_NEVER, "Endless request", "Response to endless request", "app km" },
	{ ECHO_FORBIDDEN, "Forbidden request", "Response to forbidden request", "manager" },
	{ ECHO_SILENT, "Silent request", "Response to silent request", "app" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program echo_program = {
	.number = ECHO,
	.version = ECHO_V1,
	.reference_point = "Ex",
	.dispatch = echo_1,
	.procedures = echo_procedures,
	.traced = true,
};

static void fill(echo_result *result, const echo_args *args)
{
	memset(result, 0, sizeof *result);
	result->text = strdup(args->text);
	result->bytes.bytes_len = args->bytes.bytes_len;
	result->bytes.bytes_val = malloc(args->bytes.bytes_len + 1);
	if (args->bytes.bytes_len > 0)
		memcpy(result->bytes.bytes_val, args->bytes.bytes_val, args->bytes.bytes_len);
	if (strcmp(args->text, "too few") == 0)
		result->status = ST_TOO_FEW_KEYS;
}

bool_t echo_now_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	struct server *s = rtls_context(rq);

	s->calls++;
	snprintf(s->last_caller, sizeof s->last_caller, "%s", rtls_caller(rq)->name);
	fill(result, args);
	return TRUE;
}

struct late {
	struct rtls_deferred *deferred;
	echo_result result;
};

static void reply_late(void *arg)
{
	struct late *late = arg;

	rtls_reply(late->deferred, (xdrproc_t)xdr_echo_result, &late->result);
	free(late);
}

bool_t echo_later_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	struct server *s = rtls_context(rq);
	struct late *late = xcalloc(1, sizeof *late);

	(void)result;
	fill(&late->result, args);
	late->deferred = rtls_defer(rq);
	env_post(s->env, reply_late, late);
	return FALSE;
}

bool_t echo_never_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	struct server *s = rtls_context(rq);

	(void)args;
	(void)result;
	s->held = rtls_defer(rq);
	s->all_held[s->held_count++ % ARRAY_LEN(s->all_held)] = s->held;
	return FALSE;
}

bool_t echo_forbidden_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	return echo_now_1_svc(args, result, rq);
}

bool_t echo_silent_1_svc(echo_args *args, echo_result *result, struct svc_req *rq)
{
	(void)args;
	(void)result;
	(void)rq;
	return FALSE;
}

int echo_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- two ends in one loop ---------------------------------------------------------------------- */

static void give_up(void *arg)
{
	struct both *b = arg;

	b->timed_out = true;
	env_event_stop(b->env);
}

void run(struct both *b)
{
	b->timed_out = false;
	env_timer_set(b->env, b->timer, PATIENCE_NS);
	env_event_run(b->env);
	env_timer_stop(b->env, b->timer);
	assert_false(b->timed_out);
}

void run_for(struct both *b, uint64_t ns)
{
	env_timer_set(b->env, b->timer, ns);
	env_event_run(b->env);
}

/* Until bob has so many calls of ECHO_NEVER. */
void run_until_held(struct both *b, unsigned count)
{
	uint64_t begun = env_mono(b->env);

	while (b->bob.held_count < count && env_mono(b->env) - begun < PATIENCE_NS)
		run_for(b, NS_PER_MS);
	assert_int_equal(b->bob.held_count, count);
}

void server_start(struct server *s, struct env *env, const char *role, const char *name,
                         const struct rtls_options *o)
{
	struct rtls_credentials *c = test_pki_credentials(echo_pki, role, name);
	struct err e;

	*s = (struct server){ .env = env };
	assert_int_equal(rtls_endpoint_new(&s->ep, env, c, o, &e), ST_OK);
	rtls_credentials_free(c);
	rtls_add_program(s->ep, &echo_program, s);
	if (rtls_listen(s->ep, "127.0.0.1:0", &e) != ST_OK)
		fail_msg("%s", e.text);
}

static void up(struct rtls_conn *conn, bool is_up, void *arg)
{
	struct both *b = arg;

	(void)conn;
	if (is_up && --b->waiting == 0)
		env_event_stop(b->env);
}

struct rtls_peer *connect_alice_to_bob(struct both *b)
{
	const struct rtls_peer_options o = { .role = "km",
		                             .name = "bob",
		                             .host = "127.0.0.1",
		                             .port = rtls_port(b->bob.ep),
		                             .program = ECHO,
		                             .version = ECHO_V1 };

	return rtls_peer_new(b->alice.ep, &o);
}

void both_start(struct both *b, const struct rtls_options *o)
{
	memset(b, 0, sizeof *b);
	b->env = env_event_new();
	assert_non_null(b->env);
	b->timer = env_timer_new(b->env, give_up, b);
	server_start(&b->alice, b->env, "km", "alice", o);
	server_start(&b->bob, b->env, "km", "bob", o);
	rtls_watch_conns(b->alice.ep, up, b);
	rtls_watch_conns(b->bob.ep, up, b);
	b->peer = connect_alice_to_bob(b);
	b->waiting = 2;
	run(b);
}

void both_stop(struct both *b)
{
	rtls_endpoint_free(b->alice.ep);
	rtls_endpoint_free(b->bob.ep);
	env_timer_free(b->env, b->timer);
	env_event_free(b->env);
}

void done(enum status s, void *result, void *arg)
{
	struct both *b = arg;
	echo_result *r = result;

	b->status = s;
	b->text[0] = '\0';
	if (s == ST_OK) {
		snprintf(b->text, sizeof b->text, "%s", r->text);
		b->bytes = r->bytes.bytes_len;
	}
	if (--b->waiting == 0)
		env_event_stop(b->env);
}

struct rtls_call echo_call(struct both *b, uint32_t procedure, echo_args *args)
{
	return (struct rtls_call){ .program = ECHO,
		                   .version = ECHO_V1,
		                   .procedure = procedure,
		                   .xdr_args = (xdrproc_t)xdr_echo_args,
		                   .args = args,
		                   .xdr_result = (xdrproc_t)xdr_echo_result,
		                   .result_size = sizeof(echo_result),
		                   .timeout_ns = PATIENCE_NS,
		                   .done = done,
		                   .arg = b };
}

void ask(struct both *b, uint32_t procedure, char *text)
{
	static char bytes[100000];
	echo_args args = { .text = text, .bytes = { sizeof bytes, bytes } };
	struct rtls_call call = echo_call(b, procedure, &args);

	b->waiting = 1;
	rtls_peer_call(b->peer, &call);
	run(b);
}

static void *serve(void *arg)
{
	struct background *g = arg;

	env_event_run(g->b.env);
	return NULL;
}

static void stop_serving(void *arg)
{
	struct background *g = arg;

	env_event_stop(g->b.env);
}

void background_start(struct background *g, const struct rtls_options *o)
{
	memset(g, 0, sizeof *g);
	g->b.env = env_event_new();
	server_start(&g->b.bob, g->b.env, "km", "bob", o);
	assert_int_equal(pthread_create(&g->thread, NULL, serve, g), 0);
}

void background_stop(struct background *g)
{
	env_post(g->b.env, stop_serving, g);
	pthread_join(g->thread, NULL);
	rtls_endpoint_free(g->b.bob.ep);
	env_event_free(g->b.env);
}

enum status open_channel(struct background *g, struct rtls_credentials *c, struct rtls_channel **ch, struct err *e)
{
	const struct rtls_channel_options o = { .credentials = c,
		                                .peer = { .role = "km",
		                                          .name = "bob",
		                                          .host = "127.0.0.1",
		                                          .port = rtls_port(g->b.bob.ep),
		                                          .program = ECHO,
		                                          .version = ECHO_V1 } };

	return rtls_channel_open(ch, &o, e);
}

int echo_start(void **state)
{
	(void)state;
	log_open("test_rpc", getenv("QKDN_TEST_LOG") != NULL ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
	echo_pki = test_pki_new();
	return 0;
}

int echo_stop(void **state)
{
	(void)state;
	test_pki_free(echo_pki);
	return 0;
}

