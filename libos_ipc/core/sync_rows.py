"""What the server knows of one handle: who has what of it, and who wants more.

`sync_table` changes it, by records; here is what can be asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from libos_ipc.core.sync_words import NEVER_WRITTEN, Agent, Place, State

__all__ = ["IN_THE_WAY", "Entry", "Handle", "Row"]

INVALID, SHARED, EXCLUSIVE = State.INVALID, State.SHARED, State.EXCLUSIVE

#: (wanted, what another has) -> what that one must go down to. Not here: it is not in the way.
IN_THE_WAY: dict[tuple[int, int], State] = {
    (EXCLUSIVE, EXCLUSIVE): INVALID,
    (EXCLUSIVE, SHARED): INVALID,
    (SHARED, EXCLUSIVE): SHARED,
}


class Entry(NamedTuple):
    """An upgrade that is wanted."""

    vmid: int
    state: int
    number: int
    thread: int
    timed: bool

    @property
    def agent(self) -> Agent | None:
        """Who waits for it, None if nobody does who could be part of a cycle."""
        return (self.vmid, self.thread) if self.thread and not self.timed else None


class Row:
    """One process that has a handle open."""

    __slots__ = (
        *("lent", "offered", "over", "passing", "recall", "silent", "state", "user", "using"),
        *("waits", "warned"),
    )

    def __init__(self) -> None:
        self.state: int = INVALID
        self.recall = 0  # what it was asked to go down to, 0 for nothing
        self.user = 0  # the thread that uses it there, as far as told, and …
        self.using: int = INVALID  # … as what
        self.waits: dict[int, int] | None = None  # number -> thread that waits behind another
        self.warned = False  # was told of a death by what it has
        self.silent = False  # has not said yet what it really has
        self.passing = False  # has the baton, if there is one
        #: had it in use when the baton was ended, and has not said anything since
        self.lent = False
        self.offered = False  # was to have it when the baton was ended, unless it declines
        self.over = 0  # waits up to this number had ended there when something was taken

    def fields(self) -> tuple[object, ...]:
        """All fields in a fixed order, for comparing."""
        waits = tuple(sorted((self.waits or {}).items()))
        own = (self.state, self.recall, self.user, self.using)
        rest = (self.silent, self.passing, self.lent, self.offered, self.over)
        return *own, waits, self.warned, *rest

    def is_over(self, number: int) -> bool:
        """Whether this wait had ended before something was taken. 0 is nobody's."""
        return 0 < number <= self.over

    def set_user(self, thread: int, using: int) -> None:
        """It is this thread that uses the handle there; 0: nobody, or nobody knows."""
        self.user, self.using = thread, using if thread else INVALID


class Handle:
    """A handle that anybody has open. An empty name is none."""

    __slots__ = (
        *("baton", "id", "moves", "name", "on_death", "owner_died", "queue", "rows", "type_text"),
        "value",
    )

    def __init__(self, id: int, name: str, type_text: str, on_death: str) -> None:
        self.id = id
        self.name = name
        self.type_text = type_text
        self.on_death = on_death  # "last" or "raise"
        self.owner_died = False  # the next one granted is to be told
        self.value = NEVER_WRITTEN
        self.rows: dict[int, Row] = {}  # by VMID
        self.queue: tuple[Entry, ...] = ()
        self.baton: Place | None = None  # by which EXCLUSIVE is passed on without the server
        self.moves = 0  # EXCLUSIVE granted in a row; not recorded

    def entry_of(self, vmid: int) -> Entry | None:
        """What this process wants."""
        for entry in self.queue:
            if entry.vmid == vmid:
                return entry
        return None

    def in_the_way(self, entry: Entry) -> Iterator[tuple[int, Row]]:
        """The processes that must go down first."""
        own, wanted = entry.vmid, entry.state
        for vmid, row in self.rows.items():
            if vmid != own and (wanted, row.state) in IN_THE_WAY:
                yield vmid, row

    def fields(self) -> tuple[object, ...]:
        """All there is to it, for comparing."""
        own = (self.id, self.name, self.type_text, self.on_death, self.owner_died, self.value)
        rows = tuple((vmid, *row.fields()) for vmid, row in sorted(self.rows.items()))
        return *own, rows, self.queue, self.baton

    def __str__(self) -> str:
        return f"sync handle {self.id} {self.name!r}" if self.name else f"sync handle {self.id}"
