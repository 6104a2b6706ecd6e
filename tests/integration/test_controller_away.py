"""Key managers whose QKDN controller is killed, stopped, late or wrong: relays go on with the routes it gave before."""
import json
import os
import re
import signal
import time
import unittest

from qkdn_test import Case, Lab, eventually, run, write

# A ring of four, and a node behind amber that leads nowhere.
RING = """
control = "%s"; relay_ahead = %s; %s
nodes = ( { name = "amber"; applications = [ "app1" ]; }, { name = "beryl"; },
          { name = "coral"; applications = [ "app2" ]; }, { name = "diamond"; }, { name = "emerald"; } );
links = ( { name = "amber-beryl"; between = [ "amber", "beryl" ]; rate = "fixed"; fixed_rate = 8000000.0; },
          { name = "beryl-coral"; between = [ "beryl", "coral" ]; rate = "fixed"; fixed_rate = 8000000.0; },
          { name = "coral-diamond"; between = [ "coral", "diamond" ]; rate = "fixed"; fixed_rate = 8000000.0; },
          { name = "diamond-amber"; between = [ "diamond", "amber" ]; rate = "fixed"; fixed_rate = 8000000.0; },
          { name = "emerald-amber"; between = [ "emerald", "amber" ]; rate = "fixed"; fixed_rate = 8000000.0; } );
"""
SETTINGS = 'km_settings = "call_timeout = \\"60 s\\";";'  # a KM that waits so long for a route has failed the test
STATUSES = "knows no way|no route|no next hop|no QKD link|is not reached|fewer are ready|too little pad|gone|did not answer|arrived in time"


