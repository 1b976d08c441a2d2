"""Peer: pyzmq, DEALER to ROUTER over ipc://, one thread at each end.

The direct exchange of two main threads: the asking one sends and receives itself, the answering
one is nothing but a loop around its socket. Written as fast as pyzmq allows, it leaves out what a
library must do: a second caller, a sender that also answers, a call's time-out, a peer that dies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import PAYLOAD, Sampler, Setup, answering, main, timed


def handler(payload: bytes) -> bytes:
    return payload


def serve(address: str) -> None:
    import zmq

    router = zmq.Context().socket(zmq.ROUTER)
    router.bind(address)
    while True:
        sender, payload = router.recv(), router.recv()
        router.send(sender, zmq.SNDMORE)
        router.send(handler(payload))


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    import zmq

    with tempfile.TemporaryDirectory() as directory:
        address = f"ipc://{directory}/router"
        with answering(lambda: serve(address), setup), zmq.Context() as context:
            dealer = context.socket(zmq.DEALER)
            dealer.linger = 0
            dealer.connect(address)

            def request(payload: bytes) -> bytes:
                dealer.send(payload)
                return dealer.recv()

            assert request(PAYLOAD) == PAYLOAD
            yield lambda count: timed(request, count)
            dealer.close()


if __name__ == "__main__":
    main(opened)
