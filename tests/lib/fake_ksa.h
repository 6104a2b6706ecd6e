/*
 * fake_ksa.h - a KSA for tests of what calls it: serves Ak in a thread of its own, from memory.
 *
 * Byte j of a key is (byte j % 16 of its ID) ^ j, so that a test can tell the right key. A key is
 * delivered once. These destinations are answered as their names say: "unknown" UNKNOWN_APPLICATION,
 * "empty" TOO_FEW_KEYS, "liar" too short a key with OK, "miser" one key too few with OK; "group" with keys if
 * "app3" and "app4" are the other destinations, which nobody else may have; and these sources by ID: "other"
 * with keys of other IDs, "mute" never. The only extension is "of", whose value is 1, 0, 2.
 */
#ifndef QKDN_FAKE_KSA_H
#define QKDN_FAKE_KSA_H

#include "test_pki.h"

struct fake_ksa;

/* As km/NAME on 127.0.0.1; port 0 picks one. Aborts when it cannot. */
struct fake_ksa *fake_ksa_start(struct test_pki *pki, const char *name, uint16_t port);
uint16_t fake_ksa_port(const struct fake_ksa *ksa);
void fake_ksa_stop(struct fake_ksa *ksa); /* closes every connection; forgets every key */

#endif
