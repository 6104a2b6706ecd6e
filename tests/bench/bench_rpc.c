/*
 * bench_rpc.c - null calls inside TLS against libtirpc's own svc_run in cleartext, and the latency of a
 * call against a bare ping-pong over TCP. Prints `name value unit reference ratio min max runs`; medians of
 * several runs, the reference measured in turn with them.
 *
 * Client and server are a process each, and share the machine.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "env_event.h"
#include "log.h"
#include "rtls.h"
#include "test_pki.h"

enum { PROGRAM = 0x20416fff, VERSION = 1, RUNS_MAX = 15, SAMPLES = 20000, REFERENCE_CLIENTS = 8, PING_LEN = 44 };

static int runs = 5;
static double seconds = 1.0;
static struct test_pki *pki;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

/* As rpcgen writes it for a program without procedures. */
static void null_1(struct svc_req *rq, SVCXPRT *transport)
{
	if (rq->rq_proc == NULLPROC)
		svc_sendreply(transport, (xdrproc_t)(void (*)(void))xdr_void, NULL);
	else
		svcerr_noproc(transport);
}

static int listen_anywhere(uint16_t *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t len = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, 128) != 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &len) != 0)
		log_fatal("no socket");
	*port = ntohs(at.sin_port);
	return fd;
}

