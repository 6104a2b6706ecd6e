/* copy.c - messages and answers copied with all they point to, as a wire does. */
#include "inside.h"

struct bag_item {
	struct bag_item *next;
	uint64_t bytes[];
};

void *bag_alloc(struct bag *b, size_t len)
{
	struct bag_item *i = xcalloc(1, sizeof *i + len);

	LL_PREPEND(b->items, i);
	return i->bytes;
}

void *bag_copy(struct bag *b, const void *p, size_t len)
{
	void *copy = bag_alloc(b, len);

	if (len > 0)
		memcpy(copy, p, len);
	return copy;
}

void bag_free(struct bag *b)
{
	struct bag_item *i, *next;

	LL_FOREACH_SAFE (b->items, i, next)
		free(i);
	b->items = NULL;
}

static const char *text(struct bag *b, const char *s)
{
	return s == NULL ? NULL : bag_copy(b, s, strlen(s) + 1);
}

static struct km_route route(struct bag *b, const struct km_route *r)
{
	const char **nodes = bag_alloc(b, r->count * sizeof *nodes);

	for (uint32_t i = 0; i < r->count; i++)
		nodes[i] = text(b, r->nodes[i]);
	return (struct km_route){ r->count, nodes };
}

static const struct km_block *blocks(struct bag *b, const struct km_block *from, uint32_t count)
{
	struct km_block *to = bag_copy(b, from, count * sizeof *to);

	for (uint32_t i = 0; i < count; i++)
		to[i].bytes = bag_copy(b, from[i].bytes, from[i].len);
	return to;
}

#define SHALLOW(type) struct type *c = bag_copy(b, message, sizeof *c)

static void *copy_key_supply(struct bag *b, const void *message)
{
	SHALLOW(km_key_supply);

	c->link = text(b, c->link);
	c->module = text(b, c->module);
	c->protocol = text(b, c->protocol);
	c->blocks = blocks(b, c->blocks, c->count);
	return c;
}

static void *copy_key_sync(struct bag *b, const void *message)
{
	SHALLOW(km_key_sync);

	c->link = text(b, c->link);
	c->module = text(b, c->module);
	return c;
}

static void *copy_register(struct bag *b, const void *message)
{
	SHALLOW(km_register);

	c->module = text(b, c->module);
	c->peer_module = text(b, c->peer_module);
	c->link = text(b, c->link);
	c->protocol = text(b, c->protocol);
	return c;
}

static void *copy_link_command(struct bag *b, const void *message)
{
	SHALLOW(km_link_command);

	c->link = text(b, c->link);
	return c;
}

static void *copy_flow_control(struct bag *b, const void *message)
{
	SHALLOW(km_flow_control);

	c->link = text(b, c->link);
	return c;
}

static void *copy_link_open(struct bag *b, const void *message)
{
	SHALLOW(km_link_open);

	c->link = text(b, c->link);
	return c;
}

static void *copy_link_sync(struct bag *b, const void *message)
{
	SHALLOW(km_link_sync);

	c->link = text(b, c->link);
	return c;
}

static void *copy_allocate(struct bag *b, const void *message)
{
	SHALLOW(km_allocate);

	c->link = text(b, c->link);
	return c;
}

static void *copy_relay(struct bag *b, const void *message)
{
	SHALLOW(km_relay);

	c->source = text(b, c->source);
	c->destination = text(b, c->destination);
	c->relayer = text(b, c->relayer);
	c->link = text(b, c->link);
	c->route = route(b, &c->route);
	c->pads = bag_copy(b, c->pads, c->pad_count * sizeof *c->pads);
	c->ciphertext = bag_copy(b, c->ciphertext, c->len);
	return c;
}

static void *copy_completion(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_completion));
}

static void *copy_pool_open(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_pool_open));
}

static void *copy_verify(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_verify));
}

static void *copy_void(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_void));
}

static void *copy_assign(struct bag *b, const void *message)
{
	SHALLOW(km_assign);
	struct km_assignment *a = bag_copy(b, c->assignments, c->count * sizeof *a);

	for (uint32_t i = 0; i < c->count; i++) {
		a[i].source = text(b, a[i].source);
		a[i].destination = text(b, a[i].destination);
	}
	c->assignments = a;
	return c;
}

static void *copy_ck_register(struct bag *b, const void *message)
{
	SHALLOW(km_ck_register);

	c->km = text(b, c->km);
	return c;
}

