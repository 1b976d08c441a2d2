"""Deeds with children: fork one, which does some deeds of its own, perhaps kill it, wait for it."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

from libos_ipc import Group

from .record import Record

if TYPE_CHECKING:
    from libos_ipc import Child

    from .deeds import Deeds

__all__ = ["Children"]

PATIENCE_S = 60.0
#: Children at a time.
MOST = 3


class Children:
    """Part of `Deeds`."""

    group: Group
    record: Record
    rng: random.Random

    def begin_children(self) -> None:
        self._children: list[Child] = []
        self.is_child = False

    def have_child(self) -> None:
        """Fork one, unless we are one ourselves, or have enough."""
        if self.is_child:
            return
        if len(self._children) >= MOST:
            self._wait(self._children.pop(0))
            return
        code, seed = self.rng.randrange(200), self.rng.random()
        child = self.group.spawn(_live, self, seed, code)
        self.record("child", child.vmid, code)
        if self.rng.random() < 0.3:
            self.record("killing", child.vmid)
            child.kill(signal.SIGKILL)
        self._children.append(child)

    def end_children(self) -> None:
        """Wait for all that are left."""
        while self._children:
            self._wait(self._children.pop())

    def _wait(self, child: Child) -> None:
        status = child.wait(PATIENCE_S)
        self.record("waited", child.vmid, status.code, status.signal)


def _live(deeds: Deeds, seed: float, code: int) -> None:
    """A child's life."""
    deeds.rng = random.Random(seed)
    deeds.begin()
    deeds.is_child = True
    deeds.record("hello", deeds.group.pid)
    deeds.group.meta["listens"] = True
    for _ in range(deeds.rng.randrange(15)):
        deeds.do_one()
    deeds.finish()
    deeds.say_goodbye()
    raise SystemExit(code)
