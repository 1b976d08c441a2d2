"""The words of sync handles: states, values, messages, effects. See `sync_client` for the protocol.

A handle is an ID under which a group of processes shares one value coherently. Every process
has a state of it; a lower one may be had beside more states of others:

    INVALID < SHARED < EXCLUSIVE        many SHARED, or one EXCLUSIVE

An *agent* is who uses a handle or waits for it: (VMID, thread), thread 1 and up for a thread or
a task. Thread 0 is the process itself, which wants a copy to notice changes, and never blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple, Protocol, TypeAlias

from libos_ipc.core.vocabulary import Note

__all__ = [
    "MOST_PASSED",
    "NEVER_WRITTEN",
    "Agent",
    "Baton",
    "Batons",
    "Blockers",
    "Changed",
    "ClientEffect",
    "ClientWord",
    "Closed",
    "Commit",
    "ConfirmClose",
    "ConfirmDowngrade",
    "ConfirmUpgrade",
    "Data",
    "Decision",
    "Ended",
    "Failed",
    "Granted",
    "Hold",
    "InUse",
    "LocalWait",
    "Place",
    "Record",
    "Reference",
    "RefuseWait",
    "Remains",
    "RequestClose",
    "RequestDowngrade",
    "RequestUpgrade",
    "Resume",
    "ServerWord",
    "State",
    "To",
    "Value",
    "Wait",
    "WithdrawWait",
]

Agent: TypeAlias = tuple[int, int]
#: Whom somebody waits for, and why, in words.
Blockers: TypeAlias = Iterable[tuple[Agent, str]]
#: What the journal keeps of a decision; sequences may come back as lists.
Record: TypeAlias = tuple[object, ...]
#: Bytes of the largest value that is passed on by a baton.
MOST_PASSED = 200
#: Where a baton is: the leader's memory, which part of it, and the number of this use of that.
Place: TypeAlias = tuple[int, int, int]


class State(IntEnum):
    """What a process may do with its copy of a value: nothing, read it, change it."""

    INVALID = 1
    SHARED = 2
    EXCLUSIVE = 3


class Reference(NamedTuple):
    """Where a large value lies. `where` is known to the runtime alone; `size` is in bytes."""

    where: bytes
    size: int


Data: TypeAlias = bytes | Reference


class Value(NamedTuple):
    """A value as it was committed: the `version`-th one of its handle."""

    version: int
    data: Data


#: The value of a handle that nobody has written.
NEVER_WRITTEN = Value(0, b"")


class Wait(NamedTuple):
    """Somebody who waits for the lock. Thread 0 wants a copy, and has no lock."""

    number: int
    thread: int
    state: int
    timed: bool
    ticket: object
    told: bool  #: the server knows that it waits behind another agent of this process


class Remains(NamedTuple):
    """What a dead process left of a handle that it had EXCLUSIVE.

    `value` is what it committed last, None if nothing is known of that; `in_use` tells whether
    it died between lock and unlock.
    """

    value: Value | None
    in_use: bool


# ---- the baton: memory by which processes pass EXCLUSIVE on among themselves


class Baton(Protocol):
    """A process's end. Each is one step, as all others see it."""

    @property
    def me(self) -> int:
        """The VMID of the process."""

    def take(self) -> tuple[int, bytes] | None:
        """Have EXCLUSIVE: version and value; None if it is not to be had. Where the baton was
        ended while it was reserved for us, it is ours as the server sees it."""

    def give(self, version: int = 0, data: bytes | None = None, /) -> bool:
        """Have it no longer, and commit a new value if there is one. False, and nothing has
        changed, if the baton was ended: then it is ours as the server sees it."""

    def ended(self) -> bool:
        """Whether it was ended."""

    def end(self) -> tuple[int, bool, tuple[int, bytes]] | None:
        """Nobody takes or gives any more. As `Ended`; None if that was long ago."""


class Ended(NamedTuple):
    """How things stood when a baton was ended: who had EXCLUSIVE or was to have it, 0 for nobody;
    whether it had been taken; and what was committed last."""

    holder: int
    in_use: bool
    value: Value


