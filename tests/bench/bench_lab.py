"""What the benchmarks of real daemons share: figures, and labs without traces."""
import os
import re
import statistics
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "integration"))

from qkdn_test import BUILD, Lab, eventually, run, write  # noqa: E402

RUNS = int(os.environ.get("QKDN_BENCH_RUNS", "5"))

figures = {}


def measured(name, value, unit, reference):
    """One run of a figure."""
    f = figures.setdefault(name, {"values": [], "references": [], "unit": unit})
    f["values"].append(value)
    f["references"].append(reference)


def report():
    for name, f in figures.items():
        values, references = f["values"], f["references"]
        ratio = statistics.median(v / r for v, r in zip(values, references))
        print(f"{name} {statistics.median(values):.5g} {f['unit']} {statistics.median(references):.5g} {ratio:.4g} "
              f"{min(values):.5g} {max(values):.5g} {len(values)}", flush=True)
    figures.clear()


def main(doc, parts):
    """Measures the parts that are named, or all, and prints their figures."""
    for word in sys.argv[1:]:
        if word not in parts:
            sys.exit(doc)
    for word in sys.argv[1:] or parts:
        parts[word]()
        report()


class BenchLab(Lab):
    """A network whose key managers write no trace, and are gone behind the with statement."""

    stores_checked = False # what is measured is not tested

    def __init__(self, topology):
        self.room = tempfile.TemporaryDirectory(prefix="qkdn-bench-")
        self.up_at = time.monotonic()
        super().__init__(write(os.path.join(self.room.name, "topology.conf"), topology),
                         os.path.join(self.room.name, "lab"))
        for daemon in self.running():
            if daemon.endswith("/kmd"):
                self.reconfigure(daemon, "^trace = .*$", "")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()
        self.room.cleanup()

    def restart(self, daemon):
        run("qkdn-lab", "stop", self.folder, daemon, timeout=300)
        run("qkdn-lab", "start", self.folder, daemon, timeout=300)

    def reconfigure(self, daemon, pattern, text):
        """Starts a daemon again with a changed configuration."""
        path = os.path.join(self.folder, daemon + ".conf")
        with open(path, encoding="utf-8") as file:
            changed = re.sub(pattern, text, file.read(), flags=re.M)
        write(path, changed)
        self.restart(daemon)

    def supply(self, what, source, destination, connections, in_flight, seconds="1"):
        """What bench_supply says of the two applications: calls or keys a second."""
        words = []
        for app in source, destination:
            e = self.env(app)
            words += [app, e["QKDN_KM_NAME"], *e["QKDN_KM"].rsplit(":", 1), e["QKDN_KM_DNS_NAME"],
                      e["QKDN_CERTIFICATE"], e["QKDN_PRIVATE_KEY"]]
        done = run(os.path.join(BUILD, "bench", "bench_supply"), what, str(connections), str(in_flight), seconds,
                   e["QKDN_AUTHORITY"], *words, timeout=300)
        return float(done.stdout)
