"""The words of file locks: what is asked, what is held, what is answered.

A lock covers a range of bytes of one file, its bounds inclusive; `EOF` as the last byte means
"to the end, however far the file grows". The file is its device and inode. Who holds a lock is
its *owner*, and that depends on the kind:

    POSIX   the process: all its threads and descriptors are one owner
    OFD     an open file description, which a fork shares
    FLOCK   an open file description too, but the whole file, and a world of its own
    FAIR    one acquisition of `group.file_lock`

POSIX, OFD and FAIR locks of a file see one another; FLOCK locks see only FLOCK locks.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from libos_ipc.core.wait_graph import Agent

__all__ = [
    "EOF",
    "GRANTS",
    "NO_WAIT",
    "READ",
    "UNLOCK",
    "WAIT",
    "WAIT_TIMED",
    "WRITE",
    "Ask",
    "Decision",
    "FileId",
    "Found",
    "Held",
    "Kind",
    "Outcome",
    "Owner",
    "Record",
    "Row",
    "agents_of",
    "first_number",
    "name_of",
    "place",
]

#: The values of F_RDLCK, F_WRLCK and F_UNLCK on Linux.
READ = 0
WRITE = 1
UNLOCK = 2
#: The last byte of a lock that has no end.
EOF = 2**63 - 1

#: Values of `Ask.wait`.
NO_WAIT = 0
WAIT = 1  #: for ever
WAIT_TIMED = 2  #: the asker will withdraw it by and by

#: Numbers for its grants that each leader has before it comes to those of the next. Its epoch is
#: the part above, so that who reads a number need not know who led then.
GRANTS = 1 << 48
_LAST_EPOCH = 1 << 14

#: (device, inode)
FileId: TypeAlias = tuple[int, int]
Record: TypeAlias = tuple[Any, ...]


class Kind(IntEnum):
    """To which family a lock belongs."""

    POSIX = 1
    OFD = 2
    FLOCK = 3
    FAIR = 4


class Owner(NamedTuple):
    """Whose lock it is: a pid for POSIX, a handle's ID for all others."""

    kind: int
    id: int


class Ask(NamedTuple):
    """A request for a lock: who sent it (`src` is a VMID), and what for."""

    src: int
    seq: int
    file: FileId
    owner: Owner
    type: int
    start: int
    end: int
    wait: int
    pid: int
    thread: int  #: from 1
    path: bytes  #: for people

    @classmethod
    def of(cls, fields: Sequence[Any]) -> Ask:
        """The request that a record carries; sequences of any kind stand for tuples."""
        src, seq, file, owner, *rest = fields
        return cls(src, seq, (file[0], file[1]), Owner(*owner), *rest)

    def plain(self) -> tuple[Any, ...]:
        """For a record."""
        src, seq, file, (kind, id), *rest = self
        return (src, seq, file, (int(kind), id), *rest)


class Held(NamedTuple):
    """A range that an owner holds, and who asked for it last."""

    start: int
    end: int
    type: int
    vmid: int
    pid: int
    thread: int
    number: int
    since: float
    path: bytes


class Outcome(NamedTuple):
    """How a request ended. `errno` 0: it is granted, as number `number` of all grants."""

    src: int
    seq: int
    errno: int
    number: int
    text: str


class Found(NamedTuple):
    """The lock that stands in the way of a query."""

    owner: Owner
    type: int
    start: int
    end: int
    pid: int
    vmid: int
    path: bytes


def first_number(epoch: int) -> int:
    """What the grants of this epoch begin with: more than all numbers of earlier ones."""
    return (min(epoch, _LAST_EPOCH) - 1) * GRANTS + 1


class Decision(NamedTuple):
    """What to write into the journal, and whom to answer what after that."""

    records: list[Record]
    outcomes: list[Outcome]


class Row(NamedTuple):
    """One lock in a listing. `waits_for`: (VMID, pid) of some that a waiter waits for."""

    file: FileId
    path: bytes
    kind: int
    type: int
    start: int
    end: int
    pid: int
    vmid: int
    thread: int
    handle: int
    since_s: float
    waiting: bool
    waits_for: tuple[tuple[int, int], ...]


def agents_of(owner: Owner, vmid: int, thread: int) -> tuple[Agent, ...]:
    """Who holds, or waits, where this owner does; nobody where no cycle is looked for."""
    if owner.kind == Kind.POSIX:
        return ((vmid, 0), (vmid, thread)) if thread else ((vmid, 0),)
    if owner.kind == Kind.FAIR:
        return ((vmid, thread),)
    return ((0, owner.id),) if owner.kind == Kind.OFD else ()


def name_of(type: int) -> str:
    """What people call this type."""
    return ("read", "write", "unlock")[type]


def place(type: int, start: int, end: int, path: bytes) -> str:
    """What an error says of a range."""
    last = "end" if end == EOF else str(end)
    return f"{name_of(type)} {start}-{last} of {path.decode(errors='replace')}"
