/*
 * leftover.c - an application that gets keys, frees them, and looks for them in all of its memory.
 *
 * What is remembered of a key to look for is the complement of bytes in its middle, which an allocator
 * does not write to. Prints how many places hold them: before the keys are freed, then after, then after
 * qkdn_close; and the complements, for who has a core of it.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "qkdn.h"

enum { KEYS = 3, SIZE = 2048, MIDDLE = 100, LOOKED_FOR = 24, PIECE = 1 << 20 };

static uint8_t complements[KEYS][LOOKED_FOR];

static int is_key_at(const uint8_t *p, const uint8_t *complement)
{
	for (int i = 0; i < LOOKED_FOR; i++)
		if ((p[i] ^ complement[i]) != 0xff)
			return 0;
	return 1;
}

static unsigned places_in(const uint8_t *p, size_t len)
{
	unsigned n = 0;

	for (size_t i = 0; i + LOOKED_FOR <= len; i++)
		for (int k = 0; k < KEYS; k++)
			n += is_key_at(p + i, complements[k]);
	return n;
}

/* The piece overlaps the next one by what is looked for, less a byte: nothing is seen twice or missed. */
static unsigned places_between(int fd, unsigned long from, unsigned long to, uint8_t *piece)
{
	unsigned n = 0;

	while (from + LOOKED_FOR <= to) {
		size_t want = to - from < PIECE ? to - from : PIECE;
		ssize_t got = pread(fd, piece, want, (off_t)from);

		if (got < LOOKED_FOR)
			break;
		n += places_in(piece, (size_t)got);
		from += (size_t)got - LOOKED_FOR + 1;
		if ((size_t)got == to - from + LOOKED_FOR - 1)
			break;
	}
	memset(piece, 0, PIECE);
	return n;
}

static unsigned places(void)
{
	static uint8_t piece[PIECE];
	FILE *maps = fopen("/proc/self/maps", "re");
	int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	char line[512], mode[8];
	unsigned long from, to;
	unsigned n = 0;

	if (maps == NULL || fd < 0)
		err(1, "/proc/self");
	while (fgets(line, sizeof line, maps) != NULL) {
		if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[0] != 'r' || strstr(line, "[v"))
			continue;
		if (from <= (unsigned long)piece && to > (unsigned long)piece) { /* all but the piece itself */
			n += places_between(fd, from, (unsigned long)piece, piece);
			from = (unsigned long)piece + sizeof piece;
		}
		n += places_between(fd, from, to, piece);
	}
	fclose(maps);
	close(fd);
	return n;
}

int main(void)
{
	const struct qkdn_request request = { .destination = "app2", .number = KEYS, .size = SIZE };
	struct qkdn_client *client;
	struct qkdn_error error;
	struct qkdn_keys *keys, *same;
	unsigned before, after;

	if (qkdn_connect_environment(&client, &error) != QKDN_OK ||
	    qkdn_get_keys(client, &request, &keys, &error) != QKDN_OK)
		errx(1, "%s", error.text);
	for (size_t k = 0; k < KEYS; k++)
		for (size_t i = 0; i < LOOKED_FOR; i++)
			complements[k][i] = (uint8_t)~qkdn_keys_bytes(keys, k)[MIDDLE + i];
	if (qkdn_get_keys_by_id(client, "app1", qkdn_keys_id(keys, 0), KEYS, 0, &same, &error) != QKDN_OK)
		errx(1, "%s", error.text);
	before = places();
	qkdn_keys_free(keys);
	qkdn_keys_free(same);
	after = places();
	qkdn_close(client);
	printf("%u %u %u\n", before, after, places());
	for (int k = 0; k < KEYS; k++) {
		for (int i = 0; i < LOOKED_FOR; i++)
			printf("%02x", complements[k][i]);
		putchar('\n');
	}
	return 0;
}
