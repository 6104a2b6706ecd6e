/*
 * traffic.c - what goes over an open connection: records in, as far as its turn goes, and output.
 *
 * Everything that is put into a connection's output within one turn of the loop leaves in one go at
 * its end: under pipelining that is a factor of ten. A peer that does not take its output, or has too
 * many unanswered calls, is not read until that changes.
 */
#include "endpoint.h"

/* What work is worth, in units of about a microsecond. */
enum { UNITS_A_RECORD = 1, UNITS_A_READ = 3, UNITS_A_WRITE = 6, BYTES_A_UNIT = 2048 };

/* ---- output ------------------------------------------------------------------------------------ */

/* To handle another of its calls; less is too much where it is paused. */
static bool has_too_much(const struct rtls_conn *conn, bool is_paused)
{
	size_t high_water = conn->ep->options.output_high_water;

	return buffer_len(&conn->session.out) > (is_paused ? high_water / 2 : high_water) ||
	       party_has_too_many(conn, is_paused);
}

void traffic_resume(struct rtls_conn *conn)
{
	if (conn->queue == QUEUE_PAUSED && !has_too_much(conn, true))
		turn_add(conn);
}

static void pause_reading(struct rtls_conn *conn)
{
	turn_pause(conn);
	deadline_clear(&conn->ep->deadlines, &conn->whole); /* it is us who keep it waiting */
}

void traffic_flush(struct rtls_conn *conn)
{
	struct err e = { .status = ST_OK };
	size_t before = buffer_len(&conn->session.out);

	if (conn->closed || conn->session.phase != SESSION_OPEN || before == 0)
		return;
	turn_charge(conn, UNITS_A_WRITE + (int)(before / BYTES_A_UNIT));
	switch (session_flush(&conn->session, &e)) {
	case IO_OK:
		if (conn->writing)
			deadline_clear(&conn->ep->deadlines, &conn->stalled);
		conn->writing = false;
		break;
	case IO_WANT_READ:
	case IO_WANT_WRITE:
		if (!conn->writing || buffer_len(&conn->session.out) < before)
			deadline_set(&conn->ep->deadlines, &conn->stalled, conn->ep->options.record_ns);
		conn->writing = true;
		event_add(conn->write_event, NULL);
		break;
	case IO_CLOSED:
	case IO_FAILED:
		conn_close(conn, e.text);
		return;
	}
	traffic_resume(conn);
}

void traffic_flush_later(struct rtls_conn *conn)
{
	struct rtls_endpoint *ep = conn->ep;
	struct flush_list *list = conn->accepted ? &ep->accepted_flush : &ep->dialled_flush;

	if (conn->flush_is_due || conn->writing || conn->closed)
		return;
	if (list->first == NULL) {
		event_active(ep->flush_event, EV_TIMEOUT, 0);
		list->last = &list->first;
	}
	conn->flush_is_due = true;
	conn->flush_next = NULL;
	*list->last = conn;
	list->last = &conn->flush_next;
	conn_hold(conn);
}

/* ---- input ------------------------------------------------------------------------------------- */

static bool take_record(struct rtls_conn *conn, uint8_t *record, size_t len)
{
	if (len < RECORD_XID_LEN)
		return false;
	if (!conn->established) {
		deadline_clear(&conn->ep->deadlines, &conn->whole);
		conn_establish(conn); /* the connecting side: the peer has taken our certificate */
	}
	if (conn->closed)
		return true;
	if (message_is_call(record))
		return dispatch_call(conn, record, len);
	return call_take_reply(conn, record, len);
}

/* Until the record that is begun is whole, its deadline runs. */
static void watch_begun_record(struct rtls_conn *conn, bool progress)
{
	struct deadlines *all = &conn->ep->deadlines;
	bool begun = buffer_len(&conn->session.in) > 0;

	if (!conn->established)
		return; /* the handshake's deadline runs */
	if (!begun && conn->whole.place != 0)
		deadline_clear(all, &conn->whole);
	if (begun && (progress || conn->whole.place == 0))
		deadline_set(all, &conn->whole, conn->ep->options.record_ns);
}

/* The next whole record. false: there is none, or the connection was closed. */
static bool next_record(struct rtls_conn *conn, uint8_t **record, size_t *len)
{
	struct session *s = &conn->session;
	enum record_result r = record_read(&s->reader, &s->in, record, len);

	if (r != RECORD_WHOLE && r != RECORD_MORE)
		conn_close(conn, record_fault(r));
	return r == RECORD_WHOLE;
}

enum progress { DRAINED, OUT_OF_TURN, STOPPED };

/* Handles the whole records that are buffered. STOPPED: paused or closed. */
static enum progress process(struct rtls_conn *conn, int *slice)
{
	bool progress = false;
	uint8_t *record;
	size_t len;

	while (next_record(conn, &record, &len)) {
		bool is_call = len >= RECORD_XID_LEN && message_is_call(record);

		if (is_call && has_too_much(conn, false)) {
			pause_reading(conn);
			return STOPPED;
		}
		if (*slice <= 0)
			return OUT_OF_TURN;
		*slice -= UNITS_A_RECORD + (int)(len / BYTES_A_UNIT);
		progress = true;
		if (!take_record(conn, record, len))
			conn_close(conn, "a record that is no RPC message");
		*slice -= conn->costs;
		conn->costs = 0;
		if (conn->closed)
			return STOPPED;
		record_next(&conn->session.reader, &conn->session.in);
	}
	if (conn->closed)
		return STOPPED;
	watch_begun_record(conn, progress);
	return DRAINED;
}

void traffic_mute(struct rtls_conn *conn)
{
	conn->muted = true;
	event_del(conn->read_event);
}

/* false: there is nothing to process. */
static bool read_once(struct rtls_conn *conn)
{
	struct err e = { .status = ST_OK };

	conn->readable = false;
	if (conn->muted)
		event_add(conn->read_event, NULL);
	conn->muted = false;
	switch (session_read(&conn->session, &e)) {
	case IO_OK:
		return true;
	case IO_WANT_READ:
		return false;
	case IO_WANT_WRITE:
		event_add(conn->write_event, NULL);
		return false;
	default:
		conn_close(conn, e.text);
		return false;
	}
}

bool traffic_run(struct rtls_conn *conn, int *slice)
{
	for (;;) {
		enum progress p = process(conn, slice);

		if (p != DRAINED)
			return p == OUT_OF_TURN;
		if (!conn->readable && !tls_has_pending(conn->session.tls))
			return false;
		if (*slice <= 0)
			return true;
		*slice -= UNITS_A_READ;
		if (!read_once(conn))
			return false;
	}
}
