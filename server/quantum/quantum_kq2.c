/* quantum_kq2.c - reference point Kq-2: control and management of a QKD module. No key byte comes here. */
#include "device.h"

#include <string.h>

#include "kq2.h"
#include "log.h"

void qkdn_kq2_module_1(struct svc_req *rq, SVCXPRT *xprt); /* rpcgen declares it nowhere */

/* ---- programs --------------------------------------------------------------------------- */

static const struct rtls_procedure km_procedures[] = {
	{ KQ2_REGISTER, "Module registration", "Response to module registration", "" },
	{ KQ2_ALARM, "Module alarm", "Response to module alarm", "" },
	{ 0, NULL, NULL, NULL },
};

static const struct rtls_procedure module_procedures[] = {
	{ KQ2_START, "Module start", "Response to module start", "km" },
	{ KQ2_STOP, "Module stop", "Response to module stop", "km" },
	{ KQ2_STATUS, "Module status request", "Response to module status request", "km" },
	{ KQ2_FLOW_CONTROL, "Flow control", "Response to flow control", "km" },
	{ 0, NULL, NULL, NULL },
};

const struct rtls_program quantum_kq2 = { QKDN_KQ2, QKDN_KQ2_V1, "Kq-2", NULL, km_procedures, true };
const struct rtls_program quantum_kq2_module = { QKDN_KQ2_MODULE, QKDN_KQ2_MODULE_V1, "Kq-2",
	                                         qkdn_kq2_module_1, module_procedures, true };

int qkdn_kq2_module_1_freeresult(SVCXPRT *xprt, xdrproc_t xdr, caddr_t result)
{
	return rtls_freeresult(xprt, xdr, result);
}

/* ---- called ----------------------------------------------------------------------------- */

static void call_km(struct device *d, uint32_t procedure, xdrproc_t xdr, void *args, rtls_done done)
{
	const struct rtls_call call = { .program = QKDN_KQ2,
		                        .version = QKDN_KQ2_V1,
		                        .procedure = procedure,
		                        .xdr_args = xdr,
		                        .args = args,
		                        .xdr_result = (xdrproc_t)xdr_kq2_result,
		                        .result_size = sizeof(kq2_result),
		                        .timeout_ns = DEVICE_TIMEOUT_S * NS_PER_S,
		                        .done = done,
		                        .arg = device_call_new(d) };

	rtls_peer_call(d->peer, &call);
}

static bool is_good(struct device_call *call, const char *what, enum status s, const void *result)
{
	const kq2_result *r = result;

	return device_answer_is_good(call, what, s, r != NULL ? (int)r->outcome.status : 0,
	                             r != NULL ? r->outcome.text : "");
}

static void register_answered(enum status s, void *result, void *arg)
{
	struct device *d = ((struct device_call *)arg)->device;

	if (is_good(arg, "registration", s, result))
		device_registered(d);
	else
		device_try_again(d);
}

void quantum_kq2_register(struct device *d)
{
	const struct link_settings *link = qkd_link_settings(d->is.link);
	kq2_register_args args = { .module = (char *)d->is.name,
		                   .peer_module = (char *)d->is.peer_name,
		                   .link = (char *)link->name,
		                   .role = d->is.receiver ? KQ2_RECEIVER : KQ2_TRANSMITTER,
		                   .mode = qkd_module_mode(d->module) == MODULE_PULL ? KQ2_PULL : KQ2_PUSH,
		                   .block_size = (u_int)link->block_size,
		                   .protocol = (char *)"BB84-decoy",
		                   .model = (char *)"qkdn-quantumd" };

	device_random_id(d, args.header.trace);
	call_km(d, KQ2_REGISTER, (xdrproc_t)xdr_kq2_register_args, &args, register_answered);
}

/* An alarm that the KM did not take stands in the log; the next registration tells it again. */
static void alarm_answered(enum status s, void *result, void *arg)
{
	is_good(arg, "alarm", s, result);
}

void quantum_kq2_alarm(void *device, const struct alarm *a)
{
	struct device *d = device;
	kq2_alarm_args args = { .module = (char *)d->is.name,
		                .link = (char *)qkd_link_name(d->is.link),
		                .cause = (char *)a->cause,
		                .severity = a->major ? KQ2_MAJOR : KQ2_MINOR,
		                .cleared = a->cleared,
		                .raised_at = a->raised_at,
		                .text = (char *)a->text };

	device_random_id(d, args.header.trace);
	call_km(d, KQ2_ALARM, (xdrproc_t)xdr_kq2_alarm_args, &args, alarm_answered);
}

/* ---- served ----------------------------------------------------------------------------- */

/* Fills the outcome; whether the call is for this module's link. */
static bool is_ours(struct device *d, const char *link, qkdn_outcome *outcome)
{
	bool ours = strcmp(link, qkd_link_name(d->is.link)) == 0;

	outcome->status = ours ? QKDN_OK : QKDN_NOT_FOUND;
	outcome->text = xstrdup(ours ? "" : "this module is not of that link");
	return ours;
}

static bool_t carry_out(kq2_link_args *args, kq2_result *result, struct svc_req *rq,
                        void (*command)(struct qkd_module *module), const char *done)
{
	struct device *d = rtls_context(rq);

	memset(result, 0, sizeof *result);
	if (is_ours(d, args->link, &result->outcome)) {
		log_info("module %s: %s", d->is.name, done);
		command(d->module);
	}
	return TRUE;
}

bool_t kq2_start_1_svc(kq2_link_args *args, kq2_result *result, struct svc_req *rq)
{
	return carry_out(args, result, rq, qkd_module_start, "started");
}

bool_t kq2_stop_1_svc(kq2_link_args *args, kq2_result *result, struct svc_req *rq)
{
	return carry_out(args, result, rq, qkd_module_stop, "stopped");
}

bool_t kq2_status_1_svc(kq2_link_args *args, kq2_status_result *result, struct svc_req *rq)
{
	struct device *d = rtls_context(rq);
	struct link_state link = qkd_link_state(d->is.link);
	struct module_state module = qkd_module_state(d->module);

	memset(result, 0, sizeof *result);
	if (!is_ours(d, args->link, &result->outcome))
		return TRUE;
	result->started = module.started;
	result->running = link.running;
	result->secret_key_rate = (uint64_t)link.key_rate;
	result->qber_ppm = (u_int)(link.qber * 1e6 + 0.5);
	result->next_sequence = link.next_sequence;
	result->buffered = module.buffered;
	result->dropped = module.dropped;
	return TRUE;
}

bool_t kq2_flow_control_1_svc(kq2_flow_args *args, kq2_result *result, struct svc_req *rq)
{
	struct device *d = rtls_context(rq);

	memset(result, 0, sizeof *result);
	if (is_ours(d, args->link, &result->outcome))
		qkd_module_flow(d->module, args->credit);
	return TRUE;
}
