"""What must hold when a group has come to rest, and when it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from libos_ipc.core.vocabulary import State

from .history import Violation

if TYPE_CHECKING:
    from libos_ipc.core.leader import Leader

    from .node import SimNode
    from .world import World

__all__ = ["check_end", "check_rest"]


def _must(holds: object, *otherwise: object) -> None:
    if not holds:
        raise Violation(" ".join(map(str, otherwise)))


def check_rest(world: World) -> None:
    """All is delivered, answered, settled and owned by whom it should be."""
    nodes = list(world.nodes.values())
    for node in nodes:
        _is_idle(node)
    _all_delivered(world)
    world.history.signals.check_rest()
    world.history.locks.check_rest()
    world.history.sync.check_rest()
    for ticket in world.history.tickets:
        _must(ticket.state != "open", f"request {ticket.code} of {ticket.node.vmid} hangs")
    leader = world.leader
    assert leader is not None
    if not leader.dead:
        assert leader.member.leader is not None
        world.history.compare()
        _replays(world, leader.member.leader)
        _table_is_true(world, leader.member.leader)
        for node in nodes:
            if node.identity.pid:
                _owns_what_it_knows(node, leader.member.leader)


def _is_idle(node: SimNode) -> None:
    """Nobody waits, nothing is kept, outstanding or half made."""
    world, member, me = node.world, node.member, f"VMID {node.vmid}"
    for thread in node.program.threads:
        _must(False, f"{me}: {thread.name} hangs")
    _must(not len(node.program.handlers), f"{me}: messages wait for a handler")
    _must(not len(member.calls), f"{me}: {len(member.calls)} requests outstanding")
    _must(not node.pauses and node.up, f"{me}: paused")
    _must(not node.leaving, f"{me}: still leaving")
    for peer, link in member.links.items():
        _must(peer in world.nodes, f"{me}: a link to {peer}, which is gone")
        _must(not link.keeps, f"{me}: {len(link.kept)} messages to {peer} not acknowledged")
        other = world.nodes[peer].member.links.get(node.vmid)
        _must(other is not None, f"{me}: {peer} has no link back")
        assert other is not None
        _must(link.sent == other.delivered, f"{me} to {peer}: {link.sent} != {other.delivered}")
        _must(link.sent_bytes == other.received_bytes, f"{me} to {peer}: bytes differ")
        _must(other.consumed == other.received_bytes, f"{peer} from {me}: not consumed")
        _must(link.credited == other.announced_credit, f"{me} to {peer}: credit is lost")
    provision = member.provision
    _must(not provision.coming, f"{me}: {provision.coming} pairs never come")
    _must(not provision.range_coming, f"{me}: a range never comes")


def _all_delivered(world: World) -> None:
    history = world.history
    for pair, sent in history.sent.items():
        if pair[0] in world.nodes and pair[1] in world.nodes:
            come = history.come.get(pair, 0)
            _must(come == len(sent), f"{pair}: messages {sent[come:]} were not delivered")


def _replays(world: World, leader: Leader) -> None:
    """The whole journal, read by somebody new."""
    successor = world.new_leader()
    successor.replay(world.history.records)
    successor.check()
    _must(successor.state() == leader.state(), "the journal does not bring back the state")


def _table_is_true(world: World, leader: Leader) -> None:
    """The leader knows the living, and only them."""
    for vmid, row in leader.processes.items():
        node = world.nodes.get(vmid)
        if node is not None:
            me = node.identity
            told = (row.state, row.pid, row.pgid, row.parent, row.os_pid)
            true = (State.RUNNING, me.pid, me.pgid, me.parent, node.process.os_pid)
            _must(told == true, f"VMID {vmid} is {true}, the leader has {told}")
            continue
        process = world.kernel.find(row.os_pid, row.start_time)
        _must(row.state is not State.RUNNING, f"VMID {vmid} is RUNNING, but gone")
        _must(process is not None, f"VMID {vmid} is dead, but {row.state.name}")
    for node in world.nodes.values():
        if node.identity.pid:
            _must(node.vmid in leader.processes, f"the leader does not know VMID {node.vmid}")
    for vmid, spare in leader.spares.items():
        _must(spare.asker in leader.processes, f"VMID {vmid} is spare for {spare.asker}, now gone")
    owners = {owner for _, _, owner in leader.ids.snapshot()[2]}
    nobody = owners - leader.processes.keys() - leader.spares.keys()
    _must(not nobody, f"IDs are owned by {nobody}, who are gone")


def _owns_what_it_knows(node: SimNode, leader: Leader) -> None:
    """The ranges that the leader has for it are those it knows of: none leaked, none forged."""
    member, program, pid = node.member, node.program, node.identity.pid
    known = set(member.ids.ranges()) | set(program.extra)
    if not any(start <= pid <= end for start, end in known):
        known.add((pid, pid))
    moved = node.world.history.moved
    known |= {(id, id) for id, owner in moved.items() if owner == node.vmid}
    known |= {(id, id) for id, keeper in leader.groups.kept.items() if keeper == node.vmid}
    owned = set(leader.ids.ranges_of(node.vmid))
    _must(owned == known, f"VMID {node.vmid} owns {owned - known} unknown, lacks {known - owned}")
    for vmid, id in member.provision.pairs:
        _must(leader.spares[vmid].row()[:2] == (node.vmid, id), f"{vmid}, {id} is no spare pair")
        _must(leader.ids.owner_of(id) == vmid, f"spare ID {id} is not {vmid}'s")


def check_end(world: World) -> None:
    """With the last member the group has ended, and nothing is owned."""
    leader = world.leader
    assert leader is not None
    if leader.dead:
        return
    machine = leader.member.leader
    assert machine is not None
    world.history.compare()
    rest = {vmid for vmid in machine.processes if vmid != leader.vmid}
    _must(not rest, f"all are dead, but the leader has {rest}")
    if world.knobs.embedded:
        _must(not world.history.ended, "ended, but the founder is there")
    else:
        _must(world.history.ended == 1, f"ended {world.history.ended} times")
        _must(not machine.spares, f"spare VMIDs {sorted(machine.spares)} of nobody")
        _must(not len(machine.ids), f"{len(machine.ids)} ranges of nobody")
