"""Hostile peers at a key manager: each gets a refusal or a closed connection, and applications get their keys
meanwhile, at no less than half their rate.

What it is                                        what it gets (Hostile)            what others have (Meanwhile)
wrong record marks, endless or empty fragments,   bad_records_inside_tls…,          bad_records,
  oversized records                                 garbage_before_tls…               garbage_in_cleartext
truncated and random XDR                          random_arguments…                 random_arguments
bytes behind the probe                            garbage_before_tls…               garbage_in_cleartext
no ALPN, wrong CA, expired certificate            only_good_certificates…           bad_certificates
right CA but wrong role                           a_role_may_do…                    random_arguments
right role, and gone at once                      a_module_goes_before…             –
right CA but wrong name                           another_name_gets_nothing         another_name
cleartext calls                                   cleartext_is_refused              calls_in_cleartext
a probe inside TLS                                a_role_may_do…                    random_arguments
slow handshakes, thousands of idle connections    thousands_of_idle_connections     slow_handshakes, many_handshakes,
                                                                                    idle_connections
no more file descriptors                          …without_descriptors (Meanwhile)  …without_descriptors
a peer that never reads                           who_never_reads…                  never_reads
a flood from one application                      –                                 flood, of null calls and of key requests,
                                                                                    on few connections and on many
A log that stays bounded: logs_are_bounded, and after each of Meanwhile. The same at a QKDN controller: AtTheController.
A peer whose key manager's certificate is of another role or name, and the records and handshakes of lib/rpc one by one:
tests/unit/test_rpc_refusals.c.
"""
import contextlib
import multiprocessing
import os
import random
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import unittest
import uuid

from qkdn_test import BUILD, SANITIZED, TWO_NODES, Case, Lab, eventually, run, write
from rpc_peer import (AUTH_BADCRED, AUTH_FAILED, AUTH_SYS, AUTH_TLS, AUTH_TOOWEAK, PROGRAMS, Peer, call, descriptors,
                      is_let_in, record)

SEED = int(os.environ.get("QKDN_SEED", "1"))
DENIED = 2  # qkdn_status


class Attacked(Case):
    """Two nodes, one of which is attacked."""
    SETTINGS = ""

    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), TWO_NODES + self.SETTINGS), self.path("lab"))
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


class Hostile(Attacked):
    """What each of them gets."""

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

    def test_another_name_gets_nothing(self):
        """The right authority and role, and another application's name in the request: that one's keys stay its own."""
        (key_id, key), = self.lab.get("app2", "app1").items()
        requests = ((1, key_request("app1", "app2")), (3, status_request("app1", "app2")),
                    (2, bytes(16) + xdr("app2") + xdr("app1") + struct.pack(">I", 1) + uuid.UUID(key_id).bytes))
        with self.as_app("spy") as peer:
            for procedure, args in requests:
                peer.send(record(call(PROGRAMS["ak"], procedure, args)))
                self.assertEqual(struct.unpack(">I", peer.reply()[24:28])[0], DENIED, procedure)
        self.assertEqual(self.lab.get_by_id("app1", "app2", [key_id]), {key_id: key})
        self.assert_serves()

    def test_a_module_goes_before_it_registers(self):
        """... which none has yet at this key manager: it is not heard of again."""
        quantumd = next(name for name in self.before if name.startswith("quantum"))
        for word, daemon in ("stop", quantumd), ("stop", "alice/kmd"), ("start", "alice/kmd"):
            run("qkdn-lab", word, self.lab.folder, daemon)
        self.before = self.lab.running()
        for _ in range(3):
            with Peer(self.address).starttls(self.certificate("alice-1")) as module:
                self.assertEqual(module.ask(PROGRAMS["kq2"], 0), ("accepted", 0))
        run("qkdn-lab", "start", self.lab.folder, quantumd)
        self.before = {**self.lab.running(), **self.before}
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

    def test_logs_are_bounded(self):
        """A line each half a second at most, which tells how many it stands for: as soon as half a second is over."""
        log = self.path("lab", "alice", "kmd.log")
        before, begun = os.path.getsize(log), time.monotonic()
        for _ in range(3):
            with Peer(self.address) as peer:
                peer.send(b"x" * 100)
                peer.is_closed()
        with self.as_app() as peer:
            def told():
                for _ in range(1000):
                    peer.ask(PROGRAMS["kx1"], 1)
                with open(log, encoding="utf-8") as file:
                    return "such lines before it were held back" in file.read()
            for _ in range(3):
                told()
            self.assertTrue(eventually(told))
        self.assertLess(os.path.getsize(log) - before, 20000 + 1000 * (time.monotonic() - begun))


