"""qkdn-controllerd: its configuration, two of them over Cx, restart, signals."""
import signal
import socket
import subprocess
import time
import unittest

from qkdn_test import Case, program, run


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Controllerd(Case):
    def setUp(self):
        super().setUp()
        self.pki = self.path("pki")
        run("qkdn-pki", "init", self.pki, "--domain", "lab.qkdn")
        self.ports = {"left": free_port(), "right": free_port()}
        for name in self.ports:
            run("qkdn-pki", "issue", self.pki, "controller", name, "--ip", "127.0.0.1")
        self.daemons = {}
        self.addCleanup(self.stop_all)

    def stop_all(self):
        for daemon in self.daemons.values():
            if daemon.poll() is None:
                daemon.terminate()
            daemon.wait(100)

    def write(self, name, more="", **changes):
        other = "right" if name == "left" else "left"
        settings = {
            "name": f'"{name}"', "listen": f'[ "127.0.0.1:{self.ports[name]}" ]', "rpcbind": '"off"',
            "certificate": f'"pki/{name}.crt"', "private_key": f'"pki/{name}.key"', "authority": '"pki/ca.crt"',
            "trace": f'"{name}.trace"', "mode": '"distributed"', "kms": f'( {{ name = "km-{name}"; }} )',
            "neighbours": f'( {{ name = "{other}"; address = "127.0.0.1:{self.ports[other]}"; }} )',
        }
        settings.update(changes)
        path = self.path(name + ".conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write("".join(f"{key} = {value};\n" for key, value in settings.items()) + more)
        return path

    def start(self, name):
        with open(self.path(name + ".log"), "a", encoding="utf-8") as log:
            self.daemons[name] = subprocess.Popen([program("qkdn-controllerd"), "-c", self.write(name)], stderr=log)

    def wait_for(self, name, line, times=1):
        """Until the daemon has logged it so often; what it logged."""
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with open(self.path(name + ".log"), encoding="utf-8") as file:
                said = file.read()
            if said.count(line) >= times:
                return
            time.sleep(0.05)
        self.fail(f"{name} did not log '{line}' {times} times:\n{said}")

    def test_configuration_prints_and_parses_again(self):
        printed = run("qkdn-controllerd", "-n", "-c", self.write("left")).stdout
        self.assertIn('mode = "distributed"', printed)
        with open(self.path("again.conf"), "w", encoding="utf-8") as file:
            file.write(printed)
        self.assertEqual(run("qkdn-controllerd", "-n", "-c", self.path("again.conf")).stdout, printed)

    def test_what_will_not_do_is_said(self):
        reserve = 'reserve = ( { source = "km-left"; destination = "x"; %s } );\n'
        for message, more, changes in (
                ("name its KM alone", "", {"kms": '( { name = "a"; }, { name = "b"; } )'}),
                ("three times refresh", "", {"max_age": '"6 min"'}),
                ("for mode", reserve % "", {}),
                ("is this controller itself", "",
                 {"neighbours": '( { name = "left"; address = "127.0.0.1:1"; } )'}),
                ("multiple of 64", reserve % "amount = 100;", {"mode": '"centralized"'}),
                ("is below low_water", reserve % "high_water = 100;", {"mode": '"centralized"'}),
                ("only they can be called", (reserve % "").replace("km-left", "y"), {"mode": '"centralized"'})):
            with self.subTest(message):
                done = run("qkdn-controllerd", "-n", "-c", self.write("left", more, **changes), check=False)
                self.assertEqual(done.returncode, 1)
                self.assertIn(message, done.stderr)

    def test_another_ones_certificate_is_refused(self):
        path = self.write("left", certificate='"pki/right.crt"', private_key='"pki/right.key"')
        for check in [], ["-n"]:
            done = run("qkdn-controllerd", *check, "-c", path, check=False)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("controller/right, not of controller/left", done.stderr)

    def test_two_meet_and_meet_again(self):
        self.start("left")
        self.start("right")
        self.wait_for("left", "controller right is connected")
        self.wait_for("right", "controller left is connected")
        self.daemons["right"].send_signal(signal.SIGHUP)
        self.wait_for("right", "reloaded the credentials")
        self.daemons["right"].kill()
        self.daemons["right"].wait(100)
        self.wait_for("left", "controller right is not connected any more")
        self.start("right")
        self.wait_for("left", "controller right is connected", 2)
        for daemon in self.daemons.values():
            daemon.terminate()
            self.assertEqual(daemon.wait(100), 0)


if __name__ == "__main__":
    unittest.main()
