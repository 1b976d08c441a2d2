"""The words that the machines and the runtime share: effects, and what they carry.

A machine decides and returns effects; the runtime performs them afterwards. An effect is a
plain tuple with a name: no behaviour, nothing hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from libos_ipc.core.lane_words import DropLane, OfferLane, ReachLane, ReadLane, TakeLane
from libos_ipc.errors import IpcError

_Tuple = TypeVar("_Tuple", bound=tuple[object, ...])


if TYPE_CHECKING:

    def make(kind: type[_Tuple], fields: tuple[object, ...], /) -> _Tuple:
        """A named tuple of these fields, for the hot path."""
else:
    # A named tuple's own constructor is Python code, and takes three times as long.
    make = tuple.__new__

#: A payload as the program gave it, or the fields of one of the library's own messages.
Body: TypeAlias = bytes | memoryview | tuple[object, ...]


#: What a message without payload weighs in the accounts between sender and receiver, in bytes.
HEADER_WEIGHT = 17


class State(IntEnum):
    """Where a member is in its life."""

    STARTING = 1  #: forked or admitted, has not said hello yet
    RUNNING = 2
    DETACHED = 3  #: its end of the liveness socket is gone: it exec'ed, or is just dying


class Outgoing(NamedTuple):
    """A message before it is packed. `of` is the code of the request that a RESP answers."""

    code: int
    seq: int
    body: Body
    of: int = 0


class Open(NamedTuple):
    """Connect to `peer` and watch it live."""

    peer: int


class Reopen(NamedTuple):
    """Drop the connection to `peer` with all that is still on its way, and make a new one."""

    peer: int


class Disconnect(NamedTuple):
    """Drop the connection to `peer`, which lives on: all that it was for has arrived."""

    peer: int


class Close(NamedTuple):
    """Forget `peer`: it is gone."""

    peer: int


class Transmit(NamedTuple):
    """Put one message on the connection to `peer`; `number` 0 is outside the numbering."""

    peer: int
    number: int
    acked: int
    message: Outgoing


class Write(NamedTuple):
    """Put one message into the lane to `peer`; `number` 0 is outside the numbering."""

    peer: int
    number: int
    acked: int
    message: Outgoing


class Message(NamedTuple):
    """A message that arrived: VMID of its sender, code, sequence number, payload.

    `seq` is 0 for a one-way message; what a handler returns for any other is its answer. As an
    effect: hand it to the dispatcher.
    """

    src: int
    code: int
    seq: int
    payload: bytes


class Withdraw(NamedTuple):
    """The requester no longer waits for this request."""

    src: int
    seq: int


class Resolve(NamedTuple):
    """An answer has come for `ticket`."""

    ticket: object
    payload: Body


class Fail(NamedTuple):
    """`ticket` will get no answer."""

    ticket: object
    error: IpcError


class Progress(NamedTuple):
    """Something that callers may be waiting for has changed: room, arrival, a spare pair."""

    peer: int


class LeaderGone(NamedTuple):
    """The leader of this epoch has ended: who leads next is to be found out."""

    epoch: int


class LookForEpoch(NamedTuple):
    """Somebody says that a later epoch has begun: look at the journals."""

    peer: int


class Own(NamedTuple):
    """What the leader in us says to us: to be taken up (`on_own`) when all that was decided by then
    has been performed, one after the other. What comes of it is decided then, and so written behind
    the rest; and if the journal takes nothing more, it has not been heard."""

    message: Outgoing


class Told(NamedTuple):
    """A message that has its number on the link to `peer`, and must not go out before a record."""

    peer: int
    number: int


class Heard(NamedTuple):
    """The journal knows what came of this word of ours, which our own leader has heard."""

    message: Outgoing


class Journal(NamedTuple):
    """Write this record before performing anything that comes after it. If it cannot be, `told` is
    to be taken back (`Leading.take_back`)."""

    record: tuple[object, ...]
    told: Sequence[Told] = ()


class Confirm(NamedTuple):
    """Nothing that comes after this, unless we lead still: it is of no record, and might be old."""

    told: Sequence[Told] = ()


class Expect(NamedTuple):
    """The leader is to watch whoever listens as one of these VMIDs and has not said hello yet, and
    to hear of those as which nobody does (`Leader.on_expected`), all at once."""

    vmids: tuple[int, ...]


class Answer(NamedTuple):
    """The leader's answer to request `seq` of `dst`, which was of code `of`."""

    dst: int
    seq: int
    of: int
    fields: tuple[object, ...]


