"""One act: a group, its workers, what is done to them, and the end.

The conductor is the founder, a member like any other but for that it does no deeds. It kills and
stops; a worker that was killed is followed by another one. At the end all stop, flush, hear what
is left, and go; then nothing may be left behind, and the records are judged.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from libos_ipc import Child, Group, IpcError
from libos_ipc.core import delegations
from libos_ipc.runtime.journal_file import read_head

from .deeds import Deeds
from .deeds_with_locks import make_files
from .history import History
from .record import Record
from .script import Script
from .traces import Traces, left_behind
from .verdict_messages import judge_messages
from .verdict_owners import judge_owners
from .verdict_processes import judge_processes
from .verdict_values import judge_values
from .worker import DONE, LEAVE, STOP, Board, work

__all__ = ["Outcome", "play"]

#: What workers may take to bring to an end what they have begun.
ENDING_S = 90.0
#: A moment's sleep that lasts as long shows that this machine gave us no time at all.
STANDSTILL_S = 5.0
#: Workers of an act, those that followed killed ones included.
MOST_WORKERS = 200
VERDICTS = (judge_processes, judge_messages, judge_owners, judge_values)


class Outcome(NamedTuple):
    """`complaints` are the violations; `records` is where the records are, if there are any."""

    script: Script
    counts: Counter[str]
    complaints: list[str]
    records: Path | None


class _Act:
    def __init__(self, script: Script, directory: Path, group: Group) -> None:
        self.script = script
        self.directory = directory
        self.group = group
        self.rng = random.Random(script.seed)
        self.board = Board()
        self.workers: dict[int, Child] = {}  # by place on the board
        self.places = 0
        self.record = Record(directory, lambda: group.vmid)
        self.record("hello", group.pid)
        self.deeds = Deeds(group, self.record, random.Random(script.seed), directory)
        self.deeds.listen()
        self.deeds.open_all()  # so that no value ends because nobody has it open
        self.complaints: list[str] = []

    # ---- workers and faults

    def hire(self) -> None:
        place, self.places = self.places, self.places + 1
        seed = self.rng.randrange(2**32)
        given = (self.group, self.board, place, seed, self.directory)
        try:
            self.workers[place] = self.group.spawn(work, *given)
        except IpcError as error:
            if error.errno != errno.EAGAIN:
                raise
            self.record("missed", "hire", repr(error))  # nobody led for `fork_timeout`
        else:
            self.record("child", self.workers[place].vmid, 0)

    def disturb(self, seconds: float) -> None:
        """Faults, until the time is over."""
        until = time.monotonic() + seconds
        faults = {
            "rest": self.rest,
            "stop": self.stop,
            "kill": self.kill,
            "behead": self.behead,
            "depose": self.depose,
        }
        names, weights = list(self.script.faults), list(self.script.faults.values())
        while time.monotonic() < until:
            if not self.workers:
                self.hire()
                continue
            faults[self.rng.choices(names, weights)[0]]()
            time.sleep(self.rng.uniform(0, self.script.pause_s))

    def rest(self) -> None:
        pass

    def somebody(self) -> int:
        return self.rng.choice(list(self.workers))

    def stop(self) -> None:
        """A worker stands still for a while, wherever it is."""
        child = self.workers[self.somebody()]
        child.kill(signal.SIGSTOP)
        time.sleep(self.rng.choice([0.001, 0.05, 0.5]))
        child.kill(signal.SIGCONT)

    def behead(self) -> None:
        """Whoever leads is killed, unless that is the conductor. It may be a worker's child."""
        leader, vmid = self.leader()
        if leader == os.getpid():
            return
        self.record("beheading", vmid)
        place = self.place_of(leader)
        if place is None:
            self.record("killing", vmid)
            _signal(leader, signal.SIGKILL)
        else:
            self.kill(place)

    def depose(self) -> None:
        """Whoever leads stands still for longer than a leader may."""
        leader, _ = self.leader()
        if leader != os.getpid():
            _signal(leader, signal.SIGSTOP)
            time.sleep(self.rng.choice([0.1, 1.0]))
            _signal(leader, signal.SIGCONT)

    def leader(self) -> tuple[int, int]:
        """OS pid and VMID of the last leader that has begun; ours if it has ended."""
        path = self.group._node.directory.journal
        leader, epoch = (0, 0), 1
        while (head := read_head(path(epoch))) is not None:
            leader = (head.os_pid, head.vmid) if head.committed else leader
            epoch += 1
        return leader if os.path.exists(f"/proc/{leader[0]}") else (os.getpid(), self.group.vmid)

    def place_of(self, os_pid: int) -> int | None:
        places = (place for place, child in self.workers.items() if child.os_pid == os_pid)
        return next(places, None)

    def kill(self, place: int | None = None) -> None:
        if self.places >= MOST_WORKERS:
            return
        place = self.somebody() if place is None else place
        child = self.workers.pop(place)
        self.record("killing", child.vmid)
        child.kill(signal.SIGKILL)
        self.wait(child)
        self.hire()

    def wait(self, child: Child) -> None:
        status = child.wait(ENDING_S)
        self.record("waited", child.vmid, status.code, status.signal)

    # ---- the end

    def end(self) -> None:
        """All workers stop, and go when the last has stopped."""
        self.board.phase = STOP
        self.await_that(self.all_have_stopped, "workers that do not stop")
        self.deeds.finish()
        self.board.phase = LEAVE
        for child in self.workers.values():
            self.wait(child)
        self.await_that(self.alone, "members that do not leave")
        self.deeds.say_goodbye()
        self.await_that(lambda: not self.held(), "locks of the dead")
        self.complaints += [f"left behind: {what}" for what in self.held()]

    def all_have_stopped(self) -> bool:
        return all(self.board.progress(place) == DONE for place in self.workers)

    def alone(self) -> bool:
        return len(self.group.members()) == 1

    def held(self) -> list[object]:
        return [row for row in self.group.locks.table() if row.type != "none"]

    def await_that(self, true: Callable[[], bool], what: str) -> None:
        until, looked = time.monotonic() + ENDING_S, time.monotonic()
        while not true():
            now = time.monotonic()
            if now - looked > STANDSTILL_S:
                self.record("stood still", now - looked)
                until += now - looked
            if now > until:
                self.complaints.append(f"{what} after {ENDING_S} s: {self.look()}")
                self.give_up()
                return
            looked = time.monotonic()
            time.sleep(0.01)

    def look(self) -> str:
        """Where the workers are that have not stopped."""
        found = []
        for place, child in self.workers.items():
            if self.board.progress(place) != DONE:
                try:
                    found.append(f"{child.vmid}: {self.group.getmeta(child.pid, 'stack')}")
                except OSError as error:
                    found.append(f"{child.vmid}: {error!r}")
        return "\n".join(found) or str(self.group.members())

    def give_up(self) -> None:
        for child in self.workers.values():
            self.record("killing", child.vmid)
            child.kill(signal.SIGKILL)


