/*
 * km_relay.c - key relay (Kx-1): its source, its destination, and what a node on the way answers.
 *
 * A hop is answered when the nodes behind it have answered: OK means that the destination has the range,
 * durable; a refusal means that nobody behind has it or ever will. The completion notification goes from
 * the destination straight to the KM that began the relay.
 */
#include <stdlib.h>

#include "core.h"

/* ---- the source (case 2) ----------------------------------------------------------------------------- */

static void controller_told(enum status s, const void *answer, void *arg)
{
	(void)s; /* a controller that missed it learns the stock from the next report */
	(void)answer;
	(void)arg;
}

static void respond_to_controller(struct fill *f, enum status s, const char *text, const struct km_hop *failed)
{
	struct km *km = f->pool->km;
	struct km_ck_response m = { .trace = f->trace,
		                    .relay = f->note.relay,
		                    .status = s,
		                    .text = text,
		                    .len = s == ST_OK ? f->note.len : 0,
		                    .failed = { failed != NULL ? failed->from : "", failed != NULL ? failed->to : "" } };

	if (km->control.name != NULL && km->control.registered && !km->control.distributed)
		km_send(km, KM_CK_RESPONSE, km->control.name, &m, controller_told, NULL);
}

static void source_done(void *arg, const struct transit_end *end)
{
	struct fill *f = arg;

	f->transit = NULL;
	f->remembered = end->remembered;
	if (f->stage > FILL_SENDING) /* the notification was here first, whatever a node on the way says */
		return;
	if (end->status == ST_OK || !end->certain) { /* the notification is due, or the verification will tell */
		fill_later(f, COMPLETION_GRACE_NS, fill_arrived);
		return;
	}
	relay_refused(f, end);
}

void relay_refused(struct fill *f, const struct transit_end *end)
{
	f->pool->km->counters.relays_refused++;
	respond_to_controller(f, end->status, end->text, &end->failed);
	if (f->stage == FILL_TAKING) {
		fill_not_taken(f, end->status, end->text);
	} else if (end->left) { /* a copy of what was refused once may come later, and find what it needs */
		f->pool->in_vain++;
		fill_failed(f, end->status, end->text);
	} else {
		fill_refused(f, end->status, end->text);
	}
}

/* The range is durable, and about to leave: another may be begun. */
static void source_taken(void *arg, const struct fill_note *note, const uint8_t tag[KM_TAG_LEN])
{
	struct fill *f = arg;

	fill_taken(f, note, tag);
	ksa_pool_fill(f->pool);
}

void relay_send(struct fill *f)
{
	struct km *km = f->pool->km;
	struct transit_plan plan = { .origin = FROM_KSA_POOL,
		                     .trace = f->trace,
		                     .relay = f->note.relay,
		                     .ksa_pool = f->pool->id,
		                     .source = km->name,
		                     .destination = f->pool->destination,
		                     .relayer = km->name,
		                     .ksa_offset = f->note.ksa_offset,
		                     .expires = env_utc(km->env) + km->limits.relay_timeout,
		                     .len = f->note.len,
		                     .relay_case = 2,
		                     .note = f->stage == FILL_TAKING ? &f->note : NULL,
		                     .taken = source_taken };

	f->transit = transit_new(km, &plan, source_done, f);
}

bool relay_is_asking(const struct fill *f)
{
	return (f->transit != NULL && transit_is_asking(f->transit)) || (f->split != NULL && shares_are_asking(f->split));
}

void relay_abandon(struct fill *f)
{
	if (f->transit != NULL)
		transit_forget(f->transit);
	if (f->split != NULL)
		shares_abandon(f);
	f->transit = NULL;
}

/* ---- completion ----------------------------------------------------------------------------------------- */

/* Case 1, at the second node: who waits for the completion of a relay that is not this KM's own fill. */
void handle_completion(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_completion *m = message;
	struct fill *f = fill_by_relay(km, &m->relay);

	if (f != NULL && strcmp(f->pool->destination, from) != 0) {
		log_warning("%s says that a relay to %s has arrived, which is not its to say", from, f->pool->destination);
		km_refuse(reply, arg, ST_DENIED, "%s is not the destination of that relay", from);
		return;
	}
	if (f != NULL && id_equal(&f->pool->id, &m->ksa_pool) &&
	    f->note.method == FILL_RELAY && f->stage == FILL_SENDING && f->note.ksa_offset == m->ksa_offset) {
		respond_to_controller(f, ST_OK, "", NULL);
		fill_arrived(f);
	}
	km_done(reply, arg); /* also where it is known already, or another has waited for it */
}

