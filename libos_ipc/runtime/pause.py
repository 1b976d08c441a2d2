"""How the library's own threads get out of a fork's way.

Where Python counts threads at a fork, and warns of them, they are ended, for the kernel too, and
begun again; so is ZeroMQ, which survives no fork in any version. Where it does not count, and
ZeroMQ rests, they stay, and whoever forks takes two locks instead: the worker's rounds, in which
ZeroMQ would be made and most descriptors are opened, and the session's, so that the child finds
the machine of which it abandons the copy between two steps. Nobody has to wait for a thread, and
others hear nothing for no longer than the fork itself takes.

Both locks are held over the fork for some milliseconds by a thread that in between waits for
nothing of ours. Who cannot have them soon ends the threads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from libos_ipc.runtime.descriptions import Descriptions

if TYPE_CHECKING:
    from libos_ipc.runtime.dispatch import Dispatcher
    from libos_ipc.runtime.session import Session

__all__ = ["Pause"]

#: Whether threads may be there at a fork.
THREADS_MAY_STAY = sys.version_info < (3, 12)
#: Seconds that a fork waits for each of the locks, before it has all threads end.
PATIENCE_S = 0.05


class Pause:
    """The forks under way in one node: each begins and ends one, in its own thread. Of several at
    once some may have ended the threads, and others let them stay."""

    def __init__(self, descriptions: Descriptions) -> None:
        self._descriptions = descriptions
        self._lock = threading.Lock()
        self._ended = False  # there are no threads
        #: by thread that forks: whether that is with threads, None before that is known
        self._still: dict[int, bool | None] = {}
        self._holding: set[int] = set()  #: threads that hold the session's lock

    def begin(self, session: Session, dispatcher: Dispatcher) -> bool:
        """Right before a fork. Blocks until no thread is in the way. True if the session's lock is
        held until `let_go`, as it nearly always is."""
        me = threading.get_ident()
        with self._lock:
            self._still[me] = None
            if len(self._still) == 1:
                self._descriptions.begin_fork()
        if THREADS_MAY_STAY and dispatcher.tasks is None and _hold(session):
            self._still[me] = True
            self._holding.add(me)
            return True
        with self._lock:
            self._still[me] = False
            if not self._ended:
                self._ended = True
                session.halt()
                dispatcher.pause()
                session.unplug()
        if session.lock.acquire(timeout=PATIENCE_S):
            self._holding.add(me)
        return me in self._holding

    def returning(self, session: Session) -> list[Callable[[], object]]:
        """What has the threads that stayed go on, right after it, in the parent."""
        me = threading.get_ident()
        if me not in self._holding:
            return []
        steps: list[Callable[[], object]] = [partial(self._holding.remove, me)]
        if self._still[me]:
            steps.append(session.loop.let_go)
        return [session.lock.release, *steps]

    def end(self, go: Callable[[], object]) -> None:
        """After that, in the parent: `go` begins the threads anew if there are none. Nothing for a
        fork that was not begun here, or has ended."""
        with self._lock:
            self._still.pop(threading.get_ident(), None)
            if not self._still:
                self._descriptions.end_fork()
            if self._ended and False not in self._still.values():
                go()
                self._ended = False


def _hold(session: Session) -> bool:
    """Have no round of the worker's and no step of the machine begin. False if that takes too
    long, or ZeroMQ is there or about to be."""
    if not session.carriage.resting or not session.loop.hold(PATIENCE_S):
        return False
    if session.lock.acquire(timeout=PATIENCE_S):
        if session.carriage.resting:
            return True
        session.lock.release()
    session.loop.let_go()
    return False
