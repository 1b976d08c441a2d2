"""Ours: a sync handle that this process has SHARED already, locked and unlocked; nanoseconds.

No message is sent for it. A value is the mean of many pairs. What it leaves out: other threads
that use the handle, and decoding, since the value is a small number that has been decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.members import founded

PAIRS = 100


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    from libos_ipc.sync import State

    with founded(setup) as group, group.sync("measured", type=int) as handle:
        lock, unlock, shared = handle.lock, handle.unlock, State.SHARED
        clock = time.perf_counter_ns
        lock(shared)
        unlock()
        assert handle.state == State.SHARED

        def pairs() -> float:
            started = clock()
            for _ in range(PAIRS):
                lock(shared)
                unlock()
            return (clock() - started) / PAIRS

        yield lambda count: {"pair": [pairs() for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
