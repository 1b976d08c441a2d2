"""A process's membership in one group, across everything that happens to the process.

The node ties a session to what surrounds it: dispatcher, children, journal, directory. It is
what a fork works on. In the parent a fork only pauses it; in the child it becomes another
member: same group and handlers, new identity, new session, nothing of the parent's open.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Admission, Leader
from libos_ipc.core.member import Member
from libos_ipc.core.provision import SPARE_PAIRS
from libos_ipc.core.roster import Record
from libos_ipc.core.vocabulary import HEADER_WEIGHT, ChildExit, Effects
from libos_ipc.errors import IpcError, LeaderLost, NotJoined, Timeout
from libos_ipc.runtime.belongings import Identity
from libos_ipc.runtime.children import Children, ChildRow, announce
from libos_ipc.runtime.codec import decode_answer, decode_body
from libos_ipc.runtime.dispatch import Dispatcher
from libos_ipc.runtime.fork import ForkPlan
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.heir import Heir
from libos_ipc.runtime.held_files import Fork
from libos_ipc.runtime.lane_traffic import LANE_AFTER
from libos_ipc.runtime.leadership import Leadership
from libos_ipc.runtime.machinery import make_leader
from libos_ipc.runtime.pause import Pause
from libos_ipc.runtime.replies import decline
from libos_ipc.runtime.reserve import Reserve
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.session import Session
from libos_ipc.runtime.shortage import persist
from libos_ipc.runtime.sockets import Sockets

__all__ = ["Identity", "Node"]

log = logging.getLogger("libos_ipc")

#: Seconds that leaving waits for the leader's word.
LEAVE_S = 2.0
#: Seconds between looks at whether a forked child runs by now.
LOOK_S = 0.005


def _nothing(answer: object, now: float) -> Effects:
    return []


class Node(Leadership):
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
        #: what each thread's latest fork had prepared; two may fork at once
        self.forked: dict[int, ForkPlan | None] = {}
        #: … and why it could not be
        self.unplanned: dict[int, OSError] = {}
        self._forks: dict[int, Fork] = {}  # under way, by thread
        self._pause = Pause(self.descriptions)
        #: held while a fork waits for an identity: forks behind it must not end the transport
        #: again and again before one can come
        self._gate = threading.Lock()
        self._become(sockets, leader)

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

    def _become(self, sockets: Sockets, leader: Leader | None) -> None:
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
        self.children = Children()
        self.session = Session(self.directory, self.file, member, sockets, self)
        self.heir = Heir(self, lambda: make_leader(self.directory, self.file.config))

    # ---- life

    def begin(self, *, born: bool = False) -> None:
        """Start the worker, and make ourselves known to the leader: the parent watches us as it
        is, or hears of us from there. `born` by a fork: then the leader may not know yet in which
        epoch we are."""
        session = self.session
        with session.lock:
            now = time.monotonic()
            if born and session.member.epoch > 1:
                session.perform(session.member.report_back(now))
            session.perform(session.member.provision.top_up(now))
            caught = self.signalling.caught()
            if caught:
                leader = session.member.leader_vmid
                told = session.member.request(leader, Code.SET_CAUGHT, (caught,), _nothing, now)
                session.perform(told[1])
        self._go({session.member.leader_vmid} - {self.identity.vmid})

    def _go(self, greet: Iterable[int] = ()) -> None:
        session, dispatcher, me = self.session, self.dispatcher, self.identity.vmid
        session.start(greet, lambda: dispatcher.start(me, session, *session.seats))

    def leave(self) -> None:
        """Leave the group: what was sent arrives first, as far as that can be waited for."""
        session = self.session
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
            session.perform(member.sync_do(member.sync.client.close_all(), time.monotonic()))

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

    # ---- fork

    def prepare_fork(self, joins: bool = True) -> ForkPlan | None:
        """Before a fork: an identity for the child if it is to join. None if it has none."""
        plan = pair = None
        self.unplanned.pop(threading.get_ident(), None)
        self._forks[threading.get_ident()] = self.session.held_files.begin_fork()
        if joins:
            with self._gate:
                pair = self._take_pair()
        if pair is not None:
            try:
                plan = self._plan(*pair)
            except OSError as error:
                log.warning("a forked child will not have joined: %s", error)
                self.unplanned[threading.get_ident()] = error
                with self.session.lock:
                    self._reclaim(*pair)
        return plan

    def pause(self) -> None:
        """Right before the fork: no thread of ours is in its way."""
        self._pause.begin(self.session, self.dispatcher)

    def _plan(self, vmid: int, pid: int) -> ForkPlan:
        sockets = Sockets.make(self.directory, vmid)
        try:
            plan = ForkPlan(vmid, pid, sockets, mmap.mmap(-1, 8))
            with self.session.lock:
                # Connected while our own copy is open: the end of it tells of a failed fork too.
                self.session.watches.live(vmid, self.directory.live_socket(vmid))
        except BaseException:
            sockets.close()
            raise
        return plan

    def _take_pair(self) -> tuple[int, int] | None:
        session = self.session
        provision = session.member.provision
        try:
            with session.lock:
                if not provision.pairs:
                    session.perform(provision.top_up(time.monotonic(), 2 * SPARE_PAIRS))
                    session.wait_for(
                        lambda: bool(provision.pairs) or not provision.coming,
                        self.file.config.fork_timeout,
                    )
                return provision.pairs.popleft() if provision.pairs else None
        except IpcError:
            return None

    def forked_parent(self, plan: ForkPlan | None) -> None:
        """After a fork, or a failed one, in the parent."""
        session = self.session
        self._pause.let_go(session)
        self.forked[threading.get_ident()] = plan
        under_way = self._forks.pop(threading.get_ident())
        if plan is not None:
            with session.lock:
                row = self.children.add(plan.pid, plan.vmid)
                row.page = plan.page
            session.clock.later(LOOK_S, lambda: self._look_for(row))
            plan.sockets.close()
        with session.lock:
            now = time.monotonic()
            if plan is not None:
                leader = session.member.leader_vmid
                started = (plan.vmid, plan.pid)
                session.perform(session.member.send(leader, Code.CHILD_STARTED, started, now))
                # Answered when the leader knows of the child.
                effects = session.member.request(leader, *session.fencing()[1:], under_way, now)[1]
                session.perform(effects)
            else:
                under_way.end()
            session.perform(session.member.provision.top_up(now))
        self._pause.end(self._go)

    def _look_for(self, row: ChildRow) -> None:
        """In the worker: has a forked child announced itself?"""
        with self.session.lock:
            if row.os_pid or self.children.by_vmid(row.vmid) is not row:
                return
            os_pid = row.announced()
            if os_pid:
                self.watch_child(row, os_pid)
            else:
                self.session.clock.later(LOOK_S, lambda: self._look_for(row))

    def forked_child(self, plan: ForkPlan | None) -> bool:
        """After a fork, in the child. False if it could not join."""
        before = self.identity
        if plan is not None:
            announce(plan.page)
        self.session.abandon()
        gone = NotJoined("the sync handle was opened by the parent: this process was forked")
        self.batons.close()  # first, or what is the parent's would be ended, or taken back
        self.deposits.close()
        self.session.perform(self.session.member.sync.on_server_lost(gone))
        self.slabs.close()
        self.children.close()
        self.directory.lock.close()
        self.forget_journal()
        self.leading = False
        self._pause = Pause(self.descriptions)
        self._gate = threading.Lock()
        self._forks.clear()
        self.dispatcher.reborn()
        self.belongings_reborn()
        if plan is None:
            self.reserve.release()
            return False
        self.identity = before._replace(
            vmid=plan.vmid, pid=plan.pid, ppid=before.pid, parent_vmid=before.vmid
        )
        plan.sockets.take_over()
        self._become(plan.sockets, None)
        self.begin(born=True)
        return True

    # ---- what the session tells; under its lock

    def withdraw(self, src: int, seq: int) -> None:
        self.dispatcher.withdraw(src, seq)

    def child_exit(self, told: ChildExit) -> None:
        row = self.children.rows.get(told.pid)
        if row is not None and row.vmid == told.src:
            row.told = told

    def child_joined(self, vmid: int, pid: int) -> None:
        self.children.add(pid, vmid)

        def look() -> None:
            if self.session.watches.live(vmid, self.directory.live_socket(vmid)):
                self.identified(vmid, self.session.watches.os_pid(vmid))

        persist(self.session, look)

    def identified(self, vmid: int, os_pid: int) -> None:
        row = self.children.by_vmid(vmid)
        if row is not None and os_pid != os.getpid():
            self.watch_child(row, os_pid)

    def watch_child(self, row: ChildRow, os_pid: int) -> None:
        """Learn the OS pid of a child, and wait for its end. Under the session's lock."""
        if row.os_pid:
            return
        row.os_pid = os_pid

        def watch() -> None:
            if row.open(os_pid):
                self.session.loop.register(row.pidfd, lambda: self._on_child_end(row))
            else:
                self.session.clock.later(0, lambda: self._on_child_end(row))

        persist(self.session, watch)

    def gone(self, vmid: int) -> None:
        row = self.children.by_vmid(vmid)
        if row is not None and not row.os_pid:
            # It never said hello: a fork that failed, or a child that ended or exec'ed at once.
            self._reclaim(vmid, row.pid)
            os_pid = row.announced()
            if os_pid:
                self.watch_child(row, os_pid)
            else:
                self.children.forget(row)
            self.session.tell_progress()

    def _reclaim(self, vmid: int, pid: int) -> None:
        """No child has this identity after all: the ID is to be used again. Under the lock."""
        session = self.session
        leader = session.member.leader_vmid
        session.perform(session.member.send(leader, Code.CHILD_LOST, (vmid, pid), time.monotonic()))

    def _on_child_end(self, row: ChildRow) -> None:
        """In the worker: a child's pidfd is readable, and stays so until it is closed."""
        session = self.session
        with session.lock:
            session.loop.unregister(row.pidfd)
            if row.status is None and not row.examine(time.monotonic()):
                session.clock.later(0.01, lambda: self._on_child_end(row))
            else:
                self.children.settle(row)
            session.tell_progress()
