"""At rest: the last leader has on its books what its members were told, and nobody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libos_ipc.core.allegiance import Standing
from libos_ipc.core.leader import Leader
from libos_ipc.core.sync_words import State

from .history import Violation

if TYPE_CHECKING:
    from .reigns import Reigns
    from .reigns_process import Process
    from .reigns_program import Program

__all__ = ["check_rest"]


def check_rest(world: Reigns) -> None:
    """Everything that must hold once nobody has anything to do."""
    members = [p for p in world.processes.values() if p.alive and p.is_member]
    for process in members:
        process.member.check()
        _nobody_waits(process)
    _messages_have_come(world)
    epoch = world.begun[-1]
    host = world.processes[world.logs[epoch].leader]
    if not world.heirs() and not (host.alive and host.member.leader is not None):
        for process in members:
            if process.member.standing is not Standing.LOST and process.member.links:
                raise Violation(
                    f"VMID {process.vmid} is {process.member.standing}, in a lost group"
                )
        return
    leader = host.member.leader
    if not host.alive or leader is None or host.member.epoch != epoch:
        raise Violation(f"nobody leads epoch {epoch}")
    for process in members:
        member = process.member
        if (process.succession.epoch, member.epoch) != (epoch, epoch):
            raise Violation(f"VMID {process.vmid} is in epoch {member.epoch}, not {epoch}")
        if member.standing is not Standing.FOLLOWING or member.leader_vmid != host.vmid:
            raise Violation(f"VMID {process.vmid} is {member.standing}")
        _books_are_right(leader, process.program)
    if leader.processes.keys() != {process.vmid for process in members}:
        raise Violation(f"{sorted(leader.processes)} are members")
    if any(host.member.away.get(process.vmid) is not None for process in members):
        raise Violation(f"not back: {host.member.away}")
    _signals_have_come(world)
    _locks_are_right(world, leader)
    _handles_are_right(world, leader)
    leader.check()
    if world.replayed(world.logs[epoch]).state() != leader.state():
        raise Violation("the journal does not bring the state back")


def _nobody_waits(process: Process) -> None:
    program, member = process.program, process.member
    waiting = [ticket for ticket in program.tickets if ticket.state == "open"]
    if waiting or len(member.calls) or member.unarrived():
        table = member.calls.table
        raise Violation(
            f"VMID {process.vmid} waits for {waiting}, {len(table)} requests are open,"
            f" {member.unarrived()} have not got everything; {member.standing}"
        )
    if member.standing is not Standing.LOST and (program.taking_back or program.opening):
        raise Violation(f"VMID {process.vmid} has not heard the end of it")
    if program.leaving:
        raise Violation(f"VMID {process.vmid} is still {program.leaving}")


def _messages_have_come(world: Reigns) -> None:
    for (src, dst), turn in world.sent.items():
        both = world.lives(src) and world.lives(dst)
        if both and world.come.get((src, dst), 0) != turn:
            raise Violation(
                f"{turn} messages from {src} to {dst}, {world.come.get((src, dst))} came"
            )


def _books_are_right(leader: Leader, program: Program) -> None:
    vmid, member = program.process.vmid, program.process.member
    told = {id for start, end in program.owned() for id in range(start, end + 1)}
    owned = {id for start, end in leader.ids.ranges_of(vmid) for id in range(start, end + 1)}
    # Its own pid came from its parent, if that forked it; and a group's may outlive its bearer.
    kept = {id for id, holder in leader.groups.kept.items() if holder == vmid}
    if told | {program.pid} != owned - kept:
        raise Violation(f"VMID {vmid} was told {sorted(told)}, on the books {sorted(owned)}")
    spares = {pair[0] for pair in member.provision.pairs} | program.vmids
    if not spares <= set(leader.spares_of.get(vmid, ())):
        raise Violation(f"VMID {vmid} has {spares}, on the books {leader.spares_of.get(vmid)}")
    exits = [exit for exit in leader.orphan_exits if exit.src == vmid]
    heard = [exit.exit_code for exit in exits if not exit.uid]
    if heard != list(range(1, program.said + 1)):
        raise Violation(f"VMID {vmid} said {program.said} words, {heard} were heard")
    _ends_are_known(program, [exit.exit_code for exit in exits if exit.uid])
    if program.pgid != leader.processes[vmid].pgid:
        raise Violation(f"VMID {vmid} is in group {leader.processes[vmid].pgid}, not told so")


def _ends_are_known(program: Program, to_leader: list[int]) -> None:
    """Each to the parent, or to the leader if that was gone before it had said that it knew. A
    parent that has led may have been told as that, too, and its successor."""
    world, vmid = program.world, program.process.vmid
    leaders = {log.vmid for log in world.logs.values()}
    for number, parent in enumerate(program.parents, 1):
        heard, written = world.ends[vmid, number, parent.vmid], to_leader.count(number)
        as_leader = parent.vmid in leaders
        to_one = heard == 1 or (written and (as_leader or not parent.alive))
        if written > 1 or not (to_one or (heard and as_leader)):
            raise Violation(
                f"VMID {vmid} told {parent.vmid} of its end {number}: it heard {heard} times,"
                f" the leader {written} times"
            )


def _signals_have_come(world: Reigns) -> None:
    first = [program for program in world.programs() if program.is_first]
    for sender in first:
        for target in first:
            came = target.signals.get(sender.pid, 0)
            if target is not sender and came != sender.kills:
                raise Violation(
                    f"VMID {sender.process.vmid} has signalled {sender.kills} times,"
                    f" {came} came to VMID {target.process.vmid}"
                )


def _locks_are_right(world: Reigns, leader: Leader) -> None:
    rows = leader.locks.table(world.now)
    if rows:
        raise Violation(f"locked on the books: {rows}")


def _handles_are_right(world: Reigns, leader: Leader) -> None:
    for program in world.programs():
        vmid, client = program.process.vmid, program.process.member.sync.client
        for id in leader.sync.open_at.get(vmid, ()):
            if id != program.handle:
                raise Violation(f"VMID {vmid} has handle {id} open, on the books")
        if program.handle:
            handle = leader.sync.handles.get(program.handle)
            if handle is None or vmid not in handle.rows:
                raise Violation(f"VMID {vmid} has a handle open, but not on the books")
            if handle.rows[vmid].state != client.state_of(program.handle):
                raise Violation(f"VMID {vmid} has another state than on the books")
            if client.state_of(program.handle) is not State.INVALID and (
                client.version_of(program.handle) != world.values.get(program.handle, (0,))[0]
            ):
                raise Violation(f"VMID {vmid} has an old value")
