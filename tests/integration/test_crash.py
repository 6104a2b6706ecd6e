"""Two nodes under load, and what must not cost a key: kill -9 of either KM, of qkdn-quantumd, of all of
them at random moments; a disk that fills up; a store copied at any moment, or put back from an old copy.

Two applications request keys of each other all the time (key_load.c) and fetch them. Afterwards nothing
may be lost that was acknowledged, nothing delivered twice, nothing differ, and keys flow without help.

QKDN_CRASH_SECONDS (default 60) and QKDN_CRASH_SEED (default 1; 0: any, printed) say for how long, and what; `make soak`
is this for longer.
"""
import collections
import contextlib
import ctypes
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unittest

from qkdn_test import BUILD, Case, Lab, eventually, program, run, write

SECONDS = float(os.environ.get("QKDN_CRASH_SECONDS", "60"))
SEED = int(os.environ.get("QKDN_CRASH_SEED", "1")) or random.SystemRandom().randrange(1, 2 ** 31)
APPS = "app1", "app2"
KMS = "alice/kmd", "bob/kmd"

TOPOLOGY = """
nodes = ( { name = "alice"; applications = [ "app1" ]; }, { name = "bob"; applications = [ "app2" ]; } );
links = ( { name = "alice-bob"; between = [ "alice", "bob" ]; rate = "fixed"; fixed_rate = 20000000.0; } );
km_settings = "missing_block_grace = \\"300 ms\\"; keys = { link_max_stock = \\"8 MiB\\"; };";
"""

# Keys for far applications are relayed, by order of controllers that are killed like all others.
LINE = """
nodes = ( { name = "alice"; applications = [ "app1" ]; }, { name = "bob"; },
          { name = "carol"; applications = [ "app2" ]; } );
links = ( { name = "alice-bob"; between = [ "alice", "bob" ]; rate = "fixed"; fixed_rate = 20000000.0; },
          { name = "bob-carol"; between = [ "bob", "carol" ]; rate = "fixed"; fixed_rate = 20000000.0; } );
control = "%s";
km_settings = "missing_block_grace = \\"300 ms\\"; keys = { link_max_stock = \\"8 MiB\\"; };";
"""


def setUpModule():
    """A network and mounts of our own where we may: nobody takes a port while its daemon is dead."""
    new_network, new_mounts = 0x40000000, 0x00020000
    if os.geteuid() == 0 and ctypes.CDLL(None).unshare(new_network | new_mounts) == 0:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)


