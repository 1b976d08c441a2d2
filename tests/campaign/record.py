"""A process's own record of what it does: one line of JSON each, `[time in ns, kind, …]`.

A line is written with one system call, so whatever was done before a SIGKILL is on record, but for
perhaps half a line at the end. The clock is CLOCK_MONOTONIC, the same for all processes. A forked
child begins a record of its own with the first thing that it writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Line", "Record", "read"]


class Line(NamedTuple):
    """One thing that was done, or was about to be."""

    at: int
    kind: str
    fields: tuple[Any, ...]


class Record:
    """Any thread may write. `name` gives the name of the process that asks."""

    def __init__(self, directory: Path, name: Callable[[], int]) -> None:
        self._directory = directory
        self._name = name
        self._os_pid = 0
        self._fd = -1

    def __call__(self, kind: str, *fields: object) -> None:
        if self._os_pid != os.getpid():
            self._begin()
        line = json.dumps([time.monotonic_ns(), kind, *fields])
        os.write(self._fd, line.encode() + b"\n")

    def _begin(self) -> None:
        # Two threads of a forked child may come here at once; what was the parent's stays open.
        path = self._directory / f"{self._name()}.log"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._os_pid = os.getpid()

    def close(self) -> None:
        """Of this process; nothing is written any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path) -> list[Line]:
    """What is on record there; half a line at the end is left out."""
    whole, _, _half = path.read_bytes().rpartition(b"\n")
    lines = [json.loads(line) for line in whole.splitlines()]
    return [Line(at, kind, tuple(fields)) for at, kind, *fields in lines]
