"""A real leader, or heir, killed at some of its system calls: `leader_kills.py` has all of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from leader_kills import SCENES, Killer, NotAllowed, compiled, play
from processes import Forked, Line, poll

from libos_ipc.runtime.journal_file import JournalFile, read_journal, seal

#: Far behind the last stop.
NEVER = 1 << 30
#: Instructions after a commit at which the leader is killed, at most: the answer is not yet out.
MOST_STEPS = 2_000


@pytest.fixture(scope="module")
def tracer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tracer, compiled."""
    return compiled(tmp_path_factory.mktemp("tracer"))


@pytest.fixture
def path(tmp_path: Path, runtime_dir: Path) -> Path:
    """A file to be locked, beside a runtime directory that is the default one."""
    path = tmp_path / "file"
    path.touch()
    return path


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("victim", ["leader", "heir"])
def test_whoever_dies_when_the_caller_is_answered_once(
    name: str, victim: str, tracer: Path, path: Path
) -> None:
    """At a stop drawn from a seed, up to the number that there were without a kill."""
    try:
        stops, _ = play(tracer, path, SCENES[name], victim, NEVER)
    except NotAllowed:
        pytest.skip("the system lets us trace no process")
    n = random.Random(f"{name} {victim}").randint(1, max(stops, 1))
    play(tracer, path, SCENES[name], victim, n)


@pytest.mark.parametrize("name", SCENES)
def test_a_leader_dies_between_record_and_answer(name: str, tracer: Path, path: Path) -> None:
    steps = random.Random(name).randrange(MOST_STEPS)
    try:
        _, there = play(tracer, path, SCENES[name], "leader", 1, steps=steps)
    except NotAllowed:
        pytest.skip("the system lets us trace no process, or watch its memory")
    assert there


LONG = [("sync", "value", number, b"x" * 50) for number in range(900)]
SHORT = ("snapshot", b"y" * 5000)


def shorten(line: Line, path: str) -> None:
    journal = JournalFile(path)
    journal.begin(1, 1)
    for record in LONG:
        journal.append(record)
    line.send()
    line.recv()
    journal.shorten(lambda: SHORT)
    line.send()
    line.recv()


def is_short_after(tracer: Path, path: Path, n: int, steps: int | None = None) -> tuple[bool, bool]:
    """Whether a journal was shortened by a process that was killed there, and whether it was."""
    with Forked(shorten, str(path)) as writer:
        writer.recv()
        try:
            killer = Killer(tracer, writer.os_pid, n, steps)
        except NotAllowed:
            pytest.skip("the system lets us trace no process, or watch its memory")
        try:
            writer.send()
            poll(lambda: killer.over or writer.has_said)
        finally:
            _, there = killer.finish()
    seal(str(path))
    records = list(read_journal(str(path)))
    assert records in (LONG, [SHORT])
    return records == [SHORT], there


def test_a_journal_is_whole_wherever_it_is_being_shortened(tracer: Path, tmp_path: Path) -> None:
    """At each system call; and some instructions after its word was swung, and swung back."""
    found, there, n = [], True, 1
    while there:
        is_short, there = is_short_after(tracer, tmp_path / f"journal-{n}", n)
        found.append(is_short)
        n += 1
    assert found == sorted(found)
    assert not found[0]
    assert found.count(True) > 2
    for n in (1, 2):
        steps = random.Random(n).randrange(MOST_STEPS)
        assert is_short_after(tracer, tmp_path / f"journal-0{n}", n, steps) == (True, True)
