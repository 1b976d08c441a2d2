"""The links of one process, and what goes out over them.

A connection is made when there is something to say, and again when it was lost while there
still is. What a lane has taken over needs none: it is dropped, since it costs both processes
more memory than all else that they know of each other. What callers wait for, and what time
makes overdue, is asked for here.
"""

from __future__ import annotations

import math

from libos_ipc.core.codes import Code
from libos_ipc.core.counters import Tally
from libos_ipc.core.lane_words import OfferLane
from libos_ipc.core.links import Link, weight
from libos_ipc.core.vocabulary import (
    Disconnect,
    Effects,
    Open,
    Outgoing,
    Progress,
    Reopen,
    Transmit,
    Write,
    make,
)

__all__ = ["Mesh"]

#: Bytes to a process that are worth the memory of a lane, as some messages are.
LANE_BYTES = 64 * 1024


class Mesh:
    """One process's links to all that it has talked to, by VMID."""

    def __init__(self, vmid: int, epoch: int, send_buffer: int, lane_after: int) -> None:
        self.vmid = vmid
        self.epoch = epoch
        self.send_buffer = send_buffer
        #: messages to a process after which a lane to it is worth its memory; 0 for no lanes
        self.lane_after = lane_after
        self.incarnation = 1
        self.links: dict[int, Link] = {}
        self.tally = Tally()

    def greet(self, peer: int, now: float) -> Effects:
        """Make ourselves known to `peer` without waiting for something to say."""
        link = self.links.get(peer)
        if link is None:
            link = self.links[peer] = Link(peer)
        link.greeting = True
        return self._unnumbered(link, Code.PROBE)

    def drop_link(self, peer: int) -> bool:
        """`peer` is gone: whether there was a link to it."""
        link = self.links.pop(peer, None)
        if link is not None:
            self.tally.drop(link)
        return link is not None

    def untold_exits(self, peer: int, most: float = math.inf) -> list[Outgoing]:
        """What `peer` was told, up to this number, of how a child of its ended, and has not
        acknowledged."""
        link = self.links.get(peer)
        if link is None or not link.keeps:
            return []
        kept = [(n, each) for n, each in link.kept if n <= most and n not in link.revoked]
        return [each for _, each in kept if each.code == Code.CHILDEXIT]

    def has_room(self, dst: int, size: int) -> bool:
        """Whether a message of `size` bytes may be sent to `dst` now."""
        link = self.links.get(dst)
        return link is None or link.has_room(size, self.send_buffer)

    def ask_progress(self, dst: int) -> Effects:
        """Ask `dst` to say at once what has arrived, until all has, and what it has consumed."""
        link = self.links.get(dst)
        if link is None:
            return []
        link.awaited = link.sent
        return self._question(link)

    def await_room(self, dst: int) -> Effects:
        """A caller begins to wait for room: ask, and ask again, until it stops."""
        link = self.links.get(dst)
        if link is None:
            return []
        link.wanting += 1
        return self._question(link)

    def stop_awaiting_room(self, dst: int) -> None:
        """It has its room, or has given up."""
        link = self.links.get(dst)
        if link is not None and link.wanting:  # none: another link, `dst` was gone meanwhile
            link.wanting -= 1

    def unarrived(self) -> list[int]:
        """Peers that have not acknowledged everything."""
        return [peer for peer, link in self.links.items() if link.keeps]

    # ---- connections

    def on_disconnected(self, peer: int, now: float) -> Effects:
        """Our connection to `peer` is lost, while `peer` itself lives on."""
        link = self.links.get(peer)
        if link is None or not link.connected:
            return []
        link.on_lost()
        return self._connect(link, now) if link.open and not link.by_lane else []

    def on_unconnected(self, peer: int) -> None:
        """An Open could not be performed, though `peer` may be there: tried again by and by."""
        link = self.links.get(peer)
        if link is not None:
            link.on_lost()

    def needing_connections(self) -> list[Link]:
        """Those that have something to say which does not go by a lane."""
        links = self.links.values()
        return [link for link in links if (link.open or link.ack_owed()) and not link.by_lane]

    def on_rebuilt(self, now: float) -> Effects:
        """Our own transport was ended and made again: nothing is connected."""
        self.incarnation += 1
        for link in self.links.values():
            link.on_lost()
        effects: Effects = []
        for link in self.needing_connections():
            effects += self._connect(link, now)
        return effects

    def on_tick(self, now: float) -> tuple[Effects, bool]:
        """Say what is overdue. True if another tick will be needed."""
        effects: Effects = []
        again = False
        for link in self.links.values():
            if link.open:
                again = True
                if link.probe_due(now):
                    effects += self._unnumbered(link, Code.PROBE)
            if link.ack_owed():
                effects += self._unnumbered(link, Code.ACK)
            if link.connected and link.by_lane:
                link.on_lost()
                effects.append(Disconnect(link.peer))
        return effects, again

    def on_news(self, peer: int, every: int) -> Effects:
        """A message was entered into the ledger of this link beside us: perhaps everything that we
        sent has arrived, or the peer is to be told of `every` messages."""
        link = self.links.get(peer)
        if link is None:
            return []
        effects: Effects = [Progress(peer)]
        if link.ack_due(every):
            effects += self._unnumbered(link, Code.ACK)
        return effects

    # ---- sending

    def _numbered(self, link: Link, message: Outgoing, now: float) -> Effects:
        before = link.sent_bytes
        number = link.stamp(message, weight(message.code, message.body), now)
        if link.lane_from:
            return [make(Write, (link.peer, number, link.acknowledge(), message))]
        if not link.connected:
            effects = self._connect(link, now)
        else:
            effects = [make(Transmit, (link.peer, number, link.acknowledge(), message))]
        enough = number == self.lane_after or before < LANE_BYTES <= link.sent_bytes
        if enough and self.lane_after and not link.lane:
            effects.append(OfferLane(link.peer))
        return effects

    def _question(self, link: Link) -> Effects:
        """Ask what has arrived and was consumed, unless the same question is on its way: callers
        that give up soon and come again must not make one that is stopped owe more and more."""
        if link.asked_at == link.sent:
            return []
        link.asked_at = link.sent
        return self._unnumbered(link, Code.PROBE)

    def _unnumbered(self, link: Link, code: Code) -> Effects:
        effects: Effects = []
        if link.by_lane:
            return [Write(link.peer, 0, link.acknowledge(), Outgoing(code, 0, ()))]
        if not link.connected:
            effects += self._introduce(link)
        effects.append(Transmit(link.peer, 0, link.acknowledge(), Outgoing(code, 0, ())))
        return effects

    def send_again(self, peer: int, now: float) -> Effects:
        """Whatever was sent to this peer, and may not have gone out."""
        link = self.links.get(peer)
        return [] if link is None or not link.keeps else self._send_again(link, now)

    def _send_again(self, link: Link, now: float) -> Effects:
        """Something that was sent is not there: it went with a connection, or never came into the
        lane, since a signal handler has raised in the middle of that. Everything that is not known
        to have arrived, once more."""
        if link.by_lane:
            acked = link.acknowledge()
            return [Write(link.peer, number, acked, each) for number, each in link.again(now)]
        effects = self._connect(link, now)
        effects[0] = Reopen(link.peer)
        return effects

    def _introduce(self, link: Link) -> Effects:
        link.connected = True
        hello = Outgoing(Code.HELLO, 0, (self.vmid, self.incarnation, self.epoch))
        return [Open(link.peer), Transmit(link.peer, 0, link.acknowledge(), hello)]

    def _connect(self, link: Link, now: float) -> Effects:
        """Open a connection and send everything that is not known to have arrived."""
        effects = self._introduce(link)
        acked = link.acknowledge()
        effects += [
            Transmit(link.peer, number, acked, message) for number, message in link.again(now)
        ]
        if link.asking:
            effects += self._unnumbered(link, Code.PROBE)
        return effects
