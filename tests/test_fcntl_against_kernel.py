"""The whole way of a file lock against the kernel: random scripts in two sets of real processes.

The scripts are those of `test_locks_against_kernel.py`, where real processes lock a real file
through the kernel, in lock step with the machine. Here another set of processes, members of a
group, does the same by `libos_ipc.fcntl` on a file of its own. After each step it must answer what
the machine has answered, which has been compared with the kernel just then; the same must be held,
and the same processes must wait, as `group.locks.table()` tells.

A process that ends is killed, or it closes all it has without unlocking; then whoever waits is
found in time, and what nobody waits for goes with the next question.

Two things end a script early. The kernel has woken several in another order than that of arrival,
and goes its own way from there. And a process is about to end that shares a description with one
that has not locked by it yet and cannot now: until then we do not know of it.

All of it is done twice: with a leader that gives a file away only after some time, and with one
that does so after each unlocking, so that processes often decide by themselves.

In a test run these are some 30 scripts; `python -m tests.test_fcntl_against_kernel 5000` does as
many as it says, half of them each way, from the seed that may be given as the second argument.
"""

from __future__ import annotations

import fcntl as kernel_fcntl
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pytest
import test_locks_against_kernel as scripts
from processes import Forked, Line, poll
from test_locks_against_kernel import (
    FLOCK,
    FLOCK_OF,
    OFD,
    POSIX,
    PROCESSES,
    STEPS,
    Command,
    Kernel,
    Script,
)

import libos_ipc
from libos_ipc import fcntl
from libos_ipc.core import delegations
from libos_ipc.core.lock_words import EOF, READ, WRITE, Ask, Owner
from libos_ipc.errors import WouldBlock

SCRIPTS = 15
#: The leader, and after how many unlockings in a row a file is given away. A leader in this process
#: hears of the second.
WAYS = [("process", delegations.STREAK), ("embedded", 1)]
KINDS = {"posix": POSIX, "ofd": OFD, "flock": FLOCK}
TYPES = {"read": READ, "write": WRITE}


class LeftOff(Exception):
    """The script cannot go on; what it has compared until then was alike."""


def process(line: Line, path: str, pipe: socket.socket) -> None:
    """One of ours: executes the same commands, by our module."""
    scripts.fcntl = fcntl  # type: ignore[assignment]
    scripts.process(line, path, pipe)


class Ours(Kernel):
    """The members of a group, and what the group's table says of their file."""

    def __init__(self, stack: ExitStack, group: libos_ipc.Group) -> None:
        self.group = group
        fd, self.path = tempfile.mkstemp(prefix="li-locks-")
        stack.callback(os.unlink, self.path)
        os.close(fd)
        self.probe = os.open(self.path, os.O_RDWR)
        stack.callback(os.close, self.probe)
        self.doing: dict[int, tuple[Any, ...]] = {}
        self.answers: dict[int, Any] = {}
        self.forked: list[Any] = [None] * PROCESSES
        self.pipes: list[Any] = [None] * PROCESSES
        stack.callback(self.end_all)
        for who in range(PROCESSES):
            self.start(who)

    def start(self, who: int) -> None:
        mine, childs = socket.socketpair()
        self.forked[who] = Forked(process, self.path, childs)
        childs.close()
        self.pipes[who] = mine
        self.os_pids = [forked.os_pid if forked else 0 for forked in self.forked]

    def end(self, who: int) -> None:
        forked, pipe = self.forked[who], self.pipes[who]
        self.forked[who] = self.pipes[who] = None
        if forked is not None:
            pipe.close()
            forked.kill()
            forked.__exit__(None, None, None)

    def end_all(self) -> None:
        for who in range(PROCESSES):
            self.end(who)

    def settle(self) -> None:
        """Whoever compares waits for what it expects."""

    def locks(self, *, blocked: bool) -> list[tuple[Any, ...]]:
        """(kind, type, who, start, end); nobody for a description, which several may have."""
        who = {os_pid: number for number, os_pid in enumerate(self.os_pids)}
        return [
            (
                KINDS[row.kind],
                TYPES[row.type],
                who.get(row.os_pid) if blocked or row.kind == "posix" else None,
                row.start,
                row.end,
            )
            for row in self.group.locks.table()
            if row.waiting == blocked and row.os_pid != os.getpid() and row.type != "none"
        ]

    def look(self) -> None:
        """Ask for every lock, so that those are found out that were closed."""
        fcntl.fcntl(
            self.probe, scripts.F_OFD_GETLK, scripts.struct.pack("hhqqi4x", WRITE, 0, 0, 0, 0)
        )
        try:
            fcntl.flock(self.probe, kernel_fcntl.LOCK_EX | kernel_fcntl.LOCK_NB)
        except WouldBlock:
            pass
        fcntl.flock(self.probe, kernel_fcntl.LOCK_UN)


