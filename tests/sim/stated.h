/* stated.h - how much the cores say in the log that they give up. */
#ifndef QKDN_SIM_STATED_H
#define QKDN_SIM_STATED_H

#include <stdint.h>

struct km;

/* Bytes, of all lines since the process began: a line does not say whose it is, so one simulation at a time. */
uint64_t stated_bytes(void);
/* What lines of that core that were held back have still to tell. */
uint64_t stated_later(const struct km *km);

#endif
