"""The plain twin of LocalIds: the same rules in a few dicts.

A range goes back when it is idle, or unopened and not needed as the reserve. What has rested the
longest is found by the order of a dict, with `OldestFirst`.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

from libos_ipc.errors import InvalidRange

__all__ = ["LocalIdsTwin", "OldestFirst"]


class OldestFirst:
    """Takes entries out of `since` (key -> time), the oldest first, after `rest_s` seconds."""

    __slots__ = ("_copied", "_front", "_rest_s", "_since")

    def __init__(self, since: dict[int, float], rest_s: float) -> None:
        self._since = since
        self._rest_s = rest_s
        self._copied: Iterator[tuple[int, float]] = iter(())
        self._front: tuple[int, float] | None = None  # the entry of the copy that is next

    def pop(self, now: float) -> int | None:
        """Delete the oldest entry and return its key; None if even that one is too young."""
        while self._since:
            if self._front is None:
                self._front = next(self._copied, None)
                if self._front is None:
                    self._copied = iter(list(self._since.items()))
                    continue
            key, since = self._front
            if self._since.get(key) == since:
                if since + self._rest_s > now:
                    return None
                del self._since[key]
                self._front = None
                return key
            self._front = None
        return None


class _Range:
    """A range as the leader knows it. Both bounds are inclusive."""

    __slots__ = ("end", "pending", "size", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.size = self.pending = end - start + 1  # `pending`: handed out, or not yet


class LocalIdsTwin:
    """The IDs of one process. `now` and `quarantine_s` are in seconds; takes no lock itself.

    `reserve` is the number of wholly free ranges beside the current one that stay local.
    """

    __slots__ = (
        "_current",
        "_granted",
        "_idle",
        "_last",
        "_live",
        "_next",
        "_oldest_first",
        "_ranges",
        "_resting",
        "_starts",
        "_unopened",
        "_waiting",
        "asked",
        "batch",
        "quarantine_s",
        "reserve",
    )

    def __init__(self, *, quarantine_s: float, reserve: int = 1) -> None:
        if reserve < 0 or not quarantine_s >= 0:
            raise ValueError(f"reserve {reserve} or quarantine_s {quarantine_s} below 0")
        self.quarantine_s = quarantine_s
        self.reserve = reserve
        self.asked = False
        self._clear()

    def _clear(self) -> None:
        self._starts: list[int] = []  # first IDs of all ranges, ascending
        self._ranges: dict[int, _Range] = {}  # by first ID
        self._current = _Range(1, 0)
        self._next = 1  # the next ID of the current range, up to …
        self._last = 0
        self._unopened: deque[_Range] = deque()
        self._waiting = 0  # IDs in unopened ranges
        self._idle: dict[int, _Range] = {}  # by first ID, the longest idle first
        self._live: dict[int, _Range] = {}  # IDs handed out
        self._resting: dict[int, float] = {}  # ID -> released at
        self._oldest_first = OldestFirst(self._resting, self.quarantine_s)
        self._granted = 1  # size of the range granted last
        self.batch = 1

    # ---- single IDs

    def new(self, now: float) -> int | None:
        """The next ID, or None: ask the leader for a range first, and `grant` it."""
        id = self._next
        if id > self._last:
            return self._reuse(now) or self._open_next()
        self._next = id + 1
        self._live[id] = self._current
        return id

    def release(self, id: int, now: float) -> list[tuple[int, int]] | None:
        """Take an ID back; the result is the ranges to give back to the leader now.

        None if it is not of our ranges: the leader knows whose it is. InvalidRange if it is ours
        but not handed out.
        """
        of = self._live.pop(id, None)
        if of is None:
            if self.owns(id):
                raise InvalidRange(f"releasing ID {id}: it is not handed out")
            return None
        self._resting[id] = now
        of.pending = pending = of.pending - 1
        if pending:
            return []
        self._idle[of.start] = of
        if len(self._idle) + len(self._unopened) <= self.reserve + 2 * (self.batch - 1):
            return []
        return self.surplus()

    def owns(self, id: int) -> bool:
        """Whether the ID is in one of our ranges, handed out or not."""
        return self._find(id) is not None

    def in_use(self, id: int) -> bool:
        """Whether the ID was handed out here and not released since."""
        return id in self._live

    # ---- whole ranges

    def grant(self, start: int, end: int) -> None:
        """A range has come from the leader. InvalidRange if it is none, or overlaps ours."""
        position = bisect_right(self._starts, end) - 1
        overlaps = position >= 0 and self._ranges[self._starts[position]].end >= start
        if not 1 <= start <= end or overlaps:
            raise InvalidRange(f"granted IDs {start}-{end}: no range, or some of them are here")
        granted = _Range(start, end)
        self._enter(granted)
        self._unopened.append(granted)
        self._waiting += granted.size
        self._granted = granted.size

    def low(self) -> bool:
        """Whether fewer IDs are left than a quarter of a range: time to ask for the next one."""
        return 4 * (self._last - self._next + 1 + self._waiting) < self._granted * self.batch

    def ranges(self) -> list[tuple[int, int]]:
        """The bounds of all ranges, ascending."""
        return [(start, self._ranges[start].end) for start in self._starts]

    def drain(self) -> list[tuple[int, int]]:
        """Give up all ranges, as the leader knows them, whatever of them is in use."""
        ranges = self.ranges()
        self._clear()
        return ranges

    def moved_away(self, id: int) -> None:
        """The ID belongs to another process now: its range splits, unless it is not ours."""
        whole = self._find(id)
        if whole is None:
            return
        self._remove(whole)
        was_pending = self._resting.pop(id, None) is None
        self._live.pop(id, None)
        low, high = self._split(whole, id, was_pending)
        pieces = [piece for piece in (low, high) if piece.size]
        for piece in pieces:
            self._enter(piece)
        if whole is self._current:
            self._split_current(id, low, high)
        elif whole in self._unopened:
            position = self._unopened.index(whole)
            del self._unopened[position]
            for piece in reversed(pieces):
                self._unopened.insert(position, piece)
            self._waiting -= 1
        for piece in pieces:
            if not piece.pending:
                self._idle[piece.start] = piece

    # ---- beyond the common path

    def _reuse(self, now: float) -> int | None:
        """Hand out the ID that has rested for the longest time, if that is long enough."""
        id = self._oldest_first.pop(now)
        if id is None:
            return None
        of = self._find(id)
        assert of is not None
        if not of.pending:
            del self._idle[of.start]
        of.pending += 1
        self._live[id] = of
        return id

    def _open_next(self) -> int | None:
        """Begin with the range that has waited for the longest time."""
        if not self._unopened:
            return None
        opened = self._unopened.popleft()
        self._waiting -= opened.size
        self._current = opened
        self._next = opened.start + 1
        self._last = opened.end
        self._live[opened.start] = opened
        return opened.start

    def surplus(self) -> list[tuple[int, int]]:
        """Part with the wholly free ranges that are not needed as the reserve."""
        back = []
        while self._idle and len(self._idle) + len(self._unopened) > self.reserve:
            idle = next(iter(self._idle.values()))
            self._remove(idle)
            for id in range(idle.start, idle.end + 1):
                del self._resting[id]
            back.append(idle)
        while self.batch == 1 and len(self._unopened) > self.reserve:
            newest = self._unopened.pop()
            self._waiting -= newest.size
            if self.low():
                self._unopened.append(newest)
                self._waiting += newest.size
                break
            self._remove(newest)
            back.append(newest)
        return [(of.start, of.end) for of in back]

    def _split(self, whole: _Range, id: int, was_pending: bool) -> tuple[_Range, _Range]:
        """What lies below `id` and what lies above, either of them possibly empty.

        The larger piece stays the object it was, so that only the IDs of the smaller one are
        walked over.
        """
        low, high = _Range(whole.start, id - 1), _Range(id + 1, whole.end)
        small = low if low.size < high.size else high
        for other in range(small.start, small.end + 1):
            if other in self._live:
                self._live[other] = small
            elif other in self._resting:
                small.pending -= 1
        whole.pending -= small.pending + was_pending
        whole.size -= small.size + 1
        if small is low:
            whole.start = id + 1
            return low, whole
        whole.end = id - 1
        return whole, high

    def _split_current(self, id: int, low: _Range, high: _Range) -> None:
        """Go on counting in the piece where the next ID lies."""
        if id < self._next:
            self._current = high
            return
        self._current = low
        self._last = id - 1
        if high.size:
            self._unopened.appendleft(high)
            self._waiting += high.size

    def _find(self, id: int) -> _Range | None:
        position = bisect_right(self._starts, id) - 1
        if position < 0:
            return None
        of = self._ranges[self._starts[position]]
        return of if id <= of.end else None

    def _enter(self, new: _Range) -> None:
        insort(self._starts, new.start)
        self._ranges[new.start] = new

    def _remove(self, old: _Range) -> None:
        del self._starts[bisect_right(self._starts, old.start) - 1]
        del self._ranges[old.start]
        self._idle.pop(old.start, None)

    def check(self) -> None:
        """Assert the invariants. O(n) in the IDs of our ranges."""
        assert self._starts == sorted(self._ranges)
        ranges = [self._ranges[start] for start in self._starts]
        assert all(a.end < b.start for a, b in pairwise(ranges))
        assert len(self._live) + len(self._resting) <= sum(of.size for of in ranges)
        fresh = set(range(self._next, self._last + 1))
        assert not fresh or (self._current in ranges and self._last == self._current.end)
        for of in self._unopened:
            fresh.update(range(of.start, of.end + 1))
        assert len(fresh) == self._last - self._next + 1 + self._waiting
        for of in ranges:
            ids = range(of.start, of.end + 1)
            assert all((i in self._live) + (i in self._resting) + (i in fresh) == 1 for i in ids)
            assert all(self._live[i] is of for i in ids if i in self._live)
            assert of.pending == sum(i not in self._resting for i in ids)
            assert (of.start in self._idle) == (not of.pending)
            assert of.size == of.end - of.start + 1 > 0
        assert all(self._ranges[start] is of for start, of in self._idle.items())
        assert fresh <= {i for of in ranges for i in range(of.start, of.end + 1)}
