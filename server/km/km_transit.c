/*
 * km_transit.c - one range on its way over this node: where it comes from, which next hop it takes, under
 * which pad it leaves. The source of a relay, the second node in case 1 and every node between do the
 * same here; they differ in where the range comes from.
 *
 * Pads are durable as spent before the message leaves, those of the incoming hop in the same commit, and at the
 * source the range that was drawn for it: without a way, or pad for it, there is nothing to give up. The
 * range itself is only in memory at a node between, and wiped as soon as the next node has it. A kill
 * there loses it: the source finds out and voids it.
 *
 * Where the controller's answer can be foreseen, a short range is made ready to leave that way while it is asked: the
 * commit and the question run side by side. Nothing leaves before both are over. With another answer than was
 * foreseen, or a refusal, those pads are spent in vain, and counted; the way is not foreseen again before the
 * controller has given it eight times more, nor where pad is short. A kill in between leaves what one behind the
 * commit always left: spent pads, at the source the note of a range that nobody has.
 *
 * A clear refusal of the next hop leads to another route, as long as there are attempts left; with pads
 * of another range, since those sent are spent. No answer is no refusal: the range may have arrived.
 */
#include <stdio.h>
#include <stdlib.h>

#include "core.h"
#include "otp.h"

enum {
	ATTEMPTS_MOST = 4,
	FORESEEN_MOST = 16 * 1024, /* bytes of a range: what a change of the way may cost */
	PLENTY = 8,                /* times the pad that it needs */
};

struct departure;

struct transit {
	struct km *km;
	struct transit *prev, *next; /* in km->transits */
	transit_done done;
	void (*drop)(void *arg);
	void *arg;
	bool forgotten, restore_route, left, asking;
	bool remembered;    /* the way it takes now was given before the controller was away */
	struct err failure; /* of the attempt before */
	km_name failed_from, failed_to;
	struct id trace, relay, group, ksa_pool;
	enum transit_origin origin;
	km_name source, destination, relayer;
	uint64_t ksa_offset, expires;
	uint32_t len, relay_case, share, shares;

	/* the way: names are room's */
	km_name nodes[KM_ROUTE_MAX];
	const char *names[KM_ROUTE_MAX];
	uint32_t node_count, hops_left, sent_hops_left;
	bool whole_route; /* nodes is the way to the destination, not the way so far */
	struct {
		km_name from, to;
	} excluded[ATTEMPTS_MOST];
	struct km_hop excluded_hops[ATTEMPTS_MOST];
	uint32_t excluded_count, attempts;
	struct link *out;
	struct departure *foreseen; /* on the way that the controller is being asked for */
	struct answer {
		bool given, as_foreseen;
		struct err err;
		struct way way; /* of another that will do */
		struct km_route *route; /* its, a copy */
	} answer;

	/* where the range comes from */
	struct id in_pool;
	struct km_pad in_pads[KM_PADS_MAX];
	uint32_t in_pad_count;
	struct km_relay *message; /* a copy; FROM_RELAY */
	struct secret text;       /* the range, once it was got */
	bool to_be_drawn;
	struct fill_note note; /* of a range that is to be drawn */
	void (*taken)(void *arg, const struct fill_note *note, const uint8_t tag[KM_TAG_LEN]);
};

/* ---- one attempt: the work ------------------------------------------------------------------------------ */

struct departure {
	struct transit *t;
	struct use use; /* of the pads */
	/* copies, for the writer's thread */
	enum transit_origin origin;
	struct id ksa_pool, in_pool, out_pool;
	uint64_t ksa_offset;
	uint32_t len;
	const struct km_pad *in_pads;
	uint32_t in_pad_count;
	const struct km_relay *in;
	bool have_text;
	struct secret text; /* in, or out */
	bool fresh;         /* and has to be put into the KSA pool */
	struct fill_note note;
	/* results */
	uint8_t tag[KM_TAG_LEN]; /* of a fresh one */
	struct km_relay m;
	struct km_pad pads[KM_PADS_MAX];
	uint8_t *ciphertext;
	km_name link;
	uint64_t link_left; /* bytes in the link pool behind the pads; what there is where they are too few */
	bool over;          /* the work, with this status */
	enum status status;
};

