/* note.c - small durable facts of the core. */
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static bool key_is_valid(size_t key_len)
{
	return key_len > 0 && key_len <= KS_NOTE_KEY_MAX;
}

enum status ks_note_put(struct ks_txn *t, const void *key, size_t key_len, const void *value, size_t len)
{
	if (!key_is_valid(key_len) || len > KS_NOTE_MAX)
		return ST_BAD_REQUEST;
	return record_put(t, KV_NOTE, slice_of(key, key_len), value, len);
}

enum status ks_note_get(struct ks_txn *t, const void *key, size_t key_len, void *room, size_t room_len,
			size_t *len)
{
	if (!key_is_valid(key_len))
		return ST_BAD_REQUEST;
	return record_get(t, KV_NOTE, slice_of(key, key_len), room, room_len, len);
}

enum status ks_note_delete(struct ks_txn *t, const void *key, size_t key_len)
{
	if (!key_is_valid(key_len))
		return ST_BAD_REQUEST;
	return record_delete(t, KV_NOTE, slice_of(key, key_len));
}

void ks_note_each(struct ks_txn *t, const void *prefix, size_t prefix_len,
		  bool (*each)(const void *key, size_t key_len, const void *value, size_t len, void *arg),
		  void *arg)
{
	struct kv_slice key, sealed;
	uint8_t at[KS_NOTE_KEY_MAX], *room = xcalloc(1, KS_NOTE_MAX);
	size_t at_len = prefix_len, len;
	enum kv_seek how = KV_AT_OR_AFTER;

	if (prefix_len > sizeof at)
		at_len = 0;
	if (at_len > 0)
		memcpy(at, prefix, at_len);
	while (kv_seek(t->ks->kv, KV_NOTE, how, slice_of(at, at_len), &key, &sealed) == ST_OK) {
		if (key.len > sizeof at || key.len < prefix_len || memcmp(key.bytes, prefix, prefix_len) != 0)
			break;
		memcpy(at, key.bytes, key.len);
		at_len = key.len;
		how = KV_AFTER;
		if (record_open(t, KV_NOTE, slice_of(at, at_len), sealed, room, KS_NOTE_MAX, &len) == ST_OK &&
		    !each(at, at_len, room, len, arg))
			break;
	}
	free(room);
}
