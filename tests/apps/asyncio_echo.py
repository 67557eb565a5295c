"""An asyncio echo server, and clients with many connections.

    asyncio_echo.py server PORT
    asyncio_echo.py client PORT CONNECTIONS SECONDS   prints "echoes N"
    asyncio_echo.py hold   PORT CONNECTIONS SECONDS   one echo each, then silence
"""

import asyncio
import random
import sys
import time


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


async def one_echo(reader, writer, message):
    writer.write(message)
    await writer.drain()
    answer = await reader.readexactly(len(message))
    if answer != message:
        sys.exit(f"sent {message[:32]!r}..., received {answer[:32]!r}...")


async def connect(port, count):
    """All at once, but no more at a time than the backlog takes."""
    gate = asyncio.Semaphore(100)

    async def one():
        async with gate:
            return await asyncio.open_connection("127.0.0.1", port)

    return await asyncio.gather(*(one() for _ in range(count)))


async def client(port, count, seconds):
    streams = await connect(port, count)
    end = time.monotonic() + seconds
    echoes = 0

    async def talk(number, reader, writer):
        nonlocal echoes
        random_source = random.Random(number)
        while True:
            size = random_source.choice((1, 64, 1000, 20_000))
            await one_echo(reader, writer, random_source.randbytes(size))
            echoes += 1
            if time.monotonic() > end:
                break
        writer.write_eof()
        if await reader.read() != b"":
            sys.exit("bytes after the end")
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(talk(n, r, w) for n, (r, w) in enumerate(streams)))
    print("echoes", echoes)


async def hold(port, count, seconds):
    streams = await connect(port, count)
    await asyncio.gather(*(one_echo(r, w, b"hello") for r, w in streams))
    await asyncio.sleep(seconds)


def main():
    work, *numbers = sys.argv[1:]
    works = {"server": serve, "client": client, "hold": hold}
    asyncio.run(works[work](*map(int, numbers)))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
