/* echo_ends.h - what the tests of lib/rpc share: ends that serve and call the program of echo.x, in one loop or with
 * the server in a thread of its own. */
#ifndef QKDN_ECHO_ENDS_H
#define QKDN_ECHO_ENDS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>

#include "echo.h"
#include "env_event.h"
#include "rtls.h"
#include "test_pki.h"

#define PATIENCE_NS (100 * NS_PER_S) /* for what comes on any machine, however busy */

extern struct test_pki *echo_pki;
extern const struct rtls_program echo_program;

/* One end: serves echo_program. */
struct server {
	struct env *env;
	struct rtls_endpoint *ep;
	struct rtls_deferred *held; /* the last of ECHO_NEVER */
	struct rtls_deferred *all_held[64];
	unsigned held_count;
	unsigned calls;
	char last_caller[NAME_MAX_LEN + 1];
};

/* Two ends in one loop, and what became of the last call. */
struct both {
	struct env *env;
	struct env_timer *timer;
	struct server alice, bob;
	struct rtls_peer *peer; /* alice's connection to bob */
	int waiting;
	enum status status;
	char text[80];
	size_t bytes;
	bool timed_out;
};

/* bob alone, in a thread. */
struct background {
	struct both b;
	pthread_t thread;
};

void run(struct both *b);
void run_for(struct both *b, uint64_t ns);
void run_until_held(struct both *b, unsigned count);
void server_start(struct server *s, struct env *env, const char *role, const char *name,
                         const struct rtls_options *o);
struct rtls_peer *connect_alice_to_bob(struct both *b);
void both_start(struct both *b, const struct rtls_options *o);
void both_stop(struct both *b);
void done(enum status s, void *result, void *arg);
struct rtls_call echo_call(struct both *b, uint32_t procedure, echo_args *args);
void ask(struct both *b, uint32_t procedure, char *text);
void background_start(struct background *g, const struct rtls_options *o);
void background_stop(struct background *g);
enum status open_channel(struct background *g, struct rtls_credentials *c, struct rtls_channel **ch, struct err *e);

/* For cmocka_run_group_tests. */
int echo_start(void **state);
int echo_stop(void **state);

#endif
