"""Processes of the same user that break the protocol: it costs them their own messages only."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from processes import DEADLINE_S, Forked, Line, Peer, poll

import libos_ipc
from libos_ipc import Group, wire
from libos_ipc._native import pack_envelope, pack_message
from libos_ipc.core.codes import FIRST_USER_CODE, Code

BOTH = pytest.mark.parametrize("group", ["process", "embedded"], indirect=True)
ECHO = 70
#: The same every time, so that what is found can be found again.
DICE = random.Random(20)


def echo(group: Group) -> None:
    group.on(ECHO)(lambda message: message.payload)


def all_is_well(group: Group, peer: Peer) -> None:
    """Leader, peer and we ourselves answer as ever."""
    assert {group.vmid, peer.vmid} <= {member.vmid for member in group.members()}
    for _ in range(3):
        assert group.request(peer.vmid, ECHO, b"well", timeout=DEADLINE_S) == b"well"
    assert group.ids.owner(group.ids.new()) == group.vmid


def noise() -> Iterator[list[bytes]]:
    """Frames of no sense."""
    yield [b""]
    yield [b"", b"", b""]
    for _ in range(200):
        yield [DICE.randbytes(DICE.randrange(40)) for _ in range(DICE.randrange(1, 5))]


def hellos(group_id: str, epoch: int) -> Iterator[bytes]:
    """Hellos that are wrong in one point each; the last claims to be somebody else."""
    right = [wire.MAGIC, wire.PROTOCOL_VERSION, 1, 1, epoch]
    for place, value in ((0, 7), (1, 99), (4, epoch + 1), (2, 0), (2, 2**32 - 1)):
        fields = [*right[:place], value, *right[place + 1 :]]
        yield wire.encode(Code.HELLO, *fields, tail=group_id.encode())
    yield wire.encode(Code.HELLO, *right, tail=b"another group")
    yield wire.encode(Code.HELLO, *right, tail=group_id.encode())


def strangers_words(group_id: str, epoch: int) -> Iterator[list[bytes]]:
    yield from noise()
    for hello in hellos(group_id, epoch):
        yield [pack_envelope(0, 0), pack_message(Code.HELLO, 0, hello)]
    nested: object = 0
    for _ in range(400):
        nested = [nested]
    for greeting in (b"", b"\xc1", b"\x93", msgspec.msgpack.encode(nested), DICE.randbytes(50)):
        payload = wire.encode(Code.JOIN, tail=greeting)
        yield [pack_envelope(0, 0), pack_message(Code.JOIN, 1, payload)]
    for code in range(256):
        yield [pack_envelope(1, 0), pack_message(code, 1, DICE.randbytes(8))]


@BOTH
def test_a_stranger_who_says_anything(group: Group, runtime_dir: Path) -> None:
    home = runtime_dir / group.name
    file = group._node.file

    def say(line: Line) -> None:
        group.close()
        for path in home.glob("*.msg"):
            context = zmq.Context()
            for frames in strangers_words(file.id, file.epoch):
                socket = context.socket(zmq.DEALER)
                socket.linger = 100
                socket.connect(f"ipc://{path}")
                socket.send_multipart(frames)
                socket.close()
            context.term()

    echo(group)
    with Peer(group, echo) as peer:
        with Forked(say) as stranger:
            stranger.result()
        all_is_well(group, peer)
        poll(lambda: len(group.members()) == 2)


@BOTH
def test_a_member_who_sends_the_librarys_own_messages_broken(group: Group) -> None:
    """Requests are answered with an error, or with an answer; nobody falls silent or ends."""

    def attack(line: Line, victim: int) -> None:
        session = group._session
        for dst in (victim, group.leader_vmid):
            for code in range(FIRST_USER_CODE):
                if code in {Code.LEAVE, Code.RESP, Code.ERROR, Code.ACK, Code.PROBE}:
                    continue
                for size in (0, 1, 8, 200):
                    payload = DICE.randbytes(size)
                    session.send(dst, code, payload)
                    if code not in wire.ROWS or wire.ROWS[Code(code)].answer is not None:
                        try:
                            session.call(dst, code, payload, DEADLINE_S)
                        except libos_ipc.Timeout:
                            raise AssertionError(f"code {code} was not answered") from None
                        except libos_ipc.IpcError:
                            pass  # refused
            for seq in (0, 1, 2**63, 2**64 - 1):
                session.answer(dst, seq, b"to nothing")
                session.refuse(dst, seq, 5, "to nothing")

    echo(group)
    with Peer(group, echo) as peer:
        with Forked(attack, peer.vmid) as attacker:
            attacker.result(2 * DEADLINE_S)
        all_is_well(group, peer)


@BOTH
def test_a_member_who_counts_wrong(group: Group) -> None:
    """Numbers and acknowledgements beyond all that was sent, frames too many and too few."""

    def attack(line: Line, victim: int) -> None:
        session = group._session
        for dst in (victim, group.leader_vmid):
            session.send(dst, Code.CANCEL, (1,))
            group.flush(DEADLINE_S)
            message = pack_message(ECHO, 1, b"?")
            for number in (0, 1, 5, 2**63, 2**64 - 1):
                for acked in (0, 2**64 - 1):
                    with session.lock:
                        assert session._transport is not None
                        session._transport.transmit(dst, (pack_envelope(number, acked), message))
            for frames in noise():
                with session.lock:
                    session._transport.transmit(dst, tuple(frames))
        line.send()
        line.pause()
        os._exit(0)

    echo(group)
    with Peer(group, echo) as peer:
        with Forked(attack, peer.vmid) as attacker:
            attacker.recv()
            all_is_well(group, peer)
        all_is_well(group, peer)
        poll(lambda: len(group.members()) == 2, what="the attacker's end is noticed")