LINE = """
nodes = ( { name = "alice"; applications = [ "app1" ]; }, { name = "bob"; },
          { name = "carol"; applications = [ "app2" ]; } );
links = ( { name = "alice-bob"; between = [ "alice", "bob" ]; rate = "unlimited"; },
          { name = "bob-carol"; between = [ "bob", "carol" ]; rate = "unlimited"; } );
control = "centralized"; relay_ahead = false;
"""
CONTROLLERS = {"ck": 0x20416009, "cx": 0x2041600b, "mc": 0x2041600c}


class AtTheController(Case):
    """The one that says the way of each key between app1 and app2."""

    def setUp(self):
        super().setUp()
        self.lab = Lab(write(self.path("topology.conf"), LINE), self.path("lab"))
        self.addCleanup(self.lab.down)
        with open(self.path("lab", "control", "controllerd.conf"), encoding="utf-8") as file:
            self.address = re.search(r'listen = \[ "(.*)" \]', file.read()).group(1)
        self.before = self.lab.running()

    def certificate(self, name):
        return self.path("lab", "pki", name)

    def as_one(self, name):
        return Peer(self.address).starttls(self.certificate(name), program=CONTROLLERS["ck"])

    def assert_serves(self):
        keys = self.lab.get("app1", "app2", 60, 1024)  # more than can be there without a relay
        self.assertEqual(self.lab.get_by_id("app2", "app1", keys), keys)
        self.assertEqual(self.lab.running(), self.before)

    def test_what_is_no_proper_call(self):
        """In cleartext, before TLS and inside."""
        with Peer(self.address) as peer:
            for program in CONTROLLERS.values():
                self.assertEqual(peer.ask(program, 1, bytes(64)), ("auth", AUTH_TOOWEAK))
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0", b"\xff" * 4, record(bytes(2000)),
                     record(call(CONTROLLERS["ck"], 0, flavor=AUTH_TLS)) + b"behind"):
            with Peer(self.address) as peer:
                self.assertTrue(ends_after(peer, data), data)
        for data in (b"\x7f\xff\xff\xff", record(b""), record(b"abcd", last=False) * 1000, record(b"abcd" * 4)):
            with self.as_one("alice") as peer:
                self.assertTrue(ends_after(peer, data), data[:20])
        self.assert_serves()

    def test_who_may_not(self):
        run("qkdn-pki", "init", self.path("other"))
        run("qkdn-pki", "issue", self.path("other"), "km", "alice")
        with contextlib.suppress(OSError), Peer(self.address).starttls(self.path("other", "alice"),
                                                                       program=CONTROLLERS["ck"]) as peer:
            self.fail(peer.ask(CONTROLLERS["ck"], 0))
        for name, programs in ("app1", CONTROLLERS), ("alice-1", CONTROLLERS), ("alice", ("cx", "mc")):
            with self.as_one(name) as peer:
                for program in programs:
                    self.assertEqual(peer.ask(CONTROLLERS[program], 1, bytes(200)), ("auth", AUTH_FAILED), (name, program))
        self.assert_serves()

    def test_random_arguments(self):
        """By everybody who may call it, in their own names, in others', and in nobody's."""
        dice = random.Random(SEED)
        for name, program in ("alice", "ck"), ("admin", "mc"):
            with self.as_one(name) as peer:
                for _ in range(400):
                    args = bytes(16) + xdr(dice.choice(("alice", "bob", "mallory", ""))) + dice.randbytes(4 * dice.randrange(40))
                    if dice.random() < 0.3:
                        args = dice.randbytes(4 * dice.randrange(50))
                    self.assertIn(peer.ask(CONTROLLERS[program], dice.randrange(10), args)[0], ("accepted", "auth"))
        self.assert_serves()

    def test_silent_connections(self):
        silent = []
        try:
            for _ in range(1500):
                silent.append(socket.create_connection(self.address.rsplit(":", 1), timeout=5))
            with self.as_one("alice") as peer:
                self.assertEqual(peer.ask(CONTROLLERS["ck"], 0), ("accepted", 0))
            self.assert_serves()
        finally:
            for s in silent:
                s.close()


