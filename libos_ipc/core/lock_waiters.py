"""Who waits for locks on one file, in order of arrival.

A thousand writers may wait for the same range, and a release lets one of them in; the others
must not be looked at. So those who wait for the same (start, end, type) form one queue: where
its head cannot have the range, neither can those behind it. There is one exception, whoever
holds the very lock that is in the way of all the others, and `space.py` knows how to find it.

A *fair* waiter does not pass conflicting waiters that came before it; others pass them. The two
sorts never share a queue, so that the rule above holds for each.

Queues are found by range (`overlaps.py`). Arrival is a number that only grows.

Invariants: a waiter stands in exactly one queue, and in the lists of its owner; queues are
sorted by arrival and never empty.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from libos_ipc.core.lock_words import WRITE, Ask, Owner
from libos_ipc.core.overlaps import Overlaps

__all__ = ["LAST", "Queue", "Waiter", "Waiters"]

#: The arrival of one who comes after all that are there.
LAST = 2**63


class Waiter(NamedTuple):
    """A request that waits."""

    arrival: int
    ask: Ask
    fair: bool
    since: float


class Queue:
    """Those who wait for one and the same, the first to come first."""

    __slots__ = ("end", "fair", "id", "start", "type", "waiters")

    def __init__(self, id: int, start: int, end: int, type: int, fair: bool) -> None:
        self.id = id
        self.start = start
        self.end = end
        self.type = type
        self.fair = fair
        self.waiters: list[Waiter] = []


class Waiters:
    """The waiters of one file, for kinds of locks that see one another."""

    __slots__ = ("_by_arrival", "_by_id", "_index", "_next_id", "_of_owner", "_queues")

    def __init__(self) -> None:
        self._by_arrival: dict[int, Waiter] = {}
        self._of_owner: dict[Owner, dict[int, Waiter]] = {}
        self._queues: dict[tuple[int, int, int, bool], Queue] = {}
        self._by_id: dict[int, Queue] = {}
        self._index = Overlaps()
        self._next_id = 0

    def __len__(self) -> int:
        return len(self._by_arrival)

    def __iter__(self) -> Iterator[Waiter]:
        """All in order of arrival."""
        return iter(self._by_arrival.values())

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter.arrival in self._by_arrival

    def add(self, waiter: Waiter) -> None:
        """Enter one; it has come later than all that are there."""
        ask = waiter.ask
        key = (ask.start, ask.end, ask.type, waiter.fair)
        queue = self._queues.get(key)
        if queue is None:
            queue = Queue(self._next_id, *key)
            self._next_id += 1
            self._queues[key] = self._by_id[queue.id] = queue
            self._index.add(ask.start, ask.end, queue.id)
        queue.waiters.append(waiter)
        self._by_arrival[waiter.arrival] = waiter
        self._of_owner.setdefault(ask.owner, {})[waiter.arrival] = waiter

    def remove(self, waiter: Waiter) -> None:
        """Take one away."""
        ask = waiter.ask
        queue = self.queue_of(waiter)
        del queue.waiters[bisect_left(queue.waiters, (waiter.arrival,))]
        if not queue.waiters:
            del self._queues[ask.start, ask.end, ask.type, waiter.fair], self._by_id[queue.id]
            self._index.remove(ask.start, ask.end, queue.id)
        del self._by_arrival[waiter.arrival]
        of_owner = self._of_owner[ask.owner]
        del of_owner[waiter.arrival]
        if not of_owner:
            del self._of_owner[ask.owner]

    def replace(self, waiter: Waiter, ask: Ask) -> Waiter:
        """The same one waits by another request, for the same."""
        queue, other = self.queue_of(waiter), waiter._replace(ask=ask)
        queue.waiters[bisect_left(queue.waiters, (waiter.arrival,))] = other
        self._by_arrival[waiter.arrival] = other
        self._of_owner[ask.owner][waiter.arrival] = other
        return other

    def queue_of(self, waiter: Waiter) -> Queue:
        """The queue in which it stands."""
        ask = waiter.ask
        return self._queues[ask.start, ask.end, ask.type, waiter.fair]

    def of_owner(self, owner: Owner) -> Iterable[Waiter]:
        """All requests of this owner that wait here, in order of arrival."""
        return self._of_owner.get(owner, {}).values()

    def has(self, owner: Owner) -> bool:
        """Whether any request of this owner waits here."""
        return owner in self._of_owner

    def meeting(self, start: int, end: int) -> Iterator[Queue]:
        """The queues for ranges that overlap this one."""
        for _, _, id in self._index.meeting(start, end):
            yield self._by_id[id]

    def is_ahead(self, type: int, start: int, end: int, arrival: int) -> bool:
        """Whether anybody who conflicts with this request came before `arrival`."""
        return any(
            queue.waiters[0].arrival < arrival
            for queue in self.meeting(start, end)
            if WRITE in (type, queue.type)
        )

    def check(self) -> None:
        """Assert the invariants."""
        everybody = []
        for key, queue in self._queues.items():
            assert key == (queue.start, queue.end, queue.type, queue.fair)
            assert queue.waiters
            assert queue.waiters == sorted(queue.waiters)
            assert self._by_id[queue.id] is queue
            for waiter in queue.waiters:
                assert self.queue_of(waiter) is queue
                assert self._of_owner[waiter.ask.owner][waiter.arrival] is waiter
            everybody += queue.waiters
        assert sorted(everybody) == list(self)
        assert sum(map(len, self._of_owner.values())) == len(self)
        assert all(self._of_owner.values())
        self._index.check()
        assert {id for _, _, id in self._index.meeting(0, 2**64)} == self._by_id.keys()
        assert len(self._by_id) == len(self._queues) == len(self._index)
