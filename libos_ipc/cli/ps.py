"""`libos-ipc ps`: who is in a group, or in every group."""

from __future__ import annotations

import click

from libos_ipc import Group
from libos_ipc.cli.listing import Listing, Row
from libos_ipc.cli.options import json_option
from libos_ipc.cli.places import Place, listing_place
from libos_ipc.cli.visit import members_of
from libos_ipc.cli.words import command_of, time_of

__all__ = ["command"]


@click.command()
@listing_place
@json_option
def command(place: Place, as_json: bool) -> int:
    """List the members of a group, or of all groups.

    It joins each group for a moment to ask, and leaves itself out of the answer. The leader of
    a group is listed only if it is a member, too. To list all groups from inside of one, name
    the --runtime-dir.
    """
    return _LISTING.show(place, _members, as_json)


def _members(group: Group) -> list[Row]:
    return [
        {
            "group": group.name,
            **member._asdict(),
            "leads": member.vmid == group.leader_vmid,
            "command": command_of(member.os_pid),
        }
        for member in members_of(group)
    ]


def _cells(row: Row) -> list[object]:
    state = f"{row['state']}, leads" if row["leads"] else row["state"]
    numbers = [row[name] for name in ("vmid", "pid", "ppid", "pgid", "os_pid")]
    return [row["group"], *numbers, state, time_of(row["joined_at"]), row["command"]]


_LISTING = Listing(
    ("GROUP", "VMID", "PID", "PPID", "PGID", "OS PID", "STATE", "JOINED", "COMMAND"),
    _cells,
    "no group is alive here",
)
