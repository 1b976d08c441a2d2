"""Doing what the machine has decided, effect by effect, under the session's lock.

Two things are beyond a loop over a table. A journal that takes nothing more ends the list that its
record stands in: others lead, and nothing that depends on the record may go out. And what a
leader says to itself, and its process to it, is taken up when everything that was decided by then
is done: what comes of it is decided after that, so its records must be written after those, too.
In the main thread a signal handler may raise, in the middle of a step: there it is left to the
worker, as if the leader were elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from libos_ipc.core.vocabulary import Effects, Outgoing
from libos_ipc.runtime.calling import Calling
from libos_ipc.runtime.journal_file import JournalSealed

__all__ = ["Performing"]


class Performing(Calling):
    """The part of a session that performs. All under its lock."""

    _on_sealed: Callable[[], None]
    _perform_one: dict[type, Callable[..., None]]

    def __init__(self) -> None:
        #: what the leader in us has said to us
        self._own: deque[Outgoing] = deque()
        #: where signal handlers run
        self._main = threading.main_thread().ident

    def perform(self, effects: Effects) -> None:
        """Do what the machine has decided, up to where a sealed journal says that others lead."""
        self.perform_within(effects)
        if self._own or self.member.own:
            if threading.get_ident() == self._main:
                self.clock.later(0, self._perform_own_later)
            else:
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
        own, member = self._own, self.member
        while own or member.own:
            now = time.monotonic()
            self.perform_within(member.on_own(own.popleft(), now) if own else member.hear_own(now))

    def _perform_own_later(self) -> None:
        with self.lock:
            self.perform([])
