"""What a fork makes of a node: a pause in the parent, another member in the child.

What must be so when the fork returns is done by the hooks: in the parent the child is known and
lanes are about to be read again; in the child nothing of the parent's can be used any more, the
identity is its own, and its sockets listen in its own name, so that whoever wants something of
it waits there. The rest takes most of the time, and many children end or exec without a word to
the group: closing what the parent had open, and making machine, session and part in the succession.
So a thread does that while the program goes on, and whoever uses one of these waits for it.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.provision import SPARE_PAIRS
from libos_ipc.core.roster import Record
from libos_ipc.errors import IpcError, NotJoined
from libos_ipc.runtime.children import Children, announce
from libos_ipc.runtime.dispatch import Dispatcher
from libos_ipc.runtime.fork import ForkPlan
from libos_ipc.runtime.held_files import Fork
from libos_ipc.runtime.parenthood import Parenthood
from libos_ipc.runtime.pause import Pause
from libos_ipc.runtime.reserve import Reserve
from libos_ipc.runtime.session import Session
from libos_ipc.runtime.sockets import Sockets
from libos_ipc.runtime.threads import Gate, QuickThread

__all__ = ["Forking"]

log = logging.getLogger("libos_ipc")


class Forking(Parenthood):
    """The part of a node that forks."""

    dispatcher: Dispatcher
    reserve: Reserve

    def __init__(self, founding: Iterable[Record] | None) -> None:
        super().__init__(founding)
        #: what each thread's latest fork had prepared; two may fork at once
        self.forked: dict[int, ForkPlan | None] = {}
        #: … and why it could not be
        self.unplanned: dict[int, OSError] = {}
        self._forks: dict[int, Fork] = {}  # under way, by thread
        self._pause = Pause(self.descriptions)
        #: held while a fork waits for an identity: forks behind it must not end the transport
        #: again and again before one can come
        self._gate = threading.Lock()
        self._birth: Gate | None = None
        self._born_in = 0  # the thread that makes this process a member
        #: called in a child that has not joined after all
        self.on_lost: Callable[[], object] = lambda: None

    def make(self, sockets: Sockets, leader: Leader | None) -> Session:
        """The session of this identity, and what goes with it."""
        raise NotImplementedError

    def introduce(self, session: Session) -> None:
        """Tell the leader what it is to know of a new member, and ask for what is missing in stock:
        the parent watches us as it is, or hears of us from there. Under the lock."""
        raise NotImplementedError

    def go(
        self, greet: Iterable[int] = (), thread: QuickThread | None = None
    ) -> Callable[[], None]:
        """Start the session's threads; the worker makes us known to these. That is a thread of its
        own, or this one, which has to call what is returned."""
        raise NotImplementedError

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """What is not there yet is being made."""
            if "_birth" in self.__dict__:
                self.await_birth()
            return object.__getattribute__(self, name)

    def await_birth(self) -> None:
        """Return when this process, if it was forked, is a whole member, or known not to be."""
        if self._birth is not None and self._born_in != threading.get_ident():
            self._birth.wait()

    # ---- fork

    def prepare_fork(self, joins: bool = True) -> ForkPlan | None:
        """Before a fork: an identity for the child if it is to join. None if it has none."""
        me = threading.get_ident()
        self.unplanned.pop(me, None)
        self._forks[me] = under_way = self.session.held_files.begin_fork()
        try:
            return self._prepare() if joins else None
        except BaseException:
            del self._forks[me]
            under_way.end()
            raise

    def _prepare(self) -> ForkPlan | None:
        with self._gate:
            pair = self._take_pair()
        if pair is None:
            return None
        try:
            return self._plan(*pair)
        except OSError as error:
            log.warning("a forked child will not have joined: %s", error)
            self.unplanned[threading.get_ident()] = error
            with self.session.lock:
                self.reclaim(*pair)
            return None

    def pause(self) -> None:
        """Right before the fork: have no thread of ours in its way."""
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

    def forked_parent(self, plan: ForkPlan | None, os_pid: int) -> None:
        """After a fork, or a failed one, in the parent. The child is this process, if not 0."""
        session = self.session
        self._pause.let_go(session)
        self.forked[threading.get_ident()] = plan
        under_way = self._forks.pop(threading.get_ident())
        try:
            if plan is not None:
                self._account(plan, under_way, os_pid)
                plan.sockets.close()
                session.clock.later(0, self._restock)
            else:
                under_way.end()
        finally:
            self._pause.end(self.go)

    def _account(self, plan: ForkPlan, under_way: Fork, os_pid: int) -> None:
        """There is a child, or the end of its socket tells that there is none."""
        session = self.session
        with session.lock:
            row = self.children.add(plan.pid, plan.vmid)
            row.page = plan.page
            if os_pid and not session.closed:
                self.watch_child(row, os_pid)
            now = time.monotonic()
            leader = session.member.leader_vmid
            started = (plan.vmid, plan.pid)
            session.perform(session.member.send(leader, Code.CHILD_STARTED, started, now))
            # Answered when the leader knows of the child.
            effects = session.member.request(leader, *session.fencing()[1:], under_way, now)[1]
            session.perform(effects)
        if not os_pid:
            self.expect(row)

    def _restock(self) -> None:
        session = self.session
        with session.lock:
            session.perform(session.member.provision.top_up(time.monotonic()))

    def forked_child(self, plan: ForkPlan | None) -> None:
        """After a fork, in the child."""
        parents, children, before = self.session, self.children, self.identity
        if plan is not None:
            announce(plan.page)
        parents.disown()
        gone = NotJoined("the sync handle was opened by the parent: this process was forked")
        self.batons.close()  # first, or what is the parent's would be ended, or taken back
        self.deposits.close()
        parents.perform(parents.member.sync.on_server_lost(gone))
        self.slabs.close()
        self.dispatcher.reborn()
        self.belongings_reborn()
        self.leading = False
        self.children = Children()
        self._pause = Pause(self.descriptions)
        self._gate = threading.Lock()
        self._forks.clear()

        def abandon() -> None:
            """Close our copies of what the parent has open."""
            parents.abandon()
            children.close()
            self.directory.lock.close()
            self.forget_journal()

        if plan is None:
            abandon()
            self.reserve.release()
            self.on_lost()
            return
        self.identity = before._replace(
            vmid=plan.vmid, pid=plan.pid, ppid=before.pid, parent_vmid=before.vmid
        )
        plan.sockets.take_over()
        del self.session, self.heir, self.slabs
        self._birth = Gate()
        begun: list[Callable[[], None]] = []

        def live(thread: QuickThread | None) -> None:
            if not begun:  # it begins anew where there was no memory
                begun.append(self._be_born(plan.sockets, abandon, parents, thread))
            begun[0]()

        try:
            QuickThread(live)
        except (RuntimeError, MemoryError):  # there is no thread to be had
            self._be_born(plan.sockets, abandon, parents, None)

    def _be_born(
        self,
        sockets: Sockets,
        abandon: Callable[[], None],
        parents: Session,
        thread: QuickThread | None,
    ) -> Callable[[], None]:
        """In a thread of the child: be a member, and give what is left for this thread to do. Else
        this process is in no group, as the parent's session says, which is closed here."""
        self._born_in = threading.get_ident()
        session = None
        try:
            abandon()
            session = self.make(sockets, None)
            with session.lock:
                self.session = session
                if session.member.epoch > 1:  # which may be news to the leader
                    session.perform(session.member.report_back(time.monotonic()))
                self.introduce(session)
                return self.go({session.member.leader_vmid}, thread)
        except Exception:
            self.session = parents
            self._lose(sockets, session)
            return lambda: None
        finally:
            self._born_in = 0
            assert self._birth is not None
            self._birth.open()

    def _lose(self, sockets: Sockets, session: Session | None) -> None:
        """What was begun leads nowhere. Whoever has the session already, and waits, hears of it."""
        with contextlib.suppress(MemoryError):
            log.exception("joining group %s after a fork", self.file.name)
        self.on_lost()
        if session is None:
            sockets.close()
        else:
            session.close()
