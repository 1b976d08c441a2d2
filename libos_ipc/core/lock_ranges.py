"""The locks that are held on one file: who holds which bytes, and who is in whose way.

Two locks conflict if their owners differ, they overlap, and one of them is a write lock. What an
owner sets replaces what it had there; ranges of one type that touch or overlap become one,
ranges of different types never do; taking the middle away leaves two.

Each owner's ranges stand in two sorted lists, one per type. Beside them all ranges of all owners
stand in two indexes (`overlaps.py`), one per type, filed under the owner's *order*: a number it
gets when it goes from no lock to one. Whether anything is in the way of a request is then a
matter of counting: the ranges that meet it, less the owner's own. Nobody is walked over for
that, though thousands may be reading.

Who is the *first* in the way has an answer too, since a query must give always the same: owners
in their order, then by start. Where few are in the way they are all looked at, and where many
are, one of the first owners will be among them.

Invariants: no two ranges conflict; an owner's ranges of one type neither overlap nor touch, and
those of different types do not overlap; an owner without ranges is not there; owners stand in
their order; the indexes hold exactly the ranges of all owners. Asking whether, setting and
unlocking take O(log n) steps, and one more for each of its own ranges that a request replaces.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from libos_ipc.core.lock_words import READ, UNLOCK, WRITE, Held, Owner, agents_of
from libos_ipc.core.overlaps import Overlaps
from libos_ipc.core.wait_graph import Agent

__all__ = ["LockRanges"]


class _Holder:
    """What one owner holds: its read locks and its write locks, each sorted by start."""

    __slots__ = ("order", "owner", "ranges")

    def __init__(self, owner: Owner, order: int) -> None:
        self.owner = owner
        self.order = order
        self.ranges: tuple[list[Held], list[Held]] = ([], [])

    def slice_of(self, type: int, start: int, end: int) -> tuple[int, int]:
        """Where its ranges of this type lie that meet `start` … `end`."""
        ranges = self.ranges[type]
        low = bisect_left(ranges, (start,))
        if low and ranges[low - 1].end >= start:
            low -= 1
        return low, bisect_left(ranges, (end + 1,), low)

    def meeting(self, type: int, start: int, end: int) -> list[Held]:
        """Its ranges there that conflict with a lock of this type, of another owner, by start."""
        low, high = self.slice_of(WRITE, start, end)
        found = self.ranges[WRITE][low:high]
        if type == WRITE:
            low, high = self.slice_of(READ, start, end)
            found = sorted(found + self.ranges[READ][low:high])
        return found

    def count(self, type: int, start: int, end: int) -> int:
        """How many `meeting` would find."""
        low, high = self.slice_of(WRITE, start, end)
        found = high - low
        if type == WRITE:
            low, high = self.slice_of(READ, start, end)
            found += high - low
        return found


class LockRanges:
    """The held ranges of one file, for kinds of locks that see one another.

    `type` is READ or WRITE wherever something is asked; `start` and `end` are inclusive.
    """

    __slots__ = ("_agents", "_holders", "_index", "_next_order", "_owners")

    def __init__(self) -> None:
        self._owners: dict[Owner, _Holder] = {}
        self._holders: dict[int, _Holder] = {}  # by order, and in it
        self._index = (Overlaps(), Overlaps())
        self._next_order = 0
        self._agents: dict[Agent, int] = {}  # how many ranges they hold

    def __len__(self) -> int:
        """How many ranges are held."""
        return len(self._index[READ]) + len(self._index[WRITE])

    def __contains__(self, owner: object) -> bool:
        return owner in self._owners

    def __iter__(self) -> Iterator[tuple[Owner, Held]]:
        """All ranges: owners in their order, then by start."""
        for holder in self._holders.values():
            for held in sorted(holder.ranges[READ] + holder.ranges[WRITE]):
                yield holder.owner, held

    # ---- who is in the way

    def count(self, owner: Owner, type: int, start: int, end: int) -> int:
        """How many ranges are in the way of this request."""
        found = self._count_all(type, start, end)
        if found:
            own = self._owners.get(owner)
            if own is not None:
                found -= own.count(type, start, end)
        return found

    def first(self, owner: Owner, type: int, start: int, end: int) -> tuple[Owner, Held] | None:
        """The first range in the way: owners in their order, then by start."""
        found = self.count(owner, type, start, end)
        if not found:
            return None
        orders: Iterable[int] = self._holders
        if found * found <= len(self._holders):
            orders = sorted(order for order, _ in self._meeting(type, start, end))
        for order in orders:
            holder = self._holders[order]
            if holder.owner != owner:
                meeting = holder.meeting(type, start, end)
                if meeting:
                    return holder.owner, meeting[0]
        raise AssertionError((owner, type, start, end))

    def in_the_way(
        self, owner: Owner, type: int, start: int, end: int
    ) -> Iterator[tuple[Owner, Held]]:
        """All ranges in the way, in no order that matters."""
        if not self.count(owner, type, start, end):
            return
        for order, (held_type, held_start) in self._meeting(type, start, end):
            holder = self._holders[order]
            if holder.owner != owner:
                ranges = holder.ranges[held_type]
                yield holder.owner, ranges[bisect_left(ranges, (held_start,))]

    def sole_holder(self, type: int, start: int, end: int) -> Owner | None:
        """The one owner of all ranges that conflict with a stranger's request; None for several."""
        for order, _ in self._meeting(type, start, end):
            holder = self._holders[order]
            alone = holder.count(type, start, end) == self._count_all(type, start, end)
            return holder.owner if alone else None
        return None

    def in_order(self, owners: set[Owner]) -> list[Owner]:
        """These owners in their order."""
        return sorted(owners, key=lambda owner: self._owners[owner].order)

    def _count_all(self, type: int, start: int, end: int) -> int:
        found = self._index[WRITE].count(start, end)
        return found + self._index[READ].count(start, end) if type == WRITE else found

    def _meeting(self, type: int, start: int, end: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """The ranges that conflict with a stranger's request: order, (type, start)."""
        for begins, _, order in self._index[WRITE].meeting(start, end):
            yield order, (WRITE, begins)
        if type == WRITE:
            for begins, _, order in self._index[READ].meeting(start, end):
                yield order, (READ, begins)

    # ---- what one owner has

    def has_agent(self, agent: Agent) -> bool:
        """Whether this agent holds any range, for whatever owner."""
        return agent in self._agents

    def holds(self, owner: Owner, start: int, end: int) -> bool:
        """Whether the owner holds any of this."""
        own = self._owners.get(owner)
        return own is not None and own.count(WRITE, start, end) > 0

    def first_of(self, owner: Owner, start: int, end: int) -> tuple[Owner, Held] | None:
        """The owner's first range that meets this one."""
        own = self._owners.get(owner)
        meeting = own.meeting(WRITE, start, end) if own is not None else []
        return (owner, meeting[0]) if meeting else None

    def held_by(self, owner: Owner, start: int, end: int) -> list[Held]:
        """What the owner has between `start` and `end`, cut to these bounds, by start."""
        own = self._owners.get(owner)
        if own is None:
            return []
        return [
            held._replace(start=max(held.start, start), end=min(held.end, end))
            for held in own.meeting(WRITE, start, end)
        ]

    def put(self, owner: Owner, new: Held) -> tuple[int, int] | None:
        """The owner now has this there, whatever it had before; type UNLOCK for nothing.

        The result is the range, if any, in which others may have waited for what it had.
        """
        own = self._owners.get(owner)
        if own is None:
            if new.type == UNLOCK:
                return None
            own = _Holder(owner, self._next_order)
            self._next_order += 1
            self._owners[owner] = self._holders[own.order] = own
        read, written = (self._cut(own, type, new) for type in (READ, WRITE))
        if new.type != UNLOCK:
            self._merge(own, new)
        elif not any(own.ranges):
            del self._owners[owner], self._holders[own.order]
        freed = written if new.type == READ else read + written if new.type == UNLOCK else ()
        return (min(freed), max(freed)) if freed else None

    def relabel(self, owner: Owner, vmid: int) -> None:
        """The owner's locks belong to this process now."""
        for ranges in self._owners[owner].ranges:
            for held in ranges:
                self._count_agents(owner, held, -1)
            ranges[:] = [held._replace(vmid=vmid) for held in ranges]
            for held in ranges:
                self._count_agents(owner, held, 1)

    def _cut(self, own: _Holder, type: int, new: Held) -> tuple[int, ...]:
        """Take the owner's ranges of a type other than the new one out from under it.

        The result is the bounds of what was cut.
        """
        if type == new.type:
            return ()
        low, high = own.slice_of(type, new.start, new.end)
        if low == high:
            return ()
        ranges = own.ranges[type]
        first, last = ranges[low], ranges[high - 1]
        rest = []
        if first.start < new.start:
            rest.append(first._replace(end=new.start - 1))
        if last.end > new.end:
            rest.append(last._replace(start=new.end + 1))
        self._replace(own, type, low, high, rest)
        return max(first.start, new.start), min(last.end, new.end)

    def _merge(self, own: _Holder, new: Held) -> None:
        """Enter a range together with those of its type that it touches."""
        low, high = own.slice_of(new.type, new.start - 1, new.end + 1)
        if low < high:
            near = own.ranges[new.type]
            start = min(new.start, near[low].start)
            new = new._replace(start=start, end=max(new.end, near[high - 1].end))
        self._replace(own, new.type, low, high, [new])

    def _replace(self, own: _Holder, type: int, low: int, high: int, by: list[Held]) -> None:
        index = self._index[type]
        for old in own.ranges[type][low:high]:
            index.remove(old.start, old.end, own.order)
            self._count_agents(own.owner, old, -1)
        for held in by:
            index.add(held.start, held.end, own.order)
            self._count_agents(own.owner, held, 1)
        own.ranges[type][low:high] = by

    def _count_agents(self, owner: Owner, held: Held, by: int) -> None:
        for agent in agents_of(owner, held.vmid, held.thread):
            count = self._agents.get(agent, 0) + by
            if count:
                self._agents[agent] = count
            else:
                del self._agents[agent]

    def check(self) -> None:
        """Assert the invariants. O(n log n) in the writers, and n for each of them."""
        entries: tuple[list[object], list[object]] = ([], [])
        assert list(self._holders) == sorted(self._holders)
        assert list(self._holders.values()) == list(self._owners.values())
        for order, holder in self._holders.items():
            assert holder.order == order < self._next_order
            assert self._owners[holder.owner] is holder
            both = sorted(holder.ranges[READ] + holder.ranges[WRITE])
            assert both
            assert all(a.end < b.start for a, b in pairwise(both))
            for type in (READ, WRITE):
                ranges = holder.ranges[type]
                assert all(a.end + 1 < b.start for a, b in pairwise(ranges))
                assert all(0 <= held.start <= held.end and held.type == type for held in ranges)
                entries[type].extend((held.start, held.end, order) for held in ranges)
        for type in (READ, WRITE):
            self._index[type].check()
            assert sorted(self._index[type].meeting(0, 2**64)) == sorted(entries[type])  # type: ignore[type-var]
        for owner, held in self:
            if held.type == WRITE:
                assert not self.count(owner, WRITE, held.start, held.end)
        agents = [agents_of(owner, held.vmid, held.thread) for owner, held in self]
        assert self._agents == Counter(agent for each in agents for agent in each)
