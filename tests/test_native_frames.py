"""Frames: golden bytes, agreement with the twin, both shapes, and everything that is refused."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import frames_twin
from twins.damage import SAME_EVERY_RUN, damaged, u8, u64
from twins.wire_twin import RefusalError, outcome

from libos_ipc._native import HEADER_SIZE, LARGE, Malformed, pack_frames
from libos_ipc._native import unpack_frames as unpack

NO_BOUND = 2**64 - 1
ENVELOPE = bytes.fromhex("0807060504030201 ffffffffffffff7f")
HEADER = bytes.fromhex("1400000000000000 1817161514131211 40")
FIELDS = (0x0102030405060708, 2**63 - 1, 0x40, 0x1112131415161718)

sizes = st.one_of(st.integers(0, 300), st.integers(LARGE - 3, LARGE + 3))


def header_of(payload: bytes) -> bytes:
    return (HEADER_SIZE + len(payload)).to_bytes(8, "little") + HEADER[8:]


def in_two(payload: bytes) -> list[bytes]:
    return [ENVELOPE, header_of(payload) + payload]


def in_three(payload: bytes) -> list[bytes]:
    return [ENVELOPE, header_of(payload), payload]


def test_golden_frames() -> None:
    assert (LARGE, frames_twin.LARGE) == (16384, 16384)
    assert pack_frames(*FIELDS, b"abc") == (ENVELOPE, HEADER + b"abc")
    assert unpack([ENVELOPE, HEADER + b"abc"], 20) == (*FIELDS, b"abc")
    assert unpack([ENVELOPE, HEADER, b"abc"], 20) == (*FIELDS, b"abc")
    large = bytes.fromhex("1140000000000000") + HEADER[8:]
    assert pack_frames(*FIELDS, bytes(LARGE)) == (ENVELOPE, large, bytes(LARGE))


@SAME_EVERY_RUN
@given(u64, u64, u8, u64, sizes, u8)
def test_packs_as_the_twin(
    number: int, acked: int, code: int, seq: int, size: int, filler: int
) -> None:
    fields = (number, acked, code, seq, bytes([filler]) * size)
    frames = pack_frames(*fields)
    assert frames == frames_twin.pack_frames(*fields)
    assert unpack(list(frames), HEADER_SIZE + size) == fields


@SAME_EVERY_RUN
@given(st.data(), st.binary(max_size=60), st.one_of(st.just(NO_BOUND), st.integers(0, 90)))
def test_unpacks_as_the_twin(data: Any, payload: bytes, max_message: int) -> None:
    whole = data.draw(st.sampled_from((in_two(payload), in_three(payload))))
    frames = [data.draw(st.one_of(st.just(frame), damaged(frame))) for frame in whole]
    if data.draw(st.integers(0, 9)) == 0:
        frames = data.draw(st.permutations(frames))
    elif data.draw(st.integers(0, 9)) == 0:
        frames.insert(data.draw(st.integers(0, len(frames))), data.draw(st.binary(max_size=20)))
    assert outcome(Malformed, unpack, frames, max_message) == outcome(
        RefusalError, frames_twin.unpack_frames, frames, max_message
    )


# ---- the two shapes


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_from_large_on_the_payload_goes_as_it_is(kind: Any) -> None:
    for size in (0, 1, LARGE - 1):
        payload = kind(bytes(size))
        assert pack_frames(*FIELDS, payload) == tuple(in_two(bytes(size)))
    for size in (LARGE, LARGE + 1):
        payload = kind(bytes(size))
        frames: Any = pack_frames(*FIELDS, payload)
        assert frames[:2] == (ENVELOPE, header_of(bytes(size)))
        assert len(frames) == 3
        assert frames[2] is payload


@pytest.mark.parametrize("size", [0, 1, 17, LARGE - 1, LARGE, LARGE + 1, 5 * LARGE])
def test_either_shape_is_taken_at_any_size(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert unpack(in_two(payload), HEADER_SIZE + size) == (*FIELDS, payload)
    frames = in_three(payload)
    unpacked = unpack(frames, HEADER_SIZE + size)
    assert unpacked == (*FIELDS, payload)
    assert unpacked[-1] is frames[2], "nothing is copied"


def test_any_contiguous_buffer_will_do() -> None:
    words = array("Q", range(6))
    for payload in (words, memoryview(words), memoryview(words).cast("B").cast("B", (6, 8))):
        assert pack_frames(*FIELDS, payload) == tuple(in_two(words.tobytes()))
    with pytest.raises(BufferError):
        pack_frames(*FIELDS, memoryview(b"abcdef")[::2])
    frames: Any = [bytearray(ENVELOPE), memoryview(HEADER + b"abc")]
    assert unpack(frames, 20) == (*FIELDS, b"abc")


def test_the_buffers_are_let_go() -> None:
    payloads = bytearray(b"abc"), bytearray(LARGE)
    for payload in payloads:
        frames = pack_frames(*FIELDS, payload)
        del frames
        payload.clear()  # a buffer still exported would refuse
    frames: Any = [bytearray(ENVELOPE), bytearray(HEADER + b"abc")]
    unpack(frames, 20)
    for refused in ([frames[0], bytearray(16)], [bytearray(15), frames[1]], [*frames, b""]):
        with pytest.raises(Malformed):
            unpack(refused, 20)
        refused[0].append(0)
        refused[1].append(0)
        del refused[0][16:], refused[1][20:]


# ---- what is refused


@pytest.mark.parametrize("payload", [b"", b"abc", bytes(LARGE)])
def test_every_truncation_and_every_addition(payload: bytes) -> None:
    for whole in (in_two(payload), in_three(payload)):
        for place, frame in enumerate(whole):
            lengths = {*range(min(len(frame), 40)), len(frame) - 1} - {-1, len(frame)}
            for changed in (*(frame[:length] for length in lengths), frame + b"\0"):
                frames = [*whole[:place], changed, *whole[place + 1 :]]
                with pytest.raises(Malformed):
                    unpack(frames, NO_BOUND)
            assert unpack(whole, NO_BOUND) == (*FIELDS, payload)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 100])
def test_every_other_number_of_frames(count: int) -> None:
    frames = (in_three(b"") + [b""] * 100)[:count]
    with pytest.raises(Malformed, match=f"a message has 2 or 3 frames, not {count}"):
        unpack(frames, NO_BOUND)


def test_no_part_of_the_payload_may_stand_with_the_header() -> None:
    for cut in (1, 2, 3):
        frames = [ENVELOPE, HEADER + b"abc"[:cut], b"abc"[cut:]]
        with pytest.raises(Malformed, match=f"a header of {17 + cut} bytes instead of 17"):
            unpack(frames, NO_BOUND)


@pytest.mark.parametrize("size", [0, 3, 17, 19, 21, 2**32 + 20, 2**63 + 20, 2**64 - 1])
def test_a_size_that_lies(size: int) -> None:
    header = size.to_bytes(8, "little") + HEADER[8:]
    for frames in ([ENVELOPE, header + b"abc"], [ENVELOPE, header, b"abc"]):
        with pytest.raises(Malformed, match=f"speaks of {size} bytes, the message has 20"):
            unpack(frames, NO_BOUND)
        with pytest.raises(Malformed):
            unpack(frames, 20)


@pytest.mark.parametrize("max_message", [0, 16, 17, 19])
def test_more_than_is_allowed(max_message: int) -> None:
    for frames in (in_two(b"abc"), in_three(b"abc")):
        with pytest.raises(Malformed, match=f"20 bytes, at most {max_message} are allowed"):
            unpack(frames, max_message)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pack_frames(-1, 0, 0, 0, b""),
        lambda: pack_frames(2**64, 0, 0, 0, b""),
        lambda: pack_frames(0, -1, 0, 0, b""),
        lambda: pack_frames(0, 2**64, 0, 0, b""),
        lambda: pack_frames(0, 0, -1, 0, b""),
        lambda: pack_frames(0, 0, 256, 0, b""),
        lambda: pack_frames(0, 0, 0, -1, b""),
        lambda: pack_frames(0, 0, 0, 2**64, b""),
        lambda: unpack(in_two(b""), -1),
        lambda: unpack(in_two(b""), 2**64),
    ],
)
def test_numbers_that_do_not_fit(call: Any) -> None:
    with pytest.raises(OverflowError, match=r"is not within 0\.\."):
        call()


def test_what_is_of_the_wrong_type() -> None:
    good: tuple[Any, ...] = (1, 2, 3, 4, b"payload")
    for place in range(5):
        for wrong in ("1", 1.0, None, object()):
            with pytest.raises(TypeError):
                pack_frames(*good[:place], wrong, *good[place + 1 :])
        with pytest.raises(TypeError):
            pack_frames(*good[:place])  # type: ignore[call-arg]
    calls: list[Any] = [
        lambda: pack_frames(*good, 6),
        lambda: pack_frames(*good[:4], payload=b""),
        lambda: unpack(in_two(b"")),  # type: ignore[call-arg]
        lambda: unpack(in_two(b""), 17, 3),  # type: ignore[call-arg]
        lambda: unpack(in_two(b""), max_message=17),  # type: ignore[call-arg]
        *(lambda size=size: unpack(in_two(b""), size) for size in (1.0, "1", None)),
        *(
            lambda kind=kind: unpack(kind(in_two(b"")), 17)
            for kind in (tuple, iter, type("L", (list,), {}))
        ),
    ]
    for frames in (in_two(b""), in_three(b"")):
        for place in range(len(frames)):
            for wrong in ("text", None, 1, [b""]):
                changed = [*frames[:place], wrong, *frames[place + 1 :]]
                calls.append(lambda changed=changed: unpack(changed, 17))
    calls.append(lambda: unpack([*in_three(b"")[:2], bytearray()], 17))
    calls.append(lambda: unpack([*in_three(b"")[:2], type("B", (bytes,), {})()], 17))
    for call in calls:
        with pytest.raises(TypeError):
            call()