static void *copy_ck_link_status(struct bag *b, const void *message)
{
	SHALLOW(km_ck_link_status);
	struct km_ck_link_state *l = bag_copy(b, c->links, c->count * sizeof *l);

	c->km = text(b, c->km);
	for (uint32_t i = 0; i < c->count; i++) {
		l[i].link = text(b, l[i].link);
		l[i].peer = text(b, l[i].peer);
	}
	c->links = l;
	return c;
}

static void *copy_ck_key_store_status(struct bag *b, const void *message)
{
	SHALLOW(km_ck_key_store_status);
	struct km_ck_pool_state *p = bag_copy(b, c->pools, c->count * sizeof *p);

	c->km = text(b, c->km);
	for (uint32_t i = 0; i < c->count; i++)
		p[i].peer = text(b, p[i].peer);
	c->pools = p;
	return c;
}

static void *copy_ck_next_hop(struct bag *b, const void *message)
{
	SHALLOW(km_ck_next_hop);
	struct km_route excluded = { c->excluded_count, c->excluded };

	c->source = text(b, c->source);
	c->destination = text(b, c->destination);
	c->visited = route(b, &c->visited);
	c->excluded = route(b, &excluded).nodes;
	return c;
}

static void *copy_ck_notification(struct bag *b, const void *message)
{
	SHALLOW(km_ck_notification);
	struct km_hop *h = bag_copy(b, c->excluded, c->excluded_count * sizeof *h);

	c->source = text(b, c->source);
	c->destination = text(b, c->destination);
	for (uint32_t i = 0; i < c->excluded_count; i++)
		h[i] = (struct km_hop){ text(b, h[i].from), text(b, h[i].to) };
	c->excluded = h;
	return c;
}

static void *copy_ck_response(struct bag *b, const void *message)
{
	SHALLOW(km_ck_response);

	c->text = text(b, c->text);
	c->failed = (struct km_hop){ text(b, c->failed.from), text(b, c->failed.to) };
	return c;
}

static void *copy_ck_reservation(struct bag *b, const void *message)
{
	SHALLOW(km_ck_reservation);

	c->route = route(b, &c->route);
	return c;
}

static void *copy_ck_relay(struct bag *b, const void *message)
{
	SHALLOW(km_ck_relay);

	c->link = text(b, c->link);
	c->route = route(b, &c->route);
	return c;
}

static void *copy_ck_relay_id(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_ck_relay_id));
}

/* ---- answers ------------------------------------------------------------------------------------------- */

static void *answer_plain(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_answer));
}

static void *answer_relay(struct bag *b, const void *message)
{
	SHALLOW(km_relay_answer);

	c->failed = (struct km_hop){ text(b, c->failed.from), text(b, c->failed.to) };
	return c;
}

static void *answer_module_status(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_module_status_answer));
}

static void *answer_progress(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_progress));
}

static void *answer_link_open(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_link_open_answer));
}

static void *answer_link_sync(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_link_sync_answer));
}

static void *answer_pool_open(struct bag *b, const void *message)
{
	return bag_copy(b, message, sizeof(struct km_pool_open_answer));
}

static void *answer_assign(struct bag *b, const void *message)
{
	SHALLOW(km_assign_answer);

	c->results = c->results == NULL ? NULL : bag_copy(b, c->results, c->count * sizeof *c->results);
	return c;
}

static void *answer_ck_register(struct bag *b, const void *message)
{
	SHALLOW(km_ck_register_answer);

	c->controller = text(b, c->controller);
	return c;
}

static void *answer_ck_next_hop(struct bag *b, const void *message)
{
	SHALLOW(km_ck_next_hop_answer);
	struct km_route alternatives = { c->alternative_count, c->alternatives };

	c->next_hop = text(b, c->next_hop);
	c->alternatives = route(b, &alternatives).nodes;
	return c;
}

static void *answer_ck_notification(struct bag *b, const void *message)
{
	SHALLOW(km_ck_notification_answer);

	for (uint32_t i = 0; i < c->count; i++)
		c->routes[i] = route(b, &c->routes[i]);
	for (uint32_t i = 0; i < c->alternative_count; i++)
		c->alternatives[i] = route(b, &c->alternatives[i]);
	return c;
}

static void *answer_ck_reservation(struct bag *b, const void *message)
{
	SHALLOW(km_ck_reservation_answer);

	c->link = text(b, c->link);
	return c;
}

/* ---- Cx ------------------------------------------------------------------------------------------------- */

