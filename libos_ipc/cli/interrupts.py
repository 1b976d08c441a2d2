"""Ctrl-C at places where it can be handled.

As an exception it may come between any two instructions: in the middle of a fork, or of drawing.
A command that has something to clean up asks for it instead.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["interrupts_deferred"]


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], None]]:
    """Within the `with`, Ctrl-C raises KeyboardInterrupt where the given function is called.

    A second Ctrl-C raises at once, for when that takes too long. Any error after the first is
    taken for a consequence: the terminal sends Ctrl-C to processes that we start, too. Forked
    children inherit this, and nothing happens to them unless they ask. Only in the main thread.
    """
    came = 0

    def on_signal(sig: int, frame: object) -> None:
        nonlocal came
        came += 1
        if came > 1:
            raise KeyboardInterrupt

    def check() -> None:
        if came:
            raise KeyboardInterrupt

    former = signal.getsignal(signal.SIGINT)
    if former is signal.SIG_IGN:
        yield check
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield check
    except Exception:
        check()
        raise
    finally:
        signal.signal(signal.SIGINT, former)
