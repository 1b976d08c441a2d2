"""File locks as the running kernel has them: random scripts, in lock step with real processes.

A script is a list of steps: set, query, wait, unlock, give up waiting, share descriptors, end.
Each step is done by a real process on a real file through the kernel, and by the machine. After
each step it is waited until every process has answered or is shown as blocked by /proc/locks
(never for a fixed time), and then all must be alike: the answers (success, EAGAIN, EDEADLK, who
is in the way and with what), who is blocked, who was woken, and all that is held.

What is not defined, and how it is compared:

*Who of several woken is first.* The kernel wakes them, and they race. The machine has them in
order of arrival. If the kernel's outcome is another one, some other order of arrival must make
the machine decide the same, answers and held locks alike; the machine then goes on from there.
Among owners woken in one step a query may name any first.

*Deadlocks.* The kernel looks only along one blocker per waiter, only at POSIX requests, and gives
up after ten steps: where the machine says EDEADLK and the kernel blocks, the cycle is looked for
once more by the twin, in the plainest way, and the kernel's waiter is interrupted. The other way
round there are two cases, in which the twin must find the cycle with what they add and none
without, and the machine's waiter is withdrawn: the kernel does not know that a description is
shared, which closes no cycle here; and a request on a description (OFD) is never refused, so that
it may leave a cycle standing, on which a POSIX waiter stumbles when it is woken and looks again.

Left out: two processes in `flock` on one shared description at a time, one of them waiting. The
kernel then takes the description's lock away when the waiter is woken in vain.

In a test run these are some 150 scripts; `python tests/test_locks_against_kernel.py 5000` does
as many as it says, from the seed that may be given as the second argument.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import permutations
from multiprocessing import connection
from typing import Any, NamedTuple

import pytest
from processes import DEADLINE_S, Forked, Line
from twins.locks_twin import TAIL, LocksTwin, shifted

from libos_ipc.core.file_locks import FileLocks
from libos_ipc.core.lock_words import (
    EOF,
    NO_WAIT,
    READ,
    UNLOCK,
    WAIT,
    WRITE,
    Ask,
    Kind,
    Owner,
)

SCRIPTS = 150
STEPS = 40
PROCESSES = 6
READINGS = 20

POSIX, OFD, FLOCK, _ = Kind
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
FLOCK_OF = {READ: fcntl.LOCK_SH, WRITE: fcntl.LOCK_EX, UNLOCK: fcntl.LOCK_UN}
#: struct flock: type, whence, start, length, pid
FORMAT = "hhqqi4x"
INTERRUPTED = -1
#: What a count calls an answer; none means that the process blocks.
NAMES = {None: "blocks", 0: "success", errno.EAGAIN: "EAGAIN", errno.EDEADLK: "EDEADLK"}


# ---- the kernel's side


class Command(NamedTuple):
    """What a process is to do with the kernel; `start` and `length` as a program gives them."""

    name: str  # set, get, open, give, take, end
    kind: int = 0
    handle: int = 0
    type: int = 0
    start: int = 0
    length: int = 0
    wait: int = 0


class Interrupted(Exception):
    """The test has sent us a signal, to give up waiting."""


def process(line: Line, path: str, pipe: socket.socket) -> None:
    """One of the forked processes: executes commands, one at a time."""

    def on_signal(*_: object) -> None:
        raise Interrupted

    signal.signal(signal.SIGUSR1, on_signal)
    opened: dict[int, int] = {}
    while True:
        command = line.recv()
        if not isinstance(command, tuple):
            return
        try:
            answer = execute(command, path, pipe, opened)
        except OSError as error:
            answer = error.errno
        except Interrupted:
            answer = INTERRUPTED
        line.send(answer)


def execute(command: Command, path: str, pipe: socket.socket, opened: dict[int, int]) -> Any:
    name, kind, handle, type, start, length, wait = command
    if name == "end":
        while opened:
            os.close(opened.popitem()[1])
        return 0
    if name == "give":
        socket.send_fds(pipe, [b"!"], [opened[handle]])
        return 0
    if name == "take":
        (got,) = socket.recv_fds(pipe, 1, 1)[1]
        opened[handle] = got
        return 0
    if handle not in opened:
        opened[handle] = os.open(path, os.O_RDWR)
    fd = opened[handle]
    if kind == FLOCK:
        fcntl.flock(fd, FLOCK_OF[type] | (0 if wait else fcntl.LOCK_NB))
        return 0
    ofd = kind == OFD
    asked = struct.pack(FORMAT, type, os.SEEK_SET, start, length, 0)
    if name == "get":
        answer = fcntl.fcntl(fd, F_OFD_GETLK if ofd else fcntl.F_GETLK, asked)
        found, _, start, length, pid = struct.unpack(FORMAT, answer)
        return None if found == UNLOCK else (found, start, length, pid)
    if ofd:
        fcntl.fcntl(fd, F_OFD_SETLKW if wait else F_OFD_SETLK, asked)
    else:
        fcntl.fcntl(fd, fcntl.F_SETLKW if wait else fcntl.F_SETLK, asked)
    return 0


class Kernel:
    """The processes, and what /proc/locks says of their file."""

    def __init__(self, stack: ExitStack) -> None:
        fd, self.path = tempfile.mkstemp(prefix="li-locks-")
        stack.callback(os.unlink, self.path)
        status = os.fstat(fd)
        os.close(fd)
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        self.inode = f"{device}:{status.st_ino}"
        self.forked: list[Forked] = []
        self.pipes: list[socket.socket] = []
        for _ in range(PROCESSES):
            mine, childs = socket.socketpair()
            stack.callback(mine.close)
            self.forked.append(stack.enter_context(Forked(process, self.path, childs)))
            childs.close()
            self.pipes.append(mine)
        self.os_pids = [forked.os_pid for forked in self.forked]
        #: what the processes are doing that have not answered
        self.doing: dict[int, tuple[Any, ...]] = {}
        self.answers: dict[int, Any] = {}

    def tell(self, who: int, command: Command, shown: tuple[Any, ...] = ()) -> None:
        """Let a process do something. `shown` is its line in /proc/locks if it blocks."""
        self.forked[who].send(command)
        self.doing[who] = shown

    def interrupt(self, who: int) -> None:
        """Let a process that is blocked give up."""
        self.forked[who].kill(signal.SIGUSR1)
        self.collect(self.forked[who]._pipe, DEADLINE_S)
        self.settle()
        assert self.answers.pop(who) == INTERRUPTED

    def settle(self) -> None:
        """Wait until everybody has answered or is blocked."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            pipes = [self.forked[who]._pipe for who in self.doing]
            for pipe in connection.wait(pipes, 0) if pipes else ():
                self.collect(pipe, 0)
            expected = Counter(self.doing.values())
            if not expected or Counter(self.locks(blocked=True)) == expected:
                return
            assert time.monotonic() < deadline, (self.doing, self.locks(blocked=True))
            connection.wait([self.forked[who]._pipe for who in self.doing], 0.0005)

    def collect(self, pipe: Any, timeout: float) -> None:
        for who, forked in enumerate(self.forked):
            if forked._pipe is pipe and pipe.poll(timeout):
                self.answers[who] = forked.recv()
                del self.doing[who]

    def locks(self, *, blocked: bool) -> list[tuple[Any, ...]]:
        """(kind, type, pid, start, end) of the lines of our file."""
        found = []
        with open("/proc/locks") as file:
            for line in file:
                if self.inode in line:
                    words = line.split()
                    if (words[1] == "->") == blocked:
                        kind, _, type, pid, _, start, end = words[1 + blocked :]
                        family = {"POSIX": POSIX, "OFDLCK": OFD, "FLOCK": FLOCK}[kind]
                        last = EOF if end == "EOF" else int(end)
                        mode = WRITE if type == "WRITE" else READ
                        found.append((family, mode, int(pid), int(start), last))
        return found

    def holds(self, expected: Iterable[tuple[Any, ...]]) -> bool:
        """Whether these are the locks that are held.

        The file is read in pages, between which any process of the machine may change it, so that
        a line can be missed or seen twice: only what is read again and again is so.
        """
        lines = Counter(expected)
        return any(lines == Counter(self.locks(blocked=False)) for _ in range(READINGS))

    def call(self, who: int, command: Command) -> Any:
        """Let a process do something that does not block."""
        self.tell(who, command)
        self.collect(self.forked[who]._pipe, DEADLINE_S)
        return self.answers.pop(who)

    def share(self, giver: int, taker: int, handle: int) -> None:
        """Another process gets an open description, as a forked one has it."""
        assert self.call(giver, Command("give", handle=handle)) == 0
        (fd,) = socket.recv_fds(self.pipes[giver], 1, 1)[1]
        try:
            socket.send_fds(self.pipes[taker], [b"!"], [fd])
        finally:
            os.close(fd)
        assert self.call(taker, Command("take", handle=handle)) == 0

    def clear(self) -> None:
        """After a script: nobody waits, nobody holds, nothing is open."""
        while self.doing:
            self.interrupt(next(iter(self.doing)))
        for who in range(PROCESSES):
            assert self.call(who, Command("end")) == 0
        assert self.holds(())


