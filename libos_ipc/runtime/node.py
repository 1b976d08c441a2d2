"""A process's membership in one group, across everything that happens to the process.

The node ties a session to what surrounds it: dispatcher, children, journal, directory. What a
fork makes of it stands in `forking.py`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Admission, Leader
from libos_ipc.core.member import Member
from libos_ipc.core.roster import Record
from libos_ipc.core.vocabulary import HEADER_WEIGHT, Effects
from libos_ipc.errors import IpcError, LeaderLost, Timeout
from libos_ipc.runtime.belongings import Identity
from libos_ipc.runtime.codec import decode_answer, decode_body
from libos_ipc.runtime.dispatch import Dispatcher
from libos_ipc.runtime.forking import Forking
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.heir import Heir
from libos_ipc.runtime.lane_traffic import LANE_AFTER
from libos_ipc.runtime.machinery import make_leader
from libos_ipc.runtime.replies import decline
from libos_ipc.runtime.reserve import Reserve
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.session import Session
from libos_ipc.runtime.sockets import Sockets
from libos_ipc.runtime.threads import QuickThread

__all__ = ["Identity", "Node"]

log = logging.getLogger("libos_ipc")

#: Seconds that leaving waits for the leader's word.
LEAVE_S = 2.0


def _nothing(answer: object, now: float) -> Effects:
    return []


class Node(Forking):
    """One process in one group."""

    def __init__(
        self,
        directory: GroupDir,
        file: GroupFile,
        identity: Identity,
        sockets: Sockets,
        *,
        leader: Leader | None = None,
        founding: Iterable[Record] = (),
    ) -> None:
        self.directory = directory
        self.file = file
        self.identity = identity
        self.dispatcher = Dispatcher(HEADER_WEIGHT)
        handles = self.dispatcher.deliver  # unless it leads and does nothing else
        self.deliver = handles if identity.pid else lambda message: decline(self.session, message)
        self.reserve = Reserve()  # a forked child goes on with its copy
        super().__init__(founding if leader is not None else None)
        self.session = self.make(sockets, leader)

    @classmethod
    def admitted(
        cls,
        directory: GroupDir,
        file: GroupFile,
        admission: Admission,
        leader: Leader | None = None,
        founding: Iterable[Record] = (),
        *,
        may_lead: bool = True,
    ) -> Node:
        """The node of a process that has just been let in: by the leader, or by itself."""
        vmid, pid, ppid, pgid, parent, start, end = admission
        identity = Identity(vmid, pid, ppid, pgid, parent, may_lead)
        with Sockets.made(directory, vmid) as sockets:
            node = cls(directory, file, identity, sockets, leader=leader, founding=founding)
        member = node.session.member
        member.ids.grant(start, end)
        first = member.ids.new(time.monotonic())
        assert first == pid, (first, pid)
        node.begin()
        return node

    def make(self, sockets: Sockets, leader: Leader | None) -> Session:
        config = self.file.config
        member = Member(
            self.identity.vmid,
            leader_vmid=self.file.leader_vmid,
            epoch=self.file.epoch,
            send_buffer=config.send_buffer,
            quarantine_s=config.quarantine,
            decode_answer=decode_answer,
            leader=leader,
            max_value=config.max_message,
            lane_after=LANE_AFTER[config.transport],
            decode_body=decode_body,
        )
        self.map_values(member)
        member.inbox.pid, member.inbox.uid = self.identity.pid, os.getuid()
        self.heir = Heir(self, lambda: make_leader(self.directory, self.file.config))
        return Session(self.directory, self.file, member, sockets, self)

    # ---- life

    def begin(self) -> None:
        """Start the worker, and make ourselves known to the leader."""
        session = self.session
        with session.lock:
            self.introduce(session)
        self.go({session.member.leader_vmid} - {self.identity.vmid})

    def introduce(self, session: Session) -> None:
        now = time.monotonic()
        session.perform(session.member.provision.top_up(now))
        caught = self.signalling.caught()
        if caught:
            leader = session.member.leader_vmid
            told = session.member.request(leader, Code.SET_CAUGHT, (caught,), _nothing, now)
            session.perform(told[1])

    def go(
        self, greet: Iterable[int] = (), thread: QuickThread | None = None
    ) -> Callable[[], None]:
        session, dispatcher, me = self.session, self.dispatcher, self.identity.vmid
        return session.start(greet, lambda: dispatcher.start(me, session, *session.seats), thread)

    def leave(self) -> None:
        """Leave the group: what was sent arrives first, as far as that can be waited for."""
        session = self.session
        if session.closed:
            return  # a forked child that could not join
        # Each for itself: a peer that is stopped, or the leader's death, is no reason to go without
        # a word to all others.
        self._try_to(self._close_handles)
        self._try_to(lambda: self.flush(self.file.config.linger))
        if not self.leading or self.may_hand_over():
            self._try_to(lambda: session.say_goodbye(LEAVE_S))
        self.dispatcher.stop()
        session.close()
        with session.lock:
            self.children.close()
        self.close_belongings()
        if self.leading and session.leaving:
            self.hand_over()
        if self.leading:
            self.end_leading()
        self.directory.lock.close()
        self.directory.remove_if_dead()

    def _try_to(self, step: Callable[[], None]) -> None:
        try:
            step()
        except IpcError as error:
            if not isinstance(error, LeaderLost):
                log.warning("leaving %s: %s", self.file.name, error)

    def _close_handles(self) -> None:
        """All sync handles, with what was committed last."""
        session, member = self.session, self.session.member
        with session.lock:
            session.check_open()
            session.perform(member.sync.do(member.sync.client.close_all(), time.monotonic()))

    def flush(self, timeout: float | None) -> None:
        """Wait until all that was sent has arrived. Timeout names who has not got everything."""
        session = self.session
        member = session.member
        with session.lock:
            session.check_open()
            waiting = member.unarrived()
            for peer in waiting:
                session.perform(member.ask_progress(peer))
            if not session.wait_for(
                lambda: not any(p in member.links and member.links[p].keeps for p in waiting),
                timeout,
                link=True,
            ):
                raise Timeout(
                    f"not everything has arrived within {timeout} s at VMIDs {member.unarrived()}"
                )

    # ---- what the session tells; under its lock

    def withdraw(self, src: int, seq: int) -> None:
        self.dispatcher.withdraw(src, seq)
