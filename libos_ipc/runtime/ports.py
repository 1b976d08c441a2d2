"""Whole messages through one ZeroMQ socket: natively, or with what pyzmq offers.

On the hot path pyzmq's layer costs more than ZeroMQ: an object and several calls for each frame.
The native port takes a message in one call. It needs pyzmq's copy of ZeroMQ to be a shared
library, as it is in all builds of pyzmq that we know; with any other the second port does the
same, more slowly.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol, TypeVar

import zmq
from zmq.backend import Socket as RawSocket

from libos_ipc._native import Port as NativePort

__all__ = ["Port", "PyzmqPort", "open_port"]

_T = TypeVar("_T")

_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_MOST_FRAMES = 4


class Port(Protocol):
    """See the native one for what the methods do."""

    def receive(
        self, known: dict[bytes, _T], /
    ) -> tuple[_T, list[bytes]] | tuple[bytes, bytes, int, list[bytes]] | None: ...
    def send(self, route: bytes, frames: tuple[bytes | memoryview, ...], /) -> bool: ...
    def close(self) -> None: ...


def open_port(socket: zmq.Socket[bytes]) -> Port:
    """The fastest port to this socket."""
    module = sys.modules.get(RawSocket.__module__)
    try:
        return NativePort(getattr(module, "__file__", None) or "", socket.underlying)
    except OSError:
        return PyzmqPort(socket)


class PyzmqPort:
    """A port by pyzmq's public calls."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket: Any = socket

    def receive(
        self, known: dict[bytes, _T], /
    ) -> tuple[_T, list[bytes]] | tuple[bytes, bytes, int, list[bytes]] | None:
        receive = self._open().recv
        try:
            route = receive(_NOBLOCK)
        except zmq.Again:
            return None
        first = frame = receive(_NOBLOCK, False)
        frames = [frame.bytes]
        while frame.more:
            frame = receive(_NOBLOCK, False)
            if len(frames) < _MOST_FRAMES:
                frames.append(frame.bytes)
        if route in known:
            return known[route], frames
        return route, _user_of(first), int(first.get(zmq.SRCFD)), frames

    def send(self, route: bytes, frames: tuple[bytes | memoryview, ...], /) -> bool:
        send = self._open().send
        try:
            send(route, _NOBLOCK_MORE)
            for frame in frames[:-1]:
                send(frame, _NOBLOCK_MORE)
            send(frames[-1], _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        self._socket = None

    def _open(self) -> Any:
        if self._socket is None:
            raise ValueError("the port is closed")
        return self._socket


def _user_of(frame: Any) -> bytes:
    """What ZAP said of the sender, nothing if it was not asked."""
    try:
        return str(frame.get("User-Id")).encode()
    except zmq.ZMQError:
        return b""
