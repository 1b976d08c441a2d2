"""Ledger: messages let go, messages that call back into it, the collector, and subclasses."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from typing import Any

import pytest
from twins.ledger_twin import Message, filled, labels

from libos_ipc import _native
from libos_ipc._native import DRAINED, NEXT, Ledger


def test_messages_are_let_go_when_acknowledged() -> None:
    message: Any = object()
    references = sys.getrefcount(message)
    ledger = Ledger()
    for _ in range(20):
        ledger.stamp(message, 1, 0)
    ledger.receive(0, 15, 0, 0)
    assert sys.getrefcount(message) == references + 5
    assert [kept for _, kept in ledger.kept] == [message] * 5
    with pytest.raises(ValueError):
        ledger.receive(0, 21, 0, 0)
    assert sys.getrefcount(message) == references + 5
    del ledger
    assert sys.getrefcount(message) == references


def test_messages_are_let_go_with_the_ledger_in_order() -> None:
    dropped: list[int] = []
    ledger: Any = Ledger()
    for label in range(100):
        ledger.stamp(Message(label, lambda label=label: dropped.append(label)), 1, 0)  # type: ignore[misc]
    ledger.receive(0, 10, 0, 0)
    assert dropped == list(range(10))
    del ledger
    assert dropped == list(range(100))


@pytest.mark.parametrize("kind", [Ledger, type("Sub", (Ledger,), {})])
def test_a_cycle_through_the_ledger_is_collected(kind: type[Ledger]) -> None:
    dropped: list[str] = []
    ledger: Any = kind()
    message: Any = Message("", lambda: dropped.append("message"))
    message.ledger = ledger
    ledger.stamp(message, 1, 0)
    del ledger, message
    gc.collect()
    assert dropped == ["message"]


def test_a_finalizer_finds_the_ledger_consistent() -> None:
    seen: list[Any] = []

    def look(label: int) -> None:
        seen.append((label, ledger.acked, labels(ledger.kept)))
        ledger.stamp(Message("late"), 1, 0)
        if label == 1:
            seen.append(ledger.receive(1, 3, 0, 0))

    ledger: Any = Ledger()
    for label in (1, 2, 3):
        ledger.stamp(Message(label, lambda label=label: look(label)), 1, 0)  # type: ignore[misc]
    assert ledger.receive(1, 2, 0, 0) == 0, "the finalizer has received this already"
    assert seen == [
        (1, 1, [(2, 2), (3, 3)]),
        (2, 2, [(3, 3), (4, "late")]),
        (3, 3, [(4, "late"), (5, "late")]),
        NEXT,
    ]
    assert labels(ledger.kept) == [(4, "late"), (5, "late"), (6, "late")]


def test_clearing_survives_messages_that_use_the_ledger() -> None:
    """A capsule is unknown to the collector, so its destructor runs within the ledger's tp_clear.

    No reference leads to the ledger by then: it is found by its address.
    """
    calls = 0

    def destruct(_capsule: int) -> None:
        nonlocal calls
        if ctypes.c_ssize_t.from_address(address).value > 0 and calls < 99:
            calls += 1
            cleared = ctypes.cast(address, ctypes.py_object).value
            for _ in range(10):
                cleared.stamp("late", 1, 0)
            cleared.receive(1, min(cleared.acked + 1, cleared.sent), 0, 0)
            cleared.stamp(capsule(), 1, 0)

    destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(destruct)
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object

    def capsule() -> object:
        return new_capsule(ctypes.c_void_p(1), None, destructor)

    ledger: Any = Ledger()
    address = id(ledger)
    for _ in range(5):
        ledger.stamp(capsule(), 1, 0)
    ledger.stamp([ledger], 1, 0)
    del ledger
    gc.collect()
    assert calls == 5, "what a finalizer sends is not cleared in the same go"


@pytest.mark.parametrize("threshold", range(1, 16))
def test_a_collection_while_the_list_is_made(threshold: int) -> None:
    """Where the collector runs on allocation (3.11), the ledger changes while the list is made."""
    ledger: Any = filled(10)
    late = Message("late")
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        rubbish: Any = Message("", lambda: (ledger.receive(0, 4, 0, 0), ledger.stamp(late, 1, 0)))
        rubbish.cycle = rubbish
        del rubbish
        gc.set_threshold(threshold)
        gc.enable()
        kept = labels(ledger.kept)
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
    gc.collect()
    assert labels(ledger.kept) == [*((label + 1, label) for label in range(4, 10)), (11, "late")]
    assert [pair for pair in kept if 4 < pair[0] <= 10] == labels(ledger.kept)[:6]
    assert kept == sorted({*kept}, key=lambda pair: pair[0])


# ---- a base class


def test_a_subclass_with_slots() -> None:
    class Link(Ledger):
        __slots__ = ("__weakref__", "peer")

        def __init__(self, peer: int) -> None:
            self.peer = peer

    link: Any = Link(7)
    assert (link.peer, link.stamp("message", 1, 0), link.kept) == (7, 1, [(1, "message")])
    assert not hasattr(link, "__dict__")
    with pytest.raises(AttributeError):
        link.other = 1
    link.peer = link  # a cycle, through a slot
    reference = weakref.ref(link)
    assert reference() is link
    del link
    gc.collect()
    assert reference() is None
    kind = weakref.ref(Link)
    del Link
    gc.collect()
    assert kind() is None, "an instance owned a reference to its type"


def test_a_subclass_without_slots() -> None:
    class Link(Ledger):
        pass

    link: Any = Link()
    link.anything = link
    link.stamp(link, 1, 0)
    reference = weakref.ref(link)
    del link
    gc.collect()
    assert reference() is None


def test_the_type() -> None:
    assert (Ledger.__module__, _native.Ledger) == ("libos_ipc._native", Ledger)
    assert (NEXT, DRAINED, _native.FIRST_PROBE_S) == (1, 2, 0.25)
    with pytest.raises(TypeError):
        setattr(Ledger, "extra", 1)  # noqa: B010
    with pytest.raises(AttributeError):
        setattr(Ledger(), "extra", 1)  # noqa: B010
    with pytest.raises(TypeError):
        Ledger.stamp(object(), "message", 1, 0)  # type: ignore[arg-type]
