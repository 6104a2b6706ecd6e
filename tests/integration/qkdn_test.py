"""What the integration tests share: where the programs are, and running them."""
import os
import shutil
import subprocess
import tempfile
import unittest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("BUILD", "build"))
BIN = os.path.join(BUILD, "bin")


def program(name):
    return os.path.join(BIN, name)


def have(*names):
    """Are these programs built?"""
    return all(os.access(program(n), os.X_OK) for n in names)


def run(*command, env=None, timeout=60, check=True):
    """Runs one of our programs (or any with a path); stdout and stderr as text."""
    words = list(command)
    if os.sep not in words[0]:
        words[0] = program(words[0])
    done = subprocess.run(words, env=env, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


class Case(unittest.TestCase):
    """A test with a folder of its own that is removed afterwards."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="qkdn-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)
