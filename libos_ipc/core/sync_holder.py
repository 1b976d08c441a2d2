"""A process's end of a baton: EXCLUSIVE taken and given back without the server.

For the idea see `sync_passing`. While there is a baton, this process has EXCLUSIVE as long as
somebody here uses the handle, and INVALID otherwise; nobody waits here, and nothing is asked. Each
of the steps here keeps that, or ends the baton: then the state is what the server takes it for, and
`LocalHandle` goes on.

A signal handler may raise between any two steps of Python, and memory may be short. So the fields
never say EXCLUSIVE when the baton does not; where it is the other way round, the end puts it right.
"""

from __future__ import annotations

from libos_ipc.core.sync_deposits import Depositor
from libos_ipc.core.sync_words import MOST_PASSED, ClientEffect, Data, Hold, State, Value

__all__ = ["BatonHolder"]

Effects = list[ClientEffect]

INVALID, EXCLUSIVE = State.INVALID, State.EXCLUSIVE


class BatonHolder(Depositor):
    """The part of a handle that knows of batons; the fields are the cell's."""

    __slots__ = ("id",)
    id: int

    def _take_by_baton(self) -> bool:
        """Have EXCLUSIVE by the baton: for somebody who uses the handle from now on."""
        found = None if self.baton is None else self.baton.take()
        if found is None:
            return False
        self.value = Value(*found)
        self.state = EXCLUSIVE
        self.own = False
        return True

    def _give_by_baton(self, data: Data | None) -> bool:
        """Nobody uses the handle any more, and this is the new value, if there is one. False if
        it cannot be given that way."""
        baton, version = self.baton, self.value.version
        if baton is None or (data is not None and not self._passes(data)):
            return False
        before = self.user, self.using, self.state
        self.user, self.using, self.state = 0, INVALID, INVALID
        if data is None:
            given = baton.give()
        else:
            assert isinstance(data, bytes)
            given = baton.give(version + 1, data)
            if given:
                self.value = Value(version + 1, data)
        if not given:
            self.user, self.using, self.state = before
        return given

    @staticmethod
    def _passes(data: Data) -> bool:
        return isinstance(data, bytes) and len(data) <= MOST_PASSED

    def leave_baton(self) -> Effects:
        """End the baton, if there is one. What is EXCLUSIVE here is so by the server then."""
        baton = self.baton
        if baton is None:
            return []
        found = baton.end()
        if self.state == INVALID and found is not None and found[0] == baton.me:
            self.value, self.own, self.state = Value(*found[2]), False, EXCLUSIVE
        self.baton = None
        if self.state == EXCLUSIVE:
            return [Hold(self.id, self.value, bool(self.user))]
        self.value = Value(self.value.version, b"")
        return []
