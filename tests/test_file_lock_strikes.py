"""A signal handler that raises at any point of a `file_lock` leaves nothing behind: no lock, no
descriptor, and no lock object that takes itself for in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import both_leaders
from lock_users import rows
from processes import poll
from strikes import Strike

from libos_ipc import Group
from libos_ipc.file_lock import FileLock

pytestmark = both_leaders


def at_each_point(
    group: Group, lock: FileLock, prepare: Callable[[], object], scene: Callable[[], object]
) -> None:
    for point in range(1, 1000):
        prepare()
        with (strike := Strike(point)):
            scene()
        where = f"point {point}: {strike.struck}"
        if lock.held is not None:
            lock.release()
        assert rows(group) == [], where
        with lock:  # as ever
            assert lock.held == "write", where
        if not strike.struck:
            break
    assert point > 5
    lock._withdraw()  # pytest has it for longer


def test_acquired_and_released_by_python(group: Group, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    lock = group.file_lock(path)

    def prepare() -> None:
        lock._withdraw()
        group.locks.get(path, "write")  # by which nobody has it to himself any more

    def scene() -> None:
        lock.acquire(60.0)
        lock.release()

    at_each_point(group, lock, prepare, scene)


@pytest.mark.parametrize("scene", [FileLock.release, FileLock.downgrade])
def test_what_is_held_quickly_and_was_taken_back(
    group: Group, tmp_path: Path, scene: Callable[[FileLock], object]
) -> None:
    path = tmp_path / "file"
    path.touch()
    lock = group.file_lock(path)

    def is_quick() -> bool:
        lock.release()
        lock.acquire()
        return lock._quick > 0

    def prepare() -> None:
        poll(is_quick, what="taken without Python")
        assert group.locks.get(path, "write") is not None

    at_each_point(group, lock, prepare, lambda: scene(lock))
