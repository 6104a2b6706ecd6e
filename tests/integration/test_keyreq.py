"""qkdn-keyreq and libqkdn as their users see them, against a fake KSA (tests/lib/fake_ksad.c)."""
import base64
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import unittest

from qkdn_test import BUILD, SANITIZED, TOP, Case, run

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
STRANGE_ID = "00000000-0000-4000-8000-000000000000"


def right_key(key_id):
    """What the fake KSA makes of an ID, endlessly."""
    id_bytes = bytes.fromhex(key_id.replace("-", ""))
    return lambda size: bytes(id_bytes[j % 16] ^ (j & 0xff) for j in range(size // 8))


class WithKsa(Case):
    def setUp(self):
        super().setUp()
        self.ksa = subprocess.Popen([os.path.join(BUILD, "tests", "bin", "fake_ksad")], text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(self.ksa.communicate)
        self.env = {n: v for n, v in os.environ.items() if not n.startswith("QKDN_")}
        for line in iter(self.ksa.stdout.readline, "\n"):
            name, value = line.rstrip("\n").split("=", 1)
            self.env[name] = value

    def keyreq(self, *words, status=0, stdin=None):
        done = subprocess.run([os.path.join(BUILD, "bin", "qkdn-keyreq"), *words], env=self.env, text=True,
                              input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=240)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        if status != 0:
            self.assertEqual(done.stdout, "")
            self.assertRegex(done.stderr, "^qkdn-keyreq")
        return done


class Keyreq(WithKsa):
    def get(self, *words):
        return json.loads(self.keyreq("get", "--to", "app2", "--json", *words).stdout)

    def test_keys_stay_hidden(self):
        done = self.keyreq("get", "--to", "app2", "-n", "3")
        self.assertRegex(done.stdout, rf"\A({UUID}  256 bits  \(hidden\)\n){{3}}\Z")
        self.assertEqual(done.stderr, "")
        said = self.get("-n", "2")
        self.assertEqual(list(said), ["key_IDs"])
        self.assertEqual([sorted(k) for k in said["key_IDs"]], [["key_ID", "size"]] * 2)

    def test_container_of_qkd_014(self):
        said = self.get("-n", "3", "-s", "512", "--reveal")
        self.assertEqual(list(said), ["keys"])
        for key in said["keys"]:
            self.assertEqual(list(key), ["key_ID", "key"])
            self.assertEqual(base64.b64decode(key["key"], validate=True), right_key(key["key_ID"])(512))

    def test_revealed_text_is_hexadecimal(self):
        key_id, size, _, key = self.keyreq("get", "--to", "app2", "--reveal").stdout.split()
        self.assertEqual(bytes.fromhex(key), right_key(key_id)(int(size)))

    def test_far_end_reads_ids_from_a_pipe(self):
        printed = self.keyreq("get", "--to", "app2", "-n", "4").stdout
        folder = self.path("keys")
        self.keyreq("get-by-id", "--from", "app1", "--out", folder, "-", stdin=printed)
        self.assertEqual(sorted(os.listdir(folder)), sorted(line.split()[0] for line in printed.splitlines()))

    def test_files_are_private_and_whole(self):
        folder = self.path("keys")
        printed = self.keyreq("get", "--to", "app2", "-n", "2", "-s", "128", "--out", folder).stdout
        self.assertEqual(stat.S_IMODE(os.stat(folder).st_mode), 0o700)
        self.assertEqual(len(os.listdir(folder)), 2)
        for name in os.listdir(folder):
            self.assertIn(f"{name}  128 bits  {folder}/{name}\n", printed)
            path = os.path.join(folder, name)
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), right_key(name)(128))

    def test_a_bad_folder_costs_no_key(self):
        key_id = self.get()["key_IDs"][0]["key_ID"]
        fetch = "get-by-id", "--from", "app1", key_id, "--out"
        os.mkdir(self.path("open"), 0o755)
        self.assertIn("chmod go=", self.keyreq(*fetch, self.path("open"), status=1).stderr)
        self.assertIn("No such file", self.keyreq(*fetch, self.path("no", "where"), status=1).stderr)
        os.mkdir(self.path("taken"), 0o700)
        os.symlink("/nonexistent", self.path("taken", key_id))
        self.assertIn("there already", self.keyreq(*fetch, self.path("taken"), status=1).stderr)
        self.keyreq(*fetch, self.path("good"))  # it was not fetched by any of these
        self.assertIn("delivered", self.keyreq(*fetch, self.path("other"), status=3).stderr)

    def test_status_in_the_names_of_qkd_014(self):
        said = json.loads(self.keyreq("status", "--to", "app2", "--json").stdout)
        self.assertEqual(said, {
            "source_KME_ID": "alice", "target_KME_ID": "bob", "master_SAE_ID": "app1",
            "slave_SAE_ID": "app2", "key_size": 256, "stored_key_count": 2 ** 40,
            "max_key_count": 2 ** 63 - 1, "max_key_per_request": 128, "max_key_size": 4096,
            "min_key_size": 64, "max_SAE_ID_count": 0})
        self.assertIn("app2 at KM bob", self.keyreq("status", "--to", "app2").stdout)

    def test_exit_status_and_advice(self):
        for words, status, text in (
                (("get", "--to", "empty"), 3, "nothing was consumed"),
                (("get", "--to", "unknown"), 3, "check the name"),
                (("get", "--to", "app2", "-s", "8192"), 2, "size out of bounds"),
                (("get-by-id", "--from", "app1", STRANGE_ID), 3, "check the IDs"),
                (("get-by-id", "--from", "mute", STRANGE_ID, "--timeout", "0.2"), 4, "wait longer"),
                (("get", "--to", "app2", "--km", "127.0.0.1:1"), 2, "is the key manager running"),
                (("get", "--to", "app2", "--certificate", "/none"), 1, "/none"),
                (("get",), 1, "--to"),
                (("get", "--to", "../x"), 1, "a name is"),
                (("get-by-id", "--from", "", STRANGE_ID), 1, "a name is"),
                (("get", "--to", "app2", "-n", "0"), 1, "-n 0"),
                (("get", "--to", "app2", "-s", "12"), 1, "multiple of 8"),
                (("get", "--to", "app2", "--reveal", "--out", "x"), 1, "one of them"),
                (("get-by-id", "--from", "app1", "x"), 1, "not a key ID"),
                (("get-by-id", "--from", "app1"), 1, "no key ID: name at least one"),
                (("frobnicate",), 1, "frobnicate")):
            with self.subTest(words=words):
                done = self.keyreq(*words, status=status)
                self.assertIn(text, done.stderr)
                self.assertIsNone(re.search(r"[^\n -~]", done.stderr))  # not even what a KM sends

    def test_what_listens_is_no_key_manager(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            asking = subprocess.Popen([os.path.join(BUILD, "bin", "qkdn-keyreq"), "status", "--to", "app2", "--km",
                                       "127.0.0.1:%d" % server.getsockname()[1]], env=self.env, text=True,
                                      stderr=subprocess.PIPE)
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                self.assertIn("what listens there speaks no RPC", asking.communicate(timeout=240)[1])
        self.assertEqual(asking.returncode, 2)

    def test_without_environment(self):
        del self.env["QKDN_KM"]
        self.assertIn("qkdn-lab env", self.keyreq("get", "--to", "app2", status=1).stderr)

    def test_usage_help_version(self):
        done = run("qkdn-keyreq", check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("get-by-id", done.stderr)
        self.assertIn("get-by-id", run("qkdn-keyreq", "--help").stdout)
        self.assertRegex(run("qkdn-keyreq", "--version").stdout, r"\Aqkdn-keyreq \d+\.\d+\.\d+\n\Z")
        for command in "get", "get-by-id", "status":
            self.assertIn("Example", run("qkdn-keyreq", command, "--help").stdout)

    def test_a_full_disk_is_no_success(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([os.path.join(BUILD, "bin", "qkdn-keyreq"), "get", "--to", "app2"],
                                  env=self.env, stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("standard output", done.stderr)


@unittest.skipIf(SANITIZED, "the library is for other programs, which are not built with a sanitizer")
class Library(WithKsa):
    def compile(self, *words):
        done = subprocess.run(words, cwd=self.folder, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def example(self):
        """The program in the manual page."""
        text = subprocess.run(["mandoc", "-Tascii", os.path.join(TOP, "man", "libqkdn.3")], text=True,
                              stdout=subprocess.PIPE, check=True).stdout
        text = re.sub(".\b", "", text)
        found = re.search(r"^EXAMPLES\n(.*)^SEE ALSO", text, re.S | re.M)
        with open(self.path("example.c"), "w", encoding="ascii") as file:
            file.write(found.group(1))

    def test_nothing_of_a_freed_key_is_left_in_memory(self):
        done = run(os.path.join(BUILD, "tests", "bin", "leftover"), env=self.env)
        before, after, closed = map(int, done.stdout.split()[:3])
        self.assertEqual((before, after, closed), (6, 0, 0))  # three keys, got and fetched again

    def test_header_stands_alone(self):
        with open(self.path("alone.c"), "w", encoding="ascii") as file:
            file.write("#include <qkdn.h>\nint main(void) { return 0; }\n")
        shutil.copy(self.path("alone.c"), self.path("alone.cc"))
        flags = "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", os.path.join(TOP, "client"), "-c"
        self.compile("cc", "-std=c99", *flags, "alone.c")
        if shutil.which("g++"):
            self.compile("g++", *flags, "alone.cc")

    def test_only_its_own_names_are_exported(self):
        for words in (["nm", "-D", "--defined-only", "libqkdn.so"], ["nm", "-g", "--defined-only", "libqkdn.a"]):
            names = subprocess.run(words, cwd=os.path.join(BUILD, "lib"), text=True, check=True,
                                   stdout=subprocess.PIPE).stdout
            found = {line.split()[2].split("@")[0] for line in names.splitlines() if len(line.split()) == 3}
            with open(os.path.join(TOP, "client", "qkdn.h"), encoding="utf-8") as file:
                declared = set(re.findall(r"\b(qkdn_\w+)\(", re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)))
            self.assertEqual(found - {"QKDN_0"}, declared)

    @unittest.skipUnless(shutil.which("mandoc"), "mandoc is not installed")
    def test_example_of_the_manual_page_runs(self):
        self.example()
        include, library = "-I" + os.path.join(TOP, "client"), os.path.join(BUILD, "lib")
        self.compile("cc", "-Wall", "-Werror", include, "example.c", "-o", "shared", "-L" + library, "-lqkdn",
                     "-Wl,-rpath," + library)
        self.compile("cc", "-Wall", "-Werror", include, "example.c", "-o", "static",
                     os.path.join(library, "libqkdn.a"), "-ltirpc", "-lssl", "-lcrypto", "-lpthread")
        for name in "shared", "static":
            done = run(self.path(name), env=self.env)
            self.assertRegex(done.stdout, rf"\A{UUID}: 32 bytes\n\Z")
            self.assertEqual(done.stderr, "")
        self.env["QKDN_KM"] = "127.0.0.1:1"
        done = run(self.path("shared"), env=self.env, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr.count("\n"), 1)  # the application's own words alone


if __name__ == "__main__":
    unittest.main()
