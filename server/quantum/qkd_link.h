/*
 * qkd_link.h - a pair of QKD modules and the quantum channel between them: it makes the blocks that
 * both modules hold, at the rate of its model, numbered from where the key managers stand.
 *
 * Blocks are made only while both modules are up and started by their key managers, both
 * buffers have room and nothing is wrong with the channel. A full buffer at one end pauses both.
 *
 * Numbering: nothing is stored here. Both key managers say at each synchronization which sequence
 * they need next; the link goes on from the higher one. A block that only one KM got before this
 * program stopped is void: the KMs agree on that between themselves.
 */
#ifndef QKDN_QUANTUM_QKD_LINK_H
#define QKDN_QUANTUM_QKD_LINK_H

#include "model.h"
#include "qkd_module.h"

enum link_rate { LINK_RATE_MODEL, LINK_RATE_FIXED, LINK_RATE_UNLIMITED };

enum fault_kind {
	FAULT_MISSING,      /* one module never has the block */
	FAULT_REPEATED,     /* one module supplies it twice */
	FAULT_LATE,         /* one module supplies it after later ones */
	FAULT_DIFFERING,    /* one module has a bit wrong */
	FAULT_LINK_LOSS,    /* the channel is cut: no blocks, an alarm */
	FAULT_QBER_HIGH,    /* an eavesdropper: no blocks, an alarm */
	FAULT_MODULE,       /* one module is broken: no blocks, an alarm by it */
};

struct link_fault {
	enum fault_kind kind;
	unsigned end;      /* 0 or 1: which module; of no meaning for the channel's faults */
	uint64_t every;    /* of the blocks' faults: 1 is every block, 100 every hundredth */
	uint64_t count;    /* at most so often; 0: without end */
	uint64_t delay_ns; /* of late blocks */
};

struct link_settings {
	const char *name; /* kept, not copied */
	size_t block_size;
	unsigned buffer_blocks; /* each module's */
	enum link_rate rate;
	double fixed_rate; /* bit/s */
	struct model_link model;
	double qber_limit; /* above it no key is made */
	struct {
		const char *name; /* kept, not copied */
		enum module_mode mode;
	} modules[2];
};

struct qkd_link;

struct qkd_link *qkd_link_new(struct env *env, const struct link_settings *settings);
void qkd_link_free(struct qkd_link *l); /* with its modules */

const char *qkd_link_name(const struct qkd_link *l);
const struct link_settings *qkd_link_settings(const struct qkd_link *l);
struct qkd_module *qkd_link_module(struct qkd_link *l, unsigned end);

/* Replaces all faults; the counts begin anew. */
void qkd_link_set_faults(struct qkd_link *l, const struct link_fault *faults, size_t count);

/* Tells a module's KM the alarms that stand, after it came up. */
void qkd_link_repeat_alarms(struct qkd_link *l, unsigned end);

struct link_state {
	bool running;    /* both modules up and started, nothing wrong with the channel */
	double key_rate; /* bit/s, now; the measured one where the rate is unlimited */
	double qber;
	uint64_t next_sequence;
	uint64_t pauses; /* times that a full buffer stopped the making; not counted where the rate is unlimited */
};
struct link_state qkd_link_state(const struct qkd_link *l);

#endif
