"""A message of 32 bytes to each of `setup["members"]` processes, until the last has handled it.

`setup["by"]` names whose: *ours*, `group.broadcast` to the members of a group; *pyzmq*, PUB to as
many SUB over ipc://. Each process tells by a byte in one pipe. Left out: members that come and go,
which a broadcast of ours learns from the leader whenever it has decided something.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.contender import PAYLOAD, Sampler, Setup, answering, main
from benchmarks.contenders.members import founded, member

CODE = 70
#: Broadcasts before the first that counts: by then all have met.
WARM = 40


@contextmanager
def ours(setup: Setup, tell: int) -> Iterator[Callable[[], object]]:
    with founded(setup) as group, ExitStack() as stack:

        def body(until: int) -> None:
            group.on(CODE)(lambda message: os.write(tell, b"."))
            os.read(until, 1)

        vmids = [
            stack.enter_context(member(group, setup, body)).vmid for _ in range(members(setup))
        ]
        assert len(group.broadcast(CODE, PAYLOAD)) == len(vmids)
        yield lambda: group.broadcast(CODE, PAYLOAD)


@contextmanager
def pyzmq(setup: Setup, tell: int) -> Iterator[Callable[[], object]]:
    import zmq

    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        address = f"ipc://{directory}/pub"

        def serve() -> None:
            sub = zmq.Context().socket(zmq.SUB)
            sub.subscribe(b"")
            sub.connect(address)
            while True:
                if sub.recv() == PAYLOAD:
                    os.write(tell, b".")

        for _ in range(members(setup)):
            stack.enter_context(answering(serve, setup))
        pub = stack.enter_context(zmq.Context()).socket(zmq.XPUB)
        pub.linger = 0
        pub.setsockopt(zmq.XPUB_VERBOSE, 1)  # each of them says so
        pub.bind(address)
        for _ in range(members(setup)):
            pub.recv()  # one has subscribed
        pub.send(PAYLOAD)
        yield lambda: pub.send(PAYLOAD)
        pub.close()


def members(setup: Setup) -> int:
    count: int = setup["members"]
    return count


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    told, tell = os.pipe()
    kind = {"ours": ours, "pyzmq": pyzmq}[setup["by"]]
    clock = time.perf_counter_ns

    with kind(setup, tell) as send:

        def await_all() -> None:
            heard = 0
            while heard < members(setup):
                heard += len(os.read(told, members(setup) - heard))

        def timed() -> int:
            started = clock()
            send()
            await_all()
            return clock() - started

        await_all()
        for _ in range(WARM):
            timed()
        yield lambda count: {"broadcast": [timed() for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
