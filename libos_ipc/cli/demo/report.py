"""What the demonstration shows: while it runs, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from libos_ipc.cli.demo.crew import Crew, End
from libos_ipc.cli.demo.files import UNREADABLE
from libos_ipc.cli.demo.job import Job

__all__ = ["Report", "Running", "files_of"]


class Running:
    """A progress bar on a terminal; elsewhere a line for what happens, if `lines`."""

    def __init__(self, console: Console, total: int, *, lines: bool) -> None:
        self._console = console
        self._lines = lines or console.is_terminal
        self._told = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._together = self._bar.add_task("together", total=total)
        self._alone = self._bar.add_task("alone, to compare", total=total)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_job(self, job: Job, ends: list[End]) -> None:
        """So much has been counted by the workers, and these have ended."""
        self._bar.start()  # at the first call only: it starts a thread, so not before the forks
        self._bar.update(self._together, completed=len(job.counts) - job.left)
        for end in ends[self._told :]:
            self._told += 1
            left = files_of(end.retried)
            self.say(f"{_who(end)} ended: {_how(end)}. Others get {left} of its share")

    def on_alone(self, done: int) -> None:
        """So much has been counted again, by one process."""
        self._bar.update(self._alone, completed=done)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._lines:
            self._console.print(text, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Report:
    """The outcome."""

    path: Path
    crew: Crew
    alone: list[int]
    alone_s: float

    @property
    def differing(self) -> list[int]:
        """The files of which the two counts differ."""
        return [n for n, words in enumerate(self.crew.job.counts) if words != self.alone[n]]

    @property
    def together_s(self) -> float:
        """Seconds from the first fork to the last count."""
        job = self.crew.job
        return job.finished_at - job.started_at

    def as_json(self) -> dict[str, object]:
        """All numbers, for programs."""
        crew, job = self.crew, self.crew.job
        counts = [words or 0 for words in job.counts]
        return {
            "path": str(self.path),
            "files": len(counts),
            "unreadable": counts.count(UNREADABLE),
            "words": _sum(counts),
            "seconds": round(self.together_s, 6),
            "workers": crew.workers,
            "requests": crew.requests,
            "messages": 2 * crew.requests,
            "requests_per_second": round(crew.requests / self.together_s, 1),
            "ended": [_end(end) for end in crew.ends],
            "retried_files": job.retried,
            "alone": {"words": _sum(self.alone), "seconds": round(self.alone_s, 6)},
            "differing_files": len(self.differing),
        }

    def rows(self) -> list[tuple[str, str]]:
        """The table."""
        told = self.as_json()
        crew = self.crew
        rows = [
            ("files", f"{told['files']:,}, {told['unreadable']:,} of them unreadable"),
            ("words", f"{told['words']:,}, and {_sum(self.alone):,} when one process counts"),
            ("time", f"{self.together_s:.2f} s, and {self.alone_s:.2f} s for one process"),
            ("messages", f"{told['messages']:,}: {told['requests']:,} requests, each answered"),
            ("requests per second", f"{told['requests_per_second']:,.0f}"),
            ("workers", str(crew.workers)),
        ]
        rows += [("killed", f"{_who(end)}: {_how(end)}") for end in crew.ends]
        if not crew.ends:
            alone = (
                "there is no other worker to take over" if crew.workers == 1 else "too few files"
            )
            rows.append(("killed", f"nobody: {alone}"))
        rows.append(("retried files", f"{told['retried_files']:,}"))
        return rows


def files_of(number: int) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} file{'' if number == 1 else 's'}"


def _sum(counts: list[int]) -> int:
    return sum(words for words in counts if words != UNREADABLE)


def _who(end: End) -> str:
    child = end.child
    return f"worker {child.pid} (VMID {child.vmid}, OS pid {child.os_pid})"


def _how(end: End) -> str:
    status = end.status
    return f"ExitStatus(code={status.code}, signal={status.signal})"


def _end(end: End) -> dict[str, object]:
    child, status = end.child, end.status
    return {
        "pid": child.pid,
        "vmid": child.vmid,
        "os_pid": child.os_pid,
        "code": status.code,
        "signal": status.signal,
        "retried_files": end.retried,
    }
