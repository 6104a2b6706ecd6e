/*
 * test_controller_wire.c - Ck and Cx over real sockets and real TLS: KMs (played here) register,
 * report, ask for routes and are called; two controllers share what they know.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ck.h"
#include "controllerd.h"
#include "cx.h"
#include "env_event.h"
#include "log.h"
#include "test_pki.h"

static struct test_pki *pki;

/* ---- KMs, as the controller sees them ------------------------------------------------------------------ */

struct scene;

struct fake_km {
	struct scene *scene;
	const char *name;
	struct rtls_endpoint *ep;
	struct rtls_peer *peer;
};

struct scene {
	struct env *env;
	struct env_timer *timer;
	struct controllerd left, right; /* right is there in the tests of Cx */
	struct fake_km kms[3];
	int waiting;
	bool timed_out;
	enum status status;
	char text[200]; /* of the last answer: a next hop, or routes */
	unsigned hops_left;
	char called[200]; /* of the controller's calls to KMs */
	struct id reserved;
};

void qkdn_ck_km_1(struct svc_req *rq, SVCXPRT *xprt);

int qkdn_ck_km_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static void note(struct svc_req *rq, const char *what)
{
	struct fake_km *km = rtls_context(rq);
	size_t len = strlen(km->scene->called);

	snprintf(km->scene->called + len, sizeof km->scene->called - len, "%s %s; ", what, km->name);
}

bool_t ck_km_key_reservation_request_1_svc(ck_km_reservation_args *args, ck_km_reservation_result *result,
                                           struct svc_req *rq)
{
	struct fake_km *km = rtls_context(rq);

	note(rq, "reserve");
	assert_int_equal(args->route.nodes.nodes_len, 3);
	assert_string_equal(args->route.nodes.nodes_val[2], "carol");
	assert_int_equal(args->len, 4096);
	memcpy(&km->scene->reserved, args->relay, sizeof km->scene->reserved);
	memset(result, 0, sizeof *result);
	result->outcome.text = xstrdup("");
	result->link = xstrdup("alice-bob");
	result->link_offset = 8192;
	result->ksa_offset = 77;
	memset(result->ksa_pool, 5, sizeof result->ksa_pool);
	return TRUE;
}

static void plain_answer(ck_result *result)
{
	memset(result, 0, sizeof *result);
	result->outcome.text = xstrdup("");
}

bool_t ck_km_key_relay_request_1_svc(ck_km_relay_args *args, ck_result *result, struct svc_req *rq)
{
	note(rq, "relay");
	assert_string_equal(args->link, "alice-bob");
	assert_int_equal(args->link_offset, 8192);
	assert_int_equal(args->ksa_offset, 77);
	assert_int_equal(args->ksa_pool[3], 5);
	assert_string_equal(args->route.nodes.nodes_val[1], "bob");
	plain_answer(result);
	return TRUE;
}

bool_t ck_km_key_allocation_request_1_svc(ck_km_relay_id_args *args, ck_result *result, struct svc_req *rq)
{
	struct fake_km *km = rtls_context(rq);

	note(rq, "allocate");
	assert_memory_equal(args->relay, &km->scene->reserved, 16);
	plain_answer(result);
	return TRUE;
}

bool_t ck_km_void_1_svc(ck_km_relay_id_args *args, ck_result *result, struct svc_req *rq)
{
	(void)args;
	note(rq, "void");
	plain_answer(result);
	return TRUE;
}

static const struct rtls_procedure km_procedures[] = {
	{ CK_KM_KEY_RESERVATION_REQUEST, "reserve", "reserved", "controller" },
	{ CK_KM_KEY_RELAY_REQUEST, "relay", "relayed", "controller" },
	{ CK_KM_KEY_ALLOCATION_REQUEST, "allocate", "allocated", "controller" },
	{ CK_KM_VOID, "void", "voided", "controller" },
	{ 0, NULL, NULL, NULL },
};
static const struct rtls_program km_program = { QKDN_CK_KM, QKDN_CK_KM_V1, "Ck", qkdn_ck_km_1, km_procedures, true };

/* ---- the scene --------------------------------------------------------------------------------------------- */

static void time_is_over(void *arg)
{
	struct scene *s = arg;

	s->timed_out = true;
	env_event_stop(s->env);
}

static void turn(void *arg)
{
	env_event_stop(((struct scene *)arg)->env);
}

