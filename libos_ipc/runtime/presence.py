"""Who is there: the leader watches processes from before their first word, or after their leader's
death, if they are there at all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from libos_ipc.core.process_rows import Process
from libos_ipc.core.vocabulary import Expect, State
from libos_ipc.runtime.process_state import start_time
from libos_ipc.runtime.shortage import absent_of

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["expect"]


def expect(session: Session, effect: Expect) -> None:
    """Watch those, and tell the leader's machine who is not there. Under the session's lock."""
    leader = session.member.leader
    if leader is None:
        return  # deposed, by what was performed before this
    known = leader.processes
    absent = absent_of(
        session, effect.vmids, lambda vmid: _is_there(session, vmid, known.get(vmid))
    )
    now = time.monotonic()
    session.perform_within(session.member.lead(leader.on_expected(absent, now), now))
    for vmid in absent:
        session.directory.forget(vmid)


def _is_there(session: Session, vmid: int, process: Process | None) -> bool:
    if vmid == session.member.vmid:
        return True
    watches, path = session.watches, session.directory.live_socket(vmid)
    if process is None or not process.os_pid:
        return watches.live(vmid, path)
    if watches.watches_process(vmid):
        return True
    # Named by a journal, perhaps of long ago: the pid alone may be another process's.
    if start_time(process.os_pid) != process.start_time:
        return False
    if not watches.process(vmid, process.os_pid):
        return False
    if process.state is State.RUNNING and not watches.live(vmid, path):
        session.receiver.expect_end(vmid)  # it has exec'ed, or is about to end
    return True
