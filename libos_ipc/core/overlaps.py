"""Which ranges meet this one? A set of ranges with inclusive bounds that may lie anyhow.

*How many* meet it is simple where it need not be said which: all but those that begin after its
end and those that end before its start, and these two groups have nothing in common. So two
sorted lists, one of the starts and one of the ends, answer by two searches.

*Which* they are needs an order in which they lie close together. Ranges are filed by magnitude
(the number of binary digits of their length): of one magnitude, those that meet a range begin
less than one length before it. They are walked over from the last to the first, and the walk is
over once as many were found as there must be, so that what lies before costs nothing.

The lists are plain lists: adding to one of 10 000 is a search and a move of some pages of
pointers, which is faster there than any tree.

Invariants: all lists hold the same ranges. Counting, adding and removing take O(log n) steps.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import TypeAlias

__all__ = ["Entry", "Overlaps"]

#: (start, end, key): the same three are never added twice
Entry: TypeAlias = tuple[int, int, int]


class Overlaps:
    """A set of (start, end, key)."""

    __slots__ = ("_by_magnitude", "_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._by_magnitude: dict[int, list[Entry]] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, end: int, key: int) -> None:
        """Enter a range."""
        insort(self._starts, start)
        insort(self._ends, end)
        magnitude = (end - start).bit_length()
        alike = self._by_magnitude.get(magnitude)
        if alike is None:
            self._by_magnitude[magnitude] = [(start, end, key)]
        else:
            insort(alike, (start, end, key))

    def remove(self, start: int, end: int, key: int) -> None:
        """Take out a range that is there."""
        del self._starts[bisect_left(self._starts, start)]
        del self._ends[bisect_left(self._ends, end)]
        magnitude = (end - start).bit_length()
        alike = self._by_magnitude[magnitude]
        del alike[bisect_left(alike, (start, end, key))]
        if not alike:
            del self._by_magnitude[magnitude]

    def count(self, start: int, end: int) -> int:
        """How many of the ranges meet `start` … `end`."""
        return bisect_right(self._starts, end) - bisect_left(self._ends, start)

    def meeting(self, start: int, end: int) -> Iterator[Entry]:
        """The ranges that meet `start` … `end`, in no order that matters."""
        left = self.count(start, end)
        if not left:
            return
        for magnitude, alike in self._by_magnitude.items():
            position = bisect_left(alike, (end + 1,))
            first = bisect_left(alike, (start - (1 << magnitude) + 1,), 0, position)
            while position > first:
                position -= 1
                entry = alike[position]
                if entry[1] >= start:
                    yield entry
                    left -= 1
                    if not left:
                        return

    def check(self) -> None:
        """Assert the invariants."""
        entries = [entry for alike in self._by_magnitude.values() for entry in alike]
        assert len(set(entries)) == len(entries)
        assert sorted(start for start, _, _ in entries) == self._starts
        assert sorted(end for _, end, _ in entries) == self._ends
        for magnitude, alike in self._by_magnitude.items():
            assert alike == sorted(alike)
            assert alike
            assert all((end - start).bit_length() == magnitude for start, end, _ in alike)
