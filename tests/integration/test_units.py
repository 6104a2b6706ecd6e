"""The hardened units, started by a real systemd: over an overlay of this machine's files, in namespaces of its
own, with everything as make install, sysusers.d(5) and tmpfiles.d(5) leave it."""
import os
import re
import secrets
import shutil
import subprocess
import unittest

from qkdn_test import BUILD, SANITIZED, TOP, Case, Lab, eventually, keys_of, write

SYSTEMD = "/lib/systemd/systemd"

# A control group of its own, below which systemd finds nobody else. $1: an empty folder, $2: the group's name.
GROUP = r"""
set -e
mount -t cgroup2 cgroup2 $1
mkdir -p $1/$2
echo $$ > $1/$2/cgroup.procs
umount $1
shift 2
exec unshare --pid --ipc --uts --net --cgroup --mount --fork --kill-child --propagation private "$@"
"""
UNGROUP = "mount -t cgroup2 cgroup2 $1; for i in 1 2 3 4 5 6 7 8 9; do " \
          "find $1/$2 -depth -type d -exec rmdir {} + 2>/dev/null; [ -d $1/$2 ] || exit 0; sleep 0.3; done"

# $1: an empty folder; the rest: what installs into $R. systemd finds itself in a container without a kernel's rights.
BOOT = r"""
set -e
W=$1 R=$1/root
shift
mount -t tmpfs tmpfs $W
mkdir $W/upper $W/work $R
mount -t overlay overlay -o lowerdir=/,upperdir=$W/upper,workdir=$W/work $R
R=$R "$@"
mount -t proc proc $R/proc
mount -t sysfs -o ro sysfs $R/sys
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $R/run
mount -t tmpfs -o mode=1777 tmpfs $R/tmp
mount -t tmpfs -o mode=755 tmpfs $R/dev
mkdir $R/dev/pts $R/dev/shm $R/run/old
mount -t devpts -o newinstance,ptmxmode=666 devpts $R/dev/pts
ln -s pts/ptmx $R/dev/ptmx
for d in null zero full random urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
ip link set lo up
cd $R
pivot_root . run/old
umount -l run/old
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
	--system --unit=basic.target --log-target=null --show-status=no
"""

INSTALL = r"""
set -e
make -s -C "$TOP" install BUILD="$BUILD" DESTDIR="$R" prefix=/usr
unit=$R/usr/lib/systemd/system
sed -e s/kmd.conf/kmd-bob.conf/ -e 's,qkdn/km\>,qkdn/bob,g' $unit/qkdn-kmd.service > $unit/qkdn-kmd-bob.service
mkdir -p $R/etc/qkdn
cp "$FILES"/etc/* $R/etc/qkdn
"""

PREPARE = r"""
set -e
systemd-sysusers
systemd-tmpfiles --create qkdn.conf
install -d -o qkdn-km -m 700 /var/lib/qkdn/km-secrets /var/lib/qkdn/bob-secrets
for n in km bob; do
	mv /etc/qkdn/$n.secret /var/lib/qkdn/$n-secrets/alice-bob.secret
	mv /etc/qkdn/$n.master /var/lib/qkdn/$n-secrets/master.key
done
chown -R qkdn-km /var/lib/qkdn/*-secrets /etc/qkdn/alice.* /etc/qkdn/bob.*
chown qkdn-quantum /etc/qkdn/*-1.*
chown qkdn-control /etc/qkdn/control-controller.*
chown root:qkdn-km /etc/qkdn/kmd-bob.conf
chmod 640 /etc/qkdn/kmd-bob.conf
"""


