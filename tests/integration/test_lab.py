"""qkdn-lab: what it refuses, and that it leaves nothing behind."""
import json
import os
import signal
import subprocess
import sys
import time
import unittest

from qkdn_test import TWO_NODES, Case, Lab, eventually, may_make_namespaces, program, run, write

ONE_THREAD_LEFT = f"""
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall({60 if os.uname().machine == "x86_64" else 93}, 0)
"""  # exit(2), of the calling thread alone


def stat_of(pid):
    """What proc(5) has of a process, from its state on; nothing: there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return []


def alive(pid):
    """A process that is more than a zombie."""
    return stat_of(pid)[:1] not in ([], ["Z"], ["X"])


def namespaces():
    return set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()


class Refusals(Case):
    def test_a_wrong_topology_is_told_with_its_remedy(self):
        for old, new, said in (
                ('name = "bob"', 'name = "alice"', "there twice"),
                ('"app2"', '"app1"', "belongs to one node"),
                ('"alice", "bob" ]; rate', '"alice", "carol" ]; rate', 'no node "carol"'),
                ('[ "alice", "bob" ]', '[ "alice", "alice" ]', "two different nodes"),
                ('"unlimited"', '"fixed"', "fixed_rate"),
                ('"unlimited"', '"unlimitd"', 'did you mean "unlimited"?'),
                ('name = "bob"', 'name = "quantum"', "rename it"),
                ("between", "betwen", 'did you mean "between"?')):
            self.assertIn(old, TWO_NODES)
            path = write(self.path("topology.conf"), TWO_NODES.replace(old, new, 1))
            done = run("qkdn-lab", "up", path, self.path("lab"), check=False)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(path, done.stderr)
            self.assertIn(said, done.stderr)
            self.assertFalse(os.path.exists(self.path("lab", "lab.json")))

    def test_nothing_is_up(self):
        for words in (["down"], ["status"], ["env"], ["exec"], ["start"], ["stop"]):
            more = {"env": ["app1"], "exec": ["app1", "true"], "start": ["x"], "stop": ["x"]}.get(words[0], [])
            done = run("qkdn-lab", *words, self.path("none"), *more, check=False)
            self.assertEqual(done.returncode, 3, words)
            self.assertIn("qkdn-lab up", done.stderr)


class UpAndDown(Case):
    options = ()

    def setUp(self):
        super().setUp()
        self.before = namespaces()
        self.topology = write(self.path("topology.conf"), TWO_NODES)
        self.addCleanup(lambda: run("qkdn-lab", "down", self.path("lab"), check=False))

    def assert_nothing_left(self, pids):
        self.assertTrue(eventually(lambda: not any(alive(pid) for pid in pids)))
        self.assertTrue(eventually(lambda: not namespaces() - self.before))  # another lab's go with it
        self.assertFalse(os.path.exists(self.path("lab", "lab.json")))

    def test_down_leaves_nothing_and_up_again_keeps_the_stores(self):
        lab = Lab(self.topology, self.path("lab"), *self.options)
        pids = list(lab.running().values())
        self.assertEqual(len(pids), len(lab.status()["daemons"]))
        keys = lab.get("app1", "app2", 2)
        done = run("qkdn-lab", "up", *self.options, self.topology, self.path("lab"), check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("qkdn-lab down", done.stderr)
        lab.down()
        self.assert_nothing_left(pids)
        lab = Lab(self.topology, self.path("lab"), *self.options)
        self.assertEqual(lab.get_by_id("app2", "app1", keys), keys)
        lab.down()

    def test_an_up_that_fails_cleans_up(self):
        bad = write(self.path("bad.conf"), TWO_NODES + 'quantum_settings = "nonsense = 1;";\n')
        done = run("qkdn-lab", "up", *self.options, bad, self.path("lab"), check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("nonsense", done.stderr)
        self.assert_nothing_left([])
        Lab(self.topology, self.path("lab"), *self.options).down()

    def test_an_interrupted_up_cleans_up(self):
        never = write(self.path("never.conf"), TWO_NODES.replace('"unlimited"', '"fixed"; fixed_rate = 0.001'))
        up = subprocess.Popen([program("qkdn-lab"), "up", *self.options, never, self.path("lab")],
                              stderr=subprocess.PIPE, text=True)
        state = self.path("lab", "lab.json")

        def pids():
            if not os.path.exists(state):
                return []
            with open(state, encoding="utf-8") as file:
                return [d["pid"] for d in json.load(file)["daemons"]]

        self.assertTrue(eventually(lambda: pids() and all(pids())))
        started = pids()
        time.sleep(0.3)
        up.send_signal(signal.SIGINT)
        _, said = up.communicate(timeout=240)
        self.assertEqual(up.returncode, 4, said)
        self.assert_nothing_left(started)

    def test_a_pid_that_is_somebody_elses_now_is_left_alone(self):
        Lab(self.topology, self.path("lab"), *self.options)
        other = subprocess.Popen(["sleep", "600"])
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        run("qkdn-lab", "stop", self.path("lab"), "quantum/quantumd")
        path = self.path("lab", "lab.json")
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        next(d for d in state["daemons"] if d["name"] == "quantum/quantumd").update(pid=other.pid, started=1)
        write(path, json.dumps(state))
        done = run("qkdn-lab", "status", self.path("lab"), check=False)
        self.assertEqual(done.returncode, 3)
        run("qkdn-lab", "down", self.path("lab"))
        self.assertIsNone(other.poll())

    def test_a_daemon_of_which_a_thread_still_runs_has_not_ended(self):
        """After kill -9 the first thread is gone while another may write to the disk still."""
        Lab(self.topology, self.path("lab"), *self.options)
        ending = subprocess.Popen([sys.executable, "-c", ONE_THREAD_LEFT])
        self.addCleanup(ending.wait)
        self.addCleanup(ending.kill)
        self.assertTrue(eventually(lambda: stat_of(ending.pid)[:1] == ["Z"]))
        run("qkdn-lab", "stop", self.path("lab"), "quantum/quantumd")
        path = self.path("lab", "lab.json")
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        quantumd = next(d for d in state["daemons"] if d["name"] == "quantum/quantumd")
        quantumd.update(pid=ending.pid, started=int(stat_of(ending.pid)[19]))
        write(path, json.dumps(state))
        self.assertEqual(run("qkdn-lab", "start", self.path("lab"), "quantum/quantumd", check=False).returncode, 2)
        ending.kill()
        ending.wait()
        run("qkdn-lab", "start", self.path("lab"), "quantum/quantumd")
        run("qkdn-lab", "down", self.path("lab"))


@unittest.skipUnless(may_make_namespaces(), "needs root, ip, rpcbind and network namespaces")
class UpAndDownInNamespaces(UpAndDown):
    options = ("--netns",)


if __name__ == "__main__":
    unittest.main()
