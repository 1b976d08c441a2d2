"""What a successor says of what the leader before it may not have had the time to tell."""

from __future__ import annotations

from typing import Any

from libos_ipc.core.codes import Code
from libos_ipc.core.roster import Roster
from libos_ipc.core.vocabulary import Answer, Effect, Effects, Refuse, Say, State

__all__ = ["missed_by", "told_again"]


def told_again(src: int, seq: int, of: int, fields: tuple[Any, ...]) -> Effect:
    """An answer that the journal has kept."""
    return Refuse(src, seq, *fields) if of == Code.ERROR else Answer(src, seq, of, fields)


def missed_by(roster: Roster, vmid: int) -> Effects:
    """Words that a process may not have had, as far as they matter still: twice does no harm."""
    effects: Effects = []
    for fields in roster.answered.relayed(vmid):
        effects.append(Say(vmid, Code.PID_KILL, fields))
    if roster.regrouped:
        effects.append(Say(vmid, Code.PGID_CHANGED, (roster.processes[vmid].pgid,)))
    for slot, in_use in sorted(roster.files.slots.get(vmid, {}).items()):
        if not in_use:
            effects.append(Say(vmid, Code.FILE_RECALLED, (slot,)))
    for child in roster.processes.values():
        if child.parent == vmid and not child.forked and child.state is State.RUNNING:
            effects.append(Say(vmid, Code.CHILD_JOINED, (child.vmid, child.pid)))
    return effects
