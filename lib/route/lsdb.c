/* lsdb.c - the newest link-state record of each KM. */
#include "lsdb.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct entry {
	struct ls_record record; /* its age as of stored_at */
	struct ls_edition edition;
	uint64_t stored_at;
	UT_hash_handle hh;
};

struct lsdb {
	struct entry *by_km;
	uint64_t max_age;
};

struct lsdb *lsdb_new(uint64_t max_age)
{
	struct lsdb *db = xcalloc(1, sizeof *db);

	db->max_age = max_age;
	return db;
}

static void entry_free(struct lsdb *db, struct entry *e)
{
	HASH_DELETE(hh, db->by_km, e);
	free(e->record.links);
	free(e);
}

void lsdb_free(struct lsdb *db)
{
	if (db == NULL)
		return;
	while (db->by_km != NULL)
		entry_free(db, db->by_km);
	free(db);
}

/* ---- editions ------------------------------------------------------------------------------ */

/* FNV-1a: it tells editions apart, it keeps nobody from making one (neighbours are authenticated). */
static uint64_t mix(uint64_t digest, const void *p, size_t len)
{
	for (const uint8_t *b = p; len-- > 0; b++)
		digest = (digest ^ *b) * UINT64_C(0x100000001b3);
	return digest;
}

static uint64_t mix_text(uint64_t digest, const char *text)
{
	return mix(digest, text, strlen(text) + 1);
}

static uint64_t mix_number(uint64_t digest, uint64_t n)
{
	uint8_t bytes[8];

	for (int i = 0; i < 8; i++)
		bytes[i] = (uint8_t)(n >> 8 * i);
	return mix(digest, bytes, sizeof bytes);
}

uint64_t ls_digest(const struct ls_record *r)
{
	uint64_t d = mix_text(UINT64_C(0xcbf29ce484222325), r->controller);

	for (size_t i = 0; i < r->count; i++) {
		const struct route_state *s = &r->links[i].state;

		d = mix_text(mix_text(d, r->links[i].name), r->links[i].peer);
		d = mix_number(mix_number(d, s->up), s->stock);
		d = mix_number(mix_number(d, s->generation_rate), s->consumption_rate);
		d = mix_number(mix_number(d, s->qber_ppm), s->reported_at);
	}
	return d;
}

/* Below 0: a is older than b; 0: the same; above 0: newer. */
static int compare(const struct ls_edition *a, const struct ls_edition *b)
{
	if (a->sequence != b->sequence)
		return a->sequence < b->sequence ? -1 : 1;
	return a->digest == b->digest ? 0 : a->digest < b->digest ? -1 : 1;
}

static struct entry *find(const struct lsdb *db, const char *km)
{
	struct entry *e;

	HASH_FIND_STR(db->by_km, km, e);
	return e;
}

static bool sequence_is_valid(uint64_t sequence)
{
	return sequence > 0 && sequence < LS_SEQUENCE_END;
}

static uint64_t age_now(const struct entry *e, uint64_t now)
{
	uint64_t kept = now - e->stored_at;

	return e->record.age > UINT64_MAX - kept ? UINT64_MAX : e->record.age + kept;
}

static void edition_of(const struct ls_record *r, struct ls_edition *e)
{
	memset(e, 0, sizeof *e);
	memcpy(e->km, r->km, sizeof e->km);
	e->sequence = r->sequence;
	e->digest = ls_digest(r);
}

enum ls_decision lsdb_decide(const struct lsdb *db, const struct ls_record *r, uint64_t now)
{
	const struct entry *here = find(db, r->km);
	struct ls_edition theirs;
	int order;

	if (!sequence_is_valid(r->sequence) || r->count > LS_LINKS_MAX)
		return LS_IGNORE;
	edition_of(r, &theirs);
	order = here == NULL ? 1 : compare(&theirs, &here->edition);
	if (order > 0)
		return r->age < db->max_age ? LS_STORE : LS_IGNORE;
	if (order == 0 || age_now(here, now) >= db->max_age)
		return LS_IGNORE;
	return LS_RETURN_NEWER;
}

bool lsdb_wants(const struct lsdb *db, const struct ls_edition *e)
{
	const struct entry *here = find(db, e->km);

	return sequence_is_valid(e->sequence) && (here == NULL || compare(e, &here->edition) > 0);
}

/* ---- records ------------------------------------------------------------------------------- */

void lsdb_store(struct lsdb *db, const struct ls_record *r, uint64_t now)
{
	struct entry *e = find(db, r->km);

	if (e == NULL) {
		e = xcalloc(1, sizeof *e);
		memcpy(e->record.km, r->km, sizeof e->record.km);
		HASH_ADD_STR(db->by_km, record.km, e);
	}
	memcpy(e->record.controller, r->controller, sizeof e->record.controller);
	e->record.sequence = r->sequence;
	e->record.age = r->age;
	if (r->links != e->record.links) {
		struct route_link *links = xcalloc(r->count, sizeof *links);

		if (r->count > 0)
			memcpy(links, r->links, r->count * sizeof *links);
		free(e->record.links);
		e->record.links = links;
	}
	e->record.count = r->count;
	e->stored_at = now;
	edition_of(&e->record, &e->edition);
}

bool lsdb_get(const struct lsdb *db, const char *km, uint64_t now, struct ls_record *r)
{
	const struct entry *e = find(db, km);

	if (e == NULL)
		return false;
	*r = e->record;
	r->age = age_now(e, now);
	return true;
}

size_t lsdb_count(const struct lsdb *db)
{
	return HASH_COUNT(db->by_km);
}

void lsdb_each(const struct lsdb *db, void (*each)(const struct ls_edition *e, void *arg), void *arg)
{
	for (const struct entry *e = db->by_km; e != NULL; e = e->hh.next)
		each(&e->edition, arg);
}

bool lsdb_expire(struct lsdb *db, uint64_t now, char km[NAME_MAX_LEN + 1])
{
	for (struct entry *e = db->by_km; e != NULL; e = e->hh.next)
		if (age_now(e, now) >= db->max_age) {
			memcpy(km, e->record.km, NAME_MAX_LEN + 1);
			entry_free(db, e);
			return true;
		}
	return false;
}
