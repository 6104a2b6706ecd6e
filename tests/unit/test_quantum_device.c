/* test_quantum_device.c - QKD modules on the network, against key managers of cardboard behind real TLS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../server/quantum/device.h"
#include "env_event.h"
#include "kq1.h"
#include "kq2.h"
#include "test_pki.h"

enum { BLOCK = 512, ROOM = 1024, BUFFER = 32 };

void qkdn_kq1_1(struct svc_req *rq, SVCXPRT *xprt);
void qkdn_kq2_1(struct svc_req *rq, SVCXPRT *xprt);

struct km {
	struct rtls_endpoint *ep;
	struct rig *rig;
	uint8_t bytes[ROOM][BLOCK];
	uint64_t next;
	unsigned registrations;
	bool refuse;
	char module[NAME_MAX_LEN + 1], alarms[256], last_refusal[256];
	kq2_status_result status;
};

struct rig {
	struct env *env;
	struct test_pki *pki;
	struct env_timer *timer;
	bool timed_out;
	struct qkd_link *link;
	struct km kms[2];
	struct device *devices[2];
	char *files[2][2];
};

static const char *const km_names[] = { "alice", "bob" }, *const module_names[] = { "alice-1", "bob-1" };

/* ---- the key managers ------------------------------------------------------------------- */

static void take(struct km *km, const kq1_block *b)
{
	assert_int_equal(b->bytes.qkdn_key_block_len, BLOCK);
	assert_true(b->qber_ppm > 30000 && b->generated_at > 0);
	if (b->sequence != km->next || km->next == ROOM)
		return;
	memcpy(km->bytes[km->next++], b->bytes.qkdn_key_block_val, BLOCK);
}

static void progress(struct km *km, kq1_progress *r)
{
	memset(r, 0, sizeof *r);
	r->outcome.text = xstrdup("");
	r->next_sequence = km->next;
	r->credit = km->next < ROOM ? 200 : 0;
}

bool_t kq1_key_supply_1_svc(kq1_key_supply_args *a, kq1_progress *r, struct svc_req *rq)
{
	struct km *km = rtls_context(rq);

	assert_string_equal(a->module, rtls_caller(rq)->name);
	for (u_int i = 0; i < a->blocks.blocks_len; i++)
		take(km, &a->blocks.blocks_val[i]);
	progress(km, r);
	return TRUE;
}

bool_t kq1_sync_1_svc(kq1_sync_args *a, kq1_progress *r, struct svc_req *rq)
{
	assert_string_equal(a->link, "alice-bob");
	progress(rtls_context(rq), r);
	return TRUE;
}

static void on_plain(enum status s, void *result, void *arg)
{
	struct km *km = arg;
	kq2_result *r = result;

	assert_int_equal(s, ST_OK);
	if (r->outcome.status != QKDN_OK)
		snprintf(km->last_refusal, sizeof km->last_refusal, "%s: %s",
		         status_name((enum status)r->outcome.status), r->outcome.text);
}

static void call_module(struct km *km, uint32_t procedure, const char *link, xdrproc_t xdr_result,
                        size_t size, rtls_done done)
{
	kq2_link_args args = { .link = (char *)link };
	const struct rtls_call call = { QKDN_KQ2_MODULE, QKDN_KQ2_MODULE_V1, procedure,
		                        (xdrproc_t)xdr_kq2_link_args, &args, xdr_result, size, 60 * NS_PER_S, done, km };

	rtls_call(rtls_find_conn(km->ep, "module", km->module), &call);
}

bool_t kq2_register_1_svc(kq2_register_args *a, kq2_result *r, struct svc_req *rq)
{
	struct km *km = rtls_context(rq);

	memset(r, 0, sizeof *r);
	r->outcome.text = xstrdup("");
	assert_int_equal(a->block_size, BLOCK);
	snprintf(km->module, sizeof km->module, "%s", a->module);
	km->registrations++;
	if (km->refuse)
		r->outcome.status = QKDN_CONFLICT;
	else
		call_module(km, KQ2_START, "alice-bob", (xdrproc_t)xdr_kq2_result, sizeof(kq2_result), on_plain);
	return TRUE;
}

