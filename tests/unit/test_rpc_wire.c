/* test_rpc_wire.c - record marking, message headers, buffers, wiping, deadlines: without sockets. */
#include "echo_ends.h"

#include <stdlib.h>
#include <string.h>

#include "deadline.h"
#include "env_virtual.h"
#include "message.h"

/* ---- records ----------------------------------------------------------------------------------- */

static void add_fragment(struct buffer *b, uint32_t mark, const char *bytes)
{
	uint8_t word[4];

	put32(word, mark | (uint32_t)strlen(bytes));
	buffer_append(b, word, 4);
	buffer_append(b, bytes, strlen(bytes));
}

static void fragments_become_one_record(void **state)
{
	struct record_reader r = { .max = 100 };
	struct buffer b = { .bytes = NULL };
	uint8_t *record;
	size_t len;

	(void)state;
	add_fragment(&b, 0, "abc");
	add_fragment(&b, 0, "defgh");
	assert_int_equal(record_read(&r, &b, &record, &len), RECORD_MORE);
	add_fragment(&b, 0x80000000, "i");
	add_fragment(&b, 0x80000000, "next");
	assert_int_equal(record_read(&r, &b, &record, &len), RECORD_WHOLE);
	assert_int_equal(len, 9);
	assert_memory_equal(record, "abcdefghi", 9);
	assert_int_equal(record_read(&r, &b, &record, &len), RECORD_WHOLE); /* still the same */
	assert_memory_equal(record, "abcdefghi", 9);
	record_next(&r, &b);
	assert_int_equal(record_read(&r, &b, &record, &len), RECORD_WHOLE);
	assert_memory_equal(record, "next", 4);
	record_next(&r, &b);
	assert_int_equal(buffer_len(&b), 0);
	buffer_free(&b);
}

/* Byte by byte, as a slow or hostile peer sends: the result does not depend on how bytes arrive. */
static void records_arrive_byte_by_byte(void **state)
{
	struct record_reader r = { .max = 100 };
	struct buffer whole = { .bytes = NULL }, b = { .bytes = NULL };
	uint8_t *record;
	size_t len;

	(void)state;
	add_fragment(&whole, 0, "abc");
	add_fragment(&whole, 0x80000000, "defg");
	for (size_t i = 0; i < buffer_len(&whole); i++) {
		assert_int_equal(record_read(&r, &b, &record, &len), RECORD_MORE);
		buffer_append(&b, buffer_at(&whole, i), 1);
	}
	assert_int_equal(record_read(&r, &b, &record, &len), RECORD_WHOLE);
	assert_int_equal(len, 7);
	assert_memory_equal(record, "abcdefg", 7);
	buffer_free(&whole);
	buffer_free(&b);
}

static enum record_result read_marks(size_t max, unsigned count, uint32_t mark, const char *bytes)
{
	struct record_reader r = { .max = max };
	struct buffer b = { .bytes = NULL };
	enum record_result result;
	uint8_t *record;
	size_t len;

	for (unsigned i = 0; i < count; i++)
		add_fragment(&b, mark, bytes);
	result = record_read(&r, &b, &record, &len);
	buffer_free(&b);
	return result;
}

static void bad_records_are_refused(void **state)
{
	(void)state;
	assert_int_equal(read_marks(8, 1, 0x80000000, "12345678"), RECORD_WHOLE);
	assert_int_equal(read_marks(8, 1, 0x80000000, "123456789"), RECORD_TOO_LONG);
	assert_int_equal(read_marks(8, 3, 0, "123"), RECORD_TOO_LONG);
	assert_int_equal(read_marks(8, 1, 0x7fffffff, ""), RECORD_TOO_LONG);
	assert_int_equal(read_marks(8, 1, 0, ""), RECORD_EMPTY);
	assert_int_equal(read_marks(8, 1, 0x80000000, ""), RECORD_EMPTY);
	assert_int_equal(read_marks(1000, RECORD_FRAGMENTS_MAX, 0, "1"), RECORD_MORE);
	assert_int_equal(read_marks(1000, RECORD_FRAGMENTS_MAX + 1, 0, "1"), RECORD_TOO_MANY_FRAGMENTS);
}

/* ---- messages ---------------------------------------------------------------------------------- */

static void the_probe_is_as_in_rfc_9289(void **state)
{
	static const uint8_t probe[] = { 0x80, 0, 0, 0x28, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2, 0x20, 0x41, 0x60,
		                         1,    0, 0, 0,    1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		                         0,    0, 0 };
	static const uint8_t answer[] = { 0x80, 0,   0,   0x20, 0,   0,   0,   9,   0,   0, 0, 1, 0, 0, 0, 0, 0, 0,
		                          0,    0,   0,   0,    0,   8,   'S', 'T', 'A', 'R', 'T', 'T', 'L', 'S',
		                          0,    0,   0,   0 };
	struct message_reply reply;
	struct message_call call;
	struct buffer b = { .bytes = NULL };

	(void)state;
	message_put_probe(&b, 9, 0x20416001, 1);
	assert_int_equal(buffer_len(&b), sizeof probe);
	assert_memory_equal(buffer_at(&b, 0), probe, sizeof probe);
	assert_true(message_read_call(buffer_at(&b, 4), 40, &call));
	assert_int_equal(call.flavor, FLAVOR_AUTH_TLS);
	assert_int_equal(call.body, 40);
	buffer_truncate(&b, 0);
	message_put_starttls(&b, 9, SUCCESS);
	assert_int_equal(buffer_len(&b), sizeof answer);
	assert_memory_equal(buffer_at(&b, 0), answer, sizeof answer);
	assert_true(message_read_reply(buffer_at(&b, 4), 32, &reply));
	assert_true(reply.starttls);
	buffer_free(&b);
}

