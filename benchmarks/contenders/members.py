"""For our contenders: a group in a directory of its own, and placed members forked into it."""

from __future__ import annotations

import importlib
import os
import struct
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.contender import Setup, detach_from_replies, end
from benchmarks.placement import pin

if TYPE_CHECKING:
    import libos_ipc
    from libos_ipc.runtime.journal_file import Head

ECHO = 64
LEAVE_WITHIN_S = 2.0
_WHO = struct.Struct("<II")


@dataclass(frozen=True)
class Other:
    """A forked member: its VMID and its OS pid."""

    vmid: int
    os_pid: int


def leader_of(group: libos_ipc.Group) -> int:
    """The OS pid of the leader, which is a process of its own."""
    return _head_of_journal(group).os_pid


def journal_bytes(group: libos_ipc.Group) -> int:
    """What the leader's journal takes: less than before, perhaps, since it is shortened."""
    return _head_of_journal(group).committed


def _head_of_journal(group: libos_ipc.Group) -> Head:
    from libos_ipc.runtime.journal_file import read_head

    head = read_head(group._node.directory.journal(group.epoch))
    assert head is not None
    return head


def import_what_members_use() -> None:
    """Import the library and what it loads on first use, without joining anything."""
    for module in ("libos_ipc", "msgspec", "sortedcontainers", "zmq"):
        importlib.import_module(module)


@contextmanager
def founded(setup: Setup) -> Iterator[libos_ipc.Group]:
    """A group with the default leader, of which this process is a member that echoes code 64.

    `setup["config"]` are the fields of its `GroupConfig` that differ from the defaults.
    """
    import libos_ipc

    config: dict[str, Any] = setup.get("config") or {}
    with (
        tempfile.TemporaryDirectory(prefix="g") as directory,
        libos_ipc.Group.create(
            runtime_dir=directory, config=libos_ipc.GroupConfig(**config)
        ) as group,
    ):

        @group.on(ECHO)
        def echo(message: libos_ipc.Message) -> object:
            return message.payload

        yield group


@contextmanager
def member(
    group: libos_ipc.Group, setup: Setup, body: Callable[[int], None] | None = None
) -> Iterator[Other]:
    """Fork a member, placed as the answering end; it leaves at the end, or is killed.

    Its main thread runs `body` with a descriptor that becomes readable when it is to leave; by
    default it only waits for that.
    """
    told, tell = os.pipe()
    until, leave = os.pipe()
    pid = group.fork()
    if pid == 0:
        os.close(told)
        os.close(leave)
        _be_member(group, setup, tell, until, body or _wait)
    os.close(tell)
    os.close(until)
    other = None
    try:
        who = os.read(told, _WHO.size)
        if len(who) != _WHO.size:
            raise RuntimeError("the forked member ended before it had joined")
        other = Other(*_WHO.unpack(who))
        yield other
    finally:
        os.close(told)
        _release(leave)
        try:
            group.wait(pid, timeout=LEAVE_WITHIN_S)
        finally:
            if other is not None:
                end(other.os_pid)


def _be_member(
    group: libos_ipc.Group, setup: Setup, tell: int, until: int, body: Callable[[int], None]
) -> None:
    """The forked member's life; does not return."""
    code = 1
    try:
        detach_from_replies()
        pin(setup.get("answering_core"))
        os.write(tell, _WHO.pack(group.vmid, os.getpid()))
        os.close(tell)
        body(until)
        group.close()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _release(leave: int) -> None:
    """Say that it is time. End-of-file would not do: members forked later hold `leave` too."""
    try:
        os.write(leave, b".")
    except BrokenPipeError:
        pass
    os.close(leave)


def _wait(until: int) -> None:
    os.read(until, 1)
