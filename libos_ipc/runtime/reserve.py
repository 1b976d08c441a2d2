"""Descriptors held for a bad time.

Around a fork the transport gives its descriptors back and needs as many again. If the program
has taken the last ones meanwhile, the process would be out of its group; so we hold enough to
make the transport, and let go of them just before. They are taken back once the first
connections stand, and there are so many to be had.
"""

from __future__ import annotations

import os
import resource

__all__ = ["Reserve"]

#: Descriptors of one transport, about 16 (mailboxes, ZeroMQ's two threads, the listener's copy),
#: and of its first connections.
SIZE = 32
#: As many must be left besides: whoever else wants one just then, on another thread, is to get it.
_MARGIN = 32


class Reserve:
    """`SIZE` descriptors of nothing."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self.refill()

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Let go of all: somebody is about to need them."""
        while self._held:
            os.close(self._held.pop())

    def refill(self) -> None:
        """Take the full number, or, in a shortage, none."""
        if not self._held and not _are_left(SIZE + _MARGIN):
            return
        try:
            if not self._held:
                self._held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            while len(self._held) < SIZE:
                self._held.append(os.dup(self._held[0]))
        except OSError:
            # The bad time is now. ZeroMQ aborts a process that has no descriptor for a
            # connection that comes in, so the last ones are better free than held.
            self.release()


def _are_left(wanted: int) -> bool:
    """Whether this process may open so many more. False where that cannot be found out."""
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        return False
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most == resource.RLIM_INFINITY or used + wanted <= most
