"""Hostile peers at a key manager: each gets a refusal or a closed connection, and applications get their keys meanwhile."""
import os
import random
import resource
import socket
import ssl
import struct
import threading
import time
import unittest

from qkdn_test import TWO_NODES, Case, Lab, eventually, run, write
from rpc_peer import (AUTH_BADCRED, AUTH_FAILED, AUTH_SYS, AUTH_TLS, AUTH_TOOWEAK, PROGRAMS, Peer, call, descriptors,
                      is_let_in, record)

SEED = int(os.environ.get("QKDN_SEED", "1"))


class Hostile(Case):
    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES), self.path("lab"))
        self.addCleanup(self.lab.down)
        self.address = self.lab.env("app1")["QKDN_KM"]
        self.before = self.lab.running()

    def certificate(self, name):
        return self.path("lab", "pki", name)

    def as_app(self, name="app1", **options):
        return Peer(self.address, **options).starttls(self.certificate(name))

    def assert_serves(self):
        """Keys are supplied at both ends, and nobody was restarted or lost."""
        keys = self.lab.get("app1", "app2", 2)
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)
        self.assertEqual(self.lab.running(), self.before)

    def test_cleartext_is_refused(self):
        with Peer(self.address) as peer:
            for program in PROGRAMS.values():
                self.assertEqual(peer.ask(program, 1, bytes(64)), ("auth", AUTH_TOOWEAK))
            self.assertEqual(peer.ask(PROGRAMS["ak"], 1, flavor=AUTH_SYS), ("auth", AUTH_TOOWEAK))
            self.assertEqual(peer.ask(PROGRAMS["ak"], 1, flavor=AUTH_TLS), ("auth", AUTH_BADCRED))
            self.assertEqual(peer.ask(PROGRAMS["ak"], 0), ("accepted", 0))
        self.assert_serves()

    def test_garbage_before_tls_ends_the_connection(self):
        dice = random.Random(SEED)
        probe = record(call(PROGRAMS["ak"], 0, flavor=AUTH_TLS))
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\0\0\0\0" * 100, b"\x80\0\0\0", b"\xff" * 4,
                     probe + b"behind", probe + probe, record(bytes(2000)), dice.randbytes(500) or b""):
            with Peer(self.address) as peer:
                peer.send(data)
                self.assertTrue(peer.is_closed(), data)
        self.assert_serves()

    def test_only_good_certificates_come_in(self):
        pki, other = self.path("lab", "pki"), self.path("other")
        run("qkdn-pki", "init", other)
        run("qkdn-pki", "issue", other, "app", "app1")
        run("qkdn-pki", "issue", "--days=-1", "--out", self.path("late"), pki, "app", "app1")
        self.assertTrue(is_let_in(self.address, self.certificate("app1")))
        self.assertFalse(is_let_in(self.address))
        self.assertFalse(is_let_in(self.address, self.certificate("app1"), alpn=()))
        self.assertFalse(is_let_in(self.address, self.certificate("app1"), alpn=("http/1.1",)))
        self.assertFalse(is_let_in(self.address, self.certificate("app1"), version=ssl.TLSVersion.TLSv1_2))
        self.assertFalse(is_let_in(self.address, os.path.join(other, "app1")))
        self.assertFalse(is_let_in(self.address, self.path("late")))
        self.assert_serves()

    def test_a_role_may_do_what_its_row_says(self):
        with self.as_app() as peer:
            for name in ("kq1", "kq2", "kx1", "kx2", "ck_km"):
                self.assertEqual(peer.ask(PROGRAMS[name], 1, bytes(200)), ("auth", AUTH_FAILED), name)
            self.assertEqual(peer.ask(PROGRAMS["ak"], 0, flavor=AUTH_TLS), ("auth", AUTH_BADCRED))
        with Peer(self.address).starttls(self.certificate("alice-1")) as module:
            self.assertEqual(module.ask(PROGRAMS["ak"], 1, bytes(200)), ("auth", AUTH_FAILED))
            self.assertEqual(module.ask(PROGRAMS["kx1"], 1, bytes(200)), ("auth", AUTH_FAILED))
        self.assert_serves()

    def test_bad_records_inside_tls_end_the_connection(self):
        for data in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", record(b"", last=False), record(b""),
                     record(b"abcd", last=False) * 1000, record(b"abcd" * 4), record(b"ab")):
            with self.as_app() as peer:
                try:
                    peer.send(data)
                except OSError:
                    pass
                self.assertTrue(peer.is_closed(), data[:20])
        self.assert_serves()

    def test_random_arguments_are_refused(self):
        """Random and truncated XDR for every procedure, by everybody who may call it."""
        dice = random.Random(SEED)
        for name, programs in (("app1", ("ak",)), ("alice-1", ("kq1", "kq2")), ("bob", ("kx1", "kx2"))):
            with Peer(self.address).starttls(self.certificate(name)) as peer:
                for _ in range(400):
                    words = [dice.choice((0, 1, 2, 5, 16, 64, 65, 1024, 0x7fffffff, 0xffffffff, dice.getrandbits(32)))
                             for _ in range(dice.randrange(40))]
                    args = bytes(16) + struct.pack(f">{len(words)}I", *words)
                    if dice.random() < 0.3:
                        args = dice.randbytes(4 * dice.randrange(50))
                    kind, _ = peer.ask(PROGRAMS[dice.choice(programs)], dice.randrange(8), args)
                    self.assertIn(kind, ("accepted", "auth"))
        self.assert_serves()

    def test_thousands_of_idle_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        idle = []
        try:
            for _ in range(3000):
                try:
                    idle.append(socket.create_connection(self.address.rsplit(":", 1), timeout=5))
                except OSError:
                    break
            self.assertGreater(len(idle), 1000)
            self.assert_serves()
        finally:
            for s in idle:
                s.close()
        alice = [pid for name, pid in self.before.items() if "alice" in name][0]
        self.assertTrue(eventually(lambda: descriptors(alice) < 100))

    def test_who_never_reads_stops_nobody(self):
        with self.as_app("spy", patience=2) as peer:
            flood = record(call(PROGRAMS["ak"], 0)) * 300
            sent = 0
            try:
                while sent < 64 * 2**20:  # their answers are never read
                    peer.send(flood)
                    sent += len(flood)
            except OSError:
                pass
            self.assertLess(sent, 64 * 2**20)
            self.assert_serves()

    def test_a_flood_leaves_the_others_half_their_rate(self):
        def rate(seconds=2):
            with self.as_app() as peer:
                calls, end = 0, time.monotonic() + seconds
                while time.monotonic() < end:
                    peer.ask(PROGRAMS["ak"], 0)
                    calls += 1
                return calls / seconds

        def flood(stop):
            with self.as_app("spy") as peer:
                reader = threading.Thread(target=peer.is_closed, daemon=True)
                reader.start()
                while not stop.is_set():
                    peer.send(record(call(PROGRAMS["ak"], 0)) * 50)
                    time.sleep(0.001)  # this process plays the polite one too
        calm = rate()
        stop = threading.Event()
        flooder = threading.Thread(target=flood, args=(stop,))
        flooder.start()
        try:
            flooded = rate()
        finally:
            stop.set()
            flooder.join()
        self.assertGreater(flooded, calm / 4)  # half, but the machine is shared with the flooder
        self.assert_serves()

    def test_logs_are_bounded(self):
        log = self.path("lab", "alice", "kmd.log")
        before = os.path.getsize(log)
        for _ in range(3):
            with Peer(self.address) as peer:
                peer.send(b"x" * 100)
                peer.is_closed()
        with self.as_app() as peer:
            for _ in range(3000):
                peer.ask(PROGRAMS["kx1"], 1)
        self.assertLess(os.path.getsize(log) - before, 20000)
        with open(log, encoding="utf-8") as file:
            self.assertIn("such lines before it were held back", file.read())


if __name__ == "__main__":
    unittest.main()
