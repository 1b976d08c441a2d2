"""One process's own IDs: handing out single ones without asking the leader.

The leader gives a process ranges; the process hands out their IDs one by one and gives a range
back when it has no more use for it. A new ID is wanted at every fork and every thread, so the
common paths are a cursor and one dict: `new` counts through the current range, `release` looks
the ID up among those handed out. What needs searching (a range by one of its IDs) happens only
when a range begins, ends or splits, over the few ranges that a process has.

A range lives through three stages:

    unopened --> current --> opened to the last ID --> given back
                                 ^    |
                                 +----+  its IDs, some time after their release, once more

`pending` counts the IDs of a range that are handed out or were never handed out; at 0 every one
was used and released, and the range is *idle*. Idle and unopened ranges are the wholly free
ones; `reserve` of them stay here, unopened ones rather than idle ones, the rest goes back. Two
ranges never go back: the current one while it has IDs left, even if all it handed out was
released (a process that forks and waits in turn would ask the leader each time), and an unopened
one without which `low` would ask for the next.

New IDs come from the current range, then from those that have rested for `quarantine_s`, the
longest-rested first, then from an unopened range: a process keeps few ranges, and no ID comes
back while a message to its last bearer may be on its way. An ID moved to another process splits
its range here exactly as at the leader, so that what is given back later is a range that the
leader knows. An ID that another process moved here is not known here: the leader keeps it.

Refused: ranges that overlap one we have, and releasing an ID of ours that is not handed out.

Invariants: an ID of a range is handed out, resting or not yet handed out, and only one of these;
only the current range is opened in part.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from itertools import pairwise

from libos_ipc.core.resting import OldestFirst
from libos_ipc.errors import InvalidRange

__all__ = ["LocalIds"]


class _Range:
    """A range as the leader knows it. Both bounds are inclusive."""

    __slots__ = ("end", "pending", "size", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.size = self.pending = end - start + 1  # `pending`: handed out, or not yet


class LocalIds:
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
        "quarantine_s",
        "reserve",
    )

    def __init__(self, *, quarantine_s: float, reserve: int = 1) -> None:
        if reserve < 0 or not quarantine_s >= 0:
            raise ValueError(f"reserve {reserve} or quarantine_s {quarantine_s} below 0")
        self.quarantine_s = quarantine_s
        self.reserve = reserve
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
        return self._give_back()

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
        return 4 * (self._last - self._next + 1 + self._waiting) < self._granted

    def drain(self) -> list[tuple[int, int]]:
        """Give up all ranges, as the leader knows them, whatever of them is in use."""
        ranges = [(start, self._ranges[start].end) for start in self._starts]
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

    def _give_back(self) -> list[tuple[int, int]]:
        """Part with the wholly free ranges that are not needed as the reserve."""
        back = []
        while self._idle and len(self._idle) + len(self._unopened) > self.reserve:
            idle = next(iter(self._idle.values()))
            self._remove(idle)
            for id in range(idle.start, idle.end + 1):
                del self._resting[id]
            back.append(idle)
        while len(self._unopened) > self.reserve:
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
