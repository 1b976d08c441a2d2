"""The records of all processes of an act, joined: who did what when, and how each ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .record import Line, read

__all__ = ["FOREVER", "End", "History"]

FOREVER = 2**63 - 1


class End(NamedTuple):
    """`at` is the last moment at which the process is known to have lived on purpose: just before
    it was killed (the first time), or when it said goodbye. `killed` says which."""

    at: int
    killed: bool


class History:
    """`of[vmid]` are the lines of a process, in order."""

    def __init__(self, of: dict[int, list[Line]]) -> None:
        self.of = of
        self.ends: dict[int, End] = {}
        for vmid, lines in of.items():
            for line in lines:
                if line.kind == "killing":
                    self._end(int(line.fields[0]), End(line.at, True))
                elif line.kind == "bye":
                    self._end(vmid, End(line.at, False))

    @classmethod
    def in_directory(cls, directory: Path) -> History:
        return cls({int(path.stem): read(path) for path in sorted(directory.glob("*.log"))})

    def _end(self, vmid: int, end: End) -> None:
        before = self.ends.get(vmid)
        if before is None or (end.killed and (not before.killed or end.at < before.at)):
            self.ends[vmid] = end

    def end_of(self, vmid: int) -> End:
        return self.ends.get(vmid, End(FOREVER, False))

    def lines(self, *kinds: str) -> Iterator[tuple[int, Line]]:
        """Lines of these kinds, of all processes, each process's in order."""
        wanted = set(kinds)
        for vmid, lines in self.of.items():
            for line in lines:
                if line.kind in wanted:
                    yield vmid, line

    def counts(self) -> Counter[str]:
        return Counter(line.kind for lines in self.of.values() for line in lines)
