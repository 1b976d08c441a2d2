"""Succession in a real process: where its evidence comes from, and how its deeds are done.

The machine (`core/succession.py`) knows epochs, locks and journals by name; here they are the
files of the group's directory. What the kernel has to say comes by three ways: the end of the
leader's liveness connection (by the links, as for any peer), the lock of an epoch (asked now and
then, as long as somebody else is about to lead), and the state of the leader's process (looked at
only while this process waits for it: a leader of whom nobody wants anything may stand still).

All of it happens in the worker, under the session's lock. To inherit takes as long as it takes to
read the journal; whoever asks for something meanwhile waits.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from libos_ipc.core.codes import Code
from libos_ipc.core.leader import Leader
from libos_ipc.core.stall import Stall
from libos_ipc.core.succession import Succession
from libos_ipc.core.succession_words import (
    Announce,
    Begun,
    Bid,
    Damaged,
    Deed,
    Evidence,
    FindHolder,
    GiveUp,
    Gone,
    Inherit,
    Inherited,
    LetGo,
    NoHeir,
    Rejoin,
    Role,
    Sealed,
    Stalled,
    StepDown,
    Taken,
    Watch,
    Won,
)
from libos_ipc.core.vocabulary import Note
from libos_ipc.errors import IpcError, ProtocolError
from libos_ipc.runtime.inheriting import inherit
from libos_ipc.runtime.journal_file import JournalFile, JournalSealed, read_head, retire, seal
from libos_ipc.runtime.process_state import is_stopped, start_time
from libos_ipc.runtime.shortage import persist

if TYPE_CHECKING:
    from libos_ipc.runtime.group_file import GroupFile
    from libos_ipc.runtime.node import Node

__all__ = ["Heir"]

log = logging.getLogger("libos_ipc")

#: Seconds between looks at a leader that does not answer, and how late one may be.
STALL_LOOK_S = 0.25
LATE_S = 0.25
#: Seconds between looks at who leads, while somebody else is about to: the first, and the longest.
#: A winner watches all others as soon as it leads, which they see (`on_watched`), and the kernel
#: tells of its death: this is for one that gives up, or stands still.
LOOK_S = 0.1
LAST_LOOK_S = STALL_LOOK_S / 2
#: Seconds until who leaves looks for a leader: most likely it has its answer, and is gone by then.
LEAVING_S = 0.2
#: Seconds that a new leader waits for others to come by themselves before it calls them: these, and
#: so many for each, since they have the processors among them, and to be called is work, too.
CALL_S = 0.05
COME_S = 0.005
#: Seconds between looks of a leader whether it has been deposed.
SEALED_LOOK_S = 0.5
#: What is told of a succession: how it has come out.
_OUTCOMES = (Role.LEADING, Role.LOST)


class Heir:
    """One member's part in the succession. `make_leader` makes an empty leader's machine."""

    def __init__(self, node: Node, make_leader: Callable[[], Leader]) -> None:
        self._node = node
        self._make_leader = make_leader
        self._directory = node.directory
        file, me = node.file, os.getpid()
        self._lock = node.directory.lock
        is_member = bool(node.identity.pid)
        may_lead = is_member and node.identity.may_lead and self._lock.stand()
        # A second member in one process is told apart from the first, whose pid it has.
        ident = me if may_lead or node.leading else -node.identity.vmid
        head = read_head(self._directory.journal(file.epoch))
        leader = ident if node.leading else head.os_pid if head is not None else 0
        self.machine = Succession(ident, epoch=file.epoch, leader=leader, may_lead=may_lead)
        self._stall = Stall(file.config.leader_stall, STALL_LOOK_S, LATE_S)
        self._started = 0  # who is looked at: with its pid, it is that process
        self._next_look = 0.0
        self._looking = False
        self._look_s = LOOK_S
        self._deeds: deque[Deed] = deque()
        self._inheritance: tuple[Leader, JournalFile] | None = None
        self._do_one: dict[type[Deed], Callable[..., Evidence | None]] = {
            Watch: self._watch,
            Bid: self._bid,
            FindHolder: self._find_holder,
            Inherit: self._inherit,
            Announce: self._announce,
            StepDown: lambda deed: self._node.step_down(),
            Rejoin: self._rejoin,
            LetGo: lambda deed: self._lock.let_go(deed.epoch),
            GiveUp: self._give_up,
        }

    # ---- what happens; under the session's lock

    def on_leader_gone(self, epoch: int) -> None:
        """The leader of this epoch has ended."""
        leader = self.machine.watched
        leaving = self._node.session.leaving
        if leaving:
            self.machine.may_lead = False  # whoever stays
        if epoch == self.machine.epoch and leader:
            self._soon(lambda: self._tell(Gone(leader)), LEAVING_S if leaving else 0)

    def on_sealed(self) -> None:
        """Our journal takes nothing more."""
        epoch = self.machine.epoch
        self._node.step_down()
        self._soon(lambda: self._tell(Sealed(epoch)))

    def look(self) -> None:
        """A later epoch may have begun."""
        begun = self._begun()
        if begun is not None or self._deeds:
            self._step(begun)

    def on_watched(self) -> None:
        """Somebody watches us, perhaps since it leads now."""
        if self._looking:
            persist(self._node.session, self.look)

    def on_tick(self, now: float) -> None:
        """Time passes, and this process waits for the leader, or leads."""
        if now >= self._next_look:
            persist(self._node.session, lambda: self._look_around(now))

    def _look_around(self, now: float) -> None:
        machine = self.machine
        if machine.role is Role.LEADING:
            self._next_look = now + SEALED_LOOK_S
            if self._node.is_sealed:
                self.on_sealed()
        elif machine.role is Role.FOLLOWING and self._node.session.member.waits_for_leader:
            waited = now - self._next_look < STALL_LOOK_S  # else only now has it begun to
            self._next_look = now + STALL_LOOK_S
            if waited:
                self.look()
                self._look_at(machine.watched, now)

    def _look_at(self, os_pid: int, now: float) -> None:
        """Whether who leads, or is about to, stands still for good."""
        if os_pid > 0 and not self._started:
            self._started = start_time(os_pid)
        stopped = os_pid > 0 and is_stopped(os_pid, self._started)
        if self._stall.on_look(stopped, now) and self.machine.watched == os_pid:
            self._step(Stalled(os_pid))

    # ---- steps

    def _soon(self, action: Callable[[], None], delay_s: float = 0) -> None:
        """Not in the middle of what is being performed, and when there is room for it."""
        session = self._node.session

        def act() -> None:
            with session.lock:
                if not session.closed:
                    persist(session, action)

        session.clock.later(delay_s, act)

    def _tell(self, evidence: Evidence) -> None:
        """What was put off: what is known by now comes first."""
        self.look()
        self._step(evidence)

    def _step(self, found: Evidence | None) -> None:
        """What this evidence leads to, and what is still to be done: what the system has no room
        for (OSError) is, at the next step."""
        deeds = self._deeds
        while not self._node.session.closed:
            if found is not None:
                deeds.extend(self._on(found))
            if not deeds:
                return
            deed = deeds.popleft()
            try:
                found = self._do_one[type(deed)](deed)
            except OSError as error:
                if not isinstance(error, IpcError):
                    deeds.appendleft(deed)
                raise

    def _on(self, evidence: Evidence) -> list[Deed]:
        machine = self.machine
        before = machine.role
        deeds = machine.on(evidence)
        if machine.role is not before:
            fields: dict[str, object] = {"role": machine.role.value, "of": machine.target}
            fields["because"] = str(evidence)
            ends_with_us = machine.role is Role.LOST and self._node.session.leaving
            if machine.role in _OUTCOMES and not ends_with_us:
                self._node.session.perform([Note("succession", fields)])
            elif machine.role is Role.FOLLOWING:  # told of by who leads: once is enough for a group
                self._node.session.member.tally.events["succession"] += 1
                log.info("succession: %s", fields)
            else:
                log.debug("succession: %s", fields)
        return deeds

    def _begun(self) -> Begun | None:
        """The last epoch that has begun, if it is later than ours."""
        found = None
        epoch = self.machine.epoch + 1
        while (head := read_head(self._directory.journal(epoch))) is not None:
            if head.committed and head.vmid != self._node.identity.vmid:
                found = Begun(epoch, head.os_pid)
            epoch += 1
        return found

    # ---- deeds

    def _watch(self, deed: Watch) -> None:
        self._stall.forget()
        self._started = 0
        watches, leads = self._node.session.watches, self.machine.role is Role.FOLLOWING
        try:
            watches.end_of(0 if leads else deed.pid, lambda: self._on_winner_end(deed.pid))
        except OSError:
            pass  # it has ended, or there is no descriptor: the lock says so when it is looked at

    def _on_winner_end(self, os_pid: int) -> None:
        session = self._node.session
        with session.lock:
            session.watches.end_of(0, lambda: None)
            self._soon(lambda: self._tell(Gone(os_pid)))

    def _bid(self, deed: Bid) -> Evidence:
        begun = self._begun()
        if begun is not None and begun.epoch >= deed.epoch:
            return begun
        holder = self._lock.bid(deed.epoch)
        return Taken(deed.epoch, holder) if holder else Won(deed.epoch)

    def _find_holder(self, deed: FindHolder) -> None:
        self._look_s = LOOK_S
        if not self._looking:
            self._looking = True
            self._look_soon()

    def _look_soon(self) -> None:
        self._soon(self._look_for_leader, self._look_s)
        self._look_s = min(2 * self._look_s, LAST_LOOK_S)

    def _look_for_leader(self) -> None:
        """Who leads, or is about to; again soon, if that is still to be found out."""
        machine = self.machine
        if machine.role is not Role.FOLLOWING:
            self.look()
        self._looking = machine.role in (Role.AWAITING, Role.WATCHING)
        if self._looking:
            holder = self._lock.holder(machine.target)
            if holder != machine.watched:
                self._step(Taken(machine.target, holder))
            elif not holder and not self._is_there_an_heir():
                self._step(NoHeir(machine.target))
            elif machine.role is Role.AWAITING and time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + STALL_LOOK_S
                self._look_at(holder, time.monotonic())
        if self._looking:
            self._look_soon()

    def _is_there_an_heir(self) -> bool:
        if self._node.session.leaving:
            return self._lock.is_there_another_heir()
        return self._lock.is_there_an_heir()

    def _inherit(self, deed: Inherit) -> Evidence:
        path_of = self._directory.journal
        try:
            for epoch in range(deed.since, deed.epoch):
                seal(path_of(epoch))
            heads = {epoch: read_head(path_of(epoch)) for epoch in range(deed.since, deed.epoch)}
            last = max(epoch for epoch, head in heads.items() if head and head.committed)
            leader = self._make_leader()
            self._inheritance = leader, inherit(self._node, leader, deed.epoch, path_of(last))
            return Inherited(deed.epoch)
        except JournalSealed:
            return Sealed(deed.epoch)
        except (ProtocolError, OSError, ValueError) as error:
            begun = self._begun()
            if begun is not None and begun.epoch > deed.epoch:
                return begun
            log.error("the journal of epoch %d cannot be inherited: %s", deed.since, error)
            return Damaged(deed.epoch)

    def _announce(self, deed: Announce) -> None:
        """Lead: everybody is told to look, and whoever has ended meanwhile is found out."""
        node, session = self._node, self._node.session
        assert self._inheritance is not None
        leader, journal = self._inheritance
        self._inheritance = None
        node.take_lead(journal, self._group_file(deed.epoch, node.identity.vmid))
        member, now = session.member, time.monotonic()
        session.perform(member.adopt(deed.epoch, member.vmid, leader, now))
        if member.leader is not leader:
            return  # sealed by then
        session.perform(member.lead(leader.take_over(now), now))
        until_called = CALL_S + COME_S * len(member.away)
        self._soon(lambda: self._call_others(deed.epoch), until_called)
        self._soon(lambda: self._retire_below(deed.epoch))

    def _retire_below(self, epoch: int) -> None:
        for earlier in range(1, epoch):
            retire(self._directory.journal(earlier))

    def _call_others(self, epoch: int) -> None:
        """Most have come by themselves; who follows a leader that only stands still has not."""
        member, now = self._node.session.member, time.monotonic()
        leader = member.leader
        if leader is None or member.epoch != epoch:
            return
        for vmid in sorted(member.away.keys() & leader.processes.keys()):
            if leader.processes[vmid].os_pid:
                self._node.session.perform(member.send(vmid, Code.NEW_EPOCH, (), now))

    def _rejoin(self, deed: Rejoin) -> None:
        node, session = self._node, self._node.session
        head = read_head(self._directory.journal(deed.epoch))
        assert head is not None
        node.file = self._group_file(deed.epoch, head.vmid)
        session.perform(session.member.adopt(deed.epoch, head.vmid, None, time.monotonic()))

    def _group_file(self, epoch: int, leader_vmid: int) -> GroupFile:
        return msgspec.structs.replace(self._node.file, epoch=epoch, leader_vmid=leader_vmid)

    def _give_up(self, deed: GiveUp) -> None:
        session = self._node.session
        session.perform(session.member.on_leader_lost(time.monotonic()))
