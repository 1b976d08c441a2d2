"""`libos-ipc locks`: who has which file locked, and who waits for that."""

from __future__ import annotations

import os
from pathlib import Path

import click

from libos_ipc import Group, LockInfo
from libos_ipc.cli.listing import Listing, Row
from libos_ipc.cli.options import json_option
from libos_ipc.cli.places import Place, listing_place
from libos_ipc.cli.words import command_of, duration, or_dash
from libos_ipc.locks import EOF

__all__ = ["command"]


@click.command()
@click.option(
    "--path",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Only the locks of this file, however they name it.",
)
@listing_place
@json_option
def command(path: Path | None, place: Place, as_json: bool) -> int:
    """List the file locks of a group, or of all groups: held and waited for.

    FOR is how long a lock has been held, or waited for. A delegated file is locked by one process
    without a message, until another asks, or by some in turns. WAITS FOR are pids in the group, as
    is PID.
    """
    file = path and _file(path)

    def rows_of(group: Group) -> list[Row]:
        locks = group.locks.table()
        return [
            {"group": group.name, **lock._asdict(), "command": command_of(lock.os_pid)}
            for lock in _sorted(locks)
            if file in (None, (lock.device, lock.inode))
        ]

    return _LISTING.show(place, rows_of, as_json)


def _file(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _sorted(locks: list[LockInfo]) -> list[LockInfo]:
    """By file, held before waited for, by range; who waits longest comes first of those."""
    names: dict[tuple[int, int], str] = {}
    for lock in locks:
        file = lock.device, lock.inode
        names[file] = min(lock.path, names.get(file, lock.path))

    def key(lock: LockInfo) -> tuple[object, ...]:
        file = lock.device, lock.inode
        place = (-lock.since, lock.start) if lock.waiting else (lock.start, lock.end)
        return names[file], file, lock.waiting, *place, lock.vmid

    return sorted(locks, key=key)


def _cells(row: Row) -> list[object]:
    end = "EOF" if row["end"] == EOF else row["end"]
    return [
        row["group"],
        row["kind"],
        row["type"],
        _state(row),
        f"{row['start']}-{end}",
        row["pid"],
        row["os_pid"],
        "-" if row["delegated"] else duration(row["since"]),
        or_dash(", ".join(map(str, row["waits_for"]))),
        row["path"],
        row["command"],
    ]


def _state(row: Row) -> str:
    if row["delegated"]:
        return "delegated" if row["type"] == "none" else "held, delegated"
    return "waiting" if row["waiting"] else "held"


_HEADS = ("GROUP", "KIND", "TYPE", "STATE", "RANGE", "PID", "OS PID", "FOR", "WAITS FOR", "PATH")
_LISTING = Listing((*_HEADS, "COMMAND"), _cells, "no file is locked here")
