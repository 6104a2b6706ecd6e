/*
 * kv_lmdb_check.c - looks over the tree of an LMDB file before LMDB does.
 *
 * LMDB believes what it reads: a flipped bit in a page's header, in a page number or in the list of
 * free pages leads it outside the file, or lets it write over keys. This reads the roots, the branch and leaf
 * pages and the list of free pages (one page in forty; what the other pages hold is sealed) and refuses what
 * cannot be. The layout is that of LMDB 0.9's lmdb.h and mdb.c, data version 1, on 64-bit machines.
 *
 * It must refuse nothing that LMDB may leave: a refusal costs all keys. Entries fill their pages without gaps,
 * always; but a value that is shortened within a transaction, of which kv_lmdb.c makes one of many commits,
 * keeps its pages.
 */
#include "kv_lmdb_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "advice.h"

enum {
	PAGE_HEAD = 16, /* number (8), padding (2), flags (2), lower (2), upper (2) or pages (4) */
	NODE_HEAD = 8,  /* length (4), flags (2), key's length (2) */
	DB_LEN =
	    48, /* padding (4), flags (2), depth (2), branches, leaves, overflows, entries, root (8 each) */
	META_LEN = 16 + 8 + 8 + 8 + 2 * DB_LEN + 8 + 8,
	DEPTH_MAX = 32,
	UNWRITTEN_MAX = 1 << 18, /* pages that a transaction took and gave back */
	PAGE_BRANCH = 1,
	PAGE_LEAF = 2,
	PAGE_META = 8,
	NODE_BIG = 1,
	NODE_DB = 2,
	KEYS_ARE_NUMBERS = 8, /* of a database; those of the free pages */
	KINDS_OF_KEYS = 0x7f, /* the other bits are the environment's, in the free pages' flags */
	FREE_PAGES = 0, /* the first of a root's two databases */
	MAIN = 1,
};

struct db {
	uint64_t branches, leaves, overflows, entries, root;
	unsigned depth, flags;
};

struct meta {
	uint64_t last_page, txn;
	uint32_t page_size;
	struct db dbs[2];
};

struct walk {
	const uint8_t *file;
	uint64_t pages; /* of the file */
	uint64_t last_page;
	size_t page_size;
	uint8_t *used;  /* a bit a page */
	struct db seen; /* of the database that is walked */
	bool is_main;
	const char *wrong;
};

static uint64_t number(const uint8_t *p, size_t len)
{
	uint64_t v = 0;

	memcpy(&v, p, len); /* LMDB's files are in the machine's order, and we in a little-endian one */
	return v;
}

static bool fails(struct walk *w, const char *what)
{
	w->wrong = what;
	return false;
}

static struct db read_db(const uint8_t *p)
{
	return (struct db){.flags = (unsigned)number(p + 4, 2),
			   .depth = (unsigned)number(p + 6, 2),
			   .branches = number(p + 8, 8),
			   .leaves = number(p + 16, 8),
			   .overflows = number(p + 24, 8),
			   .entries = number(p + 32, 8),
			   .root = number(p + 40, 8)};
}

static bool mark(struct walk *w, uint64_t page, uint64_t count, uint64_t limit)
{
	for (uint64_t i = 0; i < count; i++, page++) {
		if (page < 2 || page > w->last_page || page >= limit)
			return fails(w, "a page number points outside");
		if (w->used[page / 8] >> page % 8 & 1)
			return fails(w, "a page is used twice");
		w->used[page / 8] |= (uint8_t)(1 << page % 8);
	}
	return true;
}

static bool walk_db(struct walk *w, struct db db, bool is_main, bool is_free);

/* Pages that are said to be free: in no tree, and each once. Only after all trees were walked. */
static bool mark_free(struct walk *w, const uint8_t *list, size_t len)
{
	uint64_t count = len >= 8 ? number(list, 8) : UINT64_MAX;

	if (count > len / 8 - 1)
		return fails(w, "the list of free pages is too long");
	for (uint64_t i = 1; i <= count; i++)
		if (!mark(w, number(list + 8 * i, 8), 1,
			  UINT64_MAX)) /* the last ones may never have been written */
			return false;
	return true;
}

struct node {
	const uint8_t *key, *data;
	size_t at, key_len, data_len; /* data_len: of what is in the page */
	uint64_t value_len;
	unsigned flags;
};

