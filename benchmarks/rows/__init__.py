"""Which benchmarks there are: one module per row or family, in the order of the table.

Each has a NAME, the ROWS it fills, WHAT it measures and `run(effort)`, which gives lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.model import Line
from benchmarks.rounds import Effort
from benchmarks.rows import (
    broadcasts,
    forks,
    handing,
    ids,
    lock_scale,
    locks,
    members,
    native_answers,
    over_zeromq,
    payloads,
    released,
    requests,
    starting,
    streams,
    succession,
    sync,
    threads,
)


@dataclass(frozen=True)
class Family:
    """A benchmark that can be chosen with `--only`."""

    name: str
    rows: str
    what: str
    run: Callable[[Effort], list[Line]]


FAMILIES = tuple(
    Family(module.NAME, module.ROWS, module.WHAT, module.run)
    for module in (
        native_answers,
        requests,
        streams,
        threads,
        payloads,
        over_zeromq,
        locks,
        handing,
        sync,
        lock_scale,
        ids,
        broadcasts,
        members,
        forks,
        succession,
        released,
        starting,
    )
)
