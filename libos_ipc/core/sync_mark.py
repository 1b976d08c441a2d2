"""Going back to before a step of a handle that a signal handler of the program has broken off.

A handler may raise between any two steps of Python, and what the machine has decided and not yet
given out is gone then. It would never be decided again, since the fields say that it was: the word
that gives a handle back, for one. So whoever steps the machine for a caller marks where it stands,
and goes back to there; then nothing has happened.

The memory of a baton does not go back. But it has the last word on who has EXCLUSIVE: a baton that
was there is ended, and what that tells is kept.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter
from typing import Any

from libos_ipc.core.sync_handle import FIELDS, LocalHandle
from libos_ipc.core.sync_words import ClientEffect, Hold, State

__all__ = ["Mark", "mark", "return_to"]

#: Every field, who waits for the lock, who for a change, and the baton.
Mark = tuple[tuple[Any, ...], tuple[Any, ...], dict[Any, int], Any]

_values = attrgetter(*FIELDS)


def mark(handle: LocalHandle) -> Mark:
    """Where it stands."""
    return _values(handle), tuple(handle.waits or ()), dict(handle.watches or ()), handle.baton


def return_to(handle: LocalHandle, before: Mark) -> list[ClientEffect]:
    """Be as at this mark, but without a baton. What a step by the baton alone has done stays."""
    values, waits, watches, baton = before
    fields = dict(zip(FIELDS, values, strict=True))
    effects: list[ClientEffect] = []
    if baton is not None:
        giving = handle.baton is not None and fields["user"] and not handle.user
        handle.leave_baton()
        if giving and handle.state < State.EXCLUSIVE:
            return []  # it was given
        fields["state"] = handle.state
        if not fields["user"]:
            fields |= {"value": handle.value, "own": handle.own}
        if handle.state == State.EXCLUSIVE:
            effects = [Hold(handle.id, fields["value"], bool(fields["user"]))]
    for name, value in fields.items():
        setattr(handle, name, value)
    handle.waits = deque(waits) if waits else None
    handle.watches = watches or None
    return effects
