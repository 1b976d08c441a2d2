"""The leader's ranges of IDs: who owns which, and which to give out next.

Members hand out single IDs by themselves; what they get from the leader is a range. An ID that
was released must not come back at once, or a signal meant for a process that is gone would
reach a stranger. Two habits see to that. Allocation is *next-fit*: it continues after the last
ID given out and wraps at the end of the space, so that a freed ID is far away. And a released
range is *quarantined*: for some seconds it is passed over as long as any other ID is free;
after that the oldest go first. Only a space without a free ID at all is full.

      1       33            65      97      129                      id_max
      | owner 2 | quarantined | owner 3 |  gap  | owner 2 |  gap ... |

Ranges lie in one sorted tree (`range_tree.py`), the gaps between them in another
(`free_space.py`), so that neither a full nor an empty stretch is ever walked over.

A range is as long as it was given out until the `move` of one ID splits it in three; ranges
that touch are never merged, since a release must name one range exactly as it stands. A release
that came before, sent again because its answer was lost, is accepted while the quarantine
remembers it; any other mismatch is `InvalidRange`.

What left quarantine is put into the gaps a few ranges per call, never all at once: the ranges
of a large dead process would otherwise make one later request wait for seconds. A range whose
time is over but whose turn has not come is not lost: it is the next one when no gap is left.

Nothing here is drawn at random, and a call that is refused, or finds nothing left to do, changes
nothing: the calls that succeeded, in their order, bring a successor to the same state.

Invariants: ranges and gaps tile `id_min` … `id_max` without overlap. Every operation is O(log n)
in the number of ranges and gaps.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

from libos_ipc.core.free_space import FreeSpace
from libos_ipc.core.range_tree import NOBODY, OWNED, Owned, Quarantined, RangeTree
from libos_ipc.errors import InvalidRange, PermissionDenied

__all__ = ["EXPIRE_AT_MOST", "NOBODY", "IdSpace", "Snapshot"]

#: Ranges put from quarantine into the gaps by one call; two would keep up, more catches up.
EXPIRE_AT_MOST = 16

#: (id_min, id_max, range_size, quarantine_s), the ID at which next-fit looks next, the owned
#: ranges (start, end, owner), the quarantined ones (start, end, former owner, released at).
Snapshot: TypeAlias = tuple[
    tuple[int, int, int, float], int, tuple[Owned, ...], tuple[Quarantined, ...]
]


class IdSpace:
    """All IDs from `id_min` to `id_max`, given out in ranges of at most `range_size`.

    Bounds of ranges are inclusive. Owners are VMIDs from 1; `now` is in seconds of any clock
    that does not run backwards, also from one leader to the next. `quarantine_s` is in seconds.
    """

    __slots__ = ("_cursor", "_free", "_ranges", "id_max", "id_min", "quarantine_s", "range_size")

    def __init__(
        self,
        *,
        id_max: int = 2**22 - 1,
        range_size: int = 32,
        quarantine_s: float = 180.0,
        id_min: int = 1,
    ) -> None:
        if not 1 <= id_min <= id_max < 2**32:
            raise ValueError(f"no space of IDs from {id_min} to {id_max}")
        if range_size < 1 or not quarantine_s >= 0:
            raise ValueError(f"range_size {range_size} or quarantine_s {quarantine_s} too small")
        self.id_min = id_min
        self.id_max = id_max
        self.range_size = range_size
        self.quarantine_s = quarantine_s
        self._cursor = id_min  # where next-fit looks next
        self._ranges = RangeTree()
        self._free = FreeSpace()
        self._free.put(id_min, id_max)

    def __len__(self) -> int:
        """How many ranges are owned."""
        return len(self._ranges)

    # ---- giving out and taking back

    def alloc_range(self, owner: int, now: float) -> tuple[int, int] | None:
        """Give `owner` the next range: (first, last) of 1 … `range_size` IDs.

        It is shorter where the gap is; it never touches what is in use. None if no ID is free.
        """
        self._check_owner(owner)
        self._expire(now)
        taken = self._free.take_next(self._cursor, self.range_size) or self._take_oldest()
        if taken is not None:
            self._cursor = taken[1] + 1
            self._ranges.own(*taken, owner)
        return taken

    def take(self, start: int, end: int, owner: int) -> None:
        """Give `owner` exactly this range, in quarantine or not, as the replay of a journal does.

        Next-fit goes on after it, as if it had been allocated. InvalidRange if any ID of it is
        owned or outside the space.
        """
        self._check_owner(owner)
        attempt = f"VMID {owner} taking IDs {start}-{end}"
        if not self.id_min <= start <= end <= self.id_max:
            raise InvalidRange(f"{attempt}: not within {self.id_min}-{self.id_max}")
        meets = self._ranges.overlapping(start, end)
        for first, last, other, released_at in meets:
            if released_at == OWNED:
                raise InvalidRange(f"{attempt}: VMID {other} owns {first}-{last}")
        for first, *_ in meets:
            self._ranges.cut(first, start, end)
        self._free.take(start, end)
        self._cursor = end + 1
        self._ranges.own(start, end, owner)

    def release_range(self, start: int, end: int, owner: int, now: float) -> None:
        """Take back a range that `owner` has, exactly as it stands after splits.

        Anything else is InvalidRange and changes nothing; only the same release once more is
        accepted silently, while the range is still in quarantine and nobody got any of it.
        """
        self._check_owner(owner)
        found = self._ranges.at(start)
        if found is not None and found[:3] == (start, end, owner):
            released_at = found[3]
            if released_at == OWNED:
                self._expire(now)
                self._ranges.quarantine(start, now)
                return
            if released_at + self.quarantine_s > now:
                return
        raise InvalidRange(f"VMID {owner} releasing IDs {start}-{end}: {self._state_of(start)}")

    def release_owner(self, owner: int, now: float) -> list[tuple[int, int]]:
        """Take back all that `owner` has, and return it in order. O(k log n) for k ranges."""
        ranges = self._ranges.ranges_of(owner)
        if ranges:
            self._expire(now)
        for start, _ in ranges:
            self._ranges.quarantine(start, now)
        return ranges

    def move(self, id: int, new_owner: int, *, by: int | None = None, now: float) -> None:
        """Give one owned ID to another owner, splitting its range into up to three.

        Nothing changes if `new_owner` has it already, whoever asks. InvalidRange if nobody owns
        it; PermissionDenied if `by` is given and is not its owner.
        """
        self._check_owner(new_owner)
        attempt = f"moving ID {id} to VMID {new_owner}"
        found = self._ranges.around(id)
        if found is None or found[3] != OWNED:
            raise InvalidRange(f"{attempt}: {self._state_of(id)}")
        start, _, owner, _ = found
        if owner == new_owner:
            return
        if by is not None and by != owner:
            raise PermissionDenied(f"VMID {by} {attempt}: it belongs to VMID {owner}")
        self._expire(now)
        self._ranges.split(start, id, new_owner)

    # ---- asking

    def owner_of(self, id: int) -> int:
        """The VMID that owns the ID; 0 for nobody."""
        found = self._ranges.around(id)
        return found[2] if found is not None and found[3] == OWNED else NOBODY

    def ranges_of(self, owner: int) -> list[tuple[int, int]]:
        """The ranges that `owner` has, in order. O(k log k) for k ranges."""
        return self._ranges.ranges_of(owner)

    # ---- compacting a journal

    def snapshot(self) -> Snapshot:
        """The whole state as plain tuples, for `from_snapshot`. O(n)."""
        limits = (self.id_min, self.id_max, self.range_size, self.quarantine_s)
        owned = tuple(entry[:3] for entry in self._ranges if entry[3] == OWNED)
        quarantined = tuple(entry for entry in self._ranges if entry[3] != OWNED)
        return limits, self._cursor, owned, quarantined

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot) -> IdSpace:
        """The space that `snapshot` was made of; sequences of any kind stand for tuples.

        InvalidRange if ranges overlap or lie outside the space. O(n log n).
        """
        (id_min, id_max, range_size, quarantine_s), cursor, owned, quarantined = snapshot
        space = cls(id_min=id_min, id_max=id_max, range_size=range_size, quarantine_s=quarantine_s)
        space._cursor = cursor
        space._ranges.load(owned, quarantined)
        space._free = FreeSpace()
        if len(owned) + len(quarantined) != sum(1 for _ in space._ranges):
            raise InvalidRange(f"snapshot of IDs {id_min}-{id_max}: two ranges at one place")
        bounds = [(id_min - 1, id_min - 1), *(entry[:2] for entry in space._ranges)]
        for (_, before), (start, end) in pairwise([*bounds, (id_max + 1, id_max + 1)]):
            if not before < start <= end:
                raise InvalidRange(f"snapshot of IDs {id_min}-{id_max}: {start}-{end} is misplaced")
            if before + 1 < start:
                space._free.put(before + 1, start - 1)
        return space

    # ---- quarantine

    def _expire(self, now: float) -> None:
        """Put the oldest ranges whose quarantine is over into the gaps, a few per call."""
        for _ in range(EXPIRE_AT_MOST):
            oldest = self._ranges.oldest()
            if oldest is None or oldest[3] + self.quarantine_s > now:
                return
            self._free.put(*self._ranges.pop_oldest())

    def _take_oldest(self) -> tuple[int, int] | None:
        """Take the head of the range that has been in quarantine for the longest time."""
        oldest = self._ranges.oldest()
        if oldest is None:
            return None
        start = oldest[0]
        end = min(oldest[1], start + self.range_size - 1)
        self._ranges.cut(start, start, end)
        return start, end

    # ---- refusals, and what must hold

    def _check_owner(self, owner: int) -> None:
        if owner <= NOBODY:
            raise InvalidRange(f"VMID {owner} cannot own IDs: VMIDs count from 1")

    def _state_of(self, id: int) -> str:
        """What an error says about an ID."""
        if not self.id_min <= id <= self.id_max:
            return f"{id} is not within {self.id_min}-{self.id_max}"
        found = self._ranges.around(id)
        if found is None or found[3] != OWNED:
            return f"nobody owns {id}"
        start, end, owner, _ = found
        return f"VMID {owner} owns {start}-{end}"

    def check(self) -> None:
        """Assert the invariants. O(n log n)."""
        self._ranges.check()
        self._free.check()
        tiles = sorted([*(entry[:2] for entry in self._ranges), *self._free])
        assert tiles[0][0] == self.id_min
        assert tiles[-1][1] == self.id_max
        assert all(a[1] + 1 == b[0] for a, b in pairwise(tiles)), tiles
        assert self.id_min <= self._cursor <= self.id_max + 1
