"""What an operating system gives its processes, for a group of Python processes.

    import libos_ipc

    with libos_ipc.Group.create("build") as group:
        pid = group.fork()          # or os.fork(): the child has joined when it returns

The map, bottom up; each layer imports only what stands before it:

    errors, config          the error tree; the knobs of a group
    _native                 C: the codec of the wire, the table of outstanding requests
    core/                   pure machines: links, IDs, member, leader; no operating system
    wire                    one table of all messages and their layout
    runtime/                sockets, threads, files, processes: performs what the core decides
    group, ids, spawning,   the public faces
    messaging, listing,
    tokens, aio
    cli/                    the command line, on the public names alone

Everything is imported on first use, so that `import libos_ipc` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libos_ipc.config import GroupConfig as GroupConfig
    from libos_ipc.errors import Deadlock as Deadlock
    from libos_ipc.errors import GroupExists as GroupExists
    from libos_ipc.errors import IdsExhausted as IdsExhausted
    from libos_ipc.errors import InvalidArgument as InvalidArgument
    from libos_ipc.errors import InvalidRange as InvalidRange
    from libos_ipc.errors import IpcError as IpcError
    from libos_ipc.errors import LeaderLost as LeaderLost
    from libos_ipc.errors import MessageTooLarge as MessageTooLarge
    from libos_ipc.errors import NoHandler as NoHandler
    from libos_ipc.errors import NotFound as NotFound
    from libos_ipc.errors import NotJoined as NotJoined
    from libos_ipc.errors import OwnerDied as OwnerDied
    from libos_ipc.errors import PeerDied as PeerDied
    from libos_ipc.errors import PermissionDenied as PermissionDenied
    from libos_ipc.errors import ProtocolError as ProtocolError
    from libos_ipc.errors import RemoteError as RemoteError
    from libos_ipc.errors import Timeout as Timeout
    from libos_ipc.errors import WouldBlock as WouldBlock
    from libos_ipc.file_lock import FileLock as FileLock
    from libos_ipc.group import Group as Group
    from libos_ipc.group import Member as Member
    from libos_ipc.group import current as current
    from libos_ipc.listing import groups as groups
    from libos_ipc.locks import LockInfo as LockInfo
    from libos_ipc.metadata import Counters as Counters
    from libos_ipc.metadata import Cred as Cred
    from libos_ipc.metadata import Usage as Usage
    from libos_ipc.runtime.children import ExitStatus as ExitStatus
    from libos_ipc.runtime.handlers import Message as Message
    from libos_ipc.signals import SignalInfo as SignalInfo
    from libos_ipc.spawning import Child as Child
    from libos_ipc.sync import State as State
    from libos_ipc.sync import SyncHandle as SyncHandle
    from libos_ipc.sync import SyncInfo as SyncInfo

_HOME = {
    "GroupConfig": "config",
    "Group": "group",
    "Member": "group",
    "current": "group",
    "groups": "listing",
    "Message": "runtime.handlers",
    "ExitStatus": "runtime.children",
    "Child": "spawning",
    "FileLock": "file_lock",
    "LockInfo": "locks",
    "Counters": "metadata",
    "Cred": "metadata",
    "Usage": "metadata",
    "SignalInfo": "signals",
    "State": "sync",
    "SyncHandle": "sync",
    "SyncInfo": "sync",
    **dict.fromkeys(
        (
            "Deadlock",
            "GroupExists",
            "IdsExhausted",
            "InvalidArgument",
            "InvalidRange",
            "IpcError",
            "LeaderLost",
            "MessageTooLarge",
            "NoHandler",
            "NotFound",
            "NotJoined",
            "OwnerDied",
            "PeerDied",
            "PermissionDenied",
            "ProtocolError",
            "RemoteError",
            "Timeout",
            "WouldBlock",
        ),
        "errors",
    ),
}

__all__ = [
    "Child",
    "Counters",
    "Cred",
    "Deadlock",
    "ExitStatus",
    "FileLock",
    "Group",
    "GroupConfig",
    "GroupExists",
    "IdsExhausted",
    "InvalidArgument",
    "InvalidRange",
    "IpcError",
    "LeaderLost",
    "LockInfo",
    "Member",
    "Message",
    "MessageTooLarge",
    "NoHandler",
    "NotFound",
    "NotJoined",
    "OwnerDied",
    "PeerDied",
    "PermissionDenied",
    "ProtocolError",
    "RemoteError",
    "SignalInfo",
    "State",
    "SyncHandle",
    "SyncInfo",
    "Timeout",
    "Usage",
    "WouldBlock",
    "current",
    "groups",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}._native":
            raise
        text = (
            f"{__path__[0]} is a source tree in which the part in C was not built: "
            "run `pip install -e .` in it, or start Python in another directory"
        )
        raise ModuleNotFoundError(text, name=error.name) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
