"""`libos-ipc top`: a group at work, again and again."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import closing

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from libos_ipc.cli.options import json_option
from libos_ipc.cli.output import console, make_table, print_json, print_table, printable
from libos_ipc.cli.places import Place, single_place
from libos_ipc.cli.sampling import Sample, Sampler

__all__ = ["command"]

_HEADS = (
    *("VMID", "PID", "CPU%", "OUT/s", "IN/s", "LATENCY", "ASKS", "BACKLOG"),
    *("LOCKS", "WAITS", "VALUES", "COMMAND"),
)


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--count",
    type=click.IntRange(1),
    help="Looks; by default, on a terminal, until Ctrl-C, and elsewhere one.",
)
@single_place
@json_option
def command(interval: float, count: int | None, place: Place, as_json: bool) -> int:
    """Show the members of a group at work: rates of messages, latencies, locks, shared values.

    Where only one group is alive it need not be named.

    OUT and IN are messages per second, the library's own included. LATENCY is the time in which the
    process's worker answers, a dash if it does not. ASKS are requests that wait for an answer,
    BACKLOG bytes received that no handler has taken up; LOCKS are held and WAITS waited for.
    """
    live = sys.stdout.isatty() and not as_json
    looks = itertools.count() if count is None and live else range(count or 1)
    with place.visit(only=True) as group, closing(Sampler(group)) as sampler:
        sampler.look()
        samples = _paced(sampler, interval, iter(looks))
        if live:
            with Live(console=console(), auto_refresh=False) as screen:
                for sample in samples:
                    screen.update(_table(sample), refresh=True)
        elif as_json:
            print_json([sample._asdict() for sample in samples])
        else:
            for sample in samples:
                click.echo(_title(sample))
                print_table(_HEADS, _cells(sample))
    return 0


def _paced(sampler: Sampler, interval: float, looks: Iterator[int]) -> Iterator[Sample]:
    for _ in looks:
        time.sleep(interval)
        yield sampler.look()


def _title(sample: Sample) -> str:
    group = sample.group
    return printable(
        f"group {group['name']}, epoch {group['epoch']}, leader VMID {group['leader']}: "
        f"{group['members']} members, {group['locks']} locks, {group['waiting']} waiting, "
        f"{group['handles']} shared values"
    )


def _cells(sample: Sample) -> list[list[object]]:
    rows = []
    for row in sample.members:
        counters = row["counters"] or {}
        rows.append(
            [
                row["vmid"],
                row["pid"],
                _number(row["cpu"], 100, 0),
                _number(row["sent_rate"], 1, 0),
                _number(row["received_rate"], 1, 0),
                _number(row["latency"], 1e6, 0, "µs"),
                counters.get("outstanding", "-"),
                counters.get("backlog", "-"),
                row["locks"],
                row["waiting"],
                row["handles"],
                row["command"],
            ]
        )
    return rows


def _number(value: float | None, factor: float, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value * factor:,.{digits}f}{unit}"


def _table(sample: Sample) -> RenderableType:
    return Group(Text(_title(sample)), make_table(_HEADS, _cells(sample)))