bool_t kq2_alarm_1_svc(kq2_alarm_args *a, kq2_result *r, struct svc_req *rq)
{
	struct km *km = rtls_context(rq);
	size_t used = strlen(km->alarms);

	memset(r, 0, sizeof *r);
	r->outcome.text = xstrdup("");
	snprintf(km->alarms + used, sizeof km->alarms - used, "%s%s ", a->cleared ? "-" : "+", a->cause);
	return TRUE;
}

int qkdn_kq1_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

int qkdn_kq2_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

static const struct rtls_procedure kq1_procedures[] = { { KQ1_KEY_SUPPLY, "s", "r", "module" },
	                                                { KQ1_SYNC, "s", "r", "module" },
	                                                { 0, NULL, NULL, NULL } };
static const struct rtls_procedure kq2_procedures[] = { { KQ2_REGISTER, "s", "r", "module" },
	                                                { KQ2_ALARM, "s", "r", "module" },
	                                                { 0, NULL, NULL, NULL } };
static const struct rtls_program kq1 = { QKDN_KQ1, QKDN_KQ1_V1, "Kq-1", qkdn_kq1_1, kq1_procedures, true };
static const struct rtls_program kq2 = { QKDN_KQ2, QKDN_KQ2_V1, "Kq-2", qkdn_kq2_1, kq2_procedures, true };

static void km_start(struct rig *r, unsigned end)
{
	struct rtls_credentials *c = test_pki_credentials(r->pki, "km", km_names[end]);
	struct km *km = &r->kms[end];
	struct err e;

	km->rig = r;
	if (rtls_endpoint_new(&km->ep, r->env, c, &(struct rtls_options){ .trace_path = NULL }, &e) != ST_OK ||
	    rtls_listen(km->ep, "127.0.0.1:0", &e) != ST_OK)
		fail_msg("%s", e.text);
	rtls_credentials_free(c);
	rtls_add_program(km->ep, &kq1, km);
	rtls_add_program(km->ep, &kq2, km);
}

/* ---- the rig ---------------------------------------------------------------------------- */

static void device_start(struct rig *r, unsigned end)
{
	char file[32];
	struct err e;
	struct device_options o = { .name = module_names[end],
		                    .peer_name = module_names[!end],
		                    .receiver = end == 1,
		                    .km = km_names[end],
		                    .host = "127.0.0.1",
		                    .port = rtls_port(r->kms[end].ep),
		                    .authority = test_pki_authority(r->pki),
		                    .link = r->link,
		                    .end = end };

	rtls_credentials_free(test_pki_credentials(r->pki, "module", o.name));
	snprintf(file, sizeof file, "%s.crt", o.name);
	r->files[end][0] = test_pki_path(r->pki, file);
	snprintf(file, sizeof file, "%s.key", o.name);
	r->files[end][1] = test_pki_path(r->pki, file);
	o.certificate = r->files[end][0];
	o.private_key = r->files[end][1];
	if (device_new(&r->devices[end], r->env, &o, &e) != ST_OK)
		fail_msg("%s", e.text);
}

static void timed_out(void *arg)
{
	struct rig *r = arg;

	r->timed_out = true;
	env_event_stop(r->env);
}

static struct rig *rig_new(enum module_mode mode)
{
	struct rig *r = xcalloc(1, sizeof *r);
	const struct link_settings s = {
		.name = "alice-bob",
		.block_size = BLOCK,
		.buffer_blocks = BUFFER,
		.rate = LINK_RATE_UNLIMITED,
		.model = { .length_km = 20, .attenuation_db_per_km = 0.21, .detector_efficiency = 0.045,
		           .dark_count = 1.7e-6, .misalignment = 0.033, .error_correction = 1.22,
		           .signal = 0.48, .decoy = 0.05, .pulse_rate = 1e8 },
		.qber_limit = 0.11,
		.modules = { { "alice-1", mode }, { "bob-1", mode } },
	};

	r->env = env_event_new();
	r->pki = test_pki_new();
	r->timer = env_timer_new(r->env, timed_out, r);
	r->link = qkd_link_new(r->env, &s);
	km_start(r, 0);
	km_start(r, 1);
	return r;
}

