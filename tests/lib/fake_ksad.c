/*
 * fake_ksad.c - the fake KSA as a program, for tests of programs that ask one: prints the environment
 * of the application app1 as NAME=VALUE lines, serves until standard input ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fake_ksa.h"
#include "log.h"

int main(void)
{
	struct test_pki *pki = test_pki_new();
	char *certificate = test_pki_path(pki, "app1.crt"), *key = test_pki_path(pki, "app1.key");
	struct fake_ksa *ksa;
	char byte;

	log_open("fake_ksad", LOG_LEVEL_ERROR);
	rtls_credentials_free(test_pki_credentials(pki, "app", "app1"));
	ksa = fake_ksa_start(pki, "alice", 0);
	printf("QKDN_KM=127.0.0.1:%u\nQKDN_KM_NAME=alice\nQKDN_CERTIFICATE=%s\nQKDN_PRIVATE_KEY=%s\n"
	       "QKDN_AUTHORITY=%s\n\n",
	       fake_ksa_port(ksa), certificate, key, test_pki_authority(pki));
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	fake_ksa_stop(ksa);
	test_pki_free(pki);
	free(certificate);
	free(key);
	return 0;
}
