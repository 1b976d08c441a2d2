"""Ports: the native one and pyzmq's own do the same, whatever comes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from processes import DEADLINE_S, poll

from libos_ipc import Group
from libos_ipc._native import Port as NativePort
from libos_ipc.runtime import ports
from libos_ipc.runtime.ports import PyzmqPort, open_port


class Pair:
    """Two ROUTERs, as a transport has them: what `out` sends to ROUTE, `into` receives."""

    ROUTE = b"\0\0\0\1"

    def __init__(self, path: Path, port: Callable[[zmq.Socket[bytes]], ports.Port]) -> None:
        self.path = path
        self.context = zmq.Context()
        self.inbound = self.context.socket(zmq.ROUTER)
        self.outbound = self.context.socket(zmq.ROUTER)
        self.outbound.router_mandatory = True
        self.inbound.bind(f"ipc://{path}")
        self.outbound.set(zmq.CONNECT_ROUTING_ID, self.ROUTE)
        self.outbound.connect(f"ipc://{path}")
        self.into, self.out = port(self.inbound), port(self.outbound)
        self.known: dict[bytes, str] = {}

    def receive(self) -> tuple[object, ...]:
        return poll(lambda: self.into.receive(self.known), what="a message")

    def close(self) -> None:
        self.into.close()
        self.out.close()
        self.context.destroy(0)
        self.path.unlink(missing_ok=True)


@pytest.fixture(params=[open_port, PyzmqPort], ids=["native", "pyzmq"])
def pair(request: pytest.FixtureRequest, runtime_dir: Path) -> Iterator[Pair]:
    pair = Pair(runtime_dir / "socket", request.param)
    yield pair
    pair.close()


def test_the_fastest_is_native(pair: Pair) -> None:
    assert isinstance(open_port(pair.inbound), NativePort)


def test_without_a_shared_library_pyzmq_serves(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        __module__ = "statically.linked"

    monkeypatch.setattr(ports, "RawSocket", Elsewhere)
    assert isinstance(open_port(pair.inbound), PyzmqPort)


def test_from_a_route_that_is_not_known_and_from_one_that_is(pair: Pair) -> None:
    assert pair.into.receive(pair.known) is None
    assert pair.out.send(pair.ROUTE, (b"one", b"", memoryview(b"three"))) is True
    route, user, descriptor, frames = pair.receive()
    assert frames == [b"one", b"", b"three"]
    assert user == b""  # nobody answers ZAP here
    assert os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    pair.known[route] = "friend"  # type: ignore[index]
    assert pair.out.send(pair.ROUTE, (b"two",)) is True
    assert pair.receive() == ("friend", [b"two"])
    assert pair.into.receive(pair.known) is None


def test_large_frames_are_whole(pair: Pair) -> None:
    sizes = (65535, 65536, 3_000_000)
    for size in sizes:
        assert pair.out.send(pair.ROUTE, (b"head", bytes([size % 251]) * size))
    for size in sizes:
        assert pair.receive()[-1] == [b"head", bytes([size % 251]) * size]


def test_of_too_many_frames_some_are_given_and_the_next_message_is_whole(pair: Pair) -> None:
    pair.outbound.send_multipart([pair.ROUTE, *(b"%d" % n for n in range(1000))])
    pair.outbound.send_multipart([pair.ROUTE, b"next"])
    assert pair.receive()[-1] == [b"0", b"1", b"2", b"3"]
    assert pair.receive()[-1] == [b"next"]


def test_a_route_that_leads_nowhere(pair: Pair) -> None:
    assert pair.out.send(b"nowhere", (b"x",)) is False
    assert pair.out.send(pair.ROUTE, (b"after",)) is True
    assert pair.receive()[-1] == [b"after"]


def test_nothing_is_sent_in_part(pair: Pair) -> None:
    with pytest.raises(TypeError):
        pair.out.send(pair.ROUTE, (b"first", "no bytes"))  # type: ignore[arg-type]
    if isinstance(pair.out, NativePort):  # pyzmq has begun by then
        assert pair.out.send(pair.ROUTE, (b"after",)) is True
        assert pair.receive()[-1] == [b"after"]


def test_a_closed_port(pair: Pair) -> None:
    pair.into.close()
    pair.into.close()
    with pytest.raises(ValueError, match="closed"):
        pair.into.receive({})
    pair.out.close()
    with pytest.raises(ValueError, match="closed"):
        pair.out.send(pair.ROUTE, (b"x",))


def test_what_a_native_port_refuses(pair: Pair) -> None:
    address = pair.inbound.underlying
    with pytest.raises(OSError, match="not loaded"):
        NativePort("/nowhere/at/all.so", address)
    with pytest.raises(OSError, match="cannot be found"):
        NativePort("", address)  # the program itself: loaded, but without ZeroMQ
    with pytest.raises(TypeError):
        NativePort("", "address")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        NativePort("", -1)
    port = open_port(pair.outbound)
    with pytest.raises(TypeError):
        port.receive([])  # type: ignore[arg-type]
    for frames in ((), (b"",) * 5):
        with pytest.raises(ValueError, match="1 to 4"):
            port.send(pair.ROUTE, frames)
    with pytest.raises(TypeError):
        port.send(pair.ROUTE, [b"x"])  # type: ignore[arg-type]


def test_a_group_by_pyzmq_alone(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also who is at the other end is known there."""

    def refuse(module: str, socket: int) -> None:
        raise OSError("no shared library")

    def work(group: Group) -> None:
        for size in (0, 10, 100_000):
            assert group.request(group.parent_vmid, 70, bytes(size)) == bytes(size)
        assert isinstance(group._session.carriage.transport._into, PyzmqPort)

    monkeypatch.setattr(ports, "NativePort", refuse)
    with Group.create(leader="embedded") as group:
        group.on(70)(lambda message: message.payload)
        assert group.spawn(work, group).wait(DEADLINE_S).code == 0