static void departure_free(struct departure *d)
{
	free(d->ciphertext);
	free(d);
}

static enum status get_text(struct ks_txn *t, struct departure *d)
{
	enum status s;

	secret_free(&d->text);
	switch (d->origin) {
	case FROM_KSA_POOL:
		return ks_read(t, &d->ksa_pool, d->ksa_offset, d->len, &d->text);
	case FROM_LINK:
		s = pads_take_at(t, &d->in_pool, d->in_pads, d->in_pad_count, d->len, &d->text);
		for (uint32_t i = 0; i < d->in_pad_count && s == ST_OK; i++)
			s = used_raise(t, &d->in_pool, d->in_pads[i].offset + d->in_pads[i].len);
		return s;
	case FROM_RELAY:
		return relay_open(t, &d->in_pool, d->in, &d->text);
	case FROM_SHARE: /* it was given */
		break;
	}
	return ST_INTERNAL;
}

static enum status depart_work(struct ks_txn *t, void *arg)
{
	struct departure *d = arg;
	struct secret pad = { NULL, 0 };
	enum status s = d->have_text ? ST_OK : get_text(t, d);

	if (s == ST_OK)
		s = pads_take(t, &d->out_pool, d->len + (size_t)AUTH_KEY_LEN, d->pads, &d->m.pad_count, &d->link_left,
		              &pad);
	if (s == ST_OK && d->fresh) {
		s = fill_put(t, &d->ksa_pool, &d->note, &d->text, d->tag);
		d->m.ksa_offset = d->note.ksa_offset;
	}
	if (s == ST_OK) {
		otp_xor(d->ciphertext, d->text.bytes, pad.bytes, d->len);
		d->m.pads = d->pads;
		relay_tag(&d->m, pad.bytes + d->len, d->m.tag);
	}
	secret_free(&pad);
	return s;
}

/* ---- ending --------------------------------------------------------------------------------------------------- */

static void transit_free(struct transit *t)
{
	DL_DELETE(t->km->transits, t);
	if (t->foreseen != NULL && t->foreseen->over) /* the KM ends: else it is the store's */
		departure_free(t->foreseen);
	free(t->answer.route);
	secret_free(&t->text);
	free(t->message);
	free(t);
}

void transits_free(struct km *km)
{
	while (km->transits != NULL) {
		if (km->transits->drop != NULL)
			km->transits->drop(km->transits->arg);
		transit_free(km->transits);
	}
}

static void finish(struct transit *t, enum status s, bool certain, const char *text)
{
	struct transit_end end = { .status = s, .certain = certain, .text = text, .left = t->left,
	                           .remembered = t->remembered };

	if (s == ST_NO_ROUTE && t->failure.status != ST_OK) { /* there was one: that it failed is what matters */
		end.status = t->failure.status;
		end.text = t->failure.text;
	}
	end.failed = (struct km_hop){ t->failed_from, t->failed_to };
	if (!t->forgotten)
		t->done(t->arg, &end);
	transit_free(t);
}

void transit_each(struct km *km, void (*each)(const struct km_mk_relay *r, void *arg), void *arg)
{
	struct transit *t;

	DL_FOREACH (km->transits, t) {
		const struct km_mk_relay r = { .relay = t->relay,
			                       .source = t->source,
			                       .destination = t->destination,
			                       .method = "transit",
			                       .stage = t->text.bytes == NULL ? "choosing" : "sent",
			                       .share = t->share,
			                       .shares = t->shares,
			                       .remembered = t->remembered,
			                       .len = t->len };

		if (t->origin != FROM_KSA_POOL) /* the source's is told as its fill */
			each(&r, arg);
	}
}

