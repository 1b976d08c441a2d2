"""A stream of one-way messages of 32 bytes, from the first that is sent to the last that is
handled: nanoseconds per message.

`setup["by"]` names whose: *ours*, where a Python function handles each message; *batches*,
where one handles those that came together in one call; *many*, the same, where `send_many`
sends 200 at a time; *pyzmq*, PUSH to PULL over ipc://; *queue*, a `multiprocessing.SimpleQueue`.
With the latter two the reading end is a loop around its socket or queue, which calls a Python
function for each. Each end has one thread for it. Left out: several senders, and what a stream
does to requests beside it.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.contender import PAYLOAD, Sampler, Setup, answering, main
from benchmarks.contenders.members import founded, member

if TYPE_CHECKING:
    from libos_ipc import Group

#: Messages of one value; none is dropped, whatever the buffers between hold.
COUNT = 20_000
CODE = 70

#: Messages that *many* sends at a time.
TOGETHER = 200

Send = Callable[[bytes], object]
#: Calls a function for each message that arrives.
Receive = Callable[[Callable[[object], None]], None]


def counting(tell: int) -> Callable[[object], None]:
    """The handler: says when it has had as many messages as make a value."""
    seen = 0

    def handler(message: object) -> None:
        nonlocal seen
        seen += 1
        if seen % COUNT == 0:
            os.write(tell, b".")

    return handler


@contextmanager
def ours(setup: Setup, tell: int) -> Iterator[Send]:
    with founded(setup) as group:

        def body(until: int) -> None:
            group.on(CODE)(counting(tell))
            os.read(until, 1)

        with member(group, setup, body) as other:
            yield functools.partial(group.send, other.vmid, CODE)


@contextmanager
def batching(setup: Setup, tell: int) -> Iterator[tuple[Group, int]]:
    """A group, and the member in it whose handler takes batches."""
    with founded(setup) as group:

        def body(until: int) -> None:
            seen = 0

            def handler(messages: list[object]) -> None:
                nonlocal seen
                done, seen = seen // COUNT, seen + len(messages)
                if seen // COUNT > done:
                    os.write(tell, b".")

            group.on(CODE, batch=True)(handler)
            os.read(until, 1)

        with member(group, setup, body) as other:
            yield group, other.vmid


@contextmanager
def batches(setup: Setup, tell: int) -> Iterator[Send]:
    with batching(setup, tell) as (group, vmid):
        yield functools.partial(group.send, vmid, CODE)


@contextmanager
def many(setup: Setup, tell: int) -> Iterator[Send]:
    with batching(setup, tell) as (group, vmid):
        yield lambda payload: group.send_many(vmid, CODE, [payload] * TOGETHER)


def _loop(receive: Callable[[], object], handler: Callable[[object], None]) -> None:
    while True:
        handler(receive())


@contextmanager
def pyzmq(setup: Setup, tell: int) -> Iterator[Send]:
    import zmq

    with tempfile.TemporaryDirectory() as directory:
        address = f"ipc://{directory}/pull"

        def serve() -> None:
            pull = zmq.Context().socket(zmq.PULL)
            pull.set_hwm(0)
            pull.bind(address)
            _loop(pull.recv, counting(tell))

        with answering(serve, setup), zmq.Context() as context:
            push = context.socket(zmq.PUSH)
            push.set_hwm(0)
            push.linger = 0
            push.connect(address)
            yield push.send
            push.close()


@contextmanager
def queue(setup: Setup, tell: int) -> Iterator[Send]:
    pipe: Any = multiprocessing.SimpleQueue()
    with answering(lambda: _loop(pipe.get, counting(tell)), setup):
        yield pipe.put


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    told, tell = os.pipe()
    kind = {"ours": ours, "batches": batches, "many": many, "pyzmq": pyzmq, "queue": queue}[
        setup["by"]
    ]
    calls = COUNT // (TOGETHER if setup["by"] == "many" else 1)
    clock = time.perf_counter_ns
    with ExitStack() as stack:
        send = stack.enter_context(kind(setup, tell))

        def burst() -> float:
            started = clock()
            for _ in range(calls):
                send(PAYLOAD)
            os.read(told, 1)
            return (clock() - started) / COUNT

        burst()
        yield lambda count: {"message": [burst() for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
