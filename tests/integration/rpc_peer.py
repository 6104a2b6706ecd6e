"""An RPC-with-TLS peer that may do anything: for the tests that play the hostile one."""
import os
import socket
import ssl
import struct

CALL, REPLY = 0, 1
AUTH_NONE, AUTH_SYS, AUTH_TLS = 0, 1, 7
AUTH_BADCRED, AUTH_TOOWEAK, AUTH_FAILED = 1, 5, 7
PROGRAMS = {"ak": 0x20416001, "kq1": 0x20416003, "kq2": 0x20416005, "kx1": 0x20416007, "kx2": 0x20416008,
            "ck_km": 0x2041600a}


def record(body, last=True):
    return struct.pack(">I", len(body) | (0x80000000 if last else 0)) + body


def call(program, procedure, args=b"", flavor=AUTH_NONE, version=1, xid=1):
    return struct.pack(">10I", xid, CALL, 2, program, version, procedure, flavor, 0, AUTH_NONE, 0) + args


class Peer:
    """One connection. Everything it waits for has to come within a minute."""

    def __init__(self, address, patience=60):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=patience)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def read(self, length):
        data = b""
        while len(data) < length:
            more = self.socket.recv(length - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data

    def reply(self):
        """The next record's body."""
        (mark,) = struct.unpack(">I", self.read(4))
        return self.read(mark & 0x7fffffff)

    def ask(self, *args, **named):
        """What was said to a call: ("auth", why), ("accepted", accept_stat) or ("denied", reject_stat)."""
        self.send(record(call(*args, **named)))
        while True:
            words = struct.unpack(">6I", (self.reply() + bytes(24))[:24])
            if words[1] == REPLY:  # not a call in the other direction
                break
        if words[2] == 0:
            return "accepted", words[5]
        return ("auth", words[4]) if words[3] == 1 else ("denied", words[3])

    def is_closed(self):
        """Waits for the end of the connection; whatever comes before it does not matter."""
        try:
            while self.socket.recv(65536):
                pass
            return True
        except socket.timeout:
            return False
        except (OSError, ssl.SSLError):
            return True

    def probe(self, program=PROGRAMS["ak"]):
        self.send(record(call(program, 0, flavor=AUTH_TLS)))
        answer = self.reply()
        assert answer[20:28] == b"STARTTLS", answer
        return self

    def starttls(self, certificate=None, alpn=("sunrpc",), version=ssl.TLSVersion.TLSv1_3, program=PROGRAMS["ak"]):
        """certificate: path without .crt and .key. Raises OSError where the server says no at once."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        if certificate:
            context.load_cert_chain(certificate + ".crt", certificate + ".key")
        if alpn:
            context.set_alpn_protocols(list(alpn))
        self.probe(program)
        self.socket = context.wrap_socket(self.socket)
        return self


def is_let_in(address, *args, **named):
    """Does a NULL call inside TLS get an answer?"""
    try:
        with Peer(address).starttls(*args, **named) as peer:
            return peer.ask(PROGRAMS["ak"], 0) == ("accepted", 0)
    except OSError:
        return False


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
