"""Knowing that a process is there, by the kernel's word alone.

Every member listens on a Unix socket that it never reads: `<vmid>.live`, close-on-exec. Who
wants to know of its end connects and keeps the connection. The kernel ends it when the
process dies, and when it execs, which no pidfd tells; and the credentials of the listener,
which the kernel took down at `listen`, tell which process that is.

The socket of a forked child is made by its parent before the fork, so that anybody can watch
the child from its first moment; the child calls `listen` again, and from then on the
credentials are its own.
"""

from __future__ import annotations

import os
import socket
import struct

__all__ = ["listen_at", "process_behind", "start_time", "watch"]

#: Watchers that may be waiting at once; the kernel's own bound may be lower.
BACKLOG = 4096

_UCRED = struct.Struct("3i")


def listen_at(path: str) -> socket.socket:
    """A listening Unix socket at `path`, for its owner only. Replaces what lies there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def watch(path: str) -> socket.socket:
    """Connect to the liveness socket at `path`: readable means that its process is gone.

    ConnectionRefusedError or FileNotFoundError if it is gone already.
    """
    watcher = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        watcher.setblocking(False)
        watcher.connect(path)
    except BaseException:
        watcher.close()
        raise
    return watcher


def process_behind(watcher: socket.socket) -> tuple[int, int]:
    """OS pid and uid of the process that listens at the other end."""
    data = watcher.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _gid = _UCRED.unpack(data)
    return pid, uid


def start_time(os_pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if it is gone.

    OS pid and start time together name a process; the pid alone is used again.
    """
    try:
        with open(f"/proc/{os_pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return 0
    return int(text[text.rindex(b")") + 2 :].split()[19])
