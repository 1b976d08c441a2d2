"""Campaigns: a short act of real processes, and that each promise, once broken, is seen to be.

`python -m tests.campaign --minutes 60` is the real thing.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from campaign.act import play
from campaign.history import History
from campaign.record import Line, Record, read
from campaign.script import draw
from campaign.traces import Traces, left_behind
from campaign.verdict_messages import judge_messages
from campaign.verdict_owners import judge_owners
from campaign.verdict_processes import judge_processes
from campaign.verdict_values import judge_values
from processes import Forked

SECOND = 10**9


def history(**of: list[tuple[object, ...]]) -> History:
    """`p2=[(at, kind, …)]`: what VMID 2 has written down."""
    return History(
        {
            int(name[1:]): [Line(at, kind, tuple(fields)) for at, kind, *fields in lines]  # type: ignore[misc]
            for name, lines in of.items()
        }
    )


ASKED = [(1, "send", 3, 1), (9, "answered", 3, 1, True)]
SENT = [(1, "send", 3, 1), (2, "sent", 3, 1), (5, "flushed")]

GOOD = {
    "handled once, in order": (
        judge_messages,
        history(p2=SENT, p3=[(3, "got", 2, 1, True), (7, "bye")]),
    ),
    "killed before it handled": (judge_messages, history(p2=[*SENT, (6, "killing", 3)], p3=[])),
    "not flushed": (judge_messages, history(p2=SENT[:2], p3=[(7, "bye")])),
    "answered": (judge_messages, history(p2=ASKED, p3=[(3, "got", 2, 1, True)])),
    "a signal to one who leaves": (
        judge_messages,
        history(p2=[(0, "hello", 20), (1, "signal", 3), (2, "signalled", 3)], p3=[(3, "bye")]),
    ),
    "a signal from a pid that somebody else had before, to one that somebody has now": (
        judge_messages,
        history(
            p2=[(0, "hello", 20), (1, "killing", 2)],
            p3=[(0, "hello", 30), (2, "bye")],
            p4=[(3, "hello", 20), (4, "signal", 3), (5, "signalled", 3)],
            p5=[(3, "hello", 30), (5, "caught", 20), (90 * SECOND, "bye")],
        ),
    ),
    "an ID after the other has died": (
        judge_owners,
        history(p2=[(1, "id", 7)], p3=[(2, "killing", 2), (3, "id", 7)]),
    ),
    "two readers": (
        judge_owners,
        history(
            p2=[(1, "locked", ["f"], True, [1, 2]), (5, "unlock", ["f"])],
            p3=[(2, "locked", ["f"], True, [1, 1]), (4, "unlock", ["f"])],
        ),
    ),
    "a value that was lost with its writer": (
        judge_values,
        history(
            p2=[(1, "call", 1, "v", "write", 5)],
            p3=[(2, "call", 1, "v", "read", None), (3, "return", 1, 0)],
        ),
    ),
    "a child that somebody else killed, twice": (
        judge_processes,
        history(
            p2=[(1, "killing", 4), (2, "killing", 4)],
            p3=[(1, "child", 4, 5), (3, "waited", 4, None, 9)],
        ),
    ),
    "a child that ended before it was killed": (
        judge_processes,
        history(p2=[(1, "child", 3, 5), (2, "killing", 3), (3, "waited", 3, 5, None)]),
    ),
    "late because the machine stood still": (
        judge_processes,
        history(
            p1=[(200 * SECOND, "stood still", 60.0)],
            p2=[(200 * SECOND, "unexpected", "Timeout(110, 'no child ended')")],
        ),
    ),
}
BAD = {
    "came twice": (judge_messages, history(p3=[(1, "got", 2, 1, True), (2, "got", 2, 1, True)])),
    "came late": (judge_messages, history(p3=[(1, "heard", 2, 2, True), (2, "heard", 2, 1, True)])),
    "came damaged": (judge_messages, history(p3=[(1, "got", 2, 1, False)])),
    "never came": (judge_messages, history(p2=SENT, p3=[(7, "bye")])),
    "a broadcast never came": (
        judge_messages,
        history(p2=[(1, "told", 1, [3]), (2, "flushed")], p3=[(7, "bye")]),
    ),
    "answered by nobody": (judge_messages, history(p2=ASKED, p3=[])),
    "another's answer": (
        judge_messages,
        history(p2=[(9, "answered", 3, 1, False)], p3=[(3, "got", 2, 1, True)]),
    ),
    "a signal was lost": (
        judge_messages,
        history(
            p2=[(0, "hello", 20), (1, "signal", 3), (2, "signalled", 3)],
            p3=[(0, "hello", 30), (60 * SECOND, "bye")],
        ),
    ),
    "a signal that nobody sent": (
        judge_messages,
        history(p2=[(0, "hello", 20)], p3=[(1, "caught", 20)]),
    ),
    "one ID, two owners": (
        judge_owners,
        history(p2=[(1, "id", 7), (9, "id back", 7)], p3=[(3, "id", 7)]),
    ),
    "an ID that is a pid": (judge_owners, history(p2=[(1, "hello", 7)], p3=[(3, "id", 7)])),
    "a writer beside a reader": (
        judge_owners,
        history(
            p2=[(1, "bytes locked", ["f", 0], True), (5, "bytes unlock", ["f", 0])],
            p3=[(2, "bytes locked", ["f", 0], False), (3, "bytes unlock", ["f", 0])],
        ),
    ),
    "a token that fell": (
        judge_owners,
        history(
            p2=[(1, "locked", ["f"], False, [1, 2]), (2, "unlock", ["f"])],
            p3=[(3, "locked", ["f"], False, [1, 1]), (4, "unlock", ["f"])],
        ),
    ),
    "a stale read": (
        judge_values,
        history(
            p2=[(1, "call", 1, "v", "write", 5), (2, "return", 1, None)],
            p3=[(3, "call", 1, "v", "read", None), (4, "return", 1, 0)],
        ),
    ),
    "a wrong exit code": (
        judge_processes,
        history(p2=[(1, "child", 3, 5), (3, "waited", 3, 6, None)]),
    ),
    "a child that nobody killed": (
        judge_processes,
        history(p2=[(1, "child", 3, 5), (3, "waited", 3, None, 9)]),
    ),
    "a VMID for two": (judge_processes, history(p2=[(1, "hello", 1), (2, "hello", 2)])),
    "an error that nobody promised": (judge_processes, history(p2=[(1, "unexpected", "x")])),
    "late, though the machine went on": (
        judge_processes,
        history(
            p1=[(20 * SECOND, "stood still", 10.0)], p2=[(200 * SECOND, "overdue", "ask", 70.0)]
        ),
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_promised_is_accepted(name: str) -> None:
    judge, said = GOOD[name]
    assert list(judge(said)) == []


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_promised_is_seen(name: str) -> None:
    judge: Callable[[History], Iterator[str]]
    judge, said = BAD[name]
    assert len(list(judge(said))) == 1


def test_what_is_left_behind_is_seen(tmp_path: Path) -> None:
    had = Traces.now()
    files = tmp_path / "libos_ipc" / "act"
    files.mkdir(parents=True)
    fd = os.memfd_create("left", os.MFD_CLOEXEC)
    os.truncate(fd, mmap.PAGESIZE)
    memory = mmap.mmap(fd, mmap.PAGESIZE)
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    with open(files / "journal-1", "w") as journal, Forked(lambda line: line.pause()):
        journal.close()
        left = " ".join(left_behind(tmp_path, had, patience_s=0))
    gate.set()
    thread.join()
    memory.close()
    os.close(fd)
    for what in ("file", "process", "descriptors", "mappings", "threads", "children"):
        assert f"left behind: {what}" in left
    (files / "journal-1").unlink()
    files.rmdir()
    files.parent.rmdir()
    assert list(left_behind(tmp_path, had)) == []


def test_half_a_line_is_left_out(tmp_path: Path) -> None:
    record = Record(tmp_path, lambda: 5)
    record("sent", 3, 1)
    record.close()
    with open(tmp_path / "5.log", "ab") as file:
        file.write(b'[12, "se')
    (line,) = read(tmp_path / "5.log")
    assert (line.kind, line.fields) == ("sent", (3, 1))


def test_an_act() -> None:
    """Of the kind that has everything: lanes, deaths and stops, delegation."""
    seed = next(n for n in range(1000) if _has_everything(n))
    outcome = play(draw(seed), seconds=2.0)
    assert not outcome.complaints, outcome
    for kind in ("got", "answered", "told", "id", "locked", "bytes locked", "return", "waited"):
        assert outcome.counts[kind], kind


def _has_everything(seed: int) -> bool:
    script = draw(seed)
    return (script.mood, script.config.transport, script.leader) == ("storm", "native", "process")
