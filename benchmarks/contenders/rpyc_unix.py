"""Peer: rpyc, a method called over a Unix stream socket.

Both ends use their main thread alone (`serve_all`), which is rpyc's fastest arrangement. Unlike
the other peers it does routing by name and boxes its arguments; the bytes here go by value.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import PAYLOAD, Sampler, Setup, answering, main, timed


def serve(end: socket.socket) -> None:
    import rpyc  # type: ignore[import-untyped]

    class Echo(rpyc.Service):  # type: ignore[misc]
        def exposed_echo(self, payload: bytes) -> bytes:
            return payload

    rpyc.connect_stream(rpyc.SocketStream(end), Echo).serve_all()


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    import rpyc

    near, far = socket.socketpair()
    with near, far, answering(lambda: serve(far), setup):
        connection = rpyc.connect_stream(rpyc.SocketStream(near))
        request = connection.root.echo
        assert request(PAYLOAD) == PAYLOAD
        yield lambda count: timed(request, count)


if __name__ == "__main__":
    main(opened)
