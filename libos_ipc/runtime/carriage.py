"""The transport of a session: made when it is missed, and ended before a fork.

To make it takes more than a millisecond, to end it half of one, and a process that forks has to
do both. So as long as nothing is to go by connections the session *rests*, in a group that has
lanes: until a link wants one, or somebody has connected. The latter waits in the kernel, on the
listening socket, which the worker polls meanwhile.

The links notice nothing: what they send while there is no transport they keep, and send again
when one has been made.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from libos_ipc.core.vocabulary import Note
from libos_ipc.runtime.shortage import AGAIN_S
from libos_ipc.runtime.zmq_transport import Transport

if TYPE_CHECKING:
    from libos_ipc.runtime.session import Session

__all__ = ["Carriage"]


class Carriage:
    """One session's transport, or none. It changes under the session's lock."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._listener = session.sockets.messages.fileno()
        #: nobody makes it now: that begins in a round
        self.resting = False
        self._missed = False
        self.transport: Transport | None = None

    def make(self) -> None:
        """Make it, if there is none. OSError if it cannot be. In the worker, or before it runs."""
        if self.transport is not None:
            return
        session, config = self._session, self._session.config
        session.host.reserve.release()
        path = session.directory.message_socket(session.member.vmid)
        transport = Transport(self._listener, path, config.admits, config.max_message)
        with session.lock:
            self._rouse()
            self.transport = transport
            session.receiver.attach(transport)
            session.perform(session.member.on_rebuilt(time.monotonic()))
            session.clock.stay_awake()

    def rest(self) -> bool:
        """Do without, until it is missed. False if it is there or needed. In the worker."""
        session, member = self._session, self._session.member
        with session.lock:
            if self.transport is not None or not member.lane_after or member.needing_connections():
                return False
            self.resting = True
            session.receiver.rest()
            session.loop.register(self._listener, self.miss)
            session.clock.stay_awake()
            return True

    def miss(self) -> None:
        """It is to be made, by the next round: unless that is for the worker's start to do, beside
        which others may run rounds already."""
        if self.resting:
            self._session.loop.unregister(self._listener)
            self._missed = True
            self._session.loop.wake()

    def on_round(self) -> None:
        """Make it if it is missed. In a round."""
        if not self._missed:
            return
        session = self._session
        try:
            self.make()
        except OSError as error:
            self._missed = False
            with session.lock:
                session.perform([Note("no transport, trying again", {"error": str(error)})])
            session.clock.later(AGAIN_S, self.miss)

    def end(self) -> None:
        """End it: no thread of ZeroMQ is left. No round runs; under the session's lock."""
        session = self._session
        self._rouse()
        transport, self.transport = self.transport, None
        if transport is not None:
            for peer in session.member.links:
                session.exchange.unreach(peer)
            session.receiver.detach(transport)
            transport.close()

    def _rouse(self) -> None:
        """No rest any more."""
        self._session.loop.unregister(self._listener)
        self.resting = self._missed = False
