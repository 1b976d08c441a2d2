"""On which cores the two ends of an exchange run.

It decides more than any library does: on one core a wake-up is a context switch, on two it is an
interrupt to a core that may be asleep, and left free the scheduler chooses anew every few
milliseconds. Every exchange is therefore measured in all three placements and compared inside
one of them only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """The cores of the asking and of the answering end; None leaves that end free."""

    name: str
    asking: int | None
    answering: int | None

    def setup(self) -> dict[str, int | None]:
        """The part of a contender's setup that places it."""
        return {"asking_core": self.asking, "answering_core": self.answering}


def placements() -> tuple[Placement, ...]:
    """Same core, two cores, free: as many of the three as this machine has."""
    cores = sorted(os.sched_getaffinity(0))
    same = Placement("same core", cores[0], cores[0])
    free = Placement("free", None, None)
    if len(cores) == 1:
        return (same,)
    return same, Placement("two cores", cores[0], cores[1]), free


def left_out() -> str | None:
    """A sentence for the report where this machine cannot place two ends on two cores."""
    if len(os.sched_getaffinity(0)) > 1:
        return None
    return "This machine has one core: the placements 'two cores' and 'free' are left out."


def pin(core: int | None, os_pid: int | None = None) -> None:
    """Put every thread this process has now, and so those they start, on `core`; or another's.

    A fork hook may have started threads before a child gets here: hence all tasks, not just the
    calling one.
    """
    if core is None:
        return
    for task in os.listdir(f"/proc/{os_pid or 'self'}/task"):
        try:
            os.sched_setaffinity(int(task), {core})
        except ProcessLookupError:
            continue