/* Runs the loop in short turns until nothing is waited for. */
static void run_until(struct scene *s, bool (*reached)(const struct scene *s))
{
	struct env_timer *step = env_timer_new(s->env, turn, s);

	s->timed_out = false;
	env_timer_set(s->env, s->timer, 100 * NS_PER_S);
	while (!s->timed_out && !reached(s)) {
		env_timer_set(s->env, step, 5 * NS_PER_MS);
		env_event_run(s->env);
	}
	env_timer_stop(s->env, s->timer);
	env_timer_free(s->env, step);
	assert_false(s->timed_out);
}

static bool nothing_is_waited_for(const struct scene *s)
{
	return s->waiting == 0;
}

static void start_controller(struct scene *s, struct controllerd *d, const char *name, enum controller_mode mode,
                             const char *const *kms, size_t km_count, const char *neighbour)
{
	static const struct controller_reserve reserve = { "alice", "carol", 4096, 8192, 8192 };
	const struct controller_calls calls = { controller_cx_summary, controller_cx_link_states, controller_ck_reserve,
		                                controller_ck_relay,   controller_ck_allocate,    controller_ck_give_up,
		                                d };
	struct controller_options o = { .name = name, .mode = mode, .kms = kms, .km_count = km_count,
		                        .neighbours = &neighbour, .neighbour_count = neighbour != NULL,
		                        .reserve = &reserve, .reserve_count = mode == CONTROLLER_CENTRALIZED };
	struct rtls_credentials *c = test_pki_credentials(pki, "controller", name);
	struct err e;

	controller_defaults(&o);
	o.call_timeout = 60 * NS_PER_S;
	*d = (struct controllerd){ .env = s->env, .name = name, .mode = mode, .report_interval = o.report_interval,
		                   .call_timeout = o.call_timeout };
	d->core = controller_new(s->env, &o, &calls);
	assert_int_equal(rtls_endpoint_new(&d->endpoint, s->env, c, NULL, &e), ST_OK);
	rtls_credentials_free(c);
	rtls_add_program(d->endpoint, &controller_ck, d);
	rtls_add_program(d->endpoint, &controller_ck_km, d);
	rtls_add_program(d->endpoint, &controller_cx, d);
	rtls_watch_conns(d->endpoint, controllerd_conn_changed, d);
	assert_int_equal(rtls_listen(d->endpoint, "127.0.0.1:0", &e), ST_OK);
}

static struct rtls_peer *connect_to(struct rtls_endpoint *from, const struct controllerd *to, uint32_t program)
{
	const struct rtls_peer_options o = { .role = "controller", .name = to->name, .host = "127.0.0.1",
		                             .port = rtls_port(to->endpoint), .program = program, .version = 1 };

	return rtls_peer_new(from, &o);
}

static void start_km(struct scene *s, struct fake_km *km, const char *name, const struct controllerd *controller)
{
	struct rtls_credentials *c = test_pki_credentials(pki, "km", name);
	struct err e;

	km->scene = s;
	km->name = name;
	assert_int_equal(rtls_endpoint_new(&km->ep, s->env, c, NULL, &e), ST_OK);
	rtls_credentials_free(c);
	rtls_add_program(km->ep, &km_program, km);
	km->peer = connect_to(km->ep, controller, QKDN_CK);
}

static bool all_are_up(const struct scene *s)
{
	for (size_t i = 0; i < ARRAY_LEN(s->kms); i++)
		if (s->kms[i].ep != NULL && !rtls_peer_is_up(s->kms[i].peer))
			return false;
	return true;
}

static void scene_start(struct scene *s)
{
	memset(s, 0, sizeof *s);
	s->env = env_event_new();
	s->timer = env_timer_new(s->env, time_is_over, s);
}

static void stop_controller(struct controllerd *d)
{
	struct rtls_endpoint *ep = d->endpoint;

	if (ep == NULL)
		return;
	controller_neighbour_down(d->core, "left");
	controller_neighbour_down(d->core, "right");
	d->endpoint = NULL;
	rtls_endpoint_free(ep);
	controller_free(d->core);
}

static void scene_stop(struct scene *s)
{
	for (size_t i = 0; i < ARRAY_LEN(s->kms); i++)
		if (s->kms[i].ep != NULL) {
			rtls_peer_free(s->kms[i].peer);
			rtls_endpoint_free(s->kms[i].ep);
		}
	stop_controller(&s->left);
	stop_controller(&s->right);
	env_timer_free(s->env, s->timer);
	env_event_free(s->env);
}

/* ---- a KM's calls --------------------------------------------------------------------------------------------- */