# ---- both sides


def ids_of(held: Any, owner: Owner) -> tuple[Any, ...]:
    """As in /proc/locks."""
    pid = -1 if owner.kind == OFD else held.pid
    return (owner.kind, held.type, pid, held.start, held.end)


class Script:
    """One script: both sides from nothing, step by step."""

    def __init__(self, kernel: Kernel, seed: int, seen: Counter[str]) -> None:
        self.kernel = kernel
        self.dice = random.Random(seed)
        self.seed = seed
        self.seen = seen
        self.machine = FileLocks()
        self.journal: list[tuple[Any, ...]] = []
        self.history: list[Any] = []
        self.count = self.dice.randint(2, PROCESSES)
        self.kinds = self.dice.choice(
            ((POSIX,), (POSIX,), (OFD,), (FLOCK,), (POSIX, OFD), (POSIX, OFD, FLOCK))
        )
        self.cells = self.dice.choice((3, 6, TAIL))
        self.base = self.dice.choice((0, 0, 0, 2**40, 2**63 - 2 - TAIL))
        self.seq = 0
        self.handles = iter(range(2, 10**6))
        #: handles of each process: even ones for OFD, odd ones for FLOCK; 0 is for POSIX
        self.handles_of: dict[int, list[int]] = {}
        #: owners woken in one step, whose order in queries is anybody's guess
        self.woken_at: dict[Owner, int] = {}

    def run(self) -> None:
        for who in range(self.count):
            self.handles_of[who] = [next(self.handles), next(self.handles)]
        try:
            for _ in range(STEPS):
                self.step()
                self.compare_held()
        except AssertionError:
            print(f"script {self.seed}:")
            for step in self.history:
                print("   ", step)
            raise
        finally:
            self.kernel.clear()

    def step(self) -> None:
        idle = [who for who in range(self.count) if who not in self.kernel.doing]
        what = self.dice.random()
        if self.kernel.doing and (not idle or what < 0.06):
            self.give_up(self.dice.choice(sorted(self.kernel.doing)))
            return
        who = self.dice.choice(idle)
        if what < 0.09:
            self.end(who)
        elif what < 0.12 and self.kinds != (POSIX,):
            self.share(who, self.dice.choice(idle))
        elif what < 0.30:
            self.query(who)
        elif what < 0.46:
            self.set(who, UNLOCK)
        else:
            self.set(who, self.dice.choice((READ, WRITE)))

    # ---- steps

    def choose(self, who: int, type: int, wait: int) -> tuple[Ask, Command]:
        """A request of a process, and what it says to the kernel for it."""
        self.seq += 1
        kind = self.dice.choice(self.kinds)
        start = self.dice.randrange(self.cells + 1)
        length = self.dice.choice((1, 2, 3, 6, 0))
        if not length or start + length > TAIL:
            length = 0
        first = self.base + start
        last = first + length - 1 if length else EOF
        given = (first, length)
        if self.dice.random() < 0.2:
            if length:
                given = (last + 1, -length)
            elif first:
                given = (first, EOF - first + 1)
        pid = self.kernel.os_pids[who]
        handles = [handle for handle in self.handles_of[who] if handle % 2 == (kind == FLOCK)]
        handle = 0 if kind == POSIX else self.dice.choice(handles)
        owner = Owner(kind, pid if kind == POSIX else handle)
        if type == UNLOCK and self.dice.random() < 0.4:
            first, last, given = 0, EOF, (0, 0)
        if kind == FLOCK:
            first, last = 0, EOF
        ask = Ask(who + 2, self.seq, (1, 1), owner, type, first, last, wait, pid, 1, b"/f")
        return ask, Command("set", kind, handle, type, *given, wait)

    def set(self, who: int, type: int) -> None:
        wait = NO_WAIT if type == UNLOCK else self.dice.choice((NO_WAIT, WAIT, WAIT))
        ask, command = self.choose(who, type, wait)
        if ask.owner.kind == FLOCK and any(
            waiter.ask.owner == ask.owner for _, waiter in self.machine.waiting.values()
        ):
            return
        self.history.append((who, command))
        pid = -1 if ask.owner.kind == OFD else ask.pid
        shown = (ask.owner.kind, type, pid, ask.start, ask.end)
        self.kernel.tell(who, command, shown)
        self.kernel.settle()
        self.both(lambda machine: machine.set(ask, 0.0), ask)

    def query(self, who: int) -> None:
        ask, command = self.choose(who, self.dice.choice((READ, WRITE)), NO_WAIT)
        if ask.owner.kind == FLOCK:
            return
        command = command._replace(name="get")
        self.history.append((who, command))
        answer = self.kernel.call(who, command)
        found = self.machine.get(ask)
        self.seen["query, in the way" if found else "query, free"] += 1
        if found is None:
            assert answer is None
            return
        expected = self.as_answered(found.owner, found)
        if answer == expected:
            return
        group = self.woken_at.get(found.owner)
        others = [
            self.as_answered(owner, held)
            for owner, held in self.firsts(ask)
            if group is not None and self.woken_at.get(owner) == group
        ]
        assert answer in others, (answer, expected, others)
        self.seen["query, another of those woken together"] += 1

    def firsts(self, ask: Ask) -> Iterator[tuple[Owner, Any]]:
        """Of each owner in the way its first range that is."""
        met = set()
        for owner, held in self.machine.spaces[1, 1, False].ranges:
            overlaps = held.start <= ask.end and ask.start <= held.end
            if owner != ask.owner and overlaps and WRITE in (ask.type, held.type):
                if owner not in met:
                    yield owner, held
                met.add(owner)

    def as_answered(self, owner: Owner, held: Any) -> tuple[Any, ...]:
        length = 0 if held.end == EOF else held.end - held.start + 1
        return (held.type, held.start, length, -1 if owner.kind == OFD else held.pid)

    def give_up(self, who: int) -> None:
        self.history.append((who, "interrupted"))
        self.kernel.interrupt(who)
        (seq,) = [seq for src, seq in self.machine.waiting if src == who + 2]
        self.both(lambda machine: machine.withdraw(who + 2, seq, 0.0)[1], None)
        self.seen["interrupted"] += 1

    def end(self, who: int) -> None:
        """The process closes all it has, which to locks is the same as its death."""
        self.history.append((who, "ends"))
        self.kernel.tell(who, Command("end"))
        self.kernel.settle()
        assert self.kernel.answers.pop(who) == 0
        self.handles_of[who] = [next(self.handles), next(self.handles)]

        def end(machine: FileLocks) -> Any:
            machine.drop_process(who + 2)
            return machine.settle(0.0)

        self.both(end, None, ("drop_process", who + 2))
        self.seen["ended"] += 1

    def share(self, giver: int, taker: int) -> None:
        """All that the machine knows to be open is open in the other process too."""
        owners = self.machine.owners.owners_of(giver + 2)
        handles = {owner.id for owner in owners if owner.kind != POSIX}
        handles -= set(self.handles_of[taker])
        if giver == taker or not handles:
            return
        self.history.append((giver, "shares with", taker, handles))
        for handle in sorted(handles):
            self.kernel.share(giver, taker, handle)
            self.handles_of[taker].append(handle)
        self.machine.share(giver + 2, taker + 2)
        self.journal.append(("share", giver + 2, taker + 2))
        self.seen["shared"] += 1

    # ---- comparing

    def both(self, step: Any, ask: Ask | None, told: tuple[Any, ...] | None = None) -> None:
        """The machine's turn; it must explain what the kernel has done."""
        answers = {who + 2: answer for who, answer in self.kernel.answers.items()}
        self.kernel.answers.clear()
        waiting = [waiter.ask for _, waiter in self.machine.waiting.values()]
        before = list(self.journal)
        holders = {owner for space in self.machine.spaces.values() for owner, _ in space.ranges}
        reordered: list[Any] = []
        decision = step(self.machine)
        adjusted = self.explain(self.machine, decision, answers, ask)
        for order in permutations(waiting) if adjusted is None else ():
            self.machine = replayed(before)
            reordered = [("left", other.src, other.seq) for other in order]
            reordered += [("wait", other.plain(), False, 0.0) for other in order]
            self.machine.replay(reordered)
            assert self.machine.settle(0.0).records == []
            decision = step(self.machine)
            adjusted = self.explain(self.machine, decision, answers, ask)
            if adjusted is not None:
                self.seen["woken in another order"] += 1
                break
        assert adjusted is not None, ("no order explains", answers, self.kernel.doing)
        self.journal += [*reordered, *([told] if told else []), *decision.records, *adjusted]
        self.machine.check()
        self.note_woken(decision, ask, holders)
        for who in [who for who in self.kernel.doing if self.is_refused(who)]:
            self.kernel.interrupt(who)
        if self.kernel.answers:  # of those who looked again because of that
            self.both(lambda machine: machine.settle(0.0), None)

    def explain(
        self, machine: FileLocks, decision: Any, answers: dict[int, Any], ask: Ask | None
    ) -> list[Any] | None:
        """None if the kernel's answers are not the machine's; else the records of what had to be
        adjusted in the machine."""
        expected = {outcome.src: outcome.errno for outcome in decision.outcomes}
        seen: Counter[str] = Counter()
        records: list[Any] = []
        for src, answer in answers.items():
            if answer == errno.EDEADLK and src not in expected:
                (waits,) = [w.ask for _, w in machine.waiting.values() if w.ask.src == src]
                mine = ask is not None and src == ask.src
                sure = self.is_in_a_cycle(machine, waits, trust_descriptions=mine)
                if sure or not self.is_in_a_cycle(machine, waits, trust_shared=True):
                    return None
                records += machine.withdraw(src, waits.seq, 0.0)[1].records
                expected[src] = errno.EDEADLK
                seen["EDEADLK of the kernel only, " + ("asking" if mine else "woken")] += 1
        if ask is not None and expected.get(ask.src) == errno.EDEADLK and ask.src not in answers:
            if not self.is_in_a_cycle(machine, ask):
                return None
            del expected[ask.src]
            seen["EDEADLK of the machine only"] += 1
        if ask is not None:
            answer = answers.get(ask.src)
            name = NAMES[answer]
            seen[f"{Kind(ask.owner.kind).name} {name}"] += 1
        if expected != answers or not self.kernel.holds(held_by(machine)):
            return None
        self.seen += seen
        return records

    def is_in_a_cycle(
        self,
        machine: FileLocks,
        ask: Ask,
        *,
        trust_shared: bool = False,
        trust_descriptions: bool = True,
    ) -> bool:
        twin = LocksTwin.like(machine, self.base)
        twin.trust_shared = trust_shared
        twin.trust_descriptions = trust_descriptions
        return twin.is_in_a_cycle(shifted(ask, self.base), False, [])

    def is_refused(self, who: int) -> bool:
        """Whether a process is blocked that does not wait in the machine."""
        return all(src != who + 2 for src, _ in self.machine.waiting)

    def note_woken(self, decision: Any, ask: Ask | None, holders: set[Owner]) -> None:
        woken = [
            Owner(*record[1][3])
            for record in decision.records
            if record[0] == "lock" and record[2] and (ask is None or record[1][1] != ask.seq)
        ]
        if woken:
            self.seen["woken"] += len(woken)
            self.seen[f"woken together: {min(len(woken), 3)}"] += 1
            for owner in set(woken) - holders:
                self.woken_at[owner] = len(self.journal)

    def compare_held(self) -> None:
        assert self.kernel.holds(held_by(self.machine)), self.kernel.locks(blocked=False)
        blocked = {who + 2 for who in self.kernel.doing}
        assert blocked == {src for src, _ in self.machine.waiting}


