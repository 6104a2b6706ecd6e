/* address.h - addresses as they are written: a host, and a port where one is. */
#ifndef QKDN_ADDRESS_H
#define QKDN_ADDRESS_H

#include "base.h"

/* Splits "host:port", "[v6]:port", "host" or a bare IPv6 address. *port is 0 where none is written.
 * The caller frees *host. false: it is none of these. */
MUST_CHECK bool address_split(const char *address, char **host, uint16_t *port);

/* Whether the host is an IPv4 or IPv6 address rather than a name. */
bool address_is_numeric(const char *host);

#endif
