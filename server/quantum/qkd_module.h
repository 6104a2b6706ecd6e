/*
 * qkd_module.h - one QKD module: it holds the blocks that its link made until its key manager
 * has answered that they are durable, and supplies them (push) or is asked for them (pull).
 *
 * Knows neither RPC nor its peer. A transport carries what it sends; whoever receives for it calls
 * the functions below. A lost connection, a refusal and a restarted KM all end the same way: what
 * was not acknowledged is sent again after the next qkd_module_up.
 */
#ifndef QKDN_QUANTUM_QKD_MODULE_H
#define QKDN_QUANTUM_QKD_MODULE_H

#include "key_block.h"
#include "status.h"

enum { SUPPLY_BLOCKS_MAX = 64, SUPPLY_BYTES_MAX = 1024 * 1024, SUPPLIES_IN_FLIGHT_MAX = 8 };

enum module_mode { MODULE_PUSH, MODULE_PULL };

struct qkd_module;

/* A message of key supply on its way. */
struct supply {
	struct qkd_module *module;
	size_t count;
	struct key_block *blocks[SUPPLY_BLOCKS_MAX];
};

struct alarm {
	const char *cause; /* "link-loss", "qber-high", "module-fault" */
	bool major, cleared;
	uint64_t raised_at; /* UTC */
	const char *text;
};

/* What a module needs of its surroundings. supply must copy the blocks' bytes before it returns and
 * must be answered by exactly one qkd_module_supplied, later. */
struct module_transport {
	void (*supply)(void *arg, struct supply *s);
	void (*alarm)(void *arg, const struct alarm *a);
	void *arg;
};

struct module_settings {
	const char *name; /* kept, not copied */
	enum module_mode mode;
	size_t block_size;
	unsigned buffer_blocks;
};

/* changed is called when the link may go on or must pause: room, start, stop, up, down. */
struct qkd_module *qkd_module_new(struct env *env, const struct module_settings *settings,
                                  env_cb changed, void *arg);
void qkd_module_free(struct qkd_module *m); /* wipes what it holds; no supply may be on its way */
void qkd_module_attach(struct qkd_module *m, const struct module_transport *t);

const char *qkd_module_name(const struct qkd_module *m);
enum module_mode qkd_module_mode(const struct qkd_module *m);

/* ---- towards the link ------------------------------------------------------------------- */

/* Up, started, and with room for one more block. */
bool qkd_module_wants_block(const struct qkd_module *m);

/* Holds a block (a reference of its own): to be supplied after delay_ns, and once more after its
 * acknowledgement if repeat. */
void qkd_module_put(struct qkd_module *m, struct key_block *b, uint64_t delay_ns, bool repeat);

/* Supplies what credit allows; after a number of puts. Pull modules wait to be asked. */
void qkd_module_send(struct qkd_module *m);

void qkd_module_alarm(struct qkd_module *m, const struct alarm *a); /* lost while the KM is away */

/* ---- towards the key manager ------------------------------------------------------------ */

/* Registered and synchronized: the KM needs no block below next_sequence and takes credit blocks. */
void qkd_module_up(struct qkd_module *m, uint64_t next_sequence, uint32_t credit);
void qkd_module_down(struct qkd_module *m); /* stops it, too: the KM starts it again */
bool qkd_module_is_up(const struct qkd_module *m);
uint64_t qkd_module_next(const struct qkd_module *m); /* lowest sequence the KM could still want */

void qkd_module_start(struct qkd_module *m); /* by the KM, over Kq-2 */
void qkd_module_stop(struct qkd_module *m);
void qkd_module_flow(struct qkd_module *m, uint32_t credit);

/* The answer to a supply, which is freed. next_sequence and credit count only where the KM
 * answered (answered); ST_OK means that every block of it is durable. */
void qkd_module_supplied(struct supply *s, enum status status, bool answered, uint64_t next_sequence,
                         uint32_t credit);

/* Pull: forgets what is below next_sequence, and points blocks at up to max blocks in order. They
 * stay the module's and are good until the next call. Returns their number. */
size_t qkd_module_request(struct qkd_module *m, uint64_t next_sequence, size_t max,
                          const struct key_block *blocks[SUPPLY_BLOCKS_MAX]);

struct module_state {
	bool up, started;
	unsigned buffered;
	uint64_t acknowledged, dropped; /* blocks since the program's start */
};
struct module_state qkd_module_state(const struct qkd_module *m);

#endif