static int connect_to(uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0)
		log_fatal("cannot connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

/* ---- servers, each in a process ---------------------------------------------------------------- */

static void serve_tls(int port_pipe)
{
	static const struct rtls_procedure none[] = { { 0, NULL, NULL, NULL } };
	static const struct rtls_program program = { .number = PROGRAM, .version = VERSION,
		                                     .reference_point = "bench", .dispatch = null_1,
		                                     .procedures = none };
	struct env *env = env_event_new();
	struct rtls_endpoint *ep;
	struct err e;
	uint16_t port;

	if (rtls_endpoint_new(&ep, env, test_pki_credentials(pki, "km", "server"), NULL, &e) != ST_OK)
		log_fatal("%s", e.text);
	rtls_add_program(ep, &program, NULL);
	if (rtls_listen(ep, "127.0.0.1:0", &e) != ST_OK)
		log_fatal("%s", e.text);
	port = rtls_port(ep);
	if (write(port_pipe, &port, sizeof port) != sizeof port)
		_exit(1);
	env_event_run(env);
}

static void serve_tirpc(int port_pipe)
{
	uint16_t port;
	int fd = listen_anywhere(&port);
	SVCXPRT *transport = svc_vc_create(fd, 0, 0);

	if (transport == NULL || !svc_register(transport, PROGRAM, VERSION, null_1, 0))
		log_fatal("libtirpc's server does not start");
	if (write(port_pipe, &port, sizeof port) != sizeof port)
		_exit(1);
	svc_run();
}

static void serve_ping(int port_pipe)
{
	char bytes[PING_LEN];
	uint16_t port;
	int fd = listen_anywhere(&port), on = 1, got;

	if (write(port_pipe, &port, sizeof port) != sizeof port)
		_exit(1);
	got = accept(fd, NULL, NULL);
	setsockopt(got, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	while (recv(got, bytes, sizeof bytes, MSG_WAITALL) == sizeof bytes)
		if (send(got, bytes, sizeof bytes, 0) < 0)
			break;
}

static pid_t start_server(void (*serve)(int), uint16_t *port)
{
	int p[2];
	pid_t pid;

	if (pipe(p) != 0 || (pid = fork()) < 0)
		log_fatal("cannot fork");
	if (pid == 0) {
		serve(p[1]);
		_exit(0);
	}
	close(p[1]);
	if (read(p[0], port, sizeof *port) != sizeof *port)
		log_fatal("the server did not start");
	close(p[0]);
	return pid;
}

static void stop_server(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- clients ----------------------------------------------------------------------------------- */

struct load {
	struct env *env;
	struct rtls_endpoint *ep;
	unsigned connections, in_flight, up;
	uint64_t calls;
	bool over;
};

struct caller {
	struct load *load;
	struct rtls_conn *conn;
};

static bool_t xdr_nothing(XDR *xdr, ...)
{
	(void)xdr;
	return TRUE;
}

static void call_again(enum status s, void *result, void *arg);

static void call(struct caller *c)
{
	const struct rtls_call null = { .program = PROGRAM, .version = VERSION, .procedure = NULLPROC,
		                        .xdr_args = xdr_nothing, .xdr_result = xdr_nothing,
		                        .timeout_ns = 10 * NS_PER_S, .done = call_again, .arg = c };

	rtls_call(c->conn, &null);
}

static void call_again(enum status s, void *result, void *arg)
{
	struct caller *c = arg;

	(void)result;
	if (c->load->over)
		return;
	if (s != ST_OK)
		log_fatal("a null call failed: %s", status_name(s));
	c->load->calls++;
	call(c);
}

static void stop_load(void *arg)
{
	struct load *l = arg;

	l->over = true;
	env_event_stop(l->env);
}

static void is_up(struct rtls_conn *conn, bool up, void *arg)
{
	struct load *l = arg;
	struct caller *c = xcalloc(1, sizeof *c);

	if (!up)
		log_fatal("a connection was lost");
	c->load = l;
	c->conn = conn;
	for (unsigned i = 0; i < l->in_flight; i++)
		call(c);
	if (++l->up == l->connections) {
		l->calls = 0;
		env_timer_set(l->env, env_timer_new(l->env, stop_load, l), (uint64_t)(seconds * 1e9));
	}
}

/* Calls per second. The process's memory goes with the process. */
static double load_tls(uint16_t port, unsigned connections, unsigned in_flight)
{
	struct load l = { .env = env_event_new(), .connections = connections, .in_flight = in_flight };
	const struct rtls_peer_options o = { .role = "km", .name = "server", .host = "127.0.0.1", .port = port,
		                             .program = PROGRAM, .version = VERSION };
	struct err e;

	if (rtls_endpoint_new(&l.ep, l.env, test_pki_credentials(pki, "app", "client"), NULL, &e) != ST_OK)
		log_fatal("%s", e.text);
	rtls_watch_conns(l.ep, is_up, &l);
	for (unsigned i = 0; i < connections; i++)
		rtls_peer_new(l.ep, &o);
	env_event_run(l.env);
	return (double)l.calls / seconds;
}

static uint64_t load_tirpc(uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct netbuf to = { .len = sizeof at, .maxlen = sizeof at, .buf = &at };
	struct timeval timeout = { 10, 0 };
	uint64_t end, calls = 0;
	CLIENT *client;

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	client = clnt_vc_create(connect_to(port), &to, PROGRAM, VERSION, 0, 0);
	end = now_ns() + (uint64_t)(seconds * 1e9);
	for (; now_ns() < end; calls++)
		if (clnt_call(client, NULLPROC, (xdrproc_t)(void (*)(void))xdr_void, NULL,
		              (xdrproc_t)(void (*)(void))xdr_void, NULL, timeout) != RPC_SUCCESS)
			log_fatal("a null call to libtirpc failed");
	return calls;
}

/* ---- runs -------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, int count)
{
	qsort(values, (size_t)count, sizeof *values, by_size);
	return values[count / 2];
}

/* Runs work in a process of its own; what it returns comes back through shared memory. */
static double in_process(double (*work)(uint16_t, unsigned, unsigned), uint16_t port, unsigned a, unsigned b)
{
	double *result = mmap(NULL, sizeof *result, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), r;
	pid_t pid = fork();

	if (pid == 0) {
		*result = work(port, a, b);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	r = *result;
	munmap(result, sizeof *result);
	return r;
}

static double run_tls(unsigned connections, unsigned in_flight)
{
	uint16_t port;
	pid_t server = start_server(serve_tls, &port);
	double r = in_process(load_tls, port, connections, in_flight);

	stop_server(server);
	return r;
}

static double run_tirpc(void)
{
	uint64_t *calls = mmap(NULL, REFERENCE_CLIENTS * sizeof *calls, PROT_READ | PROT_WRITE,
	                       MAP_SHARED | MAP_ANONYMOUS, -1, 0), sum = 0;
	pid_t clients[REFERENCE_CLIENTS];
	uint16_t port;
	pid_t server = start_server(serve_tirpc, &port);

	for (int i = 0; i < REFERENCE_CLIENTS; i++)
		if ((clients[i] = fork()) == 0) {
			calls[i] = load_tirpc(port);
			_exit(0);
		}
	for (int i = 0; i < REFERENCE_CLIENTS; i++) {
		waitpid(clients[i], NULL, 0);
		sum += calls[i];
	}
	stop_server(server);
	munmap(calls, REFERENCE_CLIENTS * sizeof *calls);
	return (double)sum / seconds;
}

static double latency_ping(uint16_t port, unsigned a, unsigned b)
{
	static double samples[SAMPLES];
	char bytes[PING_LEN] = { 0 };
	int fd = connect_to(port);

	(void)a;
	(void)b;
	for (int i = 0; i < SAMPLES; i++) {
		uint64_t begun = now_ns();

		if (send(fd, bytes, sizeof bytes, 0) < 0 ||
		    recv(fd, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes)
			log_fatal("the ping was lost");
		samples[i] = (double)(now_ns() - begun) / 1e3;
	}
	return median(samples, SAMPLES);
}

static double latency_tls(uint16_t port, unsigned a, unsigned b)
{
	static double samples[SAMPLES];
	const struct rtls_channel_options o = { .credentials = test_pki_credentials(pki, "app", "client"),
		                                .peer = { .role = "km", .name = "server", .host = "127.0.0.1",
		                                          .port = port, .program = PROGRAM,
		                                          .version = VERSION } };
	struct timeval timeout = { 10, 0 };
	struct rtls_channel *ch;
	struct err e;
	CLIENT *client;

	(void)a;
	(void)b;
	if (rtls_channel_open(&ch, &o, &e) != ST_OK)
		log_fatal("%s", e.text);
	client = rtls_channel_client(ch, PROGRAM, VERSION);
	for (int i = 0; i < SAMPLES; i++) {
		uint64_t begun = now_ns();

		if (clnt_call(client, NULLPROC, (xdrproc_t)(void (*)(void))xdr_void, NULL,
		              (xdrproc_t)(void (*)(void))xdr_void, NULL, timeout) != RPC_SUCCESS)
			log_fatal("a null call failed");
		samples[i] = (double)(now_ns() - begun) / 1e3;
	}
	return median(samples, SAMPLES);
}

static double run_latency(void (*serve)(int), double (*work)(uint16_t, unsigned, unsigned))
{
	uint16_t port;
	pid_t server = start_server(serve, &port);
	double r = in_process(work, port, 0, 0);

	stop_server(server);
	return r;
}

/* Calls per second of eight polite connections, while another client floods the server or not. */
static double run_polite(bool flood)
{
	uint16_t port;
	pid_t server = start_server(serve_tls, &port), flooder = flood ? fork() : 0;
	double r;

	if (flood && flooder == 0) {
		seconds *= 10; /* until it is killed */
		load_tls(port, 4, 1000);
		_exit(0);
	}
	usleep(flood ? 200000 : 0);
	r = in_process(load_tls, port, 8, 1);
	if (flood)
		stop_server(flooder);
	stop_server(server);
	return r;
}

/* ---- gRPC C++, where it was built -------------------------------------------------------------- */

static const char *grpc_null; /* NULL: it was not */

static void find_grpc(const char *self)
{
	const char *slash = strrchr(self, '/');
	char *path = xasprintf("%.*sgrpc_null", slash != NULL ? (int)(slash - self + 1) : 0, self);

	if (access(path, X_OK) == 0)
		grpc_null = path;
	else
		free(path);
}

/* The first number that the command prints; the command goes on until its pipe is closed. */
static FILE *read_number(const char *command, double *number)
{
	FILE *f = popen(command, "r");

	if (f == NULL || fscanf(f, "%lf", number) != 1)
		log_fatal("%s failed", command);
	return f;
}

static double run_grpc(unsigned connections, unsigned in_flight)
{
	char *folder = test_pki_path(pki, "");
	char *server = xasprintf("echo $$ >%spid; exec %s server %sserver.crt %sserver.key %sca.crt; true", folder, grpc_null,
	                         folder, folder, folder);
	double port, rate;
	FILE *s = read_number(server, &port), *c;
	char *client = xasprintf("%s client %sclient.crt %sclient.key %sca.crt %.0f %u %u %g", grpc_null, folder, folder,
	                         folder, port, connections, in_flight, seconds);
	char *end = xasprintf("kill -9 $(cat %spid)", folder);

	c = read_number(client, &rate);
	pclose(c);
	if (system(end) != 0)
		log_fatal("the gRPC server could not be ended");
	pclose(s);
	free(folder);
	free(server);
	free(client);
	free(end);
	return rate;
}

/* ---- figures ----------------------------------------------------------------------------------- */

/* One kind of measurement, run by run. */
struct series {
	double value[RUNS_MAX];
	double processor_us[RUNS_MAX]; /* of both ends together, per call, where value is calls per second */
};

static double processor_of_children(void)
{
	struct rusage used;

	getrusage(RUSAGE_CHILDREN, &used);
	return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
	       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void print_ratio(const char *name, const char *unit, double *values, double reference)
{
	double middle = median(values, runs); /* sorts them */

	printf("%s %.5g %s %.5g %.3g %.5g %.5g %d\n", name, middle, unit, reference, middle / reference, values[0],
	       values[runs - 1], runs);
	fflush(stdout);
}

static double tirpc_run(void)
{
	return run_tirpc();
}
static double one_run(void)
{
	return run_tls(8, 1);
}
static double many_run(void)
{
	return run_tls(8, 16);
}
static double wide_run(void)
{
	return run_tls(64, 16);
}
static double wide_one_run(void)
{
	return run_tls(64, 1);
}
static double grpc_run(void)
{
	return grpc_null != NULL ? run_grpc(8, 16) : 0;
}
static double calm_run(void)
{
	return run_polite(false);
}
static double flooded_run(void)
{
	return run_polite(true);
}
static double ping_run(void)
{
	return run_latency(serve_ping, latency_ping);
}
static double latency_run(void)
{
	return run_latency(serve_tls, latency_tls);
}

enum figure { TIRPC, ONE, MANY, WIDE, WIDE_ONE, GRPC, CALM, FLOODED, PING, LATENCY, FIGURES };

static double (*const measure[FIGURES])(void) = {
	[TIRPC] = tirpc_run,       [ONE] = one_run,   [MANY] = many_run, [WIDE] = wide_run,
	[WIDE_ONE] = wide_one_run, [GRPC] = grpc_run, [CALM] = calm_run, [FLOODED] = flooded_run,
	[PING] = ping_run,         [LATENCY] = latency_run,
};

static struct series series[FIGURES];

/* Every figure once a run, in turn, so that what else the machine does meets all of them. */
static void measure_all(void)
{
	for (int run = 0; run < runs; run++)
		for (int f = 0; f < FIGURES; f++) {
			double before = processor_of_children();

			series[f].value[run] = measure[f]();
			series[f].processor_us[run] = (processor_of_children() - before) / (series[f].value[run] * seconds);
		}
}

static void print_all(void)
{
	double tirpc = median(series[TIRPC].value, runs), tirpc_us = median(series[TIRPC].processor_us, runs);

	printf("# name value unit reference ratio min max runs\n");
	print_ratio("rpc.null.tls.8x16/svc_run", "calls/s", series[MANY].value, tirpc);
	print_ratio("rpc.null.tls.8x1/svc_run", "calls/s", series[ONE].value, tirpc);
	if (grpc_null != NULL)
		print_ratio("rpc.null.tls.8x16/grpc", "calls/s", series[MANY].value, median(series[GRPC].value, runs));
	print_ratio("rpc.null.tls.64x16/svc_run", "calls/s", series[WIDE].value, tirpc);
	print_ratio("rpc.null.tls.64x1/svc_run", "calls/s", series[WIDE_ONE].value, tirpc);
	/* not moved by what else runs on the machine, as the rates are; lower is better */
	print_ratio("rpc.processor.tls.8x16/svc_run", "us/call", series[MANY].processor_us, tirpc_us);
	print_ratio("rpc.processor.tls.8x1/svc_run", "us/call", series[ONE].processor_us, tirpc_us);
	print_ratio("rpc.latency.tls/tcp", "us", series[LATENCY].value, median(series[PING].value, runs));
	print_ratio("rpc.null.tls.8x1.flooded/calm", "calls/s", series[FLOODED].value,
	            median(series[CALM].value, runs));
}

/* For profiling: the latencies, or one figure with so many connections and calls in flight; 0: the reference. */
static void measure_one(int connections, int in_flight)
{
	double before = processor_of_children(), rate;

	rate = connections > 0 ? run_tls((unsigned)connections, (unsigned)in_flight) : run_tirpc();
	printf("%.0f calls/s, %.2f us of processor a call\n", rate,
	       (processor_of_children() - before) / (rate * seconds));
}

int main(int argc, char **argv)
{
	log_open("bench_rpc", LOG_LEVEL_ERROR);
	find_grpc(argv[0]);
	if (argc > 1)
		runs = atoi(argv[1]);
	if (argc > 2)
		seconds = atof(argv[2]);
	if (runs < 1 || runs > RUNS_MAX || seconds <= 0 || argc == 4 || argc > 5) {
		fprintf(stderr, "usage: bench_rpc [RUNS (1 to %d) [SECONDS A RUN [CONNECTIONS IN-FLIGHT]]]\n", RUNS_MAX);
		return 1;
	}
	pki = test_pki_new();
	rtls_credentials_free(test_pki_credentials(pki, "km", "server"));
	rtls_credentials_free(test_pki_credentials(pki, "app", "client"));
	if (argc == 5) {
		measure_one(atoi(argv[3]), atoi(argv[4]));
	} else {
		measure_all();
		print_all();
	}
	test_pki_free(pki);
	return 0;
}
