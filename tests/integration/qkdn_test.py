"""What the integration tests share: where the programs are, and running them."""
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("BUILD", "build"))
BIN = os.path.join(BUILD, "bin")
SANITIZED = os.path.basename(BUILD) in ("asan", "tsan")

TWO_NODES = """
nodes = ( { name = "alice"; applications = [ "app1", "spy" ]; }, { name = "bob"; applications = [ "app2" ]; } );
links = ( { name = "alice-bob"; between = [ "alice", "bob" ]; rate = "unlimited"; } );
"""


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def program(name):
    return os.path.join(BIN, name)


def have(*names):
    """Are these programs built?"""
    return all(os.access(program(n), os.X_OK) for n in names)


def run(*command, env=None, timeout=240, check=True):
    """Runs one of our programs (or any with a path); stdout and stderr as text."""
    words = list(command)
    if os.sep not in words[0]:
        words[0] = program(words[0])
    done = subprocess.run(words, env=env, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)[:200]}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done


class Case(unittest.TestCase):
    """A test with a folder of its own that is removed afterwards."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="qkdn-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)


class Lab:
    """A network that qkdn-lab brought up. End it with down(), which holds the nodes' key stores against each other."""

    stores_checked = True # False where a test has spoilt one

    def __init__(self, topology, folder, *options):
        self.folder = folder
        if "--netns" in options and os.path.basename(BUILD) == "tsan":
            raise unittest.SkipTest("a process with ThreadSanitizer's thread cannot enter a namespace of mounts")
        self.topology = topology if os.sep in topology else os.path.join(TOP, "examples", topology)
        patience = ("--wait", "600") if os.path.basename(BUILD) == "valgrind" else ()
        run("qkdn-lab", "up", *patience, *options, self.topology, folder, timeout=900 if patience else 180)

    def down(self):
        """Also looks whether all daemons ended by themselves, so that sanitizers could tell what they leaked, and
        whether their filter refused a system call that they need after all."""
        told = run("qkdn-lab", "down", self.folder, check=False).stderr
        assert "did not stop" not in told, told
        refused = {line for line in self.logs().splitlines() if "the system call" in line}
        assert not refused, refused
        if self.stores_checked:
            self.check_stores()

    def stores(self):
        """(key store, master key) of every node that has made one."""
        found = []
        for node in sorted(os.listdir(self.folder)) if os.path.isdir(self.folder) else []:
            words = [os.path.join(self.folder, node, name) for name in ("store", "master.key")]
            if os.path.exists(os.path.join(words[0], "data.mdb")):
                found.append(words)
        return found

    def check_stores(self):
        """After every test: both ends' keys equal, no pad and no key that could be used twice, none of which the far
        end has nothing (store_check.c). The bytes that destinations hold alone: what was on its way."""
        stores = self.stores()
        if len(stores) < 2:
            return 0
        done = run(os.path.join(BUILD, "tests", "bin", "store_check"), "--most", str(4 << 20),
                   *(word for store in stores for word in store), timeout=300)
        return int(done.stdout.split()[-1])

    def exec(self, who, *command, **options):
        """Runs one of our programs (or one with a path) as an application or at a node."""
        words = list(command)
        if have(words[0]):
            words[0] = program(words[0])
        return run("qkdn-lab", "exec", self.folder, who, *words, **options)

    def env(self, application):
        """The environment of an application, as qkdn-lab env exports it."""
        lines = run("qkdn-lab", "env", self.folder, application).stdout.splitlines()
        return {word: value[1:-1] for word, value in (line[len("export "):].split("=", 1) for line in lines)}

    def keyreq(self, application, *words, **options):
        return self.exec(application, "qkdn-keyreq", *words, **options)

    def get(self, source, destination, number=1, size=256):
        """{ID: key} as the source gets them."""
        return keys_of(self.keyreq(source, "get", "--to", destination, "-n", str(number), "-s", str(size),
                                   "--timeout", "60", "--json", "--reveal"))

    def get_by_id(self, destination, source, ids):
        return keys_of(self.keyreq(destination, "get-by-id", "--from", source, "--json", "--reveal", *ids))

    def key_status(self, source, destination):
        return json.loads(self.keyreq(source, "status", "--to", destination, "--json").stdout)

    def status(self):
        return json.loads(run("qkdn-lab", "status", "--json", self.folder, check=False).stdout)

    def running(self):
        return {d["name"]: d["pid"] for d in self.status()["daemons"] if d["running"]}

    def logs(self):
        """All logs in one text: for what must be in them, and what must not."""
        texts = []
        for folder, _, files in os.walk(self.folder):
            for name in files:
                if name.endswith((".log", ".trace")):
                    with open(os.path.join(folder, name), errors="replace") as file:
                        texts.append(file.read())
        return "".join(texts)


def keys_of(done):
    """{ID: key bytes} of a key container (ETSI GS QKD 014)."""
    return {key["key_ID"]: base64.b64decode(key["key"]) for key in json.loads(done.stdout)["keys"]}


def eventually(condition, seconds=120):
    """Waits until condition() holds; its last value. The time is for a machine that is busy with other tests."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(0.1)


def golden(case, name, text):
    """Compares with tests/golden/NAME; QKDN_GOLDEN=write writes it anew."""
    path = os.path.join(TOP, "tests", "golden", name)
    if os.environ.get("QKDN_GOLDEN") == "write":
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    with open(path, encoding="utf-8") as file:
        case.assertEqual(text, file.read())


def may_make_namespaces():
    """Root with CAP_SYS_ADMIN, and the programs."""
    if os.geteuid() != 0 or not all(shutil.which(n) for n in ("ip", "rpcbind", "rpcinfo")):
        return False
    return subprocess.run(["unshare", "-nm", "true"], stderr=subprocess.DEVNULL).returncode == 0
