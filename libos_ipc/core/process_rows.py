"""The rows of the leader's table: who asks to be admitted, who is there, who may be coming."""

from __future__ import annotations

from typing import NamedTuple

from libos_ipc.core.vocabulary import State

__all__ = ["Admission", "Applicant", "Process", "Spare"]

#: Forebears of a process that are remembered.
FOREBEARS_KEPT = 32


class Applicant(NamedTuple):
    """A process that asks to be admitted; what the kernel says of it, and what it says."""

    os_pid: int
    start_time: int
    uid: int
    parent: int  #: VMID of the issuer of its token, 0 for none
    may_lead: bool
    #: drawn for one call of `join`, which asks the next leader again if one dies; 0 matches none
    attempt: int = 0


class Admission(NamedTuple):
    """What an admitted process is told."""

    vmid: int
    pid: int
    ppid: int
    pgid: int
    parent: int
    start: int  #: its first range of IDs, `pid` included
    end: int


class Process:
    """One row of the table."""

    __slots__ = (
        "attempt",
        "forebears",
        "forked",
        "joined_at",
        "may_lead",
        "os_pid",
        "parent",
        "pgid",
        "pid",
        "ppid",
        "start_time",
        "state",
        "uid",
        "vmid",
    )

    def __init__(self, vmid: int, pid: int, ppid: int, parent: int, pgid: int) -> None:
        self.vmid = vmid
        self.pid = pid
        self.ppid = ppid
        self.parent = parent
        self.pgid = pgid
        self.os_pid = 0
        self.start_time = 0
        self.uid = -1
        self.may_lead = True
        self.attempt = 0
        #: made by a fork of `parent`, which therefore knows of it
        self.forked = True
        #: VMIDs of those that it was forked from, its parent first, whether they live or not
        self.forebears: tuple[int, ...] = ()
        self.state = State.STARTING
        self.joined_at = 0.0

    def line(self) -> tuple[int, ...]:
        """The process and its forebears: the forebears of a child."""
        return (self.vmid, *self.forebears)[:FOREBEARS_KEPT]

    def row(self) -> tuple[object, ...]:
        """All fields in a fixed order, for comparing."""
        return tuple(getattr(self, name) for name in Process.__slots__)

    def public(self) -> tuple[int | float, ...]:
        """What everybody may know, in the order in which it is sent."""
        known = (self.vmid, self.pid, self.ppid, self.pgid, self.os_pid)
        return (*known, int(self.state), self.joined_at)


class Spare:
    """A VMID that was given out and whose process has not been seen, if it ever will be.

    `pid` is the ID that the asker has moved to it, 0 before that; `ppid`, `pgid` and `forebears`
    are what its process inherits where the asker has gone before it.
    """

    __slots__ = ("asker", "forebears", "pgid", "pid", "ppid")

    def __init__(self, asker: int) -> None:
        self.asker = asker
        self.pid = 0
        self.ppid = 0
        self.pgid = 0
        self.forebears: tuple[int, ...] = ()

    def row(self) -> tuple[object, ...]:
        """All fields in a fixed order, for comparing."""
        return self.asker, self.pid, self.ppid, self.pgid, self.forebears
