"""No key byte stays in a daemon's memory, logs or traces once the key was supplied: all of the writable
memory of the real daemons is searched for it (root may read it, though no core has it), and real cores of
daemons, of qkdn-keyreq and of an application."""
import base64
import glob
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import unittest
from unittest import mock

from qkdn_test import BUILD, SANITIZED, TWO_NODES, Case, Lab, eventually, program, write
from test_crash import Load

LINE = """
control = "%s"; relay_ahead = false;
nodes = ( { name = "alice"; applications = [ "app1" ]; }, { name = "bob"; },
          { name = "carol"; applications = [ "app2" ]; } );
links = ( { name = "alice-bob"; between = [ "alice", "bob" ]; rate = "fixed"; fixed_rate = 8000000.0; },
          { name = "bob-carol"; between = [ "bob", "carol" ]; rate = "fixed"; fixed_rate = 8000000.0; } );
"""
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


def found_in(contents, keys):
    """[(ID, where)] of those of the keys of which a piece is in one of the (where, bytes): some pieces of each."""
    pieces = {key[i:i + PIECE]: key_id for key_id, key in keys.items()
              for i in {0, (len(key) - PIECE) // 2, len(key) - PIECE}}
    hits = []
    for where, content in contents:
        hits += [(key_id, where, content.find(piece)) for piece, key_id in pieces.items() if piece in content]
    return hits


def found(pid, keys, wanted=lambda flags: True):
    """The same of the process's memory."""
    return found_in(writable(pid, wanted), keys)


def supply(lab):
    """Keys that both ends have had."""
    keys = {}
    for number, size in (1, 256), (128, 256), (3, 8192), (100, 128), (1, 264):
        part = lab.get("app1", "app2", number, size)
        assert lab.get_by_id("app2", "app1", part) == part
        keys.update(list(part.items())[-5:])
    return keys


def had_by_both(load):
    """{ID: key} of some that key_load has fetched at the far end."""
    with open(load.path, encoding="ascii") as journal:
        lines = journal.read().rpartition("\n")[0].splitlines()
    had = [line.split() for line in lines if line.startswith("fetched ")]
    return {i: bytes.fromhex(key) for _, _, i, key in had[:50] + had[-50:]}


@unittest.skipIf(SANITIZED, "a sanitizer keeps what was freed, and terabytes of shadow")
@unittest.skipUnless(os.geteuid() == 0, "reading a daemon's memory needs root")
class Memory(Case):
    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES), self.path("lab"))
        self.addCleanup(self.lab.down)

    def test_supplied_keys_are_gone_from_memory(self):
        keys = supply(self.lab)
        self.lab.get("app1", "app2")  # the next request takes the place of the last one's remains, if any
        self.lab.get_by_id("app2", "app1", self.lab.get("app1", "app2"))
        for name, pid in self.lab.running().items():
            with self.subTest(daemon=name):
                self.assertEqual(found(pid, keys), [])

    def test_supplied_keys_are_gone_under_load(self):
        """The daemons are stopped in the midst of it, and what a core of them would have is searched for keys that both
        ends have had. (In locked memory that no core has, what was fetched is still in chunks of keys that wait.)"""
        load = Load(self, self.lab)
        self.assertTrue(eventually(lambda: len(had_by_both(load)) == 100))
        keys = had_by_both(load)
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
        keys = supply(self.lab)
        texts = self.lab.logs().lower()
        for key in keys.values():
            for piece in key.hex()[:24], key[:8].hex(" "):
                self.assertNotIn(piece, texts)


@unittest.skipIf(SANITIZED, "a sanitizer keeps what was freed, and terabytes of shadow")
@unittest.skipUnless(os.geteuid() == 0, "reading a daemon's memory needs root")
class Between(Case):
    def test_a_node_between_holds_nothing_that_it_has_forwarded(self):
        """Neither of keys that were fetched nor of those that wait at the ends; once it is told that they arrived."""
        for control in "centralized", "distributed":
            with self.subTest(control):
                lab = Lab(write(self.path("topology.conf"), LINE % control), self.path(control))
                self.addCleanup(lab.down)
                self.assertTrue(eventually(lambda: lab.keyreq("app1", "get", "--to", "app2", "--timeout", "5",
                                                              check=False).returncode == 0))
                keys = supply(lab)
                for number, size in (100, 256), (3, 8192):
                    keys.update(list(lab.get("app1", "app2", number, size).items())[-5:])
                pid = lab.running()["bob/kmd"]
                self.assertTrue(eventually(lambda: found(pid, keys) == []), found(pid, keys))
                lab.down()


def kernel_writes_cores_here():
    """... into the working directory, and they may be as large as they are."""
    try:
        with open("/proc/sys/kernel/core_pattern", encoding="ascii") as pattern:
            if not re.match(r"core[\w.%]*$", pattern.read().strip()):
                return False
    except OSError:
        return False
    return resource.getrlimit(resource.RLIMIT_CORE)[1] == resource.RLIM_INFINITY


