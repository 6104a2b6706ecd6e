"""libqkdn through ctypes: many requests from many threads without a process each."""
import ctypes
import os

from qkdn_test import BUILD

LIBRARY = os.path.join(BUILD, "lib", "libqkdn.so")


class Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("text", ctypes.c_char * 512)]


class Options(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in
                ("km", "km_name", "km_dns_name", "certificate", "private_key", "authority", "trace", "trace_id")]
    _fields_ += [("connect_timeout", ctypes.c_uint)]


class Request(ctypes.Structure):
    _fields_ = [("destination", ctypes.c_char_p), ("number", ctypes.c_uint), ("size", ctypes.c_uint),
                ("priority", ctypes.c_uint), ("timeout", ctypes.c_uint)]


class KeyId(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * 16)]


class Refused(Exception):
    def __init__(self, error):
        super().__init__(error.text.decode())
        self.status = error.status


def load():
    library = ctypes.CDLL(LIBRARY)
    library.qkdn_keys_count.restype = ctypes.c_size_t
    library.qkdn_keys_length.restype = ctypes.c_size_t
    library.qkdn_keys_id.restype = ctypes.POINTER(KeyId)
    library.qkdn_keys_bytes.restype = ctypes.POINTER(ctypes.c_uint8)
    for name in "qkdn_keys_count", "qkdn_keys_free", "qkdn_close":
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in "qkdn_keys_id", "qkdn_keys_bytes", "qkdn_keys_length":
        getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


class Client:
    """An application's connection; environment as Lab.env gives it."""

    def __init__(self, environment, trace=False):
        self.library = load()
        names = dict(km="QKDN_KM", km_name="QKDN_KM_NAME", km_dns_name="QKDN_KM_DNS_NAME",
                     certificate="QKDN_CERTIFICATE", private_key="QKDN_PRIVATE_KEY", authority="QKDN_AUTHORITY")
        if trace:
            names["trace"] = "QKDN_TRACE"
        options = Options(**{k: environment[v].encode() for k, v in names.items() if v in environment})
        self.client = ctypes.c_void_p()
        error = Error()
        if self.library.qkdn_connect(ctypes.byref(self.client), ctypes.byref(options), ctypes.byref(error)) != 0:
            raise Refused(error)

    def close(self):
        self.library.qkdn_close(self.client)

    def take(self, keys):
        """{ID: bytes}, and the library's copy is wiped."""
        found = {}
        for i in range(self.library.qkdn_keys_count(keys)):
            length = self.library.qkdn_keys_length(keys, i)
            key_id = bytes(self.library.qkdn_keys_id(keys, i).contents.bytes)
            found[key_id] = ctypes.string_at(self.library.qkdn_keys_bytes(keys, i), length)
        self.library.qkdn_keys_free(keys)
        return found

    def get(self, destination, number=1, size=256, timeout=10000):
        request = Request(destination.encode(), number, size, 0, timeout)
        keys, error = ctypes.c_void_p(), Error()
        if self.library.qkdn_get_keys(self.client, ctypes.byref(request), ctypes.byref(keys),
                                      ctypes.byref(error)) != 0:
            raise Refused(error)
        return self.take(keys)

    def get_by_id(self, source, ids, timeout=10000):
        array = (KeyId * len(ids))(*[KeyId((ctypes.c_uint8 * 16)(*i)) for i in ids])
        keys, error = ctypes.c_void_p(), Error()
        if self.library.qkdn_get_keys_by_id(self.client, source.encode(), array, ctypes.c_size_t(len(ids)),
                                            ctypes.c_uint(timeout), ctypes.byref(keys), ctypes.byref(error)) != 0:
            raise Refused(error)
        return self.take(keys)
