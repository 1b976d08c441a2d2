"""An attacker: one process, a seed, one of the besieged as its target."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from libos_ipc import Group, wire
from libos_ipc._native import pack_envelope, pack_message
from libos_ipc.core.codes import Code

from .board import Board, Place
from .dice import Dice
from .lines import STUCK_S, Refused, Wire, Wires
from .words import Correspondence

__all__ = ["Foe", "Target"]


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


class Foe:
    """`group` is its membership; strangers have left."""

    def __init__(
        self, group: Group, board: Board, target: Target, seed: int, place: int = 0
    ) -> None:
        self.group = group
        self.board = board
        self.target = target
        self._place = Place.SENT + place
        self.wires = Wires(target.messages)
        vmid = 0 if group.closed else group.vmid
        pid = 0 if group.closed else group.pid
        self.vmid = vmid
        self.dice = Dice(seed, (vmid, pid, target.vmid, 1, 2, 3, 4))

    def did(self, count: int = 1) -> None:
        """So many misdeeds more are done."""
        self.board[self._place] += count

    @contextlib.contextmanager
    def wire(self) -> Iterator[Wire]:
        """A fresh connection to the target, until it is refused or we are through with it."""
        made = self.wires.open()
        try:
            yield made
        except Refused:
            pass
        finally:
            self.wires.end(made)

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
        self.group.flush(STUCK_S)
        link = self.group._session.member.links.get(self.target.vmid)
        return Correspondence(0 if link is None else link.sent, self.dice)
