"""Streams of one-way messages, over each transport: what a handler keeps stays what it was; many
sent at once; and broadcasts to members that come and go."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
from processes import DEADLINE_S, Peer, poll

import libos_ipc
from libos_ipc import Group, Message
from libos_ipc.runtime.journal_file import read_head

BY = pytest.mark.parametrize("transport", ["auto", "native", "zmq"], indirect=True)
STREAM, BATCH, TOLD, NOTE, NOTED = range(70, 75)
#: More than are read at a time, and more than are kept to be used again.
COUNT = 3000


def collector(group: Group) -> None:
    """STREAM and BATCH keep every third message, and the field of another; TOLD tells them."""
    messages: list[Message] = []
    fields: list[bytes] = []

    def keep(message: Message) -> None:
        number = int(message.payload)
        if number % 3 == 0:
            messages.append(message)
        elif number % 3 == 1:
            fields.append(message.payload)

    group.on(STREAM)(keep)

    @group.on(BATCH, batch=True)
    def keep_some(together: list[Message]) -> None:
        for message in together:
            keep(message)
        del together[::2]  # it is ours

    @group.on(TOLD)
    def tell(message: Message) -> object:
        return [list(message) for message in messages], fields


@BY
@pytest.mark.parametrize("code", [STREAM, BATCH], ids=["each", "batches"])
def test_messages_that_a_handler_keeps_do_not_change(group: Group, code: int) -> None:
    with Peer(group, collector) as peer:
        for number in range(COUNT):
            group.send(peer.vmid, code, b"%d" % number, timeout=DEADLINE_S)
        messages, fields = group.request(
            peer.vmid,
            TOLD,
            type=tuple[list[tuple[int, int, int, bytes]], list[bytes]],
            timeout=DEADLINE_S,
        )
    assert messages == [(group.vmid, code, 0, b"%d" % n) for n in range(0, COUNT, 3)]
    assert fields == [b"%d" % n for n in range(1, COUNT, 3)]


# ---- many at once


def notebook(group: Group) -> None:
    """NOTE writes down what comes, NOTED tells it."""
    notes: list[bytes] = []
    group.on(NOTE)(lambda message: notes.append(message.payload))
    group.on(NOTED)(lambda message: notes)


def noted(group: Group, vmid: int) -> list[bytes]:
    notes: list[bytes] = group.request(vmid, NOTED, type=list[bytes], timeout=DEADLINE_S)
    return notes


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


@BY
def test_many_arrive_once_and_in_order_between_others(group: Group) -> None:
    with Peer(group, notebook) as peer:
        expected = []
        for size in (0, 1, 15, 16, 17, 1000, 3):
            many = numbered(size, len(expected))
            assert group.send_many(peer.vmid, NOTE, iter(many), timeout=DEADLINE_S) == size
            group.send(peer.vmid, NOTE, b"one")
            expected += [*many, b"one"]
        assert noted(group, peer.vmid) == expected


@BY
def test_many_of_every_kind_and_size(group: Group) -> None:
    payloads: list[Any] = [b"bytes", b"", memoryview(b"view"), 7, "text", bytes(100_000), b"last"]
    with Peer(group, notebook) as peer:
        for _ in range(20):
            assert group.send_many(peer.vmid, NOTE, payloads) == len(payloads)
        found = noted(group, peer.vmid)
    assert found == [b"bytes", b"", b"view", b"\x07", b"\xa4text", bytes(100_000), b"last"] * 20


@BY
def test_many_to_ourselves_and_to_nobody(group: Group) -> None:
    notebook(group)
    assert group.send_many(group.vmid, NOTE, numbered(50)) == 50
    assert noted(group, group.vmid) == numbered(50)
    with pytest.raises(libos_ipc.PeerDied):
        group.send_many(77, NOTE, numbered(2))
    with pytest.raises(libos_ipc.InvalidRange):
        group.send_many(group.vmid, 3, numbered(2))
    assert group.send_many(77, NOTE, []) == 0


@BY
@pytest.mark.config(max_message=1000)
def test_one_that_is_too_large_ends_it_where_it_stands(group: Group) -> None:
    with Peer(group, notebook) as peer:
        with pytest.raises(libos_ipc.MessageTooLarge):
            group.send_many(peer.vmid, NOTE, [*numbered(20), bytes(1000), b"never"])
        assert noted(group, peer.vmid) == numbered(20)


@BY
@pytest.mark.config(send_buffer=64 << 10)
def test_as_many_as_a_slow_receiver_has_room_for(group: Group) -> None:
    with Peer(group, notebook) as slow:
        assert noted(group, slow.vmid) == []
        slow.stop()
        many = numbered(10_000)
        sent = group.send_many(slow.vmid, NOTE, many, timeout=0)
        assert 1000 < sent <= (64 << 10) // 17
        with pytest.raises(libos_ipc.WouldBlock):
            group.send_many(slow.vmid, NOTE, many[sent:], timeout=0)
        with pytest.raises(libos_ipc.Timeout):
            group.send_many(slow.vmid, NOTE, many[sent:], timeout=0.1)
        rest = threading.Thread(target=lambda: group.send_many(slow.vmid, NOTE, many[sent:]))
        rest.start()
        rest.join(0.1)
        assert rest.is_alive()
        slow.kill(signal.SIGCONT)
        rest.join(DEADLINE_S)
        assert not rest.is_alive()
        assert noted(group, slow.vmid) == many


@BY
def test_many_from_several_threads_stay_in_the_order_of_each(group: Group) -> None:
    def send(letter: bytes) -> None:
        for start in range(0, 600, 30):
            group.send_many(peer.vmid, NOTE, [letter + n for n in numbered(30, start)])

    with Peer(group, notebook) as peer:
        threads = [threading.Thread(target=send, args=(letter,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
        found = noted(group, peer.vmid)
    for letter in (b"a", b"b", b"c"):
        assert [n for n in found if n[:1] == letter] == [letter + n for n in numbered(600)]


@BY
def test_more_than_a_lane_holds_waits_for_a_stopped_receiver(group: Group) -> None:
    many = [b"%100d" % number for number in range(20_000)]
    with Peer(group, notebook) as slow:
        assert noted(group, slow.vmid) == []
        slow.stop()
        for start in range(0, len(many), 1000):
            assert group.send_many(slow.vmid, NOTE, many[start : start + 999], timeout=0) == 999
            group.send(slow.vmid, NOTE, many[start + 999], timeout=0)
        slow.kill(signal.SIGCONT)
        assert noted(group, slow.vmid) == many


# ---- broadcasts


@BY
def test_a_broadcast_finds_who_has_come_and_not_who_has_gone(group: Group) -> None:
    for _ in range(3):
        assert group.broadcast(NOTE, b"alone") == []
        with Peer(group, notebook) as one:
            for _ in range(20):
                assert group.broadcast(NOTE, b"one") == [one.vmid]
            with Peer(group, notebook) as two:
                for _ in range(20):
                    assert group.broadcast(NOTE, b"both") == [one.vmid, two.vmid]
                assert noted(group, two.vmid) == [b"both"] * 20
            poll(lambda one=one: group.broadcast(NOTE, b"left") == [one.vmid])  # type: ignore[misc]
            assert noted(group, one.vmid)[:40] == [b"one"] * 20 + [b"both"] * 20
        poll(lambda: group.broadcast(NOTE, b"over") == [])


@BY
def test_a_broadcast_finds_who_has_come_under_another_leader(group: Group) -> None:
    with Peer(group, notebook) as one:
        poll(lambda: group.broadcast(NOTE, b"before") == [one.vmid])
        head = read_head(group._node.directory.journal(group.epoch))
        assert head is not None
        os.kill(head.os_pid, signal.SIGKILL)
        with Peer(group, notebook) as two:
            for _ in range(20):
                assert group.broadcast(NOTE, b"after") == [one.vmid, two.vmid]
            assert noted(group, two.vmid) == [b"after"] * 20


@BY
def test_a_broadcast_where_the_journal_cannot_be_read(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Peer(group, notebook) as peer:
        monkeypatch.setattr(group._node.directory, "journal", lambda epoch: "/nowhere/journal")
        for _ in range(20):
            assert group.broadcast(NOTE, b"all") == [peer.vmid]
        assert noted(group, peer.vmid) == [b"all"] * 20


@BY
def test_a_quiet_group_is_not_asked_for_its_members(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    ask = group.members

    def asked() -> list[libos_ipc.Member]:
        calls.append("asked")
        return ask()

    def is_quiet() -> bool:
        calls.clear()
        for _ in range(50):
            assert group.broadcast(NOTE, b"more", timeout=DEADLINE_S) == [peer.vmid]
        return not calls

    with Peer(group, notebook) as peer:
        monkeypatch.setattr(group, "members", asked)
        poll(is_quiet)
        assert group.ids.alloc_range()
        group.broadcast(NOTE, b"after a decision of the leader's")
        assert calls
    group.close()
    with pytest.raises(libos_ipc.NotJoined):
        group.broadcast(NOTE, b"closed")