class Both(Script):
    """A script, with the same steps done by ours."""

    def __init__(self, kernel: Kernel, ours: Ours, seed: int, seen: Counter[str]) -> None:
        super().__init__(kernel, seed, seen)
        self.ours = ours
        self.own_dice = random.Random(seed)
        self.decided: list[Any] = []
        self.chosen: tuple[Ask, Command] | None = None

    def run(self) -> None:
        try:
            super().run()
        except LeftOff as why:
            self.seen[f"left off: {why}"] += 1
        finally:
            self.clear_ours()

    def clear_ours(self) -> None:
        ours = self.ours
        for who in list(ours.doing):
            ours.end(who)
            ours.doing.pop(who)
            ours.answers.pop(who, None)
            ours.start(who)
        for who in range(PROCESSES):
            assert ours.call(who, Command("end")) == 0

        def is_empty() -> bool:
            ours.look()
            return [row for row in ours.group.locks.table() if row.type != "none"] == []

        try:
            poll(is_empty, timeout=10, what="an empty table")
        except AssertionError:
            print(f"script {self.seed}:", *self.history, *ours.group.locks.table(), sep="\n    ")
            raise

    # ---- steps

    def choose(self, who: int, type: int, wait: int) -> tuple[Ask, Command]:
        self.chosen = super().choose(who, type, wait)
        return self.chosen

    def set(self, who: int, type: int) -> None:
        done = len(self.history)
        super().set(who, type)
        if len(self.history) > done:
            assert self.chosen is not None
            self.ours.tell(who, self.chosen[1])
            self.compare()

    def query(self, who: int) -> None:
        done = len(self.history)
        super().query(who)
        if len(self.history) == done:
            return
        assert self.chosen is not None
        ask, command = self.chosen
        answer = self.ours.call(who, command._replace(name="get"))
        found = self.machine.get(ask)
        expected = None if found is None else self.as_answered(found.owner, found)
        if expected is not None and expected[3] != -1:
            there = self.kernel.os_pids.index(expected[3])
            expected = (*expected[:3], self.ours.os_pids[there])
        assert answer == expected, ("a query", answer, expected)

    def give_up(self, who: int) -> None:
        super().give_up(who)
        self.ours.interrupt(who)
        self.compare()

    def end(self, who: int) -> None:
        self.touch_all(who)
        super().end(who)
        if self.own_dice.random() < 0.5:
            self.ours.end(who)
            self.ours.start(who)
        else:
            assert self.ours.call(who, Command("end")) == 0
            self.ours.look()
        self.compare()

    def share(self, giver: int, taker: int) -> None:
        before = set(self.handles_of[taker])
        super().share(giver, taker)
        for handle in [handle for handle in self.handles_of[taker] if handle not in before]:
            self.ours.share(giver, taker, handle)
            self.touch(taker, handle)

    def touch(self, who: int, handle: int) -> None:
        """Let a process ask by a descriptor that it shares, which changes nothing: from then on
        it is known to have it."""
        kind = FLOCK if handle % 2 else OFD
        owner = Owner(kind, handle)
        places = self.machine.owners.places(owner)
        held = [
            h for place in places for h in self.machine.spaces[place].ranges.held_by(owner, 0, EOF)
        ]
        if not held:
            return
        if kind == OFD:
            command = Command("get", kind, handle, WRITE, 0, 0)
            self.ours.call(who, command)
        else:
            assert held[0].type in FLOCK_OF
            assert self.ours.call(who, Command("set", kind, handle, held[0].type, 0, 0)) == 0

    def touch_all(self, who: int) -> None:
        """Before a process ends: whoever shares something with it is to be known."""
        for owner in self.machine.owners.owners_of(who + 2):
            for other in self.machine.owners.sharers(owner) - {who + 2}:
                if owner.kind == POSIX:
                    continue
                if other - 2 in self.ours.doing:
                    raise LeftOff("a sharer that waits")
                self.touch(other - 2, owner.id)

    # ---- comparing

    def both(self, step: Any, ask: Ask | None, told: tuple[Any, ...] | None = None) -> None:
        before = self.seen["woken in another order"]
        last: list[Any] = []

        def noted(machine: Any) -> Any:
            last[:] = [step(machine)]
            return last[0]

        super().both(noted, ask, told)
        self.decided += last
        if self.seen["woken in another order"] > before:
            raise LeftOff("woken in another order")

    def compare_held(self) -> None:
        """Again if it fails: other locks come and go, and /proc/locks is read in pieces."""

        def agrees() -> bool:
            try:
                super(Both, self).compare_held()
            except AssertionError:
                self.seen["read again"] += 1
                return False
            return True

        poll(agrees, timeout=5, what="the machine and the kernel alike")

    def compare(self) -> None:
        """Ours must come to what the machine has decided."""
        expected = {o.src - 2: o.errno for decision in self.decided for o in decision.outcomes}
        self.decided.clear()
        ours = self.ours
        try:
            poll(lambda: self.gather() >= expected.keys(), what=f"{expected}, only {ours.answers}")
        except AssertionError:
            print("processes:", ours.os_pids, *ours.group.members(), sep="\n    ")
            print("expected:", *self.expected(), "found:", *ours.group.locks.table(), sep="\n    ")
            raise
        answers = {who: ours.answers.pop(who) for who in expected}
        assert answers == expected, ("answers", answers, expected)
        waiting = {src - 2 for src, _ in self.machine.waiting}
        for who in sorted(ours.doing.keys() - waiting):
            # The kernel alone has refused it, and the machine was told so.
            poll(lambda who=who: who in {row[2] for row in ours.locks(blocked=True)})
            ours.interrupt(who)
        assert ours.doing.keys() == waiting, ("who waits", ours.doing.keys(), waiting)
        assert not ours.answers, ours.answers
        try:
            poll(self.is_alike, timeout=10, what="the same locks")
        except AssertionError:
            print("expected:", *self.expected(), "found:", *ours.group.locks.table(), sep="\n    ")
            raise

    def gather(self) -> Any:
        ours = self.ours
        for who in list(ours.doing):
            ours.collect(ours.forked[who]._pipe, 0)
        return ours.answers.keys()

    def is_alike(self) -> bool:
        """What is held and who waits for what."""
        self.gather()
        ours = self.ours
        found = Counter(ours.locks(blocked=False)), Counter(ours.locks(blocked=True))
        return found == self.expected()

    def expected(self) -> tuple[Counter[Any], Counter[Any]]:
        """What is held, and what is waited for."""
        number = {pid: who for who, pid in enumerate(self.kernel.os_pids)}
        held = Counter(
            (owner.kind, h.type, number[h.pid] if owner.kind == POSIX else None, h.start, h.end)
            for space in self.machine.spaces.values()
            for owner, h in space.ranges
        )
        waiting = Counter(
            (ask.owner.kind, ask.type, ask.src - 2, ask.start, ask.end)
            for ask in (waiter.ask for _, waiter in self.machine.waiting.values())
        )
        return held, waiting


