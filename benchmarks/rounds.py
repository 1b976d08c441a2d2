"""Start contenders, interleave their rounds, end them.

One after the other each contender does a short round, and again from the first (A B C A B C …),
so that a machine that slows down or speeds up does so for all of them. While one is measured the
others sleep in a read. The first rounds warm up and are dropped.

A contender that is not installed, fails or goes silent is reported with the reason; the others go
on without it. Each runs in a session of its own, with a directory of its own for what is
temporary; at the end all of that session is killed and the directory removed.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.model import Measured, Series

ROOT = Path(__file__).parent.parent
ANSWER_WITHIN_S = 60.0
LEAVE_WITHIN_S = 5.0


@dataclass(frozen=True)
class Effort:
    """How much to measure: `quick` is for trying things out, its numbers are for nothing else."""

    quick: bool = False

    def __call__(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Entry:
    """A contender to be started: its name in the table and its command, or why it cannot run."""

    name: str
    command: tuple[str, ...] = ()
    failure: str | None = None

    @classmethod
    def module(cls, name: str, module: str, **setup: Any) -> Entry:
        """A Python contender: a module of `benchmarks.contenders` and its setup."""
        path = f"benchmarks.contenders.{module}"
        return cls(name, (sys.executable, "-m", path, json.dumps(setup)))


@dataclass
class Outcome:
    """What came of a contender: the rounds of each of its series, in nanoseconds, or a failure."""

    name: str
    failure: str | None = None
    rounds: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)

    def measured(
        self, series: str = "round trip", unit: str = "µs", per_unit: float = 1e3
    ) -> Measured:
        """One series as the table has it, each raw value divided by `per_unit`."""
        rounds = self.rounds.get(series)
        if self.failure or not rounds:
            return Measured(self.name, failure=self.failure or f"no series {series!r}")
        scaled = tuple(tuple(value / per_unit for value in values) for values in rounds)
        return Measured(self.name, Series(scaled, unit))


class ContenderError(Exception):
    """The contender said, or showed, that it cannot be measured."""


class Contender:
    """A running contender; used as a context manager, which ends its whole session."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._unread = b""

    def __enter__(self) -> Contender:
        self._errors = tempfile.TemporaryFile()
        self._directory = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            self.entry.command,
            cwd=ROOT,
            env=os.environ | {"TMPDIR": self._directory.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.close()
            self._process.wait(LEAVE_WITHIN_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        self._directory.cleanup()

    def await_ready(self) -> None:
        self._answer()

    def round(self, count: int) -> Mapping[str, Sequence[float]]:
        """Ask for one round of `count` values."""
        assert self._process.stdin
        try:
            self._process.stdin.write(b"%d\n" % count)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderError(f"ended early {self._last_words()}") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._line())
        if "missing" in answer:
            raise ContenderError(f"not installed: {answer['missing']}")
        if "error" in answer:
            _tell_once(self._last_words())
            raise ContenderError(answer["error"])
        return answer

    def _line(self) -> bytes:
        assert self._process.stdout
        stream = self._process.stdout.fileno()
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while b"\n" not in self._unread:
            if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ContenderError(f"silent for {ANSWER_WITHIN_S:.0f} s {self._last_words()}")
            arrived = os.read(stream, 1 << 20)
            if not arrived:
                raise ContenderError(f"ended early {self._last_words()}")
            self._unread += arrived
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self, size: int = 600) -> str:
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, end - size))
        words = self._errors.read().decode(errors="replace").strip()
        return f"({words})" if words else "(and wrote nothing to standard error)"


@functools.cache
def _tell_once(last_words: str) -> None:
    print(last_words, file=sys.stderr)


def compete(
    entries: Sequence[Entry], *, rounds: int, count: int, warm_up: int = 1
) -> dict[str, Outcome]:
    """Measure `entries` against each other: `rounds` interleaved rounds of `count` values each."""
    outcomes = {entry.name: Outcome(entry.name, entry.failure) for entry in entries}
    with ExitStack() as stack:
        running: list[Contender] = []
        for entry in entries:
            if entry.failure:
                continue
            contender = stack.enter_context(Contender(entry))
            try:
                contender.await_ready()
                running.append(contender)
            except ContenderError as failed:
                outcomes[entry.name].failure = str(failed)
        for number in range(-warm_up, rounds):
            for contender in list(running):
                outcome = outcomes[contender.entry.name]
                try:
                    answer = contender.round(count)
                except ContenderError as failed:
                    outcome.failure = str(failed)
                    running.remove(contender)
                    continue
                if number >= 0:
                    for series, values in answer.items():
                        outcome.rounds.setdefault(series, []).append(tuple(values))
    return outcomes
