/*
 * device.c - a QKD module in one file: key bytes from standard input go to the key manager of its node.
 *
 *	device ADDRESS PORT CREDENTIALS AUTHORITY MODULE PEER LINK <keys
 *
 * A beginning for whoever connects a device (doc/plug-in-a-device.md): it is made from the files in idl/,
 * libtirpc and OpenSSL alone. CREDENTIALS.crt and CREDENTIALS.key are the module's. Block n is the bytes from
 * n * BLOCK_SIZE on of the input, which is the same at both ends of the link; at its end, or when the connection
 * is lost, it exits. One block is under way at a time; something fast has several, and connects again by itself.
 */
#include <arpa/inet.h>
#include <err.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <rpc/rpc.h>

#include "common.h"
#include "key.h"
#include "kq1.h"
#include "kq2.h"

enum { BLOCK_SIZE = 8192, RECORD_MAX = 64 * 1024, AUTH_TLS_FLAVOR = 7, RETRY_S = 1 };

struct device {
	const char *name, *peer, *link;
	int fd;
	SSL *ssl;          /* NULL: still in cleartext */
	bool offers_tls; /* the last reply's verifier was STARTTLS */
	uint32_t next_xid;
	char out[RECORD_MAX], in[RECORD_MAX];
	bool started;
	uint32_t credit;
	uint64_t next_sequence;
};

/* ---- records (RFC 5531, section 11) ---------------------------------------------------------- */

static void lost(void)
{
	ERR_print_errors_fp(stderr);
	errx(1, "the connection is lost");
}

static void put(struct device *d, const void *bytes, size_t len)
{
	long n = d->ssl != NULL ? SSL_write(d->ssl, bytes, (int)len) : write(d->fd, bytes, len);

	if (n != (long)len)
		lost();
}

static void get(struct device *d, char *to, size_t len)
{
	while (len > 0) {
		long n = d->ssl != NULL ? SSL_read(d->ssl, to, (int)len) : read(d->fd, to, len);

		if (n <= 0)
			lost();
		to += n;
		len -= (size_t)n;
	}
}

static void send_record(struct device *d, size_t len)
{
	uint32_t mark = htonl(0x80000000u | (uint32_t)len);

	put(d, &mark, sizeof mark);
	put(d, d->out, len);
	OPENSSL_cleanse(d->out, len); /* it may have carried keys */
}

static size_t receive_record(struct device *d)
{
	size_t len = 0, fragment;
	uint32_t mark;

	do {
		get(d, (char *)&mark, sizeof mark);
		mark = ntohl(mark);
		fragment = mark & 0x7fffffff;
		if (len + fragment > sizeof d->in)
			errx(1, "a record is too long");
		get(d, d->in + len, fragment);
		len += fragment;
	} while ((mark & 0x80000000u) == 0);
	return len;
}

/* ---- messages (RFC 5531, section 9) ---------------------------------------------------------- */

static uint32_t call(struct device *d, uint32_t program, uint32_t procedure, uint32_t flavor,
                     xdrproc_t xdr_args, void *args)
{
	uint32_t head[] = { d->next_xid, CALL, RPC_MSG_VERSION, program, 1, procedure, flavor, 0, AUTH_NONE, 0 };
	XDR x;

	xdrmem_create(&x, d->out, sizeof d->out, XDR_ENCODE);
	for (size_t i = 0; i < sizeof head / sizeof head[0]; i++)
		xdr_uint32_t(&x, &head[i]);
	if (xdr_args != NULL && !xdr_args(&x, args))
		errx(1, "the arguments do not fit a record");
	send_record(d, xdr_getpos(&x));
	return d->next_xid++;
}

static void answer(struct device *d, uint32_t xid, xdrproc_t xdr_result, void *result)
{
	uint32_t head[] = { xid, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, xdr_result != NULL ? SUCCESS : PROC_UNAVAIL };
	XDR x;

	xdrmem_create(&x, d->out, sizeof d->out, XDR_ENCODE);
	for (size_t i = 0; i < sizeof head / sizeof head[0]; i++)
		xdr_uint32_t(&x, &head[i]);
	if (xdr_result != NULL && !xdr_result(&x, result))
		errx(1, "an answer does not fit a record");
	send_record(d, xdr_getpos(&x));
}

