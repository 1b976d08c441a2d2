"""Ours: the leader's tree of ranges at two sizes; nanoseconds for a release and an allocation.

No process, message or journal takes part: this is the data structure, called directly. A random
one of the ranges is released and a new one allocated, so that the size stays; the clock given to
it advances by a second each time, so that ranges enter and leave quarantine at a steady rate.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main

OWNERS = 100
RANGE_SIZE = 32
BATCH = 20


class Filled:
    """An `IdSpace` with `size` ranges in use, spread over a hundred owners."""

    def __init__(self, size: int) -> None:
        from libos_ipc.core.ids import IdSpace

        self._space = IdSpace(id_max=2**32 - 1, range_size=RANGE_SIZE)
        self._random = random.Random(size)
        self._now = 0.0
        self._taken: list[tuple[int, int, int]] = [
            self._allocate(1 + index % OWNERS) for index in range(size)
        ]

    def exchange(self) -> int:
        """Release one range, allocate another; the nanoseconds both took."""
        self._now += 1.0
        index = self._random.randrange(len(self._taken))
        start, end, owner = self._taken[index]
        started = time.perf_counter_ns()
        self._space.release_range(start, end, owner, self._now)
        got = self._space.alloc_range(owner, self._now)
        taken = time.perf_counter_ns() - started
        assert got is not None
        self._taken[index] = (got[0], got[1], owner)
        return taken

    def _allocate(self, owner: int) -> tuple[int, int, int]:
        got = self._space.alloc_range(owner, self._now)
        assert got is not None
        return got[0], got[1], owner


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    spaces = {name: Filled(size) for name, size in setup["sizes"].items()}

    def sample(count: int) -> dict[str, list[int]]:
        taken: dict[str, list[int]] = {name: [] for name in spaces}
        for _ in range(0, count, BATCH):
            for name, space in spaces.items():
                taken[name] += [space.exchange() for _ in range(BATCH)]
        return taken

    yield sample


if __name__ == "__main__":
    main(opened)
