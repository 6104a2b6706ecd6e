/*
 * kv_journal.c - a file of numbered records, each durable with one write.
 *
 * The file is written from end to end when it is made, so that a record needs no change of the file
 * system's own: one write, one flush. Behind a block that says whose it is come the records, one after
 * another from the start, numbered without gaps. When they are needed no longer the next one is written
 * over the first, and what is left of the older ones behind it is known by its smaller number.
 *
 * A block is 4096 bytes, which no two records share: a write never touches what was acknowledged. It is
 * eight units of 512, the least that a disk writes whole, and each ends with the number of its record and
 * that number's complement. The bytes before, those of all units together, are
 *
 *     digest (32) | journal's ID (16) | number (8) | length (4) | its complement (4) | the record | zeros
 *
 * with the SHA-256 of all behind it. So three things can be told apart that all look like the end of the
 * journal:
 *
 * - A unit has the number of an older record, or none: it was never written. The write was cut short,
 *   which means that nobody was told of the record. It is forgotten.
 * - All units have the number, and the digest is not theirs, or a number is not its complement's: it was
 *   written, and damaged since. Somebody may have been told, so the store is refused.
 * - A greater number lies behind: records are missing. Refused, too.
 */
#include "kv_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "advice.h"
#include "bytes.h"
#include "file.h"
#include "log.h"

enum {
	BLOCK = 4096,
	UNIT = 512,
	UNITS = BLOCK / UNIT, /* a block */
	TAG = 16,
	PIECE = UNIT - TAG,
	DIGEST = 32,
	AT_ID = DIGEST,
	AT_NUMBER = AT_ID + ID_LEN,
	AT_LEN = AT_NUMBER + 8,
	HEAD = AT_LEN + 8,
	MAGIC_LEN = 15,
	BLOCKS_MOST = 1 << 15, /* in a file */
	BLOCKS_AT_ONCE = 16,   /* where many are read or written */
};

#define BROKEN UINT64_MAX /* a tag that was never written so */

static const char magic[MAGIC_LEN + 1] = "qkdn journal 1\n";

struct journal {
	char *path;
	int fd;
	struct id id;
	size_t blocks; /* without the first */
	size_t next;   /* where the next record begins */
	uint8_t *plain, *image;
	size_t room; /* blocks that these two have room for */
};

static size_t blocks_of(size_t len)
{
	return (HEAD + len + UNITS * PIECE - 1) / (UNITS * PIECE);
}

static void make_room(struct journal *j, size_t blocks)
{
	if (blocks <= j->room)
		return;
	free(j->plain);
	free(j->image);
	j->room = blocks;
	j->plain = xcalloc(blocks, UNITS * PIECE);
	j->image = xcalloc(blocks, BLOCK);
}

static void make_digest(const uint8_t *plain, size_t len, uint8_t digest[DIGEST])
{
	if (EVP_Digest(plain + DIGEST, len - DIGEST, digest, NULL, EVP_sha256(), NULL) != 1)
		log_fatal("key store: SHA-256 failed in the cryptographic library");
}

/* All of it, however often the system has to be asked. false: errno says why; EIO where the file ends before. */
static bool transfer(int fd, uint8_t *p, size_t len, off_t at, bool in)
{
	while (len > 0) {
		ssize_t n = in ? pread(fd, p, len, at) : pwrite(fd, p, len, at);

		if (n == 0)
			errno = EIO;
		if (n == 0 || (n < 0 && errno != EINTR))
			return false;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
			at += n;
		}
	}
	return true;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static void to_units(const uint8_t *plain, size_t blocks, uint64_t number, uint8_t *image)
{
	for (size_t i = 0; i < blocks * UNITS; i++) {
		memcpy(image + i * UNIT, plain + i * PIECE, PIECE);
		put_be(image + i * UNIT + PIECE, number, 8);
		put_be(image + i * UNIT + PIECE + 8, ~number, 8);
	}
}

bool journal_has_room(const struct journal *j, size_t len)
{
	return blocks_of(len) <= j->blocks - j->next;
}

bool journal_add(struct journal *j, uint64_t number, const uint8_t *bytes, size_t len)
{
	size_t blocks = blocks_of(len), plain_len = blocks * UNITS * PIECE;

	make_room(j, blocks);
	memcpy(j->plain + AT_ID, j->id.bytes, ID_LEN);
	put_be(j->plain + AT_NUMBER, number, 8);
	put_be(j->plain + AT_LEN, len, 4);
	put_be(j->plain + AT_LEN + 4, ~(uint64_t)len, 4);
	memcpy(j->plain + HEAD, bytes, len);
	memset(j->plain + HEAD + len, 0, plain_len - HEAD - len);
	make_digest(j->plain, plain_len, j->plain);
	to_units(j->plain, blocks, number, j->image);
	if (!transfer(j->fd, j->image, blocks * BLOCK, (off_t)((1 + j->next) * BLOCK), false))
		return false;
	j->next += blocks;
	return true;
}

