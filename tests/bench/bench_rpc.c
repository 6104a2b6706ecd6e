/*
 * bench_rpc.c - null calls inside TLS against libtirpc's own svc_run in cleartext, and the latency of a
 * call against a bare ping-pong over TCP. Prints `name value unit reference ratio min max runs`; medians of
 * several runs, each beside a run of its reference.
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

static int runs = 7;
static double seconds = 0.5;
static const uint64_t CONNECT_MOST_NS = 30 * NS_PER_S;
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

static void check_up(void *arg)
{
	const struct load *l = arg;

	if (l->up < l->connections)
		log_fatal("%u of %u connections after half a minute", l->up, l->connections);
}

/* Calls per second. The process's memory goes with the process. */
static const char *client_name = "client";

static double load_tls(uint16_t port, unsigned connections, unsigned in_flight)
{
	struct load l = { .env = env_event_new(), .connections = connections, .in_flight = in_flight };
	const struct rtls_peer_options o = { .role = "km", .name = "server", .host = "127.0.0.1", .port = port,
		                             .program = PROGRAM, .version = VERSION };
	struct err e;

	if (rtls_endpoint_new(&l.ep, l.env, test_pki_credentials(pki, "app", client_name), NULL, &e) != ST_OK)
		log_fatal("%s", e.text);
	rtls_watch_conns(l.ep, is_up, &l);
	for (unsigned i = 0; i < connections; i++)
		rtls_peer_new(l.ep, &o);
	env_timer_set(l.env, env_timer_new(l.env, check_up, &l), CONNECT_MOST_NS);
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

/* ---- hostile peers ----------------------------------------------------------------------------- */

/* Many calls in flight on few connections, or on many. */
static void flood(uint16_t port)
{
	load_tls(port, 4, 1000);
}

static void flood_widely(uint16_t port)
{
	load_tls(port, 200, 8);
}

/* Connections that say nothing and go, as many as can be. */
static void knock(uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };
	const struct linger at_once = { .l_onoff = 1 };

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (;;) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		struct pollfd p = { .fd = fd, .events = POLLOUT };

		setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
		if (connect(fd, (struct sockaddr *)&at, sizeof at) != 0)
			poll(&p, 1, 100);
		close(fd);
	}
}

/* Handshakes, one after another on sixteen connections at a time. */
static void shake_hands(uint16_t port)
{
	struct rtls_channel_options o = { .credentials = test_pki_credentials(pki, "app", client_name),
		                          .peer = { .role = "km", .name = "server", .host = "127.0.0.1",
		                                    .port = port, .program = PROGRAM, .version = VERSION } };
	struct rtls_channel *ch;
	struct err e;

	for (;;)
		if (rtls_channel_open(&ch, &o, &e) == ST_OK)
			rtls_channel_close(ch);
}

static void shake_many_hands(uint16_t port)
{
	for (int i = 0; i < 15; i++)
		if (fork() == 0)
			shake_hands(port);
	shake_hands(port);
}

/* ---- figures ----------------------------------------------------------------------------------- */

struct figure {
	const char *name, *unit;
	double (*measure)(const struct figure *f);
	double (*reference)(const struct figure *f);
	unsigned connections, in_flight;
	void (*hostile)(uint16_t port);
	const char *processor_name; /* of the processor's part in the same runs; NULL: not told */

	struct series {
		double value[RUNS_MAX], reference[RUNS_MAX], ratio[RUNS_MAX];
	} rate, processor; /* the processor's: of both ends together, us a call */
};

static double tls_rate(const struct figure *f)
{
	return run_tls(f->connections, f->in_flight);
}

static double tirpc_rate(const struct figure *f)
{
	(void)f;
	return run_tirpc();
}

static double grpc_rate(const struct figure *f)
{
	return run_grpc(f->connections, f->in_flight);
}

static double tls_latency(const struct figure *f)
{
	(void)f;
	return run_latency(serve_tls, latency_tls);
}

static double ping_latency(const struct figure *f)
{
	(void)f;
	return run_latency(serve_ping, latency_ping);
}

/* While hostile clients, in a process group of their own, do what they do. */
static double attacked_rate(const struct figure *f)
{
	uint16_t port;
	pid_t server = start_server(serve_tls, &port), hostile = fork();
	double r;

	if (hostile == 0) {
		setpgid(0, 0);
		client_name = "hostile";
		seconds = 1e6; /* until it is killed */
		f->hostile(port);
		_exit(0);
	}
	sleep(1); /* many handshakes take it that long to begin */
	r = in_process(load_tls, port, f->connections, f->in_flight);
	kill(-hostile, SIGKILL);
	waitpid(hostile, NULL, 0);
	stop_server(server);
	return r;
}

