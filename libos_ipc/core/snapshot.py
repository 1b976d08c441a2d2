"""The leader's state as one record, in the place of all records that have led to it.

A journal only grows, and a successor reads all of it. So now and then it is begun anew with this
record (`runtime/journal_file.py` says how), which must bring back exactly what the replay would:
queues and tables as they stand, in the order in which they stand. They are written as they are,
by `pickle`, each machine's own part; what a leader only knows for itself (how far its answers have
been heard) is not among it.

What is read may make objects of the classes named here, and of no others, whatever stands in the
journal. What is written is held to the same: a state that could not be read would be the end of
the group.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, TypeAlias

from libos_ipc.errors import ProtocolError

if TYPE_CHECKING:
    from libos_ipc.core.roster import Roster

__all__ = ["restore", "snapshot"]

Part: TypeAlias = tuple[object, tuple[str, ...]]

_CORE = "libos_ipc.core."
#: What a state consists of, beside plain numbers, texts and containers, by module.
_CLASSES: dict[str, set[str]] = {
    "collections": {"deque"},
    "sortedcontainers.sorteddict": {"SortedDict"},
    "sortedcontainers.sortedlist": {"SortedList"},
    _CORE + "codes": {"Code"},
    _CORE + "vocabulary": {"ChildExit", "State"},
    _CORE + "process_rows": {"Process", "Spare"},
    _CORE + "range_tree": {"RangeTree"},
    _CORE + "free_space": {"FreeSpace"},
    _CORE + "particulars": {"Departed"},
    _CORE + "descriptors": {"Spot"},
    _CORE + "lock_words": {"Ask", "Held", "Kind", "Owner"},
    _CORE + "lock_owners": {"LockOwners"},
    _CORE + "lock_undo": {"Undo", "UndoMemory"},
    _CORE + "lock_space": {"LockSpace"},
    _CORE + "lock_ranges": {"LockRanges", "_Holder"},
    _CORE + "lock_waiters": {"Queue", "Waiter", "Waiters"},
    _CORE + "overlaps": {"Overlaps"},
    _CORE + "sync_rows": {"Entry", "Handle", "Row"},
    _CORE + "sync_words": {"Reference", "State", "Value"},
}


def _parts(roster: Roster) -> tuple[Part, ...]:
    """What each machine has in its journal's records, and nowhere else."""
    own = ("next_vmid", "ever_joined", "regrouped", "relays", "orphan_exits")
    locks = ("next_number", "_next_arrival", "waiting", "waits_of", "contested", "_requests_of")
    return (
        (roster, ("processes", "spares", "spares_of", *own)),
        (roster.files, ("given", "slots", "turns")),
        (roster.ids, ("_cursor", "_ranges", "_free")),
        (roster.groups, ("members", "kept")),
        (roster.particulars, ("caught", "threads", "_threads_of", "entries", "departed")),
        (roster.descriptors, ("_of",)),
        (roster.answered, ("_kept", "_heard")),
        (roster.locks, ("spaces", "owners", "grants", "freed", *locks)),
        (roster.sync, ("next_id", "handles", "names", "open_at", "waiting")),
    )


def snapshot(roster: Roster) -> bytes:
    """All of it, for `restore`. ProtocolError if there is anything that this would not read."""
    import pickle  # not by those who never lead

    class Writer(pickle.Pickler):
        def reducer_override(self, found: object) -> Any:
            made = found if isinstance(found, type) else type(found)
            _require(made.__module__, made.__name__)
            return NotImplemented

    written = io.BytesIO()
    parts = [tuple(getattr(part, name) for name in names) for part, names in _parts(roster)]
    Writer(written, protocol=5).dump(parts)
    return written.getvalue()


def restore(roster: Roster, data: bytes) -> None:
    """Put the state in the place of the present one. ProtocolError if `data` is damaged."""
    parts = _parts(roster)
    found = _read(data)
    wanted = [len(names) for _, names in parts]
    if not isinstance(found, list) or [len(values) for values in found] != wanted:
        raise ProtocolError("the state in a journal is another version's")
    for (part, names), values in zip(parts, found, strict=True):
        for name, value in zip(names, values, strict=True):
            setattr(part, name, value)
    roster.answered.forget_numbers()


def _read(data: bytes) -> Any:
    import pickle

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            _require(module, name)
            return super().find_class(module, name)

    try:
        return Reader(io.BytesIO(data)).load()
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"the state in a journal cannot be read: {error}") from error


def _require(module: str, name: str) -> None:
    if name not in _CLASSES.get(module, ()):
        raise ProtocolError(f"{module}.{name} is no part of a leader's state")
