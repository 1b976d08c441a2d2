"""Raising where a signal handler of the program may: where Python looks for signals.

It looks after calls of C code, when it enters a function, and when it goes back in a loop. The n-th
such point within the library, in the thread that a `Strike` is entered in, raises `Struck`.
"""

from __future__ import annotations

import dis
import sys
from functools import cache
from types import CodeType, FrameType
from typing import Any

import bytecodes

import libos_ipc

__all__ = ["Strike", "Struck"]

_LOOKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "CALL_INTRINSIC_1", "JUMP_BACKWARD", "RESUME"}
_LIBRARY = libos_ipc.__file__.removesuffix("__init__.py")


class Struck(BaseException):
    """What the handler raises; says where."""


@cache
def _names(code: CodeType) -> dict[int, str]:
    return {each.offset: each.opname for each in dis.get_instructions(code)}


class Strike:
    """Raises at point `at` of the block, and swallows that; `struck` says where it was."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._later = False
        self._last: dict[int, str] = {}  # by frame: the instruction done before this one
        self.struck = ""

    def later(self) -> Strike:
        """Not before `now`, which the block calls."""
        self._later = True
        return self

    def now(self) -> None:
        bytecodes.begin(self._trace)

    def __enter__(self) -> Strike:
        if not self._later:
            self.now()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        sys.settrace(None)
        return isinstance(error, Struck)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        last = self._last
        if event == "call":
            last[id(frame.f_back)] = ""  # it goes on without a look
            if not frame.f_code.co_filename.startswith(_LIBRARY):
                return None
            bytecodes.hear(frame, self._trace)
            last[id(frame)] = ""
        elif event == "opcode":
            before = last[id(frame)]
            last[id(frame)] = _names(frame.f_code)[frame.f_lasti]
            if before in _LOOKS and frame.f_lineno is not None:  # not to clear a generator away
                self._look(frame)
        return self._trace

    def _look(self, frame: FrameType) -> None:
        self._left -= 1
        if not self._left:
            sys.settrace(None)
            self.struck = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
            raise Struck(self.struck)
