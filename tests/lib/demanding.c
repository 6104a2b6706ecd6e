/*
 * demanding.c - an application that asks its KM for more than two ends and a number of keys.
 *
 * Prints a line for each request: the status's name, and the KM's text or how many keys there are.
 */
#include <err.h>
#include <stdio.h>

#include "qkdn.h"

static void ask(struct qkdn_client *client, const struct qkdn_request *request)
{
	struct qkdn_error error;
	struct qkdn_keys *keys;
	enum qkdn_status s = qkdn_get_keys(client, request, &keys, &error);

	if (s == QKDN_OK)
		printf("%s: %zu\n", qkdn_status_name(s), qkdn_keys_count(keys));
	else
		printf("%s: %s\n", qkdn_status_name(s), error.text);
	qkdn_keys_free(keys);
}

int main(void)
{
	static const char *const third[] = { "spy" };
	static const struct qkdn_extension extensions[] = { { "colour", "red", 3, 0 }, { "taste", "", 0, 1 } };
	static const struct qkdn_request requests[] = {
		{ .destination = "app2", .timeout = 30000, .extensions = extensions, .extensions_count = 1 },
		{ .destination = "app2", .timeout = 30000, .extensions = extensions, .extensions_count = 2 },
		{ .destination = "app2", .timeout = 30000, .more_destinations = third, .more_destinations_count = 1 },
	};
	struct qkdn_client *client;
	struct qkdn_error error;

	if (qkdn_connect_environment(&client, &error) != QKDN_OK)
		errx(1, "%s", error.text);
	for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
		ask(client, &requests[i]);
	qkdn_close(client);
	return 0;
}