/* ---- a node on the way, and the destination ----------------------------------------------------------------- */

/* The most that relay.timeout can be set to. A source that says more is not believed: bytes are held, and answers
 * awaited, so long. */
static const uint64_t LASTS_MOST = 600 * NS_PER_S;

struct arrival {
	struct km *km;
	struct km_relay *m;
	uint64_t expires; /* within these bounds */
	struct id link_pool;
	bool there; /* the whole range, not only a share of it */
	uint8_t tag[KM_TAG_LEN]; /* that it is verified by; not of one that came in shares */
	km_reply reply;
	void *arg;
};

static void arrival_free(void *arrival)
{
	struct arrival *a = arrival;

	free(a->m);
	free(a);
}

static void arrival_answer(struct arrival *a, const struct km_relay_answer *answer)
{
	a->reply(&answer->answer, a->arg);
	arrival_free(a);
}

static void refuse_at(struct arrival *a, enum status s, const char *text, const struct km_hop *failed)
{
	struct km_relay_answer answer = { .failed = *failed };

	a->km->counters.relays_refused++;
	err_set(&answer.answer.err, s, "relay to %s at %s: %s", a->m->destination, a->km->name, text);
	arrival_answer(a, &answer);
}

static void arrival_refuse(struct arrival *a, enum status s, const char *text)
{
	refuse_at(a, s, text, &(struct km_hop){ "", "" });
}

static void arrival_done(struct arrival *a)
{
	arrival_answer(a, &(struct km_relay_answer){ .failed = { "", "" } });
}

static void forwarded(void *arg, const struct transit_end *end)
{
	struct arrival *a = arg;

	if (end->status == ST_OK)
		arrival_done(a);
	else
		refuse_at(a, end->certain ? end->status : ST_TIMED_OUT, end->text, &end->failed);
}

static enum status keep_whole(struct ks_txn *t, struct arrival *a, const struct secret *text)
{
	const struct km_relay *m = a->m;
	enum status s = ks_append(t, &m->ksa_pool, m->ksa_offset, text->bytes, m->len);

	ksa_bytes_tag(&m->ksa_pool, m->ksa_offset, text->bytes, m->len, a->tag);
	return s == ST_OK ? arrived_put(t, &m->ksa_pool, m->ksa_offset, m->len) : s;
}

static enum status keep_work(struct ks_txn *t, void *arg)
{
	struct arrival *a = arg;
	struct secret text = { NULL, 0 };
	enum status s = relay_open(t, &a->link_pool, a->m, &text);

	a->there = true;
	a->m->expires = a->expires; /* the tag was over what it said */
	if (s == ST_OK && a->m->shares > 1)
		s = share_keep(t, a->m, &text, &a->there);
	else if (s == ST_OK)
		s = keep_whole(t, a, &text);
	secret_free(&text);
	return s;
}

static void completion_told(enum status s, const void *answer, void *arg)
{
	(void)s; /* where it got lost, the source asks by verification */
	(void)answer;
	(void)arg;
}

static void kept(enum status s, void *arg)
{
	struct arrival *a = arg;
	struct km_completion m = { .trace = a->m->trace,
		                   .relay = a->m->shares > 1 ? a->m->group : a->m->relay,
		                   .ksa_pool = a->m->ksa_pool,
		                   .ksa_offset = a->m->ksa_offset,
		                   .len = a->m->len };

	if (s != ST_OK) {
		if (s == ST_FORGED || s == ST_REPLAYED)
			log_error("a relay from %s over link %s was refused: %s", a->m->source, a->m->link, status_name(s));
		arrival_refuse(a, s, s == ST_FORGED     ? "its tag is wrong"
		                     : s == ST_REPLAYED ? "its pad was used before"
		                     : s == ST_KEY_GONE ? "it was voided"
		                     : s == ST_DENIED   ? "it came over a node that has passed another share"
		                                        : status_name(s));
		return;
	}
	a->km->counters.relays_received++;
	a->km->counters.relay_bytes += a->m->len;
	if (a->m->shares == 1)
		arrived_remember(a->km, &a->m->ksa_pool, a->m->ksa_offset, a->m->len, a->tag);
	if (a->there)
		km_send(a->km, KM_COMPLETION, a->m->relayer, &m, completion_told, NULL);
	arrival_done(a);
}

