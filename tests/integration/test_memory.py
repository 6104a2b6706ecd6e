"""No key byte stays in a daemon's memory, logs or traces once the key was supplied: all of the writable
memory of the real daemons is searched for it (root may read it, though no core has it)."""
import os
import re
import signal
import time
import unittest

from qkdn_test import SANITIZED, TWO_NODES, Case, Lab, write
from test_crash import Load

PIECE = 12  # bytes of a key that must not be found, from any place in it


def mappings(pid):
    """(begin, end, access, the rest, flags) of each; "lo" among the flags: locked, "dd": not dumped."""
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as smaps:
        return re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) (.*)$(?:\n[A-Z]\w+:.*$)*?\nVmFlags: (.*)$", smaps.read(), re.M)


def writable(pid, wanted=lambda flags: True):
    """The process's memory that it can write, mapping by mapping: (description, bytes)."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end, access, rest, flags in mappings(pid):
            if not access.startswith("rw") or not wanted(flags.split()):
                continue
            at, end = int(start, 16), int(end, 16)
            while at < end:
                length = min(end - at, 1 << 26)
                try:
                    memory.seek(at)
                    yield f"{at:x} {rest}", memory.read(length)
                except OSError:
                    pass
                at += length


def well_kept(flags):
    return {"lo", "dd"} <= set(flags)


def found(pid, keys, wanted=lambda flags: True):
    """[(ID, where)] of those of the keys of which a piece is in the process's memory: some pieces of each."""
    pieces = {key[i:i + PIECE]: key_id for key_id, key in keys.items()
              for i in {0, (len(key) - PIECE) // 2, len(key) - PIECE}}
    hits = []
    for where, content in writable(pid, wanted):
        hits += [(key_id, where, content.find(piece)) for piece, key_id in pieces.items() if piece in content]
    return hits


@unittest.skipIf(SANITIZED, "a sanitizer keeps what was freed, and terabytes of shadow")
@unittest.skipUnless(os.geteuid() == 0, "reading a daemon's memory needs root")
class Memory(Case):
    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES), self.path("lab"))
        self.addCleanup(self.lab.down)

    def supply(self):
        keys = {}
        for number, size in (1, 256), (128, 256), (3, 8192), (100, 128), (1, 264):
            part = self.lab.get("app1", "app2", number, size)
            self.assertEqual(self.lab.get_by_id("app2", "app1", part), part)
            keys.update(list(part.items())[-5:])
        return keys

    def test_supplied_keys_are_gone_from_memory(self):
        keys = self.supply()
        self.lab.get("app1", "app2")  # the next request takes the place of the last one's remains, if any
        self.lab.get_by_id("app2", "app1", self.lab.get("app1", "app2"))
        for name, pid in self.lab.running().items():
            with self.subTest(daemon=name):
                self.assertEqual(found(pid, keys), [])

    def test_supplied_keys_are_gone_under_load(self):
        """The daemons are stopped in the midst of it, and what a core of them would have is searched for keys that both
        ends have had. (In locked memory that no core has, what was fetched is still in chunks of keys that wait.)"""
        load = Load(self, self.lab)
        time.sleep(3)
        with open(load.path, encoding="ascii") as journal:
            lines = journal.read().rpartition("\n")[0].splitlines()
        had = [line.split() for line in lines if line.startswith("fetched ")]
        self.assertGreater(len(had), 100)
        keys = {i: bytes.fromhex(key) for _, _, i, key in had[:50] + had[-50:]}
        time.sleep(0.5)
        running = self.lab.running()
        for pid in running.values():
            os.kill(pid, signal.SIGSTOP)
        try:
            hits = {name: found(pid, keys, lambda flags: "dd" not in flags) for name, pid in running.items()}
        finally:
            for pid in running.values():
                os.kill(pid, signal.SIGCONT)
        self.assertEqual(hits, {name: [] for name in running})

    def test_the_master_key_lies_in_locked_memory_that_is_not_dumped(self):
        for node in "alice", "bob":
            with open(self.path("lab", node, "master.key"), "rb") as file:
                key = {"the master key": file.read()}
            pid = self.lab.running()[node + "/kmd"]
            self.assertTrue(found(pid, key, well_kept))
            self.assertEqual(found(pid, key, lambda flags: not well_kept(flags)), [])

    def test_the_search_finds_what_is_there(self):
        key = os.urandom(32)
        self.assertTrue(found(os.getpid(), {"here": key}))

    def test_logs_and_traces_have_no_key(self):
        keys = self.supply()
        texts = self.lab.logs().lower()
        for key in keys.values():
            for piece in key.hex()[:24], key[:8].hex(" "):
                self.assertNotIn(piece, texts)


if __name__ == "__main__":
    unittest.main()
