/*
 * applications.c - one application at each node: asks for keys shared with the others, and fetches what
 * others have asked for. What it is given is checked here: equal at both ends, once, in time.
 */
#include <stdio.h>

#include "inside.h"

struct app_request {
	struct sim *sim;
	struct node *node, *far;
	unsigned incarnation, answers;
	uint64_t asked_at, wait;
	uint32_t number, size, *result;
	bool over; /* answered, or its KM was killed */
	struct app_request *prev, *next;
};

enum key_state { KEY_SUPPLIED, KEY_FETCHING, KEY_FETCHED, KEY_GONE };

struct app_key {
	struct sim *sim;
	struct id id;
	struct node *source, *destination;
	uint64_t supplied_at, fetch_at, fetching_since;
	uint32_t len;
	uint8_t *bytes;
	enum key_state state;
	bool lost_fetch; /* a fetch that was not answered: it may have been delivered */
	bool again;      /* fetched, and asked for once more: has to be refused */
	struct app_key *prev, *next;
	UT_hash_handle hh;
};

static void app_name(const struct node *n, char name[NAME_MAX_LEN + 1])
{
	snprintf(name, NAME_MAX_LEN + 1, "app%u", n->number);
}

/* ---- key request --------------------------------------------------------------------------------------- */

static void key_supplied(struct app_request *r, const struct id *id, const uint8_t *bytes, uint32_t len)
{
	struct sim *s = r->sim;
	struct app_key *k;
	uint8_t any = 0;

	HASH_FIND(hh, s->keys_by_id, id, sizeof *id, k);
	if (k != NULL) {
		sim_violation(s, "%s supplied a key twice", r->node->party.name);
		return;
	}
	for (uint32_t i = 0; i < len; i++)
		any |= bytes[i];
	if (any == 0)
		sim_violation(s, "%s supplied an empty key", r->node->party.name);
	k = xcalloc(1, sizeof *k);
	k->sim = s;
	k->id = *id;
	k->source = r->node;
	k->destination = r->far;
	k->len = len;
	k->bytes = xcalloc(1, len);
	memcpy(k->bytes, bytes, len);
	k->supplied_at = world_now(s->world);
	k->fetch_at = k->supplied_at + (sim_dice(s, 4) == 0 ? sim_dice(s, 10000) : sim_dice(s, 100)) * NS_PER_MS;
	s->stats.keys++;
	DL_APPEND(s->keys, k);
	HASH_ADD(hh, s->keys_by_id, id, sizeof k->id, k);
}

static void request_answered(const struct km_answer *answer, void *arg)
{
	const struct km_keys *keys = (const struct km_keys *)answer;
	struct app_request *r = arg;
	struct sim *s = r->sim;

	if (r->node->party.incarnation != r->incarnation) /* said by a dead one */
		return;
	r->over = true;
	if (++r->answers > 1)
		sim_violation(s, "%s answered a key request twice", r->node->party.name);
	s->stats.answered[answer->err.status]++;
	if (r->result != NULL)
		*r->result = answer->err.status;
	if (answer->err.status != ST_OK) {
		s->refusal = answer->err;
		sim_say(s, "%s: key request: %s", r->node->party.name, answer->err.text);
		if (answer->err.text[0] == '\0')
			sim_violation(s, "%s refused a key request without a text", r->node->party.name);
		return;
	}
	if (keys->count != r->number || keys->key_len != r->size / 8 || keys->len != keys->count * keys->key_len) {
		sim_violation(s, "%s answered OK without all of the keys", r->node->party.name);
		return;
	}
	for (uint32_t i = 0; i < keys->count; i++)
		key_supplied(r, &keys->key_ids[i], keys->bytes + i * keys->key_len, keys->key_len);
}

const char *sim_refusal(const struct sim *s)
{
	return s->refusal.text;
}

void sim_request(struct sim *s, unsigned a, unsigned b, uint32_t number, uint32_t size, uint64_t deadline,
                 uint32_t *result)
{
	struct app_request *r = xcalloc(1, sizeof *r);
	char source[NAME_MAX_LEN + 1], destination[NAME_MAX_LEN + 1];
	struct km_key_request m = { .source = source, .destination = destination, .number = number, .size = size,
		                    .deadline = deadline, .priority = (uint32_t)sim_dice(s, 3) };

	r->sim = s;
	r->node = &s->nodes[a];
	r->far = &s->nodes[b];
	r->incarnation = r->node->party.incarnation;
	r->asked_at = world_now(s->world);
	r->wait = deadline ? deadline : s->options.limits.request_deadline;
	r->number = number;
	r->size = size;
	r->result = result;
	if (result != NULL)
		*result = UINT32_MAX;
	if (r->node->km == NULL) {
		free(r);
		return;
	}
	s->stats.requests++;
	env_random(s->env, &m.trace, sizeof m.trace);
	app_name(r->node, source);
	app_name(r->far, destination);
	DL_APPEND(s->requests, r);
	km_receive(r->node->km, KM_KEY_REQUEST, source, &m, request_answered, r);
}

/* ---- key request with ID ----------------------------------------------------------------------------------- */

struct app_fetch {
	struct app_key *key;
	unsigned incarnation;
};

static void fetch_refused(struct app_key *k, const struct km_answer *answer)
{
	struct sim *s = k->sim;
	uint64_t now = world_now(s->world), age = now - k->supplied_at;

	if (answer->err.status == ST_BUSY || answer->err.status == ST_STORAGE) {
		k->state = KEY_SUPPLIED;
		k->fetch_at = now + NS_PER_S / 2;
		return;
	}
	k->state = KEY_GONE;
	if (answer->err.status == ST_KEY_GONE && (k->lost_fetch || age >= s->options.limits.key_lifetime))
		return;
	if (k->source->put_back || k->destination->put_back) /* an operator has lost it */
		return;
	sim_violation(s, "%s lacks a key that %s supplied %llu ms ago: %s", k->destination->party.name,
	              k->source->party.name, (unsigned long long)(age / NS_PER_MS), answer->err.text);
	check_explain(s, &k->id);
}

