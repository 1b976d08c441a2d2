"""Whether a process that stands still stands still for good.

A leader that is stopped (Ctrl-Z, a debugger, a frozen container) leads nobody, and is deposed by
and by. It is looked at from time to time; only two looks `stall_s` apart, and all those between
them, that find it stopped are evidence. And only if the observer itself was running throughout: one
that was stopped together with the leader, as everything in a frozen container is, looks late,
and begins anew.
"""

from __future__ import annotations

__all__ = ["Stall"]


class Stall:
    """Looks at one process. They are due every `every_s` seconds; `stall_s` is the patience.

    A look that comes more than `late_s` after its time shows that the observer did not run.
    """

    __slots__ = ("_late_s", "_looked_at", "_since", "every_s", "stall_s")

    def __init__(self, stall_s: float, every_s: float, late_s: float) -> None:
        if not (stall_s >= 0 and every_s > 0 and late_s > 0):
            raise ValueError(f"stall_s {stall_s}, every_s {every_s} or late_s {late_s} too small")
        self.stall_s = stall_s
        self.every_s = every_s
        self._late_s = late_s
        self._looked_at: float | None = None
        self._since: float | None = None  # the first of the looks that found it stopped

    def on_look(self, stopped: bool, now: float) -> bool:
        """It was found stopped, or not. True if that is evidence that it stands still for good."""
        before, self._looked_at = self._looked_at, now
        on_time = before is not None and now - before <= self.every_s + self._late_s
        if not stopped:
            self._since = None
        elif self._since is None or not on_time:
            self._since = now
        return self._since is not None and now > self._since and now - self._since >= self.stall_s

    def forget(self) -> None:
        """Another process is looked at from now on."""
        self._looked_at = self._since = None