static void ask(struct scene *s, struct fake_km *km, uint32_t procedure, xdrproc_t xdr_args, void *args,
                xdrproc_t xdr_result, size_t result_size, rtls_done done)
{
	const struct rtls_call call = { QKDN_CK, QKDN_CK_V1, procedure, xdr_args, args, xdr_result, result_size,
		                        60 * NS_PER_S, done, s };

	s->waiting++;
	s->text[0] = '\0';
	rtls_peer_call(km->peer, &call);
	run_until(s, nothing_is_waited_for);
}

static void plain_done(enum status s, void *result, void *arg)
{
	struct scene *scene = arg;

	scene->status = s == ST_OK ? (enum status)((ck_result *)result)->outcome.status : s;
	scene->waiting = 0;
}

static void registered(enum status s, void *result, void *arg)
{
	ck_register_result *r = result;
	struct scene *scene = arg;

	plain_done(s, result, arg);
	if (s == ST_OK)
		snprintf(scene->text, sizeof scene->text, "%s %d", r->controller, r->mode);
}

static void register_as(struct scene *s, struct fake_km *km, const char *name)
{
	ck_register_args args = { .km = (char *)name };

	ask(s, km, CK_REGISTER, (xdrproc_t)xdr_ck_register_args, &args, (xdrproc_t)xdr_ck_register_result,
	    sizeof(ck_register_result), registered);
}

static void report(struct scene *s, struct fake_km *km, const char *const *links, size_t count)
{
	qkdn_link_state states[4];
	ck_link_status_args args = { .km = (char *)km->name,
		                     .links = { .links_len = (u_int)count, .links_val = states } };

	for (size_t i = 0; i < count; i++)
		states[i] = (qkdn_link_state){ .link = (char *)links[2 * i], .peer = (char *)links[2 * i + 1], .up = TRUE,
			                     .stock = 1 << 21, .generation_rate = 100000 };
	ask(s, km, CK_LINK_STATUS, (xdrproc_t)xdr_ck_link_status_args, &args, (xdrproc_t)xdr_ck_result,
	    sizeof(ck_result), plain_done);
}

static void report_line(struct scene *s)
{
	static const char *const alice[] = { "alice-bob", "bob" }, *const bob[] = { "alice-bob", "alice", "bob-carol", "carol" },
				 *const carol[] = { "bob-carol", "bob" };

	report(s, &s->kms[0], alice, 1);
	assert_int_equal(s->status, ST_OK);
	report(s, &s->kms[1], bob, 2);
	report(s, &s->kms[2], carol, 1);
	assert_int_equal(s->status, ST_OK);
}

static void routed(enum status s, void *result, void *arg)
{
	ck_relay_request_result *r = result;
	struct scene *scene = arg;

	plain_done(s, result, arg);
	for (u_int i = 0; s == ST_OK && i < r->routes.routes_len; i++)
		for (u_int n = 0; n < r->routes.routes_val[i].nodes.nodes_len; n++) {
			strcat(scene->text, r->routes.routes_val[i].nodes.nodes_val[n]);
			strcat(scene->text, " ");
		}
}

static void ask_route(struct scene *s, struct fake_km *km, const char *source, const char *destination)
{
	ck_relay_notification_args args = { .source = (char *)source, .destination = (char *)destination, .len = 1000 };

	ask(s, km, CK_KEY_RELAY_REQUEST_NOTIFICATION, (xdrproc_t)xdr_ck_relay_notification_args, &args,
	    (xdrproc_t)xdr_ck_relay_request_result, sizeof(ck_relay_request_result), routed);
}

static void hopped(enum status s, void *result, void *arg)
{
	ck_next_hop_result *r = result;
	struct scene *scene = arg;

	plain_done(s, result, arg);
	if (s != ST_OK)
		return;
	strcpy(scene->text, r->next_hop);
	scene->hops_left = r->hops_left;
}

