"""Deeds with locks: `file_lock`, ranges of `fcntl.lockf`, and `flock` that a close ends."""

from __future__ import annotations

import os
import random
from pathlib import Path

import libos_ipc
from libos_ipc import Group, fcntl

from .record import Record

__all__ = ["Locking"]

FILES = 2
BYTES = 6
PATIENCE_S = 40.0


class Locking:
    """Part of `Deeds`."""

    group: Group
    record: Record
    rng: random.Random
    directory: Path

    def _path(self, kind: str) -> str:
        return str(self.directory / f"{kind}{self.rng.randrange(FILES)}")

    def lock_file(self) -> None:
        """`file_lock`, several times in a row, so that the file may be delegated."""
        path, shared = self._path("file"), self.rng.random() < 0.3
        lock = self.group.file_lock(path, shared=shared)
        timeout = self.rng.choice([PATIENCE_S, PATIENCE_S, 0.002, 0])
        for _ in range(self.rng.choice([1, 1, 12])):
            try:
                token = lock.acquire(timeout)
            except (libos_ipc.Timeout, libos_ipc.WouldBlock):
                if timeout == PATIENCE_S:
                    raise
                return
            self.record("locked", [path], shared, token)
            self._hold()
            self.record("unlock", [path])
            lock.release()

    def lock_bytes(self) -> None:
        """A range of bytes, by POSIX's rules: one range at a time, so that no cycle closes."""
        path = self._path("bytes")
        start = self.rng.randrange(BYTES)
        length = self.rng.randint(1, BYTES - start)
        shared = self.rng.random() < 0.3
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with open(path, "r+b") as file:
            for _ in range(self.rng.choice([1, 1, 12])):
                wait = self.rng.random() < 0.7
                try:
                    fcntl.lockf(file, how | (0 if wait else fcntl.LOCK_NB), length, start)
                except BlockingIOError:
                    return
                things = [[path, n] for n in range(start, start + length)]
                for thing in things:
                    self.record("bytes locked", thing, shared)
                self._hold()
                for thing in things:
                    self.record("bytes unlock", thing)
                fcntl.lockf(file, fcntl.LOCK_UN, length, start)

    def lock_and_close(self) -> None:
        """`flock`, and the close that ends it."""
        path = self._path("closed")
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.record("bytes locked", [path, -1], False)
            self._hold()
            self.record("bytes unlock", [path, -1])

    def _hold(self) -> None:
        for _ in range(self.rng.choice([0, 0, 1, 30])):
            os.sched_yield()


def make_files(directory: Path) -> None:
    """The files that are locked."""
    for kind in ("file", "bytes", "closed"):
        for number in range(FILES):
            (directory / f"{kind}{number}").write_bytes(bytes(BYTES))
