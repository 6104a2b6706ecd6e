/* secret.c - key bytes in OpenSSL's secure heap, or in a locked mapping where they are many. */
#include "secret.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "log.h"

enum { STACK_TO_BURN = 16 * 1024, SMALLEST_SECRET = 32, LARGEST_IN_HEAP = 16 * 1024 };
enum { KEPT_MOST = 64, KEPT_BYTES = 16 * 1024 * 1024, PAGE = 4096 };

/* Mappings that were freed and wiped, to be used again: mapping, locking and unmapping 64 KiB costs more
 * than sealing them. */
static struct {
	pthread_mutex_t lock;
	size_t count, bytes;
	struct {
		uint8_t *p;
		size_t len;
	} slots[KEPT_MOST];
} kept = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- what the cryptographic library allocates ---------------------------------------------------------- */

static _Thread_local bool contexts_are_secret;

static void *library_malloc(size_t len, const char *file, int line)
{
	void *p = contexts_are_secret ? CRYPTO_secure_malloc(len, file, line) : NULL;

	return p != NULL ? p : malloc(len);
}

static void library_free(void *p, const char *file, int line)
{
	if (CRYPTO_secure_allocated(p))
		CRYPTO_secure_free(p, file, line); /* wipes */
	else
		free(p);
}

static void *library_realloc(void *p, size_t len, const char *file, int line)
{
	size_t had;
	void *fresh;

	if (p == NULL)
		return library_malloc(len, file, line);
	if (!CRYPTO_secure_allocated(p))
		return realloc(p, len);
	had = CRYPTO_secure_actual_size(p);
	fresh = library_malloc(len, file, line);
	if (fresh != NULL) {
		memcpy(fresh, p, had < len ? had : len);
		CRYPTO_secure_free(p, file, line);
	}
	return fresh;
}

void secret_contexts_begin(void)
{
	contexts_are_secret = CRYPTO_secure_malloc_initialized();
}

void secret_contexts_end(void)
{
	contexts_are_secret = false;
}

/* ---- secrets --------------------------------------------------------------------------------------------- */

enum status secret_init(size_t heap_bytes, struct err *e)
{
	struct rlimit limit = { .rlim_cur = 0, .rlim_max = 0 };

	if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_MEMLOCK, &limit);
	}
	if (prctl(PR_SET_DUMPABLE, 0) != 0)
		return err_set(e, ST_INTERNAL, "making the process undumpable: %s", strerror(errno));
	if (CRYPTO_set_mem_functions(library_malloc, library_realloc, library_free) != 1)
		return err_set(e, ST_INTERNAL, "the cryptographic library was used before its memory was set up");
	/* 1: locked; 2: usable, but some of it could not be protected */
	if (CRYPTO_secure_malloc_init(heap_bytes, SMALLEST_SECRET) != 1)
		return err_set(e, ST_CONFIGURATION,
		               "locking %zu KiB of memory for keys: raise the limit on locked memory "
		               "(ulimit -l, or LimitMEMLOCK= in the unit)",
		               heap_bytes / 1024);
	return ST_OK;
}

static size_t whole_pages(size_t len)
{
	return (len + PAGE - 1) / PAGE * PAGE;
}

/* A kept mapping of that length; NULL: none. */
static uint8_t *take_kept(size_t len)
{
	uint8_t *p = NULL;

	pthread_mutex_lock(&kept.lock);
	for (size_t i = kept.count; i-- > 0 && p == NULL;) {
		if (kept.slots[i].len != len)
			continue;
		p = kept.slots[i].p;
		kept.slots[i] = kept.slots[--kept.count];
		kept.bytes -= len;
	}
	pthread_mutex_unlock(&kept.lock);
	return p;
}

/* Keeps a wiped mapping; false: there are enough. */
static bool keep(uint8_t *p, size_t len)
{
	bool room;

	pthread_mutex_lock(&kept.lock);
	room = kept.count < KEPT_MOST && kept.bytes + len <= KEPT_BYTES;
	if (room) {
		kept.slots[kept.count].p = p;
		kept.slots[kept.count++].len = len;
		kept.bytes += len;
	}
	pthread_mutex_unlock(&kept.lock);
	return room;
}

static void drop_kept(void)
{
	pthread_mutex_lock(&kept.lock);
	while (kept.count > 0) {
		kept.count--;
		munmap(kept.slots[kept.count].p, kept.slots[kept.count].len);
	}
	kept.bytes = 0;
	pthread_mutex_unlock(&kept.lock);
}

/* Where the limit on locked memory is reached the bytes are still wiped and undumpable, but could be
 * swapped: said once. */
static void lock_pages(void *p, size_t len)
{
	static atomic_bool told;

	if (mlock(p, len) == 0)
		return;
	drop_kept();
	if (mlock(p, len) != 0 && !atomic_exchange(&told, true))
		log_warning("key memory could not be locked (%s): raise the limit on locked memory",
		            strerror(errno));
}

/* Zeroed, locked and left out of dumps; NULL when memory is out. */
static uint8_t *map_secret(size_t len)
{
	void *p = take_kept(whole_pages(len));

	if (p != NULL)
		return p;
	p = mmap(NULL, whole_pages(len), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	madvise(p, whole_pages(len), MADV_DONTDUMP);
	lock_pages(p, whole_pages(len));
	return p;
}

/* A process without a secure heap (an application that uses libqkdn), and one whose heap is full,
 * gets a mapping for small secrets too. */
void secret_alloc(struct secret *s, size_t len)
{
	s->len = len;
	s->bytes = NULL;
	if (len == 0)
		return;
	if (len <= LARGEST_IN_HEAP && CRYPTO_secure_malloc_initialized())
		s->bytes = OPENSSL_secure_zalloc(len);
	if (s->bytes == NULL)
		s->bytes = map_secret(len);
	if (s->bytes == NULL)
		log_fatal("no locked memory left for %zu key bytes", len);
}

void secret_free(struct secret *s)
{
	if (s->bytes != NULL && CRYPTO_secure_allocated(s->bytes)) {
		OPENSSL_secure_clear_free(s->bytes, s->len);
	} else if (s->bytes != NULL) {
		secret_wipe(s->bytes, s->len);
		if (!keep(s->bytes, whole_pages(s->len)))
			munmap(s->bytes, whole_pages(s->len));
	}
	s->bytes = NULL;
	s->len = 0;
}

void secret_copy(struct secret *to, const void *bytes, size_t len)
{
	secret_alloc(to, len);
	if (len > 0)
		memcpy(to->bytes, bytes, len);
}

void secret_move(struct secret *to, struct secret *from)
{
	*to = *from;
	from->bytes = NULL;
	from->len = 0;
}

bool secret_equal(const struct secret *a, const struct secret *b)
{
	return a->len == b->len && secret_bytes_equal(a->bytes, b->bytes, a->len);
}

void secret_wipe(void *p, size_t len)
{
	explicit_bzero(p, len); /* OPENSSL_cleanse goes byte by byte */
}

bool secret_bytes_equal(const void *a, const void *b, size_t len)
{
	return len == 0 || CRYPTO_memcmp(a, b, len) == 0;
}

__attribute__((noinline)) void secret_burn_stack(void)
{
	uint8_t below[STACK_TO_BURN];

	OPENSSL_cleanse(below, sizeof below);
}

void secret_random(void *p, size_t len)
{
	if (RAND_priv_bytes(p, (int)len) != 1)
		log_fatal("the random source failed: no key material can be drawn");
}
