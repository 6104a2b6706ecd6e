#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "peers.h"

enum { MESSAGES_MOST = 24, HEAD = 4 };

void fuzz_net_init(struct fuzz_net *n)
{
	struct rtls_endpoint *ep = &n->ep;

	*n = (struct fuzz_net){ .world = world_new(1) };
	ep->env = env_virtual_new(n->world);
	ep->base = event_base_new();
	ep->failed_event = evtimer_new(ep->base, NULL, NULL);
	ep->failed_last = &ep->failed;
	ep->options = (struct rtls_options){ .max_record = 64 * 1024, .output_high_water = 1024 * 1024,
		                             .max_unanswered = 64 };
	ep->limit = (struct log_limit){ .interval_ns = NS_PER_S, .burst = 1 };
	deadlines_init(&ep->deadlines, ep->env);
}

void fuzz_net_join(struct fuzz_net *n, const struct fuzz_peer *peers, unsigned count)
{
	if (count > FUZZ_PEERS_MOST)
		abort();
	for (n->peers = 0; n->peers < count; n->peers++) {
		struct rtls_conn *c = &n->conns[n->peers];

		/* not established: nothing is sent over it */
		*c = (struct rtls_conn){ .ep = &n->ep, .references = 1, .writing = true };
		strcpy(c->session.peer.identity.role, peers[n->peers].role);
		strcpy(c->session.peer.identity.name, peers[n->peers].name);
		party_join(c);
	}
}

void fuzz_net_connect(struct fuzz_net *n, unsigned peer, bool up)
{
	if (n->connected[peer] == up || n->ep.watch == NULL)
		return;
	n->connected[peer] = up;
	n->ep.watch(&n->conns[peer], up, n->ep.watch_arg);
}

/* What is left of the input behind the message. */
static size_t send_one(struct fuzz_net *n, const struct fuzz_mouth *mouth, unsigned procedures, const uint8_t *data,
                       size_t size)
{
	size_t len = (size_t)(data[2] << 8 | data[3]) % (size - HEAD + 1);
	const struct message_call call = { .xid = 1, .rpc_version = 2, .procedure = data[1] % procedures,
		                           .program = mouth->program->number, .version = mouth->program->version };
	struct rtls_conn *from = &n->conns[mouth->from];
	struct buffer record = { .room = 0 };
	uint8_t *copy;

	if (call.procedure == procedures - 1) {
		fuzz_net_connect(n, mouth->from, !n->connected[mouth->from]);
		world_run(n->world, NS_PER_S / 50);
		return size - HEAD - len;
	}
	message_put_call(&record, &call);
	buffer_append(&record, data + HEAD, len);
	copy = xcalloc(1, buffer_len(&record)); /* of its very size, so that a read behind it is seen */
	memcpy(copy, buffer_at(&record, 0), buffer_len(&record));
	if (!dispatch_call(from, copy, buffer_len(&record)))
		abort(); /* the header is well-formed */
	world_run(n->world, NS_PER_S / 50);
	buffer_truncate(&from->session.out, 0);
	buffer_free(&record);
	free(copy);
	return size - HEAD - len;
}

void fuzz_net_send(struct fuzz_net *n, const struct fuzz_mouth *mouths, size_t mouth_count, unsigned procedures,
                   const uint8_t *data, size_t size)
{
	for (int i = 0; i < MESSAGES_MOST && size >= HEAD; i++) {
		size_t left = send_one(n, &mouths[data[0] % mouth_count], procedures, data, size);

		data += size - left;
		size = left;
	}
}

void fuzz_net_free(struct fuzz_net *n)
{
	for (unsigned i = 0; i < n->peers; i++) {
		party_leave(&n->conns[i]);
		party_release(n->conns[i].party);
		buffer_free(&n->conns[i].session.out);
	}
	while (n->ep.programs != NULL) {
		struct program *p = n->ep.programs;

		n->ep.programs = p->next;
		free(p->rights);
		free(p);
	}
	deadlines_free(&n->ep.deadlines);
	env_virtual_free(n->ep.env);
	world_free(n->world);
	event_free(n->ep.failed_event);
	event_base_free(n->ep.base);
}
