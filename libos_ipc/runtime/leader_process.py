"""The leader as a small process of its own.

It is a fresh interpreter rather than a fork of the founder: it shares no lock, thread or
descriptor with it, and imports only what a leader needs. It is started by way of an
intermediate process that ends at once, so that it is nobody's child: no `wait` of the
founder's ever finds it. Founding is done when it says so through a pipe, or says what is wrong.

It ends with the group's last member; or with its founder, if that dies before it has joined.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from libos_ipc.config import GroupConfig
from libos_ipc.core.leader import LEADER_VMID, Leader
from libos_ipc.errors import LeaderLost, error_for
from libos_ipc.runtime.node import Identity, Node
from libos_ipc.runtime.rundir import GroupDir, GroupFile
from libos_ipc.runtime.sockets import Sockets

__all__ = ["found", "main", "make_leader", "new_group_file", "start"]

#: What the new interpreter runs: fork away from its parent first, then become the leader.
_BOOT = (
    "import os,sys,json;"
    "os.fork() and os._exit(0);"
    "given=json.loads(sys.argv[1]);sys.path[:]=given['path'];"
    "from libos_ipc.runtime.leader_process import main;main(given)"
)


def new_group_file(name: str, config: GroupConfig) -> GroupFile:
    """The description of a group that is about to be founded."""
    return GroupFile(secrets.token_hex(8), name, 1, LEADER_VMID, config)


def make_leader(config: GroupConfig, *, first_vmid: int = LEADER_VMID + 1) -> Leader:
    """An empty leader's machine with the group's knobs."""
    return Leader(
        id_max=config.id_max,
        range_size=config.id_range_size,
        quarantine_s=config.quarantine,
        doubt_s=config.fork_timeout,
        first_vmid=first_vmid,
    )


def start(directory: GroupDir, config: GroupConfig) -> None:
    """Start the leader of a new group, and return when it answers. Raises what it met."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        given = {
            # An editable install is found by a hook instead of by the path: name our home too.
            "path": [*map(os.path.abspath, sys.path), str(Path(__file__).parents[2])],
            "runtime_dir": str(directory.runtime_dir),
            "name": directory.name,
            "config": msgspec.to_builtins(config),
            "founder": os.getpid(),
            "ready_fd": writing,
        }
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writing,),
            cwd="/",
            start_new_session=True,
            check=False,
        )
        os.close(writing)
        writing = -1
        with open(reading, "rb", closefd=False) as pipe:
            word = pipe.read()
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if not word:
        raise LeaderLost(
            "the leader's process ended before it was ready; "
            f"try `{sys.executable} -c 'import libos_ipc.runtime.leader_process'`"
        )
    number, text = json.loads(word)
    if number:
        raise error_for(number, text)


def found(directory: GroupDir, config: GroupConfig) -> Node:
    """Take the directory and make the node of a leader that is a process of its own."""
    directory.claim()
    file = new_group_file(directory.name, config)
    identity = Identity(LEADER_VMID, 0, 0, 0, 0)
    sockets = Sockets.make(directory, LEADER_VMID)
    return Node(directory, file, identity, sockets, leader=make_leader(config))


def main(given: dict[str, object]) -> None:
    """The leader's process, from its first line to its last."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready_fd = int(str(given["ready_fd"]))
    directory = GroupDir(str(given["runtime_dir"]), str(given["name"]))
    try:
        node = found(directory, msgspec.convert(given["config"], GroupConfig))
        node.session.resume()
        directory.publish(node.file)
        word: tuple[int, str] = (0, "")
    except OSError as error:
        word = (error.errno or 5, str(error.args[-1]))
    with open(ready_fd, "w") as pipe:
        json.dump(word, pipe)
    if word[0]:
        return
    _lead(node, int(str(given["founder"])))


def _lead(node: Node, founder: int) -> None:
    session = node.session
    leader = session.member.leader
    assert leader is not None
    node.on_ended = session.loop.end
    try:
        pidfd = os.pidfd_open(founder)
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
