"""The description of a group that lies in its directory, for whoever wants to join it."""

from __future__ import annotations

import msgspec

from libos_ipc.config import GroupConfig

__all__ = ["GroupFile"]


class GroupFile(msgspec.Struct, frozen=True):
    """What the file `group` says."""

    id: str  #: tells this group from an earlier one of the same name
    name: str
    epoch: int
    leader_vmid: int
    config: GroupConfig

    def encode(self) -> bytes:
        """The content of the file."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> GroupFile:
        """The reverse. ValueError, saying what is wrong, if the content is none."""
        return msgspec.msgpack.decode(data, type=cls)
