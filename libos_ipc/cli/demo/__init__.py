"""`libos-ipc demo`: a real job, done by a group of which one member is killed.

The parts: `files` are counted; `job` keeps the books, `crew` has the processes; `report` shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import click

from libos_ipc import Group
from libos_ipc.cli.demo import files
from libos_ipc.cli.demo.crew import Crew, End
from libos_ipc.cli.demo.job import Job
from libos_ipc.cli.demo.report import Report, Running, files_of
from libos_ipc.cli.interrupts import interrupts_deferred
from libos_ipc.cli.options import json_option, runtime_dir_option
from libos_ipc.cli.output import console, print_json, print_table, printable

__all__ = ["command"]

#: Files between two movements of the bar, while one process counts alone.
STRIDE = 50


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Processes that count. With one, none is killed.",
)
@runtime_dir_option
@json_option
def command(path: Path | None, workers: int, runtime_dir: Path | None, as_json: bool) -> int:
    """Count words with a group, and kill a member.

    The words are those of all files under PATH, or else of the standard library. Forked workers
    ask for shares of the files and report each count. In the middle of its share one of them is
    killed, and another does what it left undone. Then a single process counts everything again:
    exit status 1 if there is any difference.

    A word is what stands between ASCII whitespace.
    """
    path, found = (path, files.find(path)) if path else files.standard_library()
    if not found:
        what = "has no files" if path.exists() else "no such file or directory"
        raise click.ClickException(f"{printable(str(path))}: {what}")
    running = Running(console(stderr=as_json), len(found), lines=not as_json)
    running.say(f"Counting the words of {files_of(len(found))} in {printable(str(path))}")
    with interrupts_deferred() as check, running:
        crew = _count(found, workers, runtime_dir, check, running)
        alone, alone_s = _count_alone(found, check, running)
    report = Report(path, crew, alone, alone_s)
    if as_json:
        print_json(report.as_json())
    else:
        print_table(("", ""), report.rows())
    if report.differing:
        first = printable(str(found[report.differing[0]]))
        raise click.ClickException(
            f"the counts of {files_of(len(report.differing))} differ, first of {first}: "
            "did it change meanwhile?"
        )
    return 0


def _count(
    found: list[Path],
    workers: int,
    runtime_dir: Path | None,
    check: Callable[[], None],
    running: Running,
) -> Crew:
    def look(job: Job, ends: list[End]) -> None:
        check()
        running.on_job(job, ends)

    with Group.create(f"demo-{os.getpid()}", runtime_dir=runtime_dir) as group:
        crew = Crew(group, found, workers)
        crew.run(look)
    return crew


def _count_alone(
    found: list[Path], check: Callable[[], None], running: Running
) -> tuple[list[int], float]:
    """The counts, and the seconds that they took."""
    started = time.monotonic()
    counts = []
    for file in found:
        check()
        counts.append(files.count(file))
        if len(counts) % STRIDE == 0:
            running.on_alone(len(counts))
    return counts, time.monotonic() - started