bool transit_is_remembered(const struct transit *t)
{
	return t->remembered;
}

bool transit_is_asking(const struct transit *t)
{
	return t->asking;
}

void transit_forget(struct transit *t)
{
	t->forgotten = true;
}

/* ---- the next hop ------------------------------------------------------------------------------------------------ */

static void choose(struct transit *t);

/* A hop of its way that failed: as a node behind this one tells, or the first. */
static void exclude(struct transit *t, const char *to, const struct km_hop *told)
{
	const struct km_hop first = { t->km->name, to }, *failed = &first;
	uint32_t i = t->excluded_count;

	for (uint32_t n = 0; told != NULL && t->whole_route && n + 1 < t->node_count; n++)
		if (strcmp(t->nodes[n], told->from) == 0 && strcmp(t->nodes[n + 1], told->to) == 0)
			failed = told;
	snprintf(t->failed_from, sizeof t->failed_from, "%s", failed->from);
	snprintf(t->failed_to, sizeof t->failed_to, "%s", failed->to);
	if (i == ARRAY_LEN(t->excluded))
		return;
	strcpy(t->excluded[i].from, t->failed_from);
	strcpy(t->excluded[i].to, t->failed_to);
	t->excluded_hops[i] = (struct km_hop){ t->excluded[i].from, t->excluded[i].to };
	t->excluded_count++;
	way_failed(t->km, t->destination, &t->excluded_hops[i]);
}

/* The attempt over the hop to that node failed for certain: another way, or the end. */
static void try_another(struct transit *t, const char *to, const struct km_hop *told, enum status s, const char *text)
{
	bool may_choose = t->restore_route || !t->whole_route;

	exclude(t, to, told);
	err_set(&t->failure, s, "%s%s", text,
	        t->remembered && strstr(text, "remembered") == NULL
	                ? " (the way was a remembered one: the controller does not answer)" : "");
	if (!may_choose || ++t->attempts >= ATTEMPTS_MOST || env_utc(t->km->env) >= t->expires) {
		finish(t, s, true, t->failure.text);
		return;
	}
	choose(t);
}

/* Both ends of the link will never use them again. */
static void pads_lost(struct departure *d, const char *why)
{
	struct transit *t = d->t;
	uint64_t bytes = t->len + (uint64_t)AUTH_KEY_LEN;

	uses_end(&t->out->uses, &d->use, false);
	t->km->counters.pad_lost += bytes;
	link_complain(t->out, "%llu bytes of pad were spent in vain on a relay to %s: %s", (unsigned long long)bytes,
	              t->destination, why);
}

/* The same of those that no message has named. */
static void pads_unsent(struct departure *d, const char *why)
{
	d->t->km->counters.pad_unsent += d->t->len + (uint64_t)AUTH_KEY_LEN;
	pads_lost(d, why);
}

static void relay_answered(enum status s, const void *answer, void *arg)
{
	struct departure *d = arg;
	struct transit *t = d->t;
	const struct km_relay_answer *r = answer;
	const struct km_answer *a = answer;
	const char *to = t->out->peer;

	if (s == ST_OK && a->err.status == ST_OK) {
		uses_end(&t->out->uses, &d->use, true);
		uses_told(&t->out->uses, d->m.unused_below);
		t->km->counters.relays_forwarded += t->origin != FROM_KSA_POOL;
		finish(t, ST_OK, true, "");
		departure_free(d);
		return;
	}
	pads_lost(d, s == ST_OK ? a->err.text : status_name(s));
	if (s == ST_OK && a->err.status == ST_TIMED_OUT) {
		finish(t, ST_TIMED_OUT, false, a->err.text); /* a node behind it was not answered */
	} else if (s == ST_OK) {
		try_another(t, to, r->failed.from != NULL ? &r->failed : NULL, a->err.status, a->err.text);
	} else if (s == ST_PEER_UNREACHABLE) {
		try_another(t, to, NULL, s, "the next node is not reached");
	} else {
		finish(t, s, false, "the next node did not answer: the range may have arrived");
	}
	departure_free(d);
}

