"""What an act may leave behind, and must not: files, processes, and what its founder's process got.

A process belongs to an act if it has something open, or mapped, beneath the act's directory: the
leader has the journal, and whoever does deeds has a record. Descriptors, mappings, threads and
children are looked at in the conductor's own process, which founds one group after the other.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Traces", "left_behind"]

#: What the last member and its leader may take to end everything.
ENDING_S = 15.0


class Traces(NamedTuple):
    """What our own process has, by kind; for each thing how many of it."""

    descriptors: Counter[str]
    mappings: Counter[str]
    threads: Counter[str]
    children: Counter[str]

    @classmethod
    def now(cls) -> Traces:
        """At this moment."""
        return cls(
            Counter(_open_in("self")),
            Counter(target for target in _mapped_in("self") if "memfd:" in target),
            Counter(os.listdir("/proc/self/task")),
            Counter(_children()),
        )


def left_behind(home: Path, before: Traces, patience_s: float = ENDING_S) -> Iterator[str]:
    """Complaints about all that is there a while after the group has ended. Its files lie beneath
    `home`; `before` is what we had when there was no group."""
    until = time.monotonic() + patience_s
    while True:
        left = [*_files(home), *_processes(home), *_grown(before)]
        if not left or time.monotonic() > until:
            return (f"left behind: {what}" for what in left)
        gc.collect()  # what only a cycle of references holds is no leak
        time.sleep(0.02)


def _files(home: Path) -> list[str]:
    return [f"file {path}" for path in (home / "libos_ipc").rglob("*")]


def _processes(home: Path) -> Iterator[str]:
    beneath = f"{home}/"
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            has = [
                what for what in (*_open_in(name), *_mapped_in(name)) if what.startswith(beneath)
            ]
            if has:
                yield f"process {name}, which has {has[0]}"


def _grown(before: Traces) -> Iterator[str]:
    for kind, had, has in zip(Traces._fields, before, Traces.now(), strict=True):
        if has - had:
            yield f"{kind} {dict(has - had)}"


def _open_in(process: str) -> Iterator[str]:
    folder = f"/proc/{process}/fd"
    try:
        for fd in os.listdir(folder):
            try:
                yield os.readlink(f"{folder}/{fd}")
            except FileNotFoundError:
                pass  # the one that lists them, or closed meanwhile
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass  # it has ended, or is another user's


def _mapped_in(process: str) -> Iterator[str]:
    try:
        with open(f"/proc/{process}/maps") as file:
            for line in file:
                *_, target = line.rstrip("\n").split(None, 5)
                if target[:1] == "/":
                    yield target
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass


def _children() -> Iterator[str]:
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                yield from file.read().split()
        except FileNotFoundError:
            pass  # this thread has ended
