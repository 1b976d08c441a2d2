"""A real leader, or heir, killed at some of its system calls: `leader_kills.py` has all of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from leader_kills import SCENES, NotAllowed, compiled, play

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
