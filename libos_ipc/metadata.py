"""The part of `Group` that tells of other processes: `getmeta`, and what each publishes: `meta`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

from libos_ipc.core.codes import Code
from libos_ipc.core.counters import Counters
from libos_ipc.errors import InvalidArgument, NotFound, PeerDied, Timeout, error_for
from libos_ipc.runtime import process_state, processes, stacks
from libos_ipc.runtime.handlers import from_payload
from libos_ipc.runtime.processes import KINDS, Usage

if TYPE_CHECKING:
    from libos_ipc.group import Group
    from libos_ipc.runtime.node import Node

__all__ = ["Counters", "Cred", "Meta", "Metadata", "Usage"]

#: Seconds that a process has to tell its own stacks, before it is made to.
_OWN_WORDS_S = 0.25
#: Seconds that a forked process has until it is known.
_NEWBORN_S = 1.0
#: Bytes that one entry may take, with its name.
_MOST_ENTRY = 2**16
_MOST_KEY = 255


class Cred(NamedTuple):
    """Whose a process is: real user and group."""

    uid: int
    gid: int


class Meta(MutableMapping[str, Any]):
    """The entries that this process publishes; everybody gets them by `getmeta(pid, key)`.

    Values are whatever msgspec encodes. They are kept by the leader, so they can be had while the
    process computes or is stopped, and end with it; a forked child begins with none. Setting and
    deleting ask the leader. IpcError (ENOSPC) over a mebibyte in all.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._vmid = group.vmid
        self._known: dict[str, Any] = {}

    def _entries(self) -> dict[str, Any]:
        if self._vmid != self._group.vmid:  # a forked child
            self._vmid = self._group.vmid
            self._known = {}
        return self._known

    def __getitem__(self, key: str) -> Any:
        return self._entries()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries()))

    def __len__(self) -> int:
        return len(self._entries())

    def __setitem__(self, key: str, value: Any) -> None:
        import msgspec  # loaded by now: not on the way to `Group.create`

        data = _name(key) + b"\0" + msgspec.msgpack.encode(value)
        if len(data) > _MOST_ENTRY:
            raise InvalidArgument(f"the entry {key!r} takes {len(data)} bytes, over {_MOST_ENTRY}")
        self._tell(key, 1, data)
        self._entries()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._entries()[key]
        self._tell(key, 0, _name(key))

    def _tell(self, key: str, there: int, data: bytes) -> None:
        (result,) = self._group._session.ask_leader(Code.SET_META, there, data)
        if result:
            raise error_for(-result, f"the entries of this process take too much with {key!r}")

    def __repr__(self) -> str:
        return f"<Meta {self._entries()!r}>"


def _name(key: str) -> bytes:
    if not isinstance(key, str) or not key or "\0" in key or key in KINDS:
        raise InvalidArgument(f"{key!r} cannot name an entry: give a str, none of {sorted(KINDS)}")
    name = key.encode("utf-8", "surrogatepass")
    if len(name) > _MOST_KEY:
        raise InvalidArgument(f"the name of an entry has at most {_MOST_KEY} bytes")
    return name


