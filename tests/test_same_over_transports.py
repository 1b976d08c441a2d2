"""What a program hears is the same to the letter, whatever carries its messages.

A table of calls, good ones and bad ones, is made over each of the transports, to a member that
runs, that is stopped, that dies of the call, that has left; each answer or error, with its type,
number and text, is what it is over the others. Left out is what depends on who is faster: requests
with a time-out of 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

from conftest import TRANSPORTS
from processes import DEADLINE_S, Peer

from libos_ipc import Group, GroupConfig, IpcError, Message, NotFound

ECHO, DIVIDE, COUNT, ODD, NOTHING, BATCH, LARGE, DIE, COROUTINE, LONG, LEAVE, FINDS_NOT, DENY = (
    range(70, 83)
)
MOST = 1 << 20

Call = Callable[[Group, int], object]
NOBODY = 99
VMIDS = (0, -1, 2**31, 2**32, "x", NOBODY)


def member(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)
    group.on(DIVIDE)(lambda message: 1 / 0)
    group.on(COUNT, type=int)(lambda number, message: number + 1)
    group.on(ODD)(lambda message: object())
    group.on(NOTHING)(lambda message: None)
    group.on(BATCH, batch=True)(lambda messages: None)
    group.on(LARGE)(lambda message: bytes(2 * MOST))
    group.on(DIE)(lambda message: os.kill(os.getpid(), signal.SIGKILL))

    @group.on(COROUTINE)
    async def answer(message: Message) -> object:
        return message.payload

    @group.on(LONG)
    def fail(message: Message) -> None:
        raise ValueError("é" * 100_000)

    @group.on(LEAVE)
    def leave(message: Message) -> bytes:
        group.close()
        return b"left"

    @group.on(FINDS_NOT)
    def find(message: Message) -> None:
        raise NotFound("not here")

    @group.on(DENY)
    def deny(message: Message) -> None:
        raise PermissionError(13, "not you")


def asks(*args: Any, **more: Any) -> Call:
    return lambda group, vmid: group.request(vmid, *args, **{"timeout": DEADLINE_S, **more})


def sends(*args: Any) -> Call:
    return lambda group, vmid: group.send(vmid, *args, timeout=DEADLINE_S)


def to(vmid: Any, call: Callable[..., Call], *args: Any) -> Call:
    return lambda group, _: call(*args)(group, vmid)


PAYLOADS = (b"", b"bytes", "text", [1, 2], None, memoryview(b"view"), bytearray(b"array"), object())
CODES = (5, 63, 64, 200, 256, -1, "x")
TO_ONE_THAT_RUNS: list[Call] = [
    *(asks(ECHO, payload) for payload in PAYLOADS),
    *(sends(ECHO, payload) for payload in PAYLOADS),
    *(asks(code) for code in (DIVIDE, ODD, NOTHING, BATCH, LARGE, LONG, FINDS_NOT, DENY)),
    *(asks(code) for code in CODES if code != 64),
    *(sends(code) for code in CODES),
    asks(COROUTINE, b"later"),
    *(asks(COUNT, what, type=int) for what in (4, "four", b"\xff\xff")),
    asks(ECHO, b"\xc1", type=int),
    *(asks(ECHO, bytes(size)) for size in (MOST - 17, MOST - 16, MOST)),
    sends(ECHO, bytes(MOST)),
    *(asks(ECHO, b"", timeout=timeout) for timeout in (float("inf"), 1e300, "x")),
    *(to(vmid, asks, ECHO) for vmid in VMIDS),
    *(to(vmid, sends, ECHO) for vmid in VMIDS),
    *(lambda group, _, vmid=vmid: group.ping(vmid, DEADLINE_S) for vmid in VMIDS),
    lambda group, vmid: group.ping(vmid),
    lambda group, vmid: group.ping(group.vmid),
    lambda group, vmid: group.request(group.vmid, NOTHING, timeout=DEADLINE_S),
    lambda group, vmid: group.request(group.leader_vmid, ECHO, timeout=DEADLINE_S),
    *(
        lambda group, vmid, batch=batch: group.send_many(vmid, ECHO, batch)
        for batch in ([b"a", b"b"], [], [b"a", object()], 5)
    ),
    lambda group, vmid: group.send_many(NOBODY, ECHO, [b"a"]),
    *(lambda group, _, code=code: group.broadcast(code, b"to all") for code in (ECHO, 5)),
    lambda group, _: group.broadcast(ECHO, bytes(MOST)),
    lambda group, vmid: asyncio.run(group.arequest(vmid, ECHO, b"async")),
    lambda group, vmid: asyncio.run(group.arequest(vmid, ECHO, bytes(MOST))),
    lambda group, vmid: asyncio.run(group.arequest(NOBODY, ECHO, b"async")),
    lambda group, _: group.flush(DEADLINE_S),
]


def fill(group: Group, vmid: int) -> int:
    """How many it takes that is stopped."""
    for sent in range(1000):
        try:
            group.send(vmid, ECHO, bytes(1000), timeout=0)
        except IpcError:
            return sent
    raise AssertionError("no end")


TO_ONE_THAT_IS_STOPPED: list[Call] = [
    asks(ECHO, timeout=0.05),
    lambda group, vmid: group.ping(vmid, 0.05),
    fill,
    *(
        lambda group, vmid, timeout=timeout: group.send(vmid, ECHO, bytes(1000), timeout=timeout)
        for timeout in (0, 0.02)
    ),
    asks(ECHO, bytes(1000), timeout=0.02),
    lambda group, vmid: group.send_many(vmid, ECHO, [bytes(1000)] * 3, timeout=0),
    lambda group, _: group.broadcast(ECHO, bytes(1000)),
    lambda group, _: group.flush(0.02),
]
TO_ONE_THAT_IS_GONE: list[Call] = [
    asks(ECHO),
    sends(ECHO),
    lambda group, vmid: group.ping(vmid, DEADLINE_S),
    lambda group, vmid: group.send_many(vmid, ECHO, [b"a"]),
    lambda group, _: group.broadcast(ECHO, b""),
    lambda group, vmid: asyncio.run(group.arequest(vmid, ECHO, b"")),
]


def outcome(call: Call, group: Group, vmid: int) -> tuple[object, ...]:
    try:
        return ("returned", call(group, vmid))
    except Exception as error:
        return (type(error), str(error), getattr(error, "errno", None))


def heard(group: Group) -> list[tuple[object, ...]]:
    """The outcomes of all the calls, over this group's transport; it is closed then."""
    found = []

    def make(calls: list[Call], vmid: int) -> None:
        found.extend(outcome(call, group, vmid) for call in calls)

    group.on(ECHO)(lambda message: message.payload)
    for ends in (LEAVE, DIE):
        with Peer(group, member) as peer:
            for _ in range(20):
                group.request(peer.vmid, ECHO, timeout=DEADLINE_S)
            if ends == LEAVE:
                make(TO_ONE_THAT_RUNS, peer.vmid)
                peer.stop()
                make(TO_ONE_THAT_IS_STOPPED, peer.vmid)
                peer.kill(signal.SIGCONT)
                group.flush(DEADLINE_S)
            make([asks(ends), *TO_ONE_THAT_IS_GONE], peer.vmid)
    group.close()
    make(TO_ONE_THAT_IS_GONE, peer.vmid)
    return found


def test_every_outcome_is_the_same(found: Callable[..., Group]) -> None:
    outcomes = {
        transport: heard(
            found(
                config=GroupConfig(
                    transport=transport, max_message=MOST, send_buffer=64 << 10, fork_timeout=1.0
                )
            )
        )
        for transport in TRANSPORTS
    }
    for transport in TRANSPORTS:
        assert outcomes[transport] == outcomes["zmq"], transport
