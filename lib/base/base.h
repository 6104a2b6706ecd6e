/* base.h - the few macros that every file of the suite shares. */
#ifndef QKDN_BASE_H
#define QKDN_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define NORETURN __attribute__((noreturn))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(pointer, type, member) \
	((type *)((char *)(pointer)-offsetof(type, member)))

/* Allocation that cannot fail: a daemon that is out of memory logs and
 * aborts, since every durable step it had promised is already on disk. */
void *xcalloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *p, size_t size) __attribute__((returns_nonnull)); /* never for secrets */
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) PRINTF_LIKE(1, 2) __attribute__((returns_nonnull));

#endif
