"""Handlers of batches: what they get at once, what is refused, errors, credit, readiness, forks."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from processes import DEADLINE_S, Forked, Line, Peer, poll

import libos_ipc
from libos_ipc import Group, Message

BY = pytest.mark.parametrize("transport", ["auto", "zmq"], indirect=True)
BATCH, ALSO, TOLD = range(70, 73)
COUNT = 2000


def ledger(group: Group, type: Any = None) -> None:
    """BATCH and ALSO write down what each call was given, TOLD tells it."""
    batches: list[list[tuple[int, object]]] = []
    group.on(TOLD)(lambda message: batches)
    group.on(ALSO)(lambda message: batches.append([(message.src, message.payload)]))

    if type is None:

        @group.on(BATCH, batch=True)
        def plain(messages: list[Message]) -> None:
            assert all(m.code == BATCH and m.seq == 0 for m in messages)
            batches.append([(m.src, m.payload) for m in messages])

    else:

        @group.on(BATCH, type=type, batch=True)
        def decoded(values: list[Any], messages: list[Message]) -> None:
            batches.append([(m.src, v) for v, m in zip(values, messages, strict=True)])


def told(group: Group, vmid: int, type: Any = bytes) -> list[list[tuple[int, Any]]]:
    answer: list[list[tuple[int, Any]]] = group.request(
        vmid, TOLD, type=list[list[tuple[int, type]]], timeout=DEADLINE_S
    )
    return answer


@BY
def test_all_arrive_once_and_in_order_in_fewer_calls(group: Group) -> None:
    with Peer(group, ledger) as peer:
        for number in range(COUNT):
            group.send(peer.vmid, BATCH, b"%d" % number, timeout=DEADLINE_S)
        batches = told(group, peer.vmid)
    assert [p for batch in batches for _, p in batch] == [b"%d" % n for n in range(COUNT)]
    assert all(batches)
    assert len(batches) < COUNT


@BY
def test_other_codes_keep_their_place(group: Group) -> None:
    """What lies between two runs of a code ends the first: nothing is overtaken."""
    with Peer(group, ledger) as peer:
        for number in range(COUNT):
            code = ALSO if number % 7 == 3 else BATCH
            group.send(peer.vmid, code, b"%d" % number, timeout=DEADLINE_S)
        batches = told(group, peer.vmid)
    assert [p for batch in batches for _, p in batch] == [b"%d" % n for n in range(COUNT)]


@BY
def test_values_are_decoded_and_what_is_none_is_left_out(group: Group) -> None:
    with Peer(group, lambda group: ledger(group, int)) as peer:
        for number in range(50):
            group.send(peer.vmid, BATCH, "no number" if number == 20 else number)
        batches = told(group, peer.vmid, int)
    assert [v for batch in batches for _, v in batch] == [*range(20), *range(21, 50)]


@BY
def test_a_request_is_refused(group: Group) -> None:
    with Peer(group, ledger) as peer:
        with pytest.raises(libos_ipc.NoHandler, match="handled in batches"):
            group.request(peer.vmid, BATCH, b"x", timeout=DEADLINE_S)
        group.send(peer.vmid, BATCH, b"y")
        assert told(group, peer.vmid) == [[(group.vmid, b"y")]]


@BY
def test_what_was_held_comes_as_one_batch(group: Group) -> None:
    def late(line: Line) -> list[int]:
        line.send(group.vmid)
        line.recv()
        sizes: list[int] = []
        done = threading.Event()

        @group.on(BATCH, batch=True)
        def count(messages: list[Message]) -> None:
            sizes.append(len(messages))
            if sum(sizes) == 100:
                done.set()

        done.wait(DEADLINE_S)
        return sizes

    with Forked(late) as child:
        vmid = child.recv()
        for number in range(100):
            group.send(vmid, BATCH, b"%d" % number)
        group.flush(DEADLINE_S)
        child.send()
        assert child.result() == [100]


@BY
def test_the_policy_is_asked_for_each(group: Group) -> None:
    def guarded(group: Group) -> None:
        def policy(src: int, code: int, payload: bytes) -> None:
            if payload == b"evil":
                raise PermissionError("not that")

        group.policy(policy)
        ledger(group)

    with Peer(group, guarded) as peer:
        for payload in (b"a", b"evil", b"b") * 20:
            group.send(peer.vmid, BATCH, payload)
        batches = told(group, peer.vmid)
    assert [p for batch in batches for _, p in batch] == [b"a", b"b"] * 20


@BY
def test_errors_are_logged_once_for_a_batch(group: Group) -> None:
    def failing(line: Line) -> list[str]:
        records: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("libos_ipc").addHandler(handler)
        calls: list[int] = []

        @group.on(BATCH, batch=True)
        def fail(messages: list[Message]) -> None:
            calls.append(len(messages))
            messages.clear()
            raise ValueError("no")

        line.send(group.vmid)
        poll(lambda: sum(calls) == 30 and len(records) == len(calls))
        return records

    with Forked(failing) as child:
        vmid = child.recv()
        for _ in range(30):
            group.send(vmid, BATCH, b"x")
        expected = f"message of VMID {group.vmid}, code {BATCH}: handler failed"
        assert set(child.result()) == {expected}


@BY
@pytest.mark.config(send_buffer=16 << 10)
def test_what_was_handled_may_be_sent_again(group: Group) -> None:
    """Many times what a sender may be ahead: each message of a batch is credited."""
    with Peer(group, ledger) as peer:
        for number in range(COUNT):
            group.send(peer.vmid, BATCH, bytes(200) + b"%d" % number, timeout=DEADLINE_S)
        assert sum(map(len, told(group, peer.vmid))) == COUNT


def coroutine(group: Group, note: Callable[[list[Message]], None]) -> None:
    @group.on(BATCH, batch=True)
    async def later(messages: list[Message]) -> None:
        note(messages)


def threads(group: Group, note: Callable[[list[Message]], None]) -> None:
    group.on(BATCH, threads=3, batch=True)(note)


@BY
@pytest.mark.parametrize("kind", [coroutine, threads])
def test_on_loops_and_threads(
    group: Group, kind: Callable[[Group, Callable[[list[Message]], None]], None]
) -> None:
    def setup(group: Group) -> None:
        seen: list[bytes] = []
        group.on(TOLD)(lambda message: seen)
        kind(group, lambda messages: seen.extend(m.payload for m in messages))

    with Peer(group, setup) as peer:
        for number in range(100):
            group.send(peer.vmid, BATCH, b"%d" % number)

        def seen() -> list[bytes]:
            answer: list[bytes] = group.request(
                peer.vmid, TOLD, type=list[bytes], timeout=DEADLINE_S
            )
            return answer

        poll(lambda: len(seen()) == 100)
        assert sorted(seen()) == sorted(b"%d" % n for n in range(100))


@BY
def test_a_handler_may_fork(group: Group) -> None:
    """The child has none of the messages: each is handled once, by the parent."""

    def forking(group: Group) -> None:
        ledger(group)
        batches: list[list[tuple[int, bytes]]] = []
        group.on(TOLD)(lambda message: batches)

        @group.on(BATCH, batch=True)
        def fork(messages: list[Message]) -> None:
            pid = os.fork() if len(batches) < 3 else None
            if pid == 0:
                return
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
            batches.append([(m.src, m.payload) for m in messages])

    with Peer(group, forking) as peer:
        for number in range(300):
            group.send(peer.vmid, BATCH, b"%d" % number, timeout=DEADLINE_S)
        batches = told(group, peer.vmid)
    assert [p for batch in batches for _, p in batch] == [b"%d" % n for n in range(300)]


def test_a_process_sends_to_itself(group: Group) -> None:
    seen: list[bytes] = []

    @group.on(BATCH, batch=True)
    def note(messages: list[Message]) -> None:
        seen.extend(m.payload for m in messages)

    for number in range(100):
        group.send(group.vmid, BATCH, b"%d" % number)
    poll(lambda: len(seen) == 100)
    assert seen == [b"%d" % n for n in range(100)]
