"""What a thread of the program opens is closed, wherever in that a signal handler raises."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import descriptors
from strikes import Strike

from libos_ipc.core.lock_words import WRITE
from libos_ipc.runtime.mirror import Mirrors
from libos_ipc.runtime.muster import Muster
from libos_ipc.runtime.slabs import read_large, write_large


def keep_a_value(path: Path) -> Callable[[], object]:
    directory = str(path.parent)
    return lambda: read_large(directory, write_large(directory, "value-1-2-3", b"long"))


def look_at_a_journal(path: Path) -> Callable[[], object]:
    return lambda: Muster().vmids(1, str(path), lambda: 0, tuple)


def open_a_mirror(path: Path) -> Callable[[], object]:
    keeper = os.open(path, os.O_PATH | os.O_CLOEXEC)

    def step() -> None:
        mirrors = Mirrors()
        mirrors.give(mirrors.take(keeper, WRITE))

    return step


@pytest.mark.parametrize("prepare", [keep_a_value, look_at_a_journal, open_a_mirror])
def test_a_raise_at_any_point_loses_no_descriptor(
    prepare: Callable[[Path], Callable[[], object]], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.touch()
    before = descriptors()
    step = prepare(path)
    opened = {fd: what for fd, what in descriptors().items() if fd not in before}
    point, struck = 1, "not yet"
    try:
        while struck:
            with Strike(point) as strike:
                step()
            point, struck = point + 1, strike.struck
            assert descriptors() == before | opened, struck
        assert point > 4
    finally:
        for fd in opened:
            os.close(fd)
