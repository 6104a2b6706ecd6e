/*
 * party.c - one identity and all its connections.
 *
 * What one may take of an endpoint is bounded for its identity, however many connections it opens: their
 * number, and the calls that wait for their answers. While others of its role have calls waiting too, it
 * may have hardly more of them than the busiest of these: what stands behind the handlers serves calls in
 * the order in which they came, and a flood would be most of them.
 */
#include "endpoint.h"

#include <stdio.h>
#include <stdlib.h>

enum {
	ALWAYS_UNANSWERED = 32, /* so many calls may wait, whatever others have */
	MORE_THAN_OTHERS = 8    /* so that two who are busy can both grow */
};

#define LOOK_AROUND_NS (20 * NS_PER_MS)

static void name_party(char name[sizeof((struct party *)0)->name], const char *role, const char *who)
{
	snprintf(name, sizeof((struct party *)0)->name, "%s/%s", role, who);
}

struct party *party_find(struct rtls_endpoint *ep, const char *role, const char *name)
{
	char key[sizeof((struct party *)0)->name];
	struct party *p;

	name_party(key, role, name);
	HASH_FIND_STR(ep->parties, key, p);
	return p;
}

static struct party *party_new(struct rtls_endpoint *ep, const struct rtls_identity *id)
{
	struct party *p = xcalloc(1, sizeof *p);
	uint64_t bit = endpoint_role_bit(ep, id->role, strlen(id->role));

	p->ep = ep;
	p->role = bit != 0 ? (unsigned)__builtin_ctzll(bit) : ROLES_MAX;
	name_party(p->name, id->role, id->name);
	HASH_ADD_STR(ep->parties, name, p);
	return p;
}

void party_hold(struct party *p)
{
	p->references++;
}

void party_release(struct party *p)
{
	if (p == NULL || --p->references > 0)
		return;
	if (p->ep != NULL) {
		HASH_DEL(p->ep->parties, p);
		if (p->role < ROLES_MAX && p->ep->peaks[p->role].whose == p)
			p->ep->peaks[p->role].whose = NULL;
	}
	free(p);
}

void party_join(struct rtls_conn *conn)
{
	const struct rtls_identity *id = &conn->session.peer.identity;
	struct party *p = party_find(conn->ep, id->role, id->name);

	if (p == NULL)
		p = party_new(conn->ep, id);
	party_hold(p); /* until the connection is freed: its calls may be answered after it was closed */
	DL_PREPEND2(p->conns, conn, party_previous, party_next);
	p->accepted += conn->accepted;
	conn->party = p;
	conn->role_bit = p->role < ROLES_MAX ? UINT64_C(1) << p->role : 0;
}

void party_leave(struct rtls_conn *conn)
{
	struct party *p = conn->party;

	if (p == NULL)
		return;
	turn_remove(conn);
	DL_DELETE2(p->conns, conn, party_previous, party_next);
	p->accepted -= conn->accepted;
}

void parties_orphan(struct rtls_endpoint *ep)
{
	struct party *p, *next;

	HASH_ITER (hh, ep->parties, p, next) {
		HASH_DEL(ep->parties, p);
		p->ep = NULL;
	}
}

/* ---- unanswered calls -------------------------------------------------------------------------- */

void party_look_around(struct rtls_endpoint *ep, uint64_t now)
{
	if (now - ep->looked_around_at < LOOK_AROUND_NS)
		return;
	ep->looked_around_at = now;
	memset(ep->peaks, 0, sizeof ep->peaks);
	for (struct party *p = ep->parties; p != NULL; p = p->hh.next) {
		struct peak *peak = &ep->peaks[p->role];

		if (p->role == ROLES_MAX)
			continue;
		if (p->peak > peak->highest) {
			peak->second = peak->highest;
			peak->highest = p->peak;
			peak->whose = p;
		} else if (p->peak > peak->second) {
			peak->second = p->peak;
		}
		p->peak = p->unanswered;
	}
}

static unsigned may_be_unanswered(const struct party *p)
{
	unsigned most = p->ep->options.max_unanswered, others;
	const struct peak *peak = &p->ep->peaks[p->role];

	if (p->role == ROLES_MAX)
		return most;
	others = peak->whose == p ? peak->second : peak->highest;
	if (others == 0 || others + MORE_THAN_OTHERS > most)
		return most;
	others += MORE_THAN_OTHERS;
	return others > ALWAYS_UNANSWERED || ALWAYS_UNANSWERED > most ? others : ALWAYS_UNANSWERED;
}

/* Where answers to calls from here are awaited behind its own calls, these may be what they wait for. */
bool party_has_too_many(const struct rtls_conn *conn, bool is_paused)
{
	const struct party *p = conn->party;
	unsigned most = conn->calls != NULL ? p->ep->options.max_unanswered : may_be_unanswered(p);

	return p->unanswered >= (is_paused ? most - most / 4 : most);
}

void party_call_begins(struct party *p)
{
	p->unanswered++;
	if (p->unanswered > p->peak)
		p->peak = p->unanswered;
}

void party_call_ends(struct party *p)
{
	struct rtls_conn *conn, *next;

	p->unanswered--;
	DL_FOREACH_SAFE2 (p->paused, conn, next, queue_next)
		traffic_resume(conn);
}
