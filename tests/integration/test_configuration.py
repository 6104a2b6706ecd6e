"""What daemons say to good and bad configurations (-n), and their settings against their manual pages."""
import glob
import os
import re
import unittest

from qkdn_test import TOP, Case, run

GOLDEN = os.path.join(TOP, "tests", "golden", "quantumd")


def example_of(page):
    """The first example of a manual page."""
    with open(os.path.join(TOP, "man", page)) as f:
        return re.search(r"^\.Sh EXAMPLES.*?^\.Bd -literal[^\n]*\n(.*?)^\.Ed", f.read(), re.M | re.S).group(1)


class QuantumLayer(Case):
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
        with open(self.path("example.conf"), "w") as f:
            f.write(example_of("qkdn-quantumd.conf.5"))
        status, said = self.check(self.path("example.conf"))
        self.assertEqual(status, 0, said)

    def test_usage(self):
        self.assertEqual(run("qkdn-quantumd", check=False).returncode, 1)
        self.assertIn("qkdn-quantumd", run("qkdn-quantumd", "--version").stdout)


class KeyManager(Case):
    def check(self, text):
        with open(self.path("kmd.conf"), "w") as f:
            f.write(text)
        done = run("qkdn-kmd", "-n", "-c", self.path("kmd.conf"), check=False)
        return done.returncode, done.stdout + done.stderr

    def test_the_manual_page_s_example_is_good_and_parses_again(self):
        status, printed = self.check(example_of("qkdn-kmd.conf.5"))
        self.assertEqual(status, 0, printed)
        self.assertEqual(self.check(printed), (0, printed))

    def test_what_does_not_fit_together_is_refused(self):
        good = example_of("qkdn-kmd.conf.5")
        link = re.search(r"\{ name = \"alice-bob\".*?\}", good, re.S).group(0)
        for old, new, said in (
                ("certificate =", "certifcate =", 'did you mean "certificate"?'),
                ("192.0.2.1:7001", "192.0.2.1", "no address to listen at"),
                ("192.0.2.1:7001", "192.0.2.1:70010", "no address to listen at"),
                ("192.0.2.1:7001", "alice.example:7001", "no address to listen at"),
                ('peer = "bob"', 'peer = "alice"', "its peer is this KM"),
                ('peer = "bob"', 'peer = "carol"', "not among the peers"),
                (link, link + ", " + link, "links: alice-bob is named twice"),
                (link, link + ", " + link.replace("alice-bob", "other"), "both lead to bob"),
                ('"app2"', '"app1"', "applications: app1 is named twice"),
                ("applications =", 'keys = { low_water = "2 MiB"; };\napplications =', "low_water must be below"),
                ("applications =", "keys = { min_size = 512; };\napplications =", "must not decrease"),
                ("applications =", "keys = { min_size = 100; };\napplications =", "multiples of 8 bits")):
            with self.subTest(new):
                self.assertIn(old, good)
                status, told = self.check(good.replace(old, new, 1))
                self.assertEqual(status, 1, told)
                self.assertIn(said, told)


if __name__ == "__main__":
    unittest.main()