@unittest.skipUnless(kernel_writes_cores_here(), "here the kernel gives cores to a program, or there may be none")
@unittest.skipIf(SANITIZED, "a sanitizer keeps what was freed, and terabytes of shadow")
@unittest.skipIf(os.path.basename(BUILD) == "valgrind", "the core would be of valgrind")
class Core(Case):
    """What the kernel itself writes when a program dies, although it had forbidden cores (dumps_core.c)."""

    def setUp(self):
        super().setUp()
        os.mkdir(self.path("cores"))
        limits = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_CORE, limits)
        self.environment = {"LD_PRELOAD": os.path.join(BUILD, "tests", "bin", "dumps_core.so"), "QKDN_CORES": self.path("cores")}

    def up(self):
        with mock.patch.dict(os.environ, self.environment):
            self.lab = Lab(write(self.path("topology.conf"), TWO_NODES), self.path("lab"))
        self.addCleanup(self.lab.down)

    def core(self):
        """[(name, bytes)] of the one that was written just now."""
        (path,) = glob.glob(self.path("cores", "core*"))
        with open(path, "rb") as file:
            content = file.read()
        os.unlink(path)
        self.assertEqual(content[:4], b"\x7fELF")
        return [("core", content)]

    def dies_at_its_end(self, *words, **more):
        """Its standard output; the core is of the moment after main."""
        done = subprocess.run(words, env={**os.environ, **more, **self.environment, "QKDN_CORE_AT_EXIT": "1"}, cwd=self.path("cores"),
                              stdout=subprocess.PIPE, timeout=240, check=False)
        self.assertEqual(done.returncode, -signal.SIGABRT)
        return done.stdout.decode()

    def test_of_daemons_under_load(self):
        self.up()
        keys = supply(self.lab)
        load = Load(self, self.lab)
        self.assertTrue(eventually(lambda: len(had_by_both(load)) == 100))
        keys.update(had_by_both(load))
        for node in "alice", "bob":
            with open(self.path("lab", node, "master.key"), "rb") as file:
                keys[f"the master key of {node}"] = file.read()
        time.sleep(0.5)
        running = self.lab.running()
        for pid in running.values():
            os.kill(pid, signal.SIGSTOP)
        hits = {}
        for name, pid in running.items():
            os.kill(pid, signal.SIGABRT)
            os.kill(pid, signal.SIGCONT)
            self.assertTrue(eventually(lambda: name not in self.lab.running()), name)
            core = self.core()
            self.assertIn(b"qkdn-", core[0][1])
            hits[name] = found_in(core, keys)
        load.end()
        self.assertEqual(hits, {name: [] for name in running})

    def assert_not_in_the_core(self, keys):
        """Neither the bytes nor any text that they are printed as."""
        core = self.core()
        for written in bytes, lambda key: key.hex().encode(), base64.b64encode:
            self.assertEqual(found_in(core, {i: written(key) for i, key in keys.items()}), [])

    def test_of_keyreq(self):
        self.up()
        printed = self.dies_at_its_end(program("qkdn-keyreq"), "get", "--to", "app2", "-n", "5", "--reveal",
                                       **self.lab.env("app1"))
        keys = {i: bytes.fromhex(key) for i, key in re.findall(r"^(\S{36}) .* ([0-9a-f]{64})$", printed, re.M)}
        self.assertEqual(len(keys), 5)
        self.assert_not_in_the_core(keys)
        fetched = self.dies_at_its_end(program("qkdn-keyreq"), "get-by-id", "--from", "app1", "--json", "--reveal", *keys,
                                       **self.lab.env("app2"))
        self.assertEqual({k["key_ID"]: base64.b64decode(k["key"]) for k in json.loads(fetched)["keys"]}, keys)
        self.assert_not_in_the_core(keys)

    def test_of_an_application(self):
        """... which has freed the keys; it tells the complements of what they had in their middle (leftover.c)."""
        ksa = subprocess.Popen([os.path.join(BUILD, "tests", "bin", "fake_ksad")], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
        self.addCleanup(ksa.communicate)
        environment = dict(line.rstrip("\n").split("=", 1) for line in iter(ksa.stdout.readline, "\n"))
        printed = self.dies_at_its_end(os.path.join(BUILD, "tests", "bin", "leftover"), **environment)
        keys = {text: bytes(b ^ 0xff for b in bytes.fromhex(text)) for text in printed.split()[3:]}
        self.assertEqual(len(keys), 3)
        self.assert_not_in_the_core(keys)

    def test_finds_what_is_there(self):
        key = os.urandom(32)
        self.dies_at_its_end(sys.executable, "-c", f"import os; key = bytes.fromhex('{key.hex()}'); os.abort()")
        self.assertTrue(found_in(self.core(), {"here": key}))


if __name__ == "__main__":
    unittest.main()
