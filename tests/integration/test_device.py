"""A module that is no part of the suite, made as doc/plug-in-a-device.md says, in the emulator's place."""
import glob
import json
import os
import re
import shutil
import subprocess
import unittest

from qkdn_test import TOP, Case, Lab, eventually, run

BLOCK, BLOCKS = 8192, 120


class Device(Case):
    def build(self):
        """With the words of the document."""
        for path in glob.glob(os.path.join(TOP, "idl", "*.x")) + [os.path.join(TOP, "examples", "device.c")]:
            shutil.copy(path, self.folder)
        with open(os.path.join(TOP, "doc", "plug-in-a-device.md"), encoding="utf-8") as file:
            words = re.search(r"^    for x in .*\n    cc .*", file.read(), re.M).group(0)
        for line in words.splitlines():
            subprocess.run(["sh", "-ec", line], cwd=self.folder, check=True, stderr=subprocess.DEVNULL)

    def start(self, application, module, peer, keys):
        """At the key manager of the application's node."""
        host, port = self.lab.env(application)["QKDN_KM"].split(":")
        pki = self.path("lab", "pki")
        with open(keys, "rb") as given:
            process = subprocess.Popen(
                [self.path("device"), host, port, os.path.join(pki, module), os.path.join(pki, "ca.crt"), module,
                 peer, "alice-bob"], stdin=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        return process

    def agreed(self):
        status = json.loads(run("qkdnctl", "km", "status", "--lab", self.lab.folder, "--json").stdout)
        return min(km["blocks_agreed"] for km in status)

    def test_a_device_supplies_keys(self):
        self.build()
        self.lab = Lab("two-nodes.conf", self.path("lab"))
        self.addCleanup(self.lab.down)
        run("qkdn-lab", "stop", self.lab.folder, "quantum/quantumd")
        before = self.agreed()
        with open(self.path("keys"), "wb") as file:
            file.write(os.urandom((before + BLOCKS) * BLOCK))
        ends = [self.start("app1", "alice-1", "bob-1", self.path("keys")),
                self.start("app2", "bob-1", "alice-1", self.path("keys"))]
        for end in ends:
            said, _ = end.communicate(timeout=240)
            self.assertEqual(end.returncode, 0, said)
            self.assertIn(f"every block below {before + BLOCKS}", said)
        self.assertTrue(eventually(lambda: self.agreed() >= before + BLOCKS - 1), self.agreed())
        keys = self.lab.get("app1", "app2", 16)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)


if __name__ == "__main__":
    unittest.main()
