"""What the leader asks the kernel about descriptors of other processes."""

from __future__ import annotations

import os
from pathlib import Path

from processes import Forked, Line, poll, state_of

from libos_ipc.core.descriptors import Spot
from libos_ipc.runtime.inspector import Inspector
from libos_ipc.runtime.process_state import start_time


def test_a_posix_locker(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    other = os.open(tmp_path, os.O_RDONLY)
    keeper = os.open(path, os.O_PATH)
    found = os.fstat(fd)
    me = os.getpid(), start_time(os.getpid())

    def is_open(number: int) -> bool:
        return Inspector().is_open(*me, Spot(number, -1), found.st_dev, found.st_ino)

    assert is_open(fd)
    assert not is_open(other), "another file by now"
    assert not is_open(keeper), "by which nothing is locked"
    os.close(fd)
    assert not is_open(fd)
    os.close(other)
    os.close(keeper)


def test_a_description(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    kept, again = os.dup(fd), os.dup(fd)
    stranger = os.open(path, os.O_RDWR)
    me = os.getpid(), start_time(os.getpid())

    def is_open() -> bool:
        return Inspector().is_open(*me, Spot(fd, kept), 0, 0)

    assert is_open()
    os.close(fd)
    assert is_open(), "by another number"
    os.close(again)
    assert not is_open(), "the duplicate itself does not count"
    assert Inspector().is_same(me[0], kept, me[0], kept)
    assert not Inspector().is_same(me[0], kept, me[0], stranger)
    os.close(kept)
    os.close(stranger)


def test_who_is_gone_has_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    found = os.stat(path)

    def body(line: Line) -> None:
        line.send(os.open(path, os.O_RDWR))
        line.pause()

    with Forked(body) as child:
        spot = Spot(child.recv(), -1)
        started = start_time(child.os_pid)
        asked = spot, found.st_dev, found.st_ino
        assert Inspector().is_open(child.os_pid, started, *asked)
        assert not Inspector().is_open(child.os_pid, started + 1, *asked), "of the same pid"
        assert Inspector().is_open(0, 0, *asked), "one that has not said who it is"
        child.kill()
        poll(lambda: state_of(child.os_pid) == "Z")
        assert not Inspector().is_open(child.os_pid, started, *asked)
        child.wait()
        assert not Inspector().is_open(child.os_pid, started, *asked)
