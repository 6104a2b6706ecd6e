/* message.c - RPC message headers. */
#include "message.h"

static const char starttls_token[8] = { 'S', 'T', 'A', 'R', 'T', 'T', 'L', 'S' };

/* Reads an opaque_auth at *at and moves behind it. */
static bool read_auth(const uint8_t *record, size_t len, size_t *at, uint32_t *flavor, uint32_t *body_len)
{
	size_t padded;

	if (len - *at < 8)
		return false;
	*flavor = get32(record + *at);
	*body_len = get32(record + *at + 4);
	if (*body_len > MESSAGE_AUTH_MAX)
		return false;
	padded = (*body_len + 3u) & ~(size_t)3;
	if (len - *at - 8 < padded)
		return false;
	*at += 8 + padded;
	return true;
}

bool message_read_call(const uint8_t *record, size_t len, struct message_call *call)
{
	uint32_t verifier, body_len;

	if (len < CALL_HEADER_LEN || get32(record + 4) != CALL)
		return false;
	call->xid = get32(record);
	call->rpc_version = get32(record + 8);
	call->program = get32(record + 12);
	call->version = get32(record + 16);
	call->procedure = get32(record + 20);
	call->body = 24;
	return read_auth(record, len, &call->body, &call->flavor, &body_len) &&
	       read_auth(record, len, &call->body, &verifier, &body_len);
}

static bool read_accepted(const uint8_t *record, size_t len, struct message_reply *reply)
{
	static const enum message_outcome outcomes[] = {
		[SUCCESS] = MESSAGE_SUCCESS,           [PROG_UNAVAIL] = MESSAGE_UNAVAILABLE,
		[PROG_MISMATCH] = MESSAGE_UNAVAILABLE, [PROC_UNAVAIL] = MESSAGE_UNAVAILABLE,
		[GARBAGE_ARGS] = MESSAGE_GARBAGE_ARGS, [SYSTEM_ERR] = MESSAGE_SYSTEM_ERROR,
	};
	uint32_t flavor, token_len, stat;

	reply->body = 12;
	if (!read_auth(record, len, &reply->body, &flavor, &token_len) || len - reply->body < 4)
		return false;
	reply->verifier_is_none = flavor == FLAVOR_AUTH_NONE;
	reply->starttls = reply->verifier_is_none && token_len == sizeof starttls_token &&
	                  memcmp(record + 20, starttls_token, sizeof starttls_token) == 0;
	stat = get32(record + reply->body);
	reply->body += 4;
	reply->accept_stat = (enum accept_stat)stat;
	reply->outcome = stat < ARRAY_LEN(outcomes) ? outcomes[stat] : MESSAGE_MALFORMED;
	return true;
}

static bool read_denied(const uint8_t *record, size_t len, struct message_reply *reply)
{
	if (len < 20)
		return false;
	if (get32(record + 12) == AUTH_ERROR) {
		reply->outcome = MESSAGE_AUTH_REFUSED;
		reply->auth_stat = (enum auth_stat)get32(record + 16);
	}
	return true;
}

bool message_read_reply(const uint8_t *record, size_t len, struct message_reply *reply)
{
	if (len < 12 || get32(record + 4) != REPLY)
		return false;
	*reply = (struct message_reply){ .xid = get32(record), .outcome = MESSAGE_MALFORMED };
	switch (get32(record + 8)) {
	case MSG_ACCEPTED:
		return read_accepted(record, len, reply);
	case MSG_DENIED:
		return read_denied(record, len, reply);
	default:
		return false;
	}
}

static void put_words(struct buffer *out, const uint32_t *words, size_t count)
{
	uint8_t *p = buffer_reserve(out, 4 * count);

	for (size_t i = 0; i < count; i++)
		put32(p + 4 * i, words[i]);
	out->end += 4 * count;
}

static void put_record(struct buffer *out, const uint32_t *words, size_t count)
{
	size_t begun = record_begin(out);

	put_words(out, words, count);
	record_end(out, begun);
}

void message_put_call(struct buffer *out, const struct message_call *call)
{
	const uint32_t words[] = { call->xid,     CALL,            RPC_VERSION,  call->program,
		                   call->version, call->procedure, call->flavor, 0,
		                   FLAVOR_AUTH_NONE, 0 };

	put_words(out, words, ARRAY_LEN(words));
}

void message_put_success(struct buffer *out, uint32_t xid)
{
	const uint32_t words[] = { xid, REPLY, MSG_ACCEPTED, FLAVOR_AUTH_NONE, 0, SUCCESS };

	put_words(out, words, ARRAY_LEN(words));
}

void message_put_probe(struct buffer *out, uint32_t xid, uint32_t program, uint32_t version)
{
	const struct message_call probe = {
		.xid = xid, .program = program, .version = version, .flavor = FLAVOR_AUTH_TLS
	};
	size_t begun = record_begin(out);

	message_put_call(out, &probe);
	record_end(out, begun);
}

void message_put_starttls(struct buffer *out, uint32_t xid, enum accept_stat stat)
{
	const uint32_t words[] = { xid, REPLY, MSG_ACCEPTED, FLAVOR_AUTH_NONE, sizeof starttls_token };
	size_t begun = record_begin(out);

	put_words(out, words, ARRAY_LEN(words));
	buffer_append(out, starttls_token, sizeof starttls_token);
	put_words(out, &(uint32_t){ stat }, 1);
	record_end(out, begun);
}

void message_put_accepted(struct buffer *out, uint32_t xid, enum accept_stat stat)
{
	const uint32_t words[] = { xid, REPLY, MSG_ACCEPTED, FLAVOR_AUTH_NONE, 0, stat };

	put_record(out, words, ARRAY_LEN(words));
}

void message_put_mismatch(struct buffer *out, uint32_t xid, uint32_t low, uint32_t high)
{
	const uint32_t words[] = { xid, REPLY, MSG_ACCEPTED, FLAVOR_AUTH_NONE, 0, PROG_MISMATCH, low, high };

	put_record(out, words, ARRAY_LEN(words));
}

void message_put_rpc_mismatch(struct buffer *out, uint32_t xid)
{
	const uint32_t words[] = { xid, REPLY, MSG_DENIED, RPC_MISMATCH, RPC_VERSION, RPC_VERSION };

	put_record(out, words, ARRAY_LEN(words));
}

void message_put_auth_error(struct buffer *out, uint32_t xid, enum auth_stat why)
{
	const uint32_t words[] = { xid, REPLY, MSG_DENIED, AUTH_ERROR, why };

	put_record(out, words, ARRAY_LEN(words));
}
