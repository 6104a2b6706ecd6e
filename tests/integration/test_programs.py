"""Every program: --help, --version, its exit status for mistakes, and that manual page and completion know its
commands and options, and no others."""
import glob
import os
import re
import subprocess
import unittest

from qkdn_test import TOP, Case, program, run

COMMAND_LINES = "qkdn-keyreq", "qkdnctl", "qkdn-lab", "qkdn-pki"
ALWAYS = {"help", "usage", "version"}


def programs():
    return subprocess.run(["make", "-s", "print-programs"], cwd=TOP, text=True, stdout=subprocess.PIPE,
                          check=True).stdout.split()


def commands(name):
    return re.findall(r"^  ([a-z][a-z-]*(?: [a-z][a-z-]*)?)  ", run(name, "--help").stdout, re.M)


def options(name, *words):
    return set(re.findall(r"^ {2,6}(?:-\S, )?--([a-z-]+)", run(name, *words, "--help").stdout, re.M))


def contents(pattern):
    for path in glob.glob(os.path.join(TOP, pattern)):
        with open(path, encoding="utf-8") as file:
            yield file.read()


def page(name):
    return next(contents(f"man/{name}.[18]"))


class Programs(Case):
    def test_help_and_version(self):
        with open(os.path.join(TOP, "Makefile"), encoding="utf-8") as file:
            version = re.search(r"^VERSION := (\S+)", file.read(), re.M).group(1)
        self.assertGreater(len(programs()), 6)
        for name in programs():
            with self.subTest(name):
                for word in "--version", "-V":
                    self.assertEqual(run(name, word).stdout, f"{name} {version}\n")
                self.assertTrue(run(name, "--help").stdout.startswith(f"Usage: {name} "))

    def test_mistakes(self):
        for name in programs():
            for words in (), ("--nonsense",), ("nonsense",):
                with self.subTest(name, words=words):
                    done = run(name, *words, check=False)
                    self.assertEqual(done.returncode, 1)
                    self.assertEqual(done.stdout, "")
                    self.assertTrue(done.stderr.startswith((name + ": ", "Usage: " + name)), done.stderr)
        for name in COMMAND_LINES:
            for command in commands(name):
                if command == "exec":  # everything behind the name belongs to its command
                    continue
                with self.subTest(name, command=command):
                    done = run(name, *command.split(), "--nonsense", check=False)
                    self.assertEqual(done.returncode, 1)
                    self.assertIn(f"{name} {command}", done.stderr)
        self.assertEqual(run("qkdnctl", "km", check=False).stderr,
                         'qkdnctl: no command "km": there is "km change-master-key" or "km status"\n')
        self.assertEqual(run("qkdnctl", "pool", "show", check=False).stderr,
                         'qkdnctl: no command "pool show": there is "pool list"\n')
        for words in ("km", "status"), ("topology", "show"):  # not another daemon's answer for that of the node
            done = run("qkdnctl", *words, "--node", "alice", check=False)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("--node is of a lab", done.stderr)
        for words, told in ((("--disjoint", "4294967297", "a", "b"), "give a number from 1 to 8"),
                            (("a", ""), "'' is no name of a node"), (("a", "b" * 65), "is no name of a node"),
                            (("a", "b", "c"), "unexpected argument 'c'"), (("a",), "name two nodes")):
            done = run("qkdnctl", "route", "show", *words, check=False)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn(told, done.stderr)

    def test_points_that_there_are_not(self):
        """Nothing went over them, which is not to be taken for the answer; over others nothing may have gone."""
        points = {re.search(r"reference point (\w+(-\d)?):", text).group(1) for text in contents("idl/*.x")
                  if "- reference point" in text}
        ladder = os.path.join(TOP, "tests/golden/ladder/upon-request")
        for only in "Foo", "Ak,Foo", "Ak,", "", "ak", "Key request", "Kx", "Ak, Ck":
            done = run("qkdnctl", "trace", "--only", only, ladder, check=False)
            self.assertEqual((done.returncode, done.stdout), (1, ""), only)
            self.assertIn("is no reference point; there are " + ", ".join(sorted(points)), done.stderr)
        self.assertIn("Key request", run("qkdnctl", "trace", "--only", ",".join(points), ladder).stdout)
        self.assertEqual(run("qkdnctl", "trace", "--only", "Mk", ladder).stdout, "no messages\n")

    def test_traces_that_are_listed(self):
        """Only those with a message at the reference points, and as what went over them says."""
        ladder = os.path.join(TOP, "tests/golden/ladder/refused")
        for only, told in (("Kx-1", []), ("Ak,Kx-1", ["Ak    app/app1 -> km/alice  Key request  too-few-keys"]),
                           ("Kq-1", ["Kq-1  module/alice-1 -> km/alice  Key supply  ok"])):
            listed = run("qkdnctl", "trace", "--list", "--only", only, ladder).stdout.splitlines()
            self.assertEqual([line.split("  ", 2)[2] for line in listed], told)

    def test_one_answer_each(self):
        """Options of qkdnctl trace of which one would be forgotten."""
        for words in (("--all", "--list"), ("--list", "--trace", "0" * 8 + "-0000" * 3 + "-" + "0" * 12), ("--json", "--lines"),
                      ("--json", "--svg", "-"), ("--list", "--svg", "-"), ("--list", "--lines"), ("--all", "--svg", "-")):
            done = run("qkdnctl", "trace", *words, os.path.join(TOP, "tests/golden/ladder/refused"), check=False)
            self.assertEqual((done.returncode, done.stdout), (1, ""), words)
            self.assertIn(words[0], done.stderr)

    def test_the_manual_pages_know_the_options(self):
        for name in programs():
            with self.subTest(name):
                told = set(re.findall(r"\bFl -([a-z-]+)", page(name)))
                has = options(name)
                if name in COMMAND_LINES:
                    has = set().union(*(options(name, *command.split()) for command in commands(name)))
                    self.assertEqual(told - has - ALWAYS, set())
                else:  # the pages of daemons tell of the short ones
                    told |= {{"c": "config", "n": "check", "v": "verbose"}[o]
                             for o in re.findall(r"^\.It Fl ([a-z])\b", page(name), re.M)}
                self.assertEqual(has - told - ALWAYS, set())

    def test_the_manual_pages_know_the_commands_and_statuses(self):
        for name in COMMAND_LINES:
            text = page(name)
            synopsis = text.split(".Sh SYNOPSIS")[1].split(".Sh ")[0]
            for command in commands(name):
                self.assertRegex(synopsis, rf"(?m)^\.(Op )?(Cm|Ic) (.* )?{command}\b", (name, command))
                noun, *verb = command.split()
                self.assertRegex(text, rf"(?m)^\.(Cm|It Cm|Ss|Ic|It Ic).*\b{noun}\b", (name, command))
                for word in verb:
                    self.assertRegex(text, rf"(?m)^\.(Cm|It Cm|Ss|Ic|It Ic).*\b{word}\b", (name, command))
        for name in programs():
            self.assertIn(".Sh EXIT STATUS", page(name))

    def complete(self, *words):
        script = (f"source {TOP}/completions/qkdn.bash; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($#-1)); "
                  f"_qkdn \"$1\" \"${{!#}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
        path = os.path.dirname(program(words[0])) + ":" + os.environ["PATH"]
        done = subprocess.run(["bash", "-c", script, "bash", *words], env=dict(os.environ, PATH=path), text=True,
                              stdout=subprocess.PIPE, check=True)
        return set(done.stdout.split())

    def test_completion(self):
        for name in COMMAND_LINES:
            with self.subTest(name):
                self.assertEqual(self.complete(name, ""),
                                 {c.split()[0] for c in commands(name)} | {"--help", "--version"})
                for command in commands(name):
                    self.assertEqual(self.complete(name, *command.split(), "--"),
                                     {"--" + o for o in options(name, *command.split())}, command)
        self.assertEqual(self.complete("qkdnctl", "km", "s"), {"status"})
        self.assertEqual(self.complete("qkdn-keyreq", "get", "--to", "app2", "--o"), {"--out"})
        self.assertEqual(self.complete("qkdn-lab", "up", ""), set())  # a file: left to bash


if __name__ == "__main__":
    unittest.main()
