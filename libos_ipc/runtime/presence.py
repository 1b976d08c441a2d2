"""Who is there: the leader watches processes from before their first word, or after their leader's
death, if they are there at all."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from libos_ipc.core.leader import Leader
from libos_ipc.core.process_rows import Process
from libos_ipc.core.vocabulary import Expect, State
from libos_ipc.runtime.process_state import start_time
from libos_ipc.runtime.shortage import absent_of

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["expect"]

#: Children to be of whom the directory is read once, rather than a socket of each one looked for.
MANY = 16


def expect(session: Session, effect: Expect) -> None:
    """Watch those, and tell the leader's machine who is not there. Under the session's lock."""
    leader = session.member.leader
    if leader is None:
        return  # deposed, by what was performed before this
    absent, never_there = _absent(session, leader, effect.vmids)
    now = time.monotonic()
    gone = sorted(absent + never_there)
    session.perform_within(session.member.lead(leader.on_expected(gone, now), now))
    for vmid in absent:
        if vmid not in leader.spares:  # else somebody is making its sockets for a fork, perhaps
            session.directory.forget(vmid)


def _absent(session: Session, leader: Leader, vmids: Iterable[int]) -> tuple[list[int], list[int]]:
    """Those who are not there, and who have left no file either. A successor finds several children
    to be for each process, and hardly one of them was born."""
    known, children = leader.processes, [vmid for vmid in vmids if vmid not in leader.processes]
    # Whoever could have forked comes first: if it has ended, its children are in the directory.
    absent = _missing(session, [vmid for vmid in vmids if vmid in known], known)
    never_there: list[int] = []
    if len(children) > MANY:
        seen = session.directory.seen()
        never_there = [vmid for vmid in children if vmid not in seen]
        children = [vmid for vmid in children if vmid in seen]
    return absent + _missing(session, children, known), never_there


def _missing(session: Session, vmids: Iterable[int], known: dict[int, Process]) -> list[int]:
    return absent_of(session, vmids, lambda vmid: _is_there(session, vmid, known.get(vmid)))


def _is_there(session: Session, vmid: int, process: Process | None) -> bool:
    if vmid == session.member.vmid:
        return True
    watches, path = session.watches, session.directory.live_socket(vmid)
    if process is None or not process.os_pid:
        return watches.live(vmid, path)
    if watches.watches_process(vmid):
        return True
    running = process.state is State.RUNNING
    if running and watches.live(vmid, path) and watches.os_pid(vmid) == process.os_pid:
        return watches.process(vmid, process.os_pid)
    # Named by a journal, perhaps of long ago: the pid alone may be another process's.
    if start_time(process.os_pid) != process.start_time:
        return False
    if not watches.process(vmid, process.os_pid):
        return False
    if running and not watches.live(vmid, path):
        session.receiver.expect_end(vmid)  # it has exec'ed, or is about to end
    return True
