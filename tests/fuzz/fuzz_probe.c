/*
 * fuzz_probe.c - what an end of a connection does with cleartext: the probe, whatever comes instead of it or behind
 * it, and what comes instead of its answer. Nothing of it opens a session.
 *
 * The first byte of an input says which end it is for, and in which pieces the rest arrives.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "message.h"
#include "session.h"
#include "test_pki.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PROGRAM = 0x20000001, SOCKET = 100 };

static struct test_pki *pki;
static struct session_options options;

static bool serves(void *arg, uint32_t program, uint32_t version)
{
	(void)arg;
	return program == PROGRAM && version == 1;
}

static void clean_up(void)
{
	rtls_credentials_free(options.credentials);
	test_pki_free(pki);
}

static void set_up(void)
{
	log_open("fuzz_probe", LOG_LEVEL_FATAL);
	pki = test_pki_new();
	options = (struct session_options){.credentials = test_pki_credentials(pki, "km", "alice"),
					   .max_record = 64 * 1024,
					   .host_name = "127.0.0.1",
					   .role = "km",
					   .name = "bob",
					   .program = PROGRAM,
					   .version = 1,
					   .serves = serves};
	atexit(clean_up);
}

/* Reads what the session has said. */
static void hear(int fd, struct buffer *said)
{
	ssize_t n;

	do {
		n = recv(fd, buffer_reserve(said, 4096), 4096, 0);
		said->end += n > 0 ? (size_t)n : 0;
	} while (n > 0);
}

/* The answers to calls in cleartext, of which the last one offers TLS if it goes on to that. */
static void check_answers(struct buffer *said, unsigned calls, bool tls)
{
	struct record_reader reader = {.max = 1024};
	struct message_reply reply = {.starttls = false};
	uint8_t *record;
	size_t len;

	for (unsigned i = 0; i < calls; i++) {
		if (reply.starttls || record_read(&reader, said, &record, &len) != RECORD_WHOLE ||
		    !message_read_reply(record, len, &reply))
			abort();
		record_next(&reader, said);
	}
	if (reply.starttls != tls)
		abort();
}

static void run(struct session *s, int peer, const uint8_t *data, size_t size, size_t piece)
{
	struct buffer said = {.room = 0};
	enum session_phase before = s->phase;
	enum io_result r = IO_WANT_READ;
	struct err e;

	for (size_t at = 0; at < size && s->phase != SESSION_HANDSHAKE && (r == IO_WANT_READ || r == IO_WANT_WRITE);
	     at += piece) {
		size_t n = size - at < piece ? size - at : piece;

		if (send(peer, data + at, n, MSG_NOSIGNAL) != (ssize_t)n)
			abort();
		e.text[0] = '\0';
		r = session_start(s, &e);
		if (r == IO_OK || ((r == IO_CLOSED || r == IO_FAILED) && e.text[0] == '\0'))
			abort();
		hear(peer, &said);
	}
	if (s->phase == SESSION_HANDSHAKE && buffer_len(&s->in) > 0)
		abort(); /* it would be taken for what came inside TLS */
	if (before == SESSION_AWAITING_PROBE && (s->phase == SESSION_HANDSHAKE || r == IO_WANT_READ))
		check_answers(&said, s->cleartext_calls, s->phase == SESSION_HANDSHAKE);
	buffer_free(&said);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct session s;
	int ends[2];

	if (pki == NULL)
		set_up();
	if (size < 1)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0 || dup2(ends[0], SOCKET) != SOCKET)
		abort();
	close(ends[0]);
	session_accept(&s, &options, SOCKET); /* whose number is in the probe that it sends */
	if (data[0] & 1)
		s.phase = SESSION_CONNECTING;
	run(&s, ends[1], data + 1, size - 1, 1u + data[0] / 2 * (data[0] / 2));
	session_end(&s);
	close(ends[1]);
	return 0;
}