def _signal(os_pid: int, sig: int) -> None:
    """To a leader that may have ended meanwhile: a worker kills children of its own."""
    try:
        os.kill(os_pid, sig)
    except ProcessLookupError:
        pass


def play(script: Script, seconds: float) -> Outcome:
    """Play one act. Blocks for somewhat longer than `seconds`."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None
    home = Path(tempfile.mkdtemp(prefix="campaign-", dir=place))
    directory = home / "records"
    directory.mkdir()
    make_files(directory)
    notes = logging.FileHandler(directory / "notes.txt")
    logging.getLogger("libos_ipc").addHandler(notes)
    had = Traces.now()
    before = delegations.STREAK
    delegations.STREAK = 1 if script.delegating else before
    try:
        complaints = _play(script, seconds, home, directory)
    finally:
        delegations.STREAK = before
        logging.getLogger("libos_ipc").removeHandler(notes)
        notes.close()
    history = History.in_directory(directory)
    for judge in VERDICTS:
        complaints += judge(history)
    complaints += left_behind(home, had)
    if not complaints:
        shutil.rmtree(home)
    return Outcome(script, history.counts(), complaints, home if complaints else None)


def _play(script: Script, seconds: float, home: Path, directory: Path) -> list[str]:
    given = {"leader": script.leader, "runtime_dir": home, "config": script.config}
    with Group.create("act", **given) as group:  # type: ignore[arg-type]
        act = _Act(script, directory, group)
        try:
            for _ in range(script.workers):
                act.hire()
            act.disturb(seconds)
            act.end()
        except BaseException:
            act.give_up()
            raise
        finally:
            act.record.close()
            act.board.close()
    return act.complaints
