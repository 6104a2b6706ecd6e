/*
 * fuzz_journal.c - journal_open, journal_replay, changes_each and what puts them into data.mdb, with a journal of
 * whatever records, some of it damaged. The database is then as after one of them, and none behind it is passed over;
 * or it is refused.
 *
 * An input is steps: {RECORD, length (2), the bytes}, {FLIP, where (3), bits}, {COPY, unit (2) from unit (2)}, {GAP},
 * {AGAIN}. Records are written with the number and the digest that belong there, and the damage is done to these.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bytes.h"
#include "file.h"
#include "kv_changes.h"
#include "kv_journal.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORD, FLIP, COPY, GAP, AGAIN, WHATS };
enum { BLOCK = 4096, UNIT = 512, TAG = 16, AT_ID = 15 }; /* kv_journal.c */
enum { KEY_MOST = 511, RECORDS_MOST = 32, DAMAGES_MOST = 32, MAX_BYTES = 4 << 20 };

static char folder[] = "/dev/shm/fuzz_journal-XXXXXX";

static struct file {
	char path[64];
	char *bytes;
	size_t len;
} database, journal;

static uint64_t first; /* commit, of data.mdb */

struct run {
	struct kv *model;
	uint64_t after[RECORDS_MOST + 1]; /* digests of what there is after each record */
	unsigned records;
	bool damaged, nonsense;
	struct journal *journal;
	uint64_t number;
	const uint8_t *damages[DAMAGES_MOST];
	unsigned damage_count;
};

/* ---- what is in a database ------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t digest, struct kv_slice s)
{
	digest = (digest ^ s.len) * 0x100000001b3;
	for (size_t i = 0; i < s.len; i++)
		digest = (digest ^ s.bytes[i]) * 0x100000001b3;
	return digest;
}

static uint64_t digest_of(struct kv *kv)
{
	uint64_t digest = 0xcbf29ce484222325;
	struct kv_slice key, value;
	uint8_t at[KEY_MOST];

	if (kv_begin(kv) != ST_OK)
		abort();
	for (int db = 0; db < KV_DBS; db++) {
		enum kv_seek how = KV_AT_OR_AFTER;

		key.len = 0;
		while (kv_seek(kv, (enum kv_db)db, how, (struct kv_slice){at, key.len}, &key, &value) == ST_OK) {
			digest = mix(mix(digest + (uint64_t)db, key), value);
			memcpy(at, key.bytes, key.len);
			how = KV_AFTER;
		}
	}
	kv_abort(kv);
	return digest;
}

static void put(struct kv *kv, enum kv_db db, struct kv_slice key, struct kv_slice value)
{
	uint8_t *room;

	if (kv_reserve(kv, db, key, value.len, &room) != ST_OK)
		abort();
	if (value.len > 0)
		memcpy(room, value.bytes, value.len);
}

static enum status apply(void *arg, enum kv_db db, struct kv_slice key, struct kv_slice value)
{
	struct run *r = arg;

	if (key.len == 0 || key.len > KEY_MOST) /* LMDB has no such key */
		return ST_STORAGE;
	if (value.bytes != NULL)
		put(r->model, db, key, value);
	else if (kv_delete(r->model, db, key) != ST_OK)
		abort();
	return ST_OK;
}

/* What is there before the first record. */
static void fill(struct kv *kv)
{
	static const uint8_t value[3000];

	if (kv_begin(kv) != ST_OK)
		abort();
	for (uint8_t i = 1; i <= 20; i++)
		put(kv, (enum kv_db)(i % KV_DBS), (struct kv_slice){&i, 1},
		    (struct kv_slice){value, i < 20 ? i : sizeof value});
	if (kv_commit(kv) != ST_OK)
		abort();
}

/* ---- the files ------------------------------------------------------------------------------------------ */

static void remove_all(void)
{
	unlink(database.path);
	unlink(journal.path);
	rmdir(folder);
}

static void keep(struct file *f)
{
	struct err e;

	if (file_read(f->path, MAX_BYTES, &f->bytes, &f->len, &e) != ST_OK)
		abort();
}

static void restore(const struct file *f)
{
	int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	if (fd < 0 || !file_write_all(fd, f->bytes, f->len) || close(fd) != 0)
		abort();
}

static void set_up(void)
{
	struct kv *kv;
	struct err e;

	log_open("fuzz_journal", LOG_LEVEL_FATAL);
	if (mkdtemp(folder) == NULL)
		abort();
	atexit(remove_all);
	snprintf(database.path, sizeof database.path, "%s/data.mdb", folder);
	snprintf(journal.path, sizeof journal.path, "%s/journal", folder);
	if (kv_lmdb_open(&kv, folder, MAX_BYTES, &e) != ST_OK)
		abort();
	fill(kv);
	first = kv_number(kv) - 1;
	kv_close(kv);
	keep(&database);
	keep(&journal);
}

/* ---- the journal of an input ---------------------------------------------------------------------------- */

