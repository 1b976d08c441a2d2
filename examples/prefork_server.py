"""An asyncio web server of several processes on one port, which share a cache.

    python examples/prefork_server.py 8080      # GET /12 gives its square; until Ctrl-C
    python examples/prefork_server.py           # tries itself out, and kills a worker meanwhile

What one worker has computed all have, also those that are asked for it at the same time. A worker
that dies is replaced; the cache outlives it, as the process that starts them has it open, too.
"""

import asyncio
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import libos_ipc


def open_cache(group):
    return [group.sync(f"cache {n}", type=dict[int, str]) for n in range(16)]  # locked singly


async def square(group, cache, number):
    part = cache[number % len(cache)]
    async with part.shared() as known:
        if number in known:
            return known[number]
    async with part.exclusive() as box:
        if number not in box.value:
            await asyncio.sleep(0.05)  # a slow database
            box.value[number] = f"{number**2}, says process {group.pid}"
        return box.value[number]


async def serve(group, address):
    async def answer(reader, writer):
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        text = await square(group, cache, int(path[1:]))
        writer.write(f"HTTP/1.0 200 OK\r\nServer: {group.pid}\r\n\r\n{text}\n".encode())
        writer.close()

    cache = open_cache(group)
    server = await asyncio.start_server(answer, *address, reuse_port=True)
    with group.sync("listening", type=int).exclusive() as box:
        box.value += 1
    await server.serve_forever()


def try_out(group, address, answers=()):
    def ask(number):
        with socket.create_connection(address) as connection, connection.makefile() as answer:
            connection.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % number)
            return answer.read().splitlines()

    for started in (3, 4):
        group.sync("listening", type=int).wait(lambda number, all=started: number == all)
        with ThreadPoolExecutor(30) as pool:
            _, servers, _, texts = zip(*pool.map(ask, [n % 6 for n in range(90)]), strict=True)
        answers = {*answers, *texts}
        print(f"{len(texts)} requests, {len(set(servers))} workers, {len(answers)} computations")
        group.kill(int(servers[0].split()[1]), signal.SIGKILL)


def main(port=0):
    signal.signal(signal.SIGINT, lambda *_: sys.exit())
    with socket.socket() as place, libos_ipc.Group.create() as group:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as those who listen there
        place.bind(("127.0.0.1", port))
        open_cache(group)
        client = None if port else group.spawn(try_out, group, place.getsockname()).pid
        workers = []
        try:
            while len(workers) < 3 or group.wait().pid != client:
                workers.append(group.spawn(lambda: asyncio.run(serve(group, place.getsockname()))))
        finally:
            group.kill_all(signal.SIGKILL)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
