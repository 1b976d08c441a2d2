"""Ours: how long a member that forks leaves the others without an answer; nanoseconds.

One member asks the other in a tight loop while that one forks every few hundredths of a second.
The value of a fork is the longest round trip of those that overlap it, or the time shortly after
it, less the median of all. As a measure of the machine's own hiccups the same is taken of windows
of equal length between the forks. What it leaves out: more than one who asks, and what a forking
member with a large memory costs the kernel.
"""

from __future__ import annotations

import mmap
import os
import statistics
import struct
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.contender import PAYLOAD, Sampler, Setup, main
from benchmarks.contenders.members import ECHO, founded, member

REST_S = 0.04
AFTER_NS = 10_000_000
QUIET_AFTER_NS = 20_000_000
MOST_FORKS = 1000
_COUNT = struct.Struct("<Q")
_FORK = struct.Struct("<QQ")


def fork_on_demand(notes: mmap.mmap, wanted: int, until: int) -> None:
    """The forking member: for each number read from `wanted` so many forks; ends with `until`.

    Their times go to `notes`, whose first word is set when the last fork's rest is over.
    """
    while asked := os.read(wanted, _COUNT.size):
        (count,) = _COUNT.unpack(asked)
        for index in range(count):
            time.sleep(REST_S)
            started = time.perf_counter_ns()
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            returned = time.perf_counter_ns()
            os.waitpid(pid, 0)
            _FORK.pack_into(notes, _COUNT.size + index * _FORK.size, started, returned)
        time.sleep(REST_S)
        _COUNT.pack_into(notes, 0, 1)
    os.read(until, 1)


def longest(trips: list[tuple[int, int]], start: int, end: int) -> int:
    """The longest of the round trips (start, end), in order, that overlap a window."""
    index = max(0, bisect_left(trips, (start, 0)) - 1)
    found = 0
    while index < len(trips) and trips[index][0] < end:
        if trips[index][1] > start:
            found = max(found, trips[index][1] - trips[index][0])
        index += 1
    return found


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    notes = mmap.mmap(-1, _COUNT.size + MOST_FORKS * _FORK.size)
    wanted, want = os.pipe()

    def body(until: int) -> None:
        os.close(want)
        fork_on_demand(notes, wanted, until)

    with founded(setup) as group, member(group, setup, body) as other:
        os.close(wanted)

        def sample(count: int) -> dict[str, list[int]]:
            clock = time.perf_counter_ns
            trips: list[tuple[int, int]] = []
            _COUNT.pack_into(notes, 0, 0)
            os.write(want, _COUNT.pack(min(count, MOST_FORKS)))
            while not notes[0]:
                started = clock()
                group.request(other.vmid, ECHO, PAYLOAD, timeout=10.0)
                trips.append((started, clock()))
            usual = int(statistics.median(end - start for start, end in trips))
            around, quiet = [], []
            for index in range(count):
                started, returned = _FORK.unpack_from(notes, _COUNT.size + index * _FORK.size)
                around.append(longest(trips, started, returned + AFTER_NS) - usual)
                later = returned + QUIET_AFTER_NS
                span = returned - started + AFTER_NS
                quiet.append(longest(trips, later, later + span) - usual)
            return {"around": around, "quiet": quiet}

        try:
            yield sample
        finally:
            os.close(want)


if __name__ == "__main__":
    main(opened)