static struct figure figures[] = {
	{ .name = "rpc.null.tls.8x16/svc_run", .unit = "calls/s", .measure = tls_rate, .reference = tirpc_rate,
	  .connections = 8, .in_flight = 16, .processor_name = "rpc.processor.tls.8x16/svc_run" },
	{ .name = "rpc.null.tls.8x1/svc_run", .unit = "calls/s", .measure = tls_rate, .reference = tirpc_rate,
	  .connections = 8, .in_flight = 1, .processor_name = "rpc.processor.tls.8x1/svc_run" },
	{ .name = "rpc.null.tls.64x16/svc_run", .unit = "calls/s", .measure = tls_rate, .reference = tirpc_rate,
	  .connections = 64, .in_flight = 16 },
	{ .name = "rpc.null.tls.64x1/svc_run", .unit = "calls/s", .measure = tls_rate, .reference = tirpc_rate,
	  .connections = 64, .in_flight = 1 },
	{ .name = "rpc.null.tls.8x16/grpc", .unit = "calls/s", .measure = tls_rate, .reference = grpc_rate,
	  .connections = 8, .in_flight = 16 },
	{ .name = "rpc.latency.tls/tcp", .unit = "us", .measure = tls_latency, .reference = ping_latency },
	{ .name = "rpc.null.tls.8x1.flooded/calm", .unit = "calls/s", .measure = attacked_rate, .reference = tls_rate,
	  .connections = 8, .in_flight = 1, .hostile = flood },
	{ .name = "rpc.null.tls.8x1.flooded_widely/calm", .unit = "calls/s", .measure = attacked_rate,
	  .reference = tls_rate, .connections = 8, .in_flight = 1, .hostile = flood_widely },
	{ .name = "rpc.null.tls.8x1.knocked/calm", .unit = "calls/s", .measure = attacked_rate, .reference = tls_rate,
	  .connections = 8, .in_flight = 1, .hostile = knock },
	{ .name = "rpc.null.tls.8x1.handshakes/calm", .unit = "calls/s", .measure = attacked_rate,
	  .reference = tls_rate, .connections = 8, .in_flight = 1, .hostile = shake_many_hands },
};

/* ---- measuring them ---------------------------------------------------------------------------- */

static bool is_wanted(const struct figure *f, char **names, int count)
{
	if (f->reference == grpc_rate && grpc_null == NULL)
		return false;
	for (int i = 0; i < count; i++)
		if (strstr(f->name, names[i]) != NULL)
			return true;
	return count == 0;
}

static double processor_of_children(void)
{
	struct rusage used;

	getrusage(RUSAGE_CHILDREN, &used);
	return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e6 +
	       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

static void measure_one(const struct figure *f, double (*work)(const struct figure *f), double *value,
                        double *processor)
{
	double before = processor_of_children();

	*value = work(f);
	*processor = (processor_of_children() - before) / (*value * seconds);
}

/* A run and its reference are neighbours, and take turns to be first: what else the machine does meets both. */
static void measure_pair(struct figure *f, int run)
{
	if (run % 2 != 0)
		measure_one(f, f->measure, &f->rate.value[run], &f->processor.value[run]);
	measure_one(f, f->reference, &f->rate.reference[run], &f->processor.reference[run]);
	if (run % 2 == 0)
		measure_one(f, f->measure, &f->rate.value[run], &f->processor.value[run]);
	f->rate.ratio[run] = f->rate.value[run] / f->rate.reference[run];
	f->processor.ratio[run] = f->processor.value[run] / f->processor.reference[run];
}

static void print_series(const char *name, const char *unit, struct series *s)
{
	double middle = median(s->value, runs); /* sorts them */

	printf("%s %.5g %s %.5g %.3g %.5g %.5g %d\n", name, middle, unit, median(s->reference, runs),
	       median(s->ratio, runs), s->value[0], s->value[runs - 1], runs);
	fflush(stdout);
}

static void measure_wanted(char **names, int count)
{
	printf("# name value unit reference ratio min max runs; the ratio is the median of the pairs'\n");
	for (int run = 0; run < runs; run++)
		for (size_t i = 0; i < ARRAY_LEN(figures); i++)
			if (is_wanted(&figures[i], names, count))
				measure_pair(&figures[i], run);
	for (size_t i = 0; i < ARRAY_LEN(figures); i++) {
		if (!is_wanted(&figures[i], names, count))
			continue;
		print_series(figures[i].name, figures[i].unit, &figures[i].rate);
		if (figures[i].processor_name != NULL) /* hardly moved by what else runs on the machine */
			print_series(figures[i].processor_name, "us/call", &figures[i].processor);
	}
}

int main(int argc, char **argv)
{
	log_open("bench_rpc", LOG_LEVEL_ERROR);
	find_grpc(argv[0]);
	if (argc > 1)
		runs = atoi(argv[1]);
	if (argc > 2)
		seconds = atof(argv[2]);
	if (runs < 1 || runs > RUNS_MAX || seconds <= 0) {
		fprintf(stderr, "usage: bench_rpc [RUNS (1 to %d) [SECONDS A RUN [PART OF A FIGURE'S NAME]...]]\n", RUNS_MAX);
		return 1;
	}
	pki = test_pki_new();
	rtls_credentials_free(test_pki_credentials(pki, "km", "server"));
	rtls_credentials_free(test_pki_credentials(pki, "app", "client"));
	rtls_credentials_free(test_pki_credentials(pki, "app", "hostile"));
	measure_wanted(argc > 3 ? argv + 3 : NULL, argc > 3 ? argc - 3 : 0);
	test_pki_free(pki);
	return 0;
}
