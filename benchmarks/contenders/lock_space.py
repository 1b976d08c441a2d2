"""Ours: the leader's machine of file locks at two sizes; nanoseconds for one exchange.

No process, message or journal takes part: this is `FileLocks`, called directly, on one file.

    locks    ranges held by a hundred processes: a random one is unlocked, another one locked
    queue    everybody waits for the same range: its holder unlocks, the next one gets it, and
             whoever had it asks again
    ranges   everybody waits for a range of his own in a file that one process has locked: a
             random one gives up, and asks again

Whoever waits does so for ever, so that each request looks for a cycle.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.contender import Sampler, Setup, main

OWNERS = 100
FILE = (1, 2)
BATCH = 20


class Filled:
    """A `FileLocks` with requests of processes, by VMID; its clock is a number that grows."""

    def __init__(self) -> None:
        from libos_ipc.core.file_locks import FileLocks

        self.locks = FileLocks()
        self._seq = 0

    def ask(self, vmid: int, type: int, start: int, end: int, *, fair: int = 0) -> tuple[int, bool]:
        """Lock or unlock; the number of the request, and whether it was settled at once.

        With `fair` by that acquisition of `group.file_lock`, else as a POSIX lock.
        """
        from libos_ipc.core.lock_words import WAIT, Ask, Kind, Owner

        self._seq += 1
        owner = Owner(Kind.FAIR, fair) if fair else Owner(Kind.POSIX, vmid)
        ask = Ask(vmid, self._seq, FILE, owner, type, start, end, WAIT, vmid, 1, b"/some/file")
        outcomes = self.locks.set(ask, float(self._seq)).outcomes
        return self._seq, any((one.src, one.seq) == (vmid, self._seq) for one in outcomes)


def locks(size: int) -> Callable[[], int]:
    from libos_ipc.core.lock_words import UNLOCK, WRITE

    filled, chance = Filled(), random.Random(size)
    held = [index * 4 for index in range(size)]
    free = [(size + index) * 4 for index in range(OWNERS)]
    for start in held:
        filled.ask(1 + start // 4 % OWNERS, WRITE, start, start + 2)

    def exchange() -> int:
        out, into = chance.randrange(size), chance.randrange(OWNERS)
        leaves, comes = held[out], free[into]
        held[out], free[into] = comes, leaves
        clock = time.perf_counter_ns
        started = clock()
        filled.ask(1 + leaves // 4 % OWNERS, UNLOCK, leaves, leaves + 2)
        filled.ask(1 + comes // 4 % OWNERS, WRITE, comes, comes + 2)
        return clock() - started

    return exchange


def queue(size: int) -> Callable[[], int]:
    from libos_ipc.core.lock_words import EOF, UNLOCK, WRITE

    filled = Filled()
    turns = deque(range(1, size + 2))
    for vmid in turns:
        filled.ask(vmid, WRITE, 0, EOF, fair=vmid)

    def exchange() -> int:
        vmid = turns[0]
        turns.rotate(-1)
        started = time.perf_counter_ns()
        filled.ask(vmid, UNLOCK, 0, EOF, fair=vmid)
        _, settled = filled.ask(vmid, WRITE, 0, EOF, fair=vmid)
        taken = time.perf_counter_ns() - started
        assert not settled
        return taken

    return exchange


def ranges(size: int) -> Callable[[], int]:
    from libos_ipc.core.lock_words import EOF, WRITE

    filled, chance = Filled(), random.Random(size)
    filled.ask(size + 1, WRITE, 0, EOF)
    waits = [filled.ask(1 + at, WRITE, at * 4, at * 4 + 2)[0] for at in range(size)]

    def exchange() -> int:
        at = chance.randrange(size)
        started = time.perf_counter_ns()
        done, _ = filled.locks.withdraw(1 + at, waits[at], started)
        waits[at], settled = filled.ask(1 + at, WRITE, at * 4, at * 4 + 2)
        taken = time.perf_counter_ns() - started
        assert done
        assert not settled
        return taken

    return exchange


HABITS = {"locks": locks, "queue": queue, "ranges": ranges}


@contextmanager
def opened(setup: Setup) -> Iterator[Sampler]:
    exchanges = {name: HABITS[setup["habit"]](size) for name, size in setup["sizes"].items()}

    def sample(count: int) -> dict[str, list[int]]:
        taken: dict[str, list[int]] = {name: [] for name in exchanges}
        for _ in range(0, count, BATCH):
            for name, exchange in exchanges.items():
                taken[name] += [exchange() for _ in range(BATCH)]
        return taken

    yield sample


if __name__ == "__main__":
    main(opened)
