"""What is done when the system refuses something for want of room: wait, and go on where it was.

A process that has no descriptor left cannot look at who comes to it. It must not lose them over
that: what they said is kept, in order, and looked at again until it can be. Nor may it grant in
that state what it could not see through: whoever asks to join is told to come again.

What there is no memory for waits too, unless somebody waits for it in turn: a large request is
refused, a large answer comes as the error that it cannot be taken in, and others go on.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.vocabulary import HEADER_WEIGHT, Expect, Message, Note
from libos_ipc.errors import IpcError

if TYPE_CHECKING:
    from libos_ipc.runtime.connections import Connection
    from libos_ipc.runtime.session import Session

__all__ = [
    "AGAIN_S",
    "NOTE_AGAIN_S",
    "PutOff",
    "absent_of",
    "hand_out",
    "on_untaken",
    "persist",
    "require_descriptors",
    "unconnected",
]

#: Seconds until what was refused is tried again.
AGAIN_S = 0.05
#: … and until the same is noted again.
NOTE_AGAIN_S = 10.0
#: Descriptors that the leader needs of a new member: connections to and from it, liveness, pidfd.
OF_A_MEMBER = 4
#: … and has besides, for a lane's memory, for /proc, and for those that have no time to ask first.
MARGIN = 8

Frames = list[bytes]


class PutOff:
    """Connections whose first words could not be dealt with yet, each with all that it said since.
    `read` is called with them again, in order. In the worker."""

    def __init__(self, session: Session, read: Callable[[Connection, Frames], None]) -> None:
        self._session = session
        self._read = read
        self._kept: dict[Connection, list[Frames]] = {}

    def clear(self) -> None:
        """The connections are gone, and with them what they said: they say it again."""
        self._kept.clear()

    def takes(self, connection: Connection, frames: Frames) -> bool:
        """Keep a message of a connection that waits. False if it does not wait."""
        kept = self._kept.get(connection)
        if kept is None:
            return False
        kept.append(frames)
        return True

    def put(self, connection: Connection, frames: Frames, error: OSError) -> None:
        """This message could not be dealt with, for this reason: let its connection wait."""
        session = self._session
        if not self._kept:
            session.clock.later(AGAIN_S, self._again)
            fields = {"os_pid": connection.os_pid, "error": f"{error}: {_advice(error)}"}
            session.perform([Note("cannot look at who connects", fields)])
        self._kept[connection] = [frames]

    def _again(self) -> None:
        before, self._kept = self._kept, {}
        for connection, messages in before.items():
            for frames in messages:
                if not self.takes(connection, frames):
                    self._read(connection, frames)


def absent_of(session: Session, vmids: Iterable[int], is_there: Callable[[int], bool]) -> list[int]:
    """Those who are not there. Of whom that cannot be found out now, that is done later. Under the
    session's lock."""
    absent, unknown = [], []
    for vmid in vmids:
        try:
            if not is_there(vmid):
                absent.append(vmid)
        except OSError:
            unknown.append(vmid)

    def again() -> None:
        session.perform([Expect(tuple(unknown))])

    if unknown:
        session.clock.later(AGAIN_S, lambda: _persist_later(session, again))
    return absent


def persist(session: Session, look: Callable[[], None]) -> None:
    """Call this, and again later as long as the system has no room for it. Under the session's
    lock."""
    try:
        look()
    except IpcError:
        raise
    except OSError:
        session.clock.later(AGAIN_S, lambda: _persist_later(session, look))


def _persist_later(session: Session, look: Callable[[], None]) -> None:
    with session.lock:
        if not session.closed:
            persist(session, look)


def unconnected(session: Session, peer: int, error: OSError) -> None:
    """No connection to `peer` could be made: its link asks again until there is one. Under the
    session's lock."""
    session.member.on_unconnected(peer)
    session.watches.unreached[peer] = f"{error}: {_advice(error)}"
    session.perform([Note("cannot connect", {"peer": peer, "error": str(error)})])


def hand_out(messages: list[Message], deliver: Callable[[Message], None]) -> None:
    """Deliver what was read, the last of the list first; what there is no memory for stays."""
    while messages:
        deliver(messages[-1])
        messages.pop()


def on_untaken(
    session: Session, peer: int, number: int, acked: int, code: int, seq: int, size: int
) -> None:
    """There was no memory for the payload of this message, a request or an answer, of so many
    bytes."""
    member, now = session.member, time.monotonic()
    text = f"VMID {member.vmid} has no memory for a payload of {size} bytes"
    with session.lock:
        link = member.links.get(peer)
        if link is None:
            return
        if code in (Code.RESP, Code.ERROR):
            effects = member.on_message(
                peer, number, acked, Code.ERROR, seq, (errno.ENOMEM, text), now
            )
        else:
            before = link.delivered
            effects = member.on_message(peer, number, acked, Code.ACK, 0, (), now)
            if link.delivered != before and code >= FIRST_USER_CODE:
                weight = HEADER_WEIGHT + size  # nobody will take it up
                link.received_bytes += weight
                if member.consumed(peer, weight):
                    effects += member.announce_credit(peer, now)
            effects += member.refuse(peer, seq, errno.ENOMEM, text, now)
        fields: dict[str, object] = {"peer": peer, "code": code, "size": size}
        session.perform([*effects, Note("no memory", fields)])


def require_descriptors(members: int) -> None:
    """Raise the error for somebody who asks to join, unless there is room for so many more members:
    this one, and those that were let in and have not come yet."""
    taken: list[int] = []
    try:
        taken.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        while len(taken) < MARGIN + members * OF_A_MEMBER:
            taken.append(os.dup(taken[0]))
    except OSError as error:
        text = f"the leader can admit nobody: {error.strerror}; {_advice(error)}"
        raise IpcError(error.errno or errno.EMFILE, text) from None
    finally:
        for fd in taken:
            os.close(fd)


def _advice(error: OSError) -> str:
    if error.errno == errno.EMFILE:
        return "raise its RLIMIT_NOFILE, or close what is not needed"
    if error.errno == errno.ENFILE:
        return "the whole system has none left: raise fs.file-max"
    return "it is tried again"
