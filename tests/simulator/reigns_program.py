"""What programs ask for in a group whose leaders die, and what they were told.

Each ticket is settled once, and judged when it is: nothing may be given twice, nobody may hold a
lock beside another, a value that is read is the last that was committed. Messages between two
programs carry the number of their turn. What cannot be judged before the end stands here until
then: `reigns_books.py` compares it with what the last leader has on its books.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from libos_ipc.core.codes import Code
from libos_ipc.core.lock_words import EOF, UNLOCK, WAIT, WRITE
from libos_ipc.core.sync_words import State
from libos_ipc.core.vocabulary import (
    ChildExit,
    ChildJoined,
    Message,
    PgidChanged,
    Publish,
    Signalled,
    Withdraw,
)
from libos_ipc.errors import IpcError, LeaderLost, PeerDied

from .history import Violation

if TYPE_CHECKING:
    from .reigns_process import Process

__all__ = ["Program", "Ticket"]

#: User messages: one that wants no answer, and one that does.
TOLD, ASKED = 70, 71
LOCKER, USER = 1, 2  # the threads that use the file lock and the handle: no cycle closes
SIGNAL = 10
OPEN = (0, 0, b"name\0bytes")


class Ticket:
    """A request of a program: settled once, unless it was withdrawn."""

    def __init__(self, program: Program, what: str, dst: int, then: Callable[[Any], None]) -> None:
        self.program = program
        self.what = what
        self.dst = dst  # 0: the leader, whoever that is
        self.then = then
        self.state = "open"
        self.seq = 0
        program.tickets.append(self)

    def __repr__(self) -> str:
        return f"{self.what} of VMID {self.program.process.vmid}"

    def resolve(self, payload: Any) -> None:
        if self.state == "left":
            return
        if self.state != "open":
            raise Violation(f"{self} is {self.state}, and settled again")
        self.state = "resolved"
        self.then(payload)

    def fail(self, error: IpcError) -> None:
        if self.state == "left":
            return
        if self.state != "open":
            raise Violation(f"{self} is {self.state}, and fails")
        self.state = "failed"
        self.program.failed(self, error)


class Program:
    """One process's program, and its books."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.world = process.world
        self.tickets: list[Ticket] = []
        self.pid = 0
        self.pgid = 0
        self.vmids: set[int] = set()
        self.ranges: set[tuple[int, int]] = set()
        self.ids: list[int] = []
        self.is_child = False
        self.children: set[int] = set()
        self.said = 0
        #: of whose children it was to have been, each time that it told how it ends
        self.parents: list[Process] = []
        self.is_first = False  # it was there before all that happens
        self.catches = False
        self.kills = 0
        self.signals: dict[int, int] = {}  # by sender's pid
        #: user requests not answered yet: sender, number, turn
        self.asked: list[tuple[int, int, bytes]] = []
        # the one file
        self.lock = 0  # the number of the grant that it holds
        self.lock_handle = 0
        self.lock_seq = 0  # of the request that waits
        self.lock_ticket: Ticket | None = None
        self.taking_back = False
        # the one handle
        self.handle = 0
        self.opening = False
        self.using: State | None = None
        self.handle_ticket: Ticket | None = None
        #: "", or how far it has come with leaving
        self.leaving = ""

    # ---- what it does

    def act(self) -> None:
        """Something random. Only while nothing is under way in this process."""
        if self.leaving or not self.process.is_member:
            return
        if self.world.dice.random() < 0.7:
            self.process.member.sync.client.put(self.handle)  # if that is idle
        actions: list[tuple[int, Callable[[], None]]] = [
            (2, self.get_vmid),
            (3, self.get_range),
            (3, self.trade),
            (6, self.use_lock),
            (1, self.find_owner),
            (3, self.say_word),
            (4, partial(self.talk, TOLD)),
            (4, partial(self.talk, ASKED)),
            (7, self.use_handle),
            (2, self.use_ids),
            (1, self.regroup),
            (2, self.kill_all),
            (2, self.top_up),
            (2, self.fork),
            (2, self.give_up),
            (8 * self.world.has_parents, self.say_how_it_ends),
        ]
        favourite = self.world.favourite
        weights = [weight + 20 * (at == favourite) for at, (weight, _) in enumerate(actions)]
        self.world.rng.choices(actions, weights)[0][1]()

    def steps(self) -> list[Callable[[], None]]:
        """What it does by itself."""
        steps: list[Callable[[], None]] = []
        if self.asked:
            steps.append(self.reply)
        if self.leaving == "flushing" and not self.process.member.unarrived():
            steps.append(self.say_goodbye)
        return steps

    def ask(
        self, what: str, code: int, fields: Any, then: Callable[[Any], None], dst: int = 0
    ) -> tuple[int, Ticket]:
        """A request, to the leader unless it is to somebody else."""
        member = self.process.member
        ticket = Ticket(self, what, dst, then)
        to = dst or member.leader_vmid
        seq, effects = member.request(to, code, fields, ticket, self.world.now)
        ticket.seq = seq
        self.process.perform_aside(effects)
        return seq, ticket

    def tell(self, code: int, fields: Any, dst: int = 0) -> None:
        """A message that wants no answer."""
        member = self.process.member
        self.process.perform_aside(
            member.send(dst or member.leader_vmid, code, fields, self.world.now)
        )

    def failed(self, ticket: Ticket, error: IpcError) -> None:
        """A ticket gets no answer: for a reason that is true."""
        if ticket is self.handle_ticket:
            self.handle_ticket = None
        if ticket.what == "LEAVE":
            self.leaving = "left"
        if isinstance(error, LeaderLost):
            true = not ticket.dst and not self.world.heirs()
        elif error.errno == errno.ECANCELED:
            true = ticket is self.lock_ticket and self.taking_back
        else:
            true = isinstance(error, PeerDied) and ticket.dst and not self.world.lives(ticket.dst)
        if not true:
            raise Violation(f"{ticket} failed: {error!r}")

    # ---- IDs and VMIDs

    def get_vmid(self) -> None:
        def then(body: Any) -> None:
            self.world.new_vmid(body[0])
            self.vmids.add(body[0])

        self.ask("GET_NEW_VMID", Code.GET_NEW_VMID, (), then)

    def get_range(self) -> None:
        self.ask(
            "ALLOC_ID_RANGE",
            Code.ALLOC_ID_RANGE,
            (),
            lambda body: self._granted([body] if body[0] else []),
        )

    def trade(self) -> None:
        back = tuple(sorted(self.ranges))[:1]
        self.ranges -= set(back)
        wanted = self.world.rng.randint(0, 2)
        self.ask(
            "TRADE_ID_RANGES",
            Code.TRADE_ID_RANGES,
            (wanted, back),
            lambda body: self._granted(body[0]),
        )

    def _granted(self, ranges: Any) -> None:
        for start, end in ranges:
            for program in self.world.programs():
                if any(start <= b and a <= end for a, b in program.owned()):
                    raise Violation(f"{start}-{end} given to {self.process.vmid}: not free")
            self.ranges.add((start, end))

    def owned(self) -> list[tuple[int, int]]:
        """Every ID that was given to this process, and not given back."""
        return [*self.ranges, *self.process.member.ids.ranges()]

    def use_ids(self) -> None:
        member, now = self.process.member, self.world.now
        if self.ids and self.world.rng.random() < 0.6:
            id = self.ids.pop()
            back = member.ids.release(id, now) or ()
            self.process.perform_aside(member.provision.give_back(back, now))
            return
        found = member.ids.new(now)
        if found is None:
            self.process.perform_aside(member.provision.want_range(now))
            return
        if any(found in program.ids for program in self.world.programs()):
            raise Violation(f"ID {found} in use twice")
        self.ids.append(found)

    def top_up(self) -> None:
        self.process.perform_aside(self.process.member.provision.top_up(self.world.now, 2))

    def find_owner(self) -> None:
        def then(body: Any) -> None:
            if body[0] != self.process.vmid:
                raise Violation(f"{self.pid} is {self.process.vmid}'s, and not {body[0]}'s")

        self.ask("GET_ID_OWNER", Code.GET_ID_OWNER, (self.pid,), then)

    def regroup(self) -> None:
        pgid = self.world.rng.choice([0, *(p.pid for p in self.world.programs())])
        self.ask("SET_PGID", Code.SET_PGID, (0, pgid), lambda body: None)

    def pgid_changed(self, effect: PgidChanged) -> None:
        self.pgid = effect.pgid

    # ---- signals

    def catch(self) -> None:
        """From now on the group's signals come as messages."""

        def then(body: Any) -> None:
            self.catches = True

        self.ask("SET_CAUGHT", Code.SET_CAUGHT, (1 << SIGNAL,), then)

    def kill_all(self) -> None:
        """Signal all others, of whom the first are to hear it once each."""
        if not all(program.catches for program in self.world.programs() if program.is_first):
            return

        def then(body: Any) -> None:
            if body[0] not in (0, -errno.ESRCH):
                raise Violation(f"VMID {self.process.vmid} may not signal: {body}")
            self.kills += not body[0]

        self.ask("PID_KILL", Code.PID_KILL, (self.pid, 0, 0, SIGNAL, 3), then)

    def signalled(self, effect: Signalled) -> None:
        self.signals[effect.info.sender] = 1 + self.signals.get(effect.info.sender, 0)

    # ---- words and messages

    def say_word(self) -> None:
        """A word that wants no answer, and of which the leader keeps each one."""
        self.said += 1
        self.tell(Code.CHILDEXIT, (0, self.pid, 0, self.said, 0))

    def say_how_it_ends(self) -> None:
        """To one that is its parent for that moment, and may be dead, or about to die."""
        others = [p for p in self.world.processes.values() if p is not self.process]
        parents = [p for p in others if p.asks is None]
        if parents:
            self.parents.append(self.world.rng.choice(parents))
            told = (0, self.pid, 1, len(self.parents), 0)
            self.tell(Code.CHILDEXIT, told, self.parents[-1].vmid)

    def hears_how_it_ended(self, told: ChildExit) -> None:
        """As parent, or as the leader."""
        if told.uid:
            self.world.ends[told.src, told.exit_code, self.process.vmid] += 1

    def talk(self, code: int) -> None:
        others = [p for p in self.world.programs() if p is not self]
        if not others:
            return
        dst = self.world.rng.choice(others).process.vmid
        turn = self.world.sent[self.process.vmid, dst] = 1 + self.world.sent.get(
            (self.process.vmid, dst), 0
        )
        payload = b"%d" % turn
        if code == TOLD:
            self.tell(code, payload, dst)
            return

        def then(body: Any) -> None:
            if bytes(body) != payload:
                raise Violation(f"{payload!r} was answered {body!r}")

        self.ask("a question", code, payload, then, dst)

    def deliver(self, effect: Message) -> None:
        pair = effect.src, self.process.vmid
        turn = self.world.come[pair] = 1 + self.world.come.get(pair, 0)
        if effect.payload != b"%d" % turn:
            raise Violation(f"message {effect.payload!r} of {pair}, instead of {turn}")
        if effect.seq:
            self.asked.append((effect.src, effect.seq, effect.payload))

    def reply(self) -> None:
        src, seq, payload = self.asked.pop(self.world.rng.randrange(len(self.asked)))
        self.process.perform_aside(self.process.member.answer(src, seq, payload, self.world.now))

    def withdrawn(self, effect: Withdraw) -> None:
        """Nobody waits for this answer; a lock is the leader's affair."""
        self.asked = [each for each in self.asked if each[:2] != (effect.src, effect.seq)]

    def give_up(self) -> None:
        """Nobody waits any more for something that it does no harm to be granted."""
        harmless = ("a question", "GET_ID_OWNER", "SET_PGID")
        waiting = [t for t in self.tickets if t.state == "open" and t.what in harmless]
        if waiting:
            ticket = self.world.rng.choice(waiting)
            ticket.state = "withdrawn"
            self.process.perform_aside(self.process.member.withdraw(ticket.seq, self.world.now))

    # ---- the lock

    def use_lock(self) -> None:
        if self.taking_back:
            return
        if self.lock:
            self.unlock()
        elif self.lock_seq:
            self.withdraw_lock()
        else:
            self.world.handles += 1
            self.lock_handle = self.process.vmid << 32 | self.world.handles
            self.lock_seq, self.lock_ticket = self.ask(
                "FILE_LOCK_TAKE", Code.FILE_LOCK_TAKE, self._place(WRITE), self._locked
            )

    def _place(self, type: int) -> tuple[Any, ...]:
        return (1, type, 0, EOF, self.pid, self.lock_handle, WAIT, b"/f", 1, 2, LOCKER)

    def _locked(self, body: Any) -> None:
        if body[0]:
            raise Violation(f"VMID {self.process.vmid} cannot lock: {body}")
        self.lock = body[1]
        if not self.taking_back:
            self._hold()

    def _hold(self) -> None:
        self.lock_seq = 0
        for other in self.world.programs():
            sure = other.lock and not other.taking_back and not other.leaving
            if other is not self and sure:
                raise Violation(f"VMIDs {other.process.vmid} and {self.process.vmid} both lock")
        if self.lock <= self.world.last_grant:
            raise Violation(f"grant {self.lock} after {self.world.last_grant}")
        self.world.last_grant = self.lock

    def unlock(self) -> None:
        self.lock = 0
        if self.world.rng.random() < 0.5:
            self.tell(Code.FILE_LOCK_TAKE, self._place(UNLOCK))
        else:
            self.ask("an unlock", Code.FILE_LOCK_TAKE, self._place(UNLOCK), lambda body: None)

    def withdraw_lock(self) -> None:
        """Nobody waits for the lock any more."""
        seq, member = self.lock_seq, self.process.member
        ticket = self.lock_ticket
        assert ticket is not None
        self.taking_back = True

        def then(body: Any) -> None:
            self.taking_back = False
            if body[0] == 0:
                member.calls.withdraw(seq)
                ticket.state = "withdrawn"
                self.lock = self.lock_seq = 0
            elif not self.lock:
                raise Violation(f"{ticket} cannot be withdrawn: {body}, and was not granted")
            else:
                self._hold()

        self.ask("FILE_LOCK_WITHDRAW", Code.FILE_LOCK_WITHDRAW, (seq,), then)

    # ---- the handle

    def use_handle(self) -> None:
        member, now, rng = self.process.member, self.world.now, self.world.rng
        client = member.sync.client
        if not self.handle:
            if not self.opening:
                self.opening = True
                ticket = Ticket(self, "SYNC_OPEN", 0, self._opened)
                self.process.perform_aside(member.sync.open(OPEN, ticket, now))
        elif self.using is not None:
            self.unlock_handle()
        elif self.handle_ticket is not None:
            if rng.random() < 0.3:
                self.handle_ticket.state = "withdrawn"
                ticket, self.handle_ticket = self.handle_ticket, None
                self.process.perform_aside(
                    member.sync.do(client.withdraw(self.handle, ticket), now)
                )
        elif rng.random() < 0.07:
            id, self.handle = self.handle, 0
            self.process.perform_aside(member.sync.do(client.close(id), now))
        else:
            state = rng.choice([State.SHARED, State.EXCLUSIVE])
            ticket = Ticket(self, f"{state.name} of a handle", 0, partial(self._use, state))
            self.handle_ticket = ticket
            self.process.perform_aside(
                member.sync.do(client.lock(self.handle, USER, state, ticket), now)
            )

    def _opened(self, body: Any) -> None:
        self.opening = False
        self.handle = body[0]

    def _use(self, state: State, value: Any) -> None:
        self.handle_ticket = None
        self.using = state
        committed = self.world.values.get(self.handle, (0, b""))
        if tuple(value) != committed:
            raise Violation(f"{value} was read of {self.handle}, and {committed} committed")

    def unlock_handle(self) -> None:
        member = self.process.member
        state, self.using = self.using, None
        data = b"%d" % self.world.rng.randrange(10**6)
        changed = state is State.EXCLUSIVE and self.world.rng.random() < 0.8
        self.process.perform_aside(
            member.sync.do(
                member.sync.client.unlock(self.handle, USER, data if changed else None),
                self.world.now,
            )
        )

    def publish(self, effect: Publish) -> None:
        self.process.published[effect.id] = effect.version, effect.data
        before = self.world.values.get(effect.id, (0, b""))
        if effect.version != before[0] + 1:
            raise Violation(f"version {effect.version} committed after {before}")
        self.world.values[effect.id] = effect.version, bytes(effect.data)  # type: ignore[call-overload]

    # ---- life

    def fork(self) -> None:
        member = self.process.member
        if not member.provision.pairs or len(self.world.programs()) > 6:
            return
        vmid, pid = member.provision.pairs.popleft()
        child = self.world.spawn(vmid, pid, member.epoch, member.leader_vmid)
        child.program.pgid = self.pgid
        child.program.is_child = True
        self.tell(Code.CHILD_STARTED, (vmid, pid))
        child.do(
            *([lambda: child.perform(child.member.report_back(child.now))] * (member.epoch > 1)),
            *(partial(self._greet, child, peer) for peer in (member.leader_vmid, member.vmid)),
        )

    @staticmethod
    def _greet(child: Process, peer: int) -> None:
        child.perform(child.member.greet(peer, child.now))

    def child_joined(self, effect: ChildJoined) -> None:
        self.children.add(effect.vmid)

    def leave(self) -> None:
        """Close the handles, have everything arrive, tell the leader."""
        self.leaving = "flushing"
        self.handle_ticket = self.using = None
        for ticket in self.tickets:
            if ticket.state == "open":
                ticket.state = "left"
        member = self.process.member
        self.process.perform_aside(member.sync.do(member.sync.client.close_all(), self.world.now))

    def say_goodbye(self) -> None:
        def then(body: Any) -> None:
            self.leaving = "left"

        self.leaving = "asking"
        self.ask("LEAVE", Code.LEAVE, (), then)

    def finish(self) -> None:
        """It has left: a leader has what it wrote sealed, so that nobody waits for it."""
        log, self.process.log = self.process.log, None
        if log is not None:
            log.sealed = True
            self.process.member.depose()
        else:
            self.world.kill(self.process)
