/*
 * fuzz_args.c - rpcgen's decoders of every argument and every result of every program in idl/: what decodes
 * encodes again, and is wiped and freed.
 *
 * The first byte of an input chooses the type; the list of types is made from idl/ when this is built.
 */
#include <stdlib.h>
#include <string.h>

#include "ak.h"
#include "ck.h"
#include "cx.h"
#include "kq1.h"
#include "kq2.h"
#include "kx1.h"
#include "kx2.h"
#include "mc.h"
#include "mk.h"

#include "buffer.h"
#include "rtls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct type {
	xdrproc_t xdr;
	size_t size;
} types[] = {
#define X(name) { (xdrproc_t)xdr_##name, sizeof(name) },
#include "fuzz_types.h"
#undef X
};

static void encode(const struct type *t, void *value, struct buffer *b, size_t max)
{
	struct buffer_xdr x;

	buffer_xdr_init(&x, b, max);
	if (!t->xdr(&x.xdr, value))
		abort();
}

static bool decode(const struct type *t, void *bytes, size_t size, void *value)
{
	XDR x;

	xdrmem_create(&x, bytes, (u_int)size, XDR_DECODE);
	return t->xdr(&x, value);
}

/* Padding may have held anything, any non-zero number was true, and a string ends at its first NUL: so the bytes need
 * not be those that came, but must be no more, and stay the same from then on. */
static void go_round(const struct type *t, void *value, size_t size)
{
	struct buffer first = { .bytes = NULL }, second = { .bytes = NULL };
	void *again = calloc(1, t->size);

	encode(t, value, &first, size);
	if (again == NULL || !decode(t, buffer_at(&first, 0), buffer_len(&first), again))
		abort();
	encode(t, again, &second, size);
	if (buffer_len(&first) != buffer_len(&second) ||
	    memcmp(buffer_at(&first, 0), buffer_at(&second, 0), buffer_len(&first)) != 0)
		abort();
	rtls_wipe(t->xdr, again);
	free(again);
	buffer_free(&first);
	buffer_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct type *t;
	void *value, *copy;

	if (size < 5)
		return 0;
	t = &types[data[0] % ARRAY_LEN(types)];
	size = (size - 1) & ~(size_t)3;
	value = calloc(1, t->size);
	copy = malloc(size);
	if (value == NULL || copy == NULL)
		abort();
	memcpy(copy, data + 1, size); /* a block of its own, so that reading past its end shows */
	if (decode(t, copy, size, value))
		go_round(t, value, size);
	rtls_wipe(t->xdr, value);
	free(value);
	free(copy);
	return 0;
}
