/*
 * heap.h - the priority queue of the searches: a four-way heap over small integers that knows where
 * each of them stands, so that a key can be lowered in place. Inline: it is the inner loop.
 */
#ifndef QKDN_HEAP_H
#define QKDN_HEAP_H

#include "base.h"

#include <stdlib.h>

struct heap_entry {
	uint64_t key;
	int item;
};

struct heap {
	struct heap_entry *entries;
	int *at; /* of each item; -1: never put, or popped */
	size_t count;
};

static inline void heap_init(struct heap *h, size_t items)
{
	h->entries = xcalloc(items, sizeof *h->entries);
	h->at = xcalloc(items, sizeof *h->at);
	h->count = 0;
	for (size_t i = 0; i < items; i++)
		h->at[i] = -1;
}

static inline void heap_free(struct heap *h)
{
	free(h->entries);
	free(h->at);
}

static inline void heap_rise(struct heap *h, size_t i, struct heap_entry e)
{
	while (i > 0 && e.key < h->entries[(i - 1) / 4].key) {
		h->entries[i] = h->entries[(i - 1) / 4];
		h->at[h->entries[i].item] = (int)i;
		i = (i - 1) / 4;
	}
	h->entries[i] = e;
	h->at[e.item] = (int)i;
}

static inline void heap_sink(struct heap *h, struct heap_entry e)
{
	size_t i = 0;

	for (;;) {
		size_t child = 4 * i + 1, least = child;
		size_t end = child + 4 < h->count ? child + 4 : h->count;

		if (child >= h->count)
			break;
		while (++child < end)
			if (h->entries[child].key < h->entries[least].key)
				least = child;
		if (e.key <= h->entries[least].key)
			break;
		h->entries[i] = h->entries[least];
		h->at[h->entries[i].item] = (int)i;
		i = least;
	}
	h->entries[i] = e;
	h->at[e.item] = (int)i;
}

/* Puts an item in, or lowers its key. */
static inline void heap_put(struct heap *h, int item, uint64_t key)
{
	size_t i = h->at[item] >= 0 ? (size_t)h->at[item] : h->count++;

	heap_rise(h, i, (struct heap_entry){ key, item });
}

/* Takes out the item of the least key; -1 where there is none. */
static inline int heap_pop(struct heap *h)
{
	struct heap_entry top;

	if (h->count == 0)
		return -1;
	top = h->entries[0];
	h->at[top.item] = -1;
	if (--h->count > 0)
		heap_sink(h, h->entries[h->count]);
	return top.item;
}

#endif
