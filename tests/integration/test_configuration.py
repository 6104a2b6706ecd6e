"""What daemons say to good and bad configurations (-n), and their settings against their manual pages."""
import glob
import os
import re
import shutil
import tempfile
import unittest

from qkdn_test import TOP, Case, run, write

GOLDEN = os.path.join(TOP, "tests", "golden", "quantumd")


def example_of(page):
    """The first example of a manual page."""
    with open(os.path.join(TOP, "man", page)) as f:
        return re.search(r"^\.Sh EXAMPLES.*?^\.Bd -literal[^\n]*\n(.*?)^\.Ed", f.read(), re.M | re.S).group(1)


class WithPki(Case):
    """Configurations lie in a folder with the certificates that they name."""

    identities = ()

    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp(prefix="qkdn-test-")
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.pki = os.path.join(folder, "pki")
        run("qkdn-pki", "init", cls.pki)
        for role, name in cls.identities:
            run("qkdn-pki", "issue", cls.pki, role, name)

    def setUp(self):
        super().setUp()
        shutil.copytree(self.pki, self.path("pki"))


class QuantumLayer(WithPki):
    identities = ("module", "alice-1"), ("module", "bob-1")

    def setUp(self):
        super().setUp()
        for path in glob.glob(os.path.join(GOLDEN, "*.conf")):
            shutil.copy(path, self.folder)

    def check(self, path):
        done = run("qkdn-quantumd", "-n", "-c", path, check=False)
        return done.returncode, (done.stdout + done.stderr).replace(self.folder, "@TOP@/tests/golden/quantumd")

    def test_golden(self):
        for path in sorted(glob.glob(self.path("*.conf"))):
            name = os.path.basename(path)
            with self.subTest(name), open(os.path.join(GOLDEN, name[:-4] + "out")) as golden:
                status, said = self.check(path)
                self.assertEqual(said, golden.read())
                self.assertEqual(status, 0 if name.startswith("good") else 1)

    def test_files_that_a_start_would_refuse(self):
        os.unlink(self.path("pki", "alice-1.key"))
        shutil.copy(self.path("pki", "alice-1.crt"), self.path("pki", "bob-1.crt"))
        status, said = self.check(self.path("good.conf"))
        self.assertEqual(status, 1)
        self.assertRegex(said, r"module alice-1: .*/pki/alice-1\.key: No such file")
        self.assertRegex(said, r"module bob-1: private key .*/pki/bob-1\.key for .*key values mismatch")

    def test_what_is_printed_parses_again(self):
        printed = self.check(self.path("good.conf"))[1]
        with open(self.path("again.conf"), "w") as f:
            f.write(printed.replace("@TOP@/tests/golden/quantumd", self.folder))
        self.assertEqual(self.check(self.path("again.conf"))[1], printed)

    def test_the_manual_page_has_every_setting(self):
        printed = self.check(self.path("good.conf"))[1]
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


class KeyManager(WithPki):
    identities = ("km", "alice"), ("km", "bob")

    def setUp(self):
        super().setUp()
        run("qkdn-pki", "master-key", self.path("pki", "master.key"))
        self.good = example_of("qkdn-kmd.conf.5")
        for folder in "/var/lib/qkdn/km-secrets", "/var/lib/qkdn/km":
            self.good = self.good.replace(folder, self.path("pki"))

    def check(self, text, config=("pki", "kmd.conf")):
        with open(self.path(*config), "w") as f:
            f.write(text)
        done = run("qkdn-kmd", "-n", "-c", self.path(*config), check=False)
        return done.returncode, done.stdout + done.stderr

    def test_the_manual_page_s_example_is_good_and_parses_again(self):
        status, printed = self.check(self.good)
        self.assertEqual(status, 0, printed)
        self.assertEqual(self.check(printed), (0, printed))
        self.assertFalse(os.path.exists(self.path("pki", "store")), "a check makes nothing")

    def test_files_that_a_start_would_refuse(self):
        secret, master, key = (self.path("pki", name) for name in ("alice-bob.secret", "master.key", "alice.key"))
        spoil = {
            "alice.key: No such file": lambda: os.unlink(key),
            "alice.key: mode 0644 lets others at it": lambda: os.chmod(key, 0o644),
            "key values mismatch": lambda: shutil.copy(self.path("pki", "bob.key"), key),
            "the certificate of km/bob, not of km/alice": lambda: [
                shutil.copy(self.path("pki", "bob." + end), self.path("pki", "alice." + end)) for end in ("crt", "key")],
            "ca.crt: No such file": lambda: os.unlink(self.path("pki", "ca.crt")),
            "master.key: there is no such file": lambda: os.unlink(master),
            "master.key: mode 0640 lets others at it": lambda: os.chmod(master, 0o640),
            "not a master key, which has 32 bytes": lambda: write(master, "short"),
            "alice-bob.secret: mode 0604 lets others at it": lambda: [write(secret, "x"), os.chmod(secret, 0o604)],
            "store: mode 0755 lets others at it": lambda: os.mkdir(self.path("pki", "store"), 0o755),
        }
        for said, spoiling in spoil.items():
            with self.subTest(said):
                shutil.rmtree(self.path("pki"))
                shutil.copytree(self.pki, self.path("pki"))
                run("qkdn-pki", "master-key", master)
                spoiling()
                status, told = self.check(self.good)
                self.assertEqual(status, 1, told)
                self.assertEqual(len(told.splitlines()), 1, told)
                self.assertIn(said, told)
                started = run("qkdn-kmd", "-c", self.path("pki", "kmd.conf"), check=False)
                self.assertEqual((started.returncode, started.stderr), (1, told), "a start says the same")

    def test_everything_that_is_wrong_is_told(self):
        os.unlink(self.path("pki", "alice.crt"))
        os.unlink(self.path("pki", "master.key"))
        status, told = self.check(self.good)
        self.assertEqual((status, len(told.splitlines())), (1, 2), told)

    def test_a_certificate_whose_time_is_over_is_told(self):
        """A start takes it, and so it is good; peers will not."""
        run("qkdn-pki", "issue", self.path("pki"), "km", "alice", "--days=-1", "--out", self.path("pki", "old"))
        status, told = self.check(self.good.replace('"alice.crt"', '"old.crt"').replace('"alice.key"', '"old.key"'))
        self.assertEqual(status, 0, told)
        self.assertIn("old.crt: its time is over: peers will refuse it", told)

    def test_what_does_not_fit_together_is_refused(self):
        good = self.good
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
