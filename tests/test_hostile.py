"""Processes of the same user that break the protocol: it costs them their own messages only."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from processes import DEADLINE_S, Forked, Line, Peer, descriptors, poll, until_settled

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
    for greeting in (
        b"",
        b"\xc1",
        b"\x93",
        b"\x93\xa1\xff\0\xc3",
        msgspec.msgpack.encode(nested),
        DICE.randbytes(50),
    ):
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
                if code == Code.BACK:
                    continue  # of another epoch it is not answered: who means it says it again
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
                        assert session.carriage.transport is not None
                        session.carriage.transport.transmit(
                            dst, (pack_envelope(number, acked), message)
                        )
            for frames in noise():
                with session.lock:
                    session.carriage.transport.transmit(dst, tuple(frames))
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


def connected(path: Path) -> socket.socket:
    """A connection to a Unix socket, if there is room."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.setblocking(False)
    try:
        line.connect(str(path))
    except BlockingIOError:
        pass  # the queue is full
    return line


@BOTH
def test_a_stranger_who_fills_the_queue_of_watchers(group: Group, runtime_dir: Path) -> None:
    """Newcomers must watch who they talk to: they are heard all the same, and it is not by
    descriptors that the stranger is made room for."""
    home = runtime_dir / group.name
    leader_os_pid = group._node.directory.lock.holder(group.epoch)

    def fill(line: Line) -> None:
        group.close()
        held = [connected(path) for path in home.glob("*.live") for _ in range(100)]
        for path in home.glob("*.live"):
            for _ in range(6000):
                connected(path).close()
        line.send(len(held))
        line.pause()

    echo(group)
    with Peer(group, echo) as peer, Forked(fill) as stranger:
        before = len(os.listdir(f"/proc/{peer.os_pid}/fd"))
        assert stranger.recv() >= 200
        with Peer(group, echo) as newcomer:
            all_is_well(group, newcomer)
            assert group.request(peer.vmid, ECHO, b"well", timeout=DEADLINE_S) == b"well"
        for os_pid in (peer.os_pid, leader_os_pid):
            poll(lambda pid=os_pid: len(os.listdir(f"/proc/{pid}/fd")) < before + 60)


@BOTH
def test_a_stranger_who_asks_to_join_without_end(group: Group, runtime_dir: Path) -> None:
    """It is admitted a few times at most, and not at all any more when it has ended."""
    path = runtime_dir / group.name / f"{group.leader_vmid}.msg"
    file = group._node.file
    greeting = msgspec.msgpack.encode([file.id, 0, True])
    frames = [
        pack_envelope(0, 0),
        pack_message(Code.JOIN, 1, wire.encode(Code.JOIN, tail=greeting)),
    ]

    def ask(line: Line) -> int:
        group.close()
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(f"ipc://{path}")
        for _ in range(300):
            socket.send_multipart(frames)
        answers = [socket.recv_multipart() for _ in range(300)]
        line.send(len({answer[1] for answer in answers}))
        line.pause()
        os._exit(0)

    with Forked(ask) as stranger:
        assert stranger.recv() <= 16
        assert len(group.members()) <= 17
    poll(lambda: len(group.members()) == 1, what="nothing is left of it")


@pytest.mark.parametrize("group", ["embedded"], indirect=True)
@pytest.mark.parametrize("talks", [True, False])
def test_connections_of_strangers_do_not_last(group: Group, runtime_dir: Path, talks: bool) -> None:
    """Whether they say what makes no sense, or nothing: their descriptors return."""
    path = runtime_dir / group.name / f"{group.leader_vmid}.msg"

    def knock(line: Line) -> None:
        group.close()
        context = zmq.Context()
        context.set(zmq.MAX_SOCKETS, 4096)
        for _ in range(300):
            socket = context.socket(zmq.DEALER)
            socket.linger = 0
            socket.set(zmq.RECONNECT_IVL, -1)
            socket.connect(f"ipc://{path}")
            if talks:
                socket.send(b"!")
        line.send()
        line.pause()
        os._exit(0)

    until_settled()
    before = len(descriptors())
    with Forked(knock) as stranger:
        stranger.recv()
        poll(lambda: len(descriptors()) < before + (60 if talks else 200))
        assert group.ids.owner(group.ids.new()) == group.vmid


def test_a_member_who_floods_one_that_does_not_read(group: Group, runtime_dir: Path) -> None:
    """What is not taken up stays with who sends it, who is held up."""
    group_id, epoch = group._node.file.id, group._node.file.epoch

    def busy(line: Line) -> None:
        echo(group)
        line.send(group.vmid)
        line.recv()
        with group._session.lock:  # the worker can do nothing
            line.send()
            line.pause()

    def flood(line: Line, victim: int) -> int:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.set(zmq.SNDHWM, 100)
        socket.connect(f"ipc://{runtime_dir / group.name / f'{victim}.msg'}")
        fields = wire.MAGIC, wire.PROTOCOL_VERSION, group.vmid, 1, epoch
        hello = wire.encode(Code.HELLO, *fields, tail=group_id.encode())
        socket.send_multipart([pack_envelope(0, 0), pack_message(Code.HELLO, 0, hello)])
        sent = 0
        while sent < 200_000 and socket.poll(500, zmq.POLLOUT):
            socket.send_multipart([pack_envelope(0, 0), pack_message(Code.PROBE, 0, b"")])
            sent += 1
        line.send(sent)
        line.pause()
        os._exit(0)

    with Forked(busy) as victim, Forked(flood, victim.recv()) as attacker:
        victim.send()
        victim.recv()
        assert attacker.recv() < 50_000
        victim.send()
