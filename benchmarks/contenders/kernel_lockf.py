"""Peer: one `fcntl.lockf` lock and unlock of a file nobody else wants; nanoseconds for a pair.

Two system calls from Python, on a temporary file: the price of asking the kernel instead of
another process.
"""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main

PAIRS = 200


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    with tempfile.TemporaryFile() as file:
        descriptor, lockf, clock = file.fileno(), fcntl.lockf, time.perf_counter_ns

        def pairs() -> float:
            started = clock()
            for _ in range(PAIRS):
                lockf(descriptor, fcntl.LOCK_EX)
                lockf(descriptor, fcntl.LOCK_UN)
            return (clock() - started) / PAIRS

        yield lambda count: {"pair": [pairs() for _ in range(count)]}


if __name__ == "__main__":
    main(opened)