def may_boot():
    if os.geteuid() != 0 or not os.path.exists(SYSTEMD) or shutil.which("nsenter") is None:
        return False
    try:
        return subprocess.run(["unshare", "-mnpiuC", "--fork", "sh", "-c",
                               "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r /mnt/c && mount -t cgroup2 c /mnt/c && "
                               "mount -t overlay o -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"],
                              stderr=subprocess.DEVNULL, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@unittest.skipIf(SANITIZED, "a sanitizer's memory is beyond the units' limits")
@unittest.skipUnless(may_boot(), "needs root, systemd, and namespaces with an overlay of / and cgroup2")
class Units(Case):
    def configure(self):
        """What an administrator puts into /etc/qkdn, from the files of a lab."""
        with open(os.path.join(TOP, "examples", "two-nodes.conf"), encoding="utf-8") as file:
            topology = file.read() + 'control = "centralized";\n'
        Lab(write(self.path("topology.conf"), topology), self.path("lab")).down()
        os.mkdir(self.path("etc"))
        secret = secrets.token_bytes(4096)
        for node, name in ("alice", "km"), ("bob", "bob"):
            text = self.read("lab", node, "kmd.conf")
            for old, new in (("../pki/", "/etc/qkdn/"), ('"store"', f'"/var/lib/qkdn/{name}/store"'),
                             ('"master.key"', f'"/var/lib/qkdn/{name}-secrets/master.key"'),
                             ('"alice-bob.secret"', f'"/var/lib/qkdn/{name}-secrets/alice-bob.secret"')):
                self.assertIn(old, text)
                text = text.replace(old, new)
            self.put("kmd.conf" if name == "km" else "kmd-bob.conf", re.sub("trace = .*", "", text))
            self.put(name + ".secret", secret)
            self.put(name + ".master", secrets.token_bytes(32))
        for name in ("quantum", "quantumd.conf"), ("control", "controllerd.conf"):
            text = self.read("lab", *name).replace("../pki/", "/etc/qkdn/")
            self.put(name[1], re.sub("trace = .*", "", text))
        for name in os.listdir(self.path("lab", "pki")):
            if name != "ca.key" and name.endswith((".crt", ".key")):
                shutil.copy2(self.path("lab", "pki", name), self.path("etc"))

    def read(self, *parts):
        with open(self.path(*parts), encoding="utf-8") as file:
            return file.read()

    def put(self, name, content):
        with open(os.open(self.path("etc", name), os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())

    def boot(self):
        os.mkdir(self.path("w"))
        self.group = os.path.basename(self.folder)
        self.host = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", GROUP, "group", self.path("w"), self.group,
             "sh", "-c", BOOT, "boot", self.path("w"), "sh", "-c", INSTALL],
            env={"PATH": os.environ["PATH"], "TOP": TOP, "BUILD": BUILD, "FILES": self.folder},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.addCleanup(self.shut_down)
        self.init = eventually(self.find_init)
        if not self.init or not eventually(self.is_up):
            self.host.kill()
            self.fail(self.host.stdout.read())

    def find_init(self):
        """The process that has become systemd; it was others before."""
        with open(f"/proc/{self.host.pid}/task/{self.host.pid}/children", encoding="ascii") as children:
            for pid in children.read().split():
                with open(f"/proc/{pid}/comm", encoding="ascii") as comm:
                    if comm.read() == "systemd\n":
                        return pid
        return None

    def is_up(self):
        return self.inside("systemctl", "is-active", "basic.target", check=False) == "active\n"

    def shut_down(self):
        self.host.kill()
        self.host.communicate()
        subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", UNGROUP, "ungroup",
                        self.path("w"), self.group], check=False)

    def inside(self, *words, check=True):
        return self.call(*words, check=check).stdout

    def call(self, *words, check=True, env=None):
        done = subprocess.run(["nsenter", "-t", self.init, "-a", "-r", "-w", *words], text=True, timeout=240, env=env,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if check:
            self.assertEqual(done.returncode, 0, f"{' '.join(words)}\n{done.stdout}")
        return done

    def shown(self, unit, what):
        return self.inside("systemctl", "show", "--value", "-p", what, unit).strip()

    def keyreq(self, app, *words):
        text = self.read("lab", "apps", app + ".env")
        env = dict(re.findall(r"export (\w+)='(.*)'", text), PATH="/usr/bin:/bin")
        for name in "QKDN_CERTIFICATE", "QKDN_PRIVATE_KEY", "QKDN_AUTHORITY":
            env[name] = "/etc/qkdn/" + os.path.basename(env[name])
        del env["QKDN_TRACE"]
        return keys_of(self.call("qkdn-keyreq", *words, "--json", "--reveal", env=env))

    def get(self, source, destination):
        return self.keyreq(source, "get", "--to", destination, "-n", "3", "--timeout", "20")

    def confined(self, unit):
        """Its process has a user of its own and may nothing."""
        status = self.inside("cat", f"/proc/{self.shown(unit, 'MainPID')}/status")
        told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        self.assertNotEqual(told["Uid"].split()[0], "0", unit)
        self.assertEqual((int(told["CapEff"], 16), int(told["CapBnd"], 16)), (0, 0), unit)
        self.assertEqual((told["NoNewPrivs"], told["Seccomp"]), ("1", "2"), unit)

    def test_keys_flow_between_hardened_daemons(self):
        units = "qkdn-controllerd", "qkdn-kmd", "qkdn-kmd-bob", "qkdn-quantumd"
        self.configure()
        self.boot()
        self.inside("sh", "-c", PREPARE)
        for unit in units:
            self.inside("systemctl", "start", unit, check=False)
            self.assertEqual(self.shown(unit, "ActiveState"), "active", self.inside("systemctl", "status", "-l", "-n", "20", unit, check=False))
            self.confined(unit)
        keys = self.get("app1", "app2")
        self.assertEqual(self.keyreq("app2", "get-by-id", "--from", "app1", *keys), keys)
        self.assertEqual(self.inside("sh", "-c", "ls /var/lib/qkdn/*-secrets/*.secret 2>&1 || true").count("cannot"), 1,
                         "an initial secret is removed once it is in the store")
        self.assertNotIn("error", self.inside("journalctl", "-u", "qkdn-*", "-p", "err", "-q"))
        self.assertNotIn("the system call", self.inside("journalctl", "-u", "qkdn-*", "-q"))
        for name in "km/alice", "km/bob":
            self.assertIn(name, self.inside("journalctl", "-u", "qkdn-controllerd", "-q"))
        self.inside("systemctl", "reload", "qkdn-kmd")
        self.inside("systemctl", "restart", "qkdn-kmd")
        keys = self.get("app2", "app1")
        self.assertEqual(self.keyreq("app1", "get-by-id", "--from", "app2", *keys), keys)
        for unit in units:
            self.inside("systemctl", "stop", unit)
            self.assertEqual((self.shown(unit, "Result"), self.shown(unit, "ExecMainStatus")), ("success", "0"))


if __name__ == "__main__":
    unittest.main()
