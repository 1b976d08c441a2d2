"""The only place that knows ZeroMQ, with the ports that it sends and receives by.

Two ROUTER sockets. The *inbound* one accepts every connection of other processes to us, and
only the worker touches it. The *outbound* one holds a connection to each process that we send
to, and is used under the session's lock by whichever thread sends: what goes from A to B goes
over A's connection to B, answers too, so that sending never has to wait for receiving.

Both have a monitor. On the inbound side it reports the end of a connection after everything
that came over it has been queued, which is how an answer beats the news of its sender's death.
On the outbound side it reports lost connections; ZeroMQ's own reconnecting is off, because
only the links know what must be sent again.

The inbound socket takes a listening descriptor that outlives it: the transport is ended and
made again around a fork, and meanwhile connections wait in the kernel. Who connects is asked
of the kernel (ZAP, over ipc: uid, gid, pid); strangers are refused before they can say
anything.

Byte bounds are kept by the links; of ZeroMQ's own, which count messages, there is one, high above
these: for what comes in by one connection and is not taken up, from whoever keeps to no bounds.
Connections are bounded too, as far as nobody has said by them who he is.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from resource import RLIMIT_NOFILE, getrlimit

import zmq

from libos_ipc._native import Exchange
from libos_ipc._native import Port as NativePort
from libos_ipc.core.vocabulary import Message
from libos_ipc.runtime.connections import Connection, credentials_of, hang_up, inode_of
from libos_ipc.runtime.ports import Port, open_port

__all__ = ["Transport", "ask_once"]

_HANDSHAKE_MS = 5000
#: Messages of a connection that may wait for the worker; beyond that they wait at their sender's.
_MOST_WAITING = 4096
#: Connections by which nothing was said yet: beyond that those are ended by which that is so for
#: seconds; and all beyond a part of the descriptors that we may have.
_MOST_UNHEARD = 128
_SILENCE_S = 2.0
_PART = 4
#: What a monitor says first: the event, and a value (for most the connection's descriptor).
_EVENT = struct.Struct("=Hi")
#: Seconds in which ZeroMQ closes what it has said to be ended.
_CLOSING_S = 0.2
#: As good as never. ZeroMQ's own "never" (-1) closes a lost connection by its endpoint's name and a
#: little later, and so would end the new connection that we have made to the same peer meanwhile.
_NEVER_MS = 3_600_000


#: Its frames; or number, acked, code, seq, and the size of a payload that is not there.
Said = list[bytes] | tuple[int, int, int, int, int]
#: A message, and where it came from.
Arrival = tuple[Connection, Said]


class Transport:
    """The sockets of one process in one group. Made and closed around every fork."""

    def __init__(
        self, listen_fd: int, path: str, admits: Callable[[int], bool], max_frame: int
    ) -> None:
        self._admits = admits
        self._connections: dict[bytes, Connection] = {}
        #: descriptors of connections that have ended, or are just about to be closed
        self._closing: set[int] = set()
        self._closing_until = 0.0
        #: accepted connections by which nothing came yet: descriptor -> inode, since when
        self._unheard: dict[int, tuple[int, float]] = {}
        self._met: dict[int, int] = {}  # others: descriptor -> inode
        most, _ = getrlimit(RLIMIT_NOFILE)
        self._most_unheard = max(_MOST_UNHEARD, (most if most > 0 else 1 << 20) // _PART)
        self._routes: dict[int, tuple[bytes, str]] = {}
        self._peers: dict[str, int] = {}
        #: endpoints of connections that were lost, until ZeroMQ says when it would try again
        self._lost: set[str] = set()
        self._failed: list[int] = []
        self._route_number = 0
        self.refused: list[str] = []
        self._context = zmq.Context()
        try:
            self._build(listen_fd, path, max_frame)
        except zmq.ZMQError as error:
            self._context.destroy(0)
            raise OSError(error.errno, f"making the ZeroMQ sockets: {error}") from None
        except OSError:
            self._context.destroy(0)
            raise
        self._into = open_port(self._inbound)
        self._out = open_port(self._outbound)

    def _build(self, listen_fd: int, path: str, max_frame: int) -> None:
        self._context.set(zmq.MAX_SOCKETS, 64)
        self._zap = self._socket()
        self._zap.bind("inproc://zeromq.zap.01")
        self._inbound = self._socket()
        self._inbound.set(zmq.USE_FD, os.dup(listen_fd))
        self._inbound.set(zmq.RCVHWM, _MOST_WAITING)
        self._inbound.set(zmq.MAXMSGSIZE, max_frame)
        self._inbound.set(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        self._inbound.set_string(zmq.ZAP_DOMAIN, "libos_ipc")
        self._inbound_monitor = self._inbound.get_monitor_socket(
            zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
        )
        self._inbound.bind(f"ipc://{path}")
        self._outbound = self._socket()
        self._outbound.set(zmq.ROUTER_MANDATORY, 1)
        self._outbound.set(zmq.RECONNECT_IVL, _NEVER_MS)
        self._outbound.set(zmq.RCVHWM, 1)
        self._outbound_monitor = self._outbound.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
        )

    def _socket(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.set(zmq.SNDHWM, 0)
        socket.set(zmq.RCVHWM, 0)
        return socket

    def close(self) -> None:
        """End everything at once; what is on its way is lost. No thread of ZeroMQ is left."""
        self._into.close()
        self._out.close()
        self._inbound.disable_monitor()
        self._outbound.disable_monitor()
        for socket in (self._inbound_monitor, self._outbound_monitor):
            socket.close(0)
        for socket in (self._zap, self._inbound, self._outbound):
            socket.close(0)
        self._context.term()

    def descriptors(self) -> dict[str, int]:
        """What to poll for reading, and under which name. Each must then be drained."""
        return {
            "inbound": self._inbound.fileno(),
            "zap": self._zap.fileno(),
            "outbound": self._outbound.fileno(),
            "inbound monitor": self._inbound_monitor.fileno(),
            "outbound monitor": self._outbound_monitor.fileno(),
        }

    # ---- outbound: under the session's lock

    def connect(self, peer: int, path: str) -> tuple[Port, bytes]:
        """Make a connection to `peer`; messages wait in it until it stands. The port that they go
        by, and what that knows the connection by. OSError if no descriptor is left for it."""
        # ZeroMQ itself would tell nobody, and try again when _NEVER_MS have passed.
        os.close(os.eventfd(0, os.EFD_CLOEXEC))
        self._route_number += 1
        # ZeroMQ aborts the process when a routing ID is used twice: each connection has its own.
        route = self._route_number.to_bytes(8, "big") + peer.to_bytes(4, "big")
        self._outbound.set(zmq.CONNECT_ROUTING_ID, route)
        endpoint = f"ipc://{path}"
        try:
            self._outbound.connect(endpoint)
        except zmq.ZMQError as error:
            raise OSError(error.errno, f"connecting to {path}: {error}") from None
        self._routes[peer] = (route, endpoint)
        self._peers[endpoint] = peer
        return self._out, route

    def disconnect(self, peer: int) -> None:
        """Drop the connection to `peer`, if there is one, with all that is in it."""
        route = self._routes.pop(peer, None)
        if route is None:
            return
        self._peers.pop(route[1], None)
        try:
            self._outbound.disconnect(route[1])
        except zmq.ZMQError:
            pass  # it had ended by itself

    def transmit(self, peer: int, frames: tuple[bytes | memoryview, ...]) -> None:
        """Queue a message to `peer`. One that cannot go is left to the link to send again: the
        connection has just ended, and the monitor will say so."""
        route = self._routes.get(peer)
        if route is not None:
            self._out.send(route[0], frames)

    def attend(self) -> None:
        """Let ZeroMQ finish what it has begun, as it does in calls only: a connection that was
        dropped is closed, and its memory free, when its socket has been used once more."""
        self._outbound.get(zmq.EVENTS)

    def lost(self) -> list[int]:
        """Peers whose connection from us has ended since the last call."""
        peers = []
        while _readable(self._outbound_monitor):
            event, endpoint = self._outbound_monitor.recv_multipart()
            name = endpoint.decode()
            peer = self._peers.get(name)
            if _EVENT.unpack(event)[0] != zmq.EVENT_CONNECT_RETRIED:
                self._lost.add(name)
                if peer is not None:
                    peers.append(peer)
            elif name in self._lost:
                self._lost.discard(name)
            elif peer is not None:
                self._failed.append(peer)
        return peers

    def failed(self) -> list[int]:
        """Peers to which no connection could be begun, since no descriptor was left, as `lost` has
        found. ZeroMQ would try again when _NEVER_MS have passed."""
        failed, self._failed = self._failed, []
        return failed

    # ---- inbound: the worker only

    def take_in(self, exchange: Exchange) -> tuple[list[Message], list[int], Arrival | bool]:
        """What has come, as far as `exchange` deals with it (see there), and the next message, with
        where it came from; False when there is nothing more, True if there may be."""
        messages: list[Message] = []
        news: list[int] = []
        if isinstance(self._into, NativePort):
            messages, news, arrived = exchange.take_in(self._into, self._connections)
            if arrived is True:
                return messages, news, True
        else:
            arrived = self._into.receive(self._connections)
        if arrived is None:
            return messages, news, False
        if len(arrived) == 2:
            return messages, news, arrived
        route, user, fd, frames = arrived
        return messages, news, (self._meet(route, user, fd), frames)

    def _meet(self, routing_id: bytes, user: bytes, fd: int) -> Connection:
        """The first message of a connection carries the kernel's word on its process."""
        uid, os_pid = credentials_of(user.decode(errors="replace"))
        connection = Connection(routing_id, uid, os_pid, fd)
        self._unheard.pop(fd, None)
        self._met[fd] = inode_of(fd)
        if not connection.open:
            self._closing.add(fd)
        self._connections[routing_id] = connection
        return connection

    def reply(self, connection: Connection, frames: Sequence[bytes | memoryview]) -> None:
        """Answer over the connection that a process without a VMID has made."""
        try:
            self._inbound.send_multipart((connection.routing_id, *frames), zmq.NOBLOCK)
        except zmq.ZMQError:
            pass  # it went away

    @property
    def closing(self) -> bool:
        """Whether `ended` is to be asked again soon: ZeroMQ has just said that a connection to us
        has ended, and the kernel does not say so yet."""
        return bool(self._closing) and time.monotonic() < self._closing_until

    def ended(self) -> list[Connection]:
        """Connections to us that have ended; what came over them is queued already."""
        closing = self._closing
        while _readable(self._inbound_monitor):
            event, fd = _EVENT.unpack(self._inbound_monitor.recv_multipart()[0])
            if event == zmq.EVENT_ACCEPTED:
                self._on_accepted(fd)
            else:
                closing.add(fd)
                self._unheard.pop(fd, None)
                self._closing_until = time.monotonic() + _CLOSING_S
        if not closing:
            return []
        concerned = [c for c in self._connections.values() if c.fd in closing]
        gone = [c for c in concerned if not c.open]
        # ZeroMQ closes a little after it has said so; or the number is another's already.
        self._closing = {c.fd for c in concerned if c not in gone}
        return gone

    def _on_accepted(self, fd: int) -> None:
        inode = inode_of(fd)
        if self._met.get(fd) != inode:  # or its first message was seen before the news of it
            self._unheard[fd] = inode, time.monotonic()

    def end_silent(self) -> bool:
        """End connections by which nothing is said, if they are many. True if some are left of
        which that cannot be told yet."""
        unheard, now = self._unheard, time.monotonic()
        while len(unheard) > _MOST_UNHEARD:
            oldest, (inode, since) = next(iter(unheard.items()))
            if now - since < _SILENCE_S and len(unheard) <= self._most_unheard:
                return True
            del unheard[oldest]
            hang_up(oldest, inode)
        return False

    def forget(self, connection: Connection) -> None:
        """Nothing more is expected from this connection."""
        self._connections.pop(connection.routing_id, None)

    # ---- admission

    def answer_zap(self) -> None:
        """Let processes of admitted users in, refuse all others."""
        while _readable(self._zap):
            frames = self._zap.recv_multipart()
            if len(frames) < 6:
                continue
            sender, empty, version, request = frames[:4]
            address = frames[5].decode(errors="replace")
            uid = credentials_of(address)[0]
            admitted = uid >= 0 and self._admits(uid)
            if not admitted:
                self.refused.append(address)
            status = (b"200", b"OK") if admitted else (b"400", b"this user may not join")
            identity = address.encode() if admitted else b""
            self._zap.send_multipart([sender, empty, version, request, *status, identity, b""])


def _readable(socket: zmq.Socket[bytes]) -> bool:
    """Whether something can be received now."""
    return bool(socket.poll(0))


def ask_once(
    path: str, frames: Sequence[bytes | memoryview], liveness_fd: int, timeout: float | None
) -> list[bytes] | None:
    """Ask the process at `path` one question over a connection that lives no longer.

    None if no answer comes within `timeout` seconds; ConnectionResetError when `liveness_fd`
    ends first.
    """
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        socket.connect(f"ipc://{path}")
        socket.send_multipart(frames)
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(liveness_fd, zmq.POLLIN)
        ready = dict(poller.poll(None if timeout is None else int(max(timeout, 0) * 1000)))
        if socket in ready:
            return socket.recv_multipart(zmq.NOBLOCK)
        if ready:
            raise ConnectionResetError
        return None
    finally:
        socket.close(0)
        context.term()