static void ask_next_hop(struct scene *s, struct fake_km *km, const char **visited, u_int count, unsigned hops_left)
{
	ck_next_hop_args args = { .source = (char *)"alice", .destination = (char *)"carol", .hops_left = hops_left,
		                  .visited = { .visited_len = count, .visited_val = (qkdn_name *)visited } };

	ask(s, km, CK_KEY_RELAY_NEXT_HOP_REQUEST, (xdrproc_t)xdr_ck_next_hop_args, &args,
	    (xdrproc_t)xdr_ck_next_hop_result, sizeof(ck_next_hop_result), hopped);
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

static const char *const line[] = { "alice", "bob", "carol" };

static void start_centralized(struct scene *s)
{
	scene_start(s);
	start_controller(s, &s->left, "left", CONTROLLER_CENTRALIZED, line, 3, NULL);
	for (size_t i = 0; i < 3; i++)
		start_km(s, &s->kms[i], line[i], &s->left);
	run_until(s, all_are_up);
}

static void kms_register_report_and_get_routes(void **state)
{
	struct scene s;

	(void)state;
	start_centralized(&s);
	register_as(&s, &s.kms[0], "alice");
	assert_int_equal(s.status, ST_OK);
	assert_string_equal(s.text, "left 0");
	register_as(&s, &s.kms[0], "bob"); /* it is not */
	assert_int_equal(s.status, ST_DENIED);
	ask_route(&s, &s.kms[0], "alice", "carol");
	assert_int_equal(s.status, ST_NO_ROUTE);
	report_line(&s);
	ask_route(&s, &s.kms[0], "alice", "carol");
	assert_int_equal(s.status, ST_OK);
	assert_string_equal(s.text, "alice bob carol ");
	ask_route(&s, &s.kms[1], "alice", "carol"); /* for another */
	assert_int_equal(s.status, ST_DENIED);
	ask_route(&s, &s.kms[0], "alice", "nobody");
	assert_int_equal(s.status, ST_NO_ROUTE);
	scene_stop(&s);
}

static bool is_allocated(const struct scene *s)
{
	return strstr(s->called, "allocate") != NULL;
}

static void reservation_goes_over_the_wire(void **state)
{
	ck_pool_state pool = { .peer = (char *)"carol", .stock = 8000 };
	ck_key_store_status_args args = { .km = (char *)"alice", .pools = { .pools_len = 1, .pools_val = &pool } };
	struct scene s;

	(void)state;
	start_centralized(&s);
	report_line(&s);
	ask(&s, &s.kms[0], CK_KEY_STORE_STATUS, (xdrproc_t)xdr_ck_key_store_status_args, &args,
	    (xdrproc_t)xdr_ck_result, sizeof(ck_result), plain_done);
	assert_int_equal(s.status, ST_OK);
	run_until(&s, is_allocated);
	assert_string_equal(s.called, "reserve alice; relay bob; allocate alice; ");
	scene_stop(&s);
}

static bool right_knows_all_kms(const struct scene *s)
{
	struct controller_stats stats;

	controller_stats(s->right.core, &stats);
	return stats.records == 3;
}

/* left has alice and bob, right has carol alone: what right knows of the line it knows from left. */
static void controllers_share_what_they_know(void **state)
{
	static const char *const carol = "carol";
	const char *visited[] = { "carol" };
	struct rtls_peer *between;
	struct scene s;

	(void)state;
	scene_start(&s);
	start_controller(&s, &s.left, "left", CONTROLLER_CENTRALIZED, line, 2, "right");
	start_controller(&s, &s.right, "right", CONTROLLER_DISTRIBUTED, &carol, 1, "left");
	start_km(&s, &s.kms[0], "alice", &s.left);
	start_km(&s, &s.kms[1], "bob", &s.left);
	start_km(&s, &s.kms[2], "carol", &s.right);
	run_until(&s, all_are_up);
	report_line(&s);
	between = connect_to(s.left.endpoint, &s.right, QKDN_CX);
	run_until(&s, right_knows_all_kms);
	ask_route(&s, &s.kms[0], "alice", "carol");
	assert_string_equal(s.text, "alice bob carol ");
	register_as(&s, &s.kms[2], "carol");
	assert_string_equal(s.text, "right 1");
	{
		ck_next_hop_args args = { .source = (char *)"carol", .destination = (char *)"alice",
			                  .visited = { .visited_len = 1, .visited_val = (qkdn_name *)visited } };

		ask(&s, &s.kms[2], CK_KEY_RELAY_NEXT_HOP_REQUEST, (xdrproc_t)xdr_ck_next_hop_args, &args,
		    (xdrproc_t)xdr_ck_next_hop_result, sizeof(ck_next_hop_result), hopped);
	}
	assert_int_equal(s.status, ST_OK);
	assert_string_equal(s.text, "bob");
	assert_int_equal(s.hops_left, 5); /* two hops: 2 * 2 + 2, less this one */
	ask_next_hop(&s, &s.kms[2], visited, 0, 0);
	assert_int_equal(s.status, ST_DENIED);
	rtls_peer_free(between);
	scene_stop(&s);
}

static int start(void **state)
{
	(void)state;
	log_open("test_controller_wire", LOG_LEVEL_ERROR);
	pki = test_pki_new();
	return pki == NULL;
}

static int stop(void **state)
{
	(void)state;
	test_pki_free(pki);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kms_register_report_and_get_routes),
		cmocka_unit_test(reservation_goes_over_the_wire),
		cmocka_unit_test(controllers_share_what_they_know),
	};

	return cmocka_run_group_tests(tests, start, stop);
}
