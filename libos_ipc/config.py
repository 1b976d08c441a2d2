"""`GroupConfig`: every knob of a group, checked when it is made.

The founder's configuration is the group's: whoever joins is told it, so that all members
reckon alike. Each field may be preset in the environment as `LIBOS_IPC_` and its name in
capitals (`LIBOS_IPC_SEND_BUFFER=1048576`); an argument goes before the environment.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from libos_ipc.errors import InvalidArgument

__all__ = ["ENVIRONMENT_PREFIX", "GroupConfig"]

ENVIRONMENT_PREFIX = "LIBOS_IPC_"

_LARGEST_ID = 2**32 - 1
_TRANSPORTS = ("auto", "zmq", "native")


class GroupConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of a group.

    Bytes: `max_message` is the largest message, header included; `send_buffer` is what a slow
    peer may owe before `send` waits. IDs: a member gets `id_range_size` at a time from
    1 … `id_max`, and one released is not given out again for `quarantine` seconds unless
    nothing else is left. `transport`: `"zmq"` for connections alone, `"auto"` for shared memory
    between two processes that have much to say, `"native"` for any two. `lock_delegation`
    lets a process that locks an uncontested file do so without messages, and some that lock one
    in turns hand it on. Seconds: `spin` before a waiting thread sleeps; `fork_timeout` for the
    leader's word when a fork finds no spare identity, and for a child to say hello;
    `leader_stall` between two looks at a stopped leader; `linger` that `close` waits for what
    was sent to arrive. `uids` may join; empty means the founder's own. `heartbeat` and `curve`
    are reserved.

    >>> GroupConfig(send_buffer=1 << 20).send_buffer
    1048576
    """

    max_message: int = 64 << 20
    send_buffer: int = 8 << 20
    id_range_size: int = 32
    id_max: int = 2**22 - 1
    transport: str = "auto"
    lock_delegation: bool = True
    spin: float = 50e-6
    fork_timeout: float = 5.0
    leader_stall: float = 2.0
    quarantine: float = 180.0
    linger: float = 2.0
    uids: tuple[int, ...] = ()
    heartbeat: float = 1.0
    curve: str | None = None

    def __post_init__(self) -> None:
        self._whole("max_message", 64, 2**40)
        self._whole("send_buffer", 1024, 2**40)
        self._whole("id_max", 1, _LARGEST_ID)
        self._whole("id_range_size", 1, self.id_max)
        for name in ("spin", "fork_timeout", "leader_stall", "quarantine", "linger", "heartbeat"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InvalidArgument(f"{name} must be a number of seconds ≥ 0, not {value!r}")
        if self.transport not in _TRANSPORTS:
            raise InvalidArgument(f"transport must be one of {_TRANSPORTS}, not {self.transport!r}")
        if not all(isinstance(uid, int) and 0 <= uid <= _LARGEST_ID for uid in self.uids):
            raise InvalidArgument(f"uids must be user numbers, not {self.uids!r}")

    def _whole(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidArgument(
                f"{name} must be a whole number in {least} … {most}, not {value!r}"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> GroupConfig:
        """The defaults, changed by what the environment sets. InvalidArgument if it is wrong."""
        given: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            text = environ.get(ENVIRONMENT_PREFIX + name.upper())
            if text is not None:
                given[name] = text.split(",") if name == "uids" else text
        try:
            return msgspec.convert(given, cls, strict=False)
        except msgspec.ValidationError as error:
            what, _, name = str(error).partition(" - at `$.")
            variable = ENVIRONMENT_PREFIX + (name.rstrip("`").partition("[")[0].upper() or "…")
            raise InvalidArgument(f"{variable} in the environment: {what}") from None

    def admits(self, uid: int) -> bool:
        """Whether a process of this user may join."""
        return uid == os.getuid() if not self.uids else uid in self.uids
