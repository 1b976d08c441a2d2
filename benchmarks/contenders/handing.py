"""Ours and peers: a lock that two processes want at the same time, handed from one to the other.

*handed over*: from the call that releases in the one process to the end of the call that acquires
in the other, which is known to wait already: the holder asks who waits (ours: the leader, and the
kernel's: `/proc/locks`), outside of what is measured. For a package (`setup["package"]`), most of
which wait by polling, the holder gives the other a moment instead, and a round has few values.

*to and fro*, ours alone: both acquire and release without a pause; a value is the time between
one acquisition and the next, of whichever process.

Both ends of the exchange are members; the leader is where the asking one is. What it leaves out:
more than two who want the lock.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import NamedTuple

from benchmarks.contender import Sampler, Setup, answering, main
from benchmarks.contenders.lock_packages import lock_of
from benchmarks.contenders.members import founded, member

MOST = 4000
POLLED_ONE_IN = 60
MOMENT_S = 0.1
_WANTED = struct.Struct("<I?")
_TIME = struct.Struct("<q")


class Lock(NamedTuple):
    """How one process takes it, gives it back, and sees that the other one waits for it."""

    acquire: Callable[[], object]
    release: Callable[[], object]
    other_waits: Callable[[], bool]


class Table:
    """Times, in memory that both processes have; the first word of a row is the giver's."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 2 * MOST * _TIME.size)

    def put(self, row: int, column: int, value: int) -> None:
        _TIME.pack_into(self._page, (2 * row + column) * _TIME.size, value)

    def get(self, row: int, column: int) -> int:
        return int(_TIME.unpack_from(self._page, (2 * row + column) * _TIME.size)[0])


def go_on_and_on(lock: Lock, times: Table, me: int, count: int) -> None:
    """Take it and give it back, without a pause."""
    clock = time.perf_counter_ns
    for row in range(count):
        lock.acquire()
        times.put(row, me, clock())
        lock.release()


class Pair:
    """The two processes: `serve` in the other one, `sample` here."""

    def __init__(self, part: int, alone: bool) -> None:
        self._part = part
        self._alone = alone
        self._times = Table()
        self._wanted, self._want = os.pipe()
        #: to process 0, and to process 1
        self._pipes = os.pipe(), os.pipe()

    def serve(self, lock: Lock) -> None:
        os.close(self._want)
        while asked := os.read(self._wanted, _WANTED.size):
            count, in_turns = _WANTED.unpack(asked)
            if in_turns:
                self._hand_over(lock, 1, count)
            else:
                go_on_and_on(lock, self._times, 1, count)
            os.write(self._pipes[0][1], b".")

    def sample(self, lock: Lock, count: int) -> dict[str, list[int]]:
        times, few = self._times, max(4, min(count, MOST) // self._part)
        lock.acquire()
        os.write(self._want, _WANTED.pack(few, True))
        self._hand_over(lock, 0, few)
        os.read(self._pipes[0][0], 1)
        taken = [times.get(row, 1) - times.get(row, 0) for row in range(few)]
        if not self._alone:
            return {"handed over": taken}
        os.write(self._want, _WANTED.pack(few, False))
        go_on_and_on(lock, times, 0, few)
        os.read(self._pipes[0][0], 1)
        moments = sorted(times.get(row, column) for row in range(few) for column in (0, 1))
        gaps = [later - sooner for sooner, later in pairwise(moments)]
        # At the ends of a round one process may be alone.
        return {"handed over": taken, "to and fro": gaps[few // 8 : -few // 8]}

    def _hand_over(self, lock: Lock, me: int, count: int) -> None:
        """Give and take in turns; process 0 has it at first, and whoever has it at last lets go.

        Who has given it asks for it again only when the other one says that it has it.
        """
        clock, times = time.perf_counter_ns, self._times
        for row in range(count):
            if row % 2 == me:
                while not lock.other_waits():
                    pass
                times.put(row, 0, clock())
                lock.release()
                os.read(self._pipes[me][0], 1)
            else:
                lock.acquire()
                times.put(row, 1, clock())
                os.write(self._pipes[1 - me][1], b".")
        if count % 2 == me:
            lock.release()

    def end(self) -> None:
        os.close(self._want)


def kernels(path: str) -> Lock:
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    inode = os.fstat(descriptor).st_ino

    def other_waits() -> bool:
        with open("/proc/locks") as rows:
            return any("->" in row and f":{inode} " in row for row in rows)

    return Lock(
        lambda: fcntl.lockf(descriptor, fcntl.LOCK_EX),
        lambda: fcntl.lockf(descriptor, fcntl.LOCK_UN),
        other_waits,
    )


def packages(package: str, path: str) -> Lock:
    def other_waits() -> bool:
        time.sleep(MOMENT_S + random.random() * MOMENT_S)  # anywhere between two of its looks
        return True

    return Lock(*lock_of(package, path), other_waits)


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    path = os.path.join(os.environ["TMPDIR"], "locked")
    open(path, "w").close()
    package = setup.get("package")
    pair = Pair(POLLED_ONE_IN if package else 1, setup.get("group", False))
    with ExitStack() as stack:
        if setup.get("group"):
            group = stack.enter_context(founded(setup))

            def ours() -> Lock:
                lock, table = group.file_lock(path), group.locks.table
                return Lock(lock.acquire, lock.release, lambda: any(row.waiting for row in table()))

            stack.enter_context(member(group, setup, lambda until: pair.serve(ours())))
            mine = ours()
        else:

            def theirs() -> Lock:
                return packages(package, path) if package else kernels(path)

            if package:
                lock_of(package, path)  # or it is not installed
            stack.enter_context(answering(lambda: pair.serve(theirs()), setup))
            mine = theirs()
        stack.callback(pair.end)
        yield lambda count: pair.sample(mine, count)


if __name__ == "__main__":
    main(opened)
