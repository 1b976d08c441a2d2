"""`libos-ipc ps`: who is in a group, or in every group."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from libos_ipc import IpcError, LeaderLost, NotJoined, groups
from libos_ipc.cli.options import json_option, runtime_dir_option
from libos_ipc.cli.output import print_json, print_table
from libos_ipc.cli.visit import visiting

__all__ = ["command"]

_HEADS = ("GROUP", "VMID", "PID", "PPID", "PGID", "OS PID", "STATE", "JOINED", "COMMAND")


@click.command()
@click.option(
    "--group",
    metavar="NAME",
    envvar="LIBOS_IPC_GROUP",
    show_envvar=True,
    help="The group, by name or token; by default all that are alive in the runtime directory.",
)
@runtime_dir_option
@json_option
@click.pass_context
def command(ctx: click.Context, group: str | None, runtime_dir: Path | None, as_json: bool) -> int:
    """List the members of a group, or of all groups.

    It joins each group for a moment to ask, and leaves itself out of the answer. The leader of
    a group is listed only if it is a member, too. To list all groups from inside of one, name
    the --runtime-dir.
    """
    from_environment = ctx.get_parameter_source("group") is click.core.ParameterSource.ENVIRONMENT
    if group and not (from_environment and runtime_dir):
        _print(_members(group, runtime_dir), as_json)
        return 0
    rows, failures = _members_of_all(runtime_dir)
    _print(rows, as_json)
    if failures:
        raise failures[0]
    return 0


def _members_of_all(
    runtime_dir: Path | None,
) -> tuple[list[dict[str, object]], list[IpcError]]:
    """The members of every group, and what went wrong with those that did not answer."""
    rows: list[dict[str, object]] = []
    failures: list[IpcError] = []
    for name in groups(runtime_dir):
        try:
            rows += _members(name, runtime_dir)
        except (NotJoined, LeaderLost):
            continue  # it has ended meanwhile
        except IpcError as error:
            failures.append(error)
    return rows, failures


def _members(name: str, runtime_dir: Path | None) -> list[dict[str, object]]:
    with visiting(name, runtime_dir) as group:
        return [
            {
                "group": group.name,
                **member._asdict(),
                "leads": member.vmid == group.leader_vmid,
                "command": _command_of(member.os_pid),
            }
            for member in group.members()
            if member.vmid != group.vmid
        ]


def _command_of(os_pid: int) -> str:
    """The command line of a process; its name in brackets if it has none, "" if it is gone."""
    try:
        words = Path(f"/proc/{os_pid}/cmdline").read_bytes()
        if words:
            return os.fsdecode(words.rstrip(b"\0").replace(b"\0", b" "))
        return f"[{os.fsdecode(Path(f'/proc/{os_pid}/comm').read_bytes().rstrip())}]"
    except OSError:
        return ""


def _print(rows: list[dict[str, object]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif rows:
        print_table(_HEADS, map(_cells, rows))
    else:
        click.echo("no group is alive here")


def _cells(row: dict[str, object]) -> list[object]:
    state = f"{row['state']}, leads" if row["leads"] else row["state"]
    joined = row["joined_at"]
    assert isinstance(joined, float)
    numbers = [row[name] for name in ("vmid", "pid", "ppid", "pgid", "os_pid")]
    return [row["group"], *numbers, state, _time_of(joined), row["command"]]


def _time_of(seconds: float) -> str:
    """The local time, with the day unless that is today; a dash for none."""
    if not seconds:
        return "-"
    then = time.localtime(seconds)
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)
