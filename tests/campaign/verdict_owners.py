"""What must hold of what only one may have: IDs, pids, locks of files and of bytes of them.

Whoever has something has it from the return of the call that gave it until the call that gives it
back, or until the process is killed. Two such spans of one thing must not overlap, unless both are
shared. The tokens of `file_lock` grow from one span to the next that excludes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from .history import History
from .record import Line

__all__ = ["Span", "judge_owners", "overlaps"]


class Span(NamedTuple):
    """`thing` was had by process `by` in between; alone, unless it is `shared`."""

    thing: Any
    start: int
    end: int
    by: int
    shared: bool = False
    token: tuple[int, int] | None = None


def judge_owners(history: History) -> Iterator[str]:
    """What went wrong."""
    yield from overlaps([*_pids(history), *_spans(history, "id", "id back")])
    locks = list(_spans(history, "locked", "unlock"))
    yield from overlaps(locks)
    yield from _tokens(locks)
    yield from overlaps(_spans(history, "bytes locked", "bytes unlock"))


def overlaps(spans: Iterable[Span]) -> Iterator[str]:
    """Pairs of spans of one thing that must not be."""
    of: dict[Any, list[Span]] = defaultdict(list)
    for span in spans:
        of[span.thing].append(span)
    for thing, those in of.items():
        those.sort(key=lambda span: span.start)
        longest: dict[bool, Span] = {}  # by whether it is shared: the one that ends last
        for span in those:
            for shared, before in longest.items():
                if before.end > span.start and not (shared and span.shared):
                    yield f"{thing!r} was had by two at once: {before} and {span}"
            if span.shared not in longest or span.end > longest[span.shared].end:
                longest[span.shared] = span


def _pids(history: History) -> Iterator[Span]:
    for vmid, line in history.lines("hello"):
        yield Span(("id", line.fields[0]), line.at, history.end_of(vmid).at, vmid)


def _spans(history: History, begin: str, end: str) -> Iterator[Span]:
    """Spans that open with lines of kind `begin` (thing, then shared and token) and close with
    lines of kind `end` (thing)."""
    for vmid, lines in history.of.items():
        open_now: dict[Any, Line] = {}
        for line in lines:
            if line.kind not in (begin, end):
                continue
            thing = _thing(begin, line)
            if line.kind == begin:
                assert thing not in open_now, (vmid, line)
                open_now[thing] = line
            else:
                yield _span(thing, open_now.pop(thing), line.at, vmid)
        last = history.end_of(vmid).at
        for thing, line in open_now.items():
            yield _span(thing, line, max(last, line.at), vmid)


def _thing(kind: str, line: Line) -> tuple[Any, ...]:
    first = line.fields[0]
    return (kind, *first) if isinstance(first, list) else (kind, first)


def _span(thing: Any, begun: Line, end: int, vmid: int) -> Span:
    shared = bool(begun.fields[1]) if len(begun.fields) > 1 else False
    token = tuple(begun.fields[2]) if len(begun.fields) > 2 else None
    return Span(thing, begun.at, end, vmid, shared, token)  # type: ignore[arg-type]


def _tokens(spans: Iterable[Span]) -> Iterator[str]:
    of: dict[Any, list[Span]] = defaultdict(list)
    for span in spans:
        of[span.thing].append(span)
    for those in of.values():
        those.sort(key=lambda span: span.start)
        for before, after in pairwise(those):
            apart = before.end <= after.start and not (before.shared and after.shared)
            if apart and not before.token < after.token:  # type: ignore[operator]
                yield f"the token did not grow: {before}, then {after}"
