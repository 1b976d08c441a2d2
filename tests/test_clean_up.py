"""What a dead process held is free, once: whatever it was doing, and whoever has its pid now."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import DEADLINE_S, Forked, Line, Peer, leaders, poll, state_of

import libos_ipc
from libos_ipc import Group

ECHO, LOCK, CHANGE = 70, 71, 72
#: Steps of a sweep at most, and how often a pid is tried for.
MOST = 48
TRIES = 20

Scenario = Callable[[Group, int, Path], object]


def echo(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)


# ---- what the victim is in the middle of


def talk(group: Group, peer: int, path: Path) -> None:
    """Enough for a lane to be negotiated."""
    for _ in range(20):
        group.request(peer, ECHO, b"on", timeout=DEADLINE_S)


def use_ids(group: Group, peer: int, path: Path) -> None:
    """IDs from several ranges, one of which moves to another process."""
    ids = [group.ids.new() for _ in range(70)]
    group.ids.move(ids[0], peer)
    for id in ids[1:]:
        group.ids.release(id)


def lock_a_file(group: Group, peer: int, path: Path) -> None:
    """Often enough for the file to be delegated, and then it is taken back."""
    for _ in range(12):
        with group.file_lock(path):
            pass
    group.request(peer, LOCK, timeout=DEADLINE_S)
    with group.file_lock(path):
        pass


def move_a_handle(group: Group, peer: int, path: Path) -> None:
    """EXCLUSIVE goes to and fro."""
    handle = group.sync("value", type=int)
    for _ in range(3):
        with handle.exclusive() as box:
            box.value += 1
        group.request(peer, CHANGE, timeout=DEADLINE_S)


def fork_children(group: Group, peer: int, path: Path) -> None:
    """Pairs of VMID and ID move to children, and others are made."""
    for _ in range(3):
        pid = group.fork()
        if not pid:
            os._exit(0)
        group.wait(pid, DEADLINE_S)


def contend(path: Path) -> Callable[[Group], None]:
    """The other one of a scenario: locks and changes when it is asked to."""

    def setup(group: Group) -> None:
        echo(group)
        handle = group.sync("value", type=int)

        @group.on(LOCK)
        def lock(message: libos_ipc.Message) -> None:
            with group.file_lock(path):
                pass

        @group.on(CHANGE)
        def change(message: libos_ipc.Message) -> None:
            with handle.exclusive() as box:
                box.value += 1

    return setup


def die_at(group: Group, count: int) -> None:
    """This process is killed just before it does the next effect but `count` of its machine's."""
    table = group._session._perform_one
    left = count

    def counted(do: Callable[..., None]) -> Callable[..., None]:
        def perform(effect: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            do(effect)

        return perform

    table.update({kind: counted(do) for kind, do in table.items()})


@pytest.mark.parametrize(
    "scenario", [talk, use_ids, lock_a_file, move_a_handle, fork_children], ids=lambda s: s.__name__
)
@pytest.mark.config(quarantine=0.0)
def test_killed_at_each_step(group: Group, scenario: Scenario, tmp_path: Path) -> None:
    """Others go on, and all that it had is theirs."""
    path = tmp_path / "file"
    path.touch()

    def victim(line: Line, peer: int, count: int) -> None:
        held = group.ids.new()
        line.send((group.vmid, group.pid, held))
        die_at(group, count)
        scenario(group, peer, path)

    with Peer(group, contend(path)) as other:
        handle = group.sync("value", type=int)
        count = 0
        died = True
        while died and count < MOST:
            with Forked(victim, other.vmid, count) as child:
                vmid, pid, held = child.recv()
                died = os.WIFSIGNALED(child.wait())
            count += 1 if count < 16 else 7

            def is_gone(vmid: int = vmid) -> bool:
                return vmid not in {each.vmid for each in group.members()}

            poll(is_gone, what="it is listed no more")
            for id in (pid, held):
                poll(lambda id=id: group.ids.owner(id) is None, what=f"ID {id} is free")
            with group.file_lock(path, timeout=DEADLINE_S):
                assert not [lock for lock in group.locks.table() if lock.pid == pid]
            with handle.exclusive(timeout=DEADLINE_S) as box:
                box.value += 1
            assert group.request(other.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
        assert count > 3
        poll(lambda: len(group.members()) == 2, what="no child of the dead is left")


def process_with_pid(pid: int) -> int:
    """A sleeping child with this OS pid, which nobody has; 0 where that cannot be had."""
    for _ in range(TRIES):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        except OSError:
            return 0
        child = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
        if child == pid:
            return child
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return 0


def test_its_os_pid_is_used_again(group: Group, runtime_dir: Path, tmp_path: Path) -> None:
    """Before the leader had time to look: it is known by more than its number."""
    (leader,) = leaders(runtime_dir)
    path = tmp_path / "file"
    path.touch()

    def holds(group: Group) -> None:
        group.file_lock(path).acquire()
        with group.sync("value", type=int).exclusive() as box:
            box.value = 7

    handle = group.sync("value", type=int)
    stranger = 0
    with Peer(group, holds) as victim:
        os.kill(leader, signal.SIGSTOP)
        try:
            poll(lambda: state_of(leader) == "T")
            victim.kill()
            victim.wait()
            stranger = process_with_pid(victim.os_pid)
        finally:
            os.kill(leader, signal.SIGCONT)
        try:
            if not stranger:
                pytest.skip("a process cannot be given an OS pid here")
            poll(lambda: victim.vmid not in {each.vmid for each in group.members()})
            with group.file_lock(path, timeout=DEADLINE_S):
                pass
            with handle.shared(timeout=DEADLINE_S) as value:
                assert value == 7
            with pytest.raises(libos_ipc.PeerDied):
                group.kill(victim.pid, signal.SIGTERM)
            poll(lambda: state_of(stranger) == "S", what="it sleeps on")  # not Z: nobody killed it
        finally:
            if stranger:
                os.kill(stranger, signal.SIGKILL)
                os.waitpid(stranger, 0)