static void taken_now(struct transit *t, const struct departure *d)
{
	if (!d->fresh)
		return;
	t->to_be_drawn = false;
	t->ksa_offset = d->note.ksa_offset;
	t->taken(t->arg, &d->note, d->tag);
}

/* The controller is told with the next tick, before others send what this node cannot hand on. */
static void too_little_pad(struct transit *t, const char *to, uint64_t stock)
{
	char text[200];

	t->km->control.report_at = 0;
	snprintf(text, sizeof text, "too little pad is left on link %s to %s: %llu bytes, and %u are needed",
	         t->out->view.name, to, (unsigned long long)stock, t->len + AUTH_KEY_LEN);
	try_another(t, to, NULL, ST_TOO_FEW_KEYS, text);
}

static void leave(struct departure *d)
{
	struct transit *t = d->t;
	uint64_t now = env_utc(t->km->env);
	enum status s = d->status;

	if (s != ST_OK || now >= t->expires) {
		const char *to = t->out->peer;

		if (s == ST_OK)
			pads_unsent(d, "its time was over before it left");
		if (s == ST_TOO_FEW_KEYS)
			too_little_pad(t, to, d->link_left);
		else if (s == ST_OK)
			finish(t, ST_TIMED_OUT, true, "its time was over before it left");
		else
			finish(t, s, true, s == ST_FORGED    ? "its tag is wrong"
			                   : s == ST_STORAGE ? "the key store could not be written"
			                                     : status_name(s));
		departure_free(d);
		return;
	}
	t->km->counters.relays_sent++;
	t->left = true;
	t->km->wire->send(t->km->wire_ctx, KM_RELAY, t->out->peer, &d->m, t->expires - now, relay_answered, d);
}

static void set_route(struct transit *t, const struct km_route *route)
{
	t->node_count = route->count < KM_ROUTE_MAX ? route->count : KM_ROUTE_MAX;
	for (uint32_t i = 0; i < t->node_count; i++)
		snprintf(t->nodes[i], sizeof t->nodes[i], "%s", route->nodes[i]);
}

/* At the source nothing is left of a way that was tried. */
static void restore_route(struct transit *t)
{
	if (t->restore_route)
		set_route(t, &(struct km_route){ 1, (const char *const[]){ t->km->name } });
}

static void follow(struct transit *t, enum status s, const char *text, const struct way *way);

/* Both are over: the question, and the work on the way that was foreseen. */
static void leave_or_follow(struct transit *t)
{
	struct departure *d = t->foreseen;
	struct answer a = t->answer;

	t->foreseen = NULL;
	t->answer = (struct answer){ .given = false };
	if (a.as_foreseen || (d->status != ST_OK && d->status != ST_TOO_FEW_KEYS)) {
		t->remembered = a.way.remembered;
		leave(d);
	} else {
		if (d->status == ST_OK)
			pads_unsent(d, "the controller has given another answer than before");
		departure_free(d);
		restore_route(t);
		follow(t, a.err.status, a.err.text, &a.way);
	}
	free(a.route);
}

static void departed(enum status s, void *arg)
{
	struct departure *d = arg;
	struct transit *t = d->t;

	if (s == ST_OK) {
		const struct km_pad *last = &d->pads[d->m.pad_count - 1];

		uses_begin(&t->out->uses, &d->use, d->pads[0].offset, last->offset + last->len);
		link_set_stock_out(t->out, d->link_left);
		secret_free(&t->text);
		secret_move(&t->text, &d->text);
		taken_now(t, d);
	}
	secret_free(&d->text);
	d->over = true;
	d->status = s;
	if (d != t->foreseen)
		leave(d);
	else if (t->answer.given)
		leave_or_follow(t);
}

