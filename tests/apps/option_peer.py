"""One end of a TCP connection that shows what it learned of the other: its verdict, and the bytes
that came first.

    option_peer.py listen KIND PORT
    option_peer.py connect KIND ADDRESS PORT

KIND is `asks` (a TCP socket that asks for the SMC-R option), `plain` (one that does not), or `kernel`
(a socket of Linux's own SMC-R, which has no verdict).
"""

import ctypes
import socket
import struct
import sys

LEVEL, ASK, VERDICT = 0x534D4352, 1, 2
AF_SMC = 43

libc = ctypes.CDLL(None, use_errno=True)


def check(done):
    if done < 0:
        raise OSError(ctypes.get_errno(), "system call failed")
    return done


def make(kind):
    if kind == "kernel":
        return check(libc.socket(AF_SMC, socket.SOCK_STREAM, 0))
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if kind == "asks":
        s.setsockopt(LEVEL, ASK, 1)
    return s.detach()


def address(host, port):
    return struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(host))


def receive(fd, count):
    buffer = ctypes.create_string_buffer(count)
    got = check(libc.recv(fd, buffer, count, socket.MSG_WAITALL))
    return buffer.raw[:got]


def main():
    role, kind, *where = sys.argv[1:]
    fd = make(kind)
    if role == "listen":
        check(libc.bind(fd, address("0.0.0.0", int(where[0])), 16))
        check(libc.listen(fd, 5))
        fd = check(libc.accept(fd, None, None))
    else:
        check(libc.connect(fd, address(where[0], int(where[1])), 16))
        if kind != "asks":
            libc.send(fd, b"data", 4, 0)
    verdict = "-"
    if kind != "kernel":
        verdict = ctypes.c_int(-1)
        size = ctypes.c_uint(4)
        check(libc.getsockopt(fd, LEVEL, VERDICT, ctypes.byref(verdict), ctypes.byref(size)))
        verdict = verdict.value
    first = receive(fd, 4).hex() if role == "listen" and kind != "kernel" else "-"
    print("verdict", verdict, "first", first, flush=True)


main()
