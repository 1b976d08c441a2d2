"""The IDs that are free for the asking: a set of gaps, kept sorted.

Allocation is next-fit: it wants the first free ID at or after a cursor. Looking for it between
the ranges in use would walk over all of them when the space is nearly full, so the gaps are
kept too, and the question is one search.

A gap is filed under its *last* ID. The gap that contains the cursor or comes after it is then
simply the first whose key is not below the cursor; and taking IDs from the front of a gap, which
next-fit nearly always does, changes its value but not its key, so nothing sorted moves. A second,
unsorted table finds a gap by its first ID; with both, a range that becomes free meets its
neighbours by two look-ups.

Who had an ID, and how long it stays out of use after that, is not known here: see `ids.py`.

Invariants: gaps do not overlap and do not touch (touching ones are one gap); both tables hold
the same gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from sortedcontainers import SortedDict

__all__ = ["FreeSpace"]


class FreeSpace:
    """Disjoint gaps of free IDs. Bounds are inclusive; every operation is O(log gaps)."""

    __slots__ = ("_end_of", "_start_of")

    def __init__(self) -> None:
        self._start_of: SortedDict[int, int] = SortedDict()  # last ID of a gap -> first ID
        self._end_of: dict[int, int] = {}  # first ID of a gap -> last ID

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Every gap in ascending order."""
        return ((start, end) for end, start in self._start_of.items())

    def take_next(self, cursor: int, most: int) -> tuple[int, int] | None:
        """Take up to `most` IDs from the first free one at or after `cursor`, or past the end
        from the first free one of all. Never crosses what is not free; None if nothing is."""
        gap_end = next(self._start_of.irange(minimum=cursor), None)
        if gap_end is None:
            gap_end = next(iter(self._start_of), None)
            if gap_end is None:
                return None
            cursor = 0
        start = max(self._start_of[gap_end], cursor)
        end = min(gap_end, start + most - 1)
        self._cut(gap_end, start, end)
        return start, end

    def take(self, start: int, end: int) -> None:
        """Take whatever is free of `start` … `end`. O(gaps it meets * log gaps)."""
        for gap_end in list(self._start_of.irange(start, end)):
            self._cut(gap_end, max(self._start_of[gap_end], start), gap_end)
        beyond = next(self._start_of.irange(minimum=end), None)
        if beyond is not None and self._start_of[beyond] <= end:
            self._cut(beyond, max(self._start_of[beyond], start), end)

    def put(self, start: int, end: int) -> None:
        """Make `start` … `end` free; none of them may be free already."""
        gap_start = self._start_of.pop(start - 1, start)  # the gap that ends right before
        gap_end = self._end_of.pop(end + 1, end)  # the gap that begins right after
        self._start_of[gap_end] = gap_start
        self._end_of[gap_start] = gap_end

    def _cut(self, gap_end: int, start: int, end: int) -> None:
        """Take `start` … `end` out of the one gap that ends with `gap_end`."""
        gap_start = self._start_of[gap_end]
        if start > gap_start:
            self._start_of[start - 1] = gap_start
            self._end_of[gap_start] = start - 1
        else:
            del self._end_of[gap_start]
        if end < gap_end:
            self._start_of[gap_end] = end + 1
            self._end_of[end + 1] = gap_end
        else:
            del self._start_of[gap_end]

    def check(self) -> None:
        """Assert the invariants."""
        gaps = list(self)
        assert all(start <= end for start, end in gaps)
        assert all(b[0] > a[1] + 1 for a, b in pairwise(gaps)), gaps
        assert dict(gaps) == self._end_of
