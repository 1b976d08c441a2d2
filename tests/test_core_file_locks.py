"""FileLocks: against cells in dicts, its exact rules one by one, and its cost by counting.

Every decision of every test is written down as a journal would have it, in msgpack, and a
successor that reads it must be in the same state after every step.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from errno import EAGAIN, EBADF, EDEADLK
from typing import Any, NamedTuple

import bytecodes
import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from twins.damage import SAME_EVERY_RUN
from twins.locks_twin import TAIL, LocksTwin

from libos_ipc.core.file_locks import FileLocks
from libos_ipc.core.lock_ranges import LockRanges
from libos_ipc.core.lock_undo import UNDO_KEPT, UNDO_PIECES
from libos_ipc.core.lock_words import (
    EOF,
    NO_WAIT,
    READ,
    UNLOCK,
    WAIT,
    WAIT_TIMED,
    WRITE,
    Ask,
    Decision,
    Held,
    Kind,
    Outcome,
    Owner,
)
from libos_ipc.core.overlaps import Overlaps
from libos_ipc.core.wait_graph import Agent, Edge, explain, find_cycle

#: Without the phase that explains, which takes minutes.
QUICK_TO_FAIL = (Phase.generate, Phase.shrink)

FILE = (65024, 17)
OTHER = (65024, 18)
POSIX, OFD, FLOCK, FAIR = Kind


def through_msgpack(record: object) -> Any:
    """What a successor reads: lists where there were tuples."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(record))


class Play:
    """A machine, its successor, and what every request was answered so far.

    Process 2 has pid 102, and so on. Requests get their sequence numbers here; an answer is 0,
    an errno, or None while the request waits.
    """

    def __init__(self, others: Any = None) -> None:
        self.locks = FileLocks(others)
        self.successor = FileLocks(others)
        self.now = 100.0
        self.seq = 0
        self.answers: dict[int, Outcome] = {}
        self.order: list[int] = []

    def ask(
        self,
        kind: int,
        type: int,
        start: int = 0,
        end: int = EOF,
        *,
        src: int,
        id: int | None = None,
        wait: int = NO_WAIT,
        thread: int = 1,
        file: tuple[int, int] = FILE,
        pid: int | None = None,
    ) -> Ask:
        self.seq += 1
        pid = 100 + src if pid is None else pid
        owner = Owner(kind, pid if id is None else id)
        path = b"/f" if file == FILE else b"/g"
        return Ask(src, self.seq, file, owner, type, start, end, wait, pid, thread, path)

    def set(self, *args: Any, **kwargs: Any) -> int:
        """Ask for a lock, or give one back; the sequence number."""
        ask = self.ask(*args, **kwargs)
        self.done(self.locks.set(ask, self.now))
        return ask.seq

    def done(self, decision: Decision) -> None:
        """What was decided, and what a successor makes of it."""
        for record in decision.records:
            self.successor.apply(through_msgpack(record))
        for outcome in decision.outcomes:
            assert outcome.seq not in self.answers, "answered twice"
            self.answers[outcome.seq] = outcome
            self.order.append(outcome.seq)
        self.check()

    def both(self, name: str, *args: Any) -> None:
        """What is told by records that are not ours."""
        getattr(self.locks, name)(*args)
        getattr(self.successor, name)(*args)
        self.done(self.locks.settle(self.now))

    def withdraw(self, src: int, seq: int) -> bool:
        done, decision = self.locks.withdraw(src, seq, self.now)
        self.done(decision)
        return done

    def check(self) -> None:
        self.locks.check()
        assert self.successor.settle(self.now) == Decision([], [])
        self.successor.check()
        assert self.successor.state() == self.locks.state()

    def __getitem__(self, seq: int) -> int | None:
        return self.answers[seq].errno if seq in self.answers else None

    def held(self, file: tuple[int, int] = FILE, flock: bool = False) -> list[Any]:
        """(owner's ID, type, start, end) of all that is held."""
        space = self.locks.spaces.get((*file, flock))
        found = space.ranges if space is not None else ()
        return [(owner.id, held.type, held.start, held.end) for owner, held in found]


# ---- against the twin


class Step(NamedTuple):
    """One request, before it is known whose handle it names."""

    kind: int
    type: int
    slot: int
    thread: int
    handle: int
    start: int
    length: int | None
    wait: int
    file: tuple[int, int]


