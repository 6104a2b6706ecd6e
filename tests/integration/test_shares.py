"""Keys relayed in shares over disjoint routes, between real daemons on the ring of five of examples/."""
import base64
import json
import os
import re
import signal
import subprocess
import unittest

from qkdn_test import TOP, Case, Lab, eventually, program, run, write
from test_memory import PIECE, writable

WAYS = ("beryl",), ("emerald", "diamond")
BETWEEN = [node for way in WAYS for node in way]


class Shares(Case):
    def up(self, **settings):
        """The example, on demand, with settings changed; until a key has come."""
        with open(os.path.join(TOP, "examples", "ring-of-5.conf"), encoding="utf-8") as file:
            text = file.read().replace('rate = "model"', 'rate = "fixed"; fixed_rate = 4000000.0')
        for key, value in {"relay_ahead": "false", **settings}.items():
            text = re.sub(rf"(?m)^{key} = .*$", "", text) + f"{key} = {value};\n"
        self.lab = Lab(write(self.path("topology.conf"), text), self.path("lab"))
        self.addCleanup(self.lab.down)
        self.assertTrue(eventually(lambda: self.get(1) is not None), self.lab.logs()[-3000:])

    def get(self, number, seconds=20):
        done = self.lab.keyreq("app1", "get", "--to", "app3", "-n", str(number), "--timeout", str(seconds), "--json",
                               "--reveal", check=False)
        self.refusal = done.stderr
        return None if done.returncode else {k["key_ID"]: k["key"] for k in json.loads(done.stdout)["keys"]}

    def ask(self, *words):
        return json.loads(run("qkdnctl", *words, "--lab", self.lab.folder, "--json").stdout)

    def figure(self):
        ladder = json.loads(run("qkdnctl", "trace", "--json", self.lab.folder).stdout)
        return [(m["from"].split("/")[-1], m["to"].split("/")[-1], m["message"]) for m in ladder["messages"]]

    def test_each_share_goes_its_own_way(self):
        self.up()
        keys = self.get(64)
        there = json.loads(self.lab.keyreq("app3", "get-by-id", "--from", "app1", "--json", "--reveal", *keys).stdout)
        self.assertEqual({k["key_ID"]: k["key"] for k in there["keys"]}, keys)
        relays = {(a, b, m) for a, b, m in self.figure() if m.startswith("Key relay (share")}
        by_share = [{(a, b) for a, b, m in relays if m == f"Key relay (share {n} of 2)"} for n in (1, 2)]
        ways = [set(zip(("amber", *way), (*way, "coral"))) for way in WAYS]
        self.assertCountEqual(by_share, ways)
        pool = next(p for p in self.ask("pool", "list", "--node", "amber") if p["kind"] == "KSA" and
                    (p["source"], p["destination"]) == ("amber", "coral"))
        self.assertEqual(pool["shares"], "2 required")
        staged = [p for p in self.ask("pool", "list") if p["kind"] == "share"]
        self.assertEqual({p["km"] for p in staged}, {"coral"})
        self.assertEqual([p["stock"] + p["unready"] for p in staged], [0] * len(staged))

    def test_destination_killed_and_back(self):
        """With the pools where it staged shares in its store."""
        self.up()
        for _ in range(2):
            os.kill(self.lab.running()["coral/kmd"], signal.SIGKILL)
            self.assertTrue(eventually(lambda: "coral/kmd" not in self.lab.running()))
            run("qkdn-lab", "start", self.lab.folder, "coral/kmd")
            self.assertTrue(eventually(lambda: self.get(64) is not None), self.refusal)

    def memory_of(self, node):
        return b"\0".join(content for _, content in writable(self.lab.running()[f"{node}/kmd"]))

    def waiting_for_coral(self):
        """How many nodes before it have sent it something and have no answer."""
        return sum(any(r["stage"] == "sent" for r in self.ask("relay", "list", "--node", way[-1])) for way in WAYS)

    def keys_and_what_was_seen(self, ways):
        """Some keys of a request whose relays the destination let stand; what the nodes between had in memory then."""
        coral = self.lab.running()["coral/kmd"]
        os.kill(coral, signal.SIGSTOP)
        try:
            request = subprocess.Popen([program("qkdn-keyreq"), "get", "--to", "app3", "-n", "100", "--timeout", "60",
                                        "--json", "--reveal"], env={**os.environ, **self.lab.env("app1")},
                                       stdout=subprocess.PIPE, text=True)
            self.assertTrue(eventually(lambda: self.waiting_for_coral() == ways))
            seen = {node: self.memory_of(node) for node in BETWEEN}
        finally:
            os.kill(coral, signal.SIGCONT)
        output, _ = request.communicate(timeout=240)
        keys = [base64.b64decode(k["key"]) for k in json.loads(output)["keys"]]
        self.assertEqual(len(keys), 100)
        return keys[5::10], seen

    def pieces_in(self, memory, keys):
        return sum(key[:PIECE] in memory for key in keys)

    @unittest.skipUnless(os.geteuid() == 0, "reading a daemon's memory needs root")
    def test_no_node_between_has_the_key(self):
        self.up()
        keys, seen = self.keys_and_what_was_seen(ways=2)
        self.assertEqual({node: self.pieces_in(memory, keys) for node, memory in seen.items()}, dict.fromkeys(BETWEEN, 0))
        after = {node: self.memory_of(node) for node in BETWEEN}
        self.assertEqual({node: self.pieces_in(m, keys) for node, m in after.items()}, dict.fromkeys(BETWEEN, 0))
        for node in BETWEEN:
            for folder, _, names in os.walk(self.path("lab", node)):
                for name in names:
                    with open(os.path.join(folder, name), "rb") as file:
                        self.assertEqual(self.pieces_in(file.read(), keys), 0, name)
        texts = self.lab.logs().lower()
        self.assertFalse([k for k in keys if k.hex()[:24] in texts])

    @unittest.skipUnless(os.geteuid() == 0, "reading a daemon's memory needs root")
    def test_without_shares_it_would_have(self):
        """The search sees what is there: as one, the key is at the node between."""
        self.up(shares="1", shares_policy='"preferred"')
        keys, seen = self.keys_and_what_was_seen(ways=1)
        self.assertGreater(max(self.pieces_in(memory, keys) for memory in seen.values()), 0)

    def test_too_few_ways(self):
        self.up()
        os.kill(self.lab.running()["diamond/kmd"], signal.SIGKILL)
        told = "2 shares are required, and there is 1 route without a common node"
        self.assertTrue(eventually(lambda: self.get(64, 2) is None and told in self.refusal), self.refusal)
        run("qkdn-lab", "start", self.lab.folder, "diamond/kmd")
        self.assertTrue(eventually(lambda: self.get(64) is not None), self.refusal)


if __name__ == "__main__":
    unittest.main()
