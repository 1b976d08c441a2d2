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
from functools import partial
from typing import TYPE_CHECKING, Any

from libos_ipc._native import note_process
from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.provision import SPARE_PAIRS
from libos_ipc.core.roster import Record
from libos_ipc.errors import IpcError
from libos_ipc.runtime.belongings import Identity
from libos_ipc.runtime.children import Children
from libos_ipc.runtime.dispatch import Dispatcher
from libos_ipc.runtime.fork import ForkPlan, Parting, twice
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

    def pause(self, plan: ForkPlan | None) -> Parting | None:
        """Right before the fork: have no thread of ours in its way. What the child does then, if
        that can be said now.

        Where the leader reads a lane of ours it is told now, while that copies no pages and nobody
        can lock anything in between; and not woken for it.
        """
        session = self.session
        if not self._pause.begin(session, self.dispatcher):
            return None
        leader = session.member.leader_vmid
        if plan is not None and session.has_lane(leader):
            if session.clock.idle:
                session.clock.stay_awake()  # without waking the worker, which we do afterwards
            with session.traffic.lanes.quietly(leader):
                self._account(plan, self._forks[threading.get_ident()])
        return self.part(plan)

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

    def forked_parent(
        self, plan: ForkPlan | None, parting: Parting | None, child: list[int]
    ) -> list[Callable[[], object]]:
        """What the parent does after a fork, or a failed one. The child is the process in the list
        by then, if there is one, and not 0."""
        calls = [*(parting.parents if parting else self._returning(plan))]
        if plan is not None and parting is not None:
            calls.insert(0, partial(self._hold_child, plan.vmid, child))
        calls.append(partial(self._tell_of_fork, self._forks, plan, child))
        calls.append(partial(twice, partial(self._pause.end, self.go)))
        if plan is not None:  # last: whoever is woken wants the processor and the interpreter
            follow_up = partial(self._follow_up, plan, parting)
            calls.append(partial(twice, partial(self.session.clock.later, 0, follow_up)))
        return calls

    def _tell_of_fork(
        self, forks: dict[int, Fork], plan: ForkPlan | None, child: list[int]
    ) -> None:
        """Tell the leader what it has not been told yet."""
        under_way = forks.pop(threading.get_ident())
        if plan is None:
            under_way.end()
        elif not under_way.seq:
            with self.session.lock:
                self._account(plan, under_way)
                self._hold_child(plan.vmid, child)

    def _hold_child(self, vmid: int, child: list[int]) -> None:
        """Nobody can have waited for it yet. Under the lock."""
        row, os_pid = self.children.by_vmid(vmid), sum(child)
        if os_pid and row is not None and not self.session.closed:
            with contextlib.suppress(OSError):
                row.open(os_pid)
            if row.pidfd < 0:
                row.os_pid = 0  # we go by what it announces

    def _returning(self, plan: ForkPlan | None) -> list[Callable[[], object]]:
        """What the parent does first after a fork."""
        forked = partial(self.forked.__setitem__, threading.get_ident(), plan)
        closing = [] if plan is None else plan.sockets.closing()
        return [*self._pause.returning(self.session), *closing, forked]

    def _account(self, plan: ForkPlan, under_way: Fork) -> None:
        """There is a child, or the end of its socket tells that there is none. Under the lock."""
        session, now = self.session, time.monotonic()
        member, leader = session.member, session.member.leader_vmid
        self.children.add(plan.pid, plan.vmid).page = plan.page
        session.perform(member.send(leader, Code.CHILD_STARTED, (plan.vmid, plan.pid), now))
        # Answered when the leader knows of the child.
        under_way.seq, effects = member.request(leader, *session.fencing()[1:], under_way, now)
        session.perform(effects)

    def _follow_up(self, plan: ForkPlan, parting: Parting | None) -> None:
        """Behind a fork, in the worker: the leader reads of it, the stock is filled up, and the
        child looked for. What was made for it ends here, where nobody waits."""
        session = self.session
        with session.lock:
            session.traffic.lanes.ring(session.member.leader_vmid)
            session.perform(session.member.provision.top_up(time.monotonic()))
            self.watch_forked(plan.vmid)

    def part(self, plan: ForkPlan | None) -> Parting:
        """What we and a child do first of all, made ready: before the fork, if nothing of it can
        change until then, or else in the child."""
        parents, children = self.session, self.children
        kept = [vars(self), vars(self.dispatcher)]  # to end them takes pages, too
        under_way = self._forks.get(threading.get_ident())
        steps = [*parents.partings(under_way), *self.partings(), *self.dispatcher.partings()]
        slabs, batons, deposits = self.slabs, self.batons, self.deposits

        def abandon() -> None:
            """Close our copies of what the parent has open."""
            kept.clear()
            for memory in (slabs, batons, deposits):
                memory.close()
            parents.abandon()
            children.close()
            self.directory.lock.close()
            self.forget_journal()

        if plan is None:
            steps += [self._forget_forks, abandon, self.reserve.release, self.on_lost]
            return Parting(self._returning(plan), steps, None)
        sockets = plan.sockets
        begun: list[Callable[[], None]] = []
        first: list[Callable[[], None]] = []

        def live(thread: QuickThread | None) -> None:
            if not begun:  # it begins anew where there was no memory
                first[0]()
                begun.append(self._be_born(sockets, abandon, parents, thread))
            begun[0]()

        thread = QuickThread(live)

        def begin(rest: Callable[[], None]) -> None:
            first.append(rest)
            try:
                thread.start()
            except (RuntimeError, MemoryError):  # there is no thread to be had
                rest()
                self._be_born(sockets, abandon, parents, None)

        be_somebody = partial(setattr, self, "__dict__", self._attributes_of(plan))
        announce = partial(note_process, plan.page)
        steps = [announce, *steps, be_somebody, *sockets.taking_over()]
        return Parting(self._returning(plan), steps, begin)

    def _attributes_of(self, plan: ForkPlan) -> dict[str, Any]:
        """What this is in a child: for the rest, whoever asks waits."""
        before = self.identity
        attributes = vars(self) | {
            "identity": Identity(
                plan.vmid, plan.pid, before.pid, before.pgid, before.vmid, before.may_lead
            ),
            "leading": False,
            "children": Children(),
            "_pause": Pause(self.descriptions),
            "_gate": threading.Lock(),
            "_forks": {},
            "_birth": Gate(),
        }
        for name in ("session", "heir", "slabs", "batons", "deposits"):
            del attributes[name]
        return attributes

    def _forget_forks(self) -> None:
        self._gate = threading.Lock()
        self._forks.clear()
        self._pause = Pause(self.descriptions)
        self.children = Children()
        self.leading = False

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
