"""Ours and peer: a shared number that two processes increment in turns; nanoseconds for one.

Ours is a sync handle, which each process takes EXCLUSIVE and finds at the other one. The peer is
`Manager().Value` under `Manager().Lock`: an increment is four requests to the manager, wherever
the number was before. Each process is told by a pipe that it is its turn, which is not measured,
and neither waits for a lock that is held. Leader and manager are where the asking process is.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from benchmarks.contender import Sampler, Setup, answering, main
from benchmarks.contenders.members import founded, member

if TYPE_CHECKING:
    import libos_ipc

_TAKEN = struct.Struct("<q")


class Turns:
    """Calls `step` here and in the other process, one after the other."""

    def __init__(self) -> None:
        self._asked, self._ask = os.pipe()
        self._told, self._tell = os.pipe()

    def serve(self, step: Callable[[], object]) -> None:
        os.close(self._ask)
        while os.read(self._asked, 1):
            os.write(self._tell, _TAKEN.pack(_timed(step)))

    def sample(self, step: Callable[[], object], count: int) -> dict[str, list[int]]:
        taken = []
        for _ in range(count):
            taken.append(_timed(step))
            os.write(self._ask, b".")
            taken.append(*_TAKEN.unpack(os.read(self._told, _TAKEN.size)))
        return {"moved": taken}

    def end(self) -> None:
        os.close(self._ask)


def _timed(step: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    step()
    return time.perf_counter_ns() - started


def incrementing(handle: libos_ipc.SyncHandle[int]) -> Callable[[], None]:
    def step() -> None:
        with handle.exclusive() as box:
            box.value += 1

    return step


@contextmanager
def ours(setup: Setup, turns: Turns) -> Iterator[Sampler]:
    with founded(setup) as group:

        def body(until: int) -> None:
            turns.serve(incrementing(group.sync("moved", type=int)))

        with member(group, setup, body), group.sync("moved", type=int) as handle:
            step = incrementing(handle)
            try:
                yield lambda count: turns.sample(step, count)
            finally:
                turns.end()


@contextmanager
def manager(setup: Setup, turns: Turns) -> Iterator[Sampler]:
    import multiprocessing

    with multiprocessing.Manager() as server:
        lock: Any = server.Lock()
        value = server.Value("q", 0)

        def step() -> None:
            with lock:
                value.value += 1

        with answering(lambda: turns.serve(step), setup):
            yield lambda count: turns.sample(step, count)


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    turns = Turns()
    with (ours if setup["group"] else manager)(setup, turns) as sample:
        yield sample


if __name__ == "__main__":
    main(opened)
