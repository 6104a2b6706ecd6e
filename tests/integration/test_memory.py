"""No key byte stays in a daemon's memory, logs or traces once the key was supplied: all of the writable
memory of the real daemons is searched for it (root may read it, though no core has it)."""
import os
import re
import unittest

from qkdn_test import TWO_NODES, Case, Lab, write

PIECE = 12  # bytes of a key that must not be found, from any place in it


def writable(pid):
    """The process's memory that it can write, mapping by mapping: (description, bytes)."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            start, end, flags, rest = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) (.*)", line).groups()
            if not flags.startswith("rw"):
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


def found(pid, keys):
    """[(ID, where)] of those of the keys of which a piece is in the process's memory: some pieces of each."""
    pieces = {key[i:i + PIECE]: key_id for key_id, key in keys.items()
              for i in {0, (len(key) - PIECE) // 2, len(key) - PIECE}}
    hits = []
    for where, content in writable(pid):
        hits += [(key_id, where, content.find(piece)) for piece, key_id in pieces.items() if piece in content]
    return hits


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
