"""Key supply upon request (Appendix I.1) between two nodes, with the real programs."""
import json
import os
import unittest
import uuid

from qkdn_test import BUILD, TOP, TWO_NODES, Case, Lab, eventually, golden, may_make_namespaces, program, run, write

OK, REFUSED, NOT_THERE = 0, 2, 3


class TwoNodes(Case):
    options = ()

    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES), self.path("lab"), *self.options)
        self.addCleanup(self.lab.down)

    def test_both_ends_have_the_same_keys(self):
        for source, destination, number, size in (
                ("app1", "app2", 1, 256), ("app2", "app1", 5, 128), ("app1", "app2", 3, 8192), ("app1", "app2", 128, 64)):
            keys = self.lab.get(source, destination, number, size)
            self.assertEqual(len(keys), number)
            self.assertEqual({len(k) for k in keys.values()}, {size // 8})
            self.assertEqual(len(set(keys.values())), number)
            self.assertEqual(self.lab.get_by_id(destination, source, keys), keys)

    def test_keys_are_hidden_and_in_no_log(self):
        keys = self.lab.get("app1", "app2", 2)
        shown = self.lab.keyreq("app2", "get-by-id", "--from", "app1", *keys).stdout
        self.assertIn("hidden", shown)
        told = (self.lab.logs() + shown).lower()
        for key in keys.values():
            self.assertNotIn(key.hex(), told)

    def test_a_refusal_consumes_nothing(self):
        keys = self.lab.get("app1", "app2", 3)
        ids = list(keys)
        for words, app, status in (
                (["get-by-id", "--from", "app1", ids[0], str(uuid.uuid4())], "app2", NOT_THERE),  # unknown key ID
                (["get-by-id", "--from", "app1", *ids], "spy", REFUSED),            # the wrong application
                (["get-by-id", "--from", "spy", *ids], "app2", None),              # the wrong source
                (["get", "--to", "nobody"], "app1", NOT_THERE),                    # unknown application
                (["get", "--to", "app2", "-n", "1000"], "app1", REFUSED),          # more than a request may
                (["get", "--to", "app2", "-s", "8"], "app1", REFUSED)):            # smaller than a key may be
            done = self.lab.keyreq(app, *words, check=False)
            self.assertNotEqual(done.returncode, OK, words)
            if status is not None:
                self.assertEqual(done.returncode, status, (words, done.stderr))
            self.assertEqual(done.stdout, "")
        self.assertEqual(self.lab.get_by_id("app2", "app1", ids), keys)
        again = self.lab.keyreq("app2", "get-by-id", "--from", "app1", ids[0], check=False)
        self.assertEqual(again.returncode, NOT_THERE, again.stderr)

    def test_what_is_mandatory_and_not_known_is_refused(self):
        """demanding.c: what may be passed over is; an extension that may not, and a third end, are refused."""
        said = self.lab.exec("app1", os.path.join(BUILD, "tests", "bin", "demanding")).stdout.splitlines()
        self.assertEqual(said[0], "ok: 1")
        self.assertRegex(said[1], "^unsupported: .*extension_mandatory.*: taste is not")
        self.assertRegex(said[2], "^unsupported: .*more than one destination")

    def test_the_ladder_is_the_recommendations(self):
        keys = self.lab.get("app1", "app2")
        self.lab.get_by_id("app2", "app1", keys)
        golden(self, "ladder/I.1-lab.txt", run("qkdnctl", "trace", self.lab.folder).stdout)

    def test_a_restarted_km_has_its_keys(self):
        keys = self.lab.get("app1", "app2", 4)
        for daemon in "bob/kmd", "alice/kmd":
            run("qkdn-lab", "stop", "--kill", self.lab.folder, daemon)
            self.assertNotIn(daemon, self.lab.running())
            run("qkdn-lab", "start", self.lab.folder, daemon)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)
        more = eventually(lambda: self.lab.keyreq("app1", "get", "--to", "app2", "--json", "--reveal",
                                                  check=False).returncode == OK)
        self.assertTrue(more, self.lab.logs()[-2000:])
        keys = eventually(lambda: self.lab.get("app2", "app1"))
        self.assertEqual(self.lab.get_by_id("app1", "app2", keys), keys)


@unittest.skipUnless(may_make_namespaces(), "needs root, ip, rpcbind and network namespaces")
class TwoNodesInNamespaces(TwoNodes):
    """The same, each node with an rpcbind of its own, through which its KM is found."""

    options = ("--netns",)
    test_the_ladder_is_the_recommendations = None
    test_a_refusal_consumes_nothing = None
    test_what_is_mandatory_and_not_known_is_refused = None

    def programs_at(self, address):
        """Program numbers that the rpcbind there knows, and their ports."""
        rows = [line.split() for line in self.lab.exec("bob", "rpcinfo", "-p", address).stdout.splitlines()[1:]]
        return {int(row[0]): int(row[3]) for row in rows}

    def registered(self):
        with open(os.path.join(TOP, "idl", "qkdn.rpc"), encoding="utf-8") as file:
            numbers = {w[0]: int(w[1]) for w in (line.split() for line in file) if w and w[0] != "#"}
        return {numbers[n] for n in ("qkdn_ak", "qkdn_kq1", "qkdn_kq2", "qkdn_kx1", "qkdn_kx2")}

    def test_an_administrator_need_not_enter_the_namespaces(self):
        """qkdnctl --lab does, where their names are to be seen; within qkdn-lab exec they are not."""
        for within in (), ("qkdn-lab", "exec", self.lab.folder, "bob"):
            words = *within, program("qkdnctl") if within else "qkdnctl", "km", "status", "--lab", self.lab.folder, "--json"
            self.assertEqual([km["km"] for km in json.loads(run(*words).stdout)], ["alice", "bob"], within)

    def test_rpcinfo_sees_the_programs(self):
        alice = next(d["address"] for d in self.lab.status()["daemons"] if d["name"] == "alice/kmd")
        self.assertLessEqual(self.registered(), set(self.programs_at(alice)))
        self.assertEqual(self.lab.env("app1")["QKDN_KM"], alice)  # a host alone: rpcbind knows the port
        run("qkdn-lab", "stop", self.lab.folder, "alice/kmd")
        self.assertFalse(self.registered() & set(self.programs_at(alice)), "withdrawn on stop")
        run("qkdn-lab", "start", self.lab.folder, "alice/kmd")
        self.assertLessEqual(self.registered(), set(self.programs_at(alice)))


class Faults(Case):
    """What the quantum layer gets wrong never becomes a key."""

    def fault(self, kind, end="second"):
        topology = TWO_NODES.replace('rate = "unlimited";', 'rate = "fixed"; fixed_rate = 4000000.0; '
                                    f'faults = ( {{ kind = "{kind}"; end = "{end}"; every = 3; }} );')
        lab = Lab(write(self.path("topology.conf"), topology), self.path(kind + end))
        try:
            for source, destination in (("app1", "app2"), ("app2", "app1")) * 3:
                keys = lab.get(source, destination, 128)
                self.assertEqual(lab.get_by_id(destination, source, keys), keys)
        finally:
            lab.down()

    def test_missing(self):
        self.fault("missing")

    def test_missing_at_the_first_end(self):
        self.fault("missing", "first")

    def test_repeated(self):
        self.fault("repeated")

    def test_late(self):
        self.fault("late")

    def test_differing(self):
        self.fault("differing")


if __name__ == "__main__":
    unittest.main()