class ControllerAway(Case):
    def up(self, control="centralized", ahead=False, more=SETTINGS):
        topology = write(self.path("topology.conf"), RING % (control, str(ahead).lower(), more))
        self.lab = Lab(topology, self.path("lab"))
        self.addCleanup(self.lab.down)
        self.assertTrue(eventually(lambda: self.answer() == "ok"), self.lab.logs()[-3000:])

    def controllers(self):
        return [n for n in self.lab.running() if n.endswith("/controllerd")]

    def signal(self, number, names=None):
        running = self.lab.running()
        for name in names if names is not None else self.controllers():
            os.kill(running[name], number)

    def kill(self, *names):
        self.signal(signal.SIGKILL, names)
        self.assertTrue(eventually(lambda: not set(names) & set(self.lab.running())))

    def answer(self, seconds=20):
        """More keys than the last relay can have left: "ok", and the other end has them; or the status."""
        done = self.lab.keyreq("app1", "get", "--to", "app2", "-n", "64", "--timeout", str(seconds), "--json", "--reveal",
                               check=False)
        if done.returncode != 0:
            self.assertRegex(done.stderr, STATUSES)
            return done.stderr
        keys = {k["key_ID"]: k["key"] for k in json.loads(done.stdout)["keys"]}
        there = self.lab.keyreq("app2", "get-by-id", "--from", "app1", "--json", "--reveal", *keys)
        self.assertEqual({k["key_ID"]: k["key"] for k in json.loads(there.stdout)["keys"]}, keys)
        return "ok"

    def km(self, name):
        return json.loads(run("qkdnctl", "km", "status", "--lab", self.lab.folder, "--node", name, "--json").stdout)[0]

    def opened(self, node):
        """How often either neighbour of it in the ring has opened its link with it."""
        counts = []
        for end in "amber", "coral":
            with open(self.path("lab", end, "kmd.log"), encoding="utf-8") as log:
                counts.append(len(re.findall(rf"link \S+: open(?:ed by| with) {node},", log.read())))
        return counts

    def start(self, node):
        """... and waits until both its neighbours can relay over it."""
        before = self.opened(node)
        run("qkdn-lab", "start", self.lab.folder, f"{node}/kmd")
        self.assertTrue(eventually(lambda: all(a > b for a, b in zip(self.opened(node), before))))
        self.assertTrue(eventually(lambda: self.answer() == "ok"))

    def learns_both_ways(self):
        """The controller knows of both, and the KM asks for them: once a second, until it knows of another."""
        def both():
            shown = run("qkdnctl", "route", "show", "--disjoint", "2", "--lab", self.lab.folder, "amber", "coral", "--json",
                        check=False)
            return shown.returncode == 0 and len(json.loads(shown.stdout)) == 2
        self.assertTrue(eventually(both))
        for _ in range(2):
            time.sleep(1.1)
            self.assertTrue(eventually(lambda: self.answer() == "ok"))

    def learns_again(self):
        """The controllers are asked again: nothing is remembered any more, and keys come."""
        self.assertTrue(eventually(lambda: self.answer() == "ok" and not self.km("amber")["remembering"]),
                        self.lab.logs()[-3000:])

    def test_killed_and_back(self):
        for control in "centralized", "distributed":
            with self.subTest(control):
                self.up(control)
                self.kill(*self.controllers())
                for _ in range(3):
                    self.assertEqual(self.answer(), "ok")
                status = self.km("amber")
                self.assertTrue(status["remembering"])
                self.assertGreaterEqual(status["routes_remembered"], 3)
                self.assertIn("does not answer: relays go the way that it gave last", self.lab.logs())
                run("qkdn-lab", "stop", self.lab.folder, "amber/kmd")  # it knows them still when it is back
                run("qkdn-lab", "start", self.lab.folder, "amber/kmd")
                self.assertTrue(eventually(lambda: self.answer() == "ok"), self.lab.logs()[-3000:])
                self.assertTrue(self.km("amber")["remembering"])
                for daemon in [d["name"] for d in self.lab.status()["daemons"] if d["name"].endswith("/controllerd")]:
                    run("qkdn-lab", "start", self.lab.folder, daemon)
                self.learns_again()
                self.lab.down()

    def test_pools_are_filled_ahead_without_it(self):
        self.up("centralized", ahead=True, more='km_settings = "keys = { low_water = \\"16 KiB\\"; high_water = \\"32 KiB\\"; };";')
        stock = lambda: self.lab.key_status("app1", "app2")["stored_key_count"]
        self.assertTrue(eventually(lambda: stock() >= 512))
        self.kill(*self.controllers())
        for _ in range(8):  # twice what the pool holds
            self.assertTrue(eventually(lambda: stock() >= 512), "the pool was not filled without the controller")
            self.lab.get("app1", "app2", 128)
            self.lab.get("app1", "app2", 128)

    def test_another_remembered_route_when_a_node_is_gone(self):
        for control in "centralized", "distributed":
            with self.subTest(control):
                self.up(control)
                self.learns_both_ways()
                self.kill(*self.controllers())
                self.assertEqual(self.answer(), "ok")
                for node, other in ("beryl", "diamond"), ("diamond", "beryl"):
                    self.kill(f"{node}/kmd")
                    self.assertEqual(self.answer(), "ok", f"{control}: without {node}")
                    self.start(node)
                self.kill("beryl/kmd", "diamond/kmd")
                self.assertTrue(eventually(lambda: re.search("no (route|next hop) is remembered", self.answer(2))))
                self.lab.down()

    def test_stopped_and_late(self):
        self.up("centralized")
        self.learns_both_ways()
        self.signal(signal.SIGSTOP)
        self.addCleanup(lambda: self.signal(signal.SIGCONT))
        self.assertEqual(self.answer(), "ok", "the remembered route is taken long before the question times out")
        self.kill("beryl/kmd")  # what the stopped controller believes is wrong now
        self.assertEqual(self.answer(), "ok")
        self.signal(signal.SIGCONT)  # and now it answers what it was asked then
        for _ in range(5):
            self.answer()
        self.learns_again()
        run("qkdn-lab", "start", self.lab.folder, "beryl/kmd")
        self.learns_again()

    def test_its_refusal_is_obeyed(self):
        self.up("centralized")
        self.kill("beryl/kmd", "diamond/kmd")
        self.assertTrue(eventually(lambda: "knows no way from" in self.answer(2)))
        self.assertFalse(self.km("amber")["remembering"])


if __name__ == "__main__":
    unittest.main()
