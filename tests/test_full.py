"""The file system of the runtime directory is full, or is taken away, under a running group."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import DEADLINE_S, Forked, Line, Peer, leaders, poll

import libos_ipc
from libos_ipc import Group, GroupConfig
from libos_ipc.sync import SyncHandle

ECHO = 70


@pytest.fixture
def small(runtime_dir: Path) -> Iterator[Path]:
    """A runtime directory with a file system of its own, of 4 MiB."""
    path = runtime_dir / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "none", str(path)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        path.rmdir()
        pytest.skip("only root may mount a file system")
    try:
        yield path
        poll(lambda: not leaders(path), what="the leader has ended")
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


def fill(directory: Path) -> Path:
    """Leave nothing in the file system of this directory; what takes it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 1 << 16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


def echo(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)


def go_on(group: Group, rounds: int, lock_file: Path) -> None:
    """So much that the leader has to write down what it decides."""
    for _ in range(rounds):
        ids = [group.ids.new() for _ in range(40)]
        for id in ids:
            group.ids.release(id)
        with group.file_lock(lock_file):
            pass


def change(handle: SyncHandle[bytes], value: bytes) -> None:
    with handle.exclusive() as box:
        box.value = value


@pytest.mark.parametrize("leader", ["process", "embedded"])
def test_no_room_to_found_a_group(small: Path, config: GroupConfig, leader: str) -> None:
    filler = fill(small)
    with pytest.raises(OSError, match=f"{small} is full") as caught:
        Group.create("g", runtime_dir=small, config=config, leader=leader)
    assert caught.value.errno == errno.ENOSPC
    filler.unlink()
    Group.create("g", runtime_dir=small, config=config, leader=leader).close()


@pytest.mark.parametrize("leader", ["process", "embedded"])
def test_the_file_system_fills_up(
    small: Path, config: GroupConfig, leader: str, tmp_path: Path
) -> None:
    """What needs room there says so; the leader leads on, members come and go."""
    (tmp_path / "a").touch()

    def member(line: Line) -> None:
        with Group.join("g", runtime_dir=small, timeout=DEADLINE_S) as group:
            go_on(group, 100, tmp_path / "a")
            line.send(group.vmid)
            line.recv()

    with Group.create("g", runtime_dir=small, config=config, leader=leader) as group:
        echo(group)
        with Peer(group) as peer:
            before = group.sync("before")
            change(before, b"kept")
            filler = fill(small)
            go_on(group, 300, tmp_path / "a")
            assert group.request(peer.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
            with pytest.raises(OSError, match="No space left") as caught:
                change(before, bytes(100_000))
            assert caught.value.errno == errno.ENOSPC
            with before.shared() as value:
                assert value == b"kept"
            with Forked(member) as late:
                vmid = late.recv()
                assert vmid in {each.vmid for each in group.members()}
                late.kill()
                late.wait()
            poll(lambda: vmid not in {each.vmid for each in group.members()})
            filler.unlink()
            go_on(group, 10, tmp_path / "a")
            change(before, bytes(100_000))
            with before.shared() as value:
                assert value == bytes(100_000)
        poll(lambda: len(group.members()) == 1)


def test_the_directory_is_removed(found: Callable[..., Group], runtime_dir: Path) -> None:
    """Who is there goes on with those it knows; nobody else comes in, and is told; and the group
    ends with its last member all the same."""
    group = found("lost")
    echo(group)
    with Peer(group) as peer:
        assert group.request(peer.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
        assert len(group.members()) == 2
        shutil.rmtree(runtime_dir / "lost")
        for _ in range(50):
            assert group.request(peer.vmid, ECHO, b"on", timeout=DEADLINE_S) == b"on"
        assert group.ids.owner(group.ids.new()) == group.vmid
        with pytest.raises(libos_ipc.NotJoined, match="no group named 'lost'"):
            Group.join("lost", runtime_dir=runtime_dir)
        peer.kill()
        peer.wait()
        poll(lambda: len(group.members()) == 1, what="its death is noticed")
    group.close()
    poll(lambda: not leaders(runtime_dir), what="the leader has ended")