static bool read_node(struct walk *w, const uint8_t *page, unsigned i, bool leaf, struct node *n)
{
	size_t at = (size_t)number(page + PAGE_HEAD + 2 * i, 2);
	const uint8_t *p = page + at;
	size_t left;

	if (at < PAGE_HEAD || at + NODE_HEAD > w->page_size)
		return fails(w, "an entry lies outside its page");
	left = w->page_size - at - NODE_HEAD;
	n->at = at;
	n->flags = (unsigned)number(p + 4, 2);
	n->key_len = (size_t)number(p + 6, 2);
	n->key = p + NODE_HEAD;
	if (n->key_len > left)
		return fails(w, "an entry lies outside its page");
	n->data = n->key + n->key_len;
	n->value_len = number(p, 4);
	n->data_len = !leaf ? 0 : n->flags & NODE_BIG ? 8 : (size_t)n->value_len;
	if (n->data_len > left - n->key_len)
		return fails(w, "an entry lies outside its page");
	if (leaf && (n->flags & ~(unsigned)(NODE_BIG | NODE_DB)) != 0)
		return fails(w, "an entry is of no known kind");
	return true;
}

static int compare(const struct node *a, const struct node *b, bool is_free)
{
	size_t shorter = a->key_len < b->key_len ? a->key_len : b->key_len;
	int c;

	if (is_free) { /* transaction numbers, in the machine's order */
		uint64_t x = number(a->key, 8), y = number(b->key, 8);

		return (x > y) - (x < y);
	}
	c = memcmp(a->key, b->key, shorter);
	return c != 0 ? c : (a->key_len > b->key_len) - (a->key_len < b->key_len);
}

static bool leaf_node(struct walk *w, const struct node *n, bool is_free)
{
	uint64_t pages, first;

	w->seen.entries++;
	if (n->flags & NODE_DB) {
		struct db outer = w->seen;
		bool ok;

		if (!w->is_main || n->data_len != DB_LEN)
			return fails(w, "an entry is of no known kind");
		ok = walk_db(w, read_db(n->data), false, false);
		w->seen = outer;
		w->is_main = true;
		return ok;
	}
	if (n->flags & NODE_BIG) {
		first = number(n->data, 8);
		pages = (n->value_len + PAGE_HEAD + w->page_size - 1) / w->page_size;
		/* the head of a value of many pages says how many: the list of free pages is worth a look */
		if (is_free && first < w->pages) {
			uint64_t said = number(w->file + first * w->page_size + 12, 4);

			if (said < pages)
				return fails(w, "a page is of no known kind");
			pages = said;
		}
		w->seen.overflows += pages;
		if (!mark(w, first, pages, w->pages))
			return false;
	}
	return true;
}

/* What an entry takes of its page: entries begin at even places. */
static size_t node_room(const struct node *n)
{
	return (NODE_HEAD + n->key_len + n->data_len + 1) / 2 * 2;
}

static bool walk_page(struct walk *w, uint64_t number_of, unsigned depth, bool is_free)
{
	const uint8_t *page;
	struct node n, before;
	unsigned flags, lower, upper, count;
	size_t room = 0, lowest;
	bool leaf;

	if (!mark(w, number_of, 1, w->pages))
		return false;
	page = w->file + number_of * w->page_size;
	flags = (unsigned)number(page + 10, 2);
	lower = (unsigned)number(page + 12, 2);
	upper = (unsigned)number(page + 14, 2);
	leaf = depth == 1;
	if (number(page, 8) != number_of || flags != (leaf ? PAGE_LEAF : PAGE_BRANCH))
		return fails(w, "a page is not what its parent says");
	if (lower < PAGE_HEAD || lower > upper || upper > w->page_size || lower % 2 != 0)
		return fails(w, "a page's head is wrong");
	count = (lower - PAGE_HEAD) / 2;
	if (count < (leaf ? 1 : 2))
		return fails(w, "a page is empty");
	*(leaf ? &w->seen.leaves : &w->seen.branches) += 1;
	lowest = w->page_size;
	for (unsigned i = 0; i < count; i++) {
		if (!read_node(w, page, i, leaf, &n))
			return false;
		if (is_free && (leaf || i > 0) && n.key_len != 8)
			return fails(w, "the list of free pages has a wrong key");
		if (i > (leaf ? 0 : 1) &&
		    compare(&before, &n, is_free) >= 0) /* a branch's first key is not used */
			return fails(w, "entries are out of order");
		before = n;
		room += node_room(&n);
		lowest = n.at < lowest ? n.at : lowest;
		if (leaf ? !leaf_node(w, &n, is_free)
			 : !walk_page(w, n.value_len | (uint64_t)n.flags << 32, depth - 1, is_free))
			return false;
	}
	/* new ones are put below upper, whatever lies there */
	if (lowest != upper || room != w->page_size - upper)
		return fails(w, "entries lie over others, or apart");
	return true;
}

