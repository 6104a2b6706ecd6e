"""What a QKDN controller knows, over Mc: qkdnctl topology show, link list, route show."""
import json
import os
import signal
import unittest

from qkdn_test import Case, Lab, eventually, run, write

RING = """
control = "%s"; controller_settings = "report_interval = \\"200 ms\\";";
nodes = ( { name = "a"; applications = [ "app1" ]; }, { name = "b"; }, { name = "c"; applications = [ "app2" ]; }, { name = "d"; } );
links = ( { name = "a-b"; between = [ "a", "b" ]; rate = "fixed"; fixed_rate = 5000000.0; },
          { name = "b-c"; between = [ "b", "c" ]; rate = "fixed"; fixed_rate = 5000000.0; },
          { name = "c-d"; between = [ "c", "d" ]; rate = "fixed"; fixed_rate = 5000000.0; },
          { name = "d-a"; between = [ "d", "a" ]; rate = "fixed"; fixed_rate = 5000000.0; } );
"""
NODES = {"a": 2, "b": 2, "c": 2, "d": 2}


class Topology(Case):
    def up(self, control):
        self.lab = Lab(write(self.path("topology.conf"), RING % control), self.path("lab"))
        self.addCleanup(self.lab.down)

    def ask(self, *words, check=True):
        done = run("qkdnctl", *words, "--json", "--lab", self.lab.folder, check=check)
        return json.loads(done.stdout) if done.returncode == 0 else done.returncode

    def up_links(self, *more):
        return {n["name"]: n["up"] for n in self.ask("topology", "show", *more)["nodes"]}

    def routes(self, *words):
        found = self.ask("route", "show", *words, check=False)
        return sorted("".join(r["nodes"]) for r in found) if isinstance(found, list) else found

    def test_centralized(self):
        self.up("centralized")
        self.assertTrue(eventually(lambda: self.up_links() == NODES))
        shown = self.ask("topology", "show")
        self.assertEqual((shown["mode"], shown["kms"]), ("centralized", 4))
        self.assertEqual([l["name"] for l in self.ask("link", "list")], ["a-b", "b-c", "c-d", "d-a"])
        self.assertEqual(self.routes("--disjoint", "2", "a", "c"), ["abc", "adc"])
        self.assertEqual(self.routes("--disjoint", "8", "a", "c"), ["abc", "adc"])
        self.assertEqual(self.routes("a", "nowhere"), 2)
        text = run("qkdnctl", "link", "list", "--lab", self.lab.folder).stdout
        self.assertEqual(len(text.splitlines()), 9)
        run("qkdn-lab", "stop", self.lab.folder, "b/kmd")  # its neighbours say that the links are down
        self.assertTrue(eventually(lambda: self.routes("--disjoint", "2", "a", "c") == ["adc"]))
        run("qkdn-lab", "start", self.lab.folder, "b/kmd")
        self.assertTrue(eventually(lambda: self.routes("--disjoint", "2", "a", "c") == ["abc", "adc"]))

    def test_every_controller_knows_all_in_distributed_operation(self):
        self.up("distributed")
        for node in NODES:
            self.assertTrue(eventually(lambda at=node: self.up_links("--node", at) == NODES), node)
        self.assertEqual(self.routes("--node", "c", "--disjoint", "2", "b", "d"), ["bad", "bcd"])

    def both_ends_agree(self):
        self.assertTrue(eventually(lambda: self.lab.keyreq(
            "app1", "get", "--to", "app2", "--timeout", "5", check=False).returncode == 0))
        keys = self.lab.get("app1", "app2", 5)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)

    def test_a_controller_that_was_killed_learns_everything_again(self):
        self.up("distributed")
        self.assertTrue(eventually(lambda: self.up_links("--node", "a") == NODES))
        self.both_ends_agree()
        os.kill(self.lab.running()["a/controllerd"], signal.SIGKILL)
        self.assertTrue(eventually(lambda: "a/controllerd" not in self.lab.running()))
        self.both_ends_agree()  # without it: from what is there
        run("qkdn-lab", "start", self.lab.folder, "a/controllerd")
        self.assertTrue(eventually(lambda: self.up_links("--node", "a") == NODES))
        self.both_ends_agree()

    def test_a_node_that_fails_is_gone_around_by_all(self):
        self.up("distributed")
        for node in NODES:
            self.assertTrue(eventually(lambda at=node: self.up_links("--node", at) == NODES), node)
        os.kill(self.lab.running()["b/kmd"], signal.SIGKILL)
        for node in NODES:
            self.assertTrue(eventually(lambda at=node: self.routes("--node", at, "a", "c") == ["adc"]), node)
        self.both_ends_agree()

    def test_only_administrators_and_managers_may_ask(self):
        self.up("centralized")
        with open(os.path.join(self.lab.folder, "control", "controllerd.conf"), encoding="utf-8") as file:
            address = file.read().split('listen = [ "')[1].split('"')[0]
        env = dict(os.environ, **self.lab.env("app1"), QKDN_CONTROLLER=address,
                   QKDN_CONTROLLER_NAME="control-controller")
        done = run("qkdnctl", "topology", "show", env=env, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, "")


if __name__ == "__main__":
    unittest.main()
