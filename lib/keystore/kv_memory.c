/*
 * kv_memory.c - the database in memory, for tests and simulation: a skip list per database, and
 * a list of what to put back when a transaction is aborted.
 */
#include <stdlib.h>
#include <string.h>

#include "base.h"
#include "kv.h"

enum { LEVELS = 20 };

struct node {
	uint8_t *value;
	size_t value_len, key_len;
	uint8_t *key;
	struct node *next[];
};

struct old {
	enum kv_db db;
	struct kv_slice key;
	bool existed;
	struct kv_slice value;
};

struct kv_memory {
	struct kv kv;
	struct node *heads[KV_DBS];
	struct old *olds; /* of this transaction, oldest first */
	size_t old_count, old_room;
	uint64_t dice, committed;
};

static struct kv_memory *memory_of(struct kv *kv)
{
	return container_of(kv, struct kv_memory, kv);
}

static uint8_t *copy_bytes(const void *bytes, size_t len)
{
	uint8_t *p = xcalloc(1, len);

	if (len > 0)
		memcpy(p, bytes, len);
	return p;
}

static struct node *node_new(struct kv_slice key, int levels)
{
	struct node *n = xcalloc(1, sizeof *n + (size_t)levels * sizeof n->next[0]);

	n->key = copy_bytes(key.bytes, key.len);
	n->key_len = key.len;
	return n;
}

static void node_free(struct node *n)
{
	free(n->key);
	free(n->value);
	free(n);
}

static int compare(const struct node *n, struct kv_slice key)
{
	size_t shorter = n->key_len < key.len ? n->key_len : key.len;
	int c = shorter > 0 ? memcmp(n->key, key.bytes, shorter) : 0;

	return c != 0 ? c : (n->key_len > key.len) - (n->key_len < key.len);
}

/* The last node before key on each level; returns the first at or after it, or NULL. */
static struct node *find(struct kv_memory *m, enum kv_db db, struct kv_slice key, struct node *before[LEVELS])
{
	struct node *n = m->heads[db];

	for (int level = LEVELS - 1; level >= 0; level--) {
		while (n->next[level] != NULL && compare(n->next[level], key) < 0)
			n = n->next[level];
		before[level] = n;
	}
	return n->next[0];
}

static struct node *find_exact(struct kv_memory *m, enum kv_db db, struct kv_slice key,
			       struct node *before[LEVELS])
{
	struct node *n = find(m, db, key, before);

	return n != NULL && compare(n, key) == 0 ? n : NULL;
}

static int random_levels(struct kv_memory *m)
{
	int levels = 1;

	m->dice ^= m->dice << 13;
	m->dice ^= m->dice >> 7;
	m->dice ^= m->dice << 17;
	for (uint64_t d = m->dice; levels < LEVELS && (d & 3) == 0; d >>= 2)
		levels++;
	return levels;
}

static struct node *insert(struct kv_memory *m, struct kv_slice key, struct node *before[LEVELS])
{
	int levels = random_levels(m);
	struct node *n = node_new(key, levels);

	for (int level = 0; level < levels; level++) {
		n->next[level] = before[level]->next[level];
		before[level]->next[level] = n;
	}
	return n;
}

static void unlink_node(struct node *n, struct node *before[LEVELS])
{
	for (int level = 0; level < LEVELS && before[level]->next[level] == n; level++)
		before[level]->next[level] = n->next[level];
	node_free(n);
}

/* Remembers what is under key now; takes the value out of the node. */
static void remember(struct kv_memory *m, enum kv_db db, struct kv_slice key, struct node *n)
{
	struct old *o;

	if (m->old_count == m->old_room) {
		m->old_room = m->old_room ? 2 * m->old_room : 64;
		m->olds = xrealloc(m->olds, m->old_room * sizeof *m->olds);
	}
	o = &m->olds[m->old_count++];
	*o = (struct old){.db = db, .key = {copy_bytes(key.bytes, key.len), key.len}, .existed = n != NULL};
	if (n != NULL) {
		o->value = (struct kv_slice){n->value, n->value_len};
		n->value = NULL;
		n->value_len = 0;
	}
}

static void forget(struct kv_memory *m)
{
	for (size_t i = 0; i < m->old_count; i++) {
		free((void *)(uintptr_t)m->olds[i].key.bytes);
		free((void *)(uintptr_t)m->olds[i].value.bytes);
	}
	m->old_count = 0;
}

