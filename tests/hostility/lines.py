"""Connections as an attacker makes them: ZeroMQ's protocol (ZMTP 3.0), spoken by hand.

Hello and many misdeeds go out with one system call. Behind its greeting a connection must wait for
the target's, so some are made ahead; and one that is through is held until the target has ended it,
too: so all that was said on it has been read, or refused.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Sequence
from pathlib import Path

__all__ = ["GREETING", "READY", "STUCK_S", "Refused", "Wire", "Wires", "connected"]

#: How a connection begins, and what is said next.
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_ROLE = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
READY = bytes((4, len(_ROLE))) + _ROLE
#: A target that takes in nothing more, or ends nothing, for so long is hung.
STUCK_S = 30.0
#: What the target says first is as long.
_FIRST = len(GREETING + READY) + len("ROUTER") - len("DEALER")
#: Bytes that are said at once, and connections that wait for the target's greeting, and its end.
AT_ONCE, AHEAD, ENDING = 1 << 14, 8, 16
#: Connections that are made for one, at most.
ATTEMPTS = 100
MORE, LONG = 1, 2

Refused = ConnectionError  # what the target does with a connection that makes no sense


def connected(path: Path) -> socket.socket:
    """A connection, on which nothing is said yet. Waits while too many wait at the target."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(STUCK_S), 0))
    made.connect(str(path))
    made.settimeout(STUCK_S)
    return made


class Wire:
    """One connection. What the target does not take in holds us up."""

    def __init__(self, path: Path) -> None:
        self.socket = connected(path)
        self.socket.sendall(GREETING + READY)
        self._said = bytearray()

    def greeted(self) -> Wire:
        """The same, when the target has greeted."""
        missing = _FIRST
        while missing:
            got = len(self.socket.recv(missing))
            if not got:
                raise Refused
            missing -= got
        return self

    def say(self, frames: Sequence[bytes]) -> None:
        """A message of these frames, before long. `Refused` if the target has hung up."""
        said, last = self._said, len(frames) - 1
        for place, frame in enumerate(frames):
            more = MORE if place < last else 0
            if len(frame) < 256:
                said += bytes((more, len(frame)))
            else:
                said += bytes((more | LONG,)) + len(frame).to_bytes(8, "big")
            said += frame
        if len(said) > AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Now."""
        said, self._said = self._said, bytearray()
        self.socket.sendall(said)


class Wires:
    """The connections of one attacker."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fresh: deque[Wire] = deque()
        self._ending: deque[socket.socket] = deque()

    def open(self) -> Wire:
        """A fresh one. The target ends one that has said nothing, too, perhaps: when they are many,
        or when its number was that of one that is to be ended."""
        for _ in range(ATTEMPTS):
            try:
                while len(self._fresh) < AHEAD:
                    self._fresh.append(Wire(self._path))
                return self._fresh.popleft().greeted()
            except Refused:
                pass
        raise Refused("all are ended before anything is said")

    def end(self, wire: Wire) -> None:
        """Nothing more is said on it."""
        try:
            wire.flush()
            wire.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused meanwhile
        self._ending.append(wire.socket)
        if len(self._ending) > ENDING:
            self._await_end(self._ending.popleft())

    def close(self) -> None:
        """The target has ended all of them when this returns."""
        for wire in self._fresh:
            wire.socket.close()
        while self._ending:
            self._await_end(self._ending.popleft())

    @staticmethod
    def _await_end(line: socket.socket) -> None:
        with line:
            try:
                while line.recv(1 << 16):
                    pass
            except Refused:
                pass
