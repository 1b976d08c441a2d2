"""How the library's own threads get out of a fork's way.

Where Python counts threads at a fork, and warns of them, they are ended, for the kernel too, and
begun again; so is ZeroMQ, which survives no fork in any version. Where it does not count, and
ZeroMQ rests, they stay. Whoever forks only keeps the worker from its rounds, in which ZeroMQ
would be made, and most descriptors are opened. Whatever else threads were about to do the child
abandons, whether they are ours or the program's. So nobody has to wait for anybody, and others
hear nothing for no longer than the kernel takes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from libos_ipc.runtime.descriptions import Descriptions
from libos_ipc.runtime.dispatch import Dispatcher
from libos_ipc.runtime.session import Session

__all__ = ["Pause"]

#: Whether threads may be there at a fork.
THREADS_MAY_STAY = sys.version_info < (3, 12)
#: Seconds that a fork waits for a round to end, before it has all threads end.
PATIENCE_S = 0.05


class Pause:
    """The forks under way in one node: each begins and ends it, in its own thread. There may be
    several at once, of which some have ended the threads, and some let them stay."""

    def __init__(self, descriptions: Descriptions) -> None:
        self._descriptions = descriptions
        self._lock = threading.Lock()
        self._under_way = 0
        self._ended = 0  # those for which there are no threads
        self._still: dict[int, bool] = {}  # by thread that forks: whether it is one of the others

    def begin(self, session: Session, dispatcher: Dispatcher) -> None:
        """Before a fork. Blocks until no thread is in the way."""
        me = threading.get_ident()
        with self._lock:
            self._under_way += 1
            if self._under_way == 1:
                self._descriptions.begin_fork()
        if THREADS_MAY_STAY and dispatcher.tasks is None and _hold(session):
            self._still[me] = True
            return
        with self._lock:
            self._still[me] = False
            self._ended += 1
            if self._ended == 1:
                session.halt()
                dispatcher.pause()
                session.unplug()

    def let_go(self, session: Session) -> None:
        """Right after it, in parent and child: rounds may begin."""
        if self._still.get(threading.get_ident()):
            del self._still[threading.get_ident()]
            session.loop.let_go()

    def end(self, go: Callable[[], None]) -> None:
        """After it, in the parent: `go` begins the threads anew if there are none."""
        with self._lock:
            self._under_way -= 1
            if self._under_way == 0:
                self._descriptions.end_fork()
            if self._still.pop(threading.get_ident(), None) is False:
                self._ended -= 1
                if self._ended == 0:
                    go()


def _hold(session: Session) -> bool:
    """Have no round of the worker's begin. False if that takes too long, or ZeroMQ is there."""
    if session.carriage.transport is not None or not session.loop.hold(PATIENCE_S):
        return False
    if session.carriage.transport is None:
        return True
    session.loop.let_go()  # made in the round that was waited for
    return False