def held_by(machine: FileLocks) -> Iterator[tuple[Any, ...]]:
    for space in machine.spaces.values():
        for owner, held in space.ranges:
            yield ids_of(held, owner)


def replayed(journal: list[tuple[Any, ...]]) -> FileLocks:
    machine = FileLocks()
    for kind, *fields in journal:
        method = getattr(machine, kind, None)
        method(*fields) if method else machine.apply((kind, *fields))
    assert machine.settle(0.0).records == []
    return machine


# ---- running them


def run(scripts: int, seed: int = 0, seen: Counter[str] | None = None) -> Counter[str]:
    """So many scripts; what happened in them, counted."""
    seen = Counter() if seen is None else seen
    with ExitStack() as stack:
        kernel = Kernel(stack)
        for each in range(scripts):
            Script(kernel, seed + each, seen).run()
    return seen


@pytest.mark.parametrize("part", range(3))
def test_scripts(part: int) -> None:
    scripts = int(os.environ.get("LOCK_SCRIPTS", SCRIPTS)) // 3
    seen = run(scripts, 10**6 * part)
    print(dict(seen))
    if scripts >= SCRIPTS // 3:
        for what in ("POSIX EDEADLK", "OFD EAGAIN", "FLOCK blocks", "woken", "interrupted"):
            assert seen[what], (what, seen)


if __name__ == "__main__":
    began = time.monotonic()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else SCRIPTS
    total = run(count, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for what, times in sorted(total.items()):
        print(f"{times:8} {what}")
    print(f"{count} scripts of {STEPS} steps agree, {time.monotonic() - began:.0f} s")
