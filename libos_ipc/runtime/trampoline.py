"""What Python calls for a signal that a group handles, and what it called before.

A process may be in several groups, and leave them; what the program had set before the first of
them took a number is to be there again when the last has let go of it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

__all__ = ["give_back", "put"]


class _Trampoline:
    """Hands a real signal to a group; `before` handled it before any group did."""

    def __init__(self, on_real: Callable[[int], None], before: Any) -> None:
        self._on_real = on_real
        self.before = before

    def __call__(self, sig: int, frame: object) -> None:
        self._on_real(sig)


def put(sig: int, on_real: Callable[[int], None]) -> Any:
    """Have real signals of this number go to `on_real`; what handled it until now. In the main
    thread."""
    until_now = signal.getsignal(sig)
    before = until_now.before if isinstance(until_now, _Trampoline) else until_now
    signal.signal(sig, _Trampoline(on_real, before))
    return until_now


def give_back(sig: int) -> None:
    """No group handles this number any more: whatever handled it before the first of them is to do
    it again, unless the program has set something else since. In the main thread."""
    now = signal.getsignal(sig)
    if isinstance(now, _Trampoline):
        # What was not set by Python cannot be set again by it.
        signal.signal(sig, signal.SIG_DFL if now.before is None else now.before)
