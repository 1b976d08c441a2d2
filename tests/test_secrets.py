"""What is in a group's files, and who may see it: other users nothing, nobody a key by the way."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest
import zmq
from conftest import both_leaders
from processes import Forked, Line, Peer, poll

from libos_ipc import Group, wire
from libos_ipc._native import pack_envelope, pack_message
from libos_ipc.core.codes import Code

NOBODY = 65534


def words_of(os_pid: int) -> bytes:
    """What `ps` shows of a process, and what it has in its environment."""
    return b"".join(Path(f"/proc/{os_pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


def touch_everything(group: Group) -> None:
    """Sockets, lanes, slots and slabs are there."""
    file = Path(group._node.directory.runtime_dir).parent / "to-lock"
    file.touch()
    for _ in range(40):
        with group.file_lock(file):
            pass
    file.unlink()
    with group.sync("value", type=bytes).exclusive() as box:
        box.value = b"secret"


@both_leaders
def test_nothing_is_open_to_others(group: Group, runtime_dir: Path) -> None:
    with Peer(group, touch_everything):
        touch_everything(group)
        home = Path(group._node.directory.path)
        assert len(list(home.iterdir())) > 6
        for path in (home, *home.iterdir()):
            assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
            assert not path.is_symlink()


@both_leaders
def test_what_a_group_is_known_by_is_in_no_log_and_no_list_of_processes(
    group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    """Its ID, which a hello must name, and its token: outside of the group's own files."""
    caplog.set_level(logging.DEBUG)
    path = group._node.directory.message_socket(group.vmid)
    secrets = [group._node.file.id, group.token()]

    def lie(line: Line) -> None:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.linger = 100
        socket.connect(f"ipc://{path}")
        fields = wire.MAGIC, wire.PROTOCOL_VERSION, 1, 1, 77
        hello = wire.encode(Code.HELLO, *fields, tail=secrets[0].encode())
        socket.send_multipart([pack_envelope(0, 0), pack_message(Code.HELLO, 0, hello)])
        line.pause()

    with Peer(group) as peer, Forked(lie):
        poll(lambda: "connection refused" in caplog.text)
        leader = group._node.directory.lock.holder(group.epoch)
        for os_pid in (os.getpid(), leader, peer.os_pid):
            assert not [secret for secret in secrets if secret.encode() in words_of(os_pid)]
    assert not [secret for secret in secrets if secret in caplog.text]


@pytest.mark.config(transport="native")
def test_another_user_cannot_open_what_two_processes_share(group: Group) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    bell = group._session.traffic.lanes.bell_fd
    paths = [f"/proc/{os.getpid()}/fd/{bell}", group._node.directory.live_socket(group.vmid)]

    def try_all(line: Line) -> list[str]:
        group.close()
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        said = []
        for path in paths:
            try:
                os.open(path, os.O_RDWR)
            except OSError as error:
                said.append(type(error).__name__)
        return said

    with Forked(try_all) as stranger:
        assert stranger.result() == ["PermissionError", "PermissionError"]
