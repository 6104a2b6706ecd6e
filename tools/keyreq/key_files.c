/* key_files.c - writes keys into a folder, durably. */
#include "key_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file.h"

enum status key_files_open(const char *folder, int *fd, struct err *e)
{
	bool made = mkdir(folder, 0700) == 0;
	struct stat st;

	if (!made && errno != EEXIST)
		return err_set(e, ST_CONFIGURATION, "making the folder %s: %s", folder, strerror(errno));
	*fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*fd < 0 || fstat(*fd, &st) != 0 || (made && !file_sync_folder(folder))) {
		err_set(e, ST_CONFIGURATION, "opening the folder %s: %s", folder, strerror(errno));
	} else if (st.st_uid != geteuid()) {
		err_set(e, ST_CONFIGURATION, "the folder %s belongs to user %u: name one of your own", folder,
		        (unsigned)st.st_uid);
	} else if ((st.st_mode & 077) != 0) {
		err_set(e, ST_CONFIGURATION, "the folder %s has mode %04o, which lets others in: chmod go= it, or name another",
		        folder, (unsigned)(st.st_mode & 07777));
	} else {
		return ST_OK;
	}
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	return e->status;
}

enum status key_files_check(int folder_fd, const char *folder, const struct qkdn_key_id *ids, size_t count,
                            struct err *e)
{
	char name[QKDN_KEY_ID_TEXT_LENGTH];

	for (size_t i = 0; i < count; i++) {
		qkdn_key_id_format(&ids[i], name);
		if (faccessat(folder_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			return err_set(e, ST_CONFIGURATION,
			               "%s/%s is there already: remove it, or name another folder; nothing was "
			               "fetched",
			               folder, name);
	}
	return ST_OK;
}

static bool write_one(int folder_fd, const char *name, const uint8_t *bytes, size_t len)
{
	int fd = openat(folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int error;

	if (fd < 0)
		return false;
	if (file_write_all(fd, bytes, len) && fsync(fd) == 0) {
		if (close(fd) == 0)
			return true;
		fd = -1;
	}
	error = errno;
	if (fd >= 0)
		close(fd);
	unlinkat(folder_fd, name, 0);
	errno = error;
	return false;
}

enum status key_files_write(int folder_fd, const char *folder, const struct qkdn_keys *keys, struct err *e)
{
	char name[QKDN_KEY_ID_TEXT_LENGTH];

	for (size_t i = 0; i < qkdn_keys_count(keys); i++) {
		qkdn_key_id_format(qkdn_keys_id(keys, i), name);
		if (!write_one(folder_fd, name, qkdn_keys_bytes(keys, i), qkdn_keys_length(keys, i)))
			return err_set(e, ST_CONFIGURATION,
			               "writing %s/%s: %s; %zu of %zu keys are written, the others are lost: "
			               "request new ones",
			               folder, name, strerror(errno), i, qkdn_keys_count(keys));
	}
	if (fsync(folder_fd) != 0)
		return err_set(e, ST_CONFIGURATION, "syncing the folder %s: %s", folder, strerror(errno));
	return ST_OK;
}
