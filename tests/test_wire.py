"""The table of messages: golden bytes for each, and agreement with the plain Python twin."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_native_layout import fields_of
from twins import wire_twin
from twins.damage import SAME_EVERY_RUN, damaged, u32, u64
from twins.wire_twin import Form, RefusalError, outcome

from libos_ipc import _native, wire
from libos_ipc.errors import ProtocolError
from libos_ipc.wire import Code, FileLock

# Typed in by hand from docs/protocol.md: the whole message, header first. One-way messages have
# sequence number 0.
GOLDEN: dict[int, tuple[int, tuple[Any, ...], bytes, str]] = {
    0: (5, (), b"ok", "1300000000000000 0500000000000000 00 6f6b"),
    1: (1, (), b"", "1100000000000000 0100000000000000 01"),
    2: (
        0,
        (1, 33, 1000, 0, 9),
        b"",
        "2500000000000000 0000000000000000 02 01000000 21000000 e8030000 00000000 09000000",
    ),
    3: (2, (), b"", "1100000000000000 0200000000000000 03"),
    4: (3, (33, 64), b"", "1900000000000000 0300000000000000 04 21000000 40000000"),
    5: (4, (65, 7), b"", "1900000000000000 0400000000000000 05 41000000 07000000"),
    6: (256, (4194303,), b"", "1500000000000000 0001000000000000 06 ffff3f00"),
    7: (
        6,
        (33, 65, 66, 15, 1),
        b"",
        "2500000000000000 0600000000000000 07 21000000 41000000 42000000 0f000000 01000000",
    ),
    8: (7, (65, 2), b"", "1900000000000000 0700000000000000 08 41000000 02000000"),
    9: (
        0,
        (0x1122334455667788, 0, 3),
        b"",
        "2500000000000000 0000000000000000 09 8877665544332211 0000000000000000 03000000",
    ),
    10: (
        0,
        (1, 0, 2),
        b"",
        "2500000000000000 0000000000000000 0a 0100000000000000 0000000000000000 02000000",
    ),
    11: (
        0,
        (1, 3, 3),
        b"abc",
        "2800000000000000 0000000000000000 0b 0100000000000000 0300000000000000 03000000 616263",
    ),
    12: (
        0,
        (1, 2, 2),
        b"hi",
        "2700000000000000 0000000000000000 0c 0100000000000000 0200000000000000 02000000 6869",
    ),
    13: (
        0,
        (1, 1, 1),
        b"\xff",
        "2600000000000000 0000000000000000 0d 0100000000000000 0100000000000000 01000000 ff",
    ),
    14: (
        0,
        (1, 0, 1),
        b"",
        "2500000000000000 0000000000000000 0e 0100000000000000 0000000000000000 01000000",
    ),
    15: (
        9,
        (1, 1, 16, 2**63 - 1, 33, 0, True, b"/a", 0x801, 0x1234, 34),
        b"",
        "4d00000000000000 0900000000000000 0f 01000000 01000000 1000000000000000"
        "ffffffffffffff7f 21000000 0000000000000000 01 2f61 00"
        "0108000000000000 3412000000000000 22000000",
    ),
    16: (
        10,
        (1, 0, 0, 2**64 - 1, 2**32 - 1, 5, False, b"", 1, 2, 3),
        b"",
        "4b00000000000000 0a00000000000000 10 01000000 00000000 0000000000000000"
        "ffffffffffffffff ffffffff 0500000000000000 00 00"
        "0100000000000000 0200000000000000 03000000",
    ),
    17: (11, (33,), b"", "1500000000000000 0b00000000000000 11 21000000"),
    18: (12, (35,), b"cycle", "1a00000000000000 0c00000000000000 12 23000000 6379636c65"),
    19: (
        0,
        (wire.MAGIC, 1, 7, 2, 3),
        b"build",
        "2c00000000000000 0000000000000000 13 4c495043 0100 07000000 02000000 0300000000000000"
        "6275696c64",
    ),
    20: (1, (), b"\x80", "1200000000000000 0100000000000000 14 80"),
    21: (13, (), b"", "1100000000000000 0d00000000000000 15"),
    22: (0, (), b"", "1100000000000000 0000000000000000 16"),
    23: (0, (65536,), b"", "1900000000000000 0000000000000000 17 0000010000000000"),
    24: (0, (), b"", "1100000000000000 0000000000000000 18"),
    25: (0, (12,), b"", "1900000000000000 0000000000000000 19 0c00000000000000"),
    26: (14, (), b"", "1100000000000000 0e00000000000000 1a"),
    27: (0, (8, 65), b"", "1900000000000000 0000000000000000 1b 08000000 41000000"),
    28: (0, (8, 65), b"", "1900000000000000 0000000000000000 1c 08000000 41000000"),
    29: (0, (8, 65), b"", "1900000000000000 0000000000000000 1d 08000000 41000000"),
    30: (15, (65,), b"", "1500000000000000 0f00000000000000 1e 41000000"),
    31: (16, (1 << 40,), b"", "1900000000000000 1000000000000000 1f 0000000000010000"),
    32: (17, (65, 33), b"", "1900000000000000 1100000000000000 20 41000000 21000000"),
    33: (0, (33,), b"", "1500000000000000 0000000000000000 21 21000000"),
    34: (18, (66, 4711), b"", "1900000000000000 1200000000000000 22 42000000 67120000"),
    35: (19, (1,), b"k\0v", "1500000000000000 1300000000000000 23 01 6b0076"),
    36: (20, (65,), b"k", "1600000000000000 1400000000000000 24 41000000 6b"),
    37: (
        21,
        (1, 0, 0, 9, 33, 7, 2, b"", 1, 2, 3),
        b"",
        "4b00000000000000 1500000000000000 25 01000000 00000000 0000000000000000"
        "0900000000000000 21000000 0700000000000000 02 00"
        "0100000000000000 0200000000000000 03000000",
    ),
    38: (22, (9,), b"", "1900000000000000 1600000000000000 26 0900000000000000"),
    39: (23, (), b"", "1100000000000000 1700000000000000 27"),
    40: (
        0,
        (2, 7, 1, 2, 5, -1),
        b"",
        "3500000000000000 0000000000000000 28 02000000 0700000000000000 0100000000000000"
        "0200000000000000 05000000 ffffffff",
    ),
    41: (
        0,
        (2, 7, 1, 2),
        b"",
        "2d00000000000000 0000000000000000 29 02000000 0700000000000000 0100000000000000"
        "0200000000000000",
    ),
    42: (
        0,
        (2, 7, 1, 2),
        b"",
        "2d00000000000000 0000000000000000 2a 02000000 0700000000000000 0100000000000000"
        "0200000000000000",
    ),
    43: (
        24,
        (0, 1),
        b"k\0int",
        "1f00000000000000 1800000000000000 2b 0000000000000000 01 6b00696e74",
    ),
    **{
        code: (
            0,
            (1, 1, 2),
            b"?",
            f"2600000000000000 0000000000000000 {code:02x} 0100000000000000 0100000000000000"
            " 02000000 3f",
        )
        for code in range(44, 49)
    },
    49: (25, (), b"", "1100000000000000 1900000000000000 31"),
    50: (
        0,
        (3, 1, 2, 1),
        b"",
        "2600000000000000 0000000000000000 32 03000000 0100000000000000 0200000000000000 01",
    ),
    51: (0, (3,), b"", "1500000000000000 0000000000000000 33 03000000"),
    52: (0, (3,), b"", "1500000000000000 0000000000000000 34 03000000"),
    53: (0, (40, 6, 1023), b"", "1d00000000000000 0000000000000000 35 28000000 06000000 ff030000"),
    54: (0, (-24, -1, 0), b"", "1d00000000000000 0000000000000000 36 e8ffffff ffffffff 00000000"),
    55: (0, (), b"", "1100000000000000 0000000000000000 37"),
    56: (
        26,
        (2,),
        b"\1\0\0\0\2\0\0\0",
        "1d00000000000000 1a00000000000000 38 02000000 0100000002000000",
    ),
    57: (2, (), b"", "1100000000000000 0200000000000000 39"),
    58: (
        9,
        (2,),
        b"\3\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0",
        "2900000000000000 0900000000000000 3a 0200000000000000 0300000000000000 0000000000010000",
    ),
    59: (0, (), b"", "1100000000000000 0000000000000000 3b"),
    60: (
        0,
        (2, 3, 1, 4, 5),
        b"",
        "2d00000000000000 0000000000000000 3c"
        " 02000000 03000000 01000000 0400000000000000 0500000000000000",
    ),
}

FILE_LOCKS = (Code.FILE_LOCK_SET, Code.FILE_LOCK_GET, Code.FILE_LOCK_TAKE)

# The payloads of answers.
GOLDEN_ANSWERS: dict[int, tuple[tuple[int, ...], bytes, str]] = {
    1: ((8,), b"", "08000000"),
    3: ((1, 32), b"", "01000000 20000000"),
    4: ((-22,), b"", "eaffffff"),
    5: ((0,), b"", "00000000"),
    6: ((7,), b"", "07000000"),
    7: ((-3,), b"", "fdffffff"),
    8: ((2, 0), b"/a", "0200000000000000 00000000 2f61"),
    15: ((-35,), b"", "ddffffff"),
    16: (
        (0, 1, 1, 16, 2**63 - 1, 33, 0),
        b"",
        "00000000 01000000 01000000 1000000000000000 ffffffffffffff7f 21000000 0000000000000000",
    ),
    17: ((0,), b"", "00000000"),
    20: ((), b"\x80", "80"),
    21: ((0,), b"", "00000000"),
    26: ((), b"\x90", "90"),
    30: (
        (0, 8, 65, 4711, 99, 1000, 2, 0, 1 << 40),
        b"",
        "00000000 08000000 41000000 67120000 6300000000000000 e8030000 02000000 00000000"
        "0000000000010000",
    ),
    31: ((0,), b"", "00000000"),
    32: ((-3,), b"", "fdffffff"),
    34: ((0,), b"", "00000000"),
    35: ((-28,), b"", "e4ffffff"),
    36: ((0,), b"v", "00000000 76"),
    37: ((0, 258), b"", "00000000 0201000000000000"),
    38: ((-114,), b"", "8effffff"),
    39: ((), b"\x90", "90"),
    43: ((4194304,), b"", "0000400000000000"),
    49: ((), b"\x90", "90"),
    56: ((), b"\1\0\0\0\2\0\0\0", "0100000002000000"),
    57: ((), b"", ""),
    58: ((2, 77), b"", "0200000000000000 4d00000000000000"),
}


def encoded(code: int, fields: tuple[Any, ...], tail: bytes) -> bytes:
    if code in FILE_LOCKS:
        return wire.encode_file_lock(FileLock(*fields))
    return wire.encode(code, *fields, tail=tail)


def test_the_tables_are_complete() -> None:
    assert set(wire.ROWS) == set(Code) == set(GOLDEN) == set(wire_twin.FORMS)
    with_answer = {code for code, row in wire.ROWS.items() if row.answer is not None}
    assert with_answer == set(GOLDEN_ANSWERS)
    for code, row in wire.ROWS.items():
        assert row.code is code
        assert row.name == code.name
        assert row.sender
        assert row.receiver
        request, answer = wire_twin.FORMS[code]
        assert (answer is None) == (row.answer is None)
        for form, layout in ((request, row.request), (answer, row.answer)):
            if form is not None and layout is not None:
                assert (form.fields, form.tail) == (layout.fields, layout.tail)


@pytest.mark.parametrize("code", GOLDEN)
def test_golden_message(code: int) -> None:
    seq, fields, tail, text = GOLDEN[code]
    golden = bytes.fromhex(text)
    assert _native.pack_message(code, seq, encoded(code, fields, tail)) == golden
    assert _native.unpack_message(golden, len(golden)) == (code, seq, golden[17:])
    has_tail = wire.ROWS[Code(code)].request.tail and code not in FILE_LOCKS
    assert wire.decode(code, golden[17:]) == ((*fields, tail) if has_tail else fields)


@pytest.mark.parametrize("code", GOLDEN_ANSWERS)
def test_golden_answer(code: int) -> None:
    fields, tail, text = GOLDEN_ANSWERS[code]
    golden = bytes.fromhex(text)
    assert wire.encode_answer(code, *fields, tail=tail) == golden
    answer = wire.ROWS[Code(code)].answer
    assert answer is not None
    assert wire.decode_answer(code, golden) == ((*fields, tail) if answer.tail else fields)


def test_golden_credentials() -> None:
    data = wire.CRED.pack(1000, 100)
    answer = wire.encode_answer(Code.PID_GETMETA, len(data), 0, tail=data)
    assert answer == bytes.fromhex("0800000000000000 00000000 e8030000 64000000")
    size, result, found = wire.decode_answer(Code.PID_GETMETA, answer)
    assert (size, result, wire.CRED.unpack(found)) == (8, 0, (1000, 100))


# ---- against the twin

PLAIN = [
    (code, which, form)
    for code, forms in wire_twin.FORMS.items()
    for which, form in zip(("request", "answer"), forms, strict=True)
    if form is not None
]


@st.composite
def filled(draw: st.DrawFn, form: Form) -> tuple[tuple[int, ...], bytes]:
    """Fields and tail that fit each other."""
    tail = draw(st.binary(max_size=min(form.tail, 40)))
    fields = list(draw(fields_of(form.fields)))
    if form.size_at is not None:
        fields[form.size_at] = len(tail)
    return tuple(fields), tail


@settings(SAME_EVERY_RUN, max_examples=400)
@given(st.data(), st.sampled_from(PLAIN))
def test_every_row_as_the_twin(data: Any, row: tuple[int, str, Form]) -> None:
    code, which, form = row
    encode = wire.encode if which == "request" else wire.encode_answer
    decode = wire.decode if which == "request" else wire.decode_answer

    fields, tail = data.draw(filled(form))
    payload = form.pack(fields, tail)
    assert encode(code, *fields, tail=tail) == payload
    found = data.draw(damaged(payload))
    assert outcome(ProtocolError, decode, code, found) == outcome(RefusalError, form.unpack, found)


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: f"{row[0]}-{row[1]}")
def test_every_length_as_the_twin(row: tuple[int, str, Form]) -> None:
    code, which, form = row
    decode = wire.decode if which == "request" else wire.decode_answer
    most = struct.calcsize("<" + form.fields) + form.tail
    for length in [*range(64), most - 1, most, most + 1] if most < 2**17 else range(64):
        payload = bytes(max(length, 0))
        assert outcome(ProtocolError, decode, code, payload) == outcome(
            RefusalError, form.unpack, payload
        )


paths = st.binary(max_size=20).map(lambda path: path.replace(b"\0", b"/"))
file_locks = st.builds(
    FileLock,
    family=u32,
    type=st.integers(-(2**31), 2**31 - 1),
    start=u64,
    end=u64,
    pid=u32,
    handle_id=u64,
    wait=st.booleans(),
    path=paths,
    device=u64,
    inode=u64,
    thread=u32,
)


@SAME_EVERY_RUN
@given(st.data(), file_locks)
def test_file_lock_as_the_twin(data: Any, lock: FileLock) -> None:
    payload = wire_twin.pack_file_lock(lock)
    assert wire.encode_file_lock(lock) == payload
    assert wire.decode_file_lock(payload) == lock
    found = data.draw(damaged(payload))
    assert outcome(ProtocolError, wire.decode_file_lock, found) == outcome(
        RefusalError, wire_twin.unpack_file_lock, found
    )


LOCK = FileLock(1, 1, 0, 9, 33, 0, True, b"/tmp/file", 1, 2, 3)


def test_path_of_a_file_lock() -> None:
    longest = LOCK._replace(path=b"x" * wire.PATH_MAX_BYTES)
    payload = wire.encode_file_lock(longest)
    assert wire.decode(Code.FILE_LOCK_GET, payload) == longest
    with pytest.raises(ProtocolError):
        wire.decode_file_lock(payload[:37] + b"x" + payload[37:])
    for path in (b"x" * (wire.PATH_MAX_BYTES + 1), b"/a\0b", b"\0"):
        with pytest.raises(ValueError, match="a path has at most 4096 bytes and no NUL"):
            wire.encode_file_lock(LOCK._replace(path=path))


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (bytes(36), r"FILE_LOCK_SET \(15\): expected 37 to 4154 bytes, found 36"),
        (bytes(57), "expected 21 bytes after the path, found 20"),
        (bytes(59), "expected the first NUL after 1 bytes of path"),
        (bytes(37) + b"\1" + bytes(20), "expected the first NUL after 0 bytes of path"),
        (bytes(36) + b"\3" + bytes(21), "expected wait to be 0, 1 or 2, found 3"),
    ],
)
def test_refusal_of_a_file_lock(payload: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        wire.decode_file_lock(payload)


# ---- refusals


@pytest.mark.parametrize(
    ("decode", "code", "payload", "text"),
    [
        (wire.decode, 6, b"abc", r"^\[Errno 71\] GET_ID_OWNER \(6\): expected 4 bytes, found 3$"),
        (wire.decode_answer, 6, b"", r"answer to GET_ID_OWNER \(6\): expected 4 bytes, found 0"),
        (wire.decode, 19, bytes(278), r"HELLO \(19\): expected 22 to 277 bytes, found 278"),
        (wire.decode, 9, bytes(22), r"\(9\): expected 0 bytes of data, found 2"),
        (wire.decode_answer, 8, bytes(13), r"\(8\): expected 0 bytes of data, found 1"),
        (wire.decode, 63, b"", "code 63: expected none, found one"),
        (wire.decode, 64, b"", "code 64: expected none, found one"),
        (wire.decode_answer, 2, b"", r"answer to CHILDEXIT \(2\): expected none, found one"),
        (wire.decode_answer, 200, b"", "answer to code 200: expected none, found one"),
    ],
)
def test_refusal_names_code_and_finding(decode: Any, code: int, payload: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        decode(code, payload)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda: wire.encode(63)),
        (ValueError, lambda: wire.encode_answer(Code.CHILDEXIT)),
        (ValueError, lambda: wire.encode(Code.SYNC_REQUEST_CLOSE, 1, 2, 3, tail=b"abc")),
        (ValueError, lambda: wire.encode_answer(Code.PID_GETMETA, 0, 0, tail=b"abc")),
        (ValueError, lambda: wire.encode(Code.ACK, tail=b"a")),
        (ValueError, lambda: wire.encode(Code.FILE_LOCK_SET, *LOCK[:7])),
        (TypeError, lambda: wire.encode(Code.GET_ID_OWNER)),
        (TypeError, lambda: wire.encode(Code.GET_ID_OWNER, 1, 2)),
        (OverflowError, lambda: wire.encode(Code.GET_ID_OWNER, 2**32)),
        (OverflowError, lambda: wire.encode_file_lock(LOCK._replace(start=-1))),
    ],
)
def test_nothing_wrong_is_encoded(error: type[Exception], call: Any) -> None:
    with pytest.raises(error):
        call()


# ---- ERROR


@settings(SAME_EVERY_RUN, max_examples=60)
@given(st.integers(1, 2**31 - 1), st.text(max_size=40))
def test_error_there_and_back(number: int, text: str) -> None:
    assert wire.decode_error(wire.encode_error(number, text)) == (number, text)


@pytest.mark.parametrize("number", [0, -1, 2**31, 2**80])
def test_a_number_that_is_no_errno(number: int) -> None:
    assert wire.decode_error(wire.encode_error(number, "text")) == (5, "text")


@pytest.mark.parametrize("letter", ["a", "ä", "€", "🙂"])
def test_a_long_text_is_cut_between_characters(letter: str) -> None:
    for before in range(4):
        text = "x" * before + letter * 2**16
        payload = wire.encode_error(1, text)
        found = wire.decode_error(payload)[1]
        assert text.startswith(found)
        assert 2**16 - 4 < len(payload) - 4 <= 2**16


def test_texts_that_are_no_utf8() -> None:
    assert wire.decode_error(wire.encode_error(1, "a\ud800b")) == (1, "a?b")
    assert wire.decode_error(b"\1\0\0\0a\xffb") == (1, "a\ufffdb")


# ---- the documents


def test_the_document_has_the_same_table() -> None:
    document = Path(__file__).parents[1].joinpath("docs", "protocol.md").read_text("utf-8")
    row_pattern = re.compile(r"^\| (\d+) \| (\w+) \| (.+) → (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
    documented = {int(row[1]): row.groups()[1:] for row in row_pattern.finditer(document)}
    assert set(documented) == set(wire.ROWS)

    def fields(cell: str) -> str:
        found = re.match("`(\\w+)`", cell)
        return found[1] if found else ""

    for code, row in wire.ROWS.items():
        name, sender, receiver, payload, answer = documented[code]
        assert (name, sender, receiver) == (row.name, row.sender, row.receiver)
        assert fields(payload) == row.request.fields
        assert fields(answer) == (row.answer.fields if row.answer else "")
        assert answer.startswith("\N{EN DASH}") == (row.answer is None)
