"""Hearing of each instruction of Python code, as far as the versions of Python agree on how."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

__all__ = ["Trace", "begin", "count", "hear", "traced"]

#: As `sys.settrace` takes them.
Trace: TypeAlias = Callable[[FrameType, str, object], Any]


def hear(frame: FrameType, trace: Trace) -> None:
    """Have `trace` hear of each instruction of this frame, and of no lines."""
    frame.f_trace = trace  # first: 3.13.0 does not look at what the trace function returns
    frame.f_trace_opcodes, frame.f_trace_lines = True, False


def begin(trace: Trace) -> None:
    """`sys.settrace`."""
    sys._getframe().f_trace_opcodes = True  # 3.12 looks whether anybody wants them, now
    sys.settrace(trace)


@contextmanager
def traced(trace: Trace) -> Iterator[None]:
    """The same for a block, in what it calls."""
    before = sys.gettrace()
    begin(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def count(call: Callable[[], object]) -> int:
    """How many instructions of Python code a call takes, those of other libraries included."""
    seen = 0

    def trace(frame: FrameType, event: str, argument: object) -> Trace:
        nonlocal seen
        if event == "call":
            hear(frame, trace)
        seen += event == "opcode"
        return trace

    with traced(trace):
        call()
    return seen
