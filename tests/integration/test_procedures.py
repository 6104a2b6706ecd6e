"""The procedures of Appendix I with relay, from real daemons, each in the Recommendation's order of messages."""
import json
import os
import unittest

from qkdn_test import Case, Lab, eventually, golden, run, write

LINE = """
control = "%s"; relay_ahead = %s; %s
nodes = ( { name = "KM1"; applications = [ "source" ]; }, { name = "KM2"; },
          { name = "KM3"; applications = [ "destination" ]; } );
links = ( { name = "link-1"; between = [ "KM1", "KM2" ]; rate = "fixed"; fixed_rate = 2000000.0; },
          { name = "link-2"; between = [ "KM2", "KM3" ]; rate = "fixed"; fixed_rate = 2000000.0; } );
"""

NEIGHBOURS = """
control = "centralized"; km_settings = "relay = { to_neighbours = %s; };";
nodes = ( { name = "KM1"; applications = [ "source" ]; }, { name = "KM2"; applications = [ "destination" ]; } );
links = ( { name = "link"; between = [ "KM1", "KM2" ]; rate = "fixed"; fixed_rate = 2000000.0; } );
"""

# What the figures show. Answers of RPC that have no arrow there, and Kx-2's messages, are left out.
SHOWN = {
    "Key request", "Response to key request", "Key request with ID",
    "Key relay next hop request", "Response to key relay next hop request",
    "Key relay request notification", "Key relay request", "Response to key relay request",
    "Key relay", "Key relay completion notification",
    "Key reservation request", "Response to key reservation request",
    "Key allocation request", "Response to key allocation request",
}


class Procedures(Case):
    def up(self, control, ahead=False, more=""):
        self.lab = Lab(write(self.path("topology.conf"), LINE % (control, str(ahead).lower(), more)), self.path("lab"))
        self.addCleanup(self.lab.down)

    def request(self):
        """One key end to end, as soon as the controllers know the way."""
        self.assertTrue(eventually(lambda: self.lab.keyreq(
            "source", "get", "--to", "destination", "--timeout", "5", check=False).returncode == 0))
        keys = self.lab.get("source", "destination", 64)  # more than the first relay can have left over
        self.assertEqual(self.lab.get_by_id("destination", "source", keys), keys)

    def figure(self, *words):
        """The messages of a ladder that the figures show, one a line."""
        ladder = json.loads(run("qkdnctl", "trace", *words, "--json", self.lab.folder).stdout)
        return "".join(f"{m['from'].split('/')[-1]} -> {m['to'].split('/')[-1]}: {m['message']}\n"
                       for m in ladder["messages"]
                       if m["message"] in SHOWN and m.get("status", "ok") == "ok")

    def procedure_beginning_with(self, message, at, last):
        """The first procedure that began with that message from or to at and came to the last one."""
        def find():
            for line in run("qkdnctl", "trace", "--list", self.lab.folder).stdout.splitlines():
                if message not in line or at not in line:
                    continue
                figure = self.figure("--trace", next(w for w in line.split() if len(w) == 36))
                if "completion" in figure and figure.endswith(f": {last}\n"):
                    return figure
            return None
        return eventually(find)

    def test_distributed_on_demand(self):
        self.up("distributed")
        self.request()
        golden(self, "procedures/I.5a.txt", self.figure())

    def test_centralized_on_demand(self):
        self.up("centralized")
        self.request()
        golden(self, "procedures/I.5b.txt", self.figure())

    def test_distributed_ahead_of_demand(self):
        self.up("distributed", ahead=True)
        golden(self, "procedures/I.3.txt", self.procedure_beginning_with("Key relay next hop request", "km/KM1 ->",
                                                                            "Key relay completion notification"))

    def test_centralized_ahead_of_demand(self):
        self.up("centralized", ahead=True)
        golden(self, "procedures/I.4a.txt", self.procedure_beginning_with("Key relay request notification", "km/KM1 ->",
                                                                             "Response to key relay request"))

    def test_neighbours_get_relayed_keys_where_it_is_set(self):
        """relay.to_neighbours: the key of an approved source of random, not the QKD-key of the link."""
        for setting, way in ("true", "Key relay"), ("false", "Key allocation"):
            with self.subTest(to_neighbours=setting):
                topology = write(self.path(f"{setting}.conf"), NEIGHBOURS % setting)
                self.lab = Lab(topology, self.path(setting))
                self.addCleanup(self.lab.down)
                self.request()
                with open(os.path.join(self.lab.folder, "trace", "KM1.trace"), encoding="ascii") as trace:
                    sent = {line.split("\t")[3] for line in trace}
                self.assertEqual(sent & {"Key relay", "Key allocation"}, {way})

    def test_centralized_with_reservation(self):
        self.up("centralized", more="controller_settings = \"reserve = ( { source = \\\"KM1\\\"; "
                "destination = \\\"KM3\\\"; amount = \\\"4 KiB\\\"; } );\";")
        figure = self.procedure_beginning_with("Key reservation request", "-> km/KM1",
                                               "Response to key allocation request")
        golden(self, "procedures/I.4b.txt", figure)
        keys = self.lab.get("source", "destination", 4)
        self.assertEqual(self.lab.get_by_id("destination", "source", keys), keys)

    def test_key_managers_tell_what_they_hold(self):
        self.up("centralized")
        self.request()
        ask = lambda *words: json.loads(run("qkdnctl", *words, "--lab", self.lab.folder, "--json").stdout)
        status = {s["km"]: s for s in ask("km", "status")}
        self.assertEqual(set(status), {"KM1", "KM2", "KM3"})
        self.assertEqual(status["KM1"]["keys_supplied"], 65)
        self.assertEqual(status["KM3"]["keys_fetched"], 64)
        self.assertGreaterEqual(status["KM2"]["relays_forwarded"], 2)
        self.assertEqual({(s["pad_lost"], s["pad_unsent"]) for s in status.values()}, {(0, 0)})
        pools = ask("pool", "list", "--node", "KM3")
        self.assertEqual({(p["source"], p["destination"]) for p in pools if p["kind"] == "KSA"},
                         {("KM1", "KM3"), ("KM3", "KM1")})
        self.assertEqual(next(p["assigned"] for p in pools if p["kind"] == "KSA" and p["source"] == "KM1"), 32)
        self.assertIsInstance(ask("relay", "list"), list)
        run("qkdn-lab", "stop", self.lab.folder, "KM1/kmd")
        without = run("qkdnctl", "km", "status", "--lab", self.lab.folder, "--json", check=False)
        self.assertEqual(without.returncode, 2)
        self.assertIn("connecting to km/KM1", without.stderr)
        self.assertEqual([s["km"] for s in json.loads(without.stdout)], ["KM2", "KM3"])


if __name__ == "__main__":
    unittest.main()
