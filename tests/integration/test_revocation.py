"""Certificates that were revoked: at the handshake, and on connections that stand when the list is read again."""
import os
import re
import signal
import unittest

from qkdn_test import TWO_NODES, Case, Lab, eventually, program, run, write
from rpc_peer import PROGRAMS, Peer, is_let_in


class Revocation(Case):
    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES), self.path("lab"))
        self.addCleanup(self.lab.down)
        self.pki = self.path("lab", "pki")
        self.address = self.lab.env("app1")["QKDN_KM"]

    def revoke(self, *names, check=True):
        return run("qkdn-pki", "revoke", self.pki, *(os.path.join(self.pki, name + ".crt") for name in names), check=check)

    def with_list(self, daemon):
        """The daemon's configuration names the list, and it is started again."""
        path = self.path("lab", daemon + ".conf")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        crl = f'crl = "{self.pki}/ca.crl";\n'
        run("qkdn-lab", "stop", self.lab.folder, daemon)
        write(path, re.sub("^authority = .*$", lambda line: line[0] + "\n" + crl, text, flags=re.M))
        run("qkdn-lab", "start", self.lab.folder, daemon)

    def reload(self, daemon):
        os.kill(self.lab.running()[daemon], signal.SIGHUP)

    def log(self, node):
        with open(self.path("lab", node, "kmd.log"), encoding="utf-8") as file:
            return file.read()

    def test_a_revoked_application_is_thrown_out(self):
        self.revoke()
        self.with_list("alice/kmd")
        spy = Peer(self.address).starttls(self.pki + "/spy")
        self.addCleanup(spy.socket.close)
        good = Peer(self.address).starttls(self.pki + "/app1")
        self.addCleanup(good.socket.close)
        for peer in (spy, good):
            self.assertEqual(peer.ask(PROGRAMS["ak"], 0), ("accepted", 0))
        self.revoke("spy")
        self.assertTrue(is_let_in(self.address, self.pki + "/spy"))  # it has not been read yet
        self.reload("alice/kmd")
        self.assertTrue(spy.is_closed())
        self.assertFalse(is_let_in(self.address, self.pki + "/spy"))
        self.assertTrue(eventually(lambda: "certificate revoked" in self.log("alice")))
        self.assertIn("app/spy ends: its certificate was revoked", self.log("alice"))
        done = self.lab.exec("app1", program("qkdn-keyreq"), "status", "--to", "app2", "--certificate", self.pki + "/spy.crt",
                             "--private-key", self.pki + "/spy.key", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("certificate revoked: this end's certificate: issue a new one", done.stderr)
        self.assertNotIn("is the key manager running", done.stderr)
        self.assertEqual(good.ask(PROGRAMS["ak"], 0), ("accepted", 0))
        keys = self.lab.get("app1", "app2", 2)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)

    def test_an_application_does_not_ask_a_revoked_key_manager(self):
        self.revoke("alice")
        done = self.lab.exec("app1", "env", f"QKDN_CRL={self.pki}/ca.crl", program("qkdn-keyreq"),
                             "status", "--to", "app2", check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("certificate revoked", done.stderr)
        self.lab.key_status("app1", "app2")

    def test_a_list_that_cannot_be_used_is_refused(self):
        conf = self.path("lab", "alice", "kmd.conf")
        with open(conf, encoding="utf-8") as file:
            text = file.read()
        for content in (None, "no list"):
            if content:
                write(os.path.join(self.pki, "ca.crl"), content)
            self.with_list_refused(text)
        self.assertIn("holds no list", self.revoke(check=False).stderr)
        os.remove(os.path.join(self.pki, "ca.crl"))
        run("qkdn-pki", "init", self.path("other"))
        run("qkdn-pki", "issue", self.path("other"), "app", "app1")
        done = run("qkdn-pki", "revoke", self.pki, self.path("other", "app1.crt"), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("not of this authority", done.stderr)
        done = run("qkdn-pki", "revoke", self.pki, self.path(self.pki, "ca.crt"), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("is the authority itself", done.stderr)

    def with_list_refused(self, text):
        """On SIGHUP the daemon goes on with what it had; the start of one fails."""
        conf = self.path("lab", "alice", "other.conf")
        write(conf, re.sub("^authority = .*$", lambda line: f'{line[0]}\ncrl = "{self.pki}/ca.crl";', text, flags=re.M))
        done = run("qkdn-kmd", "-c", conf, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("revoked certificates", done.stderr)


if __name__ == "__main__":
    unittest.main()
