"""Peer: `multiprocessing.Pipe`, bytes both ways, one thread at each end.

It leaves out the same as any bare exchange does: a pipe joins exactly two processes, and one
request at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from benchmarks.contender import PAYLOAD, Sampler, Setup, answering, main, timed


def handler(payload: bytes) -> bytes:
    return payload


def serve(end: Connection) -> None:
    while True:
        end.send_bytes(handler(end.recv_bytes()))


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    near, far = Pipe()
    with near, far, answering(lambda: serve(far), setup):

        def request(payload: bytes) -> bytes:
            near.send_bytes(payload)
            return near.recv_bytes()

        assert request(PAYLOAD) == PAYLOAD
        yield lambda count: timed(request, count)


if __name__ == "__main__":
    main(opened)
