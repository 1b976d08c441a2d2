"""`libos-ipc ids`: what IDs of a group are, and whose."""

from __future__ import annotations

import click

from libos_ipc import Group, Member
from libos_ipc.cli.listing import Listing, Row
from libos_ipc.cli.options import ID, json_option
from libos_ipc.cli.places import Place, listing_place
from libos_ipc.cli.visit import members_of
from libos_ipc.cli.words import command_of, or_dash

__all__ = ["command"]


@click.command()
@listing_place
@json_option
@click.argument("ids", metavar="[ID]...", nargs=-1, type=ID)
def command(ids: tuple[int, ...], place: Place, as_json: bool) -> int:
    """Show who owns IDs of a group.

    Without an ID, show those that are the pids and process groups of all members. With one,
    the group must be named. The process that an ID belongs to is shown by its VMID and its pid;
    an ID that nobody owns has none.
    """
    if not ids:
        return _LISTING.show(place, _known, as_json)
    with place.visit() as group:
        rows = _rows(group, members_of(group), ids)
    _LISTING.print(rows, as_json)
    return 0


def _known(group: Group) -> list[Row]:
    members = members_of(group)
    ids = {member.pid for member in members} | {member.pgid for member in members}
    return _rows(group, members, sorted(ids))


def _rows(group: Group, members: list[Member], ids: tuple[int, ...] | list[int]) -> list[Row]:
    pids = {member.pid for member in members}
    pgids = {member.pgid for member in members}
    by_vmid = {member.vmid: member for member in members}
    rows: list[Row] = []
    for id in ids:
        vmid = group.ids.owner(id)
        owner = by_vmid.get(vmid or 0)
        if vmid and not owner and vmid >= group.vmid:
            vmid = None  # ours, or kept for forks of ours: only while we visit
        rows.append(
            {
                "group": group.name,
                "id": id,
                "is_pid": id in pids,
                "is_pgid": id in pgids,
                "vmid": vmid,
                "pid": owner and owner.pid,
                "os_pid": owner and owner.os_pid,
                "command": command_of(owner.os_pid) if owner else None,
            }
        )
    return rows


def _cells(row: Row) -> list[object]:
    uses = [word for name, word in _USES.items() if row[name]]
    owner = [or_dash(row[name]) for name in ("vmid", "pid", "os_pid", "command")]
    what = ", ".join(uses) or ("nobody's" if row["vmid"] is None else "ID")
    return [row["group"], row["id"], what, *owner]


_USES = {"is_pid": "pid", "is_pgid": "process group"}
_LISTING = Listing(
    ("GROUP", "ID", "WHAT", "VMID", "PID", "OS PID", "COMMAND"), _cells, "no group is alive here"
)
