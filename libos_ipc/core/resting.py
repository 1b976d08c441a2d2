"""Which entry of a dict is the oldest, when entries come last and go anywhere.

A dict keeps the order in which keys were set, so a dict from ID to the time of its release has
the oldest release in front, and setting and deleting stay as fast as a dict is. But looking at
the front means passing over every entry deleted there since the dict last grew, every time. So
the entries are copied, and the copy is used up, skipping what has changed meanwhile, before the
next one is made. An entry is copied at most once: constant time per entry.

Precondition: times do not fall, and a key that is set again was deleted before.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["OldestFirst"]


class OldestFirst:
    """Takes entries out of `since` (key -> time), the oldest first, after `rest_s` seconds."""

    __slots__ = ("_copied", "_front", "_rest_s", "_since")

    def __init__(self, since: dict[int, float], rest_s: float) -> None:
        self._since = since
        self._rest_s = rest_s
        self._copied: Iterator[tuple[int, float]] = iter(())
        self._front: tuple[int, float] | None = None  # the entry of the copy that is next

    def pop(self, now: float) -> int | None:
        """Delete the oldest entry and return its key; None if even that one is too young."""
        while self._since:
            if self._front is None:
                self._front = next(self._copied, None)
                if self._front is None:
                    self._copied = iter(list(self._since.items()))
                    continue
            key, since = self._front
            if self._since.get(key) == since:
                if since + self._rest_s > now:
                    return None
                del self._since[key]
                self._front = None
                return key
            self._front = None
        return None
