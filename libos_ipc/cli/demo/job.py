"""Who has which files to count, and what has been counted: the founder's books.

Files go out in shares, and come back one by one. A file belongs to nobody, then to the worker
whose share it is in, then its count is in the books:

    waiting --take--> held by a worker --counted--> counted
       ^                      |
       +---------lost---------+     the worker ended: what it had not counted waits again

A count is entered only while its worker holds the file, so that no file is counted twice,
whatever a dying worker may still have had to say. Nothing here knows of processes or messages.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

__all__ = ["Job"]


@dataclass
class _Held:
    """A share in a worker's hands."""

    share: range
    done: int = 0

    @property
    def rest(self) -> range:
        """What it has not counted; it counts in order."""
        return self.share[self.done :]


class Job:
    """The books. Any thread may call."""

    def __init__(self, files: int, workers: int) -> None:
        size = max(2, min(32, files // (workers * 8)))
        self._changed = threading.Condition()
        self._waiting = deque(range(at, min(at + size, files)) for at in range(0, files, size))
        self._held: dict[int, _Held] = {}
        self._gone: set[int] = set()
        self._given_up = False
        #: words by file; None for those that nobody has counted yet
        self.counts: list[int | None] = [None] * files
        self.left = files
        self.retried = 0
        self.started_at = time.monotonic()
        self.finished_at = self.started_at

    def take(self, worker: int) -> range:
        """A share for a worker; an empty one if there will be none any more.

        Waits while all files are given out: one that holds some may end before it has counted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over(worker))
            if self._over(worker):
                return range(0)
            share = self._waiting.popleft()
            self._held[worker] = _Held(share)
            return share

    def _over(self, worker: int) -> bool:
        return not self.left or self._given_up or worker in self._gone

    def counted(self, worker: int, file: int, words: int) -> bool:
        """Enter a count. True if this worker is now in the middle of its share, or beyond."""
        with self._changed:
            held = self._held.get(worker)
            if held is None or file not in held.rest:
                return False
            self.counts[file] = words
            held.done += 1
            self.left -= 1
            if not self.left:
                self.finished_at = time.monotonic()
                self._changed.notify_all()
            return 0 < len(held.rest) <= held.done

    def lost(self, worker: int) -> int:
        """A worker has ended: others get what it had not counted. The number of these files."""
        with self._changed:
            self._gone.add(worker)
            held = self._held.pop(worker, None)
            rest = held.rest if held else range(0)
            if rest:
                self._waiting.appendleft(rest)
                self.retried += len(rest)
            self._changed.notify_all()
            return len(rest)

    def give_up(self) -> None:
        """Nobody gets a share any more."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
