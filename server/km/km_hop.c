/*
 * km_hop.c - what protects a range on one hop: pads of the link's pools, the one-time pad and the one-time tag over
 * the relay message. What is done here on the store runs in a work, and is as durable as that.
 */
#include <endian.h>
#include <stdlib.h>

#include "core.h"
#include "otp.h"

void relay_tag(const struct km_relay *m, const uint8_t *key, uint8_t tag[KM_TAG_LEN])
{
	uint64_t numbers[] = { htobe64(m->ksa_offset), htobe64(m->relay_case), htobe64(m->share),
		               htobe64(m->shares),     htobe64(m->hops_left),  htobe64(m->expires),
		               htobe64(m->unused_below), htobe64(m->len), htobe64(m->route.count) };
	uint64_t pads[2 * KM_PADS_MAX];
	struct otp_piece pieces[10 + KM_ROUTE_MAX] = {
		{ m->relay.bytes, ID_LEN },        { m->group.bytes, ID_LEN },
		{ m->ksa_pool.bytes, ID_LEN },
		{ m->source, strlen(m->source) },  { m->destination, strlen(m->destination) },
		{ m->relayer, strlen(m->relayer) }, { m->link, strlen(m->link) },
		{ numbers, sizeof numbers },       { pads, m->pad_count * 2 * sizeof *pads },
		{ m->ciphertext, m->len },
	};

	for (uint32_t i = 0; i < m->pad_count; i++) {
		pads[2 * i] = htobe64(m->pads[i].offset);
		pads[2 * i + 1] = htobe64(m->pads[i].len);
	}
	for (uint32_t i = 0; i < m->route.count; i++)
		pieces[10 + i] = (struct otp_piece){ m->route.nodes[i], strlen(m->route.nodes[i]) };
	otp_tag(key, pieces, 10 + m->route.count, tag);
}

/* Puts a run of pad bytes at *got: in place of the whole where it is the whole. */
static void add_run(struct secret *whole, size_t total, size_t *got, struct secret *run)
{
	size_t len = run->len;

	if (len == total) {
		secret_move(whole, run);
	} else {
		if (whole->bytes == NULL)
			secret_alloc(whole, total);
		memcpy(whole->bytes + *got, run->bytes, len);
		secret_free(run);
	}
	*got += len;
}

enum status pads_take(struct ks_txn *t, const struct id *pool, size_t total, struct km_pad *pads, uint32_t *count,
                      uint64_t *left, struct secret *out)
{
	size_t got = 0;
	struct ks_pool p;
	enum status s = ks_pool_get(t, pool, &p);

	if (s != ST_OK)
		return s;
	*left = p.stock;
	if (p.stock < total) /* before anything is consumed */
		return ST_TOO_FEW_KEYS;
	*left = p.stock + p.unready - total;
	for (*count = 0; got < total; ++*count) {
		struct km_pad *one = &pads[*count];
		struct secret part = { NULL, 0 };

		if (*count == KM_PADS_MAX)
			return ST_TOO_FEW_KEYS;
		s = ks_take(t, pool, FILL_GRANULE, total - got, FILL_GRANULE, &one->offset, &part);
		if (s != ST_OK)
			return s;
		one->len = (uint32_t)part.len;
		add_run(out, total, &got, &part);
	}
	return ST_OK;
}

enum status pads_take_at(struct ks_txn *t, const struct id *pool, const struct km_pad *pads, uint32_t count,
                         size_t total, struct secret *out)
{
	size_t got = 0;
	enum status s = ST_OK;

	for (uint32_t i = 0; i < count && s == ST_OK; i++) {
		struct secret part = { NULL, 0 };

		if (pads[i].len > total - got)
			return ST_BAD_REQUEST;
		s = ks_take_at(t, pool, pads[i].offset, pads[i].len, &part);
		if (s == ST_OK)
			add_run(out, total, &got, &part);
	}
	return s == ST_OK && got != total ? ST_BAD_REQUEST : s;
}

enum status relay_open(struct ks_txn *t, const struct id *link_pool, const struct km_relay *m, struct secret *text)
{
	struct secret pad = { NULL, 0 };
	uint8_t tag[KM_TAG_LEN];
	uint64_t end = 0;
	enum status s = pads_take_at(t, link_pool, m->pads, m->pad_count, m->len + (size_t)AUTH_KEY_LEN, &pad);

	if (s == ST_OK) {
		relay_tag(m, pad.bytes + m->len, tag);
		if (!otp_tag_equal(tag, m->tag))
			s = ST_FORGED;
	}
	if (s == ST_OK) { /* in its pad's place: the bytes are many */
		secret_free(text);
		otp_xor(pad.bytes, m->ciphertext, pad.bytes, m->len);
		secret_wipe(pad.bytes + m->len, AUTH_KEY_LEN);
		secret_move(text, &pad);
	}
	secret_free(&pad);
	for (uint32_t i = 0; i < m->pad_count; i++)
		if (m->pads[i].offset + m->pads[i].len > end)
			end = m->pads[i].offset + m->pads[i].len;
	if (s == ST_OK)
		s = used_raise(t, link_pool, end);
	return s == ST_OK ? ks_void_below(t, link_pool, m->unused_below) : s;
}

struct km_relay *relay_copy(const struct km_relay *m)
{
	const char *strings[] = { m->source, m->destination, m->relayer, m->link };
	size_t names = m->route.count * sizeof(char *), pads = m->pad_count * sizeof *m->pads, text = 0;
	struct km_relay *c;
	const char **nodes;
	char *at;

	for (size_t i = 0; i < ARRAY_LEN(strings); i++)
		text += strlen(strings[i]) + 1;
	for (uint32_t i = 0; i < m->route.count; i++)
		text += strlen(m->route.nodes[i]) + 1;
	c = xrealloc(NULL, sizeof *c + names + pads + text + m->len); /* all of it is written */
	*c = *m;
	nodes = (const char **)(c + 1);
	c->pads = memcpy((char *)nodes + names, m->pads, pads);
	at = (char *)nodes + names + pads;
#define COPY_STRING(to, from) ((to) = strcpy(at, (from)), at += strlen(from) + 1)
	COPY_STRING(c->source, m->source);
	COPY_STRING(c->destination, m->destination);
	COPY_STRING(c->relayer, m->relayer);
	COPY_STRING(c->link, m->link);
	for (uint32_t i = 0; i < m->route.count; i++)
		COPY_STRING(nodes[i], m->route.nodes[i]);
#undef COPY_STRING
	c->route.nodes = nodes;
	c->ciphertext = memcpy(at, m->ciphertext, m->len);
	return c;
}
