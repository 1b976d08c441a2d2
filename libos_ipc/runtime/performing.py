"""Doing what the machine has decided, effect by effect, under the session's lock.

Two things are beyond a loop over a table. A journal that takes nothing more ends the list that its
record stands in: others lead, and nothing that depends on the record may go out. And what a
leader says to itself is taken up when everything that was decided by then is done: what comes of
it is decided after that, so its records must be written after those, too.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from libos_ipc.core.vocabulary import Effects, Outgoing
from libos_ipc.runtime.calling import Calling
from libos_ipc.runtime.journal_file import JournalSealed

__all__ = ["Performing"]


class Performing(Calling):
    """The part of a session that performs. All under its lock."""

    #: from ourselves to ourselves, once what is being performed is through
    _own: deque[Outgoing]
    _on_sealed: Callable[[], None]
    _perform_one: dict[type, Callable[..., None]]

    def perform(self, effects: Effects) -> None:
        """Do what the machine has decided, up to where a sealed journal says that others lead."""
        self.perform_within(effects)
        if self._own:
            self._perform_own()

    def perform_within(self, effects: Effects) -> None:
        """The same for what comes of an effect, while others of its list are still to come."""
        table = self._perform_one
        left = iter(effects)
        try:
            for effect in left:
                table[type(effect)](effect)
        except JournalSealed:
            self.member.take_back([effect, *left])
            self._on_sealed()

    def _perform_own(self) -> None:
        own = self._own
        while own:
            self.perform_within(self.member.on_own(own.popleft(), time.monotonic()))
