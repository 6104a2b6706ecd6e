"""The quantum layer towards real key managers: pull, stop and start, status, faults, a cut fibre, kill -9."""
import json
import os
import random
import signal
import unittest

from qkdn_test import Case, Lab, eventually, run, write

NODES = 'nodes = ( { name = "alice"; applications = [ "app1" ]; }, { name = "bob"; applications = [ "app2" ]; } );\n'
KM = 'km_settings = "module_status_interval = \\"200 ms\\"; missing_block_grace = \\"200 ms\\"; ' \
     'keys = { low_water = \\"32 KiB\\"; high_water = \\"128 KiB\\"; ' \
     'link_max_stock = \\"1 MiB\\"; };";\n'


class QuantumLayer(Case):
    def up(self, link, folder=None):
        topology = NODES + KM + f'links = ( {{ name = "alice-bob"; between = [ "alice", "bob" ]; {link} }} );\n'
        self.lab = Lab(write(self.path("topology.conf"), topology), folder or self.path("lab"))
        self.addCleanup(self.lab.down)
        self.seen = set()

    def assert_keys_flow(self, rounds, number=128, size=4096):
        """Many keys in both directions: the same at both ends, and none a second time."""
        for _ in range(rounds):
            for source, destination in ("app1", "app2"), ("app2", "app1"):
                keys = self.lab.get(source, destination, number, size)
                self.assertEqual(self.lab.get_by_id(destination, source, keys), keys)
                self.assertFalse(self.seen & set(keys.values()))
                self.seen |= set(keys.values())

    def log(self, name):
        with open(self.path("lab", *name.split("/")) + ".log", errors="replace") as file:
            return file.read()

    def quantumd(self, signal_number):
        os.kill(self.lab.running()["quantum/quantumd"], signal_number)

    def set_faults(self, faults):
        """Writes the only link's faults anew and has them read."""
        path = self.path("lab", "quantum", "quantumd.conf")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        kept = text[:text.index("links = (")]
        link = text[text.index("links = ("):].split(" faults = (")[0].split(" }\n")[0]
        write(path, f"{kept}{link} faults = ( {faults} ); }}\n);\n")
        self.quantumd(signal.SIGUSR1)

    def test_pull(self):
        self.up('rate = "unlimited"; mode = "pull";')
        self.assert_keys_flow(4)

    def test_faulty_blocks_never_become_keys(self):
        self.up('rate = "unlimited"; faults = ( { kind = "missing"; every = 13; }, { kind = "repeated"; every = 7; }, '
                '{ kind = "late"; every = 11; }, { kind = "differing"; every = 5; }, '
                '{ kind = "missing"; end = "first"; every = 17; } );')
        self.assert_keys_flow(12)
        self.assertIn("differ", self.log("alice/kmd") + self.log("bob/kmd"))

    def test_a_cut_fibre_is_told_and_heals(self):
        self.up('rate = "fixed"; fixed_rate = 4e6;')
        self.set_faults('{ kind = "link-loss"; }')
        for km in "alice", "bob":
            self.assertTrue(eventually(lambda km=km: "alarm link-loss (major)" in self.log(km + "/kmd")))
        self.set_faults("")
        for km in "alice", "bob":
            self.assertTrue(eventually(lambda km=km: "alarm link-loss (major, cleared)" in self.log(km + "/kmd")))
        self.assert_keys_flow(1, 16, 256)

    def modules(self):
        said = run("qkdnctl", "module", "list", "--lab", self.lab.folder, "--json").stdout
        return {m["module"]: m for m in json.loads(said)}

    def states(self):
        return {m["state"] for m in self.modules().values()}

    def test_an_operator_sees_the_modules(self):
        self.up('rate = "model"; length_km = 10.0;')
        self.assertTrue(eventually(lambda: self.states() == {"running"}), self.modules())
        for module in self.modules().values():
            self.assertGreater(module["secret_key_rate"], 1000)
            self.assertTrue(0.01 < module["qber"] < 0.1, module)
            self.assertEqual(module["alarms"], [])
        self.set_faults('{ kind = "link-loss"; }')
        self.assertTrue(eventually(lambda: self.states() == {"waiting"}), self.modules())
        for module in self.modules().values():
            self.assertEqual([(a["cause"], a["severity"]) for a in module["alarms"]], [("link-loss", "major")])
        self.assertIn("link-loss (major)", run("qkdnctl", "module", "list", "--lab", self.lab.folder).stdout)
        self.set_faults("")
        self.assertTrue(eventually(lambda: self.states() == {"running"}), self.modules())
        self.assertTrue(eventually(lambda: not any(m["alarms"] for m in self.modules().values())), self.modules())

    def test_modules_are_stopped_where_nobody_needs_their_keys(self):
        for mode in "push", "pull":
            with self.subTest(mode=mode):
                self.up(f'rate = "unlimited"; mode = "{mode}";', self.path(mode))
                self.assertTrue(eventually(lambda: "stopped" in self.states()), self.modules())
                made = self.modules()
                self.assert_keys_flow(12)  # 1.5 MiB: more than there was
                self.assertTrue(eventually(lambda: "stopped" in self.states()), self.modules())
                self.assertEqual(set(made), set(self.modules()))
                self.assertIn("started again", self.lab.logs())
                self.lab.down()

    def test_kill_9_of_the_quantum_layer(self):
        self.up('rate = "unlimited";')
        dice = random.Random(20416)
        for _ in range(6):
            self.quantumd(signal.SIGKILL)
            self.assertTrue(eventually(lambda: "quantum/quantumd" not in self.lab.running()))
            run("qkdn-lab", "start", self.lab.folder, "quantum/quantumd")
            self.assert_keys_flow(dice.randint(1, 3), 64, dice.choice((256, 1024, 4096)))


if __name__ == "__main__":
    unittest.main()
