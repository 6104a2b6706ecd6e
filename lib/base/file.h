/* file.h - whole files: read with their modes checked, written so that a kill leaves old or new. */
#ifndef QKDN_FILE_H
#define QKDN_FILE_H

#include "secret.h"
#include "status.h"

/* Refuses a file that group or others can read or write, or that is owned by neither root nor
 * this user: the check for private keys, the master key, initial secrets. */
MUST_CHECK enum status file_check_private(const char *path, struct err *e);

/* Reads a whole file of at most max bytes; the secret one also checks it as above. The caller frees. */
MUST_CHECK enum status file_read(const char *path, size_t max, char **text, size_t *len, struct err *e);
MUST_CHECK enum status file_read_secret(const char *path, size_t max, struct secret *s, struct err *e);

/* All of it, however often write has to be called. false: errno says why. */
MUST_CHECK bool file_write_all(int fd, const void *bytes, size_t len);

/* Syncs the folder that path lies in, so that its name survives a power cut. false: errno says why. */
MUST_CHECK bool file_sync_folder(const char *path);

/* Renames from over to and syncs the folder. */
MUST_CHECK enum status file_rename(const char *from, const char *to, struct err *e);

/* Writes path + ".new" with the mode, syncs it, renames it over path and syncs the folder. */
MUST_CHECK enum status file_write(const char *path, const void *bytes, size_t len, unsigned mode,
                                  struct err *e);

/* For a file of secrets that was open for writing and has been replaced: its bytes are written over with zeros.
 * Best effort: they are in no file any more, and this reaches most of the disks below. */
void file_overwrite(int fd);

#endif
