"""A payload of `setup["size"]` bytes from one process to another, and a word back that it is there.

`setup["by"]` names how: *ours*, a request whose handler gives no answer but that; *pipe*, a
`multiprocessing.Pipe`; *memory*, copied into shared memory that both have touched before, and out
of it, with a byte through a pipe each way: what copying alone costs. At the reading end the payload
is a bytes object each time. Left out: several payloads under way at a time.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe

from benchmarks.contender import Sampler, Setup, answering, main
from benchmarks.contenders.members import founded, member

CODE = 70

Move = Callable[[bytes], object]


@contextmanager
def ours(setup: Setup) -> Iterator[Move]:
    config = {"max_message": 1 << 28, "send_buffer": 1 << 28}
    with founded({**setup, "config": config}) as group:

        def body(until: int) -> None:
            group.on(CODE)(lambda message: b"")
            os.read(until, 1)

        with member(group, setup, body) as other:
            vmid, request = other.vmid, group.request
            yield lambda payload: request(vmid, CODE, payload)


@contextmanager
def pipe(setup: Setup) -> Iterator[Move]:
    near, far = Pipe()

    def serve() -> None:
        while True:
            far.recv_bytes()
            far.send_bytes(b"")

    def move(payload: bytes) -> None:
        near.send_bytes(payload)
        near.recv_bytes()

    with near, far, answering(serve, setup):
        yield move


@contextmanager
def memory(setup: Setup) -> Iterator[Move]:
    size = setup["size"]
    shared = mmap.mmap(-1, size)
    asked, ask = os.pipe()
    told, tell = os.pipe()

    def serve() -> None:
        while os.read(asked, 1):
            shared[:]
            os.write(tell, b".")

    def move(payload: bytes) -> None:
        shared[:] = payload
        os.write(ask, b".")
        os.read(told, 1)

    with answering(serve, setup):
        yield move


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    kind = {"ours": ours, "pipe": pipe, "memory": memory}[setup["by"]]
    payload = os.urandom(setup["size"])
    clock = time.perf_counter_ns

    with kind(setup) as move:
        for _ in range(setup["warm"]):
            move(payload)

        def timed() -> int:
            started = clock()
            move(payload)
            return clock() - started

        yield lambda count: {"payload": [timed() for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
