/*
 * kv_changes.c - what a transaction changed, as bytes. Each change is
 *
 *     database (1) | deleted (1) | key's length (2) | value's length (4) | key | value
 *
 * and they are applied in the order in which they were made.
 */
#include "kv_changes.h"

#include <stdlib.h>
#include <string.h>

#include "base.h"
#include "bytes.h"

enum { HEAD = 8 };

/* Room for a change in c->bytes; NULL: there are too many. */
static uint8_t *add(struct changes *c, enum kv_db db, bool deleted, struct kv_slice key, size_t len)
{
	uint8_t *p;

	changes_end(c);
	c->count++;
	if (c->too_many || HEAD + key.len + len > CHANGES_KEPT - c->len) {
		c->too_many = true;
		return NULL;
	}
	if (c->bytes == NULL)
		c->bytes = xcalloc(1, CHANGES_KEPT);
	p = c->bytes + c->len;
	p[0] = (uint8_t)db;
	p[1] = deleted;
	put_be(p + 2, key.len, 2);
	put_be(p + 4, len, 4);
	memcpy(p + HEAD, key.bytes, key.len);
	c->len += HEAD + key.len + len;
	return p;
}

void changes_put(struct changes *c, enum kv_db db, struct kv_slice key, size_t len)
{
	c->value_len = add(c, db, false, key, len) != NULL ? len : 0;
}

void changes_put_at(struct changes *c, const uint8_t *value)
{
	c->value = c->value_len > 0 ? value : NULL;
}

void changes_delete(struct changes *c, enum kv_db db, struct kv_slice key)
{
	add(c, db, true, key, 0);
}

void changes_end(struct changes *c)
{
	if (c->value != NULL)
		memcpy(c->bytes + c->len - c->value_len, c->value, c->value_len);
	c->value = NULL;
}

void changes_clear(struct changes *c)
{
	*c = (struct changes){.bytes = c->bytes};
}

void changes_free(struct changes *c)
{
	free(c->bytes);
	*c = (struct changes){.bytes = NULL};
}

enum status changes_each(const uint8_t *bytes, size_t len, change_apply apply, void *arg)
{
	while (len > 0) {
		struct kv_slice key, value;
		bool deleted;
		enum status s;

		if (len < HEAD || bytes[0] >= KV_DBS || bytes[1] > 1)
			return ST_STORAGE;
		deleted = bytes[1];
		key = (struct kv_slice){bytes + HEAD, (size_t)get_be(bytes + 2, 2)};
		value.len = (size_t)get_be(bytes + 4, 4);
		if (key.len + value.len > len - HEAD || (deleted && value.len > 0))
			return ST_STORAGE;
		value.bytes = deleted ? NULL : key.bytes + key.len;
		s = apply(arg, (enum kv_db)bytes[0], key, value);
		if (s != ST_OK)
			return s;
		bytes += HEAD + key.len + value.len;
		len -= HEAD + key.len + value.len;
	}
	return ST_OK;
}