# ---- what hostile peers do all the time, while others are served ------------------------------------------------
# Each goes on until it is killed, and ends with an error where it was not refused.

def goes_on(hostile, *words):
    """A connection that was closed, or timed out while this process was stopped, is one more refusal."""
    while True:
        try:
            hostile(*words)
        except (ConnectionError, TimeoutError, ssl.SSLError):
            pass


def expect(condition, what):
    if not condition:
        raise SystemExit(f"not refused: {what}")


def ends_after(peer, data):
    """Is the connection closed for what was sent?"""
    try:
        peer.send(data)
    except OSError:
        return True
    return peer.is_closed()


def garbage_in_cleartext(address, _):
    """Bytes behind the probe, wrong marks, what is no RPC at all."""
    probe = record(call(PROGRAMS["ak"], 0, flavor=AUTH_TLS))
    while True:
        for data in (probe + b"behind", probe + probe, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 4, b"\0\0\0\0" * 9,
                     record(bytes(2000))):
            with Peer(address) as peer:
                expect(ends_after(peer, data), data)


def calls_in_cleartext(address, _):
    while True:
        with Peer(address) as peer:
            for _ in range(16):
                expect(peer.ask(PROGRAMS["ak"], 1, bytes(64)) == ("auth", AUTH_TOOWEAK), "a call in cleartext")


def bad_records(address, pki):
    """Endless, empty, oversized and too many fragments, and a record that is no message, inside TLS."""
    while True:
        for data in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", record(b"", last=False), record(b""),
                     record(b"abcd", last=False) * 1000, record(b"abcd" * 4)):
            with Peer(address).starttls(pki + "/spy") as peer:
                expect(ends_after(peer, data), data[:20])


def random_arguments(address, pki):
    """Random and cut arguments, other programs' procedures, and a probe inside TLS, without a pause."""
    dice = random.Random(SEED)
    with Peer(address).starttls(pki + "/spy") as peer:
        while True:
            args = dice.randbytes(4 * dice.randrange(50))
            expect(peer.ask(PROGRAMS["ak"], dice.randrange(1, 8), args)[0] in ("accepted", "auth"), args)
            expect(peer.ask(PROGRAMS["kx1"], 1, args) == ("auth", AUTH_FAILED), "a role's procedure")
            expect(peer.ask(PROGRAMS["ak"], 0, flavor=AUTH_TLS) == ("auth", AUTH_BADCRED), "a probe inside TLS")


def bad_certificates(address, pki):
    """No ALPN, another authority, expired, none at all; eight at a time."""
    def one():
        while True:
            expect(not is_let_in(address, pki + "/spy", alpn=()), "no ALPN")
            expect(not is_let_in(address, pki + "/../../other/app1"), "another authority")
            expect(not is_let_in(address, pki + "/../../late"), "an expired certificate")
            expect(not is_let_in(address), "no certificate")
    together(8, one)


def another_name(address, pki):
    """The right authority and role, but another application's name in the request."""
    args = key_request("app1", "app2")
    with Peer(address).starttls(pki + "/spy") as peer:
        while True:
            peer.send(record(call(PROGRAMS["ak"], 1, args)))
            expect(struct.unpack(">I", peer.reply()[24:28])[0] == DENIED, "a request in another's name")