/* What the key manager asks of a module (Kq-2). */
static void serve(struct device *d, uint32_t xid, uint32_t program, uint32_t procedure, XDR *x)
{
	char nothing[] = "";
	kq2_result done = { { QKDN_OK, nothing } };
	kq2_status_result status = { .outcome = { QKDN_OK, nothing }, .running = d->started,
		                     .next_sequence = d->next_sequence };
	kq2_flow_args flow = { .link = NULL };

	if (program == QKDN_KQ2_MODULE && (procedure == KQ2_START || procedure == KQ2_STOP)) {
		d->started = procedure == KQ2_START;
		answer(d, xid, (xdrproc_t)xdr_kq2_result, &done);
	} else if (program == QKDN_KQ2_MODULE && procedure == KQ2_STATUS) {
		answer(d, xid, (xdrproc_t)xdr_kq2_status_result, &status);
	} else if (program == QKDN_KQ2_MODULE && procedure == KQ2_FLOW_CONTROL && xdr_kq2_flow_args(x, &flow)) {
		d->credit = flow.credit;
		answer(d, xid, (xdrproc_t)xdr_kq2_result, &done);
	} else {
		answer(d, xid, NULL, NULL);
	}
	xdr_free((xdrproc_t)xdr_kq2_flow_args, (char *)&flow);
}

static bool_t xdr_nothing(XDR *x, ...)
{
	(void)x;
	return TRUE;
}

/* Takes one message: a call is served. Whether it was the reply to the call xid: its result is then decoded. */
static bool take(struct device *d, uint32_t xid, xdrproc_t xdr_result, void *result)
{
	size_t len = receive_record(d);
	struct rpc_msg reply = { .rm_xid = 0 };
	uint32_t head[10] = { 0 };
	bool is_call;
	XDR x;

	xdrmem_create(&x, d->in, (u_int)len, XDR_DECODE);
	for (size_t i = 0; i < 2; i++)
		xdr_uint32_t(&x, &head[i]);
	is_call = head[1] == CALL;
	if (is_call) { /* RPC version, program, version, procedure, credential and verifier, both empty inside TLS */
		for (size_t i = 2; i < 10; i++)
			xdr_uint32_t(&x, &head[i]);
		serve(d, head[0], head[3], head[5], &x);
		return false;
	}
	xdr_setpos(&x, 0);
	reply.acpted_rply.ar_results.proc = xdr_result != NULL ? xdr_result : xdr_nothing;
	reply.acpted_rply.ar_results.where = result;
	if (!xdr_replymsg(&x, &reply) || reply.rm_reply.rp_stat != MSG_ACCEPTED ||
	    reply.acpted_rply.ar_stat != SUCCESS)
		errx(1, "the key manager refused a call: is this the certificate of a module that it knows?");
	d->offers_tls = reply.acpted_rply.ar_verf.oa_length == 8 &&
	                memcmp(reply.acpted_rply.ar_verf.oa_base, "STARTTLS", 8) == 0;
	free(reply.acpted_rply.ar_verf.oa_base);
	return reply.rm_xid == xid;
}

/* Calls, and serves what comes before the answer. The caller frees result with xdr_free. */
static void ask(struct device *d, uint32_t program, uint32_t procedure, xdrproc_t xdr_args, void *args,
                xdrproc_t xdr_result, void *result)
{
	uint32_t xid = call(d, program, procedure, AUTH_NONE, xdr_args, args);

	while (!take(d, xid, xdr_result, result))
		;
}

/* ---- the connection (RFC 9289) --------------------------------------------------------------- */

static void connect_to(struct device *d, const char *address, const char *port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };

	if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
		errx(1, "%s: no IPv4 address", address);
	d->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (d->fd < 0 || connect(d->fd, (struct sockaddr *)&to, sizeof to) != 0)
		err(1, "connecting to %s, port %s", address, port);
}

/* The probe: a NULL call with AUTH_TLS, answered with the verifier STARTTLS. Then TLS 1.3, ALPN "sunrpc",
 * certificates at both ends. */
static void start_tls(struct device *d, const char *address, const char *credentials, const char *authority)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	char file[512];
	SSL *ssl;

	while (!take(d, call(d, QKDN_KQ1, NULLPROC, AUTH_TLS_FLAVOR, NULL, NULL), NULL, NULL))
		;
	if (!d->offers_tls)
		errx(1, "the key manager does not offer TLS");
	SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_alpn_protos(context, (const unsigned char *)"\6sunrpc", 7);
	snprintf(file, sizeof file, "%s.crt", credentials);
	if (SSL_CTX_use_certificate_chain_file(context, file) != 1)
		errx(1, "%s: no certificate", file);
	snprintf(file, sizeof file, "%s.key", credentials);
	if (SSL_CTX_use_PrivateKey_file(context, file, SSL_FILETYPE_PEM) != 1)
		errx(1, "%s: not its private key", file);
	if (SSL_CTX_load_verify_locations(context, authority, NULL) != 1)
		errx(1, "%s: no authority", authority);
	ssl = SSL_new(context);
	SSL_CTX_free(context);
	X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), address);
	SSL_set_fd(ssl, d->fd);
	if (SSL_connect(ssl) != 1)
		lost();
	d->ssl = ssl;
}

