/*
 * wipe.c - wiping values of generated types without knowing their shape.
 *
 * Encoding a value shows every byte string of it to the stream's x_putbytes. This stream's zeroes
 * what it is shown, until something that cannot be encoded stops it (a NULL string, where decoding
 * stopped too). The padding behind a string is libtirpc's own and read-only: it is the call that
 * follows a string whose length is no multiple of four.
 */
#include "rtls.h"

#include "secret.h"

struct wiper {
	XDR xdr;
	bool padding_follows;
};

static bool_t wipe_putlong(XDR *xdr, const long *value)
{
	(void)xdr;
	(void)value;
	return TRUE;
}

static bool_t wipe_putbytes(XDR *xdr, const char *bytes, u_int n)
{
	struct wiper *w = container_of(xdr, struct wiper, xdr);

	if (w->padding_follows) {
		w->padding_follows = false;
		return TRUE;
	}
	w->padding_follows = n % BYTES_PER_XDR_UNIT != 0;
	if (bytes != NULL)
		secret_wipe((void *)(uintptr_t)bytes, n);
	return TRUE;
}

static int32_t *wipe_inline(XDR *xdr, u_int n)
{
	(void)xdr;
	(void)n;
	return NULL;
}

static u_int wipe_position(XDR *xdr)
{
	(void)xdr;
	return 0;
}

static const struct xdr_ops wipe_ops = {
	.x_putlong = wipe_putlong,
	.x_putbytes = wipe_putbytes,
	.x_getpostn = wipe_position,
	.x_inline = wipe_inline,
};

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

void rtls_wipe(xdrproc_t xdr, void *value)
{
	struct wiper w = { .xdr = { .x_op = XDR_ENCODE, .x_ops = &wipe_ops } };

	if (value == NULL)
		return;
#ifdef SANITIZED
	(void)w; /* the sanitizers' own xdr_string reads through a NULL string, which libtirpc's refuses */
#else
	xdr(&w.xdr, value);
#endif
	xdr_free(xdr, value);
}
