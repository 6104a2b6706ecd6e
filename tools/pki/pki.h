/* pki.h - the subcommands of qkdn-pki. Each takes its own argv and returns the exit status. */
#ifndef QKDN_PKI_H
#define QKDN_PKI_H

int pki_init(int argc, char **argv);
int pki_issue(int argc, char **argv);
int pki_revoke(int argc, char **argv);
int pki_secret(int argc, char **argv);
int pki_master_key(int argc, char **argv);
int pki_show(int argc, char **argv);

#endif
