"""Header and envelope: golden bytes, and agreement with the plain Python twin."""

from __future__ import annotations

import mmap
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import wire_twin
from twins.damage import SAME_EVERY_RUN, damaged, u8, u64
from twins.wire_twin import RefusalError, outcome

from libos_ipc import _native
from libos_ipc._native import Malformed

NO_BOUND = 2**64 - 1


def test_sizes() -> None:
    assert (_native.HEADER_SIZE, _native.ENVELOPE_SIZE) == (17, 16)


def test_golden_message() -> None:
    golden = bytes.fromhex("1400000000000000 0807060504030201 40 616263")
    assert _native.pack_message(0x40, 0x0102030405060708, b"abc") == golden
    assert _native.unpack_message(golden, 20) == (0x40, 0x0102030405060708, b"abc")
    assert _native.pack_header(0x40, 0x0102030405060708, 3) == golden[:17]
    assert _native.unpack_header(golden[:17], 3, 20) == (0x40, 0x0102030405060708)


def test_golden_envelope() -> None:
    golden = bytes.fromhex("0100000000000000 ffffffffffffff7f")
    assert _native.pack_envelope(1, 2**63 - 1) == golden
    assert _native.unpack_envelope(golden) == (1, 2**63 - 1)


@SAME_EVERY_RUN
@given(u8, u64, st.binary(max_size=300))
def test_packs_as_the_twin(code: int, seq: int, payload: bytes) -> None:
    message = wire_twin.pack_message(code, seq, payload)
    assert _native.pack_message(code, seq, payload) == message
    assert _native.pack_header(code, seq, len(payload)) + payload == message
    assert _native.unpack_message(message, len(message)) == (code, seq, payload)


@SAME_EVERY_RUN
@given(st.data(), st.binary(max_size=60), st.one_of(st.just(NO_BOUND), st.integers(0, 90)))
def test_unpacks_a_message_as_the_twin(data: Any, payload: bytes, max_message: int) -> None:
    message = data.draw(damaged(wire_twin.pack_message(64, 7, payload)))
    assert outcome(Malformed, _native.unpack_message, message, max_message) == outcome(
        RefusalError, wire_twin.unpack_message, message, max_message
    )


@SAME_EVERY_RUN
@given(st.data(), st.integers(0, 60), st.one_of(st.just(NO_BOUND), st.integers(0, 90)))
def test_unpacks_a_header_as_the_twin(data: Any, size: int, max_message: int) -> None:
    frame = data.draw(damaged(wire_twin.pack_message(64, 7, bytes(size))[:17]))
    assert outcome(Malformed, _native.unpack_header, frame, size, max_message) == outcome(
        RefusalError, wire_twin.unpack_header, frame, size, max_message
    )


@SAME_EVERY_RUN
@given(st.data(), u64, u64)
def test_unpacks_an_envelope_as_the_twin(data: Any, number: int, acked: int) -> None:
    envelope = _native.pack_envelope(number, acked)
    assert _native.unpack_envelope(envelope) == (number, acked)
    frame = data.draw(damaged(envelope))
    assert outcome(Malformed, _native.unpack_envelope, frame) == outcome(
        RefusalError, wire_twin.unpack_envelope, frame
    )


def test_every_length_but_the_right_one_is_refused() -> None:
    for length in range(40):
        frame = bytes(length)
        if length != 16:
            with pytest.raises(Malformed, match=f"envelope of {length} bytes instead of 16"):
                _native.unpack_envelope(frame)
        with pytest.raises(Malformed):
            _native.unpack_message(frame, NO_BOUND)
        with pytest.raises(Malformed):
            _native.unpack_header(frame, 0, NO_BOUND)


@pytest.mark.parametrize(
    ("size", "length", "max_message", "text"),
    [
        (17, 16, 99, "16 bytes are too short for a header of 17"),
        (18, 17, 99, "header speaks of 18 bytes, the message has 17"),
        (100, 100, 99, "message of 100 bytes, at most 99 are allowed"),
        (2**64 - 1, 17, 99, "message of 18446744073709551615 bytes, at most 99 are allowed"),
        (0, 17, 99, "header speaks of 0 bytes, the message has 17"),
    ],
)
def test_refusal_says_what_was_found(size: int, length: int, max_message: int, text: str) -> None:
    message = (size.to_bytes(8, "little") + bytes(200))[:length]
    with pytest.raises(Malformed, match=text):
        _native.unpack_message(message, max_message)


def test_any_contiguous_buffer_will_do() -> None:
    message = _native.pack_message(64, 1, b"abcdef")
    mapped = mmap.mmap(-1, mmap.PAGESIZE)
    mapped[: len(message)] = message
    with mapped, memoryview(mapped) as page, page[: len(message)] as view:
        for buffer in (message, bytearray(message), memoryview(message), array("B", message), view):
            assert _native.unpack_message(buffer, 23) == (64, 1, b"abcdef")
            assert _native.pack_message(64, 1, buffer) == _native.pack_message(64, 1, message)


def test_the_buffer_is_let_go() -> None:
    message = bytearray(_native.pack_message(64, 1, b"abc"))
    _native.unpack_message(message, 20)
    with pytest.raises(Malformed):
        _native.unpack_message(message, 19)
    _native.pack_message(64, 1, message)
    message.clear()  # a buffer still exported would refuse


def test_what_is_no_buffer_is_refused() -> None:
    with pytest.raises(TypeError):
        _native.pack_message(64, 1, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _native.unpack_envelope(None)  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        _native.pack_message(64, 1, memoryview(b"abcdef")[::2])


@pytest.mark.parametrize(
    "call",
    [
        lambda: _native.pack_message(256, 0),
        lambda: _native.pack_message(-1, 0),
        lambda: _native.pack_message(0, 2**64),
        lambda: _native.pack_message(0, -1),
        lambda: _native.pack_header(0, 0, -1),
        lambda: _native.pack_header(0, 0, 2**64 - 17),
        lambda: _native.pack_envelope(2**64, 0),
        lambda: _native.pack_envelope(0, -(2**70)),
        lambda: _native.unpack_message(bytes(17), -1),
        lambda: _native.unpack_header(bytes(17), 2**64 - 17, 1),
        lambda: _native.unpack_header(bytes(17), 0, 2**64),
    ],
)
def test_numbers_that_do_not_fit(call: Any) -> None:
    with pytest.raises(OverflowError, match=r"is not within 0\.\."):
        call()


def test_only_ints_are_ints() -> None:
    class Index:
        def __index__(self) -> int:
            return 1

    for value in (1.0, "1", None, Index()):
        with pytest.raises(TypeError, match="code must be an int"):
            _native.pack_message(value, 1)  # type: ignore[arg-type]


def test_arguments_by_name() -> None:
    assert _native.pack_message(payload=b"x", seq=2, code=1) == _native.pack_message(1, 2, b"x")
    assert _native.pack_message(1, seq=2) == _native.pack_message(1, 2)
    assert _native.unpack_message(max_message=17, message=_native.pack_message(1, 2)) == (1, 2, b"")


@pytest.mark.parametrize(
    ("args", "names", "text"),
    [
        ((1,), {}, "needs argument 'seq'"),
        ((), {"seq": 1}, "needs argument 'code'"),
        ((1, 2, b"", 4), {}, "takes at most 3 arguments, got 4"),
        ((1, 2), {"code": 3}, "got argument 'code' twice"),
        ((1, 2), {"data": b""}, "has no argument 'data'"),
    ],
)
def test_arguments_that_do_not_fit(args: Any, names: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        _native.pack_message(*args, **names)
