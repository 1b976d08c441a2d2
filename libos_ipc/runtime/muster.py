"""Who is in the group, without asking the leader each time.

Every decision of the leader is committed to its journal before anybody hears of it; so as long as
the journal's head says what it said before the leader was asked the last time, its answer is still
the one that it would give. Whoever has been told of a new member finds a head that has changed. The
head is read anew each time, by its name: eight bytes of magic, and a word that changes with every
commit, and when a successor seals the journal. Where it cannot be read (another user's leader) the
leader is asked; and so it is if this process has told it anything since, such as that it has
forked, which may be on its way.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from libos_ipc._native import Descriptor

__all__ = ["Muster"]

_HEAD_SIZE = 16
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


class Muster:
    """The members' VMIDs, as one process of the group knows them. For any thread."""

    def __init__(self) -> None:
        self._known: tuple[object, tuple[int, ...]] = (None, ())

    def vmids(
        self, me: int, journal: str, told: Callable[[], int], ask: Callable[[], tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Those of now. `journal` is the path of the present epoch's, `told` the number of messages
        that `me`, this process, has sent to the leader, and `ask` asks it, by one at most."""
        head, before = _head_of(journal), told()
        seen, vmids = self._known
        if head is None or (me, head, before) != seen:
            vmids = ask()  # after the look: whatever changes meanwhile is a change next time
            after = told()
            self._known = (me, head, after) if after <= before + 1 else None, vmids
        return vmids


def _head_of(path: str) -> tuple[str, int, bytes] | None:
    try:
        file = Descriptor.open(path, _READ)
        return path, os.fstat(file.fileno()).st_ino, os.read(file.fileno(), _HEAD_SIZE)
    except OSError:
        return None
