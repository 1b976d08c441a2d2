"""The leader as a small process of its own: what runs in it.

It ends with the group's last member; or with its founder, if that dies before it has joined.
"""

from __future__ import annotations

import json
import os
import signal
import time

import msgspec

from libos_ipc.config import GroupConfig
from libos_ipc.core.leader import Leader
from libos_ipc.core.roster import LEADER_VMID, Applicant
from libos_ipc.core.vocabulary import Journal
from libos_ipc.runtime.held_files import SharedSlots
from libos_ipc.runtime.inspector import Inspector
from libos_ipc.runtime.liveness import start_time
from libos_ipc.runtime.node import Identity, Node
from libos_ipc.runtime.rundir import GroupDir, GroupFile
from libos_ipc.runtime.slabs import read_remains
from libos_ipc.runtime.sockets import Sockets

__all__ = ["found", "found_embedded", "main"]


def _new_group_file(name: str, config: GroupConfig) -> GroupFile:
    """The description of a group that is about to be founded."""
    return GroupFile(os.urandom(8).hex(), name, 1, LEADER_VMID, config)


def _make_leader(
    directory: GroupDir, config: GroupConfig, *, first_vmid: int = LEADER_VMID + 1
) -> Leader:
    """An empty leader's machine with the group's knobs."""
    return Leader(
        id_max=config.id_max,
        range_size=config.id_range_size,
        quarantine_s=config.quarantine,
        first_vmid=first_vmid,
        inspector=Inspector(),
        memory=SharedSlots(directory.slots) if config.lock_delegation else None,
        read_remains=lambda vmid: read_remains(directory.slabs(vmid)),
    )


def found(directory: GroupDir, config: GroupConfig) -> Node:
    """Take the directory and make the node of a leader that is a process of its own."""
    directory.claim()
    file = _new_group_file(directory.name, config)
    identity = Identity(LEADER_VMID, 0, 0, 0, 0)
    sockets = Sockets.make(directory, LEADER_VMID)
    return Node(directory, file, identity, sockets, leader=_make_leader(directory, config))


def found_embedded(directory: GroupDir, config: GroupConfig) -> Node:
    """Found a group whose leader is this process, and its first member."""
    directory.claim()
    try:
        leader = _make_leader(directory, config, first_vmid=LEADER_VMID)
        os_pid, now, wall = os.getpid(), time.monotonic(), time.time()
        applicant = Applicant(os_pid, start_time(os_pid), os.getuid(), 0, True)
        admission, effects = leader.on_join(applicant, now, wall)
        hello = leader.on_hello(admission.vmid, *applicant[:3], now, wall)
        file = _new_group_file(directory.name, config)
        node = Node.admitted(directory, file, admission, leader=leader)
        for effect in [*effects, *(hello or [])]:
            if isinstance(effect, Journal):
                node.journal(effect.record)
        directory.publish(file)
    except BaseException:
        directory.remove()
        raise
    return node


def main(given: dict[str, object]) -> None:
    """The leader's process, from its first line to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what the founder has blocked is its own affair
    ready_fd = int(str(given["ready_fd"]))
    directory = GroupDir(str(given["runtime_dir"]), str(given["name"]))
    try:
        node = found(directory, msgspec.convert(given["config"], GroupConfig))
        node.session.resume()
        node.session.read_lanes()
        directory.publish(node.file)
        word: tuple[int, str] = (0, "")
    except OSError as error:
        word = (error.errno or 5, str(error.args[-1]))
    try:
        with open(ready_fd, "w") as pipe:
            json.dump(word, pipe)
        founder = int(str(given["founder"]))
    except BrokenPipeError:
        founder = 0  # it was interrupted, and founds no group any more
    if not word[0]:
        _lead(node, founder)


def _lead(node: Node, founder: int) -> None:
    """Lead until the last member leaves. With a founder that is gone already, end the group."""
    session = node.session
    leader = session.member.leader
    assert leader is not None
    node.on_ended = session.loop.end
    try:
        pidfd = os.pidfd_open(founder) if founder else -1
    except ProcessLookupError:
        pidfd = -1
    if pidfd >= 0:

        def founder_died() -> None:
            session.loop.unregister(pidfd)
            if not leader.ever_joined:
                session.loop.end()

        session.loop.register(pidfd, founder_died)
        session.loop.run()
    session.close()
    node.end_leading()
