/*
 * key_files.h - keys in files: one a key, named by its ID, mode 0600, in a folder of mode 0700.
 *
 * A key is delivered once, so the folder is checked before keys are asked for, and files are durable
 * before success is told. A file that is there is never written over.
 */
#ifndef QKDN_KEYREQ_KEY_FILES_H
#define QKDN_KEYREQ_KEY_FILES_H

#include "qkdn.h"
#include "status.h"

/* Opens the folder, making it where there is none; refuses one that others can enter. *fd is closed
 * by the caller. */
MUST_CHECK enum status key_files_open(const char *folder, int *fd, struct err *e);

/* Fails where there is a file for one of these keys already. */
MUST_CHECK enum status key_files_check(int folder_fd, const char *folder, const struct qkdn_key_id *ids,
                                       size_t count, struct err *e);

/* Writes and syncs all of them. After a failure the text tells which key was not written; those
 * before it are there. */
MUST_CHECK enum status key_files_write(int folder_fd, const char *folder, const struct qkdn_keys *keys,
                                       struct err *e);

#endif
