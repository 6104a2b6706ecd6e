/*
 * controllerd.h - what the files of the controller's reference points share: its end of the RPC
 * world, its core, and how a call finds its connection.
 */
#ifndef QKDN_CONTROLLERD_H
#define QKDN_CONTROLLERD_H

#include "controller.h"
#include "rtls.h"

struct controllerd {
	struct env *env;
	struct rtls_endpoint *endpoint;
	struct controller *core;
	const char *name;
	enum controller_mode mode;
	uint64_t report_interval, call_timeout;
};

/* Over the newest connection with that identity; done gets ST_PEER_UNREACHABLE, from the loop, where
 * there is none. */
void controllerd_call(struct controllerd *d, const char *role, const char *name, const struct rtls_call *call);

/* Whether the caller is who it says it is. */
bool controllerd_caller_is(struct svc_req *rq, const char *role, const char *name);

/* For rtls_watch_conns, with the struct controllerd: tells the core who comes and goes. */
void controllerd_conn_changed(struct rtls_conn *conn, bool up, void *controllerd);

/* Names and links from the wire; false: not a valid name. */
bool controllerd_copy_name(char to[NAME_MAX_LEN + 1], const char *name);
struct qkdn_link_state;
bool controllerd_read_link(struct route_link *to, const struct qkdn_link_state *from);

/* ---- controller_ck.c: Ck, with KMs ---- */

extern const struct rtls_program controller_ck;    /* served; its context is the struct controllerd */
extern const struct rtls_program controller_ck_km; /* called */

void controller_ck_reserve(void *controllerd, const char *km, const struct controller_relay *relay,
                           controller_reserve_done done, void *token);
void controller_ck_relay(void *controllerd, const char *km, const struct controller_relay *relay,
                         uint64_t timeout, controller_done done, void *token);
void controller_ck_allocate(void *controllerd, const char *km, const struct controller_relay *relay,
                            controller_done done, void *token);
void controller_ck_give_up(void *controllerd, const char *km, const struct controller_relay *relay,
                           controller_done done, void *token);

/* ---- controller_mc.c: Mc, with managers and administrators ---- */

extern const struct rtls_program controller_mc; /* served */

/* ---- controller_cx.c: Cx, with other controllers ---- */

extern const struct rtls_program controller_cx; /* served and called */

void controller_cx_summary(void *controllerd, const char *neighbour, const struct id *trace,
                           const struct ls_edition *editions, size_t count, controller_summary_done done,
                           void *token);
void controller_cx_link_states(void *controllerd, const char *neighbour, const struct id *trace,
                               const struct ls_record *records, size_t count, controller_states_done done,
                               void *token);

#endif