class Batons(Protocol):
    """The server's end."""

    def begin(self, id: int, vmid: int, value: Value) -> Place | None:
        """A new one for this handle with this value, reserved for this process. None if that
        cannot be. Whoever had a former one of this handle has said since that it has not."""

    def reserve(self, place: Place, vmid: int) -> bool:
        """EXCLUSIVE is for this process alone to take. False if it is not free."""

    def end(self, place: Place) -> Ended:
        """End it, or find how it was ended."""

    def forget(self, id: int) -> None:
        """Nobody has this handle open any more."""

    def close(self) -> None:
        """Nobody leads here any more."""


# ---- messages, client to server


class RequestUpgrade(NamedTuple):
    """Wait `number` of this client is for `state`; it replaces what the client asked before."""

    id: int
    state: int
    number: int
    thread: int
    timed: bool  #: it ends by itself, so that it closes no cycle


class WithdrawWait(NamedTuple):
    """Nobody waits under this number any more, at the server or locally."""

    id: int
    number: int


class ConfirmDowngrade(NamedTuple):
    """The client has only `state` left. `value` comes with what was EXCLUSIVE.

    `owner_died`: it was to report a death to the next one here, and had no occasion to.
    """

    id: int
    state: int
    value: Value | None
    owner_died: bool


class RequestClose(NamedTuple):
    """The client has closed the handle and says nothing more about it."""

    id: int
    state: int
    value: Value | None
    owner_died: bool


class InUse(NamedTuple):
    """This thread of the client uses the handle as `state`, and waits no longer; 0: none does."""

    id: int
    state: int
    thread: int


class LocalWait(NamedTuple):
    """Wait `number`: a thread waits for another one of the same process.

    That is `user`, who uses the handle as `state`, or if it is 0 the one that the process asks for.
    """

    id: int
    state: int
    number: int
    thread: int
    user: int


class Resume(NamedTuple):
    """To a new leader: what the client has. What it asked before, it asks again after this."""

    id: int
    state: int
    value: Value | None
    owner_died: bool


# ---- messages, server to client


class RequestDowngrade(NamedTuple):
    """A recall: somebody else waits until the client has no more than `state`."""

    id: int
    state: int


class ConfirmUpgrade(NamedTuple):
    """The client has `state` now, and the newest value. Or it may take both by this baton."""

    id: int
    state: int
    value: Value
    owner_died: bool
    baton: Place | None = None


class ConfirmClose(NamedTuple):
    """The last that the server says about a handle which the client has closed."""

    id: int


class RefuseWait(NamedTuple):
    """Wait `number` would never end."""

    id: int
    number: int
    errno: int
    text: str


ClientWord: TypeAlias = (
    RequestUpgrade | WithdrawWait | ConfirmDowngrade | RequestClose | InUse | LocalWait | Resume
)
ServerWord: TypeAlias = RequestDowngrade | ConfirmUpgrade | ConfirmClose | RefuseWait


# ---- what the client wants done, beside sending its words to the server


class Granted(NamedTuple):
    """`ticket` has the lock, and this is the newest value."""

    ticket: object
    value: Value


class Failed(NamedTuple):
    """`ticket` gets nothing, and this is why."""

    ticket: object
    errno: int
    text: str


class Changed(NamedTuple):
    """`ticket` waited for a version that is newer than one it knows, and here it is."""

    ticket: object
    version: int


class Commit(NamedTuple):
    """Publish this value to the memory shared with the leader before anything that follows."""

    id: int
    value: Value


class Hold(NamedTuple):
    """What was had by a baton is the server's affair again: publish what we have, as far as there
    is memory, and whether it is in use; that first."""

    id: int
    value: Value
    in_use: bool


class Closed(NamedTuple):
    """The server has confirmed that the handle is closed here."""

    id: int


ClientEffect: TypeAlias = ClientWord | Granted | Failed | Changed | Commit | Hold | Closed | Note


# ---- what the server wants done


class To(NamedTuple):
    """Send `word` to the client `vmid`."""

    vmid: int
    word: ServerWord


class Decision(NamedTuple):
    """What the server decided: journal all `records` first, then send the `messages` in order."""

    records: list[Record]
    messages: list[To]
    notes: list[Note]
