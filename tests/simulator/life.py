"""How processes come and go: founding, join, fork, exec, leave, kill.

Each step that another process could see, or in which this one could die or be stopped, is an
event of its own: preparing a fork, the fork, going on in the parent, going on in the child.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from libos_ipc.core.codes import Code
from libos_ipc.core.lock_words import Kind
from libos_ipc.core.vocabulary import State

from .history import Violation
from .node import LEADER, Identity, SimNode
from .threads import Running, Wait, never

if TYPE_CHECKING:
    from libos_ipc.core.leader import Admission, Leader

    from .kernel import OsProcess, Port
    from .world import World

__all__ = ["exec_image", "fork", "found", "join", "kill"]

#: Longest time between two steps of a fork.
STEP_S = 0.003
FORK_TIMEOUT_S = 2.0
#: A request to join that the leader cannot take now is made again.
AGAIN_S = 0.01


def found(world: World) -> None:
    """The leader: a process of its own, or the first member."""
    process = world.kernel.start()
    port = world.kernel.listen(LEADER, process)
    leader = world.new_leader()
    if not world.knobs.embedded:
        world.leader = SimNode(world, process, Identity(LEADER, 0, 0, 0, 0), port, leader)
        world.leader.resume()
        return
    # The founder is admitted by its own leader before it has a node to perform anything.
    node = world.leader = SimNode(world, process, Identity(LEADER, 1, 0, 1, 0), port, leader)
    admission = node.let_in(process, 0)
    assert admission is not None
    told = leader.on_hello(LEADER, process.os_pid, process.start_time, 0, world.now, world.now)
    node.perform(told or [])
    _settle_in(node, admission)


def join(world: World, process: OsProcess, parent: int = 0) -> None:
    """A process asks to be let in, and becomes a member some time after the leader's answer."""

    def ask() -> None:
        leader = world.leader
        assert leader is not None
        if leader.dead or world.history.ended or not process.alive:
            return
        if not leader.up or _end_untold(world, process):
            world.at(AGAIN_S, ask, leader.process)
            return
        admission = leader.let_in(process, parent)
        if admission is not None:
            world.say("admitted", *admission)
            world.soon(world.knobs.delay_s, lambda: _arrive(world, process, admission), process)

    assert world.leader is not None
    world.soon(world.knobs.delay_s, ask, world.leader.process)


def _end_untold(world: World, process: OsProcess) -> bool:
    """Whether the leader has yet to hear that this process exec'ed.

    The kernel has ended the old image's sockets before the new one asks, so a leader sees that
    first if it looks.
    """
    return any(
        (row.os_pid, row.start_time) == (process.os_pid, process.start_time)
        and row.state is State.RUNNING
        for row in _leader_machine(world).processes.values()
    )


def _leader_machine(world: World) -> Leader:
    assert world.leader is not None
    assert world.leader.member.leader is not None
    return world.leader.member.leader


def _arrive(world: World, process: OsProcess, admission: Admission) -> None:
    if process.pid not in (0, admission.pid):
        raise Violation(f"pid {process.pid} became {admission.pid} over an exec")
    process.pid = 0
    port = world.kernel.listen(admission.vmid, process)
    identity = Identity(
        admission.vmid, admission.pid, admission.ppid, admission.pgid, admission.parent
    )
    node = SimNode(world, process, identity, port)
    _settle_in(node, admission)
    if not world.faulty:
        node.program.start("unlock", node.program.locking.release_all())


def _settle_in(node: SimNode, admission: Admission) -> None:
    member = node.member
    member.ids.grant(admission.start, admission.end)
    first = member.ids.new(node.world.now)
    assert first == admission.pid
    node.begin()


def fork(node: SimNode, fails: bool) -> Running:
    """`os.fork` in one thread: prepare, fork, go on; the child goes on in its own time."""
    world, process = node.world, node.process
    provision = node.member.provision
    if not provision.pairs:
        node.perform(provision.top_up(world.now))
        yield Wait(lambda: bool(provision.pairs) or not provision.coming, FORK_TIMEOUT_S)
    pair = provision.pairs.popleft() if provision.pairs and not node.goodbye_said else None
    port = None if pair is None else world.kernel.listen(pair[0], process)
    world.say("prepare", node.vmid, pair)
    node.pauses += 1
    if node.pauses == 1:
        node.pause()
    yield Wait(never, world.rng.random() * STEP_S)
    if not fails and len(world.kernel.processes) < 20:
        child = world.kernel.fork(process)
        if pair is not None and port is not None:
            port_, (vmid, pid), me = port, pair, node.identity
            identity = Identity(vmid, pid, me.pid, me.pgid, me.vmid)
            shared = {k: f for k, f in node.program.locking.handles.items() if k[0] != Kind.FAIR}
            world.history.locks.share(me.vmid, vmid)
            node.program.locking.shared.update(shared)
            world.soon(STEP_S, lambda: _born(world, child, identity, port_, shared), child)
        else:
            world.soon(STEP_S, lambda: world.kernel.kill(child), child)
    yield Wait(never, world.rng.random() * STEP_S)
    if port is not None:
        node.watch(port.vmid)
        world.kernel.close(port, process)
    node.pauses -= 1
    if node.pauses == 0:
        node.resume()
    if pair is not None:
        started = node.member.send(node.member.leader_vmid, Code.CHILD_STARTED, pair, world.now)
        node.perform(started)
    node.perform(provision.top_up(world.now))


def _born(
    world: World,
    process: OsProcess,
    identity: Identity,
    port: Port,
    handles: dict[tuple[int, int], int],
) -> None:
    """The hook in the child: nothing of the parent's stays open."""
    for other in list(world.kernel.ports.values()):
        if other is not port:
            world.kernel.close(other, process)
    port.owner = process
    world.say("born", identity)
    node = SimNode(world, process, identity, port)
    node.program.locking.handles.update(handles)
    node.program.locking.shared.update(handles)
    node.begin()
    if not world.faulty:
        node.program.start("unlock", node.program.locking.release_all())
    _give_something(world, identity.vmid)


def _give_something(world: World, vmid: int) -> None:
    """A newborn may be known to others, who hand it an ID, before the leader has heard of it."""
    givers = [
        node
        for node in world.nodes.values()
        if node.program.held and node.vmid != vmid and not node.leaving
    ]
    if givers and world.rng.random() < 0.3:
        giver = world.rng.choice(givers)
        giver.program.start("give", giver.program.move_id(giver.program.held[0], vmid))


def exec_image(node: SimNode, comes_back: bool) -> None:
    """The process becomes another program, which may join again."""
    world, process = node.world, node.process
    world.say("exec", node.vmid)
    row = _leader_machine(world).processes.get(node.vmid)
    if row is not None and row.state is State.RUNNING:  # before its hello it has nothing to keep
        process.pid = node.identity.pid
    node.vanish()
    world.kernel.close_all(process)
    process.returns = comes_back
    if comes_back:
        world.soon(1.0, lambda: join(world, process), process)


def kill(world: World, process: OsProcess) -> None:
    """SIGKILL."""
    world.kernel.kill(process)
