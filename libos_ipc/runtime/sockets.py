"""The two listening sockets by which a member is reached; they outlive every transport."""

from __future__ import annotations

import _socket
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from libos_ipc.runtime.liveness import BACKLOG, listen_at
from libos_ipc.runtime.rundir import GroupDir

__all__ = ["Sockets"]


class Sockets(NamedTuple):
    """`messages` is handed to each new transport; `live` is only ever watched by others."""

    messages: socket.socket
    live: socket.socket

    @classmethod
    def make(cls, directory: GroupDir, vmid: int) -> Sockets:
        """Listen for a member that is to have this VMID: ourselves, or a child to be forked.

        The kernel closes the first one first when the process dies: others hear of the end before
        they find that they cannot connect.
        """
        live = listen_at(directory.live_socket(vmid))
        try:
            return cls(listen_at(directory.message_socket(vmid)), live)
        except BaseException:
            live.close()
            raise

    @classmethod
    @contextmanager
    def made(cls, directory: GroupDir, vmid: int) -> Iterator[Sockets]:
        """The same, for whoever is about to take them: closed again if nothing comes of that."""
        sockets = cls.make(directory, vmid)
        try:
            yield sockets
        except BaseException:
            sockets.close()
            raise

    def taking_over(self) -> list[Callable[[], None]]:
        """What a forked child does: from then on the kernel names it as the one who listens."""
        return [partial(listener.listen, BACKLOG) for listener in self]

    def closing(self) -> list[Callable[[], None]]:
        """What closes our copies, beneath Python's own objects for them."""
        return [partial(_socket.socket.close, listener) for listener in self]

    def close(self) -> None:
        """Close our copies."""
        for listener in self:
            listener.close()