class Duel:
    """A machine and its twin, given the same steps: five processes, three threads, two files.

    A thread that waits does nothing else, and of the threads of a process one at a time is in a
    POSIX request, so that no grant closes a cycle; that is tested separately.
    """

    def __init__(self) -> None:
        self.play = Play()
        self.twin = LocksTwin()
        self.vmids = [2, 3, 4, 5, 6]
        self.pids = [102, 103, 104, 105, 106]
        self.next_vmid = 7
        self.journal: list[Any] = []
        self.past: list[tuple[int, int]] = []  # (src, seq) of all requests
        self.worlds: dict[int, Any] = {}  # sequence number -> file and world
        self.numbers = 0
        self.seen: Counter[object] = Counter()

    # ---- steps

    def ask_for(self, step: Step) -> Ask:
        vmid, pid = self.vmids[step.slot], self.pids[step.slot]
        last = step.start + (step.length or 100) - 1
        end = EOF if last >= TAIL else last
        if step.kind == FAIR:
            id = 10 * pid + 2 * step.thread + step.handle  # a handle is used by one thread
        else:
            id = step.handle + 2 * step.slot + (10 if step.file == FILE else 20)
        return self.play.ask(
            *(step.kind, step.type, step.start, end),
            **{"src": vmid, "id": pid if step.kind == POSIX else id, "wait": step.wait},
            **{"thread": step.thread, "file": step.file, "pid": pid},
        )

    def set(self, step: Step) -> None:
        ask = self.ask_for(step)
        if self.is_busy(ask):
            return
        self.worlds[ask.seq] = step.file, step.kind == FLOCK
        self.past.append((ask.src, ask.seq))
        self.compare(self.play.locks.set(ask, self.play.now), self.twin.set(ask))
        if ask.seq not in self.play.answers:
            assert self.play.locks.set(ask, self.play.now) == Decision([], [])

    def is_busy(self, ask: Ask) -> bool:
        """Whether this thread waits, or another thread of its process in a POSIX request."""
        return any(
            other.src == ask.src
            and (other.thread == ask.thread or ask.owner.kind == other.owner.kind == POSIX)
            and not (ask.type == UNLOCK and other.thread != ask.thread)
            for other, _ in self.twin.waiting
        )

    def unlock_any(self, choice: int) -> None:
        """Something that is held, by a thread that does not wait."""
        held = [
            (place, owner, run)
            for place, owners in self.twin.held.items()
            for owner in owners
            for run in self.twin.runs(place, owner, 0, EOF)
        ]
        if held:
            (file, flock), owner, (start, end, cell) = held[choice % len(held)]
            if choice % 3 and start < min(end, TAIL) and not flock:
                start, end = (start, start) if choice % 2 else (start + 1, end)
            ask = self.play.ask(
                *(owner.kind, UNLOCK, start, end), src=cell.vmid, id=owner.id, file=file, thread=9
            )
            self.worlds[ask.seq] = file, flock
            self.compare(self.play.locks.set(ask, self.play.now), self.twin.set(ask))

    def query(self, step: Step) -> None:
        ask = self.ask_for(step)
        found = self.play.locks.get(ask)
        assert (found and found[:4]) == self.twin.get(ask)
        self.seen["query", found is not None] += 1
        if ask.type != UNLOCK:
            whole = ask._replace(start=0, end=EOF) if ask.owner.kind == FLOCK else ask
            owners = list(dict.fromkeys(owner for owner, _ in self.twin.blockers(whole)))
            expected = [(owner, frozenset(self.twin.sharers[owner])) for owner in owners]
            assert self.play.locks.holders_in_the_way(ask) == expected

    def withdraw(self, src: int, seq: int) -> None:
        expected, answers = self.twin.withdraw(src, seq)
        done, decision = self.play.locks.withdraw(src, seq, self.play.now)
        assert done == expected
        self.compare(decision, answers)

    def withdraw_any(self, choice: int) -> None:
        """One that waits, one that was granted after it waited, or any."""
        waiting = [(ask.src, ask.seq) for ask, _ in self.twin.waiting]
        requests = (waiting, sorted(self.twin.granted), self.past)[choice % 3] or self.past
        if requests:
            self.withdraw(*requests[choice // 3 % len(requests)])

    def clear(self, slot: int) -> None:
        pid = self.pids[slot]
        self.compare(self.play.locks.clear_pid(pid, self.play.now), self.twin.clear_pid(pid))

    def share(self, parent: int, child: int) -> None:
        if parent != child:
            self.tell("share", self.vmids[parent], self.vmids[child])

    def drop_reference(self, slot: int, choice: int) -> None:
        vmid = self.vmids[slot]
        handles = sorted(o for o, v in self.twin.sharers.items() if o.kind != POSIX and vmid in v)
        if handles:
            kind, id = handles[choice % len(handles)]
            decision = self.play.locks.drop_reference(vmid, kind, id, self.play.now)
            self.compare(decision, self.twin.drop_reference(vmid, kind, id))

    def die(self, slot: int) -> None:
        self.tell("drop_process", self.vmids[slot])
        self.vmids[slot] = self.next_vmid
        self.pids[slot] = 100 + self.next_vmid
        self.next_vmid += 1

    def execute(self, slot: int) -> None:
        old, new = self.vmids[slot], self.next_vmid
        self.next_vmid += 1
        self.tell("detach", old)
        self.tell("rename", old, new)
        self.vmids[slot] = new
        self.tell("drop_process", old)

    def tell(self, name: str, *args: Any) -> None:
        getattr(self.twin, name)(*args)
        self.journal.append((name, *args))
        for machine in (self.play.locks, self.play.successor):
            getattr(machine, name)(*args)
        self.compare(self.play.locks.settle(self.play.now), self.twin.settle())

    # ---- what must be alike

    def compare(self, decision: Decision, expected: list[Any]) -> None:
        """The same answers, in the same order within a file; then the same state."""
        got = [(o.src, o.seq, o.errno) for o in decision.outcomes]
        assert sorted(got) == sorted(expected)
        for world in {self.worlds[seq] for _, seq, _ in got}:
            ours, theirs = ([a for a in b if self.worlds[a[1]] == world] for b in (got, expected))
            assert ours == theirs
        for outcome in decision.outcomes:
            self.seen[outcome.errno] += 1
            if outcome.number > self.numbers:
                assert outcome.number == self.numbers + 1
                self.numbers = outcome.number
        self.crash_at_every_record(decision)
        self.play.done(decision)
        self.journal += decision.records
        self.seen.update(record[0] for record in decision.records)
        self.twin.forget_idle()
        self.compare_states()
        self.play.now += 0.5

    def crash_at_every_record(self, decision: Decision) -> None:
        """A successor that finds only the first records of a decision decides the rest alike."""
        records = [through_msgpack(record) for record in decision.records]
        woken = [kind == "lock" and fields[0][4] != UNLOCK for kind, *fields in records[1:]]
        self.seen["woken", min(3, len(woken))] += 1
        if woken and all(woken):
            for count in range(1, len(records)):
                successor = self.after_journal()
                successor.replay(records[:count])
                successor.settle(self.play.now)
                assert successor.state() == self.play.locks.state()

    def after_journal(self) -> FileLocks:
        successor = FileLocks()
        for kind, *fields in self.journal:
            method = getattr(successor, kind, None)
            method(*fields) if method else successor.apply((kind, *fields))
        return successor

    def compare_states(self) -> None:
        locks = self.play.locks
        for file in (FILE, OTHER):
            for flock in (False, True):
                owners = self.twin.held.get((file, flock), {})
                expected = [
                    (owner.id, cell.type, start, end)
                    for owner in owners
                    for start, end, cell in self.twin.runs((file, flock), owner, 0, EOF)
                ]
                assert self.play.held(file, flock) == expected
        waiting = {ask.seq for ask, _ in self.twin.waiting}
        assert {seq for _, seq in locks.waiting} == waiting
        for owner, vmids in self.twin.sharers.items():
            assert locks.sharers(owner) == vmids
        assert sum(row.waiting for row in locks.table(self.play.now)) == len(waiting)
        assert all(row.waits_for for row in locks.table(self.play.now) if row.waiting)


STEPS = st.builds(
    Step,
    kind=st.sampled_from(tuple(Kind)),
    type=st.sampled_from((READ, WRITE, WRITE, UNLOCK)),
    slot=st.integers(0, 4),
    thread=st.integers(1, 3),
    handle=st.integers(0, 1),
    start=st.integers(0, TAIL),
    length=st.sampled_from((1, 2, 3, 6, None)),
    wait=st.sampled_from((WAIT, WAIT, NO_WAIT, WAIT_TIMED)),
    file=st.sampled_from((FILE, FILE, FILE, OTHER)),
)
SLOTS = st.integers(0, 4)


class AgainstTheTwin(RuleBasedStateMachine):
    """Steps that Hypothesis chooses, and makes simpler when they fail."""

    def __init__(self) -> None:
        super().__init__()
        self.duel = Duel()

    @rule(steps=st.lists(STEPS, min_size=1, max_size=6))
    def set(self, steps: list[Step]) -> None:
        for step in steps:
            self.duel.set(step)

    @rule(choice=st.integers(0, 99))
    def unlock(self, choice: int) -> None:
        self.duel.unlock_any(choice)

    @rule(step=STEPS)
    def query(self, step: Step) -> None:
        self.duel.query(step)

    @rule(choice=st.integers(0, 99))
    def withdraw(self, choice: int) -> None:
        self.duel.withdraw_any(choice)

    @rule(slot=SLOTS, choice=st.integers(0, 9))
    def drop_reference(self, slot: int, choice: int) -> None:
        self.duel.drop_reference(slot, choice)

    @rule(slot=SLOTS, other=SLOTS, name=st.sampled_from(("clear", "die", "execute", "share")))
    def trouble(self, slot: int, other: int, name: str) -> None:
        if name == "share":
            self.duel.share(slot, other)
        else:
            getattr(self.duel, name)(slot)

    def teardown(self) -> None:
        assert self.duel.after_journal().state() == self.duel.play.locks.state()


TestAgainstTheTwin = AgainstTheTwin.TestCase
TestAgainstTheTwin.settings = settings(
    SAME_EVERY_RUN, max_examples=60, stateful_step_count=30, phases=QUICK_TO_FAIL
)


def random_duel(seed: int, steps: int = 150) -> Counter[object]:
    """Steps by dice that are weighted so that there are always many who wait."""
    dice = random.Random(seed)
    duel = Duel()
    kinds = dice.choice((tuple(Kind), (POSIX,), (FAIR,), (POSIX, FAIR), (POSIX, OFD), (FLOCK,)))
    cells = dice.choice((3, 6, TAIL))
    for _ in range(steps):
        step = Step(
            kind=dice.choice(kinds),
            type=dice.choice((READ, WRITE, WRITE, UNLOCK)),
            slot=dice.randrange(5),
            thread=dice.choice((1, 2, 3)),
            handle=dice.choice((0, 1)),
            start=dice.randrange(cells + 1),
            length=dice.choice((1, 2, 3, 6, None)),
            wait=dice.choice((WAIT, WAIT, WAIT, NO_WAIT, WAIT_TIMED)),
            file=dice.choice((FILE, FILE, FILE, OTHER)),
        )
        what = dice.random()
        if what < 0.65:
            duel.set(step)
        elif what < 0.82:
            duel.unlock_any(dice.randrange(999))
        elif what < 0.86:
            duel.query(step)
        elif what < 0.94:
            duel.withdraw_any(dice.randrange(99))
        elif what < 0.97:
            duel.drop_reference(step.slot, dice.randrange(9))
        else:
            name = dice.choice(("clear", "die", "execute", "share"))
            other = (dice.randrange(5),) if name == "share" else ()
            getattr(duel, name)(step.slot, *other)
    assert duel.after_journal().state() == duel.play.locks.state()
    return duel.seen


@pytest.mark.parametrize("seed", range(6))
def test_against_the_twin_by_dice(seed: int) -> None:
    seen: Counter[object] = Counter()
    for each in range(10):
        seen += random_duel(100 * seed + each)
    for what in (0, EAGAIN, EDEADLK, EBADF, "left", "undo", "unref", ("woken", 1), ("woken", 2)):
        assert seen[what] > 3, (what, seen)


def test_threads_that_do_as_they_like_are_never_left_in_a_cycle() -> None:
    """Of one process several in POSIX requests at once: then grants close cycles too."""
    refused: Counter[str] = Counter()
    for seed in range(8):
        dice = random.Random(seed)
        play = Play()
        asked: list[Ask] = []
        for _ in range(60):
            kind, src, thread = dice.choice((POSIX, POSIX, FAIR)), dice.randint(2, 4), 0
            waiting = {(w.ask.src, w.ask.thread) for _, w in play.locks.waiting.values()}
            thread = dice.choice([t for t in range(1, 9) if (src, t) not in waiting] or [0])
            start, type = dice.randrange(6), dice.choice((READ, WRITE, WRITE, UNLOCK))
            id = None if kind == POSIX else 100 * src + thread
            file = dice.choice((FILE, OTHER))
            if not thread:
                continue
            if asked and dice.random() < 0.1:
                old = dice.choice(asked)
                play.withdraw(old.src, old.seq)
            ask = play.ask(
                *(kind, type, start, start + dice.randrange(3)),
                **{"src": src, "id": id, "wait": WAIT, "thread": thread, "file": file},
            )
            asked.append(ask)
            decision = play.locks.set(ask, play.now)
            play.done(decision)
            for outcome in decision.outcomes:
                if outcome.errno == EDEADLK:
                    refused["asking" if outcome.seq == ask.seq else "by a grant"] += 1
            twin = LocksTwin.like(play.locks)
            for position, (other, fair) in enumerate(twin.waiting):
                assert not twin.is_in_a_cycle(other, fair, twin.waiting[:position])
    assert refused["asking"] > 5
    assert refused["by a grant"]


# ---- ranges


def test_a_lock_replaces_what_its_owner_had_there() -> None:
    play = Play()
    play.set(POSIX, READ, 0, 9, src=2)
    play.set(POSIX, WRITE, 3, 5, src=2)
    assert play.held() == [(102, READ, 0, 2), (102, WRITE, 3, 5), (102, READ, 6, 9)]
    play.set(POSIX, READ, 4, 4, src=2)
    assert play.held()[1:4] == [(102, WRITE, 3, 3), (102, READ, 4, 4), (102, WRITE, 5, 5)]
    play.set(POSIX, READ, 0, EOF, src=2)
    assert play.held() == [(102, READ, 0, EOF)]


@pytest.mark.parametrize(
    ("start", "end", "held"),
    [
        (10, 19, [(0, 0, 19)]),
        (5, 12, [(0, 0, 12)]),
        (11, 19, [(0, 0, 9), (0, 11, 19)]),
        (10, EOF, [(0, 0, EOF)]),
    ],
)
def test_equal_types_that_touch_or_overlap_are_one(start: int, end: int, held: list[Any]) -> None:
    play = Play()
    play.set(POSIX, READ, 0, 9, src=2)
    play.set(POSIX, READ, start, end, src=2)
    assert play.held() == [(102, *each) for each in held]
    other = Play()
    other.set(POSIX, READ, 0, 9, src=2)
    other.set(POSIX, WRITE, 10, 19, src=2)
    assert other.held() == [(102, READ, 0, 9), (102, WRITE, 10, 19)]


def test_a_new_lock_joins_what_lies_left_and_right_of_it() -> None:
    play = Play()
    for start in (0, 20, 40, 10, 30):
        play.set(POSIX, WRITE, start, start + 9, src=2)
    assert play.held() == [(102, WRITE, 0, 49)]


def test_unlocking_the_middle_leaves_two_and_unlocking_nothing_succeeds() -> None:
    play = Play()
    play.set(POSIX, WRITE, 0, EOF, src=2)
    play.set(POSIX, UNLOCK, 10, 19, src=2)
    assert play.held() == [(102, WRITE, 0, 9), (102, WRITE, 20, EOF)]
    for type, start, end in ((UNLOCK, 10, 19), (UNLOCK, 0, EOF), (UNLOCK, 0, EOF)):
        assert play[play.set(POSIX, type, start, end, src=2)] == 0
    assert play.held() == []
    assert play.locks.spaces == {}
    assert play.locks.owners.owners_of(2) == []


def test_two_files_and_two_pids_have_nothing_to_do_with_each_other() -> None:
    play = Play()
    play.set(POSIX, WRITE, src=2)
    assert play[play.set(POSIX, WRITE, src=3, file=OTHER)] == 0
    assert play[play.set(POSIX, WRITE, src=3)] == EAGAIN


def test_posix_ofd_and_fair_see_one_another_and_flock_sees_none_of_them() -> None:
    for kind in (POSIX, OFD, FAIR):
        for other in (POSIX, OFD, FAIR):
            play = Play()
            play.set(kind, WRITE, src=2, id=7)
            assert play[play.set(other, WRITE, src=3, id=8)] == EAGAIN
        assert play[play.set(FLOCK, WRITE, src=3, id=8)] == 0


def test_a_refusal_says_what_was_asked_and_what_was_found() -> None:
    play = Play()
    play.set(POSIX, READ, 4, EOF, src=2)
    seq = play.set(POSIX, WRITE, 0, 9, src=3)
    expected = "write 0-9 of /f: pid 102 (VMID 2, thread 1) holds read 4-end of /f"
    assert play.answers[seq].text == expected


# ---- query


def test_a_query_names_owners_in_the_order_of_their_first_lock_then_by_start() -> None:
    play = Play()
    for src, start in ((4, 50), (2, 20), (3, 0), (2, 10), (4, 5)):
        play.set(POSIX, READ, start, start + 3, src=src)

    def first(start: int, end: int) -> Any:
        found = play.locks.get(play.ask(POSIX, WRITE, start, end, src=9))
        return found and (found.pid, found.vmid, found.type, found.start, found.end, found.path)

    assert first(0, EOF) == (104, 4, READ, 5, 8, b"/f")
    assert first(0, 4) == (103, 3, READ, 0, 3, b"/f")
    assert first(9, 30) == (102, 2, READ, 10, 13, b"/f")
    assert first(30, 40) is None
    play.set(POSIX, UNLOCK, src=4)
    play.set(POSIX, READ, 0, EOF, src=4)
    assert first(0, EOF) == (102, 2, READ, 10, 13, b"/f")
    assert play.locks.get(play.ask(POSIX, READ, src=9)) is None
    assert play.locks.get(play.ask(OFD, UNLOCK, src=9, id=1)) is None


def test_the_first_in_the_way_is_the_same_by_both_ways_of_looking() -> None:
    """Among few owners and among many, few in the way and many."""
    for seed in range(40):
        dice = random.Random(seed)
        ranges = LockRanges()
        held: list[tuple[Owner, int, int]] = []
        for id in range(dice.choice((5, 100))):
            start = dice.randrange(300)
            end = start + dice.choice((0, 3, 200))
            held.append((Owner(POSIX, id), start, end))
            ranges.put(held[-1][0], Held(start, end, READ, 2, id, 1, 1, 0.0, b""))
        ranges.check()
        for _ in range(30):
            start = dice.randrange(300)
            end = start + dice.choice((0, 3, 200))
            asker = Owner(POSIX, dice.randrange(100))
            expected = [
                each[0] for each in held if each[1] <= end and start <= each[2] and each[0] != asker
            ]
            found = ranges.first(asker, WRITE, start, end)
            assert (found and found[0]) == (expected[0] if expected else None)
            assert ranges.count(asker, WRITE, start, end) == len(expected)
            in_the_way = [owner for owner, _ in ranges.in_the_way(asker, WRITE, start, end)]
            assert sorted(in_the_way) == sorted(expected)


def test_who_holds_what_is_in_the_way() -> None:
    play = Play()
    play.set(POSIX, READ, 0, 9, src=2)
    play.set(OFD, READ, 5, 20, src=3, id=7)
    play.both("share", 3, 4)
    play.set(FLOCK, WRITE, src=5, id=8)

    def holders(kind: int, type: int, start: int, src: int) -> Any:
        return play.locks.holders_in_the_way(play.ask(kind, type, start, EOF, src=src))

    posix, ofd = (Owner(POSIX, 102), {2}), (Owner(OFD, 7), {3, 4})
    assert holders(POSIX, WRITE, 0, 9) == [posix, ofd]
    assert holders(POSIX, WRITE, 12, 9) == [ofd]
    assert holders(POSIX, WRITE, 0, 2) == [ofd]
    assert holders(POSIX, READ, 0, 9) == []
    assert holders(FLOCK, READ, 0, 9) == [(Owner(FLOCK, 8), {5})]


# ---- waiting, and whose turn it is


def test_a_request_that_conflicts_with_nothing_held_passes_a_waiting_writer() -> None:
    play = Play()
    play.set(POSIX, READ, 0, 9, src=2)
    writer = play.set(POSIX, WRITE, 0, 9, src=3, wait=WAIT)
    assert play[writer] is None
    assert play[play.set(POSIX, READ, 0, 9, src=4)] == 0
    play.set(POSIX, UNLOCK, src=2)
    assert play[writer] is None
    play.set(POSIX, UNLOCK, src=4)
    assert play[writer] == 0


def test_waiters_wake_in_order_of_arrival_and_readers_together() -> None:
    play = Play()
    play.set(POSIX, WRITE, src=2)
    r1, r2 = (play.set(POSIX, READ, src=src, wait=WAIT) for src in (3, 4))
    w1 = play.set(POSIX, WRITE, src=5, wait=WAIT)
    r3 = play.set(POSIX, READ, src=6, wait=WAIT)
    play.order.clear()
    last = play.set(POSIX, UNLOCK, src=2)
    assert play.order == [r1, r2, r3, last]
    for src in (3, 4):
        play.set(POSIX, UNLOCK, src=src)
    assert play[w1] is None
    play.set(POSIX, UNLOCK, src=6)
    assert play[w1] == 0


def test_fair_waiters_wake_strictly_in_order() -> None:
    play = Play()
    play.set(FAIR, WRITE, src=2, id=1)
    types = (READ, READ, WRITE, READ, WRITE)
    seqs = [
        play.set(FAIR, type, src=3 + each, id=2 + each, wait=WAIT)
        for each, type in enumerate(types)
    ]
    states = []
    for id in range(1, 6):
        play.set(FAIR, UNLOCK, src=1 + id, id=id)
        states.append([play[seq] for seq in seqs])
    assert states == [
        [0, 0, None, None, None],
        [0, 0, None, None, None],
        [0, 0, 0, None, None],
        [0, 0, 0, 0, None],
        [0, 0, 0, 0, 0],
    ]


def test_what_becomes_free_by_a_part_a_downgrade_or_a_split_is_granted() -> None:
    play = Play()
    play.set(POSIX, WRITE, 0, 29, src=2)
    middle = play.set(POSIX, WRITE, 10, 19, src=3, wait=WAIT)
    reader = play.set(POSIX, READ, 20, 25, src=4, wait=WAIT)
    whole = play.set(POSIX, WRITE, 0, 29, src=5, wait=WAIT)
    play.set(POSIX, UNLOCK, 10, 18, src=2)
    assert [play[seq] for seq in (middle, reader, whole)] == [None, None, None]
    play.set(POSIX, UNLOCK, 19, 19, src=2)
    assert [play[seq] for seq in (middle, reader, whole)] == [0, None, None]
    play.set(POSIX, READ, 20, 29, src=2)
    assert [play[seq] for seq in (middle, reader, whole)] == [0, 0, None]
    for src in (2, 3, 4):
        play.set(POSIX, UNLOCK, src=src)
    assert play[whole] == 0


def test_a_granted_waiter_may_make_room_for_one_who_came_before() -> None:
    """It had a write lock, and waited for a read lock over that and more."""
    play = Play()
    play.set(POSIX, WRITE, 0, 9, src=2)
    play.set(POSIX, WRITE, 10, 19, src=3)
    reader = play.set(POSIX, READ, 0, 9, src=4, wait=WAIT)
    play.set(POSIX, READ, 0, 19, src=2, wait=WAIT)
    assert play[reader] is None
    play.set(POSIX, UNLOCK, src=3)
    assert play[reader] == 0
    assert (102, READ, 0, 19) in play.held()


# ---- upgrades


@pytest.mark.parametrize("kind", [POSIX, FAIR])
def test_an_upgrade_keeps_the_old_lock_and_the_second_upgrader_is_refused(kind: int) -> None:
    play = Play()
    for src in (2, 3):
        play.set(kind, READ, src=src, id=100 + src)
    assert play[play.set(kind, WRITE, src=2, id=102)] == EAGAIN
    upgrade = play.set(kind, WRITE, src=2, id=102, wait=WAIT)
    assert play.held() == [(102, READ, 0, EOF), (103, READ, 0, EOF)]
    assert play[play.set(kind, WRITE, src=3, id=103, wait=WAIT)] == EDEADLK
    assert play.held() == [(102, READ, 0, EOF), (103, READ, 0, EOF)]
    play.set(kind, UNLOCK, src=3, id=103)
    assert play[upgrade] == 0
    assert play.held() == [(102, WRITE, 0, EOF)]


@pytest.mark.parametrize("kind", [POSIX, FAIR])
def test_an_upgrader_at_the_end_of_the_queue_is_in_nobodys_way_but_the_others(kind: int) -> None:
    """Those ahead wait for its read lock alone; it cannot wait behind them."""
    play = Play()
    for src in (2, 3):
        play.set(kind, READ, src=src, id=100 + src)
    others = [play.set(kind, WRITE, src=src, id=100 + src, wait=WAIT_TIMED) for src in range(4, 9)]
    upgrade = play.set(kind, WRITE, src=2, id=102, wait=WAIT)
    play.set(kind, UNLOCK, src=3, id=103)
    assert play[upgrade] == 0
    assert {play[seq] for seq in others} == {None}
    play.set(kind, READ, src=2, id=102)
    play.set(kind, UNLOCK, src=2, id=102)
    assert [play[seq] for seq in others] == [0, None, None, None, None]


# ---- fairness


def test_a_fair_newcomer_does_not_pass_a_conflicting_waiter_of_any_kind() -> None:
    for kind in (FAIR, POSIX, OFD):
        play = Play()
        play.set(POSIX, READ, 0, 9, src=2)
        play.set(kind, WRITE, 5, 14, src=3, id=7, wait=WAIT)
        assert play[play.set(FAIR, READ, 0, 4, src=4, id=8)] == 0
        assert play[play.set(FAIR, READ, 12, 20, src=5, id=9)] == EAGAIN
        last = play.set(FAIR, READ, 12, 20, src=5, id=9, wait=WAIT_TIMED)
        assert play[last] is None
        assert play[play.set(POSIX, READ, 12, 20, src=6)] == 0
        assert play.answers[last - 1].text == "read 12-20 of /f: another one has asked before"


def test_two_requests_of_one_handle_are_not_in_each_others_way_once_one_is_granted() -> None:
    play = Play()
    play.set(FAIR, WRITE, 0, 0, src=2, id=1)
    seqs = [play.set(FAIR, WRITE, s, s + 1, src=3, id=2, thread=s + 1, wait=WAIT) for s in (0, 1)]
    assert [play[seq] for seq in seqs] == [None, None]
    play.set(FAIR, UNLOCK, src=2, id=1)
    assert [play[seq] for seq in seqs] == [0, 0]


def test_a_request_of_no_thread_in_particular_is_of_its_process() -> None:
    play = Play()
    play.set(POSIX, WRITE, src=2, thread=0)
    play.set(POSIX, WRITE, src=3, thread=0, file=OTHER)
    waits = play.set(POSIX, WRITE, src=2, thread=0, file=OTHER, wait=WAIT)
    assert play[play.set(POSIX, WRITE, src=3, thread=0, wait=WAIT)] == EDEADLK
    play.set(POSIX, UNLOCK, src=3, thread=0, file=OTHER)
    assert play[waits] == 0


def test_unlocking_everything_wakes_those_who_wait_for_what_was_held() -> None:
    play = Play()
    for start in (100, 300):
        play.set(POSIX, WRITE, start, start + 9, src=2)
    waits = [play.set(POSIX, WRITE, start, start, src=3 + start, wait=WAIT) for start in (109, 300)]
    freed = LockRanges()
    for start, type in ((5, WRITE), (20, READ), (40, WRITE)):
        freed.put(Owner(POSIX, 1), Held(start, start + 9, type, 2, 1, 1, 1, 0.0, b""))
    assert freed.put(Owner(POSIX, 1), Held(0, 99, READ, 2, 1, 1, 1, 0.0, b"")) == (5, 49)
    assert freed.put(Owner(POSIX, 1), Held(90, EOF, UNLOCK, 2, 1, 1, 1, 0.0, b"")) == (90, 99)
    assert freed.put(Owner(POSIX, 1), Held(90, EOF, UNLOCK, 2, 1, 1, 1, 0.0, b"")) is None
    play.both("drop_process", 2)
    assert [play[seq] for seq in waits] == [0, 0]


def test_who_holds_a_part_of_the_file_may_pass() -> None:
    play = Play()
    play.set(FAIR, READ, 0, 9, src=2, id=1)
    play.set(FAIR, WRITE, 0, 29, src=3, id=2, wait=WAIT)
    assert play[play.set(FAIR, READ, 20, 29, src=4, id=3)] == EAGAIN
    assert play[play.set(FAIR, READ, 20, 29, src=2, id=4, thread=2)] == EAGAIN
    assert play[play.set(FAIR, READ, 20, 29, src=2, id=4, thread=1)] == 0
    assert play[play.set(FAIR, READ, 10, 11, src=2, id=1, thread=2)] == 0


def test_a_withdrawn_waiter_no_longer_holds_up_those_behind_it() -> None:
    play = Play()
    play.set(FAIR, READ, src=2, id=1)
    writer = play.set(FAIR, WRITE, src=3, id=2, wait=WAIT)
    readers = [play.set(FAIR, READ, src=src, id=src, wait=WAIT) for src in (4, 5)]
    assert play.withdraw(3, writer)
    assert [play[seq] for seq in (writer, *readers)] == [None, 0, 0]


def test_the_same_thread_asking_for_what_it_holds_by_another_handle_is_refused() -> None:
    play = Play()
    play.set(FAIR, WRITE, src=2, id=1)
    assert play[play.set(FAIR, READ, src=2, id=2)] == EAGAIN
    seq = play.set(FAIR, READ, src=2, id=2, wait=WAIT)
    assert play[seq] == EDEADLK
    expected = "thread 1 of VMID 2 waits for read 0-end of /f: thread 1 of VMID 2 holds it"
    assert play.answers[seq].text == expected
    other = play.set(FAIR, READ, src=2, id=2, thread=2, wait=WAIT)
    assert play[other] is None
    play.set(FAIR, UNLOCK, src=2, id=1)
    assert play[other] == 0


# ---- flock


def test_a_failed_conversion_has_lost_the_lock_and_lets_others_in() -> None:
    play = Play()
    play.set(FLOCK, READ, src=2, id=1)
    play.set(FLOCK, READ, src=3, id=2)
    assert play[play.set(FLOCK, WRITE, src=2, id=1)] == EAGAIN
    assert play.held(flock=True) == [(2, READ, 0, EOF)]
    play.set(FLOCK, READ, src=2, id=1)
    waits = play.set(FLOCK, WRITE, src=4, id=3, wait=WAIT)
    play.set(FLOCK, UNLOCK, src=3, id=2)
    assert play[waits] is None
    play.set(FLOCK, READ, src=3, id=2)
    assert play[play.set(FLOCK, WRITE, src=3, id=2)] == EAGAIN
    assert play[play.set(FLOCK, WRITE, src=2, id=1)] == 0
    assert play.held(flock=True) == [(1, WRITE, 0, EOF)]


def test_two_flock_upgraders_do_not_deadlock() -> None:
    play = Play()
    for src in (2, 3):
        play.set(FLOCK, READ, src=src, id=src)
    first = play.set(FLOCK, WRITE, src=2, id=2, wait=WAIT)
    assert play[first] is None
    second = play.set(FLOCK, WRITE, src=3, id=3, wait=WAIT)
    assert play[second] == 0
    assert play[first] is None
    play.set(FLOCK, UNLOCK, src=3, id=3)
    assert play[first] == 0


def test_the_same_flock_again_changes_nothing() -> None:
    play = Play()
    first = play.set(FLOCK, WRITE, src=2, id=1)
    waits = play.set(FLOCK, WRITE, src=3, id=2, wait=WAIT)
    before = play.locks.state()
    again = play.set(FLOCK, WRITE, src=2, id=1)
    assert play.answers[again][2:4] == play.answers[first][2:4]
    assert play.locks.state() == before
    play.set(FLOCK, READ, src=2, id=1)
    assert play[waits] is None


def test_flock_covers_the_whole_file_and_finds_no_deadlock() -> None:
    play = Play()
    play.set(FLOCK, WRITE, 3, 4, src=2, id=1)
    assert play.held(flock=True) == [(1, WRITE, 0, EOF)]
    play.set(FLOCK, WRITE, src=3, id=2, file=OTHER)
    one = play.set(FLOCK, WRITE, src=2, id=3, file=OTHER, wait=WAIT)
    two = play.set(FLOCK, WRITE, src=3, id=4, wait=WAIT)
    assert [play[one], play[two]] == [None, None]


# ---- deadlocks


@pytest.mark.parametrize("length", [2, 3, 11, 40])
def test_a_cycle_of_any_length_is_found_when_it_closes(length: int) -> None:
    play = Play()
    files = [(1, each) for each in range(length)]
    for each, file in enumerate(files):
        play.set(POSIX, WRITE, 5, 9, src=2 + each, file=file)
    waits = [
        play.set(POSIX, READ, 0, 7, src=2 + each, file=files[each + 1], wait=WAIT)
        for each in range(length - 1)
    ]
    closing = play.set(POSIX, WRITE, 9, 9, src=1 + length, file=files[0], wait=WAIT)
    assert play[closing] == EDEADLK
    words = play.answers[closing].text.split("; ")
    assert len(words) == min(length, 17)
    assert (length < 17) or words[15] == f"... and {length - 16} more"
    last = f"pid {101 + length} (VMID {1 + length}, thread 1)"
    assert words[0] == f"{last} waits for write 9-9 of /g: pid 102 (VMID 2, thread 1) holds it"
    assert words[-1].endswith(f"{last} holds it")
    assert {play[seq] for seq in waits} == {None}
    play.set(POSIX, UNLOCK, src=1 + length, file=files[-1])
    assert play[waits[-1]] == 0


def test_a_cycle_behind_any_of_many_holders_is_found() -> None:
    play = Play()
    for src in range(2, 30):
        play.set(POSIX, READ, src=src)
    play.set(POSIX, WRITE, src=30, file=OTHER)
    play.set(POSIX, WRITE, src=17, file=OTHER, wait=WAIT)
    assert play[play.set(POSIX, WRITE, src=30, wait=WAIT)] == EDEADLK


def test_only_waiting_requests_close_cycles_and_only_without_time_out() -> None:
    def cross(first: int, second: int) -> int | None:
        play = Play()
        play.set(POSIX, WRITE, 0, 0, src=2)
        play.set(POSIX, WRITE, 1, 1, src=3)
        play.set(POSIX, WRITE, 1, 1, src=2, wait=first)
        return play[play.set(POSIX, WRITE, 0, 0, src=3, wait=second)]

    assert cross(WAIT, WAIT) == EDEADLK
    assert cross(WAIT, NO_WAIT) == EAGAIN
    assert cross(WAIT, WAIT_TIMED) is None
    assert cross(WAIT_TIMED, WAIT) is None


def test_a_posix_lock_is_held_by_the_process_and_a_fair_one_by_the_thread() -> None:
    play = Play()
    play.set(POSIX, WRITE, src=2, thread=1)
    play.set(POSIX, WRITE, src=3, file=OTHER)
    play.set(POSIX, WRITE, src=2, thread=2, file=OTHER, wait=WAIT)
    assert play[play.set(POSIX, WRITE, src=3, wait=WAIT)] == EDEADLK

    play = Play()
    play.set(FAIR, WRITE, src=2, id=1, thread=1)
    play.set(FAIR, WRITE, src=3, id=2, file=OTHER)
    play.set(FAIR, WRITE, src=2, id=3, thread=2, file=OTHER, wait=WAIT)
    waits = play.set(FAIR, WRITE, src=3, id=4, wait=WAIT)
    assert play[waits] is None
    closing = play.set(FAIR, WRITE, src=2, id=5, thread=1, file=OTHER, wait=WAIT)
    assert play[closing] == EDEADLK


def test_a_cycle_may_go_through_a_place_in_the_queue() -> None:
    """The reader waits only since it may not pass the writer, who waits for the holder."""
    play = Play()
    play.set(FAIR, READ, src=2, id=1)
    play.set(FAIR, WRITE, src=3, id=2, wait=WAIT)
    play.set(FAIR, WRITE, src=4, id=3, file=OTHER)
    play.set(FAIR, READ, src=4, id=4, wait=WAIT)
    closing = play.set(FAIR, READ, src=2, id=5, file=OTHER, wait=WAIT)
    assert play[closing] == EDEADLK
    assert "thread 1 of VMID 3 asked before" in play.answers[closing].text


def test_a_waiter_with_a_time_out_does_not_hide_those_before_it_in_the_queue() -> None:
    play = Play()
    play.set(FAIR, READ, src=2, id=1)
    play.set(FAIR, WRITE, src=3, id=2, wait=WAIT)
    play.set(FAIR, WRITE, src=5, id=5, wait=WAIT_TIMED)
    play.set(FAIR, WRITE, src=4, id=3, file=OTHER)
    play.set(FAIR, READ, src=4, id=4, wait=WAIT)
    assert play[play.set(FAIR, READ, src=2, id=6, file=OTHER, wait=WAIT)] == EDEADLK


def test_a_place_in_the_queue_is_that_of_a_thread_not_of_its_process() -> None:
    """Another thread of it waits for us; that one's request goes on without us."""
    play = Play()
    play.set(POSIX, READ, src=2)
    play.set(POSIX, WRITE, src=3, thread=1, wait=WAIT)
    play.set(FAIR, WRITE, src=4, id=1, file=OTHER)
    play.set(POSIX, WRITE, src=3, thread=2, file=OTHER, wait=WAIT)
    behind = play.set(FAIR, READ, src=4, id=2, wait=WAIT)
    assert play[behind] is None
    play.set(POSIX, UNLOCK, src=2)
    assert play[behind] == EDEADLK


def test_a_lock_that_comes_back_can_close_a_cycle_too() -> None:
    play = Play()
    play.set(POSIX, WRITE, 0, 9, src=2)
    play.set(POSIX, WRITE, 20, 29, src=3)
    downgrade = play.set(POSIX, READ, 0, 29, src=2, wait=WAIT)
    play.set(POSIX, UNLOCK, src=3)
    play.set(POSIX, WRITE, 35, 40, src=5)
    play.set(POSIX, WRITE, src=4, file=OTHER)
    reader = play.set(POSIX, READ, 0, 40, src=4, wait=WAIT)
    other = play.set(POSIX, WRITE, src=2, thread=2, file=OTHER, wait=WAIT)
    assert [play[seq] for seq in (downgrade, reader, other)] == [0, None, None]
    assert play.withdraw(2, downgrade)
    assert [play[seq] for seq in (reader, other)] == [EDEADLK, None]


def test_a_description_closes_a_cycle_only_while_one_process_has_it() -> None:
    for shared in (False, True):
        play = Play()
        play.set(OFD, WRITE, 0, 0, src=2, id=1)
        play.set(POSIX, WRITE, 1, 1, src=3)
        play.set(OFD, WRITE, 1, 1, src=2, id=1, wait=WAIT)
        if shared:
            play.both("share", 2, 4)
        closing = play.set(POSIX, WRITE, 0, 0, src=3, wait=WAIT)
        assert play[closing] == (None if shared else EDEADLK)


def test_a_request_on_a_description_is_never_refused_for_a_cycle() -> None:
    play = Play()
    play.set(OFD, WRITE, 0, 0, src=2, id=1)
    play.set(POSIX, WRITE, 1, 1, src=3)
    play.set(POSIX, WRITE, 0, 0, src=3, wait=WAIT)
    assert play[play.set(OFD, WRITE, 1, 1, src=2, id=1, wait=WAIT)] is None


def test_a_grant_that_closes_a_cycle_refuses_the_one_that_waits_for_it() -> None:
    play = Play()
    play.set(POSIX, READ, 0, 0, src=9)
    stranded = play.set(POSIX, WRITE, 0, 0, src=3, wait=WAIT)
    play.set(POSIX, WRITE, 1, 1, src=3, thread=2)
    waits = play.set(POSIX, WRITE, 1, 1, src=2, wait=WAIT)
    granted = play.set(POSIX, READ, 0, 0, src=2, thread=2)
    assert [play[seq] for seq in (granted, stranded, waits)] == [0, EDEADLK, None]


def test_a_thread_that_does_not_wait_is_in_no_cycle_because_its_process_waits() -> None:
    play = Play()
    play.set(POSIX, WRITE, src=3)
    play.set(FAIR, WRITE, src=2, id=1, thread=3, file=OTHER)
    posix = play.set(POSIX, WRITE, src=2, thread=1, wait=WAIT)
    fair = play.set(FAIR, WRITE, src=3, id=2, file=OTHER, wait=WAIT)
    granted = play.set(POSIX, READ, src=2, thread=3, file=(1, 1))
    assert [play[seq] for seq in (granted, posix, fair)] == [0, None, None]
    play.set(FAIR, UNLOCK, src=2, id=1, file=OTHER)
    assert play[fair] == 0


class Elsewhere:
    """Another machine, in which (2, 1) waits for (3, 1)."""

    def waits_for(self, agent: Agent) -> Iterable[Edge]:
        return [Edge((3, 1), "VMID 2 waits for handle 5: VMID 3 has it")] * (agent == (2, 1))

    def is_waited_for(self, agent: Agent) -> bool:
        return agent == (3, 1)


def test_a_cycle_may_go_through_another_machine() -> None:
    play = Play(Elsewhere())
    play.set(FAIR, WRITE, src=2, id=1)
    assert play[play.set(FAIR, WRITE, src=3, id=2, thread=2, wait=WAIT)] is None
    closing = play.set(FAIR, WRITE, src=3, id=3, wait=WAIT)
    assert play[closing] == EDEADLK
    assert play.answers[closing].text.endswith("; VMID 2 waits for handle 5: VMID 3 has it")
    (edge,) = play.locks.waits_for((3, 2))
    assert edge.agent == (2, 1)


def test_the_cycle_named_is_a_shortest_one() -> None:
    edges = {(1, 1): [2, 3], (2, 1): [4], (3, 1): [9], (4, 1): [9], (9, 1): [1]}

    def waits_for(agent: Agent) -> Iterable[Edge]:
        return [Edge((to, 1), f"{agent[0]} to {to}") for to in edges.get(agent, ())]

    cycle = find_cycle(waits_for((9, 1)), [(9, 1)], waits_for)
    assert cycle is not None
    assert explain(cycle) == "9 to 1; 1 to 3; 3 to 9"
    assert find_cycle(waits_for((1, 1)), [(7, 1)], waits_for) is None


# ---- withdrawing


def test_what_waited_is_taken_away_and_what_was_granted_is_undone() -> None:
    play = Play()
    play.set(POSIX, WRITE, 0, 9, src=2)
    play.set(POSIX, READ, 10, 14, src=3)
    play.set(POSIX, WRITE, 15, 19, src=3)
    before = play.held()
    first = play.set(POSIX, WRITE, 5, 17, src=3, wait=WAIT)
    assert play.withdraw(3, first)
    assert not play.withdraw(3, first)
    second = play.set(POSIX, WRITE, 5, 17, src=3, wait=WAIT)
    after = play.set(POSIX, READ, 5, 9, src=4, wait=WAIT)
    play.set(POSIX, UNLOCK, src=2)
    assert [play[second], play[after]] == [0, None]
    assert play.withdraw(3, second)
    assert play[after] == 0
    assert play.held() == [*before[1:], (104, READ, 5, 9)]
    assert not play.withdraw(3, second)


def test_what_was_granted_at_once_or_built_upon_is_not_undone() -> None:
    play = Play()
    at_once = play.set(POSIX, WRITE, 0, 9, src=2)
    assert not play.withdraw(2, at_once)
    waited = play.set(POSIX, WRITE, 0, 9, src=3, wait=WAIT)
    play.set(POSIX, UNLOCK, src=2)
    play.set(POSIX, READ, 100, 109, src=3)
    play.set(POSIX, READ, 0, 9, src=3, file=OTHER)
    assert play.locks.grants.get(3, waited)
    play.set(POSIX, READ, 9, 9, src=3, thread=2)
    assert not play.withdraw(3, waited)
    assert (103, WRITE, 0, 8) in play.held()


def test_an_undone_downgrade_does_not_take_away_what_others_got_by_it() -> None:
    play = Play()
    play.set(POSIX, WRITE, 0, 9, src=2)
    play.set(POSIX, WRITE, 20, 29, src=3)
    downgrade = play.set(POSIX, READ, 0, 29, src=2, wait=WAIT)
    play.set(POSIX, UNLOCK, src=3)
    assert play.held() == [(102, READ, 0, 29)]
    play.set(POSIX, READ, 4, 5, src=4)
    assert play.withdraw(2, downgrade)
    assert play.held() == [(102, READ, 0, 9), (104, READ, 4, 5)]


def test_an_undone_flock_wakes_the_next() -> None:
    play = Play()
    play.set(FLOCK, WRITE, src=2, id=1)
    first, second = (play.set(FLOCK, WRITE, src=s, id=s, wait=WAIT) for s in (3, 4))
    play.set(FLOCK, UNLOCK, src=2, id=1)
    assert play.withdraw(3, first)
    assert play[second] == 0


def test_memory_for_undoing_is_bounded() -> None:
    play = Play()
    locks = play.locks
    for id in range(UNDO_KEPT + 50):
        file = (1, id)
        locks.set(play.ask(FAIR, WRITE, src=2, id=2 * id, file=file), 0.0)
        locks.set(play.ask(FAIR, WRITE, src=3, id=2 * id + 1, file=file, wait=WAIT), 0.0)
        locks.set(play.ask(FAIR, UNLOCK, src=2, id=2 * id, file=file), 0.0)
    assert len(locks.grants) == UNDO_KEPT
    locks.check()
    locks.drop_process(3)
    assert len(locks.grants) == 0
    for start in range(0, 2 * UNDO_PIECES + 2, 2):
        locks.set(play.ask(POSIX, READ, start, start, src=4), 0.0)
    locks.set(play.ask(POSIX, WRITE, 1, 1, src=5), 0.0)
    waits = play.ask(POSIX, WRITE, src=4, wait=WAIT)
    locks.set(waits, 0.0)
    locks.set(play.ask(POSIX, UNLOCK, src=5), 0.0)
    assert locks.withdraw(4, waits.seq, 0.0) == (False, Decision([], []))


def test_a_request_sent_again_is_answered_again_or_goes_on_waiting() -> None:
    play = Play()
    play.set(POSIX, WRITE, src=2)
    ask = play.ask(POSIX, WRITE, src=3, wait=WAIT)
    play.done(play.locks.set(ask, 1.0))
    assert play.locks.set(ask, 2.0) == Decision([], [])
    play.set(POSIX, UNLOCK, src=2)
    assert play.locks.set(ask, 3.0) == Decision([], [play.answers[ask.seq]])


# ---- processes and descriptions


def test_clearing_a_pid_drops_its_posix_locks_everywhere_and_nothing_else() -> None:
    play = Play()
    play.set(POSIX, WRITE, src=2)
    play.set(POSIX, READ, src=2, file=OTHER)
    play.set(FAIR, READ, src=2, id=1, file=OTHER)
    waits = play.set(POSIX, WRITE, src=3, wait=WAIT)
    play.done(play.locks.clear_pid(102, play.now))
    assert play[waits] == 0
    assert play.held(OTHER) == [(1, READ, 0, EOF)]
    assert play.locks.clear_pid(102, play.now) == Decision([], [])


@pytest.mark.parametrize("kind", [OFD, FLOCK])
def test_the_last_of_those_who_share_a_description_releases_it(kind: int) -> None:
    play = Play()
    play.set(kind, WRITE, src=2, id=1)
    play.set(POSIX, WRITE, src=2, file=OTHER)
    play.both("share", 2, 3)
    play.both("share", 3, 4)
    assert play.locks.sharers(Owner(kind, 1)) == {2, 3, 4}
    assert play.locks.sharers(Owner(POSIX, 102)) == {2}
    waits = play.set(kind, WRITE, src=5, id=2, wait=WAIT)
    play.both("drop_process", 2)
    play.done(play.locks.drop_reference(9, kind, 1, play.now))
    play.done(play.locks.drop_reference(3, kind, 1, play.now))
    assert play[waits] is None
    play.done(play.locks.drop_reference(4, kind, 1, play.now))
    assert play[waits] == 0


def test_what_is_closed_at_once_is_gone_before_anybody_is_woken() -> None:
    """As at the end of a process: the first who waits is not passed by one whose turn comes
    with a part of it."""
    play = Play()
    play.set(POSIX, WRITE, 6, 11, src=2)
    play.set(OFD, WRITE, 3, 4, src=2, id=1)
    first = play.set(OFD, READ, src=3, id=2, wait=WAIT)
    second = play.set(OFD, WRITE, 6, 6, src=4, id=3, wait=WAIT)
    closed = [(2, Owner(POSIX, 102)), (2, Owner(OFD, 1))]
    play.done(play.locks.drop_closed(closed, FILE, play.now))
    assert (play[first], play[second]) == (0, None)


def test_either_sharer_may_unlock() -> None:
    play = Play()
    play.set(FLOCK, WRITE, src=2, id=1)
    play.both("share", 2, 3)
    play.set(FLOCK, UNLOCK, src=3, id=1)
    assert play.held(flock=True) == []
    assert play.locks.sharers(Owner(FLOCK, 1)) == {2, 3}
    play.set(FLOCK, READ, src=2, id=1)
    play.done(play.locks.drop_reference(2, FLOCK, 1, play.now))
    assert play.held(flock=True) == [(1, READ, 0, EOF)]


def test_closing_a_handle_refuses_what_waits_through_it() -> None:
    play = Play()
    play.set(OFD, WRITE, src=2, id=1)
    waits = play.set(OFD, WRITE, src=3, id=2, wait=WAIT)
    play.done(play.locks.drop_reference(3, OFD, 2, play.now))
    assert play[waits] == EBADF
    assert play.locks.sharers(Owner(OFD, 2)) == frozenset()


def test_a_dead_process_leaves_nothing_and_lets_the_next_in() -> None:
    play = Play()
    for kind in Kind:
        play.set(kind, READ, 0, 9, src=2, id=102)
    play.set(POSIX, WRITE, src=3, file=OTHER)
    play.set(POSIX, WRITE, src=2, file=OTHER, wait=WAIT)
    waits = [play.set(kind, WRITE, 5, 5, src=3, id=103, wait=WAIT_TIMED) for kind in (FAIR, FLOCK)]
    play.both("drop_process", 2)
    assert [play[seq] for seq in waits] == [0, 0]
    assert play.locks.owners.owners_of(2) == []
    assert not play.locks.waiting


def test_an_exec_keeps_posix_locks_which_then_belong_to_the_new_vmid() -> None:
    play = Play()
    for kind in Kind:
        play.set(kind, READ, 0, 9, src=2, id=102)
    play.both("detach", 2)
    assert play.held() == [(102, READ, 0, 9)]
    assert play.held(flock=True) == []
    play.both("rename", 2, 7)
    play.both("drop_process", 2)
    found = play.locks.get(play.ask(POSIX, WRITE, src=3))
    assert found is not None
    assert (found.pid, found.vmid) == (102, 7)
    assert play.locks.sharers(Owner(POSIX, 102)) == {7}
    play.both("drop_process", 7)
    assert play.held() == []


# ---- numbers, journal, listing


def test_the_number_of_grants_only_grows_also_at_a_successor() -> None:
    play = Play()
    play.set(FAIR, WRITE, src=2, id=1)
    waits = play.set(FAIR, WRITE, src=3, id=2, wait=WAIT)
    release = play.set(FAIR, UNLOCK, src=2, id=1)
    assert [play.answers[seq].number for seq in (1, waits, release)] == [1, 2, 0]
    upgrade = play.successor.set(play.ask(FAIR, READ, src=3, id=2), 0.0)
    assert upgrade.outcomes[0].number == 3


def test_a_successor_settles_what_its_predecessor_had_no_time_for() -> None:
    locks, successor = FileLocks(), FileLocks()
    play = Play()
    asks = [
        play.ask(POSIX, WRITE, src=2),
        play.ask(POSIX, READ, src=3, wait=WAIT),
        play.ask(POSIX, READ, src=4, wait=WAIT),
        play.ask(POSIX, UNLOCK, src=2),
    ]
    records = [record for ask in asks for record in locks.set(ask, 1.0).records]
    assert [record[0] for record in records] == ["lock", "wait", "wait", "lock", "lock", "lock"]
    successor.replay(map(through_msgpack, records[:4]))
    rest = successor.settle(1.0)
    assert rest.records == records[4:]
    assert [(o.src, o.errno, o.number) for o in rest.outcomes] == [(3, 0, 2), (4, 0, 3)]
    assert successor.state() == locks.state()


def test_a_successor_finds_out_what_became_free_long_ago() -> None:
    play = Play()
    locks, successor = FileLocks(), FileLocks()
    asks = [play.ask(POSIX, WRITE, src=2), play.ask(POSIX, READ, 0, 0, src=3, wait=WAIT)]
    records = [record for ask in asks for record in locks.set(ask, 1.0).records]
    records.append(locks.set(play.ask(POSIX, UNLOCK, 0, 0, src=2), 1.0).records[0])
    for start in range(2, 100, 2):
        ask = play.ask(POSIX, UNLOCK, start, start, src=2)
        records += locks.set(ask, 1.0).records
    successor.replay(map(through_msgpack, records))
    assert [outcome.src for outcome in successor.settle(1.0).outcomes] == [3]
    assert sum(map(len, successor.freed.values())) == 0


def test_files_are_settled_in_an_order_that_does_not_depend_on_their_history() -> None:
    for files in ((FILE, OTHER), (OTHER, FILE)):
        play = Play()
        for file in files:
            play.set(POSIX, WRITE, src=2, file=file)
        waits = [
            play.set(POSIX, WRITE, src=3, thread=n + 1, file=files[n], wait=WAIT) for n in (0, 1)
        ]
        play.locks.drop_process(2)
        outcomes = play.locks.settle(play.now).outcomes
        assert [o.seq for o in outcomes] == (waits if files[0] == FILE else waits[::-1])


def test_the_table_lists_who_holds_and_who_waits_for_whom() -> None:
    play = Play()
    play.set(POSIX, WRITE, 0, 9, src=2, thread=3)
    play.now += 5
    play.set(FAIR, READ, 5, 20, src=3, id=7, wait=WAIT)
    play.set(FAIR, WRITE, 15, 20, src=4, id=8, wait=WAIT)
    play.set(FLOCK, READ, src=5, id=9)
    play.now += 1
    rows = play.locks.table(play.now)
    assert [row[0:8] for row in rows] == [
        (FILE, b"/f", POSIX, WRITE, 0, 9, 102, 2),
        (FILE, b"/f", FAIR, READ, 5, 20, 103, 3),
        (FILE, b"/f", FAIR, WRITE, 15, 20, 104, 4),
        (FILE, b"/f", FLOCK, READ, 0, EOF, 105, 5),
    ]
    assert [row[8:] for row in rows] == [
        (3, 0, 6.0, False, ()),
        (1, 7, 1.0, True, ((2, 102),)),
        (1, 8, 1.0, True, ((3, 103),)),
        (1, 9, 1.0, False, ()),
    ]


# ---- cost


def crowd(play: Play, shape: str, count: int) -> FileLocks:
    """So many locks on one file."""
    locks = FileLocks()
    for each in range(count):
        start = 10 * each
        src, id, type, end = each + 10, each + 10, READ, start + 4
        if shape == "readers of one range":
            start, end = 0, 10**7
        elif shape == "readers of ranges that overlap":
            end = start + 10**6
        elif shape == "writers":
            type = WRITE
        elif shape == "one reader":
            src, id = 9, 9
        locks.set(play.ask(POSIX, type, start, end, src=src, id=id), 0.0)
    return locks


SHAPES = (
    "readers of one range",
    "readers of ranges that overlap",
    "readers",
    "writers",
    "one reader",
)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_operation_walks_over_the_locks_of_a_file(shape: str) -> None:
    play = Play()

    def everything(count: int) -> int:
        locks = crowd(play, shape, count)
        asks = []
        for step in range(60):
            start = 10 * (step * 7919 % count)
            asks += [
                play.ask(POSIX, READ, start, start + 2, src=3),
                play.ask(POSIX, READ, start + 4, start + 12, src=3),
                play.ask(POSIX, WRITE, start, start, src=4),
                play.ask(POSIX, WRITE, start + 6, start + 7, src=9, id=9),
                play.ask(POSIX, UNLOCK, start + 6, start + 7, src=9, id=9),
                play.ask(POSIX, UNLOCK, src=3),
                play.ask(FAIR, READ, start + 6, start + 6, src=5, id=10**6),
                play.ask(FAIR, UNLOCK, src=5, id=10**6),
            ]

        def work() -> None:
            for ask in asks:
                locks.set(ask, 1.0)
            for ask in asks:
                locks.get(ask)

        return bytecodes.count(work)

    assert everything(4_000) < 1.6 * everything(80)


def test_a_release_does_not_walk_over_those_who_wait_for_the_same() -> None:
    play = Play()

    def turn(kind: int, count: int) -> int:
        """The lock goes from one writer to the next; a new one comes."""
        locks = FileLocks()
        for each in range(count):
            ask = play.ask(kind, WRITE, src=each + 2, id=each + 2, wait=WAIT)
            locks.set(ask, 0.0)

        def work() -> None:
            for each in range(20):
                locks.set(play.ask(kind, UNLOCK, src=each + 2, id=each + 2), 0.0)
                locks.set(play.ask(kind, WRITE, src=each + 2, id=each + 2, wait=WAIT), 0.0)

        cost = bytecodes.count(work)
        locks.check()
        return cost

    for kind in Kind:
        assert turn(kind, 1000) < 1.3 * turn(kind, 30)


def test_looking_for_a_cycle_does_not_walk_along_a_queue() -> None:
    """Every newcomer has something that somebody else waits for, so that it must be looked."""
    play = Play()

    def arrivals(count: int) -> int:
        locks = FileLocks()
        locks.set(play.ask(FAIR, WRITE, src=2, id=2), 0.0)
        asks = []
        for src in range(3, count + 23):
            file = (7, src)
            locks.set(play.ask(FAIR, WRITE, src=src, id=src, file=file), 0.0)
            locks.set(play.ask(FAIR, WRITE, src=1, id=9, file=file, wait=WAIT_TIMED), 0.0)
            asks.append(play.ask(FAIR, WRITE, src=src, id=10**6 + src, wait=WAIT))
        for ask in asks[:count]:
            locks.set(ask, 0.0)
        return bytecodes.count(lambda: [locks.set(ask, 0.0) for ask in asks[count:]])

    assert arrivals(1000) < 1.3 * arrivals(30)


def test_ranges_that_meet_are_found_however_they_lie() -> None:
    dice = random.Random(5)
    ranges = Overlaps()
    entries: list[tuple[int, int, int]] = []
    for key in range(600):
        start = dice.randrange(200)
        end = dice.choice((start, start + dice.randrange(80), EOF))
        entries.append((start, end, key))
        ranges.add(*entries[-1])
        if key % 3 == 0:
            ranges.remove(*entries.pop(dice.randrange(len(entries))))
        start = dice.randrange(220)
        end = dice.choice((start, start + 20, EOF))
        expected = {each for each in entries if each[0] <= end and start <= each[1]}
        assert ranges.count(start, end) == len(expected)
        found = list(ranges.meeting(start, end))
        assert len(found) == len(expected)
        assert set(found) == expected
    ranges.check()
    assert len(ranges) == len(entries)
