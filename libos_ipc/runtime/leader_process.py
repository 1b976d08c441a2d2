"""The leader as a small process of its own: what runs in it.

It ends with the group's last member; with its founder, if that dies before it has joined; or when
it was stopped for so long that a member leads in its place.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import select
import signal
import socket
import time
from typing import Any

import msgspec

from libos_ipc.config import GroupConfig
from libos_ipc.core.roster import LEADER_VMID, Applicant
from libos_ipc.core.vocabulary import Journal
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.machinery import make_leader
from libos_ipc.runtime.node import Identity, Node
from libos_ipc.runtime.process_state import start_time
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.sockets import Sockets

__all__ = ["found", "found_embedded", "main"]


def _new_group_file(name: str, config: GroupConfig) -> GroupFile:
    """The description of a group that is about to be founded."""
    return GroupFile(os.urandom(8).hex(), name, 1, LEADER_VMID, config)


def found(directory: GroupDir, config: GroupConfig) -> Node:
    """Take the directory and make the node of a leader that is a process of its own."""
    directory.claim()
    file = _new_group_file(directory.name, config)
    identity = Identity(LEADER_VMID, 0, 0, 0, 0)
    sockets = Sockets.make(directory, LEADER_VMID)
    return Node(directory, file, identity, sockets, leader=make_leader(directory, config))


def found_embedded(directory: GroupDir, config: GroupConfig) -> Node:
    """Found a group whose leader is this process, and its first member."""
    directory.claim()
    try:
        leader = make_leader(directory, config, first_vmid=LEADER_VMID)
        os_pid, now, wall = os.getpid(), time.monotonic(), time.time()
        applicant = Applicant(os_pid, start_time(os_pid), os.getuid(), 0, True)
        admission, effects = leader.on_join(applicant, now, wall)
        hello = leader.on_hello(admission.vmid, *applicant[:3], now, wall)
        file = _new_group_file(directory.name, config)
        founding = [
            effect.record for effect in [*effects, *(hello or [])] if isinstance(effect, Journal)
        ]
        node = Node.admitted(directory, file, admission, leader, founding)
        directory.publish(file)
    except BaseException:
        directory.remove()
        raise
    return node


def _allow_descriptors() -> None:
    """Some descriptors are needed for each member: as many as the system lets us have. This process
    is ours alone, and starts no others."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):
        pass  # with those it has then


def main(given: dict[str, Any]) -> None:
    """The leader's process, from its first line to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _allow_descriptors()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what the founder has blocked is its own affair
    try:
        founder = os.pidfd_open(given["founder"])
    except ProcessLookupError:
        return
    with socket.socket(fileno=given["founder_fd"]) as line:
        task = _await_task(line, founder)
        if not task:
            return
        word: tuple[int, str] = (0, "")
        try:
            node = _begin(GroupDir(given["runtime_dir"], given["name"]), task)
        except OSError as error:
            word = (error.errno or 5, str(error.args[-1]))
        try:
            line.sendall(json.dumps(word).encode() + b"\n")
            heard = True
        except (BrokenPipeError, ConnectionResetError):
            heard = False  # it was interrupted, and founds no group any more
    gc.freeze()
    gc.enable()
    if not word[0]:
        _lead(node, founder if heard else -1)


def _await_task(line: socket.socket, founder: int) -> bytes:
    """What the founder wants led; nothing if that is nothing, or if it ends first."""
    ends = select.poll()
    ends.register(line, select.POLLIN)
    ends.register(founder, select.POLLIN)
    task = b""
    while not task.endswith(b"\n"):
        ready = dict(ends.poll())
        more = line.recv(65536) if line.fileno() in ready else b""
        if not more:
            return b""
        task += more
    return task[:-1]


def _begin(directory: GroupDir, task: bytes) -> Node:
    """Lead a group of this configuration."""
    node = found(directory, msgspec.json.decode(task, type=GroupConfig))
    node.session.carriage.make()
    node.session.read_lanes()
    directory.publish(node.file)
    return node


def _lead(node: Node, founder: int) -> None:
    """Lead until the last member leaves. Without a founder, end the group."""
    session = node.session
    leader = session.member.leader
    assert leader is not None
    node.on_ended = session.loop.end
    if founder >= 0:

        def founder_died() -> None:
            session.loop.unregister(founder)
            if not leader.ever_joined:
                session.loop.end()

        session.loop.register(founder, founder_died)
        session.loop.run()
    session.close()
    if node.leading:
        node.end_leading()
    else:
        node.directory.lock.close()  # deposed: the group goes on
