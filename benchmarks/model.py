"""A series of measured values, a line of the table, and whether the line's target is met.

A line compares *ours* with a reference, which is a peer or a limit of the machine, in one of three
ways: how many times slower ours is (`at most`), how many times faster (`at least`), or by how much
larger (`added`, the difference, where there is a reference, and the value itself otherwise).

What the ratio leaves out: it is one of medians, so it says nothing about the tail; the table
therefore gives the 99th percentile of each series next to its median, and the JSON the lowest and
highest ratio of any single round.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Comparison = Literal["slower", "faster", "added"]


@dataclass(frozen=True)
class Series:
    """The values of one contender, round by round, in `unit`."""

    rounds: tuple[tuple[float, ...], ...]
    unit: str

    def percentile(self, share: float) -> float:
        """The value that `share` (0 … 1) of all values, of all rounds, do not exceed."""
        values = sorted(value for one_round in self.rounds for value in one_round)
        return values[min(len(values) - 1, int(share * len(values)))]

    @property
    def p50(self) -> float:
        return statistics.median(value for one_round in self.rounds for value in one_round)

    @property
    def p99(self) -> float:
        return self.percentile(0.99)

    @property
    def count(self) -> int:
        return sum(map(len, self.rounds))

    def summary(self) -> dict[str, Any]:
        return {"p50": self.p50, "p99": self.p99, "count": self.count, "unit": self.unit}


@dataclass(frozen=True)
class Measured:
    """A contender's name with its series, or with the reason why there is none."""

    name: str
    series: Series | None = None
    failure: str | None = None

    def summary(self) -> dict[str, Any]:
        values = self.series.summary() if self.series else {"failure": self.failure}
        return {"name": self.name, **values}


@dataclass(frozen=True)
class Line:
    """One line of the table. `target` is in the unit of the ratio: times, or the series' unit."""

    row: str
    what: str
    placement: str
    comparison: Comparison
    target: float | None
    ours: Measured | None = None
    peer: Measured | None = None
    limit: Measured | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def reference(self) -> Measured | None:
        """What ours is compared with: the peer if the line has one, else the limit."""
        return self.peer or self.limit

    @property
    def ratio(self) -> float | None:
        ours = self.ours.series if self.ours else None
        if ours is None:
            return None
        if self.reference is None:
            return ours.p50 if self.comparison == "added" else None
        if self.reference.series is None:
            return None
        return self._compare(ours.p50, self.reference.series.p50)

    @property
    def spread(self) -> tuple[float, float] | None:
        """The lowest and the highest ratio of one round's medians."""
        ours = self.ours.series if self.ours else None
        theirs = self.reference.series if self.reference else None
        if ours is None or theirs is None:
            return None
        pairs = zip(_medians(ours), _medians(theirs), strict=False)
        ratios = [self._compare(one, other) for one, other in pairs]
        return min(ratios), max(ratios)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is no target or nothing to compare."""
        ratio = self.ratio
        if ratio is None or self.target is None:
            return None
        return ratio >= self.target if self.comparison == "faster" else ratio <= self.target

    @property
    def verdict(self) -> str:
        words = {True: "met", False: "not met", None: "not measured"}[self.met]
        if self.met is None and self.target is None:
            words = "for comparison"
        return words

    def summary(self) -> dict[str, Any]:
        """The line as the JSON file has it."""
        return {
            "row": self.row,
            "what": self.what,
            "placement": self.placement,
            "comparison": self.comparison,
            "ours": self.ours.summary() if self.ours else None,
            "peer": self.peer.summary() if self.peer else None,
            "limit": self.limit.summary() if self.limit else None,
            "ratio": self.ratio,
            "ratio_of_rounds": self.spread,
            "ratio_unit": self._unit,
            "target": self.target,
            "met": self.met,
            "verdict": self.verdict,
            "notes": list(self.notes),
        }

    @property
    def _unit(self) -> str:
        if self.comparison != "added":
            return "times"
        return self.ours.series.unit if self.ours and self.ours.series else ""

    def _compare(self, ours: float, theirs: float) -> float:
        if self.comparison == "added":
            return ours - theirs
        return theirs / ours if self.comparison == "faster" else ours / theirs


def _medians(series: Series) -> Sequence[float]:
    return [statistics.median(one_round) for one_round in series.rounds if one_round]
