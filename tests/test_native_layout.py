"""Layout: what `struct` does for the same letters, and the length checked first."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins.damage import SAME_EVERY_RUN, damaged
from twins.wire_twin import Form, RefusalError, outcome

from libos_ipc._native import Layout, Malformed

RANGES = {
    "B": (0, 2**8 - 1),
    "H": (0, 2**16 - 1),
    "I": (0, 2**32 - 1),
    "i": (-(2**31), 2**31 - 1),
    "Q": (0, 2**64 - 1),
    "q": (-(2**63), 2**63 - 1),
}

letters = st.text(alphabet="".join(RANGES), max_size=16)


def fields_of(layout: str) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.integers(*RANGES[letter]) for letter in layout))


@SAME_EVERY_RUN
@given(st.data(), letters, st.integers(0, 9))
def test_packs_and_unpacks_as_the_twin(data: Any, fields: str, most: int) -> None:
    layout, twin = Layout(fields, most), Form(fields, most)
    values = data.draw(fields_of(fields))
    tail = data.draw(st.binary(max_size=most))

    payload = twin.pack(values, tail)
    assert layout.pack(*values, tail=tail) == payload
    assert layout.unpack(payload) == twin.unpack(payload)

    found = data.draw(damaged(payload))
    assert outcome(Malformed, layout.unpack, found) == outcome(RefusalError, twin.unpack, found)


@pytest.mark.parametrize("letter", RANGES)
def test_limits_of_each_field(letter: str) -> None:
    lowest, highest = RANGES[letter]
    layout = Layout(letter)
    for value in (lowest, lowest + 1, 0, 1, highest - 1, highest):
        assert layout.pack(value) == struct.pack("<" + letter, value)
        assert layout.unpack(layout.pack(value)) == (value,)
    for value in (lowest - 1, highest + 1, -(2**64), 2**64, 2**200):
        with pytest.raises(OverflowError, match=f"field {value} is not within"):
            layout.pack(value)


@pytest.mark.parametrize("value", [1.0, "1", None, b"\1"])
def test_only_ints_are_packed(value: Any) -> None:
    for letter in RANGES:
        with pytest.raises(TypeError, match="field must be an int"):
            Layout(letter).pack(value)


def test_attributes() -> None:
    layout = Layout(fields="QQi", tail=5)
    assert (layout.fields, layout.size, layout.tail) == ("QQi", 20, 5)
    assert repr(layout) == "Layout('QQi', tail=5)"
    assert (Layout("").fields, Layout("").size, Layout("").tail) == ("", 0, 0)
    assert Layout("Q" * 16).size == 128


@pytest.mark.parametrize(
    ("fields", "tail"),
    [("x", 0), ("I\0", 0), ("Iä", 0), ("Q" * 17, 0), ("I", -1), ("I", 2**63 - 1)],
)
def test_layouts_that_are_none(fields: str, tail: int) -> None:
    with pytest.raises(ValueError):
        Layout(fields, tail)


def test_fields_are_a_str() -> None:
    with pytest.raises(TypeError):
        Layout(b"I")  # type: ignore[arg-type]
    with pytest.raises(UnicodeEncodeError):
        Layout("\ud800")


def test_a_layout_does_not_change() -> None:
    layout = Layout("I")
    for name in ("fields", "size", "tail", "other"):
        with pytest.raises(AttributeError):
            setattr(layout, name, 1)
    with pytest.raises(TypeError):
        type("Sub", (Layout,), {})


def test_count_of_fields() -> None:
    with pytest.raises(TypeError, match=r"Layout\('II', tail=0\) packs 2 fields, got 1"):
        Layout("II").pack(1)
    with pytest.raises(TypeError, match="packs 0 fields, got 1"):
        Layout("").pack(1)


def test_tail_of_pack() -> None:
    layout = Layout("B", 3)
    assert layout.pack(1) == b"\1"
    assert layout.pack(1, tail=memoryview(b"abc")) == b"\1abc"
    with pytest.raises(ValueError, match="a tail of 4 bytes is longer than 3"):
        layout.pack(1, tail=b"abcd")
    with pytest.raises(ValueError, match="a tail of 1 bytes is longer than 0"):
        Layout("B").pack(1, tail=b"a")
    with pytest.raises(TypeError, match="has no argument 'data'"):
        layout.pack(1, data=b"abc")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        layout.pack(1, tail="abc")  # type: ignore[arg-type]


def test_tail_of_unpack() -> None:
    assert Layout("B", 3).unpack(b"\1") == (1, b"")
    assert Layout("B", 3).unpack(bytearray(b"\1abc")) == (1, b"abc")
    assert Layout("", 3).unpack(b"abc") == (b"abc",)
    assert Layout("").unpack(b"") == ()


def test_refusal_says_what_was_expected() -> None:
    with pytest.raises(Malformed, match="expected 4 bytes, found 3"):
        Layout("I").unpack(b"abc")
    with pytest.raises(Malformed, match="expected 4 to 9 bytes, found 10"):
        Layout("I", 5).unpack(bytes(10))


def test_the_buffers_are_let_go() -> None:
    buffer = bytearray(b"abc")
    Layout("H", 1).unpack(buffer)
    Layout("", 3).pack(tail=buffer)
    with pytest.raises(Malformed):
        Layout("H").unpack(buffer)
    with pytest.raises(ValueError):
        Layout("", 2).pack(tail=buffer)
    with pytest.raises(OverflowError):
        Layout("B", 3).pack(300, tail=buffer)
    buffer.clear()  # a buffer still exported would refuse
