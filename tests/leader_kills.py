"""The leader, or who is about to lead, is killed at each of its system calls, before and behind it.

    python -m tests.leader_kills [--victim leader|heir] [--scene NAME] [--transport auto|zmq|native]
                                 [--first N] [--every N] [--steps N]

A *scene* is what a member, the caller, asks the leader for. While that is under way
`native/kill_at.c` kills the victim at its n-th stop: at the first one, then in another group at the
second, until the answer is there before the stop is. The victim is the leader; or an heir, on its
way from the death of the leader to its first answers: then another one is there, which stands
still until that one is dead or has answered. With `--steps` the leader is killed so many
instructions after its n-th record is committed: before anybody is told what that says.

A stop costs about half a second, more beside other load, and over connections an admission has some
450: then `--every` asks for a part. How far it has come is told on a terminal.

However early or late that was, the caller has its answer once, and no error; what it was granted
is its own in the journal that is valid then, and nothing beside it; and others find it so.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from processes import DEADLINE_S, Forked, Line, poll

import libos_ipc
from libos_ipc import Group, GroupConfig
from libos_ipc.runtime.journal_file import MAGIC, Head, read_head, read_journal

SOURCE = Path(__file__).parent / "native" / "kill_at.c"
#: Where the committed length of a journal stands in it.
WORD = len(MAGIC)
#: What `kill_at` ends with where the system does not let us trace.
NOT_ALLOWED = 77
#: Where directories have short names, as sockets in them need, and are in memory, if there is one.
SHORT = "/dev/shm" if os.path.isdir("/dev/shm") else None
#: Stops in a row that never came, after which there are no more: their number varies.
LAST = 5


class NotAllowed(Exception):
    """The system lets us trace no process."""


def compiled(directory: Path) -> Path:
    """The tracer."""
    tracer = directory / "kill_at"
    subprocess.run(["cc", "-std=c11", "-O1", "-pthread", SOURCE, "-o", tracer], check=True)
    return tracer


class Killer:
    """`kill_at` on a process: that lives until its n-th stop from now on, or until `finish`."""

    def __init__(self, tracer: Path, os_pid: int, n: int, steps: int | None) -> None:
        words = [os_pid, n] if steps is None else [os_pid, n, _committed_at(os_pid), steps]
        pipe = subprocess.PIPE
        self._tracer = subprocess.Popen([tracer, *map(str, words)], stdin=pipe, stdout=pipe)
        assert self._tracer.stdout is not None
        if not self._tracer.stdout.readline():
            self._close()
            raise NotAllowed if self._tracer.returncode == NOT_ALLOWED else AssertionError("tracer")

    @property
    def over(self) -> bool:
        """Whether it is dead."""
        return self._tracer.poll() is not None

    def finish(self) -> tuple[int, bool]:
        """How many stops there were, and whether it was killed at the n-th. It is dead now."""
        assert self._tracer.stdin is not None
        assert self._tracer.stdout is not None
        self._tracer.stdin.close()
        stops, there = self._tracer.stdout.readline().split()
        self._close()
        return int(stops), there == b"1"

    def _close(self) -> None:
        for pipe in (self._tracer.stdin, self._tracer.stdout):
            if pipe is not None:
                pipe.close()
        self._tracer.wait(DEADLINE_S)


def _committed_at(leader: int) -> int:
    """Where in its memory this process commits to its journal."""
    for line in Path(f"/proc/{leader}/maps").read_text().splitlines():
        if "/journal-" in line:
            return int(line.partition("-")[0], 16) + WORD
    raise AssertionError("it leads nobody")


# ---- scenes


class Scene:
    """What is asked of the leader, and how others see it. `group` is None if it has not joined."""

    def set_up(self, group: Group, path: Path) -> Any:
        """In the judge, beforehand."""

    def enter(self, path: Path, may_lead: bool) -> Group | None:
        """In the caller, beforehand."""
        return Group.join("g", may_lead=may_lead)

    def prepare(self, group: Any, path: Path) -> Any:
        """In the caller, as a member."""

    def ask(self, group: Any, ready: Any, path: Path) -> Any:
        """In the caller, while it happens: what is told to the judge."""
        raise NotImplementedError

    def undo(self, ready: Any) -> None:
        """In the caller, when the judge says so."""

    def judge(
        self, group: Group, path: Path, seen: Any, answer: Any, undo: Callable[[], None]
    ) -> None:
        """In the judge; `seen` is what `set_up` gave."""
        raise NotImplementedError


class Ranges(Scene):
    """Two ranges of IDs."""

    def ask(self, group: Any, ready: Any, path: Path) -> Any:
        got = [group.ids.alloc_range(), group.ids.alloc_range()]
        return group.vmid, [(ids[0], ids[-1]) for ids in got]

    def judge(
        self, group: Group, path: Path, seen: Any, answer: Any, undo: Callable[[], None]
    ) -> None:
        caller, got = answer
        mine = group.ids.alloc_range()
        assert {group.ids.owner(id) for each in got for id in each} == {caller}
        assert group.ids.owner(mine[0]) == group.vmid
        granted = [*_granted(group)]
        assert max(Counter(each for _, each in granted).values()) == 1
        own = [each for owner, each in granted if owner == caller]
        assert own[1:] == got, (own, got)  # behind that which it was admitted with
        undo()


class Lock(Scene):
    """A lock on a file."""

    def prepare(self, group: Any, path: Path) -> Any:
        return group.file_lock(path, timeout=DEADLINE_S)

    def ask(self, group: Any, ready: Any, path: Path) -> Any:
        return group.vmid, tuple(ready.acquire())

    def undo(self, ready: Any) -> None:
        ready.release()

    def judge(
        self, group: Group, path: Path, seen: Any, answer: Any, undo: Callable[[], None]
    ) -> None:
        caller, token = answer
        assert [(each.vmid, each.waiting) for each in group.locks.table()] == [(caller, False)]
        mine = group.file_lock(path, timeout=0)
        try:
            mine.acquire()
        except libos_ipc.WouldBlock:
            undo()
        assert tuple(mine.acquire()) > token
        mine.release()


class Value(Scene):
    """A shared value that others read, and the caller, too: to change it."""

    def set_up(self, group: Group, path: Path) -> Any:
        mine = group.sync("counter", type=int)
        with mine.shared() as value:
            assert value == 0
        return mine

    def prepare(self, group: Any, path: Path) -> Any:
        mine = group.sync("counter", type=int)
        with mine.shared() as value:
            assert value == 0
        return mine

    def ask(self, group: Any, ready: Any, path: Path) -> Any:
        with ready.exclusive(timeout=DEADLINE_S) as held:
            held.value += 1
            return held.value

    def judge(
        self, group: Group, path: Path, seen: Any, answer: Any, undo: Callable[[], None]
    ) -> None:
        with seen.exclusive(timeout=DEADLINE_S) as held:
            assert held.value == answer == 1
        undo()
        seen.close()


class Admission(Scene):
    """To be admitted."""

    def set_up(self, group: Group, path: Path) -> Any:
        return len(group.members())

    def enter(self, path: Path, may_lead: bool) -> Group | None:
        return None

    def ask(self, group: Any, ready: Any, path: Path) -> Any:
        joined = Group.join("g", timeout=DEADLINE_S)
        return joined.vmid, joined.pid

    def undo(self, ready: Any) -> None:
        libos_ipc.current().close()

    def judge(
        self, group: Group, path: Path, seen: Any, answer: Any, undo: Callable[[], None]
    ) -> None:
        caller, pid = answer
        assert [(each.vmid, each.pid) for each in group.members()].count(answer) == 1
        assert group.ids.owner(pid) == caller
        assert max(Counter(each for _, each in _granted(group)).values()) == 1
        undo()
        poll(lambda: len(group.members()) == seen, what="nothing of it is left")


SCENES: dict[str, Scene] = {
    "ranges": Ranges(),
    "lock": Lock(),
    "value": Value(),
    "admission": Admission(),
}


def _last_journal(group: Group) -> tuple[str, Head]:
    """The last that was begun, and what it says of itself."""
    path, epoch, found = group._node.directory.path, 1, None
    while (head := read_head(f"{path}/journal-{epoch}")) is not None and head.committed:
        found, epoch = (f"{path}/journal-{epoch}", head), epoch + 1
    assert found is not None
    return found


def _granted(group: Group) -> Iterator[tuple[int, tuple[int, int]]]:
    """All ranges of IDs that the valid journal knows to have been given out, and to whom."""
    todo: list[Any] = [*read_journal(_last_journal(group)[0])]
    for kind, *fields in todo:
        if kind == "step":
            todo += fields[0]
        elif kind == "range":
            yield fields[0], (fields[1], fields[2])


# ---- who takes part


def _found(line: Line, transport: str) -> None:
    group = Group.create("g", config=GroupConfig(transport=transport))
    line.send()
    line.recv()
    group.close()


def _inherit(line: Line) -> None:
    line.recv()
    group = Group.join("g")
    line.send()
    line.recv()
    group.close()


def _call(line: Line, scene: Scene, path: Path, may_lead: bool) -> None:
    line.recv()
    group = scene.enter(path, may_lead)
    ready = scene.prepare(group, path)
    line.send()
    line.recv()
    line.send(scene.ask(group, ready, path))
    line.recv()
    scene.undo(ready)
    line.send()
    line.recv()
    libos_ipc.group.leave_all()


def play(
    tracer: Path,
    path: Path,
    scene: Scene,
    victim: str,
    n: int,
    transport: str = "auto",
    steps: int | None = None,
) -> tuple[int, bool]:
    """One group in the default runtime directory, and one death: see `Killer.finish`. `path` names
    a file."""
    by_leader = victim == "leader"
    with ExitStack() as stack:
        founder = stack.enter_context(Forked(_found, transport))
        caller = stack.enter_context(Forked(_call, scene, path, by_leader))
        heir = None if by_leader else stack.enter_context(Forked(_inherit))
        founder.recv()
        group = stack.enter_context(Group.join("g", may_lead=by_leader))
        seen = scene.set_up(group, path)
        for each in (caller, heir):
            if each is not None:
                each.send()
                each.recv()
        leader = _last_journal(group)[1].os_pid
        if heir is not None:
            founder.stop()
        killer = Killer(tracer, leader if heir is None else heir.os_pid, n, steps)
        try:
            if heir is not None:
                os.kill(leader, signal.SIGKILL)
            caller.send()
            poll(lambda: killer.over or caller.has_said, what="an answer, or the end")
            founder.kill(signal.SIGCONT)
            answer = caller.recv()
        finally:
            outcome = killer.finish()

        def undo() -> None:
            caller.send()
            caller.recv()

        scene.judge(group, path, seen, answer, undo)
        return outcome


def main() -> None:
    """All stops of all scenes that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--victim", choices=("leader", "heir"), default="leader")
    parser.add_argument("--scene", choices=SCENES, action="append")
    parser.add_argument("--transport", choices=("auto", "zmq", "native"), default="auto")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="lk-", dir=SHORT) as home:
        os.environ["XDG_RUNTIME_DIR"] = home
        tracer, path = compiled(Path(home)), Path(home) / "file"
        path.touch()
        for name in given.scene or SCENES:
            n, missed, killed = given.first, 0, 0
            while missed < LAST:
                try:
                    _, there = play(
                        tracer, path, SCENES[name], given.victim, n, given.transport, given.steps
                    )
                except BaseException:
                    print(f"{name}: {given.victim} killed at stop {n}", file=sys.stderr)
                    raise
                missed, killed = (0, killed + 1) if there else (missed + 1, killed)
                if sys.stderr.isatty():
                    print(f"{name}: stop {n}", end="\r", file=sys.stderr)
                n += given.every
            end = n - (LAST + 1) * given.every
            what = f"{given.victim} killed at {killed} stops up to {end}"
            print(f"{name} ({given.transport}): {what}", flush=True)


if __name__ == "__main__":
    main()
