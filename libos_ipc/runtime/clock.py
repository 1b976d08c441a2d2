"""When things are done that nobody asks for: the machine's ticks, and what was put off.

The machine is asked what is overdue every so often, but only as long as something may become so:
from when anything is sent until it says that time alone can change nothing. An idle process does
not wake up.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

__all__ = ["TICK_S", "Clock"]

#: Seconds between looks at what is overdue, while anything may become so.
TICK_S = 0.1
#: Seconds between looks at what is about to happen.
_SOON_S = 0.005


class Clock:
    """`wake` has the worker come to `run` at once. `tick(now)` does what is overdue, and says by
    `idle` whether another is needed: under the lock under which things are sent, or what goes out
    between the two would have nobody who asks for it again."""

    def __init__(self, wake: Callable[[], None], tick: Callable[[float], None]) -> None:
        self._wake = wake
        self._tick = tick
        #: told whenever `idle` changes
        self.on_idle: Callable[[bool], None] = lambda idle: None
        self._idle = True
        #: when the next tick is due, if there is one
        self.next_tick = 0.0
        self._timers: deque[tuple[float, Callable[[], None]]] = deque()

    @property
    def idle(self) -> bool:
        """Whether time is not asked about, until something is sent."""
        return self._idle

    @idle.setter
    def idle(self, idle: bool) -> None:
        self._idle = idle
        self.on_idle(idle)

    def run(self, *, busy: bool) -> float | None:
        """Do what is due; seconds until the next time, None if that is not known. `busy`: there
        is something else to look after soon. In the worker."""
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + TICK_S
            self._tick(now)
        until = math.inf if self.idle else self.next_tick
        if busy:
            until = min(until, now + _SOON_S)
        for _ in range(len(self._timers)):  # others may be adding to them, and wake us then
            timer = self._timers.popleft()
            if timer[0] <= now:
                timer[1]()
            else:
                self._timers.append(timer)
                until = min(until, timer[0])
        return None if until == math.inf else max(until - now, 0)

    def stay_awake(self) -> None:
        """Tick until the machine says that time alone can change nothing. In the worker."""
        self.idle = False

    def on_sent(self) -> None:
        """Something has gone out, which may have to be sent or asked again. Any thread."""
        if self.idle:
            try:
                self.idle = False
            finally:  # a signal handler may raise
                self._wake()

    def on_read(self) -> None:
        """Something was taken in beside the worker, and it may be time for a tick. Any thread."""
        if self.idle and time.monotonic() >= self.next_tick:
            self._wake()

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Call `action` in the worker after a while. Any thread."""
        self._timers.append((time.monotonic() + delay_s, action))
        self._wake()
