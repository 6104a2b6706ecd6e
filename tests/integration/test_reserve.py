"""Key relay with reservation (Appendix I.4b): a QKDN controller fills a pair of KMs by itself."""
import os
import signal
import subprocess
import unittest

from qkdn_test import Case, Lab, eventually, golden, run, write

TOPOLOGY = """
control = "centralized";
controller_settings = "reserve = ( { source = \\"alice\\"; destination = \\"carol\\"; amount = \\"8 KiB\\"; low_water = \\"2 MiB\\"; high_water = \\"4 MiB\\"; } ); report_interval = \\"200 ms\\";";
nodes = ( { name = "alice"; applications = [ "app1" ]; }, { name = "bob"; }, { name = "carol"; applications = [ "app2" ]; } );
links = ( { name = "alice-bob"; between = [ "alice", "bob" ]; rate = "fixed"; fixed_rate = 20000000.0; },
          { name = "bob-carol"; between = [ "bob", "carol" ]; rate = "fixed"; fixed_rate = 20000000.0; } );
"""


def messages(lab):
    """(trace, message, from, to, status) of every line that its sender wrote, in the order of time."""
    rows = []
    folder = os.path.join(lab.folder, "trace")
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            rows += [line.rstrip("\n").split("\t") for line in file if line.endswith("\n")]
    return [(r[1], r[3], r[4], r[5], r[7]) for r in sorted(rows, key=lambda r: int(r[0])) if r[6] == "sent"]


def allocated(lab):
    """Traces of relays with reservation that came to their end."""
    return [m[0] for m in messages(lab) if m[1] == "Response to key allocation request" and m[4] == "ok"]


class Reserve(Case):
    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TOPOLOGY), self.path("lab"))
        self.addCleanup(self.lab.down)

    def more_than(self, count):
        self.assertTrue(eventually(lambda: len(allocated(self.lab)) > count), self.lab.logs()[-3000:])

    def both_ends_agree(self):
        keys = self.lab.get("app1", "app2", 20)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)

    def test_the_ladder_is_the_recommendations(self):
        self.more_than(0)
        golden(self, "ladder/I.4b-lab.txt",
               run("qkdnctl", "trace", "--trace", allocated(self.lab)[0], "--only", "Ck,Kx-1", self.lab.folder).stdout)

    def test_keys_are_the_same_at_both_ends(self):
        self.more_than(10)
        for _ in range(5):
            self.both_ends_agree()

    def test_a_controller_that_was_killed_goes_on(self):
        self.more_than(2)
        os.kill(self.lab.running()["control/controllerd"], signal.SIGKILL)
        self.assertTrue(eventually(lambda: "control/controllerd" not in self.lab.running()))
        self.both_ends_agree()  # with what there is
        before = len(allocated(self.lab))
        run("qkdn-lab", "start", self.lab.folder, "control/controllerd")
        self.more_than(before)
        self.both_ends_agree()

    def test_a_second_node_that_was_killed_goes_on(self):
        self.more_than(2)
        os.kill(self.lab.running()["bob/kmd"], signal.SIGKILL)
        self.assertTrue(eventually(lambda: "bob/kmd" not in self.lab.running()))
        before = len(allocated(self.lab))
        run("qkdn-lab", "start", self.lab.folder, "bob/kmd")
        self.more_than(before)
        self.both_ends_agree()


if __name__ == "__main__":
    unittest.main()
