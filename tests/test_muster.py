"""When the leader is asked who is there, and when its last answer will do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from libos_ipc.runtime.journal_file import JournalFile, retire, seal
from libos_ipc.runtime.muster import Muster

ME = 5


class World:
    """A leader, as far as one member knows it: its answers are numbered."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.journal = JournalFile(self.path)
        self.journal.begin(os.getpid(), 1)
        self.muster = Muster()
        self.told = self.asked = 0
        self.tells_meanwhile = 0

    def ask(self) -> tuple[int, ...]:
        self.asked += 1
        self.told += 1 + self.tells_meanwhile
        return (self.asked,)

    def vmids(self, me: int = ME) -> tuple[int, ...]:
        return self.muster.vmids(me, self.path, lambda: self.told, self.ask)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "journal")
    yield world
    world.journal.close()


def test_it_is_asked_once_while_nothing_is_decided(world: World) -> None:
    assert [world.vmids() for _ in range(5)] == [(1,)] * 5
    world.journal.append(("join", 7))
    assert [world.vmids() for _ in range(5)] == [(2,)] * 5


def test_what_is_decided_while_it_is_asked_is_asked_for_again(world: World) -> None:
    ask = world.ask

    def deciding() -> tuple[int, ...]:
        answer = ask()
        if world.asked == 1:
            world.journal.append(("join", 7))
        return answer

    world.ask = deciding  # type: ignore[method-assign]
    assert [world.vmids() for _ in range(3)] == [(1,), (2,), (2,)]


def test_what_was_told_may_be_on_its_way(world: World) -> None:
    assert world.vmids() == (1,)
    world.told += 1
    assert [world.vmids() for _ in range(3)] == [(2,)] * 3
    world.told += 1
    world.tells_meanwhile = 1
    assert [world.vmids() for _ in range(2)] == [(3,), (4,)]


def test_a_child_does_not_go_by_what_its_parent_knew(world: World) -> None:
    assert world.vmids() == (1,)
    assert world.vmids(ME + 1) == (2,)


def test_the_end_of_an_epoch_is_a_change(world: World) -> None:
    world.journal.append(("join", 7))
    assert world.vmids() == (1,)
    seal(world.path)
    assert [world.vmids() for _ in range(2)] == [(2,)] * 2
    retire(world.path)
    assert world.vmids() == (3,)


def test_another_journal_in_its_place_or_none(world: World) -> None:
    assert world.vmids() == (1,)
    fresh = f"{world.path}.new"
    JournalFile(fresh).close()
    os.rename(fresh, world.path)
    assert [world.vmids() for _ in range(2)] == [(2,)] * 2
    os.unlink(world.path)
    assert [world.vmids() for _ in range(2)] == [(3,), (4,)]
