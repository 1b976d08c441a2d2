"""The worker's half: what comes in over the transport, and how a peer's end is told.

A connection is bound to a VMID once, by its hello, after the kernel has said which process is
at its other end and that the same process listens on that VMID's liveness socket. Before that
nothing but a hello or a request to join is read from it; what breaks the framing is not read
on at all.

An end is told only after everything the dead process had sent has been delivered: its
connection to us must have ended (ZeroMQ says so behind the last message), and the queue must
have been emptied after that.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from libos_ipc import wire
from libos_ipc._native import Malformed, unpack_frames
from libos_ipc.core.codes import FIRST_USER_CODE, Code
from libos_ipc.core.roster import Applicant
from libos_ipc.core.vocabulary import Body, Effects, Message, Note, Outgoing, State
from libos_ipc.errors import IpcError, ProtocolError
from libos_ipc.runtime import shortage
from libos_ipc.runtime.codec import Greeting, decode_body, pack
from libos_ipc.runtime.connections import Connection
from libos_ipc.runtime.process_state import start_time
from libos_ipc.runtime.refusals import Refusals
from libos_ipc.runtime.zmq_transport import Said, Transport

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["Receiver"]

log = logging.getLogger("libos_ipc")

#: Messages handled before the loop looks at anything else.
ROUND = 512
#: Seconds to wait for the end of a dead peer's connection, if there is one, and if there is none.
END_S = 1.0
NO_CONNECTION_S = 0.02


class Receiver:
    """Reads one session's transport. All methods run in the worker."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._transport: Transport | None = None
        self._max_message = session.config.max_message
        self._bound: dict[int, set[Connection]] = {}
        #: connections that have ended, and may still have messages in the queue
        self._ended: list[Connection] = []
        #: ends to be told: VMID -> (not later than, whether the process is dead for sure)
        self._ends: dict[int, tuple[float, bool]] = {}
        self._taken: list[Message] = []  # and not delivered yet
        self._more = False
        self._fresh = False
        self._put_off = shortage.PutOff(session, self._on_arrival_whatever_it_is)
        self._refusals = Refusals(session)
        session.loop.register(session.sockets.live.fileno(), self._on_watcher, edge=True)
        self._actions: dict[str, Callable[[], None]] = {
            "inbound": self._on_inbound,
            "zap": self._on_zap,
            "outbound": self._on_outbound,
            "inbound monitor": self._on_inbound_monitor,
            "outbound monitor": self._on_outbound_monitor,
        }

    def attach(self, transport: Transport) -> None:
        """Read from a new transport."""
        self._transport = transport
        self._refusals.clear()
        self._bound.clear()
        self._ended.clear()
        for name, fd in transport.descriptors().items():
            self._session.loop.register(fd, self._actions[name], edge=True)
        self._fresh = True

    def detach(self, transport: Transport) -> None:
        """The transport is about to be closed."""
        for fd in transport.descriptors().values():
            self._session.loop.unregister(fd)
        self._put_off.clear()
        self._transport = None

    def rest(self) -> None:
        """There is no transport for a while: nobody is connected."""
        self._bound.clear()
        self._ended.clear()
        self._more = False

    def _on_watcher(self) -> None:
        """Somebody begins to watch us: as each new leader does with all of its group."""
        session = self._session
        session.watchers.came()
        with session.lock:
            session.host.watched()

    # ---- ends

    def hears(self, vmid: int) -> bool:
        """Whether there is a connection from this peer. Under the session's lock."""
        return vmid in self._bound

    def expect_end(self, vmid: int, dead: bool = False) -> None:
        """A peer has ended: tell it as soon as all that it sent is delivered."""
        wait = END_S
        if vmid not in self._bound:
            reads = self._session.traffic.lanes.reads(vmid)
            wait = 0 if reads else NO_CONNECTION_S
        before = self._ends.get(vmid)
        deadline = before[0] if before else time.monotonic() + wait
        self._ends[vmid] = (deadline, dead or bool(before and before[1]))

    def settle_ends(self) -> bool:
        """Tell the ends that are ready. True if something is still to be done soon."""
        closing = self._closing
        if not (self._fresh or self._more or self._ends or closing):
            return False
        if closing:
            self._on_inbound_monitor()
        if self._fresh:
            # A ZeroMQ descriptor tells of what comes after its socket was last found empty.
            self._fresh = False
            for action in self._actions.values():
                action()
        elif self._more:
            self._on_inbound()
        if self._ends:
            self._on_inbound_monitor()
            closed = {
                vmid: set(connections)
                for vmid in self._ends
                if (connections := self._bound.get(vmid)) is not None
                and not any(c.open for c in connections)
            }
            self._drain()
            now = time.monotonic()
            for vmid, (deadline, dead) in list(self._ends.items()):
                # Closed before the queue was emptied, and no other has appeared in it.
                heard = vmid in closed and self._bound.get(vmid, set()) <= closed[vmid]
                if heard or now >= deadline:
                    del self._ends[vmid]
                    self._tell_end(vmid, dead, now)
        return self._more or bool(self._ends) or self._closing

    @property
    def _closing(self) -> bool:
        return self._transport is not None and self._transport.closing

    def _tell_end(self, vmid: int, dead: bool, now: float) -> None:
        session = self._session
        session.traffic.porter.drain(vmid)
        session.watches.drop_live(vmid)  # no later connection of it is believed
        for connection in self._bound.pop(vmid, set()):
            self._forget(connection)
        with session.lock:
            session.perform(session.member.on_gone(vmid, now))
            leader = session.member.leader
            if leader is not None:
                known = vmid in leader.processes and session.watches.watches_process(vmid)
                # Not one that has begun to exit, or has left while we could not be told: all that
                # it held goes at once.
                over = dead or session.watches.is_dying(vmid) or session.directory.has_left(vmid)
                alive = known and not over
                effects = leader.on_detached(vmid, now) if alive else leader.on_gone(vmid, now)
                session.perform(session.member.lead(effects, now))
                if not alive:
                    session.watches.drop_process(vmid)
                    session.directory.forget(vmid)
            else:
                session.watches.drop_process(vmid)
            session.host.gone(vmid)
        session.clock.stay_awake()

    def _forget_ended(self) -> None:
        """Connections whose end was told before the queue was found empty have no more in it."""
        ended, self._ended = self._ended, []
        for connection in ended:
            self._bound.get(connection.peer, set()).discard(connection)
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if self._transport is not None:
            self._transport.forget(connection)

    # ---- messages

    def _on_inbound(self) -> None:
        session, transport = self._session, self._transport
        if transport is None:
            return
        self._more = True  # whatever goes wrong
        deliver = session.host.deliver
        shortage.hand_out(self._taken, deliver)
        for _ in range(ROUND):
            self._taken, news, arrival = transport.take_in(session.exchange)
            self._taken.reverse()
            shortage.hand_out(self._taken, deliver)
            if news:
                session.traffic.on_news(news)
            if arrival is False:
                self._more = False
                if self._ended:
                    self._forget_ended()
                return
            if arrival is not True:
                self._on_arrival_whatever_it_is(*arrival)

    def _drain(self) -> None:
        self._more = self._transport is not None
        while self._more:
            self._on_inbound()

    def _on_arrival_whatever_it_is(self, connection: Connection, frames: Said) -> None:
        """What goes wrong here is our own mistake; it must not cost others the worker."""
        try:
            if isinstance(frames, tuple):
                shortage.on_untaken(self._session, connection.heard, *frames)
            else:
                self._on_arrival(connection, frames)
        except Exception:
            log.exception("what came by a connection")
            self._refusals.end_later(connection)

    def _on_arrival(self, connection: Connection, frames: list[bytes]) -> None:
        if connection.muted or self._put_off.takes(connection, frames):
            return
        body: Body
        try:
            number, acked, code, seq, body = unpack_frames(frames, self._max_message)
        except Malformed as error:
            self._refusals.refuse(connection, str(error))
            return
        peer = connection.peer
        if not peer:
            try:
                self._on_stranger(connection, code, seq, body)
            except OSError as error:  # the system's: no descriptor is left, or no memory
                self._put_off.put(connection, frames, error)
            return
        self.on_message(peer, number, acked, code, seq, body)

    def on_message(
        self, peer: int, number: int, acked: int, code: int, seq: int, body: Body
    ) -> None:
        """A message of an identified peer, whichever way it came. In a round of either thread."""
        session, now = self._session, time.monotonic()
        if code < FIRST_USER_CODE and code != Code.RESP:
            try:
                body = decode_body(code, body)  # type: ignore[arg-type]
            except ProtocolError as error:
                reason = str(error)
                with session.lock:
                    member = session.member
                    session.perform(
                        member.on_malformed(peer, number, acked, code, seq, reason, now)
                    )
                return
        with session.lock:
            session.perform(session.member.on_message(peer, number, acked, code, seq, body, now))

    # ---- strangers

    def _on_stranger(self, connection: Connection, code: int, seq: int, payload: bytes) -> None:
        try:
            if code == Code.HELLO:
                self._on_hello(connection, payload)
            elif code == Code.JOIN and self._session.member.leader is not None:
                self._on_join(connection, seq, payload)
            else:
                self._refusals.refuse(connection, f"code {code} before a hello")
        except ProtocolError as error:
            self._refusals.refuse(connection, str(error), later=code == Code.HELLO)

    def _on_hello(self, connection: Connection, payload: bytes) -> None:
        session = self._session
        magic, version, vmid, _incarnation, epoch, group_id = wire.decode(Code.HELLO, payload)
        if (magic, version) != (wire.MAGIC, wire.PROTOCOL_VERSION):
            raise ProtocolError(f"speaks version {version}, we speak {wire.PROTOCOL_VERSION}")
        if group_id.decode(errors="replace") != session.file.id:
            raise ProtocolError("belongs to another group")
        if epoch > session.member.epoch:
            with session.lock:
                session.host.look_for_epoch()
        if epoch != session.member.epoch:
            raise ProtocolError(f"is in epoch {epoch}, we are in {session.member.epoch}")
        with session.lock:
            if not self._admit(vmid, connection):
                if not os.path.lexists(session.directory.live_socket(vmid)):
                    self._refusals.end_later(connection)  # it left before its hello was read
                    return
                raise ProtocolError(f"is not VMID {vmid}, as the kernel sees it")
            connection.bind(vmid)
            self._bound.setdefault(vmid, set()).add(connection)
            session.perform(session.member.on_hello(vmid, time.monotonic()))
            session.host.identified(vmid, connection.os_pid)

    def _admit(self, vmid: int, connection: Connection) -> bool:
        """Bind a VMID to the process that the kernel names, at the leader too."""
        session = self._session
        path = session.directory.live_socket(vmid)
        os_pid = connection.os_pid
        if not os_pid or not session.watches.confirm(vmid, path, os_pid):
            return False
        leader = session.member.leader
        if leader is not None and vmid != session.member.vmid and not leader.knows(vmid, os_pid):
            now, wall = time.monotonic(), time.time()
            started = start_time(os_pid)
            effects = leader.on_hello(vmid, os_pid, started, connection.uid, now, wall)
            if effects is None:
                return False
            session.perform(session.member.lead(effects, now))
        if not session.watches.process(vmid, os_pid):
            self.expect_end(vmid, dead=True)
        return True

    def _on_join(self, connection: Connection, seq: int, payload: bytes) -> None:
        session = self._session
        (data,) = wire.decode(Code.JOIN, payload)
        try:
            greeting = msgspec.msgpack.decode(data, type=Greeting)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProtocolError(f"asks to join in a way not understood: {error}") from None
        leader = session.member.leader
        assert leader is not None
        effects: Effects = []
        try:
            if greeting.group_id != session.file.id:
                raise IpcError("this is another group of the same name")
            known = leader.processes.values()
            shortage.require_descriptors(1 + sum(each.state is State.STARTING for each in known))
            applicant = Applicant(
                connection.os_pid,
                start_time(connection.os_pid),
                connection.uid,
                greeting.parent,
                greeting.may_lead,
                greeting.attempt,
            )
            now = time.monotonic()
            admission, effects = leader.on_join(applicant, now, time.time())
            answer = Outgoing(Code.RESP, seq, tuple(admission), Code.JOIN)
        except IpcError as error:
            answer = Outgoing(Code.ERROR, seq, (error.errno, str(error.args[1])))
        with session.lock:
            session.perform(session.member.lead(effects, time.monotonic()))
        # Who is deposed by then has admitted nobody, and will be asked no more.
        if self._transport is not None and session.member.leader is leader:
            self._transport.reply(connection, pack(0, 0, answer, b""))

    # ---- the rest

    def _on_zap(self) -> None:
        if self._transport is None:
            return
        self._transport.answer_zap()
        while self._transport.refused:
            address = self._transport.refused.pop()
            self._session.perform([Note("stranger refused", {"address": address})])

    def _on_outbound(self) -> None:
        with self._session.lock:
            if self._transport is not None:
                self._transport.attend()

    def _on_inbound_monitor(self) -> None:
        if self._transport is None:
            return
        ended = self._transport.ended()
        if ended:
            self._ended += ended
            self._more = True  # until the queue is found empty behind them
        self._refusals.look_at(self._transport)

    def _on_outbound_monitor(self) -> None:
        session = self._session
        if self._transport is None:
            return
        for peer in self._transport.lost():
            with session.lock:
                session.exchange.unreach(peer)
                if session.watches.has_ended(peer):
                    self.expect_end(peer)  # no other connection can be made
                else:
                    session.perform(session.member.on_disconnected(peer, time.monotonic()))
        for peer in self._transport.failed():
            with session.lock:
                shortage.unconnected(
                    session, peer, OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                )