def many_handshakes(address, pki):
    """Good ones, as fast as they are let in."""
    def one():
        while True:
            try:
                Peer(address).starttls(pki + "/spy").socket.close()
            except OSError:
                pass
    together(16, one)


def client_hello():
    """The first bytes of a handshake."""
    context, out = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.MemoryBIO()
    context.check_hostname = False
    context.set_alpn_protocols(["sunrpc"])
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def slow_handshakes(address, _):
    """A byte of each at a time, and never the last one; more and more of them."""
    hello, begun = client_hello(), {}
    while True:
        with contextlib.suppress(OSError):
            begun[Peer(address, patience=1).probe()] = 0
        for peer, sent in list(begun.items()):
            try:
                peer.send(hello[sent:sent + 1])
                begun[peer] = min(sent + 1, len(hello) - 1)
            except OSError:
                del begun[peer]


def idle_connections(address, _):
    """Thousands that say nothing, or stop in the middle of the handshake, and come again when they are closed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle = []
    while True:
        try:
            peer = Peer(address, patience=1)
            if len(idle) % 2:
                peer.send(record(call(PROGRAMS["ak"], 0, flavor=AUTH_TLS)))
            idle.append(peer)
        except OSError:
            pass
        if len(idle) > 3000:
            idle.pop(0).socket.close()


def never_reads(address, pki):
    """Asks and asks, and leaves the answers where they are."""
    flood = record(call(PROGRAMS["ak"], 3, status_request("spy", "app2"))) * 300
    while True:
        try:
            with Peer(address, patience=2).starttls(pki + "/spy") as peer:
                while True:
                    peer.send(flood)
        except OSError:
            pass


def flood(*words):
    """As many calls in flight as that (flood.c), in a process of its own."""
    def run_flood(_, pki):
        lab = os.path.dirname(pki)
        program = os.path.join(BUILD, "tests", "bin", "flood")
        os.execve(program, [program, *words], {**os.environ, **environment(lab, "spy")})
    run_flood.__name__ = "flood " + " ".join(words)
    return run_flood


def environment(folder, application):
    lines = run("qkdn-lab", "env", folder, application).stdout.splitlines()
    return {word: value[1:-1] for word, value in (line[len("export "):].split("=", 1) for line in lines)}


def together(count, one):
    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def xdr(text):
    return struct.pack(">I", len(text)) + text.encode() + bytes(-len(text) % 4)


def key_request(source, destination):
    return bytes(16) + xdr(source) + xdr(destination) + struct.pack(">IIIIQI", 0, 1, 256, 0, 0, 0)


def status_request(source, destination):
    return bytes(16) + xdr(source) + xdr(destination)


class Polite:
    """Keys requested by an application of its own process (polite.c)."""

    def __init__(self, lab, who, destination, threads=4):
        self.process = subprocess.Popen([os.path.join(BUILD, "tests", "bin", "polite"), destination, str(threads)],
                                        env={**os.environ, **lab.env(who)}, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.keys(1)  # until it is connected

    def keys(self, milliseconds):
        self.process.stdin.write(f"{milliseconds}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline() or -1)

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()


@unittest.skipIf(SANITIZED, "rates are those of the ordinary build")
class Meanwhile(Attacked):
    """Others are served at no less than half their rate: keys requested by app1, calm and beside somebody hostile by
    turns. Where the machine is busy with other things some tries fail, but not all but one of them; and where it is so busy
    that the key manager waits for a processor most of the time, calm as it is, a try tells nothing of rates."""

    PHASE, PAIRS, TRIES, LONGEST = 200, 3, 20, 30
    BUSY = 4  # times as long as it runs

    def setUp(self):
        super().setUp()
        run("qkdn-pki", "init", self.path("other"))
        run("qkdn-pki", "issue", self.path("other"), "app", "app1")
        run("qkdn-pki", "issue", "--days=-1", "--out", self.path("late"), self.path("lab", "pki"), "app", "app1")
        (self.alice,) = [pid for name, pid in self.before.items() if name == "alice/kmd"]
        self.polite = Polite(self.lab, "app1", "app2")
        self.addCleanup(self.polite.process.kill)

    def ran_and_waited(self):
        """How long the attacked one ran until now, and how long it waited for a processor."""
        try:
            with open(f"/proc/{self.alice}/schedstat", encoding="ascii") as file:
                return [int(ns) for ns in file.read().split()[:2]]
        except OSError:  # not every kernel tells
            return [time.monotonic_ns(), 0]

    def ratio(self, child):
        """Of the rates, and whether it tells something."""
        calm = hostile = ran = waited = 0
        for _ in range(self.PAIRS):
            os.kill(child.pid, signal.SIGSTOP)
            time.sleep(0.02)
            before = self.ran_and_waited()
            calm += self.polite.keys(self.PHASE)
            after = self.ran_and_waited()
            ran, waited = ran + after[0] - before[0], waited + after[1] - before[1]
            os.kill(child.pid, signal.SIGCONT)
            time.sleep(0.02)
            hostile += self.polite.keys(self.PHASE)
        return hostile / max(calm, 1), waited < self.BUSY * ran

    @staticmethod
    def enough(tries):
        return sum(ratio >= 0.5 for ratio, _ in tries) >= 2

    def beside(self, hostile):
        log = self.path("lab", "alice", "kmd.log")
        before = os.path.getsize(log)
        child = multiprocessing.get_context("fork").Process(
            target=goes_on, daemon=True, args=(hostile, self.address, self.certificate("")[:-1]))
        child.start()
        try:
            time.sleep(0.3)
            tries, until = [], time.monotonic() + self.LONGEST
            while not self.enough(tries) and len(tries) < self.TRIES and time.monotonic() < until:
                tries.append(self.ratio(child))
            self.assertIsNone(child.exitcode)
        finally:
            child.kill()
            child.join()
        if os.environ.get("QKDN_SHOW_RATES"):
            print(f"{hostile.__name__}: {', '.join(f'{ratio:.2f}' for ratio, _ in tries)}", flush=True)
        self.assertLess(os.path.getsize(log) - before, 400000)
        if not self.enough(tries) and sum(tells for _, tells in tries) < len(tries) / 2:
            self.skipTest(f"the machine is too busy to measure rates beside {hostile.__name__}")
        self.assertTrue(self.enough(tries), (hostile.__name__, tries))

    def test_others_have_half_their_rate_beside(self):
        for hostile in (garbage_in_cleartext, calls_in_cleartext, bad_records, random_arguments, bad_certificates,
                        another_name, slow_handshakes, many_handshakes, idle_connections, never_reads,
                        flood("4", "1000"), flood("60", "50"), flood("4", "1000", "app2"), flood("60", "50", "app2")):
            with self.subTest(hostile=hostile.__name__):
                self.beside(hostile)
        self.assertEqual(self.polite.end(), 0)
        self.assert_serves()

    def test_others_have_half_their_rate_without_descriptors(self):
        """The KM has no more file descriptors: who is connected is served, and who comes later is once there are."""
        limits = resource.prlimit(self.alice, resource.RLIMIT_NOFILE)
        resource.prlimit(self.alice, resource.RLIMIT_NOFILE, (descriptors(self.alice) + 50, limits[1]))
        self.beside(idle_connections)
        with open(self.path("lab", "alice", "kmd.log"), encoding="utf-8") as file:
            self.assertIn("Too many open files", file.read())
        resource.prlimit(self.alice, resource.RLIMIT_NOFILE, limits)
        self.assertEqual(self.polite.end(), 0)
        self.assertTrue(eventually(lambda: is_let_in(self.address, self.certificate("app1"))))
        self.assert_serves()


if __name__ == "__main__":
    unittest.main()
