"""What must hold of messages: each once, in order, whole; an answer belongs to its request.

Numbers count what one process sends to one other, whatever it sends: `send` or `ask` is on record
before a call, `sent`, `unsent` or `answered` after it, and `got` at the receiver. A broadcast
(`told`, `heard`) and a real-time signal (`signalled`, `caught`) have counts of their own. What the
sender had seen arrive (`flushed`) was handled by every receiver that was not killed; before that,
what a dead process sent may be missing from some point on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

from .history import History

__all__ = ["judge_messages"]

#: (sender, receiver) -> numbers in the order in which they came
Come: TypeAlias = dict[tuple[int, int], list[int]]
Known: TypeAlias = dict[tuple[int, int], set[int]]

#: What a signal may take from its sender, by way of the leader, to its receiver.
UNDER_WAY_NS = 3_000_000_000


def judge_messages(history: History) -> Iterator[str]:
    """What went wrong."""
    got, heard = _come(history, "got"), _come(history, "heard")
    yield from _in_order("message", got)
    yield from _in_order("broadcast", heard)
    known_got, known_heard = _known(got), _known(heard)
    yield from _nothing_lost(history, known_got, known_heard)
    yield from _no_answer_without_handling(history, known_got)
    yield from _signals(history)
    for dst, line in history.lines("got", "heard"):
        if not line.fields[2]:
            yield f"{line.kind} {line.fields} at {dst}: it was not what was sent"


def _come(history: History, kind: str) -> Come:
    come: Come = defaultdict(list)
    for dst, line in history.lines(kind):
        src, number = line.fields[:2]
        come[src, dst].append(number)
    return come


def _known(come: Come) -> Known:
    return defaultdict(set, {pair: set(numbers) for pair, numbers in come.items()})


def _in_order(what: str, come: Come) -> Iterator[str]:
    for (src, dst), numbers in come.items():
        counts = Counter(numbers)
        for before, after in pairwise(numbers):
            if after <= before:
                how = "twice" if counts[after] > 1 else "late"
                yield f"{what} {after} from {src} came to {dst} {how}, behind {before}"


def _nothing_lost(history: History, got: Known, heard: Known) -> Iterator[str]:
    """All that was flushed was handled by those who lived to their goodbye after that."""
    for src, lines in history.of.items():
        last = max((line.at for line in lines if line.kind == "flushed"), default=0)
        for line in lines:
            if line.at > last:
                break
            if line.kind in ("sent", "answered"):
                receivers, number, come = [line.fields[0]], line.fields[1], got
            elif line.kind == "told":
                receivers, number, come = line.fields[1], line.fields[0], heard
            else:
                continue
            for dst in receivers:
                end = history.end_of(dst)
                if not end.killed and end.at > last and number not in come[src, dst]:
                    yield f"{line.kind} {number} from {src} was never handled by {dst}"


def _no_answer_without_handling(history: History, got: Known) -> Iterator[str]:
    for src, line in history.lines("answered"):
        dst, number, right = line.fields
        if not right:
            yield f"request {number} from {src} to {dst} got another's answer"
        if number not in got[src, dst]:
            yield f"request {number} from {src} to {dst} was answered, and never handled"


def _signals(history: History) -> Iterator[str]:
    """Real-time signals: as many as were sent to those who lived on, and never more. One that was
    under way while its receiver left has perhaps not been caught. They go from pid to pid, and a
    pid has several owners in the course of time; so both are counted by pids."""
    pids = {vmid: line.fields[0] for vmid, line in history.lines("hello")}
    begun: Counter[tuple[int, int]] = Counter()
    owed: Counter[tuple[int, int]] = Counter()
    caught: Counter[tuple[int, int]] = Counter()
    for src, line in history.lines("signal", "signalled"):
        dst = line.fields[0]
        end, pair = history.end_of(dst), (pids.get(src, 0), pids.get(dst, 0))
        if line.kind == "signal":
            begun[pair] += 1
        elif line.at + UNDER_WAY_NS < end.at and not end.killed:
            owed[pair] += 1
    for dst, line in history.lines("caught"):
        caught[line.fields[0], pids.get(dst, 0)] += 1
    for src, dst in begun.keys() | caught.keys():
        count = caught[src, dst]
        if not owed[src, dst] <= count <= begun[src, dst]:
            sent = f"{begun[src, dst]} signals, {owed[src, dst]} of them in time"
            yield f"pid {dst} caught {count} signals from pid {src}, who sent {sent}"