class Load:
    """key_load, and what its journal says afterwards."""

    def __init__(self, case, lab, threads=8):
        self.path = case.path("journal")
        environments = [lab.env(app) for app in APPS]
        words = [[app, *(e["QKDN_" + w] for w in ("KM", "KM_NAME", "KM_DNS_NAME", "CERTIFICATE", "PRIVATE_KEY"))]
                 for app, e in zip(APPS, environments)]
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "tests", "bin", "key_load"), self.path, str(SEED), str(threads),
             *words[0], *words[1], environments[0]["QKDN_AUTHORITY"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        case.addCleanup(self.end)
        case.assertEqual(self.process.stdout.readline(), "ready\n")

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def finish(self, case):
        """{event: [[direction, ID, the rest]]}, after every key was fetched."""
        self.process.communicate("finish\n", timeout=max(300, SECONDS))
        case.assertEqual(self.process.returncode, 0)
        events = collections.defaultdict(list)
        with open(self.path, encoding="ascii") as file:
            for line in file:
                event, *rest = line.split()
                events[event].append(rest)
        return events


class Crash(Case):
    def setUp(self):
        super().setUp()
        self.random = random.Random(SEED)
        self.flowed = [0, 0]  # bytes that keys_flow() had, by direction

    def up(self, topology=TOPOLOGY):
        self.lab = Lab(write(self.path("topology.conf"), topology), self.path("lab"))
        self.addCleanup(self.lab.down)

    def kill(self, names, number=signal.SIGKILL):
        pids = self.lab.running()
        for name in names:
            os.kill(pids[name], number)

    def wait_for_the_end(self, names):
        self.assertTrue(eventually(lambda: not set(names) & set(self.lab.running())), names)

    def kill_and_wait(self, names):
        self.kill(names)
        self.wait_for_the_end(names)

    def start(self, *names):
        for name in names:
            self.wait_for_the_end([name])
            run("qkdn-lab", "start", self.lab.folder, name)

    def store(self, node, folder="lab"):
        return [self.path(folder, node, "store"), self.path(folder, node, "master.key")]

    def store_check(self, *stores):
        """(pools, bytes there, at both, at destinations alone), by tests/integration/store_check.c."""
        done = run(os.path.join(BUILD, "tests", "bin", "store_check"), *(w for s in stores for w in s), timeout=300)
        return [int(n) for n in re.findall(r"\d+", done.stdout)]

    def pools(self, *nodes):
        """{(node, kind, source): what it states of that pool}, once nothing moves any more, and each end of a link has
        heard what the other used and gave up."""
        def look():
            return {(node, p["kind"], p["source"]): p for node in nodes for p in json.loads(
                run("qkdnctl", "pool", "list", "--lab", self.lab.folder, "--node", node, "--json").stdout)
                if p["kind"] in ("KSA", "link")}

        def settled():
            before, _, after = look(), time.sleep(1), look()
            ends = collections.defaultdict(set)
            for p in after.values():
                if p["kind"] == "link":
                    ends[p["source"], p["link"]].add((p["stock"], p["unready"]))
            return after if before == after and all(len(stocks) == 1 for stocks in ends.values()) else None
        pools = eventually(settled)
        self.assertTrue(pools, f"the pools never come to rest: {look()}")
        return pools

    def account(self, pools, events, directions, relayed=False):
        """No byte is missing that is not stated: of a pool of KSA-keys all below its ready was given to applications,
        is in stock, waits to be fetched, or is told as given up; what is not known is only whether the answer to a
        fetch was lost, and what never came over a relay is stated by its source alone. Returns the bytes stated."""
        stated = 0
        for direction, (source, destination) in enumerate(directions):
            own = {key_id: len(key) // 2 for d, key_id, key in events["supplied"] if int(d) == direction}
            supplied = sum(own.values()) + self.flowed[direction]
            doubtful = sum(own[key_id] for d, key_id, _ in events["unknown"] if int(d) == direction)
            far, near = pools[destination, "KSA", source], pools[source, "KSA", source]
            given = far["ready_up_to"] - far["stock"] - far["assigned"] - far["voided"]
            self.assertGreaterEqual(given, supplied - doubtful, (direction, far))
            self.assertLessEqual(given, supplied + (near["voided"] if relayed else 0), (direction, far, near))
            self.assertGreaterEqual(near["ready_up_to"] - near["stock"] - near["voided"], supplied, (direction, near))
            stated += far["voided"] + far["assigned"]
        return stated

    def account_for_link(self, pools, source, destination):
        """... and of the QKD-keys of a link between neighbours all that was agreed became KSA-keys or is in stock, or
        the one or the other end, which had it, tells that it gave it up. Returns the bytes stated."""
        near, far = pools[source, "link", source], pools[destination, "link", source]
        missing = near["ready_up_to"] - near["stock"] - pools[source, "KSA", source]["ready_up_to"]
        stated = near["voided"] + far["voided"]
        self.assertGreaterEqual(missing, max(near["voided"], far["voided"]), (near, far))
        self.assertLessEqual(missing, stated, (near, far))
        return stated

    def check(self, events):
        """The invariants, from the journal; what there was of each kind."""
        supplied, fetched = {}, {}
        for direction, key_id, key in events["supplied"]:
            self.assertNotIn((direction, key_id), supplied, "a key ID was supplied twice")
            supplied[direction, key_id] = key
        for direction, key_id, key in events["fetched"]:
            self.assertNotIn((direction, key_id), fetched, "a key was delivered twice")
            fetched[direction, key_id] = key
        refused = collections.Counter(s for _, _, s in events["refused"])
        self.assertEqual(dict(refused), {}, "acknowledged keys were refused at the other end")
        unknown = {(d, i) for d, i, _ in events["unknown"]}
        self.assertEqual([k for k in supplied if k not in fetched and k not in unknown], [], "keys were lost")
        self.assertEqual([k for k, key in fetched.items() if supplied[k] != key], [], "keys differ")
        pieces = collections.Counter(key[i:i + 32] for key in supplied.values() for i in range(0, len(key), 32))
        self.assertEqual([p for p, n in pieces.items() if n > 1], [], "the same bits were supplied twice")
        again = {s for d, i, s in events["again"] if (d, i) in fetched}
        self.assertLessEqual(again, {"key-gone"}, "a delivered key was given a second time")
        self.assertGreater(len(supplied), 100)
        return {event: len(events[event]) for event in ("supplied", "failed", "fetched", "unknown")}

    def keys_flow(self):
        """Both ways, without help, soon."""
        for direction, (source, destination) in enumerate((APPS, APPS[::-1])):
            def get():
                done = self.lab.keyreq(source, "get", "--to", destination, "-n", "64", "--timeout", "5", check=False)
                return done.stdout if done.returncode == 0 else None
            got = eventually(get)
            self.assertTrue(got, f"no keys from {source} to {destination}")
            ids = re.findall(r"^\S{36}", got, re.M)
            self.lab.keyreq(destination, "get-by-id", "--from", source, *ids)
            self.flowed[direction] += 32 * len(ids)

    def kill_for(self, seconds):
        everything = sorted(self.lab.running())
        kinds = [[name] for name in everything] + [list(KMS), everything]
        until, kills = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            time.sleep(self.random.choice([self.random.uniform(0, 0.3), self.random.uniform(0.3, 2)]))
            victims = list(self.random.choice(kinds))
            self.random.shuffle(victims)
            self.kill(victims)
            kills += len(victims)
            time.sleep(self.random.choice([0, self.random.uniform(0, 1)]))
            self.start(*victims)
        return kills

    def test_kill(self):
        print(f"QKDN_CRASH_SEED={SEED}", file=sys.stderr)
        self.up()
        with self.subTest(seed=SEED):
            load = Load(self, self.lab)
            kills = self.kill_for(SECONDS)
            self.keys_flow()
            events = load.finish(self)
            told = self.check(events)
            self.keys_flow()
            pools = self.pools("alice", "bob")
            given_up = self.account(pools, events, (("alice", "bob"), ("bob", "alice")))
            in_blocks = sum(self.account_for_link(pools, *ends) for ends in (("alice", "bob"), ("bob", "alice")))
            self.kill_and_wait(KMS)
            pools, there, both, _ = self.store_check(self.store("alice"), self.store("bob"))
            self.assertGreater(both, 100000, "the ends have hardly anything in common")
            self.assertGreater(both, there * 0.8, f"{there - both} bytes of {there} are at one end only")
            print(f"{kills} kills; {told}; {given_up} bytes of KSA-keys and {in_blocks} of QKD-keys given up or waiting; "
                  f"{both} bytes in {pools} pools alike", file=sys.stderr)

    def kill_on_a_line(self, control):
        """Any daemon of three nodes and their controllers, while every key is relayed over the one between."""
        print(f"QKDN_CRASH_SEED={SEED}", file=sys.stderr)
        with self.subTest(seed=SEED):
            self.up(LINE % control)
            self.keys_flow()
            load = Load(self, self.lab)
            kills = self.kill_for(SECONDS / 4)
            self.keys_flow()
            events = load.finish(self)
            told = self.check(events)
            self.keys_flow()
            given_up = self.account(self.pools("alice", "carol"), events, (("alice", "carol"), ("carol", "alice")), relayed=True)
            self.kill_and_wait([name for name in self.lab.running() if name.endswith("/kmd")])
            alone = self.lab.check_stores()
            print(f"{kills} kills; {told}; {given_up} bytes given up or waiting; {alone} bytes at destinations alone",
                  file=sys.stderr)

    def test_kill_on_a_line_centralized(self):
        self.kill_on_a_line("centralized")

    def test_kill_on_a_line_distributed(self):
        self.kill_on_a_line("distributed")

    def test_copies_taken_at_any_moment(self):
        """As if all writing had stopped there: the writer is stopped while its files are copied."""
        self.up()
        load = Load(self, self.lab)
        for i in range(8):
            time.sleep(self.random.uniform(0, 0.5))
            node = ("alice", "bob")[i % 2]
            self.kill([node + "/kmd"], signal.SIGSTOP)
            try:
                shutil.copytree(self.path("lab", node), self.path(f"copy{i}", node))
            finally:
                self.kill([node + "/kmd"], signal.SIGCONT)
        self.check(load.finish(self))
        for i in range(8):
            pools, there, _, _ = self.store_check(self.store(("alice", "bob")[i % 2], f"copy{i}"))
            self.assertGreaterEqual(pools, 6)
            self.assertGreater(there, 1000)

    def test_an_older_copy_is_refused(self):
        self.up()
        store = self.path("lab", "alice", "store")
        run("qkdn-lab", "stop", self.lab.folder, "alice/kmd")
        shutil.copytree(store, self.path("old"))
        self.start("alice/kmd")
        self.keys_flow()
        run("qkdn-lab", "stop", self.lab.folder, "alice/kmd")
        self.lab.stores_checked = False
        os.rename(store, self.path("newest"))
        shutil.copytree(self.path("old"), store)
        done = run("qkdn-lab", "start", self.lab.folder, "alice/kmd", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("an older copy of the store", self.lab.logs())
        shutil.rmtree(store)
        os.rename(self.path("newest"), store)
        self.start("alice/kmd")
        self.keys_flow()

    def test_a_lost_store(self):
        """It is refused to go on without, until the operator says so; then the other end takes no key of the pools
        that it shared with it, which are shown as replaced, and the link asks for another secret."""
        def ksa_pools(state):
            shown = run("qkdnctl", "pool", "list", "--lab", self.lab.folder, "--node", "alice", "--json", check=False)
            return shown.returncode == 0 and sorted((p["source"], p["stock"] > 0) for p in json.loads(shown.stdout)
                                                    if p["kind"] == "KSA" and p["state"] == state)
        self.up()
        self.keys_flow()
        self.assertTrue(eventually(lambda: ksa_pools("in use") == [("alice", True), ("bob", True)]))
        self.assertEqual(ksa_pools("replaced"), [])
        run("qkdn-lab", "stop", self.lab.folder, "bob/kmd")
        store, master = self.store("bob")
        shutil.rmtree(store)
        self.lab.stores_checked = False
        done = run("qkdn-lab", "start", self.lab.folder, "bob/kmd", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(f"{store}: the store that was here is gone", self.lab.logs())
        os.unlink(master + ".generation")
        self.start("bob/kmd")
        self.assertTrue(eventually(lambda: ksa_pools("replaced") == [("alice", False), ("bob", False)]))
        self.assertEqual(ksa_pools("in use"), [("alice", False), ("bob", False)])
        self.assertIn("KSA pool to bob: it has none of its keys any more", self.lab.logs())
        self.assertTrue(eventually(lambda: "bob has lost its key store, or has forgotten the link" in self.lab.logs()))

    def secret_of(self, node):
        return os.path.join(self.lab.folder, node, "alice-bob.secret")

    def lose_store(self, node):
        run("qkdn-lab", "stop", self.lab.folder, f"{node}/kmd")
        store, master = self.store(node)
        shutil.rmtree(store)
        os.unlink(master + ".generation")
        self.start(f"{node}/kmd")

    def give_secret(self, path):
        for node in "alice", "bob":
            shutil.copy(path, self.secret_of(node))

    def test_a_link_is_made_anew(self):
        """... where the one or the other end has lost its store: both get a fresh secret, and the other end, which
        remembers the old link, is restarted. The secret is gone then, and makes nothing when it is put back."""
        self.up()
        self.lab.stores_checked = False
        for lost, kept in ("bob", "alice"), ("alice", "bob"):
            with self.subTest(lost=lost):
                self.keys_flow()
                self.lose_store(lost)
                fresh = self.path(f"{lost}.secret")
                run("qkdn-pki", "secret", fresh)
                self.give_secret(fresh)
                self.assertTrue(eventually(lambda: f"{lost} has lost its key store" in self.lab.logs()
                                           or f"{lost} has made it anew" in self.lab.logs()))
                run("qkdn-lab", "stop", "--kill", self.lab.folder, f"{kept}/kmd")
                self.start(f"{kept}/kmd")
                self.keys_flow()
                self.assertRegex(self.lab.logs(), r"it is made anew, with the fresh initial secret .*: \d+ bytes of the old")
                self.give_secret(fresh)
                for node in lost, kept:
                    run("qkdn-lab", "stop", self.lab.folder, f"{node}/kmd")
                    self.start(f"{node}/kmd")
                self.keys_flow()
                for node in lost, kept:
                    self.assertFalse(os.path.exists(self.secret_of(node)), node)
        self.assertEqual(self.lab.logs().count("it is made anew"), 2)

    def change_master_key(self, node, then=None):
        """The exit status of qkdnctl; then() is called while it runs."""
        master = self.store(node)[1]
        if not os.path.exists(master + ".next"):
            run("qkdn-pki", "master-key", master + ".next")
        asking = subprocess.Popen([program("qkdnctl"), "km", "change-master-key", "--lab", self.lab.folder, "--node", node],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if then is not None:
            then()
        return asking.wait(120)

    def test_a_new_master_key_under_load(self):
        """... and killed in the middle of the change, again and again. The old one is refused afterwards."""
        self.up()
        load = Load(self, self.lab)
        store, master = self.store("alice")
        for i in range(12):
            node = ("alice", "bob")[i % 2]

            def kill():
                time.sleep(self.random.uniform(0.01, 0.08))
                self.kill([node + "/kmd"])
            self.change_master_key(node, kill)
            self.start(node + "/kmd")
        with open(master, "rb") as file:
            old = file.read()
        for node in "alice", "bob":
            self.assertTrue(eventually(lambda: self.change_master_key(node) == 0))
            self.assertFalse(os.path.exists(self.store(node)[1] + ".next"))
        self.keys_flow()
        self.check(load.finish(self))
        self.assertIn("has a new data key", self.lab.logs())
        run("qkdn-lab", "stop", self.lab.folder, "alice/kmd")
        os.rename(master, master + ".kept")
        with open(os.open(master, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(old)
        self.assertNotEqual(run("qkdn-lab", "start", self.lab.folder, "alice/kmd", check=False).returncode, 0)
        self.assertIn(store + "/keys: sealed under another master key", self.lab.logs())
        os.rename(master + ".kept", master)
        self.start("alice/kmd")
        self.keys_flow()

    @unittest.skipUnless(os.geteuid() == 0, "mounting a small disk needs root")
    def test_a_disk_that_fills_up(self):
        """... and has room again after a while: what was acknowledged is there, what cannot be is refused."""
        store = self.path("lab", "alice", "store")
        os.makedirs(store)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=0700", "none", store],
                          stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("mounting a small disk is not allowed")
        self.addCleanup(subprocess.run, ["umount", "-l", store])
        self.up()
        load = Load(self, self.lab)
        ballast = os.path.join(store, "ballast")
        for _ in range(3):
            time.sleep(self.random.uniform(0.2, 1))
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            self.assertTrue(eventually(lambda: ": make room; " in self.lab.logs()))
            time.sleep(self.random.uniform(0.5, 2))
            os.unlink(ballast)
        self.keys_flow()
        events = load.finish(self)
        told = self.check(events)
        self.assertGreater(told["failed"], 0, "the disk was never full")
        self.assertIn("storage", {status for _, status in events["failed"]})
        lines = re.findall(r"^.*: key store: .*(?=" + re.escape(store) + r").*: (.*): make room; the store goes on by itself$",
                           self.lab.logs(), re.M)
        self.assertEqual(set(lines), {os.strerror(errno.ENOSPC)})
        self.assertLess(len(lines), 60, "once each time it is full, not for each of its requests")
        self.assertEqual(set(KMS) - set(self.lab.running()), set(), "a KM ended")


if __name__ == "__main__":
    unittest.main()
