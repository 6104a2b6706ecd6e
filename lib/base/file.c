/* file.c - whole files. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"

enum status file_check_private(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return err_set(e, ST_CONFIGURATION, "%s: %s", path, strerror(errno));
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return err_set(e, ST_CONFIGURATION, "%s: owned by user %u: chown it to the daemon's user or root",
		               path, (unsigned)st.st_uid);
	if ((st.st_mode & 077) != 0)
		return err_set(e, ST_CONFIGURATION, "%s: mode %04o lets others at it: chmod go= it", path,
		               (unsigned)(st.st_mode & 07777));
	return ST_OK;
}

/* Reads up to max + 1 bytes into p, so that a longer file shows. -1 with errno set. */
static ssize_t read_up_to(const char *path, uint8_t *p, size_t max)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t got = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -1;
	while (got <= max && (n = read(fd, p + got, max + 1 - got)) != 0) {
		if (n < 0 && errno != EINTR)
			break;
		if (n > 0)
			got += (size_t)n;
	}
	close(fd);
	return n < 0 ? -1 : (ssize_t)got;
}

static enum status read_failed(const char *path, ssize_t n, size_t max, struct err *e)
{
	if (n < 0)
		return err_set(e, ST_CONFIGURATION, "reading %s: %s", path, strerror(errno));
	return err_set(e, ST_CONFIGURATION, "reading %s: longer than %zu bytes", path, max);
}

enum status file_read(const char *path, size_t max, char **text, size_t *len, struct err *e)
{
	char *p = xcalloc(1, max + 2);
	ssize_t n = read_up_to(path, (uint8_t *)p, max);

	if (n < 0 || (size_t)n > max) {
		free(p);
		return read_failed(path, n, max, e);
	}
	*text = p;
	*len = (size_t)n;
	p[n] = '\0';
	return ST_OK;
}

enum status file_read_secret(const char *path, size_t max, struct secret *s, struct err *e)
{
	struct secret room = { NULL, 0 };
	enum status status = file_check_private(path, e);
	ssize_t n;

	if (status != ST_OK)
		return status;
	secret_alloc(&room, max + 1);
	n = read_up_to(path, room.bytes, max);
	if (n < 0 || (size_t)n > max)
		status = read_failed(path, n, max, e);
	else
		secret_copy(s, room.bytes, (size_t)n);
	secret_free(&room);
	return status;
}

bool file_write_all(int fd, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	while (len > 0) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return true;
}

bool file_sync_folder(const char *path)
{
	char *copy = xstrdup(path);
	int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok = fd >= 0 && fsync(fd) == 0;

	if (fd >= 0)
		close(fd);
	free(copy);
	return ok;
}

enum status file_rename(const char *from, const char *to, struct err *e)
{
	if (rename(from, to) == 0 && file_sync_folder(to))
		return ST_OK;
	return err_set(e, ST_STORAGE, "putting %s in the place of %s: %s", from, to, strerror(errno));
}

void file_overwrite(int fd)
{
	static const uint8_t zeros[4096];
	struct stat st;
	off_t at = 0;
	ssize_t n = 0;

	for (; fstat(fd, &st) == 0 && at < st.st_size; at += n) {
		off_t rest = st.st_size - at;

		n = pwrite(fd, zeros, rest < (off_t)sizeof zeros ? (size_t)rest : sizeof zeros, at);
		if (n <= 0)
			break;
	}
	if (n < 0 || fsync(fd) != 0)
		log_warning("what a replaced file of secrets held could not be overwritten: %s", strerror(errno));
}

enum status file_write(const char *path, const void *bytes, size_t len, unsigned mode, struct err *e)
{
	char *fresh = xasprintf("%s.new", path);
	enum status status = ST_OK;
	bool ok;
	int fd;

	unlink(fresh);
	fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, (mode_t)mode);
	ok = fd >= 0 && file_write_all(fd, bytes, len) && fsync(fd) == 0;
	if (fd >= 0 && close(fd) != 0)
		ok = false;
	if (!ok || rename(fresh, path) != 0 || !file_sync_folder(path)) {
		status = err_set(e, ST_STORAGE, "writing %s: %s", path, strerror(errno));
		unlink(fresh);
	}
	free(fresh);
	return status;
}
