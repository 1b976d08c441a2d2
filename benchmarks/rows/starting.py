"""Row 16: the import, and the way from `Group.create` to the first answer, in fresh interpreters.

Each value is an interpreter of its own; ours and theirs take turns. Files are in the kernel's
cache and compiled: a first start after boot is left out, and so is the start of Python itself.

A library that imports its parts on first use has a cheap import and pays later: the time to the
first answer, import included, is the one that holds all of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks.model import Line, Measured, Series
from benchmarks.rounds import ROOT, Effort

NAME = "starting"
ROWS = "16"
WHAT = "import, and first answer of a new group"
FIRST_ANSWER_MS = 200.0
PATIENCE_S = 30.0
FIRST_ANSWER = ROOT / "benchmarks" / "contenders" / "first_answer.py"
TIMED_IMPORT = (
    "import time; started = time.perf_counter_ns(); import {}; "
    "print(time.perf_counter_ns() - started)"
)
IMPORTS = {"ours": "libos_ipc", "multiprocessing.managers": "multiprocessing.managers"}


class FreshError(Exception):
    """A fresh interpreter ended with an error; the message is its last line."""


def run(effort: Effort) -> list[Line]:
    return [_imports(effort(21, 5)), *_first_answers(effort(15, 3))]


def fresh(arguments: Sequence[str]) -> list[int]:
    """Run a new interpreter; the integers it prints."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FreshError(f"no end within {PATIENCE_S:.0f} s") from None
    if done.returncode:
        raise FreshError((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
    return [int(word) for word in done.stdout.split()]


def _environment() -> dict[str, str]:
    """Ours, but that what the first round has compiled is kept for the others."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _imports(times: int) -> Line:
    taken: dict[str, list[tuple[float, ...]]] = {name: [] for name in IMPORTS}
    failures: dict[str, str] = {}
    for number in range(-1, times):
        for name, module in IMPORTS.items():
            try:
                (value,) = fresh(["-c", TIMED_IMPORT.format(module)])
            except FreshError as failed:
                failures[name] = str(failed)
                continue
            if number >= 0:
                taken[name].append((value / 1e6,))
    ours, peer = (_measured(name, taken[name], failures.get(name)) for name in IMPORTS)
    return Line("16", "import libos_ipc", "free", "slower", 1.0, ours=ours, peer=peer)


def _first_answers(times: int) -> list[Line]:
    lines = []
    for who, whom in (("leader", "the leader"), ("member", "a forked member's handler")):
        without: list[tuple[float, ...]] = []
        with_import: list[tuple[float, ...]] = []
        failure = None
        for number in range(-1, times):
            try:
                imported, answered = _first_answer(who)
            except FreshError as failed:
                failure = str(failed)
                break
            if number >= 0:
                without.append((answered / 1e6,))
                with_import.append(((imported + answered) / 1e6,))
        for what, values in (("", without), (", import included", with_import)):
            lines.append(
                Line(
                    "16",
                    f"Group.create to the first answer of {whom}{what}",
                    "free",
                    "added",
                    FIRST_ANSWER_MS,
                    ours=_measured("ours", values, failure),
                )
            )
    return lines


def _first_answer(who: str) -> list[int]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        return fresh([str(FIRST_ANSWER), who, directory])


def _measured(name: str, rounds: list[tuple[float, ...]], failure: str | None) -> Measured:
    if failure or not rounds:
        return Measured(name, failure=failure or "no value")
    return Measured(name, Series(tuple(rounds), "ms"))
