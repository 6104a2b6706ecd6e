"""What the daemons may do: no secret that others could read, no privilege, no system call beyond what they need."""
import os
import re
import unittest

from qkdn_test import SANITIZED, TWO_NODES, Case, Lab, run, write

TOPOLOGY = TWO_NODES + 'control = "centralized";\n'
KEPT = 0x4006  # by one that root runs: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_IPC_LOCK


class Privilege(Case):
    def up(self):
        self.lab = Lab(write(self.path("topology.conf"), TOPOLOGY), self.path("lab"))
        self.addCleanup(self.lab.down)

    def refuses(self, daemon, *file):
        """To start while others can read that file, and says why; starts with the mode put right."""
        path = self.path("lab", *file)
        run("qkdn-lab", "stop", self.lab.folder, daemon)
        if not os.path.exists(path):  # an initial secret is removed once it was used
            write(path, "x" * 4096)
        for mode in 0o640, 0o604, 0o622:
            os.chmod(path, mode)
            with self.subTest(file=file, mode=f"{mode:o}"):
                self.assertNotEqual(run("qkdn-lab", "start", self.lab.folder, daemon, check=False).returncode, 0)
                self.assertTrue(f"/{file[-1]}: mode {mode:04o} lets others at it: chmod go= it" in self.lab.logs())
        os.chmod(path, 0o600)
        run("qkdn-lab", "start", self.lab.folder, daemon)

    def named(self, daemon, pattern):
        """The files that match in the daemon's configuration, as parts of a path in the lab."""
        folder = daemon.split("/")[0]
        for name in sorted(os.listdir(self.path("lab", folder))):
            if name.endswith(".conf"):
                with open(self.path("lab", folder, name), encoding="utf-8") as file:
                    for path in re.findall(pattern + r' = "([^"]+)"', file.read()):
                        yield os.path.relpath(os.path.join(self.lab.folder, folder, path), self.lab.folder).split("/")

    def test_secrets_that_others_can_read_are_refused(self):
        self.up()
        for daemon in sorted(self.lab.running()):
            files = [*self.named(daemon, "private_key"), *self.named(daemon, "master_key"),
                     *self.named(daemon, "initial_secret")]
            self.assertTrue(files, daemon)
            for file in files[:3]:
                self.refuses(daemon, *file)

    @unittest.skipIf(SANITIZED, "a sanitizer needs more than that")
    def test_nothing_is_left_of_privilege(self):
        self.up()
        self.lab.get_by_id("app2", "app1", self.lab.get("app1", "app2"))
        for name, pid in self.lab.running().items():
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as file:
                    status = dict(line.split(":\t", 1) for line in file.read().splitlines())
                with self.subTest(daemon=name, thread=status["Name"]):
                    self.assertEqual(status["NoNewPrivs"], "1")
                    self.assertEqual(status["Seccomp"], "2")
                    for kind in "CapEff", "CapPrm":
                        self.assertEqual(int(status[kind], 16) & ~(KEPT if os.geteuid() == 0 else 0), 0)
                    self.assertEqual(int(status["CapInh"], 16) | int(status["CapAmb"], 16), 0)
            with open(f"/proc/{pid}/limits", encoding="ascii") as file:
                self.assertRegex(file.read(), r"Max core file size +0 +0 ")


if __name__ == "__main__":
    unittest.main()