static void rig_free(struct rig *r)
{
	for (unsigned end = 0; end < 2; end++) {
		device_free(r->devices[end]);
		rtls_endpoint_free(r->kms[end].ep);
		free(r->files[end][0]);
		free(r->files[end][1]);
	}
	qkd_link_free(r->link);
	env_timer_free(r->env, r->timer);
	test_pki_free(r->pki);
	env_event_free(r->env);
	free(r);
}

/* Runs the loop in slices until done says so; fails after a minute. */
static void run_until(struct rig *r, bool (*done)(struct rig *))
{
	for (int i = 0; i < 3000 && !done(r); i++) {
		r->timed_out = false;
		env_timer_set(r->env, r->timer, 20 * NS_PER_MS);
		env_event_run(r->env);
	}
	assert_true(done(r));
}

static bool both_full(struct rig *r)
{
	return r->kms[0].next == ROOM && r->kms[1].next == ROOM;
}

static bool both_registered(struct rig *r)
{
	return qkd_link_state(r->link).running;
}

/* The KMs, and behind them the modules. */
static bool all_full(struct rig *r)
{
	return both_full(r) && qkd_link_state(r->link).next_sequence == ROOM + BUFFER;
}

static bool link_stopped(struct rig *r)
{
	return !qkd_link_state(r->link).running;
}

/* Both may be full already when one of them is restarted. */
static bool registered_again(struct rig *r)
{
	return r->kms[1].registrations == 2 && both_full(r);
}

/* ---- tests ------------------------------------------------------------------------------ */

static void blocks_are_pushed_alike_to_both(void **state)
{
	struct rig *r = rig_new(MODULE_PUSH);

	(void)state;
	device_start(r, 0);
	device_start(r, 1);
	run_until(r, both_full);
	assert_memory_equal(r->kms[0].bytes, r->kms[1].bytes, sizeof r->kms[0].bytes);
	assert_memory_not_equal(r->kms[0].bytes[0], r->kms[0].bytes[1], BLOCK);
	rig_free(r);
}

static void on_pulled(enum status s, void *result, void *arg)
{
	struct km *km = arg;
	kq1_key_request_result *r = result;

	if (s == ST_TRANSPORT || s == ST_PEER_UNREACHABLE)
		return; /* the rig is taken down */
	assert_int_equal(s, ST_OK);
	assert_string_equal(r->protocol, "BB84-decoy");
	if (r->outcome.status != QKDN_OK)
		assert_int_equal(r->outcome.status, QKDN_TOO_FEW_KEYS);
	assert_true((r->outcome.status == QKDN_OK) == (r->blocks.blocks_len > 0));
	for (u_int i = 0; i < r->blocks.blocks_len; i++)
		take(km, &r->blocks.blocks_val[i]);
}

static bool pull_until_both_full(struct rig *r)
{
	for (unsigned end = 0; end < 2; end++) {
		struct km *km = &r->kms[end];
		kq1_key_request_args args = { .link = (char *)"alice-bob", .next_sequence = km->next, .blocks = 64 };
		const struct rtls_call call = { QKDN_KQ1_MODULE, QKDN_KQ1_MODULE_V1, KQ1_KEY_REQUEST,
			                        (xdrproc_t)xdr_kq1_key_request_args, &args,
			                        (xdrproc_t)xdr_kq1_key_request_result,
			                        sizeof(kq1_key_request_result), 60 * NS_PER_S, on_pulled, km };
		struct rtls_conn *conn = rtls_find_conn(km->ep, "module", module_names[end]);

		if (conn != NULL)
			rtls_call(conn, &call);
	}
	return both_full(r);
}

static void blocks_are_pulled_alike_by_both(void **state)
{
	struct rig *r = rig_new(MODULE_PULL);

	(void)state;
	device_start(r, 0);
	device_start(r, 1);
	run_until(r, pull_until_both_full);
	assert_memory_equal(r->kms[0].bytes, r->kms[1].bytes, sizeof r->kms[0].bytes);
	rig_free(r);
}