/* ---- what a module does ------------------------------------------------------------------------ */

static void fill_header(qkdn_header *header)
{
	RAND_bytes((unsigned char *)header->trace, sizeof header->trace);
}

static void register_module(struct device *d)
{
	char protocol[] = "BB84-decoy", model[] = "standard input";
	kq2_register_args args = { .module = (char *)d->name, .peer_module = (char *)d->peer,
		                   .link = (char *)d->link, .role = KQ2_TRANSMITTER, .mode = KQ2_PUSH, .block_size = BLOCK_SIZE,
		                   .protocol = protocol, .model = model };
	kq2_result result = { .outcome.text = NULL };

	fill_header(&args.header);
	ask(d, QKDN_KQ2, KQ2_REGISTER, (xdrproc_t)xdr_kq2_register_args, &args, (xdrproc_t)xdr_kq2_result, &result);
	if (result.outcome.status != QKDN_OK)
		errx(1, "registering: %s", result.outcome.text);
	xdr_free((xdrproc_t)xdr_kq2_result, (char *)&result);
}

static void take_progress(struct device *d, kq1_progress *p)
{
	d->next_sequence = p->next_sequence;
	d->credit = p->credit;
	xdr_free((xdrproc_t)xdr_kq1_progress, (char *)p);
}

static void synchronize(struct device *d)
{
	kq1_sync_args args = { .link = (char *)d->link, .module = (char *)d->name };
	kq1_progress progress = { .outcome.text = NULL };

	fill_header(&args.header);
	ask(d, QKDN_KQ1, KQ1_SYNC, (xdrproc_t)xdr_kq1_sync_args, &args, (xdrproc_t)xdr_kq1_progress, &progress);
	if (progress.outcome.status != QKDN_OK)
		errx(1, "synchronizing: %s", progress.outcome.text);
	take_progress(d, &progress);
}

/* Whether the block is durable at the key manager; where not, it is to be supplied again. */
static bool supply(struct device *d, uint64_t sequence, uint8_t block[BLOCK_SIZE])
{
	char protocol[] = "BB84-decoy";
	struct timespec now;
	kq1_block one = { .sequence = sequence, .qber_ppm = 20000, .bytes = { BLOCK_SIZE, (char *)block } };
	kq1_key_supply_args args = { .link = (char *)d->link, .module = (char *)d->name, .protocol = protocol,
		                     .blocks = { 1, &one } };
	kq1_progress progress = { .outcome.text = NULL };
	bool durable;

	while (!d->started || d->credit == 0)
		take(d, 0, NULL, NULL); /* start, or flow control */
	clock_gettime(CLOCK_REALTIME, &now);
	one.generated_at = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
	fill_header(&args.header);
	ask(d, QKDN_KQ1, KQ1_KEY_SUPPLY, (xdrproc_t)xdr_kq1_key_supply_args, &args, (xdrproc_t)xdr_kq1_progress,
	    &progress);
	durable = progress.outcome.status == QKDN_OK;
	if (!durable)
		warnx("block %llu: %s", (unsigned long long)sequence, progress.outcome.text);
	take_progress(d, &progress);
	return durable;
}

int main(int argc, char **argv)
{
	static struct device d = { .next_xid = 1 };
	static uint8_t block[BLOCK_SIZE];

	if (argc != 8)
		errx(1, "usage: device ADDRESS PORT CREDENTIALS AUTHORITY MODULE PEER LINK <keys");
	d.name = argv[5];
	d.peer = argv[6];
	d.link = argv[7];
	connect_to(&d, argv[1], argv[2]);
	start_tls(&d, argv[1], argv[3], argv[4]);
	register_module(&d);
	synchronize(&d);
	for (uint64_t sequence = 0; fread(block, sizeof block, 1, stdin) == 1; sequence++) {
		while (sequence >= d.next_sequence && !supply(&d, sequence, block))
			sleep(RETRY_S);
		OPENSSL_cleanse(block, sizeof block);
	}
	printf("%s: every block below %llu is at the key manager\n", d.name, (unsigned long long)d.next_sequence);
	SSL_free(d.ssl);
	return 0;
}