/* What is wrong with the way a relay came or is to go; NULL if nothing. */
static const char *wrong_way(const struct km *km, const char *from, const struct km_relay *m)
{
	const struct km_route *r = &m->route;

	if (r->count == 0)
		return "it names no route";
	for (uint32_t i = 0; i < r->count; i++) {
		if (strcmp(r->nodes[i], km->name) != 0)
			continue;
		if (m->hops_left > 0)
			return "it has been here before";
		if (i == 0 || strcmp(r->nodes[i - 1], from) != 0)
			return "it comes from a node that is not before this one on its route";
		if ((i + 1 == r->count) != (strcmp(m->destination, km->name) == 0))
			return "its route does not end at its destination";
		return NULL;
	}
	if (m->hops_left == 0)
		return "this node is not on its route";
	return strcmp(r->nodes[r->count - 1], from) == 0 ? NULL : "it does not come from the last node it visited";
}

static void pass_on(struct arrival *a, struct link *in)
{
	const struct km_relay *m = a->m;
	struct transit_plan plan = { .origin = FROM_RELAY,
		                     .trace = m->trace,
		                     .relay = m->relay,
		                     .ksa_pool = m->ksa_pool,
		                     .source = m->source,
		                     .destination = m->destination,
		                     .relayer = m->relayer,
		                     .ksa_offset = m->ksa_offset,
		                     .expires = a->expires,
		                     .len = m->len,
		                     .relay_case = m->relay_case,
		                     .group = m->group,
		                     .share = m->share,
		                     .shares = m->shares,
		                     .route = m->route,
		                     .hops_left = m->hops_left,
		                     .in = in,
		                     .message = m,
		                     .drop = arrival_free };

	transit_new(a->km, &plan, forwarded, a);
}

/* Shares go over whole routes, in case 2. */
static bool are_shares_sound(const struct km_relay *m)
{
	return m->share < m->shares &&
	       (m->shares == 1 || (m->shares <= KM_SHARES_MAX && m->relay_case == 2 && m->hops_left == 0));
}

void handle_relay(struct km *km, const char *from, const void *message, km_reply reply, void *arg)
{
	const struct km_relay *m = message;
	struct link *in = link_by_name(km, m->link);
	struct ksa_inbound *pool;
	const char *wrong = wrong_way(km, from, m);
	struct arrival *a;

	if (in == NULL || strcmp(in->peer, from) != 0 || wrong != NULL) {
		log_warning("a relay to %s that %s handed on was refused: %s", m->destination, from,
		            wrong != NULL ? wrong : "it came over no link of this node");
		km_refuse(reply, arg, ST_DENIED, "relay to %s at %s: %s", m->destination, km->name,
		          wrong != NULL ? wrong : "there is no such link to the node it comes from");
		return;
	}
	if (m->len <= FILL_TAG_KEY || m->len > FILL_MOST || m->pad_count == 0 || m->pad_count > KM_PADS_MAX ||
	    (m->relay_case != 1 && m->relay_case != 2) || !are_shares_sound(m)) {
		km_refuse(reply, arg, ST_BAD_REQUEST, "relay to %s at %s: sizes out of bounds", m->destination, km->name);
		return;
	}
	if (!in->open || env_utc(km->env) >= m->expires) {
		km_refuse(reply, arg, in->open ? ST_TIMED_OUT : ST_LINK_DOWN, "relay to %s at %s: %s", m->destination,
		          km->name, in->open ? "its time is over" : "the link it comes over is not open");
		return;
	}
	a = xcalloc(1, sizeof *a);
	a->km = km;
	a->m = relay_copy(m);
	a->expires = env_utc(km->env) + LASTS_MOST;
	if (a->expires > m->expires)
		a->expires = m->expires;
	a->link_pool = *link_pool_in(in);
	a->reply = reply;
	a->arg = arg;
	if (strcmp(m->destination, km->name) != 0) {
		pass_on(a, in);
		return;
	}
	km->has_shares |= m->shares > 1;
	pool = ksa_inbound_by_id(km, &m->ksa_pool);
	if (pool == NULL || strcmp(pool->source, m->source) != 0)
		arrival_refuse(a, ST_NOT_FOUND, "the KSA pool of its source is not open here");
	else
		ks_submit(km->ks, keep_work, kept, a);
}
