"""Every topology in examples/ comes up and gives two of its applications a key; the README's commands work."""
import glob
import os
import re
import subprocess
import unittest

from qkdn_test import BIN, TOP, Case, Lab

# Too large for every check on 2 cores: `make check-large` has it.
LARGE = set() if os.environ.get("QKDN_LARGE") else {"backbone-of-145.conf"}


class Examples(Case):
    def give_a_key(self, name):
        lab = Lab(name, self.path("lab"))
        self.addCleanup(lab.down)
        source, destination = [a["name"] for a in lab.status()["applications"]][:2]
        keys = lab.get(source, destination, 2)
        self.assertEqual(lab.get_by_id(destination, source, keys), keys)


def add(path):
    name = os.path.basename(path)
    if name not in LARGE:
        setattr(Examples, "test_" + name.removesuffix(".conf").replace("-", "_"), lambda self: self.give_a_key(name))


class Readme(Case):
    def test_a_network_of_your_own(self):
        with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
            section = re.search(r"^## A network of your own\n(.*?)^## ", file.read(), re.M | re.S).group(1)
        words = re.findall(r"^    (.*)", section, re.M)
        self.assertTrue(words[0].startswith("build/bin/qkdn-lab up") and words[-1].startswith("build/bin/qkdn-lab down"))
        script = "\n".join(words).replace("build/bin", BIN).replace("/tmp/lab", self.path("lab"))
        self.addCleanup(subprocess.run, [os.path.join(BIN, "qkdn-lab"), "down", self.path("lab")],
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        done = subprocess.run(["bash", "-euc", script], cwd=TOP, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=240)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("Response to key request", done.stdout)


for example in sorted(glob.glob(os.path.join(TOP, "examples", "*.conf"))):
    add(example)

if __name__ == "__main__":
    unittest.main()
