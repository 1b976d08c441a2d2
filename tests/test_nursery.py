"""The next child's sockets: made behind a fork, given to whoever is forked next, gone with us."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import DEADLINE_S, Forked, Line, kinds_of_descriptors, poll

from libos_ipc import Group
from libos_ipc.runtime.nursery import Nursery
from libos_ipc.runtime.rundir import GroupDir
from libos_ipc.runtime.watches import Watches


@pytest.fixture
def nursery(tmp_path: Path) -> Nursery:
    (tmp_path / "g").mkdir(mode=0o700)
    return Nursery(GroupDir(tmp_path, "g"), 7)


def files(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()}


def waiting(home: Path) -> set[str]:
    return {name for name in files(home) if name.endswith("+")}


def test_what_is_ready_takes_the_childs_name(nursery: Nursery, tmp_path: Path) -> None:
    before = kinds_of_descriptors()
    nursery.prepare()
    nursery.prepare()
    assert files(tmp_path / "g") == {"7.msg+", "7.liv+"}
    ready = kinds_of_descriptors()
    cradle = nursery.take(8)
    assert files(tmp_path / "g") == {"8.msg", "8.live"}
    assert kinds_of_descriptors() == ready, "nothing was made"
    other = nursery.take(9)
    assert files(tmp_path / "g") == {"8.msg", "8.live", "9.msg", "9.live"}
    cradle.close()
    other.close()
    assert kinds_of_descriptors() == before


@pytest.mark.parametrize("name", ["7.msg+", "7.liv+"])
def test_what_was_removed_is_made_anew(nursery: Nursery, tmp_path: Path, name: str) -> None:
    before = kinds_of_descriptors()
    nursery.prepare()
    (tmp_path / "g" / name).unlink()
    nursery.take(8).close()
    assert {"8.msg", "8.live"} <= files(tmp_path / "g")
    assert kinds_of_descriptors() == before


def test_who_cannot_have_it_ready_goes_without(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "g").rmdir()
    nursery.prepare()
    with pytest.raises(OSError):
        nursery.take(8)


def test_a_child_that_is_watched_already_is_watched_once(nursery: Nursery, tmp_path: Path) -> None:
    """A process that begins to lead in the middle of a fork watches whomever it reads of."""
    before = kinds_of_descriptors()
    cradle = nursery.take(8)
    registered: list[int] = []
    watches = Watches(
        lambda fd, look: registered.append(fd), registered.remove, lambda vmid: None, os.close
    )
    assert watches.live(8, str(tmp_path / "g" / "8.live"))
    watches.hold(8, cradle.watcher)
    assert len(registered) == 1
    assert watches.os_pid(8) == os.getpid()
    watches.close()
    cradle.close()
    assert kinds_of_descriptors() == before


@pytest.mark.config(transport="native")
def test_it_goes_with_its_parent(group: Group, runtime_dir: Path) -> None:
    home = runtime_dir / group.name

    def forks(line: Line) -> None:
        def is_ready() -> bool:
            pid = group.fork()
            if not pid:
                os._exit(0)
            group.wait(pid, DEADLINE_S)
            return f"{group.vmid}.liv+" in waiting(home)

        poll(is_ready, what="a fork with threads, and something ready behind it")
        line.send()
        if line.recv() == "leave":
            group.close()
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    ours = {f"{group.vmid}.liv+", f"{group.vmid}.msg+"}
    for end in ("leave", "die"):
        with Forked(forks) as child:
            child.recv()
            child.send(end)
            child.wait()
        poll(lambda: waiting(home) <= ours, what="nothing of the child's is left")
    group.close()
    poll(lambda: not home.exists())