class Refuse(NamedTuple):
    """The leader's refusal of request `seq` of `dst`."""

    dst: int
    seq: int
    errno: int
    text: str


class ChildExit(NamedTuple):
    """Process `src` told how it ends, or how a process ended that it may speak for."""

    src: int
    ppid: int
    pid: int
    uid: int
    exit_code: int
    term_signal: int


class ChildJoined(NamedTuple):
    """A process has joined that counts as our child, though no fork of ours made it."""

    vmid: int
    pid: int


class Say(NamedTuple):
    """The leader's own message to `dst`, which wants no answer."""

    dst: int
    code: int
    fields: tuple[object, ...]


class SignalInfo(NamedTuple):
    """Where a signal came from, and what it was sent to.

    `sender` is the sending process's pid in the group and `uid` its user; 0 and -1 if it came by
    way of the kernel. `type` is `"thread"`, `"process"`, `"group"`, `"all"`, or `"kernel"`.
    """

    sender: int
    uid: int
    type: str


class Signalled(NamedTuple):
    """A member has sent us this signal."""

    sig: int
    info: SignalInfo


class KernelSignal(NamedTuple):
    """The leader is to signal process `vmid` by way of the kernel; if it may not, by `message`."""

    vmid: int
    sig: int
    message: tuple[int, ...]


class PgidChanged(NamedTuple):
    """We are in another process group from now on."""

    pgid: int


class GetMeta(NamedTuple):
    """Process `src` asks something about us that this layer does not know."""

    src: int
    seq: int
    pid: int
    what: int


class HandleDropped(NamedTuple):
    """The leader counts us no more among those who lock by this: kind, handle, device, inode."""

    key: tuple[int, int, int, int]


class Delegated(NamedTuple):
    """This file is ours to lock, in this slot of the memory that we share with the leader; with
    `flock` the locks of that kind, else all the others."""

    slot: int
    device: int
    inode: int
    flock: bool


class Recalled(NamedTuple):
    """What was ours in this slot is the leader's again."""

    slot: int


class InTurns(NamedTuple):
    """The lock of this file is handed on at this place of a file of turns, where we are `me`."""

    where: int
    place: int
    me: int
    device: int
    inode: int


class Discard(NamedTuple):
    """The large value that lies at `where` is needed no more."""

    where: bytes


class Publish(NamedTuple):
    """Put this value where the leader finds it if this process dies, before anything else. Where
    `in_use` is no None: as far as there is memory, and that first."""

    id: int
    version: int
    data: object
    in_use: bool | None = None


class Unpublish(NamedTuple):
    """Nothing need be found of this handle any more."""

    id: int


class Offer(NamedTuple):
    """What is here of this handle may be taken, if nobody uses it: all before this is done."""

    id: int


class Ended(NamedTuple):
    """The last member has left: the group is over."""


class Note(NamedTuple):
    """Something an operator may want to read: an event's name and its fields."""

    event: str
    fields: dict[str, object]

    def said(self, where: dict[str, object]) -> str:
        """It as a line: the event, and what belongs to it and to the place where it happened."""
        both = self.fields, where
        own, others = (", ".join(f"{name} {value}" for name, value in f.items()) for f in both)
        return f"{self.event}: {own} ({others})"


Effect: TypeAlias = (
    Open
    | Reopen
    | Disconnect
    | Close
    | Transmit
    | Write
    | OfferLane
    | TakeLane
    | ReachLane
    | ReadLane
    | DropLane
    | Message
    | Withdraw
    | Resolve
    | Fail
    | Progress
    | LeaderGone
    | LookForEpoch
    | Own
    | Heard
    | Journal
    | Confirm
    | Expect
    | Answer
    | Refuse
    | ChildExit
    | ChildJoined
    | Say
    | Signalled
    | KernelSignal
    | PgidChanged
    | GetMeta
    | HandleDropped
    | Delegated
    | Recalled
    | InTurns
    | Discard
    | Publish
    | Unpublish
    | Offer
    | Ended
    | Note
)
Effects: TypeAlias = list[Effect]

#: What to do with an answer: its fields, or the error that came instead.
Then: TypeAlias = Callable[[Body | IpcError, float], Effects]
