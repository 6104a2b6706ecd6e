"""make install: the installed programs bring a network up by themselves, and an application builds."""
import os
import shutil
import subprocess
import unittest

from qkdn_test import BUILD, SANITIZED, TOP, Case

PROGRAM = """
#include <qkdn.h>
#include <stdio.h>
int main(void)
{
	struct qkdn_request request = { .destination = "app2", .number = 2 };
	struct qkdn_client *client;
	struct qkdn_keys *keys;
	struct qkdn_error error;
	if (qkdn_connect_environment(&client, &error) || qkdn_get_keys(client, &request, &keys, &error))
		return fprintf(stderr, "%s\\n", error.text), 1;
	printf("%zu\\n", qkdn_keys_count(keys));
	qkdn_keys_free(keys);
	qkdn_close(client);
	return 0;
}
"""


class Install(Case):
    def call(self, *words, **more):
        done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=TOP,
                              timeout=240, **more)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def setUp(self):
        super().setUp()
        if SANITIZED:
            self.skipTest("installs what was built without sanitizers")
        self.call("make", "-s", "install", "BUILD=" + BUILD, "DESTDIR=" + self.path("root"), "prefix=/opt/qkdn",
                  env={k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "BUILD")})

    def at(self, *parts):
        return self.path("root", "opt", "qkdn", *parts)

    def test_a_network_from_the_installed_files(self):
        self.assertTrue(os.path.exists(self.at("share/bash-completion/completions/qkdnctl")))
        lab = self.path("lab")
        self.call(self.at("sbin/qkdn-lab"), "up", self.at("share/doc/qkdn/examples/two-nodes.conf"), lab)
        self.addCleanup(self.call, self.at("sbin/qkdn-lab"), "down", lab)
        with open(self.path("app.c"), "w", encoding="utf-8") as file:
            file.write(PROGRAM)
        flags = self.call("pkg-config", "--cflags", "--libs", "qkdn",
                          env=dict(os.environ, PKG_CONFIG_PATH=self.at("lib/pkgconfig"),
                                   PKG_CONFIG_SYSROOT_DIR=self.path("root"))).split()
        self.call(os.environ.get("CC", "cc"), self.path("app.c"), "-o", self.path("app"), *flags)
        said = self.call(self.at("sbin/qkdn-lab"), "exec", lab, "app1", self.path("app"),
                         env=dict(os.environ, LD_LIBRARY_PATH=self.at("lib")))
        self.assertEqual(said, "2\n")

    def test_units_are_sound(self):
        if shutil.which("systemd-analyze") is None:
            self.skipTest("no systemd-analyze")
        folder = self.at("lib/systemd/system")
        units = os.listdir(folder)
        self.assertIn("qkdn-kmd.service", units)
        for unit in units:
            with open(os.path.join(folder, unit), encoding="utf-8") as file:
                text = file.read()
            self.assertNotIn("@", text.replace("@system-service", "").replace("@privileged", ""))
            with open(self.path(unit), "w", encoding="utf-8") as file:  # the programs where they are now
                file.write(text.replace("/opt/qkdn/sbin/qkdn", self.at("sbin/qkdn")))
            said = subprocess.run(["systemd-analyze", "verify", "--man=no", self.path(unit)], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
            self.assertEqual([line for line in said.splitlines() if unit in line], [])


if __name__ == "__main__":
    unittest.main()
