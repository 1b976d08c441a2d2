"""A signal handler that raises at any point of a lock in turns leaves nothing behind.

Not in the hands of chance, as in `test_turns.py`: each scene is played once for each point.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lock_users import until_waiting
from strikes import Strike
from test_turns import LONG_S, Other, in_turns, path

from libos_ipc import Group
from libos_ipc.core import lock_passing

__all__ = ["path"]


class Stage:
    """A lock that is handed on between us and another process, and who is to be struck."""

    def __init__(self, group: Group, path: Path, other: Other) -> None:
        self.group, self.path, self.other = group, path, other
        self.lock = group.file_lock(path)
        self.strike = Strike(0)

    def take_turns(self) -> None:
        while not in_turns(self.group, self.path):
            with self.lock:
                self.other.process.send(("acquire",))
                until_waiting(self.group)
            self.other.process.recv()
            self.other.do("release")
        with self.lock:
            pass  # and then it needs no Python


def waits(stage: Stage) -> None:
    stage.other.do("hold", 0.003)
    with stage.strike, stage.lock:
        pass


def waits_for_long(stage: Stage) -> None:
    """For so long that it asks the leader."""
    stage.other.do("hold", 0.025)
    with stage.strike, stage.lock:
        pass


def gives_it_to_one_who_waits(stage: Stage) -> None:
    stage.lock.acquire()
    stage.other.process.send(("acquire",))
    with stage.strike:
        stage.lock.release()
    stage.lock.release()
    stage.other.process.recv()
    stage.other.do("release")


SCENES = [waits, waits_for_long, gives_it_to_one_who_waits]


@pytest.mark.parametrize("group", ["embedded"], indirect=True)
@pytest.mark.parametrize("scene", SCENES)
def test_a_raise_at_any_point_leaves_nothing_behind(
    group: Group, path: Path, monkeypatch: pytest.MonkeyPatch, scene: Callable[[Stage], None]
) -> None:
    monkeypatch.setattr(lock_passing, "MOVES", 1)
    monkeypatch.setattr(lock_passing, "WASTED", -1)
    with Other(group, path) as other:
        stage = Stage(group, path, other)
        for point in range(1, 1000):
            stage.take_turns()
            stage.strike = Strike(point)
            scene(stage)
            where = f"point {point}: {stage.strike.struck}"
            assert stage.lock.held is None, where
            assert isinstance(other.do("acquire", LONG_S / 20), tuple), where
            other.do("release")
            assert [row for row in group.locks.table() if row.type != "none"] == [], where
            if not stage.strike.struck:
                break
        stage.lock._withdraw()
