"""Connections between processes: one per direction, as the transport makes them.

What goes over one connection arrives in order; two connections, and the two directions, know
nothing of each other. A connection is cut when either end ends its transport, dies or opens
another one: a random suffix of what is under way is then lost, the rest still arrives. Beyond
what the transport does, single messages may be lost or repeated within a connection (never its
hello, which is its beginning), and a direction may be blocked for a while.

A process that has ended its transport for a fork still listens: connections made meanwhile
wait, and what they carry is read when it is back.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from libos_ipc._native import pack_frames
from libos_ipc.core.codes import Code
from libos_ipc.core.vocabulary import Outgoing
from libos_ipc.runtime.codec import pack

if TYPE_CHECKING:
    from .kernel import Port
    from .node import SimNode
    from .world import World

__all__ = ["Connection", "Network"]

GROUP = b"simulated"


class Connection:
    """From `src` to the process behind `port`; `peer` is the VMID it was bound to by its hello."""

    __slots__ = ("cut", "lane", "last_at", "muted", "peer", "port", "queue", "src")

    def __init__(self, src: SimNode, port: Port | None) -> None:
        self.src = src
        self.port = port
        #: (arrives at, frames)
        self.queue: deque[tuple[float, list[bytes]]] = deque()
        self.last_at = 0.0
        self.peer = 0
        self.muted = False
        self.cut = False
        #: shared memory: nothing is lost, and a transport that ends does not end it
        self.lane = False


class Network:
    """Makes, feeds and cuts connections."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: (from VMID, to VMID) -> nothing arrives before this time
        self.blocked: dict[tuple[int, int], float] = {}
        #: the two directions of each lane, the second from when it is taken
        self.lanes: list[list[Connection]] = []

    def connect(self, src: SimNode, peer: int) -> Connection:
        """A new connection to `peer`; if nobody listens there, its end is reported soon."""
        world = self._world
        port = world.kernel.ports.get(peer)
        connection = Connection(src, port)
        if port is None:
            connection.cut = True
            self._report(connection, peer)
        else:
            port.connections.append(connection)
        return connection

    def keep_lane(self, there: Connection) -> int:
        """Enter one direction of a new lane; its number, by which the other end finds it."""
        self.lanes.append([there])
        return len(self.lanes) - 1

    def transmit(self, connection: Connection, number: int, acked: int, message: Outgoing) -> None:
        """Put a message under way. One on a connection that is cut is lost."""
        if connection.cut or connection.port is None:
            return
        world = self._world
        frames = [bytes(frame) for frame in pack(number, acked, message, GROUP)]
        self._put(connection, frames)
        if world.faulty and message.code != Code.HELLO:
            chance = world.rng.random()
            knobs = world.knobs
            if chance < knobs.loss:
                connection.queue.pop()
                world.say("lost", connection.src.vmid, connection.port.vmid, number)
            elif chance < knobs.loss + knobs.repeat:
                world.say("repeat", connection.src.vmid, connection.port.vmid, number)
                self._put(connection, frames)

    def _put(self, connection: Connection, frames: list[bytes]) -> None:
        world, port = self._world, connection.port
        assert port is not None
        way = world.rng.random()
        delay = world.knobs.delay_s * (way if way < 0.97 else 10 * way)
        blocked = self.blocked.get((connection.src.vmid, port.vmid), 0.0) if self.blocked else 0.0
        at = max(world.now + delay, connection.last_at, blocked)
        connection.last_at = at
        connection.queue.append((at, frames))
        if port.node is not None:
            port.node.wake(at)

    def inject(
        self, connection: Connection, number: int, acked: int, code: int, seq: int, payload: bytes
    ) -> None:
        """Put a message under way that its sender's machine knows nothing of."""
        if not connection.cut:
            frames = pack_frames(number, acked, code, seq, payload)
            self._put(connection, [bytes(frame) for frame in frames])

    # ---- cutting

    def cut(self, connection: Connection, *, lose_all: bool = False, report: bool = True) -> None:
        """End a connection with a random suffix of what is under way, or with all of it."""
        if connection.cut:
            return
        connection.cut = True
        queue = connection.queue
        keep = 0 if lose_all else self._world.rng.randint(0, len(queue))
        while len(queue) > keep:
            queue.pop()
        port = connection.port
        assert port is not None
        if not queue and connection in port.connections:
            port.connections.remove(connection)
        if report:
            self._report(connection, port.vmid)

    def refuse_all(self, port: Port) -> None:
        """Nobody listens any more: everything that led here ends."""
        for connection in list(port.connections):
            self.cut(connection, lose_all=True)
        port.connections.clear()

    def _report(self, connection: Connection, peer: int) -> None:
        world, src = self._world, connection.src
        world.soon(world.knobs.notice_s, lambda: src.on_lost(peer, connection), src.process)
