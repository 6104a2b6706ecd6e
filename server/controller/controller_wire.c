/* controller_wire.c - what the reference points of the controller share. */
#include "controllerd.h"

#include <stdlib.h>
#include <string.h>

#include "common.h"

struct unreachable {
	rtls_done done;
	void *arg;
};

static void tell_unreachable(void *arg)
{
	struct unreachable *u = arg;

	u->done(ST_PEER_UNREACHABLE, NULL, u->arg);
	free(u);
}

void controllerd_call(struct controllerd *d, const char *role, const char *name, const struct rtls_call *call)
{
	struct rtls_conn *conn = d->endpoint != NULL ? rtls_find_conn(d->endpoint, role, name) : NULL;
	struct unreachable *u;

	if (conn != NULL) {
		rtls_call(conn, call);
		return;
	}
	u = xcalloc(1, sizeof *u);
	*u = (struct unreachable){ call->done, call->arg };
	env_post(d->env, tell_unreachable, u);
}

bool controllerd_caller_is(struct svc_req *rq, const char *role, const char *name)
{
	const struct rtls_identity *caller = rtls_caller(rq);

	return strcmp(caller->role, role) == 0 && strcmp(caller->name, name) == 0;
}

bool controllerd_copy_name(char to[NAME_MAX_LEN + 1], const char *name)
{
	if (!name_is_valid(name))
		return false;
	memset(to, 0, NAME_MAX_LEN + 1);
	memcpy(to, name, strlen(name));
	return true;
}

void controllerd_conn_changed(struct rtls_conn *conn, bool up, void *arg)
{
	const struct rtls_identity *who = rtls_conn_identity(conn);
	struct controllerd *d = arg;
	bool gone = !up && rtls_find_conn(d->endpoint, who->role, who->name) == NULL;

	if (strcmp(who->role, "controller") == 0 && up)
		controller_neighbour_up(d->core, who->name);
	else if (strcmp(who->role, "controller") == 0 && gone)
		controller_neighbour_down(d->core, who->name);
	else if (strcmp(who->role, "km") == 0 && gone)
		controller_km_lost(d->core, who->name);
}

bool controllerd_read_link(struct route_link *to, const struct qkdn_link_state *from)
{
	to->state = (struct route_state){
		.up = from->up,
		.stock = from->stock,
		.generation_rate = from->generation_rate,
		.consumption_rate = from->consumption_rate,
		.qber_ppm = from->qber_ppm,
		.reported_at = from->reported_at,
	};
	return controllerd_copy_name(to->name, from->link) && controllerd_copy_name(to->peer, from->peer);
}
