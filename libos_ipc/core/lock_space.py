"""One file's locks and waiters, and whose turn it is when something becomes free.

Turns go by arrival: the first waiter that can be granted is, and then again the first, until
none can. Looking at all waiters for that would cost too much, and is not needed: only a queue
whose range meets what became free can have changed, and of a queue only the head, since where
the head is blocked those behind it are too, for the same reason. With one exception: a lock is
never in the way of its own owner, so if *one* owner holds all that blocks the head, a request of
that owner further back (an upgrade) can be granted. So two candidates per queue suffice.

A fair waiter is blocked also by a conflicting waiter that came before it. That changes when
such a waiter leaves; where it leaves because it was granted, its lock is in the way instead, but
for another request of the same owner, which becomes a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import TypeAlias

from libos_ipc.core.lock_ranges import LockRanges
from libos_ipc.core.lock_waiters import LAST, Queue, Waiter, Waiters
from libos_ipc.core.lock_words import Ask, Kind

__all__ = ["Freed", "LockSpace"]

#: Ranges that became free: (start, end)
Freed: TypeAlias = list[tuple[int, int]]


class LockSpace:
    """The held ranges and the waiters of one file that see one another."""

    __slots__ = ("ranges", "waiters")

    def __init__(self) -> None:
        self.ranges = LockRanges()
        self.waiters = Waiters()

    def __bool__(self) -> bool:
        return bool(len(self.ranges) or len(self.waiters))

    def blocked(self, ask: Ask, fair: bool) -> bool:
        """Whether a new request must wait."""
        _, _, _, owner, type, start, end, *_ = ask
        if self.ranges.count(owner, type, start, end):
            return True
        return fair and self.waiters.is_ahead(type, start, end, LAST)

    def grantable(self, waiter: Waiter) -> bool:
        """Whether one that waits need not any more."""
        _, _, _, owner, type, start, end, *_ = waiter.ask
        if self.ranges.count(owner, type, start, end):
            return False
        return not (waiter.fair and self.waiters.is_ahead(type, start, end, waiter.arrival))

    def wake(self, freed: Freed, grant: Callable[[Waiter], Iterable[tuple[int, int]]]) -> None:
        """Grant to all whose turn it is, in order.

        `grant` takes a waiter from here and tells what became free by that.
        """
        candidates = _Candidates(self.waiters)
        candidates.add(freed)
        while (waiter := candidates.pop()) is not None:
            queue = self.waiters.queue_of(waiter)
            if self.grantable(waiter):
                more = grant(waiter)
                if queue.waiters:
                    candidates.push(queue.waiters[0])
                if waiter.ask.owner.kind == Kind.FAIR:
                    for other in self.waiters.of_owner(waiter.ask.owner):
                        candidates.push(other)
                candidates.add(more)
            elif waiter is queue.waiters[0]:
                upgrader = self._upgrader(queue)
                if upgrader is not None:
                    candidates.push(upgrader)

    def _upgrader(self, queue: Queue) -> Waiter | None:
        """The first in this queue, its head blocked, who holds himself all that blocks it."""
        holder = self.ranges.sole_holder(queue.type, queue.start, queue.end)
        if holder is not None:
            for waiter in self.waiters.of_owner(holder):
                if self.waiters.queue_of(waiter) is queue:
                    return waiter
        return None

    def check(self) -> None:
        """Assert the invariants, but for `check_settled`."""
        self.ranges.check()
        self.waiters.check()

    def check_settled(self) -> None:
        """Assert that nobody waits who need not."""
        for waiter in self.waiters:
            assert not self.grantable(waiter), waiter


class _Candidates:
    """Waiters to be looked at, in order of arrival, none twice at a time."""

    def __init__(self, waiters: Waiters) -> None:
        self._waiters = waiters
        self._heap: list[Waiter] = []
        self._arrivals: set[int] = set()

    def push(self, waiter: Waiter) -> None:
        if waiter.arrival not in self._arrivals:
            self._arrivals.add(waiter.arrival)
            heappush(self._heap, waiter)

    def add(self, freed: Iterable[tuple[int, int]]) -> None:
        """The heads of all queues whose range meets one of these."""
        for start, end in freed:
            for queue in self._waiters.meeting(start, end):
                self.push(queue.waiters[0])

    def pop(self) -> Waiter | None:
        while self._heap:
            waiter = heappop(self._heap)
            self._arrivals.remove(waiter.arrival)
            if waiter in self._waiters:
                return waiter
        return None
