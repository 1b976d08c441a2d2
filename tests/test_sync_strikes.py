"""A signal handler that raises at any point of a call on a sync handle leaves nothing behind.

Not in the hands of chance, as in `test_sync.py`: each scene is played once for each point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from processes import DEADLINE_S, poll
from strikes import Strike
from sync_users import EXCLUSIVE, SHARED, User
from test_sync import get, in_thread, waiting_here

from libos_ipc import Group, Timeout
from libos_ipc.runtime.slabs import LARGE
from libos_ipc.sync import SyncHandle


class Stage:
    """A handle, another process that has it open, and who is to be struck."""

    def __init__(self, group: Group, rival: User) -> None:
        self.group, self.rival = group, rival
        self.handle: SyncHandle[int] = group.sync("h", type=int)
        self.strike = Strike(0)

    @property
    def cell(self) -> Any:
        return self.group._session.member.sync.client.cell_of(self.handle.id)

    def add(self) -> None:
        with self.handle.exclusive(DEADLINE_S) as box:
            box.value += 1

    def have_it_recalled(self, *words: Any) -> None:
        """Another process wants it, and we have heard of that."""
        self.rival.send(words)
        poll(lambda: self.cell.recall)

    def pass_it_on(self) -> None:
        """It goes from one process to the other by a baton."""
        for _ in range(200):
            self.add()
            if self.cell.baton is not None:
                return
            self.rival("add", 1)
        pytest.fail("there is no baton")


def locks(stage: Stage) -> None:
    stage.rival("add", 1)
    with stage.strike:
        stage.add()


def reads(stage: Stage) -> None:
    stage.rival("add", 1)
    with stage.strike:
        get(stage.handle)


def upgrades(stage: Stage) -> None:
    get(stage.handle)
    stage.rival("get")
    with stage.strike:
        stage.add()


def unlocks(stage: Stage) -> None:
    value = stage.handle.lock(EXCLUSIVE)
    stage.have_it_recalled("add", 1)
    with stage.strike:
        stage.handle.unlock(value + 1)
    if stage.cell.user:
        stage.handle.unlock()  # nothing has happened
    stage.rival.recv()


def leaves(stage: Stage) -> None:
    with stage.strike.later(), stage.handle.exclusive() as box:
        stage.have_it_recalled("add", 1)
        box.value += 1
        stage.strike.now()
    stage.rival.recv()


def goes_down(stage: Stage) -> None:
    """Others only want to read it."""
    with stage.strike.later(), stage.handle.exclusive() as box:
        stage.have_it_recalled("get")
        box.value += 1
        stage.strike.now()
    stage.rival.recv()


def another_waits(stage: Stage) -> None:
    """Another thread of ours, beside the other process."""
    with stage.strike.later(), stage.handle.exclusive() as box:
        thread, came = in_thread(stage.add)
        poll(lambda: waiting_here(stage.group, stage.handle))
        stage.have_it_recalled("add", 1)
        box.value += 1
        stage.strike.now()
    thread.join()
    assert came == [None]
    stage.rival.recv()


def gives_up(stage: Stage) -> None:
    stage.rival("lock", EXCLUSIVE)
    with stage.strike, pytest.raises(Timeout):
        stage.handle.lock(SHARED, timeout=0.0001)
    stage.rival("unlock")


def watches(stage: Stage) -> None:
    with stage.strike, pytest.raises(Timeout):
        stage.handle.wait(lambda value: value < 0, timeout=0.0001)


def takes_by_baton(stage: Stage) -> None:
    stage.pass_it_on()
    with stage.strike:
        value = stage.handle._lock(EXCLUSIVE)
        stage.handle._unlock(value + 1)
    if stage.cell.user:
        stage.handle.unlock()


def takes_back_and_puts(stage: Stage) -> None:
    """What is unused here, and might be taken."""
    get(stage.handle)
    with stage.strike:
        stage.handle._lock(SHARED)
        stage.handle._unlock()
    if stage.cell.user:
        stage.handle.unlock()


def leaves_baton(stage: Stage) -> None:
    """While another process waits, and another thread."""
    stage.pass_it_on()
    with stage.strike.later(), stage.handle.exclusive() as box:
        thread, came = in_thread(lambda: get(stage.handle))
        poll(lambda: waiting_here(stage.group, stage.handle))
        stage.rival.send(("add", 1))
        box.value += 1
        stage.strike.now()
    thread.join()
    assert isinstance(came[0], int)
    stage.rival.recv()


def reads_by_baton(stage: Stage) -> None:
    stage.pass_it_on()
    with stage.strike:
        get(stage.handle)


def closes(stage: Stage) -> None:
    stage.add()
    with stage.strike:
        stage.handle.close()
    stage.handle.close()
    stage.handle = stage.group.sync("h", type=int)


SCENES: list[Callable[[Stage], None]] = [
    *(locks, reads, upgrades, unlocks, leaves, goes_down, another_waits, gives_up, watches),
    *(takes_by_baton, leaves_baton, reads_by_baton, takes_back_and_puts, closes),
]


@pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
@pytest.mark.parametrize("scene", SCENES)
def test_a_raise_at_any_point_leaves_nothing_behind(
    group: Group, scene: Callable[[Stage], None]
) -> None:
    with User(group, type=int) as rival:
        stage = Stage(group, rival)
        for point in range(1, 1000):
            stage.strike = Strike(point)
            scene(stage)
            where = f"point {point}: {stage.strike.struck}"
            with group._session.lock:
                assert stage.cell.user == 0, where
                group._session.member.check()
            value = rival("get", DEADLINE_S)
            assert isinstance(value, int), where
            stage.add()
            assert rival("add", 1) == value + 2, where
            assert get(stage.handle) == value + 2, where
            if not stage.strike.struck:
                break
        assert point > 10


def test_a_large_value_is_committed_or_not(group: Group) -> None:
    """Wherever a handler raises, its file is there as long as the value is."""
    with User(group, type=bytes) as rival:
        handle: SyncHandle[bytes] = group.sync("h", type=bytes)
        before = b""
        for point in range(1, 1000):
            large = point.to_bytes(4, "big") * LARGE
            handle.lock(EXCLUSIVE)
            cell: Any = group._session.member.sync.client.cell_of(handle.id)
            rival.send(("get",))
            poll(lambda cell=cell: cell.recall)
            with (strike := Strike(point)):
                handle.unlock(large)
            if cell.user:
                handle.unlock()
            found = rival.recv()
            assert found in (before, large), f"point {point}: {strike.struck}"
            assert found == get(handle)
            before = found
            if not strike.struck:
                break
        assert point > 10
        assert before == large
