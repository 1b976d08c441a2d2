"""Knowing that a process is there, by the kernel's word alone.

Every member listens on a Unix socket on which nothing is said: `<vmid>.live`, close-on-exec. Who
wants to know of its end connects and keeps the connection. The kernel ends it when the
process dies, and when it execs, which no pidfd tells; and the credentials of the listener,
which the kernel took down at `listen`, tell which process that is.

Connections need not be accepted for that. But the kernel keeps those whose other end is gone, too,
and refuses new ones when they are too many, whoever made them: so the queue is emptied long before
(`Watchers`), and no process has more than a few.

The socket of a forked child is made by its parent before the fork, so that anybody can watch
the child from its first moment; the child calls `listen` again, and from then on the
credentials are its own.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import struct
from collections import Counter

__all__ = [
    "Watchers",
    "listen_at",
    "process_behind",
    "watch",
]

#: Watchers that may be waiting at once; the kernel's own bound may be lower.
BACKLOG = 4096

#: What room in a queue of watchers is waited for: 20 ms, as a `struct timeval`.
_MOMENT = struct.pack("ll", 0, 20_000)
#: Connections of one process that are held. It needs one, and another while it looks again.
_MOST_OF_ONE = 8

# What sock_diag(7) is asked about a listening socket, and says: header, socket, attributes.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_DIAG = struct.Struct("=IHHIIBBxxIIIQ")
_DIAG_ANSWER = 32
_LISTENS = 1 << 10
_SHOW_QUEUE, _QUEUE = 1 << 4, 4
_ATTRIBUTE = struct.Struct("=HHI")
_ATTRIBUTE_BYTES = 12
_ANY = 2**64 - 1

_UCRED = struct.Struct("3i")


def listen_at(path: str) -> socket.socket:
    """A listening Unix socket at `path`, for its owner only. Replaces what lies there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)  # the file that `bind` makes has the socket's mode
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            os.unlink(path)
            listener.bind(path)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class Watchers:
    """The connections of those who watch us. One thread at a time."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._held: list[tuple[int, socket.socket]] = []  # OS pid, connection
        self._bound = _queue_length() // 4

    def came(self) -> None:
        """Somebody has connected. If many have, or nobody can tell: accept all, let go of those who
        left, and of what one process has too many of: it learns that as our end."""
        waiting = _waiting_at(self._listener)
        if waiting is not None and waiting < self._bound:
            return
        self._held = [held for held in self._held if not _has_left(held[1])]
        counts = Counter(os_pid for os_pid, _ in self._held)
        self._listener.setblocking(False)
        try:
            while True:
                watcher, _ = self._listener.accept()
                os_pid, _ = process_behind(watcher)
                if counts[os_pid] >= _MOST_OF_ONE:
                    watcher.close()
                elif not _has_left(watcher):
                    counts[os_pid] += 1
                    self._held.append((os_pid, watcher))
        except OSError:
            pass  # nobody else is there; or no descriptors are left, and we try again another time

    def close(self) -> None:
        """Our end, or that of our copies in a forked child."""
        for _, watcher in self._held:
            watcher.close()
        self._held.clear()


def _has_left(watcher: socket.socket) -> bool:
    """Whether the other end is gone; ours is closed then."""
    poll = select.poll()
    poll.register(watcher, select.POLLIN)
    if not poll.poll(0):
        return False
    watcher.close()
    return True


def _waiting_at(listener: socket.socket) -> int | None:
    """How many connections wait to be accepted; None where the kernel does not tell."""
    inode = os.fstat(listener.fileno()).st_ino
    head = _DIAG.size, _SOCK_DIAG_BY_FAMILY, 1, 1, 0
    request = _DIAG.pack(*head, socket.AF_UNIX, 0, _LISTENS, inode, _SHOW_QUEUE, _ANY)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.setblocking(False)
            kernel.send(request)
            answer = kernel.recv(4096)
    except OSError:
        return None
    if len(answer) < _DIAG_ANSWER or answer[4] != _SOCK_DIAG_BY_FAMILY:
        return None
    size, kind, waiting = _ATTRIBUTE.unpack_from(answer, _DIAG_ANSWER)
    return int(waiting) if (size, kind) == (_ATTRIBUTE_BYTES, _QUEUE) else None


def _queue_length() -> int:
    """Connections that wait at most: what we ask for, or what the kernel allows."""
    return min(BACKLOG, _allowed_length())


@functools.cache
def _allowed_length() -> int:
    try:
        with open("/proc/sys/net/core/somaxconn") as file:
            return int(file.read())
    except OSError:
        return socket.SOMAXCONN


def watch(path: str) -> socket.socket:
    """Connect to the liveness socket at `path`: readable means that its process is gone.

    ConnectionRefusedError or FileNotFoundError if it is gone already. BlockingIOError if very many
    connect there just now; a moment is waited for them to be accepted.
    """
    watcher = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        watcher.setblocking(False)
        try:
            watcher.connect(path)
        except BlockingIOError:
            watcher.setblocking(True)
            watcher.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _MOMENT)
            watcher.connect(path)
            watcher.setblocking(False)
    except BaseException:
        watcher.close()
        raise
    return watcher


def process_behind(watcher: socket.socket) -> tuple[int, int]:
    """OS pid and uid of the process that listens at the other end."""
    data = watcher.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(data)
    return pid, uid