/* What the work need not get from the store. A range that was drawn for an attempt that came to nothing is not
 * used again. */
static void give_text(const struct transit *t, struct departure *d)
{
	d->have_text = t->text.bytes != NULL || t->to_be_drawn;
	d->fresh = t->to_be_drawn;
	d->note = t->note;
	if (t->text.bytes != NULL)
		secret_copy(&d->text, t->text.bytes, t->text.len);
	if (!d->fresh)
		return;
	secret_alloc(&d->text, t->len);
	env_random(t->km->env, d->text.bytes, t->len);
}

static struct departure *depart_over(struct transit *t, struct link *l)
{
	struct departure *d;

	t->out = l;
	d = xcalloc(1, sizeof *d);
	d->t = t;
	d->origin = t->origin;
	d->ksa_pool = t->ksa_pool;
	d->in_pool = t->in_pool;
	d->out_pool = *link_pool_out(l);
	d->ksa_offset = t->ksa_offset;
	d->len = t->len;
	d->in_pads = t->in_pads;
	d->in_pad_count = t->in_pad_count;
	d->in = t->message;
	give_text(t, d);
	d->ciphertext = xrealloc(NULL, t->len);
	strcpy(d->link, l->view.name);
	for (uint32_t i = 0; i < t->node_count; i++)
		t->names[i] = t->nodes[i];
	d->m = (struct km_relay){ .trace = t->trace,
		                  .relay = t->relay,
		                  .source = t->source,
		                  .destination = t->destination,
		                  .relayer = t->relayer,
		                  .ksa_pool = t->ksa_pool,
		                  .ksa_offset = t->ksa_offset,
		                  .relay_case = t->relay_case,
		                  .group = t->group,
		                  .share = t->share,
		                  .shares = t->shares,
		                  .route = { t->node_count, t->names },
		                  .hops_left = t->sent_hops_left,
		                  .expires = t->expires,
		                  .link = d->link,
		                  .unused_below = uses_unused_below(&l->uses),
		                  .ciphertext = d->ciphertext,
		                  .len = t->len };
	ks_submit(t->km->ks, depart_work, departed, d);
	return d;
}

static void depart(struct transit *t, const char *to)
{
	struct link *l = link_to_peer(t->km, to);

	if (l == NULL || !l->open)
		try_another(t, to, NULL, ST_LINK_DOWN, "the link to the next node is down");
	else
		depart_over(t, l);
}

/* ---- which way ---------------------------------------------------------------------------------------------------- */

/* The node behind this one on a whole route; NULL if this node is not on it, or is its end. */
static const char *next_on_route(const struct transit *t)
{
	for (uint32_t i = 0; i + 1 < t->node_count; i++)
		if (strcmp(t->nodes[i], t->km->name) == 0)
			return t->nodes[i + 1];
	return NULL;
}

static const char *take_way(struct transit *t, const struct way *way)
{
	t->remembered = way->remembered;
	t->sent_hops_left = way->hops_left;
	t->whole_route = way->hops_left == 0;
	if (t->whole_route)
		set_route(t, &way->route);
	return way->route.nodes[t->whole_route ? 1 : 0];
}

static void follow(struct transit *t, enum status s, const char *text, const struct way *way)
{
	km_name next;

	if (s != ST_OK) {
		finish(t, s, true, text);
		return;
	}
	snprintf(next, sizeof next, "%s", take_way(t, way));
	depart(t, next);
}

/* Whether the message that was prepared is the one for this way. */
static bool is_as_foreseen(const struct transit *t, const struct way *way)
{
	if (way->hops_left != t->sent_hops_left)
		return false;
	if (way->hops_left > 0)
		return strcmp(way->route.nodes[0], t->out->peer) == 0;
	return route_equal(&way->route, &t->foreseen->m.route);
}