static enum status memory_begin(struct kv *kv)
{
	(void)kv;
	return ST_OK;
}

static enum status memory_commit(struct kv *kv)
{
	forget(memory_of(kv));
	memory_of(kv)->committed++;
	return ST_OK;
}

static void put_back(struct kv_memory *m, struct old *o)
{
	struct node *before[LEVELS], *n = find_exact(m, o->db, o->key, before);

	if (!o->existed) {
		if (n != NULL)
			unlink_node(n, before);
		return;
	}
	if (n == NULL)
		n = insert(m, o->key, before);
	free(n->value);
	n->value = (uint8_t *)(uintptr_t)o->value.bytes;
	n->value_len = o->value.len;
	o->value.bytes = NULL;
}

static void memory_abort(struct kv *kv)
{
	struct kv_memory *m = memory_of(kv);

	for (size_t i = m->old_count; i-- > 0;)
		put_back(m, &m->olds[i]);
	forget(m);
}

static enum status memory_get(struct kv *kv, enum kv_db db, struct kv_slice key, struct kv_slice *value)
{
	struct node *before[LEVELS], *n = find_exact(memory_of(kv), db, key, before);

	if (n == NULL)
		return ST_NOT_FOUND;
	*value = (struct kv_slice){n->value, n->value_len};
	return ST_OK;
}

static enum status memory_reserve(struct kv *kv, enum kv_db db, struct kv_slice key, size_t len,
				  uint8_t **room)
{
	struct kv_memory *m = memory_of(kv);
	struct node *before[LEVELS], *n = find_exact(m, db, key, before);

	remember(m, db, key, n);
	if (n == NULL)
		n = insert(m, key, before);
	n->value = xcalloc(1, len);
	n->value_len = len;
	*room = n->value;
	return ST_OK;
}

static enum status memory_delete(struct kv *kv, enum kv_db db, struct kv_slice key)
{
	struct kv_memory *m = memory_of(kv);
	struct node *before[LEVELS], *n = find_exact(m, db, key, before);

	if (n == NULL)
		return ST_OK;
	remember(m, db, key, n);
	unlink_node(n, before);
	return ST_OK;
}

static enum status memory_seek(struct kv *kv, enum kv_db db, enum kv_seek how, struct kv_slice from,
			       struct kv_slice *key, struct kv_slice *value)
{
	struct kv_memory *m = memory_of(kv);
	struct node *before[LEVELS], *n = find(m, db, from, before);
	bool exact = n != NULL && compare(n, from) == 0;

	if (how == KV_AFTER && exact)
		n = n->next[0];
	if (how == KV_AT_OR_BEFORE && !exact)
		n = before[0] == m->heads[db] ? NULL : before[0];
	if (n == NULL)
		return ST_NOT_FOUND;
	*key = (struct kv_slice){n->key, n->key_len};
	if (value != NULL)
		*value = (struct kv_slice){n->value, n->value_len};
	return ST_OK;
}

static uint64_t memory_number(struct kv *kv)
{
	return memory_of(kv)->committed + 1;
}

static uint64_t memory_file_bytes(struct kv *kv)
{
	(void)kv;
	return 0;
}

static bool memory_has_aside(struct kv *kv)
{
	(void)kv;
	return false;
}

static enum status memory_checkpoint(struct kv *kv)
{
	(void)kv;
	return ST_OK;
}

static void memory_close(struct kv *kv)
{
	struct kv_memory *m = memory_of(kv);

	memory_abort(kv);
	for (int db = 0; db < KV_DBS; db++)
		for (struct node *n = m->heads[db], *next; n != NULL; n = next) {
			next = n->next[0];
			node_free(n);
		}
	free(m->olds);
	free(m);
}

static const struct kv_ops memory_ops = {
    memory_begin, memory_commit, memory_abort,      memory_get,       memory_reserve,    memory_delete,
    memory_seek,  memory_number, memory_file_bytes, memory_has_aside, memory_checkpoint, memory_close,
};

struct kv *kv_memory_new(void)
{
	struct kv_memory *m = xcalloc(1, sizeof *m);

	m->kv.ops = &memory_ops;
	m->dice = UINT64_C(0x9e3779b97f4a7c15);
	for (int db = 0; db < KV_DBS; db++)
		m->heads[db] = node_new((struct kv_slice){NULL, 0}, LEVELS);
	return &m->kv;
}
