"""Ours: an uncontended file lock, taken and given back, in a member that is not the leader.

Two ways to say it: `fcntl.lockf` of the whole file, and `with group.file_lock`. The leader is
placed as the answering end. A value is one pair; where the file is delegated it is the mean of as
many as the kernel's (`kernel_lockf.py`), since reading the clock for each would be a tenth of it.
What it leaves out: other locks of the group, and threads of the same process that lock at the
same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.kernel_lockf import PAIRS
from benchmarks.contenders.members import founded, leader_of
from benchmarks.placement import pin


def timed_pairs(pair: Callable[[], object], count: int) -> list[int]:
    """Call `pair` `count` times; the nanoseconds each took."""
    clock = time.perf_counter_ns
    taken = [0] * count
    for index in range(count):
        started = clock()
        pair()
        taken[index] = clock() - started
    return taken


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    from libos_ipc import fcntl

    paths = [os.path.join(os.environ["TMPDIR"], name) for name in ("locked", "taken")]
    with open(paths[0], "w+b") as file, open(paths[1], "w+b"), founded(setup) as group:
        pin(setup.get("answering_core"), leader_of(group))
        # Two files: one that is locked in two ways is not delegated for long.
        descriptor, lock = file.fileno(), group.file_lock(paths[1])

        each = PAIRS if setup["config"]["lock_delegation"] else 1
        lockf = fcntl.lockf

        def lockf_pairs() -> None:
            for _ in range(each):
                lockf(descriptor, fcntl.LOCK_EX)
                lockf(descriptor, fcntl.LOCK_UN)

        def file_lock_pairs() -> None:
            for _ in range(each):
                with lock:
                    pass

        habits = {"lockf": lockf_pairs, "file_lock": file_lock_pairs}
        yield lambda count: {
            name: [taken / each for taken in timed_pairs(pairs, count)]
            for name, pairs in habits.items()
        }


if __name__ == "__main__":
    main(opened)
