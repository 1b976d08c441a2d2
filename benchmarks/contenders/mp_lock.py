"""Peer: `multiprocessing.Lock` acquired and released, wanted by nobody else; nanoseconds.

A POSIX semaphore in shared memory: without contention the kernel is not entered. It protects
nothing by itself, has no readers, and whoever dies with it leaves it locked for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main

PAIRS = 200


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    import multiprocessing

    lock = multiprocessing.Lock()
    acquire, release, clock = lock.acquire, lock.release, time.perf_counter_ns

    def pairs() -> float:
        started = clock()
        for _ in range(PAIRS):
            acquire()
            release()
        return (clock() - started) / PAIRS

    yield lambda count: {"pair": [pairs() for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
