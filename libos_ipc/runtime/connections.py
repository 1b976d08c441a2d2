"""A connection that a process has made to us, and what the kernel says of it.

ZeroMQ names a connection by its descriptor, whose number is used again as soon as it is closed. The
inode of the socket tells this connection from all others.
"""

from __future__ import annotations

import os
import socket

from libos_ipc.runtime.liveness import process_behind

__all__ = ["Connection", "credentials_of", "hang_up", "inode_of"]


class Connection:
    """One accepted connection; `peer` is its VMID once it has said hello."""

    __slots__ = ("_inode", "fd", "heard", "muted", "os_pid", "peer", "routing_id", "uid")

    def __init__(self, routing_id: bytes, uid: int, os_pid: int, fd: int) -> None:
        self.routing_id = routing_id
        self.uid = uid
        self.os_pid = os_pid
        self.fd = fd
        self.peer = 0
        #: the same, as long as what it says is read
        self.heard = 0
        #: it broke the rules: nothing more is read from it
        self.muted = False
        self._inode = inode_of(fd) if _process_at(fd) == os_pid else -1

    def bind(self, peer: int) -> None:
        """It has said who it is."""
        self.peer = self.heard = peer

    def mute(self) -> None:
        """It broke the rules."""
        self.muted = True
        self.heard = 0

    def hang_up(self) -> None:
        """End it. The peer learns that, and may come again."""
        hang_up(self.fd, self._inode)

    @property
    def open(self) -> bool:
        """False once its socket is closed. What came over it has been queued before that."""
        return inode_of(self.fd) == self._inode


def inode_of(fd: int) -> int:
    """The inode behind a descriptor, 0 if it is closed."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0


def hang_up(fd: int, inode: int) -> None:
    """End a connection of ZeroMQ's. Its number may be another's by now, and of what is no socket at
    all: so by a copy of ours, which is closed whatever it is."""
    try:
        copy = os.dup(fd)
    except OSError:
        return  # it has ended
    try:
        if inode_of(copy) == inode:
            _shut_down(copy)
    finally:
        os.close(copy)


def _shut_down(fd: int) -> None:
    try:
        line = socket.socket(fileno=fd)
    except OSError:
        return  # no socket
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other end has gone
    finally:
        line.detach()


def _process_at(fd: int) -> int:
    """OS pid of the process at the other end of a Unix socket, 0 if this is none (any more)."""
    try:
        there = socket.socket(fileno=fd)
    except OSError:
        return 0
    try:
        return process_behind(there)[0]
    except OSError:
        return 0
    finally:
        there.detach()


def credentials_of(address: str) -> tuple[int, int]:
    """uid and OS pid from ZeroMQ's name for an ipc peer, `host:uid:gid:pid`; (-1, 0) if none."""
    try:
        _, uid, _gid, pid = address.rsplit(":", 3)
        return int(uid), int(pid)
    except ValueError:
        return -1, 0