class Metadata:
    """The part of `Group` that tells of other processes."""

    _node: Node
    meta: Meta

    def getmeta(self, pid: int, key: str, *, type: Any = None, timeout: float | None = 5.0) -> Any:
        """Something about the process `pid`, our own included.

        `"cred"` is a `Cred(uid, gid)`; `"exec"`, `"cwd"` and `"root"` are paths; `"cmdline"` is
        the list of its words; `"usage"` a `Usage`. These come from the kernel, whatever the process
        is doing. `"stack"` is the text of the Python stacks of all its threads, within about a
        second: from itself or, if it holds the interpreter lock in native code, from a signal
        handler that needs none; Timeout says why if there is neither. `"counters"` are its own
        `Counters`, told by its worker: Timeout if it is stopped. Any other key is an entry that the
        process has published in its `meta`, decoded as `type` if that is given.

        PeerDied (a ProcessLookupError) if there is no such process, NotFound (a
        FileNotFoundError) for a directory that was removed or an entry that there is not.
        """
        if not isinstance(pid, int) or not 1 <= pid < 2**32:
            raise InvalidArgument(f"{pid!r} is no pid")
        if key not in KINDS:
            return self._entry(pid, key, type)
        vmid, os_pid, started = self._identify(pid)
        if key == "stack":
            return self._stack(pid, vmid, os_pid, started)
        if key == "counters":
            return self._told(pid, vmid, key, timeout)
        found: bytes | tuple[int, int] | Usage | Counters
        try:
            try:
                found = processes.read_process(os_pid, started, key)
            except PermissionError:
                found = self._told(pid, vmid, key, timeout)
        except ProcessLookupError as error:
            raise PeerDied(f"process {pid} has just ended") from error
        except FileNotFoundError as error:
            raise NotFound(f"{key} of process {pid}: {error.strerror}") from error
        return _shown(key, found)

    def counters(self) -> Counters:
        """What has passed between this process and the others since it joined, as `Counters`.

        Asks nobody, and does not block. `getmeta(pid, "counters")` gives another one's.
        """
        return self._node.session.counters()

    def events(self) -> dict[str, int]:
        """How often each thing has happened that is logged: deaths, refusals, what was dropped.

        The names are those of the log records' `event`. Asks nobody, and does not block.
        """
        session = self._node.session
        with session.lock:
            return dict(session.member.tally.events)

    def _identify(self, pid: int) -> tuple[int, int, int]:
        """VMID, OS pid and start time of a process; of a newborn as soon as it has said hello."""
        deadline = time.monotonic() + _NEWBORN_S
        while True:
            fields = self._node.session.ask_leader(Code.GET_PROCESS, pid)
            result, vmid, process, os_pid, started, *_ = fields
            if result or process != pid:
                raise PeerDied(f"pid {pid} names no process of the group")
            if os_pid:
                return vmid, os_pid, started
            if time.monotonic() > deadline:
                raise Timeout(f"process {pid} was forked, but has not said hello yet")
            time.sleep(0.002)

    def _entry(self, pid: int, key: str, type: Any) -> Any:
        result, data = self._node.session.ask_leader(Code.GET_META, pid, _name(key))
        if result == -errno.ENOENT:
            raise NotFound(f"process {pid} has published no entry {key!r}")
        if result:
            raise PeerDied(f"pid {pid} names no process of the group")
        return from_payload(data, Any if type is None else type)

    def _told(
        self, pid: int, vmid: int, key: str, timeout: float | None
    ) -> bytes | tuple[int, int] | Usage | Counters:
        from libos_ipc.runtime.metadata import unpack_meta

        return unpack_meta(key, self._ask_owner(pid, vmid, key, timeout))

    def _ask_owner(self, pid: int, vmid: int, key: str, timeout: float | None) -> bytes:
        asked = pid, KINDS[key]
        answer: Any = self._node.session.call(vmid, Code.PID_GETMETA, asked, timeout)
        _, result, data = answer
        if result == -errno.ENOENT:
            raise NotFound(f"{key} of process {pid}: it was removed")
        if result:
            raise error_for(-result, f"{key} of process {pid}: {os.strerror(-result)}")
        return bytes(data)

    def _stack(self, pid: int, vmid: int, os_pid: int, started: int) -> str:
        if process_state.is_stopped(os_pid, started):
            raise Timeout(f"process {pid} is stopped, and tells its stacks when it is continued")
        try:
            return self._ask_owner(pid, vmid, "stack", _OWN_WORDS_S).decode()
        except Timeout:
            text = stacks.demand(os_pid, started)
        if not text:
            raise Timeout(
                f"process {pid} has not told its stacks: it does not run, holds its signals back, "
                f"or has given signal {processes.STACK_SIGNAL} another handler"
            )
        return text


def _shown(key: str, found: bytes | tuple[int, int] | Usage | Counters) -> Any:
    if isinstance(found, Usage | Counters):
        return found
    if isinstance(found, bytes):
        if key == "cmdline":
            return [os.fsdecode(word) for word in found.split(b"\0")[:-1]]
        return os.fsdecode(found)
    return Cred(*found)
