"""Ours: what file locks and sync handles take of memory, in client and leader; bytes for one.

A living group, new for each: the growth of each process's own memory (`Anonymous` of smaps_rollup,
which counts whole pages) over thousands of them, and that of the journal, a file in memory.

    lock      a `FileLock` that is held, each of another byte of one file
    waiter    a `FileLock` that a task waits for (`async with`), all for the same file
    handle    a `SyncHandle` that is open, with a value, and SHARED here
    pair      a lock taken and given back: nothing should stay of it

What it leaves out: what the kernel keeps for the descriptor of each `FileLock` in use, and the
stack of a thread that waits.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from benchmarks.contender import Sampler, Setup, main
from benchmarks.contenders.members import founded, journal_bytes, leader_of

if TYPE_CHECKING:
    import libos_ipc

T = TypeVar("T")

#: Descriptors beside those of the locks.
OTHERS = 100


def anonymous(os_pid: int) -> int:
    """Bytes that this process has for itself, and from no file."""
    with open(f"/proc/{os_pid}/smaps_rollup") as lines:
        for line in lines:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"no Anonymous in /proc/{os_pid}/smaps_rollup")


class Scales:
    """Weighs what comes to be between two looks."""

    def __init__(self, group: libos_ipc.Group) -> None:
        self._leader = leader_of(group)
        self._group = group
        self.found: dict[str, list[float]] = {}

    def weigh(self, what: str, count: int, make: Callable[[], T]) -> T:
        """What `make` makes, `count` in number; they are there as long as its result is kept."""
        before = self.look()
        kept = make()
        self.note(what, count, before)
        return kept

    def note(self, what: str, count: int, before: dict[str, int]) -> None:
        for where, now in self.look().items():
            self.found[f"{what}, {where}"] = [(now - before[where]) / count]

    def look(self) -> dict[str, int]:
        gc.collect()
        return {
            "client": anonymous(os.getpid()),
            "leader": anonymous(self._leader),
            "journal": journal_bytes(self._group),
        }


def locked(group: libos_ipc.Group, path: str, count: int) -> list[libos_ipc.FileLock]:
    locks = [group.file_lock(path, start=2 * index, length=1) for index in range(count)]
    for one in locks:
        one.acquire()
    return locks


def taken_and_given_back(group: libos_ipc.Group, path: str, count: int) -> None:
    lock = group.file_lock(path)
    for _ in range(count):
        with lock:
            pass


async def waiting(
    group: libos_ipc.Group, path: str, scales: Scales, count: int
) -> list[libos_ipc.FileLock]:
    """Weigh `count` tasks that wait for a lock, and let each have it."""
    first = group.file_lock(path)
    await first.aacquire()
    locks = [group.file_lock(path) for _ in range(count)]

    async def turn(lock: libos_ipc.FileLock) -> None:
        async with lock:
            pass

    before = scales.look()
    tasks = [asyncio.create_task(turn(lock)) for lock in locks]
    while sum(row.waiting for row in await asyncio.to_thread(group.locks.table)) < count:
        await asyncio.sleep(0.05)
    scales.note("waiter", count, before)
    await first.arelease()
    await asyncio.gather(*tasks)
    return locks


def opened_handles(group: libos_ipc.Group, count: int) -> list[libos_ipc.SyncHandle[int]]:
    handles = [group.sync(f"handle {index}", type=int) for index in range(count)]
    for one in handles:
        with one.exclusive() as box:
            box.value = 1
        with one.shared():
            pass
    return handles


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    path = os.path.join(os.environ["TMPDIR"], "locked")
    open(path, "w").close()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    with founded(setup) as group:

        def sample(count: int) -> dict[str, list[float]]:
            scales, what = Scales(group), setup["what"]
            some = min(count, most - OTHERS)
            taken_and_given_back(group, path, OTHERS)  # what is made on first use is made
            opened_handles(group, OTHERS)
            if what == "pair":
                scales.weigh(what, some, lambda: taken_and_given_back(group, path, some))
            elif what == "lock":
                scales.weigh(what, some, lambda: locked(group, path, some))
            elif what == "waiter":
                asyncio.run(waiting(group, path, scales, some))
            else:
                scales.weigh(what, some, lambda: opened_handles(group, some))
            return scales.found

        yield sample


if __name__ == "__main__":
    main(opened)