def run(group: libos_ipc.Group, count: int, seed: int, say: Callable[[int], None]) -> Counter[str]:
    """So many scripts; what happened in them, counted."""
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        kernel = Kernel(stack)
        ours = Ours(stack, group)
        for each in range(count):
            Both(kernel, ours, seed + each, seen).run()
            say(each)
    return seen


@pytest.mark.parametrize(("group", "streak"), WAYS, indirect=["group"])
def test_scripts(group: libos_ipc.Group, streak: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegations, "STREAK", streak)
    count = int(os.environ.get("LOCK_SCRIPTS", SCRIPTS))
    seen = run(group, count, 0, lambda each: None)
    print(dict(seen))
    for what in ("POSIX EAGAIN", "OFD EAGAIN", "FLOCK blocks", "woken", "interrupted", "ended"):
        assert seen[what], (what, seen)


def main(count: int, seed: int) -> None:
    """For the command line."""
    began = time.monotonic()

    def say(each: int) -> None:
        if each % 100 == 99:
            print(f"{each + 1} scripts, {time.monotonic() - began:.0f} s", flush=True)

    total: Counter[str] = Counter()
    config = libos_ipc.GroupConfig(fork_timeout=1.0)
    for number, (leader, delegations.STREAK) in enumerate(WAYS):
        first, last = (count * n // len(WAYS) for n in (number, number + 1))
        with (
            tempfile.TemporaryDirectory(dir="/dev/shm") as runtime_dir,
            libos_ipc.Group.create("g", runtime_dir=runtime_dir, leader=leader, config=config) as g,
        ):
            total += run(g, last - first, seed + first, lambda n, first=first: say(first + n))
    for what, times in sorted(total.items()):
        print(f"{times:8} {what}")
    print(f"{count} scripts of up to {STEPS} steps agree, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], str(SCRIPTS), "0"][:2]))
