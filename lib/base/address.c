/* address.c - addresses as they are written. */
#include "address.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { HOST_MAX = 253 }; /* of a DNS name (RFC 1035) */

static bool is_of(int family, const char *text)
{
	struct in6_addr room;

	return inet_pton(family, text, &room) == 1;
}

bool address_is_numeric(const char *host)
{
	return is_of(AF_INET, host) || is_of(AF_INET6, host);
}

static bool parse_port(const char *text, uint16_t *port)
{
	char *rest;
	unsigned long number;

	if (!isdigit((unsigned char)text[0]))
		return false;
	number = strtoul(text, &rest, 10);
	*port = (uint16_t)number;
	return *rest == '\0' && number > 0 && number <= 65535;
}

bool address_split(const char *address, char **host, uint16_t *port)
{
	bool bracketed = address[0] == '[';
	char *copy = xstrdup(address + bracketed), *port_text = NULL, *end = strchr(copy, ']');
	bool ok = true;

	*port = 0;
	if (bracketed) {
		ok = end != NULL && (end[1] == ':' || end[1] == '\0');
		if (ok && end[1] == ':')
			port_text = end + 2;
		if (ok)
			*end = '\0';
		ok = ok && is_of(AF_INET6, copy);
	} else if (!is_of(AF_INET6, copy)) {
		end = strchr(copy, ':');
		if (end != NULL) {
			*end = '\0';
			port_text = end + 1;
		}
		ok = copy[0] != '\0' && strpbrk(copy, " \t/[]") == NULL;
	}
	if (!ok || strlen(copy) > HOST_MAX || (port_text != NULL && !parse_port(port_text, port))) {
		free(copy);
		return false;
	}
	*host = copy;
	return true;
}
