"""Lanes between processes: they outlive the transports of both ends.

Each direction is a connection of its own kind: what is in it arrives in order, also while its
reader has no transport, and is cut by nothing but the end of a process. What is lost was never
put there: a signal handler can raise in the middle of that. As in the runtime, it is
read only from the moment when the machine says so. Now and then one cannot be made, or not be
taken, or the taker's bell cannot be reached; then one direction, or both, stay as they are.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from libos_ipc.core.lane_words import DropLane, OfferLane, ReachLane, ReadLane, TakeLane
from libos_ipc.core.vocabulary import Write

from .network import Connection

if TYPE_CHECKING:
    from .node import SimNode

__all__ = ["NodeLanes"]


class NodeLanes:
    """What the runtime of one process knows of its lanes."""

    def __init__(self, node: SimNode) -> None:
        self._node = node
        self._out: dict[int, Connection] = {}
        #: mapped, and not to be read yet
        self._closed: dict[int, Connection] = {}
        self.table = {
            OfferLane: self._offer,
            TakeLane: self._take,
            ReachLane: self._reach,
            ReadLane: lambda effect: self._read(effect.peer),
            DropLane: lambda effect: self.drop(effect.peer),
            Write: self._write,
        }

    def drop(self, peer: int) -> None:
        """The peer is gone, or could not take what was offered."""
        self._out.pop(peer, None)
        self._closed.pop(peer, None)

    def _fails(self) -> bool:
        world = self._node.world
        return world.rng.random() < world.knobs.no_lane

    def _offer(self, effect: OfferLane) -> None:
        node, peer = self._node, effect.peer
        port = node.world.kernel.ports.get(peer)
        if port is None or self._fails():
            return
        there = self._end(Connection(node, port))
        memory = node.world.network.keep_lane(there)
        self._out[peer] = there
        node.perform(node.member.lanes.offer(peer, memory, 0, 0, node.world.now))

    def _take(self, effect: TakeLane) -> None:
        node, peer = self._node, effect.peer
        now, network = node.world.now, node.world.network
        here = network.lanes[effect.memory][0]
        self.drop(peer)
        if self._fails():
            node.perform(node.member.lanes.take(peer, -errno.EMFILE, -1, 0, now))
            return
        assert here.port is node.port
        back = self._end(Connection(node, here.src.port))
        network.lanes[effect.memory].append(back)
        self._out[peer], self._closed[peer] = back, here
        # The memory's number stands for the bell, by which the other end finds its half.
        node.perform(node.member.lanes.take(peer, 0, effect.memory, 0, now))

    def _reach(self, effect: ReachLane) -> None:
        node, peer = self._node, effect.peer
        self._closed[peer] = node.world.network.lanes[effect.bell][1]
        self._read(peer)
        if not self._fails():
            node.perform(node.member.lanes.open(peer, node.world.now))

    def _read(self, peer: int) -> None:
        node = self._node
        lane = self._closed.pop(peer)
        node.port.connections.append(lane)
        node.wake(node.world.now)

    def _write(self, effect: Write) -> None:
        node = self._node
        peer, number, acked, message = effect
        node.stay_awake()
        node.world.history.on_transmit(node, peer, message)
        node.world.say("write", node.vmid, peer, number, acked, message)
        node.world.network.transmit(self._out[peer], number, acked, message)

    def _end(self, connection: Connection) -> Connection:
        connection.lane = True
        connection.peer = self._node.vmid
        return connection
