"""What the members of a group without a lasting leader ask for, and what they were told.

They send again what is outstanding whenever there is another epoch, and judge every answer: nothing
may be given twice, and no request be answered twice.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from libos_ipc.core.codes import Code
from libos_ipc.core.member import Member
from libos_ipc.core.succession import Succession
from libos_ipc.core.vocabulary import Effect, Effects, Outgoing

from .history import Violation

__all__ = ["Claims", "Led", "Log", "Process"]

WRITE_LOCK, UNLOCK = 1, 2

Word: TypeAlias = tuple[int, int, int]


class Log:
    """The journal of one epoch."""

    def __init__(self) -> None:
        self.leader = 0
        self.sealed = False
        self.records: list[bytes] = []


class Led:
    """What a leader has beside its succession: the machines, and what is still to be done."""

    def __init__(self, epoch: int, member: Member) -> None:
        self.epoch = epoch
        self.member = member
        self.inbox: deque[Callable[[], Effects]] = deque()
        self.doing: deque[Effect] = deque()
        self.numbers: dict[int, int] = {}  # of the messages of each member on its link


class Process:
    """One process: a member, unless it is the founder; perhaps the leader."""

    def __init__(self, pid: int, epoch: int, leader: int, *, may_lead: bool) -> None:
        self.pid = pid
        self.vmid = 0
        self.alive = True
        self.stopped = False
        self.succession = Succession(pid, epoch=epoch, leader=leader, may_lead=may_lead)
        self.deeds: deque[Any] = deque()
        self.led: Led | None = None
        # as a member
        self.epoch = epoch
        self.seq = 0
        self.waits: dict[int, tuple[Code, tuple[Any, ...]]] = {}
        self.inbox: deque[tuple[int, int, int, Outgoing]] = deque()  # epoch, number, acked
        #: said and not known to have arrived: epoch and number on the link, and what
        self.words: list[Word] = []
        self.said = 0
        self.acked = 0
        self.ranges: set[tuple[int, int]] = set()
        self.vmids: set[int] = set()
        self.lock = 0  # the number of what it holds of the one file
        self.wants_lock = False


class Claims:
    """The members' part of a world."""

    rng: random.Random
    now: float
    processes: dict[int, Process]
    told_vmids: set[int]
    tokens: list[tuple[int, int]]
    answered_again: int
    said_again: int

    @property
    def members(self) -> list[Process]:
        """Those alive."""
        return [p for p in self.processes.values() if p.vmid and p.alive]

    def ask(self, process: Process, seq: int, code: Code, fields: tuple[Any, ...]) -> None:
        """The request is on its way to whoever leads the epoch that the member is in."""
        led = self.led_of(process.epoch)
        if led is not None:
            led.inbox.append(partial(self.arrive, led, process, code, seq, fields))

    def arrive(self, led: Led, process: Process, *what: Any) -> Effects:
        """A message arrives, the next on its link."""
        member, src = led.member, process.vmid
        assert member.leader is not None
        self.answered_again += member.leader.answered.find(src, what[1]) is not None
        number = led.numbers[src] = led.numbers.get(src, 0) + 1
        acked = process.acked if process.epoch == led.epoch else 0
        effects = member.on_hello(src, self.now)
        return [*effects, *member.on_message(src, number, acked, *what, self.now)]

    def say(self, process: Process) -> None:
        """A word that wants no answer, and of which the leader keeps each one."""
        process.said += 1
        process.words.append((0, 0, process.said))
        led = self.led_of(process.epoch)
        if led is not None:
            led.inbox.append(partial(self.hear, led, process, process.said))

    def hear(self, led: Led, process: Process, word: int) -> Effects:
        """It arrives, unless its link was closed."""
        if process.epoch != led.epoch:
            return []
        at = [each[2] for each in process.words].index(word)
        process.words[at] = led.epoch, led.numbers.get(process.vmid, 0) + 1, word
        told = (0, self.pid_of(process), 0, word, 0)
        return self.arrive(led, process, Code.CHILDEXIT, 0, told)

    def led_of(self, epoch: int) -> Led | None:
        for process in self.processes.values():
            if process.led is not None and process.led.epoch == epoch:
                return process.led
        return None

    def rejoin(self, process: Process, epoch: int) -> None:
        """Links of older epochs are closed, and what is outstanding is sent again."""
        process.epoch = epoch
        process.inbox.clear()
        process.acked = 0
        if not process.vmid:
            return
        waits = frozenset(process.waits)
        led = self.led_of(epoch)
        if led is not None:
            led.inbox.append(partial(self.back, led, process, waits, list(process.words)))
        for seq, (code, fields) in process.waits.items():
            self.ask(process, seq, code, fields)

    def back(self, led: Led, process: Process, waits: frozenset[int], words: list[Word]) -> Effects:
        """It tells what it waits for, hears what is known of it, and says the rest again."""
        assert led.member.leader is not None
        answered = led.member.leader.answered
        if process.epoch != led.epoch:
            return []
        answered.only(process.vmid, waits)
        epoch, number = answered.last_heard(process.vmid)
        heard = [w for w in words if w[0] == epoch and 0 < w[1] <= number]
        process.words = [w for w in process.words if w not in heard]
        again = [w for w in words if w not in heard]
        self.said_again += len(again)
        return [effect for w in again for effect in self.hear(led, process, w[2])]

    def request(self, process: Process) -> None:
        """Something random is wanted of the leader."""
        chance = self.rng.random()
        if self.rng.random() < 0.2:
            self.say(process)
        if chance < 0.2:
            code, fields = Code.GET_NEW_VMID, ()
        elif chance < 0.45:
            code, fields = Code.ALLOC_ID_RANGE, ()
        elif chance < 0.6:
            back = tuple(sorted(process.ranges))[1:2]
            process.ranges -= set(back)
            code, fields = Code.TRADE_ID_RANGES, (self.rng.randint(0, 3), back)
        elif process.wants_lock and not process.lock:
            return
        else:
            process.wants_lock = not process.wants_lock
            type = WRITE_LOCK if process.wants_lock else UNLOCK
            code = Code.FILE_LOCK_TAKE
            own = self.pid_of(process)
            handle = process.vmid << 32 | 7
            where = (1, type, 0, 2**63 - 1, own, handle, int(process.wants_lock))
            if not process.wants_lock:
                process.lock = 0
            fields = (*where, b"/f", 1, 2, 1)
        process.seq += 1
        process.waits[process.seq] = code, fields
        self.ask(process, process.seq, code, fields)

    def pid_of(self, process: Process) -> int:
        return min(process.ranges)[0]

    def read(self, process: Process) -> None:
        epoch, number, acked, message = process.inbox.popleft()
        if epoch != process.epoch:
            return
        process.acked = max(process.acked, number)
        process.words = [each for each in process.words if each[0] != epoch or each[1] > acked]
        if message.code not in (Code.RESP, Code.ERROR):
            return
        if message.seq not in process.waits:
            raise Violation(f"{message} answers nothing, or once more")
        code, fields = process.waits.pop(message.seq)
        if message.code == Code.ERROR:
            raise Violation(f"{code.name} {fields} was refused: {message.body}")
        body = message.body
        assert isinstance(body, tuple)
        self.learn(process, code, fields, body)

    def learn(self, process: Process, code: Code, fields: tuple[Any, ...], body: Any) -> None:
        if code == Code.GET_NEW_VMID:
            if body[0] in self.told_vmids:
                raise Violation(f"VMID {body[0]} given out twice")
            self.told_vmids.add(body[0])
            process.vmids.add(body[0])
        elif code == Code.ALLOC_ID_RANGE:
            self.learn_ranges(process, [body] if body[0] else [])
        elif code == Code.TRADE_ID_RANGES:
            self.learn_ranges(process, body[0])
        elif fields[1] == WRITE_LOCK:
            holders = [p.pid for p in self.members if p.lock]
            if holders:
                raise Violation(f"locked by {process.pid}, while {holders} hold it")
            process.lock = body[1]
            self.tokens.append((process.epoch, body[1]))

    def learn_ranges(self, process: Process, given: Any) -> None:
        for start, end in given:
            for other in self.members:
                if any(start <= b and a <= end for a, b in other.ranges):
                    raise Violation(f"{start}-{end} given to {process.pid}, {other.pid} has it")
            process.ranges.add((start, end))