static void fetch_answered(const struct km_answer *answer, void *arg)
{
	const struct km_keys *keys = (const struct km_keys *)answer;
	struct app_fetch *f = arg;
	struct app_key *k = f->key;
	struct sim *s = k->sim;
	unsigned incarnation = f->incarnation;

	free(f);
	if (k->destination->party.incarnation != incarnation)
		return;
	if (k->again) {
		if (answer->err.status == ST_OK)
			sim_violation(s, "%s delivered a key twice", k->destination->party.name);
		k->state = KEY_FETCHED;
		return;
	}
	if (answer->err.status != ST_OK) {
		fetch_refused(k, answer);
		return;
	}
	k->state = KEY_FETCHED;
	s->stats.fetched++;
	if (keys->count != 1 || keys->len != k->len || memcmp(keys->bytes, k->bytes, k->len) != 0)
		sim_violation(s, "a key is not the same at %s and %s", k->source->party.name, k->destination->party.name);
}

static void fetch(struct app_key *k)
{
	struct sim *s = k->sim;
	char source[NAME_MAX_LEN + 1], destination[NAME_MAX_LEN + 1];
	struct km_key_request_with_id m = { .source = source, .destination = destination, .key_ids = &k->id, .count = 1 };
	struct app_fetch *f;

	if (k->destination->km == NULL) {
		k->fetch_at = world_now(s->world) + NS_PER_S / 2;
		return;
	}
	f = xcalloc(1, sizeof *f);
	f->key = k;
	f->incarnation = k->destination->party.incarnation;
	k->state = KEY_FETCHING;
	k->fetching_since = world_now(s->world);
	app_name(k->source, source);
	app_name(k->destination, destination);
	km_receive(k->destination->km, KM_KEY_REQUEST_WITH_ID, destination, &m, fetch_answered, f);
}

/* ---- all along ------------------------------------------------------------------------------------------------ */

static void check_answered(struct sim *s)
{
	uint64_t now = world_now(s->world);
	struct app_request *r, *next;

	DL_FOREACH_SAFE (s->requests, r, next) {
		uint64_t most = r->wait + s->options.limits.call_timeout + 2 * NS_PER_S;

		if (r->over && now - r->asked_at > 2 * most) {
			DL_DELETE(s->requests, r);
			free(r);
		} else if (!r->over && now - r->asked_at > most) {
			sim_violation(s, "%s did not answer a key request in %llu ms", r->node->party.name,
			              (unsigned long long)(most / NS_PER_MS));
			r->over = true;
		}
	}
}

static void fetch_due(struct sim *s)
{
	uint64_t now = world_now(s->world);
	struct app_key *k, *next;

	DL_FOREACH_SAFE (s->keys, k, next) {
		if (k->state == KEY_SUPPLIED && k->fetch_at <= now) {
			fetch(k);
		} else if (k->state == KEY_FETCHING && now - k->fetching_since > 5 * NS_PER_S) {
			sim_violation(s, "%s did not answer a key request with ID", k->destination->party.name);
			k->state = KEY_GONE;
		} else if (k->state == KEY_FETCHED && !k->again && sim_dice(s, 8) == 0) {
			k->again = true;
			fetch(k);
		} else if (k->state >= KEY_FETCHED) {
			DL_DELETE(s->keys, k); /* its ID is remembered */
		}
	}
}

static void ask_something(struct sim *s)
{
	uint64_t now = world_now(s->world);
	unsigned a, b;

	if (s->options.request_interval == 0 || now < s->next_request_at || s->settling)
		return;
	s->next_request_at = now + s->options.request_interval / 2 + sim_dice(s, s->options.request_interval);
	a = (unsigned)sim_dice(s, s->options.nodes);
	b = (unsigned)sim_dice(s, s->options.nodes);
	if (a != b)
		sim_request(s, a, b, 1 + (uint32_t)sim_dice(s, 8), 8 * (8 + (uint32_t)sim_dice(s, 57)),
		            (200 + sim_dice(s, 3000)) * NS_PER_MS, NULL);
}

void app_tick(struct sim *s)
{
	ask_something(s);
	check_answered(s);
	fetch_due(s);
}

void app_settle_check(struct sim *s)
{
	struct app_key *k;

	DL_FOREACH (s->keys, k)
		if (k->state < KEY_FETCHED)
			sim_violation(s, "a key that %s supplied could not be fetched at %s", k->source->party.name,
			              k->destination->party.name);
}

void app_node_died(struct node *n)
{
	struct sim *s = n->party.sim;
	struct app_request *r;
	struct app_key *k;

	DL_FOREACH (s->requests, r)
		if (r->node == n)
			r->over = true;
	DL_FOREACH (s->keys, k)
		if (k->destination == n && k->state == KEY_FETCHING) {
			k->state = k->again ? KEY_FETCHED : KEY_SUPPLIED;
			k->lost_fetch = true;
			k->fetch_at = world_now(s->world) + NS_PER_S;
		}
}

void app_free(struct sim *s)
{
	struct app_request *r, *next;
	struct app_key *k, *next_key;

	DL_FOREACH_SAFE (s->requests, r, next)
		free(r);
	HASH_ITER (hh, s->keys_by_id, k, next_key) {
		HASH_DEL(s->keys_by_id, k);
		free(k->bytes);
		free(k);
	}
}