static void cut_messages_are_refused(void **state)
{
	struct message_reply reply;
	struct message_call call;
	struct buffer b = { .bytes = NULL };

	(void)state;
	message_put_probe(&b, 9, 1, 1);
	for (size_t len = 8; len < 40; len++)
		assert_false(message_read_call(buffer_at(&b, 4), len, &call));
	put32(buffer_at(&b, 4 + 28), 500); /* a credential longer than may be */
	assert_false(message_read_call(buffer_at(&b, 4), 40, &call));
	put32(buffer_at(&b, 4 + 28), 4); /* a credential longer than the record */
	assert_false(message_read_call(buffer_at(&b, 4), 40, &call));
	buffer_truncate(&b, 0);
	message_put_starttls(&b, 9, SUCCESS);
	for (size_t len = 8; len < 32; len++)
		assert_false(message_read_reply(buffer_at(&b, 4), len, &reply));
	buffer_free(&b);
}

/* ---- buffers and wiping ------------------------------------------------------------------------ */

static void consumed_bytes_are_wiped(void **state)
{
	struct buffer b = { .bytes = NULL };
	const char zero[7] = { 0 };

	(void)state;
	buffer_append(&b, "secret!", 7);
	buffer_consume(&b, 4);
	assert_memory_equal(b.bytes, zero, 4);
	buffer_truncate(&b, 1);
	assert_memory_equal(b.bytes + 5, zero, 2);
	assert_int_equal(*buffer_at(&b, 0), 'e');
	buffer_consume(&b, 1);
	assert_memory_equal(b.bytes, zero, 7);
	buffer_free(&b);
}

static void a_stream_stops_at_its_bound(void **state)
{
	struct buffer b = { .bytes = NULL };
	struct buffer_xdr x;
	u_int number = 7;

	(void)state;
	buffer_xdr_init(&x, &b, 8);
	assert_true(xdr_u_int(&x.xdr, &number));
	assert_true(xdr_u_int(&x.xdr, &number));
	assert_false(xdr_u_int(&x.xdr, &number));
	assert_int_equal(get32(buffer_at(&b, 4)), 7);
	buffer_free(&b);
}

/* What rtls_wipe freed cannot be looked at; so xdr_free meets strings that are static. */
static bool_t xdr_echo_bytes(XDR *xdr, echo_args *args)
{
	if (xdr->x_op == XDR_FREE)
		return TRUE;
	return xdr_echo_args(xdr, args);
}

static void every_byte_string_is_wiped(void **state)
{
	char text[] = "five5", bytes[] = "seven77", zero[8] = { 0 };
	echo_args args = { .text = text, .bytes = { 7, bytes } };

	(void)state;
	memset(args.trace, 1, sizeof args.trace);
	rtls_wipe((xdrproc_t)xdr_echo_bytes, &args);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
	assert_memory_equal(text, zero, 5);
	assert_memory_equal(bytes, zero, 7);
	assert_memory_equal(args.trace, zero, 8);
#else
	(void)zero;
#endif
	rtls_wipe((xdrproc_t)xdr_echo_args, NULL);
}

/* ---- deadlines --------------------------------------------------------------------------------- */

enum { DEADLINES = 500 };

static struct timed {
	struct deadline d;
	uint64_t due, passed;
} timed[DEADLINES];
static struct world *world;

static void passed(struct deadline *d)
{
	container_of(d, struct timed, d)->passed = world_now(world);
}

static void deadlines_pass_in_order_and_on_time(void **state)
{
	struct deadlines all;
	struct env *env;

	(void)state;
	world = world_new(4);
	env = env_virtual_new(world);
	deadlines_init(&all, env);
	for (int i = 0; i < DEADLINES; i++) {
		timed[i] = (struct timed){ .d = { .passed = passed }, .due = 1 + world_random(world) % NS_PER_S };
		deadline_set(&all, &timed[i].d, timed[i].due);
	}
	for (int i = 0; i < DEADLINES; i += 3)
		deadline_clear(&all, &timed[i].d);
	for (int i = 1; i < DEADLINES; i += 3)
		deadline_set(&all, &timed[i].d, timed[i].due = 2 * NS_PER_S - timed[i].due);
	world_run(world, 3 * NS_PER_S);
	for (int i = 0; i < DEADLINES; i++)
		assert_int_equal(timed[i].passed, i % 3 == 0 ? 0 : timed[i].due);
	assert_int_equal(all.count, 0);
	deadlines_free(&all);
	env_virtual_free(env);
	world_free(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fragments_become_one_record),
		cmocka_unit_test(records_arrive_byte_by_byte),
		cmocka_unit_test(bad_records_are_refused),
		cmocka_unit_test(the_probe_is_as_in_rfc_9289),
		cmocka_unit_test(cut_messages_are_refused),
		cmocka_unit_test(consumed_bytes_are_wiped),
		cmocka_unit_test(a_stream_stops_at_its_bound),
		cmocka_unit_test(every_byte_string_is_wiped),
		cmocka_unit_test(deadlines_pass_in_order_and_on_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
