"""`libos-ipc sync`: the values that processes share, who has them, and who waits for them."""

from __future__ import annotations

import click

from libos_ipc import Group, State
from libos_ipc.cli.listing import Listing, Row
from libos_ipc.cli.options import json_option
from libos_ipc.cli.places import Place, listing_place
from libos_ipc.cli.words import or_dash
from libos_ipc.sync import SyncInfo

__all__ = ["command"]


@click.command()
@listing_place
@json_option
def command(place: Place, as_json: bool) -> int:
    """List the shared values of a group, or of all groups.

    SHARED, EXCLUSIVE and WAITING are pids in the group; an asterisk marks a process that uses the
    value at the moment, as far as the leader was told. SIZE is in bytes.
    """

    def rows_of(group: Group) -> list[Row]:
        pids = {member.vmid: member.pid for member in group.members()}
        return [_row(group.name, info, pids) for info in group.sync_table()]

    return _LISTING.show(place, rows_of, as_json)


def _row(group: str, info: SyncInfo, pids: dict[int, int]) -> Row:
    openers = [
        {"vmid": vmid, "pid": pids.get(vmid), "state": State(state).name.lower(), "thread": thread}
        for vmid, state, thread in info.states
    ]
    waiting = [
        {"vmid": vmid, "pid": pids.get(vmid), "state": State(state).name.lower()}
        for vmid, state in info.waiting
    ]
    known = (info.id, info.name, info.type, info.version, info.size)
    names = ("id", "name", "type", "version", "size")
    row = dict(zip(names, known, strict=True))
    return {"group": group, **row, "open": openers, "waiting": waiting}


def _cells(row: Row) -> list[object]:
    def having(state: str) -> object:
        return or_dash(
            ", ".join(
                f"{each['pid']}{'*' if each['thread'] else ''}"
                for each in row["open"]
                if each["state"] == state
            )
        )

    waiting = ", ".join(f"{each['pid']} {each['state']}" for each in row["waiting"])
    return [
        row["group"],
        row["id"],
        or_dash(row["name"]),
        row["type"],
        row["version"],
        row["size"],
        len(row["open"]),
        having("shared"),
        having("exclusive"),
        or_dash(waiting),
    ]


_HEADS = ("GROUP", "ID", "NAME", "TYPE", "VERSION", "SIZE", "OPEN", "SHARED", "EXCLUSIVE")
_LISTING = Listing((*_HEADS, "WAITING"), _cells, "no value is shared here")
