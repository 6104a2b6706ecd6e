/*
 * km_use.c - what of a pool its source has on the way, and what both ends may forget.
 *
 * The source of a pool takes ranges in the order of their offsets, and a work is reported in the order of its
 * submission: whatever is reported later lies higher. So below the lowest range that is on its way, and where
 * none is, below the highest that ever was, the source will use nothing any more. The messages that use a pool
 * tell that; the destination cuts out what it still holds there: ranges of messages that got lost, and bytes
 * that were skipped. What no message follows is told by itself.
 */
#include "core.h"

void uses_begin(struct uses *u, struct use *use, uint64_t begin, uint64_t end)
{
	struct use *before = u->list != NULL ? u->list->prev : NULL;

	*use = (struct use){ .begin = begin, .end = end, .under_way = true };
	while (before != NULL && before->begin > begin) /* taken up again after a restart, in any order */
		before = before == u->list ? NULL : before->prev;
	if (before == NULL)
		DL_PREPEND(u->list, use);
	else
		DL_APPEND_ELEM(u->list, before, use);
	if (begin > u->up_to) /* what lies between was too short, and is void */
		uses_lost(u, begin);
	if (end > u->up_to)
		u->up_to = end;
}

void uses_end(struct uses *u, struct use *use, bool arrived)
{
	if (!use->under_way)
		return;
	DL_DELETE(u->list, use);
	use->under_way = false;
	if (!arrived)
		uses_lost(u, use->end);
}

void uses_lost(struct uses *u, uint64_t end)
{
	if (end > u->up_to)
		u->up_to = end;
	if (end > u->lost_below)
		u->lost_below = end;
}

uint64_t uses_unused_below(const struct uses *u)
{
	return u->list != NULL && u->list->begin < u->up_to ? u->list->begin : u->up_to;
}

void uses_forget(struct uses *u)
{
	struct use *use, *next;

	DL_FOREACH_SAFE (u->list, use, next)
		use->under_way = false;
	*u = (struct uses){ .list = NULL };
}

bool uses_to_be_told(const struct uses *u)
{
	return u->lost_below > 0 && uses_unused_below(u) >= u->lost_below;
}

void uses_told(struct uses *u, uint64_t unused_below)
{
	if (unused_below >= u->lost_below)
		u->lost_below = 0;
}
