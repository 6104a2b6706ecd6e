/* message.h - the RPC messages around arguments and results (RFC 5531, section 9), read and written by hand:
 * every call passes here twice, and nothing in it needs memory. */
#ifndef QKDN_RPC_MESSAGE_H
#define QKDN_RPC_MESSAGE_H

#include "record.h"

enum {
	RPC_VERSION = 2,
	FLAVOR_AUTH_NONE = 0,
	FLAVOR_AUTH_SYS = 1,
	FLAVOR_AUTH_TLS = 7, /* RFC 9289, section 4.1 */
	MESSAGE_AUTH_MAX = 400,
	CALL_HEADER_LEN = 40,
	REPLY_HEADER_LEN = 24,
	RECORD_XID_LEN = 8 /* xid and message type: how calls and replies are told apart */
};

/* Whether a record begins like a call; false: like a reply. The record has RECORD_XID_LEN bytes at least. */
static inline bool message_is_call(const uint8_t *record) { return get32(record + 4) == 0; }

struct message_call {
	uint32_t xid, rpc_version, program, version, procedure;
	uint32_t flavor; /* of the credential */
	size_t body;     /* offset of the arguments */
};

/* false: not a call, or cut short. */
MUST_CHECK bool message_read_call(const uint8_t *record, size_t len, struct message_call *call);

enum message_outcome {
	MESSAGE_SUCCESS,
	MESSAGE_UNAVAILABLE,  /* program, version or procedure */
	MESSAGE_GARBAGE_ARGS,
	MESSAGE_SYSTEM_ERROR,
	MESSAGE_AUTH_REFUSED, /* MSG_DENIED, AUTH_ERROR */
	MESSAGE_MALFORMED     /* not a reply that RFC 5531 knows */
};

struct message_reply {
	uint32_t xid;
	enum message_outcome outcome;
	enum accept_stat accept_stat;
	enum auth_stat auth_stat;     /* with MESSAGE_AUTH_REFUSED */
	bool starttls;                /* the verifier is the STARTTLS token */
	bool verifier_is_none;        /* its flavor */
	size_t body;                  /* offset of the result */
};

MUST_CHECK bool message_read_reply(const uint8_t *record, size_t len, struct message_reply *reply);

/* A call's header with AUTH_NONE, or with AUTH_TLS for the probe, and the header of a reply whose result
 * follows. */
void message_put_call(struct buffer *out, const struct message_call *call);
void message_put_success(struct buffer *out, uint32_t xid);

/* Whole records. */
void message_put_probe(struct buffer *out, uint32_t xid, uint32_t program, uint32_t version);
void message_put_starttls(struct buffer *out, uint32_t xid, enum accept_stat stat);
void message_put_accepted(struct buffer *out, uint32_t xid, enum accept_stat stat);
void message_put_mismatch(struct buffer *out, uint32_t xid, uint32_t low, uint32_t high);
void message_put_rpc_mismatch(struct buffer *out, uint32_t xid);
void message_put_auth_error(struct buffer *out, uint32_t xid, enum auth_stat why);

#endif
