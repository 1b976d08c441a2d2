"""Ranges of IDs, the owned and the quarantined ones, in one sorted tree.

A range has an owner from the moment it is given out; when it is released it stays where it is
and is only marked with the time, so that a release moves nothing in the tree and the range is
still known, exactly as it was, should the release be sent again. It leaves the tree when its
quarantine ends, which is decided elsewhere (`ids.py`), as is which ID comes next.

Beside the tree, which is ordered by first ID, lie an index of each owner's ranges and one of the
quarantined ranges by age. Ranges of equal age go by their first ID.

Invariants: ranges do not overlap; the indexes agree with the tree; a range without a time has an
owner, and one with a time has the owner that released it, or nobody after a part was taken out
of it. Every operation is O(log n).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import inf
from typing import TypeAlias

from sortedcontainers import SortedDict, SortedList

__all__ = ["NOBODY", "OWNED", "Owned", "Quarantined", "RangeTree"]

#: The owner of what nobody owns.
NOBODY = 0
#: Time of release of a range that is still owned.
OWNED = inf

#: (first ID, last ID, owner)
Owned: TypeAlias = tuple[int, int, int]
#: (first ID, last ID, former owner, time of release)
Quarantined: TypeAlias = tuple[int, int, int, float]


class RangeTree:
    """Disjoint ranges with inclusive bounds. Trusts its caller that what is added fits in."""

    __slots__ = ("_by_age", "_longest", "_ranges", "_starts_of")

    def __init__(self) -> None:
        #: first ID -> (last ID, owner, time of release or OWNED)
        self._ranges: SortedDict[int, tuple[int, int, float]] = SortedDict()
        self._starts_of: dict[int, set[int]] = {}  # owner -> first IDs
        self._by_age: SortedList[tuple[float, int]] = SortedList()  # (time of release, first ID)
        #: no range was ever longer, so the one around an ID starts at most this far before it
        self._longest = 1

    def __len__(self) -> int:
        """How many ranges are owned."""
        return len(self._ranges) - len(self._by_age)

    def __iter__(self) -> Iterator[Quarantined]:
        """Every range in ascending order, the owned ones with the time OWNED."""
        return ((start, *rest) for start, rest in self._ranges.items())

    # ---- searching

    def at(self, start: int) -> Quarantined | None:
        """The range that begins with this ID."""
        found = self._ranges.get(start)
        return None if found is None else (start, *found)

    def around(self, id: int) -> Quarantined | None:
        """The range that contains this ID."""
        found = self._ranges.get(id)  # every ID that was moved is a range of its own
        if found is not None:
            return (id, *found)
        # Both bounds are given because a search within one node of the tree is twice as fast.
        for start in self._ranges.irange(id - self._longest + 1, id, reverse=True):
            found = self._ranges[start]
            return (start, *found) if found[0] >= id else None
        return None

    def overlapping(self, start: int, end: int) -> list[Quarantined]:
        """The ranges that share an ID with `start` … `end`."""
        first = self.around(start)
        keys = self._ranges.irange(start if first is None else first[0], end)
        return [(key, *self._ranges[key]) for key in keys]

    def ranges_of(self, owner: int) -> list[tuple[int, int]]:
        """The ranges that `owner` has, in order."""
        return [(start, self._ranges[start][0]) for start in sorted(self._starts_of.get(owner, ()))]

    def oldest(self) -> Quarantined | None:
        """The range that has been in quarantine for the longest time."""
        return self.at(self._by_age[0][1]) if self._by_age else None

    # ---- changing

    def own(self, start: int, end: int, owner: int) -> None:
        """Enter a range, or what remains of one that began with the same ID."""
        self._ranges[start] = (end, owner, OWNED)
        self._longest = max(self._longest, end - start + 1)
        starts = self._starts_of.get(owner)
        if starts is None:
            self._starts_of[owner] = {start}
        else:
            starts.add(start)

    def split(self, start: int, id: int, new_owner: int) -> None:
        """Give one ID of the owned range at `start` to `new_owner`; it becomes up to three."""
        end, owner, _ = self._ranges[start]
        self._disown(start, owner)
        if start < id:
            self.own(start, id - 1, owner)
        self.own(id, id, new_owner)
        if id < end:
            self.own(id + 1, end, owner)

    def quarantine(self, start: int, now: float) -> None:
        """Mark the owned range at `start` as released."""
        end, owner, _ = self._ranges[start]
        self._disown(start, owner)
        self._ranges[start] = (end, owner, now)
        self._by_age.add((now, start))

    def pop_oldest(self) -> tuple[int, int]:
        """Forget the range that has been in quarantine for the longest time."""
        _, start = self._by_age.pop(0)
        return start, self._ranges.pop(start)[0]

    def cut(self, first: int, start: int, end: int) -> None:
        """Take `start` … `end` out of the quarantined range at `first`; the rest keeps its age.

        Nobody released the rest as it is now, so it has no former owner.
        """
        last, _, released_at = self._ranges.pop(first)
        self._by_age.remove((released_at, first))
        for rest_start, rest_end in ((first, start - 1), (end + 1, last)):
            if rest_start <= rest_end:
                self._ranges[rest_start] = (rest_end, NOBODY, released_at)
                self._by_age.add((released_at, rest_start))

    def load(self, owned: Iterable[Owned], quarantined: Iterable[Quarantined]) -> None:
        """Fill an empty tree. O(n log n), and far faster than one by one."""
        resting = {start: (end, owner, since) for start, end, owner, since in quarantined}
        self._by_age.update((since, start) for start, (_, _, since) in resting.items())
        self._ranges.update({start: (end, owner, OWNED) for start, end, owner in owned} | resting)
        for start, (end, owner, released_at) in self._ranges.items():
            self._longest = max(self._longest, end - start + 1)
            if released_at == OWNED:
                self._starts_of.setdefault(owner, set()).add(start)

    def _disown(self, start: int, owner: int) -> None:
        starts = self._starts_of[owner]
        starts.remove(start)
        if not starts:
            del self._starts_of[owner]

    def check(self) -> None:
        """Assert the invariants. O(n log n)."""
        starts_of: dict[int, set[int]] = {}
        by_age = []
        for start, end, owner, released_at in self:
            assert 0 <= end - start < self._longest
            if released_at == OWNED:
                assert owner > NOBODY
                starts_of.setdefault(owner, set()).add(start)
            else:
                assert owner >= NOBODY
                by_age.append((released_at, start))
        assert all(a[1] < b[0] for a, b in pairwise(self))
        assert starts_of == self._starts_of
        assert sorted(by_age) == list(self._by_age)
