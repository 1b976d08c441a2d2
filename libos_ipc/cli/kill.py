"""`libos-ipc kill`: signals to processes by their pids in a group."""

from __future__ import annotations

from typing import NamedTuple

import click

from libos_ipc import Group, IpcError, PeerDied
from libos_ipc.cli.complaints import complain_of
from libos_ipc.cli.listing import Listing
from libos_ipc.cli.options import ID, json_option
from libos_ipc.cli.output import print_json
from libos_ipc.cli.places import Place, single_place
from libos_ipc.cli.signal_names import name_of, numbers, signal_of

__all__ = ["command"]

_SIGNALS = Listing(("NUMBER", "NAME"), lambda row: [row["number"], row["name"]], "")


class _Target(NamedTuple):
    """Where a signal goes."""

    kind: str  #: "process", "group", or "all"
    id: int  #: a pid or a pgid


@click.command()
@click.option(
    "-s",
    "--signal",
    "sig",
    metavar="SIGNAL",
    callback=signal_of,
    default="TERM",
    show_default=True,
    help="The signal, by name or number; 0 only asks whether it could be sent.",
)
@click.option("--pgid", metavar="PGID", type=ID, help="To every process of this process group.")
@click.option("--all", "to_all", is_flag=True, help="To every member; needs --group.")
@click.option("-l", "--list", "list_signals", is_flag=True, help="List the signals.")
@single_place
@json_option
@click.argument("pids", metavar="[PID]...", nargs=-1, type=ID)
def command(
    pids: tuple[int, ...],
    sig: int,
    pgid: int | None,
    to_all: bool,
    list_signals: bool,
    place: Place,
    as_json: bool,
) -> int:
    """Send a signal to processes of a group.

    They are named by their pids in the group. All are tried; the status is 1 if one could not be
    signalled. --json prints what was done.
    """
    if (bool(pids), pgid is not None, to_all, list_signals).count(True) != 1:
        raise click.UsageError("Give one of these: PIDs, --pgid, --all, --list.")
    if list_signals:
        _SIGNALS.print([{"number": sig, "name": name_of(sig)} for sig in numbers()], as_json)
        return 0
    if to_all and not (place.group and place.explicit):
        raise click.UsageError("--all needs the group to be named by --group on the command line.")
    if to_all:
        targets = [_Target("all", 0)]
    elif pgid is not None:
        targets = [_Target("group", pgid)]
    else:
        targets = [_Target("process", pid) for pid in pids]
    errors = _send_all(place, targets, sig)
    if as_json:
        print_json(
            [
                {
                    "to": target.kind,
                    "id": target.id or None,
                    "signal": sig,
                    "name": name_of(sig),
                    "error": error and error.strerror,
                }
                for target, error in zip(targets, errors, strict=True)
            ]
        )
    return complain_of(error for error in errors if error)


def _send_all(place: Place, targets: list[_Target], sig: int) -> list[IpcError | None]:
    """Send the signal to each; the error if that could not be done."""
    with place.visit() as group:
        return [_send(group, target, sig) for target in targets]


def _send(group: Group, target: _Target, sig: int) -> IpcError | None:
    kind, id = target
    try:
        if kind == "all":
            group.kill_all(sig)
        elif kind == "group":
            if id == group.pgid:  # which is ours alone, while we visit
                raise PeerDied(f"process group {id} has no members")
            group.killpg(id, sig)
        else:
            if id == group.pid:
                raise PeerDied(f"pid {id} names no process of the group")
            group.kill(id, sig)
    except IpcError as error:
        return error
    return None
