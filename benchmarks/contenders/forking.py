"""Ours and peer: `os.fork` of a member of a group, or of the same process outside any group.

Each child notes when `os.fork` returned in it and exits at once. Both processes have imported the
same modules, so that the kernel copies tables of like size. Between two forks the process rests,
which gives the library time to prepare the next one, as it says it does; forks in a storm are
left out, and so is what the child's first exchange costs.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.members import ECHO, founded, import_what_members_use, member

REST_S = 0.01


def fork_once(note: mmap.mmap) -> tuple[int, int]:
    """Fork a child that exits; nanoseconds until `os.fork` returned in parent and in child."""
    clock = time.perf_counter_ns
    note[:8] = bytes(8)
    started = clock()
    pid = os.fork()
    returned = clock()
    if pid == 0:
        note[:8] = returned.to_bytes(8, "little")
        os._exit(0)
    os.waitpid(pid, 0)
    in_child = int.from_bytes(note[:8], "little")
    return returned - started, in_child - started


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    import_what_members_use()
    note = mmap.mmap(-1, 8)

    def sample(count: int) -> dict[str, list[int]]:
        pairs = []
        for _ in range(count):
            pairs.append(fork_once(note))
            time.sleep(REST_S)
        return {"parent": [one for one, _ in pairs], "child": [other for _, other in pairs]}

    with ExitStack() as stack:
        if setup["group"]:
            group = stack.enter_context(founded(setup))
            other = stack.enter_context(member(group, setup))
            group.request(other.vmid, ECHO, b"")
        yield sample


if __name__ == "__main__":
    main(opened)