static void *copy_cx_summary(struct bag *b, const void *message)
{
	SHALLOW(cx_summary);

	c->editions = bag_copy(b, c->editions, c->count * sizeof *c->editions);
	return c;
}

static void *answer_cx_summary(struct bag *b, const void *message)
{
	SHALLOW(cx_summary_answer);
	const char **wanted = bag_alloc(b, c->count * sizeof *wanted);

	for (size_t i = 0; i < c->count; i++)
		wanted[i] = text(b, c->wanted[i]);
	c->wanted = wanted;
	return c;
}

static struct ls_record *copy_records(struct bag *b, const struct ls_record *from, size_t count)
{
	struct ls_record *to = bag_copy(b, from, count * sizeof *to);

	for (size_t i = 0; i < count; i++)
		to[i].links = bag_copy(b, from[i].links, from[i].count * sizeof *to[i].links);
	return to;
}

static void *copy_cx_states(struct bag *b, const void *message)
{
	SHALLOW(cx_states);

	c->records = copy_records(b, c->records, c->count);
	return c;
}

static void *answer_cx_states(struct bag *b, const void *message)
{
	SHALLOW(cx_states_answer);

	c->newer = copy_records(b, c->newer, c->count);
	return c;
}

typedef void *copier(struct bag *b, const void *message);

static const struct {
	const char *name;
	copier *message, *answer;
} rows[SIM_MESSAGES] = {
	[KM_KEY_SUPPLY] = { "Key supply", copy_key_supply, answer_progress },
	[KM_KEY_SYNC] = { "Key sync", copy_key_sync, answer_progress },
	[KM_REGISTER] = { "Register", copy_register, answer_plain },
	[KM_START] = { "Start", copy_link_command, answer_plain },
	[KM_STOP] = { "Stop", copy_link_command, answer_plain },
	[KM_MODULE_STATUS] = { "Module status", copy_link_command, answer_module_status },
	[KM_FLOW_CONTROL] = { "Flow control", copy_flow_control, answer_plain },
	[KM_LINK_OPEN] = { "Link open", copy_link_open, answer_link_open },
	[KM_LINK_SYNC] = { "Link sync", copy_link_sync, answer_link_sync },
	[KM_ALLOCATE] = { "Allocate", copy_allocate, answer_plain },
	[KM_RELAY] = { "Relay", copy_relay, answer_relay },
	[KM_COMPLETION] = { "Completion", copy_completion, answer_plain },
	[KM_POOL_OPEN] = { "Pool open", copy_pool_open, answer_pool_open },
	[KM_VERIFY] = { "Verify", copy_verify, answer_plain },
	[KM_ASSIGN] = { "Assign", copy_assign, answer_assign },
	[KM_VOID] = { "Void", copy_void, answer_plain },
	[KM_CK_REGISTER] = { "Ck register", copy_ck_register, answer_ck_register },
	[KM_CK_LINK_STATUS] = { "Ck link status", copy_ck_link_status, answer_plain },
	[KM_CK_KEY_STORE_STATUS] = { "Ck key store status", copy_ck_key_store_status, answer_plain },
	[KM_CK_NEXT_HOP] = { "Ck next hop", copy_ck_next_hop, answer_ck_next_hop },
	[KM_CK_NOTIFICATION] = { "Ck notification", copy_ck_notification, answer_ck_notification },
	[KM_CK_RESPONSE] = { "Ck response", copy_ck_response, answer_plain },
	[KM_CK_RESERVATION] = { "Ck reservation", copy_ck_reservation, answer_ck_reservation },
	[KM_CK_RELAY] = { "Ck relay", copy_ck_relay, answer_plain },
	[KM_CK_ALLOCATION] = { "Ck allocation", copy_ck_relay_id, answer_plain },
	[KM_CK_VOID] = { "Ck void", copy_ck_relay_id, answer_plain },
	[SIM_CX_SUMMARY] = { "Cx summary", copy_cx_summary, answer_cx_summary },
	[SIM_CX_LINK_STATES] = { "Cx link states", copy_cx_states, answer_cx_states },
};

void *copy_message(struct bag *b, enum km_message m, const void *message)
{
	return rows[m].message(b, message);
}

/* A refusal is the answer of any message; but the whole of the type can be copied, since km_refuse
 * gives the largest. */
void *copy_answer(struct bag *b, enum km_message m, const struct km_answer *answer)
{
	return rows[m].answer(b, answer);
}

const char *message_name(enum km_message m)
{
	return (int)m < SIM_MESSAGES && rows[m].name != NULL ? rows[m].name : "?";
}
