"""What a leader leaves: its state, rebuilt from its journal, and a journal of the next epoch, which
begins with all of that one."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from libos_ipc.core.leader import Leader
from libos_ipc.core.roster import Record
from libos_ipc.core.vocabulary import Journal
from libos_ipc.errors import ProtocolError
from libos_ipc.runtime.journal_file import JournalFile, read_bytes, records_of
from libos_ipc.runtime.process_state import start_time

if TYPE_CHECKING:
    from libos_ipc.runtime.node import Node

__all__ = ["inherit"]


def inherit(node: Node, leader: Leader, epoch: int, last: str) -> JournalFile:
    """Give `leader`, a new machine, the state in the sealed journal at `last`, and begin that
    of `epoch`: from then on this node leads.

    JournalSealed if somebody else was there before; ProtocolError or ValueError for a damaged
    journal, OSError where the system has no room for another.
    """
    data = read_bytes(last)
    leader.replay(records_of(data, last))
    leader.apply(("epoch", epoch))
    journal = JournalFile(node.directory.journal(epoch))
    try:
        journal.copy(data)
        journal.append(("epoch", epoch))
        for record in _hello(node.identity.vmid, leader):
            journal.append(record)
        journal.begin(os.getpid(), node.identity.vmid)
    except BaseException:
        journal.close()
        raise
    return journal


def _hello(vmid: int, leader: Leader) -> list[Record]:
    """The last leader may have died before it heard of us."""
    me, now, wall = os.getpid(), time.monotonic(), time.time()
    effects = leader.on_hello(vmid, me, start_time(me), os.getuid(), now, wall)
    if effects is None:
        raise ProtocolError(f"VMID {vmid} is not in the journal, and cannot lead")
    return [effect.record for effect in effects if isinstance(effect, Journal)]
