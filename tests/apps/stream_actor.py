"""One end of a TCP stream, which does what it is told.

Reads commands from standard input, one in a line, and answers each with one line:

    NUMBER SECONDS RESULT ;NUMBER

where NUMBER counts the commands from 1 and SECONDS is the time since the command came. An error is
named, as in ECONNRESET. The bytes of a stream are a function of their place in it, and whoever
receives looks at each.

    listen PORT | connect ADDRESS PORT | accept | close
    send BYTES | recv BYTES | until-end | echo
    echoed BYTES                           sends and has them back, 16 KiB at a time
    end BYTES close|open exit|_exit|return sends, closes or does not, and ends the process so
    serve fork|prefork|exec                echoes in other processes, until it is killed
"""

import ctypes
import errno
import os
import random
import socket
import sys
import time

PERIOD = 65521
PATTERN = random.Random(7609).randbytes(PERIOD) * 3
CHUNK = 64 << 10


class Ended(Exception):
    """The other side closed before it should."""


class Actor:
    """One stream, and the listening socket it came from."""

    def __init__(self, stream=None):
        self.listener = None
        self.stream = stream
        self.sent = 0
        self.received = 0

    def listen(self, port):
        self.listener = socket.create_server(("", int(port)), backlog=64)

    def connect(self, address, port):
        self.stream = socket.create_connection((address, int(port)), timeout=30)
        self.stream.settimeout(None)
        self.sent = self.received = 0

    def accept(self):
        self.stream, _ = self.listener.accept()
        self.sent = self.received = 0

    def send(self, size):
        left = int(size)
        while left:
            start = self.sent % PERIOD
            count = self.stream.send(PATTERN[start : start + min(left, CHUNK)])
            self.sent += count
            left -= count
        return f"sent {self.sent}"

    def recv(self, size):
        left = int(size)
        while left:
            data = self.stream.recv(min(left, CHUNK))
            if not data:
                raise Ended(f"END {self.received}")
            start = self.received % PERIOD
            if data != PATTERN[start : start + len(data)]:
                raise Ended(f"WRONG-BYTES {self.received}")
            self.received += len(data)
            left -= len(data)
        return f"received {self.received}"

    def until_end(self):
        try:
            while True:
                self.recv(1)
                self.recv_some()
        except Ended as end:
            return str(end)

    def recv_some(self):
        data = self.stream.recv(CHUNK)
        start = self.received % PERIOD
        if data != PATTERN[start : start + len(data)]:
            raise Ended(f"WRONG-BYTES {self.received}")
        self.received += len(data)

    def echo(self):
        while True:
            data = self.stream.recv(CHUNK)
            if not data:
                return f"echoed {self.received}"
            self.received += len(data)
            self.stream.sendall(data)

    def echoed(self, size):
        """What comes back, in pieces that fit into any buffer."""
        left = int(size)
        while left:
            piece = min(left, 16 << 10)
            self.send(piece)
            self.recv(piece)
            left -= piece
        return f"echoed {self.received}"

    def close(self):
        stream, self.stream = self.stream, None
        stream.close()

    def end(self, size, how_stream, how_process):
        self.send(size)
        if how_stream == "close":
            self.stream.close()
        else:
            # Python would close it by itself.
            self.stream.detach()
        if how_process == "exit":
            ctypes.CDLL(None).exit(0)
        elif how_process == "_exit":
            os._exit(0)
        sys.exit(0)  # main() returns

    def serve(self, how):
        """Until this process is ended."""
        if how == "prefork":
            for _ in range(2):
                if os.fork() == 0:
                    break
            while True:
                self.one_echo()
        while True:
            self.accept()
            child = os.fork()
            if child == 0:
                self.listener.close()
                if how == "exec":
                    fd = self.stream.detach()
                    os.set_inheritable(fd, True)
                    os.execv(sys.executable, [sys.executable, __file__, str(fd)])
                self.stream_echo()
                os._exit(0)
            self.stream.close()
            self.stream = None
            while child:
                try:
                    child, _ = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    break

    def one_echo(self):
        self.accept()
        self.stream_echo()

    def stream_echo(self):
        print(f"served by {os.getpid()}", flush=True)
        try:
            self.echo()
        except OSError as error:
            print(f"served: {errno.errorcode.get(error.errno, error)}", flush=True)
        self.stream.close()


def carry_out(actor, line):
    command, *arguments = line.split()
    method = getattr(actor, command.replace("-", "_"))
    try:
        return method(*arguments) or "ok"
    except Ended as end:
        return str(end)
    except OSError as error:
        name = errno.errorcode.get(error.errno, type(error).__name__)
        return f"{name} sent {actor.sent} received {actor.received}"


def main():
    if len(sys.argv) > 1:
        Actor(socket.socket(fileno=int(sys.argv[1]))).stream_echo()
        return
    os.write(1, f"0 0 {os.getpid()} ;0\n".encode())
    actor = Actor()
    for number, line in enumerate(sys.stdin, 1):
        began = time.monotonic()
        result = carry_out(actor, line)
        took = time.monotonic() - began
        os.write(1, f"{number} {took:.3f} {result} ;{number}\n".encode())


if __name__ == "__main__":
    main()