void journal_restart(struct journal *j)
{
	j->next = 0;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* The number of the record that a unit is of; 0: it was never written. */
static uint64_t number_of(const uint8_t *unit)
{
	uint64_t number = get_be(unit + PIECE, 8), complement = get_be(unit + PIECE + 8, 8);

	if (number == 0 && complement == 0)
		return 0;
	return number == ~complement ? number : BROKEN;
}

/* Whether the record's first bytes are whole, and the blocks that they say it has are all in the file. */
static bool length_of(const uint8_t *unit, size_t blocks_left, size_t *len)
{
	*len = (size_t)get_be(unit + AT_LEN, 4);
	return *len == (uint32_t)~get_be(unit + AT_LEN + 4, 4) && blocks_of(*len) <= blocks_left;
}

static bool read_blocks(struct journal *j, size_t at, size_t blocks)
{
	make_room(j, blocks);
	return transfer(j->fd, j->image, blocks * BLOCK, (off_t)((1 + at) * BLOCK), true);
}

enum found { WHOLE, NEVER_WRITTEN, DAMAGED, UNREADABLE };

/* All its units are in j->image, and of its number. */
static bool is_whole(struct journal *j, size_t blocks, uint64_t number)
{
	uint8_t digest[DIGEST];

	for (size_t i = 0; i < blocks * UNITS; i++)
		memcpy(j->plain + i * PIECE, j->image + i * UNIT, PIECE);
	make_digest(j->plain, blocks * UNITS * PIECE, digest);
	return memcmp(digest, j->plain, DIGEST) == 0 && memcmp(j->plain + AT_ID, j->id.bytes, ID_LEN) == 0 &&
	       get_be(j->plain + AT_NUMBER, 8) == number;
}

/* The record of that number at a block: its bytes behind HEAD in j->plain. */
static enum found read_record(struct journal *j, size_t at, uint64_t number, size_t *len)
{
	uint64_t tag = 0;
	bool all = true;
	size_t blocks;

	if (at < j->blocks && !read_blocks(j, at, 1))
		return UNREADABLE;
	if (at < j->blocks)
		tag = number_of(j->image);
	if (tag != number)
		return tag < number ? NEVER_WRITTEN : DAMAGED;
	if (!length_of(j->image, j->blocks - at, len))
		return DAMAGED;
	blocks = blocks_of(*len);
	if (!read_blocks(j, at, blocks))
		return UNREADABLE;
	for (size_t i = 0; i < blocks * UNITS; i++) {
		tag = number_of(j->image + i * UNIT);
		if (tag > number)
			return DAMAGED;
		all = all && tag == number;
	}
	return !all ? NEVER_WRITTEN : is_whole(j, blocks, number) ? WHOLE : DAMAGED;
}

static enum status damaged(const struct journal *j, uint64_t number, const char *what, struct err *e)
{
	return err_set(e, ST_STORAGE,
		       "%s: %s (commit %llu): keys may have been used that the store without it still has. "
		       "Put the newest data.mdb and journal back, both of one moment; if they are lost, " START_EMPTY
		       "; check the disk",
		       j->path, what, (unsigned long long)number);
}

static enum status unreadable(const struct journal *j, struct err *e)
{
	return err_set(e, ST_STORAGE, "reading %s: %s", j->path, strerror(errno));
}

/* No unit of the file is of a greater number. */
static enum status check_rest(struct journal *j, uint64_t number, struct err *e)
{
	for (size_t at = 0, n; at < j->blocks; at += n) {
		n = j->blocks - at < BLOCKS_AT_ONCE ? j->blocks - at : BLOCKS_AT_ONCE;
		if (!read_blocks(j, at, n))
			return unreadable(j, e);
		for (size_t i = 0; i < n * UNITS; i++) {
			uint64_t tag = number_of(j->image + i * UNIT);

			if (tag != BROKEN && tag > number)
				return damaged(j, number, "a record in it is missing", e);
		}
	}
	return ST_OK;
}

/* The number that the first record has; from + 1 where there never was one. */
static enum status first_number(struct journal *j, uint64_t from, uint64_t *number, struct err *e)
{
	if (!read_blocks(j, 0, 1))
		return unreadable(j, e);
	*number = number_of(j->image);
	if (*number == BROKEN)
		return damaged(j, from + 1, "a record in it is damaged", e);
	if (*number > from + 1)
		return damaged(j, from + 1, "it begins after the last commit in data.mdb, which is older", e);
	if (*number == 0)
		*number = from + 1;
	return ST_OK;
}

enum status journal_replay(struct journal *j, uint64_t from, uint64_t most, uint64_t *last, journal_apply apply,
			   void *arg, struct err *e)
{
	size_t at = 0, len;
	uint64_t number = 0;
	enum found found = WHOLE;
	enum status s = first_number(j, from, &number, e);

	*last = from;
	for (; s == ST_OK && number <= most; number++) {
		found = read_record(j, at, number, &len);
		if (found != WHOLE)
			break;
		at += blocks_of(len);
		if (number <= from) /* data.mdb has it */
			continue;
		s = apply(arg, j->plain + HEAD, len);
		if (s != ST_OK)
			return err_set(e, s, "%s: commit %llu cannot be put into data.mdb", j->path,
				       (unsigned long long)number);
		*last = number;
	}
	if (s != ST_OK || found == WHOLE)
		return s;
	if (found == UNREADABLE)
		return unreadable(j, e);
	if (found == DAMAGED && number > from)
		return damaged(j, number, "a record in it is damaged", e);
	return check_rest(j, number > from ? number : from + 1, e); /* that one may be there in part */
}

/* ---- the file ------------------------------------------------------------------------------------------- */

/* The first block: whose journal it is, and its length, so that one cut short is noticed. */
static void make_first(uint8_t *block, const struct id *id, size_t blocks)
{
	memcpy(block, magic, MAGIC_LEN);
	memcpy(block + MAGIC_LEN, id->bytes, ID_LEN);
	put_be(block + MAGIC_LEN + ID_LEN, blocks, 4);
}

static bool write_empty(int fd, const struct id *id, size_t blocks)
{
	uint8_t some[BLOCKS_AT_ONCE * BLOCK] = {0};

	make_first(some, id, blocks);
	for (size_t at = 0, n; at < blocks; at += n) {
		n = blocks - at < BLOCKS_AT_ONCE ? blocks - at : BLOCKS_AT_ONCE;
		if (!file_write_all(fd, some, n * BLOCK))
			return false;
		memset(some, 0, BLOCK);
	}
	return fsync(fd) == 0;
}

enum status journal_create(const char *path, const struct id *id, size_t bytes, struct err *e)
{
	char *fresh = xasprintf("%s.new", path);
	int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	enum status s = ST_OK;

	if (fd < 0 || !write_empty(fd, id, bytes / BLOCK))
		s = err_set(e, ST_STORAGE, "writing %s: %s", fresh, strerror(errno));
	if (fd >= 0)
		close(fd);
	if (s == ST_OK)
		s = file_rename(fresh, path, e);
	free(fresh);
	return s;
}

static enum status check_file(struct journal *j, struct err *e)
{
	uint8_t first[BLOCK], expected[BLOCK] = {0};
	struct stat st;

	if (fstat(j->fd, &st) != 0)
		return err_set(e, ST_STORAGE, "%s: %s", j->path, strerror(errno));
	make_first(expected, &j->id, (size_t)st.st_size / BLOCK);
	if (st.st_size < 2 * BLOCK || st.st_size % BLOCK != 0 || st.st_size / BLOCK > BLOCKS_MOST ||
	    !transfer(j->fd, first, BLOCK, 0, true) || memcmp(first, expected, BLOCK) != 0)
		return err_set(e, ST_STORAGE,
			       "%s: damaged, or not the journal of the data.mdb beside it: put back the one that belongs "
			       "to it, or " START_EMPTY,
			       j->path);
	j->blocks = (size_t)st.st_size / BLOCK - 1;
	return ST_OK;
}

enum status journal_open(struct journal **out, const char *path, const struct id *id, struct err *e)
{
	struct journal *j;
	enum status s;

	if (access(path, F_OK) != 0)
		return err_set(e, ST_STORAGE,
			       "%s: missing: the newest commits may be in it alone: put it back, or " START_EMPTY,
			       path);
	s = file_check_private(path, e);
	if (s != ST_OK)
		return s;
	j = xcalloc(1, sizeof *j);
	j->path = xstrdup(path);
	j->id = *id;
	j->fd = open(path, O_RDWR | O_DSYNC | O_CLOEXEC);
	s = j->fd < 0 ? err_set(e, ST_STORAGE, "opening %s: %s", path, strerror(errno)) : check_file(j, e);
	if (s != ST_OK) {
		journal_close(j);
		return s;
	}
	*out = j;
	return ST_OK;
}

void journal_close(struct journal *j)
{
	if (j == NULL)
		return;
	if (j->fd >= 0)
		close(j->fd);
	free(j->plain);
	free(j->image);
	free(j->path);
	free(j);
}

bool journal_was_written(const char *path)
{
	uint8_t block[BLOCK];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool written = false;

	if (fd < 0)
		return false;
	if (lseek(fd, BLOCK, SEEK_SET) == BLOCK)
		while (!written && read(fd, block, BLOCK) == BLOCK)
			for (int i = 0; i < UNITS; i++)
				written = written || number_of(block + i * UNIT) != 0;
	close(fd);
	return written;
}
