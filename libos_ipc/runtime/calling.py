"""What callers ask of a session: requests, messages, answers, and waiting for any of it.

Every method takes the session's lock for as long as the machine is stepped and its effects are
performed, never while it waits. A closed session answers NotJoined.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from libos_ipc._native import Exchange, Lock
from libos_ipc.config import GroupConfig
from libos_ipc.core.codes import FIRST_USER_CODE, LEADER, Code
from libos_ipc.core.counters import Counters
from libos_ipc.core.member import Member
from libos_ipc.core.vocabulary import HEADER_WEIGHT, Body, Effects, Fail, Outgoing
from libos_ipc.errors import IpcError, MessageTooLarge, NotJoined, PeerDied, Timeout, WouldBlock
from libos_ipc.runtime.clock import Clock
from libos_ipc.runtime.codec import decode_answer, payload_of
from libos_ipc.runtime.condition import Condition
from libos_ipc.runtime.group_file import GroupFile
from libos_ipc.runtime.landings import Landings
from libos_ipc.runtime.loop import Loop
from libos_ipc.runtime.porter import Porter
from libos_ipc.runtime.ticket import Settled, Ticket
from libos_ipc.runtime.watches import Watches

__all__ = ["Calling"]


class Calling:
    """The part of a session that threads of the program use."""

    member: Member
    file: GroupFile
    config: GroupConfig
    loop: Loop
    watches: Watches
    porter: Porter
    exchange: Exchange
    clock: Clock
    lock: Lock
    #: told at every Progress effect
    progress: Condition
    listeners: list[Callable[[], None]]
    closed: bool
    #: the leader has been told that this process goes: what it gives out now belongs to nobody
    leaving: bool
    _waiting: int
    _waiting_for_links: int
    #: PINGs that nobody waits for any more, by whom they are on their way to
    _overdue: dict[int, list[Ticket]]

    def perform(self, effects: Effects) -> None:
        """Do what the machine has decided. Under the lock."""
        raise NotImplementedError

    @property
    def landings(self) -> Landings:
        """Where answers for coroutines land."""
        return self.porter.landings

    def end_requests(self, error: IpcError, *, forked: bool = False) -> None:
        """Fail all that wait for answers: there will be none. Under the lock."""
        effects = self.member.calls.fail_all(error)
        if (
            forked
        ):  # what comes of it otherwise (a signal whose sender was asked for) is the parent's
            effects = [effect for effect in effects if type(effect) is Fail]
        self.perform(effects)
        if forked:
            self.landings.abandon()
        else:
            self.landings.close()

    def partings_of_callers(self, own: int) -> list[Callable[[], object]]:
        """What a forked child does about those who wait in it, of whose requests one, of number
        `own`, may be the fork's: a thread that forked while it waited (in a signal handler) learns
        that it waits in vain."""
        steps: list[Callable[[], object]] = [
            partial(setattr, self, "closed", True),
            self.member.ids.withdraw,
            self.exchange.close,
            # It may be held for ever, by a thread that is not in this process.
            partial(self.lock.acquire, False),
            self.lock.release,
        ]
        if self._waiting:
            steps.insert(-1, self.progress.notify_all)
        if self.listeners:  # event loops of the parent
            steps.append(self.listeners.clear)
        if len(self.member.calls) > (own > 0) or self.landings.used:
            steps.append(self._end_parents_requests)
        return steps

    def _end_parents_requests(self) -> None:
        error = NotJoined("the request was the parent's: this process was forked")
        with self.lock:
            self.end_requests(error, forked=True)

    def counters(self) -> Counters:
        """What has passed between this process and the others."""
        with self.lock:
            member = self.member
            return member.tally.counters(member.links.values(), len(member.calls))

    def request(
        self,
        dst: int,
        code: int,
        body: Body,
        ticket: Settled,
        size: int = 0,
        timeout: float | None = 0,
    ) -> int:
        """Send a request and return its number; the ticket is settled when the answer comes.

        A message of `size` bytes waits for room at the receiver, at most `timeout` seconds.
        """
        with self.lock:
            if self.closed or self.leaving:
                self.check_open()
            if size and not self.member.has_room(dst, size):
                self._get_room(dst, size, timeout)
            receiver = dst or self.member.leader_vmid
            seq, effects = self.member.request(receiver, code, body, ticket, time.monotonic())
            self.perform(effects)
            return seq

    def call(self, dst: int, code: int, body: Body, timeout: float | None, size: int = 0) -> Body:
        """Send a request and wait for the answer. Withdrawn if the wait ends without one."""
        ticket = Ticket()
        deadline = None if timeout is None else time.monotonic() + timeout
        seq = 0
        done = None
        try:
            if dst != LEADER and self.has_lane(dst):
                self._keep_time()  # first: it may be time that brings what was sent before
                payload = payload_of(Outgoing(code, 0, body))
                done = self.exchange.call(dst, code, payload, ticket, deadline)
            if done is None:
                seq = self.request(dst, code, body, ticket, size, timeout)
                self.sit(dst or self.member.leader_vmid, ticket.settled, deadline)
                done = ticket.wait(None if deadline is None else deadline - time.monotonic())
        except BaseException:
            self._give_up(ticket, seq)
            raise
        if not done:
            self._give_up(ticket, seq)
            raise self.too_late(dst, code, timeout)
        answer = ticket.result()
        return (
            decode_answer(code, answer)
            if code < FIRST_USER_CODE and type(answer) is bytes
            else answer
        )

    def ping(self, dst: int, deadline: float | None, timeout: float | None) -> None:
        """PING, as a message; `timeout` is for the words. One that was not answered in time stays
        on its way, and the next is the same: a process that is stopped is not asked for more and
        more answers."""
        overdue, ticket = self._overdue.get(dst), None
        if overdue:
            with suppress(IndexError):  # another thread had it first
                ticket = overdue.pop()
        if ticket is None or ticket.settled():
            ticket = Ticket()
            self.request(dst, Code.PING, (), ticket)
        try:
            self.sit(dst, ticket.settled, deadline)
            done = ticket.wait(None if deadline is None else deadline - time.monotonic())
        finally:
            if not ticket.settled():
                self._keep_overdue(dst, ticket)
        if not done:
            raise self.too_late(dst, Code.PING, timeout)
        ticket.result()

    def _keep_overdue(self, dst: int, ticket: Ticket) -> None:
        with self.lock:  # under which the end of a process settles it, and clears the others away
            if not ticket.settled():
                self._overdue.setdefault(dst, []).append(ticket)

    def too_late(self, dst: int, code: int, timeout: float | None) -> Timeout:
        """What a caller is told whose request was not answered in time."""
        who = f"VMID {dst}" if dst else "the leader"
        reason = self.watches.unreached.get(dst)
        because = "" if reason is None else f"; no connection to it can be made: {reason}"
        what = "a ping" if code == Code.PING else f"code {code}"
        return Timeout(f"no answer from {who} to {what} within {timeout} s{because}")

    def _keep_time(self) -> None:
        """Something goes out beside the machine, which may have to be asked for again."""
        if self.clock.idle:
            with self.lock:
                if not self.closed:
                    self.clock.on_sent()

    def _give_up(self, ticket: Ticket, seq: int) -> None:
        seq = seq or ticket.number
        if seq and not ticket.settled():
            self.withdraw(seq)

    def sit(self, peer: int, done: Callable[[], object], deadline: float | None) -> None:
        """Take the seat from which answers of this peer are seen first. See `Seat.sit`."""
        seat = self.porter if self.has_lane(peer) else self.loop
        seat.sit(done, deadline, urgent=True)

    def has_lane(self, peer: int) -> bool:
        link = self.member.links.get(peer)
        return link is not None and link.lane_from != 0

    def nudge(self, *, urgent: bool) -> None:
        """Who sits anywhere, and waits for this, is to look."""
        self.loop.nudge(urgent=urgent)
        self.porter.nudge(urgent=urgent)

    def send_user(self, dst: int, code: int, body: Body, size: int, timeout: float | None) -> None:
        """Send a program's one-way message of `size` bytes once there is room at the receiver."""
        if type(body) is bytes and not self.leaving and self.exchange.send(dst, code, 0, body):
            self._keep_time()
            return
        with self.lock:
            self.check_open()
            if not self.member.has_room(dst, size):
                self._get_room(dst, size, timeout)
            self.send_locked(dst, code, body)

    def send_to_each(self, vmids: tuple[int, ...], code: int, body: Body) -> list[int]:
        """The same to all of these who have room for it now; the others, in order."""
        if type(body) is not bytes or self.leaving:
            return list(vmids)
        self._keep_time()
        return self.exchange.post_all(vmids, code, body)

    def _get_room(self, dst: int, size: int, timeout: float | None) -> None:
        member = self.member
        if timeout is not None and timeout <= 0:
            raise WouldBlock(f"VMID {dst} owes {self.config.send_buffer} bytes or more")
        self.perform(member.await_room(dst))
        try:
            found = self.wait_for(lambda: member.has_room(dst, size), timeout, link=True)
        finally:
            member.stop_awaiting_room(dst)
        if not found:
            raise Timeout(
                f"VMID {dst} still owed {self.config.send_buffer} bytes or more after {timeout} s"
            )

    def ask_leader(
        self, code: Code, *fields: int | bytes, timeout: float | None = None
    ) -> tuple[Any, ...]:
        """One of the library's own requests to the leader: the fields of its answer."""
        answer = self.call(LEADER, code, fields, timeout)
        assert isinstance(answer, tuple)
        return answer

    def fence(self) -> None:
        """Return when the leader has seen all that was sent to it until now, and its answers
        are here."""
        self.call(*self.fencing(), None)

    def fencing(self) -> tuple[int, Code, Body]:
        """Whom a fence asks for what: something small that changes nothing."""
        return LEADER, Code.GET_ID_OWNER, (self.member.vmid,)

    def say_goodbye(self, timeout: float) -> None:
        """Tell the leader that this process leaves, and wait for its word; ask for nothing more."""
        ticket = Ticket()
        with self.lock:
            self.check_open()
            leader = self.member.leader_vmid
            effects = self.member.request(leader, Code.LEAVE, (), ticket, time.monotonic())[1]
            self.leaving = True
            self.exchange.close()
            self.member.ids.withdraw()
            self.perform(effects)
        if ticket.wait(timeout):
            ticket.result()
        else:
            raise Timeout(f"the leader did not answer to our leaving within {timeout} s")

    def withdraw(self, seq: int) -> None:
        """Nobody waits for this request any more."""
        with self.lock:
            if not self.closed:
                self.perform(self.member.withdraw(seq, time.monotonic()))

    def send(self, dst: int, code: int, body: Body) -> None:
        """Send a one-way message, whatever the receiver owes."""
        with self.lock:
            self.check_open()
            self.send_locked(dst, code, body)

    def send_locked(self, dst: int, code: int, body: Body) -> None:
        """The same under the lock. PeerDied if the process is known to be gone."""
        dst = dst or self.member.leader_vmid
        self.perform(self.member.send(dst, code, body, time.monotonic()))
        if not self.member.reaches(dst):
            raise PeerDied(f"VMID {dst} is gone: it ended or left the group, or never was")

    def answer(self, dst: int, seq: int, payload: bytes | memoryview) -> None:
        """Answer a request; in vain, without an error, if its sender is gone. MessageTooLarge."""
        size, most = HEADER_WEIGHT + len(payload), self.config.max_message
        if size > most:
            text = f"an answer of {size} bytes is over max_message ({most}): give it in parts"
            raise MessageTooLarge(text)
        if type(payload) is bytes and self.exchange.send(dst, Code.RESP, seq, payload):
            self._keep_time()
            return
        with self.lock:
            if not self.closed:
                self.perform(self.member.answer(dst, seq, payload, time.monotonic()))

    def answer_own(self, dst: int, seq: int, code: Code, fields: tuple[object, ...]) -> None:
        """Answer one of the library's own requests, of this code. Under the lock."""
        self.perform(self.member.answer(dst, seq, fields, time.monotonic(), code))

    def refuse(self, dst: int, seq: int, number: int, text: str) -> None:
        """Answer a request with an error."""
        with self.lock:
            if not self.closed:
                self.perform(self.member.refuse(dst, seq, number, text, time.monotonic()))

    def consumed(self, src: int, size: int) -> None:
        """A message of `src` has been taken up."""
        if self.member.consumed(src, size):
            self.announce(src)

    def announce(self, src: int) -> None:
        """Tell `src` how much has been taken up."""
        with self.lock:
            if not self.closed:
                self.perform(self.member.announce_credit(src, time.monotonic()))

    def wait_for(
        self, ready: Callable[[], bool], timeout: float | None, *, link: bool = False
    ) -> bool:
        """Wait under the lock, which the caller holds, until `ready` or the session is closed.

        With `link` for something that happens on a link, as every answer does: who waits for
        anything else is not woken by that.
        """
        self._waiting += 1
        self._waiting_for_links += link
        self.exchange.watched = True
        try:
            self.progress.wait_for(lambda: self.closed or ready(), timeout)
        finally:
            self._waiting -= 1
            self._waiting_for_links -= link
            self.exchange.watched = bool(self._waiting_for_links or self.listeners)
        self.check_open()
        return ready()

    def tell_progress(self, *, link: bool = False) -> None:
        """Let who waits look again. Under the lock."""
        if self._waiting_for_links if link else self._waiting:
            self.progress.notify_all()
        if self.listeners:
            listeners, self.listeners = self.listeners, []
            for wake in listeners:
                wake()

    def check_open(self) -> None:
        """Raise NotJoined if the session is closed, or about to be."""
        if self.closed or self.leaving:
            raise NotJoined(f"the group {self.file.name!r} was closed in this process")
