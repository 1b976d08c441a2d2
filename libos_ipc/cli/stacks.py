"""`libos-ipc stacks`: where every process of a group is in its Python code.

All are asked at once, each by a thread of its own: one that is stuck takes its time, and holds up
nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import click

from libos_ipc import Group, IpcError, LeaderLost, Member, NotJoined, PeerDied
from libos_ipc.cli.listing import Row
from libos_ipc.cli.options import ID, json_option
from libos_ipc.cli.output import print_json, printable
from libos_ipc.cli.places import Place, listing_place
from libos_ipc.cli.visit import members_of
from libos_ipc.cli.words import command_of

__all__ = ["command"]

#: Threads that ask, at most.
_AT_ONCE = 100


@click.command()
@listing_place
@json_option
@click.argument("pids", metavar="[PID]...", nargs=-1, type=ID)
def command(pids: tuple[int, ...], place: Place, as_json: bool) -> int:
    """Show the Python stacks of the members of a group, or of all groups.

    With PIDs, which are pids in the group, it is these alone, and the group must be named. A
    process that holds the interpreter lock shows its stacks, too. Where one cannot, the reason
    stands in their place: it is stopped, for example.
    """
    failures: list[IpcError] = []
    if pids:
        with place.visit() as group:
            rows = _stacks(group, [member for member in members_of(group) if member.pid in pids])
        missing = sorted(set(pids) - {row["pid"] for row in rows})
        if missing:
            who = ", ".join(map(str, missing))
            failures.append(PeerDied(f"no process of the group has the pid {who}"))
    else:
        rows, failures = place.ask(lambda group: _stacks(group, members_of(group)))
    if as_json:
        print_json(rows)
    elif rows or not pids:
        _print(rows)
    if failures:
        raise failures[0]
    return 0


def _stacks(group: Group, members: list[Member]) -> list[Row]:
    """What these tell; without those that have ended meanwhile."""
    if not members:
        return []

    def ask(member: Member) -> tuple[str | None, str | None] | None:
        try:
            return group.getmeta(member.pid, "stack"), None
        except PeerDied:
            return None
        except (NotJoined, LeaderLost):
            raise
        except IpcError as error:
            return None, error.strerror

    with ThreadPoolExecutor(min(len(members), _AT_ONCE)) as threads:
        answers = list(threads.map(ask, members))
    return [
        {
            "group": group.name,
            "vmid": member.vmid,
            "pid": member.pid,
            "os_pid": member.os_pid,
            "command": command_of(member.os_pid),
            "stack": answer[0],
            "reason": answer[1],
        }
        for member, answer in zip(members, answers, strict=True)
        if answer
    ]


def _print(rows: Iterable[Row]) -> None:
    paragraphs = []
    for row in rows:
        who = f"group {row['group']}, pid {row['pid']}, OS pid {row['os_pid'] or '-'}"
        head = click.style(printable(f"{who}: {row['command']}"), bold=True)
        text = row["reason"] if row["stack"] is None else row["stack"].strip("\n")
        lines = "".join(f"\n  {printable(line)}".rstrip(" ") for line in text.split("\n"))
        paragraphs.append(f"{head}{lines}\n")
    click.echo("\n".join(paragraphs) or "no group is alive here", nl=not paragraphs)
