/* value.c - sealed values that hold no keys: pools, rows, notes. */
#include <string.h>

#include "advice.h"
#include "internal.h"

enum status damage(struct ks_txn *t, const char *what)
{
	unsigned held_back;

	t->poisoned = true;
	if (log_limit_pass(&t->ks->damage_limit, env_mono(t->ks->env), &held_back))
		log_error("key store: %s in %s is damaged and is refused: check the disk; if this comes again, " START_EMPTY
			  " (%u such messages were held back)",
			  what, t->ks->directory ? t->ks->directory : "memory", held_back);
	return ST_STORAGE;
}

enum status broken(struct ks_txn *t)
{
	t->broken = true;
	return ST_STORAGE;
}

enum status record_open(struct ks_txn *t, enum kv_db db, struct kv_slice place, struct kv_slice sealed,
			void *room, size_t room_len, size_t *len)
{
	if (sealed.len < SEAL_OVERHEAD)
		return damage(t, "a record");
	*len = sealed.len - SEAL_OVERHEAD;
	if (*len > room_len)
		return ST_BAD_REQUEST;
	return seal_open(t->ks->seal, db, place, sealed, room) ? ST_OK : damage(t, "a record");
}

enum status record_get(struct ks_txn *t, enum kv_db db, struct kv_slice place, void *room, size_t room_len,
		       size_t *len)
{
	struct kv_slice sealed;
	enum status s = kv_get(t->ks->kv, db, place, &sealed);

	if (s == ST_NOT_FOUND)
		return s;
	return s == ST_OK ? record_open(t, db, place, sealed, room, room_len, len) : broken(t);
}

enum status record_put(struct ks_txn *t, enum kv_db db, struct kv_slice place, const void *bytes, size_t len)
{
	uint8_t *room;

	if (undo_value(t, db, place) != ST_OK ||
	    kv_reserve(t->ks->kv, db, place, len + SEAL_OVERHEAD, &room) != ST_OK)
		return broken(t);
	seal_close(t->ks->seal, db, place, 0, bytes, len, room);
	t->wrote = true;
	t->written += len + 256;
	return ST_OK;
}

enum status record_delete(struct ks_txn *t, enum kv_db db, struct kv_slice place)
{
	if (undo_value(t, db, place) != ST_OK || kv_delete(t->ks->kv, db, place) != ST_OK)
		return broken(t);
	t->wrote = true;
	t->written += 256;
	return ST_OK;
}
