"""Deeds with shared values: read, overwrite, and change them."""

from __future__ import annotations

import random

from libos_ipc import Group, Timeout
from libos_ipc.sync import SyncHandle

from .record import Record

__all__ = ["Values"]

HANDLES = ["one", "two"]
PATIENCE_S = 40.0


class Values:
    """Part of `Deeds`. What is written is written once: the numbers tell where it came from."""

    group: Group
    record: Record
    rng: random.Random

    def begin_values(self) -> None:
        self._handles: dict[str, SyncHandle[int]] = {}
        self._operations = 0

    def open_all(self) -> None:
        """Have all values open."""
        for name in HANDLES:
            self._handles[name] = self.group.sync(name, type=int)

    def use_value(self) -> None:
        """Some operations in a row on one handle, which is then closed perhaps."""
        name = self.rng.choice(HANDLES)
        if name not in self._handles:
            self._handles[name] = self.group.sync(name, type=int)
        for _ in range(self.rng.choice([1, 1, 6])):
            self._operate(name, self.rng.choice(["read", "read", "write", "change"]))
        if self.rng.random() < 0.05:
            self._handles.pop(name).close()

    def _operate(self, name: str, kind: str) -> None:
        handle = self._handles[name]
        self._operations += 1
        number = self._operations
        put = None if kind == "read" else self.group.vmid << 32 | number
        timeout = self.rng.choice([PATIENCE_S, PATIENCE_S, PATIENCE_S, 0.001])
        self.record("call", number, name, kind, put)
        got = None
        try:
            if put is None:
                with handle.shared(timeout) as value:
                    got = value
            else:
                with handle.exclusive(timeout) as box:
                    got = box.value if kind == "change" else None
                    box.value = put
        except Timeout:
            self.record("failed", number)
            if timeout == PATIENCE_S:
                raise
        else:
            self.record("return", number, got)