static void found(void *arg, enum status s, const char *text, const struct way *way)
{
	struct transit *t = arg;
	struct answer *a = &t->answer;

	t->asking = false;
	if (t->foreseen == NULL) {
		follow(t, s, text, way);
		return;
	}
	*a = (struct answer){ .given = true, .as_foreseen = s == ST_OK && is_as_foreseen(t, way) };
	err_set(&a->err, s, "%s", text);
	if (s == ST_OK) {
		a->route = route_copy(&way->route);
		a->way = (struct way){ *a->route, way->hops_left, way->remembered };
	}
	if (t->foreseen->over)
		leave_or_follow(t);
}

static void foresee(struct transit *t, const struct way_query *q)
{
	struct link *l;
	struct way way;

	if (t->len > FORESEEN_MOST || !way_foresee(t->km, q, &way))
		return;
	l = link_to_peer(t->km, way.route.nodes[way.hops_left == 0 ? 1 : 0]);
	if (link_stock_out(l) / PLENTY < t->len + AUTH_KEY_LEN)
		return;
	take_way(t, &way);
	t->foreseen = depart_over(t, l);
}

static void choose(struct transit *t)
{
	struct way_query q = { .trace = t->trace,
		               .relay = t->relay,
		               .source = t->source,
		               .destination = t->destination,
		               .hops_left = t->hops_left,
		               .excluded_count = t->excluded_count,
		               .excluded = t->excluded_hops,
		               .len = t->len };
	const char *to;

	if (t->whole_route && !t->restore_route) { /* given: there is no choice */
		to = next_on_route(t);
		if (to == NULL)
			finish(t, ST_NO_ROUTE, true, "this node is not on the route");
		else
			depart(t, to);
		return;
	}
	restore_route(t);
	for (uint32_t i = 0; i < t->node_count; i++)
		t->names[i] = t->nodes[i];
	q.visited = (struct km_route){ t->node_count, t->names };
	foresee(t, &q);
	t->asking = true;
	way_find(t->km, &q, found, t);
}

static void begin(void *arg)
{
	choose(arg);
}

struct transit *transit_new(struct km *km, const struct transit_plan *plan, transit_done done, void *arg)
{
	struct transit *t = xcalloc(1, sizeof *t);

	t->km = km;
	t->done = done;
	t->drop = plan->drop;
	t->arg = arg;
	t->trace = plan->trace;
	t->relay = plan->relay;
	t->ksa_pool = plan->ksa_pool;
	t->origin = plan->origin;
	strcpy(t->source, plan->source);
	strcpy(t->destination, plan->destination);
	strcpy(t->relayer, plan->relayer);
	t->ksa_offset = plan->ksa_offset;
	t->expires = plan->expires;
	t->len = plan->len;
	t->relay_case = plan->relay_case;
	t->shares = plan->shares > 1 ? plan->shares : 1;
	t->share = plan->share;
	t->group = t->shares > 1 ? plan->group : plan->relay;
	if (plan->text != NULL)
		secret_move(&t->text, plan->text);
	t->to_be_drawn = plan->note != NULL;
	if (t->to_be_drawn)
		t->note = *plan->note;
	t->taken = plan->taken;
	t->hops_left = plan->hops_left;
	set_route(t, &plan->route);
	t->whole_route = plan->hops_left == 0 && t->node_count > 0;
	t->restore_route = plan->origin == FROM_KSA_POOL;
	if (!t->whole_route && t->node_count < KM_ROUTE_MAX) /* the way so far ends here */
		strcpy(t->nodes[t->node_count++], km->name);
	if (plan->in != NULL)
		t->in_pool = *link_pool_in(plan->in);
	t->in_pad_count = plan->pad_count;
	if (plan->pad_count > 0)
		memcpy(t->in_pads, plan->pads, plan->pad_count * sizeof *plan->pads);
	if (plan->message != NULL)
		t->message = relay_copy(plan->message);
	DL_APPEND(km->transits, t);
	env_post(km->env, begin, t);
	return t;
}
