"""qkdn-quantumd -n against golden files, and its settings against its manual page."""
import glob
import os
import re
import unittest

from qkdn_test import TOP, Case, run

GOLDEN = os.path.join(TOP, "tests", "golden", "quantumd")


class Configuration(Case):
    def check(self, path):
        done = run("qkdn-quantumd", "-n", "-c", path, check=False)
        return done.returncode, (done.stdout + done.stderr).replace(TOP, "@TOP@")

    def test_golden(self):
        for path in sorted(glob.glob(os.path.join(GOLDEN, "*.conf"))):
            with self.subTest(os.path.basename(path)), open(path[:-4] + "out") as golden:
                status, said = self.check(path)
                self.assertEqual(said, golden.read())
                self.assertEqual(status, 0 if os.path.basename(path).startswith("good") else 1)

    def test_what_is_printed_parses_again(self):
        printed = self.check(os.path.join(GOLDEN, "good.conf"))[1].replace("@TOP@", TOP)
        with open(self.path("again.conf"), "w") as f:
            f.write(printed)
        self.assertEqual(self.check(self.path("again.conf"))[1].replace("@TOP@", TOP), printed)

    def test_the_manual_page_has_every_setting(self):
        printed = self.check(os.path.join(GOLDEN, "good.conf"))[1]
        with open(os.path.join(TOP, "man", "qkdn-quantumd.conf.5")) as f:
            documented = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"^\.It Cm (.*)", f.read(), re.M))))
        settings = set(re.findall(r"^\s*([a-z_]+) =", printed, re.M))
        self.assertEqual(settings - documented, set())

    def test_the_manual_page_s_example_is_good(self):
        with open(os.path.join(TOP, "man", "qkdn-quantumd.conf.5")) as f:
            example = re.search(r"^\.Bd -literal[^\n]*\n(.*?)^\.Ed", f.read(), re.M | re.S).group(1)
        with open(self.path("example.conf"), "w") as f:
            f.write(example)
        status, said = self.check(self.path("example.conf"))
        self.assertEqual(status, 0, said)

    def test_usage(self):
        self.assertEqual(run("qkdn-quantumd", check=False).returncode, 1)
        self.assertIn("qkdn-quantumd", run("qkdn-quantumd", "--version").stdout)


if __name__ == "__main__":
    unittest.main()
