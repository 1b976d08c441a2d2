"""Getting into a group: ask the leader, over a connection of our own, before there is a VMID."""

from __future__ import annotations

import os
import time

from libos_ipc._native import unpack_frames
from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Admission
from libos_ipc.core.vocabulary import Outgoing
from libos_ipc.errors import LeaderLost, ProtocolError, Timeout, error_for
from libos_ipc.runtime import liveness
from libos_ipc.runtime.codec import Greeting, decode_answer, decode_body, pack
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.node import Node
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.zmq_transport import ask_once

__all__ = ["join"]

#: Seconds until a group is asked again whose leader has just died.
AGAIN_S = 0.02


class _Succession(Exception):
    """Nobody leads, and somebody is about to."""


def join(
    directory: GroupDir, *, parent: int, may_lead: bool, timeout: float | None, group_id: str = ""
) -> Node:
    """Join the group of this directory. Waits for the leader's answer.

    `group_id`, if given, must be the group's: a token must not lead into a later group that
    took the name over.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    attempt = int.from_bytes(os.urandom(7), "big") + 1
    while True:
        file = directory.read()
        if group_id and file.id != group_id:
            raise LeaderLost(f"the group {file.name!r} of this token is gone; another has its name")
        greeting = Greeting(file.id, parent, may_lead, attempt)
        left = None if deadline is None else deadline - time.monotonic()
        try:
            admission = _ask(directory, file, greeting, left)
        except _Succession:
            if left is not None and left <= 0:
                raise Timeout(f"nobody leads {file.name!r} after {timeout} s") from None
            time.sleep(AGAIN_S)
            continue
        return Node.admitted(directory, file, admission, may_lead=may_lead)


def _ask(
    directory: GroupDir, file: GroupFile, greeting: Greeting, timeout: float | None
) -> Admission:
    vmid = file.leader_vmid
    try:
        watcher = liveness.watch(directory.live_socket(vmid))
    except (FileNotFoundError, ConnectionRefusedError):
        raise _Succession from None
    frames = pack(0, 0, Outgoing(Code.JOIN, 1, (greeting,)), b"")
    with watcher:
        try:
            answer = ask_once(directory.message_socket(vmid), frames, watcher.fileno(), timeout)
        except ConnectionResetError:
            raise _Succession from None
    if answer is None:
        raise Timeout(
            f"the leader of {file.name!r} (VMID {vmid}) did not answer within {timeout} s"
        )
    *_, code, _, payload = unpack_frames(answer, file.config.max_message)
    if code == Code.ERROR:
        number, text = decode_body(code, payload)
        raise error_for(int(number), str(text))  # type: ignore[call-overload]
    if code != Code.RESP:
        raise ProtocolError(f"the leader answered with code {code} to a request to join")
    return Admission(*decode_answer(Code.JOIN, payload))  # type: ignore[arg-type]
