"""Counters: what a process says of its messages, to itself, to others, and to Prometheus."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import both_leaders
from processes import Peer, poll, state_of
from prometheus_client import CollectorRegistry, generate_latest
from test_cli import cli, on_terminal

import libos_ipc
from libos_ipc.core.counters import Counters, Tally
from libos_ipc.core.links import Link
from libos_ipc.core.vocabulary import Outgoing, TakeLane
from libos_ipc.prometheus import register

CODE = 70


def serve(group: libos_ipc.Group) -> None:
    group.on(CODE)(lambda message: None)


def test_what_a_link_has_counted_outlives_it() -> None:
    tally, link = Tally(), Link(2)
    for _ in range(3):
        link.stamp(Outgoing(CODE, 0, b"12345"), 22, 0.0)
    link.receive(1, 1, 30, 0.0)
    before = tally.counters([link], 4)
    assert before == Counters(3, 1, 66, 30, 4, 2, 66, 30, 1, 0)
    tally.drop(link)
    after = Counters(3, 1, 66, 30, 0, 0, 0, 0, 0, 0)
    assert tally.counters([], 0) == after


@both_leaders
def test_messages_are_counted_at_both_ends(group: libos_ipc.Group) -> None:
    with Peer(group, serve) as peer:
        before = group.counters()
        for _ in range(50):
            group.request(peer.vmid, CODE, b"x" * 83)
        for _ in range(50):
            group.send(peer.vmid, CODE, b"x" * 83)
        group.flush()
        mine, theirs = group.counters(), group.getmeta(peer.pid, "counters")
        assert mine.sent - before.sent >= 100
        assert mine.received - before.received >= 50
        assert mine.sent_bytes - before.sent_bytes == 100 * 100
        assert theirs.received_bytes == 100 * 100
        poll(lambda: group.getmeta(peer.pid, "counters").backlog == 0, what="all is taken up")
        assert group.getmeta(group.pid, "counters").peers == mine.peers
    poll(lambda: group.counters().peers < mine.peers, what="the peer is gone")
    assert group.counters().sent_bytes == mine.sent_bytes


def test_a_stopped_process_tells_nothing(group: libos_ipc.Group) -> None:
    with Peer(group, serve) as peer:
        peer.stop()
        with pytest.raises(libos_ipc.Timeout):
            group.getmeta(peer.pid, "counters", timeout=0.05)


def test_nobody_publishes_counters_of_his_own(group: libos_ipc.Group) -> None:
    with pytest.raises(libos_ipc.InvalidArgument, match="counters"):
        group.meta["counters"] = 1


@pytest.mark.parametrize("group", ["embedded"], indirect=True)
def test_a_death_is_logged_and_counted(
    group: libos_ipc.Group, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "libos_ipc"), Peer(group, serve) as peer:
        peer.kill(signal.SIGKILL)
        poll(lambda: group.events() == {"member gone": 1}, what="the death is counted")
    (record,) = [record for record in caplog.records if hasattr(record, "libos_ipc")]
    told: dict[str, Any] = record.libos_ipc
    assert told == {
        "event": "member gone",
        "group": group.name,
        "epoch": group.epoch,
        "by": group.vmid,
        "vmid": peer.vmid,
    }
    where = f"group {group.name}, epoch {group.epoch}, by {group.vmid}"
    assert record.getMessage() == f"member gone: vmid {peer.vmid} ({where})"


def test_a_lane_that_went_with_its_process_is_no_event(group: libos_ipc.Group) -> None:
    def take() -> None:
        with group._session.lock:
            group._session.traffic._take(TakeLane(peer.vmid, 999, 0, 0))

    with Peer(group, serve) as peer:
        group.request(peer.vmid, CODE, b"")
        take()
        assert group.events() == {"cannot take a lane": 1}
        peer.kill(signal.SIGKILL)
        poll(lambda: state_of(peer.os_pid) in ("Z", ""))
        take()
        assert group.events()["cannot take a lane"] == 1


def test_prometheus(group: libos_ipc.Group) -> None:
    registry = CollectorRegistry()
    collector = register(group, group_wide=True, registry=registry)
    with Peer(group, serve) as peer:
        group.request(peer.vmid, CODE, b"x" * 83)
        text = generate_latest(registry).decode()
        labels = f'{{group="{group.name}",vmid="{group.vmid}"}}'
        for line in (
            f"libos_ipc_sent_bytes_total{labels} 100.0",
            f"libos_ipc_up{labels} 1.0",
            f"libos_ipc_members{labels} 2.0",
            f"libos_ipc_locks_held{labels} 0.0",
            f"libos_ipc_epoch{labels} 1.0",
        ):
            assert line in text.splitlines()
    group.close()
    assert generate_latest(registry) == b""
    registry.unregister(collector)


def test_top(group: libos_ipc.Group, runtime_dir: Path, tmp_path: Path) -> None:
    top = ("top", "--group", group.name, "--runtime-dir", runtime_dir, "--interval", "0.05")
    path = tmp_path / "file"
    path.touch()
    with Peer(group, serve) as peer, group.file_lock(path), group.sync("value", type=int):
        group.request(peer.vmid, CODE, b"x" * 83)
        said = cli(*top, "--count", "2", "--json")
        first, last = json.loads(said.stdout)
        assert first["group"] == {
            "name": group.name,
            "epoch": 1,
            "leader": group.leader_vmid,
            "members": 2,
            "locks": 1,
            "waiting": 0,
            "handles": 1,
        }
        mine, theirs = last["members"]
        assert (mine["vmid"], theirs["vmid"]) == (group.vmid, peer.vmid)
        assert (mine["locks"], mine["handles"], theirs["locks"]) == (1, 1, 0)
        assert theirs["counters"]["received_bytes"] == 100
        assert 0 < theirs["latency"] < 10
        assert theirs["sent_rate"] > 0  # what it has just told us, at least
        peer.stop()
        said = cli(*top)
        assert f"group {group.name}, epoch 1" in said.stdout
        (row,) = [line for line in said.stdout.splitlines() if line.split()[0] == str(peer.vmid)]
        assert row.split()[5] == "-"


def test_top_of_which_group(group: libos_ipc.Group, runtime_dir: Path) -> None:
    """Of the only one, which need not be named; else the others are, by which it could be."""
    top = ("top", "--runtime-dir", runtime_dir, "--interval", "0.05")
    assert f"group {group.name}, epoch 1" in cli(*top).stdout
    with libos_ipc.Group.create("other", runtime_dir=runtime_dir):
        said = cli(*top)
        assert said.returncode == 2
        assert f"'LIBOS_IPC_GROUP'); alive: {group.name}, other" in said.stderr


def test_top_on_a_terminal(group: libos_ipc.Group, runtime_dir: Path) -> None:
    words = ("top", "--group", group.name, "--runtime-dir", runtime_dir, "--count", "2")
    status, screen = on_terminal(*words, "--interval", "0.05")
    assert status == 0
    assert "LATENCY" in screen
    assert f"group {group.name}" in screen
