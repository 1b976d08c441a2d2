"""What a process keeps of a handle and does not use: the server takes it without asking.

To ask costs two messages, and the answer is the other process's to give: it may compute, hold its
interpreter in native code, or be stopped. So each handle has a *deposit*, a word in memory that the
process and the server share. While nobody in the process uses the handle, what it has lies there:

    client 2 (SHARED)                server                        client 3 (INVALID)
       |  unlock: put SHARED            |                                    |
       |                                |     REQUEST_UPGRADE EXCLUSIVE      |
       |                                |<-----------------------------------|
       |         . . . lower to INVALID |  CONFIRM_UPGRADE EXCLUSIVE, value  |
       |  lock: take back; it is less   |----------------------------------->|
       |     REQUEST_UPGRADE SHARED     |                                    |
       |------------------------------->|                                    |

Each of put, take back and lower is one step for all who look; native/deposit.h has the word. What
was taken is recorded as if the process had confirmed a recall. It takes back before its every step
with the handle, so it says nothing that is not so any more; what it had said before that is still
on its way, and true of a moment before, as ever. What comes from the server is put, too, once all
of it is done: where nobody waits for it any more, nobody will unlock.

Nothing is put while anybody waits for the lock or for a change, a recall or a word to the server is
due, or news of a death are to be told: then the server asks, and these are seen to. Nor before what
was changed is committed, for the value is read from there.

What grants a wait that was given up may serve the next one here, and what was asked for that is
still on its way when the server takes. It must not take it for news then: so beside what is put
stands up to which number the waits here have ended, all of them, and what the server hears of
these after it has taken is over.

The server takes only what it knows to have granted, from a process that has told it how things
stand; and a process that has told a new leader puts it where a former one finds nothing.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from libos_ipc._native import HandleCell, Record
from libos_ipc.core.sync_words import State, Value

__all__ = ["Deposit", "Depositor", "Deposits", "Taken"]


class Deposit(Protocol):
    """The process's end, of one handle, in one epoch."""

    def put(self, state: int, over: int, record: Record | None, /) -> None:
        """We have this, and it may be taken; its value is in this record, if we have changed it.
        All waits up to the number `over` have ended. Nothing if it is put already."""

    def take_back(self, state: int, /) -> bool:
        """Nothing may be taken any more, or was put. False if what was put as `state` is less."""

    def left(self, state: int, /) -> int:
        """How much of this state we have now."""


class Taken(NamedTuple):
    """What lay beside what was taken: what the process committed last, None if nothing is known of
    that; and up to which number all waits have ended there."""

    value: Value | None
    over: int


class Deposits(Protocol):
    """The server's end."""

    def lower(self, epoch: int, vmid: int, id: int, state: int, to: int) -> Taken | None:
        """Leave only `to` where this process has put `state` of the handle, in this epoch. None if
        it has not put that."""

    def drop(self, vmid: int) -> None:
        """The process is gone."""

    def close(self) -> None:
        """Nobody leads here any more."""


class Depositor(HandleCell):
    """The part of a handle that knows of its deposit; the fields are the cell's.

    A signal handler may raise between any two steps of Python: then taking back begins anew.
    """

    __slots__ = ()

    def take_back(self) -> None:
        """Nothing is taken from now on; what was taken until now is not here any more."""
        deposit, before = self.deposit, self.state
        if deposit is None:
            return
        while not deposit.take_back(self.state):
            self.state = deposit.left(self.state)
        if self.state < before and self.state == State.INVALID and not self.own:
            self.value = Value(self.value.version, b"")

    def put(self) -> None:
        """The server may have it, if nobody needs it here. All that was decided must be done."""
        if self.deposit is not None and self.is_idle():
            self.deposit.put(self.state, self.number, self.record)

    def left(self) -> int:
        """What is here now."""
        return self.state if self.deposit is None else self.deposit.left(self.state)