static size_t add_record(struct run *r, const uint8_t *data, size_t size)
{
	size_t len = size < 2 ? 0 : (size_t)get_be(data, 2);

	if (size < 2 || r->records == RECORDS_MOST)
		return size;
	if (len > size - 2)
		len = size - 2;
	if (!journal_has_room(r->journal, len))
		return 2 + len;
	if (!journal_add(r->journal, ++r->number, data + 2, len))
		abort();
	if (!r->nonsense) {
		if (kv_begin(r->model) != ST_OK)
			abort();
		r->nonsense = changes_each(data + 2, len, apply, r) != ST_OK;
		if (r->nonsense)
			kv_abort(r->model);
		else if (kv_commit(r->model) != ST_OK)
			abort();
		else
			r->after[++r->records] = digest_of(r->model);
	}
	return 2 + len;
}

/* It is done when all records are there. */
static size_t add_damage(struct run *r, const uint8_t *step, size_t size)
{
	if (size < 4)
		return size;
	r->damaged = true;
	if (r->damage_count < DAMAGES_MOST)
		r->damages[r->damage_count++] = step;
	return 4;
}

static void write_journal(struct run *r, const uint8_t *data, size_t size)
{
	while (size > 0) {
		uint8_t what = data[0] % WHATS;
		size_t used = 0;

		if (what == RECORD)
			used = add_record(r, data + 1, size - 1);
		else if (what == FLIP || what == COPY)
			used = add_damage(r, data, size - 1);
		else if (what == GAP)
			r->number++;
		else
			journal_restart(r->journal);
		r->damaged = r->damaged || what == GAP || what == AGAIN;
		data += 1 + used;
		size -= 1 + used;
	}
}

static void do_damage(const struct run *r)
{
	struct file f = journal;
	struct err e;

	if (file_read(f.path, MAX_BYTES, &f.bytes, &f.len, &e) != ST_OK)
		abort();
	for (unsigned i = 0; i < r->damage_count; i++) {
		const uint8_t *d = r->damages[i];
		size_t to = (size_t)get_be(d + 1, 2) % (f.len / UNIT), from = (size_t)get_be(d + 3, 2) % (f.len / UNIT);

		if (d[0] % WHATS == FLIP)
			f.bytes[get_be(d + 1, 3) % f.len] ^= (char)d[4];
		else
			memmove(f.bytes + to * UNIT, f.bytes + from * UNIT, UNIT);
	}
	restore(&f);
	free(f.bytes);
}

/* Of all units' numbers; what no record was given is not one. */
static uint64_t greatest_number(uint64_t last)
{
	struct file f = journal;
	uint64_t greatest = 0;
	struct err e;

	if (file_read(f.path, MAX_BYTES, &f.bytes, &f.len, &e) != ST_OK)
		abort();
	for (size_t at = BLOCK + UNIT - TAG; at < f.len; at += UNIT) {
		uint64_t number = get_be((uint8_t *)f.bytes + at, 8);

		if (number == ~get_be((uint8_t *)f.bytes + at + 8, 8) && number <= last && number > greatest)
			greatest = number;
	}
	free(f.bytes);
	return greatest;
}

/* ---- the database that comes of it ---------------------------------------------------------------------- */

/* Writes, and opens once more: what was read is there. */
static void go_on(struct kv *kv, uint64_t digest)
{
	static const uint8_t new[] = "new";
	struct err e;

	kv_close(kv);
	if (kv_lmdb_open(&kv, folder, MAX_BYTES, &e) != ST_OK || digest_of(kv) != digest || kv_begin(kv) != ST_OK)
		abort();
	put(kv, KV_NOTE, (struct kv_slice){new, 3}, (struct kv_slice){new, 3});
	if (kv_commit(kv) != ST_OK)
		abort();
	digest = digest_of(kv);
	kv_close(kv);
	if (kv_lmdb_open(&kv, folder, MAX_BYTES, &e) != ST_OK || digest_of(kv) != digest)
		abort();
	kv_close(kv);
}

static void check(const struct run *r)
{
	uint64_t greatest = greatest_number(r->number), opened, digest;
	struct kv *kv;
	struct err e;

	if (kv_lmdb_open(&kv, folder, MAX_BYTES, &e) != ST_OK) {
		if ((!r->damaged && !r->nonsense) || strlen(e.text) < 20)
			abort();
		return;
	}
	opened = kv_number(kv) - 1 - first;
	digest = digest_of(kv);
	if (opened > r->records || digest != r->after[opened])
		abort();
	if (!r->damaged && (r->nonsense || opened != r->records))
		abort();
	if (greatest > first + opened + 1) /* the next one may be there in part */
		abort();
	go_on(kv, digest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run r = {.model = kv_memory_new(), .number = 0};
	struct id id;
	struct err e;

	if (database.bytes == NULL)
		set_up();
	r.number = first;
	fill(r.model);
	r.after[0] = digest_of(r.model);
	restore(&database);
	restore(&journal);
	memcpy(id.bytes, journal.bytes + AT_ID, ID_LEN);
	if (journal_open(&r.journal, journal.path, &id, &e) != ST_OK)
		abort();
	write_journal(&r, data, size);
	journal_close(r.journal);
	do_damage(&r);
	check(&r);
	kv_close(r.model);
	return 0;
}
