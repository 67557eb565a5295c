"""Sets and gets values over many connections to memcached, and compares each.

    memcached_check.py PORT CONNECTIONS SECONDS   prints how many values were compared
"""

import random
import socket
import sys
import time


def get(stream, key):
    stream.write(b"get %s\r\n" % key)
    stream.flush()
    head = stream.readline().split()
    if len(head) != 4 or head[:2] != [b"VALUE", key]:
        sys.exit(f"get: {head}")
    value = stream.read(int(head[3]))
    if stream.readline() != b"\r\n" or stream.readline() != b"END\r\n":
        sys.exit("get: no end")
    return value


def put(stream, key, value):
    stream.write(b"set %s 0 0 %d\r\n%s\r\n" % (key, len(value), value))
    stream.flush()
    answer = stream.readline()
    if answer != b"STORED\r\n":
        sys.exit(f"set: {answer}")


def main():
    port, connections, seconds = map(int, sys.argv[1:])
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    streams = [s.makefile("rwb") for s in sockets]
    source = random.Random(1)
    end = time.monotonic() + seconds
    compared = 0
    while time.monotonic() < end:
        values = {}
        for number, stream in enumerate(streams):
            key = b"key-%d" % number
            values[key] = source.randbytes(source.choice((1, 100, 5_000, 300_000)))
            put(stream, key, values[key])
        # Read over another connection than the one that wrote.
        for stream, (key, value) in zip(reversed(streams), values.items()):
            if get(stream, key) != value:
                sys.exit(f"{key!r} has another value than was set")
            compared += 1
    for stream, sock in zip(streams, sockets):
        stream.close()
        sock.close()
    print(compared)


if __name__ == "__main__":
    main()