static void on_status(enum status s, void *result, void *arg)
{
	struct km *km = arg;

	assert_int_equal(s, ST_OK);
	km->status = *(kq2_status_result *)result;
	km->status.outcome.text = NULL;
}

static bool status_came(struct rig *r)
{
	return r->kms[0].status.qber_ppm != 0 && r->kms[1].last_refusal[0] != '\0';
}

static void status_and_alarms_are_told(void **state)
{
	struct rig *r = rig_new(MODULE_PUSH);
	struct link_fault f = { .kind = FAULT_LINK_LOSS };

	(void)state;
	device_start(r, 0);
	device_start(r, 1);
	run_until(r, both_registered);
	run_until(r, all_full);
	qkd_link_set_faults(r->link, &f, 1);
	call_module(&r->kms[0], KQ2_STATUS, "alice-bob", (xdrproc_t)xdr_kq2_status_result,
	            sizeof(kq2_status_result), on_status);
	call_module(&r->kms[1], KQ2_STOP, "another-link", (xdrproc_t)xdr_kq2_result, sizeof(kq2_result), on_plain);
	run_until(r, status_came);
	assert_false(r->kms[0].status.running);
	assert_int_equal(r->kms[0].status.next_sequence, ROOM + BUFFER);
	assert_int_equal(r->kms[0].status.buffered, BUFFER);
	assert_string_equal(r->kms[0].alarms, "+link-loss ");
	assert_string_equal(r->kms[1].alarms, "+link-loss ");
	assert_string_equal(r->kms[1].last_refusal, "not-found: this module is not of that link");
	rig_free(r);
}

static void a_restarted_km_is_found_again(void **state)
{
	struct rig *r = rig_new(MODULE_PUSH);
	uint16_t port = rtls_port(r->kms[1].ep);
	char address[32];
	struct err e;

	(void)state;
	device_start(r, 0);
	device_start(r, 1);
	run_until(r, both_registered);
	rtls_endpoint_free(r->kms[1].ep);
	run_until(r, link_stopped);
	km_start(r, 1);
	snprintf(address, sizeof address, "127.0.0.1:%u", port);
	assert_int_equal(rtls_listen(r->kms[1].ep, address, &e), ST_OK);
	run_until(r, registered_again);
	assert_memory_equal(r->kms[0].bytes, r->kms[1].bytes, sizeof r->kms[0].bytes);
	rig_free(r);
}

/* It is freed while the answer, a refusal, is still on its way. */
static void a_module_may_end_while_it_registers(void **state)
{
	struct rig *r = rig_new(MODULE_PUSH);

	(void)state;
	r->kms[0].refuse = true;
	device_start(r, 0);
	env_timer_set(r->env, r->timer, 60 * NS_PER_S);
	while (r->kms[0].registrations == 0 && !r->timed_out)
		event_base_loop(env_event_base(r->env), EVLOOP_ONCE);
	assert_false(r->timed_out);
	rig_free(r);
}

static void a_strange_certificate_is_refused(void **state)
{
	struct rig *r = rig_new(MODULE_PUSH);
	struct device_options o = { .name = "alice-1", .authority = test_pki_authority(r->pki), .link = r->link };
	struct device *d;
	struct err e;

	(void)state;
	rtls_credentials_free(test_pki_credentials(r->pki, "km", "carol"));
	r->files[0][0] = test_pki_path(r->pki, "carol.crt");
	r->files[0][1] = test_pki_path(r->pki, "carol.key");
	o.certificate = r->files[0][0];
	o.private_key = r->files[0][1];
	assert_int_equal(device_new(&d, r->env, &o, &e), ST_CONFIGURATION);
	assert_non_null(strstr(e.text, "not of module/alice-1"));
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_are_pushed_alike_to_both), cmocka_unit_test(blocks_are_pulled_alike_by_both),
		cmocka_unit_test(status_and_alarms_are_told),      cmocka_unit_test(a_restarted_km_is_found_again),
		cmocka_unit_test(a_module_may_end_while_it_registers), cmocka_unit_test(a_strange_certificate_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
