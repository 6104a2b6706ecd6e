"""Key supply under load and under faults, and its accounts: what a refusal leaves as it was."""
import json
import os
import subprocess
import time
import unittest
import uuid

from qkdn_test import BUILD, TWO_NODES, Case, Lab, eventually, run, write

DONE, REFUSED, NOT_THERE = 0, 2, 3

# Every fault at once; about every tenth block is affected, at either end.
FAULTS = """rate = "fixed"; fixed_rate = 8000000.0; faults = (
    { kind = "missing"; end = "first"; every = 41; }, { kind = "missing"; end = "second"; every = 37; },
    { kind = "differing"; end = "second"; every = 29; }, { kind = "repeated"; end = "second"; every = 23; },
    { kind = "late"; end = "first"; every = 31; }, { kind = "late"; end = "second"; every = 43; } );"""

# A small network, soon full: 32 KiB of KSA-keys a pair are 1024 keys of 256 bits.
SMALL = 'km_settings = "keys = { low_water = \\"16 KiB\\"; high_water = \\"32 KiB\\"; link_max_stock = \\"64 KiB\\"; };";'


class Supply(Case):
    def supply(self, requests, threads):
        """Both ways at once, over libqkdn; what tests/lib/supply.c counted."""
        env = dict(os.environ)
        for letter, app in ("A", "app1"), ("B", "app2"):
            env.update({f"{letter}_{name}": value for name, value in self.lab.env(app).items()})
        done = subprocess.run([os.path.join(BUILD, "tests", "bin", "supply"), str(requests), str(threads)],
                              env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual((done.returncode, done.stderr), (0, ""), self.lab.logs()[-3000:])
        return json.loads(done.stdout)

    def test_a_thousand_requests_each_way_while_blocks_fail(self):
        topology = TWO_NODES.replace('rate = "unlimited";', FAULTS)
        self.lab = Lab(write(self.path("topology.conf"), topology), self.path("lab"))
        self.addCleanup(self.lab.down)
        said = self.supply(1000, 8)
        self.assertEqual((said["keys"], said["equal"]), (5000, 5000))
        self.assertEqual((said["differing"], said["twice"], said["refused"]), (0, 0, 0))
        # later blocks still become keys: neither end ran out of what authenticates them
        before = self.lab.key_status("app1", "app2")["stored_key_count"]
        self.supply(100, 2)
        self.assertTrue(eventually(
            lambda: self.lab.key_status("app1", "app2")["stored_key_count"] >= min(before, 8192)))
        logs = self.lab.logs()
        self.assertIn("differ from those of", logs)
        self.assertNotIn("no authentication key is left", logs)

    def said(self, folder, name, words):
        """How often that is in the traces of a node's KM."""
        with open(os.path.join(folder, f"{name}.trace"), encoding="ascii") as file:
            return sum(words in line for line in file)

    def test_what_an_orderly_stop_gives_up_is_given_up_at_both_ends(self):
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES), self.path("lab"))
        self.addCleanup(self.lab.down)
        trace, voids = os.path.join(self.lab.folder, "trace"), "\tKx-2\tKey void\tkm/alice\tkm/bob\t"
        env, given_up = dict(os.environ, **self.lab.env("app1")), 0
        for _ in range(8):  # sometimes nothing is held ahead of requests
            asking = subprocess.Popen([os.path.join(BUILD, "tests", "bin", "polite"), "app2", "16"], env=env, text=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            asking.stdin.write("60000\n")
            asking.stdin.flush()
            time.sleep(1)
            before = self.said(trace, "alice", voids + "sent")
            run("qkdn-lab", "stop", self.lab.folder, "alice/kmd")
            asking.communicate()  # it is refused
            sent = self.said(trace, "alice", voids + "sent")
            self.assertEqual(self.said(trace, "bob", voids + "received"), sent)
            given_up += sent - before
            if given_up > 0:
                return
            run("qkdn-lab", "start", self.lab.folder, "alice/kmd")
        self.fail("nothing was held ahead of requests when it was stopped")


class Accounts(Case):
    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES + SMALL), self.path("lab"))
        self.addCleanup(self.lab.down)
        self.quantum = next(name for name in self.lab.running() if name.startswith("quantum"))

    def stock(self):
        return tuple(self.lab.key_status(*pair)["stored_key_count"] for pair in (("app1", "app2"), ("app2", "app1")))

    def settle(self):
        """No new keys any more, and none on their way: the stock in each direction."""
        self.assertTrue(eventually(lambda: min(self.stock()) > 1000))
        run("qkdn-lab", "stop", self.lab.folder, self.quantum)
        return self.steady()

    def steady(self):
        """The stock once nothing is refilled any more: it was the same ten times, and for three seconds."""
        seen, since = [], time.monotonic()

        def still():
            nonlocal since
            seen.append(self.stock())
            if seen[-2:] != [seen[-1]] * 2:
                since = time.monotonic()
            return len(seen) > 9 and len(set(seen[-10:])) == 1 and time.monotonic() - since > 3
        self.assertTrue(eventually(still), seen)
        return seen[-1]

    def test_refusals_consume_nothing(self):
        keys = self.lab.get("app1", "app2", 4)
        ids, strange = list(keys), str(uuid.uuid4())
        stock = self.settle()

        def assert_nothing_consumed():
            nonlocal stock
            before, stock = stock, self.stock()
            self.assertTrue(all(now >= then for now, then in zip(stock, before)), (before, stock))
        for app, status, text, words in (
                ("app1", NOT_THERE, "nobody", ("get", "--to", "nobody")),
                ("app1", REFUSED, "at most 128", ("get", "--to", "app2", "-n", "129")),
                ("app1", REFUSED, "8", ("get", "--to", "app2", "-s", "8")),
                ("app2", NOT_THERE, strange, ("get-by-id", "--from", "app1", strange)),
                ("app2", NOT_THERE, strange, ("get-by-id", "--from", "app1", *ids, strange)),
                ("app2", None, "", ("get-by-id", "--from", "spy", *ids)),
                ("spy", None, "", ("get-by-id", "--from", "app1", *ids)),
                ("app1", None, "", ("get-by-id", "--from", "app1", *ids))):
            with self.subTest(app=app, words=words):
                done = self.lab.keyreq(app, *words, check=False)
                self.assertEqual(done.stdout, "")
                self.assertIn(done.returncode, [REFUSED, NOT_THERE] if status is None else [status], done.stderr)
                self.assertIn(text, done.stderr)
                assert_nothing_consumed()  # on a busy machine some keys come late
        self.assertEqual(self.lab.get_by_id("app2", "app1", ids), keys)
        done = self.lab.keyreq("app2", "get-by-id", "--from", "app1", ids[0], check=False)
        self.assertEqual(done.returncode, NOT_THERE)  # delivered once
        assert_nothing_consumed()
        done = self.lab.keyreq("app1", "get", "--to", "app2", "-n", "128", "-s", "8192", check=False)
        self.assertEqual(done.returncode, NOT_THERE)
        self.assertIn("nothing was consumed", done.stderr)
        assert_nothing_consumed()  # asking for many had some more brought in

    def test_a_full_direction_does_not_starve_the_other(self):
        for _ in range(80):  # some eight times what the network holds, all one way
            self.assertEqual(len(self.lab.get("app1", "app2", 100)), 100)
        keys = self.lab.get("app2", "app1", 100)  # what was discarded meanwhile does not matter, and is told
        status = json.loads(run("qkdnctl", "km", "status", "--lab", self.lab.folder, "--json").stdout)
        self.assertGreater(sum(km["bytes_discarded"] for km in status), 0)
        self.assertEqual(self.lab.get_by_id("app1", "app2", keys), keys)
        keys = self.lab.get("app1", "app2", 100)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)

    def test_every_key_is_handed_out_before_too_few_are_left(self):
        stock, taken, seen = self.settle(), 0, set()
        while True:
            done = self.lab.keyreq("app1", "get", "--to", "app2", "-n", "100", "--json", "--reveal", check=False)
            if done.returncode != DONE:
                break
            keys = json.loads(done.stdout)["keys"]
            taken += len(keys)
            seen |= {key["key"] for key in keys}
            self.assertLess(taken, 100000)
        self.assertEqual(done.returncode, NOT_THERE, done.stderr)
        self.assertGreaterEqual(taken, stock[0] - stock[0] % 100)
        self.assertEqual(len(seen), taken)
        left = self.steady()
        self.assertLess(left[0], 100)
        if left[0] > 0:  # fewer can be had still
            self.assertEqual(len(self.lab.get("app1", "app2", left[0])), left[0])
        done = self.lab.keyreq("app1", "get", "--to", "app2", check=False)
        self.assertEqual(done.returncode, NOT_THERE, done.stderr)
        self.assertEqual(self.stock()[0], 0)
        self.assertEqual(len(self.lab.get("app2", "app1", 10)), 10)  # the other direction is its own
        run("qkdn-lab", "start", self.lab.folder, self.quantum)
        keys = self.lab.get("app1", "app2", 10)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)


if __name__ == "__main__":
    unittest.main()
