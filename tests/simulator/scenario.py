"""One seed: a group is founded, lives through random actions and faults, heals, and ends.

After the faults the group must come to rest, and then everything is compared with everything:
each message sent between two living processes has been delivered, nobody waits, nothing is kept
or outstanding, and the leader's table is exactly what the living believe that they own. Then
all leave or die, and the group must say that it has ended.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from libos_ipc.core import delegations, lock_passing, member
from libos_ipc.core.codes import Code

from . import final, life
from .handlers import ANSWER, LATE, REFUSE
from .knobs import Knobs
from .node import SimNode
from .signals import NUMBERS
from .world import World

__all__ = ["run"]


def run(seed: int, actions: int | None = None) -> World:
    """Live through one seed. Raises what went wrong, with the world as `error.world`."""
    rng = random.Random(seed)
    world = World(seed, Knobs.draw(rng, actions), rng)
    before = member.ACK_EVERY, delegations.STREAK, lock_passing.MOVES, lock_passing.WASTED
    member.ACK_EVERY, delegations.STREAK = world.knobs.ack_every, world.knobs.streak
    lock_passing.MOVES, lock_passing.WASTED = world.knobs.moves, 0
    try:
        Scenario(world).play()
    except Exception as error:
        error.world = world  # type: ignore[attr-defined]
        raise
    finally:
        member.ACK_EVERY, delegations.STREAK, lock_passing.MOVES, lock_passing.WASTED = before
    return world


class Scenario:
    """The hand that makes things happen in one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        self._left = world.knobs.actions
        talk, ids, living, faults = (
            world.knobs.w_talk,
            world.knobs.w_ids,
            world.knobs.w_life,
            world.knobs.w_faults,
        )
        choices: list[tuple[Callable[[SimNode], None], int]] = [
            (self._send, 3 * talk),
            (self._request, 3 * talk),
            (self._broadcast, talk),
            (self._flush, talk),
            (self._get_ready, talk),
            (self._catch, talk),
            (self._signal, 2 * talk),
            (self._regroup, talk),
            (self._tell, talk),
            (self._sync, 4 * world.knobs.w_sync),
            (self._lock, 4 * world.knobs.w_locks),
            (self._new_id, 4 * ids),
            (self._release_id, 2 * ids),
            (self._move_id, 2 * ids),
            (self._range, ids),
            (self._ask_leader, ids),
            (self._fork, 2 * living),
            (self._fork_and_die, living),
            (self._join, living),
            (self._leave, living),
            (self._exec, living),
            (self._kill, living),
            (self._stop, faults),
            (self._cut, 2 * faults),
            (self._block, faults),
            (self._hostile, faults),
        ]
        self._choices = [action for action, _ in choices]
        self._weights = [weight for _, weight in choices]
        self._leader_dies_at = self._rng.randint(0, self._left) if world.knobs.leader_dies else -1

    def play(self) -> None:
        """The whole story."""
        world = self._world
        world.say("knobs", world.knobs)
        life.found(world)
        for _ in range(world.knobs.members - world.knobs.embedded):
            life.join(world, world.kernel.start())
        world.at(world.knobs.gap_s, self._act)
        world.run_until(lambda: self._left <= 0)
        self._heal()
        world.come_to_rest()
        self._all_ready()  # the last born, too
        world.come_to_rest()
        self._unlock_all()  # what one has unlocked another may have locked, by the same handle
        world.come_to_rest()
        final.check_rest(world)
        self._end()
        world.come_to_rest()
        final.check_end(world)

    def _act(self) -> None:
        world = self._world
        self._left -= 1
        if self._left > 0:
            world.at(self._rng.expovariate(1 / world.knobs.gap_s), self._act)
        assert world.leader is not None
        if self._left == self._leader_dies_at and not world.leader.dead:
            life.kill(world, world.leader.process)
            return
        node = self._somebody()
        if node is not None:
            action = self._rng.choices(self._choices, self._weights)[0]
            action(node)

    def _members(self) -> list[SimNode]:
        """Those that can do something."""
        return [
            node
            for node in self._world.nodes.values()
            if not node.leaving
            and node.identity.pid
            and node.process.stopped_until <= self._world.now
        ]

    def _somebody(self) -> SimNode | None:
        members = self._members()
        return self._rng.choice(members) if members else None

    def _other(self) -> int:
        """Whom to address: mostly somebody there."""
        vmids = list(self._world.nodes)
        if vmids and self._rng.random() < 0.95:
            return self._rng.choice(vmids)
        return self._rng.randint(1, max(self._world.history.vmids, default=1))

    def _patience(self) -> float | None:
        return self._rng.choice((None, None, 0.01, 0.3, 3.0))

    # ---- talking

    def _send(self, node: SimNode) -> None:
        for _ in range(self._rng.randint(1, 6)):
            size = self._rng.randint(4, self._world.knobs.largest)
            node.program.start("send", node.program.send(self._other(), size, self._patience()))
            if node.dead:
                return

    def _request(self, node: SimNode) -> None:
        code = self._rng.choice((ANSWER, ANSWER, REFUSE, LATE))
        size = self._rng.randint(4, self._world.knobs.largest)
        call = node.program.request(self._other(), code, size, self._patience())
        node.program.start("request", call)

    def _broadcast(self, node: SimNode) -> None:
        node.program.start("broadcast", node.program.broadcast(8))

    def _flush(self, node: SimNode) -> None:
        node.program.start("flush", node.program.flush(self._patience()))

    def _get_ready(self, node: SimNode) -> None:
        node.program.handlers.set_ready()

    # ---- signals, process groups, what processes tell of themselves

    def _catch(self, node: SimNode) -> None:
        mask = sum(1 << sig for sig in NUMBERS if self._rng.random() < 0.8)
        node.program.start("catch", node.program.signalling.ask(Code.SET_CAUGHT, mask))

    def _pid(self) -> int:
        return self._rng.choice([node.identity.pid for node in self._members()] or [1])

    def _signal(self, node: SimNode) -> None:
        calls, sig = node.program.signalling, self._rng.choice(NUMBERS)
        chance = self._rng.random()
        for _ in range(self._rng.randint(1, 3)):
            if chance < 0.6:
                node.program.start("kill", calls.kill(self._pid(), sig))
            else:
                kind = self._rng.choice((2, 3))
                node.program.start("kill many", calls.kill_many(self._pid(), sig, kind))

    def _regroup(self, node: SimNode) -> None:
        pid = self._rng.choice((0, 0, self._pid()))
        call = node.program.signalling.ask(Code.SET_PGID, pid, self._rng.choice((0, self._pid())))
        node.program.start("setpgid", call)

    def _tell(self, node: SimNode) -> None:
        program, calls = node.program, node.program.signalling
        entry = (1, b"key\0value") if self._rng.random() < 0.7 else (0, b"key")
        program.start("meta", calls.ask(Code.SET_META, *entry))
        program.start("getmeta", calls.ask(Code.GET_META, self._pid(), b"key"))
        if program.held:
            tid = self._rng.choice(program.held)
            native = self._rng.choice((0, 4711))
            program.start("thread", calls.ask(Code.SET_THREAD, tid, native))

    def _lock(self, node: SimNode) -> None:
        for _ in range(self._rng.randint(1, 3)):
            if not node.dead:
                locking = node.program.locking
                call = self._rng.choice(
                    (locking.burst, locking.contend, locking.random_call, locking.random_call)
                )
                node.program.start("lock", call())

    def _sync(self, node: SimNode) -> None:
        for _ in range(self._rng.randint(1, 3)):
            if not node.dead:
                node.program.start("sync", node.program.syncing.random_call())

    # ---- IDs

    def _new_id(self, node: SimNode) -> None:
        for _ in range(self._rng.randint(1, 4)):
            node.program.start("new", node.program.new_id())

    def _release_id(self, node: SimNode) -> None:
        for _ in range(self._rng.randint(1, 5)):
            if node.program.held:
                node.program.release_id(self._rng.choice(node.program.held))

    def _move_id(self, node: SimNode) -> None:
        program = node.program
        singles = [start for start, end in program.extra if start == end]
        ids = program.held + [id for id in singles if id != node.identity.pid]
        if ids:
            program.start("move", program.move_id(self._rng.choice(ids), self._other()))

    def _range(self, node: SimNode) -> None:
        program = node.program
        chance = self._rng.random()
        if chance < 0.45:
            program.start("alloc", program.alloc_range())
        elif chance < 0.9:
            if program.extra:
                program.start("back", program.release_range(*self._rng.choice(program.extra)))
        else:
            pid = node.identity.pid  # nobody may give its own pid away
            program.start("back", program.release_range(pid, pid))

    def _ask_leader(self, node: SimNode) -> None:
        code = self._rng.choice((Code.GET_ID_OWNER, Code.GET_NEW_VMID, Code.GET_MEMBERS))
        fields = (self._rng.randint(1, 60),) if code == Code.GET_ID_OWNER else ()
        node.program.start("ask", node.program.ask(code, *fields))

    # ---- coming and going

    def _fork(self, node: SimNode) -> None:
        if len(self._world.nodes) < self._world.knobs.most and node.pauses < 2:
            node.program.start("fork", life.fork(node, self._rng.random() < 0.2))

    def _fork_and_die(self, node: SimNode) -> None:
        """A parent that may have no time to tell anybody of its child."""
        if self._may_go(node) and not node.pauses:
            self._fork(node)
            world, process = self._world, node.process
            world.soon(3 * life.STEP_S, lambda: life.kill(world, process), process)

    def _join(self, node: SimNode) -> None:
        if len(self._world.nodes) < self._world.knobs.most:
            parent = node.vmid if self._rng.random() < 0.5 else 0
            life.join(self._world, self._world.kernel.start(), parent)

    def _may_go(self, node: SimNode) -> bool:
        return node is not self._world.leader and len(self._members()) > 2

    def _leave(self, node: SimNode) -> None:
        if self._may_go(node) and not node.pauses:
            me = node.identity
            told = (me.ppid, me.pid, 0, self._rng.randint(0, 255), 0)
            ends = self._rng.random() < 0.5
            process = node.process
            node.program.start("leave", node.program.leave(told if ends else None))
            if ends:
                self._world.soon(3.0, lambda: life.kill(self._world, process), process)
            elif self._rng.random() < 0.5:
                self._world.at(4.0, lambda: self._again(node), process)

    def _again(self, node: SimNode) -> None:
        if node.dead:
            life.join(self._world, node.process)

    def _exec(self, node: SimNode) -> None:
        if self._may_go(node):
            life.exec_image(node, self._rng.random() < 0.6)

    def _kill(self, node: SimNode) -> None:
        if self._may_go(node):
            life.kill(self._world, node.process)
        victims = [process for process in self._world.kernel.processes if process.node is None]
        if victims and self._rng.random() < 0.5:
            life.kill(self._world, self._rng.choice(victims))

    # ---- faults

    def _stop(self, node: SimNode) -> None:
        processes = self._world.kernel.processes
        process = node.process if self._rng.random() < 0.7 else self._rng.choice(processes)
        until = self._world.now + self._rng.random() * self._world.knobs.stop_s
        process.stopped_until = max(until, process.stopped_until)
        self._world.say("stop", process.os_pid, f"until {until:.6f}")

    def _cut(self, node: SimNode) -> None:
        if node.out:
            connection = self._rng.choice(list(node.out.values()))
            self._world.network.cut(connection)

    def _block(self, node: SimNode) -> None:
        until = self._world.now + self._rng.random() * self._world.knobs.block_s
        there = self._other()
        self._world.network.blocked[node.vmid, there] = until
        self._world.say("block", node.vmid, there, f"until {until:.6f}")

    def _hostile(self, node: SimNode) -> None:
        """What no honest member sends; it must cost nobody anything."""
        if not node.out:
            return
        connection = self._rng.choice(list(node.out.values()))
        link = node.member.links.get(connection.port.vmid) if connection.port else None
        number = self._rng.choice((0, 0, 1 if link and link.acked else 0, 10**6))
        acked = self._rng.choice((0, 10**9))
        code, payload = self._rng.choice(
            ((Code.ACK, b""), (Code.PROBE, b""), (Code.ALLOC_ID_RANGE, b"?"), (Code.RESP, b"??"))
        )
        self._world.history.hostile.add(node.vmid)
        self._world.network.inject(connection, number, acked, code, 10**9, payload)

    # ---- the end

    def _heal(self) -> None:
        """No fault any more, and everybody runs."""
        world = self._world
        world.say("heal")
        world.faulty = False
        world.network.blocked.clear()
        for process in world.kernel.processes:
            world.go_on(process)
        for process in [p for p in world.kernel.processes if p.node is None and not p.returns]:
            life.kill(world, process)  # it has exec'ed for good, and would keep its locks
        self._unlock_all()
        world.at(1.0, self._all_ready)

    def _unlock_all(self) -> None:
        for node in list(self._world.nodes.values()):
            if node.identity.pid and not node.leaving:
                node.program.start("unlock", node.program.locking.release_all())

    def _all_ready(self) -> None:
        for node in list(self._world.nodes.values()):
            node.program.handlers.set_ready()
        if any(not node.program.handlers.ready for node in self._world.nodes.values()):
            self._world.at(1.0, self._all_ready)

    def _end(self) -> None:
        """All go, one way or another."""
        world = self._world
        world.say("end of all")
        for process in list(world.kernel.processes):
            node = process.node
            if node is world.leader:
                continue
            if node is not None and not node.leaving and self._rng.random() < 0.5:
                node.program.start("leave", node.program.leave(None))
                world.at(20.0, lambda p=process: life.kill(world, p), process)
            else:
                world.soon(5.0, lambda p=process: life.kill(world, p), process)