static bool walk_db(struct walk *w, struct db db, bool is_main, bool is_free)
{
	w->seen = (struct db){.depth = db.depth, .root = db.root};
	w->is_main = is_main;
	if (is_free ? (db.flags & KINDS_OF_KEYS) != KEYS_ARE_NUMBERS : db.flags != 0)
		return fails(w, "a tree is of no known kind");
	if (db.root == UINT64_MAX)
		return (db.entries == 0 && db.depth == 0) || fails(w, "an empty tree has entries");
	if (db.depth == 0 || db.depth > DEPTH_MAX)
		return fails(w, "a tree's depth is wrong");
	if (!walk_page(w, db.root, db.depth, is_free))
		return false;
	/* a value that is shortened within a transaction keeps the pages that it had */
	if (w->seen.entries != db.entries || w->seen.leaves != db.leaves || w->seen.branches != db.branches ||
	    w->seen.overflows > db.overflows)
		return fails(w, "a tree has lost or won pages");
	return true;
}

/* What the leaves of the list of free pages say is free. The tree itself is known to be sound. */
static bool check_free(struct walk *w, uint64_t page_number, unsigned depth)
{
	const uint8_t *page = w->file + page_number * w->page_size;
	unsigned count = ((unsigned)number(page + 12, 2) - PAGE_HEAD) / 2;

	for (unsigned i = 0; i < count; i++) {
		struct node n;
		const uint8_t *list;

		if (!read_node(w, page, i, depth == 1, &n))
			return false;
		if (depth > 1) {
			if (!check_free(w, n.value_len | (uint64_t)n.flags << 32, depth - 1))
				return false;
			continue;
		}
		list = n.flags & NODE_BIG ? w->file + number(n.data, 8) * w->page_size + PAGE_HEAD : n.data;
		if (!mark_free(w, list, (size_t)n.value_len))
			return false;
	}
	return true;
}

static bool read_meta(struct walk *w, unsigned i, struct meta *m)
{
	const uint8_t *p = w->file + i * w->page_size, *meta = p + PAGE_HEAD, *dbs = meta + 24;

	if (number(p + 10, 2) != PAGE_META || number(meta, 4) != 0xBEEFC0DE || number(meta + 4, 4) != 1)
		return fails(w, "a root is of no known kind");
	m->page_size = (uint32_t)number(dbs, 4);
	m->dbs[FREE_PAGES] = read_db(dbs);
	m->dbs[MAIN] = read_db(dbs + DB_LEN);
	m->last_page = number(dbs + 2 * DB_LEN, 8);
	m->txn = number(dbs + 2 * DB_LEN + 8, 8);
	return true;
}

static bool check(struct walk *w)
{
	struct meta metas[2], *newest;
	bool fresh;

	for (unsigned i = 0; i < 2; i++)
		if (!read_meta(w, i, &metas[i]))
			return false;
	fresh = metas[0].txn == 0 && metas[1].txn == 0;
	newest = &metas[metas[1].txn > metas[0].txn];
	if (!fresh && ((metas[0].txn & 1) != 0 || (metas[1].txn & 1) == 0 ||
		       newest->txn != metas[newest == metas].txn + 1))
		return fails(w, "the roots do not follow each other");
	if (newest->page_size != w->page_size || metas[0].page_size != metas[1].page_size)
		return fails(w, "the size of a page is wrong");
	if (newest->last_page > w->pages + UNWRITTEN_MAX)
		return fails(w, "it is cut short");
	w->last_page = newest->last_page;
	w->used = xcalloc(1, (size_t)((w->pages > w->last_page ? w->pages : w->last_page) / 8 + 1));
	return walk_db(w, newest->dbs[MAIN], true, false) &&
	       walk_db(w, newest->dbs[FREE_PAGES], false, true) &&
	       (newest->dbs[FREE_PAGES].root == UINT64_MAX ||
		check_free(w, newest->dbs[FREE_PAGES].root, newest->dbs[FREE_PAGES].depth));
}

enum status kv_lmdb_check(const char *path, struct err *e)
{
	struct walk w = {.page_size = (size_t)sysconf(_SC_PAGESIZE)};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *map;
	bool ok;

	if (fd < 0 || fstat(fd, &st) != 0) {
		err_set(e, ST_STORAGE, "opening %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return ST_STORAGE;
	}
	w.pages = (uint64_t)st.st_size / w.page_size;
	if (w.pages <
	    2) { /* killed while it was made: nothing was ever in it, which the generation vouches for */
		close(fd);
		return ST_OK;
	}
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED)
		return err_set(e, ST_STORAGE, "mapping %s: %s", path, strerror(errno));
	w.file = map;
	ok = check(&w);
	free(w.used);
	munmap(map, (size_t)st.st_size);
	if (!ok)
		return err_set(e, ST_STORAGE,
			       "%s is damaged: %s: check the disk, and " START_EMPTY,
			       path, w.wrong);
	return ST_OK;
}
