"""What a process has of a sync handle, and who uses it, as plain Python has it."""

from __future__ import annotations

from collections.abc import Sized

INVALID = 1


class HandleCellTwin:
    """Does what `HandleCell` does."""

    def __init__(self) -> None:
        self.opened = 1
        self.state = self.using = INVALID
        self.user = self.recall = self.told_user = 0
        self.owner_died = self.own = False
        self.waits: Sized | None = None
        self.watches: Sized | None = None
        self.baton: object = None

    def lock_now(self, agent: int, state: int) -> bool:
        if self.user or self.waits or state > self.state or self.owner_died:
            return False
        self.user, self.using = agent, state
        return True

    def unlock_now(self, agent: int) -> bool:
        if self.user != agent or self.recall or self.waits or self.told_user:
            return False
        if self.baton is not None:  # it is given back by that
            return False
        self.user, self.using = 0, INVALID
        return True

    def is_idle(self) -> bool:
        busy = self.user or self.recall or self.told_user or self.owner_died
        crowd = self.waits is not None or self.watches is not None or self.baton is not None
        return bool(self.opened) and self.state > INVALID and not (busy or crowd)
