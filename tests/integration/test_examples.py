"""Every topology in examples/ comes up and gives two of its applications a key."""
import glob
import os
import unittest

from qkdn_test import TOP, Case, Lab, run

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


for example in sorted(glob.glob(os.path.join(TOP, "examples", "*.conf"))):
    add(example)

if __name__ == "__main__":
    unittest.main()
