"""What the machine wants done about lanes, and what comes by them."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from libos_ipc._native import PORTER, Exchange, Lock
from libos_ipc.core.lane_words import DropLane, OfferLane, ReachLane, ReadLane, TakeLane
from libos_ipc.core.member import ACK_EVERY
from libos_ipc.core.vocabulary import Message, Note, Outgoing, Write
from libos_ipc.runtime.codec import payload_of
from libos_ipc.runtime.lanes import Arrival, Lanes
from libos_ipc.runtime.porter import Porter
from libos_ipc.runtime.shortage import AGAIN_S, NOTE_AGAIN_S, on_untaken

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["LANE_AFTER", "LaneTraffic"]

#: Messages to a process before it is offered a lane, by `GroupConfig.transport`: a lane costs
#: memory, which a few messages are not worth.
LANE_AFTER = {"zmq": 0, "auto": 16, "native": 1}

#: How often a bell that could not be reached is tried again, and when first, in seconds; then twice
#: as late each time.
REACH_TRIES = 8
REACH_S = 0.05


class LaneTraffic:
    """The lanes of one session. What is in `table` is called under its lock."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.lanes = Lanes(session.config.spin)
        self.porter = Porter(
            self.lanes,
            session.config.max_message,
            self._make_exchange,
            session.host.deliver,
            self._on_message,
            self._on_malformed,
            self._on_short,
            self.on_news,
            session.clock.on_read,
        )
        self.exchange = self.porter.exchange
        self._noted_short = -math.inf
        self._on_idle(session.clock.idle)
        session.clock.on_idle = self._on_idle
        self.table: dict[type, Callable[..., None]] = {
            OfferLane: self._offer,
            TakeLane: self._take,
            ReachLane: self._reach,
            ReadLane: lambda effect: self._read(effect.peer),
            DropLane: lambda effect: self.drop(effect.peer),
            Write: self._write,
        }

    def _make_exchange(self, rounds: Lock, seat: Lock) -> Exchange:
        session, config = self._session, self._session.config
        return Exchange(
            self.lanes.bell,
            session.member.calls.table,
            session.lock,
            rounds,
            seat,
            Message,
            Outgoing,
            session.withdraw,
            config.max_message,
            config.send_buffer,
            ACK_EVERY,
        )

    def _on_idle(self, idle: bool) -> None:
        self.exchange.unclocked = idle
        self.exchange.tick_at = self._session.clock.next_tick
        self.lanes.settle(idle)

    def drop(self, peer: int) -> None:
        """The lane to `peer` is not needed any more, if there is one. Under the session's lock."""
        self.exchange.disconnect(peer)
        self.lanes.drop(peer)

    def close(self) -> None:
        """Give all memory back. After the porter was stopped, or the lanes were left."""
        self.exchange.close()
        self.lanes.close()

    # ---- performing

    def _offer(self, effect: OfferLane) -> None:
        session, peer = self._session, effect.peer
        if peer not in session.member.links:
            return  # gone, as was found when a connection was tried
        try:
            memory, line = self.lanes.offer(peer)
        except OSError as error:
            self._note("cannot offer a lane", peer, str(error))
            return
        self._connect(peer)
        bell = self.lanes.bell_fd
        session.perform(session.member.lanes.offer(peer, memory, bell, line, time.monotonic()))

    def _take(self, effect: TakeLane) -> None:
        session = self._session
        peer, memory, theirs, line = effect
        result = ours = 0
        self.drop(peer)
        try:
            ours = self.lanes.take(peer, self._process(peer), memory, theirs, line)
        except OSError as error:
            watches = session.watches
            if watches.process_of(peer) and not watches.is_dying(peer):  # else it cannot be helped
                self._note("cannot take a lane", peer, str(error))
            result = -(error.errno or errno.EIO)
        else:
            self._connect(peer)
        bell = self.lanes.bell_fd
        session.perform(session.member.lanes.take(peer, result, bell, ours, time.monotonic()))
        if not result:
            self.exchange.write(peer)

    def _reach(self, effect: ReachLane, tries: int = 0) -> None:
        session = self._session
        peer, bell, line = effect
        try:
            self.lanes.reach(peer, self._process(peer), bell, line)
        except OSError as error:
            # Out of descriptors, for one: as long as it is so, the peer hears of room by its clock.
            if tries == 0:
                self._note("cannot reach a bell", peer, str(error))
            if tries < REACH_TRIES:
                session.clock.later(
                    REACH_S * 2**tries, lambda: self._reach_again(effect, tries + 1)
                )
        else:
            session.perform(session.member.lanes.open(peer, time.monotonic()))
            self.exchange.write(peer)
        self._read(peer)

    def _reach_again(self, effect: ReachLane, tries: int) -> None:
        session = self._session
        with session.lock:
            if effect.peer in session.member.links and not session.closed:
                self._reach(effect, tries)

    def _read(self, peer: int) -> None:
        self.exchange.read_from(peer)
        self.lanes.read(peer)

    def _connect(self, peer: int) -> None:
        line, lane = self.lanes.at(peer)
        self.exchange.connect(peer, line, lane, self._session.member.links[peer])

    def _write(self, effect: Write) -> None:
        peer, number, acked, message = effect
        # First: what is interrupted in the middle is asked for and written again, by and by.
        self._session.clock.on_sent()
        self.lanes.write(peer, number, acked, message.code, message.seq, payload_of(message))

    def _process(self, peer: int) -> int:
        os_pid = self._session.watches.process_of(peer)
        if not os_pid:
            raise OSError(errno.ESRCH, f"VMID {peer} is no process that we know")
        return os_pid

    # ---- what comes; in a round

    def _on_message(self, peer: int, arrival: Arrival) -> None:
        number, acked, code, seq, payload = arrival
        if isinstance(payload, int):
            on_untaken(self._session, peer, number, acked, code, seq, payload)
        else:
            self._session.receiver.on_message(peer, number, acked, code, seq, payload)

    def _on_malformed(self, line: int, reason: str) -> None:
        with self._session.lock:
            self._note("lane refused", self.lanes.peer_at(line), reason)

    def _on_short(self, line: int) -> None:
        bell, now = self.lanes.bell, time.monotonic()

        def again() -> None:
            if line >= 0:
                bell.again(line)
            bell.nudge(PORTER)

        self._session.clock.later(AGAIN_S, again)
        if now - self._noted_short > NOTE_AGAIN_S:
            self._noted_short = now
            with self._session.lock:
                self._note("no memory", self.lanes.peer_at(line), "what it sends waits")

    def on_news(self, peers: list[int]) -> None:
        """Everything has arrived there, or they are to be told what has arrived here."""
        session = self._session
        with session.lock:
            for peer in peers:
                session.perform(session.member.on_news(peer, ACK_EVERY))

    def _note(self, event: str, peer: int, reason: str) -> None:
        fields: dict[str, Any] = {"peer": peer, "reason": reason}
        self._session.perform([Note(event, fields)])
