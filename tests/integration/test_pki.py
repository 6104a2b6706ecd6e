"""qkdn-pki against the openssl program: what it issues, and what it refuses."""
import json
import os
import pathlib
import resource
import signal
import stat
import subprocess
import unittest

from qkdn_test import Case, program, run


def openssl(*words):
    return subprocess.run(["openssl", *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Pki(Case):
    def setUp(self):
        super().setUp()
        self.pki = self.path("pki")
        run("qkdn-pki", "init", self.pki, "--domain", "lab.qkdn")

    def show(self, name):
        return json.loads(run("qkdn-pki", "show", "--json", os.path.join(self.pki, name + ".crt")).stdout)

    def verify(self, name, *more):
        return openssl("verify", "-CAfile", os.path.join(self.pki, "ca.crt"), *more,
                       os.path.join(self.pki, name + ".crt"))

    def mode(self, *parts):
        return stat.S_IMODE(os.stat(self.path(*parts)).st_mode)

    def test_a_km_is_client_and_server(self):
        run("qkdn-pki", "issue", self.pki, "km", "alice", "--dns", "alice.lab", "--ip", "127.0.0.11",
            "--ip", "::1")
        said = self.show("alice")
        self.assertEqual(said["identity"], "spiffe://lab.qkdn/km/alice")
        self.assertEqual(said["usages"], ["clientAuth", "serverAuth", "rpc-client", "rpc-server"])
        self.assertEqual(said["names"], ["DNS:alice.lab", "IP Address:127.0.0.11",
                                         "IP Address:0:0:0:0:0:0:0:1"])
        for purpose in "sslserver", "sslclient":
            self.assertEqual(self.verify("alice", "-x509_strict", "-purpose", purpose).returncode, 0)
        text = openssl("x509", "-in", os.path.join(self.pki, "alice.crt"), "-noout", "-text").stdout
        self.assertIn("1.3.6.1.5.5.7.3.33, 1.3.6.1.5.5.7.3.34", text)
        self.assertIn("NIST CURVE: P-256", text)

    def test_an_application_is_a_client_only(self):
        run("qkdn-pki", "issue", self.pki, "app", "app1")
        self.assertEqual(self.show("app1")["usages"], ["clientAuth", "rpc-client"])
        self.assertEqual(self.verify("app1", "-purpose", "sslclient").returncode, 0)
        self.assertNotEqual(self.verify("app1", "-purpose", "sslserver").returncode, 0)

    def test_another_role_s_certificate_is_not_written_over(self):
        run("qkdn-pki", "issue", self.pki, "km", "alice")
        done = run("qkdn-pki", "issue", self.pki, "module", "alice", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("of role km: give another --out", done.stderr)
        self.assertEqual(self.show("alice")["identity"], "spiffe://lab.qkdn/km/alice")
        run("qkdn-pki", "issue", self.pki, "km", "alice")  # its own is renewed

    def test_expired_on_purpose(self):
        run("qkdn-pki", "issue", self.pki, "km", "late", "--days", "-1")
        self.assertTrue(self.show("late")["expired"])
        self.assertIn("expired", self.verify("late").stdout)

    def test_secrets_are_private_and_never_overwritten(self):
        run("qkdn-pki", "issue", self.pki, "km", "alice")
        for command, file, size in ("secret", "s", 4096), ("master-key", "m", 32):
            run("qkdn-pki", command, self.path(file))
            self.assertEqual(os.path.getsize(self.path(file)), size)
            self.assertEqual(self.mode(file), 0o600)
            again = run("qkdn-pki", command, self.path(file), check=False)
            self.assertEqual(again.returncode, 1)
            self.assertIn("there already", again.stderr)
        self.assertEqual(self.mode("pki", "alice.key"), 0o600)
        self.assertEqual(self.mode("pki", "ca.key"), 0o600)
        self.assertIn("there already", run("qkdn-pki", "init", self.pki, check=False).stderr)

    def test_refusals_say_what_to_do(self):
        for words, remedy in (
                (["kmm", "alice"], "give one of km"),
                (["km", "../alice"], "give 1 to 64"),
                (["km", "alice", "--dns", "*.lab"], "wildcards"),
                (["km", "alice", "--ip", "300.0.0.1"], "no IP address"),
                (["km", "alice", "--days", "0"], "number of days from 1 to 36500"),
                (["km", "alice", "--days", "36501"], "number of days from 1 to 36500"),
                (["km"], "DIR, ROLE and NAME")):
            done = run("qkdn-pki", "issue", self.pki, *words, check=False)
            self.assertEqual(done.returncode, 1, words)
            self.assertIn(remedy, done.stderr)
        os.chmod(os.path.join(self.pki, "ca.key"), 0o644)
        done = run("qkdn-pki", "issue", self.pki, "km", "alice", check=False)
        self.assertIn("chmod go=", done.stderr)

    def test_the_bare_command_shows_its_usage(self):
        done = run("qkdn-pki", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("master-key", done.stderr)


def run_without_room(most, *words):
    """Runs a program that can write so many bytes into a file and no more."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    return subprocess.run([program(words[0]), *words[1:]], preexec_fn=limit, restore_signals=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class FullDisk(Case):
    """A key has room (some 240 bytes), its certificate does not."""

    def setUp(self):
        super().setUp()
        self.pki = self.path("pki")

    def contents(self):
        return {path.name: path.read_bytes() for path in pathlib.Path(self.pki).iterdir()}

    def test_no_half_of_an_authority_is_left(self):
        done = run_without_room(400, "qkdn-pki", "init", self.pki, "--domain", "lab.qkdn")
        self.assertEqual(done.returncode, 1)
        self.assertIn("File too large", done.stderr)
        self.assertEqual(self.contents(), {})
        run("qkdn-pki", "init", self.pki, "--domain", "lab.qkdn")

    def test_the_pair_that_was_to_be_renewed_stays(self):
        run("qkdn-pki", "init", self.pki, "--domain", "lab.qkdn")
        run("qkdn-pki", "issue", self.pki, "km", "alice")
        before = self.contents()
        done = run_without_room(400, "qkdn-pki", "issue", self.pki, "km", "alice")
        self.assertEqual(done.returncode, 1)
        self.assertIn("File too large", done.stderr)
        self.assertEqual(self.contents(), before)
        done = run_without_room(100, "qkdn-pki", "revoke", self.pki, os.path.join(self.pki, "alice.crt"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("ca.crl: File too large", done.stderr)
        self.assertEqual(self.contents(), before)

    def test_no_half_of_a_secret_is_left(self):
        os.mkdir(self.pki)
        for kind in "master-key", "secret":
            path = os.path.join(self.pki, kind)
            done = run_without_room(10, "qkdn-pki", kind, path)
            self.assertEqual(done.returncode, 1)
            self.assertIn("File too large", done.stderr)
            self.assertEqual(self.contents(), {})


if __name__ == "__main__":
    unittest.main()
