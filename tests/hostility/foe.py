"""An attacker: one process, a seed, one of the besieged as its target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import zmq

from libos_ipc import Group, wire
from libos_ipc._native import pack_envelope, pack_message
from libos_ipc.core.codes import Code

from .board import Board, Place
from .dice import Dice
from .words import Correspondence

__all__ = ["Foe", "Target", "Wire"]

#: A target that takes in nothing more for so long is hung.
STUCK_MS = 30_000
#: Frames that may wait in the attacker for the target.
AHEAD = 500


class Target(NamedTuple):
    """Whom to attack, and where."""

    vmid: int
    os_pid: int
    home: Path
    group_id: str
    epoch: int

    @property
    def messages(self) -> Path:
        return self.home / f"{self.vmid}.msg"

    @property
    def live(self) -> Path:
        return self.home / f"{self.vmid}.live"


class Wire:
    """A connection to a target; what it does not take in holds us up."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], target: Target) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.SNDHWM, AHEAD)
        self._socket.set(zmq.RCVHWM, AHEAD)
        self._socket.set(zmq.SNDTIMEO, STUCK_MS)
        self._socket.linger = 1000
        self._socket.connect(f"ipc://{target.messages}")

    def say(self, frames: Sequence[bytes]) -> None:
        """Send a message of these frames."""
        self._socket.send_multipart(frames)

    def close(self) -> None:
        self._socket.close()


class Foe:
    """`group` is its membership; strangers have left."""

    def __init__(self, group: Group, board: Board, target: Target, seed: int) -> None:
        self.group = group
        self.board = board
        self.target = target
        vmid = 0 if group.closed else group.vmid
        pid = 0 if group.closed else group.pid
        self.vmid = vmid
        self.dice = Dice(seed, (vmid, pid, target.vmid, 1, 2, 3, 4))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def did(self, count: int = 1) -> None:
        """So many misdeeds more are done."""
        self.board[Place.SENT] += count

    @contextlib.contextmanager
    def wire(self) -> Iterator[Wire]:
        """A fresh connection to the target."""
        made = Wire(self._context, self.target)
        try:
            yield made
        finally:
            made.close()

    def hello(self, **other: int | bytes) -> list[bytes]:
        """The frames by which a connection says whose it is; something else for `other`."""
        target = self.target
        fields: dict[str, int | bytes] = {
            "magic": wire.MAGIC,
            "version": wire.PROTOCOL_VERSION,
            "vmid": self.vmid,
            "incarnation": 1,
            "epoch": target.epoch,
            "group": target.group_id.encode(),
            **other,
        }
        *numbers, group = fields.values()
        payload = wire.encode(Code.HELLO, *numbers, tail=group)  # type: ignore[arg-type]
        return [pack_envelope(0, 0), pack_message(Code.HELLO, 0, payload)]

    def correspondence(self) -> Correspondence:
        """To go on where our membership has come to with the target. It says nothing more then."""
        self.group.flush(5.0)
        link = self.group._session.member.links.get(self.target.vmid)
        return Correspondence(0 if link is None else link.sent, self.dice)
